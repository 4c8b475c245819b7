"""Models of spatial covariances: known answers, costs that never rise, references, and music in a made-up room."""

import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from ssspy.bss.mnmf import FastGaussMNMF, GaussMNMF

import mss
from mss.classical import _covariances, fastmnmf, lgm, mnmf
from mss.combined import Refined
from mss.filters import softmask, wiener
from mss.spec import build, spec

RATE = 44100
FILTERS = (lgm, mnmf, fastmnmf)
NOISE = 1e-6


def modules():
    """The modules behind the functions of the same names."""
    return tuple(sys.modules[f.__module__] for f in FILTERS)


def room(angles, *, seconds: float = 0.25, level: float = 0.3, seed: int = 1) -> torch.Tensor:
    """Impulse responses (n, 2, t): a direct path panned by constant power, then noise that decays by 60 dB in `seconds`."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(round(seconds * RATE)) / RATE
    tails = torch.randn(len(angles), 2, len(t), generator=generator) * 10 ** (-3 * t / seconds) * (t > 0.004)
    h = level * tails / tails.square().sum((1, 2), keepdim=True).sqrt()
    phi = torch.deg2rad(torch.tensor(angles, dtype=h.dtype))
    h[:, 0, 0], h[:, 1, 0] = phi.cos(), phi.sin()
    return h


def reverberant(stems: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Stems (n, t) in a room (n, c, t): images (n, c, t)."""
    size = stems.shape[-1] + h.shape[-1]
    spectra = torch.fft.rfft(stems.unsqueeze(1), size) * torch.fft.rfft(h, size)
    return torch.fft.irfft(spectra, size)[..., : stems.shape[-1]]


def nearest_angle(X: torch.Tensor, *, angles) -> torch.Tensor:
    """Binary masks by the level difference, as the simplest position model has them; V (b, n, c, f, k)."""
    phi = torch.atan2(X[:, 1].abs(), X[:, 0].abs()).unsqueeze(1)  # (b, 1, f, k)
    centres = torch.deg2rad(torch.tensor(angles, dtype=phi.dtype)).view(-1, 1, 1)
    winner = (phi - centres).abs().argmin(1, keepdim=True)
    masks = winner == torch.arange(len(angles)).view(-1, 1, 1)
    return masks.unsqueeze(2) * X.abs().unsqueeze(1)


