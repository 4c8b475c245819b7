"""FastMNMF: multichannel NMF whose spatial covariances one matrix per bin makes diagonal (Sekiguchi et al. 2019, 2020).

The image of source j in a bin is Gaussian of covariance (T_j U_j)(f, k) Q^-1 diag(g_j) Q^-H: its powers are a few spectra T_j
with activations U_j, and through Q(f) all sources are seen without correlation. In place of matrices per bin and frame
there are then powers p_m = |q_m x|^2 and y_m = sum_j (T_j U_j) g_jm. T, U and g are updated multiplicatively and the rows of Q
by iterative projection (Ono 2011), each of which lowers the cost, sum over bins, frames and m of
p_m / y_m + log y_m, less 2 log |det Q| per bin and frame.

Q has as many rows as there are channels, so no more directions than channels can be told apart: with two channels two
sources are meant, and for more there is `mnmf`.

Inside this module: x (b, f, c, k) complex, T (b, f, n, a), U (b, n, a, k), g (b, f, n, m), Q (b, f, m, c).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._covariances import (
    double,
    frequency_blocks,
    level,
    nmf_start,
    outer,
    require_channels,
    squared,
    unpack,
)
from mss.classical._demixing import iterative_projection

__all__ = ["cost", "fastmnmf", "update"]

QUIET = 0.03  # least level of a bin, relative to the item's: U hears all bins alike, and rounding errors are not music
FLOOR = 1e-12  # least entry of T, U and g, where a bin has power 1: inaudible, and what is not 0 can grow again


def fastmnmf(
    V: Tensor,
    X: Tensor,
    *,
    components: int = 8,
    iterations: int = 10,
    spread: float = 0.0,
    noise: float = 1e-6,
    seed: int = 0,
) -> Tensor:
    """Refines any source model by NMF with jointly diagonal spatial covariances (Sekiguchi et al. 2020).

    The factors start from an NMF of the powers of the estimates that `softmask` makes of V; Q and g from the covariances of
    these estimates, exactly for two sources. Departs from the paper in that start, and in a noise in the data (a bin and
    frame has the covariance x x^H + noise I), without which channels that are copies of one another let Q grow for ever.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex mixture, two channels or more.
        components: spectra per source.
        iterations: of all updates; 0 filters with the start.
        spread: share of the mixture's power that all sources have alike at the start.
        noise: relative to the power of each bin.
        seed: of the random numbers from which the NMF starts.

    Returns:
        Y (b, n, c, f, k), which sum to the mixture.
    """
    require_channels(X, "fastmnmf")
    scale = level(X, QUIET)  # (b, 1, f, 1)
    T, U, R = nmf_start(V, X / scale, components=components, spread=spread, seed=seed)
    Q, g = joint_diagonaliser(unpack(R))
    x = (X / scale).transpose(1, 2)  # (b, f, c, k)
    blocks = frequency_blocks(X)
    for _ in range(iterations):
        T, U, g, Q = update(T, U, g, Q, x, noise, blocks)
    Y = torch.empty_like(V, dtype=X.dtype)
    for part in blocks:
        z = Q[:, part] @ double(x[:, part])  # (b, f, m, k)
        images = _powers(T[:, part], U).unsqueeze(3) * g[:, part].unsqueeze(-1)  # (b, f, n, m, k)
        z = images / images.sum(2, keepdim=True) * z.unsqueeze(2)
        y = torch.linalg.solve_ex(Q[:, part].unsqueeze(2), z).result  # (b, f, n, c, k)
        Y[:, :, :, part] = y.movedim(1, 3).to(Y.dtype) * scale[:, :, part].unsqueeze(1)
    return Y


def update(
    T: Tensor, U: Tensor, g: Tensor, Q: Tensor, x: Tensor, noise: float, blocks: list[slice]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One update of T, then of U, then of Q and g; the cost falls with each."""
    T, g, Q, up, down = T.clone(), g.clone(), Q.clone(), 0, 0
    for part in blocks:
        p, v = _observed(Q[:, part], x[:, part], noise), _powers(T[:, part], U)
        observed, modelled = _gradients(p, v, g[:, part])
        root = _root(*(torch.einsum("bfnk,bnak->bfna", t, U) for t in (observed, modelled)))
        T[:, part] = (T[:, part] * root).clamp_min(FLOOR)
        observed, modelled = _gradients(p, _powers(T[:, part], U), g[:, part])
        up = up + torch.einsum("bfnk,bfna->bnak", observed, T[:, part])
        down = down + torch.einsum("bfnk,bfna->bnak", modelled, T[:, part])
    U = (U * _root(up, down)).clamp_min(FLOOR)
    for part in blocks:
        v = _powers(T[:, part], U)  # (b, f, n, k)
        y = g[:, part].mT @ v  # (b, f, m, k)
        Q[:, part] = _project(Q[:, part], double(x[:, part]), y, noise)
        ratio = _observed(Q[:, part], x[:, part], noise) / y.square()
        root = _root(v @ ratio.mT, v @ y.reciprocal().mT)  # (b, f, n, m)
        new = (g[:, part] * root).clamp_min(FLOOR)
        size = new.mean(-1, keepdim=True)
        g[:, part] = new / size
        T[:, part] = T[:, part] * size
    return T, U, g, Q


