"""How loud a waveform is and how high it peaks between its samples (ITU-R BS.1770-4), in blocks and bounded memory.

The recommendation gives the K-weighting at 48 kHz only. Here its two filters, whose analogue parameters follow from
those coefficients, are designed anew for each rate by the bilinear transform.
"""

from __future__ import annotations

import math
from functools import lru_cache

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import DEFAULT_LAYOUTS, AudioError

__all__ = ["Loudness", "TruePeak", "loudness", "true_peak"]

_SHELF = (1681.974450955533, 0.7071752369554196, 3.999843853973347)  # the head: Hz, quality, dB
_HIGH_PASS = (38.13547087602444, 0.5003270373238773)  # Hz, quality
_MEMORY = 0.125  # seconds after which the filters have forgotten all but 1e-10
_OFFSET = -0.691  # dB: makes the weighting 0 dB at 997 Hz
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
_LOWEST_RATE = 8000  # Hz; lower, the shelf would be above what the rate holds
_SIDES = ("BL", "BR", "SL", "SR")
_OVERSAMPLING = 4
_REACH = 24  # samples on either side from which the values between two samples are found
_BETA = 6.2  # Kaiser window: flat to 0.46 of the rate


class Loudness:
    """Integrated loudness of blocks (c, t), LUFS: K-weighting, 400 ms windows every 100 ms, both gates.

    Args:
        sample_rate: Hz, 8000 or more.
        channels: of the blocks.
        layout: FFmpeg's name, as in `AudioInfo.layout`: the surrounds count 1.41 times, LFE not at all. None: the usual
            one of so many channels; where that is not known either, all count alike.

    Example:
        >>> meter = Loudness(48000, 2)
        >>> for block in blocks:
        ...     meter.add(block)
        >>> meter.integrated
        -23.0
    """

    def __init__(self, sample_rate: int, channels: int, layout: str | None = None) -> None:
        if sample_rate < _LOWEST_RATE:
            raise AudioError(f"Loudness is defined here from {_LOWEST_RATE} Hz on, not for {sample_rate} Hz: resample.")
        self._rate = sample_rate
        self._weights = torch.tensor(_weights(channels, layout), dtype=torch.float64)
        self._memory = math.ceil(_MEMORY * sample_rate)
        self._past = torch.zeros(channels, self._memory, dtype=torch.float64)
        self._seen = 0  # samples
        self._energies = torch.zeros(0, dtype=torch.float64)  # of each 100 ms

    def add(self, block: Tensor) -> None:
        """Takes in what follows."""
        weighting, size = _k_weighting(self._rate)
        for piece in block.detach().cpu().double().split(size - self._memory, dim=-1):
            x = torch.cat([self._past, piece], -1)
            self._past = x[:, x.shape[-1] - self._memory :]
            y = torch.fft.irfft(torch.fft.rfft(x, size) * weighting, size)[:, self._memory : x.shape[-1]]
            at = torch.arange(self._seen, self._seen + piece.shape[-1]) * 10 // self._rate  # which 100 ms
            self._seen += piece.shape[-1]
            more = max(int(at[-1]) + 1 - len(self._energies), 0) if len(at) else 0
            self._energies = F.pad(self._energies, (0, more)).index_add(0, at, self._weights @ y.square())

    @property
    def integrated(self) -> float:
        """LUFS of all so far; -inf if that is shorter than 400 ms, or never above -70 LUFS."""
        complete = self._seen * 10 // self._rate
        if complete < 4:
            return -math.inf
        edges = -(-torch.arange(complete + 1) * self._rate // 10)
        lengths = (edges[4:] - edges[:-4]).double()
        powers = self._energies[:complete].unfold(0, 4, 1).sum(-1) / lengths
        powers = powers[powers > _power(_ABSOLUTE_GATE)]
        if len(powers):
            powers = powers[powers > powers.mean() * 10 ** (_RELATIVE_GATE / 10)]
        return _OFFSET + 10 * math.log10(powers.mean()) if len(powers) else -math.inf


class TruePeak:
    """The largest value that blocks (c, t) reach at or between their samples: 4 times oversampled (Annex 2)."""

    def __init__(self, channels: int) -> None:
        self._past = torch.zeros(channels, 2 * _REACH - 1)
        self._peak = 0.0

    def add(self, block: Tensor) -> None:
        """Takes in what follows."""
        for piece in block.detach().cpu().float().split(1 << 16, dim=-1):
            if piece.shape[-1]:
                x = torch.cat([self._past, piece], -1)
                self._past = x[:, 1 - 2 * _REACH :]
                self._peak = max(self._peak, float(piece.abs().max()), _between(x))

    @property
    def peak(self) -> float:
        """Of all so far, linear: 1 is full scale, 0 dBTP."""
        return max(self._peak, _between(F.pad(self._past, (0, 2 * _REACH - 1))))


def loudness(waveform: Tensor, sample_rate: int, layout: str | None = None) -> float:
    """Integrated loudness of a waveform (c, t), LUFS, as of `Loudness`."""
    meter = Loudness(sample_rate, waveform.shape[0], layout)
    meter.add(waveform)
    return meter.integrated


def true_peak(waveform: Tensor) -> float:
    """True peak of a waveform (c, t), linear, as of `TruePeak`."""
    meter = TruePeak(waveform.shape[0])
    meter.add(waveform)
    return meter.peak


def _power(level: float) -> float:
    return 10 ** ((level - _OFFSET) / 10)


def _weights(channels: int, layout: str | None) -> list[float]:
    """What each channel counts: Tables 3 and 4, by the angles at which its speaker stands."""
    layout = layout or DEFAULT_LAYOUTS.get(channels)
    try:
        names = [] if layout is None else [channel.name for channel in av.AudioLayout(layout).channels]
    except (av.FFmpegError, ValueError):
        names = []
    if len(names) != channels:
        return [1.0] * channels
    # with speakers at the sides, those at the back stand behind 120 degrees, where no more is added
    loud = ("SL", "SR") if "SL" in names else _SIDES
    return [0.0 if name.startswith("LFE") else 1.41 if name in loud else 1.0 for name in names]


@lru_cache(maxsize=4)
def _k_weighting(rate: int) -> tuple[Tensor, int]:
    """The frequency response at the bins of a transform, and its length, eight times the filters' memory or more."""
    size = 1 << math.ceil(math.log2(8 * _MEMORY * rate))
    z = torch.exp(-2j * math.pi * torch.arange(size // 2 + 1, dtype=torch.float64) / size)  # z^-1
    response = torch.ones_like(z)
    for b, a in biquads(rate):
        response = response * (b[0] + b[1] * z + b[2] * z * z) / (1 + a[1] * z + a[2] * z * z)
    return response, size


def biquads(rate: int) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Numerators and denominators of the two filters of the K-weighting at a rate, Hz."""
    frequency, quality, gain = _SHELF
    k, high = math.tan(math.pi * frequency / rate), 10 ** (gain / 20)
    band = high**0.4996667741545416
    norm = 1 + k / quality + k * k
    shelf = (high + band * k / quality + k * k, 2 * (k * k - high), high - band * k / quality + k * k)
    first = tuple(x / norm for x in shelf), (1.0, 2 * (k * k - 1) / norm, (1 - k / quality + k * k) / norm)
    frequency, quality = _HIGH_PASS
    k = math.tan(math.pi * frequency / rate)
    norm = 1 + k / quality + k * k
    second = (1.0, -2.0, 1.0), (1.0, 2 * (k * k - 1) / norm, (1 - k / quality + k * k) / norm)
    return [first, second]


@lru_cache(maxsize=1)
def _interpolators() -> Tensor:
    """Windowed sincs (3, 1, taps) for the points at 1/4, 1/2 and 3/4 between two samples."""
    fractions = torch.arange(1, _OVERSAMPLING, dtype=torch.float64)[:, None] / _OVERSAMPLING
    distance = torch.arange(1 - _REACH, _REACH + 1, dtype=torch.float64) - fractions
    window = torch.special.i0(_BETA * (1 - (distance / _REACH).square()).sqrt()) / torch.special.i0(torch.tensor(_BETA))
    taps = torch.sinc(distance) * window
    return (taps / taps.sum(-1, keepdim=True)).float().unsqueeze(1)


def _between(x: Tensor) -> float:
    """The largest absolute value between the samples of x (c, t) that have all their neighbours."""
    return float(F.conv1d(x.unsqueeze(1), _interpolators()).abs().max())
