"""Dynamics: a compressor and an overdriven amplifier for a stem, and clipping of a mixture that stays its stems' sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.data.augment.base import Augmentation, over_tiny, require_range, uniform
from mss.data.augment.sound import filtered

__all__ = ["Clip", "Compression", "Distortion", "compressed"]


class Compression(Augmentation):
    """Feed-forward compressor with a soft knee (D. Giannoulis, M. Massberg, J. Reiss, JAES 2012), channels linked.

    The level is the RMS over 10 ms; it rises at once and falls by `release` at most, which in dB is a running maximum and
    needs no recursion over samples. Thresholds are relative to the stem's own RMS level, so that the loudness of a file
    does not matter; afterwards a stem has the RMS level that it had.

    Args:
        threshold: dB above the stem's RMS level, uniform in (low, high).
        ratio: dB in over dB out above the threshold, uniform in (low, high).
        knee: dB over which the slope changes.
        release: dB per second.
        sample_rate: Hz.
        p: probability per stem.
    """

    WINDOW = 0.01  # seconds

    def __init__(
        self,
        threshold: Sequence[float] = (-10.0, 5.0),
        ratio: Sequence[float] = (1.5, 6.0),
        *,
        knee: float = 6.0,
        release: float = 60.0,
        sample_rate: int = 44100,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.threshold = require_range("threshold", threshold)
        self.ratio = require_range("ratio", ratio, 1)
        if knee < 0 or release <= 0:
            raise ValueError(f"knee must be at least 0 dB and release above 0 dB/s, not {knee} and {release}")
        self.knee = knee
        self.release = release
        self.sample_rate = sample_rate

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        threshold = uniform(len(x), *self.threshold, generator, x).unsqueeze(-1)
        ratio = uniform(len(x), *self.ratio, generator, x).unsqueeze(-1)
        power = x.square().mean(1)  # (r, t)
        total = power.mean(-1, keepdim=True)
        hop = min(max(round(self.WINDOW * self.sample_rate) // 2, 1), power.shape[-1])
        padded = F.pad(power, (hop, hop + -power.shape[-1] % hop))
        level = F.avg_pool1d(padded.unsqueeze(1), 2 * hop, hop).squeeze(1)  # (r, k), centred on sample k * hop
        floor = 1e-12 * total  # 120 dB below the RMS level, all is the same
        level = 10 * (over_tiny(torch.maximum(level, floor)) / over_tiny(total)).log10()  # dB above the RMS level
        fall = self.release * hop / self.sample_rate * torch.arange(level.shape[-1], device=x.device, dtype=x.dtype)
        level = (level + fall).cummax(-1).values - fall
        gain = compressed(level, threshold, ratio, self.knee) - level  # (r, k), dB
        gain = F.interpolate(gain.unsqueeze(1), size=(gain.shape[-1] - 1) * hop + 1, mode="linear", align_corners=True)
        y = x * 10 ** (gain[..., : x.shape[-1]] / 20)
        kept = (total / over_tiny(y.square().mean((1, 2)).unsqueeze(-1))).sqrt()
        return y * kept.unsqueeze(-1)


def compressed(level: Tensor, threshold: Tensor | float, ratio: Tensor | float, knee: float) -> Tensor:
    """The static curve, dB -> dB: slope 1 below the knee, 1 / ratio above it, a parabola between (Giannoulis eq. 4)."""
    over = level - threshold
    inside = over.clamp(-knee / 2, knee / 2) + knee / 2  # 0 to knee
    bent = inside.square() / (2 * knee) if knee else torch.zeros_like(over)
    return level + (1 / ratio - 1) * (bent + (over - knee / 2).clamp_min(0))


class Distortion(Augmentation):
    """An overdriven amplifier and its loudspeaker: tanh(g x + b), then a band pass; what is left has the RMS level it had.

    Args:
        drive: dB by which g takes the stem's RMS level above 1, where tanh bends; uniform in (low, high).
        bias: b, uniform from 0 to this; makes even harmonics.
        corner: Hz, above which the loudspeaker falls by 24 dB per octave, uniform in (low, high); it begins at 80 Hz.
        sample_rate: Hz.
        p: probability per stem.
    """

    LOWEST = 80.0  # Hz

    def __init__(
        self,
        drive: Sequence[float] = (-6.0, 24.0),
        bias: float = 0.5,
        corner: Sequence[float] = (3500.0, 8000.0),
        *,
        sample_rate: int = 44100,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.drive = require_range("drive", drive)
        self.corner = require_range("corner", corner, 1)
        if bias < 0:
            raise ValueError(f"bias must be at least 0, not {bias}")
        self.bias = bias
        self.sample_rate = sample_rate

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        drive, bias, corner = (
            uniform(len(x), *bounds, generator, x)[:, None, None]
            for bounds in (self.drive, (0.0, self.bias), self.corner)
        )
        level = x.square().mean((1, 2), keepdim=True).sqrt()
        y = torch.tanh(10 ** (drive / 20) * x / over_tiny(level) + bias) - torch.tanh(bias)

        def loudspeaker(f: Tensor) -> Tensor:
            return ((1 + (f / corner) ** 8) * (1 + (self.LOWEST / over_tiny(f)).square())).rsqrt()

        y = filtered(y, self.sample_rate, loudspeaker)
        return y * (level / over_tiny(y.square().mean((1, 2), keepdim=True).sqrt()))


class Clip(Augmentation):
    """Clips the mixture softly, and each of its stems with the same gain at each sample, so that they still add up.

    The mixture m becomes l tanh(m / l): at its peak, l is `drive` dB below m. The gain l tanh(m / l) / m lies in (0, 1].

    Args:
        drive: dB, uniform in (low, high).
        p: probability per item.
    """

    whole_items = True

    def __init__(self, drive: Sequence[float] = (0.0, 9.0), *, p: float = 1.0) -> None:
        super().__init__(p)
        self.drive = require_range("drive", drive)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        drive = 10 ** (uniform(len(x), *self.drive, generator, x) / 20)
        mixture = x.sum(1, keepdim=True)  # (r, 1, c, t)
        z = mixture / over_tiny(mixture.abs().amax((-3, -2, -1), keepdim=True)) * drive[:, None, None, None]
        small = z.square() < torch.finfo(z.dtype).eps  # where tanh(z) / z is 1 to rounding
        return x * torch.where(small, 1, torch.tanh(z) / torch.where(small, 1, z))
