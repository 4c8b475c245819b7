"""Sources between left and right: angles of bins, their histograms and peaks, and who gets which bin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = [
    "angular_frequencies",
    "awarded",
    "azimuth_histogram",
    "channel_products",
    "find_azimuths",
    "find_peaks",
    "find_positions",
    "given_angles",
    "highest",
    "histogram",
    "in_phase",
    "positions",
    "principal_angles",
    "require_stereo",
    "smooth",
    "spread",
]

ANGLES = 91  # of a histogram of angles and delays: one degree
DELAYS = 61


def require_stereo(X: Tensor, method: str) -> None:
    """Refuses a mixture (..., c, f, k) of other than two channels on behalf of a position model."""
    if X.shape[-3] != 2:
        raise ValueError(f"{method} needs two channels, left and right, to compare, but the mixture has {X.shape[-3]}")


def channel_products(X: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """|X_1|^2, |X_2|^2 and the real and imaginary part of X_1 conj(X_2) of X (..., 2, f, k), with a peak of about 1.

    They are all that position models look at. Divided by the peak of each item, so that no square can vanish.
    """
    a, b = torch.view_as_real(X).unbind(-4)  # (..., f, k, 2)
    peak = torch.maximum(*(x.abs().amax((-3, -2, -1), keepdim=True) for x in (a, b)))
    scale = torch.where(peak > 0, peak, 1).reciprocal()
    a, b, c, d = (part for x in (a, b) for part in (x * scale).unbind(-1))
    return a * a + b * b, c * c + d * d, a * c + b * d, b * c - a * d


def principal_angles(difference: Tensor, coherence: Tensor) -> Tensor:
    """Degrees of the direction in which the two channels are strongest, in [-45, 135): 0 to 90 in phase, beyond it not.

    Args:
        difference: |X_1|^2 - |X_2|^2.
        coherence: 2 Re X_1 conj(X_2).
    """
    angles = torch.atan2(coherence, difference).rad2deg() / 2
    return torch.where(angles < -45, angles + 180, angles)


def in_phase(E: Tensor, real: Tensor, imaginary: Tensor, width: float = 0.05) -> Tensor:
    """The magnitude of each bin, less the further its two channels are from being in phase.

    Where two panned sources overlap, the ratio of the channels is complex or negative; the angle there is that of
    neither. Without such bins the peaks of a histogram stand clear of the ghosts between them.

    Args:
        E: |X_1|^2 + |X_2|^2.
        real, imaginary: parts of X_1 conj(X_2).
        width: of twice these, relative to E, at which a bin counts for a quarter.
    """
    unit = (width / 2 * E).clamp_min(torch.finfo(E.dtype).tiny)
    return E.sqrt() / (1 + (imaginary / unit).square() + (real.clamp_max(0) / unit).square()).square()


def histogram(index: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Sums of the weights (..., f, k) that share an index (..., f, k): (..., bins)."""
    rows = weights.new_zeros(*weights.shape[:-1], bins)  # per frequency first: a single sum of millions loses digits
    return rows.scatter_add(-1, index, weights).sum(-2)


def azimuth_histogram(angles: Tensor, weights: Tensor, bins: int, smoothing: float) -> Tensor:
    """Weighted histogram (..., bins) of angles (..., f, k) in degrees; the centres are linspace(0, 90, bins)."""
    index = (angles * ((bins - 1) / 90)).round().long()
    inside = (index >= 0) & (index < bins)
    return smooth(histogram(index.clamp(0, bins - 1), weights * inside, bins), smoothing)


def smooth(h: Tensor, sigma: float, *, circular: bool = False) -> Tensor:
    """Gaussian smoothing of the last axis by `sigma` bins; nothing is lost at the edges, which are walls or join."""
    if sigma == 0:
        return h
    n = h.shape[-1]
    i = torch.arange(n, device=h.device)
    distance = (i[:, None] - i).abs()
    if circular:
        distance = torch.minimum(distance, n - distance)
    kernel = torch.exp(-(distance / sigma).square() / 2).to(h.dtype)
    return h @ (kernel / kernel.sum(0)).mT


