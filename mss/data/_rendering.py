"""MIDI files to parts, and parts to sound, through a SoundFont; reverb and chorus are not used, so parts add up.

symusic reads the files, and plays them where nothing else is asked for. tinysoundfont plays better (most snares and some
filters of symusic 0.5.9 fail), but its package wants one that must be compiled, so it is not installed with the others.
"""

from __future__ import annotations

import random
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mss.data._songs import Part, Sketch
from mss.data.tracks import TrackError

__all__ = [
    "SYNTHESIZERS",
    "MidiError",
    "any_kit",
    "arranged",
    "read_midi",
    "render",
    "require_soundfont",
    "require_symusic",
    "require_tinysoundfont",
]

INSTALL = "pip install 'mss-separation[synthetic]'"
INSTALL_TINY = "pip install --no-deps tinysoundfont"
SYNTHESIZERS = ("symusic", "tinysoundfont")
STEMS = ("drums", "bass", "other")
BASSES = range(32, 40)  # programs of General MIDI
KITS = (0, 0, 8, 16, 24, 25, 32, 40)


class MidiError(TrackError):
    """A MIDI file that no song can be made of."""


def require_symusic() -> Any:
    """The package symusic.

    Raises:
        ImportError: it is not there; how to install it.
    """
    return _required("symusic", f"synthetic songs are rendered by the package symusic, which is missing: {INSTALL}")


def require_tinysoundfont() -> Any:
    """The package tinysoundfont.

    Raises:
        ImportError: it is not there; how to install it.
    """
    hint = "(without what it needs to play aloud)"
    return _required("tinysoundfont", f"the synthesizer tinysoundfont is missing: {INSTALL_TINY} {hint}")


