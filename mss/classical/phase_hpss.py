"""Harmonic/percussive separation by phase (Cano, Plumbley & Dittmar 2014).

The phase of a bin whose sound is a steady partial advances from frame to frame by 2 pi (f + d) hop / n_fft, d its distance
from the middle of the bin f. At a peak of the magnitudes that distance is below half a bin, or it is no partial; and a
partial lasts longer than the window, in which one click gives all frames the same phase.
"""

from __future__ import annotations

import math
from functools import reduce
from operator import and_, or_

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["phase_hpss"]


def phase_hpss(
    X: Tensor, *, hop: int = 512, tolerance: float = 0.7, frames: int = 9, width: int = 2, floor: float = -70.0
) -> Tensor:
    """Magnitudes of the harmonic and the percussive part.

    Departs from the paper in its decision, by how far the phase is from the expected one: here also by how long.

    Args:
        X: (b, c, f, k) complex, all bins of a Fourier transform.
        hop: samples between its frames; an eighth of its length or less, as no distance above n_fft / (2 hop) shows.
        tolerance: distance from the middle of its bin up to which a peak is a partial, bins.
        frames: that a partial lasts at least; n_fft / hop + 1, or clicks pass for partials.
        width: bins on either side of a partial that are harmonic, too.
        floor: level of the least peak relative to the loudest bin of its frame, dB.

    Returns:
        V (b, 2, c, f, k): harmonic, percussive; each bin belongs to one of them.
    """
    if frames < 1 or width < 0:
        raise ValueError(f"frames must be at least 1 and width at least 0, not {frames} and {width}")
    magnitude = X.abs()
    partial = _is_peak(magnitude, 10 ** (floor / 20)) & (_distance(X, hop).abs() < tolerance)
    lasting = _near(_shifted(partial, -2, 1, 1, or_), frames)
    harmonic = _shifted(partial & lasting, -2, width, width, or_)
    return torch.stack([magnitude.where(harmonic, 0), magnitude.where(~harmonic, 0)], 1)


phase_hpss.context = lambda *, frames, **_: frames + 1


def _is_peak(magnitude: Tensor, floor: float) -> Tensor:
    """Where a bin (..., f, k) is above both its neighbours, and not too far below the loudest one of the frame."""
    low, middle, high = (F.pad(magnitude, (0, 0, 1, 1))[..., i : i + magnitude.shape[-2], :] for i in range(3))
    return (middle > low) & (middle >= high) & (middle > floor * magnitude.amax(-2, keepdim=True))


def _distance(X: Tensor, hop: int) -> Tensor:
    """By how many bins the frequency in each bin lies above its middle, from the advance of phase; of the first frame, 0."""
    n_fft = 2 * (X.shape[-2] - 1)
    bins = torch.arange(X.shape[-2], device=X.device, dtype=X.real.dtype).unsqueeze(-1)
    cycles = X.angle().diff(dim=-1) / (2 * math.pi) - bins * hop % n_fft / n_fft
    return F.pad((cycles - cycles.round()) * (n_fft / hop), (1, 0))


def _near(mask: Tensor, frames: int) -> Tensor:
    """Where a mask (..., k) is part of a run of at least so many frames: its morphological opening."""
    starts = _shifted(F.pad(mask, (frames - 1, frames - 1)), -1, 0, frames - 1, and_)
    return _shifted(starts, -1, frames - 1, 0, or_)[..., frames - 1 : frames - 1 + mask.shape[-1]]


def _shifted(mask: Tensor, dim: int, before: int, after: int, join) -> Tensor:
    """Joins each element with those up to `before` before it and up to `after` after it; there are none past the ends."""
    size = mask.shape[dim]
    padding = [0, 0] * (-dim - 1) + [before, after]
    padded = F.pad(mask, padding)
    return reduce(join, (padded.narrow(dim, i, size) for i in range(before + after + 1)))
