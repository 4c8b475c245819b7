"""The feedback arrow of Figure 4 of Cano et al. 2019: filter, model again what was separated, filter again."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mss.filters.masks import softmask

__all__ = ["alternate"]


def alternate(
    V: Tensor,
    X: Tensor,
    model: Callable[[Tensor], Tensor],
    *,
    filter: Callable[[Tensor, Tensor], Tensor] = softmask,
    iterations: int = 1,
) -> Tensor:
    """Filters, re-estimates the source models from the separated spectra, filters again, `iterations` times.

    What this gains, the model brings in: one that smooths along time or frequency, fits a few components or runs a
    network says something that the masks do not know. A model that believes everything, V = |Y|, gains nothing:

    - with `softmask` of power 1 the first estimate is a fixed point;
    - with power 2 every pass squares the ratios of the masks, so they tend to the binary mask (0.6 and 0.4 become 1 and
      5e-12 in six passes). A true EM stays where it is, since its power is that of the estimate plus the variance that
      the filter leaves: V_j^2 <- |Y_j|^2 + (1 - M_j) V_j^2.

    Nothing says that a pass improves the estimates, unless model and filter minimise one cost: one to five are usual.
    V must be what the filter takes it for, before and after: magnitudes, and not powers, with a `softmask` of power 1.

    Args:
        V: (b, n, c, f, k) magnitudes to start from.
        X: (b, c, f, k) complex mixture.
        model: Y (b, n, c, f, k) complex -> V (b, n, c, f, k), the new magnitudes.
        filter: (V, X) -> Y (b, n, c, f, k) complex.
        iterations: re-estimates; 0 is the plain filter.

    Returns:
        Y (b, n, c, f, k) complex.

    Example:
        >>> smooth = lambda Y: mss.classical.median_filter(Y.abs(), 17, -1)
        >>> Y = alternate(V, X, smooth, filter=partial(softmask, power=2.0), iterations=3)
    """
    Y = filter(V, X)
    for _ in range(iterations):
        Y = filter(model(Y), X)
    return Y
