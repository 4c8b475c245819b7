"""2DFT: what repeats makes peaks in the two-dimensional Fourier transform of the spectrogram (Seetharaman et al. 2017).

Along time the magnitudes |X| are transformed into *rates*, along frequency into *scales*. Background are the peaks along
rate, foreground is the rest; both are transformed back, and each bin's magnitude is shared out between them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from mss.classical._ops import BLOCK, voice_and_background

__all__ = ["ft2d"]


def ft2d(X: Tensor, *, neighbourhood: int = 25, binary: bool = False, lowest_bin: int = 19) -> Tensor:
    """Magnitudes of the voice and of the repeating background (Seetharaman, Pishdadian & Pardo, WASPAA 2017).

    A value is a peak where none within the neighbourhood is higher, and the least of these lower by more than the standard
    deviation of all.

    Args:
        X: (b, c, f, k) complex.
        neighbourhood: rates that a peak is compared with, itself included; odd.
        binary: each bin whole to the larger part, as in the paper, in place of shares, where negative parts count as 0.
        lowest_bin: all bins below it, but the one at 0 Hz, are background (19: 200 Hz at an n_fft of 4096 at 44.1 kHz; the
            papers have 100 Hz, but bass and drums outweigh what a voice has there).

    Returns:
        V (b, 2, c, f, k): voice, background; they sum to |X|.
    """
    if neighbourhood % 2 == 0:
        raise ValueError(f"a neighbourhood around a rate has an odd length, not {neighbourhood}")
    V = X.abs()
    D = torch.fft.rfft2(V, dim=(-1, -2))  # half of the scales, all rates
    D = D * _peaks(D.abs(), V.shape[-2], neighbourhood)
    background = torch.fft.irfft2(D, s=V.shape[:-3:-1], dim=(-1, -2))
    foreground = V - background
    if binary:
        background = V.where(background > foreground, 0)
    else:
        background, foreground = background.clamp_min(0), foreground.clamp_min(0)
        total = background + foreground
        background = V * (background / torch.where(total > 0, total, 1))
    return voice_and_background(V, background, lowest_bin)


def _peaks(size: Tensor, scales: int, neighbourhood: int) -> Tensor:
    """Where |D| (b, c, scales // 2 + 1, rates) has a peak along rate, which goes round in a circle."""
    twice = torch.full((size.shape[-2], 1), 2.0, dtype=size.dtype, device=size.device)  # the half that is left out
    twice[0] = 1
    if scales % 2 == 0:
        twice[-1] = 1
    count = scales * size.shape[-1]
    scale = size.amax((-1, -2), keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    unit = size / scale
    mean = (unit * twice).sum((-1, -2), keepdim=True) / count
    deviation = ((unit - mean).square() * twice).sum((-1, -2), keepdim=True).div(count).sqrt()
    half = min(neighbourhood // 2, size.shape[-1] - 1)
    out = torch.empty_like(size, dtype=torch.bool)
    for i in range(0, size.shape[-2], step := max(BLOCK // size[..., :1, :].numel(), 1)):
        own = unit[..., i : i + step, :]
        around = torch.cat([own[..., own.shape[-1] - half :], own, own[..., :half]], -1).flatten(0, -2).unsqueeze(1)
        high = max_pool1d(around, 2 * half + 1, 1).view_as(own)
        low = -max_pool1d(-around, 2 * half + 1, 1).view_as(own)
        out[..., i : i + step, :] = (own == high) & (high - low > deviation)
    return out
