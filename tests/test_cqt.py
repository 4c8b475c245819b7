"""The constant-Q transform: its inverse, its frame, its bands against librosa, and separators that work through it."""

from functools import partial

import librosa
import numpy as np
import pytest
import torch
from hydra.utils import instantiate

import mss
from mss.filters import binary_mask, softmask
from mss.separator import SpectralSeparator
from mss.spec import build, spec
from mss.transforms import CQT, STFT
from tests.conftest import sdr

PRESETS = [
    CQT(),
    CQT(highest=8000),
    CQT(48, 110.0, sample_rate=16000),
    CQT(12, 100.0, bandwidth=60.0, sample_rate=8000),
    CQT(1, 1000.0),
    CQT(24, 62.5, highest=4000, sample_rate=8000),  # a band would fall on half the sample rate
]
every = pytest.mark.parametrize("transform", PRESETS, ids=str)


@every
@pytest.mark.parametrize("length", [1, 2, 441, 10007, 44100])
def test_round_trip_is_exact(transform, length, generator):
    x = torch.randn(2, 1, length, dtype=torch.float64, generator=generator)
    X = transform(x)
    assert X.shape == (2, 1, transform.bins, transform.frames(length))
    assert X.shape[-1] >= length / transform.hop
    assert (transform.inverse(X, length) - x).abs().max() < 1e-12
    single = transform.inverse(transform(x.float()), length)
    assert single.dtype == torch.float32
    assert (single - x).abs().max() < 5e-6


@every
def test_the_frame_is_tight_and_the_inverse_its_adjoint(transform, generator):
    x = torch.randn(2, 9973, dtype=torch.float64, generator=generator)
    X = transform(x)
    assert torch.allclose(X.abs().square().sum((-2, -1)), x.square().sum(-1), rtol=1e-12)
    C = torch.randn(X.shape, dtype=X.dtype, generator=generator)
    there = (X.real * C.real + X.imag * C.imag).sum()
    assert torch.allclose((x * transform.inverse(C, 9973)).sum(), there, rtol=1e-9)


def test_inverse_is_the_least_squares_one(generator):
    transform, C = CQT(12, 400.0, sample_rate=8000), None
    x = torch.randn(1000, dtype=torch.float64, generator=generator)
    X = transform(x)
    C = X * torch.rand(X.shape, dtype=torch.float64, generator=generator)  # inconsistent, as after any mask
    y = transform.inverse(C, 1000)
    residual = C - transform(y)
    assert transform.inverse(residual, 1000).abs().max() < 1e-12
    assert residual.abs().max() > 1e-3


def test_centres_equal_librosa_and_the_quality_is_constant():
    f = np.array(CQT(lowest=librosa.note_to_hz("C1")).frequencies)
    assert f[0] == 0
    assert f[-1] == 22050
    theirs = librosa.cqt_frequencies(n_bins=len(f) - 2, fmin=librosa.note_to_hz("C1"), bins_per_octave=24)
    assert np.abs(f[1:-1] / theirs - 1).max() < 1e-12
    quality = f[2:-2] / (f[3:-1] - f[1:-3])
    assert np.abs(quality / (1 / (2 ** (1 / 24) - 2 ** (-1 / 24))) - 1).max() < 1e-10


def test_bands_have_the_width_that_is_said(generator):
    """Measured on the bands' own spectra, for noise: where they begin and end, and that the window is a cosine."""
    transform, length = CQT(), 3 * 44100
    X = transform(torch.randn(length, dtype=torch.float64, generator=generator))
    f, k = transform.frequencies, X.shape[-1]
    spectrum = torch.fft.fft(X).abs()
    hertz = 44100 / (k * transform.hop)  # between bins
    for band in (0, 1, 20, 120, transform.bins - 2, transform.bins - 1):
        filled = (spectrum[band] > 1e-9 * spectrum[band].max()).sum() * hertz
        below = -f[1] if band == 0 else f[band - 1]
        above = 44100 - f[-2] if band == transform.bins - 1 else f[band + 1]
        assert abs(filled - (above - below)) < 2 * hertz


def test_a_least_bandwidth_and_a_highest_constant_q():
    f = np.array(CQT(bandwidth=50.0, highest=8000.0).frequencies)
    widths = f[2:] - f[:-2]
    assert widths[1:].min() > 50 - 1e-9
    assert widths[1] == pytest.approx(50, rel=0.05)
    assert widths[-1] < 1.05 * widths[f[1:-1] < 8000].max()
    assert CQT(highest=8000).bins / CQT(highest=8000).hop < 0.45 * CQT().bins / CQT().hop


@pytest.mark.parametrize("band", [30, 100, 200])
def test_a_sine_at_a_centre_is_in_its_band(band):
    transform = CQT()
    t = torch.arange(3 * 44100, dtype=torch.float64) / 44100
    fade = torch.hann_window(t.numel(), dtype=t.dtype)  # without it the clicks at both ends are heard in all bands
    X = transform(fade * torch.sin(2 * torch.pi * transform.frequencies[band] * t)).abs().square()
    energy = X.sum(-1) / X.sum()
    assert energy.argmax() == band
    assert energy[band] > 0.95
    assert energy[band - 1 : band + 2].sum() > 0.9999


def test_a_click_is_at_its_time_in_every_band():
    transform = CQT(highest=8000)
    x = torch.zeros(44100, dtype=torch.float64)
    x[20 * 95 * 10] = 1
    X = transform(x)
    assert (X.abs()[40:].argmax(-1) == 200).all()  # frame 200 is centred on sample 200 * hop
    phase = X[40:-1, 200]
    assert (phase.imag.abs() < 1e-3 * phase.real).all()  # and all bands agree on the phase


