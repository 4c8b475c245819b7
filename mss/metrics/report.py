"""Scores of whole data sets: a track's scores with reasons for what has none, statistics, and the files that tell them.

The statistics are those of the campaigns (F.-R. Stöter, A. Liutkus, N. Ito, "The 2018 Signal Separation Evaluation
Campaign", LVA/ICA 2018): per track the median over its frames, over tracks the median of these. Beside it stand the mean
over tracks, a bootstrap interval (B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, percentiles over
resampled tracks), the SDR of whole tracks, and how many frames had a score at all, because a separator that is silent
in hard passages removes them from everybody's statistics.

A *protocol* is a set of targets that were scored together: SIR and SAR depend on all of them, and so does, through
the frames left out as silent, the SDR. Scores of different protocols are never put in one table.

Per-track files have museval's JSON schema, in the folders where its `EvalStore.add_eval_dir` looks for them:

    <out>/<protocol>/<system>/test/<track>.json     read by museval; what is new stands beside what it knows
    <out>/<protocol>/<system>/summary.json          statistics, what failed and why, the settings
    <out>/leaderboard.md .html .csv, tracks.csv     all systems that are found below <out>
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from mss.files import write_whole
from mss.metrics.bss_eval import bss_eval, is_silent
from mss.metrics.sdr import snr, usdr

__all__ = [
    "Entry",
    "Results",
    "Statistic",
    "TargetScores",
    "TrackScores",
    "entry",
    "leaderboard",
    "markdown",
    "read_results",
    "read_track",
    "score",
    "statistic",
    "track_medians",
    "tracks_about",
    "write_leaderboard",
    "write_summary",
    "write_text",
    "write_track",
]

METRICS = ("SDR", "ISR", "SIR", "SAR")  # per frame
WHOLE = ("whole-track SDR", "uSDR")  # per track
MUSEVAL = "0.4.1"  # the version whose numbers these are


@dataclass
class TargetScores:
    """What one target of one track got.

    Args:
        name: of the target.
        frames: (4, k) dB: SDR, ISR, SIR, SAR; NaN where a source is silent.
        sdr: dB, of the whole track; NaN for a silent reference.
        usdr: dB, of the whole track, as the Music Demixing Challenge has it.
        note: why there are fewer numbers than one would think.
        audio: the estimate's file, relative to the folder of the report.
    """

    name: str
    frames: Tensor
    sdr: float
    usdr: float
    note: str = ""
    audio: str = ""

    def medians(self) -> dict[str, float]:
        """The track's value of each metric, dB: medians over the frames that have one."""
        medians = torch.nanquantile(self.frames, 0.5, dim=1).tolist()
        return {**dict(zip(METRICS, medians, strict=True)), WHOLE[0]: self.sdr, WHOLE[1]: self.usdr}

    @property
    def valid(self) -> int:
        """The number of frames with a score."""
        return int(self.frames[0].isfinite().sum())


@dataclass
class TrackScores:
    """The scores of one track.

    Args:
        track: its name.
        subset: "train", "valid", "test" or "".
        targets: those of one protocol.
        window, hop: of the frames, seconds.
        about: JSON-able: everything that the scores depend on.
    """

    track: str
    subset: str
    targets: list[TargetScores]
    window: float
    hop: float
    about: dict = field(default_factory=dict)


@dataclass
class Results:
    """What one system got in one protocol: tracks with scores, and failed ones with the reason."""

    system: str
    protocol: str
    tracks: list[TrackScores]
    failed: dict[str, str]
    about: dict


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


# ---------------------------------------------------------------------------------------------- scores


