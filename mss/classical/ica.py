"""Independent component analysis: an instantaneous mixture is undone by what makes the outputs least Gaussian.

As many sources as channels, each in every channel at some gain and with no delay. A sum of sources is more Gaussian than
they are, so the rotation of the whitened channels whose outputs are furthest from Gaussian is the one that separates.
FastICA finds it by a fixed-point iteration (Hyvärinen 1999).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mss.classical._demixing import require_determined, sort_by_direction
from mss.classical._ops import BLOCK

__all__ = ["ICA"]

SINGULAR = 1e-8  # smallest over largest eigenvalue of the covariance, below which channels are one and the same


class ICA(nn.Module):
    """Unmixes an instantaneous mixture of as many sources as channels in the time domain: FastICA (Hyvärinen 1999).

    The contrast is log cosh, the rows are made orthogonal all at once. It starts from the whitened channels, with no
    random numbers. Departs from the paper in when it stops: after a fixed number of iterations and not when little
    changes, as it leaves a worst point of the contrast slowly; so no item of a batch depends on another, either.

    An item whose channels are linearly dependent (mono as stereo, silence in one channel) holds fewer sources than
    targets: it is whitened and no more, which gives a single source of gains a_j to the targets in shares of a_j^2.

    Args:
        targets: names, one for each channel; of two channels from left to right, else the loudest first.
        sample_rate: Hz.
        iterations: of the fixed point.
        samples: the mixture is unmixed whole, but looked at in that many samples at most, evenly spread.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        sample_rate: int = 44100,
        iterations: int = 60,
        samples: int = 2**18,
    ) -> None:
        super().__init__()
        if min(iterations, samples) < 1:
            raise ValueError(f"iterations and samples must be at least 1, not {iterations} and {samples}")
        self.targets = tuple(targets)
        self.sample_rate = sample_rate
        self.iterations = iterations
        self.samples = samples

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t), which sum to the mixture."""
        require_determined(mixture, len(self.targets), "ica")
        B, A = self.matrices(mixture)
        y = torch.empty(*B.shape[:2], *mixture.shape[1:], dtype=mixture.dtype, device=mixture.device)
        step = max(BLOCK // B[0].numel() // len(B), 1)
        for start in range(0, mixture.shape[-1], step):
            sources = B @ mixture[..., start : start + step].to(B)  # (b, n, t)
            y[..., start : start + step] = A.mT.unsqueeze(-1) * sources.unsqueeze(2)
        return y

    def matrices(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """What unmixes a mixture (b, c, t), B (b, n, c), and its inverse A (b, c, n), sources in the order of the targets."""
        x = mixture[..., :: -(-mixture.shape[-1] // self.samples)]
        x = x.to(torch.float32 if x.device.type == "mps" else torch.float64)
        x = x - x.mean(-1, keepdim=True)
        values, vectors = torch.linalg.eigh(x @ x.mT / x.shape[-1])
        largest = values[:, -1:]
        values = torch.where(largest > 0, torch.maximum(values, SINGULAR * largest), 1)
        z = (vectors * values.rsqrt().unsqueeze(1)) @ (vectors.mT @ x)
        W = self._rotation(z.to(mixture.dtype)).to(values)
        identity = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        W = torch.where((values[:, :1] > SINGULAR * largest).unsqueeze(-1), W, identity)
        B = W @ (vectors * values.rsqrt().unsqueeze(1)) @ vectors.mT
        A = (vectors * values.sqrt().unsqueeze(1)) @ vectors.mT @ W.mT
        order = sort_by_direction(A.square())  # the sources have unit power
        return B.take_along_dim(order.unsqueeze(-1), 1), A.take_along_dim(order.unsqueeze(1), 2)

    def _rotation(self, z: Tensor) -> Tensor:
        """The rotation (b, n, c) of white z (b, c, t) whose outputs are furthest from Gaussian."""
        b, c, t = z.shape
        W = torch.eye(c, dtype=z.dtype, device=z.device).expand(b, -1, -1)
        for _ in range(self.iterations):
            g = torch.tanh(W @ z)  # (b, n, t)
            slope = 1 - g.square().mean(-1, keepdim=True)
            U, _, Vh = torch.linalg.svd(g @ z.mT / t - slope * W)
            W = U @ Vh
        return W
