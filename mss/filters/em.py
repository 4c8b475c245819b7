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
- At the start Y_jc = M_jc X_c with real M, so powers and covariances need no spectra of the targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

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
    if eps is not None and not eps > 0:
        raise ValueError(f"eps: without a positive one silent bins have no inverse, got {eps!r}")
    V = V.expand(-1, -1, X.shape[1], -1, -1).to(X.real.dtype)
    X = X.resolve_conj()
    options = {"start": start, "power": power, "residual": residual}
    if iterations == 0:
        return _first(V, X, **options)
    eps = torch.finfo(torch.float64).eps if eps is None else eps
    parts = [slice(f, f + block) for f in range(0, X.shape[2], block)]
    if _tracked(V) or _tracked(X):
        scale = _scale(torch.view_as_real(X).square().sum(-1).amax((1, 2, 3)))
        return torch.cat([_plain(V[..., f, :], X[..., f, :], scale, iterations, eps, **options) for f in parts], 3)
    Y = X.new_empty((len(V), V.shape[1] + residual, *X.shape[1:]))
    if X.shape[1] == 2 and X.device.type != "mps":  # which has no double precision
        _stereo(V, X, Y, iterations, eps, parts, **options)
        return Y
    scale = _scale(torch.stack([X[..., f, :].abs().square().amax((1, 2, 3)) for f in parts]).amax(0))

    def work(parts: Sequence[slice]) -> None:
        for f in parts:
            Y[..., f, :] = _plain(V[..., f, :], X[..., f, :], scale, iterations, eps, **options)

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


# ------------------------------------------------------------------------------------ stereo, in place


def _stereo(
    V: Tensor, X: Tensor, Y: Tensor, iterations: int, eps: float, parts: Sequence[slice], **options: Any
) -> None:
    """All iterations on two channels; the targets go to Y.

    Planes are (f, b, ..., k): a complex vector of two channels has four, the real and imaginary parts of the first and
    of the second, and a complex 2 x 2 matrix is a real 4 x 4 one. Of all bins only v is kept, twice the powers, and that
    in memory that is wanted for Y anyway.
    """
    b, n, _, f, k = Y.shape
    v = torch.view_as_real(Y[:, :, 0]).flatten(-2)[..., :k].permute(2, 0, 1, 3)  # (f, b, n, k), where Y is to be
    power, cross = V.new_empty((2, f, b, n, 2))  # the matrices sum_k Y Y^H: their diagonals, and their upper corners
    peak = V.new_empty((len(parts), b))

    def begin(indices: Sequence[int]) -> None:
        scratch = _Scratch(V)
        for i in indices:
            bins = parts[i]
            x = _planes(X[..., bins, :], scratch)  # (f, b, 2, 2, k)
            (re1, re2), (im1, im2) = (plane.unbind(2) for plane in x.unbind(3))
            energy = torch.mul(x[..., 0, :], x[..., 0, :], out=scratch("energy", *x.shape[:3], k))
            energy.addcmul_(x[..., 1, :], x[..., 1, :])
            torch.amax(energy, (0, 2, 3), out=peak[i])
            corner = scratch("corner", len(x), b, 1, 2, k)
            torch.mul(re1, re2, out=corner[:, :, 0, 0]).addcmul_(im1, im2)
            torch.mul(im1, re2, out=corner[:, :, 0, 1]).addcmul_(re1, im2, value=-1)
            M = _start(V[..., bins, :], energy, scratch, **options)  # (f, b, n, 2, k)
            product = torch.mul(*M.unbind(3), out=scratch("product", len(x), b, n, 1, k)[..., 0, :])
            M.square_().mul_(energy.unsqueeze(2))
            torch.add(*M.unbind(3), out=v[bins])
            torch.sum(M, -1, out=power[bins])
            torch.sum(torch.mul(product.unsqueeze(3), corner, out=M), -1, out=cross[bins])

    def step(bins_of_thread: Sequence[slice]) -> None:
        scratch = _Scratch(V)
        for bins in bins_of_thread:
            x = _planes(X[..., bins, :], scratch).view(-1, 4, k)
            x = torch.bmm(turn[bins].flatten(0, 1), x, out=scratch("turned", *x.shape))
            u = torch.mul(v[bins], level, out=scratch("v", len(v[bins]), b, n, k)).view(-1, n, k)
            w = _whiten(x, u, rows[bins].flatten(0, 1), eps, scratch)
            y = torch.bmm(gains[bins].flatten(0, 1), w, out=scratch("y", len(x), 4 * n, k)).view(-1, b, n, 4, k)
            y.mul_(u.view(-1, b, n, 1, k))
            if left:
                _statistics(y, v[bins], power[bins], cross[bins], scratch)
            else:
                y = y.view(-1, b, n, 2, 2, k)
                torch.complex(y[..., 0, :], y[..., 1, :], out=Y[..., bins, :].permute(3, 0, 1, 2, 4))

    _in_threads(begin, range(len(parts)), X.device)
    scale = _scale(peak.amax(0)).double()
    level = (0.5 / scale.square()).to(V.dtype).view(-1, 1, 1)  # of v: the mean over channels, at a peak of `PEAK`
    S = _hermitian(power, cross)
    U = _axes(S.sum(2))  # (f, b, 2, 2)
    turn, axes = _real(U.mH, V), U.unsqueeze(2)
    S = axes.mH @ S @ axes
    for left in reversed(range(iterations)):
        R = S / (eps * scale.square().view(-1, 1, 1, 1) + _trace(S)[..., None, None] / 2)
        rows, gains = _forms(R, V), _real((R if left else axes @ R).flatten(2, 3), V)
        _in_threads(step, parts, X.device)
        S = _hermitian(power, cross)


