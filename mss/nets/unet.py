"""U-Net that estimates a mask for a magnitude spectrogram (Jansson et al. 2017; Spleeter: Hennequin et al. 2020).

Six 5 x 5 convolutions of stride 2 lead down, six transposed ones lead up, and each level on the way up also sees the
level of its size on the way down. Spleeter's variant (its three arguments below) joins the levels before the
normalisation, normalises after the activation, and ends in a dilated convolution.

Departs from both in the order of the spatial axes, frequency x time as everywhere here: kernels taken from Spleeter
(time x frequency) must be transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet", "UNetMasks", "UpConv2d"]


class UNet(nn.Module):
    """Magnitudes of one patch -> mask in [0, 1] for one target.

    Args:
        channels: of the magnitudes and of the mask.
        filters: channels of the levels, from the top down.
        dropout: probability, after each of the first three levels on the way up.
        raw_skips: join the convolutions' outputs as they are, not normalised and activated.
        norm_last: on the way up, normalise after the activation instead of before.
        dilated_head: end in one channel and a 4 x 4 convolution of dilation 2 over it.
        activation: "relu", leaky on the way down, or "elu" (Clevert et al. 2016) in both directions.
        logits: leave out the last sigmoid, for a softmax across the targets (`UNetMasks`).
        norm_eps: of the batch normalisations.
        he_uniform: start from the weights of He et al. (2015), as Spleeter does; else from torch's own.
    """

    def __init__(
        self,
        channels: int = 2,
        *,
        filters: Sequence[int] = (16, 32, 64, 128, 256, 512),
        dropout: float = 0.5,
        raw_skips: bool = False,
        norm_last: bool = False,
        dilated_head: bool = False,
        activation: Literal["relu", "elu"] = "relu",
        logits: bool = False,
        norm_eps: float = 1e-3,
        he_uniform: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ("relu", "elu"):
            raise ValueError(f"activation must be 'relu' or 'elu', not {activation!r}")
        self.channels = channels
        self.filters = tuple(filters)
        self.dropout = dropout
        self.raw_skips = raw_skips
        self.norm_last = norm_last
        self.dilated_head = dilated_head
        self.activation = activation
        self.logits = logits
        self.norm_eps = norm_eps
        self.he_uniform = he_uniform

        down = (channels, *self.filters)
        up = (*reversed(self.filters[:-1]), 1 if dilated_head else channels)
        joined = (self.filters[-1], *(2 * n for n in up[:-1]))  # from the second level on, with the level it joins
        self.down = nn.ModuleList(nn.Conv2d(i, o, 5, stride=2) for i, o in pairwise(down))
        used = down[1:-1] if raw_skips else down[1:]  # the lowest level is joined raw, or not at all
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(o, eps=norm_eps) for o in used)
        self.up = nn.ModuleList(UpConv2d(i, o) for i, o in zip(joined, up, strict=True))
        normed = up if dilated_head else up[:-1]  # without a head the last level is the mask itself
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(o, eps=norm_eps) for o in normed)
        self.head = nn.Conv2d(1, channels, 4, dilation=2, padding=3) if dilated_head else None
        for layer in (*self.down, *self.up, *([self.head] if dilated_head else [])) if he_uniform else ():
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, magnitude: Tensor) -> Tensor:
        """(b, c, f, k) -> (b, c, f, k) mask, or its logits; f and k multiples of 2 ** len(filters)."""
        x, skips = magnitude, []
        for level, conv in enumerate(self.down):
            x = raw = conv(F.pad(x, (1, 2, 1, 2)))  # halves both axes exactly, as TensorFlow's "same"
            if level < len(self.down_norm):
                x = self.down_norm[level](raw)
                x = F.elu(x) if self.activation == "elu" else F.leaky_relu(x, 0.2)
            skips.append(raw if self.raw_skips else x)
        x = skips.pop()
        for level, conv in enumerate(self.up):
            x = conv(x if level == 0 else torch.cat([skips.pop(), x], 1))
            if level < len(self.up_norm):
                x = self._activated(x, self.up_norm[level])
                x = F.dropout(x, self.dropout, self.training) if level < 3 else x
        x = x if self.head is None else self.head(x)
        return x if self.logits else torch.sigmoid(x)

    def _activated(self, x: Tensor, norm: nn.Module) -> Tensor:
        activate = F.elu if self.activation == "elu" else F.relu
        return norm(activate(x)) if self.norm_last else activate(norm(x))


class UNetMasks(nn.Module):
    """Estimator: one U-Net per target, on patches of the mixture's magnitude, below a highest bin.

    Args:
        networks: one per target; one of a single channel sees each channel by itself.
        bins: the networks see the bins below this one.
        patch: frames per patch; the last one is filled up with silence.
        extension: what the masks are above the networks' bins. "mean": of each frame, the mean over the top
            `extension_bins` bins; "edge": the mask of the top bin; "zeros": nothing is known there, so all targets get zero.
        extension_bins: see `extension`.
        softmax: the networks give logits, and the masks are their softmax across the targets.
        together: patches given to a network at a time, when not training; bounds the memory, changes nothing.
    """

    context = 0  # frames beyond the patch

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        bins: int = 1024,
        patch: int = 512,
        extension: Literal["mean", "edge", "zeros"] = "mean",
        extension_bins: int = 200,
        softmax: bool = False,
        together: int = 2,
    ) -> None:
        super().__init__()
        if extension not in ("mean", "edge", "zeros"):
            raise ValueError(f"extension must be 'mean', 'edge' or 'zeros', not {extension!r}")
        self.networks = nn.ModuleList(networks)
        self.bins = bins
        self.patch = patch
        self.extension = extension
        self.extension_bins = extension_bins
        self.softmax = softmax
        self.together = together

    @property
    def grid(self) -> int:
        """Frames: patches lie side by side from the first frame on."""
        return self.patch

    def forward(self, X: Tensor) -> Tensor:
        """X (b, c, f, k) complex -> V (b, n, c, f, k)."""
        magnitude = X.abs()
        k = X.shape[-1]
        low = F.pad(magnitude[..., : self.bins, :], (0, -k % self.patch))
        patches = low.unflatten(-1, (-1, self.patch)).permute(0, 3, 1, 2, 4)  # (b, p, c, f, patch)
        groups = patches.flatten(0, 1).split(len(patches) * patches.shape[1] if self.training else self.together)
        masks = torch.stack([torch.cat([_masked(network, group) for group in groups]) for network in self.networks], 1)
        masks = masks.softmax(1) if self.softmax else masks
        masks = masks.unflatten(0, patches.shape[:2])  # (b, p, n, c, f, patch)
        masks = masks.permute(0, 2, 3, 4, 1, 5).flatten(-2)[..., :k]  # (b, n, c, f, k)
        return self._extended(masks, magnitude.shape[-2]) * magnitude.unsqueeze(1)

    def _extended(self, masks: Tensor, bins: int) -> Tensor:
        above = bins - masks.shape[-2]
        if self.extension == "mean":
            top = masks[..., -self.extension_bins :, :].mean(-2, keepdim=True)
        elif self.extension == "edge":
            top = masks[..., -1:, :]
        else:
            top = torch.zeros_like(masks[..., -1:, :])
        return torch.cat([masks, top.expand(*masks.shape[:-2], above, masks.shape[-1])], -2)


def _masked(network: nn.Module, patches: Tensor) -> Tensor:
    """Masks of patches (p, c, f, k)."""
    if getattr(network, "channels", None) == 1:
        return network(patches.flatten(0, 1).unsqueeze(1)).view_as(patches)
    return network(patches)


class UpConv2d(nn.ConvTranspose2d):
    """Transposed 5 x 5 convolution of stride 2 that doubles both axes exactly ("same" padding).

    Has the parameters of `nn.ConvTranspose2d`, and its result cropped by one at the start and two at the end of either
    axis, but computes it as a 3 x 3 convolution to four times the channels and a pixel shuffle (Shi et al. 2016): every
    output pixel (2i + a, 2j + b) sees 3 x 3 input pixels at most, through the taps of its phase (a, b). The
    transposed convolution of the libraries goes through a matrix 25 times as large as the input, which on a CPU costs up
    to eight times as much. Eleven of the 36 taps of the four phases are 0: on a CPU many channels are convolved phase by phase,
    without them.
    """

    MANY = 32  # channels that come out; few are put together faster than one by one

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=5, stride=2)
        self._kept: tuple[object, list[Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) -> (b, out, 2h, 2w)."""
        kernels = self._kernels()
        if len(kernels) == 1:
            return F.pixel_shuffle(F.conv2d(x, kernels[0], self.bias.repeat_interleave(4), padding=1), 2)
        b, _, h, w = x.shape
        y = x.new_empty(b, self.out_channels, h, 2, w, 2)
        for phase, kernel in zip(PHASES, kernels, strict=True):
            y[:, :, :, phase[0], :, phase[1]] = F.conv2d(x, kernel, self.bias, padding=1)[..., :h, :w]
        return y.view(b, self.out_channels, 2 * h, 2 * w)

    def train(self, mode: bool = True) -> UpConv2d:
        """Forgets the kernels: fused optimizers and what writes to `.data` change the weight where torch counts no change."""
        self._kept = None
        return super().train(mode)

    def _kernels(self) -> list[Tensor]:
        """One of all phases, (4 * out, in, 3, 3), or four of (out, in, 2 or 3, 2 or 3). Made anew only when the weight has
        changed, as torch counts it, or after `train` and `eval`: on a CPU making them takes half as long as convolving with
        them."""
        if torch.is_grad_enabled():
            self._kept = None
        if torch.is_grad_enabled() or self.weight.device.type != "cpu" or self.weight.is_inference():
            return [self._rearranged()]
        state = (self.weight.data_ptr(), self.weight._version, self.weight.dtype)
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._by_phase() if self.out_channels >= self.MANY else [self._rearranged()]
        return self._kept[1]

    def _rearranged(self) -> Tensor:
        inputs, outputs = self.weight.shape[:2]
        # Along an axis, output 2i + a takes tap k from input i + (a + 1 - k) / 2: with one zero tap in front, the taps of
        # phase a are every second one, and the last of them meets the input on the left.
        taps = F.pad(self.weight, (1, 0, 1, 0)).view(inputs, outputs, 3, 2, 3, 2).flip(2, 4)
        return taps.permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 3, 3)

    def _by_phase(self) -> list[Tensor]:
        taps = self.weight.transpose(0, 1).flip(2, 3)  # from the last tap on: those of phase 1 and of phase 0 in turn
        return [taps[:, :, 1 - a :: 2, 1 - b :: 2].contiguous() for a, b in PHASES]


PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
