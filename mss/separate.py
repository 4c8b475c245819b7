"""python -m mss.separate song.mp3: separates files into stems.

Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mss.apps.jobs import check_template, find_inputs, plan
from mss.apps.options import (
    DEFAULT_MODEL,
    add_device,
    add_model,
    add_output,
    add_page,
    add_separation,
    check_names,
    check_numbers,
    check_output,
    check_page,
    check_positive,
    check_separation,
    encoding_of,
    name_of,
    parsed,
    refusals,
)
from mss.cli import (
    FAILED,
    UsageError,
    exit_code,
    gather,
    pick_device,
    program,
    rank_and_world,
    set_up_logging,
    start_torch,
)

if TYPE_CHECKING:
    from mss.apps.jobs import Job
    from mss.apps.separation import Report
    from mss.separator import Separator

__all__ = ["main"]

SCORE_MODEL = "score_informed"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.separate",
        description="Separates recordings into stems, at the sample rate, channels and bit depth of the input.",
        epilog="Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.",
    )
    add = p.add_argument
    add("inputs", nargs="*", metavar="song", help="audio files, folders (searched to the bottom), glob patterns")
    add_model(p)
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
        help="names in the output folder, of {model} {track} {stem} {ext} {parent} {suffix} (default %(default)s)",
    )
    add(
        "--skip-existing",
        action=argparse.BooleanOptionalAction,
        help="leave out files whose stems are all there (the default under torchrun)",
    )
    add_device(p)
    add("-j", "--jobs", type=int, default=1, metavar="N", help="files at a time (default %(default)s)")

    add = p.add_argument_group("stems").add_argument
    add("--targets", metavar="A,B", help="write these stems only")
    add("--two-stems", metavar="STEM", help="write this stem, and all the rest as no_STEM")
    add("--residual", metavar="NAME", help="write one more stem, the input less all others")

    add = add_separation(p).add_argument
    add("--start", type=float, default=0.0, metavar="S", help="start of the excerpt, seconds")
    add("--duration", type=float, metavar="S", help="length of the excerpt, seconds")

    add_output(
        p,
        clip_mode="none",
        clipping="stems over full scale: none leaves them (and warns where an integer format cuts them off), rescale lowers "
        "all stems by one gain, clamp cuts them off (default %(default)s)",
    )

    add_page(p, "named as a stem is")
    add = p.add_argument_group("information").add_argument
    add("--list-models", action="store_true", help="list what --model takes by name, with licences, and exit")
    add("--env", action="store_true", help="print versions and devices, and exit")
    add("--json", action="store_true", help="print the results as JSON on standard output")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parsed(parser(), argv)))


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

    sources, problems = find_inputs(args.inputs, EXTENSIONS, args.out)
    extension = encoding.extension if encoding else "wav"
    jobs = plan(sources, args.out, args.filename, model=name_of(args.model), stems=stems, ext=extension)
    pages = plan(sources, args.out, args.filename, model=name_of(args.model), stems=["page"], ext="html")
    page_of = {job.source: job.outputs["page"] for job in pages if args.page}
    rank, world = rank_and_world()
    mine = jobs[rank::world]
    skip = world > 1 if args.skip_existing is None else args.skip_existing
    excerpt = args.start, args.duration
    complete = [job for job in mine if skip and job.done]
    there = {job.source for job in complete if of_length(job, excerpt)}
    todo = [job for job in mine if job.source not in there or (args.page and not page_of[job.source].is_file())]
    separate = partial(separate_file, separator, device=device, residual=residual, encoding=encoding)
    separate = partial(separate, clip_mode=args.clip_mode, excerpt=excerpt)
    if args.page:
        separate = partial(with_page, separate, page_of, there=there, model=args.model, excerpt=excerpt)
        separate = partial(separate, seconds=args.page_seconds)
    session = Session(separate, at_a_time=args.jobs, quiet=args.quiet)
    share = f", rank {rank} of {world}" if world > 1 else ""
    left_out = f", {len(mine) - len(todo)} already there" if len(mine) > len(todo) else ""
    session.say(f"{args.model} on {device}: {len(mine)} {'file' if len(mine) == 1 else 'files'}{left_out}{share}")
    for name, problem in problems.items() if rank == 0 else ():
        session.failed(name, problem)
    for job in complete:
        if job.source not in there:
            session.say(f"{job.source.name}: the stems that are there are of another length: separated again")
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


def with_page(
    separate: Callable[..., Report], page_of: Mapping[Path, Path], job: Job, *, there: Collection[Path], **options
) -> Report:
    """Separates a song, unless its stems are there and may stay, and writes its page."""
    from mss.apps.paging import separated_page
    from mss.apps.separation import Report

    about = {name: options.pop(name) for name in ("model", "seconds", "excerpt")}
    report = Report(job.source, job.outputs, elapsed=1.0) if job.source in there else separate(job, **options)
    report.page = separated_page(report, page_of[job.source], **about)
    return report


def of_length(job: Job, excerpt: tuple[float, float | None]) -> bool:
    """Whether all outputs of a job are as long as the excerpt of its song, to a tenth of a second; or no header says it."""
    from mss.audio import AudioError, info

    try:
        lengths = [info(path).duration for path in (job.source, *job.outputs.values())]
    except AudioError:  # told when it is separated
        return False
    if None in lengths:
        return True
    song, *stems = lengths
    start, duration = excerpt
    wanted = song - start if duration is None else min(duration, song - start)
    return all(abs(stem - wanted) < 0.1 for stem in stems)


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
    check_names(args, "residual", "two_stems", "targets", "model")
    check_numbers(args, {"jobs": 1, "start": 0})
    check_positive(args, "duration")
    check_separation(args)
    check_output(args)
    check_page(args)


def separator_of(args: argparse.Namespace) -> Separator:
    """The model asked for, used as asked for."""
    from mss import zoo
    from mss.apps.separation import Recipe, by_score, compose

    wanted = args.two_stems if args.targets is None else args.targets
    names = None if wanted is None else tuple(name.strip() for name in wanted.split(","))
    recipe = Recipe(names, args.niter, args.segment, args.overlap, args.shifts)
    with refusals():
        separator = zoo.load(args.model) if args.score is None else by_score(args.score)
    return compose(separator, recipe)


def command() -> NoReturn:
    """`mss-separate`."""
    program(main)


if __name__ == "__main__":
    command()
