"""Masks and the EM Wiener filter: sums, limits, level, gradients, and norbert."""

import norbert
import numpy as np
import pytest
import torch

from mss.filters import binary_mask, mixture_phase, ratio_mask, softmask, wiener
from mss.transforms import STFT
from tests.conftest import sdr


@pytest.fixture(scope="module")
def spectra(excerpt):
    """Mixture X (1, c, f, k) and magnitudes V (1, n, c, f, k) of the true stems, float64."""
    part = slice(44100, 44100 * 2)
    transform = STFT(2048, 1024)
    stems = torch.stack([excerpt[name][:, part] for name in ("drums", "bass", "other", "vocals")]).double()
    return transform(excerpt["mixture"][None, :, part].double()), transform(stems).abs()[None], stems, transform


@pytest.mark.parametrize("power", [0.5, 1, 2, 40])
def test_ratio_masks_sum_to_one_at_any_level(spectra, power):
    _, V, _, _ = spectra
    for scale in (1e-30, 1, 1e30):
        M = ratio_mask((V * scale).clamp_max(1e35).float(), power)
        assert torch.isfinite(M).all()
        assert torch.allclose(M.sum(1), torch.ones(()), atol=1e-5)


def test_empty_bins_are_shared_or_dropped():
    V = torch.zeros(1, 4, 1, 2, 3)
    assert torch.equal(ratio_mask(V), torch.full_like(V, 0.25))
    assert torch.equal(ratio_mask(V, empty="drop"), V)


@pytest.mark.parametrize("empty", ["share", "drop"])
@pytest.mark.parametrize("power", [0.5, 1, 1.2, 1.25, 1.75, 2, 3.0])
def test_compiled_softmask_equals_the_differentiable_one(power, empty, generator):
    V = torch.rand(2, 3, 2, 20, 700, generator=generator)
    V[:, :, :, 3], V[:, 1, :, 4], V[:, :, :, 5] = 0, torch.inf, V[:, :, :, 5] * 1e-30
    X = torch.randn(2, 2, 20, 700, dtype=torch.complex64, generator=generator)
    theirs = ratio_mask(V, power, empty=empty) * X.unsqueeze(1)
    assert torch.allclose(softmask(V, X, power, empty=empty), theirs, atol=2e-6)
    mono = V.mean(2, keepdim=True).nan_to_num(0, 0)
    assert torch.allclose(softmask(mono, X, power), ratio_mask(mono, power) * X.unsqueeze(1), atol=2e-6)
    assert softmask(V * torch.nan, X, power).isnan().all()
    alike = V[:1].nan_to_num(0, 0)
    assert torch.allclose(softmask(alike, X, power), ratio_mask(alike, power) * X.unsqueeze(1), atol=2e-6)
    faint = V.double().nan_to_num(0, 0, 0) * 1e-60  # nothing, in single precision
    theirs = ratio_mask(faint, power) * X.unsqueeze(1)
    assert torch.allclose(softmask(faint, X, power), theirs.to(X.dtype), atol=2e-6)


def test_high_powers_tend_to_the_binary_mask(spectra):
    X, V, _, _ = spectra
    error = (softmask(V, X, 2000.0) - binary_mask(V, X)).norm() / X.norm()
    assert error < 1e-2  # what is left are the bins in which two stems are within a thousandth of each other
    assert torch.allclose(binary_mask(V, X).sum(1), X)


def test_oracle_masks_rank_as_published(spectra):
    """Ratio masks of power 1 to 2 beat the binary mask, and power one half (methods: 1.3)."""
    X, V, stems, transform = spectra
    length = stems.shape[-1]
    score = {}
    for name, Y in {
        "binary": binary_mask(V, X), "half": softmask(V, X, 0.5), "one": softmask(V, X), "two": softmask(V, X, 2.0)
    }.items():  # fmt: skip
        score[name] = np.mean([sdr(s, y) for s, y in zip(stems, transform.inverse(Y, length)[0], strict=True)])
    assert score["half"] < score["binary"] < min(score["one"], score["two"])


def test_mixture_phase_keeps_magnitude_and_phase(spectra):
    X, V, _, _ = spectra
    Y = mixture_phase(V, X)
    assert torch.allclose(Y.abs(), V.where(X.unsqueeze(1) != 0, 0.0), atol=1e-9)
    assert (Y * X.conj().unsqueeze(1)).imag.abs().max() < 1e-9


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize("start", ["softmask", "mixture_phase"])
def test_wiener_equals_norbert(spectra, iterations, start):
    X, V, _, _ = spectra
    x = X[0].permute(2, 1, 0).numpy().copy()  # (k, f, c), and norbert writes into its arguments
    v = V[0].permute(3, 2, 1, 0).numpy().copy()
    theirs = norbert.wiener(v, x, iterations=iterations, use_softmask=start == "softmask")
    theirs = torch.from_numpy(theirs).permute(3, 2, 1, 0)
    ours = wiener(V, X, iterations, start=start)[0]
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-6


