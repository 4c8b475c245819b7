"""The one contract, and the one place where the spectral pipeline is spelled out.

A *separator* maps a mixture (b, c, t) to estimates (b, n, c, t); all that comes after knows only this. Axes everywhere:
b batch, n target, c channel, t sample, f bin, k frame.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mss.filters import as_is, binary_mask, mixture_phase, softmask, wiener
from mss.spec import options_of
from mss.transforms import STFT

if TYPE_CHECKING:
    from mss.transforms import CQT

__all__ = [
    "Separator",
    "SpectralSeparator",
    "context_of",
    "copies",
    "frames_of_context",
    "grid_of",
    "no_longer",
    "require_mixture",
    "with_margins",
]

LOCAL = (as_is, softmask, binary_mask, mixture_phase)  # filters that look at one bin at a time


@runtime_checkable
class Separator(Protocol):
    """Anything that takes a mixture (b, c, t) to estimates (b, n, c, t) and says what and at which rate.

    Optional attributes, read by `mss.stream` and the wrappers, with what they are when absent:
        context: seconds on either side of a sample on which its estimate may depend; None (the default): the whole song.
        grid: samples; moving the input by a multiple of it moves the output by as much. Default 1.
        stream: (blocks (b, c, t)) -> blocks (b, n, c, t), which put together equal the call on the whole.
        streams: whether `stream` is to be used though the context is the whole song: it reads that twice.
    """

    targets: tuple[str, ...]
    sample_rate: int

    def __call__(self, mixture: Tensor) -> Tensor: ...


def context_of(separator: Separator) -> float | None:
    """Seconds of context of a separator, None where it needs the whole song."""
    return getattr(separator, "context", None)


def frames_of_context(estimator: Callable) -> int | None:
    """Frames of context of an estimator: what a module says; what a function says of its own options."""
    if isinstance(estimator, nn.Module):
        return getattr(estimator, "context", None)
    function, options = options_of(estimator)
    context = getattr(function, "context", None)
    return context(**options) if callable(context) else context


def grid_of(separator: Separator) -> int:
    """Samples by which the input may be moved to move the output of a separator as much."""
    return getattr(separator, "grid", 1)


def require_mixture(mixture: Tensor) -> None:
    """Refuses what is not (b, c, t) floating point, before it is taken for something else."""
    if mixture.ndim != 3 or not mixture.is_floating_point():
        raise ValueError(
            f"a mixture is floating point (batch, channel, sample), not {mixture.dtype} of shape {tuple(mixture.shape)}; "
            "a single song (channel, sample) becomes one by mixture[None]"
        )


class SpectralSeparator(nn.Module):
    """transform -> estimator -> filter -> inverse transform (Figure 4 of Cano et al. 2019, without its feedback).

    Args:
        estimator: X (b, c, f, k) complex -> V (b, n, c, f, k) real >= 0, what each target weighs in each bin; or, for the
            filter `as_is`, the targets' spectra Y themselves. It may say
            what it looks at: `context`, frames on either side of a frame (None, the default: all of them; a function
            may carry a callable of its own options), `grid`, frames: moving X by a multiple of it moves V, and `block`,
            frames: it needs so much memory that it should not see many more at a time. One of several stages, each of
            which looks less far than all together, can have `stream`, which takes blocks of X of at least as many frames
            as the context, but for the last one, to those of V. One that needs the whole song, but little of each frame,
            can say so by `scans`, true: then `scan` makes of blocks of X what V needs to know for each of them, and
            `finish` makes V of a block of X and that.
        targets: the names of the n targets.
        sample_rate: Hz.
        transform: waveform <-> spectrum.
        filter: (V, X) -> Y (b, n, c, f, k) complex.
        phase: a last stage instead of the plain inverse transform, (Y, mixture, transform) -> (b, n, c, t): `mss.phase`.

    Example:
        >>> separator = SpectralSeparator(mss.classical.hpss, targets=("harmonic", "percussive"))
        >>> harmonic, percussive = separator(mixture)[0]        # mixture (1, c, t)
    """

    BLOCK = 512  # frames worked on at a time when streaming: 12 s at the usual hop, some 250 MB for stereo

    def __init__(
        self,
        estimator: Callable[[Tensor], Tensor],
        targets: Sequence[str],
        *,
        sample_rate: int = 44100,
        transform: STFT | CQT = STFT(),  # noqa: B008  (frozen, so it can be shared)
        filter: Callable[[Tensor, Tensor], Tensor] = softmask,
        phase: Callable[[Tensor, Tensor, STFT | CQT], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(targets, str) or not targets or not all(isinstance(name, str) and name for name in targets):
            raise ValueError(f"targets must be a list of names, not {targets!r}")
        if not isinstance(sample_rate, int) or sample_rate <= 0:
            raise ValueError(f"sample_rate must be a positive whole number of Hz, not {sample_rate!r}")
        if not (callable(estimator) and callable(transform) and callable(filter)):
            raise ValueError("estimator, transform and filter must be callable")
        self.estimator = estimator
        self.targets = tuple(targets)
        self.sample_rate = sample_rate
        self.transform = transform
        self.filter = filter
        self.phase = phase

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        require_mixture(mixture)
        if self._scans and not (self.training or torch.is_grad_enabled()):
            return _joined(self.stream([mixture]), mixture.shape[-1])
        X = self.transform(mixture)  # (b, c, f, k) complex
        Y = self.filter(self.estimator(X), X)  # (b, n, c, f, k) complex
        if self.phase is not None:
            return self.phase(Y, mixture, self.transform)
        return self.transform.inverse(Y, mixture.shape[-1])  # (b, n, c, t)

    @property
    def context(self) -> float | None:
        """Seconds on either side of a sample on which its estimate may depend; None: the whole song."""
        frames = self._frames_of_context
        if frames is None:
            return None
        frames += self.grid // self.transform.hop - 1  # within a cell of the grid any frame may see any other
        return (frames * self.transform.hop + self.transform.n_fft) / self.sample_rate

    @property
    def grid(self) -> int:
        """Samples; moving the input by a multiple of it moves the output."""
        if not isinstance(self.transform, STFT):
            return 1
        return self.transform.hop * math.lcm(getattr(self.estimator, "grid", 1), self._window_of_filter or 1)

    @property
    def streams(self) -> bool:
        """Whether `stream` works; with a `context` of None it holds what it needs of each frame for the whole song."""
        return self._scans or self._frames_of_context is not None

    @property
    def _scans(self) -> bool:
        return self._in_blocks and getattr(self.estimator, "scans", False)

    @property
    def _window_of_filter(self) -> int | None:
        """Frames that the filter takes together; None: all."""
        function, options = options_of(self.filter)
        return options["window"] if function is wiener else 1 if function in LOCAL else None

    @property
    def _in_blocks(self) -> bool:
        """Whether all but the estimator works on blocks of frames."""
        return self._window_of_filter is not None and self.phase is None and isinstance(self.transform, STFT)

    @property
    def _frames_of_context(self) -> int | None:
        if not self._in_blocks:
            return None
        return frames_of_context(self.estimator)

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Like `forward` on the blocks (b, c, t) put together, without an approximation.

        Works on blocks of frames and not of samples, so nothing is computed twice but the frames of context; or, for an
        estimator that scans, the transform, and the waveform is held as far as the scan is ahead.
        """
        frames = self._frames_of_context
        if frames is not None:
            yield from no_longer(lambda counted: self._filtered(counted, frames), blocks)
        elif self._scans:
            yield from no_longer(self._scanned, blocks)
        else:
            raise ValueError("this separator needs the whole song: call it on all of it, or wrap it in mss.Chunked")

    def _filtered(self, blocks: Iterable[Tensor], frames: int) -> Iterator[Tensor]:
        """What `stream` gives out, with the last frame's tail; `frames` of context."""
        most = min(self.BLOCK, getattr(self.estimator, "block", self.BLOCK))
        spectra = self.transform.blocks(blocks, self._rounded(max(most, 2 * frames)))
        # by map, as the variable of a loop would hold each block until the next is there
        if hasattr(self.estimator, "stream"):
            ahead, behind = copies(spectra)
            return self.transform.inverse_blocks(map(self.filter, self.estimator.stream(ahead), behind))
        if frames == 0:
            return self.transform.inverse_blocks(map(self._filtered_block, spectra))
        grid = getattr(self.estimator, "grid", 1)
        widened = with_margins(((X,) for X in spectra), -(-frames // grid) * grid)
        return self.transform.inverse_blocks(self._filtered_block(*block) for [block] in widened)

    def _filtered_block(self, X: Tensor, own: slice = slice(None)) -> Tensor:
        return self.filter(self.estimator(X)[..., own], X[..., own])

    def _scanned(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same for an estimator that scans."""
        size = self._rounded(self.BLOCK)
        ahead, behind = (self.transform.blocks(copy, size) for copy in copies(blocks))
        found = zip(self.estimator.scan(ahead), behind, strict=True)
        return self.transform.inverse_blocks(self.filter(self.estimator.finish(X, state), X) for state, X in found)

    def _rounded(self, frames: int) -> int:
        """Up to a multiple of the grid."""
        grid = self.grid // self.transform.hop
        return -(-frames // grid) * grid


def copies(blocks: Iterable[Tensor], count: int = 2) -> tuple[Iterator[Tensor], ...]:
    """Iterators over the same blocks. They keep what one of them has yet to give and no more: `itertools.tee` keeps up to 57
    blocks that all have given, and with stems of 12 s that is a gigabyte."""
    source = iter(blocks)
    waiting: list[deque[Tensor]] = [deque() for _ in range(count)]

    def one(own: deque[Tensor]) -> Iterator[Tensor]:
        while True:
            if not own:
                block = next(source, None)
                if block is None:
                    return
                for queue in waiting:
                    queue.append(block)
                del block
            yield own.popleft()

    return tuple(one(own) for own in waiting)


def no_longer(process: Callable[[Iterable[Tensor]], Iterable[Tensor]], blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Applies `process` to a stream of (..., t) blocks and cuts what comes out, put together, to the length of what went in."""
    received = sent = 0

    def counted() -> Iterator[Tensor]:
        nonlocal received
        for block in blocks:
            received += block.shape[-1]
            yield block

    for y in process(counted()):
        yield y[..., : max(received - sent, 0)]
        sent += y.shape[-1]


def _joined(blocks: Iterable[Tensor], length: int) -> Tensor:
    """Blocks (..., t) put together into (..., length), without holding them beside the result."""
    whole, done = None, 0
    for block in blocks:
        whole = block.new_empty((*block.shape[:-1], length)) if whole is None else whole
        whole[..., done : done + block.shape[-1]] = block
        done += block.shape[-1]
    return whole


def with_margins(blocks: Iterable[Sequence[Tensor]], *margins: int) -> Iterator[list[tuple[Tensor, slice]]]:
    """Each block with up to so many frames of its neighbours on either side, and where its own frames are.

    A block is one or more tensors (..., k), each with a margin of its own. All but the last have at least as many frames as the
    widest margin.
    """
    before: list[Tensor] | None = None  # the last frames of the block before, as copies: views would keep all of it
    waiting: deque[Sequence[Tensor]] = (
        deque()
    )  # a block until the next one is there; what is given out is held no longer

    def widened(after: Sequence[Tensor] | None) -> list[tuple[Tensor, slice]]:
        nonlocal before
        own = waiting.popleft()
        left = before or [x[..., :0] for x in own]
        right = after or [x[..., :0] for x in own]
        before = [x[..., max(x.shape[-1] - m, 0) :].clone() for x, m in zip(own, margins, strict=True)]
        return [_widened(*parts) for parts in zip(left, own, right, margins, strict=True)]

    for block in chain(blocks, [None]):
        if waiting:
            yield widened(block)
        waiting.append(block)


def _widened(before: Tensor, own: Tensor, after: Tensor, margin: int) -> tuple[Tensor, slice]:
    if margin == 0:
        return own, slice(0, own.shape[-1])
    start = before.shape[-1]
    return torch.cat([before, own, after[..., :margin]], -1), slice(start, start + own.shape[-1])
