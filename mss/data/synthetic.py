"""Endless multitrack songs from MIDI files or from rules, a SoundFont, and a voice: for tests and for pre-training.

A song is a pure function of (seed, number): its notes, who plays them, and how each stem was recorded, with an equaliser,
compressor, room and level of its own. Levels are those of real stems, measured over MUSDB18's kind of music: RMS -24 dBFS
drums, -23 bass, -23 other, -21 vocals, 4 dB standard deviation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset

from mss.audio import EXTENSIONS, Encoding, info, read, resample, write
from mss.data._hits import recorded_hits, recorded_kit
from mss.data._machines import bass, drum_machine
from mss.data._notes import FAMILIES, Instrument, recorded_notes
from mss.data._rendering import (
    SYNTHESIZERS,
    MidiError,
    any_kit,
    arranged,
    read_midi,
    render,
    require_soundfont,
    require_symusic,
    require_tinysoundfont,
)
from mss.data._songs import Part, Sketch, compose
from mss.data._voice import sing
from mss.data.augment import Augment, Clip, Compression, Distortion, Equalizer, Level, LowPass, Pan, Reverb, Width
from mss.data.augment.pitch import pitch_ratio
from mss.data.cache import cache_folder
from mss.data.tracks import TrackError

__all__ = ["SYNTHESIZERS", "Synthetic", "find_soundfont", "song_folder"]

STEMS = ("drums", "bass", "other", "vocals")
RMS = (-24.0, -23.0, -23.0, -21.0)  # dBFS
DEVIATION = 4.0  # dB
ELECTRIC_GUITARS = range(26, 32)  # programs of General MIDI


def find_soundfont() -> Path | None:
    """TimGM6mb.sf2, which the package pretty_midi ships, if that is installed: small, and under the GPL-2; good for tests."""
    spec = importlib.util.find_spec("pretty_midi")  # found without importing it
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / "TimGM6mb.sf2").is_file():
            return path
    return None


class Synthetic(Dataset):
    """Excerpts of songs that are made when they are needed.

    Excerpt `index`, any integer from 0 on, is a pure function of (seed, index). Indices that follow one another come from
    the same eight songs, which are kept, so take them in order: they are random as they are, and shuffled they cost a song
    each. Every process makes songs for itself.

    Args:
        soundfonts: .sf2 files, one of which is drawn for each part; `find_soundfont()` may know one.
        midi: a folder of MIDI files to play; None: songs are made up by rules.
        composed: probability that a song is made up by rules though there are MIDI files.
        singing: a folder of recorded singing; None: the voice is synthesised, and sings in tune with the song.
        hits: a folder of recorded drum hits, named after their drums (snare_1.wav), that a part of the songs is played with.
        notes: a folder of recorded notes, <family>/<instrument>/<MIDI pitch>_<anything>.flac, that half of the parts of these
            families are played with: piano, acoustic_guitar, electric_guitar, bass, saxophone.
        machines: probability that drums, and that a bass, are made of formulae instead of a SoundFont.
        distortion: probability that an electric guitar is distorted; a third of it for other instruments.
        bass_corner: Hz, a range; basses get a low pass of 12 dB per octave from anywhere in it on: in most mixes they are far
            darker than a SoundFont's. None: none.
        synthesizer: what plays the SoundFonts, "symusic" or, better, "tinysoundfont" (`pip install --no-deps tinysoundfont`).
        seconds: of an excerpt.
        sample_rate: Hz.
        channels: 1 or 2.
        seed: of everything.
        songs: how many make an epoch, of 128 excerpts each.
        coherent: probability that all stems of an excerpt are of one song and time.

    Raises:
        TrackError: no SoundFont, a folder without usable files, or numbers out of range.
        ImportError: symusic, which renders, is not installed.

    Example:
        >>> songs = Synthetic([find_soundfont()], seed=1)
        >>> stems = songs[0]                              # (4, 2, t) float32: drums bass other vocals
        >>> songs.write("synthetic", songs=20, seconds=30)
    """

    stems = STEMS
    PER_SONG = 128  # excerpts
    TOGETHER = 8  # songs that neighbouring excerpts come from
    LENGTH = 24.0  # seconds of a song, unless excerpts are longer
    MANY = 32  # songs, from which on other processes are worth their start

    def __init__(
        self,
        soundfonts: Sequence[str | Path],
        *,
        midi: str | Path | None = None,
        singing: str | Path | None = None,
        seconds: float = 6.0,
        sample_rate: int = 44100,
        channels: int = 2,
        seed: int = 0,
        songs: int = 64,
        coherent: float = 0.5,
        composed: float = 0.0,
        hits: str | Path | None = None,
        notes: str | Path | None = None,
        machines: float = 0.0,
        distortion: float = 0.0,
        bass_corner: tuple[float, float] | None = None,
        synthesizer: str = "symusic",
    ) -> None:
        soundfonts = [soundfonts] if isinstance(soundfonts, str | Path) else list(soundfonts)
        if not soundfonts or None in soundfonts:
            raise TrackError("synthetic songs need a SoundFont: give an .sf2 file, or pip install pretty_midi for one")
        if seconds <= 0 or songs < 1 or channels not in (1, 2) or not 0 <= coherent <= 1:
            raise TrackError(
                "expected seconds above 0, at least 1 song, 1 or 2 channels and coherent from 0 to 1, not "
                f"{seconds} s, {songs}, {channels} and {coherent}"
            )
        for name, share in {"composed": composed, "machines": machines, "distortion": distortion}.items():
            if not 0 <= share <= 1:
                raise TrackError(f"{name} is a probability, from 0 to 1, not {share}")
        if bass_corner is not None and not (len(bass_corner) == 2 and 0 < bass_corner[0] <= bass_corner[1]):
            raise TrackError(f"bass_corner is a range of Hz, the lower one first, not {tuple(bass_corner)}")
        if synthesizer not in SYNTHESIZERS:
            raise TrackError(f"there is no synthesizer {synthesizer!r}; there are {', '.join(SYNTHESIZERS)}")
        require_symusic()
        if synthesizer == "tinysoundfont":
            require_tinysoundfont()
        self.soundfonts = [Path(path) for path in soundfonts]
        for path in self.soundfonts:
            require_soundfont(path)
        self.midi = None if midi is None else _usable_midi(Path(midi))
        self.singing = None if singing is None else _recordings(Path(singing))
        self.hits = None if hits is None else recorded_hits(Path(hits))
        self.notes = {} if notes is None else recorded_notes(Path(notes))
        self.composed = composed
        self.machines = machines
        self.distortion = distortion
        self.darker = None if bass_corner is None else LowPass(bass_corner, sample_rate=sample_rate)
        self.synthesizer = synthesizer
        self.seconds = seconds
        self.sample_rate = sample_rate
        self.channels = channels
        self.seed = seed
        self.songs = songs
        self.coherent = coherent
        self._made: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return self.songs * self.PER_SONG

    def __getitem__(self, index: int) -> Tensor:
        """(s, c, t) float32."""
        if index < 0:
            raise IndexError(f"excerpts are numbered from 0 on, not {index}")
        rng = random.Random(f"excerpt {self.seed} {index}")
        first, length = index // (self.PER_SONG * self.TOGETHER) * self.TOGETHER, round(self.seconds * self.sample_rate)

        def place() -> tuple[int, int]:
            number = first + rng.randrange(self.TOGETHER)
            return number, rng.randrange(round(self._length * self.sample_rate) - length + 1)

        places = [place()] * len(STEMS) if rng.random() < self.coherent else [place() for _ in STEMS]
        parts = [self._song(n)[stem, :, start : start + length] for stem, (n, start) in enumerate(places)]
        return torch.stack(parts).float() / 32767

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": OrderedDict()}  # workers make their own

    @property
    def _length(self) -> float:
        return max(self.LENGTH, self.seconds)

    def _song(self, number: int) -> Tensor:
        """(s, c, t) int16, half the memory of what it came from; the last songs are kept."""
        if number not in self._made:
            while len(self._made) >= self.TOGETHER:
                self._made.popitem(last=False)
            self._made[number] = (self.song(number, self._length) * 32767).round().to(torch.int16)
        return self._made[number]

    def song(self, number: int, seconds: float) -> Tensor:
        """A whole song, (s, c, t) float32, within -1 to 1 as are its stems; a function of seed, number and length."""
        rng = random.Random(f"song {self.seed} {number}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        played = self.midi is not None and not (self.composed and rng.random() < self.composed)
        sketch = arranged(read_midi(rng.choice(self.midi)), rng, seconds) if played else compose(rng, seconds)
        stems = torch.stack([*self._instruments(sketch, seconds, rng, generator), self._voice(sketch, seconds, rng)])
        stems = _recorded(stems.unsqueeze(0), self.sample_rate, generator)[0]
        peak = max(float(stems.sum(0).abs().max()), float(stems.abs().max()))
        return stems * min(1.0, 0.98 / peak) if peak > 0 else stems

    def write(self, folder: str | Path, *, songs: int, seconds: float = 30.0) -> list[Path]:
        """Writes songs 0, 1, ... as folders of 16-bit WAV files that `find_tracks` finds; gives these folders.

        Raises:
            TrackError: the folder is there and not empty.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TrackError(f"{folder} is there and not empty: give a new folder")
        if songs < 1 or seconds <= 0:
            raise TrackError(f"expected at least 1 song of more than 0 s, not {songs} of {seconds} s")
        digits = max(3, len(str(songs - 1)))
        tracks = [folder / f"synthetic-{self.seed}-{number:0{digits}}" for number in range(songs)]
        wanted = (range(songs), tracks, [seconds] * songs)
        if songs < self.MANY:
            return [self._written(*song) for song in zip(*wanted, strict=True)]
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            return list(pool.map(self._written, *wanted))

    def _written(self, number: int, track: Path, seconds: float) -> Path:
        """By one thread, with however many sums are rounded otherwise."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            song = self.song(number, seconds)
        finally:
            torch.set_num_threads(threads)
        track.mkdir(parents=True)
        for name, stem in zip(STEMS, song, strict=True):
            write(track / f"{name}.wav", stem, self.sample_rate, encoding=Encoding("wav", "int16"))
        return track

    def _instruments(
        self, sketch: Sketch, seconds: float, rng: random.Random, generator: torch.Generator
    ) -> list[Tensor]:
        """(c, t) of drums, bass and other; the parts of each have a level and a place of their own."""
        sums = {stem: torch.zeros(self.channels, round(seconds * self.sample_rate)) for stem in STEMS[:3]}
        own = Augment([Level(3.0, rms=(-23.0,), most=80.0), Pan(9.0)])
        for part in sketch.parts:
            sound = self._played(part, seconds, rng, generator)
            if self.channels == 1:
                sound = sound.mean(0, keepdim=True)
            if part.stem == "bass" and self.darker:
                sound = self.darker(sound[None, None], generator)[0, 0]
            sums[part.stem] += own(sound[None, None], generator)[0, 0] if part.stem == "other" else sound
        return list(sums.values())

    def _played(self, part: Part, seconds: float, rng: random.Random, generator: torch.Generator) -> Tensor:
        """(2, t): by a machine, by recorded hits or through a SoundFont."""
        rate = self.sample_rate
        if part.stem != "other" and self.machines and rng.random() < self.machines:
            if part.stem == "bass":
                return bass(part.notes, rng, seconds=seconds, sample_rate=rate).repeat(2, 1)
            return drum_machine(rng, rate).play(part.notes, seconds, rng)
        if part.stem == "drums" and self.hits and rng.random() < 0.5:
            return recorded_kit(self.hits, rng, rate).play(part.notes, seconds, rng)
        if part.stem == "drums" and self.synthesizer != "symusic":
            part = any_kit(part, rng)
        family = next((name for name in self.notes if part.stem != "drums" and part.program in FAMILIES[name]), "")
        if family and rng.random() < 0.5:
            instrument = Instrument(rng.choice(self.notes[family]), rate)
            sound = instrument.play(part.notes, seconds, rng).repeat(2, 1)
        else:
            font = rng.choice(self.soundfonts)
            sound = render(part, font, seconds=seconds, sample_rate=rate, synthesizer=self.synthesizer)
        share = self.distortion / (1 if part.program in ELECTRIC_GUITARS else 3)
        if part.stem == "other" and self.distortion and rng.random() < share:
            sound = Distortion(sample_rate=rate)(sound[None, None], generator)[0, 0]
        return sound

    def _voice(self, sketch: Sketch, seconds: float, rng: random.Random) -> Tensor:
        """(c, t), sometimes with doubles to the left and right."""

        def voice() -> Tensor:
            return sing(sketch.melody, seconds=seconds, sample_rate=self.sample_rate, rng=rng)

        lead = voice() if self.singing is None else self._recording(seconds, rng)
        out = lead.repeat(self.channels, 1)
        if rng.random() < 0.3:
            double = voice() if self.singing is None else lead
            late = round(rng.uniform(0.012, 0.03) * self.sample_rate)
            double = F.pad(double, (late, 0))[: len(lead)] * 10 ** (rng.uniform(-14, -5) / 20)
            sides = torch.tensor([1.0, rng.uniform(-0.2, 0.7)][: self.channels]).unsqueeze(-1)
            out = out + (sides if rng.random() < 0.5 else sides.flip(0)) * double
        return out

    def _recording(self, seconds: float, rng: random.Random) -> Tensor:
        """(t,), from anywhere in one of the recordings, up to two semitones higher and faster or lower and slower."""
        path = rng.choice(self.singing)
        ratio = pitch_ratio(rng.choice((-2, -1, 0, 1, 2)))
        about, wanted = info(path), seconds * float(ratio)
        start = rng.uniform(0, max((about.duration or 0.0) - wanted, 0.0))
        sound, rate = read(path, start=start, duration=wanted + 0.1)
        change = Fraction(self.sample_rate, rate) / ratio
        sound = resample(sound.mean(0), change.denominator, change.numerator)
        length = round(seconds * self.sample_rate)
        pause = round(rng.uniform(0.2, 2) * self.sample_rate)
        return F.pad(sound, (0, pause)).repeat(length // (len(sound) + pause) + 1)[:length]


def _recorded(stems: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
    """(1, s, c, t) as if each had been through a mixing desk, and their sum now and then through a limiter."""
    desk = Augment(
        [
            Equalizer(5.0, sample_rate=sample_rate, p=0.8),
            Compression(sample_rate=sample_rate, p=0.5),
            Width(0.5, 1.2, p=0.5),
            Pan(2.0, p=0.5),
            Reverb((0.3, 1.8), (-24.0, -8.0), sample_rate=sample_rate, p=0.6),
            Level(DEVIATION, rms=RMS, most=80.0),
            Clip((0.0, 6.0), p=0.25),
        ]
    )
    return desk(stems, generator)


def _usable_midi(folder: Path) -> list[Path]:
    """The MIDI files of a folder that songs can be made of; warns of the others."""
    usable, why = [], ""
    paths = _files(folder, (".mid", ".midi"), "MIDI files")
    for path in paths:
        try:
            read_midi(path)
            usable.append(path)
        except MidiError as error:
            why = why or str(error)
    if not usable:
        raise TrackError(f"{folder}: no usable MIDI file in it; the first problem: {why}")
    if why:
        left = len(paths) - len(usable)
        warnings.warn(f"left out {left} of {len(paths)} MIDI files; the first problem: {why}", stacklevel=3)
    return usable


def _recordings(folder: Path) -> list[Path]:
    return _files(folder, EXTENSIONS, "recordings")


def _files(folder: Path, extensions: Sequence[str], what: str) -> list[Path]:
    """The files of a folder and of those in it, in order of their names."""
    if not folder.is_dir():
        raise TrackError(f"{folder}: there is no such folder; give one with {what}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in extensions and path.is_file())
    if not paths:
        raise TrackError(f"{folder}: no {what} in it")
    return paths


def song_folder(
    cache: str | Path | None = None,
    *,
    songs: int = 20,
    seconds: float = 30.0,
    seed: int = 0,
    soundfonts: Sequence[str | Path] | None = None,
    midi: str | Path | None = None,
    singing: str | Path | None = None,
    hits: str | Path | None = None,
    notes: str | Path | None = None,
    **more: Any,
) -> Path:
    """A data set of synthetic songs in the cache of decoded tracks, written when it is first asked for.

    Args:
        cache: see `mss.data.cached`.
        songs, seconds: see `Synthetic.write`.
        seed, soundfonts, midi, singing, hits, notes: see `Synthetic`; soundfonts None: `find_soundfont()`.
        more: composed, machines, distortion, bass_corner, synthesizer of `Synthetic`.
    """
    made = Synthetic(
        soundfonts or [find_soundfont()], midi=midi, singing=singing, hits=hits, notes=notes, seed=seed, **more
    )
    hit = [path for paths in (made.hits or {}).values() for path in paths]
    noted = [path for family in made.notes.values() for takes in family for paths in takes.values() for path in paths]
    played = [made.soundfonts, made.midi, made.singing, hit, noted]
    sizes = [[(path.name, path.stat().st_size) for path in paths] for paths in played if paths]
    described = (songs, seconds, seed, sizes, *sorted(more.items()))
    key = hashlib.sha256(repr(described).encode()).hexdigest()[:16]
    folder = (cache_folder() if cache is None else Path(cache).expanduser()) / f"synthetic-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            unfinished = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            made.write(unfinished, songs=songs, seconds=seconds)
            unfinished.rename(folder)
    return folder
