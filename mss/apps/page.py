"""One HTML file to hear and see a song and its stems: players, waveforms, spectrograms, and the figures of Cano et al. 2019.

Nothing is loaded from anywhere, so the file can be sent as it is. The sound in it is MP3, which every browser decodes, and
of long songs the loudest part, as it would not be small else.
"""

from __future__ import annotations

import html
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mss.apps import drawing, figures, pictures
from mss.apps.options import PAGE_SECONDS
from mss.apps.pages import data_uri, document, fill
from mss.audio import AudioError, Encoding, Reader, read, resample, write
from mss.files import write_whole
from mss.layouts import LAYOUTS, downmix_gains

__all__ = ["Page", "Song", "Sound", "song_html", "write_page"]

BITRATE = 64_000  # bit/s of each channel
MP3_RATES, RATE = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 44100  # RATE: of what has another
STYLES, SCRIPTS = ("base.css", "song.css"), ("player.js", "song.js")
SOURCE = (
    "Figures after E. Cano, D. FitzGerald, A. Liutkus, M. D. Plumbley, F.-R. Stöter, “Musical Source Separation: An "
    "Introduction”, IEEE Signal Processing Magazine 36(1), 2019, doi:10.1109/MSP.2018.2874719."
)


@dataclass(frozen=True)
class Sound:
    """A row of a page.

    Args:
        name: text, of any kind.
        path: audio file.
        part: one of the sources that the figures are made of; not, for example, the song.
        muted: at first.
        gain: dB at first, -40 (which is silence) to 12.
        start: where in the file the song begins, seconds.
        note: text below the name.
    """

    name: str
    path: Path
    part: bool = True
    muted: bool = False
    gain: float = 0.0
    start: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Song:
    """A section of a page: the first sound is the whole, or any that lasts as long.

    Args:
        name: text.
        sounds: of one sample rate, number of channels and length; the first says which part of a long song is shown.
        about: text above the players.
        duration: of the song, from its start, seconds; None: to the end.
        seconds: the most that is shown and heard.
    """

    name: str
    sounds: Sequence[Sound]
    about: str = ""
    duration: float | None = None
    seconds: float = PAGE_SECONDS


@dataclass(frozen=True)
class Page:
    """A page that was written."""

    path: Path
    size: int

    def __str__(self) -> str:
        return f"page: {self.path} ({self.size / 1e6:.1f} MB)"


@torch.no_grad()
def write_page(path: Path, songs: Sequence[Song], *, title: str) -> Page:
    """Writes a page of songs; the file is there when it is whole.

    Raises:
        AudioError: a sound cannot be read, or they do not fit together.
        OSError: the file cannot be written.
    """
    made = [song_html(song, index, heading=len(songs) > 1) for index, song in enumerate(songs)]
    body = f"<h1>{html.escape(title)}</h1>\n" + "\n".join(body for body, _ in made) + f'\n<p class="faint">{SOURCE}</p>'
    text = document(title, body, styles=STYLES, scripts=SCRIPTS, data={"songs": [data for _, data in made]})
    return save(path, text)


def save(path: Path, text: str) -> Page:
    """Writes a page that is put together."""
    data = text.encode("utf-8", "replace")  # a file name may hold bytes that are no characters
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    return Page(path, len(data))


