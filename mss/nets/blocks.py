"""What two networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UpConv2d"]


class UpConv2d(nn.ConvTranspose2d):
    """Transposed 5 x 5 convolution of stride 2 that doubles both axes exactly ("same" padding).

    Has the parameters of `nn.ConvTranspose2d`, and its result cropped by one at the start and two at the end of either
    axis, but computes it as a 3 x 3 convolution to four times the channels and a pixel shuffle (Shi et al. 2016): every
    output pixel (2i + a, 2j + b) sees 3 x 3 input pixels at most, through the taps of its phase (a, b). The
    transposed convolution of the libraries goes through a matrix 25 times as large as the input, which on a CPU costs up
    to eight times as much.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=5, stride=2)
        self._kept: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) -> (b, out, 2h, 2w)."""
        return F.pixel_shuffle(F.conv2d(x, self._kernel(), self.bias.repeat_interleave(4), padding=1), 2)

    def _kernel(self) -> Tensor:
        """(4 * out, in, 3, 3). Made anew only when the weight has changed, as torch counts it (which writing to `.data`
        goes around): on a CPU making it takes half as long as convolving with it."""
        if torch.is_grad_enabled() or self.weight.device.type != "cpu" or self.weight.is_inference():
            return self._rearranged()
        state = (self.weight.data_ptr(), self.weight._version, self.weight.dtype)
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._rearranged()
        return self._kept[1]

    def _rearranged(self) -> Tensor:
        inputs, outputs = self.weight.shape[:2]
        # Along an axis, output 2i + a takes tap k from input i + (a + 1 - k) / 2: with one zero tap in front, the taps of
        # phase a are every second one, and the last of them meets the input on the left.
        taps = F.pad(self.weight, (1, 0, 1, 0)).view(inputs, outputs, 3, 2, 3, 2).flip(2, 4)
        return taps.permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 3, 3)
