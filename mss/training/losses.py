"""Losses of a training `Step`, by name: each a function of the step and its options that gives one number.

What they compare: `magnitude_*`, `log_magnitude`, `mel`, `phase_sensitive` the magnitudes V with the sources', in the
frames of the excerpt; `mask_*` V over the mixture with ideal masks; `multi_resolution_stft`, `si_sdr`, `waveform_l1` waveforms;
`deep_clustering*` embeddings; `x_umx` magnitudes and waveforms of sums of targets.

Level: `magnitude_*`, `waveform_l1` and the magnitudes in `x_umx` are plain means, which loud items dominate, as where they
were published. The others do not change with the level of an item, except that an item more than 40 dB below the mean of its
batch counts as if it were that loud, so that near silence is not magnified. On digital silence all are finite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from itertools import combinations, permutations
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.training._clustering_losses import deep_clustering, deep_clustering_whitened
from mss.training.names import chosen
from mss.training.step import Step
from mss.transforms import STFT

__all__ = [
    "LOSSES", "deep_clustering", "deep_clustering_whitened", "log_magnitude", "loss_by_name", "magnitude_l1",
    "magnitude_mse", "mask_bce", "mask_mse", "mel", "multi_resolution_stft", "permutation_invariant", "phase_sensitive",
    "si_sdr", "waveform_l1", "x_umx",
]  # fmt: skip


def of_each_target(errors: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes a loss of errors (b, n, ...): their mean. The errors stay at hand for `permutation_invariant`."""

    @functools.wraps(errors)
    def loss(step: Step, **options: Any) -> Tensor:
        return errors(step, **options).mean()

    loss.errors = errors
    return loss


@of_each_target
def magnitude_mse(step: Step) -> Tensor:
    """(V - |S|)²; that of Open-Unmix (Stöter et al. 2019)."""
    return F.mse_loss(step.V, step.S.abs(), reduction="none")


@of_each_target
def magnitude_l1(step: Step) -> Tensor:
    """|V - |S||; that of Jansson et al. 2017 and Spleeter."""
    return (step.V - step.S.abs()).abs()


@of_each_target
def mask_mse(step: Step, *, target: Literal["ratio", "binary"] = "ratio") -> Tensor:
    """(M - ideal mask)², weighted by |X|, else the silent bins dominate.

    Args:
        step: of an estimator of masks; M is V / |X|.
        target: "ratio": |S| / (|S| + |X - S|), of a target against all the rest; "binary": whether that is over a half.
    """
    return (step.masks - _ideal(step, target)).square() * _weights(step)


@of_each_target
def mask_bce(step: Step, *, target: Literal["ratio", "binary"] = "binary") -> Tensor:
    """Cross-entropy of M and the ideal mask, weighted by |X|; options as in `mask_mse`. M above 1 counts as 1."""
    edge = 1e-4  # bounds the loss to 9.2 and its slope to 1 / edge
    M, T = edge + (1 - 2 * edge) * step.masks.clamp_max(1), _ideal(step, target)
    return -(T * M.log() + (1 - T) * (1 - M).log()) * _weights(step)


@of_each_target
def log_magnitude(step: Step, *, steepness: float = 10.0) -> Tensor:
    """|log(1 + steepness * V) - log(1 + steepness * |S|)|, magnitudes relative to the mixture's mean."""
    scale = steepness / _level(step)
    return (torch.log1p(scale * step.V) - torch.log1p(scale * step.S.abs())).abs()


@of_each_target
def mel(step: Step, *, bands: int = 80, steepness: float = 10.0) -> Tensor:
    """`log_magnitude` of the weighted means over mel bands, up to half the sample rate."""
    weights = _mel_bands(bands, step.X.shape[-2], step.separator.sample_rate).to(step.V)  # (m, f)
    scale = steepness / _level(step)
    return (torch.log1p(scale * (weights @ step.V)) - torch.log1p(scale * (weights @ step.S.abs()))).abs()


@of_each_target
def phase_sensitive(step: Step) -> Tensor:
    """|V - |S| cos(∠S - ∠X)|, the cosine part cut to 0 ... |X|, relative to the mixture's mean magnitude.

    Erdogan, Hershey, Watanabe & Le Roux, "Phase-sensitive and recognition-boosted speech separation", ICASSP 2015; cut
    as in Wang, Le Roux & Hershey 2018.
    """
    X = step.X.unsqueeze(1)
    along = (step.S * torch.sgn(X).conj()).real
    return (step.V - along.clamp_min(0).minimum(X.abs())).abs() / _level(step)


