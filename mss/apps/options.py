"""Command-line options that several verbs have in common. Torch is not imported before they are parsed."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mss.cli import UsageError

if TYPE_CHECKING:
    from mss.audio import Encoding

DEFAULT_MODEL = "four-stems"
TWO_STEMS = "spleeter-2stems"  # where its accompaniment is asked for
PAGE_SECONDS, LONGEST_PAGE = 60.0, 600.0  # of a song; ten minutes of five stems are a gigabyte in a browser
LIMIT = 1e9  # of all numbers; in seconds thirty years
HIGHEST = {"mp3": 320, "ogg": 2000, "opus": 2000, "m4a": 4000}  # kbit/s of the lossy formats


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a verb with `inputs` before, between and after its options, and any names after "--".

    Argparse itself loses what follows "--" where inputs and options may be mixed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_intermixed_args(argv[:end])
    args.inputs = [*args.inputs, *argv[end + 1 :]]
    return args


def add_model(parser: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL, said: str = "%(default)s") -> None:
    """--model."""
    text = f"pretrained model, method, or checkpoint file (default {said})"
    parser.add_argument("-n", "--model", default=default, help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    text = "cpu, cuda, cuda:1, mps ... (default: the best there is)"
    parser.add_argument("-d", "--device", default="auto", help=text)


def add_separation(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How the separator is used; more may be added to the group."""
    group = parser.add_argument_group("separation")
    add = group.add_argument
    add("--niter", type=int, metavar="N", help="filter by N iterations of the multichannel Wiener filter (whole song)")
    add("--segment", type=float, metavar="S", help="separate in segments of S seconds")
    add("--overlap", type=float, metavar="S", help="seconds that segments share")
    add("--shifts", type=int, metavar="N", help="average over N delays of the input, at N times the work")
    return group


def add_output(
    parser: argparse.ArgumentParser, *, clip_mode: str, clipping: str, formats: Sequence[str] = ("flac", "mp3", "ogg")
) -> argparse._ArgumentGroup:
    """The format, and --clip-mode with this default and help; more may be added to the group."""
    text = "Default: WAV with the bit depth of the input, float32 after a lossy codec."
    group = parser.add_argument_group("output", text)
    depths, codecs = group.add_mutually_exclusive_group(), group.add_mutually_exclusive_group()
    for name in ("int16", "int24", "float32"):
        depths.add_argument(f"--{name}", action="store_const", const=name, dest="subtype")
    for name in formats:
        codecs.add_argument(f"--{name}", action="store_const", const=name, dest="codec")
    lossy = [name for name in formats if name in HIGHEST]
    group.add_argument("--bitrate", type=int, metavar="K", help=f"of {' and '.join(lossy).upper()}, kbit/s")
    group.add_argument("--clip-mode", choices=("none", "rescale", "clamp"), default=clip_mode, help=clipping)
    return group


def add_page(parser: argparse.ArgumentParser, where: str) -> None:
    """--page and --page-seconds; `where` says where the page goes."""
    group = parser.add_argument_group(
        "page", "To hear, see and pass on: one HTML file that needs nothing but a browser."
    )
    text = f"write a page with players, spectrograms and figures of each song, {where}"
    group.add_argument("--page", action="store_true", help=text)
    text = f"of each song, the loudest, are on its page, at most {LONGEST_PAGE:g} (default %(default)g)"
    group.add_argument("--page-seconds", type=float, default=PAGE_SECONDS, metavar="S", help=text)


def check_page(args: argparse.Namespace) -> None:
    """Refuses what means nothing of `add_page`."""
    if not 1 <= args.page_seconds <= LONGEST_PAGE:
        raise UsageError(
            f"--page-seconds must be from 1 to {LONGEST_PAGE:g}, as a browser keeps it all in memory, got {args.page_seconds:g}"
        )
    if args.page_seconds != PAGE_SECONDS and not args.page:
        raise UsageError("--page-seconds goes with --page")


def check_names(args: argparse.Namespace, *options: str) -> None:
    """Refuses lists of names with one missing."""
    for option in options:
        value = getattr(args, option)
        if value is not None and not all(name.strip() for name in value.split(",")):
            raise UsageError(f"--{option.replace('_', '-')} needs a name, got {value!r}")


def check_numbers(args: argparse.Namespace, least: Mapping[str, float]) -> None:
    """Refuses numbers below the least of their option, and endless ones."""
    for option, lowest in least.items():
        value = getattr(args, option)
        if value is not None and not lowest <= value < LIMIT:
            raise UsageError(f"--{option} must be at least {lowest}, and not endless, got {value:g}")


def check_positive(args: argparse.Namespace, *options: str) -> None:
    """Refuses seconds that are no time at all, or endless."""
    for option in options:
        value = getattr(args, option)
        if value is not None and not 0 < value < LIMIT:
            raise UsageError(f"--{option} must be more than 0 seconds, and not endless, got {value:g}")


def check_separation(args: argparse.Namespace) -> None:
    """Refuses what means nothing of `add_separation`."""
    check_numbers(args, {"shifts": 1, "niter": 0, "overlap": 0})
    check_positive(args, "segment")


def check_output(args: argparse.Namespace) -> None:
    """Refuses what means nothing of `add_output`."""
    check_numbers(args, {"bitrate": 1})
    highest = HIGHEST.get(args.codec)
    if highest and args.subtype:
        raise UsageError(f"--{args.codec} has no bit depth: leave out --{args.subtype}")
    if args.bitrate and not highest:
        raise UsageError("--bitrate goes with a lossy format: --mp3, --ogg ...")
    if args.bitrate and args.bitrate > highest:
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


def name_of(model: str) -> str:
    """What stands for a model in file names: its name, or that of its checkpoint file."""
    is_path = model.endswith(".safetensors") or Path(model).name != model
    return Path(model).stem if is_path else model


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What loading a separator raises, as an error of the command line."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:  # the last: an unknown name, a damaged checkpoint, no weights
        raise UsageError(str(error)) from error
