"""Multichannel non-negative matrix factorisation with full-rank spatial covariances (Sawada et al. 2013).

The image of source j in a bin is Gaussian of covariance (T_j U_j)(f, k) R_j(f): its powers are a few spectra T_j with
activations U_j, its spatial covariance is free. The factors that make the mixture likely are found by multiplicative updates,
each the minimum of an upper bound of the cost (sum over bins and frames of x^H S x - log det S, S the inverse covariance of the
mixture), so the cost never rises:

    T <- T (sum_k U tr(A R) / sum_k U tr(S R))^(1/2),  U likewise over f,  R <- P^-1 # R Q R,

A = S x x^H S, P = sum_k (T U) S, Q = sum_k (T U) A, and # the geometric mean, the solution of R' P R' = R Q R.

Inside this module: x (b, f, c, k) complex, T (b, f, n, a), U (b, n, a, k), R (b, f, n, c^2), packed
(`_covariances.pack`), of trace c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._covariances import (
    double,
    frequency_blocks,
    inverse_and_logdet,
    level,
    nmf_start,
    outer,
    pack,
    product,
    require_channels,
    unpack,
)

__all__ = ["cost", "mnmf", "update"]

QUIET = 0.03  # least level of a bin, relative to the item's: U hears all bins alike, and rounding errors are not music
FLOOR = 1e-12  # least entry of T and U, where a bin has power 1: inaudible, and what is not 0 can grow again


def mnmf(
    V: Tensor,
    X: Tensor,
    *,
    components: int = 8,
    iterations: int = 5,
    spread: float = 0.0,
    noise: float = 1e-6,
    seed: int = 0,
) -> Tensor:
    """Refines any source model by multichannel NMF with full-rank covariances (Sawada et al. 2013).

    The factors start from an NMF of the powers of the estimates that `softmask` makes of V, the covariances from theirs; so V
    decides which source is which. The paper starts blindly and lets components find their source; here each belongs to one.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex mixture, two channels or more.
        components: spectra per source.
        iterations: of all three updates; 0 filters with the start.
        spread: share of the mixture's power that all sources have alike at the start.
        noise: power of a white noise in the mixture, relative to each bin's; in the end every source gets an equal part.
        seed: of the random numbers from which the NMF starts.

    Returns:
        Y (b, n, c, f, k), which sum to the mixture.
    """
    require_channels(X, "mnmf")
    scale = level(X, QUIET)  # (b, 1, f, 1)
    x = (X / scale).transpose(1, 2)  # (b, f, c, k)
    T, U, R = nmf_start(V, X / scale, components=components, spread=spread, seed=seed)
    blocks = frequency_blocks(X)
    for _ in range(iterations):
        T, U, R = update(T, U, R, x, noise, blocks)
    Y = torch.empty_like(V, dtype=X.dtype)
    for part in blocks:
        v = _powers(T[:, part], U)
        _, y, _ = _whitened(v, R[:, part], x[:, part], noise)
        y = y.unsqueeze(2)  # (b, f, 1, c, k)
        y = v.unsqueeze(3) * (unpack(R[:, part]) @ y) + noise / v.shape[2] * y
        Y[:, :, :, part] = y.movedim(1, 3).to(Y.dtype) * scale[:, :, part].unsqueeze(1)
    return Y


def update(
    T: Tensor, U: Tensor, R: Tensor, x: Tensor, noise: float, blocks: list[slice]
) -> tuple[Tensor, Tensor, Tensor]:
    """One update of T, then of U, then of R; the cost falls with each."""
    T, R, up, down = T.clone(), R.clone(), 0, 0
    for part in blocks:
        observed, modelled = _traces(T[:, part], U, R[:, part], x[:, part], noise)
        up_T, down_T = (torch.einsum("bfnk,bnak->bfna", t, U) for t in (observed, modelled))
        T[:, part] = (T[:, part] * _root(up_T, down_T)).clamp_min(FLOOR)
        observed, modelled = _traces(T[:, part], U, R[:, part], x[:, part], noise)
        up = up + torch.einsum("bfnk,bfna->bnak", observed, T[:, part])
        down = down + torch.einsum("bfnk,bfna->bnak", modelled, T[:, part])
    U = (U * _root(up, down)).clamp_min(FLOOR)
    for part in blocks:
        v = _powers(T[:, part], U)
        S, y, _ = _whitened(v, R[:, part], x[:, part], noise)
        P, Q, old = unpack(v @ S.mT), unpack(v @ outer(y).mT), unpack(R[:, part])  # (b, f, n, c, c)
        new = pack(riccati(P, old @ Q @ old))
        size = new[..., : x.shape[2]].mean(-1, keepdim=True)
        R[:, part] = torch.where(size > 0, new / torch.where(size > 0, size, 1), R[:, part])
        T[:, part] = (T[:, part] * size).clamp_min(FLOOR)
    return T, U, R


def cost(T: Tensor, U: Tensor, R: Tensor, x: Tensor, noise: float) -> Tensor:
    """Sum over bins and frames of x^H S x - log det S, (b,): what the updates let fall."""
    _, y, logdet = _whitened(_powers(T, U), R, x, noise)
    return ((x.conj() * y).real.sum(2) + logdet).sum((1, 2))


def riccati(P: Tensor, G: Tensor) -> Tensor:
    """The positive semidefinite H with H P H = G, for Hermitian P > 0 and G >= 0, (..., c, c)."""
    L = torch.linalg.cholesky_ex(P).L
    root = _matrix_root(L.mH @ G @ L)
    half = torch.linalg.solve_triangular(L.mH, root, upper=True)  # L^-H (L^H G L)^(1/2) L^-1 = P^-1 # G
    return torch.linalg.solve_triangular(L, half, upper=False, left=False)


def _matrix_root(M: Tensor) -> Tensor:
    """Square root of positive semidefinite (..., c, c); in closed form for two channels."""
    if M.shape[-1] > 2:
        values, vectors = torch.linalg.eigh(M)
        return (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mH
    det = (M[..., 0, 0] * M[..., 1, 1]).real - M[..., 0, 1].abs().square()
    d = det.clamp_min(0).sqrt()
    trace = M.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    shifted = M + torch.diag_embed(torch.stack([d, d], -1))
    return shifted / (trace + 2 * d).clamp_min(torch.finfo(d.dtype).tiny).sqrt()[..., None, None]


def _powers(T: Tensor, U: Tensor) -> Tensor:
    """v (b, f, n, k)."""
    return torch.einsum("bfna,bnak->bfnk", T, U)


def _traces(T: Tensor, U: Tensor, R: Tensor, x: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """tr(A R) and tr(S R), (b, f, n, k) each."""
    S, y, _ = _whitened(_powers(T, U), R, x, noise)
    return R @ outer(y), R @ S


def _whitened(v: Tensor, R: Tensor, x: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """S (b, f, c^2, k) packed, y = S x (b, f, c, k), and log det S^-1 (b, f, k)."""
    covariance = R.mT @ v  # (b, f, c^2, k)
    covariance[:, :, : x.shape[2]] += noise
    S, logdet = inverse_and_logdet(covariance)
    return S, product(S, double(x)), logdet


def _root(up: Tensor, down: Tensor) -> Tensor:
    return (up / down.clamp_min(torch.finfo(down.dtype).tiny)).sqrt()
