"""DUET: sources that hardly ever share a bin, told apart by the level and delay between two channels.

O. Yilmaz, S. Rickard, "Blind separation of speech mixtures via time-frequency masking", IEEE TSP 52(7), 2004. A source alone
in a bin has X_2 = tan(phi) exp(-i omega delta) X_1. A histogram of (phi, delta) over all bins has a peak for each source, and
every bin goes whole to the source that explains it best.

Departs from the paper in the histogram. Its level axis is the angle phi in place of the symmetric attenuation
alpha = tan(phi) - cot(phi), a function of phi that is unbounded: an alpha cut off at 3 sees nothing beyond 17 and 73 degrees.
Its weights are powers of the energy and not of |X_1 X_2|, which is 0 for a source in one channel only. Without delays, bins
whose channels are not in phase, where sources overlap, hardly count.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mss.classical._positions import (
    angular_frequencies,
    awarded,
    channel_products,
    find_positions,
    highest,
    positions,
    require_stereo,
)

__all__ = ["duet", "duet_positions"]


def duet(
    X: Tensor,
    *,
    sources: int = 3,
    angles: Sequence[float] | None = None,
    delays: Sequence[float] | None = None,
    max_delay: float = 0.0,
    power: float = 1.0,
) -> Tensor:
    """Binary masks by level and delay between the channels (Yilmaz & Rickard 2004).

    Args:
        X: (b, 2, f, k) complex; f bins from 0 to half the sampling rate.
        sources: how many to find, where no angles are given. Targets are in the order of their angles, from left to
            right: name them so ("left", "centre", "right").
        angles: degrees, 0 left, 45 centre, 90 right; one target each, in this order, to be named as you like.
        delays: samples by which the second channel lags behind the first, one for each of the angles; 0 where left out.
        max_delay: samples; 0 for music mixed by panning, else the largest delay to look for. Above 1 only the
            frequencies at which it is less than half a period can tell, and only those are looked at.
        power: of the magnitude, in the weights of the histogram.

    Returns:
        V (b, n, 2, f, k): |X| to one target, 0 to the others.
    """
    require_stereo(X, "duet")
    E1, E2, real, imaginary = products = channel_products(X)
    azimuths, lags = positions(products, sources, angles, delays, max_delay, power)
    difference = E1 - E2

    def score(azimuth: Tensor, lag: Tensor) -> Tensor:
        """|X|^2 less twice the error |sin(phi) X_1 - cos(phi) exp(i omega delta) X_2|^2 of the model, (b, f, k)."""
        azimuth = 2 * azimuth.deg2rad().view(-1, 1, 1)
        if delays is None and max_delay == 0:
            return azimuth.cos() * difference + (2 * azimuth.sin()) * real
        phase = angular_frequencies(E1) * lag.view(-1, 1, 1)  # (b, f, 1)
        return azimuth.cos() * difference + (2 * azimuth.sin()) * (real * phase.cos() + imaginary * phase.sin())

    _, winner = highest(score(*position) for position in zip(azimuths.unbind(1), lags.unbind(1), strict=True))
    return awarded(winner, azimuths.shape[1], X)


def duet_positions(X: Tensor, *, sources: int = 3, max_delay: float = 0.0, power: float = 1.0) -> tuple[Tensor, Tensor]:
    """What `duet` finds: angles, degrees, and delays of the second channel, samples; (b, n) each, from left to right."""
    require_stereo(X, "duet")
    return find_positions(channel_products(X), sources, max_delay, power)
