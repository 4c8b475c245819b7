"""A temporal convolutional network that starts from the masks of a method without training, and learns what to change.

A network that begins at nothing must learn from examples what is percussive and where a bass plays. One that is given the
masks M of a method that knows (`mss.classical.rhythm_section`) adds to their logarithms:

    V_j = softmax_j(log M_j + y_j) |X|,    y = network(|X|^p, M).

As its last layer starts at 0, it starts at the method, and falls back to it where the music is like nothing it has learned on.
The method says which bin is whose within a band of frequency, the network how bands change with time: it sees the means over
bands of a fraction of an octave, and what it adds is interpolated between their centres. So it cannot learn the fine spectra
of single instruments by heart, which a network taught with synthetic music otherwise does.

Of each frame: a linear layer with batch normalisation and tanh; then, over time, residual dilated convolutions (Bai et al.
2018); then, from what goes into them and what comes out, two linear layers, as in Open-Unmix (Stöter et al. 2019). What
passes through these few hundred numbers for each frame is coarse. So a few maps of small convolutions over bands and frames
go in, and go around them, as the skip connections of a U-Net do (Jansson et al. 2017), and have the last word. The network
looks at finitely many frames, so songs of any length pass through in blocks. Far look only the layers over time, a quarter of
the work; the others need a few frames beyond each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mss.cpu import in_threads, untracked
from mss.filters import ratio_mask
from mss.nets.blocks import (
    HALF,
    KERNEL,
    LEAST_MAGNITUDE,
    DilatedBlocks,
    InStages,
    convolutions,
    full_precision,
    mean_and_std,
)
from mss.separator import frames_of_context

__all__ = ["GuidedTCN"]

LEAST_SHARE = 1e-3  # of a target in the masks to start from: from 0 there is no way back
BEFORE, AFTER = 3, 3  # convolutions over bands and frames, before and after the layers over time
STRIDE = 4  # bands that the maps are summed up by before they go into the layers over time
COARSE = 4  # maps that come out of those layers


class GuidedTCN(InStages):
    """Estimator: X (b, c, f, k) complex -> V (b, n, c, f, k), which add up to |X|.

    Args:
        guide: |X| -> V (b, n, c, f, k), a method without training, with a finite `context`.
        targets: number of them.
        bins: of the spectra.
        channels: of the spectra.
        hidden: width of all layers.
        dilations: of the convolutions over time, of three taps each; they look at as many frames on either side as their sum.
        dropout: after each of them.
        maps: of the convolutions over bands and frames, two or more; 0: none.
        bands: of an octave; at low frequencies a band is a bin.
        max_bin: the network sees the bands that begin below this bin; None: all.
        power: magnitudes are taken to it: loudness rather than amplitude.
    """

    KNOWN = 2  # the magnitude, and the guide's masks
    block = 160  # frames: of stereo and three targets 8 MB for each of the largest tensors

    def __init__(
        self,
        guide: Callable[[Tensor], Tensor],
        targets: int,
        *,
        bins: int = 2049,
        channels: int = 1,
        hidden: int = 384,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        dropout: float = 0.3,
        maps: int = 0,
        bands: int = 24,
        max_bin: int | None = None,
        power: float = 0.3,
    ) -> None:
        super().__init__()
        if max_bin is not None and not 0 < max_bin <= bins:
            raise ValueError(f"max_bin must be between 1 and bins = {bins}, or None, not {max_bin}")
        if targets < 2:
            raise ValueError(f"masks share the mixture among targets: there must be two or more, not {targets}")
        if maps < 0 or maps == 1:
            raise ValueError(f"maps must be 0 or two or more, of which half go into the layers over time, not {maps}")
        self.guide = guide
        self.targets = targets
        self.bins = bins
        self.channels = channels
        self.hidden = hidden
        self.dilations = tuple(dilations)
        self.dropout = dropout
        self.maps = maps
        self.bands = bands
        self.max_bin = max_bin
        self.power = power

        starts = band_starts(bins, bands)
        self.edges = np.array([*starts, bins])
        pool, spread = band_matrices(starts, bins)
        self.register_buffer("pool", pool, persistent=False)  # (bands, f)
        self.register_buffer("spread", spread, persistent=False)  # (f, bands)
        seen = sum(start < (max_bin or bins) for start in starts)
        self.register_buffer("input_mean", torch.zeros(seen))  # subtracted
        self.register_buffer("input_scale", torch.ones(seen))  # divided by
        known = targets * channels  # maps: the magnitudes, and all masks but the last
        if maps:
            self.look = convolutions(known, *[maps] * BEFORE)
            self.sum_up = nn.Conv2d(maps, maps // 2, (STRIDE, 1), (STRIDE, 1))
            self.recall = nn.Conv1d(hidden, COARSE * len(starts), 1)
            self.join = convolutions(maps + COARSE, *[maps] * (AFTER - 1))
            self.join.append(nn.Conv2d(maps, known, KERNEL, padding=HALF))
            nn.init.zeros_(self.join[-1].weight)
            nn.init.zeros_(self.join[-1].bias)
        self.encode = nn.Sequential(
            nn.Conv1d(known * seen + (maps // 2) * (seen // STRIDE), hidden, 1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.Tanh(),
        )
        self.blocks = DilatedBlocks(hidden, dilations, dropout)
        self.decode = nn.Sequential(
            nn.Conv1d(2 * hidden, hidden, 1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, targets * channels * len(starts), 1),
        )
        nn.init.zeros_(self.decode[-1].weight)
        nn.init.zeros_(self.decode[-1].bias)

    @property
    def context(self) -> int | None:
        """Frames on either side; None where the guide needs all."""
        return None if frames_of_context(self.guide) is None else sum(self._reach()) + sum(self.dilations)

    def _reach(self) -> tuple[int, int]:
        before, after = (count * HALF[1] if self.maps else 0 for count in (BEFORE, AFTER))
        return frames_of_context(self.guide) + before, after

    def _heard(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(b, c, f, k) -> its magnitude, the guide's masks (b, n, c, f, k), and of what the network sees in it what goes
        around the layers over time, (b, maps, bands seen, k), and what goes into them, (b, h, k)."""
        if tuple(X.shape[1:3]) != (self.channels, self.bins):
            raise ValueError(
                f"this network is for {self.channels} channels of {self.bins} bins, not {tuple(X.shape[1:3])}: "
                "build it with channels and bins of the data and the transform"
            )
        with full_precision(X.device):
            magnitude = X.abs()
            known, masks = self._known(magnitude)
        seen = known.flatten(1, 2)
        if not self.maps:
            return magnitude, masks, seen[:, :0], self.encode(seen)
        looked = self.look(known)
        return magnitude, masks, looked, self.encode(torch.cat([seen, self.sum_up(looked).flatten(1, 2)], 1))

    def _known(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, f, k) -> what the network sees, (b, n c, bands seen, k), and the guide's masks, (b, n, c, f, k)."""
        loud = magnitude.clamp_min(LEAST_MAGNITUDE)
        with torch.no_grad():
            guessed = self.guide(loud)
        if guessed.shape[1] != self.targets:
            raise ValueError(f"the guide gives {guessed.shape[1]} targets, not {self.targets}")
        if magnitude.dtype == torch.float32 and untracked(magnitude, guessed):
            masks, means = self._banded_on_cpu(guessed, loud.pow(self.power))
        else:
            masks = ratio_mask(guessed).clamp_min(LEAST_SHARE)
            means = self.pool @ torch.cat([loud.pow(self.power).unsqueeze(1), masks[:, :-1]], 1)
        means = means[..., : len(self.input_mean), :]  # (b, n, c, bands seen, k)
        loudness = (means[:, :1] - self.input_mean.unsqueeze(-1)) / self.input_scale.unsqueeze(-1)
        return torch.cat([loudness, 2 * means[:, 1:] - 1], 1).flatten(1, 2), masks

    def _banded_on_cpu(self, guessed: Tensor, loudness: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (b, n, c, f, k), and the means over bands of the loudness and of all of them but the last, compiled."""
        from mss.nets import _bands_cpu  # compiled code is loaded where it is wanted

        masks = torch.empty_like(guessed, memory_format=torch.contiguous_format)
        means = masks.new_empty(*masks.shape[:3], len(self.edges) - 1, masks.shape[-1])
        items = masks.shape[2] * (len(self.edges) - 1)
        arrays = (x.contiguous().numpy() for x in (guessed, loudness, masks, means))
        for v, x, m, y in zip(*arrays, strict=True):
            in_threads(
                lambda first, last: _bands_cpu.masks_and_means(v, x, self.edges, LEAST_SHARE, m, y, first, last),  # noqa: B023
                items,
            )
        return masks, means

    def _answer(self, looked: Tensor, encoded: Tensor, over_time: Tensor) -> Tensor:
        """What to add to the masks' logarithms, (b, n, c, bands, k)."""
        hidden = self.decode[:-1](torch.cat([encoded, over_time], 1))
        y = self.decode[-1](hidden).unflatten(1, (self.targets * self.channels, -1))
        if self.maps:
            recalled = self.recall(hidden).unflatten(1, (COARSE, -1))
            looked = nn.functional.pad(looked, (0, 0, 0, recalled.shape[2] - looked.shape[2]))
            y = y + self.join(torch.cat([looked, recalled], 1))
        return y.unflatten(1, (self.targets, self.channels))

    def _applied(self, y: Tensor, magnitude: Tensor, masks: Tensor) -> Tensor:
        """V."""
        with full_precision(masks.device):
            # in place: these are by far the largest of all tensors here
            V = (self.spread @ y.to(self.spread.dtype)).add_(masks.log()).softmax(1)
        return V * magnitude.unsqueeze(1) if torch.is_grad_enabled() else V.mul_(magnitude.unsqueeze(1))

    @torch.no_grad()
    def fit_input(self, spectra: Iterable[Tensor]) -> None:
        """Sets the scaling by the mean and deviation of each band of mixtures X (b, c, f, k), channels averaged."""
        mean, std = mean_and_std(self._loudness(X.abs()).mean(1) for X in spectra)
        self.input_mean.copy_(mean)
        self.input_scale.copy_(std)

    def _loudness(self, magnitude: Tensor) -> Tensor:
        """(b, c, f, k) -> (b, c, bands seen, k)."""
        return (self.pool @ magnitude.clamp_min(LEAST_MAGNITUDE).pow(self.power))[..., : len(self.input_mean), :]


def band_starts(bins: int, per_octave: int) -> list[int]:
    """The first bin of each band of 1 / per_octave of an octave; a band has at least one bin."""
    starts = [0]
    while (after := starts[-1] + max(1, round(starts[-1] * (2 ** (1 / per_octave) - 1)))) < bins:
        starts.append(after)
    return starts


def band_matrices(starts: Sequence[int], bins: int) -> tuple[Tensor, Tensor]:
    """(bands, f), the mean over each band, and (f, bands), linear between the bands' centres and constant beyond them.

    By NumPy: on torch's device "meta", on which checkpoints are built, this would import half of its compiler.
    """
    edges, k = np.array([*starts, bins]), np.arange(bins)
    inside = (k >= edges[:-1, None]) & (k < edges[1:, None])
    pool = (inside / inside.sum(1, keepdims=True)).astype(np.float32)
    centres = ((edges[:-1] + edges[1:] - 1) / 2).astype(np.float32)
    right = np.searchsorted(centres, k, side="right").clip(1, len(starts) - 1)
    share = ((k - centres[right - 1]).astype(np.float32) / (centres[right] - centres[right - 1])).clip(0, 1)
    spread = np.zeros((bins, len(starts)), np.float32)
    spread[k, right - 1] = 1 - share
    spread[k, right] = share
    return torch.from_numpy(pool), torch.from_numpy(spread)
