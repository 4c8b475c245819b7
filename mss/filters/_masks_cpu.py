"""Ratio masks on a CPU, compiled, in double precision.

Models of targets come with frames side by side in memory, as the layers of networks want them; spectra with bins side by side,
as transforms do. So the work goes in tiles, which are turned in the core's own cache.
"""

from __future__ import annotations

import numpy as np

from mss.cpu import jit

__all__ = ["STRIP", "softmask"]

STRIP = 16  # bins: as complex numbers two cache lines
TILE = 64  # frames
LIMIT = float(np.finfo(np.float32).max)


@jit
def softmask(V, X, Y, first, last, power, share):
    """Y (n, c, k, f) = V^power / sum V^power times X (c, k, f), for V (n, c, f, k).

    For strips first to last of STRIP bins, those of each channel in turn. Where all V are 0, X is shared alike, or dropped.
    """
    n, _, f, k = V.shape
    strips = -(-f // STRIP)
    mask, total, beside = np.empty((n, TILE)), np.empty(TILE), np.empty(TILE)
    turned = np.empty((n, TILE, STRIP), np.float32)
    for strip in range(first, last):
        c, low = strip // strips, strip % strips * STRIP
        high = min(low + STRIP, f)
        for begin in range(0, k, TILE):
            end = min(begin + TILE, k)
            for row in range(low, high):
                for t in range(TILE):
                    total[t] = 0
                if power == 1 or power == 2:
                    for j in range(n):
                        _weigh(V[j, c, row, begin:end], power == 2, mask[j], total)
                else:
                    for j in range(n):
                        _highest(V[j, c, row, begin:end], total)
                    for t in range(TILE):
                        beside[t], total[t] = total[t], 0
                    for j in range(n):
                        _raise(V[j, c, row, begin:end], beside, power, mask[j], total)
                for t in range(TILE):
                    beside[t] = 1.0 / n if share and total[t] <= 0 else 0.0  # what each gets beside its weight
                    total[t] = 1 / total[t] if total[t] > 0 else 0.0
                for j in range(n):
                    _turn(mask[j], total, beside, turned[j], row - low, end - begin)
            for j in range(n):
                for t in range(end - begin):
                    _scale(X[c, begin + t, low:high], turned[j, t], Y[j, c, begin + t, low:high])


@jit
def _weigh(v, square, mask, total):
    for t in range(len(v)):
        x = float(LIMIT if v[t] > LIMIT else v[t])
        mask[t] = x * x if square else x
        total[t] += mask[t]


@jit
def _highest(v, peak):
    for t in range(len(v)):
        x = float(LIMIT if v[t] > LIMIT else v[t])
        peak[t] = x if x > peak[t] else peak[t]


@jit
def _raise(v, peak, power, mask, total):
    for t in range(len(v)):
        x = float(LIMIT if v[t] > LIMIT else v[t])
        if x == peak[t]:
            mask[t] = 1 if x > 0 else 0
        else:  # by the peak first: no power can overflow; in single precision, which is faster and as good as V
            mask[t] = np.float32(x / peak[t]) ** np.float32(power)
        total[t] += mask[t]


@jit
def _turn(mask, weight, beside, turned, column, size):
    for t in range(size):
        turned[t, column] = mask[t] * weight[t] + beside[t]


@jit
def _scale(x, mask, y):
    for i in range(len(x)):
        y[i] = complex(x[i].real * mask[i], x[i].imag * mask[i])
