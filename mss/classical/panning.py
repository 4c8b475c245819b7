"""Where the energy of a stereo mixture sits between left and right: Figure 5 of Cano et al. 2019, and masks from it.

A source that was panned has the image (cos phi, sin phi) s, so wherever it is alone its angle phi can be read off the two
channels: 0 degrees is hard left, the first channel alone, 45 the centre, 90 hard right. Sources that sit at different
angles are peaks of the histogram of the angles, weighted by energy.
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
    histogram,
    in_phase,
    principal_angles,
    require_stereo,
    smooth,
)

__all__ = ["azimuth_names", "find_azimuths", "panning", "panning_angles", "panning_histogram"]


def panning_angles(X: Tensor, *, signed: bool = False) -> Tensor:
    """Panning angle of every bin, degrees.

    Args:
        X: (..., 2, f, k) complex.
        signed: from the 2 x 2 covariance of 3 x 3 neighbouring bins, so that content in anti-phase (wide reverberation,
            tricks of the mix), which the magnitudes alone put among the panned sources, has angles of its own: below 0
            and above 90.

    Returns:
        (..., f, k): atan2(|X_2|, |X_1|) in [0, 90], or signed in [-45, 135).
    """
    require_stereo(X, "a panning angle")
    E1, E2, real, _ = channel_products(X)
    if not signed:
        return torch.atan2(E2.sqrt(), E1.sqrt()).rad2deg()
    planes = torch.stack([E1 - E2, 2 * real]).reshape(-1, *E1.shape[-2:])  # pooling takes one axis in front
    planes = torch.nn.functional.avg_pool2d(planes, 3, 1, 1).view(2, *E1.shape)
    return principal_angles(*planes)


def panning_histogram(
    X: Tensor, *, bins: int = 91, smoothing: float = 1.0, signed: bool = False, coherent: bool = False
) -> tuple[Tensor, Tensor]:
    """Energy of a mixture over its panning angles (article, Figure 5), or of each of its stems.

    Args:
        X: (..., 2, f, k) complex: a batch of mixtures, or of stems (b, n, 2, f, k).
        bins: from 0 to 90 degrees; both are centres of bins, and so is 45 with an odd number.
        smoothing: standard deviation of a Gaussian, bins.
        signed: a histogram of the signed angles, with 2 (bins - 1) bins over the circle from -45 to 135 degrees.
        coherent: weigh bins by their magnitude where the channels are in phase, and next to nothing elsewhere, instead
            of by their energy: of no physical meaning, but the peaks of panned sources stand out, and `find_azimuths`
            finds those of quiet sources too.

    Returns:
        The histogram (..., bins), which sums to the energy of X where not `coherent`, and the bin centres (bins,) in
        degrees.
    """
    if bins < 2:
        raise ValueError(f"a histogram needs at least 2 bins, hard left and hard right, not {bins}")
    angles = panning_angles(X, signed=signed)
    if coherent:
        E1, E2, real, imaginary = channel_products(X)
        weights = in_phase(E1 + E2, real, imaginary)
    else:
        weights = X.abs().square().sum(-3)
    if not signed:
        centres = torch.linspace(0, 90, bins, dtype=angles.dtype, device=angles.device)
        return azimuth_histogram(angles, weights, bins, smoothing), centres
    circle, first = 2 * (bins - 1), -((bins - 1) // 2)
    index = (angles * ((bins - 1) / 90)).round().long() - first
    centres = (torch.arange(circle, dtype=angles.dtype, device=angles.device) + first) * (90 / (bins - 1))
    return smooth(histogram(index % circle, weights, circle), smoothing, circular=True), centres


def panning(X: Tensor, *, sources: int = 3, angles: Sequence[float] | None = None) -> Tensor:
    """Binary masks by the nearest panning angle: the plainest separation by position.

    Args:
        X: (b, 2, f, k) complex.
        sources: how many azimuths to find, where none are given. Targets are in ascending order, from left to right:
            name them so ("left", "centre", "right"). Where a mixture has fewer, see `find_azimuths`.
        angles: degrees, 0 left, 45 centre, 90 right; one target each, in this order, to be named as you like
            (`azimuth_names` does).

    Returns:
        V (b, n, 2, f, k): |X| to one target, 0 to the others.
    """
    require_stereo(X, "panning")
    measured = panning_angles(X)  # (b, f, k)
    if angles is None:
        azimuths = find_azimuths(panning_histogram(X, coherent=True)[0], sources)  # (b, n)
    else:
        azimuths = given_angles(angles, measured)
    _, winner = highest(-(measured - azimuth.view(-1, 1, 1)).abs() for azimuth in azimuths.unbind(1))
    return awarded(winner, azimuths.shape[1], X)


def azimuth_names(angles: Sequence[float]) -> tuple[str, ...]:
    """Names of targets at these angles, degrees: left, centre and right where that is clear, else such as pan_15.

    Example:
        >>> azimuth_names([15, 45, 75]), azimuth_names([10, 30, 45, 80])
        (('left', 'centre', 'right'), ('pan_10', 'pan_30', 'pan_45', 'pan_80'))
    """
    sides = ["left" if angle < 35 else "right" if angle > 55 else "centre" for angle in angles]
    if len(set(sides)) == len(angles):
        return tuple(sides)
    for digits in range(8):  # as few as tell them apart
        names = tuple(f"pan_{float(angle):.{digits}f}" for angle in angles)
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"targets need angles of their own, but these are not all different: {list(angles)}")
