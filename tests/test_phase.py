"""The phase stages: what they promise on two melodies with known answers, Griffin-Lim against librosa, real music."""

from functools import partial
from itertools import pairwise

import librosa
import numpy as np
import pytest
import torch

import mss
from mss.filters import softmask
from mss.phase import FLOOR, _posterior_variance, consistent_wiener, griffin_lim, misi
from mss.separator import SpectralSeparator
from mss.spec import build, spec
from mss.transforms import CQT, STFT
from tests.conftest import sdr

RATE = 44100
FUNCTIONS = [misi, griffin_lim, consistent_wiener]
every = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
FEW = [misi, partial(griffin_lim, iterations=8), partial(consistent_wiener, iterations=8)]
every_few = pytest.mark.parametrize("function", FEW, ids=["misi", "griffin_lim", "consistent_wiener"])
SMALL = [STFT(512, 128), CQT(12, 400.0, sample_rate=8000)]
both = pytest.mark.parametrize("transform", SMALL, ids=lambda t: type(t).__name__)


def melody(seed: int, lowest: int, highest: int, seconds: float = 4.0, step: float = 0.25) -> torch.Tensor:
    """Notes of ten partials 1/k with random phases and a decay, one each `step` seconds, peak 0.3; float64."""
    rng = np.random.default_rng(seed)
    count, length, sounding = round(seconds / step), round(step * RATE), round(0.95 * step * RATE)
    notes = rng.integers(lowest, highest, count)
    phases = rng.uniform(0, 2 * np.pi, (count, 10, 1))
    i, k = np.arange(sounding), np.arange(1, 11)[:, None]
    envelope = np.exp(-1.5 * i / RATE) * np.minimum(1, i / RATE / 0.01) * np.minimum(1, (sounding - i) / RATE / 0.03)
    x = np.zeros((count, length))
    for note in range(count):
        frequency = 440 * 2 ** ((notes[note] - 69) / 12)
        x[note, :sounding] = envelope * (np.sin(2 * np.pi * frequency * k * i / RATE + phases[note]) / k).sum(0)
    return torch.from_numpy(0.3 * x.ravel() / np.abs(x).max())


@pytest.fixture(scope="module")
def melodies() -> torch.Tensor:
    """(1, 2, 1, t)"""
    return torch.stack([melody(1, 48, 60), melody(2, 60, 72)])[None, :, None]


@pytest.fixture(scope="module")
def small(melodies) -> torch.Tensor:
    """(1, 2, 2, t): less of them, in stereo."""
    short = melodies[..., 20000:24001]
    return torch.cat([short, short.flip(1)], 2)


def scores(truth, estimates) -> list[float]:
    return [sdr(truth[:, j], estimates[:, j]) for j in range(truth.shape[1])]


def masked(sources, transform, power=2.0):
    """Spectra of the sources by oracle masks, and their mixture."""
    mixture = sources.sum(1)
    return softmask(transform(sources).abs(), transform(mixture), power), mixture


def magnitudes(sources, transform):
    """True magnitudes with the phase of the mixture."""
    mixture = sources.sum(1)
    return transform(sources).abs() * torch.sgn(transform(mixture)).unsqueeze(1), mixture


def test_misi_finds_phases_for_true_magnitudes(melodies):
    transform = STFT(2048, 512)
    Y, mixture = magnitudes(melodies, transform)
    plain = transform.inverse(Y, mixture.shape[-1])
    assert max(scores(melodies, plain)) < 16
    y = misi(Y, mixture, transform)
    assert min(scores(melodies, y)) > 22
    assert (y.sum(1) - mixture).abs().max() < 1e-14
    assert min(scores(melodies, misi(Y, mixture, transform, iterations=30))) > 27


def inconsistency(y, magnitude, transform):
    """|| |STFT(y)| - S ||^2 of each waveform, over the two-sided spectrum."""
    return (transform.multiplicity(magnitude) * (transform(y).abs() - magnitude).square()).sum((-2, -1))


