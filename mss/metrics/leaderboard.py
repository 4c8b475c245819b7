"""Statistics over the tracks of data sets, and the tables of all systems: as Markdown and CSV.

The statistics are those of the campaigns (F.-R. Stöter, A. Liutkus, N. Ito, "The 2018 Signal Separation Evaluation
Campaign", LVA/ICA 2018): per track the median over its frames, over tracks the median of these. Beside it stand the mean
over tracks, a bootstrap interval (B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, percentiles over
resampled tracks), the SDR of whole tracks, and how many frames had a score at all, because a separator that is silent
in hard passages removes them from everybody's statistics.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from mss.metrics.scores import METRICS, PEASS, WHOLE, Results, write_text

__all__ = [
    "EXPLANATION",
    "LOSSY",
    "Board",
    "Entry",
    "Statistic",
    "board_rows",
    "csv_table",
    "entry",
    "leaderboard",
    "long_table",
    "markdown",
    "number",
    "short_table",
    "statistic",
    "title",
    "track_rows",
    "write_summary",
]


LOSSY = (
    "the references were decoded from a lossy codec and not rounded to 16 bits as the campaigns had them: SIR and SAR "
    "are pulled down by rounding noise above the codec's cut, the SDR is not; evaluate with bits=16"
)


@dataclass(frozen=True)
class Statistic:
    """Of the tracks that have a value: median with its 95 % interval, mean (dB), and their number."""

    median: float
    low: float
    high: float
    mean: float
    tracks: int


@dataclass
class Entry:
    """A line of a leaderboard: target -> metric -> statistic, and what there is to say about it."""

    system: str
    targets: dict[str, dict[str, Statistic]]
    tracks: int
    frames: dict[str, tuple[int, int]] = field(default_factory=dict)  # target -> (with a score, all)
    note: str = ""

    @property
    def mean(self) -> float:
        """The mean over targets of the median SDR, dB: what the board is ordered by."""
        medians = [statistics["SDR"].median for statistics in self.targets.values()]
        return float(np.mean(medians)) if medians else math.nan


def statistic(values: Iterable[float], *, seed: int = 0, resamples: int = 2000) -> Statistic:
    """Median and mean over tracks, without those that have no value, and the bootstrap interval of the median."""
    x = np.array([value for value in values if not math.isnan(value)])
    if not len(x):
        return Statistic(math.nan, math.nan, math.nan, math.nan, 0)
    low = high = math.nan  # of a single track nothing is known
    if len(x) > 1:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(x), (resamples, len(x)), generator=generator).numpy()
        low, high = np.percentile(np.median(x[drawn], axis=1), [2.5, 97.5]).tolist()
    return Statistic(float(np.median(x)), low, high, float(x.mean()), len(x))


def entry(results: Results, *, seed: int = 0) -> Entry:
    """The line of a leaderboard that results give."""
    targets: dict[str, dict[str, list[float]]] = {}
    frames: dict[str, tuple[int, int]] = {}
    for track in results.tracks:
        for target in track.targets:
            columns = targets.setdefault(target.name, {metric: [] for metric in METRICS + WHOLE})
            for metric, value in target.medians().items():
                columns.setdefault(metric, []).append(value)
            valid, total = frames.get(target.name, (0, 0))
            frames[target.name] = valid + target.valid, total + target.frames.shape[1]
    statistics = {
        name: {metric: statistic(values, seed=seed) for metric, values in columns.items()}
        for name, columns in targets.items()
    }
    without = sum(any(not target.valid for target in track.targets) for track in results.tracks)
    notes = [f"{len(results.failed)} failed"] if results.failed else []
    notes += [f"{without} with a target without score"] if without else []
    return Entry(results.system, statistics, len(results.tracks), frames, ", ".join(notes))


def write_summary(results: Results, folder: Path, *, seed: int = 0) -> None:
    """Writes summary.json: statistics, failures, and what the scores depend on."""
    line = entry(results, seed=seed)
    content = {
        "system": results.system,
        "protocol": results.protocol,
        "tracks": line.tracks,
        "targets": {
            name: {
                "frames": dict(zip(("valid", "total"), line.frames[name], strict=True)),
                **{metric: asdict(s) for metric, s in statistics.items()},
            }
            for name, statistics in line.targets.items()
        },
        "failed": results.failed,
        "about": results.about,
    }
    write_text(folder / "summary.json", json.dumps(content, indent=1))


@dataclass
class Board:
    """The systems of one protocol on one data set, the best first, and what a reader must know about them."""

    protocol: str
    data: str
    targets: tuple[str, ...]
    entries: list[Entry]
    results: list[Results]
    warnings: list[str]


def leaderboard(
    results: Sequence[Results], *, seed: int = 0, others: Mapping[str, Sequence[Entry]] | None = None
) -> list[Board]:
    """One board per protocol and data set.

    Args:
        results: of any protocols.
        seed: of the bootstrap.
        others: protocol -> lines from elsewhere, such as published ones; their notes say where they are from.
    """
    groups: dict[tuple[str, str], list[Results]] = {}
    for one in results:
        if one.tracks or one.failed:
            groups.setdefault((one.protocol, one.about.get("data", "")), []).append(one)
    boards = []
    for (protocol, data), group in sorted(groups.items()):
        lines = [entry(one, seed=seed) for one in group]
        targets = tuple(dict.fromkeys(name for line in lines for name in line.targets))
        lines += (others or {}).get(protocol, ())
        lines.sort(key=lambda line: -math.inf if math.isnan(line.mean) else line.mean, reverse=True)
        boards.append(Board(protocol, data, targets, lines, group, _warnings(group)))
    return boards


def _warnings(group: Sequence[Results]) -> list[str]:
    """What makes the lines of a board less comparable than they look."""
    warnings = []
    names = {one.system: {(track.subset, track.track) for track in one.tracks} for one in group}
    every = set().union(*names.values())
    for system, own in names.items():
        if len(own) < len(every):
            warnings.append(f"{system} has {len(own)} of the {len(every)} tracks: its line is over other tracks")
    settings = {one.system: json.dumps(one.about.get("scoring")) for one in group}
    if len(set(settings.values())) > 1:
        warnings.append(f"scored differently: {'; '.join(f'{name} {how}' for name, how in settings.items())}")
    if any(one.about.get("scoring", {}).get("lossy") for one in group):
        warnings.append(LOSSY)
    return warnings


def board_rows(boards: Sequence[Board]) -> Iterable[dict]:
    """One for each system, target and metric."""
    for board in boards:
        for line in board.entries:
            for target, statistics in line.targets.items():
                valid, total = line.frames.get(target, ("", ""))
                for metric, s in statistics.items():
                    yield {
                        "data": board.data,
                        "protocol": board.protocol,
                        "system": line.system,
                        "target": target,
                        "metric": metric,
                        **{name: _cell(value) for name, value in asdict(s).items()},
                        "frames_valid": valid,
                        "frames": total,
                        "note": line.note,
                    }


def track_rows(boards: Sequence[Board]) -> Iterable[dict]:
    """One for each system, track and target."""
    for board in boards:
        for one in board.results:
            about = {"data": board.data, "protocol": board.protocol, "system": one.system}
            for track in one.tracks:
                for target in track.targets:
                    numbers = {metric: _cell(value) for metric, value in target.medians().items()}
                    counts = {"frames_valid": target.valid, "frames": target.frames.shape[1], "note": target.note}
                    yield {**about, "track": track.track, "target": target.name, **numbers, **counts}
            for name, reason in one.failed.items():
                yield {**about, "track": name, "note": f"failed: {reason}"}


def csv_table(rows: Iterable[dict]) -> str:
    """Rows as CSV; the columns are the keys of all of them."""
    rows = list(rows)
    columns = dict.fromkeys(key for row in rows for key in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _cell(value: float) -> float | str:
    if isinstance(value, int):
        return value
    return "" if math.isnan(value) else round(value, 5)


def markdown(boards: Sequence[Board], remarks: Sequence[str] = ()) -> str:
    """The tables as Markdown."""
    parts = []
    for board in boards:
        parts.append(f"## {title(board)}\n")
        for head, rows in (short_table(board), long_table(board)):
            lines = [head, ["---" if name in TEXT else "---:" for name in head], *rows]
            parts.append("\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines) + "\n")
        parts += [f"Warning: {warning}.\n" for warning in board.warnings]
        parts += [
            f"- failed, {one.system}, {name}: {reason}" for one in board.results for name, reason in one.failed.items()
        ]
    return "\n".join([*parts, *remarks, f"{EXPLANATION}\n"])


TEXT = ("system", "target", "note")  # columns without numbers
EXPLANATION = (
    "dB, the median over tracks of the medians over frames, with the 95 % bootstrap interval over tracks where one is "
    "given. Whole-track SDR: energy over energy of the error, median over tracks; uSDR: the same with 1e-7 added, mean "
    "over tracks. Frames: how many had a score; a frame has none if a reference or an estimate is silent in it. OPS, TPS, "
    "IPS, APS: what PEASS predicts of listeners, 0 to 100, of an excerpt of each track, median over tracks."
)


def title(board: Board) -> str:
    """The heading of a board."""
    return f"{board.protocol}: {', '.join(board.targets)}" + (f" ({board.data})" if board.data else "")


def short_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """SDR only, a line for each system."""
    head = ["system", *(f"{name} SDR" for name in board.targets), "mean", "tracks", "note"]
    rows = []
    for line in board.entries:
        cells = [_with_interval(line.targets[t]["SDR"]) if t in line.targets else "–" for t in board.targets]
        rows.append([line.system, *cells, number(line.mean), str(line.tracks or "–"), line.note])
    return head, rows


def long_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Everything, a line for each target and system; published lines have no more than the short table shows."""
    heard = [m for m in PEASS if any(m in s for line in board.entries for s in line.targets.values())]
    head = ["system", "target", *METRICS, "SDR mean", WHOLE[0], WHOLE[1], *heard, "frames"]
    rows = []
    for name in board.targets:
        for line in board.entries:
            if name in line.frames:
                s = line.targets[name]
                numbers = [
                    *(s[metric].median for metric in METRICS),
                    s["SDR"].mean,
                    s[WHOLE[0]].median,
                    s[WHOLE[1]].mean,
                    *(s[metric].median if metric in s else math.nan for metric in heard),
                ]
                frames = "{} of {}".format(*line.frames[name])
                rows.append([line.system, name, *map(number, numbers), frames])
    return head, rows


def number(value: float) -> str:
    """To two digits, and a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def _with_interval(s: Statistic) -> str:
    return number(s.median) if math.isnan(s.low) else f"{s.median:.2f} [{s.low:.2f}, {s.high:.2f}]"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
