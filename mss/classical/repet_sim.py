"""REPET-SIM: what repeats is the background (Rafii & Pardo, ISMIR 2012).

Each frame is compared with all others; the median over the frames most similar to it is what they have in common, the
accompaniment; what exceeds it is the voice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._ops import frames_median, similar_frames, voice_and_background

__all__ = ["repet_sim"]


def repet_sim(
    X: Tensor,
    *,
    count: int = 100,
    distance: int = 43,
    lowest_bin: int = 19,
    compression: float = 0.5,
    flatten: bool = True,
) -> Tensor:
    """Magnitudes of the voice and of the repeating background.

    In the paper frames are compared by their magnitudes (compression 1, not flattened). There the loudest bins decide,
    those of a loud voice among them, and all frames are alike in what never changes.

    Args:
        X: (b, c, f, k) complex.
        count: similar frames to take the median over, at most.
        distance: least distance of these frames from one another, frames (43: one second at a hop of 1024 at 44.1 kHz).
        lowest_bin: all bins below it, but the one at 0 Hz, are background (19: 200 Hz at an n_fft of 4096 at 44.1 kHz; the
            papers have 100 Hz, but bass and drums outweigh what a voice has there).
        compression: exponent of the magnitudes that are compared.
        flatten: compares how far each bin is from its mean, as a share of that.

    Returns:
        V (b, 2, c, f, k): voice, background; they sum to |X|.
    """
    magnitude = X.abs()
    compared = magnitude.mean(1).pow(compression)
    if flatten:
        mean = compared.mean(-1, keepdim=True)
        compared = torch.where(mean > 0, compared / torch.where(mean > 0, mean, 1) - 1, 0)
    frames = similar_frames(compared, count=count, distance=distance)  # (b, k, count)
    return voice_and_background(magnitude, frames_median(magnitude, frames), lowest_bin)
