"""Losses: published definitions written out, finite on silence, independent of level where they say so, best orders."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mss.metrics import si_sdr
from mss.separator import SpectralSeparator
from mss.training import LOSSES, Step, loss_by_name
from mss.transforms import CQT, STFT

TRANSFORM = STFT(64, 16)
LEVEL_FREE = [name for name in LOSSES if name not in ("magnitude_mse", "magnitude_l1", "waveform_l1", "x_umx")]
every = pytest.mark.parametrize("name", LOSSES)


class Direct(nn.Module):
    """Magnitudes that do not vanish with the mixture, and embeddings: what is worst on silence."""

    def __init__(self, n: int, *, masks: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.masks = masks
        self.weight = nn.Parameter(torch.randn(n, 33, 33, generator=generator))
        self.bias = nn.Parameter(torch.randn(n, 33, 1, generator=generator))
        self.map = nn.Parameter(torch.randn(3, 5, generator=generator))

    def forward(self, X):
        magnitude = X.abs().unsqueeze(1)  # (b, 1, c, f, k)
        relative = magnitude / magnitude.mean((2, 3, 4), keepdim=True) if self.masks else magnitude
        V = self.weight[None, :, None] @ relative + self.bias[None, :, None]
        return torch.sigmoid(V) * magnitude if self.masks else F.relu(V)

    def embed(self, X):
        points = torch.stack([X.abs(), X.real, X.imag], -1) / X.abs().amax().clamp_min(1e-30)
        return F.normalize(points @ self.map + self.bias.sum(), dim=-1).flatten(1, 3)


def test_networks_are_not_trained_on_other_transforms():
    separator = SpectralSeparator(Direct(2), ["a", "b"], transform=CQT())
    sources = torch.randn(1, 2, 1, 20000, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="trained on excerpts of an STFT, not of a CQT"):
        Step(separator, sources, sources.sum(1)).X  # noqa: B018


def step_of(sources, mixture=None, **options):
    dtype = sources.dtype
    estimator = Direct(sources.shape[1], **options).to(dtype)
    names = [f"source_{i}" for i in range(1, sources.shape[1] + 1)]
    separator = SpectralSeparator(estimator, names, transform=TRANSFORM)
    return Step(separator, sources, sources.sum(1) if mixture is None else mixture)


def noise(b, n, c, t, generator, dtype=torch.float64):
    return torch.randn(b, n, c, t, generator=generator, dtype=torch.float64).to(dtype)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "c"), [(1, 1), (2, 2), (3, 1), (4, 2)])
@pytest.mark.parametrize("silent", ["nothing", "target", "mixture", "item", "nearly"])
def test_finite_with_finite_gradients(name, dtype, n, c, silent, generator):
    sources = noise(2, n, c, 480, generator, dtype)
    if silent == "target":
        sources[:, 0] = 0
    elif silent in ("mixture", "item"):
        sources[slice(None) if silent == "mixture" else 0] = 0
    elif silent == "nearly":
        sources[0] *= 1e-12
    step = step_of(sources)
    loss = LOSSES[name](step)
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert torch.isfinite(loss)
    assert loss.abs() < (1e4 if name in ("magnitude_mse", "x_umx") else 1e2)
    loss.backward()
    for parameter in step.separator.parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().max() < 1e5


@pytest.mark.parametrize("name", LEVEL_FREE)
def test_level_does_not_matter_where_it_is_said_not_to(name, generator):
    sources = noise(2, 2, 2, 480, generator)
    losses = [LOSSES[name](step_of(scale * sources, masks=True)).item() for scale in (1, 1e-3, 100)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("name", ["magnitude_mse", "magnitude_l1", "log_magnitude", "mel", "multi_resolution_stft",
                                  "waveform_l1", "x_umx", "mask_mse"])  # fmt: skip
def test_least_where_the_estimate_is_right(name, generator):
    sources = noise(1, 3, 2, 4096, generator)
    step = step_of(sources)
    step.V, step.estimates = step.S.abs(), step.references
    rest = (step.X.unsqueeze(1) - step.S).abs()
    step.masks = step.S.abs() / (step.S.abs() + rest)
    assert LOSSES[name](step).item() == pytest.approx(0, abs=1e-7)


def test_magnitude_mse_is_that_of_open_unmix_to_the_last_bit(generator):
    sources = noise(3, 2, 2, 480, generator, torch.float32)
    step = step_of(sources)
    ours = LOSSES["magnitude_mse"](step)
    theirs = F.mse_loss(step.V, step.S.abs())
    assert torch.equal(ours, theirs)
    weights = list(step.separator.estimator.parameters())[:2]
    for a, b in zip(*(torch.autograd.grad(x, weights, retain_graph=True) for x in (ours, theirs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("target", ["ratio", "binary"])
def test_masks(target, generator):
    step = step_of(noise(2, 3, 2, 480, generator), masks=True)
    step.masks = (0.05 + 0.9 * step.V / step.X.abs().unsqueeze(1)).detach()
    S, X, M = step.S.numpy(), step.X.numpy()[:, None], step.masks.numpy()
    ideal = np.abs(S) / (np.abs(S) + np.abs(X - S))
    ideal = (ideal > 0.5).astype(float) if target == "binary" else ideal
    w = np.abs(X) / np.abs(X).mean((1, 2, 3, 4), keepdims=True)
    assert LOSSES["mask_mse"](step, target=target).item() == pytest.approx((w * (M - ideal) ** 2).mean(), rel=1e-6)
    entropy = F.binary_cross_entropy(torch.tensor(M), torch.tensor(ideal), torch.tensor(w + 0 * M)).item()
    assert LOSSES["mask_bce"](step, target=target).item() == pytest.approx(entropy, rel=2e-3)
    with pytest.raises(ValueError, match="target must be 'ratio' or 'binary', not 'soft'"):
        LOSSES["mask_mse"](step, target="soft")


def test_silent_bins_do_not_weigh(generator):
    """Half of the frames digital silence: an error of the masks there costs nothing."""
    sources = noise(1, 2, 1, 960, generator)
    sources[..., 400:] = 0
    step = step_of(sources, masks=True)
    before = [LOSSES[name](step).item() for name in ("mask_mse", "mask_bce")]
    silent = step.X.abs().unsqueeze(1) == 0
    assert silent.float().mean() > 0.3
    step.masks = torch.where(silent, 1 - step.masks, step.masks)
    assert [LOSSES[name](step).item() for name in ("mask_mse", "mask_bce")] == before


def test_phase_sensitive(generator):
    step = step_of(noise(2, 2, 1, 480, generator))
    S, X, V = step.S.numpy(), step.X.numpy()[:, None], step.V.detach().numpy()
    along = np.clip(np.abs(S) * np.cos(np.angle(S) - np.angle(X)), 0, np.abs(X))
    expected = (np.abs(V - along) / np.abs(X).mean((1, 2, 3, 4), keepdims=True)).mean()
    assert LOSSES["phase_sensitive"](step).item() == pytest.approx(expected, rel=1e-9)


def test_mel_bands_cover_the_spectrum():
    from mss.training.losses import _mel_bands

    bands = _mel_bands(20, 1025, 44100)
    assert torch.allclose(bands.sum(-1), torch.ones(20, dtype=torch.float64))
    centres = (bands * torch.linspace(0, 22050, 1025, dtype=torch.float64)).sum(-1)
    mels = 2595 * torch.log10(1 + centres / 700)
    assert torch.allclose(mels.diff(), torch.full((19,), 2595 * np.log10(1 + 22050 / 700) / 21).double(), rtol=0.06)
    assert (_mel_bands(80, 33, 44100) > 0).any(-1).all()  # bands narrower than a bin see the nearest one


def test_bands_made_in_validation_serve_in_training(generator):
    sources = noise(1, 2, 1, 480, generator)
    with torch.inference_mode():
        LOSSES["mel"](step_of(sources), bands=17)
    LOSSES["mel"](step_of(sources), bands=17).backward()


def test_multi_resolution_stft_is_the_published_one(generator):
    """auraloss 0.4: convergence per signal, mean of |log| differences, mean over resolutions."""
    step = step_of(noise(2, 2, 2, 6000, generator))
    step.estimates = step.references + 0.3 * noise(2, 2, 2, 6000, generator)
    y, s = (x.flatten(0, 2) for x in (step.estimates, step.references))
    total = 0
    for n in (512, 1024, 2048):
        window = torch.hann_window(n, dtype=torch.float64)
        Y, S = (torch.stft(x, n, n // 4, window=window, pad_mode="constant", return_complex=True).abs() for x in (y, s))
        convergence = ((S - Y).square().sum((1, 2)) / S.square().sum((1, 2))).sqrt().mean()
        total += (convergence + F.l1_loss(S.log(), Y.log())) / 3
    # bins below the floor of -80 dB are counted otherwise
    assert LOSSES["multi_resolution_stft"](step, floor=-200).item() == pytest.approx(total.item(), rel=1e-6)
    assert LOSSES["multi_resolution_stft"](step).item() == pytest.approx(total.item(), rel=1e-2)


def test_si_sdr_is_the_metric_where_that_is_moderate(generator):
    sources = noise(2, 3, 2, 960, generator)
    sources[0, 1] = 0
    step = step_of(sources)
    step.estimates = 3 * (step.references + 0.5 * noise(2, 3, 2, 960, generator))
    expected = -si_sdr(step.references, step.estimates).nanmean().item()
    assert LOSSES["si_sdr"](step, best=100).item() == pytest.approx(expected, rel=1e-3)
    step.estimates = step.references + 0.0
    assert LOSSES["si_sdr"](step).item() == pytest.approx(-30, abs=0.01)
    step.estimates = torch.zeros_like(step.references, requires_grad=True)
    loss = LOSSES["si_sdr"](step)
    assert loss.item() == pytest.approx(60, abs=0.01)
    assert torch.isfinite(torch.autograd.grad(loss, step.estimates)[0]).all()


@pytest.mark.parametrize("weights", ["magnitude", "equal"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_deep_clustering_is_the_explicit_distance(weights, n, generator):
    step = step_of(noise(2, n, 2, 160, generator))
    V, w = step.embeddings, step.X.abs().flatten(1)
    w = w * (w > w.amax(1, keepdim=True) / 100)
    w = (w > 0).double() if weights == "equal" else w
    Y = F.one_hot(step.S.abs().argmax(1).flatten(1), n).double()
    root = (w / w.sum(1, keepdim=True)).sqrt().unsqueeze(-1)
    explicit = (root * V @ (root * V).mT - root * Y @ (root * Y).mT).square().sum((1, 2)).mean()
    assert LOSSES["deep_clustering"](step, weights=weights).item() == pytest.approx(explicit.item(), rel=1e-9)

    white = []
    for v, y in zip(root * V, root * Y, strict=True):
        values, vectors = torch.linalg.eigh(v.T @ v + 1e-4 * torch.eye(5, dtype=v.dtype))
        v = v @ vectors @ torch.diag(values.rsqrt()) @ vectors.T  # V (VᵀV)^-1/2
        y = y[:, y.sum(0) > 0]
        mean = y @ torch.linalg.solve(y.T @ y, y.T @ v)
        white.append((v - mean).square().sum() + 5 - v.square().sum())  # the last two cancel without the ridge
    assert LOSSES["deep_clustering_whitened"](step, weights=weights).item() == pytest.approx(
        torch.stack(white).mean().item(), rel=1e-9
    )


def test_deep_clustering_is_least_where_sources_have_directions_of_their_own(generator):
    step = step_of(noise(1, 3, 2, 960, generator))
    Y = F.one_hot(step.S.abs().argmax(1).flatten(1), 3).double()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q
    step.embeddings = Y @ rotation[:3]
    assert LOSSES["deep_clustering"](step).item() == pytest.approx(0, abs=1e-9)
    assert LOSSES["deep_clustering_whitened"](step).item() == pytest.approx(5 - 3, abs=1e-2)
    step.embeddings = Y.roll(1, 1) @ rotation[:3]  # in another order of the bins
    assert LOSSES["deep_clustering"](step).item() > 0.1


def test_deep_clustering_never_makes_bins_times_bins(generator):
    sources = noise(1, 2, 1, 128000, generator, torch.float32)  # 264000 bins: 280 GB otherwise
    step = step_of(sources)
    LOSSES["deep_clustering"](step).backward()
    LOSSES["deep_clustering_whitened"](step_of(sources)).backward()


def test_embeddings_of_the_lowest_bins_meet_their_own_sources(generator):
    step = step_of(noise(2, 2, 2, 960, generator))
    _, n, c, f, k = step.S.shape
    step.embeddings = F.one_hot(step.S.abs()[..., :7, :].argmax(1).flatten(1), n).double()
    assert LOSSES["deep_clustering"](step).item() == pytest.approx(0, abs=1e-9)
    step.embeddings = step.embeddings.unflatten(1, (c, 7, k)).transpose(2, 3).flatten(1, 3)
    assert LOSSES["deep_clustering"](step).item() > 0.1  # frames before bins
    step.embeddings = step.embeddings[:, :-1]
    with pytest.raises(ValueError, match=f"do not fit 2 channels x {f} bins x {k} frames"):
        LOSSES["deep_clustering"](step)


def test_x_umx_is_the_published_one(generator):
    """asteroid's recipe: every sum of 1 ... n - 1 targets, each pair of signals by itself."""
    step = step_of(noise(2, 4, 2, 480, generator))
    V, S, y, s = (x.detach().numpy() for x in (step.V, step.S.abs(), step.estimates, step.references))
    magnitudes, ratios = [], []
    for group in [list(g) for size in (1, 2, 3) for g in combinations(range(4), size)]:
        magnitudes.append(((V[:, group].sum(1) - S[:, group].sum(1)) ** 2).mean())
        for b in range(2):
            for c in range(2):
                mixture, true, guess = s[b, :, c].sum(0), s[b, group, c].sum(0), y[b, group, c].sum(0)
                rest, rest_guess = mixture - true, mixture - guess
                alpha = true @ true / (true @ true + rest @ rest)
                target = true @ guess / np.linalg.norm(true) / np.linalg.norm(guess)
                other = rest @ rest_guess / np.linalg.norm(rest) / np.linalg.norm(rest_guess)
                ratios.append(-alpha * target - (1 - alpha) * other)
    assert len(magnitudes) == 14
    expected = np.mean(magnitudes) + 10 * (1 + np.mean(ratios))
    assert LOSSES["x_umx"](step).item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("name", ["phase_sensitive", "si_sdr", "multi_resolution_stft", "mask_mse"])
