"""Deep clustering and Chimera: k-means against scikit-learn, masks of perfect embeddings, invariants, learning."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

import mss
from mss.checkpoint import load, save
from mss.nets import Chimera, Clusters, DeepClustering
from mss.nets._kmeans import centres_of, kmeans
from mss.separator import SpectralSeparator
from mss.spec import build, spec
from mss.training import LOSSES, Step
from mss.transforms import STFT

from .conftest import sdr

TRANSFORM = STFT(256, 64)
SMALL = {"dimension": 6, "hidden": 12, "layers": 2}
NAMES = ("source_1", "source_2", "source_3", "source_4")


def separator_of(net, transform=TRANSFORM):
    return SpectralSeparator(net, NAMES[: net.targets], transform=transform).eval()


def blobs(centres, seed, spread=0.5, d=4):
    points = make_blobs(400, d, centers=centres, cluster_std=spread, center_box=(-4, 4), random_state=seed)[0]
    return torch.tensor(points)[None]


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_is_as_good_as_scikit_learns(seed):
    points = blobs(4, seed, spread=1.5)
    weights = torch.rand(1, 400, generator=torch.Generator().manual_seed(seed)).double()
    centres, inertia = kmeans(points, weights, 4, iterations=50, restarts=10)
    theirs = KMeans(4, n_init=10, random_state=0).fit(points[0].numpy(), sample_weight=weights[0].numpy())
    assert inertia.item() * weights.max().item() == pytest.approx(theirs.inertia_, rel=1e-3)
    order = [np.linalg.norm(centres[0].numpy() - c, axis=1).argmin() for c in theirs.cluster_centers_]
    assert sorted(order) == [0, 1, 2, 3]


def test_kmeans_ignores_points_of_weight_0_and_takes_items_one_by_one():
    points = torch.cat([blobs(3, seed) for seed in (1, 2)])
    weights = torch.ones(2, 400).double()
    together = kmeans(points, weights, 3)[0]
    assert torch.allclose(together[1:], kmeans(points[1:], weights[1:], 3)[0], atol=1e-12)
    outliers = torch.cat([points, points.new_full((2, 50, 4), 1e3)], 1)
    weighted = torch.cat([weights, weights.new_zeros(2, 50)], 1)
    assert torch.allclose(kmeans(outliers, weighted, 3)[0], together, atol=1e-9)
    assert torch.isfinite(kmeans(points, 0 * weights, 3)[0]).all()
    assert not torch.equal(
        kmeans(points, weights, 3, seed=1, iterations=0)[0], kmeans(points, weights, 3, iterations=0)[0]
    )


@pytest.mark.parametrize("count", [2, 3, 4])
def test_number_of_clusters_is_found(count):
    directions = 4 * torch.eye(5).double()[:count]
    centres, used = centres_of(blobs(directions.numpy(), 0, d=5), torch.ones(1, 400).double(), 5, None, seed=0)
    assert used[0].tolist() == [True] * count + [False] * (5 - count)
    assert (torch.cdist(centres[0, :count], directions).amin(0) < 0.3).all()


class Perfect(DeepClustering):
    """Embeddings that are known to be right: the BLSTM's output is replaced by the dominant sources."""

    def knows(self, S):
        winner = S[..., : self.bins, :].abs().argmax(1)  # (b, c, f, k)
        one_hot = F.one_hot(winner, self.dimension).to(S.real)  # (b, c, f, k, d)
        self.known = one_hot.transpose(2, 3).flatten(-2)  # (b, c, k, f * d)
        return winner

    def _common(self, X):
        return self.known

    def _embedded(self, h):
        return h.unflatten(-1, (self.bins, -1)).transpose(2, 3).flatten(1, 3)


@pytest.mark.parametrize("sources", [3, None])
@pytest.mark.parametrize("frames", [40, 600])
def test_perfect_embeddings_give_the_ideal_binary_mask(sources, frames, generator):
    S = torch.randn(2, 3, 2, 20, frames, dtype=torch.complex128, generator=generator)
    S *= torch.tensor([1, 4, 2]).view(1, 3, 1, 1, 1)
    X = S.sum(1)
    net = Perfect(20, targets=4, dimension=5, clusters=Clusters(sources, sharpness=None, active=400.0))
    winner = net.knows(S)
    V = net(X)
    assert V.shape == (2, 4, 2, 20, frames)
    for i, source in enumerate((1, 2, 0)):  # the loudest first
        assert torch.equal(V[:, i], (winner == source) * X.abs())
    assert V[:, 3].abs().max() == 0
    net.clusters = Clusters(sources, sharpness=8.0, active=400.0)
    assert (net(X) - V).abs().max() < 1e-6 * X.abs().max()


