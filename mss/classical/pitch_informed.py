"""Solo and accompaniment from the pitch of the solo (Cano, Schuller & Dittmar 2014; Virtanen & Klapuri 2000).

Of each note the partials are looked for near h f0 sqrt(1 + B h^2); the solo is what lies in the main lobes around them. The
partials of one sound fade alike: one that does not follow the others shares its bins with another sound, and is given
the course of the others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pitch_informed"]

REACH = 16  # bins to either side that a search for a partial may go


def pitch_informed(
    X: Tensor,
    f0: Tensor,
    *,
    sample_rate: int = 44100,
    partials: int = 40,
    inharmonicity: float = 0.0,
    search: float = 0.03,
    width: float = 0.015,
    correlation: float = 0.3,
    window: int = 43,
    attack: int = 1,
) -> Tensor:
    """Magnitudes of the solo and of the accompaniment.

    Args:
        X: (b, c, f, k) complex, all bins of a Fourier transform.
        f0: (b, k) fundamental of the solo in each frame, Hz; 0 where it is silent or has no pitch.
        sample_rate: Hz.
        partials: of a note, at most.
        inharmonicity: B, of stiff strings.
        search: how far from its place a partial may be, relative to its frequency, and at least one bin.
        width: of the solo's bins around a partial to either side, relative to its frequency, and at least 1.5 bins.
        correlation: of a partial's course with that of the first five, in logarithms, below which it is given theirs.
        window: frames over which these are compared; odd.
        attack: frames before a note that have its partials, too.

    Returns:
        V (b, 2, c, f, k): solo, accompaniment; they sum to |X|.
    """
    b, _, f, k = X.shape
    if f0.shape != (b, k):
        raise ValueError(f"f0 must be one frequency per frame, ({b}, {k}), not {tuple(f0.shape)}")
    magnitude = X.abs()
    S = magnitude.square().mean(1).sqrt()  # (b, f, k)
    per_bin = sample_rate / (2 * (f - 1))
    f0 = _before_notes(f0.to(S), attack) / per_bin  # bins
    h = torch.arange(1, partials + 1, device=X.device, dtype=S.dtype).view(-1, 1)
    place = f0.unsqueeze(1) * h * (1 + inharmonicity * h.square()).sqrt()  # (b, h, k)
    voiced = (f0.unsqueeze(1) > 0) & (place < f - 1)
    place, height = _refined(S, place, torch.maximum(search * place, torch.ones_like(place)), f0.unsqueeze(1) / 3)
    height = _common_course(height.where(voiced, 0), voiced, correlation, window)

    bins = torch.arange(f, device=X.device, dtype=S.dtype).view(-1, 1)
    ratio = bins / f0.unsqueeze(1).clamp_min(torch.finfo(S.dtype).eps)  # (b, f, k)
    ratio = ratio.clamp_max(2 * partials)
    number = (2 * ratio.square() / (1 + (1 + 4 * inharmonicity * ratio.square()).sqrt())).sqrt()
    index = (number.round().long() - 1).clamp(0, partials - 1)
    centre, height, voiced = (x.gather(1, index) for x in (place, height, voiced))
    half = (width * centre).clamp_min(1.5)
    distance = (bins - centre).abs() / half
    solo = torch.where(voiced & (distance <= 1), torch.minimum(height, S), 0)
    share = torch.where(S > 0, solo / S.clamp_min(torch.finfo(S.dtype).tiny), 0).unsqueeze(1)
    return torch.stack([share * magnitude, (1 - share) * magnitude], 1)


def _before_notes(f0: Tensor, frames: int) -> Tensor:
    """Draws each note out to earlier frames that have none."""
    for _ in range(frames):
        f0 = f0.where(f0 > 0, F.pad(f0[:, 1:], (0, 1)))
    return f0


def _refined(S: Tensor, place: Tensor, reach: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Place (b, h, k) and height of the highest bin near each place, on the parabola through the logarithms of three."""
    f = S.shape[1]
    offset = torch.arange(-REACH, REACH + 1, device=S.device).view(-1, 1, 1, 1)
    index = place.round().long() + offset  # (o, b, h, k)
    near = (index - place).abs() <= torch.minimum(reach, most.clamp_min(0.5))
    near &= (index >= 0) & (index < f)
    values = torch.stack([S.gather(1, i) for i in index.clamp(0, f - 1)]).where(near, -1)
    height, best = values.max(0)
    index = index.gather(0, best.unsqueeze(0))[0].clamp(1, f - 2)
    level = S.clamp_min(torch.finfo(S.dtype).tiny).log()
    low, centre, high = (level.gather(1, index + i) for i in (-1, 0, 1))
    bend = low - 2 * centre + high
    peak = (centre >= low) & (centre >= high) & (bend < 0)
    q = torch.where(peak, 0.5 * (low - high) / bend.where(peak, -1), 0)
    found = height > 0
    height = (centre - 0.25 * (low - high) * q).exp()
    return torch.where(found, index + q, place), height.where(found, 0)


def _common_course(height: Tensor, voiced: Tensor, least: float, window: int) -> Tensor:
    """Heights (b, h, k) of partials; one that departs from the course of the first five is given it."""
    floor = 1e-5 * height.amax((1, 2), keepdim=True)
    level = torch.maximum(height, floor).clamp_min(torch.finfo(height.dtype).tiny).log()
    weight = voiced.to(level)
    first = weight[:, :5]
    common = (level[:, :5] * first).sum(1, keepdim=True) / first.sum(1, keepdim=True).clamp_min(1)
    count = _windowed(weight, window).clamp_min(0.5 / window)

    def mean(x: Tensor) -> Tensor:
        return _windowed(x * weight, window) / count

    own_mean, common_mean = mean(level), mean(common)
    together = mean(level * common) - own_mean * common_mean
    spread = (mean(level.square()) - own_mean.square()).clamp_min(0) * (
        mean(common.square()) - common_mean.square()
    ).clamp_min(0)
    alien = together < least * spread.sqrt()
    excess = (level - common).where(voiced, torch.inf)
    excess = -F.max_pool1d(-excess, window, 1, window // 2)  # where the other sound weighs least
    given = (common + excess.where(voiced, 0)).exp()
    return torch.where(alien & voiced, torch.minimum(given, height), height)


def _windowed(x: Tensor, window: int) -> Tensor:
    """Mean over so many frames around each, zeros past the ends."""
    return F.avg_pool1d(x, window, 1, window // 2)
