"""PROJET: panned sources from what is left of the mixture when it is projected so that one direction cancels.

D. FitzGerald, A. Liutkus, R. Badeau, "PROJET - spatial audio separation using projections", ICASSP 2016; "Projection-based
demixing of spatial audio", IEEE/ACM TASLP 24(9), 2016. The projection m, C_m = sin(t_m) X_1 - cos(t_m) X_2, cancels what
is panned at t_m. The model of its magnitude is

    |C_m(f, k)| ~ sigma_m(f, k) = sum_j P_j(f, k) sum_l Q_jl K_lm,    K_lm = |sin(t_m - u_l)|,

with P_j >= 0 the spectrogram of source j and Q_jl >= 0 how much of it comes from position u_l. P and Q are fitted by
multiplicative updates that never raise the beta divergence; then every projection is filtered by P_j (Q_j K)_m / sigma_m
and the pseudo-inverse of the projections gives the images, which sum to the mixture.

Departs from the papers in the start, which is not random: Q from the peaks of the panning histogram, P from how well the
direction of a peak alone explains each bin. So 20 iterations come within half a decibel of convergence, nothing depends on
a seed, and the sources come out in the order of their azimuths. Delays are not modelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mss.classical._positions import (
    azimuth_histogram,
    channel_products,
    find_azimuths,
    given_angles,
    in_phase,
    principal_angles,
    require_stereo,
)

__all__ = ["projet", "projet_positions"]

BLOCK = 2**15  # bins that are worked on at a time: their projections fit a cache, and bound the memory
WIDTH = 2.0  # degrees, of a source about its peak at the start
FLOOR = 1e-3  # of Q at the start, so that a source may turn out wider or elsewhere
LEAST = 1e-4  # of P at the start, so that a source may turn out to be in any bin


def projet(
    X: Tensor,
    *,
    sources: int = 3,
    angles: Sequence[float] | None = None,
    projections: int = 10,
    positions: int = 31,
    iterations: int = 20,
    beta: float = 1.0,
) -> Tensor:
    """Spectra of panned sources (FitzGerald, Liutkus & Badeau 2016), for the filter `as_is`.

    Args:
        X: (b, 2, f, k) complex.
        sources: how many to find, where no angles are given. Targets are in ascending order of azimuth, from left to
            right: name them so ("left", "centre", "right").
        angles: degrees, 0 left, 45 centre, 90 right, where the sources are at the start; one target each, in this
            order, to be named as you like.
        projections: m, evenly from 0 to 90 degrees.
        positions: l, evenly from 0 to 90 degrees.
        iterations: of P and Q.
        beta: of the divergence: 1 Kullback-Leibler, 2 Euclidean.

    Returns:
        Y (b, n, 2, f, k) complex, which sum to X.
    """
    require_stereo(X, "projet")
    planes, B, K, P, Q = _start(X, sources, angles, projections, positions)
    P, Q = fit(planes, B, K, P, Q, iterations, beta)
    G = Q @ K  # (b, n, m)
    inverse = torch.linalg.pinv(B)  # (m, 2)
    unmix = torch.einsum("mi,jm->ijm", inverse, B).flatten(0, 1)  # (4, m): masks of projections -> 2 x 2 matrices
    Y = torch.empty(*G.shape[:2], *X.shape[1:], dtype=X.dtype, device=X.device)
    flat, out = X.flatten(-2), Y.flatten(-2)  # (b, 2, fk), (b, n, 2, fk)
    for part in _blocks(flat.shape[-1]):
        x, p = flat[..., part], P[..., part]
        shares = 1 / (G.mT @ p)  # (b, m, s)
        left, right = x.unsqueeze(1).unbind(2)  # (b, 1, s)
        for j in range(G.shape[1]):
            mask = shares * G[:, j, :, None] * p[:, j, None]  # (b, m, s)
            a, b, c, d = (unmix @ mask).unbind(1)
            out[:, j, 0, part] = a * left[:, 0] + b * right[:, 0]
            out[:, j, 1, part] = c * left[:, 0] + d * right[:, 0]
    return Y


def projet_positions(X: Tensor, *, sources: int = 3, iterations: int = 20) -> Tensor:
    """Where the sources are when `projet` is done: azimuths (b, n), degrees, from left to right."""
    require_stereo(X, "projet")
    planes, B, K, P, Q = _start(X, sources, None, 10, 31)
    Q = fit(planes, B, K, P, Q, iterations, 1.0)[1]
    return find_azimuths(Q, 1).squeeze(-1)


def fit(
    planes: Tensor, B: Tensor, K: Tensor, P: Tensor, Q: Tensor, iterations: int, beta: float
) -> tuple[Tensor, Tensor]:
    """Multiplicative updates of P (b, n, fk), then Q (b, n, l), block by block; see `_start` for the others."""
    P = P.clone()
    step = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0  # with which the cost never rises
    tiny = torch.finfo(P.dtype).tiny ** 0.5
    for _ in range(iterations):
        G = Q @ K  # (b, n, m)
        above, below = torch.zeros_like(G), torch.zeros_like(G)
        for part in _blocks(P.shape[-1]):
            V, p = magnitudes(planes[..., part], B), P[..., part]  # (b, m, s), (b, n, s)
            numerator, denominator = _ratio(V, G.mT @ p, beta)
            p = p * _power(G @ numerator / (G @ denominator), step)
            P[..., part] = p.clamp_(min=tiny)
            numerator, denominator = _ratio(V, G.mT @ p, beta)
            above += p @ numerator.mT
            below += p.sum(-1, keepdim=True) if beta == 1 else p @ denominator.mT
        Q = Q * _power(above @ K.mT / (below @ K.mT).clamp_min(tiny), step)
        Q = Q.clamp_min(1e-10)  # or nothing is left of it in silence
    return P, Q


def _ratio(V: Tensor, sigma: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """V sigma^(beta - 2) and sigma^(beta - 1), the latter only once per projection where it is 1."""
    if beta == 1:
        return V / sigma, sigma.new_ones(1, sigma.shape[1], 1)
    return V * sigma.pow(beta - 2), sigma.pow(beta - 1)


def _power(x: Tensor, step: float) -> Tensor:
    return x if step == 1 else x.pow(step)


def magnitudes(planes: Tensor, B: Tensor) -> Tensor:
    """|C_m| (b, m, s) of the planes |X_1|^2, |X_2|^2, Re X_1 conj(X_2) (b, 3, s) and the projections B (2, m)."""
    s, c = B
    squares = torch.stack([s * s, c * c, 2 * s * c], -1)  # (m, 3)
    return (squares @ planes).clamp_min(0).sqrt()


def _start(
    X: Tensor, sources: int, angles: Sequence[float] | None, projections: int, positions: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """planes (b, 3, fk), see `magnitudes`; B (2, m); K (l, m); P (b, n, fk) and Q (b, n, l) to start from."""
    E1, E2, real, imaginary = channel_products(X)
    if angles is None:
        weights = in_phase(E1 + E2, real, imaginary)
        h = azimuth_histogram(principal_angles(E1 - E2, 2 * real), weights, 91, 1.0)
        azimuths = find_azimuths(h, sources)  # (b, n)
    else:
        azimuths = given_angles(angles, E1)
    t, u = (torch.linspace(0, 90, n, dtype=E1.dtype, device=E1.device) for n in (projections, positions))
    B = torch.stack([t.deg2rad().sin(), -t.deg2rad().cos()])
    K = (t - u[:, None]).deg2rad().sin().abs().clamp_min(1e-10)
    Q = torch.exp(-((u - azimuths.unsqueeze(-1)) / WIDTH).square() / 2) + FLOOR
    planes = torch.stack([E1, E2, real], 1).flatten(-2)
    E, phi = (E1 + E2).flatten(-2).unsqueeze(1), 2 * azimuths.deg2rad().unsqueeze(-1)
    tiny = torch.finfo(E.dtype).tiny ** 0.5
    explained = phi.cos() * (E1 - E2).flatten(-2).unsqueeze(1) + 2 * phi.sin() * real.flatten(-2).unsqueeze(1)
    explained = ((1 + explained / E.clamp_min(tiny)) / 2).clamp(
        0, 1
    )  # (b, n, fk): share of the energy in one direction
    for _ in range(4):
        explained = explained.square()
    P = E.sqrt().clamp_min(tiny) * explained.clamp_min(LEAST)
    return planes, B, K, P, Q / Q.sum(-1, keepdim=True)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))