def _planes(X: Tensor, scratch: _Scratch) -> Tensor:
    """X (b, c, f, k) complex as (f, b, c, 2, k)."""
    b, c, f, k = X.shape
    return scratch("planes", f, b, c, 2, k).copy_(torch.view_as_real(X).permute(2, 0, 1, 4, 3))


def _start(V: Tensor, energy: Tensor, scratch: _Scratch, start: str, power: float, residual: bool) -> Tensor:
    """Real M (f, b, n, 2, k) with which the first Y is M X, for V (b, n, 2, f, k) and |X|^2 (f, b, 2, k)."""
    limits = torch.finfo(V.dtype)
    n, shape = V.shape[1], energy.shape
    out = scratch("M", *shape[:2], n + residual, *shape[2:])
    M = out[:, :, :n]
    if start == "softmask":
        V = (V if power == 1 else ratio_mask(V, power)).permute(3, 0, 1, 2, 4)
        nothing = limits.tiny * 1e8  # is added to every V: it matters where all are 0, and they share
        gain = torch.sum(V, 2, out=scratch("gain", *shape)).add_(n * nothing).reciprocal_()
        share = torch.mul(gain, nothing, out=scratch("share", *shape))
        torch.addcmul(share.unsqueeze(2), V, gain.unsqueeze(2), out=M)
    else:
        gain = energy.sqrt().reciprocal_().unsqueeze(2)
        torch.mul(V.permute(3, 0, 1, 2, 4), gain.masked_fill_(gain == torch.inf, 0), out=M)
        M.clamp_max_(limits.max**0.4)  # so that its square is finite
    if residual:
        torch.sub(1, M.sum(2), out=out[:, :, n])
    return out


def _statistics(y: Tensor, v: Tensor, power: Tensor, cross: Tensor, scratch: _Scratch) -> None:
    """v (f, b, n, k) and sum_k Y Y^H, as diagonals and corners (f, b, n, 2), of planes y (f, b, n, 4, k)."""
    square = torch.mul(y, y, out=scratch("square", *y.shape))
    torch.sum(square, 3, out=v)
    torch.sum(square.unflatten(3, (2, 2)), (-2, -1), out=power)
    re1, im1, re2, im2 = y.unbind(3)
    plane = scratch("product", *v.shape)
    torch.sum(torch.mul(re1, re2, out=plane).addcmul_(im1, im2), -1, out=cross[..., 0])
    torch.sum(torch.mul(im1, re2, out=plane).addcmul_(re1, im2, value=-1), -1, out=cross[..., 1])