def test_wiener_is_the_same_at_any_level_and_leaves_its_arguments_alone(spectra):
    X, V, _, _ = spectra
    X, V = X[..., :100, :20].to(torch.complex64), V[..., :100, :20].float()
    before = X.clone(), V.clone()
    Y = wiener(V, X, 2)
    assert torch.equal(X, before[0])
    assert torch.equal(V, before[1])
    for scale in (1e-6, 1e4):
        assert torch.allclose(wiener(V * scale, X * scale, 2) / scale, Y, atol=1e-4 * Y.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"power": 2.0}, {"start": "mixture_phase"}, {"start": "mixture_phase", "residual": True}, {"iterations": 3}],
    ids=str,
)
def test_compiled_wiener_equals_the_differentiable_one(spectra, dtype, options):
    """Stereo without gradients is code of its own; frames are no multiple of its tiles."""
    X, V, _, _ = spectra
    X, V = X[:, :, :40].repeat(2, 1, 1, 7)[..., :300], V[:, :, :, :40].repeat(2, 1, 1, 1, 7)[..., :300].to(dtype)
    X = X.to(torch.complex64 if dtype is torch.float32 else torch.complex128)
    X[1], V[1], X[0, :, 3], V[0, :, :, 5] = X[1] * 3, V[1] * 0.7, 0, 0
    ours, theirs = wiener(V, X, **options), wiener(V.clone().requires_grad_(), X, **options)
    assert (ours - theirs).abs().max() < (3e-6 if dtype is torch.float32 else 1e-9) * theirs.abs().max()
    mono = V.mean(2, keepdim=True)  # one model for both channels, in memory of any order
    theirs = wiener(mono.expand_as(V), X, **options)
    assert torch.equal(wiener(mono, X, **options), theirs)
    assert torch.equal(wiener(mono.mT.contiguous().mT, X.mT.contiguous().mT, **options), theirs)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_wiener_for_any_number_of_channels_batched(channels, generator):
    X = torch.randn(2, channels, 33, 20, dtype=torch.complex128, generator=generator)
    V = torch.rand(2, 3, channels, 33, 20, dtype=torch.float64, generator=generator)
    Y = wiener(V, X, 2, block=10)
    assert (Y.sum(1) - X).abs().max() < 1e-5  # up to the regularisation
    assert torch.allclose(Y[1:], wiener(V[1:], X[1:], 2, block=33), atol=1e-10)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("function", [softmask, wiener])
@pytest.mark.parametrize("shape", [(1, 2, 2, 10, 30), (3, 2, 2, 40, 30), (2, 2, 2, 40, 20), (2, 2, 3, 40, 30)])
def test_models_of_another_shape_are_refused(shape, function, gradients):
    """Compiled code would read what is behind the array."""
    X = torch.ones(2, 2, 40, 30, dtype=torch.complex64)
    with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match="is not for X"):
        function(torch.ones(shape, requires_grad=gradients), X)
    with torch.no_grad(), pytest.raises(ValueError, match="V are magnitudes, not spectra"):
        function(X.unsqueeze(1), X)


@pytest.mark.parametrize("shape", [(1, 3, 2, 20, 30), (2, 3, 1, 20, 30), (2, 3, 2, 20, 1)])
def test_models_are_repeated_where_they_are_one(shape, generator):
    X = torch.randn(2, 2, 20, 30, dtype=torch.complex64, generator=generator)
    V = torch.rand(shape, generator=generator)
    whole = V.expand(2, 3, 2, 20, 30).contiguous()
    for function in (softmask, wiener):
        torch.testing.assert_close(function(V, X), function(whole, X))
        torch.testing.assert_close(function(V.requires_grad_(), X).detach(), function(whole, X))
        V = V.detach()


def test_silence_stays_silent_and_gradients_finite():
    X = torch.zeros(1, 2, 5, 4, dtype=torch.complex64)
    V = torch.zeros(1, 3, 2, 5, 4)
    for result in (softmask(V, X, 2.0), binary_mask(V, X), mixture_phase(V, X), wiener(V, X, 2)):
        assert torch.equal(result, torch.zeros_like(result))
    X, V = X + 1, (V + 0.5).requires_grad_()
    wiener(V, X, 1).abs().sum().backward()
    assert torch.isfinite(V.grad).all()
