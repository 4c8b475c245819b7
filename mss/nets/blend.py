"""The mean of several estimators, as of networks that were trained apart (Uhlich et al. 2017, "blending").

What one network takes for the wrong target, another, taught with other excerpts, often does not. `mss.Ensemble` averages the
waveforms of any separators; here the estimators share one transform and one filter, which with `mss.filters.softmask` of
power 1 gives the same for less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mss.separator import frames_of_context

__all__ = ["Blend"]


class Blend(nn.Module):
    """Estimator: X (b, c, f, k) complex -> V (b, n, c, f, k), the mean of what others say.

    Args:
        estimators: of the same targets in the same order.

    Example:
        >>> mss.SpectralSeparator(Blend([first, second]), targets=("drums", "bass", "other"))
    """

    def __init__(self, estimators: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        if not estimators:
            raise ValueError("a blend needs at least one estimator")
        modules = all(isinstance(estimator, nn.Module) for estimator in estimators)
        self.estimators = nn.ModuleList(estimators) if modules else tuple(estimators)

    @property
    def context(self) -> int | None:
        """Frames on either side; None where one of them needs all."""
        contexts = [frames_of_context(estimator) for estimator in self.estimators]
        return None if None in contexts else max(contexts)

    @property
    def grid(self) -> int:
        """Frames."""
        return math.lcm(*(getattr(estimator, "grid", 1) for estimator in self.estimators))

    @property
    def block(self) -> int:
        """Frames, no more than any of them should see at a time."""
        return min(getattr(estimator, "block", 512) for estimator in self.estimators)

    def forward(self, X: Tensor) -> Tensor:
        """(b, c, f, k) complex -> (b, n, c, f, k)."""
        first, *others = self.estimators
        total = first(X)
        for estimator in others:
            V = estimator(X)
            if V.shape != total.shape:
                raise ValueError(
                    f"a blend is of the same targets; one gives {tuple(total.shape)}, another {tuple(V.shape)}"
                )
            total = total + V
            del V  # as large as all the rest
        return total / len(self.estimators)
