"""Separation by non-negative matrix factorisation of the magnitudes, |X| ~ W H, by the Kullback-Leibler divergence.

Components become sources in one of two ways. Blind (`nmf`): a component W_a H_a is harmonic where a running median along
time of its activations keeps more of them than a median along frequency keeps of its spectrum (the measure of FitzGerald
2010), else percussive. With dictionaries (`DictionaryNMF`): the spectra of each source are learned from recordings of it
alone and stay as they are; those of what is left, if there is anything, are learned from the mixture (Smaragdis, Raj &
Shashanka 2007).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mss.classical._nmf import concatenated, factorise, model, random_start
from mss.classical._ops import median_filter

__all__ = ["DictionaryNMF", "nmf"]


def nmf(
    X: Tensor,
    *,
    components: int = 40,
    iterations: int = 100,
    beta: float = 1.0,
    continuity: float = 10.0,
    kernel: int = 17,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Magnitudes of the harmonic and of the percussive components of a blind factorisation.

    Args:
        X: (b, c, f, k) complex; the channels share their spectra.
        components: of both parts together.
        iterations: of spectra and activations.
        beta: of the divergence: 1 Kullback-Leibler, 0 Itakura-Saito, 2 squared error.
        continuity: weight of the changes of the activations from frame to frame (Virtanen 2007), for magnitudes of mean 1.
        kernel: length of the medians that tell harmonic from percussive, frames and bins; odd.
        restarts: random starts, of which the best is kept.
        seed: of the random start, the same for each item of the batch.

    Returns:
        V (b, 2, c, f, k): harmonic, percussive.
    """
    V, level = concatenated(X.abs())
    W, H = factorise(
        V, components, beta=beta, iterations=iterations, continuity=continuity, restarts=restarts, seed=seed
    )
    harmonic = _kept(H.unflatten(-1, (X.shape[1], -1)), kernel).mean(-1) >= _kept(W.mT, kernel)  # (b, a)
    groups = torch.stack([harmonic, ~harmonic], 1).to(V)
    return model(W * level, H, groups, X.shape[1])


def _kept(x: Tensor, kernel: int) -> Tensor:
    """How much of (..., t) a running median keeps, the part of x along itself: (...)."""
    energy = x.square().sum(-1)
    return (median_filter(x, kernel, -1) * x).sum(-1) / torch.where(energy > 0, energy, 1)


class DictionaryNMF(nn.Module):
    """Magnitudes of sources whose spectra are known: an estimator with dictionaries as its weights.

    `learn` makes one from recordings; with mss.SpectralSeparator and mss.save it becomes a separator and a checkpoint.

    Args:
        targets: names of the sources.
        bins: f.
        components: spectra of each source.
        free: spectra of the last target, which are learned from the mixture; 0: it has a dictionary, too.
        iterations: of the activations, and the free spectra.
        beta: of the divergence.
        l1: weight of the sum of the activations, the magnitudes having a mean of 1 and the spectra a sum of 1: for
            dictionaries that can explain too much.
        seed: of the free spectra.

    Example:
        >>> transform = mss.STFT()
        >>> estimator = mss.classical.DictionaryNMF.learn({"piano": transform(piano), "flute": transform(flute)})
        >>> separator = mss.SpectralSeparator(estimator, estimator.targets, transform=transform)
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        bins: int = 2049,
        components: int = 32,
        free: int = 0,
        iterations: int = 100,
        beta: float = 1.0,
        l1: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.bins, self.components, self.free = bins, components, free
        self.iterations, self.beta, self.l1, self.seed = iterations, beta, l1, seed
        learned = len(self.targets) - (free > 0)
        if learned < 1:
            raise ValueError(
                f"one target at least needs a dictionary; of {list(self.targets)} the last has free spectra"
            )
        self.register_buffer("dictionaries", torch.full((learned, bins, components), 1 / bins))

    @classmethod
    def learn(
        cls, spectra: Mapping[str, Tensor], rest: str | None = None, *, iterations: int = 100, seed: int = 0, **options
    ) -> DictionaryNMF:
        """An estimator with dictionaries learned from recordings of each source alone.

        Args:
            spectra: name -> X (b, c, f, k) complex; items and channels are one long recording.
            rest: name of one more target, with spectra learned from the mixture: give `free`, too.
            iterations: of the learning and of the estimator.
            seed: of both.
            options: of the estimator.
        """
        if (rest is not None) != (options.get("free", 0) > 0):
            raise ValueError(
                "rest and free belong together: the name of what has no dictionary, and its number of spectra"
            )
        bins = next(iter(spectra.values())).shape[-2]
        names = [*spectra, *([] if rest is None else [rest])]
        estimator = cls(names, bins=bins, iterations=iterations, seed=seed, **options)
        for dictionary, X in zip(estimator.dictionaries, spectra.values(), strict=True):
            V, _ = concatenated(X.abs().flatten(0, 1).unsqueeze(0))
            W, _ = factorise(V, estimator.components, beta=estimator.beta, iterations=iterations, seed=seed)
            total = W[0].sum(0)
            dictionary.copy_(torch.where(total > 0, W[0] / torch.where(total > 0, total, 1), 1 / bins))
        return estimator

    def forward(self, X: Tensor) -> Tensor:
        """(b, c, f, k) complex -> V (b, n, c, f, k)."""
        if X.shape[-2] != self.bins:
            raise ValueError(
                f"the dictionaries have {self.bins} bins, the spectra {X.shape[-2]}: use the same transform"
            )
        V, level = concatenated(X.abs())
        learned = self.dictionaries.movedim(1, 0).flatten(1)  # (f, a)
        W, H = random_start(V, learned.shape[-1] + self.free, self.seed)
        W = torch.cat([learned.to(V).expand(len(V), -1, -1), W[..., learned.shape[-1] :]], -1)
        H = H * self.bins / H.shape[1]  # so that W H, of columns that sum to 1, has a mean of about 1
        W, H = factorise(V, W, H, beta=self.beta, iterations=self.iterations, fixed=learned.shape[-1], l1=self.l1)
        sizes = torch.tensor([self.components] * len(self.dictionaries) + [self.free] * (self.free > 0))
        groups = torch.eye(len(self.targets)).repeat_interleave(sizes, 1).to(V)
        return model(W * level, H, groups.expand(len(V), -1, -1), X.shape[1])
