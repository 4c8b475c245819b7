"""The multichannel Wiener filter whose spatial covariances are estimated from the targets themselves.

A. A. Nugraha, A. Liutkus, E. Vincent, "Multichannel audio source separation with deep neural networks", IEEE/ACM TASLP
24(9), 2016, in the simplified form of norbert and Open-Unmix. Every frequency is independent, so the work is done in
blocks of frequency, with the statistics of the whole song in each.

Stereo, without gradients, is worth a way of its own (`_stereo`), in the precision of the input and in real planes:

- C = sum_i v_i R_i + s I is 2 x 2, and its inverse needs det C. As a d - |b|^2 it would lose all digits of single
  precision for sources that sit close together. As a quadratic form in v,
      det C = sum_ij v_i v_j D_ij + s sum_i v_i tr R_i + s^2,    D_ij = (tr R_i tr R_j - tr R_i R_j) / 2 >= 0,
  nothing is subtracted but in D, which has no frames and is computed in double precision.
- C^-1 X is the same for all targets: one Cholesky step, C = (a b; b* d), whose Schur complement is det C / a.
- All this happens along the principal axes of the bin (a rotation of the two channels), so that what tells close
  sources apart is a small number and not the small difference of two large ones.
- At the start Y_jc = e_jc X_c / |X_c| with real e, so powers and covariances need no spectra of the targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from mss.filters.masks import mixture_phase, ratio_mask, softmask

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
    block: int = 64,
) -> Tensor:
    """Multichannel Wiener filter by simplified expectation-maximisation (Nugraha, Liutkus & Vincent 2016; norbert).

    Each target j is Gaussian with power v_j(f, k) and spatial covariance R_j(f); both are re-estimated from the targets
    and the mixture is filtered again, `iterations` times: v_j = mean_c |Y_jc|^2, R_j = sum_k Y_j Y_j^H / sum_k v_j,
    Y_j = v_j R_j (sum_i v_i R_i + sqrt(eps) I)^-1 X. This leaves out the posterior covariance of a true EM, so its
    likelihood may fall; one or two iterations are meant. Statistics are those of the whole of k.

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
        block: bins that are worked on at a time: bounds the memory, changes nothing.

    Returns:
        Y (b, n, c, f, k) complex, n + 1 targets with `residual`.
    """
    if start not in ("softmask", "mixture_phase"):
        raise ValueError(f'start: expected "softmask" or "mixture_phase", got {start!r}')
    V = V.expand(-1, -1, X.shape[1], -1, -1).to(X.real.dtype)
    X = X.resolve_conj()
    options = {"start": start, "power": power, "residual": residual}
    if iterations == 0:
        return _first(V, X, **options)
    eps = torch.finfo(torch.float64).eps if eps is None else eps
    parts = [slice(f, f + block) for f in range(0, X.shape[2], block)]
    if _tracked(V) or _tracked(X):
        scale = _scale(X)
        return torch.cat([_plain(V[..., f, :], X[..., f, :], scale, iterations, eps, **options) for f in parts], 3)
    scale = _scale(X, parts)
    run = _stereo if X.shape[1] == 2 and X.device.type != "mps" else _plain  # mps has no double precision
    Y = _empty((len(V), V.shape[1] + residual, *X.shape[1:]), X)

    def work(parts: Sequence[slice]) -> None:
        scratch = _Scratch(V)
        for f in parts:
            out = Y[..., f, :]
            run(V[..., f, :], X[..., f, :], scale, iterations, eps, **options, out=out, scratch=scratch)

    _in_threads(work, parts, X.device)
    return Y


def hermitian_inverse(C: Tensor) -> Tensor:
    """Inverse of Hermitian (..., c, c); in closed form up to 2 x 2, where a batched LU spends its time on calls."""
    if C.shape[-1] > 2:
        return torch.linalg.inv(C)
    if C.shape[-1] == 1:
        return 1 / C
    a, b, c, d = C[..., 0, 0], C[..., 0, 1], C[..., 1, 0], C[..., 1, 1]
    adjugate = torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2))
    return adjugate / (a * d - b * c)[..., None, None]


# ------------------------------------------------------------------------- any channels, differentiable


def _first(V: Tensor, X: Tensor, start: str, power: float, residual: bool) -> Tensor:
    """Y before the first iteration."""
    Y = softmask(V, X, power) if start == "softmask" else mixture_phase(V, X)
    return torch.cat([Y, X.unsqueeze(1) - Y.sum(1, keepdim=True)], 1) if residual else Y


def _plain(
    V: Tensor,
    X: Tensor,
    scale: Tensor,
    iterations: int,
    eps: float,
    *,
    out: Tensor | None = None,
    scratch: Any = None,
    **options: Any,
) -> Tensor:
    """The iterations on some bins, as the equations have them; `scale` (b, 1, 1, 1), Y goes to `out` where given.

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
    Y = (Y * scale.unsqueeze(1)).to(X.dtype)
    return Y if out is None else out.copy_(Y)


