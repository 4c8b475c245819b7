"""Waveform <-> short-time Fourier transform, whole or block by block.

The only caller of `torch.stft`. The inverse is the least-squares one of Griffin & Lim (1984): overlap-add of the windowed
frames, divided by the overlap-added squared window; so a masked spectrogram is projected optimally.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.cpu import in_threads, untracked

__all__ = ["STFT"]

WINDOWS = {"hann": torch.hann_window, "hamming": torch.hamming_window}


@dataclass(frozen=True)
class STFT:
    """Centred short-time Fourier transform (Allen & Rabiner 1977).

    Args:
        n_fft: window and transform length, samples; even.
        hop: samples between frames, at most three quarters of the window (768 of 1024: Jansson et al. 2017).
        window: "hann" or "hamming" (periodic).
        padding: what is before the first sample and after the last: "zeros", or "reflect", the waveform backwards
            (Open-Unmix).

    Example:
        >>> transform = STFT()
        >>> X = transform(mixture)                        # (b, c, t) -> (b, c, f, k) complex
        >>> same = transform.inverse(X, mixture.shape[-1])
    """

    n_fft: int = 4096
    hop: int = 1024
    window: str = "hann"
    padding: Literal["zeros", "reflect"] = "zeros"

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ValueError(f"window must be one of {', '.join(WINDOWS)}, not {self.window!r}")
        if self.padding not in ("zeros", "reflect"):
            raise ValueError(f"padding must be 'zeros' or 'reflect', not {self.padding!r}")
        if self.n_fft % 2 or not 0 < self.n_fft <= LONGEST:
            raise ValueError(f"n_fft must be an even number of samples up to {LONGEST}, not {self.n_fft}")
        if not 0 < self.hop <= 3 * self.n_fft // 4:
            raise ValueError(f"hop must be between 1 and 3 n_fft // 4 = {3 * self.n_fft // 4} samples, not {self.hop}")

    @property
    def bins(self) -> int:
        """Number of frequency bins."""
        return self.n_fft // 2 + 1

    def frames(self, length: int) -> int:
        """Number of frames of a waveform of `length` samples."""
        return 1 + (length // self.hop if self.dense else -(-length // self.hop))

    def multiplicity(self, like: Tensor) -> Tensor:
        """(f, 1), dtype and device of `like`: how many bins of the two-sided spectrum each bin stands for, 1 or 2."""
        bins = torch.arange(self.bins, device=like.device).unsqueeze(-1)
        return 2 - ((bins == 0) | (2 * bins == self.n_fft)).to(like.dtype)

    def __call__(self, waveform: Tensor) -> Tensor:
        """Analyses (..., t) into (..., f, k) complex, k = frames(t); frame j is centred on sample j * hop."""
        return self._analyse(self._padded(waveform, self.n_fft // 2, self._after(waveform.shape[-1])))

    def inverse(self, X: Tensor, length: int) -> Tensor:
        """Synthesises (..., f, k) complex into (..., length): exactly the waveform where X is its STFT."""
        adder, envelope = _OverlapAdd(self.hop), _OverlapAdd(self.hop)
        window = self._window(X.real)
        norm = torch.cat([envelope.add(_squares(window, X.shape[-1])), envelope.tail], -1)
        norm = self._cut(norm, length).clamp_min(torch.finfo(norm.dtype).tiny)
        if length and untracked(X):
            return self._inverse_on_cpu(X, window, 1 / norm)
        done = torch.cat([adder.add(self._frames(X), window), adder.tail], -1)
        return self._cut(done, length) / norm

    def _cut(self, y: Tensor, length: int) -> Tensor:
        """What is heard of frames that were put together: `length` samples from the middle of the first frame on."""
        half = self.n_fft // 2
        return F.pad(y, (0, max(half + length - y.shape[-1], 0)))[..., half : half + length]

    def _inverse_on_cpu(self, X: Tensor, window: Tensor, gain: Tensor) -> Tensor:
        """The inverse, compiled, on as many signals at a time as stay in the cache."""
        length, rows = len(gain), X.flatten(0, -3) if X.ndim > 2 else X.unsqueeze(0)
        out = X.real.new_empty((len(rows), length))
        at_once = max(1, BLOCK // (X.shape[-1] * self.n_fft))
        for part, y in zip(rows.split(at_once), out.split(at_once), strict=True):
            _overlap_add(self._frames(part), window, self.hop, self.n_fft // 2, y)
        return out.mul_(gain).view(*X.shape[:-2], length)

    def blocks(self, waveforms: Iterable[Tensor], size: int) -> Iterator[Tensor]:
        """Analyses consecutive (..., t) blocks of one waveform into blocks of `size` frames (the last one shorter).

        Put together along the last axis they are the STFT of the blocks put together; memory is bounded by the block sizes.
        """
        half, pending, length = self.n_fft // 2, None, 0
        left = half  # samples of padding still to come
        kept = 0 if self.dense else 2 * self.hop  # for the padding after the last to reflect
        ready = (size - 1) * self.hop + self.n_fft
        for waveform in waveforms:
            length += waveform.shape[-1]
            pending = waveform if pending is None else torch.cat([pending, waveform], -1)
            if left and pending.shape[-1] > half:  # enough to reflect
                pending, left = self._padded(pending, left, 0), 0
            while not left and pending.shape[-1] > ready + kept:
                yield self._analyse(pending[..., :ready])
                pending = pending[..., size * self.hop :]
        if pending is not None:
            pending = self._padded(pending, left, self._after(length))
            while pending.shape[-1] >= self.n_fft:
                yield self._analyse(pending[..., :ready])
                pending = pending[..., size * self.hop :]

    def inverse_blocks(self, spectra: Iterable[Tensor]) -> Iterator[Tensor]:
        """Synthesises consecutive (..., f, k) blocks into consecutive (..., t) blocks, the first starting at sample 0.

        The last block runs past the end of the waveform that was analysed: cut the total to its length.
        """
        adder, envelope, skip = _OverlapAdd(self.hop), _OverlapAdd(self.hop), self.n_fft // 2

        def synthesised(X: Tensor) -> Tensor:
            nonlocal skip
            window = self._window(X.real)
            at_once = max(1, PIECE // max(1, X[..., 0, 0].numel() * self.n_fft))
            done = torch.cat([adder.add(self._frames(part), window) for part in X.split(at_once, -1)], -1)
            norm = envelope.add(_squares(window, X.shape[-1]))
            left, skip = skip, max(skip - done.shape[-1], 0)
            return done[..., left:] / norm[left:].clamp_min(torch.finfo(norm.dtype).tiny)

        spectra = filter(lambda X: X.shape[-1], spectra)
        yield from map(synthesised, spectra)  # not in a loop, whose variable would hold a block while the next is made
        if adder.tail is not None:
            yield adder.tail[..., skip:] / envelope.tail[skip:].clamp_min(torch.finfo(envelope.tail.dtype).tiny)

    @property
    def dense(self) -> bool:
        """Whether the last frame that is centred within the waveform hears its end.

        By the rim of its window alone it would not: what is done to the spectrogram would return multiplied there.
        Open-Unmix (`umxse` has a hop of half a window) takes that, and its networks want its frames.
        """
        return (2 if self.padding == "reflect" else 3) * self.hop <= self.n_fft

    def _after(self, length: int) -> int:
        """Samples of padding after the last."""
        half = self.n_fft // 2
        return half if self.dense else (self.frames(length) - 1) * self.hop + half - length

    def _padded(self, x: Tensor, left: int, right: int) -> Tensor:
        """(..., t) with `left` and `right` more samples; what is shorter than them is reflected again and again."""
        while self.padding == "reflect" and (left or right) and x.shape[-1] > 1:
            most = x.shape[-1] - 1
            now = min(left, most), min(right, most)
            x = F.pad(x.reshape(1, -1, x.shape[-1]), now, mode="reflect").reshape(*x.shape[:-1], -1)
            left, right = left - now[0], right - now[1]
        return F.pad(x, (left, right))

    def _analyse(self, padded: Tensor) -> Tensor:
        flat = padded.reshape(-1, padded.shape[-1])
        X = torch.stft(flat, self.n_fft, self.hop, window=self._window(padded), center=False, return_complex=True)
        return X.reshape(*padded.shape[:-1], *X.shape[-2:])  # (..., f, k)

    def _frames(self, X: Tensor) -> Tensor:
        return torch.fft.irfft(X.transpose(-1, -2), n=self.n_fft)  # (..., k, n_fft)

    def _window(self, like: Tensor) -> Tensor:
        return WINDOWS[self.window](self.n_fft, dtype=like.dtype, device=like.device)


LONGEST = 2**24  # samples; a window of minutes is a mistake, or comes in a file that wants to fill the memory
BLOCK = 2**23  # samples of frames at a time: 32 MB in single precision
PIECE = 2**21  # the same where spectra come in blocks: the frames are then still in the cache when they are added


def _squares(window: Tensor, frames: int) -> Tensor:
    return window.square().expand(frames, -1)


def _overlap_add(frames: Tensor, window: Tensor, hop: int, skip: int, out: Tensor) -> None:
    """out (r, t): the sum of the frames (r, k, n) times the window, `hop` apart, less the first `skip` samples; compiled."""
    from mss.transforms import _overlap_cpu  # compiled code is loaded where it is wanted

    x, w, y = frames.contiguous().numpy(), window.numpy(), out.numpy()
    pieces = len(y) * -(-y.shape[1] // hop)
    in_threads(lambda first, last: _overlap_cpu.overlap_add(x, w, hop, skip, y, first, last), pieces)


class _OverlapAdd:
    """Adds frames (..., k, n) at a distance of `hop`; gives out what no later frame can reach, keeps the rest in `tail`."""

    def __init__(self, hop: int) -> None:
        self.hop = hop
        self.tail: Tensor | None = None  # (..., overlaps * hop)

    def add(self, frames: Tensor, window: Tensor | None = None) -> Tensor:
        """Frames, times the window where there is one."""
        *lead, k, n = frames.shape
        overlaps = -(-n // self.hop)
        total = frames.new_zeros(*lead, (k + overlaps - 1) * self.hop)
        if window is not None and untracked(frames):
            _overlap_add(frames.reshape(-1, k, n), window, self.hop, 0, total.view(-1, total.shape[-1]))
        else:
            frames = frames if window is None else frames * window
            slots = F.pad(frames, (0, overlaps * self.hop - n)).reshape(*lead, k, overlaps, self.hop)
            cells = total.view(*lead, -1, self.hop)
            for i in range(overlaps):
                cells[..., i : i + k, :] += slots[..., i, :]
        if self.tail is not None:
            total[..., : self.tail.shape[-1]] += self.tail
        done, self.tail = total[..., : k * self.hop], total[..., k * self.hop :].clone()  # a view would keep all
        return done