def _whiten(x: Tensor, v: Tensor, rows: Tensor, eps: float, scratch: _Scratch) -> Tensor:
    """(sum_i v_i R_i + sqrt(eps) I)^-1 x for planes x (f b, 4, k), v (f b, n, k) and the `_forms` (f b, 4 + n, n) of R."""
    sums = torch.bmm(rows, v, out=scratch("sums", len(v), rows.shape[1], v.shape[2]))
    det = torch.sum(sums[:, 4:].mul_(v), 1, keepdim=True, out=scratch("det", len(v), 1, v.shape[2]))
    det.add_(sums[:, 3:4], alpha=eps**0.5).add_(eps)
    a = sums[:, :1].add_(eps**0.5)
    schur = torch.div(a, det, out=det)  # the inverse of d - |b|^2 / a
    a.reciprocal_()
    ratio = sums[:, 1:3].mul_(a)  # b / a
    re, im = ratio[:, :1], ratio[:, 1]
    w = scratch("whitened", *x.shape)
    x1, x2, w1, w2 = x[:, :2], x[:, 2:], w[:, :2], w[:, 2:]
    torch.addcmul(x2, re, x1, value=-1, out=w2)  # w2 = (x2 - (b / a)* x1) / schur
    w2[:, 0].addcmul_(im, x1[:, 1], value=-1)
    w2[:, 1].addcmul_(im, x1[:, 0])
    w2.mul_(schur)
    torch.mul(x1, a, out=w1).addcmul_(re, w2, value=-1)  # w1 = x1 / a - (b / a) w2
    w1[:, 0].addcmul_(im, w2[:, 1])
    w1[:, 1].addcmul_(im, w2[:, 0], value=-1)
    return w


# ------------------------------------------------------------- 2 x 2 matrices of all bins, double precision


def _hermitian(power: Tensor, cross: Tensor) -> Tensor:
    """Matrices (..., 2, 2) from their diagonals (..., 2) and upper corners (..., 2), real and imaginary.

    The diagonals get a ridge at rounding level, for the sums may have made a singular matrix indefinite.
    """
    ridge = 1 + torch.finfo(power.dtype).eps / 2
    power = (power.double() * ridge).to(torch.complex128)
    corner = torch.view_as_complex(cross.double())
    return torch.stack([power[..., 0], corner, corner.conj(), power[..., 1]], -1).unflatten(-1, (2, 2))


def _trace(S: Tensor) -> Tensor:
    return S.diagonal(dim1=-2, dim2=-1).real.sum(-1)


def _axes(S: Tensor) -> Tensor:
    """Unitary (..., 2, 2) whose columns are the principal axes of Hermitian S."""
    difference, corner = (S[..., 0, 0] - S[..., 1, 1]).real, S[..., 0, 1]
    angle = torch.atan2(2 * corner.abs(), difference) / 2
    phase = torch.where(corner == 0, 1, torch.sgn(corner))
    cos, sin = angle.cos().to(phase.dtype), angle.sin() * phase
    return torch.stack([cos, -sin, sin.conj(), cos], -1).unflatten(-1, (2, 2))


def _forms(R: Tensor, like: Tensor) -> Tensor:
    """What `_whiten` multiplies by v: a, Re b, Im b and trace of all R (f, b, n, 2, 2), and D; (f, b, 4 + n, n)."""
    trace, vector = _trace(R), R.flatten(-2)  # with Hermitian R the products of the vectors are tr R_i R_j
    D = (trace.unsqueeze(-1) * trace.unsqueeze(-2) - (vector @ vector.mH).real) / 2
    rows = torch.stack([vector[..., 0].real, vector[..., 1].real, vector[..., 1].imag, trace], 2)
    return torch.cat([rows, D], 2).to(like.dtype)


def _real(M: Tensor, like: Tensor) -> Tensor:
    """Complex matrices (f, b, p, q) as real ones (f, b, 2 p, 2 q) of the kind of `like`, which act on planes."""
    columns = torch.view_as_real(torch.stack([M, 1j * M], -1))  # (f, b, p, q, 2, 2), the last axis that of the rows
    return columns.movedim(-1, 3).flatten(4, 5).flatten(2, 3).to(like.dtype)


# ------------------------------------------------------------------------------ level, memory, threads


def _scale(power: Tensor) -> Tensor:
    """What a mixture with a peak of |X|^2 of `power` (b,) is divided by to have a peak of `PEAK`: (b, 1, 1, 1)."""
    sounding = power > 0
    return torch.where(sounding, torch.where(sounding, power, 1).sqrt() / PEAK, 1).view(-1, 1, 1, 1)


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
