"""Several separators as one: averaged, one after another, each on what the other leaves or gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mss.adapters import Folding, sum_and_difference
from mss.separator import Separator, context_of, copies, grid_of
from mss.transforms import STFT
from mss.wrappers import aligned, stream

if TYPE_CHECKING:
    from mss.transforms import CQT

__all__ = ["Cascade", "Corrected", "Ensemble", "Refined"]


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

    def part_for(self, names: Sequence[str]) -> Separator:
        """What is enough for some of the targets: the first separator alone, where none of them is of the second."""
        if not set(names).isdisjoint(self.then.targets):
            return self
        inner = getattr(self.first, "part_for", None)
        return self.first if inner is None else inner(names)

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
