"""A network that looks again, with finer frequencies, at what a separator made of the low end, and moves what is misplaced.

Below some 400 Hz, kick drums, basses and low notes of all else lie a few Hz apart. The windows of 0.1 s that suit music above
cannot tell them, longer ones can. So the spectra Z_j of what a separator gave are taken anew with windows of a quarter of a
second, and in the lowest bins each is corrected by shares of all:

    D_j = sum_i U_ji Z_i,    U = network(Z),    sum_j U_ji = 0,

so that what the estimates add up to stays what it was. Above, nothing changes. As U starts at 0, so do the corrections.

The layers are those of `GuidedTCN`: small convolutions over bins and frames, before and after residual dilated convolutions
over time (Bai et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.nets.blocks import HALF, KERNEL, LEAST_MAGNITUDE, DilatedBlocks, InStages, convolutions, full_precision

__all__ = ["LowEnd"]

BEFORE, AFTER = 2, 2  # convolutions over bins and frames, before and after the layers over time
STRIDE = 4  # bins that the maps are summed up by before they go into the layers over time
COARSE = 4  # maps that come out of those layers


class LowEnd(InStages):
    """Estimator of corrections: Z (b, n, f, k) complex, estimates as channels -> D (b, n, 1, f, k) complex.

    From bin `low` on they are 0. For `mss.Corrected`, inside a `SpectralSeparator` with the filter `as_is`.

    Args:
        estimates: n, two or more.
        bins: of the spectra.
        low: how many of them, from the lowest on, are corrected; of those above the network hears the level of each octave.
        hidden: width of the layers over time.
        dilations: of their convolutions, of three taps each; they look at as many frames on either side as their sum.
        dropout: after each of them.
        maps: of the convolutions over bins and frames, two or more.
        power: magnitudes are taken to it: loudness rather than amplitude.
    """

    KNOWN = 1  # the low end
    block = 160  # frames: it is applied to stems, several for each channel

    def __init__(
        self,
        estimates: int,
        *,
        bins: int,
        low: int,
        hidden: int = 256,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 1, 2, 4),
        dropout: float = 0.1,
        maps: int = 32,
        power: float = 0.3,
    ) -> None:
        super().__init__()
        if estimates < 2:
            raise ValueError(f"between estimates something moves: there must be two or more, not {estimates}")
        if not STRIDE <= low <= bins:
            raise ValueError(f"low must be between {STRIDE} and bins = {bins}, not {low}")
        if maps < 2:
            raise ValueError(f"maps must be two or more, of which half go into the layers over time, not {maps}")
        self.estimates = estimates
        self.bins = bins
        self.low = low
        self.hidden = hidden
        self.dilations = tuple(dilations)
        self.dropout = dropout
        self.maps = maps
        self.power = power

        self.octaves = [low]  # the first bin of each above
        while 2 * self.octaves[-1] < bins:
            self.octaves.append(2 * self.octaves[-1])
        # loudness of each estimate and of their sum, shares of magnitude, and how far each is in phase with the sum
        known = 4 * estimates + 1
        moved = estimates * estimates
        self.look = convolutions(known, *[maps] * BEFORE)
        self.sum_up = nn.Conv2d(maps, maps // 2, (STRIDE, 1), (STRIDE, 1))
        self.encode = nn.Sequential(
            nn.Conv1d(
                estimates * len(self.octaves) + known * low + (maps // 2) * (low // STRIDE), hidden, 1, bias=False
            ),
            nn.BatchNorm1d(hidden),
            nn.Tanh(),
        )
        self.blocks = DilatedBlocks(hidden, dilations, dropout)
        self.decode = nn.Sequential(nn.Conv1d(2 * hidden, hidden, 1, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
        self.recall = nn.Conv1d(hidden, COARSE * low, 1)
        self.join = convolutions(maps + COARSE, *[maps] * (AFTER - 1))
        self.move = nn.ModuleList([nn.Conv1d(hidden, moved * low, 1), nn.Conv2d(maps, moved, KERNEL, padding=HALF)])
        for last in self.move:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @property
    def context(self) -> int:
        """Frames on either side."""
        return sum(self._reach()) + sum(self.dilations)

    def _reach(self) -> tuple[int, int]:
        return BEFORE * HALF[1], AFTER * HALF[1]

    def _heard(self, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, n, f, k) -> the low end of it (b, n, low, k), what goes around the layers over time, (b, maps, low, k), and what
        goes into them, (b, h, k)."""
        if tuple(Z.shape[1:3]) != (self.estimates, self.bins):
            raise ValueError(
                f"this network is for {self.estimates} estimates of {self.bins} bins, not {tuple(Z.shape[1:3])}: "
                "build it with as many estimates as there are and the bins of the transform"
            )
        low = Z[:, :, : self.low]
        with full_precision(Z.device):
            octaves, known = self._octaves(Z), self._known(low)
        looked = self.look(known)
        encoded = self.encode(torch.cat([octaves, known.flatten(1, 2), self.sum_up(looked).flatten(1, 2)], 1))
        return low, looked, encoded

    def _octaves(self, Z: Tensor) -> Tensor:
        """(b, n, f, k) -> (b, n octaves, k), the loudness of each estimate above the low end."""
        bounds = [*self.octaves, self.bins]
        parts = [Z[:, :, a:b].abs().square().mean(2) for a, b in pairwise(bounds)]
        return torch.cat(parts, 1).clamp_min(LEAST_MAGNITUDE**2).pow(self.power / 2)

    def _known(self, low: Tensor) -> Tensor:
        """(b, n, f, k) complex -> (b, 4 n + 1, f, k)."""
        magnitude, total = low.abs(), low.sum(1, keepdim=True)
        loud, all_loud = (x.clamp_min(LEAST_MAGNITUDE) for x in (magnitude, total.abs()))
        most = magnitude.sum(1, keepdim=True).clamp_min(LEAST_MAGNITUDE)
        turned = low * total.conj() / (most * all_loud)
        return torch.cat(
            [loud.pow(self.power), all_loud.pow(self.power), magnitude / most, turned.real, turned.imag], 1
        )

    def _answer(self, looked: Tensor, encoded: Tensor, over_time: Tensor) -> Tensor:
        """U (b, n - 1 to, n from, low, k) without its last row, which is the negative of the others' sum."""
        hidden = self.decode(torch.cat([encoded, over_time], 1))
        recalled = self.recall(hidden).unflatten(1, (COARSE, -1))
        by_frame, by_bin = self.move
        moved = F.conv1d(hidden, *self._rows(by_frame)).unflatten(1, (-1, self.low))
        seen = self.join(torch.cat([looked, recalled], 1))
        moved = moved + F.conv2d(seen, *self._rows(by_bin), padding=HALF)
        return moved.unflatten(1, (self.estimates - 1, self.estimates))

    def _rows(self, last: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight and bias of a last layer less their mean over the rows of U, for all rows but the last."""
        rows = (x.unflatten(0, (self.estimates, -1)) for x in (last.weight, last.bias))
        weight, bias = ((x - x.mean(0))[:-1].flatten(0, 1) for x in rows)
        return weight, bias

    def _applied(self, U: Tensor, low: Tensor) -> Tensor:
        """D (b, n, 1, f, k)."""
        with full_precision(low.device):
            D = (U.to(low.real.dtype) * low.unsqueeze(1)).sum(2)
            D = torch.cat([D, -D.sum(1, keepdim=True)], 1)
        return F.pad(D, (0, 0, 0, self.bins - self.low)).unsqueeze(2)
