"""python -m mss.listen build|serve|analyse: listening tests on separated stems, MUSHRA, AB or ABX, all offline.

Exit codes: 0 done, 1 some results could not be used (the others are), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mss.cli import FAILED, UsageError, complain, exit_code, set_up_logging, start_torch

if TYPE_CHECKING:
    from mss.apps.listening.analysis import Report

__all__ = ["main"]

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.listen",
        description="Listening tests on separated stems: build the page, collect results, analyse them.",
        epilog="Exit codes: 0 done, 1 some results could not be used (the others are), 2 wrong usage, 130 interrupted.",
    )
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    verbs = p.add_subparsers(dest="verb", required=True)

    b = verbs.add_parser("build", help="the page of a test, from stems of several systems and the true ones")
    add = b.add_argument
    add(
        "systems", type=Path, help="folder of systems: <system>/<track>/<stem>.wav, as of mss.separate and mss.evaluate"
    )
    add("reference", type=Path, help="data set with the true stems of these tracks, by the same names")
    add("-o", "--out", type=Path, default=Path("listening"), metavar="FOLDER", help="default %(default)s")
    add("--mode", choices=("mushra", "ab", "abx"), default="mushra", help="ratings, preference or identification")
    add("--systems", dest="names", metavar="A,B", help="only these (default: all in the folder)")
    add("--stems", metavar="A,B", help="stems to be judged (default: all that the systems have in common)")
    add("--tracks", default="*", metavar="PATTERN", help="names of the tracks")
    add("--trials", type=int, default=10, metavar="N", help="the most excerpts (default %(default)s)")
    text = "of low (3.5 kHz), mid (7 kHz), mixture (of interference) (default %(default)s, as BS.1534-3 asks)"
    add("--anchors", default="low,mid", metavar="A,B", help=text)
    add("--duration", type=float, default=10.0, metavar="S", help="of an excerpt, at most 12 s (default %(default)g)")
    add("--start", type=float, metavar="S", help="of all excerpts (default: each where its reference is loudest)")
    add("--lufs", type=float, default=-23.0, metavar="LUFS", help="loudness of all signals (default %(default)g)")
    add("--repeats", type=int, metavar="N", help="of each pair (default: 1 of ab, 8 of abx)")
    text = "overall, target, interference, artefacts, or a text of your own (default: the mode's)"
    add("--question", default="", metavar="TEXT", help=text)
    add("--title", default="Listening test", metavar="TEXT", help="of the page (default %(default)s)")
    add("--int24", action="store_const", const="int24", default="int16", dest="subtype", help="24 bits in place of 16")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the draw of excerpts and of the codes (default %(default)s)",
    )

    s = verbs.add_parser("serve", help="hand out the page, and collect the results")
    add = s.add_argument
    add("folder", type=Path, nargs="?", default=Path("listening"), help="that build wrote (default %(default)s)")
    add("--results", type=Path, metavar="FOLDER", help="default: results in that folder")
    add("--host", default="127.0.0.1", help="where to listen (default %(default)s: this machine only)")
    add("--port", type=int, default=8000, help="default %(default)s; 0: any that is free")

    a = verbs.add_parser("analyse", aliases=["analyze"], help="tables, tests and a plot of the results")
    add = a.add_argument
    add(
        "folder",
        type=Path,
        nargs="?",
        default=Path("listening"),
        help="of build, or its test.json (default %(default)s)",
    )
    add("results", type=Path, nargs="*", help="files and folders of results (default: results in that folder)")
    add("-o", "--out", type=Path, metavar="FOLDER", help="default: analysis beside the test.json")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parser().parse_args(argv)))


def run(args: argparse.Namespace) -> int:
    """Does what the parsed command line asks for."""
    set_up_logging(args.quiet)
    return {"build": build, "serve": serve}.get(args.verb, analyse)(args)


def say(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        print(text, flush=True)  # noqa: T201


def build(args: argparse.Namespace) -> int:
    """Writes index.html and test.json."""
    repeats = args.repeats if args.repeats is not None else 8 if args.mode == "abx" else 1
    if args.trials < 1 or not 1 <= repeats <= 100:
        raise UsageError(
            f"--trials and --repeats are 1 or more, and repeats 100 at most, not {args.trials} and {repeats}"
        )
    if args.mode == "mushra" and args.repeats is not None:
        raise UsageError("--repeats is for --mode ab and abx")
    if not -60 <= args.lufs <= -10:
        raise UsageError(f"--lufs must be from -60 to -10, got {args.lufs:g}")
    if args.start is not None and not 0 <= args.start < 1e6:
        raise UsageError(f"--start must be a time in seconds, got {args.start:g}")
    if not math.isfinite(args.duration):
        raise UsageError("--duration must be a number of seconds")
    start_torch()
    from mss.apps.listening import building
    from mss.audio import AudioError
    from mss.data import TrackError, find_tracks

    split = lambda text: tuple(name.strip() for name in (text or "").split(",") if name.strip())  # noqa: E731
    try:
        plan = building.Plan(
            building.find_systems(args.systems, split(args.names)),
            find_tracks(args.reference),
            mode=args.mode,
            stems=split(args.stems),
            pattern=args.tracks,
            trials=args.trials,
            anchors=split(args.anchors),
            duration=args.duration,
            start=args.start,
            lufs=args.lufs,
            repeats=repeats,
            question=args.question,
            title=args.title,
            subtype=args.subtype,
            seed=args.seed,
        )
        key = building.build(plan, args.out)
    except (AudioError, TrackError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{error.filename or args.out}: {error.strerror}") from error
    size = (args.out / "index.html").stat().st_size / 1e6
    say(
        args,
        f"{args.out / 'index.html'}: {args.mode} of {', '.join(plan.systems)}, {len(key['trials'])} trials, {size:.1f} MB",
    )
    say(args, f"{args.out / 'test.json'} tells what is what: keep it from the participants")
    return 0


def serve(args: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    from mss.apps.listening.server import TestServer, is_local

    if not 0 <= args.port < 65536:
        raise UsageError(f"--port must be from 0 to 65535, got {args.port}")
    results = args.results or args.folder / "results"
    if not args.folder.is_dir():
        raise UsageError(f"{args.folder} is not a folder: give one that build wrote")
    with TestServer(args.folder, results, host=args.host, port=args.port, say=lambda text: say(args, text)) as server:
        if not is_local(args.host):
            complain(f"warning: --host {args.host} lets everybody in the network take the test and send results")
        say(args, f"the test is at {server.url}, results go to {results}; Ctrl-C ends this")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            say(args, f"ended; python -m mss.listen analyse {args.folder}")
    return 0


def analyse(args: argparse.Namespace) -> int:
    """Writes report.txt, report.md, statistics.csv, statistics.json, answers.csv and plot.png, and prints the first."""
    start_torch()
    from mss.apps.listening.analysis import analyse as analysed
    from mss.apps.listening.results import read_key, read_results

    key, home = read_key(args.folder), args.folder if args.folder.is_dir() else args.folder.parent
    results, problems = read_results(args.results or [home / "results"], key)
    for name, problem in problems.items():
        complain(f"{name}: {problem}")
    if not results:
        raise UsageError(f"no results of this test in {', '.join(map(str, args.results or [home / 'results']))}")
    report = analysed(key, results)
    out = args.out or home / "analysis"
    try:
        write(report, out)
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror}") from error
    say(args, report.text())
    say(args, f"written to {out}")
    return FAILED if problems else 0


def write(report: Report, out: Path) -> None:
    """Writes all files of a report; without matplotlib, all but the plot."""
    from mss.metrics.leaderboard import csv_table
    from mss.metrics.scores import write_text

    write_text(out / "report.txt", report.text())
    write_text(out / "report.md", report.markdown())
    write_text(out / "answers.csv", csv_table(report.answers))
    write_text(out / "statistics.csv", csv_table(record for table in report.tables for record in table.records()))
    write_text(out / "statistics.json", json.dumps(_finite(report.as_dict()), indent=2, ensure_ascii=False))
    if importlib.util.find_spec("matplotlib") is None:
        log.warning("the plot needs matplotlib, which is not installed: pip install 'mss-separation[plots]'")
    elif report.drawn and all(report.drawn.values()):
        from mss.apps.plots import ratings_figure, shares_figure

        figure = (ratings_figure if report.mode == "mushra" else shares_figure)(report.drawn)
        figure.savefig(out / "plot.png", metadata={"Software": None})


def _finite(value):
    """Without NaN, which JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
