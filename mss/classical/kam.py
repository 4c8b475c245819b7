"""Kernel additive models: a source is what looks alike in the neighbourhood of each bin (Liutkus et al., IEEE TSP 2014).

Source j has a proximity kernel, which says for each bin (f, k) in which others its power v_j is about the same: along time
for what rings, along frequency for what hits, a period away for what repeats. Kernel backfitting alternates between a
Wiener filter and the medians of what it gives out over the kernels:

    Y_j = v_j R_j (sum_i v_i R_i + eps)^-1 X,
    R_j = sum_k C_j / tr C_j  with  C_j = Y_j Y_j^H, to a trace of c,
    v_j(f, k) = median over the kernel of z_j = tr(R_j^-1 C_j) / c.

With R_j = I for good the filter is a mask that all channels share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from mss.classical._ops import (
    BLOCK,
    beat_spectrum,
    footprint_median,
    frames_median,
    median_filter,
    period_range,
    repeating_periods,
    similar_frames,
)
from mss.filters import hermitian_inverse

__all__ = ["cross", "footprint", "horizontal", "kam", "kernel_backfitting", "periodic", "similar", "vertical"]

Kernel = Callable[[Tensor], Tensor]  # z (b, f, k) -> v (b, f, k)
SHRINK = 1e-5  # is added to every covariance, of trace c: sources panned to a point have no inverse


def kam(
    X: Tensor,
    *,
    periods: int = 3,
    order: int = 5,
    shortest: int = 43,
    longest: int = 430,
    harmonic: int = 31,
    percussive: int = 31,
    voice: tuple[int, int] = (3, 3),
    lowest_bin: int = 19,
    iterations: int = 2,
    filter: Literal["mask", "covariance"] = "mask",
) -> Tensor:
    """Voice, by a small cross, and accompaniment, by all other kernels (Liutkus et al. 2014).

    Args:
        X: (b, c, f, k) complex.
        periods: peaks of the beat spectrum that give a periodic kernel each.
        order: repetitions in each, the frame itself included.
        shortest: least period, frames (43: one second at a hop of 1024 at 44.1 kHz).
        longest: largest period, frames; at most a third of k.
        harmonic: length of the horizontal kernel, frames; odd.
        percussive: length of the vertical kernel, bins; odd.
        voice: height and width of the voice's cross, bins and frames; odd.
        lowest_bin: all bins below it are accompaniment (19: 200 Hz at an n_fft of 4096 at 44.1 kHz).
        iterations: of kernel backfitting.
        filter: see `kernel_backfitting`.

    Returns:
        Y (b, 2, c, f, k): voice, accompaniment; they sum to X.
    """
    low, high = period_range(X.shape[-1], shortest, longest)
    lags = repeating_periods(beat_spectrum(X.abs()), low, high, periods)  # (b, periods)
    background = [periodic(lag, order) for lag in lags.unbind(-1)]
    background += [horizontal(harmonic), vertical(percussive)]
    plain = cross(*voice)

    def above(z: Tensor) -> Tensor:
        v = plain(z)
        v[:, :lowest_bin] = 0
        return v

    return kernel_backfitting(X, [background, [above]], iterations=iterations, filter=filter).flip(1)


def horizontal(length: int) -> Kernel:
    """What rings: an odd number of frames."""
    return lambda z: median_filter(z, length, -1)


def vertical(length: int) -> Kernel:
    """What hits: an odd number of bins."""
    return lambda z: median_filter(z, length, -2)


def footprint(where: Tensor) -> Kernel:
    """Any neighbourhood: (odd, odd) boolean, bins and frames."""
    return lambda z: footprint_median(z, where)


def cross(bins: int, frames: int) -> Kernel:
    """What changes slowly both ways, a voice: an odd number of bins and of frames."""
    if bins % 2 == 0 or frames % 2 == 0:
        raise ValueError(f"a cross has odd sides, or it shifts by half a sample; got {bins} bins and {frames} frames")
    where = torch.zeros(bins, frames, dtype=torch.bool)
    where[bins // 2] = where[:, frames // 2] = True
    return footprint(where)


def periodic(periods: Tensor, order: int) -> Kernel:
    """What repeats: the frame itself and (order - 1) / 2 repetitions on either side, at periods (b,) in frames."""
    if order % 2 == 0:
        raise ValueError(f"the frame and as many repetitions before as after it make an odd order, not {order}")
    times = torch.arange(order, device=periods.device) - order // 2
    shifts = (times * periods.unsqueeze(-1)).round().long()  # (b, order)

    def kernel(z: Tensor) -> Tensor:
        k = z.shape[-1]
        frames = torch.arange(k, device=z.device).unsqueeze(-1) + shifts.unsqueeze(1)  # (b, k, order)
        return frames_median(z.unsqueeze(1), frames.where((frames >= 0) & (frames < k), -1)).squeeze(1)

    return kernel


def similar(V: Tensor, count: int, distance: int) -> Kernel:
    """What sounds alike, wherever it is: the `count` frames most like each by the spectra V (b, f, k), itself included."""
    frames = similar_frames(V, count=count, distance=distance)
    return lambda z: frames_median(z.unsqueeze(1), frames).squeeze(1)


def kernel_backfitting(
    X: Tensor,
    kernels: Sequence[Sequence[Kernel]],
    *,
    iterations: int = 2,
    filter: Literal["mask", "covariance"] = "mask",
    eps: float = 1e-10,
) -> Tensor:
    """Kernel backfitting for any kernels (Liutkus et al. 2014).

    Where medians leave nothing of any source, the filter would lose what there is: the remainder goes to the strongest
    source, the first where all are 0.

    Args:
        X: (b, c, f, k) complex.
        kernels: for each target those of its sources, z (b, f, k) -> v (b, f, k): powers to their medians.
        iterations: medians of all sources; 1 with `horizontal` and `vertical` is median-filter HPSS.
        filter: "mask", in proportion to v_j, alike for all channels, or "covariance", with R_j estimated.
        eps: of the Wiener filter, relative to the peak of the mixture's power.

    Returns:
        Y (b, n, c, f, k), one for each target; they sum to X.
    """
    if filter not in ("mask", "covariance"):
        raise ValueError(f'filter: expected "mask" or "covariance", got {filter!r}')
    if iterations < 1 or not kernels or not all(kernels):
        raise ValueError("kernel backfitting needs an iteration at least, and a kernel at least for each target")
    target = torch.tensor([i for i, own in enumerate(kernels) for _ in own], device=X.device)
    flat = [kernel for own in kernels for kernel in own]
    peak = X.abs().amax((1, 2, 3)).clamp_min(torch.finfo(X.real.dtype).tiny)
    X = X / peak.view(-1, 1, 1, 1)
    b, c, f, _ = X.shape
    z = X.abs().square().mean(1).unsqueeze(1).expand(-1, len(flat), -1, -1)  # (b, s, f, k)
    R = torch.eye(c, dtype=X.dtype, device=X.device).expand(b, len(flat), f, c, c)
    step = max(BLOCK // (len(flat) * X[:, :, 0].numel()), 1)
    parts = [slice(i, i + step) for i in range(0, f, step)]
    for _ in range(iterations - 1):
        v = torch.stack([kernel(z[:, j]) for j, kernel in enumerate(flat)], 1)
        if filter == "mask":
            z = torch.cat(
                [_mask(v[:, :, i]).square() * X[:, :, i].abs().square().mean(1).unsqueeze(1) for i in parts], 2
            )
        else:
            steps = [_covariances(_filtered(X[:, :, i], v[:, :, i], R[:, :, i], eps)) for i in parts]
            z, R = (torch.cat(t, 2) for t in zip(*steps, strict=True))
    v = torch.stack([kernel(z[:, j]) for j, kernel in enumerate(flat)], 1)
    Y = X.new_empty(b, len(kernels), *X.shape[1:])
    for i in parts:
        if filter == "mask":
            mask = _mask(v[:, :, i])
            shares = mask.new_zeros(b, len(kernels), *mask.shape[2:]).index_add(1, target, mask)
            Y[:, :, :, i] = shares.unsqueeze(2) * X[:, :, i].unsqueeze(1)
        else:
            filtered = _filtered(X[:, :, i], v[:, :, i], R[:, :, i], eps)
            Y[:, :, :, i] = X.new_zeros(Y[:, :, :, i].shape).index_add(1, target, filtered)
    return Y * peak.view(-1, 1, 1, 1, 1)


def _mask(v: Tensor) -> Tensor:
    """v_j / sum v_i (b, s, f, k); the first source's where all are 0."""
    total = v.sum(1, keepdim=True)
    mask = v / torch.where(total > 0, total, 1)
    mask[:, :1] += (total == 0).to(v.dtype)
    return mask


