"""k-means of weighted points (Lloyd 1982) from k-means++ (Arthur & Vassilvitskii 2007), and how many clusters there are.

A batch at a time, each item as if it were alone, and without waiting for the device. The number of clusters is the one
of the highest simplified silhouette (Vendramin, Campello & Hruschka 2010): the weighted mean of 1 - a/b, where a and b are
the distances of a point to the nearest and the second nearest centre.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["centres_of", "kmeans", "silhouette", "squared_distances"]


def kmeans(
    points: Tensor, weights: Tensor, clusters: int, *, seed: int = 0, iterations: int = 20, restarts: int = 3
) -> tuple[Tensor, Tensor]:
    """The best of `restarts` runs.

    Args:
        points: (b, p, d).
        weights: (b, p), >= 0; points of weight 0 do not count.
        clusters: how many, m.
        seed: of k-means++; all items start from the same random numbers.
        iterations: of Lloyd's algorithm.
        restarts: runs from other starts.

    Returns:
        centres (b, m, d), and the weighted sum of squared distances to them (b,).
    """
    draws = torch.rand(restarts, clusters, generator=torch.Generator().manual_seed(seed), device="cpu")
    draws = draws.to(points, non_blocking=True)
    weights = weights / weights.amax(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)  # sums in any range
    best: tuple[Tensor, Tensor] | None = None
    for draw in draws:
        centres = _spread(points, weights, draw)
        for _ in range(iterations):
            centres = _moved(points, weights, centres)
        inertia = (weights * squared_distances(points, centres).amin(-1)).sum(-1)
        if best is None:
            best = centres, inertia
        else:
            better = inertia < best[1]
            best = torch.where(better[:, None, None], centres, best[0]), torch.where(better, inertia, best[1])
    return best


def centres_of(points: Tensor, weights: Tensor, most: int, clusters: int | None, *, seed: int) -> tuple[Tensor, Tensor]:
    """Centres (b, most, d), and which of them are used (b, most); `clusters` None: from 2 to `most`, as the silhouette says."""
    counts = range(min(2, most), most + 1) if clusters is None else (clusters,)
    found = [kmeans(points, weights, count, seed=seed)[0] for count in counts]
    padded = torch.stack(
        [F.pad(centres, (0, 0, 0, most - centres.shape[1])) for centres in found], 1
    )  # (b, m, most, d)
    used = torch.stack([torch.arange(most, device=points.device) < count for count in counts])  # (m, most)
    if len(found) == 1:
        return padded[:, 0], used.expand(len(points), -1)
    best = torch.stack([silhouette(points, weights, centres) for centres in found], 1).argmax(1)  # (b,)
    return padded.gather(1, best.view(-1, 1, 1, 1).expand(-1, 1, *padded.shape[2:])).squeeze(1), used[best]


def silhouette(points: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """(b,), from 0 (every point between two centres) to 1 (every point on a centre)."""
    tiny = torch.finfo(points.dtype).tiny
    near, next_ = squared_distances(points, centres).topk(2, largest=False).values.sqrt().unbind(-1)
    return (weights * (1 - near / next_.clamp_min(tiny))).sum(-1) / weights.sum(-1).clamp_min(tiny)


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """(b, p, d), (b, m, d) -> (b, p, m)."""
    inner = points @ centres.mT
    return (points.square().sum(-1, keepdim=True) - 2 * inner + centres.square().sum(-1).unsqueeze(1)).clamp_min(0)


def _spread(points: Tensor, weights: Tensor, draw: Tensor) -> Tensor:
    """First centres (b, m, d): points drawn one by one, the likelier the farther they are from those drawn before."""
    chance, centres = weights, []
    for j, u in enumerate(draw):
        total = chance.cumsum(-1)
        index = torch.searchsorted(total, u * total[:, -1:], right=True).clamp_max(points.shape[1] - 1)  # (b, 1)
        centres.append(points.gather(1, index.unsqueeze(-1).expand(-1, -1, points.shape[-1])))
        farther = weights * squared_distances(points, centres[-1]).squeeze(-1)
        chance = farther if j == 0 else torch.minimum(chance, farther)
    return torch.cat(centres, 1)


def _moved(points: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """Each centre in the middle of the points nearest to it; where there are none, where it was."""
    closeness = (
        centres @ points.mT - centres.square().sum(-1, keepdim=True) / 2
    )  # (b, m, p); far quicker than an argmin
    members = torch.where(closeness == closeness.amax(1, keepdim=True), weights.unsqueeze(1), 0)  # ties: of both
    mass = members.sum(-1, keepdim=True)  # (b, m, 1)
    return torch.where(mass > 0, members @ points / mass.clamp_min(torch.finfo(mass.dtype).tiny), centres)