def cost(T: Tensor, U: Tensor, g: Tensor, Q: Tensor, x: Tensor, noise: float) -> Tensor:
    """Sum over bins and frames of p / y + log y - 2 log |det Q|, (b,): what the updates let fall."""
    y = g.mT @ _powers(T, U)
    spectra = (_observed(Q, x, noise) / y + y.log()).sum((1, 2, 3))
    return spectra - 2 * x.shape[-1] * torch.linalg.slogdet(Q).logabsdet.sum(1)


def joint_diagonaliser(R: Tensor) -> tuple[Tensor, Tensor]:
    """Q (b, f, m, c) and g (b, f, n, m) with Q R_j Q^H = diag(g_j): exactly for two R (b, f, n, c, c), else a start.

    The eigenvectors of a sum of all R with weights of their own, whitened by the plain sum.
    """
    n = R.shape[2]
    weights = torch.linspace(1 / n, 1, n, dtype=R.dtype.to_real(), device=R.device).view(-1, 1, 1)
    L = torch.linalg.cholesky_ex(R.sum(2)).L
    white = torch.linalg.solve_triangular(L, (weights * R).sum(2), upper=False)
    white = torch.linalg.solve_triangular(L.mH, white, upper=True, left=False)
    vectors = torch.linalg.eigh((white + white.mH) / 2).eigenvectors
    Q = torch.linalg.solve_triangular(L, vectors.mH, upper=False, left=False)  # E^H L^-1
    g = torch.einsum("bfmc,bfncd,bfmd->bfnm", Q, R, Q.conj()).real.clamp_min(FLOOR)
    return Q, g


def _project(Q: Tensor, x: Tensor, y: Tensor, noise: float) -> Tensor:
    """Q by iterative projection, for the weights 1 / y (b, f, m, k)."""
    c, k = x.shape[2:]
    covariances = unpack(y.reciprocal() @ outer(x).mT / k)  # (b, f, m, c, c)
    identity = torch.eye(c, dtype=x.dtype, device=x.device)
    covariances = covariances + noise * y.reciprocal().mean(-1)[..., None, None] * identity
    return iterative_projection(Q, covariances)


def _powers(T: Tensor, U: Tensor) -> Tensor:
    """v (b, f, n, k)."""
    return torch.einsum("bfna,bnak->bfnk", T, U)


def _observed(Q: Tensor, x: Tensor, noise: float) -> Tensor:
    """p (b, f, m, k): the power of each direction in the data and its noise."""
    return squared(Q @ double(x)) + noise * squared(Q).sum(-1, keepdim=True)


def _gradients(p: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """sum_m g_m p_m / y_m^2 and sum_m g_m / y_m, (b, f, n, k) each."""
    y = g.mT @ v
    return g @ (p / y.square()), g @ y.reciprocal()


def _root(up: Tensor, down: Tensor) -> Tensor:
    return (up / down.clamp_min(torch.finfo(down.dtype).tiny)).sqrt()