def song_html(song: Song, index: int = 0, *, heading: bool = True) -> tuple[str, dict[str, Any]]:
    """A section as HTML, and what its script is told, an entry of the list "songs" of `document`'s data."""
    waveforms, rate, cut = _waveforms(song)
    seconds = waveforms[0].shape[-1] / rate
    axes = figures.Axes(rate, waveforms[0].shape[-1])
    parts = [i for i, sound in enumerate(song.sounds) if sound.part]
    colours = {i: figures.colour(n) for n, i in enumerate(parts)}
    powers = [figures.power(x, axes) for x in waveforms]
    top = max(float(p.max()) for p in powers)
    peak = max(float(x.abs().max()) for x in waveforms) or 1.0
    rows, told = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i, (sound, x) in enumerate(zip(song.sounds, waveforms, strict=True)):
            gain = min(12.0, max(-40.0, sound.gain))
            own = colours.get(i, "#8c96a3")
            name = html.escape(sound.name)
            wave = drawing.wave_svg(figures.extremes(x / peak, axes.columns), f"Waveform of {sound.name}", own)
            rows.append(
                fill(
                    "row.html",
                    name=name,
                    colour=own,
                    note=html.escape(sound.note),
                    muted=str(sound.muted).lower(),
                    gain=f"{gain:g}",
                    wave=wave,
                    picture=drawing.heat_image(figures.levels(powers[i], top)),
                    frequencies=pictures.frequencies(axes),
                )
            )
            told.append({"audio": _encoded(x, rate, Path(folder))})
    shown = (
        "all of it" if cut is None else f"the loudest {_clock(cut[1])}, from {_clock(cut[0])} on, of {_clock(cut[2])}"
    )
    listening = (
        f"Heard and shown: {shown}. The sound of this page is MP3; the files themselves are not changed by it. Space plays, "
        "arrows move by 5 s, a click on a picture goes there, a stroke over it makes a loop."
    )
    names = {i: song.sounds[i].name for i in parts}
    shown_below = [
        pictures.dominance_figure(names, colours, [powers[i] for i in parts], axes),
        pictures.panning_figure(song.sounds[0].name, waveforms[0], names, colours, [waveforms[i] for i in parts]),
        pictures.nmf_figure(song.sounds[0].name, powers[0], axes),
    ]
    body = fill(
        "song.html",
        index=str(index),
        name=html.escape(song.name),
        heading=f"<h2>{html.escape(song.name)}</h2>" if heading else "",
        about=f"{html.escape(song.about)} {listening}",
        seconds=f"{seconds:.3f}",
        rows="\n".join(rows),
        times=pictures.times(seconds),
        spectrogram_caption="Figure 2, after Cano et al. 2019: the waveform of each sound, and its spectrogram with the "
        "frequency on a logarithmic axis, the loudest 70 dB from dark to light.",
        figures="\n".join(filter(None, shown_below)),
    )
    return body, {"rate": rate if rate in MP3_RATES else RATE, "seconds": seconds, "rows": told}


def _waveforms(song: Song) -> tuple[list[Tensor], int, tuple[float, float, float] | None]:
    """The sounds (c, t), one or two channels each, their rate, and begin, length and whole where it is not all, seconds."""
    first = song.sounds[0]
    with Reader(first.path, start=first.start, duration=song.duration) as reader:
        begin, length, whole = figures.loudest(reader, song.seconds)
    cut = None if length is None else (first.start + begin, length, whole)
    found = []
    for sound in song.sounds:
        x, rate = read(sound.path, start=sound.start + begin, duration=song.duration if length is None else length)
        if found and (rate != found[0][1] or abs(x.shape[-1] - found[0][0].shape[-1]) > 0.1 * rate):
            raise AudioError(
                f"{sound.path} is not of the rate and length of {first.path}: a page needs sounds that are played together"
            )
        found.append((_front(x), rate))
    samples = min(x.shape[-1] for x, _ in found)  # a lossy codec may pad its last frame
    return [x[:, :samples] for x, _ in found], found[0][1], cut


def _front(x: Tensor) -> Tensor:
    """Two channels of more, mixed as ITU-R BS.775 has it where the layout is a usual one, else one."""
    if len(x) <= 2:
        return x
    layout = next((name for name, channels in LAYOUTS.items() if len(channels) == len(x)), None)
    return x.mean(0, keepdim=True) if layout is None else torch.tensor(downmix_gains(layout)) @ x


def _encoded(x: Tensor, rate: int, folder: Path) -> str:
    """A sound as a data URI."""
    if rate not in MP3_RATES:
        x, rate = resample(x, rate, RATE), RATE
    path = folder / "sound.mp3"
    bitrate = len(x) * (BITRATE if rate >= 32000 else BITRATE // 2)
    write(path, x, rate, encoding=Encoding("mp3", bitrate=bitrate))
    return data_uri(path.read_bytes(), "mp3")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    return f"{minutes}:{rest:02d}"
