"""Filters: what each target weighs in each bin, and the mixture, give the targets' spectra.

Every filter is a pure function of V (b, n, c, f, k) real >= 0, a magnitude per target, and X (b, c, f, k) complex, the
mixture; it returns Y (b, n, c, f, k) complex. Any number of targets n and channels c, any device, float32 or float64.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["as_is", "binary_mask", "mixture_phase", "ratio_mask", "softmask", "wiener"]


def ratio_mask(V: Tensor, power: float = 1.0, *, empty: Literal["share", "drop"] = "share") -> Tensor:
    """Ratio masks V_j^power / sum_i V_i^power along dim 1 (generalised Wiener filter, Liutkus & Badeau 2015).

    Args:
        V: (b, n, ...) magnitudes.
        power: 1 for models of magnitudes, 2 for Gaussian sources whose V^2 is a power spectrum.
        empty: what a bin gets where every V is 0: "share" it equally, so that the masks always sum to 1, or "drop" it.

    Returns:
        (b, n, ...) masks in [0, 1].
    """
    peak = V.amax(1, keepdim=True)
    r = V / peak.clamp_min(torch.finfo(V.dtype).tiny)  # by the peak first: no power can overflow or vanish
    if power != 1:
        r = r.pow(power)
    total = r.sum(1, keepdim=True)
    if empty == "drop":
        return r / total.clamp_min(torch.finfo(V.dtype).tiny)
    return torch.where(total > 0, r / total.clamp_min(torch.finfo(V.dtype).tiny), 1 / V.shape[1])


def softmask(V: Tensor, X: Tensor, power: float = 1.0, *, empty: Literal["share", "drop"] = "share") -> Tensor:
    """Generalised Wiener filter: the mixture times `ratio_mask` (Liutkus & Badeau 2015). Sums to the mixture."""
    return ratio_mask(V, power, empty=empty) * X.unsqueeze(1)


def binary_mask(V: Tensor, X: Tensor) -> Tensor:
    """Every bin goes whole to its strongest target, ties to the first. Sums to the mixture."""
    winner = V.argmax(1, keepdim=True)  # (b, 1, c, f, k)
    index = torch.arange(V.shape[1], device=V.device).view(1, -1, 1, 1, 1)
    return (winner == index) * X.unsqueeze(1)


def as_is(Y: Tensor, X: Tensor) -> Tensor:
    """No filter: for estimators with a spatial model of their own, which return spectra Y (b, n, c, f, k) complex."""
    if not Y.is_complex():
        raise ValueError("as_is is the filter of estimators that return spectra; magnitudes want softmask, for one")
    return Y


def mixture_phase(V: Tensor, X: Tensor) -> Tensor:
    """The targets' magnitudes as they are, with the phase of the mixture. Need not sum to the mixture."""
    return V * torch.sgn(X).unsqueeze(1)


def wiener(
    V: Tensor,
    X: Tensor,
    iterations: int = 1,
    *,
    start: Literal["softmask", "mixture_phase"] = "softmask",
    power: float = 1.0,
    eps: float | None = None,
    block: int = 64,
) -> Tensor:
    """Multichannel Wiener filter by simplified expectation-maximisation (Nugraha, Liutkus & Vincent 2016; norbert).

    Each target j is Gaussian with power v_j(f, k) and spatial covariance R_j(f); both are re-estimated from the targets
    and the mixture is filtered again, `iterations` times: v_j = mean_c |Y_jc|^2, R_j = sum_k Y_j Y_j^H / sum_k v_j,
    Y_j = v_j R_j (sum_i v_i R_i + sqrt(eps) I)^-1 X. This leaves out the posterior covariance of a true EM, so its
    likelihood may fall; one or two iterations are meant. Statistics are those of the whole of k.

    Departs from norbert in one point: X is always scaled to a peak of 10, quiet or loud, so the result does not depend
    on the level (norbert only scales down).

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex mixture.
        iterations: 0 returns the start.
        start: the estimate that the first iteration starts from.
        power: of the softmask start.
        eps: regularisation; machine epsilon where None.
        block: bins that are worked on at a time: bounds the memory, changes nothing (every frequency is independent).
    """
    Y = softmask(V, X, power) if start == "softmask" else mixture_phase(V, X)
    if iterations == 0:
        return Y
    peak = X.abs().amax((1, 2, 3), keepdim=True)
    scale = torch.where(peak > 0, peak / 10, 1)  # (b, 1, 1, 1)
    parts = zip(Y.split(block, dim=3), X.split(block, dim=2), strict=True)
    return torch.cat([_em(y / scale.unsqueeze(1), x / scale, iterations, eps) for y, x in parts], 3) * scale.unsqueeze(
        1
    )


def _em(Y: Tensor, X: Tensor, iterations: int, eps: float | None) -> Tensor:
    """The iterations on one block of bins. Y (b, n, c, f, k), X (b, c, f, k).

    In double precision where the device has it: the covariances of panned sources are all but singular, and with a
    condition number of 1e5 single precision leaves two digits.
    """
    single, double = Y.dtype, torch.complex64 if Y.device.type == "mps" else torch.complex128
    Y, X = Y.to(double), X.to(double)
    eps = torch.finfo(double).eps if eps is None else eps
    identity = torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    for _ in range(iterations):
        v = Y.abs().square().mean(2)  # (b, n, f, k)
        R = torch.einsum("bncfk,bndfk->bnfcd", Y, Y.conj()) / (eps + v.sum(-1))[..., None, None]
        C = torch.einsum("bnfk,bnfcd->bfkcd", v.to(R.dtype), R) + eps**0.5 * identity
        whitened = torch.einsum("bfkcd,bdfk->bcfk", _inverse(C), X)
        Y = torch.einsum("bnfcd,bdfk->bncfk", R, whitened) * v.unsqueeze(2)
    return Y.to(single)


def _inverse(C: Tensor) -> Tensor:
    """Inverse of Hermitian (..., c, c); in closed form up to 2 x 2, where a batched LU spends its time on calls."""
    if C.shape[-1] > 2:
        return torch.linalg.inv(C)
    if C.shape[-1] == 1:
        return 1 / C
    a, b, c, d = C[..., 0, 0], C[..., 0, 1], C[..., 1, 0], C[..., 1, 1]
    adjugate = torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2))
    return adjugate / (a * d - b * c)[..., None, None]