def _filtered(X: Tensor, v: Tensor, R: Tensor, eps: float) -> Tensor:
    """The sources' images (b, s, c, f, k), which sum to X; v (b, s, f, k), R (b, s, f, c, c). In double precision."""
    x, weights, R = X.to(torch.complex128), v.to(torch.complex128), R.to(torch.complex128)
    C = torch.einsum("bsfk,bsfcd->bfkcd", weights, R) + eps * torch.eye(X.shape[1], dtype=x.dtype, device=X.device)
    whitened = hermitian_inverse(C) @ x.movedim(1, -1).unsqueeze(-1)  # (b, f, k, c, 1)
    Y = torch.einsum("bsfcd,bfkd->bscfk", R, whitened.squeeze(-1)) * weights.unsqueeze(2)
    strongest = v.argmax(1, keepdim=True) == torch.arange(v.shape[1], device=v.device).view(-1, 1, 1)
    return (Y + (x - Y.sum(1)).unsqueeze(1) * strongest.unsqueeze(2)).to(X.dtype)


def _covariances(Y: Tensor) -> tuple[Tensor, Tensor]:
    """z (b, s, f, k) and R (b, s, f, c, c) of images Y (b, s, c, f, k)."""
    c = Y.shape[2]
    tiny = torch.finfo(Y.real.dtype).tiny
    unit = Y / Y.abs().square().sum(2, keepdim=True).sqrt().clamp_min(tiny**0.5)
    R = torch.einsum("bscfk,bsdfk->bsfcd", unit, unit.conj())
    identity = torch.eye(c, dtype=Y.dtype, device=Y.device)
    trace = R.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None]
    R = torch.where(trace > 0, R * (c / trace.clamp_min(tiny)), identity) + SHRINK * identity
    inverse = hermitian_inverse(R.to(torch.complex128)).to(Y.dtype)
    z = torch.einsum("bscfk,bsfcd,bsdfk->bsfk", Y.conj(), inverse, Y).real / c
    return z.clamp_min(0), R
