"""Deep clustering (Hershey et al. 2016) and Chimera (Luo et al. 2017; Wang, Le Roux & Hershey 2018).

A BLSTM over the log-magnitudes of the mixture gives each bin a point on the unit sphere, an embedding, close to those of
the bins that the same source dominates (the losses `deep_clustering` and `deep_clustering_whitened`). k-means of the embeddings
gives the masks, for as many sources as are asked for. Chimera has a second head on the same layers that estimates
masks without clustering.

The papers' mixtures have one channel. Here every channel goes through the network by itself, and the embeddings of all are
clustered together: weights fit any number of channels, and a source may dominate one channel and not the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.nets._kmeans import centres_of, squared_distances

__all__ = ["Chimera", "Clusters", "DeepClustering"]

FLOOR = -80.0  # dB below the item's level, where the log-magnitudes end
SEEN = 256  # frames of a song, evenly spaced, that k-means sees
BLOCK = 512  # frames that get their masks at a time, which bounds the memory


@dataclass(frozen=True)
class Clusters:
    """How embeddings become masks.

    Args:
        sources: how many. None: from 2 to the number of targets, for each item as the silhouette says (`_kmeans.py`).
        sharpness: masks are exp(-sharpness * squared distance to the centre), in proportion; orthogonal embeddings have a
            squared distance of 2. None: each bin goes whole to the nearest centre.
        active: dB below the loudest bin down to which bins count in k-means.
        seed: of k-means++.
    """

    sources: int | None = None
    sharpness: float | None = 5.0
    active: float = 40.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sources is not None and self.sources < 1:
            raise ValueError(f"sources is a number from 1 on, or None to have it estimated, not {self.sources}")
        if self.sharpness is not None and not self.sharpness > 0:
            raise ValueError(f"sharpness must be above 0, or None for binary masks, not {self.sharpness}")


class DeepClustering(nn.Module):
    """Estimator: a BLSTM's embeddings of the bins, and k-means over the whole song.

    Its targets are anonymous, the loudest first (call them source_1, source_2, ...); those beyond the number of sources
    are silent. Levels are taken relative to the song's own: louder or softer, its masks are the same.

    Args:
        bins: the network sees the bins below this one. Above them each frame has the mean of the masks in its top quarter,
            weighted by magnitude.
        targets: how many the separator has: the most sources that it can tell apart.
        dimension: of the embeddings, d.
        hidden: cells of each layer and direction.
        layers: of the BLSTM.
        dropout: probability, between the layers.
        clusters: how the embeddings become masks.

    Example:
        >>> names = [f"source_{i}" for i in range(1, 5)]
        >>> separator = SpectralSeparator(DeepClustering(743), names, transform=STFT(2048, 512))
    """

    context = None  # k-means over the song, and its level

    def __init__(
        self,
        bins: int,
        *,
        targets: int = 4,
        dimension: int = 20,
        hidden: int = 600,
        layers: int = 4,
        dropout: float = 0.3,
        clusters: Clusters = Clusters(),
    ) -> None:
        super().__init__()
        if clusters is not None and (clusters.sources or 1) > targets:
            raise ValueError(f"{clusters.sources} sources do not fit into {targets} targets: give more targets")
        self.bins = bins
        self.targets = targets
        self.dimension = dimension
        self.hidden = hidden
        self.layers = layers
        self.dropout = dropout
        self.clusters = clusters
        self.register_buffer("mean", torch.zeros(bins, 1))
        self.register_buffer("deviation", torch.ones(bins, 1))
        between = dropout if layers > 1 else 0.0
        self.blstm = nn.LSTM(bins, hidden, layers, batch_first=True, dropout=between, bidirectional=True)
        self.embedding = nn.Linear(2 * hidden, bins * dimension)

    def forward(self, X: Tensor) -> Tensor:
        """X (b, c, f, k) complex -> V (b, n, c, f, k)."""
        return self._clustered(self._common(X), X)

    def embed(self, X: Tensor) -> Tensor:
        """X (b, c, f, k) complex -> embeddings (b, p, d) of length 1, p = c * bins * k bins in the order (c, f, k)."""
        return self._embedded(self._common(X))

    @torch.no_grad()
    def fit_input(self, spectra: Iterable[Tensor]) -> None:
        """Takes mean and deviation of each bin's log-magnitudes from mixtures X (b, c, f, k) complex."""
        count, total, squares = 0, 0.0, 0.0
        for X in spectra:
            x = self._log_magnitudes(X).cpu().double()
            count += x.numel() // self.bins
            total, squares = total + x.sum((0, 1, 3)), squares + x.square().sum((0, 1, 3))
        if not count:
            raise ValueError("the statistics of the input need at least one mixture, and there was none")
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        deviation = deviation.clamp_min(0.1 * deviation.max()) if deviation.max() > 0 else torch.ones_like(deviation)
        self.mean.copy_(mean.unsqueeze(-1))
        self.deviation.copy_(deviation.unsqueeze(-1))

    def _log_magnitudes(self, X: Tensor) -> Tensor:
        """(b, c, bins, k), log10, relative to the item's root mean square."""
        if X.shape[-2] < self.bins:
            raise ValueError(f"the network sees {self.bins} bins, the spectra have {X.shape[-2]}: give a longer n_fft")
        magnitude = X[..., : self.bins, :].abs()
        tiny = torch.finfo(magnitude.dtype).tiny
        magnitude = magnitude / magnitude.amax((1, 2, 3), keepdim=True).clamp_min(tiny)  # so no square vanishes
        power = magnitude.square().mean((1, 2, 3), keepdim=True)
        level = torch.where(power > 0, power, 1).sqrt()  # the slope of a root is infinite at 0
        return (magnitude / level).clamp_min(10 ** (FLOOR / 20)).log10()

    def _common(self, X: Tensor) -> Tensor:
        """What all heads see: (b, c, k, 2 * hidden)."""
        x = (self._log_magnitudes(X) - self.mean) / self.deviation
        return self.blstm(x.flatten(0, 1).mT)[0].unflatten(0, X.shape[:2])

    def _embedded(self, h: Tensor) -> Tensor:
        """(b, c, k, 2 * hidden) -> (b, p, d)."""
        points = torch.tanh(self.embedding(h)).unflatten(-1, (self.bins, -1))  # (b, c, k, f, d)
        return F.normalize(points, dim=-1).transpose(2, 3).flatten(1, 3)  # p in the order (c, f, k)

    def _clustered(self, h: Tensor, X: Tensor) -> Tensor:
        """V (b, n, c, f, k), from the whole song's k-means."""
        magnitude = X.abs()
        with torch.no_grad():
            seen = slice(None, None, -(-X.shape[-1] // SEEN))
            weights = magnitude[..., : self.bins, seen].flatten(1)  # (b, p)
            least = weights.amax(1, keepdim=True) * 10 ** (-self.clusters.active / 20)
            weights, points = torch.where(weights > least, weights, 0), self._embedded(h[:, :, seen])
            centres, used = centres_of(points, weights, self.targets, self.clusters.sources, seed=self.clusters.seed)
        masks = [self._memberships(self._embedded(part), centres, used) for part in h.split(BLOCK, 2)]  # (b, p, n) each
        masks = torch.cat([m.mT.unflatten(-1, (X.shape[1], self.bins, -1)) for m in masks], -1)  # (b, n, c, bins, k)
        V = self._extended(masks, magnitude) * magnitude.unsqueeze(1)
        return self._loudest_first(V)

    def _memberships(self, points: Tensor, centres: Tensor, used: Tensor) -> Tensor:
        """(b, p, n), 0 for centres that are not used; they sum to 1."""
        distances = squared_distances(points, centres).masked_fill(~used.unsqueeze(1), torch.inf)
        if self.clusters.sharpness is not None:
            return torch.softmax(-self.clusters.sharpness * distances, -1)
        nearest = distances.argmin(-1, keepdim=True)
        return (nearest == torch.arange(self.targets, device=points.device)).to(points)

    def _extended(self, masks: Tensor, magnitude: Tensor) -> Tensor:
        """(b, n, c, bins, k) -> (b, n, c, f, k), by the mean over the top quarter of the bins."""
        above = magnitude.shape[-2] - self.bins
        if not above:
            return masks
        top = slice(3 * self.bins // 4, self.bins)
        weights = magnitude[..., top, :].unsqueeze(1)
        peak = weights.amax((2, 3, 4), keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        weights = weights / peak + 1e-5  # where a frame has nothing there, all its bins count the same
        mean = (masks[..., top, :] * weights).sum(-2, keepdim=True) / weights.sum(-2, keepdim=True)
        return torch.cat([masks, mean.expand(*masks.shape[:-2], above, -1)], -2)

    @staticmethod
    def _loudest_first(V: Tensor) -> Tensor:
        peak = V.amax((1, 2, 3, 4), keepdim=True).clamp_min(torch.finfo(V.dtype).tiny)
        order = (V / peak).square().sum((2, 3, 4)).argsort(dim=1, descending=True, stable=True)
        return V.gather(1, order.view(*order.shape, 1, 1, 1).expand_as(V))


class Chimera(DeepClustering):
    """Estimator: deep clustering's layers with a second head that estimates masks, which sum to 1 over the targets.

    Trained with both heads' losses, `deep_clustering_whitened` of the embeddings and, for one, `phase_sensitive` of the
    masks; either in the order of the targets, or in the best order where they are anonymous (`permutation_invariant`).

    Args:
        bins, dimension, hidden, layers, dropout: as in `DeepClustering`.
        targets: how many masks.
        clusters: None: separate by the masks. Else by the embeddings, as `DeepClustering` does.
    """

    def __init__(
        self,
        bins: int,
        *,
        targets: int = 2,
        dimension: int = 20,
        hidden: int = 600,
        layers: int = 4,
        dropout: float = 0.3,
        clusters: Clusters | None = None,
    ) -> None:
        if targets < 2:
            raise ValueError(f"the masks of Chimera sum to 1, so there must be at least two targets, not {targets}")
        super().__init__(
            bins, targets=targets, dimension=dimension, hidden=hidden, layers=layers, dropout=dropout, clusters=clusters
        )
        self.mask = nn.Linear(2 * hidden, bins * targets)

    def forward(self, X: Tensor) -> Tensor:
        """X (b, c, f, k) complex -> V (b, n, c, f, k)."""
        h = self._common(X)
        return self._masked(h, X) if self.clusters is None else self._clustered(h, X)

    def both(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """V of the masks, whatever `clusters` says, and the embeddings (b, p, d); for training."""
        h = self._common(X)
        return self._masked(h, X), self._embedded(h)

    def _masked(self, h: Tensor, X: Tensor) -> Tensor:
        masks = self.mask(h).unflatten(-1, (self.bins, self.targets)).softmax(-1).permute(0, 4, 1, 3, 2)
        magnitude = X.abs()
        return self._extended(masks, magnitude) * magnitude.unsqueeze(1)
