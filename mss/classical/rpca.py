"""Robust principal component analysis: the accompaniment is low rank, the voice sparse (Huang et al. 2012).

The magnitudes D of a mixture are taken apart by principal component pursuit (Candès et al. 2011),

    minimise  |A|_* + lambda |E|_1  subject to  A + E = D,      lambda = sparsity / sqrt(max(p, q)),

the sum of the singular values of A and that of the magnitudes of E, by the inexact augmented Lagrangian method (Lin, Chen &
Ma 2010). Where it is known when the voice is silent, E is 0 there (after Chan et al. 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._svd import Shrinkage, largest_singular_value

__all__ = ["principal_component_pursuit", "rpca"]


def rpca(
    X: Tensor,
    *,
    sparsity: float = 1.0,
    lowest_bin: int = 10,
    iterations: int = 40,
    tolerance: float = 0.02,
    activity: Tensor | None = None,
) -> Tensor:
    """Magnitudes of the voice and of the accompaniment; the channels, one above the other, share one background.

    The rank of a song grows with its length: more than some 30 s are for `mss.Chunked`.

    Args:
        X: (b, c, f, k) complex.
        sparsity: factor of lambda; the higher, the less goes to the voice.
        lowest_bin: all bins below it are accompaniment (10: 100 Hz at an n_fft of 4096 at 44.1 kHz).
        iterations: at most.
        tolerance: of A + E = D relative to D, at which an item of the batch is done.
        activity: (b, k) in [0, 1], how likely there is a voice: lambda is divided by it, and at 0 the voice is silent.

    Returns:
        V (b, 2, c, f, k): |E|, |A|; for the filter `softmask`, or `binary_mask`.
    """
    magnitude = X.abs()
    weight = None if activity is None else _inverse(activity.to(magnitude)).unsqueeze(1)  # (b, 1, k)
    A, E = principal_component_pursuit(
        magnitude.flatten(1, 2), sparsity=sparsity, iterations=iterations, tolerance=tolerance, weight=weight
    )
    voice, accompaniment = (part.abs().view_as(magnitude) for part in (E, A))
    low = torch.arange(X.shape[-2], device=X.device).unsqueeze(-1) < lowest_bin
    return torch.stack([voice.masked_fill(low, 0), magnitude.where(low, accompaniment)], 1)


def principal_component_pursuit(
    D: Tensor,
    *,
    sparsity: float = 1.0,
    iterations: int = 100,
    tolerance: float | None = None,
    growth: float = 1.5,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A matrix of low rank A and a sparse one E of which D is the sum (Candès et al. 2011).

    Args:
        D: (b, p, q) real.
        sparsity: lambda is this over the root of the longer side.
        iterations: at most.
        tolerance: of the sum relative to D, at which an item of the batch is done. None: 1e-7 in float64, 1e-5 in float32.
        growth: of the penalty at each iteration, > 1; the slower, the closer to the minimum.
        weight: factors of lambda, > 0, that broadcast to D; infinite ones keep E at 0.

    Returns:
        (A, E), both (b, p, q); they sum to D.
    """
    if tolerance is None:
        tolerance = 1e-7 if D.dtype == torch.float64 else 1e-5
    sparse = sparsity / max(D.shape[-2:]) ** 0.5 * (1 if weight is None else weight)
    tiny = torch.finfo(D.dtype).tiny
    level = largest_singular_value(D).clamp_min(tiny)
    D = D / level
    size = _norm(D).clamp_min(tiny)
    shrink = Shrinkage()
    mu = torch.full_like(level, 1.25)  # the penalty of a matrix whose norm is 1
    A, U = (
        torch.zeros_like(D),
        D / mu / (D.abs() / sparse).amax((-2, -1), keepdim=True).clamp_min(1),
    )  # U: multipliers / mu
    going = torch.ones_like(level, dtype=torch.bool)
    for _ in range(iterations):
        Z = A + (D - A).add_(U).clamp(-sparse / mu, sparse / mu)
        low = shrink(Z, 1 / mu)
        rest = Z - low
        error = _norm(rest - U) / size  # of A + E = D
        if D.shape[0] > 1:  # items that are done stay what they are
            low, rest, step = low.where(going, A), rest.where(going, U), mu.new_tensor(growth).where(going, 1)
        else:
            step = growth
        A, U, mu = low, rest.div_(step), mu * step
        going = going & (error > tolerance)
        if D.device.type != "meta" and not going.any():
            break
    E = D - A + U
    E = E - E.clamp(-sparse / mu, sparse / mu)
    return (D - E) * level, E * level


def _norm(D: Tensor) -> Tensor:
    """Frobenius norm (b, 1, 1)."""
    return torch.linalg.vector_norm(D, dim=(-2, -1), keepdim=True)


def _inverse(activity: Tensor) -> Tensor:
    return 1 / activity  # infinite at 0
