"""Shrinking of singular values without a whole singular value decomposition."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Shrinkage", "largest_singular_value"]

SMALL = 160  # up to this shorter side the exact way is as fast
COLD = 2  # passes before the first call's own, which has no vectors to start from


class Shrinkage:
    """Lowers the singular values of matrices that change little from call to call, Z -> U max(s - t, 0) V^T.

    Subspace iteration on a few left vectors, which start from those of the last call; there are more of them than
    singular values above the threshold, else more are added until the smallest one found lies below it (Halko,
    Martinsson & Tropp 2011 on the start from random vectors). Small matrices, and those of a high rank, go by the
    eigenvectors of the smaller Gram matrix, in float64.
    """

    def __init__(self, spare: int = 10, seed: int = 0) -> None:
        self.spare = spare
        self._generator = torch.Generator().manual_seed(seed)
        self._left: Tensor | None = None  # (b, p, r)
        self._exact = False

    def __call__(self, Z: Tensor, threshold: Tensor) -> Tensor:
        """Z (b, p, q), threshold (b, 1, 1) > 0 -> (b, p, q)."""
        p, q = Z.shape[-2:]
        if self._exact or min(p, q) <= SMALL or Z.device.type == "meta":
            return _by_gram(Z, threshold)
        if self._left is None:
            self._left = self._random(Z, self.spare)
            for _ in range(COLD):
                self._left = Z @ torch.linalg.qr(Z.mT @ self._left).Q
        while self._left.shape[-1] <= min(p, q) // 2:
            right = torch.linalg.qr(Z.mT @ self._left).Q  # (b, q, r)
            Y = Z @ right
            square, vectors = (part.flip(-1) for part in torch.linalg.eigh(_gram(Y)))
            s = square.clamp_min(0).sqrt().unsqueeze(-2)  # (b, 1, r), falling
            self._left = Y @ vectors.to(Y)
            rank = int((s > threshold).sum(-1).max())
            size = self._left.shape[-1]
            if rank < size:
                weight = (1 - threshold / s.clamp_min(torch.finfo(s.dtype).tiny)).clamp_min(0)[..., :rank]
                low = (self._left[..., :rank] * weight.to(Y)) @ (right @ vectors[..., :rank].to(Y)).mT
                wanted = rank + max(self.spare, rank // 2)  # the next call may find more
                if wanted < size:
                    self._left = self._left[..., :wanted]
                else:
                    self._left = torch.cat([self._left, self._random(Z, wanted - size)], -1)
                return low
            self._left = torch.cat([self._left, self._random(Z, size // 2)], -1)
        self._exact, self._left = True, None
        return _by_gram(Z, threshold)

    def _random(self, Z: Tensor, count: int) -> Tensor:
        """The same for each item of the batch."""
        noise = torch.randn(Z.shape[-2], count, generator=self._generator, dtype=torch.float64)
        return noise.to(Z).expand(Z.shape[0], -1, -1)


def largest_singular_value(Z: Tensor, iterations: int = 20) -> Tensor:
    """The spectral norm of Z (b, p, q) by power iteration, (b, 1, 1)."""
    tiny = torch.finfo(Z.dtype).tiny
    noise = torch.randn(Z.shape[-1], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    v = noise.to(Z).expand(Z.shape[0], -1, -1)
    for _ in range(iterations):
        v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True).clamp_min(tiny)
        v = Z.mT @ (Z @ v)
    return torch.linalg.vector_norm(v, dim=-2, keepdim=True).sqrt()


def _by_gram(Z: Tensor, threshold: Tensor) -> Tensor:
    if Z.shape[-2] < Z.shape[-1]:
        return _by_gram(Z.mT, threshold).mT
    square, vectors = torch.linalg.eigh(_gram(Z))
    s = square.clamp_min(0).sqrt().unsqueeze(-2)
    weight = (1 - threshold / s.clamp_min(torch.finfo(s.dtype).tiny)).clamp_min(0)
    return Z @ ((vectors * weight) @ vectors.mT).to(Z)


def _gram(Z: Tensor) -> Tensor:
    """Z^T Z in float64 where the device has it, as it squares the condition."""
    Z = Z if Z.device.type == "mps" else Z.double()
    return Z.mT @ Z