def _solve(C: Tensor, x: Tensor) -> Tensor:
    """C^-1 x for positive definite C (..., c, c) and x (..., c, 1)."""
    if C.shape[-1] > 2:
        return torch.cholesky_solve(x, torch.linalg.cholesky_ex(C).L)
    return hermitian_inverse(C) @ x


# ------------------------------------------------------------------------------------ stereo, in place


def _stereo(
    V: Tensor,
    X: Tensor,
    scale: Tensor,
    iterations: int,
    eps: float,
    *,
    out: Tensor,
    scratch: _Scratch,
    **options: Any,
) -> None:
    """The iterations on some bins of two channels; `scale` (b, 1, 1, 1), Y goes to `out`.

    Planes are (b, f, ..., k). A vector x has four, the real and imaginary parts of channel 1 and of channel 2; so a
    complex 2 x 2 matrix is a real 4 x 4 one here.
    """
    b, _, f, k = X.shape
    x = _planes(X, scale, scratch)  # (b, f, 2, 2, k)
    e, u = _amplitudes(V, x, scale, scratch, **options)  # (b, f, n, 2, k), (b, f, 2, k)
    n = e.shape[2]
    v, S = _start_statistics(e, u, scratch)  # (b, f, n, k), (b, f, n, 2, 2)
    U = _axes(S.sum(2))  # (b, f, 2, 2)
    S = U.mH.unsqueeze(2) @ S @ U.unsqueeze(2)
    x = torch.bmm(_real(U.mH, v), x.view(b * f, 4, k), out=scratch("rotated", b * f, 4, k))
    for left in reversed(range(iterations)):
        trace = S.diagonal(dim1=-2, dim2=-1).real.sum(-1)
        R = S / (eps + trace / 2)[..., None, None]
        whitened = _whiten(x, v, R, eps, scratch)  # (b f, 4, k)
        if left == 0:
            R = (U * scale).unsqueeze(2) @ R  # back to the channels and to the level
        y = torch.bmm(_real(R.flatten(2, 3), v), whitened, out=scratch("y", b * f, 4 * n, k))
        y = y.view(b, f, n, 4, k).mul_(v.unsqueeze(3))
        if left:
            v, S = _statistics(y, scratch)
    y = y.unflatten(3, (2, 2)).permute(0, 2, 3, 1, 4, 5)  # (b, n, c, f, 2, k)
    torch.complex(y[..., 0, :], y[..., 1, :], out=out)


def _planes(X: Tensor, scale: Tensor | None, scratch: _Scratch) -> Tensor:
    """X (b, c, f, k) complex, over `scale`, as (b, f, c, 2, k)."""
    b, c, f, k = X.shape
    x = scratch("planes", b, f, c, 2, k).copy_(torch.view_as_real(X).permute(0, 2, 1, 4, 3))
    return x if scale is None else x.div_(scale.unsqueeze(1))


def _amplitudes(
    V: Tensor, x: Tensor, scale: Tensor, scratch: _Scratch, start: str, power: float, residual: bool
) -> tuple[Tensor, Tensor]:
    """e (b, f, n, 2, k), with which Y_jc = e_jc x_c / |x_c|, and x_1 x_2* / |x_1 x_2| as (b, f, 2, k)."""
    b, n, c, f, k = V.shape
    tiny = torch.finfo(V.dtype).tiny
    re, im = x.unbind(3)
    amplitude = torch.mul(re, re, out=scratch("amplitude", b, f, c, k)).addcmul_(im, im).sqrt_()
    e = scratch("e", b, f, n + residual, c, k)
    own = e[:, :, :n]
    if start == "softmask":
        V = (V if power == 1 else ratio_mask(V, power)).permute(0, 3, 1, 2, 4)
        total = torch.sum(V, 2, out=scratch("total", b, f, c, k))
        empty = torch.eq(total, 0, out=scratch("empty", b, f, c, k))  # 1 or 0: there the targets share
        share = torch.mul(amplitude, empty, out=scratch("share", b, f, c, k)).div_(n)
        gain = torch.div(amplitude, total.add_(empty), out=total)
        torch.addcmul(share.unsqueeze(2), V, gain.unsqueeze(2), out=own)
    else:
        sounding = torch.gt(amplitude, 0, out=scratch("empty", b, f, c, k)).div_(scale)
        torch.mul(V.permute(0, 3, 1, 2, 4), sounding.unsqueeze(2), out=own)
    if residual:
        torch.sub(amplitude, own.sum(2), out=e[:, :, n])
    (re1, re2), (im1, im2) = re.unbind(2), im.unbind(2)
    u = scratch("u", b, f, 2, k)
    torch.mul(re1, re2, out=u[:, :, 0]).addcmul_(im1, im2)
    torch.mul(im1, re2, out=u[:, :, 1]).addcmul_(re1, im2, value=-1)
    product = torch.mul(*amplitude.unbind(2), out=scratch("plane", b, f, k)).clamp_min_(tiny)
    return e, u.div_(product.unsqueeze(2))


