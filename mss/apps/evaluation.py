"""One system on one data set: separate, score, write, and the report of all that is there.

A track is separated while the one before is scored and the one after is read. What is scored is on disk at once, so a run
may be interrupted and gone on with, and several ranks share the tracks without a word to each other: each writes the
report from what it finds, and the last one finds everything.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mss.apps.protocols import PROTOCOLS, arranged, protocols_of, references
from mss.cli import UsageError, background, rank_and_world

if TYPE_CHECKING:
    from torch import Tensor

    from mss.apps.page import Page
    from mss.apps.systems import System
    from mss.data import Audio, Track
    from mss.evaluate import Options
    from mss.metrics.leaderboard import Board, Entry
    from mss.metrics.scores import Results, TrackScores

__all__ = ["Evaluation", "label_of", "tracks_of"]

log = logging.getLogger(__name__)
PUBLISHED = ("sisec2018", "musdb18")  # tables of `mss.metrics.published` that are scored like ours


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


def label_of(data: Path) -> str:
    """The name of a data set: of its folder, with the one above for a subset."""
    data = data.resolve()
    return f"{data.parent.name}/{data.name}" if data.name in ("train", "valid", "test") else data.name


class Evaluation:
    """One system on one data set: its folders, what is done, and what failed."""

    def __init__(self, options: Options, system: System, tracks: Sequence[Track]) -> None:
        from mss.data import common_stems
        from mss.metrics.leaderboard import LOSSY

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
        scoring |= {name: getattr(options, name) for name in ("bits", "peass") if getattr(options, name) is not None}
        if options.bits is None and any(track.lossy for track in tracks):
            scoring["lossy"] = True
            log.warning("%s", LOSSY)
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
        from mss.apps.leaderboard_page import write_leaderboard
        from mss.metrics.leaderboard import leaderboard, markdown, write_summary
        from mss.metrics.scores import read_results

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
        if self.options.page and all(self._done(track) or self._failed(track) for track in self.tracks):
            self._say(str(self._page(boards, remarks, results)))

    def _page(self, boards: Sequence[Board], remarks: Sequence[str], results: Sequence[Results]) -> Page:
        """Writes the report with some tracks of this system to listen to."""
        from mss.apps.paging import evaluated_page, telling

        protocol, targets = list(self.protocols.items())[-1]
        found = next(one.tracks for one in results if (one.system, one.protocol) == (self.system.name, protocol))
        by_name = {track.name: track for track in self.tracks}
        tracks = [(by_name[scores.track], scores) for scores in telling(found) if scores.track in by_name]

        def truth(track: Track, audio: Audio) -> Tensor:
            return references(track, audio, targets, self.expected, self.options.partial)

        path, seconds = self.out / "page.html", self.options.page_seconds
        return evaluated_page(path, boards, remarks, tracks, self.system.name, truth=truth, seconds=seconds)

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
        from mss.metrics.scores import track_medians
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
        from mss.metrics.scores import write_text

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
        import torch

        from mss.metrics.scores import TrackScores, score, write_track

        options, scored = self.options, []
        for protocol, targets in self.protocols.items():
            truth = references(track, audio, targets, self.expected, options.partial)
            y = torch.stack([estimates[name] for name in targets])
            if options.bits is not None:
                truth, y = (_rounded(x, options.bits) for x in (truth, y))
            rules = {"window": options.window, "hop": options.hop, "mode": options.mode}
            rules["peass_seconds"] = options.peass
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
        from mss.metrics.scores import read_track

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
        from mss.metrics.scores import Results, tracks_about

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


def _rounded(signals: Tensor, bits: int) -> Tensor:
    """Signals as a file of so many bits would hold them, float64."""
    return (signals.double() * 2 ** (bits - 1)).round() / 2 ** (bits - 1)


def published_entries(protocol: str, targets: Sequence[str], about: Mapping) -> tuple[list[Entry], list[str]]:
    """Published lines for a board, and why they are not to be compared with yours."""
    from mss.metrics.leaderboard import Entry, Statistic
    from mss.metrics.published import differences, published

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
