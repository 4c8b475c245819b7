"""Scores of the tracks of a data set, with reasons for what has none, and the files that hold them.

A *protocol* is a set of targets that were scored together: SIR and SAR depend on all of them, and so does, through
the frames left out as silent, the SDR. Scores of different protocols are never put in one table.

Per-track files have museval's JSON schema, in the folders where its `EvalStore.add_eval_dir` looks for them:

    <out>/<protocol>/<system>/test/<track>.json     read by museval; what is new stands beside what it knows
    <out>/<protocol>/<system>/summary.json          statistics, what failed and why, the settings
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mss.files import write_whole
from mss.metrics.bss_eval import bss_eval, is_silent
from mss.metrics.peass import peass
from mss.metrics.sdr import snr, usdr

__all__ = [
    "METRICS",
    "PEASS",
    "WHOLE",
    "Results",
    "TargetScores",
    "TrackScores",
    "read_results",
    "read_track",
    "score",
    "track_medians",
    "tracks_about",
    "write_text",
    "write_track",
]

METRICS = ("SDR", "ISR", "SIR", "SAR")  # per frame
WHOLE = ("whole-track SDR", "uSDR")  # per track
PEASS = ("OPS", "TPS", "IPS", "APS")  # of an excerpt, if asked for
MUSEVAL = "0.4.1"  # the version whose numbers these are


@dataclass
class TargetScores:
    """What one target of one track got.

    Args:
        name: of the target.
        frames: (4, k) dB: SDR, ISR, SIR, SAR; NaN where a source is silent.
        sdr: dB, of the whole track; NaN for a silent reference.
        usdr: dB, of the whole track, as the Music Demixing Challenge has it.
        peass: OPS, TPS, IPS and APS, 0 to 100, of an excerpt; empty where it was not asked for.
        note: why there are fewer numbers than one would think.
        audio: the estimate's file, relative to the folder of the report.
    """

    name: str
    frames: Tensor
    sdr: float
    usdr: float
    note: str = ""
    audio: str = ""
    peass: dict[str, float] = field(default_factory=dict)

    def medians(self) -> dict[str, float]:
        """The track's value of each metric, dB (PEASS: 0 to 100): medians over the frames that have one."""
        # as files have it: a frame without any error has no number
        frames = self.frames.masked_fill(~self.frames.isfinite(), torch.nan)
        medians = torch.nanquantile(frames, 0.5, dim=1).tolist()
        return {**dict(zip(METRICS, medians, strict=True)), WHOLE[0]: self.sdr, WHOLE[1]: self.usdr, **self.peass}

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


def score(
    references: Sequence[Tensor],
    estimates: Sequence[Tensor],
    targets: Sequence[str],
    *,
    sample_rate: int,
    window: float = 1.0,
    hop: float = 1.0,
    mode: str = "v4",
    peass_seconds: float | None = None,
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
        peass_seconds: length of the excerpt that PEASS is to hear, too: the loudest of the mixture.

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
    heard = [{} for _ in targets]
    if peass_seconds is not None:
        own = _loudest(references.sum(0), round(peass_seconds * sample_rate))
        columns = [x.tolist() for x in peass(references[..., own], estimates[..., own], sample_rate)]
        heard = [dict(zip(PEASS, row, strict=True)) for row in zip(*columns, strict=True)]
    short = references.shape[-1] < samples[0]
    notes = [
        _note(frames[:, j], bool(silent[j]), bool(mute[j]), int((~silent).sum()), short) for j in range(len(targets))
    ]
    return [
        TargetScores(name, frames[:, j], sdr, u, notes[j], peass=heard[j])
        for j, (name, (sdr, u)) in enumerate(zip(targets, whole, strict=True))
    ]


def _loudest(mixture: Tensor, length: int) -> slice:
    """Where the excerpt of `length` samples with the most energy is, of (c, t); all of a shorter track."""
    energy = torch.nn.functional.pad(mixture.double().square().sum(0).cumsum(0), (1, 0))  # (t + 1,)
    if length >= mixture.shape[-1]:
        return slice(None)
    start = int((energy[length:] - energy[:-length]).argmax())
    return slice(start, start + length)


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


def track_medians(results: Results, metric: str = "SDR") -> dict[str, dict[str, float]]:
    """Target -> track -> the track's value of a metric, dB: what paired comparisons are made of."""
    medians: dict[str, dict[str, float]] = {}
    for track in results.tracks:
        for target in track.targets:
            medians.setdefault(target.name, {})[f"{track.subset}/{track.track}"] = target.medians()[metric]
    return medians


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
        whole = {WHOLE[0]: target.sdr, WHOLE[1]: target.usdr, **target.peass}
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
            heard = {name: target["whole"][name] for name in PEASS if name in target["whole"]}
            targets.append(TargetScores(target["name"], frames, *whole, target["note"], target["audio"], heard))
        return TrackScores(
            content["track"], content["subset"], targets, content["window"], content["hop"], content["mss"]
        )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not the scores of a track as mss writes them, or damaged: {error}") from error


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