def _start_statistics(e: Tensor, u: Tensor, scratch: _Scratch) -> tuple[Tensor, Tensor]:
    """v (b, f, n, k) and sum_k Y Y^H (b, f, n, 2, 2) of what `_amplitudes` gives, whose e is overwritten."""
    b, f, n, _, k = e.shape
    product = torch.mul(*e.unbind(3), out=scratch("product", b, f, n, k))
    e.square_()
    power = e.sum(-1)
    v = torch.add(*e.unbind(3), out=scratch("v", b, f, n, k)).div_(2)
    cross = torch.mul(product.unsqueeze(3), u.unsqueeze(2), out=e).sum(-1)
    return v, _hermitian(power, cross)


def _statistics(y: Tensor, scratch: _Scratch) -> tuple[Tensor, Tensor]:
    """v (b, f, n, k) and sum_k Y Y^H (b, f, n, 2, 2) of planes y (b, f, n, 4, k)."""
    b, f, n, _, k = y.shape
    square = torch.mul(y, y, out=scratch("square", b, f, n, 4, k))
    v = torch.sum(square, 3, out=scratch("v", b, f, n, k)).div_(2)
    power = square.sum(-1).unflatten(-1, (2, 2)).sum(-1)
    re1, im1, re2, im2 = y.unbind(3)
    plane = scratch("product", b, f, n, k)
    real = torch.mul(re1, re2, out=plane).addcmul_(im1, im2).sum(-1)
    imag = torch.mul(im1, re2, out=plane).addcmul_(re1, im2, value=-1).sum(-1)
    return v, _hermitian(power, torch.stack([real, imag], -1))


def _whiten(x: Tensor, v: Tensor, R: Tensor, eps: float, scratch: _Scratch) -> Tensor:
    """(sum_i v_i R_i + sqrt(eps) I)^-1 x for planes x (b f, 4, k), v (b, f, n, k) and R (b, f, n, 2, 2)."""
    b, f, n, k = v.shape
    vector = R.flatten(-2)  # (b, f, n, 4), with R Hermitian the products of two are tr R_i R_j
    trace = (vector[..., 0] + vector[..., 3]).real
    D = (trace.unsqueeze(-1) * trace.unsqueeze(-2) - (vector @ vector.mH).real) / 2
    rows = torch.stack([vector[..., 0].real, vector[..., 1].real, vector[..., 1].imag, trace], 2)
    rows = torch.cat([rows, D], 2).to(v.dtype)  # (b, f, 4 + n, n)
    sums = torch.bmm(rows.flatten(0, 1), v.flatten(0, 1), out=scratch("sums", b * f, 4 + n, k)).view(b, f, 4 + n, k)
    det = torch.sum(sums[:, :, 4:].mul_(v), 2, out=scratch("plane", b, f, k))
    det.add_(sums[:, :, 3], alpha=eps**0.5).add_(eps)
    a = sums[:, :, 0].add_(eps**0.5)
    schur = torch.div(a, det, out=det).unsqueeze(2)  # the inverse of d - |b|^2 / a
    a = a.reciprocal_().unsqueeze(2)
    ratio = sums[:, :, 1:3].mul_(a)  # b / a
    re, im = ratio[:, :, :1], ratio[:, :, 1]
    x1, x2 = x.view(b, f, 2, 2, k).unbind(2)
    w = scratch("whitened", b, f, 2, 2, k)
    w1, w2 = w.unbind(2)
    torch.addcmul(x2, re, x1, value=-1, out=w2)  # w2 = (x2 - (b / a)* x1) / schur
    w2[:, :, 0].addcmul_(im, x1[:, :, 1], value=-1)
    w2[:, :, 1].addcmul_(im, x1[:, :, 0])
    w2.mul_(schur)
    torch.mul(x1, a, out=w1).addcmul_(re, w2, value=-1)  # w1 = x1 / a - (b / a) w2
    w1[:, :, 0].addcmul_(im, w2[:, :, 1])
    w1[:, :, 1].addcmul_(im, w2[:, :, 0], value=-1)
    return w.view(b * f, 4, k)


