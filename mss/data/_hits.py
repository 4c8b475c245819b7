"""Drums played with single hits: recordings from a folder, told apart by their names, or what a machine makes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from mss.audio import EXTENSIONS, read, resample
from mss.data._songs import Note, strength
from mss.data.tracks import TrackError

__all__ = ["Kit", "kind_of", "recorded_hits", "recorded_kit"]

KINDS = {  # keys of General MIDI's drums
    "kick": (35, 36),
    "rim": (37,),
    "snare": (38, 40),
    "clap": (39,),
    "shut": (42, 44),
    "open": (46,),
    "crash": (49, 52, 55, 57),
    "ride": (51, 53, 59),
    "low tom": (41, 43, 45),
    "tom": (47, 48),
    "high tom": (50,),
}
WORDS = {  # a recording is of the first kind that has a word which is anywhere in its name; "" is no hit
    "": ("loop", "roll", "bass_hard", "bass_soft", "vinyl"),
    "kick": ("kick", "bd_", "bassdrum"),
    "clap": ("clap", "snap"),
    "rim": ("rim", "side", "stick"),
    "snare": ("snare", "sn_"),
    "shut": ("closed", "pedal", "hat_c", "hihat"),
    "open": ("open",),
    "ride": ("ride", "cymbal_soft"),
    "crash": ("crash", "splash", "cymbal"),
    "high tom": ("tom_hi",),
    "low tom": ("tom_lo", "floor"),
    "tom": ("tom",),
    "other": ("tabla", "conga", "bongo", "cowbell", "shaker", "tamb", "perc", "elec_", "block", "triangle"),
}
INSTEAD = {
    "rim": "snare", "clap": "snare", "open": "crash", "ride": "crash", "high tom": "tom", "low tom": "tom", "tom": "kick",
}  # fmt: skip
LEVELS = {
    "kick": 0.0,
    "snare": 0.0,
    "clap": -3.0,
    "rim": -5.0,
    "shut": -17.0,
    "open": -15.0,
    "ride": -15.0,
    "crash": -11.0,
}
LONGEST = 3.0  # seconds of a hit


def kind_of(pitch: int) -> str:
    """The kind of drum of a key of General MIDI."""
    return next((kind for kind, keys in KINDS.items() if pitch in keys), "other")


class Kit:
    """Hits of several kinds that drum parts are played with.

    Args:
        hits: kind -> sounds (t,) of any level, of which one is drawn for each stroke.
        sample_rate: Hz.
    """

    def __init__(self, hits: dict[str, Sequence[Tensor]], sample_rate: int) -> None:
        self.hits = {
            kind: [sound / sound.abs().max().clamp_min(1e-9) for sound in sounds] for kind, sounds in hits.items()
        }
        self.sample_rate = sample_rate

    def play(self, notes: Sequence[Note], seconds: float, rng: random.Random) -> Tensor:
        """(2, t): each kind of drum has a place of its own, and an open hi-hat ends where a shut one begins."""
        length = round(seconds * self.sample_rate)
        out = torch.zeros(2, length)
        level = {kind: 10 ** ((LEVELS.get(kind, -4.0) + rng.uniform(-4, 4)) / 20) for kind in (*KINDS, "other")}
        place = {kind: 0.0 if kind in ("kick", "snare") else rng.uniform(-0.6, 0.6) for kind in level}
        notes = sorted(notes)
        shut = [onset for onset, _, pitch, _ in notes if kind_of(pitch) == "shut"]
        for onset, _, pitch, velocity in notes:
            kind = kind_of(pitch)
            sounds = self._sounds(kind)
            start = round(onset * self.sample_rate)
            if not sounds or not 0 <= start < length:
                continue
            sound = rng.choice(sounds)[: length - start] * level[kind] * strength(velocity)
            if kind == "open" and (after := [at for at in shut if at > onset]):
                time = torch.arange(len(sound)) / self.sample_rate
                sound = sound * torch.exp(-(time - (after[0] - onset)).clamp_min(0) / 0.01)
            sides = torch.tensor([min(1.0, 1 - place[kind]), min(1.0, 1 + place[kind])]).sqrt()
            out[:, start : start + len(sound)] += sides.unsqueeze(-1) * sound
        return out

    def _sounds(self, kind: str) -> Sequence[Tensor]:
        while kind not in self.hits and kind in INSTEAD:
            kind = INSTEAD[kind]
        return self.hits.get(kind, ())


def recorded_hits(folder: Path) -> dict[str, list[Path]]:
    """The recordings of a folder by the kind of drum that their names tell.

    Raises:
        TrackError: no folder, or no kick or no snare in it.
    """
    if not folder.is_dir():
        raise TrackError(f"{folder}: there is no such folder; give one with recordings of single drum hits")
    found: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()):
        name = path.stem.lower()
        if kind := next((kind for kind, words in WORDS.items() if any(word in name for word in words)), ""):
            found.setdefault(kind, []).append(path)
    if lacking := [kind for kind in ("kick", "snare") if kind not in found]:
        raise TrackError(
            f"{folder}: no recording is called a {' or a '.join(lacking)}; name files after drums, as kick_1.wav, snare_2.flac"
        )
    return found


def recorded_kit(hits: dict[str, list[Path]], rng: random.Random, sample_rate: int) -> Kit:
    """One recording of each kind, up to two semitones higher or lower."""
    kit = {}
    for kind, paths in hits.items():
        sound, rate = read(rng.choice(paths), duration=LONGEST)
        ratio = Fraction(rng.choice((840, 890, 943, 1000, 1000, 1059, 1122)), 1000)
        change = Fraction(sample_rate, rate) / ratio
        kit[kind] = [resample(sound.mean(0), change.denominator, change.numerator)]
    return Kit(kit, sample_rate)
