"""Hosts of networks that go from waveform to waveform: Conv-TasNet and Hybrid Demucs, as they come with torchaudio.

Y. Luo, N. Mesgarani, "Conv-TasNet: surpassing ideal time-frequency magnitude masking for speech separation", IEEE/ACM TASLP
27(8), 2019; A. Défossez, "Hybrid spectrogram and waveform source separation", MDX workshop, 2021.

The mixture is brought to mean 0 and deviation 1 over its channels and samples, and the estimates back; so the result
follows the level. (Demucs gives the mean to every stem, here each gets its share.) Both this and the networks'
own normalisations look at all that they are given: long songs go through `mss.Chunked`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvTasNet", "HDemucs"]


class _Waveform(nn.Module):
    """What both have in common. `_separate` takes (b, c, t) of deviation 1 to (b, n, c, t)."""

    context = None

    def __init__(self, targets: Sequence[str], sample_rate: int) -> None:
        super().__init__()
        if isinstance(targets, str) or not targets or not all(isinstance(name, str) and name for name in targets):
            raise ValueError(f"targets must be a list of names, not {targets!r}")
        self.targets = tuple(targets)
        self.sample_rate = sample_rate

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        if mixture.ndim != 3:
            raise ValueError(f"a mixture is (batch, channel, sample), not {tuple(mixture.shape)}")
        if mixture.shape[-1] == 0:
            return mixture.unsqueeze(1).expand(-1, len(self.targets), -1, -1)
        mono = mixture.mean(1, keepdim=True)
        mean = mono.mean(-1, keepdim=True)  # (b, 1, 1)
        power = (mixture - mean).square().mean((1, 2), keepdim=True)
        std = torch.where(power > 0, power, 1).sqrt()  # the slope of a root is infinite at 0
        estimates = self._separate((mixture - mean) / std)
        return estimates * std.unsqueeze(1) + mean.unsqueeze(1) / len(self.targets)


class ConvTasNet(_Waveform):
    """Conv-TasNet, a separator: masks on a learned basis of short windows, each channel for itself.

    Args:
        targets: names, in the order of the network's outputs.
        sample_rate: Hz.
        kernel: samples of a window, even; every second one overlaps by half. The published 2 ms are 88 at 44.1 kHz.
        filters: of the basis.
        bottleneck: channels between the blocks.
        hidden: channels within them.
        layers: blocks of a stack, whose dilation grows from 1 by factors of two.
        stacks: number of stacks.
    """

    def __init__(
        self,
        targets: Sequence[str],
        sample_rate: int = 44100,
        *,
        kernel: int = 88,
        filters: int = 512,
        bottleneck: int = 128,
        hidden: int = 512,
        layers: int = 8,
        stacks: int = 3,
    ) -> None:
        super().__init__(targets, sample_rate)
        if kernel < 2 or kernel % 2:
            raise ValueError(f"kernel must be an even number of samples, not {kernel}")
        from torchaudio.models import ConvTasNet as Network  # takes a while, and only these two need it

        self.kernel = kernel
        self.filters = filters
        self.bottleneck = bottleneck
        self.hidden = hidden
        self.layers = layers
        self.stacks = stacks
        self.network = Network(
            len(self.targets),
            enc_kernel_size=kernel,
            enc_num_feats=filters,
            msk_num_feats=bottleneck,
            msk_num_hidden_feats=hidden,
            msk_num_layers=layers,
            msk_num_stacks=stacks,
        )

    @property
    def grid(self) -> int:
        """Samples."""
        return self.kernel // 2

    def _separate(self, x: Tensor) -> Tensor:
        estimates = self.network(x.flatten(0, 1).unsqueeze(1))  # (b c, n, t)
        return estimates.unflatten(0, x.shape[:2]).transpose(1, 2)


class HDemucs(_Waveform):
    """Hybrid Demucs, a separator: a U-Net on the waveform and one on the spectrum, which meet in the middle.

    Args:
        targets: names, in the order of the network's outputs.
        sample_rate: Hz.
        channels: of the mixture; a mono one is given to all.
        width: channels of the first layer, doubled with each.
        depth: layers.
        n_fft: samples of its spectrum's window.
    """

    def __init__(
        self,
        targets: Sequence[str],
        sample_rate: int = 44100,
        *,
        channels: int = 2,
        width: int = 48,
        depth: int = 6,
        n_fft: int = 4096,
    ) -> None:
        super().__init__(targets, sample_rate)
        from torchaudio.models import HDemucs as Network

        self.channels = channels
        self.width = width
        self.depth = depth
        self.n_fft = n_fft
        self.network = Network(list(self.targets), audio_channels=channels, channels=width, depth=depth, nfft=n_fft)

    def _separate(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, self.channels):
            raise ValueError(
                f"this network is for {self.channels} channels, not {x.shape[1]}: mix them down, or build another"
            )
        length = x.shape[-1]
        short = max(self.n_fft - length, 0)  # it reflects the ends
        estimates = self.network(F.pad(x.expand(-1, self.channels, -1), (0, short)))[..., :length]
        return estimates.mean(2, keepdim=True) if x.shape[1] < self.channels else estimates
