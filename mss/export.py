"""python -m mss.export umxhq --out umxhq.onnx: a network for other runtimes.

Exit codes: 0 written and compared with the network, 2 wrong usage or a model that cannot be exported, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from mss.cli import UsageError, exit_code, start_torch

__all__ = ["main"]

LIMIT = 3600.0  # seconds, of an input


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.export",
        description="Writes the network of a model as a program for ONNX (.onnx) or torch.export (.pt2), and runs it to "
        "compare. What goes in and comes out, and what is to be done around it, is written beside it, in FILE.json.",
    )
    add = p.add_argument
    add("model", help="pretrained model, checkpoint file or folder of Open-Unmix")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="ends in .onnx or .pt2")
    add("--waveform", action="store_true", help="the STFT in the program too, as convolutions, and the filter")
    add("--niter", type=int, choices=(0,), help="leave out the iterations of the Wiener filter, for --waveform")
    add(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="length of the input, where a network on waveforms is for one length (default %(default)s)",
    )
    add("--json", action="store_true", help="print what was written, as JSON on standard output")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parser().parse_args(argv)))


def run(args: argparse.Namespace) -> int:
    """Does what the parsed command line asks for."""
    if not (math.isfinite(args.seconds) and 0.1 <= args.seconds <= LIMIT):
        raise UsageError(f"--seconds must be between 0.1 and {LIMIT:g}, got {args.seconds:g}")
    start_torch()
    from mss import zoo
    from mss.apps.exporting import export, without_wiener

    try:
        separator = zoo.load(args.model)
        facts = export(
            separator if args.niter is None else without_wiener(separator),
            args.out,
            waveform=args.waveform,
            seconds=args.seconds,
            progress=lambda line: print(f"{line} ...", file=sys.stderr),
        )
    except (ImportError, OSError, ValueError) as error:  # unknown or damaged models, or such without a network
        raise UsageError(str(error)) from error
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print(f"{args.out}: {facts['error']:.0e} of the peak from the network; {args.out}.json says how it is used")
    return 0


if __name__ == "__main__":
    sys.exit(main())