def test_permutation_invariant_takes_the_best_order_of_each_item(name, generator):
    sources = noise(2, 3, 1, 2048, generator)
    step = step_of(sources, masks=True)
    expected = []
    for b in range(2):

        def of(order, b=b):
            item = step_of(sources[b : b + 1, order], masks=True)
            return LOSSES[name](item).item()

        expected.append(min(of(list(order)) for order in permutations(range(3))))
    found = LOSSES["permutation_invariant"](step, loss=name).item()
    assert found == pytest.approx(np.mean(expected), rel=1e-6)
    assert found < LOSSES[name](step).item()
    swapped = step_of(sources[:, [2, 0, 1]], masks=True)
    assert LOSSES["permutation_invariant"](swapped, loss=name).item() == pytest.approx(found, rel=1e-6)


def test_permutation_invariant_estimates_once(generator):
    calls = []
    step = step_of(noise(1, 3, 1, 480, generator))
    step.separator.estimator.register_forward_hook(lambda *_: calls.append(1))
    LOSSES["permutation_invariant"](step)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="does not compare target by target"):
        LOSSES["permutation_invariant"](step, loss="deep_clustering")
    with pytest.raises(ValueError, match="at most 6"):
        LOSSES["permutation_invariant"](step_of(noise(1, 7, 1, 480, generator)))


def test_by_name(generator):
    step = step_of(noise(1, 2, 1, 480, generator), masks=True)
    loss = loss_by_name("permutation_invariant", {"loss": "mask_mse", "options": {"target": "binary"}})
    assert loss(step) != loss_by_name("permutation_invariant", {"loss": "mask_mse"})(step)
    with pytest.raises(ValueError, match="there is no loss 'mse': "):
        loss_by_name("mse", {})
    with pytest.raises(ValueError, match="did you mean magnitude_mse"):
        loss_by_name("magnitud_mse", {})
    with pytest.raises(ValueError, match="mask_mse has no option 'power': it has target"):
        loss_by_name("mask_mse", {"power": 2})
    with pytest.raises(ValueError, match="waveform_l1 has no option 'power': it has none"):
        loss_by_name("waveform_l1", {"power": 2})


def test_without_embeddings(generator):
    step = step_of(noise(1, 2, 1, 480, generator))
    step.separator.estimator = nn.Identity()
    with pytest.raises(ValueError, match="deep clustering needs embeddings, which Identity does not have"):
        LOSSES["deep_clustering"](step)
