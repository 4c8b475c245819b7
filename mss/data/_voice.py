"""A voice that sings syllables without sense: pulses of a glottis and noise, through formants that move.

Source and filter (G. Fant 1960): a band-limited pulse train (T. Stilson, J. Smith 1996) whose pitch glides, trembles and has
vibrato, and noise for breath and consonants; both are shaped frame by frame in an STFT by resonances of the vowels.
What it is good for: harmonics with moving pitch under moving formants, broken by consonants and pauses, as no instrument of
General MIDI has them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.transforms import STFT

__all__ = ["sing"]

# formants of a tenor, as in tables for formant synthesis: frequency in Hz, level in dB, bandwidth in Hz
VOWELS = {
    "a": ((650, 0, 80), (1080, -6, 90), (2650, -7, 120), (2900, -8, 130), (3250, -22, 140)),
    "e": ((400, 0, 70), (1700, -14, 80), (2600, -12, 100), (3200, -14, 120), (3580, -20, 120)),
    "i": ((290, 0, 40), (1870, -15, 90), (2800, -18, 100), (3250, -20, 120), (3540, -30, 120)),
    "o": ((400, 0, 40), (800, -10, 80), (2600, -12, 100), (2800, -12, 120), (3000, -26, 120)),
    "u": ((350, 0, 40), (600, -20, 60), (2700, -17, 100), (2900, -14, 120), (3300, -26, 120)),
    "m": ((250, 0, 60), (1000, -24, 150), (2200, -28, 200), (2900, -36, 250), (3500, -44, 250)),
}
CONTROL = 200  # Hz, of everything that moves
CONSONANTS = {  # centre of the noise in Hz, its width in octaves, seconds, level in dB, how much of the voice is left
    "s": (6500, 0.6, 0.09, -12, 0.0),
    "sh": (3200, 0.8, 0.09, -12, 0.0),
    "f": (5000, 2.0, 0.07, -24, 0.0),
    "t": (4500, 1.2, 0.02, -10, 0.0),
    "k": (2000, 0.8, 0.03, -12, 0.0),
    "p": (900, 1.5, 0.015, -14, 0.0),
    "z": (6000, 0.7, 0.07, -18, 0.5),
    "m": (300, 1.0, 0.07, -60, 0.6),
    "": (1000, 1.0, 0.02, -60, 0.9),
}


def sing(
    melody: Sequence[tuple[float, float, int, int]], *, seconds: float, sample_rate: int, rng: random.Random
) -> Tensor:
    """Sings notes, one syllable each, in the range of a singer who is drawn: (t,), peak 1, silent without notes.

    Args:
        melody: onset and duration in seconds, MIDI pitch, velocity; where notes overlap, the later one cuts the earlier.
        seconds: length.
        sample_rate: Hz.
        rng: all choices come from it.
    """
    length = round(seconds * sample_rate)
    notes = [note for note in _one_at_a_time(melody) if note[0] < seconds]
    if not notes:
        return torch.zeros(length)
    size = rng.uniform(0.95, 1.25)  # formants against a tenor's: a short vocal tract has them higher
    centre = rng.uniform(48, 56) if size < 1.08 else rng.uniform(57, 66)  # MIDI pitch
    mean = sum(note[2] for note in notes) / len(notes)
    up = 12 * round((centre - mean) / 12)
    control = _Control(notes, up, seconds, rng)
    transform = STFT(1024, 256)
    source = torch.stack([_pulses(control.pitch, length, sample_rate), _noise(length, rng)])
    X = transform(source)
    times = torch.arange(X.shape[-1]) * transform.hop / sample_rate
    frequency = torch.arange(transform.bins) * (sample_rate / transform.n_fft)
    tilt = 10 ** (-rng.uniform(3, 9) / 20 * (frequency / 1000).clamp_min(1).log2())  # dB per octave above 1 kHz
    formants = _formants(frequency, size)  # (vowels, f)
    shape = formants.T @ control.vowels(times) * tilt.unsqueeze(-1)  # (f, k)
    hiss = _consonants(frequency) @ control.hiss(times)
    breath = 10 ** (-rng.uniform(26, 44) / 20)
    loud = control.loudness(times)
    y = transform.inverse(X[0] * shape * loud + X[1] * (hiss + breath * shape * loud), length)
    return y / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny)


class _Control:
    """What moves while singing, as curves at `CONTROL` Hz; read at any times by interpolation."""

    def __init__(self, notes: list, up: int, seconds: float, rng: random.Random) -> None:
        count = int(seconds * CONTROL) + 2
        pitch, voice = torch.full((count,), float(notes[0][2] + up)), torch.zeros(count)
        vowels, hiss = torch.zeros(len(VOWELS), count), torch.zeros(len(CONSONANTS), count)
        vibrato = torch.zeros(count)
        deep = rng.uniform(0.0, 0.6)  # semitones
        names, consonants = list(VOWELS), list(CONSONANTS)
        for onset, duration, note, velocity in notes:
            first, last = int(onset * CONTROL), min(int((onset + duration) * CONTROL) + 1, count)
            if last - first < 4:
                continue
            pitch[first:] = note + up
            vowel = rng.choice(names[:-1])
            vowels[:, first:] = 0
            vowels[names.index(vowel), first:] = 1
            if duration > 0.3 and rng.random() < 0.35:  # a diphthong
                vowels[:, (first + last) // 2 :] = 0
                vowels[names.index(rng.choice(names)), (first + last) // 2 :] = 1
            kind = rng.choice(consonants)
            _, _, long, level, left = CONSONANTS[kind]
            begin = first + min(max(int(long * CONTROL), 1), (last - first) // 2)
            hiss[consonants.index(kind), first:begin] = 10 ** (level / 20)
            strength = 10 ** ((velocity - 100) / 127 * 12 / 20)
            voice[first:begin] = left * strength
            voice[begin:last] = strength * torch.linspace(1, rng.uniform(0.6, 1.0), last - begin)
            if duration > 0.35:
                ramp = ((torch.arange(last - first) / CONTROL - 0.2) / 0.3).clamp(0, 1)
                vibrato[first:last] = deep * ramp
        drift = _smooth(torch.tensor([rng.gauss(0, 1) for _ in range(count)]), 0.1) * rng.uniform(0.2, 0.8)
        rate = 2 * math.pi * rng.uniform(4.8, 6.6) / CONTROL
        wave = torch.sin(torch.cumsum(torch.full((count,), rate) + 0.02 * drift, 0))
        self.pitch = _smooth(pitch, rng.uniform(0.015, 0.05)) + vibrato * wave + 0.15 * drift  # MIDI pitch
        self._voice = _smooth(voice, 0.008) * (1 + 0.15 * vibrato * wave + 0.1 * drift).clamp(0.5, 1.5)
        self._vowels, self._hiss = _smooth(vowels, 0.025), _smooth(hiss, 0.004)

    def loudness(self, times: Tensor) -> Tensor:
        return _at(self._voice, times)

    def vowels(self, times: Tensor) -> Tensor:
        return _at(self._vowels, times)

    def hiss(self, times: Tensor) -> Tensor:
        return _at(self._hiss, times)


def _one_at_a_time(melody: Sequence[tuple[float, float, int, int]]) -> list[tuple[float, float, int, int]]:
    notes = sorted(melody)
    cut = [(a[0], min(a[1], b[0] - a[0]), a[2], a[3]) for a, b in pairwise(notes)]
    return [note for note in [*cut, *notes[-1:]] if note[1] > 0.03]


def _pulses(pitch: Tensor, length: int, sample_rate: int) -> Tensor:
    """(t,): the sum of all cosines k f0 below 15 kHz or the Nyquist frequency, of equal amplitudes, in closed form."""
    times = torch.arange(length, dtype=torch.float64) / sample_rate
    f0 = 440 * 2 ** ((_at(pitch.double(), times) - 69) / 12)
    phase = torch.cumsum(f0 / sample_rate, 0)
    half = math.pi * (phase - phase.round())  # -pi/2 to pi/2
    partials = (min(15000, 0.45 * sample_rate) / f0).floor()
    small = half.abs() < 1e-6
    kernel = torch.where(
        small, 2 * partials + 1, torch.sin((2 * partials + 1) * half) / torch.where(small, 1, half.sin())
    )
    return ((kernel - 1) / (2 * partials.sqrt())).float()  # partials k >= 1, of unit power


def _noise(length: int, rng: random.Random) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(rng.getrandbits(62)))


def _formants(frequency: Tensor, size: float) -> Tensor:
    """(vowels, f) amplitudes: resonances side by side over a floor."""
    table = torch.tensor(list(VOWELS.values()), dtype=frequency.dtype)  # (vowels, formants, 3)
    centre, level, width = (table[..., i, None] for i in range(3))
    resonance = 1 / (1 + ((frequency - size * centre) / (size * width)).square()).sqrt()
    return (10 ** (level / 20) * resonance).sum(1) + 0.003


def _consonants(frequency: Tensor) -> Tensor:
    """(f, consonants) amplitudes of their noises."""
    table = torch.tensor([entry[:2] for entry in CONSONANTS.values()], dtype=frequency.dtype)
    octaves = (frequency.clamp_min(20).unsqueeze(-1) / table[:, 0]).log2()
    return torch.exp(-0.5 * (octaves / table[:, 1]).square())


def _smooth(curve: Tensor, seconds: float) -> Tensor:
    """(..., k): a moving average of twice that length, twice."""
    width = max(int(seconds * CONTROL), 1)
    x = curve.reshape(-1, 1, curve.shape[-1])
    for _ in range(2):
        x = F.avg_pool1d(F.pad(x, (width, width), mode="replicate"), 2 * width + 1, 1)
    return x.view_as(curve)


def _at(curve: Tensor, times: Tensor) -> Tensor:
    """A curve (..., k) at times (j,) in seconds: (..., j)."""
    place = (times * CONTROL).clamp(0, curve.shape[-1] - 1.001)
    here = place.long()
    return curve[..., here].lerp(curve[..., here + 1], (place - here).to(curve.dtype))