@both
def test_griffin_lim_never_gets_further_from_the_magnitudes(transform, small):
    Y, mixture = magnitudes(small, transform)
    history = [
        inconsistency(griffin_lim(Y, mixture, transform, iterations=n, momentum=0.0), Y.abs(), transform)
        for n in range(12)
    ]
    for before, after in pairwise(history):
        assert (after <= before * (1 + 1e-12)).all()
    assert (history[-1] < 0.8 * history[0]).all()
    fast = inconsistency(griffin_lim(Y, mixture, transform, iterations=60), Y.abs(), transform)
    slow = inconsistency(griffin_lim(Y, mixture, transform, iterations=60, momentum=0.0), Y.abs(), transform)
    assert fast.sum() < slow.sum()


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_griffin_lim_equals_librosa(momentum, excerpt):
    transform, length = STFT(1024, 256), 20000
    x = excerpt["mixture"][0, RATE : RATE + length].double()
    S = transform(x).abs()
    theirs = librosa.griffinlim(
        S.numpy(),
        n_iter=10,
        hop_length=256,
        n_fft=1024,
        pad_mode="constant",
        length=length,
        momentum=momentum,
        init=None,  # all phases 0
        dtype=np.float64,
    )
    Y = S.to(torch.complex128)[None, None, None]
    ours = griffin_lim(Y, x[None, None], transform, iterations=10, momentum=momentum)
    assert np.abs(ours[0, 0, 0].numpy() - theirs).max() < 1e-9


def test_consistent_wiener_gains_two_decibels(melodies):
    transform = STFT(2048, 512)
    Y, mixture = masked(melodies, transform)
    plain = scores(melodies, transform.inverse(Y, mixture.shape[-1]))
    y = consistent_wiener(Y, mixture, transform)
    assert min(after - before for before, after in zip(plain, scores(melodies, y), strict=True)) > 2.2
    assert (y.sum(1) - mixture).abs().max() < 1e-14


@both
def test_consistent_wiener_descends_to_the_least_squares_solution(transform, small):
    """The cost of each source falls in every iteration, and ends where a dense solver puts it."""
    sources = small[:, :, :1, :300]
    Y, mixture = masked(sources, transform)
    S = transform(transform.inverse(Y, 300))
    variance = _posterior_variance(Y, S, transform(mixture).unsqueeze(1))
    assert variance.min() >= FLOOR
    assert torch.allclose(variance.amax((-2, -1)), torch.ones(1, dtype=variance.dtype))
    weights = transform.multiplicity(variance) / variance

    def cost(y):
        return (weights * (transform(y) - Y).abs().square()).sum((-2, -1))

    costs = [cost(consistent_wiener(Y, mixture, transform, iterations=n)) for n in (0, 1, 2, 3, 5, 8, 12, 20, 60)]
    for before, after in pairwise(costs):
        assert (after <= before * (1 + 1e-9)).all()
    columns = torch.view_as_real(transform(torch.eye(300, dtype=torch.float64))).flatten(1).T  # (f * k * 2, t)
    for j in range(2):
        root = weights[0, j, 0].sqrt().unsqueeze(-1).expand(-1, -1, 2).flatten().unsqueeze(-1)
        right = root[:, 0] * torch.view_as_real(Y[0, j, 0]).flatten()
        exact = torch.linalg.lstsq(root * columns, right.unsqueeze(-1)).solution[:, 0]
        y = consistent_wiener(Y, mixture, transform, iterations=60)[0, j, 0]
        assert (y - exact).abs().max() < 1e-4 * exact.abs().max()


def test_consistent_wiener_keeps_what_is_already_consistent(small):
    transform = STFT(512, 128)
    mixture = small.sum(1)
    Y = transform(torch.stack([0.7 * mixture, 0.2 * mixture, 0.1 * mixture], 1))
    y = consistent_wiener(Y, mixture, transform)
    assert torch.allclose(y, transform.inverse(Y, mixture.shape[-1]), atol=1e-12)


def test_what_they_are_worth_on_real_music(excerpt):
    """Oracle magnitudes of four stems: gains for all of them, from the phase of the mixture and from Wiener masks."""
    stems = torch.stack([excerpt[name][:, RATE : 3 * RATE] for name in ("drums", "bass", "other", "vocals")])[None]
    transform = STFT()
    Y, mixture = magnitudes(stems, transform)
    plain = scores(stems, transform.inverse(Y, mixture.shape[-1]))
    better = scores(stems, misi(Y, mixture, transform))
    assert min(after - before for before, after in zip(plain, better, strict=True)) > 2
    Y, mixture = masked(stems, transform)
    plain = scores(stems, transform.inverse(Y, mixture.shape[-1]))
    y = consistent_wiener(Y, mixture, transform, iterations=5)
    assert min(after - before for before, after in zip(plain, scores(stems, y), strict=True)) > 0.2
    assert (y.sum(1) - mixture).abs().max() < 1e-5


