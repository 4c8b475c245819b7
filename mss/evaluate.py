"""python -m mss.evaluate separator=spleeter-2stems data=FOLDER: scores separators on a data set, and compares them.

Exit codes: 0 every track was scored, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.

A track is separated while the one before is scored and the one after is read. What is scored is on disk at once, so a run
may be interrupted and gone on with, and several ranks share the tracks without a word to each other: each writes the
report from what it finds, and the last one finds everything.
"""

from __future__ import annotations

import difflib
import fnmatch
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from mss.cli import (
    FAILED,
    USAGE,
    UsageError,
    background,
    exit_code,
    pick_device,
    rank_and_world,
    set_up_logging,
    start_torch,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mss.data import Audio, Track
    from mss.metrics.report import Entry, Results, TrackScores
    from mss.separator import Separator

__all__ = ["Options", "evaluate", "main"]

log = logging.getLogger(__name__)
BLOCK_SECONDS = 12.0  # handed to a separator at a time
PROTOCOLS = {
    frozenset(("vocals", "accompaniment")): "2-source",
    frozenset(("vocals", "drums", "bass", "other")): "4-source",
}

PUBLISHED = ("sisec2018", "musdb18")  # tables of `mss.metrics.published` that are scored like ours


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
        save: keep the estimates, to be listened to in the report.
        device: cpu, cuda, cuda:1, mps, or auto, the best there is.
        seed: of the bootstrap intervals.
        published: show published results beside.
        compare: a system of the same report to compare with, track by track.
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
    save: bool = False
    device: str = "auto"
    seed: int = 0
    published: bool = False
    compare: str | None = None
    quiet: bool = False


@dataclass(frozen=True)
class System:
    """What is evaluated.

    Args:
        name: in the report and in paths.
        source: the option that names it; two systems of one name are told apart by it.
        targets: what it calls its estimates.
        estimate: (track, audio) -> estimates (n, c, t).
        revision: JSON-able; changes when the estimates may.
        files: track -> files of ready-made estimates.
    """

    name: str
    source: str
    targets: tuple[str, ...]
    estimate: Callable[[Track, Audio], Tensor]
    revision: str = ""
    files: Callable[[Track], dict[str, Path]] = lambda track: {}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """Reads the command line with Hydra and evaluates one system, or one after the other."""
    codes = [0]

    def job(config: DictConfig) -> None:
        try:
            codes.append(evaluate(Options(**OmegaConf.to_container(config, resolve=True))))
        except UsageError as error:  # the other jobs of a sweep are done all the same
            sys.stderr.write(f"error: {error}\n")
            codes.append(USAGE)

    OmegaConf.register_new_resolver("evaluated", default_folder, replace=True)
    store = ConfigStore.instance()
    store.store("evaluate_options", Options)
    store.store("evaluate", OmegaConf.load(config_folder() / "evaluate.yaml"))
    arguments, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["mss.evaluate", *argv], "1"  # else Hydra exits on its own
    # no folder of ours is searched: in conf, separator= would choose a file of conf/separator, in mss, data= one of mss/data
    try:
        hydra.main(version_base="1.3", config_path="pkg://hydra.conf", config_name="evaluate")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_explained(error)) from error
    finally:
        sys.argv = arguments
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
    return max(codes)


