"""mss.metrics.significance: Wilcoxon's test against scipy, the bootstrap against theory, and the sentences."""

import math

import pytest
import torch
from scipy import stats

from mss.metrics.significance import EXACT, compare, wilcoxon


def normal(n: int, generator: torch.Generator, mean: float = 0.0) -> torch.Tensor:
    return mean + torch.randn(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9, 50, EXACT])
def test_wilcoxon_is_that_of_scipy(n, generator):
    d = normal(n, generator, 0.3)
    assert wilcoxon(d) == pytest.approx(stats.wilcoxon(d.numpy(), method="exact").pvalue, abs=1e-12)
    assert wilcoxon(-d) == pytest.approx(wilcoxon(d), abs=1e-12)


def test_wilcoxon_with_ties_is_that_of_every_sign(generator):
    d = torch.tensor([0.1, 0.1, -0.1, 0.2, 0.2, 0.3, -0.3, 0.5, 0.5, 0.0])
    every_sign = stats.PermutationMethod(n_resamples=math.inf)
    assert wilcoxon(d) == pytest.approx(stats.wilcoxon(d[d != 0].numpy(), method=every_sign).pvalue, abs=1e-12)


def test_wilcoxon_of_many_tracks_is_scipys_approximation(generator):
    for d in (normal(EXACT + 1, generator, 0.1), (10 * normal(500, generator, 0.05)).round()):
        d = d[d != 0]
        expected = stats.wilcoxon(d.numpy(), method="asymptotic", correction=True).pvalue
        assert wilcoxon(d) == pytest.approx(expected, rel=1e-9)


def test_no_difference_at_all():
    assert wilcoxon(torch.zeros(9)) == 1
    result = compare(torch.ones(9), torch.ones(9))
    assert (result.difference, result.low, result.high, result.p) == (0, 0, 0, 1)
    assert result.text.startswith("No difference between A and B is shown")


def test_the_interval_of_a_mean_is_that_of_theory(generator):
    d = normal(400, generator, 1)
    result = compare(d, torch.zeros(400), statistic="mean")
    half = 1.96 * float(d.std()) / 20
    assert result.low == pytest.approx(float(d.mean()) - half, abs=0.01)
    assert result.high == pytest.approx(float(d.mean()) + half, abs=0.01)


def test_the_interval_covers_the_truth_as_often_as_it_says(generator):
    covered = 0
    for _ in range(100):
        result = compare(normal(40, generator, 0.5), torch.zeros(40), generator=generator)
        covered += result.low <= 0.5 <= result.high
    assert 87 <= covered <= 100


def test_the_same_draw_each_time_and_another_on_request(generator):
    a, b = normal(30, generator), normal(30, generator)
    assert compare(a, b) == compare(a, b)
    assert compare(a, b, statistic="mean").low != compare(a, b, statistic="mean", generator=generator).low


def test_swapping_the_systems_swaps_the_sign(generator):
    a, b = normal(31, generator, 0.7), normal(31, generator)
    one, other = compare(a, b), compare(b, a, names=("B", "A"))
    assert one.text == other.text
    assert (one.difference, one.low, one.p) == pytest.approx((-other.difference, -other.high, other.p))


def test_better_in_words():
    a = torch.arange(50) / 50 + 0.42 - 0.49
    result = compare(a + 5, torch.full((50,), 5.0), names=("new", "old"))
    assert result.difference == pytest.approx(0.42, abs=1e-6)
    assert result.text.startswith("new is better than old by 0.42 dB (median over 50 tracks, 95 % interval 0.")
    assert result.text.endswith("Wilcoxon p < 0.001).")
    assert result.wins == int((a > 0).sum())


def test_not_shown_in_words(generator):
    text = compare(normal(30, generator), normal(30, generator)).text
    assert text.startswith("No difference between A and B is shown: ")
    assert "better" not in text


def test_too_few_tracks_in_words():
    result = compare([9.0, 8, 7, 9, 8], [1.0, 2, 3, 4, 5])
    assert result.p == 2 / 32
    assert result.text.startswith("Too few tracks to tell A from B: A is ahead by 5.00 dB")
    assert result.text.endswith("even a win on every one of 5 tracks would only give p = 0.062.")


def test_disagreement_in_words():
    """One huge loss leaves the ranks almost alone, but not the mean."""
    a = torch.full((20,), 0.5)
    a[0] = -9.7
    result = compare(a, torch.zeros(20), statistic="mean")
    assert result.p < 0.05
    assert result.low < 0 < result.high
    assert result.text.startswith("It is undecided whether B is better than A: ")


def test_missing_tracks_are_left_out_and_counted(generator):
    a = {f"song {i}": float(x) for i, x in enumerate(normal(12, generator, 2))}
    b = dict.fromkeys(a, 0.0)
    whole = compare({k: a[k] for k in list(a)[3:]}, {k: b[k] for k in list(a)[3:]})
    a["song 0"], b["song 1"] = math.nan, math.inf
    del b["song 2"]
    b["another song"] = 1.0
    result = compare(a, b)
    assert result[:6] == whole[:6]
    assert (result.tracks, result.left_out) == (9, 4)
    assert "4 tracks left out, without a finite score of both" in result.text


def test_nothing_to_compare():
    result = compare([math.nan], [1.0])
    assert math.isnan(result.difference)
    assert result.left_out == 1
    assert result.text == "A and B cannot be compared: no track has a finite score of both."


def test_refuses_what_cannot_be_paired():
    with pytest.raises(ValueError, match="one score per track"):
        compare([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="both in the same order"):
        compare({"a": 1.0}, [1.0])
    with pytest.raises(ValueError, match="median, mean"):
        compare([1.0], [1.0], statistic="mode")
    with pytest.raises(ValueError, match="between 0 and 1"):
        compare([1.0], [1.0], confidence=95)
