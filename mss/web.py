"""python -m mss.web: a page in the browser, on this machine, to separate, hear, see and remix songs.

Exit codes: 0 ended by Ctrl-C, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys

from mss.apps.options import add_device
from mss.apps.web.guard import Limits
from mss.cli import UsageError, complain, exit_code, pick_device, set_up_logging, start_torch

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mss.web",
        description="Serves a page on which a song is dropped, separated, heard, seen and mixed anew.",
        epilog="Nothing leaves the machine, and nothing is kept. Exit codes: 0 ended by Ctrl-C, 2 wrong usage.",
    )
    add = p.add_argument
    add("models", nargs="*", metavar="model", help="checkpoints, or other models, to offer as well")
    text = "offer only these of the zoo (default: all that need no score and no download)"
    add("--methods", metavar="A,B", help=text)
    add_device(p)
    add = p.add_argument_group("limits").add_argument
    limits = Limits()
    add("--max-mb", type=float, default=limits.megabytes, metavar="MB", help="of a file (default %(default)g)")
    add("--max-minutes", type=float, default=limits.minutes, metavar="M", help="of a song (default %(default)g)")
    text = "jobs that may wait; one is done at a time (default %(default)s)"
    add("--queue", type=int, default=limits.queue, metavar="N", help=text)
    add = p.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="where to listen (default %(default)s: this machine only)")
    add("--port", type=int, default=7860, help="default %(default)s; 0: any that is free")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(parser().parse_intermixed_args(argv)))


def run(args: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    set_up_logging(args.quiet)
    check(args)
    start_torch()
    from mss.apps.listening.server import is_local
    from mss.apps.web.app import serving
    from mss.apps.web.catalogue import Catalogue

    methods = None if args.methods is None else [name.strip() for name in args.methods.split(",") if name.strip()]
    catalogue = Catalogue(args.models, methods=methods, device=pick_device(args.device))
    if not catalogue.offers:
        raise UsageError("--methods names none, and there is no checkpoint: name one of them")
    with serving(
        catalogue, Limits(args.max_mb, args.max_minutes, args.queue), host=args.host, port=args.port
    ) as server:
        if not is_local(args.host):
            complain(f"warning: --host {args.host} lets everybody in the network send songs and use this machine")
        if not args.quiet:
            print(f"the demo is at {server.url}; Ctrl-C ends it", flush=True)  # noqa: T201
        try:
            server.run()
        except KeyboardInterrupt:
            return 0
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuses what means nothing, before anything is loaded."""
    for option, highest in {"max_mb": 1e5, "max_minutes": 1e4, "queue": 1e4}.items():
        value = getattr(args, option)
        if not 0 < value <= highest:
            raise UsageError(f"--{option.replace('_', '-')} must be more than 0 and at most {highest:g}, got {value:g}")
    if not 0 <= args.port < 65536:
        raise UsageError(f"--port must be from 0 to 65535, got {args.port}")
    if "score_informed" in [*args.models, *(args.methods or "").split(",")]:
        raise UsageError("score_informed needs a score, which this page does not take: python -m mss.separate --score")
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("the web demo needs gradio, which is not installed: pip install 'mss-separation[web]'")


if __name__ == "__main__":
    sys.exit(main())
