"""Unison sources by their modulations: the common fate model (Stöter, Liutkus, Badeau, Edler & Magron, ICASSP 2016).

Patches of the complex spectrogram, a bins high and b frames long, overlapping by half, are windowed and transformed by a
two-dimensional DFT: the common fate transform C(f, a, b, c, k), f and k the place of the patch. A note that vibrates keeps
its pattern over a and b, whatever it overlaps with. The model of its magnitude is

    |C(f, a, b, c, k)| ~ sum_j A_j(f, a, b) H_j(k) Q_j(c),

a texture of modulation for every band of frequency, its activation and how loud it is in each channel, fitted by
multiplicative updates that never raise the Kullback-Leibler divergence. The textures belong to absolute frequencies, so
this is a model of sustained notes in unison and not of songs.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["common_fate", "common_fate_inverse", "common_fate_transform"]

PATCH = (32, 48)  # bins, frames
FLOOR = 1e-8  # of the model, relative to the mean of an item


def common_fate(
    X: Tensor, *, sources: int = 2, patch: tuple[int, int] = PATCH, iterations: int = 30, seed: int = 0
) -> Tensor:
    """Spectra of sources with modulations of their own, the loudest first, for the filter `as_is`.

    Args:
        X: (b, c, f, k) complex.
        sources: how many; so many targets there must be.
        patch: bins and frames, even; long enough for a period of the slowest vibrato.
        iterations: of all three updates.
        seed: of the random numbers that A starts from.

    Returns:
        Y (b, n, c, f, k) complex, which sum to X.
    """
    patch = (patch[0], patch[1])  # of a YAML file it is a list
    C = common_fate_transform(X, patch)  # (b, c, F, K, p, q)
    c, F, K = C.shape[1:4]
    V = C.abs().permute(0, 2, 4, 5, 1, 3).flatten(1, 3).flatten(2)  # (b, F p q, c K)
    scale = V.mean((1, 2), keepdim=True)
    V = V / torch.where(scale > 0, scale, 1)
    W, H, Q = _fit(V.unflatten(2, (c, K)), sources, iterations, seed)
    order = (W.sum(1) * H.sum(2) * Q.sum(2)).argsort(-1, descending=True)  # (b, n)
    W, H, Q = (
        W.gather(2, order.unsqueeze(1).expand_as(W)),
        *(x.gather(1, order.unsqueeze(2).expand_as(x)) for x in (H, Q)),
    )
    G = (Q.unsqueeze(3) * H.unsqueeze(2)).flatten(2)  # (b, n, c K)
    total = W @ G + FLOOR
    Y = []
    for w, g in zip(W.unbind(2), G.unbind(1), strict=True):
        mask = (w.unsqueeze(2) * g.unsqueeze(1) + FLOOR / sources) / total
        mask = mask.unflatten(2, (c, K)).unflatten(1, (F, *patch)).permute(0, 4, 1, 5, 2, 3)
        Y.append(common_fate_inverse(mask * C, X.shape[-2:]))
    return torch.stack(Y, 1)


def common_fate_transform(X: Tensor, patch: tuple[int, int] = PATCH) -> Tensor:
    """X (b, c, f, k) complex as its patches' two-dimensional spectra (b, c, F, K, *patch)."""
    if any(size < 2 or size % 2 for size in patch):
        raise ValueError(f"patches overlap by half, so their sizes are even and at least 2, not {patch}")
    b, c, *size = X.shape
    (left, right), (above, below) = (
        _margins(n, length) for n, length in zip(reversed(size), reversed(patch), strict=True)
    )
    X = torch.nn.functional.pad(X, (left, right, above, below))
    planes = torch.view_as_real(X).movedim(-1, 2).flatten(1, 2)  # (b, 2 c, f, k)
    patches = torch.nn.functional.unfold(planes, patch, stride=(patch[0] // 2, patch[1] // 2))
    grid = [2 * n // length - 1 for n, length in zip(X.shape[-2:], patch, strict=True)]
    patches = patches.view(b, c, 2, *patch, *grid).permute(0, 1, 5, 6, 3, 4, 2)
    return torch.fft.fft2(torch.view_as_complex(patches.contiguous()) * _window(X, patch))


def common_fate_inverse(C: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `common_fate_transform`: (b, c, f, k) of the given size (f, k), by overlap-add."""
    b, c, F, K, p, q = C.shape
    window = _window(C, (p, q))
    patches = torch.view_as_real(torch.fft.ifft2(C) * window).permute(0, 1, 6, 4, 5, 2, 3)  # (b, c, 2, p, q, F, K)
    weight = window.square().flatten()[None, :, None].expand(1, -1, F * K)
    whole = {"output_size": ((F + 1) * p // 2, (K + 1) * q // 2), "kernel_size": (p, q), "stride": (p // 2, q // 2)}
    planes = torch.nn.functional.fold(patches.reshape(b, c * 2 * p * q, F * K), **whole)
    planes = planes / torch.nn.functional.fold(weight, **whole)
    X = torch.view_as_complex(planes.unflatten(1, (c, 2)).movedim(2, -1).contiguous())
    f, k = (_margins(n, length)[0] for n, length in zip(size, (p, q), strict=True))
    return X[..., f : f + size[0], k : k + size[1]]


def _margins(n: int, length: int) -> tuple[int, int]:
    """Zeros before and after n samples, so that each of them is in two patches, the last of which is whole."""
    half = length // 2
    return half, half + -n % half


def _window(like: Tensor, patch: tuple[int, int]) -> Tensor:
    """Two-dimensional Hamming window, (p, q)."""
    dtype = like.real.dtype if like.is_complex() else like.dtype
    p, q = (torch.hamming_window(n, dtype=dtype, device=like.device) for n in patch)
    return p.unsqueeze(1) * q


def _fit(V: Tensor, n: int, iterations: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """W (b, f, n), H (b, n, k) and Q (b, n, c) of V (b, f, c, k), f all that a texture spans."""
    b, f, c, k = V.shape
    generator = torch.Generator().manual_seed(seed)
    W = (torch.rand(1, f, n, generator=generator, dtype=torch.float64) + 0.5).to(V.dtype).to(V.device).expand(b, -1, -1)
    H = (torch.rand(1, n, k, generator=generator, dtype=torch.float64) + 0.5).to(V.dtype).to(V.device).expand(b, -1, -1)
    Q = V.new_ones(b, n, c)
    V = V.flatten(2)
    for _ in range(iterations):
        G = _gains(H, Q)
        W = W * ((V / (W @ G + FLOOR)) @ G.mT) / G.sum(-1).clamp_min(FLOOR).unsqueeze(1)
        sums = W.sum(1).clamp_min(FLOOR)  # (b, n)
        A = (W.mT @ (V / (W @ G + FLOOR))).unflatten(2, (c, k))  # (b, n, c, k)
        H = H * torch.einsum("bnck,bnc->bnk", A, Q) / (sums * Q.sum(-1)).clamp_min(FLOOR).unsqueeze(2)
        A = (W.mT @ (V / (W @ _gains(H, Q) + FLOOR))).unflatten(2, (c, k))
        Q = Q * torch.einsum("bnck,bnk->bnc", A, H) / (sums * H.sum(-1)).clamp_min(FLOOR).unsqueeze(2)
        size = Q.mean(-1, keepdim=True).clamp_min(FLOOR)
        Q, H = Q / size, H * size
    return W, H, Q


def _gains(H: Tensor, Q: Tensor) -> Tensor:
    return (Q.unsqueeze(3) * H.unsqueeze(2)).flatten(2)