@every_few
@both
@torch.inference_mode()
def test_level_batch_and_silence(function, transform, small):
    Y, mixture = masked(small, transform)
    y = function(Y, mixture, transform)
    assert y.shape == small.shape
    silent = torch.zeros_like(mixture)
    with_silent_channel = mixture * torch.tensor([[[1.0], [0.0]]], dtype=mixture.dtype)
    batch = torch.cat([mixture, silent, -1e-3 * mixture, with_silent_channel])
    spectra = torch.cat([Y, 0 * Y, -1e-3 * Y, Y * torch.tensor([1.0, 0.0])[None, None, :, None, None]])
    inputs = batch.clone(), spectra.clone()
    together = function(spectra, batch, transform)
    assert torch.equal(inputs[0], batch)
    assert torch.equal(inputs[1], spectra)
    assert torch.allclose(together[:1], y, atol=1e-9)
    assert torch.equal(together[1], torch.zeros_like(together[1]))
    assert torch.allclose(together[2:3], -1e-3 * y, atol=1e-12)
    assert torch.allclose(together[3, :, 0], y[0, :, 0], atol=1e-9)
    assert torch.equal(together[3, :, 1], torch.zeros_like(together[3, :, 1]))
    if function is not FEW[1]:
        assert (together.sum(1) - batch).abs().max() < 1e-12


@every_few
@both
def test_single_precision_short_input_and_any_device(function, transform, small):
    Y, mixture = masked(small, transform)
    y = function(Y, mixture, transform)
    single = function(Y.to(torch.complex64), mixture.float(), transform)
    assert single.dtype == torch.float32
    assert sdr(y, single.double()) > 40
    tiny = function(1e-25 * Y.to(torch.complex64), 1e-25 * mixture.float(), transform)
    assert sdr(y, 1e25 * tiny.double()) > 40
    for length in (1, 441):
        Y, x = masked(small[..., :length], transform)
        assert torch.isfinite(function(Y, x, transform)).all()
        assert function(Y, x, transform).shape == (1, 2, 2, length)
    assert function(Y.to("meta"), x.to("meta"), transform).shape == (1, 2, 2, 441)


@every
def test_gradients_reach_the_spectra(function, small):
    transform = STFT(512, 128)
    Y, mixture = masked(small[..., :1000], transform)
    Y.requires_grad_()
    function(Y, mixture, transform, iterations=2).square().sum().backward()
    assert torch.isfinite(torch.view_as_real(Y.grad)).all()
    assert Y.grad.abs().max() > 0


@every
@torch.inference_mode()
def test_as_the_last_stage_of_a_separator(function, mixture, tmp_path):
    description = {
        "_target_": "mss.SpectralSeparator",
        "targets": ["harmonic", "percussive"],
        "estimator": {"_target_": "mss.classical.hpss", "_partial_": True, "kernel": 5},
        "transform": {"_target_": "mss.STFT", "n_fft": 1024, "hop": 256},
        "phase": {"_target_": f"mss.phase.{function.__name__}", "_partial_": True, "iterations": 2},
    }
    separator, x = build(description), mixture[..., :10000]
    y = separator(x)
    assert separator.context is None
    X = separator.transform(x)
    Y = softmask(mss.classical.hpss(X, kernel=5), X)
    assert torch.equal(y, function(Y, x, separator.transform, iterations=2))
    assert not torch.allclose(y, separator.transform.inverse(Y, 10000), atol=1e-4)
    assert spec(separator)["phase"]["iterations"] == 2
    assert torch.equal(build(spec(separator))(x), y)
    assert torch.equal(torch.cat(list(mss.stream(separator, x.split(3000, -1))), -1), y)
    mss.save(separator, tmp_path / "it.safetensors")
    assert torch.equal(mss.load(tmp_path / "it.safetensors")(x), y)
    through = SpectralSeparator(
        mss.classical.hpss, ("a", "b"), sample_rate=8000, transform=SMALL[1], phase=partial(function, iterations=1)
    )
    assert through(x[..., :2000]).shape == (1, 2, 2, 2000)
