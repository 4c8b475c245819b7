"""A score's time to that of a recording: dynamic time warping of chroma (Ewert, Müller & Grosche, ICASSP 2009)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["align"]

RATE = 20.0  # frames per second in which both are compared
LOWEST, HIGHEST = 55.0, 2000.0  # Hz that chroma look at


def align(
    pitches: Tensor, onsets: Tensor, offsets: Tensor, V: Tensor, rate: float, sample_rate: int
) -> tuple[Tensor, Tensor]:
    """Times of a score's notes in a recording.

    Args:
        pitches, onsets, offsets: (notes,) MIDI numbers and seconds, on the CPU.
        V: (f, k) magnitudes of the recording; f bins from 0 to half the sampling rate.
        rate: frames per second.
        sample_rate: Hz.

    Returns:
        onsets, offsets: (notes,) seconds in the recording.
    """
    from mss.classical._warping import warp  # compiled code is loaded where it is wanted

    heard = _chroma_of_recording(V, rate, sample_rate)
    written = _chroma_of_score(pitches, onsets, offsets)
    cost = 1 - written @ heard.T
    path = torch.from_numpy(warp(np.ascontiguousarray(cost.numpy()))).double()  # for each frame of the score one of V's
    grid = torch.arange(len(path), dtype=torch.float64)
    onsets, offsets = (
        torch.from_numpy(np.interp((t * RATE).numpy(), (grid + 0.5).numpy(), (path + 0.5).numpy())) / RATE
        for t in (onsets.double(), offsets.double())
    )
    return onsets, torch.maximum(offsets, onsets + 1 / RATE)


def _chroma_of_recording(V: Tensor, rate: float, sample_rate: int) -> Tensor:
    """Chroma (frames, 12) of magnitudes V (f, k), at `RATE`."""
    V = V.detach().to("cpu", torch.float64)
    f = torch.linspace(0, sample_rate / 2, len(V), dtype=torch.float64)
    used = (f >= LOWEST) & (f <= HIGHEST)
    pitch = 69 + 12 * (f[used] / 440).log2()
    tuned = torch.exp(-(((pitch - pitch.round()) / 0.3) ** 2))  # what lies between two semitones tells of neither
    classes = torch.nn.functional.one_hot(pitch.round().long() % 12, 12).double() * tuned.unsqueeze(1)  # (f, 12)
    chroma = torch.log1p(100 * V[used] / V.max().clamp_min(torch.finfo(V.dtype).tiny)).T @ classes
    times = (torch.arange(len(chroma), dtype=torch.float64) / rate * RATE).long()
    frames = torch.zeros(int(times[-1]) + 1, 12, dtype=torch.float64).index_add_(0, times, chroma)
    return _unit(frames)


def _chroma_of_score(pitches: Tensor, onsets: Tensor, offsets: Tensor) -> Tensor:
    """Chroma (frames, 12) of notes, with the first partials above each, at `RATE`."""
    frames = torch.arange(int(float(offsets.max()) * RATE) + 1, dtype=torch.float64) / RATE
    sounding = ((frames[:, None] + 1 / RATE > onsets) & (frames[:, None] < offsets)).double()
    chroma = torch.zeros(len(pitches), 12, dtype=torch.float64)
    for partial, weight in ((1, 1.0), (2, 0.5), (3, 0.4), (4, 0.3), (5, 0.2)):
        place = (pitches.double() + 12 * np.log2(partial)).round().long() % 12
        chroma[torch.arange(len(pitches)), place] += weight
    return _unit(sounding @ chroma)


def _unit(chroma: Tensor) -> Tensor:
    """Rows of length 1; silence is the same distance from everything."""
    norm = chroma.square().sum(1, keepdim=True).sqrt()
    return torch.where(norm > 1e-3 * norm.max(), chroma / norm.clamp_min(1e-30), 12**-0.5)
