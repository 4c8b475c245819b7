"""Fully connected networks on a frame and its neighbours (Uhlich et al. 2015; Nugraha et al. 2016).

The magnitudes of 2 C + 1 frames, every `stride`-th so that they overlap little, are divided by the mean g of their
Euclidean norms, scaled bin by bin, and go through layers with ReLU; what comes out is multiplied by g, so that the result
follows the level. A layer on a sliding window of frames is a convolution over them, and no window is ever copied.

With several targets the outputs can be made shares of the mixture, in a last layer without parameters: a softmax, or
the ratio of positive outputs to their sum (Huang et al. 2014).

Departs from Uhlich et al. in the outputs of "magnitude", which are in units of the deviation of their bin, from its mean: so a
new network says "an average frame", and no output begins shut for ever. Departs from Huang et al. for that reason too:
what is compared comes out of a softplus, ln(1 + e^x), and not of a ReLU, which once it is shut learns nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.nets.blocks import mean_and_std

__all__ = ["FCN", "least_squares"]

LEAST_SHARE = 1e-6  # added to what is compared: where all are all but 0, all have the same


class FCN(nn.Module):
    """Magnitudes of a mixture -> magnitudes of one target or of several.

    Args:
        bins: of the spectra.
        channels: of the spectra.
        targets: number of targets.
        neighbours: frames on either side that a frame is seen with.
        stride: frames from one of them to the next; 2 for an overlap of one half, 4 for three quarters.
        hidden: widths of the layers between.
        max_bin: the network sees the bins below this one; None: all.
        output: "magnitude", each target for itself; "softmax" or "ratio", shares that add up to the mixture.
    """

    def __init__(
        self,
        bins: int = 2049,
        channels: int = 2,
        *,
        targets: int = 1,
        neighbours: int = 2,
        stride: int = 4,
        hidden: Sequence[int] = (512, 512, 512),
        max_bin: int | None = None,
        output: Literal["magnitude", "softmax", "ratio"] = "magnitude",
    ) -> None:
        super().__init__()
        if output not in ("magnitude", "softmax", "ratio"):
            raise ValueError(f"output must be 'magnitude', 'softmax' or 'ratio', not {output!r}")
        if output != "magnitude" and targets < 2:
            raise ValueError(f"output {output!r} shares the mixture among targets: it needs two or more, not {targets}")
        if max_bin is not None and not 0 < max_bin <= bins:
            raise ValueError(f"max_bin must be between 1 and bins = {bins}, or None, not {max_bin}")
        self.bins = bins
        self.channels = channels
        self.targets = targets
        self.neighbours = neighbours
        self.stride = stride
        self.hidden = tuple(hidden)
        self.max_bin = max_bin
        self.output = output

        sizes = (channels * (max_bin or bins), *self.hidden, targets * channels * bins)
        taps = (2 * neighbours + 1, *(1 for _ in self.hidden))
        dilations = (stride, *(1 for _ in self.hidden))
        self.layers = nn.ModuleList(
            nn.Conv1d(i, o, n, dilation=d) for (i, o), n, d in zip(pairwise(sizes), taps, dilations, strict=True)
        )
        for layer in self.layers:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1)
        self.register_buffer("input_mean", torch.zeros(bins))  # subtracted
        self.register_buffer("input_scale", torch.ones(bins))  # divided by

    @property
    def context(self) -> int:
        """Frames on either side."""
        return self.neighbours * self.stride

    def forward(self, magnitude: Tensor) -> Tensor:
        """(b, c, f, k) -> (b, n, c, f, k)."""
        if tuple(magnitude.shape[1:3]) != (self.channels, self.bins):
            raise ValueError(
                f"this network is for {self.channels} channels of {self.bins} bins, not {tuple(magnitude.shape[1:3])}: "
                "build it with channels and bins of the data and the transform"
            )
        g = self._level(magnitude)  # (b, 1, k)
        x = self._first(magnitude, g)
        for layer in self.layers[1:]:
            x = layer(torch.relu(x))
        x = x.unflatten(1, (self.targets, self.channels, self.bins))  # (b, n, c, f, k)
        if self.output == "softmax":
            return x.softmax(1) * magnitude.unsqueeze(1)
        if self.output == "ratio":
            x = F.softplus(x) + LEAST_SHARE
            return x / x.sum(1, keepdim=True) * magnitude.unsqueeze(1)
        x = x * self.input_scale.unsqueeze(-1) + self.input_mean.unsqueeze(-1)
        return torch.relu(x) * g[:, None, None]

    @torch.no_grad()
    def fit_input(self, spectra: Iterable[Tensor]) -> None:
        """Sets the scaling by the mean and deviation of each bin of mixtures X (b, c, f, k), over their level and channels."""
        magnitudes = (X.abs() for X in spectra)
        mean, std = mean_and_std((x / _or_one(self._level(x)).unsqueeze(1)).mean(1) for x in magnitudes)
        self.input_mean.copy_(mean)
        self.input_scale.copy_(std)

    def _first(self, magnitude: Tensor, g: Tensor) -> Tensor:
        """The first layer on ((x / g) - mean) / deviation; as it is linear, on x itself. Beyond the ends there is silence."""
        layer, seen = self.layers[0], self.max_bin or self.bins
        mean, scale = (s[:seen].repeat(self.channels).unsqueeze(-1) for s in (self.input_mean, self.input_scale))
        weight = layer.weight / scale  # (o, c f, taps)
        x = F.conv1d(magnitude[:, :, :seen].flatten(1, 2), weight, padding=self.context, dilation=self.stride)
        return x / _or_one(g) + (layer.bias - (weight * mean).sum((1, 2))).unsqueeze(-1)

    def _level(self, magnitude: Tensor) -> Tensor:
        """g (b, 1, k), mean over the window of the frames' norms, all bins and channels."""
        norms = torch.linalg.vector_norm(magnitude, dim=(1, 2)).unsqueeze(1)
        window = norms.new_full((1, 1, 2 * self.neighbours + 1), 1 / (2 * self.neighbours + 1))
        return F.conv1d(norms, window, padding=self.context, dilation=self.stride)


def least_squares(inputs: Tensor, targets: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """The linear layer that comes closest to the targets: what Uhlich et al. (2015) start each layer from.

    A ReLU after it does no harm: where the targets are not negative, it only removes error.

    Args:
        inputs: (p, i), p examples.
        targets: (p, o).
        ridge: added to the variances of the inputs, as a share of their mean; keeps what the data do not say at 0.

    Returns:
        weight (o, i) and bias (o,), those of `nn.Linear`: C_sx C_xx^-1, and what makes the means meet.
    """
    mean_in, mean_out = inputs.mean(0), targets.mean(0)
    x, s = (inputs - mean_in).double(), (targets - mean_out).double()
    C = x.T @ x
    diagonal = ridge * C.diagonal().mean()
    C = C + torch.where(diagonal > 0, diagonal, 1) * torch.eye(len(C), dtype=C.dtype, device=C.device)
    weight = torch.linalg.solve(C, x.T @ s).T.to(inputs)
    return weight, mean_out - weight @ mean_in


def _or_one(x: Tensor) -> Tensor:
    """x, or 1 where x is 0: a divisor."""
    return torch.where(x > 0, x, 1)
