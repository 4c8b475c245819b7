"""Levels, channels and places of stems: what changes a mixture without changing the sound of its parts.

`Gain`, `ChannelSwap` and mixing across songs are S. Uhlich et al., "Improving music source separation based on deep neural
networks through data augmentation and network blending", ICASSP 2017; `Remix`, `Polarity` and `Shift` are from A. Défossez
et al., "Music source separation in the waveform domain", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mss.data.augment.base import Augmentation, over_tiny, require_range, uniform

__all__ = ["ChannelSwap", "Drop", "Gain", "Leak", "Level", "Pan", "Polarity", "Remix", "Shift", "Width"]


class Gain(Augmentation):
    """Multiplies a stem by a uniform amplitude (Uhlich et al. 2017, whose range is the default).

    Args:
        low: smallest amplitude.
        high: largest amplitude.
        together: one amplitude for all stems of an item: songs are louder and softer, and what a network that is not
            invariant to level makes of them should not depend on it.
        p: probability per stem, or per item.
    """

    def __init__(self, low: float = 0.25, high: float = 1.25, *, together: bool = False, p: float = 1.0) -> None:
        super().__init__(p)
        require_range("low, high", (low, high), 0)
        self.together = self.whole_items = together
        self.low = low
        self.high = high

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x * uniform(len(x), self.low, self.high, generator, x).view(-1, *[1] * (x.ndim - 1))


class Level(Augmentation):
    """Gives a stem a level that is normally distributed in dB, as the levels of real stems are.

    Args:
        deviation: standard deviation, dB.
        rms: dBFS that the levels lie around, one for each stem. None: the level that the stem has.
        most: bound of the gain, dB either way, so that a faint passage is not blown up.
        p: probability per item, as `rms` goes by the stem's place.
    """

    whole_items = True

    def __init__(
        self, deviation: float = 4.0, *, rms: Sequence[float] | None = None, most: float = 20.0, p: float = 1.0
    ) -> None:
        super().__init__(p)
        if deviation < 0 or most < 0:
            raise ValueError(f"deviation and most are dB of at least 0, not {deviation} and {most}")
        self.deviation = deviation
        self.rms = None if rms is None else tuple(rms)
        self.most = most

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        gain = self.deviation * torch.randn(x.shape[:2], generator=generator, dtype=torch.float64)
        gain = gain.to(x.device, x.dtype, non_blocking=True)  # (r, s), dB
        if self.rms is not None:
            if len(self.rms) != x.shape[1]:
                raise ValueError(f"rms has {len(self.rms)} levels for {x.shape[1]} stems: give one for each")
            has = 10 * over_tiny(x.square().mean((-2, -1))).log10()
            gain = torch.tensor(self.rms, device=x.device, dtype=x.dtype) - has + gain
        return x * 10 ** (gain.clamp(-self.most, self.most) / 20)[..., None, None]


class ChannelSwap(Augmentation):
    """Reverses the order of a stem's channels: left is right (Uhlich et al. 2017).

    Args:
        p: probability per stem.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(1)


class Drop(Augmentation):
    """Silences stems of an item, so that a mixture has fewer sources.

    Args:
        keep: fewest and most stems that are left, a number of them as likely as another.
        p: probability per item.
    """

    whole_items = True

    def __init__(self, keep: Sequence[int] = (2, 3), *, p: float = 1.0) -> None:
        super().__init__(p)
        require_range("keep", keep, 1)
        self.keep = tuple(int(n) for n in keep)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        low, high = self.keep
        left = torch.randint(low, high + 1, (len(x), 1), generator=generator)
        rank = torch.rand(x.shape[:2], generator=generator).argsort(1).argsort(1)  # (r, s)
        return x * (rank < left).to(x.device, x.dtype, non_blocking=True)[..., None, None]


class Leak(Augmentation):
    """Leaves a trace of one stem, or nothing: what a separator before this one has left of it.

    For a network that parts the accompaniment from which another has taken the voice (`mss.Cascade`); the stem is no target.

    Args:
        stem: its place on the stems' axis.
        low, high: dB, bounds of the trace's gain, uniform.
        trace: probability that there is one.
        p: probability per item; of the others the stem is left whole.
    """

    whole_items = True

    def __init__(
        self, stem: int, low: float = -30.0, high: float = -12.0, *, trace: float = 0.5, p: float = 1.0
    ) -> None:
        super().__init__(p)
        if low > high:
            raise ValueError(f"low, high: expected a range in dB, got {low} to {high}")
        if not 0 <= trace <= 1:
            raise ValueError(f"trace is a probability, from 0 to 1, not {trace}")
        self.stem = stem
        self.low = low
        self.high = high
        self.trace = trace

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if not -x.shape[1] <= self.stem < x.shape[1]:
            raise ValueError(f"stem {self.stem} of {x.shape[1]} stems: give its place, from 0 on")
        heard = torch.rand(len(x), generator=generator) < self.trace
        gain = 10 ** (uniform(len(x), self.low, self.high, generator, x) / 20) * heard.to(x, non_blocking=True)
        gains = torch.ones_like(x[:, :, 0, 0])
        gains[:, self.stem] = gain
        return x * gains[..., None, None]


