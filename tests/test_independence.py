"""ICA, AuxIVA and ILRMA: as many sources as channels, against reference implementations and on mixtures with known sources."""

from itertools import pairwise, permutations

import numpy as np
import pyroomacoustics
import pytest
import torch
from scipy.signal import fftconvolve
from sklearn.decomposition import FastICA
from ssspy.bss.ilrma import GaussILRMA
from ssspy.bss.iva import AuxGaussIVA, AuxLaplaceIVA

import mss
from mss.classical import ICA, _demixing, auxiva, ilrma
from mss.classical.auxiva import _cost as iva_cost
from mss.classical.auxiva import _update as iva_update
from mss.classical.ilrma import _cost as ilrma_cost
from mss.classical.ilrma import _start as ilrma_start
from mss.classical.ilrma import _update as ilrma_update

RATE = 44100
THREE = torch.tensor([[1.0, 0.6, 0.3], [0.4, 1.0, 0.5], [0.5, 0.3, 1.0]])


def melody(seed: int, low: int, high: int, seconds: float = 6.0) -> torch.Tensor:
    """Four notes a second of ten partials each, drawn from a range of MIDI pitches; peak 0.3."""
    g = np.random.default_rng(seed)
    t = np.arange(round(0.2375 * RATE)) / RATE
    envelope = np.minimum(1, t / 0.01) * np.minimum(1, (t[-1] - t) / 0.03) * np.exp(-1.5 * t)
    y = np.zeros(round(seconds * RATE))
    for start in range(0, y.size - t.size, RATE // 4):
        f = 440 * 2 ** ((g.integers(low, high) - 69) / 12)
        phases = g.uniform(0, 2 * np.pi, 10)
        y[start : start + t.size] += envelope * sum(
            np.sin(2 * np.pi * f * k * t + phases[k - 1]) / k for k in range(1, 11)
        )
    return torch.from_numpy(0.3 * y / np.abs(y).max())


def noises(seconds: float = 4.0) -> np.ndarray:
    """Two low-passed noises that swell and fade independently, (2, t)."""
    g = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE)) / RATE
    envelopes = [
        np.interp(t * rate, np.arange(seconds * rate + 2), g.standard_normal(int(seconds * rate) + 2) ** 2)
        for rate in (5, 6)
    ]
    return np.stack([e * np.convolve(g.standard_normal(t.size), np.ones(4) / 4, "same") for e in envelopes])


def convolved(sources: np.ndarray) -> torch.Tensor:
    """Images (2, 2, t) of two sources of like power in two channels, by filters of 1024 taps with a decaying tail."""
    g = np.random.default_rng(1)
    direct, delays = ((1, 0.7), (0.6, 1)), ((5, 20), (25, 3))  # channel, source
    images = np.empty((2, 2, sources.shape[-1]))
    for j, s in enumerate(sources):
        for c in range(2):
            h = 0.08 * g.standard_normal(1024) * np.exp(-np.arange(1024) / 150)
            h[: delays[c][j]] = 0
            h[delays[c][j]] = direct[c][j]
            images[j, c] = fftconvolve(s / s.std(), h)[: s.size]
    return torch.from_numpy(images / np.abs(images.sum(0)).max())


