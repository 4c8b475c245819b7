"""Scores of every track inside a checkpoint: what `mss.evaluate` wrote, put into its header, shown, and written out again.

In the header, under "scores", protocol by protocol:

    {"4-source": {"system": name, "about": {...}, "failed": {track: why}, "tracks": [
        {"track": name, "subset": "test", "window": 1.0, "hop": 1.0, "about": {...}, "targets": [
            {"name": "vocals", "frames": [[SDR of each frame], [ISR], [SIR], [SAR]], "whole": {metric: value}, "note": ""}]}]}}

Numbers are those of museval's JSON, dB, five decimals; null where a frame has none. With medians only, each track is one
frame as long as all of them, which has the same medians.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mss.metrics.leaderboard import write_summary
from mss.metrics.scores import METRICS, WHOLE, Results, TargetScores, TrackScores, tracks_about, write_track

__all__ = ["ScoresError", "Table", "packed", "tables", "unpack", "unpacked"]


class ScoresError(ValueError):
    """Scores that are not there, not of this checkpoint, or not what mss writes."""


class Table(NamedTuple):
    """What is shown of scores; the first column is text, the others are dB."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


def packed(folder: Path, digest: str, *, medians: bool = False, force: bool = False) -> dict[str, Any]:
    """The scores of one system below a folder, as they go into a header.

    Args:
        folder: of a system (`<out>/<protocol>/<system>`), or any above it; of those systems below that are this
            checkpoint, each protocol is taken.
        digest: of the checkpoint.
        medians: keep one number for each metric of a track, not one for each frame.
        force: take scores that do not say which checkpoint they are of.

    Raises:
        ScoresError: there are none of this checkpoint, or two of one protocol.
    """
    found: dict[str, Any] = {}
    others = []
    for path in sorted(folder.rglob("summary.json")):
        results = _summary(path)
        revision = results.about["system"].get("revision")
        if revision != digest and not (force and not revision):
            others.append(f"{path.parent} ({results.about['system'].get('source')})")
            continue
        if results.protocol in found:
            raise ScoresError(f"{folder}: two sets of scores, {results.protocol}: name the folder of one system")
        if not results.tracks:
            raise ScoresError(f"{path.parent}: no track was scored")
        found[results.protocol] = _as_header(results, medians)
    if not found:
        hint = f"there are {', '.join(others[:3])}" if others else "mss.evaluate writes them"
        raise ScoresError(f"{folder}: no scores of this checkpoint: {hint}")
    return found


def unpacked(scores: Any) -> list[Results]:
    """The scores in a header.

    Raises:
        ScoresError: not as `packed` makes them; a header is somebody else's.
    """
    try:
        return [_from_header(_name(protocol), one) for protocol, one in (scores or {}).items()]
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
        raise ScoresError(f"the scores in it are not as mss writes them: {' '.join(str(error).split())}") from error


def unpack(scores: Any, out: Path) -> list[Path]:
    """Writes the scores in a header as `mss.evaluate` does; returns the files.

    Raises:
        ScoresError: see `unpacked`; or there is such a folder already.
    """
    written = []
    for results in unpacked(scores):
        folder = out / results.protocol / results.system
        if folder.exists():
            raise ScoresError(f"{folder}: is there already: take another folder")
        for track in results.tracks:
            written.append(folder / (track.subset or "test") / f"{track.track}.json")
            write_track(track, written[-1])
        write_summary(results, folder)
    return written