def score(
    references: Sequence[Tensor],
    estimates: Sequence[Tensor],
    targets: Sequence[str],
    *,
    sample_rate: int,
    window: float = 1.0,
    hop: float = 1.0,
    mode: str = "v4",
) -> list[TargetScores]:
    """Scores the estimates of one track; a target that cannot be scored gets NaN and a note, the others their scores.

    A silent reference adds nothing to the mixture: it is left out, and the others get what they would without it. In the
    place of a silent estimate stands its reference, whose score is dropped: the other scores do not depend on it.

    Args:
        references: n of (c, t).
        estimates: as many.
        targets: their names.
        sample_rate: Hz.
        window, hop: seconds.
        mode: of `bss_eval`.

    Raises:
        ValueError: shapes that differ, or NaN.
    """
    for name, s, y in zip(targets, references, estimates, strict=True):
        if s.shape != y.shape:
            raise ValueError(
                f"{name}: the reference has {s.shape[-1]} samples of {s.shape[0]} channels, the estimate {y.shape[-1]} of "
                f"{y.shape[0]}: make them alike where the estimate comes from"
            )
        if not y.isfinite().all():
            raise ValueError(f"{name}: the estimate holds samples that are not finite numbers")
    references, estimates = torch.stack(list(references)), torch.stack(list(estimates))  # (n, c, t)
    samples = round(window * sample_rate), round(hop * sample_rate)
    silent, mute = is_silent(references), is_silent(estimates)
    count = max(0, (references.shape[-1] - samples[0]) // samples[1]) + 1
    frames = torch.full((len(METRICS), len(targets), count), math.nan, dtype=torch.float64)  # (4, n, k)
    if not silent.all():
        y = torch.where(mute[:, None, None], references, estimates)[~silent]
        scores = bss_eval(references[~silent], y, window=samples[0], hop=samples[1], mode=mode)
        frames[:, ~silent] = torch.stack(scores[:4]).cpu()
        frames[:, mute.cpu()] = math.nan
    whole = zip(*(f(references.double(), estimates.double()).tolist() for f in (snr, usdr)), strict=True)
    short = references.shape[-1] < samples[0]
    return [
        TargetScores(
            name, frames[:, j], sdr, u, _note(frames[:, j], bool(silent[j]), bool(mute[j]), int((~silent).sum()), short)
        )
        for j, (name, (sdr, u)) in enumerate(zip(targets, whole, strict=True))
    ]


def _note(frames: Tensor, silent: bool, mute: bool, sounding: int, short: bool) -> str:
    if silent:
        return "no score: the reference is silent"
    if mute:
        return "no frames: the estimate is silent"
    notes = []
    if short:
        notes.append("shorter than a window: one frame")
    if sounding == 1 and len(frames.T):
        notes.append("no SIR: all other references are silent")
    left_out, perfect = int(frames[0].isnan().sum()), int(frames[0].isinf().sum())
    if left_out:
        notes.append(f"{left_out} of {frames.shape[1]} frames left out: a reference or an estimate is silent in them")
    if perfect:
        notes.append(f"{perfect} frames without any error, stored as NaN like museval does")
    return "; ".join(notes)


# ---------------------------------------------------------------------------------------------- statistics


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
                columns[metric].append(value)
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


def track_medians(results: Results, metric: str = "SDR") -> dict[str, dict[str, float]]:
    """Target -> track -> the track's value of a metric, dB: what paired comparisons are made of."""
    medians: dict[str, dict[str, float]] = {}
    for track in results.tracks:
        for target in track.targets:
            medians.setdefault(target.name, {})[f"{track.subset}/{track.track}"] = target.medians()[metric]
    return medians


# ---------------------------------------------------------------------------------------------- files


def write_track(scores: TrackScores, path: Path) -> None:
    """Writes the scores of a track as museval does, and what it does not know in fields that it skips."""
    targets = []
    for target in scores.targets:
        frames = [
            {
                "time": i * scores.hop,
                "duration": scores.window,
                "metrics": {metric: _stored(value) for metric, value in zip(METRICS, column, strict=True)},
            }
            for i, column in enumerate(target.frames.T.tolist())
        ]
        whole = {WHOLE[0]: target.sdr, WHOLE[1]: target.usdr}
        targets.append(
            {"name": target.name, "frames": frames, "whole": whole, "note": target.note, "audio": target.audio}
        )
    content = {"targets": targets, "museval_version": MUSEVAL, "track": scores.track, "subset": scores.subset}
    write_text(path, json.dumps({**content, "window": scores.window, "hop": scores.hop, "mss": scores.about}, indent=1))


def read_track(path: Path) -> TrackScores:
    """Reads what `write_track` wrote.

    Raises:
        ValueError: another file, or a damaged one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        targets = []
        for target in content["targets"]:
            columns = [[frame["metrics"][metric] for metric in METRICS] for frame in target["frames"]]
            frames = torch.tensor(columns, dtype=torch.float64).reshape(-1, len(METRICS)).T
            whole = (target["whole"][name] for name in WHOLE)
            targets.append(TargetScores(target["name"], frames, *whole, target["note"], target["audio"]))
        return TrackScores(
            content["track"], content["subset"], targets, content["window"], content["hop"], content["mss"]
        )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not the scores of a track as mss writes them, or damaged: {error}") from error


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


def read_results(out: Path) -> list[Results]:
    """The results of all systems below a folder: of each, the tracks that its summary is about.

    Raises:
        ValueError: a damaged file.
    """
    found = []
    for path in sorted(out.glob("*/*/summary.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            system, protocol, failed, about = (content[key] for key in ("system", "protocol", "failed", "about"))
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a summary as mss writes it, or damaged: {error}") from error
        found.append(Results(system, protocol, tracks_about(path.parent, about), failed, about))
    return found


def tracks_about(folder: Path, about: Mapping) -> list[TrackScores]:
    """The scores of tracks in the folder of a system, left out those that were made with other settings."""
    tracks = [read_track(path) for path in sorted(folder.glob("*/*.json")) if not path.name.startswith(".")]
    return [track for track in tracks if all(track.about.get(key) == value for key, value in about.items())]


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _stored(value: float) -> float:
    """As museval rounds: five decimals, and NaN for infinity."""
    return round(value, 5) if math.isfinite(value) else math.nan


# ---------------------------------------------------------------------------------------------- leaderboard


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
    return warnings


def write_leaderboard(boards: Sequence[Board], out: Path, remarks: Sequence[str] = ()) -> None:
    """Writes leaderboard.md, .csv and .html and tracks.csv; remarks are paragraphs below the tables."""
    write_text(out / "leaderboard.md", markdown(boards, remarks))
    write_text(out / "leaderboard.csv", _csv(_board_rows(boards)))
    write_text(out / "tracks.csv", _csv(_track_rows(boards)))
    write_text(out / "leaderboard.html", page(boards, remarks))


def _board_rows(boards: Sequence[Board]) -> Iterable[dict]:
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


def _track_rows(boards: Sequence[Board]) -> Iterable[dict]:
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


def _csv(rows: Iterable[dict]) -> str:
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
        parts.append(f"## {_title(board)}\n")
        for head, rows in (_short_table(board), _long_table(board)):
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
    "over tracks. Frames: how many had a score; a frame has none if a reference or an estimate is silent in it."
)


def _title(board: Board) -> str:
    return f"{board.protocol}: {', '.join(board.targets)}" + (f" ({board.data})" if board.data else "")


def _short_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """SDR only, a line for each system."""
    head = ["system", *(f"{name} SDR" for name in board.targets), "mean", "tracks", "note"]
    rows = []
    for line in board.entries:
        cells = [_with_interval(line.targets[t]["SDR"]) if t in line.targets else "–" for t in board.targets]
        rows.append([line.system, *cells, _number(line.mean), str(line.tracks or "–"), line.note])
    return head, rows


def _long_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Everything, a line for each target and system; published lines have no more than the short table shows."""
    head = ["system", "target", *METRICS, "SDR mean", WHOLE[0], WHOLE[1], "frames"]
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
                ]
                frames = "{} of {}".format(*line.frames[name])
                rows.append([line.system, name, *map(_number, numbers), frames])
    return head, rows


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _with_interval(s: Statistic) -> str:
    return _number(s.median) if math.isnan(s.low) else f"{s.median:.2f} [{s.low:.2f}, {s.high:.2f}]"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# ---------------------------------------------------------------------------------------------- page


