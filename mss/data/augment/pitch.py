"""Pitch and tempo, together by a change of the sample rate (T. Ko et al., "Audio augmentation for speech recognition",
Interspeech 2015), or each for itself by a phase vocoder as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.audio import resample
from mss.data.augment.base import Augmentation
from mss.transforms import STFT

__all__ = ["PitchTempo", "Speed", "pitch_ratio", "stretched"]


class Speed(Augmentation):
    """Plays a stem faster or slower, so that its pitch and its formants move, too (Ko et al. 2015).

    Stems that play together must not be given different speeds: it is for excerpts mixed across songs.

    Args:
        factors: one of these is drawn for each stem; 1.1 is a tenth faster, and 1.65 semitones higher. They are rounded to
            fractions of up to 64.
        p: probability per stem.

    The length is kept: what became longer is cut, what became shorter ends in silence.
    """

    def __init__(self, factors: Sequence[float] = (8 / 9, 15 / 16, 16 / 15, 9 / 8), *, p: float = 0.5) -> None:
        super().__init__(p)
        if not factors or any(not 0.25 <= x <= 4 for x in factors):
            raise ValueError(f"factors is a list of at least one number from 0.25 to 4, not {factors}")
        self.factors = tuple(factors)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        t = x.shape[-1]
        chosen = torch.randint(len(self.factors), (len(x),), generator=generator)
        out = torch.empty_like(x)
        for number, factor in enumerate(self.factors):
            rows = (chosen == number).nonzero().squeeze(-1)
            if len(rows):
                rows = rows.to(x.device, non_blocking=True)
                ratio = Fraction(factor).limit_denominator(64)
                y = x[rows, ..., : math.ceil(t * ratio)]
                y = resample(y, ratio.numerator, ratio.denominator)[..., :t]
                out[rows] = F.pad(y, (0, t - y.shape[-1]))
        return out


class PitchTempo(Augmentation):
    """Transposes an item by some semitones and plays it faster or slower, all its stems alike.

    A phase vocoder stretches all items at once, each at its own rate; then those of each transposition are resampled
    together, so there is one pass for each of `semitones` and no more. The length is kept: what became longer is cut, what
    became shorter ends in silence.

    Args:
        semitones: one of these is drawn for each item; 0 is allowed. Frequency ratios are rounded to fractions of up to 64,
            within 2 cents up to an octave.
        tempi: one of these is drawn for each item; 1.1 is a tenth faster. Demucs draws from 12 % either way.
        p: probability per item.
    """

    whole_items = True

    def __init__(
        self, semitones: Sequence[float] = (-2, -1, 1, 2), tempi: Sequence[float] = (1.0,), *, p: float = 0.2
    ) -> None:
        super().__init__(p)
        if not semitones or any(abs(x) > 24 for x in semitones):
            raise ValueError(f"semitones is a list of at least one number up to 24 either way, not {semitones}")
        if not tempi or any(not 0.25 <= x <= 4 for x in tempi):
            raise ValueError(f"tempi is a list of at least one factor from 0.25 to 4, not {tempi}")
        self.semitones = tuple(semitones)
        self.tempi = tuple(tempi)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        (r, s), t = x.shape[:2], x.shape[-1]
        pitch = torch.randint(len(self.semitones), (r,), generator=generator)
        tempo = torch.randint(len(self.tempi), (r,), generator=generator)
        ratios = [pitch_ratio(n) for n in self.semitones]
        tempi, factors = (
            torch.tensor([float(q) for q in these], dtype=torch.float64) for these in (self.tempi, ratios)
        )
        rate = tempi[tempo] / factors[pitch]
        rate = rate.to(x.device, x.dtype, non_blocking=True).repeat_interleave(s)
        long = stretched(x.flatten(0, 1), rate, math.ceil(t * max(1, *map(float, ratios)))).unflatten(0, (r, s))
        out = torch.empty_like(x)
        for number, ratio in enumerate(ratios):
            rows = (pitch == number).nonzero().squeeze(-1)
            if len(rows):
                rows = rows.to(x.device, non_blocking=True)
                y = long[rows][..., : math.ceil(t * ratio)]
                y = resample(y, ratio.numerator, ratio.denominator)[..., :t]
                out[rows] = F.pad(y, (0, t - y.shape[-1]))
        return out


def pitch_ratio(semitones: float) -> Fraction:
    """The frequency ratio of an interval of equal temperament, as a fraction that resampling is cheap with."""
    return Fraction(2 ** (semitones / 12)).limit_denominator(64)


def stretched(x: Tensor, rate: Tensor, length: int) -> Tensor:
    """Plays each of x (r, c, t) `rate` (r,) times as fast at the same pitch: (r, c, length), silent where it has ended.

    A phase vocoder whose phases are locked to those of spectral peaks (J. Laroche, M. Dolson, "Improved phase vocoder
    time-scale modification of audio", IEEE TSAP 7(3), 1999). All channels are turned alike, so the stereo image stands still:
    as the loudest of their sum and each of them is, which may be another one from frame to frame.
    """
    transform = STFT(2048, 512)
    X = transform(F.pad(x, (0, transform.n_fft)))  # (r, c, f, k)
    last = X.shape[-1] - 2
    frames = transform.frames(length)
    place = rate.unsqueeze(-1) * torch.arange(frames, device=x.device, dtype=x.dtype)  # (r, frames)
    here = place.floor().clamp(max=last).long()
    part = (place - here).clamp(0, 1)[:, None, None]
    magnitude, phase = X.abs(), X.angle()
    heard, told = magnitude, phase
    if X.shape[1] > 1:
        both = X.sum(1, keepdim=True)
        # (r, 1 + c, f, k); the sum counts twice: a channel is taken for what is all but lost there, not at each tie
        heard, told = torch.cat([2 * both.abs(), magnitude], 1), torch.cat([both.angle(), phase], 1)
    magnitude = _at(magnitude, here).lerp(_at(magnitude, here + 1), part.expand(*X.shape[:-1], -1))
    turns = (torch.arange(transform.bins, device=x.device) * transform.hop % transform.n_fft) / transform.n_fft
    expected = 2 * math.pi * turns.to(x.dtype).unsqueeze(-1)  # of a bin's centre, from one input frame to the next
    now, loud = _at(told, here), _at(heard, here)
    turn = _at(told, here + 1) - now - expected
    advance = expected + turn - 2 * math.pi * (turn / (2 * math.pi)).round()  # from one output frame to the next
    more = (advance - now.diff(dim=-1, append=now[..., -1:]))[..., :-1]  # than the phase of the input advances
    loudest = (loud * _at(heard, here + 1))[..., :-1].argmax(1, keepdim=True)
    added = F.pad(more.gather(1, loudest).cumsum(-1), (1, 0))  # (r, 1, f, frames)
    peak = _nearest_peak(loud.amax(1, keepdim=True))
    Y = torch.polar(magnitude, _at(phase, here) + added.gather(-2, peak))
    y = transform.inverse(Y, length)
    ended = torch.arange(length, device=x.device) >= (x.shape[-1] / rate).unsqueeze(-1)
    return torch.where(ended.unsqueeze(1), 0, y)


def _nearest_peak(magnitude: Tensor) -> Tensor:
    """For each bin of magnitude (..., f, k) the bin of the closest peak, which is the largest of five."""
    bins = magnitude.shape[-2]
    around = F.max_pool2d(magnitude, (5, 1), 1, (2, 0))
    bin = torch.arange(bins, device=magnitude.device).unsqueeze(-1).expand(magnitude.shape)
    is_peak = magnitude >= around
    below = torch.where(is_peak, bin, -bins).cummax(-2).values
    above = torch.where(is_peak, bin, 2 * bins).flip(-2).cummin(-2).values.flip(-2)
    return torch.where(bin - below <= above - bin, below, above)


def _at(values: Tensor, frame: Tensor) -> Tensor:
    """values (r, c, f, k) at the frames (r, j) of each row: (r, c, f, j)."""
    return values.gather(-1, frame[:, None, None].expand(*values.shape[:-1], -1))
