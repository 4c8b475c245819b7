"""The statistics of listening tests, without scipy: intervals, rank tests over conditions, choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["binomial", "bradley_terry", "friedman", "holm", "mean_interval", "proportion_interval", "t_quantile"]


def t_quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| <= t) = confidence, T of Student's distribution with so many degrees of freedom."""
    if not (0 < confidence < 1 and degrees >= 1):
        raise ValueError(f"expected a confidence between 0 and 1 and a degree or more, got {confidence} and {degrees}")
    low, high = 0.0, 1.0
    while _t_inside(high, degrees) < confidence:
        high *= 2
    return _root(lambda t: _t_inside(t, degrees) < confidence, low, high)


def _t_inside(t: float, degrees: int) -> float:
    """P(|T| <= t) by the finite sums of M. Abramowitz, I. Stegun, "Handbook of mathematical functions", 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for n in range(1 + odd, degrees, 2):  # terms of cos^(n - 1)
        total += term
        term *= cosine * cosine * n / (n + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values, and the ends of its interval by Student's t; NaN where there is none."""
    x = torch.tensor(values, dtype=torch.float64)
    if len(x) < 2:
        return (float(x.mean()) if len(x) else math.nan), math.nan, math.nan
    half = t_quantile(confidence, len(x) - 1) * float(x.std()) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def friedman(scores: Tensor) -> tuple[float, float]:
    """Do the conditions differ? M. Friedman, JASA 32(200), 1937, corrected for ties.

    Args:
        scores: (assessors, conditions).

    Returns:
        Chi-squared and p; NaN with fewer than three conditions or two assessors, 0 and 1 if all is one tie.
    """
    n, k = scores.shape
    if k < 3 or n < 2:
        return math.nan, math.nan
    x = scores.double()
    ranks = (x[:, :, None] > x[:, None, :]).sum(-1) + ((x[:, :, None] == x[:, None, :]).sum(-1) + 1) / 2.0
    ties = sum(float((c.double() ** 3 - c).sum()) for row in x for c in [row.unique(return_counts=True)[1]])
    correction = 1 - ties / (n * k * (k * k - 1))
    if correction <= 0:
        return 0.0, 1.0
    chi = (12 / (n * k * (k + 1)) * float(ranks.sum(0).square().sum()) - 3 * n * (k + 1)) / correction
    half = torch.tensor([(k - 1) / 2, chi / 2], dtype=torch.float64)
    return chi, float(torch.special.gammaincc(half[0], half[1]))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted (S. Holm, Scandinavian Journal of Statistics 6(2), 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return adjusted


def binomial(hits: int, n: int, *, two_sided: bool) -> float:
    """The exact p-value of so many hits in n fair coin tosses: of as many or more, or of as far from half."""
    if two_sided:
        return min(1.0, 2 * binomial(max(hits, n - hits), n, two_sided=False))
    return sum(math.comb(n, i) for i in range(hits, n + 1)) / 2**n


def proportion_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (C. Clopper, E. Pearson, Biometrika 26(4), 1934); 0 and 1 without tosses."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _root(lambda q: _at_least(hits, n, q) < tail, 0.0, 1.0)
    high = 1.0 if hits == n else _root(lambda q: 1 - _at_least(hits + 1, n, q) > tail, 0.0, 1.0)
    return low, high


def _at_least(hits: int, n: int, q: float) -> float:
    if q in (0.0, 1.0):
        return float(q == 1.0 or hits == 0)
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(q) + (n - i) * math.log1p(-q)
        for i in range(hits, n + 1)
    )
    return math.fsum(math.exp(term) for term in terms)


def bradley_terry(wins: Mapping[tuple[str, str], int]) -> dict[str, float]:
    """How strong each of several systems is: strengths that sum to 1, i is preferred to j with s_i / (s_i + s_j).

    R. Bradley, M. Terry, Biometrika 39(3/4), 1952, by the iteration of D. Hunter, Annals of Statistics 32(1), 2004.

    Args:
        wins: (i, j) -> how often i was preferred to j.

    Returns:
        By name; NaN throughout where some systems have won all against the others, for then there is no maximum.
    """
    names = sorted({name for pair in wins for name in pair})
    w = torch.tensor([[float(wins.get((a, b), 0)) for b in names] for a in names], dtype=torch.float64)
    reach = (w > 0) | torch.eye(len(names), dtype=torch.bool)
    for _ in names:
        reach = (reach.double() @ reach.double()) > 0
    if not bool(reach.all()):
        return dict.fromkeys(names, math.nan)
    s, games = torch.full((len(names),), 1 / len(names), dtype=torch.float64), w + w.T
    for _ in range(10_000):
        new = w.sum(1) / (games / (s[:, None] + s[None, :])).sum(1)
        new = new / new.sum()
        done = bool((new - s).abs().max() < 1e-12)
        s = new
        if done:
            break
    return dict(zip(names, s.tolist(), strict=True))


def _root(below: object, low: float, high: float) -> float:
    """Where a condition that holds below a number ceases to hold, by halving."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
        if high - low <= 1e-14 * max(1.0, high):
            break
    return (low + high) / 2
