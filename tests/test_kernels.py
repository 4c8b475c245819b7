"""Kernel models: compiled medians against torch's and numpy's, planted loops and periods, steady tones and clicks."""

import numpy as np
import pytest
import torch

import mss
from mss.classical import _ops, ft2d, hpss, kam, kernel_backfitting, repet, repet_adaptive, repet_sim
from mss.classical.kam import cross, footprint, horizontal, periodic, similar, vertical
from mss.filters import softmask

from .conftest import sdr

RATE, HOP = 44100, 1024


@pytest.fixture
def in_torch(monkeypatch):
    """Runs a function without the compiled loops."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(_ops, "untracked", lambda *x: False)
            return function(*args, **options)

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 17, 31, 75])
@pytest.mark.parametrize("shape", [(1, 1), (70, 150), (2, 3, 150, 70)])
def test_compiled_running_medians_are_those_of_torch(shape, size, dtype, generator, in_torch):
    x = torch.rand(shape, generator=generator, dtype=dtype)
    for dim in range(-len(shape), 0):
        assert torch.equal(_ops.median_filter(x, size, dim), in_torch(_ops.median_filter, x, size, dim))
    assert torch.equal(_ops.median_filter(x.mT, size, -1), _ops.median_filter(x, size, -2).mT)  # any strides


def test_medians_pass_gradients_on(generator):
    x = torch.rand(1, 2, 20, 30, generator=generator, requires_grad=True)
    index = torch.randint(0, 30, (1, 30, 5), generator=generator)
    for y in (
        _ops.median_filter(x, 5, -1),
        _ops.frames_median(x, index),
        _ops.footprint_median(x, torch.ones(3, 3) > 0),
    ):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert gradient.sum() == pytest.approx(y.numel())  # each output is one of the inputs


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_medians_over_frames_equal_numpy(count, generator, in_torch):
    x = torch.rand(2, 2, 50, 30, generator=generator)
    index = torch.randint(-1, 30, (2, 17, count), generator=generator)
    index[:, 3] = -1
    ours = _ops.frames_median(x, index)
    assert torch.equal(ours, in_torch(_ops.frames_median, x, index))
    for b in range(2):
        for q in range(17):
            chosen = [i for i in index[b, q].tolist() if i >= 0]
            expected = np.median(x[b, ..., chosen].numpy(), -1) if chosen else 0
            np.testing.assert_allclose(ours[b, ..., q].numpy(), expected, rtol=1e-6)


def test_medians_over_a_footprint_equal_their_definition(generator, in_torch):
    x = torch.rand(2, 40, 100, generator=generator)
    where = torch.rand(5, 9, generator=generator) < 0.5
    where[2, 4] ^= where.sum() % 2 == 0
    ours = _ops.footprint_median(x, where)
    padded = np.pad(x.numpy(), ((0, 0), (2, 2), (4, 4)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 9), axis=(1, 2))[..., where.numpy()]
    assert torch.equal(ours, torch.from_numpy(np.median(windows, -1)))
    assert torch.equal(ours, in_torch(_ops.footprint_median, x, where))
    assert torch.equal(_ops.footprint_median(x, torch.ones(1, 9) > 0), _ops.median_filter(x, 9, -1))
    with pytest.raises(ValueError, match="odd number of points"):
        _ops.footprint_median(x, torch.tensor([[True, True, False]]))
    with pytest.raises(ValueError, match="odd sides"):
        _ops.footprint_median(x, torch.ones(2, 3) > 0)


@pytest.mark.parametrize(("power", "margin"), [(2.0, 1.0), (1.0, 1.0), (1.5, 2.0)])
def test_compiled_hpss_is_that_of_torch(power, margin, generator, monkeypatch):
    X = torch.randn(2, 2, 65, 40, dtype=torch.complex64, generator=generator)
    X[0, :, :, :20] = 0
    ours = hpss(X, power=power, margin=margin)
    monkeypatch.setitem(hpss.__globals__, "untracked", lambda *x: False)
    assert torch.allclose(ours, hpss(X, power=power, margin=margin), atol=1e-6)


@pytest.mark.parametrize("period", [37, 64])
def test_a_planted_period_is_found(period, generator):
    V = torch.rand(1, 2, 40, period, generator=generator).repeat(1, 1, 1, 12)[..., : 11 * period + 5]
    B = _ops.beat_spectrum(V)
    assert B[0, 10 : 4 * period].argmax() + 10 in (period, 2 * period, 3 * period)
    lag = float(_ops.repeating_periods(B, 10, 2 * period - 5))
    assert abs(lag - period) < 0.1
    k = V.shape[-1]
    power = V[0].square().mean(0).numpy()
    power -= power.mean(-1, keepdims=True)
    for lag in (0, 1, period):  # the definition
        expected = (power[:, : k - lag] * power[:, lag:]).sum() / (k - lag)
        assert float(B[0, lag]) == pytest.approx(expected * k / (power**2).sum(), rel=1e-3, abs=1e-4)


def test_periods_are_fractions_of_a_frame():
    t = torch.arange(1200, dtype=torch.float64)
    V = torch.stack([(1 + torch.cos(2 * torch.pi * (t + i) / 37.3)).pow(4) for i in range(10)])[None, None]
    B = _ops.beat_spectrum(V)
    assert abs(float(_ops.repeating_periods(B, 20, 50)) - 37.3) < 0.1
    refined = repet.__globals__["_refined"](B, _ops.repeating_periods(B, 20, 50))
    assert abs(float(refined) - 37.3) < 0.01


@pytest.fixture(scope="module")
def loop():
    """A loop of 48 frames, ten times over, and a melody whose notes never meet the same place of it: (t,), (t,)."""
    generator = torch.Generator().manual_seed(3)
    n = 48 * HOP
    t = torch.arange(n) / RATE
    pattern = torch.randn(n, generator=generator) * torch.exp(-((t * 4) % 1) * 12)
    pattern += sum(torch.sin(2 * torch.pi * round(f * n / RATE) * RATE / n * t) for f in (220, 330, 440))
    background = 0.1 * pattern.repeat(10)
    t = torch.arange(background.numel()) / RATE
    pitch = 500 * 2 ** (torch.randint(0, 24, (80,), generator=generator) / 12)
    melody = torch.sin(2 * torch.pi * torch.cumsum(pitch[(t / 0.17).long()], 0) / RATE)
    melody = melody * (torch.rand(80, generator=generator) < 0.2)[(t / 0.17).long()]
    return background, 0.04 * melody


@pytest.mark.parametrize(
    ("method", "least"),
    [
        (repet, 20),
        (repet_adaptive, 17),
        (ft2d, 10),
        (repet_sim, 12),
        (kam, 10),
    ],
)
def test_the_loop_is_the_background(method, least, loop):
    background, melody = loop
    X = mss.STFT()((background + melody).view(1, 1, -1))
    V = method(X)
    Y = V if V.is_complex() else softmask(V, X)
    assert V.shape == (1, 2, 1, *X.shape[-2:])
    assert torch.allclose(Y.sum(1), X, atol=1e-4)
    voice, rest = mss.STFT().inverse(Y, background.numel())[0, :, 0]
    assert sdr(background, rest) > least
    assert sdr(melody, voice) > sdr(melody, background + melody) + 6
    assert method(X, lowest_bin=40)[:, 0, :, 1:40].abs().max() == 0  # the voice has no bass


def hits_and_tone():
    """(1, 1, f, k): a steady line and a click every twenty frames, of all bins."""
    V = torch.full((1, 1, 129, 200), 1e-3)
    V[..., 40, :] = 1
    V[..., 10::20] += 1
    return torch.polar(V, torch.zeros_like(V))


@pytest.mark.parametrize("filter", ["mask", "covariance"])
def test_one_pass_of_backfitting_is_hpss(filter, generator):
    X = torch.randn(2, 1, 65, 80, dtype=torch.complex64, generator=generator)
    Y = kernel_backfitting(X, [[horizontal(17)], [vertical(17)]], iterations=1, filter=filter)
    assert torch.allclose(Y, softmask(hpss(X, kernel=17), X), atol=1e-5)


@pytest.mark.parametrize("filter", ["mask", "covariance"])
def test_backfitting_parts_a_tone_from_clicks(filter):
    X = hits_and_tone()
    tone, hits = kernel_backfitting(X, [[horizontal(17)], [vertical(17)]], iterations=2, filter=filter).abs()[0, :, 0]
    assert (tone[40, 11:29] > 0.99)[torch.arange(11, 29) % 20 != 10].all()
    assert (hits[:30, 30] > 0.99).all()
    assert (tone[:30, 30] < 0.02).all()


def test_both_filters_are_one_in_mono_and_sum_to_the_mixture(generator):
    X = torch.randn(1, 2, 65, 80, dtype=torch.complex64, generator=generator)
    X[..., 30:50] = 0
    kernels = [[horizontal(9), periodic(torch.tensor([13.4]), 3)], [vertical(9)], [cross(3, 3)]]
    mono = [kernel_backfitting(X[:, :1], kernels, filter=filter) for filter in ("mask", "covariance")]
    assert torch.allclose(*mono, atol=1e-3)
    for filter in ("mask", "covariance"):
        assert torch.allclose(kernel_backfitting(X, kernels, iterations=6, filter=filter).sum(1), X, atol=1e-5)
    with pytest.raises(ValueError, match='"mask" or "covariance"'):
        kernel_backfitting(X, kernels, filter="wiener")
    with pytest.raises(ValueError, match="a kernel at least"):
        kernel_backfitting(X, [[horizontal(9)], []])


def test_covariances_part_what_masks_cannot(generator):
    """Two sources that now and then sound together in the same bins, panned apart."""
    k = torch.arange(240)
    first, second = torch.polar(torch.ones(2, 65, 240), 6.28 * torch.rand(2, 65, 240, generator=generator))
    first, second = first * (k % 12 < 4), second * (k % 20 < 8)
    images = torch.stack([torch.stack([first, 0.1 * first]), torch.stack([0.1 * second, second])])
    kernels = [[periodic(torch.tensor([12.0]), 5)], [periodic(torch.tensor([20.0]), 5)]]
    error = {}
    for filter in ("mask", "covariance"):
        Y = kernel_backfitting(images.sum(0)[None], kernels, iterations=4, filter=filter)[0]
        error[filter] = float((Y - images).abs().square().sum() / images.abs().square().sum())
    assert error["covariance"] < 0.1 * error["mask"]


def test_kernels_keep_batch_items_apart_and_refuse_even_sizes(generator):
    z = torch.rand(2, 20, 60, generator=generator)
    both = periodic(torch.tensor([7.0, 11.0]), 3)(z)
    for b, period in enumerate((7.0, 11.0)):
        assert torch.equal(both[b : b + 1], periodic(torch.tensor([period]), 3)(z[b : b + 1]))
    assert torch.equal(both[0, :, 20], z[0][:, [13, 20, 27]].median(-1).values)
    assert torch.equal(footprint(torch.ones(1, 5) > 0)(z), horizontal(5)(z))
    for make in (
        lambda: cross(2, 3),
        lambda: periodic(torch.tensor([3.0]), 4),
        lambda: repet_adaptive(z[None], order=4),
    ):
        with pytest.raises(ValueError, match="odd"):
            make()


def test_what_only_repeats_is_all_background():
    V = torch.rand(1, 1, 100, 24, generator=torch.Generator().manual_seed(5)).repeat(1, 1, 1, 10)
    X = torch.polar(V, torch.zeros_like(V))
    for method, options, least in (
        (repet, {"shortest": 10}, 0.999),
        (repet_adaptive, {"shortest": 10}, 0.999),
        (repet_sim, {"distance": 10}, 0.999),
        (ft2d, {"neighbourhood": 5}, 0.9),
    ):
        background = method(X, lowest_bin=1, **options)[:, 1]
        assert background.square().sum() > least * V.square().sum()


def test_binary_masks_of_ft2d_are_binary(excerpt):
    X = mss.STFT()(excerpt["mixture"][None, :, : 3 * RATE])
    voice, background = ft2d(X, binary=True).unbind(1)
    assert torch.minimum(voice, background).max() == 0


@pytest.mark.parametrize("name", ["repet", "repet_adaptive", "repet_sim", "ft2d", "kam"])
def test_methods_beat_the_mixture_on_real_music(name, excerpt):
    accompaniment = excerpt["drums"] + excerpt["bass"] + excerpt["other"]
    vocals, rest = mss.load(name)(excerpt["mixture"][None])[0]
    gains = [sdr(s, y) - sdr(s, excerpt["mixture"]) for s, y in ((excerpt["vocals"], vocals), (accompaniment, rest))]
    assert gains[0] > 5
    assert gains[1] > 0.4


def test_the_kernel_of_similar_frames_is_the_median_over_its_own_kind(generator):
    kinds = torch.rand(3, 20, generator=generator, dtype=torch.float64)
    order = torch.randint(3, (40,), generator=generator)
    V = kinds[order].T[None] * (1 + 0.01 * torch.rand(1, 20, 40, generator=generator, dtype=torch.float64))
    same = order == order[7]
    count = int(same.sum()) - 1 + int(same.sum()) % 2  # odd, so that the median is one of them
    z = torch.rand(1, 20, 40, generator=generator, dtype=torch.float64)
    frames = _ops.similar_frames(V, count=count, distance=0)[0, 7]
    assert same[frames].all()
    assert torch.equal(similar(V, count, 0)(z)[0, :, 7], z[0, :, frames].median(-1).values)
