"""Is one system better than another? A paired comparison over tracks, in numbers and in words.

Songs differ more than systems do, so what counts is the difference on each track. Two looks at these differences:

- F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1(6), 1945: are they centred on zero? The
  distribution of the rank sum is exact, ties included, up to `EXACT` tracks; beyond that normal. Differences of zero
  are dropped, as Wilcoxon did.
- B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1), 1979: how large are they? The
  percentile interval of their median or mean, the tracks being drawn anew.

The p-value is of one comparison: with m of them, hold each to alpha / m or to Holm's steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Comparison", "compare", "wilcoxon"]

EXACT = 100  # tracks; the work grows with their cube
RESAMPLES = 10_000  # the ends of a 95 % interval then repeat to a few hundredths of its width


class Comparison(NamedTuple):
    """Result of `compare`; differences are a - b, in dB."""

    difference: float  # median or mean over the tracks; NaN without any
    low: float  # end of the bootstrap interval
    high: float
    p: float  # Wilcoxon signed-rank test, two-sided
    tracks: int  # with a finite score of both
    wins: int  # of them, where a is above b
    left_out: int
    text: str  # all of this in a sentence


def compare(
    a: Mapping[str, float] | Sequence[float] | Tensor,
    b: Mapping[str, float] | Sequence[float] | Tensor,
    *,
    names: tuple[str, str] = ("A", "B"),
    statistic: str = "median",
    confidence: float = 0.95,
    alpha: float = 0.05,
    generator: torch.Generator | None = None,
) -> Comparison:
    """Compares the scores of two systems, one per track and higher being better.

    Args:
        a: Scores in dB by name of the track, or in an order that a and b share. A NaN is a track without a score.
        b: The same of the other system.
        names: What the sentence calls the two.
        statistic: Of the differences: "median" or "mean".
        confidence: Of the interval.
        alpha: Below this p, and with an interval that leaves out zero, a difference is called one.
        generator: For the bootstrap; the same draw each time where None.

    Raises:
        ValueError: Sequences of different lengths, or options out of range.

    Example:
        >>> compare([5.1, 4.2, 6.0, 3.9, 5.5, 4.8], [4.0, 3.9, 5.2, 3.7, 4.9, 4.3], names=("new", "old")).text
        'new is better than old by 0.55 dB (median over 6 tracks, 95 % interval 0.25 to 0.95, Wilcoxon p = 0.031).'
    """
    if statistic not in _STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(_STATISTICS)}, not {statistic!r}")
    if not (0 < confidence < 1 and 0 < alpha < 1):
        raise ValueError(f"confidence and alpha must lie between 0 and 1, got {confidence} and {alpha}")
    d = _differences(a, b)  # (tracks,)
    left_out = int((~d.isfinite()).sum())
    d = d[d.isfinite()]
    low, high = _bootstrap(d, _STATISTICS[statistic], confidence, generator)
    result = Comparison(
        difference=float(_STATISTICS[statistic](d)) if len(d) else math.nan,
        low=low,
        high=high,
        p=wilcoxon(d),
        tracks=len(d),
        wins=int((d > 0).sum()),
        left_out=left_out,
        text="",
    )
    return result._replace(text=_in_words(result, names, statistic, confidence, alpha))


def wilcoxon(differences: Tensor) -> float:
    """Two-sided p-value of the signed-rank test on (tracks,) finite differences; 1 where none differs from zero."""
    d = differences[differences != 0].double()
    n = len(d)
    if n == 0:
        return 1.0
    _, group, sizes = d.abs().unique(return_inverse=True, return_counts=True)
    ranks = (2 * sizes.cumsum(0) - sizes + 1)[group]  # twice the mean rank of a tie, so a whole number
    total = int(ranks.sum())
    above = int(ranks[d > 0].sum())
    extreme = min(above, total - above)
    if n > EXACT:  # the sum of independent ± ranks, each with a variance of a quarter of its square
        z = (extreme + 1 - total / 2) / math.sqrt(float(ranks.double().square().sum()) / 4)  # 1: half a rank
        return min(1.0, math.erfc(-z / math.sqrt(2)))
    chances = torch.ones(1, dtype=torch.float64)  # of each rank sum, if every sign were a coin's
    for rank in ranks.tolist():
        chances = (F.pad(chances, (0, rank)) + F.pad(chances, (rank, 0))) / 2
    return min(1.0, 2 * float(chances[: extreme + 1].sum()))


def _differences(a: Mapping | Sequence | Tensor, b: Mapping | Sequence | Tensor) -> Tensor:
    """a - b (tracks,) float64, NaN where one of them is missing."""
    if isinstance(a, Mapping) != isinstance(b, Mapping):
        raise ValueError("give both systems by name of the track, or both in the same order")
    if isinstance(a, Mapping):
        tracks = sorted({*a, *b})
        a, b = ([scores.get(track, math.nan) for track in tracks] for scores in (a, b))
    a, b = (torch.as_tensor(scores, dtype=torch.float64).cpu() for scores in (a, b))
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"expected one score per track for both systems, got {tuple(a.shape)} and {tuple(b.shape)}; give scores by "
            "name of the track if some are missing"
        )
    return a - b


def _bootstrap(
    d: Tensor, statistic: Callable[[Tensor], Tensor], confidence: float, generator: torch.Generator | None
) -> tuple[float, float]:
    """Percentile interval of a statistic of d (tracks,); NaN without tracks."""
    if len(d) == 0:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    draws = statistic(d[torch.randint(len(d), (RESAMPLES, len(d)), generator=generator)])
    tail = (1 - confidence) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=d.dtype)).tolist()
    return low, high


def _median(x: Tensor) -> Tensor:
    ordered, n = x.sort(-1).values, x.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2  # torch.median would take the lower of the two


def _mean(x: Tensor) -> Tensor:
    return x.mean(-1)


_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {"median": _median, "mean": _mean}  # (..., tracks) -> (...)


def _in_words(c: Comparison, names: tuple[str, str], statistic: str, confidence: float, alpha: float) -> str:
    out = f"; {_tracks(c.left_out)} left out, without a finite score of both" if c.left_out else ""
    if c.tracks == 0:
        return f"{names[0]} and {names[1]} cannot be compared: no track has a finite score of both."
    better, worse = names if c.difference >= 0 else names[::-1]
    by = f"{abs(c.difference):.2f} dB"
    low, high = (c.low, c.high) if c.difference >= 0 else (-c.high, -c.low)
    p = "p < 0.001" if c.p < 0.001 else f"p = {c.p:.2g}"
    numbers = (
        f"{statistic} over {_tracks(c.tracks)}, {100 * confidence:g} % interval {_signed(low)} to {_signed(high)}, "
        f"Wilcoxon {p}{out}"
    )
    least = 2 / 2**c.tracks  # the p of a system that wins on every track
    if least >= alpha:
        return (
            f"Too few tracks to tell {names[0]} from {names[1]}: {better} is ahead by {by} ({numbers}), but even a win "
            f"on every one of {_tracks(c.tracks)} would only give p = {least:.2g}."
        )
    apart = c.low > 0 or c.high < 0
    if c.p < alpha and apart:
        return f"{better} is better than {worse} by {by} ({numbers})."
    if c.p >= alpha and not apart:
        return f"No difference between {names[0]} and {names[1]} is shown: {better} is ahead by {by} ({numbers})."
    return (
        f"It is undecided whether {better} is better than {worse}: it is ahead by {by}, but the interval and the test "
        f"disagree ({numbers})."
    )


def _tracks(n: int) -> str:
    return f"{n} track" if n == 1 else f"{n} tracks"


def _signed(x: float) -> str:
    return f"{x:.2f}".replace("-0.00", "0.00")