def page(boards: Sequence[Board], remarks: Sequence[str] = ()) -> str:
    """One HTML page that needs nothing but itself, and the estimates if there are any to listen to."""
    body = "\n".join(_section(board) for board in boards)
    said = "".join(f"<p>{html.escape(remark)}</p>\n" for remark in remarks)
    return PAGE.format(style=STYLE, body=body, remarks=said, explanation=html.escape(EXPLANATION), script=SCRIPT)


def _section(board: Board) -> str:
    parts = [f"<section><h2>{html.escape(_title(board))}</h2>"]
    parts += [f'<p class="warning">Warning: {html.escape(warning)}.</p>' for warning in board.warnings]
    parts.append(_table(*_short_table(board)))
    parts.append(f"<h3>SDR of each track</h3>{_legend(board)}<div class='plots'>")
    parts += [_box_plots(board, target) for target in board.targets]
    parts.append("</div><h3>All measures</h3>")
    parts.append(_table(*_long_table(board)))
    failed = [(one.system, name, reason) for one in board.results for name, reason in one.failed.items()]
    if failed:
        items = (
            f"<li><b>{html.escape(name)}</b> ({html.escape(system)}): {html.escape(why)}</li>"
            for system, name, why in failed
        )
        parts.append(f'<h3>Failed</h3><ul class="warning">{"".join(items)}</ul>')
    parts.append("<h3>Tracks, the worst first</h3>")
    parts += _track_tables(board)
    return "\n".join([*parts, "</section>"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that sorts; a cell sorts by the number that it begins with."""
    return _html_table(head, [[html.escape(cell) for cell in row] for row in rows])


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not any(row[-1] for row in rows):  # nothing to note
        head, rows = head[:-1], [row[:-1] for row in rows]
    top = "".join(f'<th><button type="button">{html.escape(name)}</button></th>' for name in head)
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _track_tables(board: Board) -> Iterable[str]:
    """For each system, the best first, its tracks by their mean SDR, with a player for each estimate that was kept."""
    order = {line.system: i for i, line in enumerate(board.entries) if line.frames}
    for i, one in enumerate(sorted(board.results, key=lambda one: order.get(one.system, len(order)))):
        rows = []
        for track in one.tracks:
            values = {target.name: target.medians()["SDR"] for target in track.targets}
            mean = float(np.mean(list(values.values())))
            numbers = [
                _number(values[name]) + _player(track, name) if name in values else "–" for name in board.targets
            ]
            notes = "; ".join(f"{target.name}: {target.note}" for target in track.targets if target.note)
            cells = [html.escape(track.track), _number(mean), *numbers, html.escape(notes)]
            rows.append((-math.inf if math.isnan(mean) else mean, cells))
        rows.sort(key=lambda row: row[0])
        table = _html_table(["track", "mean SDR", *board.targets, "note"], [cells for _, cells in rows])
        yield f"<details{'' if i else ' open'}><summary>{html.escape(one.system)}</summary>{table}</details>"


def _player(track: TrackScores, name: str) -> str:
    audio = next((target.audio for target in track.targets if target.name == name), "")
    if not audio:
        return ""
    label = html.escape(f"{name} of {track.track}", quote=True)
    return f'<br><audio controls preload="none" aria-label="{label}" src="{quote(audio)}"></audio>'


def _legend(board: Board) -> str:
    return (
        '<p class="legend">A dot is a track (its name appears under the pointer), the box holds the middle half, the line in '
        "it is the median, the whiskers reach over all tracks.</p>"
        if any(one.tracks for one in board.results)
        else ""
    )


def _box_plots(board: Board, target: str) -> str:
    """Box plots of the tracks' SDR, one for each system, as SVG."""
    order = {line.system: i for i, line in enumerate(board.entries) if line.frames}
    data = {}
    for one in sorted(board.results, key=lambda one: order.get(one.system, len(order))):
        scores = [(t.track, s.medians()["SDR"]) for t in one.tracks for s in t.targets if s.name == target]
        data[one.system] = [(name, value) for name, value in scores if math.isfinite(value)]
    values = [value for pairs in data.values() for _, value in pairs]
    if not values:
        return ""
    left, width, row, top = 130, 500, 28, 28
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if (max(values) - min(values)) / s <= 8 or s == 100)
    low, high = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
    high = high if high > low else low + step

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (width - left - 20), 1)

    bottom = top + row * len(data)
    parts = [f'<text x="{left}" y="16" class="name">{html.escape(target)}, SDR in dB</text>']
    for tick in range(low, high + 1, step):
        parts.append(f'<line class="grid" x1="{x(tick)}" y1="{top}" x2="{x(tick)}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 16}">{tick}</text>')
    for i, (system, pairs) in enumerate(data.items()):
        y = top + row * i + row / 2
        label = system if len(system) <= 20 else system[:19] + "…"
        parts.append(f'<text class="label" x="{left - 10}" y="{y + 4}">{html.escape(label)}</text>')
        if pairs:
            a, q1, q2, q3, b = (x(q) for q in np.percentile([value for _, value in pairs], [0, 25, 50, 75, 100]))
            parts.append(f'<line class="whisker" x1="{a}" y1="{y}" x2="{b}" y2="{y}"/>')
            parts.append(f'<rect class="box" x="{q1}" y="{y - 8}" width="{max(q3 - q1, 1):.1f}" height="16"/>')
            parts.append(f'<line class="median" x1="{q2}" y1="{y - 8}" x2="{q2}" y2="{y + 8}"/>')
        for name, value in pairs:
            title = html.escape(f"{name}: {value:.2f} dB")
            parts.append(f'<circle cx="{x(value)}" cy="{y}" r="3"><title>{title}</title></circle>')
    label = html.escape(f"Box plots of the SDR of {target}", quote=True)
    return f'<svg viewBox="0 0 {width} {bottom + 24}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881;
  --accent: light-dark(#1f6feb, #6cb0ff); --bad: light-dark(#b3261e, #ff8a80); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; min-width: 7rem; }
th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tbody tr:hover { background: var(--soft); }
.warning { color: var(--bad); } .legend, footer { opacity: .75; font-size: .9em; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: .5rem 1.5rem; }
svg { width: 100%; font-size: 12px; fill: currentColor; }
svg .name { font-weight: 600; } svg .label { text-anchor: end; } svg .tick { text-anchor: middle; opacity: .7; }
svg .grid { stroke: var(--line); } svg .whisker { stroke: var(--accent); stroke-width: 1.5; }
svg .box { fill: var(--accent); fill-opacity: .25; stroke: var(--accent); }
svg .median { stroke: var(--accent); stroke-width: 3; }
svg circle { fill: currentColor; fill-opacity: .55; }
audio { width: 12rem; height: 2rem; margin-top: .2rem; }
summary { cursor: pointer; padding: .3rem 0; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const number = cell => { const x = parseFloat(cell.textContent.replace("\\u2212", "-")); return isNaN(x) ? null : x; };
  heads.forEach((head, i) => {
    const cells = [...body.rows].map(row => row.cells[i]);
    const text = !cells.some(cell => /^[-\\d]/.test(cell.textContent)) || i === 0;
    if (text) [head, ...cells].forEach(cell => cell.classList.add("text"));
    head.firstChild.addEventListener("click", () => {
      const up = head.ariaSort === "descending" || (text && head.ariaSort !== "ascending");
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.ariaSort = up ? "ascending" : "descending";
      const compare = (a, b) => {
        if (text) return a.cells[i].textContent.localeCompare(b.cells[i].textContent) * (up ? 1 : -1);
        const [x, y] = [number(a.cells[i]), number(b.cells[i])];
        return x === null ? (y === null ? 0 : 1) : y === null ? -1 : (x - y) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Separation scores</title>
<style>{style}</style>
</head>
<body>
<h1>Separation scores</h1>
{body}
{remarks}<footer><p>{explanation} A click on the head of a column sorts by it.</p></footer>
<script>{script}</script>
</body>
</html>
"""