@of_each_target
def multi_resolution_stft(step: Step, *, sizes: tuple[int, ...] = (512, 1024, 2048), floor: float = -80.0) -> Tensor:
    """Spectral convergence |S - Y| / |S| (Frobenius) plus mean |log S - log Y|, over STFTs with hops of a quarter.

    Yamamoto, Song & Kim, "Parallel WaveGAN", ICASSP 2020; per signal and with mean over STFTs as in auraloss. The first part
    is left out where a target is 60 dB below the mixture.

    Args:
        step: what to compare.
        sizes: of the windows, samples.
        floor: dB relative to the mixture's peak, below which the logarithm sees no difference.
    """
    total = 0
    for size in sizes:
        transform = STFT(size, size // 4)
        Y, S = transform(step.estimates).abs(), transform(step.references).abs()
        X = transform(step.mixture).abs().unsqueeze(1)
        least = _steady(X.amax((2, 3, 4), keepdim=True)) * 10 ** (floor / 20)
        error, norm = (torch.linalg.vector_norm(part, dim=(-2, -1)) for part in (S - Y, S))  # (b, n, c)
        heard = norm > 1e-3 * _steady(torch.linalg.vector_norm(X, dim=(-2, -1)))
        convergence = torch.where(heard, error / torch.where(heard, norm, 1), 0)
        logarithms = (Y.maximum(least).log() - S.maximum(least).log()).abs().mean((-2, -1))
        total = total + (convergence + logarithms) / len(sizes)
    return total


@of_each_target
def si_sdr(step: Step, *, best: float = 30.0) -> Tensor:
    """Negative SI-SDR in dB (Le Roux et al. 2019), levelling off at `best`.

    Targets 60 dB below the mixture do not count, as any estimate is wrong by -inf dB: add `waveform_l1` to learn silence.
    """
    s, y = step.references.flatten(2), step.estimates.flatten(2)  # (b, n, c * t)
    energy = s.square().sum(-1, keepdim=True)
    counts = energy > 1e-6 * step.mixture.square().sum((1, 2)).view(-1, 1, 1)
    energy = torch.where(counts, energy, 1)
    image = (y * s).sum(-1, keepdim=True) / energy * s
    image_energy, error = image.square().sum(-1, keepdim=True), (y - image).square().sum(-1, keepdim=True)
    # relative to the target's energy, a floor for estimates that are silent themselves
    ratio = image_energy / (error + 10 ** (-best / 10) * image_energy + 1e-8 * energy)
    share = counts.to(ratio).mean().clamp_min(1 / counts.numel())
    return torch.where(counts, -10 * torch.log10(ratio + 1e-6), 0) / share


@of_each_target
def waveform_l1(step: Step) -> Tensor:
    """|y - s|; that of Demucs (Défossez et al. 2019)."""
    return (step.estimates - step.references).abs()


def x_umx(step: Step, *, coefficient: float = 10.0) -> Tensor:
    """Magnitude MSE + `coefficient` * weighted SDR, each the mean over all sums of 1 to n - 1 targets.

    Sawata, Uhlich, Takahashi & Mitsufuji, "All for one and one for all", ICASSP 2021, as in asteroid; the weighted SDR
    is that of Choi et al., "Phase-aware speech enhancement with deep complex U-Net", ICLR 2019, plus 1. The targets must
    be all that sounds.
    """
    n = step.sources.shape[1]
    groups = [group for size in range(1, max(n, 2)) for group in combinations(range(n), size)]
    sums = torch.tensor([[float(i in group) for i in range(n)] for group in groups]).to(step.V)  # (g, n)
    magnitudes = torch.einsum("gn,bncfk->bgcfk", sums, step.V - step.S.abs()).square().mean()
    y, s = (torch.einsum("gn,bnct->bgct", sums, x) for x in (step.estimates, step.references))
    return magnitudes + coefficient * (1 - _weighted_sdr(y, s, step.references.sum(1, keepdim=True)).mean())


def permutation_invariant(
    step: Step, *, loss: str = "phase_sensitive", options: Mapping[str, Any] | None = None
) -> Tensor:
    """Another loss, for each item in the order of the sources that makes it least (Yu et al. 2017).

    Args:
        step: whose targets are anonymous.
        loss: the name of one that compares target by target.
        options: its options.
    """
    chosen = loss_by_name(loss, options)
    if not hasattr(chosen.func, "errors"):
        raise ValueError(f"{loss} does not compare target by target, so there is no best order for it")
    n = step.sources.shape[1]
    if n > 6:
        raise ValueError(f"the best order is found by trying all n!, which {n} targets make too many: at most 6")
    errors = functools.partial(chosen.func.errors, **chosen.keywords)
    costs = [errors(step)]  # what this makes the others take over
    costs += [errors(step.rolled(shift)) for shift in range(1, n)]
    costs = torch.stack([cost.flatten(2).mean(-1) for cost in costs], -1)  # (b, n, shift)
    targets = torch.arange(n, device=costs.device)
    orders = torch.tensor(list(permutations(range(n))), device=costs.device)  # (n!, n)
    return costs[:, targets, (targets - orders) % n].mean(-1).amin(-1).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss
    for loss in (
        magnitude_mse, magnitude_l1, mask_mse, mask_bce, log_magnitude, mel, phase_sensitive, multi_resolution_stft, si_sdr,
        waveform_l1, deep_clustering, deep_clustering_whitened, x_umx, permutation_invariant,
    )
}  # fmt: skip