def config_folder() -> Path:
    """Where the YAML files are: in an installed wheel, or in the source tree."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def default_folder(data: str | None) -> str:
    """Where the report on a data set goes."""
    return os.path.join("evaluated", *([] if data is None else [label_of(Path(data)).replace("/", "-")]))


def label_of(data: Path) -> str:
    """The name of a data set: of its folder, with the one above for a subset."""
    data = data.resolve()
    return f"{data.parent.name}/{data.name}" if data.name in ("train", "valid", "test") else data.name


def _explained(error: Exception) -> str:
    """What Hydra says, in one line, with the option that may have been meant."""
    lines = [line.strip() for e in (error, error.__cause__) if e is not None for line in str(e).splitlines()]
    said = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line and "full_key" not in line))
    if "Could not override" in said:
        key = said.split("'")[1]
        known = [option.name for option in fields(Options)]
        near = difflib.get_close_matches(key, known, n=1)
        return f"there is no option {key!r}: " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        )
    return said


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
    if options.mode not in ("v3", "v4"):
        raise UsageError(f"mode must be v3 or v4, not {options.mode!r}")
    if any(pair.count(":") != 1 for pair in options.rename or ()):
        raise UsageError(f"rename takes pairs, e.g. rename=[percussive:drums], not {options.rename}")
    if options.name is not None and (not options.name.strip(". ") or "/" in options.name or os.sep in options.name):
        raise UsageError(f"name={options.name!r} is to name a folder: leave out slashes")


def tracks_of(options: Options) -> list[Track]:
    """The tracks to score."""
    from mss.data import find_tracks

    found = find_tracks(options.data, subset=options.subset)
    if options.subset is None and any(track.subset == "test" for track in found):
        found = [track for track in found if track.subset == "test"]
    tracks = [track for track in found if fnmatch.fnmatchcase(track.name, options.tracks)]
    if not tracks:
        raise UsageError(
            f"no track of {options.data} is called {options.tracks!r}; there is {found[0].name!r}, for one"
        )
    return tracks


# What is evaluated


def system_of(options: Options, tracks: Sequence[Track]) -> System:
    """The system asked for."""
    if options.separator is not None:
        return separator_system(options)
    if options.oracle is not None:
        return oracle_system(options, tracks)
    return estimates_system(options, tracks)


def separator_system(options: Options) -> System:
    """A separator: estimates are made of the mixture."""
    from mss import checkpoint, zoo

    device = pick_device(options.device)
    try:
        separator = zoo.load(options.separator).to(device)
    except ValueError as error:  # an unknown name, a damaged checkpoint, weights that are not there
        raise UsageError(str(error)) from error
    name, source, revision = options.separator, options.separator, ""
    if name.endswith(".safetensors"):
        source, revision = str(Path(name).resolve()), checkpoint.read_header(name)["digest"]
        name = Path(name).stem
    name = (options.name or name).replace("/", "-")
    return System(name, f"separator={source}", separator.targets, partial(separated, separator, device), revision)


def separated(separator: Separator, device: torch.device, _: Track, audio: Audio) -> Tensor:
    """What a separator at any rate makes of the mixture of a track, (n, c, t)."""
    import torch

    from mss.adapters import Resampled
    from mss.wrappers import stream

    if separator.sample_rate != audio.sample_rate:
        separator = Resampled(separator, audio.sample_rate)
    with torch.inference_mode():
        blocks = audio.mixture.unsqueeze(0).split(round(BLOCK_SECONDS * audio.sample_rate), -1)
        parts = stream(separator, (block.to(device) for block in blocks))
        y = torch.cat([part[0].cpu() for part in parts], -1)
    return y.clone()  # outside of inference mode, so that it is a tensor like any other


def oracle_system(options: Options, tracks: Sequence[Track]) -> System:
    """An oracle of the stems of the data set: estimates are made of the mixture and the references."""
    from mss.data import common_stems
    from mss.oracle import ORACLES

    if options.oracle not in ORACLES:
        near = difflib.get_close_matches(options.oracle.upper(), ORACLES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ORACLES)}"
        raise UsageError(f"there is no oracle {options.oracle!r}: {hint}")
    device, stems = pick_device(options.device), common_stems(tracks)
    estimate = partial(known, options.oracle, stems, options.partial, device)
    return System(options.name or options.oracle, f"oracle={options.oracle}", stems, estimate)


def known(name: str, stems: Sequence[str], fill: bool, device: torch.device, track: Track, audio: Audio) -> Tensor:
    """What an oracle makes of a track, (n, c, t)."""
    import torch

    from mss.oracle import oracle

    truth = references(track, audio, stems, stems, fill).unsqueeze(0).to(device)
    separator = oracle(name, truth, stems, audio.sample_rate).to(device)
    with torch.no_grad():
        return separator(audio.mixture.unsqueeze(0).to(device))[0].cpu()


def estimates_system(options: Options, tracks: Sequence[Track]) -> System:
    """Ready-made estimates: a folder in which the tracks have the names of those of the data set."""
    from mss.data import common_stems, find_tracks

    folder = Path(options.estimates)
    found = {track.name: track for track in find_tracks(folder)}
    both = [found[track.name] for track in tracks if track.name in found]
    if not both:
        raise UsageError(
            f"{folder} has estimates of other tracks than {options.data}: there is {next(iter(found))!r}, which is not in "
            f"the data set, and {tracks[0].name!r} is missing"
        )
    names = {track.name for track in tracks}
    strangers = [name for name in found if name not in names]
    if strangers:
        log.warning(
            "%s has estimates that are not scored, of %d other tracks: %s", folder, len(strangers), strangers[0]
        )
    stems = tuple(options.targets or common_stems(both))
    if options.rename or options.residual or options.two_source:
        stems = common_stems(both)

    def files(track: Track) -> dict[str, Path]:
        ready = found.get(track.name)
        return {} if ready is None else dict(ready.files) or {"": ready.path}

    name = (options.name or folder.resolve().name).replace("/", "-")
    strict = options.targets is None
    estimate = partial(ready_made, found, stems, strict)
    return System(name, f"estimates={folder.resolve()}", stems, estimate, files=files)


def ready_made(found: Mapping[str, Track], stems: Sequence[str], strict: bool, track: Track, audio: Audio) -> Tensor:
    """The estimates of a track that are on disk, (n, c, t)."""
    import torch

    from mss.data import TrackError

    if track.name not in found:
        raise TrackError("there are no estimates of this track")
    ready = found[track.name]
    estimates = ready.load()
    missing = [name for name in stems if name not in estimates.stems]
    if missing:
        raise TrackError(f"{ready.path} has no estimate of {', '.join(missing)}; it has {', '.join(estimates.stems)}")
    extra = [name for name in estimates.stems if name not in stems]
    if extra and strict:
        raise TrackError(
            f"{ready.path} has an estimate of {', '.join(extra)}, which most others have not: remove it, or say which are "
            f"scored: targets=[{','.join(stems)}]"
        )
    if estimates.sample_rate != audio.sample_rate:
        raise TrackError(
            f"{ready.path} is at {estimates.sample_rate} Hz, the references are at {audio.sample_rate} Hz: resample it"
        )
    return torch.stack([estimates.stems[name] for name in stems])


# What it is scored against


def arranged(estimates: Tensor, mixture: Tensor, targets: Sequence[str], options: Options) -> dict[str, Tensor]:
    """The estimates (n, ...) that are scored, under their names in the data set."""
    renamed = dict(pair.split(":", 1) for pair in options.rename or ())
    stems = {renamed.get(name, name): y for name, y in zip(targets, estimates, strict=True)}
    if options.residual is not None:
        stems[options.residual] = mixture - sum(stems.values())
    if options.two_source and "accompaniment" not in stems:
        stems["accompaniment"] = sum(y for name, y in stems.items() if name != "vocals")
    return stems if options.targets is None else {name: stems[name] for name in options.targets}


def protocols_of(targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which targets are scored together: vocals and accompaniment, and all but accompaniment, where there are two or more."""
    sets = [tuple(name for name in ("vocals", "accompaniment") if name in targets)]
    if len(sets[0]) < 2:
        sets = [tuple(targets)]
    else:
        sets.append(tuple(name for name in targets if name != "accompaniment"))
    return {PROTOCOLS.get(frozenset(names), "+".join(sorted(names))): names for names in sets if len(names) > 1}