def find_peaks(h: Tensor, count: int, reach: tuple[int, int], floor: float = 0.002) -> tuple[Tensor, Tensor, Tensor]:
    """The highest local maxima of h (..., u, v), refined by a parabola along each axis.

    Args:
        h: histogram >= 0.
        count: how many.
        reach: bins of each axis within which a maximum must be the highest.
        floor: of the highest peak; what is below is none.

    Returns:
        Their places along u and along v, fractions of bins, and whether there is one: (..., count) each, highest first.
    """
    u, v = h.shape[-2:]
    pooled = torch.nn.functional.max_pool2d(h.reshape(-1, u, v), [2 * r + 1 for r in reach], 1, reach).view_as(h)
    highest = h.amax((-2, -1), keepdim=True)
    flat = h.where((h == pooled) & (h > floor * highest), 0).flatten(-2)
    flat = torch.nn.functional.pad(flat, (0, max(count - u * v, 0)))
    values, place = flat.topk(count, -1)
    i, j = place.clamp_max(u * v - 1) // v, place.clamp_max(u * v - 1) % v

    def at(i: Tensor, j: Tensor) -> Tensor:
        i, j = ((n - 1 - (n - 1 - x.abs()).abs()).clamp_min(0) for x, n in ((i, u), (j, v)))  # mirrored at the edges
        return h.flatten(-2).gather(-1, i * v + j)

    def vertex(before: Tensor, after: Tensor) -> Tensor:
        curvature = 2 * at(i, j) - before - after
        slope = (after - before) / 2
        return torch.where(curvature > 0, slope / torch.where(curvature > 0, curvature, 1), 0).clamp(-0.5, 0.5)

    return i + vertex(at(i - 1, j), at(i + 1, j)), j + vertex(at(i, j - 1), at(i, j + 1)), values > 0


def find_azimuths(histogram: Tensor, sources: int, *, distance: float = 5.0) -> Tensor:
    """Azimuths of the highest peaks of a panning histogram.

    Args:
        histogram: (..., bins), from hard left, 0 degrees, to hard right, 90 degrees, both of them bin centres.
        sources: how many.
        distance: degrees that they are apart at least.

    Returns:
        (..., sources) degrees, ascending. Where there are fewer peaks, the surplus azimuths are spread out: each is put as
        far as can be from those before it, so the azimuths of a mono song played in stereo are 0, 45 and 90.
    """
    step = 90 / (histogram.shape[-1] - 1)
    place, _, found = find_peaks(histogram.unsqueeze(-1), sources, (max(round(distance / step), 1), 0))
    return spread(place * step, found).sort(-1).values


def spread(angles: Tensor, found: Tensor) -> Tensor:
    """Puts the angles (..., n) that were not `found`, always the last, as far as can be from those before them."""
    placed: list[Tensor] = []
    grid = torch.linspace(0, 90, 91, dtype=angles.dtype, device=angles.device)
    for angle, known in zip(angles.unbind(-1), found.unbind(-1), strict=True):
        if placed:
            gap = (grid - torch.stack(placed, -1).unsqueeze(-1)).abs().amin(-2)  # (..., 91)
            free = grid[gap.argmax(-1)]
        else:
            free = torch.full_like(angle, 45)
        placed.append(torch.where(known, angle, free))
    return torch.stack(placed, -1)


def given_angles(angles: Sequence[float], like: Tensor) -> Tensor:
    """Checks angles in degrees: (b, n), the same for every item of `like` (b, ...)."""
    if not angles or not all(0 <= angle <= 90 for angle in angles):
        raise ValueError(f"angles are degrees from 0 (left) to 90 (right), one per target, not {list(angles)}")
    return torch.tensor(list(angles), dtype=like.dtype, device=like.device).expand(like.shape[0], -1)


