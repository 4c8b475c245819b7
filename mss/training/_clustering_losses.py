"""Losses of embeddings: deep clustering, plain and whitened."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mss.training.step import Step

__all__ = ["deep_clustering", "deep_clustering_whitened"]

RIDGE = 1e-4  # of VᵀV, whose trace is 1


def deep_clustering(
    step: Step, *, weights: Literal["magnitude", "equal"] = "magnitude", active: float = 40.0
) -> Tensor:
    """‖VVᵀ - YYᵀ‖² (Hershey et al. 2016): embeddings of a bin pair alike where one source dominates both, else orthogonal.

    A weighted mean over pairs of bins, from 0 to 1, computed from d x d matrices: nothing of size p x p is made.

    Args:
        step: of an estimator with embeddings; the sources must be all that sounds.
        weights: of the bins: their magnitude in the mixture, or all the same.
        active: dB below the item's loudest bin, from where on bins count nothing.
    """
    V, Y = _weighted(step, weights, active)
    with torch.autocast(V.device.type, enabled=False):  # small differences of large sums
        squares = [(a.mT @ b).square().sum((1, 2)) for a, b in ((V, V), (V, Y), (Y, Y))]
    return (squares[0] - 2 * squares[1] + squares[2]).mean()


def deep_clustering_whitened(
    step: Step, *, weights: Literal["magnitude", "equal"] = "magnitude", active: float = 40.0
) -> Tensor:
    """d - tr((VᵀV)⁻¹ VᵀY (YᵀY)⁻¹ YᵀV) (Wang, Le Roux & Hershey 2018), as k-means sees it; options as in `deep_clustering`.

    From d - n, where n sources are told apart, to d.
    """
    V, Y = _weighted(step, weights, active)
    with torch.autocast(V.device.type, enabled=False):
        mass = Y.square().sum(1).unsqueeze(1)  # (b, 1, n), the diagonal of YᵀY
        VY = V.mT @ Y  # (b, d, n)
        VV = V.mT @ V + RIDGE * torch.eye(V.shape[-1], dtype=V.dtype, device=V.device)
        factor = torch.linalg.cholesky_ex(VV).L
        explained = torch.linalg.solve_triangular(factor, VY, upper=False).square()  # (b, d, n)
        present = mass > 0
        explained = torch.where(present, explained / torch.where(present, mass, 1), 0).sum((1, 2))
    return (V.shape[-1] - explained).mean()


def _weighted(step: Step, weights: str, active: float) -> tuple[Tensor, Tensor]:
    """Embeddings (b, p, d) and one-hot dominant sources (b, p, n), both times the root of weights of sum 1."""
    V = step.embeddings
    V = V.to(torch.promote_types(V.dtype, torch.float32))
    _, n, c, f, k = step.S.shape
    bins, over = divmod(V.shape[1], c * k)
    if over or bins > f:
        raise ValueError(f"embeddings of {V.shape[1]} bins do not fit {c} channels x {f} bins x {k} frames")
    S = step.S[..., :bins, :].abs().flatten(2)  # (b, n, p), p in the order (c, f, k)
    Y = S.argmax(1).unsqueeze(-1) == torch.arange(n, device=V.device)  # (b, p, n)
    w = step.X[..., :bins, :].abs().flatten(1)  # (b, p)
    w = torch.where(w > w.amax(1, keepdim=True) * 10 ** (-active / 20), w, 0)
    if weights == "equal":
        w = (w > 0).to(w)
    elif weights != "magnitude":
        raise ValueError(f"weights must be 'magnitude' or 'equal', not {weights!r}")
    w = w / w.amax(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    root = (w / w.sum(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)).sqrt().unsqueeze(-1)
    return root.to(V) * V, root.to(V) * Y