def references(track: Track, audio: Audio, targets: Sequence[str], expected: Sequence[str], fill: bool) -> Tensor:
    """The references of targets, (n, c, t).

    Args:
        expected: stems that tracks of this data set have; what a sum of all but one is of.
        fill: take those that are not there for silent.
    """
    import torch

    from mss.data import TrackError, reference

    stems = audio.stems
    lacking = [name for name in expected if name not in stems]
    if lacking and not all(name in stems for name in targets):
        if not fill:
            raise TrackError(
                f"{track.path} has no {', '.join(lacking)}, which most tracks have; partial=true takes what is missing for "
                "silent"
            )
        stems = {**stems, **{name: torch.zeros_like(audio.mixture) for name in lacking}}
    return torch.stack([reference(stems, name) for name in targets])


def published_entries(protocol: str, targets: Sequence[str], about: Mapping) -> tuple[list[Entry], list[str]]:
    """Published lines for a board, and why they are not to be compared with yours."""
    from mss.metrics.published import differences, published
    from mss.metrics.report import Entry, Statistic

    sources, scoring, nan = int(protocol[0]) if protocol in PROTOCOLS.values() else 0, about["scoring"], float("nan")
    entries, remarks = [], []
    for name in PUBLISHED:
        rows = [row for row in published(name, metric="SDR", aggregation="median of medians") if row.target in targets]
        rows.sort(key=lambda row: row.sources == sources)  # a later one takes the place of an earlier one
        lines: dict[str, Entry] = {}
        for row in rows:
            extra = ", trained on more data" if row.extra_data else ""
            line = lines.setdefault(row.system, Entry(row.system, {}, 0, note=f"published, {name}{extra}"))
            line.targets[row.target] = {"SDR": Statistic(row.value_db, nan, nan, nan, 0)}
        entries += [line for line in lines.values() if len(line.targets) == len(targets)]
        shown = {line.system for line in entries}
        remarks.append(
            differences(
                [row for row in rows if row.system in shown],
                dataset=about["data"].replace("/", " "),
                evaluator=f"BSS Eval {scoring['mode']} images, {scoring['window']:g} s frames",
                metric="SDR",
                aggregation="median of medians",
                sources=sources or None,
            )
        )
    return entries, [f"Warning, {protocol}: {remark}" for remark in remarks if remark]


