"""REPET-SIM: what repeats is the background (Rafii & Pardo, ISMIR 2012).

Each frame is compared with all others; the median over the frames most similar to it is what they have in common, the
accompaniment; what exceeds it is the voice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._ops import BLOCK, similar_frames

__all__ = ["repet_sim"]


def repet_sim(X: Tensor, *, count: int = 100, distance: int = 43, lowest_bin: int = 10) -> Tensor:
    """Magnitudes of the voice and of the repeating background.

    Args:
        X: (b, c, f, k) complex.
        count: similar frames to take the median over, at most.
        distance: least distance of these frames from one another, frames (43: one second at a hop of 1024 at 44.1 kHz).
        lowest_bin: all bins below it, but the one at 0 Hz, are background (10: 100 Hz at an n_fft of 4096 at 44.1 kHz).

    Returns:
        V (b, 2, c, f, k): voice, background; they sum to |X|.
    """
    magnitude = X.abs()
    frames = similar_frames(magnitude.mean(1), count=count, distance=distance)  # (b, k, count)
    background = torch.minimum(_median_over(magnitude, frames), magnitude)
    background[..., 1:lowest_bin, :] = magnitude[..., 1:lowest_bin, :]
    return torch.stack([magnitude - background, background], 1)


def _median_over(V: Tensor, frames: Tensor) -> Tensor:
    """For each frame the median of V (b, c, f, k) over its `frames` (b, k, count); -1 counts for none."""
    b, c, f, k = V.shape
    count = frames.shape[-1]
    out = torch.empty_like(V)
    step = max(BLOCK // (b * c * f * count), 1)
    for start in range(0, k, step):
        index = frames[:, start : start + step]  # (b, s, count)
        gathered = V.flatten(1, 2).gather(-1, index.clamp_min(0).flatten(1).unsqueeze(1).expand(-1, c * f, -1))
        gathered = gathered.unflatten(-1, index.shape[1:])  # (b, c * f, s, count)
        gathered = gathered.masked_fill((index < 0).unsqueeze(1), torch.inf).sort(-1).values
        found = (index >= 0).sum(-1)  # (b, s); the median of an even number is the mean of the middle two
        middle = torch.stack([(found - 1) // 2, found // 2], -1).unsqueeze(1).expand(-1, c * f, -1, -1)
        out[..., start : start + step] = gathered.gather(-1, middle).mean(-1).unflatten(1, (c, f))
    return out
