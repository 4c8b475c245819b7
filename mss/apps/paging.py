"""The pages of the verbs: which sounds are on them, and what is said."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mss.apps import leaderboard_page
from mss.apps.balance import Balance, weights
from mss.apps.jobs import Job
from mss.apps.page import SOURCE, Page, Song, Sound, save, song_html, write_page
from mss.apps.separation import Report
from mss.audio import write
from mss.data import Audio, Track
from mss.metrics.leaderboard import Board
from mss.metrics.scores import TrackScores

__all__ = ["evaluated_page", "remixed_page", "separated_page", "telling"]

MIXTURE = "mixture"


def separated_page(
    report: Report, path: Path, *, model: str, seconds: float, excerpt: tuple[float, float | None] = (0.0, None)
) -> Page:
    """Writes the page of a song that was separated.

    Args:
        report: of the separation; its files are there.
        path: of the page.
        model: what separated it, for the reader.
        seconds: the most of the song that is heard.
        excerpt: of the song that was separated, as of `separate_file`.
    """
    start, duration = excerpt
    song = Sound(MIXTURE, report.source, part=False, muted=True, start=start, note="the song, as it was")
    stems = [Sound(name, file) for name, file in report.outputs.items()]
    lowered = "" if report.gain == 1 else f" All stems are lowered to {report.gain:.3f} of what they were."
    about = f"Separated by python -m mss.separate with {model}.{lowered}"
    made = Song(report.source.name, [song, *stems], about, duration, seconds)
    return write_page(path, [made], title=f"{report.source.name}: its stems")


def remixed_page(
    job: Job, path: Path, remix: Path, song: Path | None, stems: Mapping[str, Path], *, balance: Balance, seconds: float
) -> Page:
    """Writes the page of a song at another balance: the remix, the song, and the stems as they are set in the remix.

    Args:
        job: of the remix.
        path: of the page.
        remix: the new song, wherever it is now.
        song: None: there are only stems.
        stems: none where nothing was changed but the loudness.
        balance: what was asked for.
        seconds: the most of the song that is heard.
    """
    sounds = [] if song is None else [Sound(MIXTURE, song, part=False, muted=True, note="the song, as it was")]
    sounds.append(Sound("remix", remix, part=False))
    factors = weights(balance, tuple(stems), rest=song is not None, where="the song") if stems else {}
    for name, file in stems.items():
        left, right = factors[name]
        mean = math.sqrt((left**2 + right**2) / 2)
        note = "as separated; its gain is that of the remix" + ("" if left == right else ", its place is not")
        sounds.append(Sound(name, file, muted=True, gain=20 * math.log10(max(mean, 0.01)), note=note))
    name = job.source.name
    about = "Remixed by python -m mss.remix. For a balance of your own mute the remix and let the stems sound."
    return write_page(path, [Song(name, sounds, about, None, seconds)], title=f"{name}: its remix")


def telling(tracks: Sequence[TrackScores]) -> list[TrackScores]:
    """The worst, the middle and the best of the tracks that have an SDR, by its mean over the targets; each once."""
    scored = [(_mean_sdr(track), i) for i, track in enumerate(tracks)]
    order = [i for sdr, i in sorted(scored) if math.isfinite(sdr)]
    chosen = dict.fromkeys((order[0], order[len(order) // 2], order[-1])) if order else ()
    return [tracks[i] for i in chosen]


def evaluated_page(
    path: Path,
    boards: Sequence[Board],
    remarks: Sequence[str],
    tracks: Sequence[tuple[Track, TrackScores]],
    system: str,
    *,
    truth: Callable[[Track, Audio], Tensor],
    seconds: float,
) -> Page:
    """Writes the leaderboard with tracks to listen to.

    Args:
        path: of the page; the files of the estimates are named from its folder on.
        boards, remarks: as of `leaderboard_page.page`.
        tracks: to listen to; those of which no estimates are kept are left out.
        system: that they are estimates of.
        truth: the references (n, c, t) of a track, in the order of its scores.
        seconds: the most of each that is heard.
    """
    songs = []
    for track, scores in tracks:
        if not all(target.audio and (path.parent / target.audio).is_file() for target in scores.targets):
            continue
        audio = track.load()
        with tempfile.TemporaryDirectory() as folder:
            sounds = [_stored("mixture", audio.mixture, audio.sample_rate, Path(folder), muted=True)]
            for target, reference in zip(scores.targets, truth(track, audio), strict=True):
                note = f"SDR {target.medians()['SDR']:.2f} dB"
                sounds.append(Sound(target.name, path.parent / target.audio, note=note))
                name = f"{target.name}, reference"
                sounds.append(_stored(name, reference, audio.sample_rate, Path(folder), muted=True))
            about = f"Estimates of {system}, mean SDR {_mean_sdr(scores):.2f} dB, with the references to compare."
            songs.append(song_html(Song(scores.track, sounds, about, seconds=seconds), len(songs)))
    remarks = [*remarks, *([SOURCE] if songs else [])]
    return save(path, leaderboard_page.page(boards, remarks, songs=songs, link=False))


def _mean_sdr(track: TrackScores) -> float:
    values = [target.medians()["SDR"] for target in track.targets]
    return sum(values) / len(values) if values else math.nan


def _stored(name: str, x: Tensor, rate: int, folder: Path, *, muted: bool) -> Sound:
    """A waveform (c, t) as a sound of its own in a folder."""
    path = folder / f"{len(list(folder.iterdir()))}.wav"
    write(path, x.float(), rate)
    return Sound(name, path, part=False, muted=muted)