def instantaneous(sources: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """Images (n, c, t) of sources (n, t) at gains (c, n)."""
    return gains.to(sources).T.unsqueeze(-1) * sources.unsqueeze(1)


def si_sdr(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    """Of an image, all channels in one, dB."""
    r, e = reference.flatten().double(), estimate.flatten().double()
    r = (r @ e) / (r @ r) * r
    return float(10 * torch.log10(r.square().sum() / (e - r).square().sum()))


def scores(images: torch.Tensor, estimates: torch.Tensor) -> list[float]:
    """SI-SDR of every image, dB, under the best permutation of the estimates."""
    orders = permutations(range(len(images)))
    return max(([si_sdr(images[i], estimates[j]) for i, j in enumerate(order)] for order in orders), key=sum)


@pytest.fixture(scope="module")
def stems(excerpt) -> torch.Tensor:
    """Drums, other and vocals of the excerpt as mono, (3, t)."""
    return torch.stack([excerpt[name].mean(0) for name in ("drums", "other", "vocals")])


@pytest.fixture(scope="module")
def swelling() -> torch.Tensor:
    """Images of a convolutive mixture of two noises."""
    return convolved(noises())


@pytest.fixture(scope="module")
def spectrum(excerpt) -> torch.Tensor:
    """Three channels of music and a little noise, small enough to compare iterations, (1, 3, f, k) in double precision."""
    g = torch.Generator().manual_seed(2)
    x = torch.stack([excerpt[name][0, : 2 * RATE] for name in ("drums", "other", "vocals")]).double()
    x = THREE.double() @ x
    x = x + 1e-2 * x.std() * torch.randn(x.shape, generator=g, dtype=x.dtype)
    return mss.STFT(1024, 512)(x[None])


def test_ica_unmixes_three_stems_as_well_as_scikit_learn(stems):
    images = instantaneous(stems, THREE)
    x = images.sum(0)
    ours = scores(images, ICA(("a", "b", "c"))(x[None])[0])
    reference = FastICA(3, whiten="unit-variance", random_state=0, tol=1e-6, max_iter=500)
    s = torch.from_numpy(reference.fit_transform(x.T.numpy()).T)
    theirs = scores(images, instantaneous(s, torch.from_numpy(reference.mixing_)))
    assert min(ours) > 24
    assert all(a > b - 1 for a, b in zip(ours, theirs, strict=True))


def test_ica_unmixes_two_melodies_in_the_order_of_their_directions():
    """Of which one comes half a note later: what is struck together is not independent."""
    melodies = torch.stack([melody(3, 48, 60), melody(4, 60, 72).roll(RATE // 8)])
    images = instantaneous(melodies, torch.tensor([[1.0, 0.6], [0.5, 1.0]]))
    y = ICA(("left", "right"))(images.sum(0)[None])[0]
    assert all(si_sdr(image, estimate) > 35 for image, estimate in zip(images, y, strict=True))
    assert (y.sum(0) - images.sum(0)).abs().max() < 1e-12


@pytest.mark.parametrize("angle", [0, 20, 45, 70, 90])
def test_ica_does_not_stop_at_the_worst_rotation(stems, angle):
    """Sources of equal power at right angles: already white, and turned by 45 degrees the least separated of all."""
    a = torch.deg2rad(torch.tensor(float(angle)))
    gains = torch.stack([torch.stack([a.cos(), a.sin()]), torch.stack([-a.sin(), a.cos()])], 1)
    images = instantaneous(stems[[0, 2]] / stems[[0, 2]].std(1, keepdim=True), gains)
    assert min(scores(images, ICA(("left", "right"))(images.sum(0)[None])[0])) > 24


def test_what_is_one_source_in_two_channels_is_shared_out(stems):
    """Gains of 0.8 and 0.6: shares of 0.64 and 0.36. A silent channel leaves all to the other."""
    source = stems[2, None, :RATE]
    x = torch.cat([torch.stack([0.8 * source, 0.6 * source], 1), torch.stack([source, 0 * source], 1)])
    y = ICA(("left", "right"))(x)
    expected = torch.stack([torch.stack([0.64 * x[0], 0.36 * x[0]]), torch.stack([x[1], 0 * x[1]])])
    assert (y - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("method", "tolerance"), [("ica", 1e-4), ("auxiva", 2e-3), ("ilrma", 2e-3)])
def test_mono_as_stereo_is_halved(stems, method, tolerance):
    """Up to the square root of the noise that each method takes the channels to have."""
    mono = stems[2, :RATE].expand(1, 2, -1)
    y = mss.load(method)(mono)
    assert (y - mono.unsqueeze(1) / 2).abs().max() < tolerance * mono.abs().max()
    assert (y.sum(1) - mono).abs().max() < 1e-6


@pytest.mark.parametrize("iterations", [1, 20])
def test_projection_of_two_channels_is_where_row_by_row_ends(iterations, generator):
    x = torch.randn(5, 2, 2, 6, dtype=torch.complex128, generator=generator)
    U = x @ x.mH
    W = torch.randn(5, 2, 2, dtype=torch.complex128, generator=generator)

    def cost(W):
        return torch.einsum("fjc,fjcd,fjd->f", W, U, W.conj()).real - 2 * torch.linalg.slogdet(W).logabsdet

    closed = _demixing.iterative_projection(W, U)
    for _ in range(iterations):
        for j in range(2):  # the definition
            w = torch.linalg.inv(W @ U[:, j])[..., j]
            w = w / torch.einsum("fc,fcd,fd->f", w.conj(), U[:, j], w).real.sqrt()[:, None]
            W = torch.stack([w.conj() if i == j else W[:, i] for i in range(2)], 1)
        assert (cost(closed) <= cost(W) + 1e-9).all()
    assert torch.allclose(_demixing.iterative_projection(closed, U).abs(), closed.abs())
    if iterations == 20:
        assert torch.allclose(cost(closed), cost(W), atol=1e-3)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("model", ["laplace", "gauss"])
def test_the_cost_of_auxiva_never_rises(spectrum, channels, model):
    P, noise, Q = _demixing.whiten(spectrum[:, :channels], 1e-5)
    W, costs = torch.linalg.inv(Q), []
    for _ in range(30):
        costs.append(iva_cost(W, P, noise, model).item())
        W = iva_update(W, P, noise, model)
    assert all(b <= a + 1e-9 * abs(a) for a, b in pairwise(costs))
    assert costs[-1] < costs[0]


@pytest.mark.parametrize("channels", [2, 3])
def test_the_cost_of_ilrma_never_rises(spectrum, channels):
    P, noise, _ = _demixing.whiten(spectrum[:, :channels], 1e-5)
    W = torch.eye(channels, dtype=spectrum.dtype).expand(1, spectrum.shape[2], -1, -1)
    T, V = ilrma_start(P, channels, 4, 0)
    costs = []
    for _ in range(30):
        costs.append(ilrma_cost(W, T, V, P, noise).item())
        W, T, V = ilrma_update(W, T, V, P, noise)
    assert all(b <= a + 1e-9 * abs(a) for a, b in pairwise(costs))


def up_to_scale(W: np.ndarray) -> np.ndarray:
    """Rows of unit norm with a real, positive largest element."""
    W = W / np.linalg.norm(W, axis=-1, keepdims=True)
    largest = np.take_along_axis(W, np.abs(W).argmax(-1, keepdims=True), -1)
    return W * np.conj(largest) / np.abs(largest)


@pytest.mark.parametrize("model", ["laplace", "gauss"])
def test_auxiva_of_three_channels_equals_pyroomacoustics(spectrum, model):
    P, noise, Q = _demixing.whiten(spectrum, 1e-13)
    W = torch.linalg.inv(Q)
    for _ in range(10):
        W = iva_update(W, P, noise, model)
    theirs = pyroomacoustics.bss.auxiva(
        spectrum[0].permute(2, 1, 0).numpy(), n_iter=10, proj_back=False, model=model, return_filters=True
    )[1]
    assert np.abs(up_to_scale((W @ Q)[0].numpy()) - up_to_scale(theirs)).max() < 1e-6


@pytest.mark.parametrize(
    ("model", "reference", "each"),
    [("laplace", AuxLaplaceIVA, 2), ("gauss", AuxGaussIVA, 1)],
)
def test_auxiva_of_two_channels_equals_ssspy(spectrum, model, reference, each):
    """Of which each iteration goes over the one pair twice, and with one of the models weighs the frames anew in between."""
    X = spectrum[:, :2]
    P, noise, Q = _demixing.whiten(X, 1e-13)
    W = torch.linalg.inv(Q)
    for _ in range(10 * each):
        W = iva_update(W, P, noise, model)
    theirs = reference(spatial_algorithm="IP2", scale_restoration=False, record_loss=False)
    theirs(X[0].numpy(), n_iter=10)
    assert np.abs(up_to_scale((W @ Q)[0].numpy()) - up_to_scale(theirs.demix_filter)).max() < 1e-6


@pytest.mark.parametrize(("channels", "algorithm"), [(2, "IP2"), (3, "IP1")])
def test_ilrma_equals_ssspy(spectrum, channels, algorithm):
    """From the same spectra and activations, on the same whitened channels."""
    X = spectrum[:, :channels]
    P, noise, Q = _demixing.whiten(X, 1e-13)
    Z = (Q @ X.transpose(1, 2)).transpose(1, 2)
    W = torch.eye(channels, dtype=X.dtype).expand_as(Q)
    start = T, V = ilrma_start(P, channels, 4, 0)
    for _ in range(10):
        W, T, V = ilrma_update(W, T, V, P, noise)
    theirs = GaussILRMA(4, spatial_algorithm=algorithm, scale_restoration=False, record_loss=True)
    theirs(
        Z[0].numpy(), n_iter=10, basis=start[0][0].transpose(0, 1).numpy().copy(), activation=start[1][0].numpy().copy()
    )
    assert ilrma_cost(W, T, V, P, noise).item() == pytest.approx(theirs.loss[-1], rel=1e-6)
    assert np.abs(up_to_scale(W[0].numpy()) - up_to_scale(theirs.demix_filter)).max() < 1e-5


@pytest.mark.parametrize("method", ["auxiva", "ilrma"])
def test_a_convolutive_mixture_is_unmixed_and_swapping_channels_swaps_targets(swelling, method):
    x = swelling.sum(0)[None].float()
    assert max(scores(swelling, torch.stack([x[0], x[0]]))) < 3
    y = mss.load(method)(x)
    assert all(si_sdr(image, estimate) > 20 for image, estimate in zip(swelling, y[0], strict=True))
    swapped = mss.load(method)(x.flip(1)).flip(1, 2)
    assert (swapped - y).abs().max() < 2e-5


def test_ica_swaps_targets_with_channels(mixture):
    y = mss.load("ica")(mixture)
    assert (mss.load("ica")(mixture.flip(1)).flip(1, 2) - y).abs().max() < 2e-5


def test_auxiva_cannot_tell_melodies_apart():
    """Notes move from bin to bin, so no activation is common to all bins: a limit of the model, not of its solution."""
    images = convolved(np.stack([melody(1, 48, 60), melody(2, 60, 72)]))
    transform = mss.STFT()
    y = transform.inverse(auxiva(transform(images.sum(0)[None])), images.shape[-1])[0]
    assert max(scores(images, y)) < 5


def test_three_convolutive_channels_sum_to_the_mixture(spectrum):
    for method in (auxiva, ilrma):
        Y = method(spectrum, sources=3, iterations=5)
        assert Y.shape == (1, 3, *spectrum.shape[1:])
        assert (Y.sum(1) - spectrum).abs().max() < 1e-10 * spectrum.abs().max()
        power = Y.abs().square().sum((0, 2, 3, 4))
        assert (power.diff() < 0).all()  # the loudest first


@pytest.mark.parametrize("method", ["ica", "auxiva", "ilrma"])
def test_as_many_channels_as_targets(method, mixture):
    with pytest.raises(ValueError, match=r"with 2 targets needs two channels, one for each, but the mixture has 3$"):
        mss.load(method)(mixture[:, :1].expand(-1, 3, -1))