def loss_by_name(name: str, options: Mapping[str, Any] | None = None) -> functools.partial[Tensor]:
    """A loss with its options, a function of a `Step`.

    Raises:
        ValueError: there is none of that name, or it has no such option.
    """
    options = dict(options or {})
    return functools.partial(chosen("loss", name, LOSSES, options, given=1), **options)


def _steady(level: Tensor) -> Tensor:
    """Levels (b, ...) of items to divide by: at least 40 dB below their mean, and 1 where all is silent."""
    level = level.maximum(0.01 * level.mean(0, keepdim=True))
    return torch.where(level > 0, level, 1)


def _level(step: Step) -> Tensor:
    """(b, 1, 1, 1, 1), the mixtures' mean magnitude."""
    return _steady(step.X.abs().unsqueeze(1).mean((2, 3, 4), keepdim=True))


def _weights(step: Step) -> Tensor:
    """(b, 1, c, f, k), of mean 1."""
    return step.X.abs().unsqueeze(1) / _level(step)


def _ideal(step: Step, target: str) -> Tensor:
    S, rest = step.S.abs(), (step.X.unsqueeze(1) - step.S).abs()
    if target == "ratio":
        return S / (S + rest).clamp_min(torch.finfo(S.dtype).tiny)
    if target == "binary":
        return (rest < S).to(S)
    raise ValueError(f"target must be 'ratio' or 'binary', not {target!r}")


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # made first in validation, it is used in training
def _mel_bands(bands: int, bins: int, sample_rate: int) -> Tensor:
    """(m, f): triangles over the mel scale (2595 log10(1 + Hz / 700)), each of sum 1; narrower than a bin, that bin."""
    top = 2595 * torch.log10(torch.tensor(1 + sample_rate / 1400, dtype=torch.float64))
    edges = 700 * (10 ** (torch.linspace(0, 1, bands + 2, dtype=torch.float64) * top / 2595) - 1)  # Hz
    edges = edges / (sample_rate / 2) * (bins - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bin_ = torch.arange(bins, dtype=torch.float64)
    weights = torch.minimum((bin_ - low) / (centre - low), (high - bin_) / (high - centre)).clamp_min(0)
    nearest = (bin_ == centre.round()).double()
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, nearest)
    return weights / weights.sum(-1, keepdim=True)


def _weighted_sdr(y: Tensor, s: Tensor, mixture: Tensor) -> Tensor:
    """(b, g, c) from -1 to 1: the cosines of target and of rest with their estimates, weighted by energy."""
    eps = 1e-10  # asteroid's
    rest = mixture - s
    energy, rest_energy = s.square().sum(-1), rest.square().sum(-1)
    alpha = energy / (energy + rest_energy + eps)

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        norms = ((eps + a.square().sum(-1)) * (eps + b.square().sum(-1))).sqrt()
        return (a * b).sum(-1) / (norms + eps)

    return alpha * cosine(y, s) + (1 - alpha) * cosine(mixture - y, rest)
