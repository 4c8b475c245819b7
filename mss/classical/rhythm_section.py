"""Drums, bass and the rest of an accompaniment, by where in frequency each is loud and by how percussive a bin is.

Median-filter HPSS (FitzGerald 2010) with a prior over frequency. Between 250 Hz and 4 kHz a band plays more notes than drum
hits, and what looks percussive there is half of the time the start of a note; above it there are mostly cymbals, however
steady they sound, and below 50 Hz mostly the kick. So the percussive part P counts g(f) times as much against the harmonic
part H, and the harmonic rest is the bass's below its crossover:

    M_drums = (g P)^p / ((g P)^p + H^p),    M_bass = (1 - M_drums) / (1 + (f / f_b)^s).

The constants are those that 23 excerpts of music suggest (energy of true stems by band and by P / H), rounded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mss.classical._ops import median_filter

__all__ = ["rhythm_section"]

GAINS = ((50.0, -6.0), (230.0, -8.0), (4000.0, 24.0))  # edges, Hz, and the steps of g there, dB; 6 dB below the first
LOWEST = 6.0  # dB, of g at 0 Hz
WIDTH = 0.17  # octaves over which a step is taken
LEAST = 1e-15  # magnitude; so that neither H / P nor its slope overflows


def rhythm_section(
    X: Tensor,
    *,
    sample_rate: int = 44100,
    time_kernel: int = 17,
    frequency_kernel: int = 31,
    power: float = 1.4,
    crossover: float = 185.0,
    slope: float = 5.8,
) -> Tensor:
    """Magnitudes of drums, bass and other.

    Args:
        X: (b, c, f, k) complex, an accompaniment; f bins from 0 to half the sampling rate.
        sample_rate: Hz.
        time_kernel, frequency_kernel: lengths of the medians, frames and bins; odd.
        power: exponent of the masks.
        crossover: Hz, at which bass and other share alike what is harmonic.
        slope: exponent with which the bass's share falls.

    Returns:
        V (b, 3, c, f, k): drums, bass, other; they sum to |X|.
    """
    magnitude = X.abs()
    f = torch.linspace(0, sample_rate / 2, X.shape[2], dtype=magnitude.dtype, device=X.device).unsqueeze(-1)
    H, P = (median_filter(magnitude, size, dim) for size, dim in ((time_kernel, -1), (frequency_kernel, -2)))
    H, P = (x.clamp_min(LEAST) for x in (H, _gain(f) * P))  # of nothing, both have half
    drums = magnitude / (1 + (H / P).pow(power))
    harmonic = magnitude - drums
    bass = harmonic / (1 + (f / crossover).pow(slope))
    return torch.stack([drums, bass, harmonic - bass], 1)


rhythm_section.context = lambda *, time_kernel, **_: time_kernel // 2


def _gain(f: Tensor) -> Tensor:
    octaves = f.clamp_min(1).log2()
    decibels = LOWEST + sum(step * ((octaves - math.log2(edge)) / WIDTH).sigmoid() for edge, step in GAINS)
    return 10 ** (decibels / 20)