def tables(scores: Any) -> Iterator[Table]:
    """Of each protocol, medians over the tracks of all metrics, and the SDR of each track."""
    for results in unpacked(scores):
        by_track = [{target.name: target.medians() for target in track.targets} for track in results.tracks]
        names = list(dict.fromkeys(name for scores in by_track for name in scores))
        metrics = [*METRICS, *WHOLE]
        what = f"{results.about.get('data', 'data not stated')}, {results.protocol}"
        count = f"{len(by_track)} track{'s' * (len(by_track) != 1)}"
        rows = [
            [name, *(_median([scores[name][metric] for scores in by_track if name in scores]) for metric in metrics)]
            for name in names
        ]
        yield Table(f"{what}: medians of {count}, dB", ["target", *metrics], rows)
        rows = [
            [track.track, *(scores[name]["SDR"] if name in scores else math.nan for name in names)]
            for track, scores in zip(results.tracks, by_track, strict=True)
        ]
        rows += [[f"{track} (failed)", *[math.nan] * len(names)] for track in results.failed]
        yield Table(f"{what}: SDR of each track, median over its frames, dB", ["track", *names], rows)


def _summary(path: Path) -> Results:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        system, protocol, failed, about = (content[key] for key in ("system", "protocol", "failed", "about"))
        tracks = tracks_about(path.parent, about)
        about["system"].get("revision")
    except (KeyError, TypeError, AttributeError, ValueError, OSError, RecursionError) as error:
        raise ScoresError(f"{path}: not a summary as mss.evaluate writes it, or damaged: {error}") from error
    return Results(system, protocol, tracks, failed, about)


def _as_header(results: Results, medians: bool) -> dict[str, Any]:
    system = results.about["system"]
    option, _, source = str(system.get("source", "")).partition("=")
    about = {**results.about, "system": {**system, "source": f"{option}={Path(source).name}"}}  # not whose folders
    tracks = []
    for track in results.tracks:
        targets, window = [], track.window
        for target in track.targets:
            frames = target.frames
            if medians:
                window = max(window, track.window + track.hop * (frames.shape[1] - 1))
                frames = torch.nanquantile(frames, 0.5, dim=1, keepdim=True)
            whole = {WHOLE[0]: target.sdr, WHOLE[1]: target.usdr, **target.peass}
            targets.append({
                "name": target.name,
                "frames": [[_number(x) for x in row] for row in frames.tolist()],
                "whole": {name: _number(x) for name, x in whole.items()},
                "note": target.note,
            })  # fmt: skip
        own = {key: value for key, value in track.about.items() if key not in results.about}
        known = {"track": track.track, "subset": track.subset, "window": window, "hop": track.hop}
        tracks.append({**known, "about": own, "targets": targets})
    return {"system": results.system, "about": about, "failed": results.failed, "tracks": tracks}


def _from_header(protocol: str, one: Mapping[str, Any]) -> Results:
    tracks = []
    for track in one["tracks"]:
        targets = []
        for target in track["targets"]:
            frames = torch.tensor([[_float(x) for x in row] for row in target["frames"]], dtype=torch.float64)
            if frames.ndim != 2 or len(frames) != len(METRICS):
                raise ValueError(f"frames of {tuple(frames.shape)}, not ({len(METRICS)}, k)")
            whole = {str(name): _float(x) for name, x in target["whole"].items()}
            sdr, usdr = (whole.pop(name) for name in WHOLE)
            targets.append(TargetScores(str(target["name"]), frames, sdr, usdr, str(target["note"]), peass=whole))
        own = {**_dict(one["about"]), **_dict(track["about"])}
        subset = _name(track["subset"]) if track["subset"] else ""
        tracks.append(
            TrackScores(_name(track["track"]), subset, targets, _float(track["window"]), _float(track["hop"]), own)
        )
    failed = {str(name): str(why) for name, why in one["failed"].items()}
    return Results(_name(one["system"]), protocol, tracks, failed, _dict(one["about"]))


def _name(value: Any) -> str:
    """What becomes a part of a path."""
    if not isinstance(value, str) or not 0 < len(value) < 250 or value in (".", "..") or re.search(r"[/\\]", value):
        raise ValueError(f"{str(value)[:80]!r} cannot be the name of a file")
    if not value.isprintable():
        raise ValueError("a name that cannot be printed")
    return value


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__} in the place of facts")
    return value


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).nanquantile(0.5)) if values else math.nan
