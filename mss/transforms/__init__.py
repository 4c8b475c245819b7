"""Waveform <-> time-frequency representation: the short-time Fourier transform and an invertible constant-Q transform.

Both are frozen settings with `__call__` (..., t) -> (..., f, k) complex, `inverse` (..., f, k) -> (..., length), the
least-squares one, `bins`, `hop`, `frames(length)`, and `multiplicity`, what a bin counts in an energy.
"""

from mss.transforms.cqt import CQT
from mss.transforms.stft import STFT

__all__ = ["CQT", "STFT"]
