"""The multichannel Wiener filter whose spatial covariances are estimated from the targets themselves.

A. A. Nugraha, A. Liutkus, E. Vincent, "Multichannel audio source separation with deep neural networks", IEEE/ACM TASLP
24(9), 2016, in the simplified form of norbert and Open-Unmix. Every frequency is independent, so the work is done in
blocks of frequency, with the statistics of the whole song in each.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mss.cpu import empty, in_threads, untracked
from mss.filters.masks import fitted, mixture_phase, ratio_mask, softmask

__all__ = ["hermitian_inverse", "wiener"]

PEAK = 10  # of the mixture while it is worked on, as in norbert: it gives `eps` its meaning


def wiener(
    V: Tensor,
    X: Tensor,
    iterations: int = 1,
    *,
    start: Literal["softmask", "mixture_phase"] = "softmask",
    power: float = 1.0,
    residual: bool = False,
    eps: float | None = None,
    window: int | None = None,
    block: int = 64,
) -> Tensor:
    """Multichannel Wiener filter by simplified expectation-maximisation (Nugraha, Liutkus & Vincent 2016; norbert).

    Each target j is Gaussian with power v_j(f, k) and spatial covariance R_j(f); both are re-estimated from the targets
    and the mixture is filtered again, `iterations` times: v_j = mean_c |Y_jc|^2, R_j = sum_k Y_j Y_j^H / sum_k v_j,
    Y_j = v_j R_j (sum_i v_i R_i + sqrt(eps) I)^-1 X. This leaves out the posterior covariance of a true EM, so its
    likelihood may fall; one or two iterations are meant. Statistics are those of the whole of k, or of windows of it, which
    let the positions of the sources change, and the filter run on a stream (Open-Unmix: 300 frames).

    Departs from norbert in one point: X is always scaled to a peak of 10, quiet or loud, so the result does not depend
    on the level (norbert only scales down). Differentiable; without gradients stereo is some ten times as fast.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex mixture.
        iterations: 0 returns the start.
        start: the estimate that the first iteration starts from.
        power: of the softmask start.
        residual: adds a target, the mixture less the start of all others, which takes part from then on. For the start
            "mixture_phase"; a softmask leaves nothing over.
        eps: regularisation, as a share of the power at a peak of 10; machine epsilon of double precision where None.
        window: frames, side by side from the first on, that are filtered each on its own; None: all as one.
        block: bins that are worked on at a time: bounds the memory, changes nothing.

    Returns:
        Y (b, n, c, f, k) complex, n + 1 targets with `residual`.

    Raises:
        ValueError: an option that means nothing; V of a shape that is not that of X, nor can be repeated to it.
    """
    if start not in ("softmask", "mixture_phase"):
        raise ValueError(f'start: expected "softmask" or "mixture_phase", got {start!r}')
    if eps is not None and not eps > 0:
        raise ValueError(f"eps: without a positive one silent bins have no inverse, got {eps!r}")
    if window is not None and window < 1:
        raise ValueError(f"window: expected a number of frames or None, got {window!r}")
    V = fitted(V, X)
    options = {"start": start, "power": power, "residual": residual}
    if window is not None and X.shape[-1] > window:
        parts = zip(V.split(window, -1), X.split(window, -1), strict=True)
        return torch.cat([wiener(v, x, iterations, **options, eps=eps, block=block) for v, x in parts], -1)
    X = X.resolve_conj()
    eps = torch.finfo(torch.float64).eps if eps is None else eps
    if iterations == 0:
        return _first(V.to(X.real.dtype), X, **options)
    if X.shape[1] == 2 and untracked(V, X):
        return _stereo(V, X, iterations, eps, **options)
    blocks = [slice(f, f + block) for f in range(0, X.shape[2], block)]
    peak = torch.stack([torch.view_as_real(X[..., f, :]).square().sum(-1).amax((1, 2, 3)) for f in blocks]).amax(0)
    scale = _scale(peak)
    return torch.cat([_plain(V[..., f, :], X[..., f, :], scale, iterations, eps, **options) for f in blocks], 3)


def hermitian_inverse(C: Tensor) -> Tensor:
    """Inverse of Hermitian (..., c, c); in closed form up to 2 x 2, where a batched LU spends its time on calls."""
    if C.shape[-1] > 2:
        return torch.linalg.inv(C)
    if C.shape[-1] == 1:
        return 1 / C
    a, b, c, d = C[..., 0, 0], C[..., 0, 1], C[..., 1, 0], C[..., 1, 1]
    adjugate = torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2))
    return adjugate / (a * d - b * c)[..., None, None]


def _first(V: Tensor, X: Tensor, start: str, power: float, residual: bool) -> Tensor:
    """Y before the first iteration."""
    Y = softmask(V, X, power) if start == "softmask" else mixture_phase(V, X)
    return torch.cat([Y, X.unsqueeze(1) - Y.sum(1, keepdim=True)], 1) if residual else Y


def _plain(V: Tensor, X: Tensor, scale: Tensor, iterations: int, eps: float, **options: Any) -> Tensor:
    """The iterations on some bins, as the equations have them, on X over `scale` (b, 1, 1, 1).

    In double precision where the device has it: the covariances of panned sources are all but singular, and with a
    condition number of 1e5 single precision leaves two digits.
    """
    wide = torch.complex64 if X.device.type == "mps" else torch.complex128
    Y = (_first(V, X, **options) / scale.unsqueeze(1)).to(wide)
    x = (X / scale).to(wide)
    identity = torch.eye(X.shape[1], dtype=wide, device=X.device)
    for _ in range(iterations):
        v = torch.view_as_real(Y).square().sum(-1).mean(2)  # (b, n, f, k)
        R = torch.einsum("bncfk,bndfk->bnfcd", Y, Y.conj()) / (eps + v.sum(-1))[..., None, None]
        C = torch.einsum("bnfk,bnfcd->bfkcd", v.to(wide), R) + eps**0.5 * identity
        whitened = _solve(C, x.movedim(1, -1).unsqueeze(-1)).squeeze(-1)  # (b, f, k, c)
        Y = torch.einsum("bnfcd,bfkd->bncfk", R, whitened) * v.unsqueeze(2)
    return (Y * scale.unsqueeze(1)).to(X.dtype)


def _solve(C: Tensor, x: Tensor) -> Tensor:
    """C^-1 x for positive definite C (..., c, c) and x (..., c, 1)."""
    if C.shape[-1] > 2:
        return torch.cholesky_solve(x, torch.linalg.cholesky_ex(C).L)
    return hermitian_inverse(C) @ x


def _stereo(V: Tensor, X: Tensor, iterations: int, eps: float, start: str, power: float, residual: bool) -> Tensor:
    """The same for two channels on a CPU: compiled, and with nothing between the input and Y in main memory."""
    from mss.filters._stereo import filter_bins, peaks  # compiled code is loaded where it is wanted

    if V.stride(2) == 0:  # one for both channels, which the compiled code takes as it is
        V = V[:, :, :1]
    if start == "softmask" and power != 1:
        V = ratio_mask(V, power)
    Y = empty((len(V), V.shape[1] + residual, *X.shape[1:]), X.dtype, X.device)
    v, x, y = V.to(X.real.dtype).contiguous().numpy(), X.contiguous().numpy(), Y.numpy()
    peak = np.max(in_threads(lambda first, last: peaks(x, first, last), X.shape[2]), 0)
    scale = _scale(torch.from_numpy(peak)).flatten().numpy()
    options = scale, iterations, eps, start == "softmask", residual
    in_threads(lambda first, last: filter_bins(v, x, y, first, last, *options), X.shape[2])
    return Y


def _scale(power: Tensor) -> Tensor:
    """What a mixture with a peak of |X|^2 of `power` (b,) is divided by to have a peak of `PEAK`: (b, 1, 1, 1)."""
    sounding = power > 0
    return torch.where(sounding, torch.where(sounding, power, 1).sqrt() / PEAK, 1).view(-1, 1, 1, 1)