def _required(package: str, message: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(message) from error


def require_soundfont(path: Path) -> None:
    """Raises TrackError unless the file begins like a SoundFont."""
    if not path.is_file():
        raise TrackError(f"{path}: there is no such SoundFont; give an .sf2 file")
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise TrackError(f"{path} is not a SoundFont: give an .sf2 file")


def read_midi(path: Path) -> list[Part]:
    """The parts of a MIDI file, those with notes; the drum channel is drums, basses are known by program or name.

    Raises:
        MidiError: not a MIDI file, or one without drums, without bass or without others.
    """
    symusic = require_symusic()
    try:
        score = symusic.Score(str(path)).to("second")
    except (RuntimeError, ValueError) as error:
        raise MidiError(f"{path} cannot be read as a MIDI file: {str(error)[:100]}") from error
    parts = []
    for track in score.tracks:
        notes = [(note.time, note.duration, note.pitch, note.velocity) for note in track.notes if note.velocity > 0]
        bass = track.program in BASSES or "bass" in track.name.lower()
        if notes:
            parts.append(Part("drums" if track.is_drum else "bass" if bass else "other", track.program, notes))
    if lacking := set(STEMS) - {part.stem for part in parts}:
        raise MidiError(f"{path} has no notes for {', '.join(sorted(lacking))}")
    return parts


def arranged(parts: list[Part], rng: random.Random, seconds: float) -> Sketch:
    """A song from `seconds` of a MIDI file: anywhere in it, at another tempo and key, by other instruments of its families.

    The place is drawn around a note of the stem that has fewest, up to eight times until all three play there. One part of
    middle or high pitch is sung; mostly, no instrument plays it then.
    """
    faster = 2 ** rng.uniform(-0.25, 0.25)
    end = max(onset + duration for part in parts for onset, duration, *_ in part.notes) / faster
    shift, new = rng.randint(-5, 6), []
    rare = min(STEMS, key=lambda stem: sum(len(part.notes) for part in parts if part.stem == stem))
    onsets = [note[0] / faster for part in parts if part.stem == rare for note in part.notes]
    for _ in range(8):
        start = min(max(rng.choice(onsets) - rng.uniform(0, seconds), 0), max(end - seconds, 0))
        new = [_window(part, start, seconds, faster, shift) for part in parts]
        if {part.stem for part in new if part.notes} == set(STEMS):
            break
    new = [part for part in new if part.notes]
    for part in new:
        if part.stem == "drums":
            part.program = rng.choice((16, 16, 40, part.program))  # kits whose snare is sustained
        elif rng.random() < 0.7:
            part.program = part.program // 8 * 8 + rng.randrange(8)
    high = [part for part in new if part.stem == "other" and np.mean([note[2] for note in part.notes]) >= 52]
    sung = rng.choice(high) if high else None
    if sung is not None and len(high) > 1 and rng.random() < 0.7:
        new.remove(sung)
    return Sketch(new, sung.notes if sung is not None else [])


def _window(part: Part, start: float, seconds: float, faster: float, shift: int) -> Part:
    """What begins from `start` on, as seconds of the faster song; drums are not transposed."""
    shift = 0 if part.stem == "drums" else shift
    notes = [
        (onset / faster - start, duration / faster, min(max(pitch + shift, 0), 127), velocity)
        for onset, duration, pitch, velocity in part.notes
        if 0 <= onset / faster - start < seconds
    ]
    return Part(part.stem, part.program, notes)


def any_kit(part: Part, rng: random.Random) -> Part:
    """The drums of a part played by any kit, with either of its snares."""
    snare = rng.choice((38, 40))
    notes = [(onset, duration, snare if pitch in (38, 40) else pitch, v) for onset, duration, pitch, v in part.notes]
    return Part(part.stem, rng.choice(KITS), notes)


LOUDEST = 30.0  # a full chord at full velocity stays below


def render(part: Part, soundfont: Path, *, seconds: float, sample_rate: int, synthesizer: str = "symusic") -> Tensor:
    """What a part sounds like, (2, t) float32: with the first program of the SoundFont where it lacks the part's."""
    length = round(seconds * sample_rate)
    play = _tiny if synthesizer == "tinysoundfont" else _symusic
    for program in dict.fromkeys((part.program, 0)) if part.notes else ():
        sound = play(part, program, soundfont, length, sample_rate)[:, :length]
        if 0 < float(sound.abs().max()) < LOUDEST:  # there is sound, and no filter of the synthesizer has run away
            return torch.nn.functional.pad(sound, (0, length - sound.shape[-1]))
    return torch.zeros(2, length)


def _symusic(part: Part, program: int, soundfont: Path, length: int, sample_rate: int) -> Tensor:
    symusic = require_symusic()
    onset, duration, pitch, velocity = zip(*part.notes, strict=True)
    notes = symusic.Note.from_numpy(
        np.array(onset, np.float32),
        np.maximum(np.array(duration, np.float32), 0.03),
        np.array(pitch, np.int8),
        np.array(velocity, np.int8),
        ttype="second",
    )
    score = symusic.Score(ttype="second")
    track = symusic.Track("", program, part.stem == "drums", ttype="second")
    track.notes = notes
    score.tracks.append(track)
    try:
        # a new one each time: it remembers samples as they were first used, and so depends on what it has played
        sound = symusic.Synthesizer(str(soundfont), sample_rate, 0).render(score, True)
    except TypeError as error:  # the bindings of 0.6.0 do not return arrays
        raise ImportError(f"symusic {symusic.__version__} cannot render; another can: {INSTALL}") from error
    return torch.from_numpy(np.ascontiguousarray(sound))


def _tiny(part: Part, program: int, soundfont: Path, length: int, sample_rate: int) -> Tensor:
    synth, font = _loaded(soundfont, sample_rate)
    channel = 9 if part.stem == "drums" else 0
    if synth.program_select(channel, font, 128 if channel else 0, program) == -1:
        return torch.zeros(2, 1)
    events = []  # at a sample; ends before beginnings
    for onset, duration, pitch, velocity in part.notes:
        start = round(onset * sample_rate)
        if 0 <= start < length:
            events.append((start, 1, pitch, velocity))
            events.append((start + max(round(duration * sample_rate), sample_rate // 33), 0, pitch, 0))
    pieces, now = [], 0
    for at, begins, pitch, velocity in sorted(events):
        if at > now and now < length:
            pieces.append(np.frombuffer(synth.generate(min(at, length) - now), np.float32).copy())
            now = min(at, length)
        if begins:
            synth.noteon(channel, pitch, velocity)
        else:
            synth.noteoff(channel, pitch)
    if now < length:
        pieces.append(np.frombuffer(synth.generate(length - now), np.float32).copy())
    synth.sounds_off(channel)
    synth.generate(sample_rate // 10)  # the last sounds fade, and are gone when the next part begins
    return torch.from_numpy(np.concatenate(pieces).reshape(-1, 2).T.copy())


@lru_cache(maxsize=4)
def _loaded(soundfont: Path, sample_rate: int) -> tuple[Any, int]:
    """A synthesizer and the number of its font; to read one takes seconds."""
    synth = require_tinysoundfont().Synth(gain=0, samplerate=sample_rate)
    return synth, synth.sfload(str(soundfont))
