"""Filters of the loudspeakers behind and of the low-frequency one, and how they are applied to blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["HIGH_PASS", "Convolution", "decorrelators", "linkwitz_riley", "low_frequencies"]

LOW_PASS = 120.0  # Hz, of the LFE (ITU-R BS.775)
LFE_GAIN = 10 ** (-10 / 20)  # it is played 10 dB louder
HIGH_PASS = 150.0  # Hz, of the surrounds: bass stays in front
SPREAD = 0.6  # gain of the all-passes
ALL_PASSES = {  # milliseconds: the delay of the channel, then of its all-passes
    "Ls": (12.0, 1.31, 3.67, 6.07),
    "Rs": (12.0, 1.87, 2.83, 7.19),
    "Lb": (15.0, 1.09, 4.13, 6.67),
    "Rb": (15.0, 1.61, 3.29, 7.93),
}


def decorrelators(channels: Iterable[str], sample_rate: int) -> Tensor:
    """Impulse responses (c, m): a delay, a high-pass and a cascade of Schroeder's all-passes, so of flat magnitude.

    The channels of one side share its energy.
    """
    size, names = 1 << round(0.37 * sample_rate).bit_length(), list(channels)
    w = torch.linspace(0, math.pi, size // 2 + 1, dtype=torch.float64)
    rows = []
    for name in names:
        samples = [round(ms * sample_rate / 1000) for ms in ALL_PASSES[name]]
        response = linkwitz_riley(w, HIGH_PASS, sample_rate, high=True) * _delay(w, samples[0])
        for d in samples[1:]:
            response = response * (_delay(w, d) - SPREAD) / (1 - SPREAD * _delay(w, d))
        rows.append(response)
    kernels = torch.fft.irfft(torch.stack(rows), size)[:, : size // 2]
    return kernels / math.sqrt(len(names) / 2)


def low_frequencies(sample_rate: int) -> Tensor:
    """Impulse response (1, 2 m + 1) of what goes to the LFE, m late and else without phase.

    The fronts play the bass, too: with the phase of the analogue filter, opposite at the cutoff, they would cancel it.
    """
    late = round(0.05 * sample_rate)
    size = 1 << (4 * late).bit_length()
    w = torch.linspace(0, math.pi, size // 2 + 1, dtype=torch.float64)
    response = torch.fft.irfft(linkwitz_riley(w, LOW_PASS, sample_rate).abs(), size)
    return LFE_GAIN * response.roll(late)[None, : 2 * late + 1]


def linkwitz_riley(w: Tensor, cutoff: float, sample_rate: int, *, high: bool = False) -> Tensor:
    """Response at w (rad per sample) of a filter of the 4th order: a Butterworth of the 2nd, twice; -6 dB at the cutoff."""
    z, k = _delay(w, 1), math.tan(math.pi * cutoff / sample_rate)
    above = (1 - z).square() if high else k**2 * (1 + z).square()
    below = (1 + math.sqrt(2) * k + k**2) + 2 * (k**2 - 1) * z + (1 - math.sqrt(2) * k + k**2) * z.square()
    return (above / below).square()


def _delay(w: Tensor, samples: int) -> Tensor:
    return torch.polar(torch.ones_like(w), -w * samples)


class Convolution:
    """Convolves consecutive blocks (b, c, t) with one kernel per channel (c, m), as if they were one."""

    def __init__(self, kernels: Tensor) -> None:
        self.kernels = kernels
        self.tail: Tensor | None = None  # (b, c, m - 1), of the blocks so far

    def __call__(self, x: Tensor) -> Tensor:
        t, kernels = x.shape[-1], self.kernels.to(x)
        n = 1 << (t + kernels.shape[-1] - 2).bit_length()
        y = torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(kernels, n), n)[..., : t + kernels.shape[-1] - 1]
        if self.tail is not None:
            y[..., : self.tail.shape[-1]] += self.tail
        self.tail = y[..., t:].clone()
        return y[..., :t]
