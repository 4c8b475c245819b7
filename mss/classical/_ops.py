"""What several classical methods share: running medians, nearest frames."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BLOCK", "median_filter", "similar_frames"]

BLOCK = 2**24  # elements of a temporary; bounds the memory


def median_filter(x: Tensor, size: int, dim: int) -> Tensor:
    """Running median of odd length along one axis; the edges are mirrored with the edge sample repeated (as SciPy's "reflect").

    Args:
        x: real.
        size: odd, samples of the axis.
        dim: the axis.
    """
    if size % 2 == 0:
        raise ValueError(f"a median filter needs an odd length, or it shifts by half a sample; got {size}")
    x = x.movedim(dim, -1)
    index = torch.arange(-(size // 2), x.shape[-1] + size // 2, device=x.device) % (2 * x.shape[-1])
    index = torch.minimum(index, 2 * x.shape[-1] - 1 - index)  # mirrored, however short the axis
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(rows)
    for part, result in zip(*(t.split(max(BLOCK // (size * x.shape[-1]), 1)) for t in (rows, out)), strict=True):
        result.copy_(part[:, index].unfold(-1, size, 1).median(-1).values)
    return out.view_as(x).movedim(-1, dim)


def similar_frames(V: Tensor, *, count: int, distance: int) -> Tensor:
    """For each frame the frames most like it by cosine similarity, at least `distance` frames from one another.

    Args:
        V: (b, f, k) real >= 0.
        count: frames to return for each, itself included; fewer where there are not as many.
        distance: frames.

    Returns:
        (b, k, count) indices; where fewer were found, -1.
    """
    b, _, k = V.shape
    unit = V / V.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(V.dtype).tiny)
    count = min(count, k)
    found = torch.full((b, k, count), -1, dtype=torch.long, device=V.device)
    rows = max(BLOCK // k, 1)
    for start in range(0, k, rows):
        similarity = unit[..., start : start + rows].transpose(1, 2) @ unit  # (b, rows, k)
        own = torch.arange(start, min(start + rows, k), device=V.device)
        similarity[:, own - start, own] = torch.inf  # the frame itself comes first, even in silence
        peaks = torch.nn.functional.max_pool1d(similarity, 2 * distance + 1, 1, distance) == similarity
        values, indices = similarity.where(peaks, -torch.inf).topk(count, -1)
        found[:, start : start + rows] = indices.where(values > -torch.inf, -1)
    return found