class Polarity(Augmentation):
    """Turns a stem's sign.

    Args:
        p: probability per stem.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return -x


class Pan(Augmentation):
    """Turns the balance of a stereo stem: one channel louder, the other softer, their power kept for a centred stem.

    Args:
        decibels: largest difference of the channels' gains; uniform up to it, either way.
        p: probability per stem. Stems that are not stereo stay as they are.
    """

    def __init__(self, decibels: float = 6.0, *, p: float = 1.0) -> None:
        super().__init__(p)
        if decibels < 0:
            raise ValueError(f"decibels must be at least 0, not {decibels}")
        self.decibels = decibels

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if x.shape[1] != 2:
            return x
        ratio = 10 ** (uniform(len(x), -self.decibels, self.decibels, generator, x) / 20)  # left over right
        right = (2 / (1 + ratio.square())).sqrt()
        return x * torch.stack([ratio * right, right], -1).unsqueeze(-1)


class Width(Augmentation):
    """Scales the difference of the channels of a stereo stem: 0 is mono, 1 what it was.

    Args:
        low: smallest factor.
        high: largest factor.
        p: probability per stem. Stems that are not stereo stay as they are.
    """

    def __init__(self, low: float = 0.5, high: float = 1.25, *, p: float = 1.0) -> None:
        super().__init__(p)
        require_range("low, high", (low, high), 0)
        self.low = low
        self.high = high

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if x.shape[1] != 2:
            return x
        middle = x.mean(1, keepdim=True)
        return middle + uniform(len(x), self.low, self.high, generator, x)[:, None, None] * (x - middle)


class Remix(Augmentation):
    """Deals the stems of a group of items out anew, each stem for itself, so that mixtures join songs (Demucs).

    Args:
        group: items among which stems are exchanged, one after another in the batch; 0: the whole batch.
        p: probability per group.
    """

    whole_items = True

    def __init__(self, group: int = 4, *, p: float = 1.0) -> None:
        super().__init__(p)
        if group < 0:
            raise ValueError(f"group is a number of items, or 0 for all, not {group}")
        self.group = group

    def forward(self, stems: Tensor, generator: torch.Generator) -> Tensor:
        """(b, s, c, t) -> the same stems, in other items of their groups."""
        if not self.training or self.p == 0 or stems.numel() == 0:
            return stems
        return self.change(stems, generator)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        b, s = x.shape[:2]
        size = self.group or b
        place = torch.arange(b)
        group = place // size
        dealt = torch.rand(-(-b // size), generator=generator)[group] < self.p  # (b,)
        key = torch.rand(b, s, generator=generator, dtype=torch.float64)  # of single precision, 1 - 2**-24 + 7 is 8
        stays = ((place % size) / size).unsqueeze(-1).double()
        order = (group.unsqueeze(-1) + torch.where(dealt.unsqueeze(-1), key, stays)).argsort(0)  # (b, s)
        return x[order.to(x.device, non_blocking=True), torch.arange(s, device=x.device)]


class Shift(Augmentation):
    """Moves a stem in time, against the others, by up to some seconds either way.

    What leaves at one end comes in at the other, so that the length is kept, and is faded over 5 ms at the seam. (Demucs
    cuts instead, and is given longer excerpts for it.)

    Args:
        seconds: largest shift.
        sample_rate: Hz.
        p: probability per stem.
    """

    FADE = 0.005  # seconds

    def __init__(self, seconds: float = 1.0, *, sample_rate: int = 44100, p: float = 1.0) -> None:
        super().__init__(p)
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, not {seconds}")
        self.seconds = seconds
        self.sample_rate = sample_rate

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        t = x.shape[-1]
        most = min(round(self.seconds * self.sample_rate), t - 1)
        offset = torch.randint(-most, most + 1, (len(x), 1), generator=generator).to(x.device, non_blocking=True)
        source = (torch.arange(t, device=x.device) - offset) % t  # (r, t)
        fade = max(min(math.ceil(self.FADE * self.sample_rate), t // 4), 1)
        # samples to the seam, which lies between the last and the first
        near = torch.minimum(source, t - 1 - source) + 1
        gain = torch.where(offset == 0, 1, (near / fade).clamp(max=1)).to(x.dtype)
        return x.gather(-1, source.unsqueeze(1).expand(x.shape)) * gain.unsqueeze(1)
