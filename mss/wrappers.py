"""Separators around separators: they nest, in Python and in YAML, and each is a separator again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.separator import Separator, context_of, copies, grid_of
from mss.transforms import STFT

if TYPE_CHECKING:
    from mss.transforms import CQT

__all__ = [
    "Cascade",
    "Chunked",
    "Corrected",
    "Ensemble",
    "Refined",
    "Shifted",
    "WithResidual",
    "Wrapper",
    "aligned",
    "stream",
    "sum_and_difference",
]


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


class Ensemble(nn.Module):
    """Weighted mean of the estimates of several separators of the same targets (Uhlich et al. 2017, "blending").

    Args:
        separators: with the same targets, in the same order, at the same rate.
        weights: one per separator, equal where None; only their proportions count.
    """

    def __init__(self, separators: Sequence[Separator], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not separators:
            raise ValueError("an ensemble needs at least one separator")
        first = separators[0]
        for other in separators[1:]:
            if (other.targets, other.sample_rate) != (first.targets, first.sample_rate):
                raise ValueError(
                    "an ensemble needs separators of the same targets at the same rate, got "
                    f"{first.targets} at {first.sample_rate} Hz and {other.targets} at {other.sample_rate} Hz"
                )
        if weights is not None and len(weights) != len(separators):
            raise ValueError(f"{len(separators)} separators need as many weights, got {len(weights)}")
        if weights is not None and not (sum(weights) > 0 and min(weights) >= 0):
            raise ValueError(f"weights must not be negative and some must be positive, got {tuple(weights)}")
        modules = all(isinstance(separator, nn.Module) for separator in separators)
        self.separators = nn.ModuleList(separators) if modules else tuple(separators)
        self.weights = None if weights is None else tuple(weights)

    @property
    def targets(self) -> tuple[str, ...]:
        return self.separators[0].targets

    @property
    def sample_rate(self) -> int:
        return self.separators[0].sample_rate

    @property
    def context(self) -> float | None:
        contexts = [context_of(separator) for separator in self.separators]
        return None if None in contexts else max(contexts)

    @property
    def grid(self) -> int:
        return math.lcm(*(grid_of(separator) for separator in self.separators))

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        return self._mean([separator(mixture) for separator in self.separators])

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        shared = copies(blocks, len(self.separators))
        streams = [stream(separator, copy) for separator, copy in zip(self.separators, shared, strict=True)]
        yield from (self._mean(estimates) for estimates in aligned(*streams))

    def _mean(self, estimates: Sequence[Tensor]) -> Tensor:
        weights = self.weights or (1.0,) * len(estimates)
        return sum(w * y for w, y in zip(weights, estimates, strict=True)) / sum(weights)


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


class _InTurn(nn.Module):
    """Two separators, one after the other: what both kinds of it say of themselves."""

    def __init__(self, first: Separator, then: Separator) -> None:
        super().__init__()
        if first.sample_rate != then.sample_rate:
            raise ValueError(f"both separators must run at one rate, got {first.sample_rate} and {then.sample_rate} Hz")
        self.first = first
        self.then = then

    @property
    def sample_rate(self) -> int:
        return self.first.sample_rate

    @property
    def context(self) -> float | None:
        first, then = context_of(self.first), context_of(self.then)
        return None if first is None or then is None else first + then

    @property
    def grid(self) -> int:
        return math.lcm(grid_of(self.first), grid_of(self.then))


class Cascade(_InTurn):
    """Splits one stem of a first separator further with a second.

    Args:
        first: separates the mixture.
        then: separates the stem; its targets take the stem's place.
        stem: a target of `first`.

    Example:
        >>> Cascade(mss.load("spleeter-2stems"), mss.load("hpss"), stem="accompaniment").targets
        ('vocals', 'harmonic', 'percussive')
    """

    def __init__(self, first: Separator, then: Separator, *, stem: str) -> None:
        super().__init__(first, then)
        if stem not in first.targets:
            raise ValueError(f"the first separator has no target {stem!r}; it has {', '.join(first.targets)}")
        twice = set(then.targets) & (set(first.targets) - {stem})
        if twice:
            raise ValueError(f"both separators have a target {', '.join(sorted(twice))}: Select what each is to give")
        self.stem = stem

    @property
    def targets(self) -> tuple[str, ...]:
        index = self._index
        return (*self.first.targets[:index], *self.then.targets, *self.first.targets[index + 1 :])

    @property
    def _index(self) -> int:
        return self.first.targets.index(self.stem)

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        stems = self.first(mixture)
        return self._insert(stems, self.then(stems[:, self._index]))

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        stems, copy = copies(stream(self.first, blocks))
        parts = stream(self.then, (y[:, self._index] for y in copy))
        yield from (self._insert(whole, split) for whole, split in aligned(stems, parts))

    def _insert(self, stems: Tensor, parts: Tensor) -> Tensor:
        index = self._index
        return torch.cat([stems[:, :index], parts, stems[:, index + 1 :]], 1)


class Corrected(_InTurn):
    """Adds to what a separator gives what a second one, which sees nothing else, finds wrong with it.

    Where no weight of the first asks for gradients, it computes as it will in use, though the second is in training.

    Args:
        first: separates the mixture.
        then: takes the estimates of one channel as its channels, (b, n, t), to corrections (b, n, 1, t).
        mid_side: stereo is given to it as half sum and half difference, too, and the mean of both corrections is taken: what
            hides a note in one of these four need not be in another.

    Example:
        >>> network = mss.nets.LowEnd(3, bins=4097, low=80)
        >>> low = mss.SpectralSeparator(network, first.targets, transform=mss.STFT(8192, 1024), filter=mss.filters.as_is)
        >>> Corrected(first, low)
    """

    def __init__(self, first: Separator, then: Separator, *, mid_side: bool = False) -> None:
        super().__init__(first, then)
        if tuple(first.targets) != tuple(then.targets):
            raise ValueError(f"corrections of {', '.join(then.targets)} are not of {', '.join(first.targets)}")
        self.mid_side = mid_side

    @property
    def targets(self) -> tuple[str, ...]:
        return self.first.targets

    def train(self, mode: bool = True) -> Corrected:
        """The first takes no part where it is not trained: its dropout and its statistics stay as in use."""
        super().train(mode)
        if self._fixed:
            self.first.eval()
        return self

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        with torch.no_grad() if self._fixed else nullcontext():
            estimates = self.first(mixture)
        return estimates + self._corrections(estimates)

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        estimates, copy = copies(stream(self.first, blocks))
        for block, correction in aligned(estimates, stream(self._corrections, copy)):
            yield block + correction

    @property
    def _fixed(self) -> bool:
        return isinstance(self.first, nn.Module) and not any(p.requires_grad for p in self.first.parameters())

    @property
    def _corrections(self) -> Separator:
        """(b, n, c, t) -> (b, n, c, t). What resamples for `then` does so before there are more channels, and after."""
        inside = getattr(self.then, "inside", None)
        return _OfEach(self.then, self.mid_side) if inside is None else inside(lambda s: _OfEach(s, self.mid_side))


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


class _OfEach(Folding):
    """Estimates (b, n, c, t) -> corrections (b, n, c, t), by a separator that takes those of one channel as its channels."""

    CHANNELS = 2

    def __init__(self, separator: Separator, mid_side: bool) -> None:
        super().__init__(separator)
        self.mid_side = mid_side

    def _fold(self, estimates: Tensor) -> Tensor:
        """(b, n, c, t) -> (b v, n, t), where stereo has four views v with `mid_side`, else every channel is one."""
        if self.mid_side and estimates.shape[2] == 2:
            estimates = torch.cat([estimates, sum_and_difference(estimates, 0.5)], 2)
        return estimates.transpose(1, 2).flatten(0, 1)

    def _unfold(self, corrections: Tensor, channels: int) -> Tensor:
        """(b v, n, 1, t) -> (b, n, c, t)."""
        mid_side = self.mid_side and channels == 2
        views = corrections.squeeze(2).unflatten(0, (-1, 2 * channels if mid_side else channels)).transpose(1, 2)
        if not mid_side:
            return views
        own, turned = views.chunk(2, 2)
        return (own + sum_and_difference(turned)) / 2


def sum_and_difference(x: Tensor, scale: float = 1.0) -> Tensor:
    """(..., 2, t), of the two channels; twice with half of them in between is where it was. Other (..., c, t) stay."""
    if x.shape[-2] != 2:
        return x
    first, second = scale * x[..., 0, :], scale * x[..., 1, :]
    return torch.stack([first + second, first - second], -2)


class Refined(nn.Module):
    """Takes what a separator gives as models of the targets, and filters the mixture with them (Cano et al. 2019, Figure 4).

    So a network that knows no positions is refined by a model of positions, or any first guess by multichannel NMF.

    Args:
        first: any separator; the magnitudes of its estimates are the V of the filter.
        filter: (V (b, n, c, f, k), X (b, c, f, k) complex) -> (b, n, c, f, k) complex: `wiener`, `lgm`, `mnmf`.
        transform: waveform <-> spectrum, in which the filter works.

    Example:
        >>> Refined(mss.load("hpss"), partial(mss.filters.wiener, iterations=2)).targets
        ('harmonic', 'percussive')
    """

    context = None  # filters have statistics over the song

    def __init__(
        self,
        first: Separator,
        filter: Callable[[Tensor, Tensor], Tensor],
        *,
        transform: STFT | CQT = STFT(),  # noqa: B008  (frozen, so it can be shared)
    ) -> None:
        super().__init__()
        self.first = first
        self.filter = filter
        self.transform = transform

    @property
    def targets(self) -> tuple[str, ...]:
        return self.first.targets

    @property
    def sample_rate(self) -> int:
        return self.first.sample_rate

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        V = self.transform(self.first(mixture)).abs()
        return self.transform.inverse(self.filter(V, self.transform(mixture)), mixture.shape[-1])


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