# ---------------------------------------------------------------------------- 2 x 2 matrices of the bins


def _hermitian(power: Tensor, cross: Tensor) -> Tensor:
    """Matrices (..., 2, 2) complex128 from their diagonals (..., 2) and upper corners (..., 2), real and imaginary.

    The diagonals get a ridge at rounding level, for the sums may have made a singular matrix indefinite.
    """
    ridge = 1 + torch.finfo(power.dtype).eps / 2
    power = (power.double() * ridge).to(torch.complex128)
    corner = torch.view_as_complex(cross.double())
    return torch.stack([power[..., 0], corner, corner.conj(), power[..., 1]], -1).unflatten(-1, (2, 2))


def _axes(S: Tensor) -> Tensor:
    """Unitary (..., 2, 2) whose columns are the principal axes of Hermitian S, and never NaN where S is not."""
    difference, corner = (S[..., 0, 0] - S[..., 1, 1]).real, S[..., 0, 1]
    angle = torch.atan2(2 * corner.abs(), difference) / 2
    phase = torch.where(corner == 0, 1, torch.sgn(corner))
    cos, sin = angle.cos().to(phase.dtype), angle.sin() * phase
    return torch.stack([cos, -sin, sin.conj(), cos], -1).unflatten(-1, (2, 2))


def _real(M: Tensor, like: Tensor) -> Tensor:
    """Complex matrices (b, f, p, q) as real ones (b f, 2 p, 2 q) of the kind of `like`, which act on planes."""
    columns = torch.view_as_real(torch.stack([M, 1j * M], -1))  # (b, f, p, q, 2, 2), the last axis that of the rows
    return columns.movedim(-1, 3).flatten(4, 5).flatten(2, 3).flatten(0, 1).to(like.dtype)


# ------------------------------------------------------------------------------ level, memory, threads


def _scale(X: Tensor, parts: Sequence[slice] | None = None) -> Tensor:
    """What X (b, c, f, k) is divided by to have a peak of `PEAK`, (b, 1, 1, 1); 1 in silence."""
    if parts is None:
        power = torch.view_as_real(X).square().sum(-1).amax((1, 2, 3))
    else:
        power = X.real.new_empty((len(parts), len(X)))

        def work(rows: Sequence[int]) -> None:
            scratch = _Scratch(X.real)
            for i in rows:
                x = _planes(X[..., parts[i], :], None, scratch).square_()
                torch.amax(x[..., 0, :].add_(x[..., 1, :]), (1, 2, 3), out=power[i])

        _in_threads(work, range(len(parts)), X.device)
        power = power.amax(0)
    return torch.where(power > 0, torch.where(power > 0, power, 1).sqrt() / PEAK, 1).view(-1, 1, 1, 1)


def _tracked(x: Tensor) -> bool:
    """Whether something is to be differentiated with respect to x, backwards or forwards."""
    return (torch.is_grad_enabled() and x.requires_grad) or forward_ad.unpack_dual(x).tangent is not None


class _Scratch:
    """Memory for the temporaries of one block after the other: the system clears new memory page by page."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.memory = like, {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory[name] = self.like.new_empty(size)
        return self.memory[name][:size].view(shape)


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Memory for the result; NumPy's, for it asks for huge pages, which are cleared ten times as fast."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, np.complex64 if like.dtype == torch.complex64 else np.complex128))


def _in_threads(work: Callable[[Sequence], None], items: Sequence, device: torch.device) -> None:
    """Calls `work` on parts of the items, one per CPU thread.

    Threads that each take whole blocks stay in their own cache and meet once; with torch's own threads inside every
    operation they would meet thousands of times.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    inference = torch.is_inference_mode_enabled()

    def worker(part: Sequence) -> None:
        with torch.inference_mode(inference), torch.no_grad():  # both are each thread's own
            work(part)

    if workers <= 1:
        worker(items)
        return
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(worker, [items[i::workers] for i in range(workers)]))
    finally:
        torch.set_num_threads(threads)  # the setting is each thread's own, but also the default of threads to come
