"""The iterations of `wiener` for stereo on a CPU, compiled: all that a bin needs stays in the core's own cache.

Torch walks through main memory once per operation, some sixty times; this walks once, in double precision. A bin's frames
are taken in tiles of a fixed size, the last filled up with zeros, so that the compiler knows the length of every loop. A
tile of a complex signal is one row, its real parts, then its imaginary parts. A Hermitian 2 x 2 matrix is four numbers (or
four rows): its diagonal, then real and imaginary part of its upper corner.
"""

from __future__ import annotations

import math

import numpy as np

from mss.cpu import jit

__all__ = ["filter_bins", "peaks"]

TILE = 256  # frames: at four targets some 60 kB
NOTHING = 1e-300  # is added to every V: it matters where all are 0, and they share
LIMIT = 1e300  # of V, so that sums are finite


@jit
def filter_bins(V, X, Y, first, last, scale, iterations, eps, softmask, residual):
    """Writes the filtered bins first to last of all items to Y (b, n, 2, f, k) complex.

    V (b, n, 1 or 2, f, k) and X (b, 2, f, k) are as in `wiener`, `scale` (b,) what X is divided by while it is worked on.
    The start is a mask in proportion to V where `softmask`, else V with the phase of X.
    """
    b, n, channels, _, k = V.shape
    targets = Y.shape[1]
    v = np.empty((targets, -(-k // TILE), TILE))
    x, w, y = np.empty((2, 2 * TILE)), np.empty((2, 2 * TILE)), np.empty((targets, 2, 2 * TILE))
    C, gain, row = np.empty((4, TILE)), np.empty(TILE), np.empty((n, TILE))
    R, S = np.empty((targets, 4)), np.empty((targets, 4))
    for item in range(b):
        unit = 1 / scale[item]
        for f in range(first, last):
            for iteration in range(iterations + 1):
                for j in range(targets):
                    _fill(0.0, S[j])
                for tile in range(v.shape[1]):
                    begin = tile * TILE
                    for c in range(2):
                        _read(X[item, c, f], begin, unit, x[c])
                    if iteration == 0:
                        for c in range(2):
                            _fill(n * NOTHING, gain)
                            for j in range(n):
                                _read_real(V[item, j, min(c, channels - 1), f], begin, row[j])
                                _accumulate(row[j], 1.0, gain)
                            for j in range(n):
                                _start(row[j], gain, x[c], unit, softmask, y[j, c])
                            if residual:
                                _fill(0.0, y[n, c])
                                _accumulate(x[c], 1.0, y[n, c])
                                for j in range(n):
                                    _accumulate(y[j, c], -1.0, y[n, c])
                    else:
                        for i in range(4):
                            _fill(math.sqrt(eps) if i < 2 else 0.0, C[i])
                        for j in range(targets):
                            for i in range(4):
                                _accumulate(v[j, tile], R[j, i], C[i])
                        _whiten(C, x, w)
                        for j in range(targets):
                            for c in range(2):
                                _multiply(R[j, c], R[j, 2], R[j, 3] if c == 0 else -R[j, 3], w[c], w[1 - c], y[j, c])
                                _scale(v[j, tile], y[j, c])
                    for j in range(targets):
                        if iteration < iterations:
                            _statistics(y[j, 0], y[j, 1], v[j, tile], S[j])
                        else:
                            for c in range(2):
                                _write(y[j, c], begin, scale[item], Y[item, j, c, f])
                for j in range(targets):
                    for i in range(4):
                        R[j, i] = S[j, i] / (eps + (S[j, 0] + S[j, 1]) / 2)


@jit
def peaks(X, first, last):
    """The largest |X|^2 of bins first to last of each item of X (b, c, f, k): (b,)."""
    b, c, _, k = X.shape
    peak = np.zeros(b)
    for item in range(b):
        for channel in range(c):
            for f in range(first, last):
                row = X[item, channel, f]
                most = 0.0
                for t in range(k):
                    re, im = row[t].real, row[t].imag
                    most = max(most, float(re * re + im * im))
                peak[item] = max(peak[item], most)
    return peak


@jit
def _read(row, begin, gain, x):
    row = row[begin : begin + TILE]  # the loop counts from 0: an index that may be negative is no vector instruction
    size = len(row)
    for t in range(size):
        x[t] = row[t].real * gain
        x[TILE + t] = row[t].imag * gain
    for t in range(size, TILE):
        x[t] = x[TILE + t] = 0


@jit
def _read_real(row, begin, x):
    row = row[begin : begin + TILE]
    size = len(row)
    for t in range(size):
        x[t] = LIMIT if row[t] > LIMIT else row[t]
    for t in range(size, TILE):
        x[t] = 0


@jit
def _write(x, begin, gain, row):
    row = row[begin : begin + TILE]
    for t in range(len(row)):
        row[t] = complex(x[t] * gain, x[TILE + t] * gain)


@jit
def _fill(value, x):
    for t in range(len(x)):
        x[t] = value


@jit
def _start(v, total, x, unit, softmask, y):
    """y = v / total x, or v with the phase of x."""
    for t in range(TILE):
        if softmask:
            gain = (v[t] + NOTHING) / total[t]
        else:
            power = x[t] * x[t] + x[TILE + t] * x[TILE + t]
            gain = v[t] * unit / math.sqrt(power) if power > 0 else 0.0
        y[t] = gain * x[t]
        y[TILE + t] = gain * x[TILE + t]


@jit
def _accumulate(v, r, total):
    for t in range(len(total)):
        total[t] += v[t] * r


@jit
def _whiten(C, x, w):
    """w = C^-1 x."""
    for t in range(TILE):
        a, d, re, im = C[0, t], C[1, t], C[2, t], C[3, t]
        gain = 1 / (a * d - re * re - im * im)
        x1, y1, x2, y2 = x[0, t] * gain, x[0, TILE + t] * gain, x[1, t] * gain, x[1, TILE + t] * gain
        w[0, t] = d * x1 - re * x2 + im * y2
        w[0, TILE + t] = d * y1 - re * y2 - im * x2
        w[1, t] = a * x2 - re * x1 - im * y1
        w[1, TILE + t] = a * y2 - re * y1 + im * x1


@jit
def _multiply(own, re, im, x, other, y):
    """y = own x + (re + i im) other."""
    for t in range(TILE):
        y[t] = own * x[t] + re * other[t] - im * other[TILE + t]
        y[TILE + t] = own * x[TILE + t] + re * other[TILE + t] + im * other[t]


@jit
def _scale(v, y):
    for t in range(TILE):
        y[t] *= v[t]
        y[TILE + t] *= v[t]


@jit
def _statistics(x1, x2, v, S):
    """v = the mean of |y|^2 over the channels x1 and x2 of y, and S += sum of y y^H over the frames."""
    first, second, re, im = 0.0, 0.0, 0.0, 0.0
    for t in range(TILE):
        left, right = x1[t] * x1[t] + x1[TILE + t] * x1[TILE + t], x2[t] * x2[t] + x2[TILE + t] * x2[TILE + t]
        first += left
        second += right
        re += x1[t] * x2[t] + x1[TILE + t] * x2[TILE + t]
        im += x1[TILE + t] * x2[t] - x1[t] * x2[TILE + t]
        v[t] = (left + right) / 2
    S[0] += first
    S[1] += second
    S[2] += re
    S[3] += im
