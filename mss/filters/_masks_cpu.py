"""Ratio masks on a CPU, compiled; their sums are of double precision.

Models of targets come with frames side by side in memory, as the layers of networks want them; spectra with bins side by side,
as transforms do. So the work goes in tiles, which are turned in the core's own cache.
"""

from __future__ import annotations

import numpy as np

from mss.cpu import jit

__all__ = ["STRIP", "softmask"]

STRIP = 32  # bins
TILE = 64  # frames
LIMIT = float(np.finfo(np.float32).max)


@jit
def softmask(V, X, Y, first, last, power, share):
    """Y (n, c, k, f) = V^power / sum V^power times X (c, k, f), for V (n, c, f, k).

    For strips first to last of STRIP bins, those of each channel in turn. Where all V are 0, X is shared alike, or dropped.
    """
    n, _, f, k = V.shape
    strips = -(-f // STRIP)
    mask, ratio = np.empty((n, STRIP, TILE), np.float32), np.empty(TILE, np.float32)
    total, scale = np.empty(TILE), np.empty(TILE)
    for strip in range(first, last):
        c, low = strip // strips, strip % strips * STRIP
        high = min(low + STRIP, f)
        for begin in range(0, k, TILE):
            size = min(TILE, k - begin)
            for i in range(high - low):
                for t in range(TILE):
                    total[t] = 0
                if power == 1:
                    for j in range(n):
                        _weigh(V[j, c, low + i, begin : begin + size], mask[j, i], total)
                else:  # by the peak first: no power can overflow or vanish
                    for j in range(n):
                        _highest(V[j, c, low + i, begin : begin + size], total)
                    for t in range(TILE):
                        scale[t], total[t] = 1 / total[t] if total[t] > 0 else 0.0, 0
                    for j in range(n):
                        _raise(V[j, c, low + i, begin : begin + size], scale, power, mask[j, i], total, ratio)
                for t in range(TILE):
                    scale[t] = 1.0 / n if share and total[t] <= 0 else 0.0  # what each gets beside its weight
                    total[t] = 1 / total[t] if total[t] > 0 else 0.0
                for j in range(n):
                    m = mask[j, i]
                    for t in range(TILE):
                        m[t] = m[t] * total[t] + scale[t]
            for t in range(size):
                x = X[c, begin + t, low:high]
                for j in range(n):
                    _apply(x, mask[j], t, Y[j, c, begin + t, low:high])


@jit
def _weigh(v, out, total):
    for t in range(len(v)):
        x = float(LIMIT if v[t] > LIMIT else v[t])
        out[t] = x
        total[t] += x


@jit
def _highest(v, peak):
    for t in range(len(v)):
        x = float(LIMIT if v[t] > LIMIT else v[t])
        peak[t] = x if x > peak[t] else peak[t]


@jit
def _raise(v, scale, power, out, total, ratio):
    for t in range(len(v)):
        x = float(LIMIT if v[t] > LIMIT else v[t])
        ratio[t] = x * scale[t]
    quarters = int(4 * power)
    if 4 <= quarters <= 16 and quarters == 4 * power:  # by roots, which are vector instructions: a tenth of the time
        for t in range(len(v)):
            out[t] = ratio[t]
        for _ in range(quarters // 4 - 1):
            for t in range(len(v)):
                out[t] *= ratio[t]
        if quarters % 4 >= 2:
            for t in range(len(v)):
                out[t] *= np.sqrt(ratio[t])
        if quarters % 2:
            for t in range(len(v)):
                out[t] *= np.sqrt(np.sqrt(ratio[t]))
    else:
        for t in range(len(v)):
            out[t] = ratio[t] ** np.float32(power)
    for t in range(len(v)):
        total[t] += out[t]


@jit
def _apply(x, mask, t, y):
    for i in range(len(x)):
        m = mask[i, t]
        y[i] = complex(x[i].real * m, x[i].imag * m)
