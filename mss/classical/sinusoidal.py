"""Sinusoidal models: a sound as sinusoids that come, glide and go (McAulay & Quatieri 1986), and the rest (Serra & Smith 1990).

Each frame has its peaks, those of following frames are linked into tracks, and a track is a sinusoid whose amplitude runs
linearly between frames and whose phase is the cubic that has the phase and the frequency of both frames,

    theta(t) = theta_0 + w_0 t + alpha t^2 + beta t^3,      0 <= t <= hop,

of all such cubics (they differ by whole turns) the smoothest. What the sinusoids do not explain is noise and transients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.classical._ops import BLOCK

__all__ = [
    "Peaks",
    "Tracks",
    "sinusoidal_split",
    "sinusoidal_synthesis",
    "sinusoidal_tracks",
    "spectral_peaks",
    "track_peaks",
]


class Peaks(NamedTuple):
    """Peaks of each frame, (b, k, p) each; where a frame has fewer than p, the amplitude is 0."""

    frequency: Tensor  # Hz
    amplitude: Tensor  # of the sinusoid
    phase: Tensor  # at the centre of the frame, of a cosine


@dataclass(frozen=True)
class Tracks:
    """Sinusoids in slots: a track keeps its slot while it lasts, another may have it from the next frame on.

    Args:
        peaks: (b, k, p), p slots; frame j is at sample j * hop.
        track: (b, k, p) number of the track within its item of the batch, -1 where the slot is free.
        hop: samples.
        sample_rate: Hz.
    """

    peaks: Peaks
    track: Tensor
    hop: int
    sample_rate: int


def spectral_peaks(
    waveform: Tensor,
    *,
    sample_rate: int = 44100,
    n_fft: int = 4096,
    hop: int = 1024,
    padding: int = 2,
    count: int = 150,
    floor: float = -80.0,
    prominence: float = 6.0,
) -> Peaks:
    """The sinusoids in each frame of a waveform.

    A peak is a local maximum over the bins of a zero-padded Hann window, its frequency that of the parabola through the
    logarithms of its three bins; the amplitude follows from the window's own transform, which is exact for one sinusoid.

    Args:
        waveform: (b, t).
        sample_rate: Hz.
        n_fft: window, samples.
        hop: samples between frames, of which the first is centred on the first sample.
        padding: by how much longer than the window the transform is; at 1 frequencies are off by up to 0.016 bin, at 2
            by a tenth of that.
        count: peaks per frame, at most, the loudest ones.
        floor: level of the least peak relative to the loudest bin of the item, dB.
        prominence: by how much a peak is above the median of the bins around it, dB.
    """
    frames = F.pad(waveform, (n_fft // 2, n_fft // 2)).unfold(-1, n_fft, hop)  # (b, k, n_fft)
    window = torch.hann_window(n_fft, dtype=waveform.dtype, device=waveform.device)
    size = n_fft * padding
    X = torch.fft.rfft(frames * window, size) * (2 / window.sum())
    turn = torch.arange(X.shape[-1], device=X.device, dtype=window.dtype) * (math.pi / padding)
    X = X * torch.polar(torch.ones_like(turn), turn)  # phases of the middle of the frame, alike all over a main lobe
    magnitude = X.abs()
    loudest = magnitude.amax((-2, -1), keepdim=True)
    level = magnitude.clamp_min(torch.finfo(X.real.dtype).tiny).log()
    middle = magnitude[..., 1:-1]
    peak = (middle > magnitude[..., :-2]) & (middle >= magnitude[..., 2:]) & (middle > 10 ** (floor / 20) * loudest)
    peak &= level[..., 1:-1] > _local_median(level, 64 * padding)[..., 1:-1] + prominence / 20 * math.log(10)
    height, index = middle.where(peak, 0).topk(min(count, middle.shape[-1]), -1)
    low, centre, high = (level.gather(-1, index + i) for i in range(3))
    bend = low - 2 * centre + high
    q = torch.where(bend < 0, 0.5 * (low - high) / bend.where(bend < 0, -1), 0)
    amplitude = height / _lobe(q / padding)
    beside = X.gather(-1, index + 1 + torch.sgn(q).long())
    phase = torch.lerp(X.gather(-1, index + 1), beside, q.abs().to(X.dtype)).angle()
    position = (index + 1 + q) / padding  # bins of the window
    distance = (position.unsqueeze(-1) - position.unsqueeze(-2)).abs().clamp_min(1.5)
    hidden = (2 * _sidelobes(distance) * amplitude.unsqueeze(-2)).diagonal_scatter(
        torch.zeros_like(amplitude), dim1=-2, dim2=-1
    )
    amplitude = amplitude.where(amplitude > hidden.amax(-1), 0)  # no side lobe of a louder one
    return Peaks(position * (sample_rate / n_fft), amplitude, phase)


def track_peaks(
    peaks: Peaks, *, sample_rate: int = 44100, hop: int = 1024, deviation: float = 0.03, shortest: float = 0.06
) -> Tracks:
    """Links the peaks of following frames into tracks: of two candidates the nearer wins, and the other may look once more.

    Args:
        peaks: (b, k, p).
        sample_rate: Hz.
        hop: samples.
        deviation: by how much the frequency may change from frame to frame, relative to it.
        shortest: seconds; shorter tracks are dropped.
    """
    b, k, p = peaks.amplitude.shape
    device = peaks.amplitude.device
    track = torch.full((b, k, p), -1, dtype=torch.long, device=device)
    slots = torch.empty_like(track)
    frequency = torch.zeros_like(peaks.frequency[:, 0])
    alive = torch.zeros(b, p, dtype=torch.bool, device=device)
    names = torch.full((b, p), -1, dtype=torch.long, device=device)
    born = torch.zeros(b, 1, dtype=torch.long, device=device)
    for frame in range(k):
        now, there = peaks.frequency[:, frame], peaks.amplitude[:, frame] > 0
        link = _links(frequency, now, alive, there, deviation)  # (b, p) slot of each peak, or -1
        taken = torch.zeros(b, p + 1, dtype=torch.long, device=device).scatter(-1, link % (p + 1), 1)[:, :p]
        free = taken.argsort(dim=-1, stable=True)
        new = link < 0
        order = torch.where(there, 0, 1).where(new, 2).argsort(dim=-1, stable=True).argsort(-1)  # births first
        slot = free.gather(-1, order.clamp_max(p - 1)).where(new, link)
        birth = new & there
        name = torch.where(birth, born + birth.long().cumsum(-1) - 1, names.gather(-1, link.clamp_min(0)))
        name = name.where(there, -1)
        born = born + birth.sum(-1, keepdim=True)
        names = names.scatter(-1, slot, name)
        frequency, alive = frequency.scatter(-1, slot, now), alive.scatter(-1, slot, there)
        track[:, frame], slots[:, frame] = names, slot
    placed = Peaks(*(torch.zeros_like(x).scatter(-1, slots, x) for x in peaks))
    least = round(shortest * sample_rate / hop)
    lengths = torch.zeros(b, k * p + 1, dtype=torch.long, device=device)
    lengths.scatter_add_(-1, (track % (k * p + 1)).flatten(1), torch.ones_like(track).flatten(1))
    keep = (track >= 0) & (lengths.gather(-1, track.flatten(1).clamp_min(0)).view_as(track) >= least)
    used = max(int(keep.flatten(0, 1).any(0).cumsum(-1).argmax()) + 1, 1)  # births take the first slots, so few are
    placed, track = Peaks(*(x.where(keep, 0)[..., :used] for x in placed)), track.where(keep, -1)[..., :used]
    return Tracks(placed, track, hop, sample_rate)


def sinusoidal_tracks(
    waveform: Tensor,
    *,
    sample_rate: int = 44100,
    n_fft: int = 4096,
    hop: int = 1024,
    deviation: float = 0.03,
    shortest: float = 0.06,
    **peaks: float,
) -> Tracks:
    """The tracks of a waveform (b, t); arguments as of `spectral_peaks`, which gets `peaks`, and of `track_peaks`."""
    found = spectral_peaks(waveform, sample_rate=sample_rate, n_fft=n_fft, hop=hop, **peaks)
    return track_peaks(found, sample_rate=sample_rate, hop=hop, deviation=deviation, shortest=shortest)


def sinusoidal_synthesis(tracks: Tracks, length: int) -> Tensor:
    """The waveform (b, length) of tracks. Where one begins or ends, it fades over one hop, at its frequency."""
    hop = tracks.hop
    b, k, _ = tracks.track.shape
    speed = tracks.peaks.frequency * (2 * math.pi / tracks.sample_rate)
    amplitude, phase, track = tracks.peaks.amplitude, tracks.peaks.phase, tracks.track
    # one empty frame on either side
    speed, amplitude, phase = (F.pad(x, (0, 0, 1, 1)) for x in (speed, amplitude, phase))
    track = F.pad(track, (0, 0, 1, 1), value=-1)
    now, then = (slice(None, -1), slice(1, None))
    goes_on = (track[:, now] == track[:, then]) & (track[:, now] >= 0)
    alpha, beta = (
        c.where(goes_on, 0) for c in _cubic(phase[:, now], speed[:, now], phase[:, then], speed[:, then], hop)
    )
    lasts = torch.stack(
        [amplitude[:, now], amplitude[:, then].where(goes_on, 0), phase[:, now], speed[:, now], alpha, beta], -1
    )
    zero = torch.zeros_like(alpha)
    begins = torch.stack(
        [zero, amplitude[:, then], phase[:, then] - speed[:, then] * hop, speed[:, then], zero, zero], -1
    )
    pieces, where = [], []
    for piece, mask in ((lasts, track[:, now] >= 0), (begins, ~goes_on & (track[:, then] >= 0))):
        item, frame, _ = mask.nonzero(as_tuple=True)
        pieces.append(piece[mask])
        where.append(item * (k + 1) + frame)
    out = speed.new_zeros(b * (k + 1), hop)
    t = torch.arange(hop, device=speed.device, dtype=speed.dtype)
    size = max(BLOCK // hop, 1)
    for piece, index in zip(torch.cat(pieces).split(size), torch.cat(where).split(size), strict=True):
        a0, a1, th, w, alpha, beta = piece.unsqueeze(-1).unbind(1)  # (m, 1) each
        wave = torch.cos(th + t * (w + t * (alpha + t * beta))) * (a0 + (a1 - a0) / hop * t)
        out.index_add_(0, index, wave)
    out = out.view(b, -1)[:, hop : hop + length]  # the empty frame before the first is no part of it
    return F.pad(out, (0, length - out.shape[-1]))


def sinusoidal_split(waveform: Tensor, **options: float) -> tuple[Tensor, Tensor]:
    """The sinusoids of a waveform (b, t) and what is left of it without them; options of `sinusoidal_tracks`."""
    sinusoids = sinusoidal_synthesis(sinusoidal_tracks(waveform, **options), waveform.shape[-1])
    return sinusoids, waveform - sinusoids


def _cubic(th0: Tensor, w0: Tensor, th1: Tensor, w1: Tensor, hop: int) -> tuple[Tensor, Tensor]:
    """alpha and beta of the smoothest cubic phase that ends at th1 (up to whole turns) with the speed w1."""
    turns = ((th0 + w0 * hop - th1 + (w1 - w0) * (hop / 2)) / (2 * math.pi)).round()
    missing = th1 - th0 - w0 * hop + 2 * math.pi * turns
    bend = w1 - w0
    return 3 * missing / hop**2 - bend / hop, -2 * missing / hop**3 + bend / hop**2


def _links(before: Tensor, now: Tensor, alive: Tensor, there: Tensor, deviation: float) -> Tensor:
    """For each peak (b, p) of `now` its slot in `before`, or -1."""
    distance = (now.unsqueeze(-1) - before.unsqueeze(-2)).abs()  # (b, p now, p before)
    possible = there.unsqueeze(-1) & alive.unsqueeze(-2) & (distance <= deviation * before.unsqueeze(-2))
    link = torch.full_like(now, -1, dtype=torch.long)
    own = torch.arange(now.shape[-1], device=now.device)
    for _ in range(2):
        cost = distance.where(possible, torch.inf)
        best, slot = cost.min(-1)
        mutual = cost.argmin(-2).gather(-1, slot) == own
        won = mutual & best.isfinite()
        link = slot.where(won, link)
        possible = possible & ~won.unsqueeze(-1) & ~_marked(slot, won).unsqueeze(-2)
    return link


def _marked(index: Tensor, mask: Tensor) -> Tensor:
    """True at each index (b, p) whose mask is."""
    return torch.zeros_like(index).scatter_add(-1, index, mask.long()) > 0


def _lobe(d: Tensor) -> Tensor:
    """Transform of the Hann window at d bins from its peak, |d| < 1, relative to it."""
    return torch.sinc(d) / (1 - d.square())


def _sidelobes(d: Tensor) -> Tensor:
    """What the side lobes of the Hann window do not exceed at d > 1 bins."""
    return 1 / (math.pi * d * (d.square() - 1))


def _local_median(level: Tensor, size: int) -> Tensor:
    """Median of `size` bins around each, known at every quarter of that and held."""
    bins, step = level.shape[-1], max(size // 4, 1)
    padded = F.pad(level, (size // 2, size), mode="replicate")
    medians = padded.unfold(-1, size, step).median(-1).values
    return medians.repeat_interleave(step, -1)[..., :bins]