def test_phases_are_those_of_the_waveform():
    transform, frequency, phase = CQT(highest=8000), 1003.0, 0.7
    t = torch.arange(2 * 44100, dtype=torch.float64) / 44100
    X = transform(torch.cos(2 * torch.pi * frequency * t + phase))
    times = torch.arange(200, 700) * transform.hop / 44100
    expected = torch.polar(torch.ones_like(times), 2 * torch.pi * frequency * times + phase)
    loud = X[:, 200:700].abs().mean(-1) > 0.1 * X.abs().mean(-1).max()
    assert loud.sum() == 2  # it lies between two centres
    assert (torch.sgn(X[loud, 200:700]) - expected).abs().max() < 2e-2


def test_levels_follow_librosa(excerpt):
    """Its windows have another shape, so the levels of bands over a second of music are compared, not coefficients."""
    x = excerpt["mixture"][0, 44100 : 2 * 44100]
    lowest = librosa.note_to_hz("C4")
    ours = CQT(12, lowest)(x)[1:49].abs().square().mean(-1)
    theirs = librosa.cqt(x.numpy(), sr=44100, fmin=lowest, n_bins=48, window="hann", scale=False, res_type="polyphase")
    theirs = torch.from_numpy(np.square(np.abs(theirs)).mean(-1)) * 4.0 ** (
        torch.arange(48) / 12
    )  # they count in periods
    difference = 10 * torch.log10(ours / theirs)
    assert (difference - difference.median()).abs().median() < 1


def test_what_follows_the_end_does_not_come_back_at_the_beginning():
    """The transform is periodic, but the silence added is long enough for the longest window."""
    transform = CQT(lowest=65.4)
    x = torch.zeros(44100, dtype=torch.float64)
    x[-1] = 1
    X = transform(x)
    y = transform.inverse(X * (torch.arange(X.shape[-2]) == 3).unsqueeze(-1), 44100)
    assert y[:2000].abs().max() < 0.03 * y.abs().max()


LOW = CQT(12, 200.0, highest=1000.0, sample_rate=8000)


def through(transform, estimator, **options):
    return SpectralSeparator(estimator, ("a", "b"), sample_rate=8000, transform=transform, **options)


SEPARATORS = {
    "hpss": through(LOW, partial(mss.classical.hpss, kernel=9)),
    "hpss binary": through(CQT(12, 200.0, bandwidth=60.0, sample_rate=8000), mss.classical.hpss, filter=binary_mask),
    "repet_sim": through(LOW, partial(mss.classical.repet_sim, count=5, distance=50)),
}


@pytest.mark.parametrize("name", SEPARATORS)
@torch.inference_mode()
def test_separators_take_it_as_their_transform(name, mixture, tmp_path):
    separator = SEPARATORS[name]
    x = mixture[..., :10001]
    y = separator(x)
    assert y.shape == (1, 2, 2, 10001)
    assert (y.sum(1) - x).abs().max() < 1e-5
    assert all(stem.square().mean() > 1e-8 for stem in y[0])
    assert separator.context is None
    assert separator.grid == 1
    assert torch.equal(torch.cat(list(mss.stream(separator, x.split(3000, -1))), -1), y)
    for rebuilt in (build(spec(separator)), instantiate(spec(separator), _convert_="all")):
        assert rebuilt.transform == separator.transform
        assert torch.equal(rebuilt(x), y)
    mss.save(separator, tmp_path / "it.safetensors")
    assert torch.equal(mss.load(tmp_path / "it.safetensors")(x), y)
    both = separator(torch.cat([x, torch.zeros_like(x), -0.5 * x]))
    assert torch.allclose(both[:1], y, atol=1e-6)
    assert torch.equal(both[1], torch.zeros_like(both[1]))
    assert torch.allclose(both[2:], -0.5 * y, atol=1e-6)
    assert separator(x.to("meta")).shape == y.shape


def test_oracle_masks_separate_as_well_as_those_of_the_stft(excerpt):
    stems = torch.stack([excerpt[name][:, 44100:132300] for name in ("drums", "bass", "other", "vocals")])[None]
    x = stems.sum(1)
    scores = []
    for transform in (CQT(highest=8000), STFT()):
        Y = softmask(transform(stems).abs(), transform(x))
        y = transform.inverse(Y, x.shape[-1])
        assert (y.sum(1) - x).abs().max() < 1e-5
        scores.append(sdr(stems, y))
    assert scores[0] > scores[1] - 1.0


def test_gradients_flow_both_ways(generator):
    transform = CQT(1, 2000.0, sample_rate=8000)
    x = torch.randn(1, 12, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: transform.inverse(transform(x) * (0.5 + 0.1j), 12), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins_per_octave": 0}, "bins_per_octave must be a whole number"),
        ({"bins_per_octave": 10**7}, "from 1 to 1000, not 10000000"),
        ({"lowest": 0.0}, "lowest must be at least 1 Hz"),
        ({"lowest": 12000.0}, "a quarter of the sample rate, 11025.0 Hz, not 12000"),
        ({"highest": 30.0}, "highest must be above lowest = 32.7 Hz"),
        ({"bandwidth": -1.0}, "bandwidth must be from 0"),
    ],
)
def test_settings_that_make_no_bands_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CQT(**settings)
    with pytest.raises(ValueError, match="441 samples have"):
        CQT().inverse(torch.zeros(3, 5, dtype=torch.complex64), 441)
