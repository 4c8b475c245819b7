"""Loudness and true peak against the test signals of EBU Tech 3341 and the coefficients of ITU-R BS.1770-4."""

import math

import pytest
import torch

from mss.audio import AudioError
from mss.audio.loudness import Loudness, TruePeak, biquads, loudness, true_peak

RATES = [8000, 11025, 22050, 44100, 48000, 96000, 192000]


def tone(rate: int, *parts: tuple[float, float], frequency: float = 1000.0) -> torch.Tensor:
    """Sines in stereo, each with its dB of full scale and seconds."""
    level = torch.cat([torch.full((round(seconds * rate),), 10 ** (db / 20)) for db, seconds in parts])
    phase = 2 * math.pi * frequency * torch.arange(len(level), dtype=torch.float64) / rate
    return (level * phase.sin()).float().expand(2, -1)


def test_the_filters_at_48_khz_are_those_of_the_recommendation():
    (b, a), (d, c) = biquads(48000)
    assert b == pytest.approx((1.53512485958697, -2.69169618940638, 1.19839281085285), abs=1e-10)
    assert a == pytest.approx((1.0, -1.69065929318241, 0.73248077421585), abs=1e-10)
    assert d == (1.0, -2.0, 1.0)
    assert c == pytest.approx((1.0, -1.99004745483398, 0.99007225036621), abs=1e-10)


@pytest.mark.parametrize("rate", RATES)
def test_tones_and_gates_at_any_rate(rate):
    assert loudness(tone(rate, (-23, 5)), rate) == pytest.approx(-23, abs=0.1)  # cases 1 and 2
    assert loudness(tone(rate, (-33, 5)), rate) == pytest.approx(-33, abs=0.1)


CASES = [
    ((-36, 10), (-23, 60), (-36, 10)),  # 3
    ((-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)),  # 4
    ((-26, 20), (-20, 20.1), (-26, 20)),  # 5
]


@pytest.mark.parametrize("parts", CASES)
@pytest.mark.parametrize("rate", [8000, 48000])
def test_gating(parts, rate):
    assert loudness(tone(rate, *parts), rate) == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize(
    ("layout", "levels"),
    [
        ("5.0", (-28, -28, -24, -30, -30)),  # case 6
        ("5.1", (-28, -28, -24, 0, -30, -30)),  # the same, with an LFE that does not count
        ("5.1(side)", (-28, -28, -24, 0, -30, -30)),
    ],
)
def test_surrounds_count_more_and_lfe_not_at_all(layout, levels):
    x = torch.stack([tone(48000, (db, 5))[0] for db in levels])
    assert loudness(x, 48000, layout) == pytest.approx(-23, abs=0.1)
    back = torch.zeros(8, 48000 * 2)
    back[4] = tone(48000, (-20, 2))[0]  # 7.1: behind 120 degrees, as a front
    assert loudness(back, 48000, "7.1") == pytest.approx(loudness(back[4:5], 48000), abs=1e-6)


def test_one_channel_at_full_scale_is_what_the_recommendation_says():
    assert loudness(tone(48000, (0, 5), frequency=997)[:1], 48000) == pytest.approx(-3.01, abs=0.01)


def test_silence_and_short_sounds_have_no_loudness():
    assert loudness(torch.zeros(2, 48000), 48000) == -math.inf
    assert loudness(tone(48000, (-20, 0.39)), 48000) == -math.inf
    assert loudness(tone(48000, (-80, 2)), 48000) == -math.inf
    with pytest.raises(AudioError, match="8000 Hz"):
        Loudness(4000, 2)


def test_blocks_of_any_length_give_the_same(generator):
    x = torch.randn(2, 100_000, generator=generator) * 0.1
    meter, peak = Loudness(11025, 2), TruePeak(2)
    for block in x.split([1, 0, 30, 40_000, 59_969], -1):
        meter.add(block)
        peak.add(block)
    assert meter.integrated == pytest.approx(loudness(x, 11025), abs=1e-9)
    assert peak.peak == pytest.approx(true_peak(x), abs=1e-6)


@pytest.mark.parametrize(
    ("divisor", "degrees", "amplitude", "expected"),
    [(4, 0, 0.5, -6), (4, 45, 0.5, -6), (6, 60, 0.5, -6), (8, 67.5, 0.5, -6), (4, 45, 1.41, 3)],  # cases 15 to 19
)
def test_true_peak_of_tones_that_peak_between_samples(divisor, degrees, amplitude, expected):
    n = torch.arange(48000, dtype=torch.float64)
    fade = torch.hann_window(48000, dtype=torch.float64)
    x = amplitude * fade * torch.sin(2 * math.pi * n / divisor + math.radians(degrees))
    assert -0.4 <= 20 * math.log10(true_peak(x[None].float())) - expected <= 0.2


def test_a_true_peak_at_the_end_is_found():
    x = torch.zeros(1, 1000)
    x[0, -2:] = 0.9
    assert true_peak(x) > 1.0  # between the two
    assert true_peak(x.flip(-1)) == pytest.approx(true_peak(x), rel=1e-6)
