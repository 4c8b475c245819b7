"""Waveform <-> constant-Q transform that can be inverted, by nonstationary Gabor frames on the Fourier side.

G. Velasco, N. Holighaus, M. Dörfler, T. Grill, "Constructing an invertible constant-Q transform with non-stationary
Gabor frames", DAFx 2011; N. Holighaus, M. Dörfler, G. Velasco, T. Grill, "A framework for invertible, real-time constant-Q
transforms", IEEE TASLP 21(4), 2013.

The spectrum of the whole waveform is cut into bands that overlap by half: a band rises from the centre of the band
below to its own and falls to the centre of the band above, as sine and cosine of the same angle, so the squares of all
windows sum to 1. Every bin of the spectrum thus belongs to just two bands, and the whole transform is two weights per
bin, a rearrangement, and an inverse Fourier transform per band. With at least as many coefficients per band as it has
bins (the "painless" case) the frame is tight: the inverse is the adjoint, and exact.

Departs from the papers in three points. All bands have the same number of coefficients, so X is rectangular and every
mask fits; the price is redundancy. Bin i of the spectrum goes to slot i mod k of each of its bands, so a coefficient is
the sample of the band-passed waveform at its own time, phase included: those of neighbouring bands can be compared. And
the band at 0 Hz and the one at half the sample rate hold negative frequencies too, so neither has an edge there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CQT"]

MOST = 1000  # bands per octave; more are a mistake, or come in a file that wants to fill the memory


@dataclass(frozen=True)
class CQT:
    """Invertible constant-Q transform with the same number of coefficients in all bands (Velasco et al. 2011).

    Frame j is centred on sample j * hop; the frames run past the end of the waveform, into silence in which the longest
    window dies away. The coefficients have the energy of the waveform, sum |X|^2 = sum x^2; the inverse is the adjoint.

    The whole waveform is transformed at once. With the defaults the hop is 36 samples at 44.1 kHz, so there are 6.3
    complex numbers per sample (an STFT of 4096 / 1024: 2.0), 1.1 GB for four minutes of stereo in single precision;
    with `highest=8000` it is 95 samples, 2.7 and 0.45 GB. Frames are thus much denser than those of an STFT: a method
    that counts in frames needs other options, and one that compares all frames with all others too much memory.

    Args:
        bins_per_octave: bands per octave.
        lowest: centre of the lowest band but the one at 0 Hz, Hz (32.7: C1).
        highest: Hz, above which bands are no longer wider than there, but more; None: constant Q all the way up. The
            widest band decides the hop, so this saves memory.
        bandwidth: least width of a band from where it rises to where it has fallen, Hz; where constant Q would be
            narrower, centres are further apart: f_j + o is geometric instead of f_j (variable Q: Schörkhuber et al.
            2014). Shortens the windows of the bass.
        sample_rate: Hz.

    Example:
        >>> transform = CQT(highest=8000)
        >>> X = transform(mixture)                        # (b, c, t) -> (b, c, f, k) complex
        >>> same = transform.inverse(X, mixture.shape[-1])
    """

    bins_per_octave: int = 24
    lowest: float = 32.7
    highest: float | None = None
    bandwidth: float = 0.0
    sample_rate: int = 44100

    def __post_init__(self) -> None:
        if not isinstance(self.bins_per_octave, int) or not 1 <= self.bins_per_octave <= MOST:
            raise ValueError(f"bins_per_octave must be a whole number from 1 to {MOST}, not {self.bins_per_octave!r}")
        if not 1 <= self.lowest <= self.sample_rate / 4:
            raise ValueError(
                f"lowest must be at least 1 Hz and at most a quarter of the sample rate, {self.sample_rate / 4} Hz, "
                f"not {self.lowest}"
            )
        if self.highest is not None and self.highest <= self.lowest:
            raise ValueError(f"highest must be above lowest = {self.lowest} Hz, not {self.highest}")
        if not 0 <= self.bandwidth < self.sample_rate / 4:
            raise ValueError(f"bandwidth must be from 0 to a quarter of the sample rate, in Hz, not {self.bandwidth}")

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Centres of the bands, Hz, from 0 to half the sample rate."""
        return _centres(self)

    @property
    def bins(self) -> int:
        """Number of bands."""
        return len(_centres(self))

    @property
    def hop(self) -> int:
        """Samples between frames: as many as the widest band allows."""
        return max(math.ceil(self.sample_rate / max(_widths(self))) - 1, 1)

    def frames(self, length: int) -> int:
        """Number of frames of a waveform of `length` samples."""
        return _frames(self, length)

    def multiplicity(self, like: Tensor) -> Tensor:
        """(f, 1) of 1, dtype and device of `like`: the frame is tight, all coefficients count the same in an energy."""
        return like.new_ones(self.bins, 1, dtype=like.dtype)

    def __call__(self, waveform: Tensor) -> Tensor:
        """Analyses (..., t) into (..., f, k) complex, k = frames(t); the lowest and highest band are real."""
        k = self.frames(waveform.shape[-1])
        W = torch.fft.rfft(F.pad(waveform, (0, k * self.hop - waveform.shape[-1])), norm="ortho")
        layout = _Layout(self, k, waveform)
        falling, rising = W * layout.falling, W * layout.rising
        parts = [falling, rising, falling[..., layout.low].conj(), rising[..., layout.high].conj()]
        slots = W.new_zeros(*W.shape[:-1], self.bins * k).index_copy_(-1, layout.slots, torch.cat(parts, -1))
        return torch.fft.ifft(slots.unflatten(-1, (self.bins, k)), norm="ortho")

    def inverse(self, X: Tensor, length: int) -> Tensor:
        """Synthesises (..., f, k) complex into (..., length): exactly the waveform where X is its transform.

        Elsewhere the waveform whose transform is nearest to X in the least-squares sense.
        """
        k = self.frames(length)
        if X.shape[-2:] != (self.bins, k):
            raise ValueError(f"{length} samples have {(self.bins, k)} bins and frames, not {tuple(X.shape[-2:])}")
        layout = _Layout(self, k, X.real)
        slots = torch.fft.fft(X, norm="ortho").flatten(-2).index_select(-1, layout.slots)
        half = k * self.hop // 2 + 1
        low, high = layout.low.stop - layout.low.start, layout.high.stop - layout.high.start
        falling, rising, below, above = slots.split([half, half, low, high], -1)
        falling, rising = falling * layout.falling, rising * layout.rising
        W = falling + rising
        W[..., layout.low] += below.conj() * layout.falling[layout.low]
        W[..., layout.high] += above.conj() * layout.rising[layout.high]
        W[..., 0] += falling[..., 0].conj()  # 0 Hz and half the sample rate are their own mirror images
        W[..., -1] += rising[..., -1].conj()
        return torch.fft.irfft(W / 2, n=k * self.hop, norm="ortho")[..., :length]