# Doing it


class Evaluation:
    """One system on one data set: its folders, what is done, and what failed."""

    def __init__(self, options: Options, system: System, tracks: Sequence[Track]) -> None:
        from mss.data import common_stems

        self.options = options
        self.system = system
        self.tracks = tracks
        self.out = Path(options.out)
        self.expected = common_stems(tracks)
        self.failures = 0
        self.protocols = protocols_of(self._names())
        self._check_targets()
        settings = {name: getattr(options, name) for name in ("rename", "residual", "two_source", "partial")}
        scoring = {name: getattr(options, name) for name in ("window", "hop", "mode")}
        subsets, label = {track.subset for track in tracks}, label_of(Path(options.data))
        if len(subsets) == 1 and not label.endswith(subset := f"/{subsets.pop()}") and len(subset) > 1:
            label += subset
        self._about = {
            protocol: {
                "system": {"source": system.source, "revision": system.revision, **settings},
                "data": label,
                "scoring": {**scoring, "targets": list(targets)},
            }
            for protocol, targets in self.protocols.items()
        }

    def run(self) -> None:
        """Scores the tracks of this rank that are not done yet."""
        rank, world = rank_and_world()
        mine = self.tracks[rank::world]
        todo = [track for track in mine if not self._done(track)]
        share = f", rank {rank} of {world}" if world > 1 else ""
        there = f", {len(mine) - len(todo)} already there" if len(mine) > len(todo) else ""
        self._say(f"{self.system.name}: {len(mine)} {'track' if len(mine) == 1 else 'tracks'}{there}{share}")
        off = self.options.quiet or not sys.stderr.isatty()
        with ThreadPoolExecutor(1) as thread, tqdm(total=len(todo), unit="track", leave=False, disable=off) as bar:
            last: tuple[Track, Future] | None = None
            for track, audio in background(self._loaded(todo), depth=1):
                estimates = self._attempt(track, lambda t=track, a=audio: self._estimates(t, a))
                if last is not None:
                    self._finish(*last, bar)
                if estimates is None:
                    last = None
                    bar.update()
                else:
                    last = track, thread.submit(self._score, track, audio, estimates)
            if last is not None:
                self._finish(*last, bar)

    def report(self) -> None:
        """Writes the statistics of this system and the leaderboard of all that are there."""
        from mss.metrics.report import leaderboard, markdown, read_results, write_leaderboard, write_summary

        seen = None
        while seen != (seen := self._on_disk()):  # another rank may have added scores meanwhile
            for protocol in self.protocols:
                write_summary(self._results(protocol), self._folder(protocol), seed=self.options.seed)
            try:
                results = read_results(self.out)
            except ValueError as error:
                raise UsageError(str(error)) from error
            others, remarks = self._beside(results)
            boards = leaderboard(results, seed=self.options.seed, others=others)
            write_leaderboard(boards, self.out, remarks)
        mine = [board for board in boards if board.protocol in self.protocols]
        if not self.options.quiet and all(self._done(track) or self._failed(track) for track in self.tracks):
            sys.stdout.write(markdown(mine, remarks))
        self._say(f"report: {self.out / 'leaderboard.html'}")

    def _beside(self, results: Sequence[Results]) -> tuple[dict, list[str]]:
        """Lines of published results for each protocol, and what the comparison with another system says."""
        others, remarks = {}, []
        if self.options.published:
            for protocol, targets in self.protocols.items():
                others[protocol], said = published_entries(protocol, targets, self._about[protocol])
                remarks += said
        if self.options.compare is not None:
            remarks += [self._compared(protocol, results) for protocol in self.protocols]
        return others, remarks

    def _compared(self, protocol: str, results: Sequence[Results]) -> str:
        """This system against another one, track by track, in words."""
        from mss.metrics.report import track_medians
        from mss.metrics.significance import compare

        by_name = {one.system: track_medians(one) for one in results if one.protocol == protocol}
        mine, other = self.system.name, self.options.compare
        if other not in by_name:
            raise UsageError(f"compare={other}: there are no scores of it in {self.out / protocol}: evaluate it first")
        said = [
            f"{target}: {compare(scores, by_name[other].get(target, {}), names=(mine, other)).text}"
            for target, scores in by_name[mine].items()
        ]
        return f"{protocol}, SDR of {mine} against {other}. {' '.join(said)}"

    def _names(self) -> tuple[str, ...]:
        """What the estimates are called in the end."""
        import torch

        options, own = self.options, self.system.targets
        unknown = [name for name in (pair.split(":")[0] for pair in options.rename or ()) if name not in own]
        if unknown:
            raise UsageError(f"rename: no target {unknown[0]!r}: there are {', '.join(own)}")
        try:
            return tuple(arranged(torch.zeros(len(own)), torch.zeros(()), own, options))
        except KeyError as error:
            raise UsageError(f"targets: no target {error}: there are {', '.join(own)}") from error

    def _check_targets(self) -> None:
        """Refuses targets that cannot be scored on this data set."""
        import torch

        from mss.data import TrackError, reference

        names, stems = self._names(), dict.fromkeys(self.expected, torch.zeros(()))
        there = ", ".join(self.expected) or "no stems in common"
        have = f"{self.system.name} makes {', '.join(names)}, the tracks have {there}"
        for name in names:
            try:
                reference(stems, name)
            except TrackError:
                raise UsageError(
                    f"{name!r} has no reference: {have}; choose with targets=[...], or say what is what with rename=[its:ours]"
                ) from None
        if not self.protocols:
            raise UsageError(
                f"one target cannot be told from the rest: {have}; add the rest, e.g. residual=accompaniment"
            )
        for protocol, targets in self.protocols.items():
            left = [name for name in self.expected if name not in targets]
            if left and all(name in self.expected for name in targets):
                log.warning(
                    "%s: %s is in no target: what an estimate has of it counts as artefacts", protocol, ", ".join(left)
                )

    def _loaded(self, tracks: Sequence[Track]) -> Iterator[tuple[Track, Audio | ValueError]]:
        """The tracks with what is in them, or why it cannot be had."""
        for track in tracks:
            try:
                yield track, track.load()
            except ValueError as error:
                yield track, error

    def _attempt(self, track: Track, work: Callable[[], Any]) -> Any:
        """The result of work on a track; None, and the reason noted, if it cannot be done."""
        try:
            return work()
        except ValueError as error:  # AudioError, TrackError, and what separators and metrics refuse
            problem = " ".join(str(error).split())
        except (MemoryError, RuntimeError) as error:  # torch's, of shapes that a network does not take, too
            scarce = isinstance(error, MemoryError) or "memory" in str(error).lower()
            problem = (
                "not enough memory; try device=cpu" if scarce else f"{type(error).__name__}: {error}".splitlines()[0]
            )
        self.failures += 1
        tqdm.write(f"error: {track.name}: {problem}", file=sys.stderr)
        from mss.metrics.report import write_text

        for protocol in self.protocols:
            write_text(self._path(protocol, track, "failed", ".txt"), problem + "\n")
        return None

    def _estimates(self, track: Track, audio: Audio | ValueError) -> dict[str, Tensor]:
        if isinstance(audio, ValueError):
            raise audio
        estimates = self.system.estimate(track, audio)
        return arranged(estimates, audio.mixture, self.system.targets, self.options)

    def _score(self, track: Track, audio: Audio, estimates: dict[str, Tensor]) -> list[TrackScores]:
        """Scores a track in all protocols and writes the scores."""
        from mss.metrics.report import TrackScores, score, write_track

        options, scored = self.options, []
        for protocol, targets in self.protocols.items():
            truth = references(track, audio, targets, self.expected, options.partial)
            y = [estimates[name] for name in targets]
            rules = {"window": options.window, "hop": options.hop, "mode": options.mode}
            scores = score(truth, y, targets, sample_rate=audio.sample_rate, **rules)
            about = {**self._about[protocol], "files": self._files(track)}
            scored.append(TrackScores(track.name, track.subset, scores, options.window, options.hop, about))
        kept = self._kept(track, audio, estimates)
        for protocol, scores in zip(self.protocols, scored, strict=True):
            for target in scores.targets:
                target.audio = kept.get(target.name, "")
            write_track(scores, self._path(protocol, track))
            self._path(protocol, track, "failed", ".txt").unlink(missing_ok=True)
        return scored

    def _finish(self, track: Track, future: Future, bar: tqdm) -> None:
        """Waits for the scores of a track and tells them."""
        for scores in self._attempt(track, future.result) or ():
            told = ", ".join(f"{target.name} {target.medians()['SDR']:.2f}" for target in scores.targets)
            self._say(f"{track.name}: SDR {told} dB")
            for target in scores.targets:
                if target.note.startswith("no "):
                    self._say(f"warning: {track.name}: {target.name}: {target.note}")
        bar.update()

    def _kept(self, track: Track, audio: Audio, estimates: dict[str, Tensor]) -> dict[str, str]:
        """The files of the estimates, relative to the report; writes them if that was asked for."""
        from mss.audio import write

        paths = self.system.files(track)
        if self.options.save:
            paths = self._saved(track, estimates)
            for name, path in paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, estimates[name], audio.sample_rate)
        return {name: Path(os.path.relpath(path, self.out)).as_posix() for name, path in paths.items()}

    def _saved(self, track: Track, names: Sequence[str]) -> dict[str, Path]:
        """Where estimates are kept: the folders of museval, so that they may be scored again."""
        folder = self.out / "estimates" / self.system.name / (track.subset or "test") / track.name
        return {name: folder / f"{name}.wav" for name in names}

    def _done(self, track: Track) -> bool:
        """Whether the scores of a track are there, and are those that would come out again."""
        from mss.metrics.report import read_track

        if self.options.save and not all(path.is_file() for path in self._saved(track, self._names()).values()):
            return False
        for protocol, about in self._about.items():
            path = self._path(protocol, track)
            if not path.is_file():
                return False
            try:
                found = read_track(path).about
            except ValueError as error:
                log.warning("%s; it is made again", error)
                return False
            if (source := found.get("system", {}).get("source")) != self.system.source:
                raise UsageError(
                    f"{self._folder(protocol)} holds the scores of {source}: give this one another name=, or another out="
                )
            if found != {**about, "files": self._files(track)}:
                return False
        return True

    def _failed(self, track: Track) -> bool:
        return any(self._path(protocol, track, "failed", ".txt").is_file() for protocol in self.protocols)

    def _results(self, protocol: str) -> Results:
        """What is on disk of this system: scores, and failures that no score has put right."""
        from mss.metrics.report import Results, tracks_about

        folder = self._folder(protocol)
        done = tracks_about(folder, self._about[protocol])
        failed = {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("failed/*/*.txt"))}
        return Results(self.system.name, protocol, done, failed, self._about[protocol])

    def _on_disk(self) -> set[tuple[str, int]]:
        """The scores and failures that there are, with the times they were written."""
        folders = (self._folder(protocol) for protocol in self.protocols)
        paths = [path for folder in folders for name in ("*/*.json", "failed/*/*.txt") for path in folder.glob(name)]
        return {(str(path), path.stat().st_mtime_ns) for path in paths}

    def _folder(self, protocol: str) -> Path:
        return self.out / protocol / self.system.name

    def _path(self, protocol: str, track: Track, kind: str = "", suffix: str = ".json") -> Path:
        return self._folder(protocol) / kind / (track.subset or "test") / f"{track.name}{suffix}"

    def _files(self, track: Track) -> dict[str, list[int]]:
        """What the files of a track are recognised by: sizes, of estimates also the times."""
        own = {"": track.path} if not track.files else track.files
        sizes = {name: [path.stat().st_size] for name, path in own.items()}
        ready = self.system.files(track).items()
        return sizes | {f"estimate {name}": [p.stat().st_size, p.stat().st_mtime_ns] for name, p in ready}

    def _say(self, text: str) -> None:
        """A line for the user, on stderr, above the progress bar."""
        if not self.options.quiet:
            tqdm.write(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
