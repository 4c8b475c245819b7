"""Filters that look at one bin at a time: masks, and magnitudes with the phase of the mixture."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mss.cpu import empty, in_threads, untracked

__all__ = ["as_is", "binary_mask", "mixture_phase", "ratio_mask", "softmask"]


def ratio_mask(V: Tensor, power: float = 1.0, *, empty: Literal["share", "drop"] = "share") -> Tensor:
    """Ratio masks V_j^power / sum_i V_i^power along dim 1 (generalised Wiener filter, Liutkus & Badeau 2015).

    Args:
        V: (b, n, ...) magnitudes. An infinite one outweighs all finite ones and shares with its like.
        power: > 0; 1 for models of magnitudes, 2 for Gaussian sources whose V^2 is a power spectrum.
        empty: what a bin gets where every V is 0: "share" it equally, so that the masks always sum to 1, or "drop" it.

    Returns:
        (b, n, ...) masks in [0, 1].
    """
    if not power > 0:
        raise ValueError(f"a ratio mask needs a power above 0, got {power}")
    limits = torch.finfo(V.dtype)
    V = V.clamp_max(limits.max)
    r = V / V.amax(1, keepdim=True).clamp_min(limits.tiny)  # by the peak first: no power can overflow or vanish
    if power < 1:
        r = torch.where(r > 0, r, 1).pow(power).where(r > 0, 0)  # the slope of a root is infinite at 0
    elif power > 1:
        r = r.pow(power)
    total = r.sum(1, keepdim=True)
    if empty == "drop":
        return r / total.clamp_min(limits.tiny)
    return torch.where(total > 0, r / total.clamp_min(limits.tiny), 1 / V.shape[1])


def softmask(V: Tensor, X: Tensor, power: float = 1.0, *, empty: Literal["share", "drop"] = "share") -> Tensor:
    """Generalised Wiener filter: the mixture times `ratio_mask` (Liutkus & Badeau 2015). Sums to the mixture.

    Raises:
        ValueError: `fitted` or `ratio_mask` refuses what it is given.
    """
    V = fitted(V, X)
    if power > 0 and X.dtype == torch.complex64 and untracked(V, X):
        return _softmask(V, X, float(power), empty == "share")
    return ratio_mask(V, power, empty=empty) * X.unsqueeze(1)


def fitted(V: Tensor, X: Tensor) -> Tensor:
    """V (b, n, c, f, k) for X (b, c, f, k), with what is 1 in V repeated: compiled code reads beyond an array that is shorter.

    Raises:
        ValueError: V is of another shape, or complex.
    """
    if V.is_complex():
        raise ValueError("V are magnitudes, not spectra; the filter of estimators that return spectra is as_is")
    try:
        return V.expand(X.shape[0], -1, *X.shape[1:])
    except RuntimeError as error:
        raise ValueError(
            f"V (b, n, c, f, k) of {tuple(V.shape)} is not for X (b, c, f, k) of {tuple(X.shape)}"
        ) from error


def _softmask(V: Tensor, X: Tensor, power: float, share: bool) -> Tensor:
    """The same on a CPU, compiled: nothing but Y is written, where tensor operations write ten times as much; and bins side
    by side, as the inverse transform reads them."""
    from mss.filters import _masks_cpu  # compiled code is loaded where it is wanted

    b, c, f, k = X.shape
    if V.dtype == torch.float64:  # what single precision would make 0 or infinite has its share all the same
        V = V.clamp_max(torch.finfo(V.dtype).max)
        V = V / V.amax(1, keepdim=True).clamp_min(torch.finfo(V.dtype).tiny)
    V = V.float().contiguous()
    X = X.resolve_conj().transpose(-1, -2).contiguous()
    Y = empty((b, V.shape[1], c, k, f), X.dtype, X.device)
    strips = c * -(-f // _masks_cpu.STRIP)
    for v, x, y in zip(V.numpy(), X.numpy(), Y.numpy(), strict=True):
        in_threads(lambda first, last: _masks_cpu.softmask(v, x, y, first, last, power, share), strips)  # noqa: B023
    return Y.transpose(-1, -2)


def binary_mask(V: Tensor, X: Tensor) -> Tensor:
    """Every bin goes whole to its strongest target, ties to the first. Sums to the mixture."""
    best, winner = V[:, 0], torch.zeros_like(V[:, 0], dtype=torch.int16)  # (b, c, f, k)
    for j, v in enumerate(V.unbind(1)[1:], 1):  # an argmax over a strided axis takes ten times as long
        winner = torch.where(v > best, j, winner)
        best = torch.maximum(best, v)
    index = torch.arange(V.shape[1], device=V.device).view(-1, 1, 1, 1)
    return torch.where(winner.unsqueeze(1) == index, X.unsqueeze(1), 0)


def as_is(Y: Tensor, X: Tensor) -> Tensor:
    """No filter: for estimators with a spatial model of their own, which return spectra Y (b, n, c, f, k) complex."""
    if not Y.is_complex():
        raise ValueError("as_is is the filter of estimators that return spectra; magnitudes want softmask, for one")
    return Y


def mixture_phase(V: Tensor, X: Tensor) -> Tensor:
    """The targets' magnitudes as they are, with the phase of the mixture. Need not sum to the mixture."""
    return V * torch.sgn(X).unsqueeze(1)
