"""PROJET: panned sources from what is left of the mixture when it is projected so that one direction cancels.

D. FitzGerald, A. Liutkus, R. Badeau, "PROJET - spatial audio separation using projections", ICASSP 2016; "Projection-based
demixing of spatial audio", IEEE/ACM TASLP 24(9), 2016. The projection m, C_m = sin(t_m) X_1 - cos(t_m) X_2, cancels what
is panned at t_m. The model of its magnitude is

    |C_m(f, k)| ~ sigma_m(f, k) = sum_j P_j(f, k) sum_l Q_jl K_lm,    K_lm = |sin(t_m - u_l)|,

with P_j >= 0 the spectrogram of source j and Q_jl >= 0 how much of it comes from position u_l. P and Q are fitted by
multiplicative updates that never raise the beta divergence; then every projection is filtered by P_j (Q_j K)_m / sigma_m
and the pseudo-inverse of the projections gives the images, which sum to the mixture.

With delays the projections and positions are pairs of an angle and a delay, C_m = sin(t_m) X_1 - cos(t_m) exp(i omega r_m)
X_2 and K_lm(f) = |sin(t_m) cos(u_l) - cos(t_m) sin(u_l) exp(i omega (r_m - d_l))|, and Q is that of all frequencies.

Departs from the papers in the start, which is not random: Q from the peaks of the panning histogram (or that of angles and
delays), P from how well the position of a peak alone explains each bin. So 20 iterations come within half a decibel of
convergence, nothing depends on a seed, and the sources come out in the order of their azimuths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mss.classical._positions import (
    angular_frequencies,
    channel_products,
    find_azimuths,
    require_stereo,
)
from mss.classical._positions import positions as start_positions

__all__ = ["projet", "projet_positions"]

BLOCK = 2**15  # bins that are worked on at a time: their projections fit a cache, and bound the memory
WIDTH = 2.0  # degrees, of a source about its peak at the start
DELAYS = 5  # of the projections at each angle
DELAY_WIDTH = 0.5  # samples, likewise
FLOOR = 1e-3  # of Q at the start, so that a source may turn out wider or elsewhere
LEAST = 1e-4  # of P at the start, so that a source may turn out to be in any bin


def projet(
    X: Tensor,
    *,
    sources: int = 3,
    angles: Sequence[float] | None = None,
    delays: Sequence[float] | None = None,
    max_delay: float = 0.0,
    projections: int = 10,
    positions: int = 31,
    iterations: int = 20,
    beta: float = 1.0,
) -> Tensor:
    """Spectra of panned and delayed sources (FitzGerald, Liutkus & Badeau 2016), for the filter `as_is`.

    Args:
        X: (b, 2, f, k) complex; with delays, f bins from 0 to half the sampling rate.
        sources: how many to find, where no angles are given. Targets are in ascending order of azimuth, from left to
            right: name them so ("left", "centre", "right").
        angles: degrees, 0 left, 45 centre, 90 right, where the sources are at the start; one target each, in this
            order, to be named as you like.
        delays: samples by which the second channel lags behind the first, one for each of the angles; 0 where left out.
        max_delay: samples; 0 for music mixed by panning, else the largest delay to look for and to model. Takes some
            ten times as long.
        projections: angles of projections, evenly from 0 to 90 degrees; with delays, each at `DELAYS` delays.
        positions: angles of positions, evenly from 0 to 90 degrees; with delays, each at steps of a sample or less.
        iterations: of P and Q.
        beta: of the divergence: 1 Kullback-Leibler, 2 Euclidean.

    Returns:
        Y (b, n, 2, f, k) complex, which sum to X.
    """
    require_stereo(X, "projet")
    model = _start(X, sources, angles, delays, max_delay, projections, positions)
    P, Q = fit(model, iterations, beta)
    B, G = model.B, gains(Q, model.K)  # (g, 2, m), (b, g, n, m)
    inverse = torch.linalg.pinv(B)  # (g, m, 2)
    unmix = torch.einsum("gmi,gjm->gijm", inverse, B).flatten(1, 2)  # (g, 4, m): masks of projections -> 2 x 2 matrices
    Y = torch.empty(*G.shape[:1], G.shape[2], *X.shape[1:], dtype=X.dtype, device=X.device)
    groups = len(B)
    flat, out = X.flatten(-2).unflatten(-1, (groups, -1)), Y.flatten(-2).unflatten(-1, (groups, -1))
    for g, part in _blocks(P):
        p = P[:, g, :, part]  # (b, g, n, s)
        shares = 1 / (G[:, g].mT @ p)  # (b, g, m, s)
        left, right = flat[:, :, g, part].unbind(1)  # (b, g, s)
        for j in range(G.shape[2]):
            mask = shares * G[:, g, j, :, None] * p[:, :, j, None]  # (b, g, m, s)
            a, b, c, d = (unmix[g] @ mask.to(unmix.dtype)).unbind(2)
            out[:, j, 0, g, part] = a * left + b * right
            out[:, j, 1, g, part] = c * left + d * right
    return Y


def projet_positions(X: Tensor, *, sources: int = 3, iterations: int = 20) -> Tensor:
    """Where the sources are when `projet` is done: azimuths (b, n), degrees, from left to right."""
    require_stereo(X, "projet")
    Q = fit(_start(X, sources), iterations, 1.0)[1]
    return find_azimuths(Q, 1).squeeze(-1)


class Model(NamedTuple):
    """A mixture seen through its projections, in groups of bins: one of all, or with delays one for each frequency."""

    planes: Tensor  # (b, 4, g, s): |X_1|^2, |X_2|^2, real and imaginary part of X_1 conj(X_2)
    B: Tensor  # (g, 2, m): the projections, complex with delays
    K: Tensor  # (g, l, m)
    P: Tensor  # (b, g, n, s) to start from
    Q: Tensor  # (b, n, l) to start from


def fit(model: Model, iterations: int, beta: float) -> tuple[Tensor, Tensor]:
    """Multiplicative updates of P (b, g, n, s), then Q (b, n, l), block by block."""
    planes, B, K, P, Q = model
    P, squares = P.clone(), _squares(B)
    step = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0  # with which the cost never rises
    tiny = torch.finfo(P.dtype).tiny ** 0.5
    for _ in range(iterations):
        G = gains(Q, K)
        above, below = torch.zeros_like(G), torch.zeros_like(G)
        for g, part in _blocks(P):
            H = G[:, g]
            V, p = magnitudes(planes[:, :, g, part], squares[g]), P[:, g, :, part]  # (b, g, m, s), (b, g, n, s)
            numerator, denominator = _ratio(V, H.mT @ p, beta)
            p = p * _power(H @ numerator / (H @ denominator), step)
            P[:, g, :, part] = p.clamp_(min=tiny)
            numerator, denominator = _ratio(V, H.mT @ p, beta)
            above[:, g] += p @ numerator.mT
            below[:, g] += p.sum(-1, keepdim=True) if beta == 1 else p @ denominator.mT
        above, below = (torch.einsum("bgnm,glm->bnl", sums, K) for sums in (above, below))
        Q = Q * _power(above / below.clamp_min(tiny), step)
        Q = Q.clamp_min(1e-10)  # or nothing is left of it in silence
    return P, Q


def gains(Q: Tensor, K: Tensor) -> Tensor:
    """How each source comes through each projection, (b, g, n, m)."""
    return Q.unsqueeze(1) @ K


def _ratio(V: Tensor, sigma: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """V sigma^(beta - 2) and sigma^(beta - 1), the latter only once per projection where it is 1."""
    if beta == 1:
        return V / sigma, sigma.new_ones(1, 1, sigma.shape[2], 1)
    return V * sigma.pow(beta - 2), sigma.pow(beta - 1)


def _power(x: Tensor, step: float) -> Tensor:
    return x if step == 1 else x.pow(step)


def _squares(B: Tensor) -> Tensor:
    """What `magnitudes` multiplies the planes by, (g, m, 4)."""
    s, c = B.unbind(1)  # (g, m)
    cross = 2 * s * c.conj()
    parts = [s.abs().square(), c.abs().square(), cross.real, -cross.imag if B.is_complex() else torch.zeros_like(s)]
    return torch.stack(parts, -1)


def magnitudes(planes: Tensor, squares: Tensor) -> Tensor:
    """|C_m| (b, g, m, s) of planes (b, 4, g, s), see `Model`, and the `_squares` (g, m, 4) of the projections."""
    return (squares @ planes.transpose(1, 2)).clamp_min_(0).sqrt_()


def _start(
    X: Tensor,
    sources: int,
    angles: Sequence[float] | None = None,
    delays: Sequence[float] | None = None,
    max_delay: float = 0.0,
    projections: int = 10,
    positions: int = 31,
) -> Model:
    products = E1, E2, real, imaginary = channel_products(X)
    azimuths, lags = start_positions(products, sources, angles, delays, max_delay)  # (b, n)
    max_delay = max([max_delay, *(abs(delay) for delay in delays or ())])
    t, u = (torch.linspace(0, 90, n, dtype=E1.dtype, device=E1.device) for n in (projections, positions))
    omega = angular_frequencies(E1) if max_delay else E1.new_zeros(1, 1)  # (g, 1)
    r, d = ((torch.linspace(-1, 1, n, dtype=E1.dtype, device=E1.device) * max_delay) for n in _delays(max_delay))
    t, r = (x.flatten() for x in torch.meshgrid(t.deg2rad(), r, indexing="ij"))  # (m,)
    u, d = (x.flatten() for x in torch.meshgrid(u, d, indexing="ij"))  # (l,)
    B = torch.stack([t.sin().expand(len(omega), -1), torch.zeros_like(omega * t)], 1)  # (g, 2, m)
    if max_delay:
        B = B.to(X.dtype)
        B[:, 1] = -torch.polar(t.cos().expand(len(omega), -1), omega * r)
    else:
        B[:, 1] = -t.cos()
    K = _through(t, r, u.deg2rad(), d, omega).clamp_min(1e-10)
    Q = torch.exp(-((u - azimuths.unsqueeze(-1)) / WIDTH).square() / 2)
    if max_delay:
        Q = Q * torch.exp(-((d - lags.unsqueeze(-1)) / DELAY_WIDTH).square() / 2)
    Q = Q + FLOOR
    planes = torch.stack(products, 1)  # (b, 4, f, k)
    E, phi = (E1 + E2).unsqueeze(1), 2 * azimuths.deg2rad()[..., None, None]  # (b, 1, f, k), (b, n, 1, 1)
    real, imaginary = real.unsqueeze(1), imaginary.unsqueeze(1)
    if max_delay:
        phase = omega * lags[..., None, None]  # (b, n, f, 1)
        real = real * phase.cos() + imaginary * phase.sin()
    tiny = torch.finfo(E.dtype).tiny ** 0.5
    explained = phi.cos() * (E1 - E2).unsqueeze(1) + 2 * phi.sin() * real
    explained = ((1 + explained / E.clamp_min(tiny)) / 2).clamp(0, 1)  # (b, n, f, k): share of the energy in one place
    for _ in range(4):
        explained = explained.square()
    P = E.sqrt().clamp_min(tiny) * explained.clamp_min(LEAST)
    P, planes = (x.flatten(-2).unflatten(-1, (len(omega), -1)) for x in (P, planes))
    return Model(planes, B, K, P.transpose(1, 2).contiguous(), Q / Q.sum(-1, keepdim=True))


def _delays(max_delay: float) -> tuple[int, int]:
    """How many delays the projections have, and the positions."""
    return (DELAYS, 2 * math.ceil(max_delay) + 1) if max_delay else (1, 1)


def _through(t: Tensor, r: Tensor, u: Tensor, d: Tensor, omega: Tensor) -> Tensor:
    """How what is at (u, d) (l,) comes through projections (t, r) (m,) at frequencies (g, 1): (g, l, m)."""
    u, d, omega = u.unsqueeze(-1), d.unsqueeze(-1), omega.unsqueeze(-1)
    a, b = t.sin() * u.cos(), t.cos() * u.sin()  # (l, m)
    # |a - b exp(i theta)|^2 = (a - b)^2 + 4 a b sin^2(theta / 2): no digits are lost where they cancel
    return ((a - b).square() + 4 * a * b * (omega * (r - d) / 2).sin().square()).sqrt()


def _blocks(P: Tensor) -> Iterator[tuple[slice, slice]]:
    """Groups and bins of P (b, g, n, s) that are worked on at a time."""
    _, groups, _, s = P.shape
    at_once = max(1, BLOCK // s)
    for g in range(0, groups, at_once):
        for start in range(0, s, BLOCK):
            yield slice(g, g + at_once), slice(start, start + BLOCK)