def test_silent_bins_have_no_say(generator):
    """Half of the bins are 60 dB down, with embeddings of their own that would otherwise take a centre."""
    S = torch.randn(1, 3, 2, 20, 30, dtype=torch.complex128, generator=generator)
    S[..., :10, :] *= 1e-3
    S[:, 2, :, 10:] *= 1e-6
    S[:, :2, :, :10] *= 1e-6
    net = Perfect(20, targets=2, dimension=4, clusters=Clusters(2, sharpness=None))
    winner, X = net.knows(S), S.sum(1)
    masks = net(X)[:, :, :, 10:] > 0
    heard = winner[:, :, 10:]
    assert torch.equal(masks[:, 0], heard == 0) or torch.equal(masks[:, 0], heard == 1)


def test_bins_above_get_what_those_below_have(generator):
    S = torch.randn(1, 2, 1, 24, 30, dtype=torch.complex128, generator=generator)
    S[:, 0, :, :, ::2] *= 1e-6  # the sources take turns
    S[:, 1, :, :, 1::2] *= 1e-6
    S[:, 1] *= 1.5
    S[..., 12:15, :] = 1e-4 * S[..., 12:15, :].flip(1)  # what is hardly heard there does not count
    net = Perfect(16, targets=2, dimension=2, clusters=Clusters(2, sharpness=None))
    net.knows(S)
    Y = SpectralSeparator(net, NAMES[:2]).filter(net(S.sum(1)), S.sum(1))
    assert (Y[:, 0] - S[:, 1]).abs().max() < 5e-3
    assert (Y[:, 1] - S[:, 0]).abs().max() < 5e-3


def test_embeddings_are_in_the_order_of_the_bins(generator):
    """With all other weights 0, a bin's embedding shows its frequency alone; frames and channels must not mix with it."""
    net = DeepClustering(10, dimension=10, **{k: SMALL[k] for k in ("hidden", "layers")})
    with torch.no_grad():
        net.embedding.weight.zero_()
        net.embedding.bias.copy_(torch.eye(10).flatten())
    X = torch.randn(2, 3, 12, 7, dtype=torch.complex64, generator=generator)
    points = net.embed(X)
    assert points.shape == (2, 3 * 10 * 7, 10)
    assert torch.equal(points.argmax(-1).view(2, 3, 10, 7), torch.arange(10).view(1, 1, 10, 1).expand(2, 3, 10, 7))
    assert torch.allclose(points.norm(dim=-1), torch.ones(2, 210))
    net = DeepClustering(10, **SMALL).eval()
    alone = net.embed(X[1:, 2:])  # every channel by itself but for the level, which is that of all
    assert F.cosine_similarity(net.embed(X)[1:, 140:], alone, dim=-1).min() > 0.99


@pytest.mark.parametrize("net", [
    DeepClustering(129, **SMALL), DeepClustering(100, targets=3, clusters=Clusters(2, sharpness=None), **SMALL),
    Chimera(100, **SMALL), Chimera(129, targets=3, clusters=Clusters(2), **SMALL),
])  # fmt: skip
def test_invariants(net, generator, tmp_path):
    separator = separator_of(net).double()
    x = torch.randn(3, 2, 1500, generator=generator).double()
    x[1] *= torch.linspace(0, 1, 1500)
    with torch.no_grad():
        y = separator(x)
        assert y.shape == (3, net.targets, 2, 1500)
        assert torch.allclose(y.sum(1), x, atol=1e-9)
        for i in range(3):
            assert torch.allclose(separator(x[i : i + 1]), y[i : i + 1], atol=1e-9)
        for scale in (1e-6, 1e4, -1):
            assert torch.allclose(separator(scale * x), scale * y, atol=1e-9 * abs(scale))
        assert separator(x[:1, :1]).shape == (1, net.targets, 1, 1500)
        silence = separator(torch.cat([x[:1], 0 * x[:1]]))
        assert torch.allclose(silence[:1], y[:1], atol=1e-9)
        assert silence[1].abs().max() == 0
        assert torch.equal(separator(x), y)  # and not the global random numbers

    separator = separator.float()
    save(separator, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert spec(build(spec(separator))) == spec(again) == spec(separator)
    with torch.no_grad():
        assert torch.equal(again(x.float()), separator(x.float()))


@pytest.mark.parametrize("kind", [DeepClustering, Chimera])
def test_on_the_meta_device(kind):
    with torch.device("meta"):
        net = kind(100, **SMALL).eval()
        V = net(torch.empty(2, 2, 129, 20, dtype=torch.complex64))
    assert V.shape == (2, net.targets, 2, 129, 20)
    assert V.is_meta


def test_input_is_normalised_by_what_was_fitted(generator):
    net = DeepClustering(20, **SMALL)
    slope = torch.logspace(0, -2, 24).view(1, 1, -1, 1)
    X = slope * torch.randn(2, 2, 24, 50, dtype=torch.complex64, generator=generator)
    net.eval().fit_input([X, 100 * X[:1]])
    x = torch.cat([net._log_magnitudes(part) for part in (X, X[:1])])
    assert torch.allclose(net.mean.squeeze(), x.mean((0, 1, 3)), atol=1e-5)
    assert torch.allclose(net.deviation.squeeze(), x.std((0, 1, 3), correction=0), atol=1e-5)
    assert torch.allclose(net.embed(1e-25 * X), net.embed(X), atol=1e-4)  # whose squares are 0
    net.fit_input([0 * X])
    assert torch.isfinite(net.embed(X)).all()
    with pytest.raises(ValueError, match="at least one mixture"):
        net.fit_input([])
    with pytest.raises(ValueError, match="sees 20 bins, the spectra have 19"):
        net(X[..., :19, :])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="5 sources do not fit into 4 targets"):
        DeepClustering(10, clusters=Clusters(5))
    with pytest.raises(ValueError, match="from 1 on, or None"):
        Clusters(0)
    with pytest.raises(ValueError, match="above 0, or None"):
        Clusters(sharpness=0)
    with pytest.raises(ValueError, match="at least two targets, not 1"):
        Chimera(10, targets=1)


