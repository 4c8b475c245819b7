"""Local Gaussian model: full-rank spatial covariances by expectation-maximisation (Duong, Vincent & Gribonval 2010).

The image of source j in a bin is Gaussian of covariance v_j(f, k) R_j(f): a power that changes with time, times a covariance
of the channels that does not and that may have all directions in it, as reverberation has. The mixture's covariance is
the sum of these. The expectation step gives the posterior mean and covariance C_j of each image, the maximisation step
v_j = tr(R_j^-1 C_j) / c and R_j = mean_k C_j / v_j.

With S the inverse covariance of the mixture x, y = S x and B = y y^H - S, the two steps are

    v_j' = v_j (1 + v_j tr(B R_j) / c),    R_j' = R_j mean_k(v_j / v_j') + R_j mean_k(B v_j^2 / v_j') R_j:

no R_j is inverted, so a source panned to a point (R_j of rank one) does no harm. Hermitian matrices are kept as real
vectors (`_covariances.pack`), which makes all sums over sources and frames real matrix products.

Inside this module: x (b, f, c, k) complex, v (b, f, n, k) powers, R (b, f, n, c^2) packed covariances of trace c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._covariances import (
    double,
    frequency_blocks,
    inverse_and_logdet,
    level,
    outer,
    pack,
    product,
    require_channels,
    spatial_start,
    unpack,
)

__all__ = ["em_step", "lgm", "log_likelihood", "posterior_means"]

FLOOR = 1e-12  # least power, relative to the mean power of the bin: inaudible, and what is not 0 can grow again


def lgm(V: Tensor, X: Tensor, *, iterations: int = 10, spread: float = 0.2, noise: float = 1e-6) -> Tensor:
    """Refines any source model with full-rank spatial covariances by EM (Duong, Vincent & Gribonval 2010).

    The powers and covariances start from the estimates that `softmask` makes of V; each bin is a problem of its own, so
    which source is which is decided by V alone. The likelihood never falls. Departs from the paper in the start, there
    a clustering in each bin, and in a white noise in the mixture, without which covariances of rank one would never change.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex mixture, two channels or more.
        iterations: 0 filters with the start.
        spread: share of the mixture's power that all sources have alike at the start.
        noise: power of the noise, relative to each bin's; in the end every source gets an equal part of it.

    Returns:
        Y (b, n, c, f, k), which sum to the mixture.
    """
    require_channels(X, "lgm")
    scale = level(X)  # (b, 1, f, 1)
    Y = torch.empty_like(V, dtype=X.dtype)
    for part in frequency_blocks(X):
        x = double(X[:, :, part] / scale[:, :, part])
        v, R = spatial_start(V[:, :, :, part], x, spread=spread)
        x, v = x.transpose(1, 2), v.clamp_min(FLOOR)  # (b, f, c, k), (b, f, n, k)
        for _ in range(iterations):
            v, R = em_step(v, R, x, noise)
        y = posterior_means(v, R, x, noise).movedim(1, 3)  # (b, n, c, f, k)
        Y[:, :, :, part] = y.to(Y.dtype) * scale[:, :, part].unsqueeze(1)
    return Y


def em_step(v: Tensor, R: Tensor, x: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """One step of EM: new v (b, f, n, k) and R (b, f, n, c^2); first the best v for the R there is, then the best R."""
    c = x.shape[2]
    S, y, _ = _whitened(v, R, x, noise)
    B = outer(y) - S  # (b, f, c^2, k)
    new = (v * (1 + v * (R @ B) / c)).clamp_min(FLOOR)
    weighted = unpack((v.square() / new) @ B.mT / x.shape[-1])  # (b, f, n, c, c)
    matrix = unpack(R)
    R = R * (v / new).mean(-1, keepdim=True) + pack(matrix @ weighted @ matrix)
    size = R[..., :c].mean(-1, keepdim=True)
    return new * size, R / size


def posterior_means(v: Tensor, R: Tensor, x: Tensor, noise: float) -> Tensor:
    """The images (v_j R_j + noise / n) y, y = S x: (b, f, n, c, k), which sum to x."""
    _, y, _ = _whitened(v, R, x, noise)
    return v.unsqueeze(3) * (unpack(R) @ y.unsqueeze(2)) + noise / v.shape[2] * y.unsqueeze(2)


def log_likelihood(v: Tensor, R: Tensor, x: Tensor, noise: float) -> Tensor:
    """Sum over bins and frames of -x^H S x - log det S^-1, (b,): up to a constant the log-likelihood."""
    _, y, logdet = _whitened(v, R, x, noise)
    return -((x.conj() * y).real.sum(2) + logdet).sum((1, 2))


def _whitened(v: Tensor, R: Tensor, x: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """S (b, f, c^2, k) packed, y = S x (b, f, c, k), and log det S^-1 (b, f, k)."""
    covariance = R.mT @ v  # (b, f, c^2, k)
    covariance[:, :, : x.shape[2]] += noise
    S, logdet = inverse_and_logdet(covariance)
    return S, product(S, x), logdet
