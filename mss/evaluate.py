"""python -m mss.evaluate separator=spleeter-2stems data=FOLDER: scores separators on a data set, and compares them.

Exit codes: 0 every track was scored, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from mss.apps.configured import configured
from mss.apps.evaluation import Evaluation, label_of, tracks_of
from mss.apps.options import LONGEST_PAGE
from mss.apps.systems import system_of
from mss.cli import FAILED, UsageError, exit_code, gather, set_up_logging, start_torch
from mss.files import config_folder

__all__ = ["Options", "evaluate", "main"]


@dataclass
class Options:
    """What may be set on the command line, as name=value; exactly one of separator, oracle and estimates.

    Args:
        data: folder of the data set: .stem.mp4 files, or a folder of stems per track, below train/ test/ or not.
        separator: pretrained model, method or checkpoint file.
        oracle: a filter that knows the references (`mss.oracle.ORACLES`), or MIX.
        estimates: folder of ready-made estimates, with tracks named like those of `data`.
        name: of the system in the report. Default: the separator's, the oracle's, the folder's.
        out: folder of the report; several systems may share it. Default: evaluated/<data set>.
        subset: train, valid or test. Default: test, if the data set is split.
        tracks: pattern of the names of the tracks to score.
        targets: estimates to score. Default: all.
        rename: what the estimates are in the data set, e.g. [percussive:drums,harmonic:no_drums].
        residual: name of one more estimate, the mixture less the others.
        two_source: score vocals against the sum of all other estimates, too.
        partial: take stems that a track lacks, but most others have, for silent.
        window, hop: of the frames, seconds.
        mode: v4 (one filter for each track) or v3 (one for each frame).
        bits: round references and estimates to so many bits first. 16 is what the campaigns scored; of references from
            AAC or MP3, SIR and SAR mean little without it.
        peass: seconds of each track, the loudest, that PEASS is to hear, too (minutes of computing for each of them).
        save: keep the estimates, to be listened to in the report.
        device: cpu, cuda, cuda:1, mps, or auto, the best there is.
        seed: of the bootstrap intervals.
        published: show published results beside.
        compare: a system of the same report to compare with, track by track.
        page: write page.html, too (or --page): the report with the worst, the middle and the best track of this system to
            listen to, if its estimates are kept.
        page_seconds: of each of them, the loudest.
        quiet: print nothing but errors.
    """

    data: str | None = None
    separator: str | None = None
    oracle: str | None = None
    estimates: str | None = None
    name: str | None = None
    out: str = "${evaluated:${data}}"
    subset: str | None = None
    tracks: str = "*"
    targets: list[str] | None = None
    rename: list[str] | None = None
    residual: str | None = None
    two_source: bool = False
    partial: bool = False
    window: float = 1.0
    hop: float = 1.0
    mode: str = "v4"
    bits: int | None = None
    peass: float | None = None
    save: bool = False
    device: str = "auto"
    seed: int = 0
    published: bool = False
    compare: str | None = None
    page: bool = False
    page_seconds: float = 20.0
    quiet: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """Reads the command line with Hydra and evaluates one system, or one after the other."""
    argv = ["page=true" if argument == "--page" else argument for argument in argv]  # as the other verbs have it
    OmegaConf.register_new_resolver("evaluated", default_folder, replace=True)
    store = ConfigStore.instance()
    store.store("evaluate_options", Options)
    store.store("evaluate", OmegaConf.load(config_folder() / "evaluate.yaml"))
    # no folder of ours is searched: in conf, separator= would choose a file of conf/separator, in mss, data= one of mss/data
    job = lambda config: evaluate(Options(**OmegaConf.to_container(config, resolve=True)))  # noqa: E731
    return configured("evaluate", argv, job, [option.name for option in fields(Options)])


def default_folder(data: str | None) -> str:
    """Where the report on a data set goes."""
    return os.path.join("evaluated", *([] if data is None else [label_of(Path(data)).replace("/", "-")]))


def evaluate(options: Options) -> int:
    """Evaluates one system; returns the exit code."""
    set_up_logging(options.quiet)
    check(options)
    start_torch()
    from mss.data import TrackError

    try:
        tracks = tracks_of(options)
        evaluation = Evaluation(options, system_of(options, tracks), tracks)
    except TrackError as error:
        raise UsageError(str(error)) from error
    evaluation.run()
    evaluation.report()
    gather([])
    return FAILED if evaluation.failures else 0


def check(options: Options) -> None:
    """Refuses what means nothing, before anything is loaded."""
    if options.data is None:
        raise UsageError("no data set: name its folder, e.g. data=musdb18")
    given = [name for name in ("separator", "oracle", "estimates") if getattr(options, name) is not None]
    if len(given) != 1:
        raise UsageError(f"give one of separator=, oracle= and estimates=, not {' and '.join(given) or 'none'}")
    for name in ("window", "hop"):
        if not 0 < getattr(options, name) < float("inf"):
            raise UsageError(f"{name} must be more than 0 seconds, not {getattr(options, name):g}")
    if not 1 <= options.page_seconds <= LONGEST_PAGE:
        raise UsageError(f"page_seconds must be from 1 to {LONGEST_PAGE:g}, not {options.page_seconds:g}")
    if options.bits is not None and not 8 <= options.bits <= 24:
        raise UsageError(f"bits must be between 8 and 24, e.g. 16, not {options.bits}")
    if options.peass is not None:
        if not 0.05 <= options.peass < float("inf"):
            raise UsageError(f"peass must be a number of seconds, at least 0.05, not {options.peass:g}")
        if importlib.util.find_spec("peass") is None:
            raise UsageError(
                "peass needs the package python-peass, which is not installed: pip install 'mss-separation[peass]'"
            )
    if options.mode not in ("v3", "v4"):
        raise UsageError(f"mode must be v3 or v4, not {options.mode!r}")
    if any(pair.count(":") != 1 for pair in options.rename or ()):
        raise UsageError(f"rename takes pairs, e.g. rename=[percussive:drums], not {options.rename}")
    if options.name is not None and (not options.name.strip(". ") or "/" in options.name or os.sep in options.name):
        raise UsageError(f"name={options.name!r} is to name a folder: leave out slashes")


if __name__ == "__main__":
    sys.exit(main())
