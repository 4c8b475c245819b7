"""python -m mss.separate song.mp3: separates files into stems.

Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mss.apps.jobs import check_template, find_inputs, plan
from mss.cli import FAILED, UsageError, exit_code, gather, pick_device, rank_and_world, set_up_logging, start_torch

if TYPE_CHECKING:
    from mss.audio import Encoding
    from mss.separator import Separator

__all__ = ["main"]

DEFAULT_MODEL = "spleeter-2stems"
SCORE_MODEL = "score_informed"
LIMIT = 1e9  # of all numbers; in seconds thirty years


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.separate",
        description="Separates recordings into stems, at the sample rate, channels and bit depth of the input.",
        epilog="Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.",
    )
    add = p.add_argument
    add("inputs", nargs="*", metavar="song", help="audio files, folders (searched to the bottom), glob patterns")
    add(
        "-n",
        "--model",
        default=DEFAULT_MODEL,
        help="pretrained model, method, or checkpoint file (default %(default)s)",
    )
    add(
        "--score",
        type=Path,
        metavar="MIDI",
        help="separate the instruments of this score, and the rest of the recording",
    )
    add("-o", "--out", type=Path, default=Path("separated"), metavar="FOLDER", help="default %(default)s")
    add(
        "--filename",
        default="{model}/{track}/{stem}.{ext}",
        metavar="TEMPLATE",
        help="names in the output folder, of {model} {track} {stem} {ext} {parent} (default %(default)s)",
    )
    add(
        "--skip-existing",
        action=argparse.BooleanOptionalAction,
        help="leave out files whose stems are all there (the default under torchrun)",
    )
    add("-d", "--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: the best there is)")
    add("-j", "--jobs", type=int, default=1, metavar="N", help="files at a time (default %(default)s)")

    add = p.add_argument_group("stems").add_argument
    add("--targets", metavar="A,B", help="write these stems only")
    add("--two-stems", metavar="STEM", help="write this stem, and all the rest as no_STEM")
    add("--residual", metavar="NAME", help="write one more stem, the input less all others")

    add = p.add_argument_group("separation").add_argument
    add("--niter", type=int, metavar="N", help="filter by N iterations of the multichannel Wiener filter (whole song)")
    add("--segment", type=float, metavar="S", help="separate in segments of S seconds")
    add("--overlap", type=float, metavar="S", help="seconds that segments share")
    add("--shifts", type=int, metavar="N", help="average over N delays of the input, at N times the work")
    add("--start", type=float, default=0.0, metavar="S", help="start of the excerpt, seconds")
    add("--duration", type=float, metavar="S", help="length of the excerpt, seconds")

    group = p.add_argument_group("output", "Default: WAV with the bit depth of the input, float32 after a lossy codec.")
    depths, codecs = group.add_mutually_exclusive_group(), group.add_mutually_exclusive_group()
    for name in ("int16", "int24", "float32"):
        depths.add_argument(f"--{name}", action="store_const", const=name, dest="subtype")
    for name in ("flac", "mp3", "ogg"):
        codecs.add_argument(f"--{name}", action="store_const", const=name, dest="codec")
    group.add_argument("--bitrate", type=int, metavar="K", help="of MP3 and OGG, kbit/s")
    group.add_argument(
        "--clip-mode",
        choices=("none", "rescale", "clamp"),
        default="none",
        help="stems over full scale: none leaves them (and warns where an integer format cuts them off), rescale lowers all "
        "stems by one gain, clamp cuts them off (default %(default)s)",
    )

    add = p.add_argument_group("information").add_argument
    add("--list-models", action="store_true", help="list what --model takes by name, with licences, and exit")
    add("--env", action="store_true", help="print versions and devices, and exit")
    add("--json", action="store_true", help="print the results as JSON on standard output")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parser().parse_intermixed_args(argv)))


def run(args: argparse.Namespace) -> int:
    """Does what the parsed command line asks for."""
    set_up_logging(args.quiet)
    if not (args.env or args.list_models):
        check(args)
    start_torch()
    if args.env or args.list_models:
        from mss.apps import about

        print((about.environment if args.env else about.models)(as_json=args.json))
        return 0
    from mss.apps.separation import remove_stale, separate_file
    from mss.apps.session import Session
    from mss.audio import EXTENSIONS

    encoding = encoding_of(args)
    device = pick_device(args.device)
    separator = separator_of(args).to(device)
    residual = args.residual if args.two_stems is None else f"no_{args.two_stems}"
    if residual in separator.targets:
        raise UsageError(f"--residual {residual}: the model has a stem of that name; choose another")
    stems = [*separator.targets, *([] if residual is None else [residual])]

    is_path = args.model.endswith(".safetensors") or Path(args.model).name != args.model
    model = Path(args.model).stem if is_path else args.model
    sources, problems = find_inputs(args.inputs, EXTENSIONS, args.out)
    extension = encoding.extension if encoding else "wav"
    jobs = plan(sources, args.out, args.filename, model=model, stems=stems, ext=extension)
    rank, world = rank_and_world()
    mine = jobs[rank::world]
    skip = world > 1 if args.skip_existing is None else args.skip_existing
    todo = [job for job in mine if not (skip and job.done)]

    separate = partial(separate_file, separator, device=device, residual=residual, encoding=encoding)
    separate = partial(separate, clip_mode=args.clip_mode, excerpt=(args.start, args.duration))
    session = Session(separate, at_a_time=args.jobs, quiet=args.quiet)
    share = f", rank {rank} of {world}" if world > 1 else ""
    left_out = f", {len(mine) - len(todo)} already there" if len(mine) > len(todo) else ""
    session.say(f"{args.model} on {device}: {len(mine)} {'file' if len(mine) == 1 else 'files'}{left_out}{share}")
    for name, problem in problems.items() if rank == 0 else ():
        session.failed(name, problem)
    for job in mine:
        if job not in todo:
            session.skipped(job)
    new = not args.out.exists()
    remove_stale(args.out)
    try:
        session.run(todo)
    finally:
        if new:
            with contextlib.suppress(OSError):
                args.out.rmdir()  # only if nothing came of it
    results = gather(session.results)
    if args.json and rank == 0:
        print(json.dumps({"model": args.model, "device": str(device), "files": results}, indent=2))
    return FAILED if session.failures else 0


def check(args: argparse.Namespace) -> None:
    """Refuses what means nothing, before anything is loaded."""
    if not args.inputs or "" in args.inputs:
        raise UsageError("no input: name files, folders or patterns, e.g. python -m mss.separate song.mp3")
    if args.score is not None:
        if args.model not in (DEFAULT_MODEL, SCORE_MODEL):
            raise UsageError(f"--score is a way to separate of its own: leave out --model {args.model}")
        for option in ("start", "duration", "segment"):
            if getattr(args, option):
                raise UsageError(f"--score is warped to the whole recording: leave out --{option}")
        args.model = SCORE_MODEL
    elif args.model == SCORE_MODEL:
        raise UsageError(f"--model {SCORE_MODEL} needs a score: --score song.mid")
    check_template(args.filename)
    if args.two_stems is not None and (args.targets is not None or args.residual is not None):
        raise UsageError("--two-stems says which stems are written: leave out --targets and --residual")
    for option in ("residual", "two_stems", "targets", "model"):
        value = getattr(args, option)
        if value is not None and not all(name.strip() for name in value.split(",")):
            raise UsageError(f"--{option.replace('_', '-')} needs a name, got {value!r}")
    for option, least in (("jobs", 1), ("shifts", 1), ("bitrate", 1), ("niter", 0), ("start", 0), ("overlap", 0)):
        value = getattr(args, option)
        if value is not None and not least <= value < LIMIT:
            raise UsageError(f"--{option} must be at least {least}, and not endless, got {value:g}")
    for option in ("segment", "duration"):
        value = getattr(args, option)
        if value is not None and not 0 < value < LIMIT:
            raise UsageError(f"--{option} must be more than 0 seconds, and not endless, got {value:g}")
    if args.codec in ("mp3", "ogg") and args.subtype:
        raise UsageError(f"--{args.codec} has no bit depth: leave out --{args.subtype}")
    if args.bitrate and args.codec not in ("mp3", "ogg"):
        raise UsageError("--bitrate goes with --mp3 or --ogg")
    if args.bitrate and args.bitrate > (highest := {"mp3": 320, "ogg": 2000}[args.codec]):
        raise UsageError(f"--bitrate of --{args.codec} is at most {highest} kbit/s, not {args.bitrate}")


def encoding_of(args: argparse.Namespace) -> Encoding | None:
    """The output format asked for; None: like the input."""
    from mss.audio import AudioError, Encoding

    if args.codec is None and args.subtype is None:
        return None
    try:
        return Encoding(args.codec or "wav", args.subtype, args.bitrate and args.bitrate * 1000)
    except AudioError as error:
        raise UsageError(str(error)) from error


def separator_of(args: argparse.Namespace) -> Separator:
    """The model asked for, used as asked for."""
    from mss import zoo
    from mss.apps.separation import Recipe, by_score, compose

    wanted = args.two_stems if args.targets is None else args.targets
    names = None if wanted is None else tuple(name.strip() for name in wanted.split(","))
    recipe = Recipe(names, args.niter, args.segment, args.overlap, args.shifts)
    try:
        separator = zoo.load(args.model) if args.score is None else by_score(args.score)
    except (ImportError, OSError) as error:
        raise UsageError(str(error)) from error
    except ValueError as error:  # an unknown name, a damaged checkpoint, weights that are not there
        raise UsageError(str(error)) from error
    return compose(separator, recipe)


if __name__ == "__main__":
    sys.exit(main())
