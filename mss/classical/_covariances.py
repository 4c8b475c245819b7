"""Spatial covariances: Hermitian matrices as real vectors, their inverses, and where models of them start.

Axes as everywhere, and a for the components of a factorisation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mss.filters import softmask

__all__ = [
    "double",
    "frequency_blocks",
    "inverse_and_logdet",
    "level",
    "nmf_start",
    "outer",
    "pack",
    "product",
    "require_channels",
    "spatial_start",
    "squared",
    "unpack",
]


def require_channels(X: Tensor, method: str) -> None:
    """Refuses a mixture (b, c, f, k) of one channel on behalf of a method that compares channels."""
    if X.shape[1] < 2:
        raise ValueError(
            f"{method} needs two channels or more, whose differences tell the sources apart, but the mixture has {X.shape[1]}"
        )


def frequency_blocks(X: Tensor, size: int = 2**17) -> list[slice]:
    """Slices of the bins of X (b, c, f, k) with some `size` time-frequency points each: bounds the memory, fits a cache."""
    step = max(size // (X.shape[0] * X.shape[3]), 1)
    return [slice(i, min(i + step, X.shape[2])) for i in range(0, X.shape[2], step)]


def double(X: Tensor) -> Tensor:
    """Complex in double precision, where the device has it: covariances of panned sources are all but singular."""
    return X.to(torch.complex64 if X.device.type == "mps" else torch.complex128)


def squared(x: Tensor) -> Tensor:
    """|x|^2 of a complex tensor; without the square root of `abs`, which costs more than all else here."""
    return x.real.square() + x.imag.square()


def level(X: Tensor, floor: float = 1e-5) -> Tensor:
    """Root mean square of every bin of X (b, c, f, k) over channels and frames, (b, 1, f, 1); 1 where the item is silent.

    Not below `floor` times that of the whole item, or what a codec left in an empty bin would count as music.
    """
    magnitude = X.abs()
    peak = magnitude.amax((1, 2, 3), keepdim=True)
    peak = torch.where(peak > 0, peak, 1)
    power = (magnitude / peak).square().mean((1, 3), keepdim=True)
    power = torch.maximum(power, floor**2 * power.mean(2, keepdim=True))
    return peak * torch.where(power > 0, power, 1).sqrt()


def pack(A: Tensor) -> Tensor:
    """Hermitian (..., c, c) as coordinates (..., c^2) in an orthonormal real basis: tr(A B) = <pack(A), pack(B)>."""
    i, j = torch.triu_indices(A.shape[-1], A.shape[-1], 1, device=A.device)
    upper = 2**0.5 * A[..., i, j]
    return torch.cat([A.diagonal(dim1=-2, dim2=-1).real, upper.real, upper.imag], -1)


def unpack(a: Tensor) -> Tensor:
    """Inverse of `pack`."""
    c = math.isqrt(a.shape[-1])
    i, j = torch.triu_indices(c, c, 1, device=a.device)
    diagonal, real, imaginary = a.split([c, len(i), len(i)], -1)
    A = torch.zeros(*a.shape[:-1], c, c, dtype=a.dtype.to_complex(), device=a.device)
    A[..., i, j] = torch.complex(real, imaginary) / 2**0.5
    return A + A.mH + torch.diag_embed(diagonal)


def outer(x: Tensor) -> Tensor:
    """pack(x x^H) of vectors x (..., c, k) complex, as (..., c^2, k) real."""
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    upper = 2**0.5 * x[..., i, :] * x[..., j, :].conj()
    return torch.cat([squared(x), upper.real, upper.imag], -2)


def product(a: Tensor, x: Tensor) -> Tensor:
    """Packed matrices (..., c^2, k) times vectors (..., c, k) complex."""
    if x.shape[-2] == 2:
        upper = torch.complex(a[..., 2, :], a[..., 3, :]) / 2**0.5
        first, second = x.unbind(-2)
        return torch.stack([a[..., 0, :] * first + upper * second, upper.conj() * first + a[..., 1, :] * second], -2)
    return (unpack(a.transpose(-1, -2)) @ x.transpose(-1, -2).unsqueeze(-1)).squeeze(-1).transpose(-1, -2)


def inverse_and_logdet(a: Tensor) -> tuple[Tensor, Tensor]:
    """Of packed positive definite matrices (..., c^2, k) the packed inverses, and the logarithms (..., k) of the determinants.

    In closed form for two channels, where a batched factorisation spends its time on calls.
    """
    if a.shape[-2] == 4:
        first, second, real, imaginary = a.unbind(-2)
        det = first * second - (real.square() + imaginary.square()) / 2
        return torch.stack([second, first, -real, -imaginary], -2) / det.unsqueeze(-2), det.log()
    L = torch.linalg.cholesky_ex(unpack(a.transpose(-1, -2))).L
    logdet = 2 * L.diagonal(dim1=-2, dim2=-1).real.log().sum(-1)
    return pack(torch.cholesky_inverse(L)).transpose(-1, -2), logdet


def spatial_start(V: Tensor, X: Tensor, *, spread: float, diffuse: float = 0.2) -> tuple[Tensor, Tensor]:
    """Where models of spatial covariances start: the powers and covariances of the estimates that `softmask` gives.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex.
        spread: share of the mixture's power that all sources have alike, or what a mask shut would stay shut for ever.
        diffuse: share of the covariance that is the same for all directions.

    Returns:
        v (b, f, n, k), and R (b, f, n, c^2), packed, of trace c.
    """
    c, n = X.shape[1], V.shape[1]
    Y = softmask(V, X).movedim(3, 1)  # (b, f, n, c, k)
    power = squared(X).mean(1).unsqueeze(2)  # (b, f, 1, k)
    v = (1 - spread) * squared(Y).mean(3) + spread / n * power
    R = pack(Y @ Y.mH)
    trace = R[..., :c].sum(-1, keepdim=True)
    identity = pack(torch.eye(c, dtype=X.dtype, device=X.device))
    R = torch.where(trace > 0, c * R / torch.where(trace > 0, trace, 1), identity)
    return v, (1 - diffuse) * R + diffuse * identity


def nmf_start(
    V: Tensor, X: Tensor, *, components: int, spread: float, seed: int, iterations: int = 10
) -> tuple[Tensor, Tensor, Tensor]:
    """`spatial_start` with the powers of each source factored: NMF of the Kullback-Leibler divergence from random factors.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex.
        components: spectra per source.
        spread: as for `spatial_start`.
        seed: of the random factors, the same for each item of the batch.
        iterations: multiplicative updates (Lee & Seung 2001).

    Returns:
        T (b, f, n, a), U (b, n, a, k), in double precision, and R (b, f, n, c^2) as of `spatial_start`.
    """
    (b, n, _, f, k), blocks = V.shape, frequency_blocks(X)
    start = [spatial_start(V[:, :, :, part], double(X[:, :, part]), spread=spread) for part in blocks]
    R = torch.cat([R for _, R in start], 1)
    powers = [v for v, _ in start]  # (b, f, n, k) each
    generator = torch.Generator().manual_seed(seed)
    T = 0.5 + torch.rand(f, n, components, generator=generator, dtype=torch.float64)
    U = 0.5 + torch.rand(n, components, k, generator=generator, dtype=torch.float64)
    T, U = (t.to(R).expand(b, *t.shape).contiguous() for t in (T, U))
    tiny = torch.finfo(R.dtype).tiny
    for _ in range(iterations):
        up = 0
        for part, v in zip(blocks, powers, strict=True):
            ratio = v / torch.einsum("bfna,bnak->bfnk", T[:, part], U).clamp_min(tiny)
            T[:, part] *= torch.einsum("bfnk,bnak->bfna", ratio, U) / U.sum(-1).unsqueeze(1).clamp_min(tiny)
            ratio = v / torch.einsum("bfna,bnak->bfnk", T[:, part], U).clamp_min(tiny)
            up = up + torch.einsum("bfnk,bfna->bnak", ratio, T[:, part])
        U = U * up / T.sum(1).unsqueeze(-1).clamp_min(tiny)
    return T.clamp_min(1e-12), U.clamp_min(1e-12), R