class _Layout:
    """Which bins of the spectrum of k * hop samples go where in the bands, and with which weights."""

    def __init__(self, cqt: CQT, k: int, like: Tensor) -> None:
        dtype, device = like.dtype, like.device
        half = k * cqt.hop // 2 + 1
        per_hz = k * cqt.hop / cqt.sample_rate
        exact = [frequency * per_hz for frequency in cqt.frequencies]
        edges = [math.ceil(position) for position in exact[:-1]]  # the first bin from each centre on
        self.low, self.high = slice(1, edges[1]), slice(edges[-1], half - 1)  # bins with a mirror image in their band

        def per_band(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[band]

        i = torch.arange(half, device=device)
        first = torch.tensor(edges, device=device)
        band = torch.bucketize(i, first[1:], right=True)  # the band whose centre is at or below bin i
        past = (i - first[band]).to(dtype) + per_band([e - x for e, x in zip(edges, exact[:-1], strict=True)])
        angle = past * per_band([math.pi / 2 / (y - x) for x, y in pairwise(exact)])
        self.falling, self.rising = angle.cos() * 2**0.5, angle.sin() * 2**0.5
        self.falling[: edges[1]] *= 0.5**0.5  # two-sided bands hold each frequency twice
        self.rising[edges[-1] :] *= 0.5**0.5
        own, mirrored = band * k + i % k, -i % k
        parts = [own, own + k, mirrored[self.low], mirrored[self.high] + (cqt.bins - 1) * k]
        self.slots = torch.cat(parts)


@lru_cache
def _centres(cqt: CQT) -> tuple[float, ...]:
    """Hz: 0, geometric from `lowest` to `highest`, from there in equal steps, half the sample rate."""
    nyquist, ratio = cqt.sample_rate / 2, 2 ** (1 / cqt.bins_per_octave)
    offset = max(cqt.bandwidth / (ratio - 1 / ratio) - cqt.lowest, 0)
    # the last one a quarter of a step below half the sample rate at least: a narrower band there would ring for long
    top = (nyquist + offset) * ratio**-0.25 - offset
    top = top if cqt.highest is None else min(cqt.highest, top)
    count = max(math.floor(math.log2((top + offset) / (cqt.lowest + offset)) * cqt.bins_per_octave + 1e-9), 0) + 1
    centres = [(cqt.lowest + offset) * 2 ** (j / cqt.bins_per_octave) - offset for j in range(count)]
    rest = nyquist - centres[-1]
    steps = max(round(rest / ((centres[-1] + offset) * (ratio - 1))), 1)
    return (0.0, *centres, *(nyquist - rest * j / steps for j in range(steps - 1, 0, -1)), nyquist)


def _widths(cqt: CQT) -> list[float]:
    """Hz: of all bands, from where they rise to where they have fallen."""
    f = cqt.frequencies
    mirrored = (-f[1], *f, 2 * f[-1] - f[-2])
    return [above - below for below, above in zip(mirrored[:-2], mirrored[2:], strict=True)]


@lru_cache
def _frames(cqt: CQT, length: int) -> int:
    """The least even number with no prime factor above 7 that leaves room for the longest window to die away."""
    tail = 2 * cqt.sample_rate / min(_widths(cqt))  # twice this: four bins in the narrowest band
    k = math.ceil(max(length + tail, 2 * tail) / cqt.hop)
    k += k % 2
    while not _smooth(k):
        k += 2
    return k


def _smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1