def si_sdr(reference: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Mean over the targets of the SI-SDR of (n, c, t) images on their channels in a row, dB."""
    r, e = reference.flatten(1), estimate.flatten(1)
    target = (r * e).sum(1, keepdim=True) / r.square().sum(1, keepdim=True) * r
    return (10 * torch.log10(target.square().sum(1) / (e - target).square().sum(1))).mean()


@pytest.fixture(scope="module")
def stems(excerpt) -> torch.Tensor:
    """Three mono stems of equal power, 3 s, (3, t)."""
    x = torch.stack([excerpt[name].mean(0)[: 3 * RATE] for name in ("drums", "other", "vocals")])
    return 0.05 * x / x.square().mean(1, keepdim=True).sqrt()


def scene(stems, angles, **options):
    """Images (n, c, t), their mixture's X (1, c, f, k), V (1, n, c, f, k) of binary masks, and Y -> SI-SDR, dB."""
    images = reverberant(stems[: len(angles)], room(angles, **options))
    mixture = images.sum(0)
    transform = mss.STFT()
    X = transform(mixture[None])
    return (
        images,
        X,
        nearest_angle(X, angles=angles),
        lambda Y: si_sdr(images, transform.inverse(Y, mixture.shape[-1])[0]),
    )


@pytest.fixture
def model(generator):
    """v (1, f, n, k), R (1, f, n, c, c) of full rank, and x (1, f, c, k) drawn from the sum of the images' Gaussians."""
    f, n, c, k = 5, 3, 2, 60
    draw = partial(torch.randn, generator=generator, dtype=torch.complex128)
    A = draw(1, f, n, c, c)
    R = A @ A.mH
    R = c * R / R.diagonal(dim1=-2, dim2=-1).sum(-1).real[..., None, None]
    v = draw(1, f, n, k).abs() ** 4
    images = v.sqrt().unsqueeze(3) * (torch.linalg.cholesky(R) @ draw(1, f, n, c, k))
    return v, R, images.sum(2)


@pytest.mark.parametrize("c", [2, 3])
def test_packed_matrices_do_what_matrices_do(c, generator):
    A, B = (torch.randn(4, 7, c, c, generator=generator, dtype=torch.complex128) for _ in range(2))
    A, B = A @ A.mH, B @ B.mH
    x = torch.randn(4, c, 7, generator=generator, dtype=torch.complex128)
    a = _covariances.pack(A)
    assert torch.allclose(_covariances.unpack(a), A)
    assert torch.allclose((a * _covariances.pack(B)).sum(-1), (A @ B).diagonal(dim1=-2, dim2=-1).sum(-1).real)
    assert torch.allclose(_covariances.outer(x).mT, _covariances.pack(x.mT.unsqueeze(-1) * x.mT.conj().unsqueeze(-2)))
    assert torch.allclose(_covariances.product(a.mT, x), (A @ x.mT.unsqueeze(-1)).squeeze(-1).mT)
    inverse, logdet = _covariances.inverse_and_logdet(a.mT)
    assert torch.allclose(inverse.mT, _covariances.pack(torch.linalg.inv(A)))
    assert torch.allclose(logdet, torch.linalg.slogdet(A).logabsdet)
    H = modules()[1].riccati(A, B)
    assert torch.allclose(H @ A @ H, B)
    assert torch.linalg.eigvalsh(H).min() > 0


def test_lgm_of_the_true_model_is_the_posterior_mean(model):
    v, R, x = model
    ours = modules()[0].posterior_means(v, _covariances.pack(R), x, 0.0)  # (b, f, n, c, k)
    for j in range(3):
        for k in (0, 17, 59):
            mixed = torch.einsum("fn,fncd->fcd", v[0, :, :, k].to(R), R[0])
            mean = v[0, :, j, k, None, None] * R[0, :, j] @ torch.linalg.solve(mixed, x[0, :, :, k, None])
            assert torch.allclose(ours[0, :, j, :, k], mean[..., 0], rtol=1e-9)
    assert torch.allclose(ours.sum(2), x)


def lgm_likelihoods(v, R, x, steps=30):
    L = modules()[0]
    for _ in range(steps):
        yield L.log_likelihood(v, R, x, NOISE)
        v, R = L.em_step(v, R, x, NOISE)


def test_lgm_step_is_expectation_and_maximisation(model, generator):
    """Against the textbook's two steps with all their inverses."""
    _, R, x = model
    v = torch.rand(1, 5, 3, 60, generator=generator, dtype=torch.float64) + 0.1
    S = torch.linalg.inv(torch.einsum("bfnk,bfncd->bfkcd", v.to(R), R) + NOISE * torch.eye(2))  # (b, f, k, c, c)
    prior = v[..., None, None] * R.unsqueeze(3)  # (b, f, n, k, c, c)
    W = prior @ S.unsqueeze(2)
    y = W @ x.mT.unsqueeze(2).unsqueeze(-1)
    C = y @ y.mH + prior - W @ prior
    power = (torch.linalg.inv(R).unsqueeze(3) @ C).diagonal(dim1=-2, dim2=-1).sum(-1).real / 2
    covariance = (C / power[..., None, None]).mean(3)
    new_v, new_R = modules()[0].em_step(v, _covariances.pack(R), x, NOISE)
    ours = new_v[..., None, None] * _covariances.unpack(new_R).unsqueeze(3)  # their product, free of the scale
    assert torch.allclose(ours, power[..., None, None] * covariance.unsqueeze(3), rtol=1e-9)


def test_lgm_likelihood_never_falls_on_generated_data(model, generator):
    _, R, x = model
    v = torch.rand(1, 5, 3, 60, generator=generator, dtype=torch.float64)
    assert all(b > a for a, b in pairwise(lgm_likelihoods(v, _covariances.pack(R), x)))


def test_costs_never_rise_on_music(stems):
    _, X, V, _ = scene(stems, (20, 45, 70))
    X, V = X[:, :, 5:1500:32], V[..., 5:1500:32, :]
    _, M, F = modules()
    scaled = _covariances.double(X / _covariances.level(X))
    x, blocks = scaled.transpose(1, 2), _covariances.frequency_blocks(X, 2**12)
    likelihoods = lgm_likelihoods(*_covariances.spatial_start(V, scaled, spread=0.1), x)
    assert all(b > a for a, b in pairwise(likelihoods))
    T, U, R = _covariances.nmf_start(V, scaled, components=4, spread=0.1, seed=0)
    state, costs = (T, U, R), []
    for _ in range(15):
        costs.append(M.cost(*state, x, NOISE))
        state = M.update(*state, x, NOISE, blocks)
    assert all(b < a for a, b in pairwise(costs))
    state, costs = (T, U, *reversed(F.joint_diagonaliser(_covariances.unpack(R)))), []
    for _ in range(15):
        costs.append(F.cost(*state, x, NOISE))
        state = F.update(*state, x, NOISE, blocks)
    assert all(b < a for a, b in pairwise(costs))


def small_problem(generator, c=2, n=3, f=6, k=20, a=2):
    draw = partial(torch.rand, generator=generator, dtype=torch.float64)
    x = torch.randn(1, f, c, k, generator=generator, dtype=torch.complex128)
    return x, draw(1, f, n, a) + 0.1, draw(1, n, a, k) + 0.1, draw(1, f, n, c) + 0.1


@pytest.mark.parametrize("c", [2, 3])
def test_mnmf_costs_are_those_of_ssspy(c, generator):
    x, T, U, _ = small_problem(generator, c)
    A = torch.randn(1, 6, 3, c, c, generator=generator, dtype=torch.complex128)
    R = A @ A.mH
    R = R / R.diagonal(dim1=-2, dim2=-1).sum(-1).real[..., None, None]  # of trace 1, as theirs
    theirs = ssspy_losses(
        GaussMNMF(n_basis=2, n_sources=3),
        x,
        basis=T[0].transpose(0, 1).numpy().copy(),
        activation=U[0].numpy().copy(),
        spatial=R[0].transpose(0, 1).numpy().copy(),
    )
    state, ours = (T / c, U, _covariances.pack(c * R)), []
    for _ in range(11):
        ours.append(float(modules()[1].cost(*state, x, 1e-14)) / x.shape[-1])
        state = modules()[1].update(*state, x, 1e-14, [slice(0, 4), slice(4, 6)])
    assert np.allclose(ours, theirs, rtol=1e-7)


@pytest.mark.parametrize("c", [2, 3])
def test_fastmnmf_costs_are_those_of_ssspy(c, generator):
    x, T, U, g = small_problem(generator, c)
    Q = torch.randn(1, 6, c, c, generator=generator, dtype=torch.complex128)
    theirs = ssspy_losses(
        FastGaussMNMF(n_basis=2, n_sources=3, diagonalizer_algorithm="IP2" if c == 2 else "IP1"),
        x,
        basis=T[0].transpose(0, 1).numpy().copy(),
        activation=U[0].numpy().copy(),
        spatial=g[0].numpy().copy(),
        diagonalizer=Q[0].numpy().copy(),
    )
    state, ours = (T, U, g, Q), []
    for _ in range(11):
        ours.append(float(modules()[2].cost(*state, x, 1e-14)) / x.shape[-1])
        state = modules()[2].update(*state, x, 1e-14, [slice(0, 4), slice(4, 6)])
    assert np.allclose(ours, theirs, rtol=1e-7)


def ssspy_losses(model, x, **start):
    """The losses of a model of ssspy before and after each of 10 iterations from a given start."""
    model(x[0].permute(1, 0, 2).numpy(), n_iter=10, **start)
    return np.array(model.loss)


def test_lgm_and_mnmf_beat_the_binary_masks_they_start_from_in_a_room(stems):
    _, X, V, score = scene(stems[:, RATE:], (20, 45, 70))
    masks = score(softmask(V, X))
    assert score(lgm(V, X)) > masks + 0.3
    assert score(mnmf(V, X)) > masks + 1


def test_two_sources_in_two_channels_are_unmixed_beyond_the_start(stems):
    """An instantaneous mixture, 2 x 2: masks leave where both sound, a full model does not."""
    images = torch.stack(
        [torch.outer(torch.tensor(g), s) for g, s in zip([(1, 0.6), (0.5, 1)], stems[1:, RATE : 2 * RATE], strict=True)]
    )
    transform, length = mss.STFT(), images.shape[-1]
    X = transform(images.sum(0)[None])
    V = nearest_angle(X, angles=(30.96, 63.43))
    score = lambda Y: si_sdr(images, transform.inverse(Y, length)[0])  # noqa: E731
    for method in (mnmf, fastmnmf):
        after = score(method(V, X))
        assert after > score(method(V, X, iterations=0)) + 1
        assert after > score(softmask(V, X)) + 1


@pytest.mark.parametrize("method", FILTERS)
def test_batch_level_silence_and_sum(method, stems):
    _, X, V, _ = scene(stems[..., :RATE], (30, 60))
    X, V = X[:, :, ::32], V[..., ::32, :]
    batch = torch.cat([X, 1e-3 * X.flip(-1), torch.zeros_like(X), -10 * X])
    weights = torch.cat([V, V.flip(-1), torch.zeros_like(V), V])
    before = batch.clone(), weights.clone()
    Y = method(weights, batch)
    peak = X.abs().max()
    assert torch.equal(batch, before[0])
    assert torch.equal(weights, before[1])
    assert torch.allclose(Y[:1], method(V, X), atol=1e-5 * peak)
    assert torch.allclose(Y[1:2], 1e-3 * method(V.flip(-1), X.flip(-1)), atol=1e-8 * peak)
    assert torch.equal(Y[2], torch.zeros_like(Y[2]))
    assert torch.allclose(Y[3], -10 * Y[0], atol=1e-4 * peak)
    assert torch.allclose(Y.sum(1), batch, atol=1e-5 * peak)


@pytest.mark.parametrize("method", FILTERS)
def test_any_number_of_channels_but_one(method, stems):
    _, X, V, _ = scene(stems[..., :RATE], (30, 60))
    X, V = X[:, :, ::32], V[..., ::32, :]
    Y = method(torch.cat([V, V, V], 2), torch.cat([X, -X, X / 2], 1))  # six, of rank two
    assert torch.isfinite(Y.abs()).all()
    assert torch.allclose(Y.sum(1)[:, :2], X, atol=1e-4 * X.abs().max())
    with pytest.raises(ValueError, match=f"{method.__name__} needs two channels or more.* 1$"):
        method(V[:, :, :1], X[:, :1])


def test_seed_decides_and_repeats(stems):
    _, X, V, _ = scene(stems[..., :RATE], (30, 60))
    X, V = X[:, :, ::32], V[..., ::32, :]
    for method in (mnmf, fastmnmf):
        assert torch.equal(method(V, X, seed=3), method(V, X, seed=3))
        assert not torch.equal(method(V, X, seed=3), method(V, X, seed=4))


def test_refined_filters_with_the_estimates_of_another_separator(mixture):
    first = mss.load("hpss")
    refined = Refined(first, partial(wiener, iterations=1))
    X = first.transform(mixture)
    expected = first.transform.inverse(wiener(first.transform(first(mixture)).abs(), X), mixture.shape[-1])
    assert torch.equal(refined(mixture), expected)
    assert (refined.targets, refined.sample_rate, refined.context) == (first.targets, 44100, None)
    for method in (partial(lgm, iterations=2), partial(mnmf, iterations=1, components=2)):
        y = Refined(first, method)(mixture[..., :RATE])
        assert (y.sum(1) - mixture[..., :RATE]).abs().max() < 1e-5
    description = spec(refined)
    assert spec(build(description)) == description
    assert torch.equal(build(description)(mixture), expected)
