"""python -m mss.remix song.mp3 vocals=+6dB: a song at another balance of its stems.

Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mss.apps.balance import Balance, is_setting, parse, weights
from mss.apps.jobs import Job, check_template, find_inputs, plan
from mss.apps.options import (
    DEFAULT_MODEL,
    TWO_STEMS,
    add_device,
    add_model,
    add_output,
    add_page,
    add_separation,
    check_names,
    check_output,
    check_page,
    check_separation,
    encoding_of,
    name_of,
    parsed,
    refusals,
)
from mss.cli import FAILED, UsageError, exit_code, pick_device, program, set_up_logging, start_torch

if TYPE_CHECKING:
    from mss.apps.remixing import Remix
    from mss.apps.stems import Separated, Stems
    from mss.separator import Separator

__all__ = ["main"]

SUFFIXES = {".wav": None, ".flac": "flac", ".mp3": "mp3", ".ogg": "ogg"}  # and the options that they stand for
SCORE_MODEL = "score_informed"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.remix",
        description="Changes the balance of the stems in a song. Where nothing is changed, the song is passed on as it is.",
        epilog="Settings: vocals=+6dB, drums=-3.5, bass=-inf or bass=mute, other=solo (mutes all without it); "
        "pan.vocals=-20, from -100 (left) to 100 (right), for two channels: the balance turns by the sine-cosine law, which "
        "keeps the energy of what is in the middle; at an end one channel is heard alone, 3 dB louder. no_vocals is all "
        "but vocals; rest is what the stems leave of the song. "
        "Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.",
    )
    add = p.add_argument
    text = (
        "audio files, glob patterns, folders of stems (vocals.wav ...; a mixture.wav in it is the song), and settings"
    )
    add("inputs", nargs="*", metavar="song|setting", help=text)
    add("--karaoke", action="store_true", help="the same as vocals=-inf")
    add_model(p, None, f"{DEFAULT_MODEL}, or {TWO_STEMS} where its accompaniment is named")
    add_device(p)
    add("-o", "--out", type=Path, default=Path("remixed"), metavar="PATH", help="folder or file (default %(default)s)")

    group = p.add_argument_group(
        "stems", "Those of mss.separate are used if they fit the song, else the song is separated."
    )
    add = group.add_argument
    add("--stems", type=Path, metavar="FOLDER", help="stems of the song, made by whatever means")
    text = "where mss.separate wrote stems, and new ones are kept (default %(default)s)"
    add("--separated", type=Path, default=Path("separated"), metavar="FOLDER", help=text)
    text = "names in that folder, as of mss.separate (default %(default)s)"
    add("--filename", default="{model}/{track}/{stem}.{ext}", metavar="TEMPLATE", help=text)
    text = "keep new stems, in 32-bit float, in place of those there (default: where there are none)"
    add("--save-stems", action=argparse.BooleanOptionalAction, help=text)
    add_separation(p).description = "With any of these, stems that are there are not used."

    add = add_output(
        p,
        clip_mode="rescale",
        clipping="a remix over --true-peak: rescale lowers it whole, and says so; clamp cuts it off at full scale; none leaves "
        "it (default %(default)s)",
    ).add_argument
    text = "highest true peak, dB of full scale, for --clip-mode rescale (default %(default)s)"
    add("--true-peak", type=float, default=-1.0, metavar="DB", help=text)
    add(
        "--lufs", metavar="LUFS", help="bring the integrated loudness there, as in -14; song: where that of the song is"
    )

    add_page(p, "beside the remix")
    add = p.add_argument_group("information").add_argument
    add("--json", action="store_true", help="print the results as JSON on standard output")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parsed(parser(), argv)))


def run(args: argparse.Namespace) -> int:
    """Does what the parsed command line asks for."""
    set_up_logging(args.quiet)
    settings = [text for text in args.inputs if is_setting(text)]
    names = [text for text in args.inputs if not is_setting(text)]
    balance = parse(settings, karaoke=args.karaoke)
    check(args, names, balance)
    start_torch()
    from mss.apps.paging import remixed_page
    from mss.apps.remixing import remix_file
    from mss.apps.separation import remove_stale
    from mss.apps.session import Session

    args.model = args.model or model_for(balance)
    encoding, device = encoding_of(args), pick_device(args.device)
    sources, problems = sources_of(args, names, device)
    for source in sources.values():
        weights(balance, source.names, rest=source.song is not None, where=source.where)
    jobs = outputs_of(args, sources, encoding.extension if encoding else "wav")
    lufs = args.lufs if args.lufs in (None, "song") else float(args.lufs)
    remix = partial(remix_file, balance=balance, encoding=encoding, clip_mode=args.clip_mode, true_peak=args.true_peak)

    def one(job: Job, **options) -> Remix:
        page = None
        if args.page:
            page = partial(remixed_page, job, page_of(job), balance=balance, seconds=args.page_seconds)
        return remix(job, sources[job.source], lufs=lufs, say=session.say, page=page, **options)

    session = Session(one, quiet=args.quiet)
    for name, problem in problems.items():
        session.failed(name, problem)
    root = next((job.root for job in jobs), args.out)
    new = not root.exists()
    remove_stale(root)
    try:
        session.run(jobs)
    finally:
        if new:
            with contextlib.suppress(OSError):
                root.rmdir()  # only if nothing came of it
    if args.json:
        print(json.dumps({"model": args.model, "device": str(device), "files": session.results}, indent=2))  # noqa: T201
    return FAILED if session.failures else 0


def page_of(job: Job) -> Path:
    """Where the page of a remix goes."""
    return job.outputs["remix"].with_suffix(".html")


def check(args: argparse.Namespace, names: list[str], balance: Balance) -> None:
    """Refuses what means nothing, before anything is loaded; makes of a file for --out the options for its format."""
    if "" in names or (not names and args.stems is None):
        raise UsageError("no input: name a song, or a folder of stems, e.g. python -m mss.remix song.mp3 vocals=+6dB")
    for name in names:
        if not Path(name).suffix and not Path(name).exists() and not glob.has_magic(name):
            raise UsageError(f"{name} is neither a file nor a setting such as vocals=+6dB")
    if not balance.names and args.lufs is None:
        raise UsageError("nothing is to be changed: say what, e.g. vocals=+6dB, drums=mute, pan.other=30, --lufs -14")
    if args.stems is not None and (len(names) > 1 or any(Path(name).is_dir() for name in names)):
        raise UsageError("--stems are those of one song: name that song alone, or leave it out")
    check_names(args, "model")
    if args.model == SCORE_MODEL:
        raise UsageError(f"--model {SCORE_MODEL} needs a score: python -m mss.separate --score, then --stems")
    check_template(args.filename)
    check_separation(args)
    suffix = args.out.suffix.lower()
    if suffix and not args.out.is_dir():
        if suffix not in SUFFIXES:
            raise UsageError(f"--out {args.out}: a file of {', '.join(SUFFIXES)}, or a folder that is there")
        if args.codec not in (None, SUFFIXES[suffix]):
            raise UsageError(f"--out {args.out} is not --{args.codec}: leave out one of them")
        args.codec = SUFFIXES[suffix]
    check_output(args)
    check_page(args)
    if not -20 <= args.true_peak <= 0:
        raise UsageError(f"--true-peak must be from -20 to 0 dB, got {args.true_peak:g}")
    if args.lufs not in (None, "song"):
        with contextlib.suppress(ValueError):
            if -70 < float(args.lufs) <= 0:
                return
        raise UsageError(f"--lufs must be a loudness from -70 to 0 LUFS, or song, got {args.lufs!r}")


def sources_of(
    args: argparse.Namespace, names: list[str], device
) -> tuple[dict[Path, Stems | Separated], dict[str, str]]:
    """Where the stems of each song, or folder, come from; and of what names there is nothing."""
    from mss.apps.stems import Earlier, Separated, Stems, folder_of_stems
    from mss.audio import EXTENSIONS, Encoding

    folders = [Path(name) for name in names if Path(name).is_dir()]
    songs, problems = find_inputs([name for name in names if not Path(name).is_dir()], EXTENSIONS, args.separated)
    found: dict[Path, Stems | Separated] = {}
    for folder in folders if args.stems is None else [args.stems]:
        stems, song = folder_of_stems(folder)
        song = songs[0] if args.stems is not None and songs else song
        found[song if songs else folder] = Stems(str(folder), stems, song)
    if args.stems is not None or not songs:
        return found, problems
    separator = separator_of(args).to(device)
    sets = [
        plan(songs, args.separated, args.filename, model=name_of(args.model), stems=separator.targets, ext=ext)
        for ext in ("wav", *dict.fromkeys(Encoding(codec).extension for codec in SUFFIXES.values() if codec))
    ]
    checkpoint = Path(args.model) if Path(args.model).is_file() else None
    reuse = all(getattr(args, option) is None for option in ("niter", "segment", "overlap", "shifts"))
    for song, *places in zip(songs, *sets, strict=True):
        earlier = Earlier(places, checkpoint, reuse, args.save_stems)
        found[song] = Separated(args.model, separator, device, song, earlier)
    return found, problems


def model_for(balance: Balance) -> str:
    """The first of the usual models that has all stems whose names are in a balance."""
    from mss.zoo import PRETRAINED

    for model in (DEFAULT_MODEL, TWO_STEMS):
        with contextlib.suppress(UsageError):
            weights(balance, PRETRAINED[model].targets, rest=True, where=model)
            return model
    return DEFAULT_MODEL  # the error tells its stems


def separator_of(args: argparse.Namespace) -> Separator:
    """The model asked for, used as asked for."""
    from mss import zoo
    from mss.apps.separation import Recipe, compose

    with refusals():
        separator = zoo.load(args.model)
    return compose(separator, Recipe(None, args.niter, args.segment, args.overlap, args.shifts))


def outputs_of(args: argparse.Namespace, sources: dict[Path, Stems | Separated], extension: str) -> list[Job]:
    """The output of each song."""
    single = bool(args.out.suffix) and not args.out.is_dir()
    if single and len(sources) > 1:
        raise UsageError(f"--out {args.out} is one file for {len(sources)} songs: name a folder")
    inputs = {path.resolve() for path in sources}
    for source in sources.values():
        inputs |= {path.resolve() for path in (source.song, *getattr(source, "files", {}).values()) if path is not None}
    jobs: dict[Path, Job] = {}
    for path in sources:
        track = path.resolve().name if path.is_dir() else path.stem.removesuffix(".stem")
        output = args.out if single else args.out / f"{track}.{extension}"
        if output in jobs:
            raise UsageError(
                f"{jobs[output].source} and {path} would both be written to {output}: remix them one by one"
            )
        if output.resolve() in inputs:
            raise UsageError(f"{output} is an input and would be overwritten: choose another --out")
        jobs[output] = Job(path, output.parent, {"remix": output})
    return list(jobs.values())


if __name__ == "__main__":
    program(main)
