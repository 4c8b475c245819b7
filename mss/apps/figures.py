"""The figures of Cano et al. 2019 from a song and its stems, as numbers; `mss.apps.drawing` makes pictures of them.

Pictures have r rows, from low to high frequencies on a logarithmic axis, and k columns of time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mss.audio import Reader
from mss.classical import panning_histogram
from mss.classical._nmf import concatenated, factorise
from mss.transforms import STFT

__all__ = ["COLOURS", "Axes", "dominant", "levels", "loudest", "panning", "power", "templates"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind too
PIECE = 1 << 21  # samples


@dataclass(frozen=True)
class Axes:
    """What the pictures of a song have in common.

    Args:
        sample_rate: Hz.
        samples: length.
        rows, columns: of a picture, the columns at most.
        lowest, highest: Hz at the lower and upper edge; the latter no more than the sample rate holds.
    """

    sample_rate: int
    samples: int
    rows: int = 160
    columns: int = 640
    lowest: float = 50.0
    highest: float = 16000.0

    @property
    def top(self) -> float:
        """Hz at the upper edge."""
        return max(2 * self.lowest, min(self.highest, self.sample_rate / 2))

    @property
    def transform(self) -> STFT:
        """Frames of about 93 ms, at least as many as there are columns where they can be had without more than 16 laps."""
        n_fft = 1 << round(math.log2(0.093 * self.sample_rate))
        return STFT(n_fft, min(n_fft // 4, max(n_fft // 16, self.samples // self.columns)))

    def height(self, frequency: float) -> float:
        """Where a frequency is, 0 at the lower and 1 at the upper edge."""
        return math.log(frequency / self.lowest) / math.log(self.top / self.lowest)

    def pooled(self, transform: STFT) -> Tensor:
        """(r, f): the mean of the bins, each as wide as their distance, over the width of each row."""
        edges = self.lowest * (self.top / self.lowest) ** torch.linspace(0, 1, self.rows + 1, dtype=torch.float64)
        width = self.sample_rate / transform.n_fft
        bins = torch.arange(transform.bins, dtype=torch.float64) * width
        low, high = edges[:-1, None], edges[1:, None]
        shared = torch.minimum(high, bins + width / 2) - torch.maximum(low, bins - width / 2)
        return (shared.clamp_min(0) / (high - low)).float()


def power(x: Tensor, axes: Axes) -> Tensor:
    """Mean power of a sound (c, t) at the points of a picture, (r, k)."""
    transform = axes.transform
    energy = sum(
        transform(channel.float()).abs().square() for channel in x
    )  # (f, k); one at a time, for they are large
    return torch.nn.functional.adaptive_avg_pool1d(axes.pooled(transform) @ energy, min(axes.columns, energy.shape[-1]))


def levels(power: Tensor, loudest: float, depth: float = 70.0) -> Tensor:
    """Power as a level from 0, `depth` dB and more below `loudest`, to 1 there."""
    if loudest <= 0:
        return torch.zeros_like(power)
    return (1 + 10 * (power / loudest).clamp_min(1e-30).log10() / depth).clamp(0, 1)


def dominant(powers: Tensor) -> Tensor:
    """Figure 1: which of the sources (n, r, k) has the most power at each point, (r, k)."""
    return powers.argmax(0)


def panning(sounds: Iterable[Tensor], *, bins: int = 91) -> Tensor | None:
    """Figure 5: energy of each sound (c, t) over the angles 0 (left) to 90 degrees (right), (n, bins); None: not stereo."""
    transform, rows = STFT(), []
    for x in sounds:
        if len(x) != 2:
            return None
        pieces = x.float().split(PIECE, -1)  # the spectra of ten minutes are a gigabyte
        rows.append(sum(panning_histogram(transform(piece), bins=bins)[0] for piece in pieces))
    return torch.stack(rows) if rows else None


def templates(
    power: Tensor, components: int = 8, *, iterations: int = 150, seed: int = 0
) -> tuple[Tensor, Tensor] | None:
    """Figure 6: an NMF of the magnitudes of a picture, by the Kullback-Leibler divergence.

    Returns:
        Templates W (r, a), the lowest first, and activations H (a, k), each row with a maximum of 1; None: silence.
    """
    V, level = concatenated(power.sqrt()[None, None])
    if not V.any():
        return None
    W, H = (x[0] for x in factorise(V, components, iterations=iterations, restarts=2, seed=seed))
    peak = H.amax(1).clamp_min(1e-12)
    W, H = W * peak * level[0], H / peak[:, None]
    rows = torch.arange(len(W), dtype=W.dtype)[:, None]
    order = ((W * rows).sum(0) / W.sum(0).clamp_min(1e-12)).argsort()
    return W[:, order], H[order]


def loudest(reader: Reader, seconds: float, *, step: float = 0.25) -> tuple[float, float | None, float]:
    """Where the `seconds` of the most energy begin in what a reader gives, how long they are (None: it is all), and how
    long all is; seconds."""
    size = max(1, round(step * reader.info.sample_rate))
    energies, samples = [], 0
    for block in reader.blocks(size):
        energies.append(float(block.double().square().sum()))
        samples += block.shape[-1]
    whole = samples / reader.info.sample_rate
    if whole <= seconds:
        return 0.0, None, whole
    steps = max(1, int(seconds / step))
    sums = torch.tensor([0.0, *energies], dtype=torch.float64).cumsum(0)
    steps = min(steps, len(energies))
    begin = int((sums[steps:] - sums[:-steps]).argmax()) * size / reader.info.sample_rate
    return min(begin, whole - seconds), seconds, whole


def extremes(x: Tensor, columns: int) -> Iterator[tuple[float, float]]:
    """Lowest and highest sample of a sound (c, t), its channels averaged, in each of at most so many columns."""
    for part in x.float().mean(0).tensor_split(max(1, min(columns, x.shape[-1]))):
        yield float(part.min()), float(part.max())


def colour(index: int) -> str:
    """Of a source, always the same."""
    return COLOURS[index % len(COLOURS)]


def ticks(seconds: float, most: int = 8) -> Sequence[float]:
    """Round times from 0 for an axis."""
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 60, 120) if seconds / s <= most), 300)
    return [i * step for i in range(int(seconds / step) + 1)]
