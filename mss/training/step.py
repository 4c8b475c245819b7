"""What one training step computes, each part of it when it is first asked for: losses take what they need from here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.filters import mixture_phase
from mss.separator import Separator, SpectralSeparator
from mss.transforms import STFT

__all__ = ["Step"]


class Step:
    """A batch, and what a separator in training makes of it.

    Of a spectral separator only those frames are used that lie within the excerpt: at its cut ends the transform sees
    silence that no song has (Open-Unmix trains on uncentred frames for the same reason; they are these).

    Args:
        separator: in training.
        sources: (b, n, c, t) what its n targets should be.
        mixture: (b, c, t).
        waveforms: (b, n, c, t), what a separator without spectra made of the mixture, where that is known already.
        network: the context in which the network computes, and nothing else does: of mixed precision, say.
    """

    def __init__(
        self,
        separator: Separator,
        sources: Tensor,
        mixture: Tensor,
        waveforms: Tensor | None = None,
        network: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.separator = separator
        self.sources = sources
        self.mixture = mixture
        self.waveforms = waveforms
        self.network = network

    @property
    def spectral(self) -> bool:
        """Whether there are spectra at all; else only `references` and `estimates` may be asked for."""
        return isinstance(self.separator, SpectralSeparator)

    @cached_property
    def X(self) -> Tensor:  # noqa: N802
        """(b, c, f, k) complex, of the mixture."""
        return self._analysed(self.mixture)

    @cached_property
    def S(self) -> Tensor:  # noqa: N802
        """(b, n, c, f, k) complex, of the sources."""
        return self._analysed(self.sources)

    @cached_property
    def V(self) -> Tensor:  # noqa: N802
        """(b, n, c, f, k), what the estimator says of X; with gradients."""
        estimator = self.separator.estimator
        return self._both[0] if hasattr(estimator, "both") else self._of(estimator)

    @cached_property
    def masks(self) -> Tensor:
        """(b, n, c, f, k), V over the mixture's magnitude; 0 in bins that are silent (80 dB below the item's loudest)."""
        magnitude = self.X.abs().unsqueeze(1)
        peak = magnitude.amax((1, 2, 3, 4), keepdim=True)
        heard = magnitude > 1e-4 * peak.maximum(0.01 * peak.mean(0))  # nor is noise in a silent item to be divided by
        return torch.where(heard, self.V / torch.where(heard, magnitude, 1), 0)

    @cached_property
    def embeddings(self) -> Tensor:
        """(b, p, d), what the estimator puts in place of each of p bins (deep clustering), in X's order (c, f, k).

        Where p is less than c * f * k, the bins are the lowest p / (c * k) of each frame.
        """
        estimator = self.separator.estimator
        if not hasattr(estimator, "embed"):
            raise ValueError(f"deep clustering needs embeddings, which {type(estimator).__name__} does not have")
        return self._both[1] if hasattr(estimator, "both") else self._of(estimator.embed)

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        """V and embeddings of an estimator with two heads, whose common layers should run once."""
        with self.network():
            both = self.separator.estimator.both(self.X)
        return tuple(x.to(self.mixture.dtype) for x in both)

    @cached_property
    def estimates(self) -> Tensor:
        """(b, n, c, t) waveforms; magnitudes take the phase of the mixture, as no filter's statistics are there yet."""
        if self.spectral:
            return self._synthesised(mixture_phase(self.V, self.X))
        if self.waveforms is not None:
            return self.waveforms
        with self.network():
            return self.separator(self.mixture).to(self.mixture.dtype)

    @cached_property
    def references(self) -> Tensor:
        """(b, n, c, t), what `estimates` should be: the sources, from the same frames."""
        return self._synthesised(self.S) if self.spectral else self.sources

    def rolled(self, shift: int) -> Step:
        """The same step, target i to be what target i - shift should have been; nothing is estimated again."""
        other = copy.copy(self)
        for name in ("sources", "S", "references"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name].roll(shift, 1)
        return other

    def _of(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What the network says of X."""
        with self.network():
            y = function(self.X)
        return y.to(self.mixture.dtype)

    @property
    def _margin(self) -> int:
        """Frames at either end that reach beyond the excerpt."""
        transform = self.separator.transform
        if not isinstance(transform, STFT):
            raise ValueError(f"networks are trained on excerpts of an STFT, not of a {type(transform).__name__}")
        return -(-(transform.n_fft // 2) // transform.hop)

    def _analysed(self, waveforms: Tensor) -> Tensor:
        transform, hop, margin = self.separator.transform, self.separator.transform.hop, self._margin
        fitting = max((waveforms.shape[-1] - transform.n_fft // 2) // hop + 1, 0)  # frames that end within
        if fitting <= margin:
            raise ValueError(
                f"excerpts of {waveforms.shape[-1]} samples are shorter than one window of {transform.n_fft}: "
                "train on longer ones"
            )
        return transform(waveforms)[..., margin:fitting]

    def _synthesised(self, Y: Tensor) -> Tensor:
        """The inverse transform, silent where no frame was analysed."""
        transform, length = self.separator.transform, self.mixture.shape[-1]
        frames = transform.frames(length)
        return transform.inverse(F.pad(Y, (self._margin, frames - self._margin - Y.shape[-1])), length)
