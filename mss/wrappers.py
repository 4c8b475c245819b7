"""Separators around separators: they nest, in Python and in YAML, and each is a separator again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.separator import Separator, context_of, copies, grid_of

__all__ = ["Chunked", "Shifted", "WithResidual", "Wrapper", "aligned", "stream"]


def stream(separator: Separator, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Separates the consecutive blocks (b, c, t) of one song; the blocks that come out, put together, are the whole.

    With a bounded context the memory is bounded too: by the separator's own `stream`, else in chunks. A separator that
    needs the whole song gets it, in one piece, unless it `streams` all the same.
    """
    if context_of(separator) is None and not getattr(separator, "streams", False):
        parts = list(blocks)
        if parts:
            yield separator(torch.cat(parts, -1))
    elif hasattr(separator, "stream"):
        yield from separator.stream(blocks)
    else:
        yield from Chunked(separator).stream(blocks)


class Wrapper(nn.Module):
    """What every wrapper says of itself unless it says otherwise: the same as what it wraps."""

    def __init__(self, separator: Separator) -> None:
        super().__init__()
        self.separator = separator

    @property
    def targets(self) -> tuple[str, ...]:
        return self.separator.targets

    @property
    def sample_rate(self) -> int:
        return self.separator.sample_rate

    @property
    def context(self) -> float | None:
        return context_of(self.separator)

    @property
    def grid(self) -> int:
        return grid_of(self.separator)


