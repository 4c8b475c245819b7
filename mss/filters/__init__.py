"""Filters: what each target weighs in each bin, and the mixture, give the targets' spectra.

Every filter is a pure function of V (b, n, c, f, k) real >= 0, a magnitude per target, and X (b, c, f, k) complex, the
mixture; it returns Y (b, n, c, f, k) complex. Any number of targets n and channels c, any device, float32 or float64.
"""

from mss.filters.em import hermitian_inverse, wiener
from mss.filters.loop import alternate
from mss.filters.masks import as_is, binary_mask, mixture_phase, ratio_mask, softmask

__all__ = [
    "alternate",
    "as_is",
    "binary_mask",
    "hermitian_inverse",
    "mixture_phase",
    "ratio_mask",
    "softmask",
    "wiener",
]
