"""Wrappers that fit a separator to what comes in and to what is wanted: channels, sample rate, choice of targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mss.audio import resample, resample_blocks
from mss.separator import Separator, context_of, grid_of, no_longer, require_mixture
from mss.wrappers import Wrapper, stream

__all__ = ["EachChannel", "Folding", "MidSide", "Resampled", "Select", "StereoPairs", "sum_and_difference"]


class Folding(Wrapper):
    """Gives a separator other channels than come in: `_fold` before it, `_unfold` after it, whole and in blocks."""

    CHANNELS = 1  # their axis in what comes in

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t), any c."""
        return self._unfold(self.separator(self._fold(mixture)), mixture.shape[self.CHANNELS])

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        channels: list[int] = []

        def folded() -> Iterator[Tensor]:
            for block in blocks:
                channels[:] = [block.shape[self.CHANNELS]]
                yield self._fold(block)

        yield from (self._unfold(y, channels[0]) for y in stream(self.separator, folded()))

    def _fold(self, mixture: Tensor) -> Tensor:
        raise NotImplementedError

    def _unfold(self, estimates: Tensor, channels: int) -> Tensor:
        raise NotImplementedError


class EachChannel(Folding):
    """Lets a separator of mono take any number of channels, each for itself."""

    def _fold(self, mixture: Tensor) -> Tensor:
        require_mixture(mixture)
        return mixture.flatten(0, 1).unsqueeze(1)

    def _unfold(self, estimates: Tensor, channels: int) -> Tensor:
        return estimates.squeeze(2).unflatten(0, (-1, channels)).transpose(1, 2)  # (b, n, c, t)


class MidSide(Wrapper):
    """Gives a separator the half sum and the half difference of stereo instead of left and right.

    What is panned to the middle, as voices, basses and kick drums are, is then in one channel alone, so a separator that takes
    each channel for itself hears what is at the sides without them. Any other number of channels passes as it is.
    """

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t), any c."""
        require_mixture(mixture)
        return sum_and_difference(self.separator(sum_and_difference(mixture, 0.5)))

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        turned = (sum_and_difference(block, 0.5) for block in blocks)
        yield from (sum_and_difference(y) for y in stream(self.separator, turned))


class StereoPairs(Folding):
    """Lets a separator of stereo take any number of channels: pair by pair, in the order of WAV files.

    A channel without a partner (mono, centre, LFE) is given on both sides and comes back as their mean. The pairs of 5.1
    (L R C LFE Ls Rs) are L R, C, LFE, Ls Rs; a count of channels without a standard layout is paired in order.
    """

    PAIRS: ClassVar = {  # WAV channel order: front pair, centre, LFE, then the pairs behind
        1: ((0,),),
        3: ((0, 1), (2,)),
        5: ((0, 1), (2,), (3, 4)),
        6: ((0, 1), (2,), (3,), (4, 5)),
        7: ((0, 1), (2,), (3,), (4,), (5, 6)),
        8: ((0, 1), (2,), (3,), (4, 5), (6, 7)),
    }

    @classmethod
    def _pairs(cls, channels: int) -> tuple[tuple[int, ...], ...]:
        in_order = tuple(tuple(range(i, min(i + 2, channels))) for i in range(0, channels, 2))
        return cls.PAIRS.get(channels, in_order)

    def _fold(self, mixture: Tensor) -> Tensor:
        require_mixture(mixture)
        left, right = zip(*((pair[0], pair[-1]) for pair in self._pairs(mixture.shape[1])), strict=True)
        pairs = torch.stack([mixture[:, list(left)], mixture[:, list(right)]], 2)  # (b, p, 2, t)
        return pairs.flatten(0, 1)

    def _unfold(self, estimates: Tensor, channels: int) -> Tensor:
        pairs = self._pairs(channels)
        y = estimates.unflatten(0, (-1, len(pairs)))  # (b, p, n, 2, t)
        parts = [y[:, i] if len(pair) == 2 else y[:, i].mean(2, keepdim=True) for i, pair in enumerate(pairs)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)  # (b, n, c, t)


class Resampled(Wrapper):
    """Lets a separator take another sample rate: resamples the mixture to its rate and the estimates back.

    Args:
        separator: at any rate.
        sample_rate: Hz, of what goes in and comes out.
    """

    def __init__(self, separator: Separator, sample_rate: int) -> None:
        super().__init__(separator)
        self._rate = sample_rate

    def inside(self, wrap: Callable[[Separator], Separator]) -> Resampled:
        """The same around what is made of the separator."""
        return Resampled(wrap(self.separator), self._rate)

    @property
    def sample_rate(self) -> int:
        return self._rate

    @property
    def context(self) -> float | None:
        context = context_of(self.separator)
        # the kernels of the two resamplings: 64 zero crossings, of a sinc a little below the lower Nyquist frequency
        kernels = 2 * 64 / (0.9 * min(self.sample_rate, self.separator.sample_rate))
        return None if context is None else context + kernels

    @property
    def grid(self) -> int:
        """The shortest length, in samples of the outer rate, that is a whole number of inner cells."""
        step = self.sample_rate // math.gcd(self.sample_rate, self.separator.sample_rate)
        inner = step * self.separator.sample_rate // self.sample_rate
        cell = grid_of(self.separator)
        return step * cell // math.gcd(inner, cell)

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        inner = self.separator.sample_rate
        estimates = self.separator(resample(mixture, self.sample_rate, inner))
        return resample(estimates, inner, self.sample_rate)[..., : mixture.shape[-1]]

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        inner = self.separator.sample_rate

        def there_and_back(counted: Iterable[Tensor]) -> Iterator[Tensor]:
            estimates = stream(self.separator, resample_blocks(counted, self.sample_rate, inner))
            return resample_blocks(estimates, inner, self.sample_rate)

        yield from no_longer(there_and_back, blocks)


class Select(Wrapper):
    """Keeps some of a separator's targets, in the order given; of a `Cascade`, does only the work that these need."""

    def __init__(self, separator: Separator, names: Sequence[str]) -> None:
        super().__init__(separator)
        unknown = [name for name in names if name not in separator.targets]
        if unknown or not names:
            raise ValueError(f"no target {', '.join(unknown)!r}: there are {', '.join(separator.targets)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a target can be chosen once, got {', '.join(names)}")
        self.names = tuple(names)

    @property
    def targets(self) -> tuple[str, ...]:
        return self.names

    @property
    def context(self) -> float | None:
        return context_of(self._needed)

    @property
    def grid(self) -> int:
        return grid_of(self._needed)

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        return self._chosen(self._needed(mixture))

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        yield from (self._chosen(y) for y in stream(self._needed, blocks))

    @property
    def _needed(self) -> Separator:
        part_for = getattr(self.separator, "part_for", None)
        return self.separator if part_for is None else part_for(self.names)

    def _chosen(self, estimates: Tensor) -> Tensor:
        return estimates[:, [self._needed.targets.index(name) for name in self.names]]


def sum_and_difference(x: Tensor, scale: float = 1.0) -> Tensor:
    """(..., 2, t), of the two channels; twice with half of them in between is where it was. Other (..., c, t) stay."""
    if x.shape[-2] != 2:
        return x
    first, second = scale * x[..., 0, :], scale * x[..., 1, :]
    return torch.stack([first + second, first - second], -2)
