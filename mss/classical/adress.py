"""ADRess: a source is where scaling one channel and subtracting it from the other makes it vanish.

D. Barry, B. Lawlor, E. Coyle, "Sound source separation: azimuth discrimination and resynthesis", DAFx 2004. Every bin has a
position g at which |X_2 - g X_1| (for a louder first channel, else |X_1 - g X_2|) is least, and a null depth, by how much it
is less than at the position where it is most.

Departs from the paper in four points. A quadratic in g is least at Re(X_1 conj(X_2)) / |X_1|^2, clipped to [0, 1], so there is
no grid of 2 beta + 1 positions to be searched. The two half planes are one: a bin has one position, and not one in each.
The histogram
leaves out bins where nothing vanishes. And the null depth of a lone source is max(cos phi, sin phi) of what it should be,
which is put right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mss.classical._positions import (
    awarded,
    azimuth_histogram,
    channel_products,
    find_azimuths,
    given_angles,
    highest,
    require_stereo,
)

__all__ = ["adress", "adress_nulls", "adress_positions", "adress_resynthesis"]

WIDTH = 0.05  # of the depth of a null, what may be left there for the bin to count for more than a quarter


def adress(X: Tensor, *, sources: int = 3, angles: Sequence[float] | None = None, width: float | None = None) -> Tensor:
    """Masks by azimuth (Barry et al. 2004): the bins whose null is nearest to that of each source.

    Args:
        X: (b, 2, f, k) complex.
        sources: how many azimuths to find, where none are given. Targets are in ascending order, from left to right:
            name them so ("left", "centre", "right").
        angles: degrees, 0 left, 45 centre, 90 right; one target each, in this order, to be named as you like.
        width: degrees of an azimuth subspace; a bin outside of all belongs to none, and the filter `softmask` shares
            it, or drops it with `empty: drop`. None: the subspaces tile the plane, which separates better.

    Returns:
        V (b, n, 2, f, k): |X| to one target, 0 to the others.
    """
    require_stereo(X, "adress")
    winner, azimuths, _ = _subspaces(X, sources, angles, width)
    return awarded(winner, azimuths.shape[1], X)


def adress_resynthesis(
    X: Tensor, *, sources: int = 3, angles: Sequence[float] | None = None, width: float | None = None
) -> Tensor:
    """The paper's own resynthesis: null depths with the phase of the louder channel, panned to where the source is.

    For the filter `as_is`. A lone source comes out as it was; the estimates of a mixture need not sum to it.

    Args:
        X, sources, angles, width: see `adress`.

    Returns:
        Y (b, n, 2, f, k) complex.
    """
    require_stereo(X, "adress")
    winner, azimuths, depth = _subspaces(X, sources, angles, width)
    phi = azimuths.deg2rad()[..., None, None]  # (b, n, 1, 1)
    own = winner.unsqueeze(1) == torch.arange(azimuths.shape[1], device=X.device).view(-1, 1, 1)
    magnitude = own * depth.unsqueeze(1) / torch.maximum(phi.cos(), phi.sin())
    louder = torch.where(X[:, 0].abs() >= X[:, 1].abs(), X[:, 0], X[:, 1])
    return (magnitude * torch.sgn(louder).unsqueeze(1)).unsqueeze(2) * torch.stack([phi.cos(), phi.sin()], 2)


def adress_positions(X: Tensor, *, sources: int = 3) -> Tensor:
    """What `adress` finds: azimuths (b, n), degrees, from left to right."""
    require_stereo(X, "adress")
    return _peaks(*adress_nulls(X), sources)


def adress_nulls(X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nulls of X (b, 2, f, k): (b, f, k) each.

    Returns:
        The azimuth of the null of every bin, degrees in [0, 90]; what is left of the bin there; and its null depth, how
        much more is left at the position that leaves most, which for a lone source s at phi is max(cos phi, sin phi) |s|.
    """
    E1, E2, real, _ = channel_products(X)
    louder = torch.maximum(E1, E2)
    g = (real / louder.clamp_min(torch.finfo(E1.dtype).tiny)).clamp(0, 1)
    azimuth = torch.where(E1 >= E2, g.atan().rad2deg(), 90 - g.atan().rad2deg())
    first, second = X.unbind(1)
    null = torch.where(E1 >= E2, second - g * first, first - g * second).abs()
    peak = torch.maximum(torch.maximum(first.abs(), second.abs()), (first - second).abs())
    return azimuth, null, peak - null


def _subspaces(
    X: Tensor, sources: int, angles: Sequence[float] | None, width: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """To which target a bin belongs (b, f, k), n: to none; the azimuths (b, n), degrees; the null depths (b, f, k)."""
    azimuth, null, depth = adress_nulls(X)
    azimuths = _peaks(azimuth, null, depth, sources) if angles is None else given_angles(angles, azimuth)
    nearness, winner = highest(-(azimuth - own.view(-1, 1, 1)).abs() for own in azimuths.unbind(1))
    if width is not None:
        winner = winner.where(nearness >= -width / 2, azimuths.shape[1])
    return winner, azimuths, depth


def _peaks(azimuth: Tensor, null: Tensor, depth: Tensor, sources: int) -> Tensor:
    """Azimuths (b, n) of the peaks of the histogram of null depths.

    A bin counts less the more is left at its null: where sources overlap nothing vanishes, and all that has opposite signs in
    the two channels has its shallow null at one end or the other.
    """
    floor = depth.amax((-2, -1), keepdim=True) * 1e-6 + torch.finfo(depth.dtype).tiny
    weights = depth / (1 + (null / (WIDTH * depth.clamp_min(floor))).square()).square()
    return find_azimuths(azimuth_histogram(azimuth, weights / floor, 91, 1.0), sources)
