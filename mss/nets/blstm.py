"""Open-Unmix: a recurrent network that multiplies the mixture's magnitude by what it finds (Uhlich et al. 2017; Stöter et
al. 2019), and X-UMX, several of them that share what they find (Sawata et al. 2021).

Of each frame: scale the bins below `max_bin`, a linear layer with batch normalisation and tanh; then three LSTM layers
over all frames; then, from what goes into them and what comes out, two linear layers with batch normalisation, a scale
and an offset for each bin, a ReLU, times the mixture. Parameters have the names they have in `openunmix`: its state
dicts load as they are.

Departs from it in the order of the sums only: here spectra stay (bin, frame), and when not training the normalisations
and scales are folded into the matrices.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mss.nets.blocks import Magnitudes, mean_and_std

__all__ = ["BLSTM", "CrossBLSTM"]


class BLSTM(nn.Module):
    """Magnitudes of a mixture -> magnitudes of one target.

    A song of any length: `encode` and `decode` work on blocks of frames, and only `recur` needs to see them all, or,
    `causal`, those up to now. `SpectralSeparator` uses them so, on `Magnitudes` of these networks.

    Args:
        bins: of the spectra.
        channels: of the spectra.
        hidden: width of all layers; even, unless causal.
        layers: of the LSTM.
        causal: the LSTM goes forwards only.
        dropout: between its layers.
        max_bin: the network sees the bins below this one; None: all. 1487 is 16 kHz, the choice of Open-Unmix.
    """

    context = None  # frames: all

    def __init__(
        self,
        bins: int = 2049,
        channels: int = 2,
        *,
        hidden: int = 512,
        layers: int = 3,
        causal: bool = False,
        dropout: float = 0.4,
        max_bin: int | None = None,
    ) -> None:
        super().__init__()
        if max_bin is not None and not 0 < max_bin <= bins:
            raise ValueError(f"max_bin must be between 1 and bins = {bins}, or None, not {max_bin}")
        if not causal and hidden % 2:
            raise ValueError(f"hidden is shared by two directions and must be even, not {hidden}")
        self.bins = bins
        self.channels = channels
        self.hidden = hidden
        self.layers = layers
        self.causal = causal
        self.dropout = dropout
        self.max_bin = max_bin

        seen = max_bin or bins
        self.input_mean = nn.Parameter(torch.zeros(seen))  # what is added: the mean with a minus
        self.input_scale = nn.Parameter(torch.ones(seen))  # what is multiplied with: one over the deviation
        self.fc1 = nn.Linear(seen * channels, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lstm = nn.LSTM(
            hidden,
            hidden if causal else hidden // 2,
            layers,
            bidirectional=not causal,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, bins * channels, bias=False)
        self.bn3 = nn.BatchNorm1d(bins * channels)
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.output_mean = nn.Parameter(torch.ones(bins))

    def forward(self, magnitude: Tensor) -> Tensor:
        """(b, c, f, k) -> (b, c, f, k)."""
        encoded = self.encode(magnitude)
        return self.decode(encoded, self.recur(encoded)[0], magnitude)

    def encode(self, magnitude: Tensor) -> Tensor:
        """(b, c, f, k) -> (k, b, h), frame by frame when not training."""
        if tuple(magnitude.shape[1:3]) != (self.channels, self.bins):
            raise ValueError(
                f"this network is for {self.channels} channels of {self.bins} bins, not {tuple(magnitude.shape[1:3])}: "
                "build it with channels and bins of the data and the transform"
            )
        x = magnitude[:, :, : len(self.input_mean)].flatten(1, 2)  # (b, c f, k)
        weight = self.fc1.weight * self.input_scale.repeat(self.channels)
        offset = weight @ self.input_mean.repeat(self.channels)
        return torch.tanh(_normalised(weight, offset, x, self.bn1)).permute(2, 0, 1)

    def recur(
        self, encoded: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(k, b, h) -> (k, b, h), and the state after the last frame."""
        return self.lstm(encoded, state)

    def decode(self, encoded: Tensor, recurrent: Tensor, magnitude: Tensor) -> Tensor:
        """What `encode` and `recur` made (k, b, h) of magnitudes (b, c, f, k) -> (b, c, f, k), frame by frame."""
        x = torch.cat([encoded, recurrent], -1).permute(1, 2, 0)  # (b, 2 h, k)
        x = torch.relu(_normalised(self.fc2.weight, None, x, self.bn2))
        scale, offset = (p.repeat(self.channels) for p in (self.output_scale, self.output_mean))
        y = _normalised(self.fc3.weight, None, x, self.bn3, scale, offset).view_as(magnitude)
        return torch.relu(y) * magnitude if torch.is_grad_enabled() else y.relu_().mul_(magnitude)

    @torch.no_grad()
    def fit_input(self, spectra: Iterable[Tensor]) -> None:
        """Sets the scaling of the input by the mean and deviation of each bin of mixtures X (b, c, f, k), channels averaged."""
        mean, std = mean_and_std(X.abs().mean(1) for X in spectra)
        self.input_mean.copy_(-mean[: len(self.input_mean)])
        self.input_scale.copy_(1 / std[: len(self.input_scale)])


class CrossBLSTM(Magnitudes):
    """Estimator: X-UMX (Sawata et al. 2021), networks of several targets that go on from their mean.

    Every LSTM sees the mean of what all encoders give, and every decoder that mean and the mean of what all LSTMs give.

    Args:
        networks: `BLSTM`s, one per target, of one width.
    """

    def _bridged(self, tensors: list[Tensor]) -> list[Tensor]:
        return [sum(tensors) / len(tensors)] * len(tensors)


def _normalised(
    weight: Tensor,
    offset: Tensor | None,
    x: Tensor,
    norm: nn.BatchNorm1d,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """norm(weight x + offset) scale + shift of x (b, i, k): (b, o, k). When not training that is one matrix product."""
    if norm.training:
        y = weight @ x
        y = norm(y if offset is None else y + offset.unsqueeze(-1))
        return y if scale is None else y * scale.unsqueeze(-1) + shift.unsqueeze(-1)
    gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias + gain * ((0 if offset is None else offset) - norm.running_mean)
    if scale is not None:
        gain, bias = gain * scale, bias * scale + shift
    weight = (weight * gain.unsqueeze(-1)).expand(len(x), -1, -1)
    return torch.baddbmm(bias.view(1, -1, 1), weight, x)
