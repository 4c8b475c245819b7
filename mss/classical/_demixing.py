"""Determined mixtures, as many sources as channels: whitening, demixing matrices, images of what they unmix."""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._covariances import double, frequency_blocks, outer, pack

__all__ = ["back_project", "iterative_projection", "require_determined", "sort_by_direction", "whiten"]

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def require_determined(X: Tensor, n: int, method: str) -> None:
    """Refuses a mixture (b, c, ...) whose channels are not as many as the `n` targets of a method that unmixes."""
    if X.shape[1] != n:
        count = f"{_NUMBERS[n] if n < len(_NUMBERS) else n} channel{'s' if n != 1 else ''}"
        raise ValueError(
            f"{method} with {n} target{'s' if n != 1 else ''} needs {count}, one for each, but the mixture has {X.shape[1]}"
        )


def whiten(X: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics that demixing works on: outer products of X, whitened in every bin.

    Every channel of every bin counts as having noise of its own, `floor` times the mean power of the channels in this
    bin and 0.01 `floor` times that of all bins. So no bin is singular, an empty one (above a codec's cut-off) has no
    say, and all of it scales with the mixture.

    Args:
        X: (b, c, f, k) complex.
        floor: power of the noise, relative.

    Returns:
        P (b, f, c^2, k), the packed z z^H of the whitened z = Q x, noise (b, f, c^2), the packed covariance of the
        whitened noise, and Q (b, f, c, c), symmetric: it turns no channel into another. The latter two in double precision.
    """
    b, c, f, k = X.shape
    blocks = frequency_blocks(X)
    parts = (double(X[:, :, part].transpose(1, 2)) for part in blocks)  # (b, f, c, k)
    C = torch.cat([x @ x.mH for x in parts], 1) / k
    power = C.diagonal(dim1=-2, dim2=-1).real.mean(-1)  # (b, f)
    mean = power.mean(1, keepdim=True)
    noise = floor * torch.where(mean > 0, power + 1e-2 * mean, 1)
    values, vectors = torch.linalg.eigh(C)
    values = values.clamp_min(0) + noise.unsqueeze(-1)
    Q = (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mH
    P = torch.empty(b, f, c * c, k, dtype=X.real.dtype, device=X.device)
    for part in blocks:
        P[:, part] = outer(Q[:, part] @ double(X[:, :, part].transpose(1, 2)))
    return P, noise.unsqueeze(-1) * pack(Q @ Q), Q


def iterative_projection(W: Tensor, U: Tensor) -> Tensor:
    """Demixing matrices that lower sum_j w_j U_j w_j^H - 2 log |det W|: iterative projection (Ono 2011).

    Row by row; for two channels both at once, in closed form, as eigenvectors of U_2^-1 U_1 (Ono 2012), which is
    exact and treats the channels alike.

    Args:
        W: (..., n, c) complex, n = c, the rows of y = W x.
        U: (..., n, c, c) Hermitian positive definite, what the weighted covariance is for each row.

    Returns:
        The new W, with w_j U_j w_j^H = 1.
    """
    if W.shape[-1] == 2:
        return _iterative_projection_2(W, U)
    rows = list(W.unbind(-2))
    identity = torch.eye(len(rows), dtype=W.dtype, device=W.device)
    for j, unit in enumerate(identity):
        WU = torch.stack(rows, -2) @ U[..., j, :, :]
        w = torch.linalg.solve_ex(WU, unit.expand(WU.shape[:-1]).unsqueeze(-1)).result.mH  # (..., 1, c)
        rows[j] = (w / (w @ U[..., j, :, :] @ w.mH).real.sqrt()).squeeze(-2)
    return torch.stack(rows, -2)


def _iterative_projection_2(W: Tensor, U: Tensor) -> Tensor:
    """`iterative_projection` for two channels."""
    first, second = U.unbind(-3)
    a, b, c, d = second.flatten(-2).unbind(-1)
    adjugate = torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2))
    D = adjugate @ first  # det(U_2) U_2^-1 U_1, whose eigenvalues are real
    q, r = D[..., 0, 1], D[..., 1, 0]
    mean, half = (D[..., 0, 0] + D[..., 1, 1]).real / 2, (D[..., 0, 0] - D[..., 1, 1]) / 2
    gap = (half.square() + q * r).real.clamp_min(0).sqrt()  # the eigenvalues are mean -+ gap
    positive = half.real >= 0
    t = torch.where(positive, gap + half, gap - half)  # of two forms of each eigenvector the one without cancellation
    positive = positive.unsqueeze(-1)
    lower = torch.where(positive, torch.stack([q, -t], -1), torch.stack([-t, r], -1))
    upper = torch.where(positive, torch.stack([t, r], -1), torch.stack([q, t], -1))
    told_apart = (gap > 1e-5 * mean)[..., None, None]  # else any W is as good: it stays
    W = torch.where(told_apart, torch.stack([lower, upper], -2).conj(), W)
    power = torch.einsum("...jc,...jcd,...jd->...j", W, U, W.conj()).real
    return W / power.sqrt().unsqueeze(-1)


def back_project(X: Tensor, W: Tensor, Q: Tensor) -> Tensor:
    """Images of the sources that B = W Q unmixes: column j of B^-1 times row j of B times X. They sum to X.

    Sorted from the first channel to the second by the angle of their mean magnitudes there; where there are not two
    channels, the loudest first.

    Args:
        X: (b, c, f, k) complex.
        W: (b, f, n, c) complex, n = c.
        Q: (b, f, c, c), as of `whiten`.

    Returns:
        Y (b, n, c, f, k).
    """
    B = W @ Q
    A = torch.linalg.inv_ex(B).inverse  # (b, f, c, n)
    power = (A.abs().square() * W.abs().square().sum(-1).unsqueeze(-2)).sum(1)  # (b, c, n), as Q X is white
    order = sort_by_direction(power)
    A = A.take_along_dim(order[:, None, None], -1)
    B = B.take_along_dim(order[:, None, :, None], -2)
    b, c, f, k = X.shape
    Y = torch.empty(b, c, c, f, k, dtype=X.dtype, device=X.device)
    for part in frequency_blocks(X):
        y = B[:, part] @ double(X[:, :, part].transpose(1, 2))  # (b, f, n, k)
        Y[:, :, :, part] = torch.einsum("bfcn,bfnk->bncfk", A[:, part], y)
    return Y


def sort_by_direction(power: Tensor) -> Tensor:
    """Order (b, n) of sources of powers (b, c, n): of two channels from the first to the second, else the loudest first."""
    if power.shape[1] == 2:
        return torch.atan2(power[:, 1].sqrt(), power[:, 0].sqrt()).argsort(stable=True, dim=-1)
    return power.sum(1).argsort(stable=True, dim=-1, descending=True)