class Chunked(Wrapper):
    """Separates overlapping segments and crossfades them: any length in bounded memory.

    Where the overlap has room for the separator's context twice, each sample comes from a segment that holds all of its
    context, and the result is that of the whole song. Elsewhere the crossfade hides the seams. Segments start on the
    separator's grid, so they may come out longer.

    Args:
        separator: what separates each segment.
        segment: seconds.
        overlap: seconds that a segment shares with the next. None: twice the context, or a quarter of the segment where
            that is not known.
    """

    LONGEST_GRID = 60.0  # seconds

    def __init__(self, separator: Separator, *, segment: float = 30.0, overlap: float | None = None) -> None:
        super().__init__(separator)
        if segment <= 0:
            raise ValueError(f"segment must be longer than 0 s, not {segment} s")
        if overlap is not None and not 0 <= overlap < segment:
            raise ValueError(
                f"overlap must be at least 0 s and shorter than the segment of {segment} s, not {overlap} s"
            )
        if grid_of(separator) > self.LONGEST_GRID * separator.sample_rate:
            cell = grid_of(separator) / separator.sample_rate
            raise ValueError(
                f"segments would have to start every {cell:.0f} s: put the Chunked inside, as in Resampled(Chunked(...))"
            )
        self.segment = segment
        self.overlap = overlap

    @property
    def context(self) -> float | None:
        return self._samples[0] / self.sample_rate

    @property
    def _samples(self) -> tuple[int, int, int]:
        """Segment, overlap and crossfade, in samples."""
        rate, grid = self.sample_rate, self.grid
        context = context_of(self.separator)
        if self.overlap is not None:
            overlap = round(self.overlap * rate)
        elif context is not None:
            overlap = 2 * math.ceil(context * rate)
        else:
            overlap = round(self.segment * rate / 4)
        step = max(round(self.segment * rate) - overlap, 1)
        step = -(-step // grid) * grid
        spare = -1 if context is None else overlap - 2 * math.ceil(context * rate)
        fade = overlap if spare < 0 else max(spare, 1)  # within what both segments know exactly, where there is such
        return step + overlap, overlap, fade

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        return torch.cat(list(self.stream([mixture])), -1)

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        segment, overlap, fade = self._samples
        step = segment - overlap
        pending: Tensor | None = None  # input not yet done with
        last: Tensor | None = None  # the overlap of the last segment's estimates
        for block in blocks:
            pending = block if pending is None else torch.cat([pending, block], -1)
            while pending.shape[-1] > segment:
                estimates = self._joined(last, self.separator(pending[..., :segment]), fade)
                yield estimates[..., :step]
                last, pending = estimates[..., step:], pending[..., step:]
        if pending is not None:
            yield self._joined(last, self.separator(pending), fade)

    @staticmethod
    def _joined(last: Tensor | None, estimates: Tensor, fade: int) -> Tensor:
        """Estimates of a segment, their start crossfaded with the end of the last segment's."""
        if last is None or last.shape[-1] == 0:
            return estimates
        overlap = last.shape[-1]
        ramp = torch.linspace(0, 1, fade, dtype=estimates.dtype, device=estimates.device)
        flat = (overlap - fade) // 2
        ramp = F.pad(F.pad(ramp, (flat, 0)), (0, overlap - fade - flat), value=1.0)
        return torch.cat([torch.lerp(last, estimates[..., :overlap], ramp), estimates[..., overlap:]], -1)


class Shifted(Wrapper):
    """Averages the estimates over delays of the input, spread evenly over `max_shift` seconds: the same at every run.

    Networks with strides are not shift invariant; averaging (Défossez et al. 2019, "shift trick") removes part of their
    error at `shifts` times the cost. There the delays are random.
    """

    def __init__(self, separator: Separator, *, shifts: int = 4, max_shift: float = 0.5) -> None:
        super().__init__(separator)
        if shifts < 1:
            raise ValueError(f"shifts must be at least 1, not {shifts}")
        self.shifts = shifts
        self.max_shift = max_shift

    @property
    def context(self) -> float | None:
        context = context_of(self.separator)
        return None if context is None else context + self.max_shift

    @property
    def _delays(self) -> list[int]:
        """Samples."""
        return [round(i * self.max_shift * self.sample_rate / self.shifts) for i in range(self.shifts)]

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        return sum(self.separator(F.pad(mixture, (d, 0)))[..., d:] for d in self._delays) / self.shifts

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        delays = self._delays
        streams = [self._delayed(copy, delay) for copy, delay in zip(copies(blocks, len(delays)), delays, strict=True)]
        yield from (sum(estimates) / self.shifts for estimates in aligned(*streams))

    def _delayed(self, blocks: Iterable[Tensor], delay: int) -> Iterator[Tensor]:
        """The estimates from a delayed input, in time again."""
        blocks = iter(blocks)
        padded = chain((F.pad(first, (delay, 0)) for first in islice(blocks, 1)), blocks)
        for y in stream(self.separator, padded):
            yield y[..., delay:]
            delay = max(delay - y.shape[-1], 0)


class WithResidual(Wrapper):
    """Adds one more target: the mixture less all others, so that the stems sum to the mixture."""

    def __init__(self, separator: Separator, name: str = "residual") -> None:
        super().__init__(separator)
        if name in separator.targets:
            raise ValueError(f"the residual cannot be called {name!r}: the separator has a target of that name")
        self.name = name

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.separator.targets, self.name)

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n + 1, c, t)."""
        return self._append(mixture, self.separator(mixture))

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        mixture, copy = copies(blocks)
        yield from (self._append(x, y) for x, y in aligned(mixture, stream(self.separator, copy)))

    @staticmethod
    def _append(mixture: Tensor, estimates: Tensor) -> Tensor:
        return torch.cat([estimates, (mixture - estimates.sum(1)).unsqueeze(1)], 1)


def aligned(*streams: Iterable[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of several streams cut to common lengths along the last axis."""
    iterators = [iter(s) for s in streams]
    held: list[Tensor | None] = [None] * len(iterators)
    while True:
        for i, iterator in enumerate(iterators):
            while held[i] is None or held[i].shape[-1] == 0:
                held[i] = next(iterator, None)
                if held[i] is None:
                    return
        length = min(block.shape[-1] for block in held)
        yield tuple(block[..., :length] for block in held)
        held = [block[..., length:] for block in held]
