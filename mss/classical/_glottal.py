"""Dictionaries of a singing voice: spectra of the glottis for each pitch, and bumps of which smooth filters are sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["f0_grid", "glottal_combs", "klglott88", "smooth_bumps"]


def f0_grid(lowest: float, highest: float, steps: int) -> Tensor:
    """Fundamental frequencies (u,) in Hz, `steps` to the semitone, in double precision."""
    count = math.floor(12 * steps * math.log2(highest / lowest) + 1e-9) + 1
    return lowest * 2 ** (torch.arange(count, dtype=torch.float64) / (12 * steps))


def klglott88(partial: Tensor, open_quotient: float) -> Tensor:
    """Complex amplitudes of partials 1, 2, ... of the glottal flow's derivative (Klatt & Klatt 1990), up to a scale.

    The flow is t^2 (Oq - t) while the glottis is open, for the share `open_quotient` (Oq) of a period, and 0 after.
    """
    a = 2j * math.pi * open_quotient * partial
    closing = torch.exp(-a)
    return (closing + 2 * (1 + 2 * closing) / a - 6 * (1 - closing) / a.square()) / a


def glottal_combs(f0: Tensor, *, bins: int, sample_rate: int, open_quotient: float) -> Tensor:
    """Power spectra (f, u) of glottal pulse trains at `f0` (u,) Hz, windowed by Hann, the peak of each 1.

    Of the partials only the three nearest to a bin count: the next are at least one and a half f0 away, where the window
    has died out for any f0 of four bins or more.
    """
    width = sample_rate / (2 * (bins - 1))  # Hz of a bin
    spacing = f0 / width  # bins
    bin = torch.arange(bins, dtype=f0.dtype).unsqueeze(-1)  # (f, 1)
    nearest = (bin / spacing).round()  # (f, u)
    amplitude = torch.zeros(bins, len(f0), dtype=f0.dtype.to_complex())
    for neighbour in (-1, 0, 1):
        partial = nearest + neighbour
        inside = (partial >= 1) & (partial * f0 <= sample_rate / 2)
        c = klglott88(partial.clamp_min(1), open_quotient)
        amplitude += torch.where(inside, c * _hann_transform(bin - partial * spacing), 0)
    power = amplitude.real.square() + amplitude.imag.square()
    return power / power.amax(0)


def smooth_bumps(bins: int, count: int) -> Tensor:
    """(f, p): Hann bumps from 0 Hz to half the sample rate, each overlapped by the next by 75 %; floor 1e-12."""
    centre = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    distance = (torch.linspace(0, 1, bins, dtype=torch.float64).unsqueeze(-1) - centre) * count / 2  # 1 at the edge
    return ((1 + torch.cos(math.pi * distance.clamp(-1, 1))) / 2).clamp_min(1e-12)


def _hann_transform(x: Tensor) -> Tensor:
    """Spectrum of a Hann window about its middle, x bins from its peak of 1."""
    pole = (x.square() - 1).abs() < 1e-6
    return torch.where(pole, 0.5, torch.sinc(x) / torch.where(pole, 1, 1 - x.square()))
