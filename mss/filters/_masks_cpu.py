"""Ratio masks on a CPU, compiled, in double precision."""

from __future__ import annotations

import numpy as np

from mss.cpu import jit

__all__ = ["softmask"]

TILE = 512  # frames
LIMIT = float(np.finfo(np.float32).max)


@jit
def softmask(V, X, Y, first, last, square, share):
    """Y (n, r, k) = V / sum V, or V^2 / sum V^2, times X (r, k), for rows first to last of all r.

    Where all V (n, r, k) are 0, X is shared alike, or dropped.
    """
    n, _, k = V.shape
    total, weight = np.empty(TILE), np.empty(TILE)
    for row in range(first, last):
        for begin in range(0, k, TILE):
            x = X[row, begin : begin + TILE]
            size = len(x)
            for t in range(size):
                total[t] = 0
            for j in range(n):
                _add(V[j, row, begin : begin + TILE], square, total)
            for t in range(size):
                weight[t] = 1 / total[t] if total[t] > 0 else 0.0
                total[t] = 1.0 / n if share and total[t] <= 0 else 0.0  # what each gets beside its weight
            for j in range(n):
                _mask(V[j, row, begin : begin + TILE], x, square, weight, total, Y[j, row, begin : begin + TILE])


@jit
def _add(v, square, total):
    for t in range(len(v)):
        power = float(LIMIT if v[t] > LIMIT else v[t])
        total[t] += power * power if square else power


@jit
def _mask(v, x, square, weight, beside, y):
    for t in range(len(v)):
        power = float(LIMIT if v[t] > LIMIT else v[t])
        mask = (power * power if square else power) * weight[t] + beside[t]
        y[t] = complex(x[t].real * mask, x[t].imag * mask)
