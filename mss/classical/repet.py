"""REPET: the accompaniment repeats with a period, the voice does not (Rafii & Pardo 2013; adaptive: Liutkus et al. 2012).

With V = |X|, the beat spectrum is the unbiased autocorrelation of V^2 along time, B(l) = sum_k V^2(k) V^2(k + l) / (K - l),
summed over bins, here of V^2 less its mean, or steady tones hide all beats; its highest peak is the period p. The repeating
background is W = min(V, median_i V(k + i p)), with all i that stay inside the song, or, in the adaptive form, where the
period is p(k), the few nearest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mss.classical._ops import (
    beat_spectrum,
    frames_median,
    period_range,
    repeating_periods,
    vertex,
    voice_and_background,
)

__all__ = ["repet", "repet_adaptive"]


def repet(X: Tensor, *, shortest: int = 43, longest: int = 430, lowest_bin: int = 19) -> Tensor:
    """Magnitudes of the voice and of the background that repeats with one period throughout (Rafii & Pardo 2013).

    Departs from the paper in that the period is a fraction of frames, measured over many repetitions: one that is off by
    a tenth of a frame is off by ten after a hundred of them.

    Args:
        X: (b, c, f, k) complex.
        shortest: least period, frames (43: one second at a hop of 1024 at 44.1 kHz); at most half of what k allows.
        longest: largest period, frames; at most a third of k.
        lowest_bin: all bins below it, but the one at 0 Hz, are background (19: 200 Hz at an n_fft of 4096 at 44.1 kHz; the
            papers have 100 Hz, but bass and drums outweigh what a voice has there).

    Returns:
        V (b, 2, c, f, k): voice, background; they sum to |X|.
    """
    magnitude = X.abs()
    k = magnitude.shape[-1]
    low, high = period_range(k, shortest, longest)
    B = beat_spectrum(magnitude)
    period = _refined(B, repeating_periods(B, low, high)).clamp(low, high)  # (b, 1)
    starts = torch.arange(high + 1, device=X.device)  # the frames of the first repetition
    times = torch.arange(math.ceil(k / low) + 1, device=X.device)
    frames = (starts.unsqueeze(-1) + times * period.unsqueeze(-1)).round().long()  # (b, high + 1, repetitions)
    used = (starts <= period).unsqueeze(-1) & (frames < k)
    pattern = frames_median(magnitude, frames.where(used, -1))
    every = torch.arange(k, device=X.device, dtype=period.dtype)
    phase = (every - ((every + 0.5) / period).floor() * period).round().long().clamp(0, high)  # (b, k)
    b, c, f, _ = magnitude.shape
    background = pattern.gather(-1, phase[:, None, None].expand(b, c, f, k))
    return voice_and_background(magnitude, background, lowest_bin)


def repet_adaptive(
    X: Tensor,
    *,
    shortest: int = 43,
    longest: int = 215,
    order: int = 5,
    window: int = 430,
    step: int = 43,
    lowest_bin: int = 19,
) -> Tensor:
    """Magnitudes of the voice and of the background that repeats with a slowly changing period (Liutkus et al. 2012).

    Args:
        X: (b, c, f, k) complex.
        shortest: least period, frames (43: one second at a hop of 1024 at 44.1 kHz).
        longest: largest period, frames; at most a third of the window.
        order: repetitions to take the median over, the frame itself included; odd.
        window: frames of which each beat spectrum is taken.
        step: frames between two of them.
        lowest_bin: all bins below it, but the one at 0 Hz, are background (19: 200 Hz at an n_fft of 4096 at 44.1 kHz; the
            papers have 100 Hz, but bass and drums outweigh what a voice has there).

    Returns:
        V (b, 2, c, f, k): voice, background; they sum to |X|.
    """
    if order % 2 == 0:
        raise ValueError(f"the frame and as many repetitions before as after it make an odd order, not {order}")
    magnitude = X.abs()
    k = magnitude.shape[-1]
    window = min(window, k)
    low, high = period_range(window, shortest, longest)
    starts = [min(i, k - window) for i in range(0, k - window + step, step)]
    B = torch.stack([beat_spectrum(magnitude[..., i : i + window]) for i in starts], 1)  # (b, windows, lags)
    periods = repeating_periods(B, low, high).squeeze(-1)  # (b, windows)
    every = torch.arange(k, device=X.device)
    nearest = ((every - window // 2).clamp(0, k - window) / step).round().long().clamp_max(len(starts) - 1)
    offsets = torch.arange(order, device=X.device) - order // 2
    frames = (every.unsqueeze(-1) + offsets * periods[:, nearest].unsqueeze(-1)).round().long()  # (b, k, order)
    background = frames_median(magnitude, frames.where((frames >= 0) & (frames < k), -1))
    return voice_and_background(magnitude, background, lowest_bin)


def _refined(B: Tensor, period: Tensor) -> Tensor:
    """Periods (b, 1) measured over many repetitions.

    The peak of B near twice the lag gives half the error, and so on for as long as three quarters of the lags reach.
    """
    k = B.shape[-1]
    for doubling in range(1, k.bit_length()):
        multiple = 2**doubling
        around = (multiple * period).round().long()
        near = around + torch.arange(-1, 2, device=B.device)
        best = B.gather(-1, near.clamp(0, k - 1)).argmax(-1, keepdim=True) - 1 + around
        period = torch.where(4 * best <= 3 * k, vertex(B, best.clamp_max(k - 1)) / multiple, period)
    return period
