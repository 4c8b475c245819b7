"""Networks inside the multichannel EM (Nugraha, Liutkus & Vincent 2016; Cano et al. 2019, Figure 4).

A. A. Nugraha, A. Liutkus, E. Vincent, "Multichannel audio source separation with deep neural networks", IEEE/ACM TASLP
24(9), 2016. Source j is Gaussian of covariance v_j(f, k) R_j(f). A first network gives the powers v_j, all R_j start from
the identity; then, with C_j the posterior covariance of the image of j in a bin,

    R_j = sum_k w_j C_j / v_j / sum_k w_j,    w_j = v_j: loud bins say where a source is;
    z_j = tr(R_j^-1 C_j) / c,                 what a true EM would take for v_j;
    v_j = (network_j(sqrt z_j))^2,            if there is one: it knows what a source can be like.

In the end Y_j = v_j R_j (sum_i v_i R_i)^-1 X. With S the inverse covariance of the mixture x, y = S x and B = y y^H - S,
C_j = v_j R_j + v_j^2 R_j B R_j, so that no R_j is inverted. Departs from the paper in the noise, as `mss.classical.lgm`, and in
what a network of step 2 on sees: its own target alone, in each channel with the power that R_j has there.

Letters inside: x (b, f, c, k) complex, v (b, f, n, k), R (b, f, n, c^2) packed covariances of trace c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mss.classical._covariances import (
    double,
    frequency_blocks,
    inverse_and_logdet,
    level,
    outer,
    pack,
    product,
    unpack,
)
from mss.classical.lgm import posterior_means
from mss.separator import SpectralSeparator
from mss.transforms import STFT

__all__ = ["SpatialSeparator"]

FLOOR = 1e-12  # least power, relative to the mean power of the bin: a mask that is shut leaves an inverse


class SpatialSeparator(SpectralSeparator):
    """A separator of magnitudes by networks and positions by EM. Any number of channels; one has no positions.

    Args:
        estimator: X (b, c, f, k) complex -> V (b, n, c, f, k) magnitudes: the networks of step 0.
        targets: the names of the n targets.
        networks: of the later steps, one per target, magnitudes (b, c, f, k) -> (b, c, f, k) of the target as it was
            separated; None: v stays what step 0 says, and the EM is one of positions.
        again: these are the estimator's own `networks`.
        iterations: steps of EM; 0: a Wiener filter with the same R for all.
        noise: power of the noise, relative to each bin's.
        sample_rate: Hz.
        transform: waveform <-> spectrum.
    """

    def __init__(
        self,
        estimator: Callable[[Tensor], Tensor],
        targets: Sequence[str],
        *,
        networks: Sequence[nn.Module] | None = None,
        again: bool = False,
        iterations: int = 2,
        noise: float = 1e-6,
        sample_rate: int = 44100,
        transform: STFT = STFT(),  # noqa: B008  (frozen, so it can be shared)
    ) -> None:
        super().__init__(estimator, targets, sample_rate=sample_rate, transform=transform)
        if networks is not None and again:
            raise ValueError("again uses the estimator's networks: leave it out, or give no others")
        if again and not hasattr(estimator, "networks"):
            raise ValueError("again needs an estimator with a network for each target: mss.nets.Magnitudes")
        found = estimator.networks if again else networks
        if found is not None and len(found) != len(self.targets):
            raise ValueError(f"{len(self.targets)} targets need as many networks, got {len(found)}")
        self.networks = None if networks is None else nn.ModuleList(networks)
        self.again = again
        self.iterations = iterations
        self.noise = noise
        self.filter = self._filter

    def _filter(self, V: Tensor, X: Tensor) -> Tensor:
        """V (b, n, c, f, k), X (b, c, f, k) -> Y (b, n, c, f, k)."""
        networks = self.estimator.networks if self.again else self.networks
        (b, c, f, _), n = X.shape, V.shape[1]
        scale = level(X)  # (b, 1, f, 1)
        scales = scale.unsqueeze(1)
        v = _powers(V / scales)  # (b, f, n, k)
        R = pack(torch.eye(c, dtype=double(X[..., :0]).dtype, device=X.device)).expand(b, f, n, -1)
        for _ in range(self.iterations):
            steps = []
            for part in frequency_blocks(X):
                x = double(X[:, :, part] / scale[:, :, part]).transpose(1, 2)
                steps.append(_step(v[:, part].to(x.real.dtype), R[:, part], x, self.noise))
            z, R = (torch.cat(parts, 1) for parts in zip(*steps, strict=True))
            z = z.to(v.dtype)
            if networks is not None:
                seen = (z.unsqueeze(3) * R[..., :c].to(z.dtype).unsqueeze(-1)).sqrt().movedim(1, 3) * scales
                V = torch.stack([network(m).view_as(m) for network, m in zip(networks, seen.unbind(1), strict=True)], 1)
                v = _powers(V / scales)
        parts = []
        for part in frequency_blocks(X):
            x = double(X[:, :, part] / scale[:, :, part]).transpose(1, 2)
            y = posterior_means(v[:, part].to(x.real.dtype).clamp_min(FLOOR), R[:, part], x, self.noise)
            parts.append(y.movedim(1, 3).to(X.dtype) * scales[..., part, :])
        return torch.cat(parts, 3)


def _powers(V: Tensor) -> Tensor:
    """Powers (b, f, n, k), mean of the channels, of magnitudes (b, n, c, f, k)."""
    return V.square().mean(2).transpose(1, 2)


def _step(v: Tensor, R: Tensor, x: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """z (b, f, n, k) and the new R (b, f, n, c^2)."""
    c, v = x.shape[2], v.clamp_min(FLOOR)
    covariance = R.mT @ v  # (b, f, c^2, k)
    noises = torch.zeros_like(covariance)
    noises[:, :, :c] = noise
    S, _ = inverse_and_logdet(covariance + noises)
    B = outer(product(S, x)) - S
    z = v * (1 + v * (R @ B) / c)
    matrix, weighted = unpack(R), unpack(v.square() @ B.mT / v.sum(-1, keepdim=True))
    R = R + pack(matrix @ weighted @ matrix)
    return z.clamp_min(FLOOR), R / R[..., :c].mean(-1, keepdim=True)
