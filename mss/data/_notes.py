"""Parts played with single notes: recordings from a folder, told apart by their families, instruments and pitches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mss.audio import EXTENSIONS, read, resample
from mss.data._songs import Note, strength
from mss.data.augment.pitch import pitch_ratio
from mss.data.tracks import TrackError

__all__ = ["FAMILIES", "Instrument", "Notes", "recorded_notes"]

FAMILIES = {  # programs of General MIDI
    "piano": range(4),
    "acoustic_guitar": range(24, 26),
    "electric_guitar": range(26, 32),
    "bass": range(32, 40),
    "saxophone": range(64, 68),
}
Notes = dict[int, list[Path]]  # MIDI pitch -> takes
LONGEST = 8.0  # seconds of a note
FADE = 0.004  # seconds, before what is cut off
RELEASE = (0.02, 0.12)  # seconds in which a note falls to 1 / e after its end


class Instrument:
    """Plays each note with a take of the nearest pitch, at the take's level times that of the note's velocity.

    Notes beyond the recorded ones by more than a fifth are moved by octaves.

    Args:
        takes: MIDI pitch -> recordings of any level.
        sample_rate: Hz.
    """

    FARTHEST = 7  # semitones

    def __init__(self, takes: Notes, sample_rate: int) -> None:
        self.takes = takes
        self.sample_rate = sample_rate

    def play(self, notes: Sequence[Note], seconds: float, rng: random.Random) -> Tensor:
        """(t,) the part: each note falls off from its end on."""
        length = round(seconds * self.sample_rate)
        out = torch.zeros(length)
        release = rng.uniform(*RELEASE)
        chosen = [
            (rng.choice(self.takes[near]), shift, note) for note in notes for near, shift in [self.nearest(note[2])]
        ]
        sounds: dict[tuple[Path, int], Tensor] = {}
        for path, shift, (onset, duration, _, velocity) in sorted(chosen, key=lambda c: (c[1], str(c[0]), c[2])):
            start = round(onset * self.sample_rate)
            if not 0 <= start < length:
                continue
            if (path, shift) not in sounds:
                sounds[path, shift] = self._sound(path, shift)
            sound = sounds[path, shift][: min(length - start, round((duration + 6 * release) * self.sample_rate))]
            time = torch.arange(len(sound)) / self.sample_rate
            fade = ((len(sound) - torch.arange(len(sound))) / (FADE * self.sample_rate)).clamp_max(1)
            falling = torch.exp(-(time - duration).clamp_min(0) / release) * fade
            out[start : start + len(sound)] += sound * falling * strength(velocity)
        return out

    def nearest(self, pitch: int) -> tuple[int, int]:
        """The recorded pitch that a note is made of, and by how many semitones it is moved."""
        low, high = min(self.takes) - self.FARTHEST, max(self.takes) + self.FARTHEST
        while pitch < low:
            pitch += 12
        while pitch > high:
            pitch -= 12
        near = min(self.takes, key=lambda recorded: (abs(recorded - pitch), recorded))
        return near, pitch - near

    def _sound(self, path: Path, shift: int) -> Tensor:
        """(t,) at a peak of 1."""
        sound, rate = read(path, duration=LONGEST)
        ratio = pitch_ratio(shift)
        sound = resample(sound.mean(0), rate * ratio.numerator, self.sample_rate * ratio.denominator)
        return sound / sound.abs().max().clamp_min(1e-9)


def recorded_notes(folder: Path) -> dict[str, list[Notes]]:
    """The instruments of a folder by families: <family>/<instrument>/<MIDI pitch>_<anything>.flac.

    Raises:
        TrackError: no such folder, a family or a name that is unknown, or nothing in it.
    """
    if not folder.is_dir():
        raise TrackError(f"{folder}: there is no such folder; give one with recorded notes")
    found: dict[str, list[Notes]] = {}
    for instrument in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        if (family := instrument.parent.name) not in FAMILIES:
            raise TrackError(f"{instrument.parent}: unknown family of instruments; there are {', '.join(FAMILIES)}")
        takes: Notes = {}
        for path in sorted(path for path in instrument.iterdir() if path.suffix.lower() in EXTENSIONS):
            pitch = path.stem.split("_")[0]
            if not (pitch.isdecimal() and int(pitch) < 128):
                raise TrackError(f"{path}: a note's name begins with its MIDI pitch, as 45_1.flac does (A2, 110 Hz)")
            takes.setdefault(int(pitch), []).append(path)
        if takes:
            found.setdefault(family, []).append(takes)
    if not found:
        raise TrackError(
            f"{folder}: no recorded notes in it; they are called <family>/<instrument>/<MIDI pitch>_1.flac"
        )
    return found
