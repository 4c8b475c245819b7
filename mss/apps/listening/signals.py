"""The signals of a listening test: excerpts, anchors, loudness (ITU-R BS.1534-3, "MUSHRA"; ITU-R BS.1770-4)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mss.audio.loudness import loudness, true_peak

__all__ = ["ANCHORS", "LOWEST_RATE", "aligned", "faded", "loudest", "low_pass", "safe_gain"]

ANCHORS = {"low": 3500.0, "mid": 7000.0}  # Hz; both are what BS.1534-3 asks for
LOWEST_RATE = 16000  # Hz; lower, the 7 kHz anchor would be the reference
FADE = 0.02  # seconds at either end of an excerpt
MOST_GAIN = 12.0  # LU by which a signal may be lifted: what is all but silent is not to become noise
CEILING = -1.0  # dBTP
_EDGE = 1.083  # the filter's cut-off over the end of its pass band
_BETA, _HALF = 5.0, 200  # Kaiser window; taps on either side at 44.1 kHz
_HOP = 0.1  # seconds between the places where an excerpt may begin


def low_pass(waveform: Tensor, sample_rate: int, edge: float) -> Tensor:
    """A linear-phase low-pass without its delay: flat to `edge`, as the anchors of BS.1534-3 are.

    For 3.5 kHz the recommendation allows 0.1 dB of ripple in the pass band and wants 25 dB less at 4 kHz, 50 dB less at
    4.5 kHz.

    Args:
        waveform: (..., t).
        sample_rate: Hz, `LOWEST_RATE` or more.
        edge: end of the pass band, Hz.

    Returns:
        (..., t), of the same dtype.
    """
    if sample_rate < LOWEST_RATE:
        raise ValueError(f"anchors need a sample rate of {LOWEST_RATE} Hz or more, got {sample_rate} Hz: resample")
    half = math.ceil(_HALF * sample_rate / 44100)
    n = torch.arange(-half, half + 1, dtype=torch.float64)
    taps = torch.sinc(2 * _EDGE * edge / sample_rate * n)
    taps = taps * torch.kaiser_window(2 * half + 1, periodic=False, beta=_BETA, dtype=torch.float64)
    size = waveform.shape[-1] + 2 * half
    spectrum = torch.fft.rfft(waveform.double(), size) * torch.fft.rfft(taps / taps.sum(), size)
    return torch.fft.irfft(spectrum, size)[..., half : half + waveform.shape[-1]].to(waveform.dtype)


def loudest(waveform: Tensor, sample_rate: int, duration: float) -> float:
    """Where the excerpt with the most energy begins, seconds; 0 where the recording (c, t) is no longer than it."""
    hop, length = round(_HOP * sample_rate), round(duration * sample_rate)
    starts = (waveform.shape[-1] - length) // hop + 1
    if starts < 2:
        return 0.0
    energy = torch.nn.functional.pad(waveform.double().square().sum(0).cumsum(0), (1, 0))
    at = torch.arange(starts) * hop
    return int((energy[at + length] - energy[at]).argmax()) * hop / sample_rate


def faded(waveform: Tensor, sample_rate: int) -> Tensor:
    """The waveform (..., t) with raised-cosine fades at both ends."""
    length = min(round(FADE * sample_rate), waveform.shape[-1] // 2)
    ramp = torch.sin((torch.arange(length) + 0.5) * (math.pi / 2 / max(length, 1))).square().to(waveform.dtype)
    y = waveform.clone()
    y[..., :length] *= ramp
    y[..., y.shape[-1] - length :] *= ramp.flip(0)
    return y


def aligned(
    signals: Mapping[str, Tensor], sample_rate: int, lufs: float, *, reference: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Signals (c, t) brought to one loudness, and the names of those too quiet for that.

    A signal more than `MOST_GAIN` below the reference is lifted by so much and no more: silence stays silence.

    Raises:
        ValueError: the reference is silent.
    """
    levels = {name: loudness(x, sample_rate) for name, x in signals.items()}
    if levels[reference] == -math.inf:
        raise ValueError("the reference is silent, or shorter than 0.4 s")
    floor = levels[reference] - MOST_GAIN
    quiet = [name for name, level in levels.items() if level < floor]
    return {name: x * 10 ** ((lufs - max(levels[name], floor)) / 20) for name, x in signals.items()}, quiet


def safe_gain(signals: Mapping[str, Tensor]) -> float:
    """The gain, 1 or less, that keeps the true peak of every signal (c, t) at `CEILING` or below."""
    return min(1.0, 10 ** (CEILING / 20) / max(1e-9, *(true_peak(x) for x in signals.values()), 0.0))
