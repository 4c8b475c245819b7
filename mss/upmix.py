"""python -m mss.upmix song.mp3 --layout 5.1: makes surround sound of stereo.

Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from mss.apps.jobs import check_template, find_inputs, plan
from mss.apps.options import (
    add_device,
    add_model,
    add_output,
    check_names,
    check_output,
    encoding_of,
    name_of,
    parsed,
    refusals,
)
from mss.cli import FAILED, UsageError, exit_code, pick_device, program, set_up_logging, start_torch
from mss.layouts import LAYOUTS

__all__ = ["main"]

NO_MODEL = "none"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.upmix",
        description="Makes surround sound of stereo: the front image stays, what is in the middle goes to the centre, "
        "ambience and chosen stems go behind. The ITU down-mix (L + 0.7071 C + 0.7071 Ls, likewise right, without the "
        "LFE) of a lossless result is the song again: within -120 dB of full scale in float32, the rounding of the "
        "channels in int16 and int24, times the gain of --clip-mode rescale.",
        epilog="Exit codes: 0 every file succeeded, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.",
    )
    add = p.add_argument
    add("inputs", nargs="*", metavar="song", help="stereo files, folders (searched to the bottom), glob patterns")
    add("-l", "--layout", default="5.1", help=f"{', '.join(LAYOUTS)} (default %(default)s)")
    add_model(p)
    add("-o", "--out", type=Path, default=Path("upmixed"), metavar="FOLDER", help="default %(default)s")
    add(
        "--filename",
        default="{track}-{stem}.{ext}",
        metavar="TEMPLATE",
        help="names in the output folder, of {model} {track} {stem} {ext} {parent} {suffix}; the stem is the layout "
        "(default %(default)s)",
    )
    add_device(p)

    group = p.add_argument_group("channels", f"Without stems, by ambience alone: --model {NO_MODEL}.")
    add, shares = group.add_argument, {"type": _shares, "default": {}, "metavar": "STEM=X,..."}
    add(
        "--surround",
        help="shares of stems that go behind, 0 to 1, as in other=0.5,drums=0; of the others the usual",
        **shares,
    )
    add("--centre", help="shares of what is in the middle that go to the centre, 0 to 1, as in vocals=1", **shares)
    add("--ambience", type=float, metavar="X", help="share of the ambience that goes behind, 0 to 1")
    add(
        "--downmix",
        choices=("exact", "natural"),
        default="exact",
        help="exact: the down-mix is the song again, the fronts make up for what was done to the surrounds; natural: the "
        "fronts keep none of that and energy stays, the down-mix loses what goes behind in part (default %(default)s)",
    )

    add_output(
        p,
        formats=("flac", "ogg", "opus", "m4a"),
        clip_mode="rescale",
        clipping="channels over full scale: rescale lowers all by one gain, none leaves them (and warns where an integer "
        "format cuts them off), clamp cuts them off (default %(default)s)",
    )

    add = p.add_argument_group("information").add_argument
    add("--json", action="store_true", help="print the results as JSON on standard output")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    return p


def _shares(text: str) -> dict[str, float]:
    """other=0.5,drums=0 as numbers by name."""
    shares = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (name and equals and 0 <= value <= 1):
            raise argparse.ArgumentTypeError(f"{part!r} is not a stem and its share from 0 to 1, as in other=0.5")
        shares[name] = value
    return shares


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parsed(parser(), argv)))


def run(args: argparse.Namespace) -> int:
    """Does what the parsed command line asks for."""
    set_up_logging(args.quiet)
    check(args)
    start_torch()
    from mss.apps.session import Session
    from mss.apps.staging import remove_stale
    from mss.apps.upmixing import upmix_file
    from mss.audio import EXTENSIONS

    encoding = encoding_of(args)
    device = pick_device(args.device)
    shares: dict[str, Any] = {"centre": args.centre, "surround": args.surround, "exact": args.downmix == "exact"}
    if args.ambience is not None:
        shares["ambience"] = args.ambience
    separator = _separator(args, shares)
    if separator is not None:
        separator = separator.to(device)

    sources, problems = find_inputs(args.inputs, EXTENSIONS, args.out)
    extension = encoding.extension if encoding else "wav"
    jobs = plan(sources, args.out, args.filename, model=name_of(args.model), stems=[args.layout], ext=extension)
    upmix = partial(upmix_file, separator, device=device, layout=args.layout, shares=shares, encoding=encoding)
    session = Session(partial(upmix, clip_mode=args.clip_mode), quiet=args.quiet)
    how = "by ambience" if separator is None else f"by {args.model}"
    session.say(f"{args.layout} {how} on {device}: {len(jobs)} {'file' if len(jobs) == 1 else 'files'}")
    for name, problem in problems.items():
        session.failed(name, problem)
    new = not args.out.exists()
    remove_stale(args.out)
    try:
        session.run(jobs)
    finally:
        if new:
            with contextlib.suppress(OSError):
                args.out.rmdir()  # only if nothing came of it
    if args.json:
        print(json.dumps({"layout": args.layout, "device": str(device), "files": session.results}, indent=2))  # noqa: T201
    return FAILED if session.failures else 0


def check(args: argparse.Namespace) -> None:
    """Refuses what means nothing, before anything is loaded."""
    if not args.inputs or "" in args.inputs:
        raise UsageError("no input: name files, folders or patterns, e.g. python -m mss.upmix song.mp3")
    if args.layout not in LAYOUTS:
        raise UsageError(f"there is no --layout {args.layout!r}: choose one of {', '.join(LAYOUTS)}")
    if args.centre and "C" not in LAYOUTS[args.layout]:
        raise UsageError(f"--layout {args.layout} has no centre: leave out --centre")
    if args.ambience is not None and not 0 <= args.ambience <= 1:
        raise UsageError(f"--ambience is a share from 0 to 1, not {args.ambience:g}")
    check_template(args.filename)
    check_names(args, "model")
    check_output(args)


def _separator(args: argparse.Namespace, shares: dict[str, Any]) -> Any:
    """The model asked for, if any, and whether it has the stems that are named."""
    from mss import zoo
    from mss.upmixer import Upmixer

    with refusals():
        separator = None if args.model == NO_MODEL else zoo.load(args.model)
        Upmixer(args.layout, separator, **({"sample_rate": separator.sample_rate} if separator else {}), **shares)
    return separator


if __name__ == "__main__":
    program(main)