def test_names_are_public():
    assert {"DeepClustering", "Chimera", "Clusters"} <= set(mss.nets.__all__)


def two_sources(generator):
    """Chirps against bursts of noise, (4, 2, 1, t): excerpts in which either is the louder now and then."""
    t = torch.arange(8000) / 8000
    tones, bursts = [], []
    for _ in range(4):
        u = torch.rand(4, generator=generator)
        f = 200 + 500 * u[0]
        tones.append(sum(torch.sin(2 * torch.pi * h * (f * t + 100 * u[1] * t.square())) / h for h in range(1, 8)))
        gate = (torch.sin(2 * torch.pi * (3 + 3 * u[2]) * t + 6 * u[3]) > 0.5).float()
        bursts.append(2 * gate * torch.randn(8000, generator=generator))
    return torch.stack([torch.stack(tones), torch.stack(bursts)], 1).unsqueeze(2)


def test_slopes_are_finite_where_an_item_is_silent(generator):
    x = torch.randn(2, 1, 3000, generator=generator)
    x[0] = 0
    X = TRANSFORM(x).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = DeepClustering(129, targets=2, dimension=4, hidden=8, layers=1)
    points = net.embed(X)
    (points * torch.randn(points.shape, generator=generator)).sum().backward()
    assert X.grad.isfinite().all()
    assert (X.grad[1] != 0).any()


@pytest.mark.parametrize(
    ("net", "losses"),
    [
        (DeepClustering, {"deep_clustering": 1.0}),
        (DeepClustering, {"deep_clustering_whitened": 1.0}),
        (Chimera, {"deep_clustering_whitened": 0.5, "permutation_invariant": 0.5}),
    ],
)
def test_learns_to_separate(net, losses, generator):
    sources = two_sources(generator)
    mixture = sources.sum(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = net(129, targets=2, dimension=8, hidden=40, layers=1)
    separator = separator_of(net).train()
    net.fit_input([TRANSFORM(mixture)])
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        step = Step(separator, sources, mixture)
        optimizer.zero_grad()
        sum(weight * LOSSES[name](step) for name, weight in losses.items()).backward()
        optimizer.step()
    separator.eval()
    with torch.no_grad():
        y = separator(mixture)
    gains = []
    for s, e, x in zip(sources, y, mixture, strict=True):
        plain = [sdr(s[i], x) for i in range(2)]
        gains.append(max(np.mean([sdr(s[i], e[j]) - plain[i] for i, j in enumerate(o)]) for o in ((0, 1), (1, 0))))
    assert np.mean(gains) > 4


def test_the_two_heads_run_their_common_layers_once(generator):
    net, calls = Chimera(100, **SMALL), []
    net.blstm.register_forward_hook(lambda *_: calls.append(1))
    sources = torch.randn(2, 2, 2, 2000, generator=generator)
    step = Step(separator_of(net), sources, sources.sum(1))
    (LOSSES["deep_clustering"](step) + LOSSES["phase_sensitive"](step)).backward()
    assert len(calls) == 1
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    masks, clusters = net(step.X), Chimera(100, clusters=Clusters(2), **SMALL)
    clusters.eval().load_state_dict(net.state_dict())
    assert torch.equal(step.V, masks)
    assert not torch.allclose(clusters(step.X), masks)
