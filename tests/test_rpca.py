"""Robust PCA: planted matrices, an independent solver, what voice activity does, and real music."""

import numpy as np
import pytest
import torch

import mss
from mss.classical import principal_component_pursuit, rpca
from mss.classical._svd import Shrinkage, largest_singular_value
from tests.conftest import sdr


def planted(p: int, q: int, rank: int, seed: int = 0, share: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix of low rank and one with few entries, those up to 50."""
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((p, rank)) @ rng.standard_normal((rank, q))
    sparse = np.where(rng.random((p, q)) < share, rng.uniform(-50, 50, (p, q)), 0)
    return torch.from_numpy(low)[None], torch.from_numpy(sparse)[None]


@pytest.mark.parametrize("shape", [(400, 600), (90, 120)])  # by subspace iteration, and by Gram matrices
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_a_planted_sum_is_taken_apart(shape, dtype, limit):
    rank = shape[0] // 40
    low, sparse = planted(*shape, rank)
    D = (low + sparse).to(dtype)
    A, E = principal_component_pursuit(D)
    assert A.dtype == E.dtype == dtype
    assert (A + E - D).abs().max() < 100 * torch.finfo(dtype).eps * D.abs().max()
    assert (A - low).norm() < limit * low.norm()
    assert (E - sparse).norm() < limit * sparse.norm()
    assert torch.linalg.matrix_rank(A[0].double(), rtol=10 * limit) == rank


def test_the_minimum_is_that_of_another_solver():
    """Alternating directions with a constant penalty and a full SVD, in NumPy, which converge slowly but surely."""
    D = np.random.default_rng(3).standard_normal((30, 40))
    limit, mu = 1 / 40**0.5, 0.3
    A, Y = np.zeros_like(D), np.zeros_like(D)
    for _ in range(3000):
        E = D - A + Y / mu
        E = np.sign(E) * np.maximum(np.abs(E) - limit / mu, 0)
        U, s, V = np.linalg.svd(D - E + Y / mu, full_matrices=False)
        A = U * np.maximum(s - 1 / mu, 0) @ V
        Y += mu * (D - A - E)

    def cost(A):
        return np.linalg.svd(A, compute_uv=False).sum() + limit * np.abs(D - A).sum()

    ours, _ = principal_component_pursuit(torch.from_numpy(D)[None], growth=1.02, iterations=1000)
    assert cost(ours[0].numpy()) < (1 + 1e-4) * cost(A)
    assert cost(A) < 0.98 * min(cost(0 * D), cost(D))


def test_items_of_a_batch_are_done_by_themselves():
    """They stop at different iterations, after which more of them would change what comes out."""
    parts = [sum(planted(100, 120, rank, rank, share)) for rank, share in ((2, 0.01), (20, 0.1), (5, 0.05))]
    parts[1] = parts[1] * 1e6
    A, E = principal_component_pursuit(torch.cat([*parts, 0 * parts[0]]), tolerance=0.01)
    for i, D in enumerate(parts):
        alone = principal_component_pursuit(D, tolerance=0.01)
        assert (A[i] - alone[0][0]).norm() < 1e-9 * D.norm()
        assert (E[i] - alone[1][0]).norm() < 1e-9 * D.norm()
    assert not A[3].any()
    assert not E[3].any()


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (100, 40)])
def test_shrinkage_equals_that_by_svd(shape, generator):
    Z = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    U, _, V = torch.linalg.svd(Z, full_matrices=False)
    s = 1.2 ** -torch.arange(min(shape), dtype=torch.float64).expand(2, -1) * torch.tensor([[1.0], [3.0]])
    Z = (U * s.unsqueeze(-2)) @ V
    assert torch.allclose(largest_singular_value(Z)[:, 0, 0], s[:, 0], rtol=1e-3)
    at_once = Shrinkage()(Z, torch.full((2, 1, 1), 1e-3, dtype=torch.float64))
    wanted = (U * (s.unsqueeze(-2) - 1e-3).clamp_min(0)) @ V
    assert (at_once - wanted).norm() < 0.05 * Z.norm()  # it goes on until the smallest value found is below
    shrink = Shrinkage()
    for threshold in (0.5, 0.3, 0.2, 0.1, 1e-2, 1e-5, 1e-9):
        threshold = torch.tensor([threshold, 2 * threshold], dtype=torch.float64).view(2, 1, 1)
        wanted = (U * (s.unsqueeze(-2) - threshold).clamp_min(0)) @ V
        errors = [float((shrink(Z, threshold) - wanted).norm() / Z.norm()) for _ in range(4)]
        assert errors[0] < 0.05
        assert errors[-1] < 1e-4


def test_large_matrices_of_a_low_rank_need_no_gram_matrix(monkeypatch):
    monkeypatch.setattr("mss.classical._svd._by_gram", None)
    low, sparse = planted(200, 300, 5)
    A, _ = principal_component_pursuit(low + sparse)
    assert (A - low).norm() < 1e-6 * low.norm()


@pytest.fixture(scope="module")
def spectrum(excerpt):
    return mss.STFT()(excerpt["mixture"][None, :, : 3 * 44100])


def test_where_there_is_no_voice_the_vocals_are_silent(spectrum):
    activity = torch.ones(1, spectrum.shape[-1])
    everywhere = rpca(spectrum)
    assert torch.allclose(rpca(spectrum, activity=activity), everywhere, atol=1e-3)
    activity[:, 30:60] = 0
    activity[:, 60:90] = 0.5
    voice, accompaniment = rpca(spectrum, activity=activity)[0]
    assert not voice[..., 30:60].any()
    assert torch.allclose(accompaniment[..., 30:60], spectrum.abs()[0, ..., 30:60], atol=1e-5)
    assert voice[..., :30].square().sum() > 0.5 * everywhere[0, 0, ..., :30].square().sum()
    assert 0 < voice[..., 60:90].square().sum() < 0.8 * everywhere[0, 0, ..., 60:90].square().sum()


def test_low_bins_are_accompaniment_and_sparsity_is_the_price_of_the_voice(spectrum):
    energies = []
    for sparsity in (0.7, 1.0, 2.0):
        voice, accompaniment = rpca(spectrum, sparsity=sparsity)[0]
        assert not voice[:, :10].any()
        assert voice[:, 10:].any()
        assert torch.equal(accompaniment[:, :10], spectrum.abs()[0, :, :10])
        energies.append(float(voice.square().sum()))
    assert energies[0] > energies[1] > energies[2] > 0


def test_channels_share_a_background(spectrum):
    """Their order does not count, and one that is silent gets silence."""
    swapped = rpca(spectrum.flip(1)).flip(2)
    assert torch.allclose(swapped, rpca(spectrum), atol=1e-3)
    left = torch.stack([spectrum[:, 0], 0 * spectrum[:, 0]], 1)
    assert not rpca(left)[:, :, 1].any()


def test_rpca_on_music(excerpt):
    x, vocals = excerpt["mixture"], excerpt["vocals"]
    estimate = mss.load("rpca")(x[None])[0]
    gains = [sdr(s, y) - sdr(s, x) for s, y in zip((vocals, x - vocals), estimate, strict=True)]
    assert gains[0] > 6
    assert gains[1] > 0