def positions(
    products: Sequence[Tensor],
    sources: int,
    angles: Sequence[float] | None,
    delays: Sequence[float] | None,
    max_delay: float,
    power: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Angles, degrees, and delays of the second channel, samples, (b, n) both: those given, else those of `find_positions`."""
    if angles is None:
        if delays is not None:
            raise ValueError("delays belong to angles: give both, or neither to have them found")
        return find_positions(products, sources, max_delay, power)
    like = products[0]
    azimuths = given_angles(angles, like)
    if delays is not None and len(delays) != len(angles):
        raise ValueError(f"expected one delay for each of {len(angles)} angles, got {len(delays)}")
    lags = torch.tensor(list(delays or [0.0] * len(angles)), dtype=like.dtype, device=like.device)
    return azimuths, lags.expand_as(azimuths)


def highest(scores: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The highest of several scores of the same shape, and which it is, the first where they are equal.

    One after another, which takes a quarter of the time of `argmax` over an axis that is not the last.
    """
    best = winner = None
    for j, score in enumerate(scores):
        if best is None:
            best, winner = score, torch.zeros_like(score, dtype=torch.uint8)
        else:
            winner = torch.where(score > best, torch.full((), j, dtype=torch.uint8, device=score.device), winner)
            best = torch.maximum(best, score)
    return best, winner


def awarded(winner: Tensor, n: int, X: Tensor) -> Tensor:
    """|X| (b, c, f, k) to the winner (b, f, k) of each bin, nothing to the others: V (b, n, c, f, k)."""
    index = torch.arange(n, dtype=winner.dtype, device=X.device).view(-1, 1, 1)
    own = winner.unsqueeze(1) == index  # (b, n, f, k)
    return torch.where(own.unsqueeze(2), X.abs().unsqueeze(1), 0)


def find_positions(
    products: Sequence[Tensor], sources: int, max_delay: float = 0.0, power: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Angles, degrees, and delays of the second channel, samples, (b, n) each from left to right: the peaks of a histogram.

    Args:
        products: what `channel_products` gives, f bins from 0 to half the sampling rate.
        sources: how many.
        max_delay: samples; 0: level alone.
        power: of the magnitude, in the weights of the histogram.
    """
    E1, E2, real, imaginary = products
    E = E1 + E2
    if max_delay == 0:
        weights = in_phase(E, real, imaginary)
        weights = weights if power == 1 else weights * E.pow((power - 1) / 2)
        h = azimuth_histogram(principal_angles(E1 - E2, 2 * real), weights, ANGLES, 1.0)
        azimuths = find_azimuths(h, sources)
        return azimuths, torch.zeros_like(azimuths)
    omega, step = angular_frequencies(E), 2 * max_delay / (DELAYS - 1)
    lags = torch.atan2(imaginary, real) / omega  # (b, f, k), samples; infinite at 0 Hz
    heard = (lags.abs() <= max_delay + step / 2) & (omega * max_delay <= torch.pi) & (omega > 0)
    i = (torch.atan2(E2.sqrt(), E1.sqrt()).rad2deg() * ((ANGLES - 1) / 90)).round().long()
    j = ((lags.where(heard, 0) + max_delay) / step).round().long().clamp(0, DELAYS - 1)
    h = histogram(i * DELAYS + j, E.pow(power / 2) * heard, ANGLES * DELAYS).unflatten(-1, (ANGLES, DELAYS))
    h = smooth(smooth(h, 1.0).mT, 1.0).mT
    i, j, found = find_peaks(h, sources, (5, 5))
    azimuths, order = spread(i * (90 / (ANGLES - 1)), found).sort(-1)
    return azimuths, (j * step - max_delay).where(found, 0).gather(-1, order)


def angular_frequencies(like: Tensor) -> Tensor:
    """Radians per sample of the f bins of (b, f, k): (f, 1)."""
    return torch.linspace(0, torch.pi, like.shape[-2], dtype=like.dtype, device=like.device).unsqueeze(-1)
