"""The two sums over bins in which BSS Eval spends its time on a CPU, compiled: spectra are read once, from the cache.

Bins are taken in tiles. A tile of a complex signal is one row: its real parts, then its imaginary parts, with zeros after
the last bin, so that all loops are of the same length, which the compiler knows.

Letters and axes are those of `_filters` and `_energies`.
"""

from __future__ import annotations

import numpy as np

from mss.cpu import jit

__all__ = ["add_products", "frame_energies"]

TILE = 128  # bins: with eight signals all filters and sums are some 200 kB


@jit
def add_products(X, Y, R, upper):
    """R (a, b, f) += sum over m of conj(X) (a, m, f) times Y (b, m, f), where `upper` only for a <= b."""
    n, blocks, f = X.shape
    total = np.empty((n, len(Y), 2 * TILE))
    x, y = np.empty((n, 2 * TILE)), np.empty((len(Y), 2 * TILE))
    for begin in range(0, f, TILE):
        total[:] = 0
        for m in range(blocks):
            for a in range(n):
                _read(X[a, m], begin, x[a])
            for b in range(len(Y)):
                _read(Y[b, m], begin, y[b])
            for a in range(n):
                for b in range(a if upper else 0, len(Y)):
                    _conjugate_multiply_add(x[a], y[b], total[a, b])
        for a in range(n):
            for b in range(a if upper else 0, len(Y)):
                row, out = total[a, b], R[a, b, begin : begin + TILE]
                for t in range(len(out)):
                    out[t] += complex(row[t], row[TILE + t])


@jit
def frame_energies(X, P, Pj, images):
    """Energies (5, n, e, m) as `_energies._filtered` has them, from the spectra X (2·n·c, m, f) of whole frames.

    P (n estimates, c out, n·c in, f) and Pj (n, e, c out, c in, f) are the filters' responses.
    """
    n, pairs, c, _, f = Pj.shape
    frames = X.shape[1]
    E = np.zeros((5, n, pairs, frames))
    x = np.empty((2 * n * c, 2 * TILE))
    H, Hj = np.empty((n, c, n * c, 2 * TILE)), np.empty((n, pairs, c, c, 2 * TILE))
    p, pj = np.empty((n, c, 2 * TILE)), np.empty(2 * TILE)
    parts = np.empty(5)
    for begin in range(0, f, TILE):
        for j in range(n):
            for out in range(c):
                for i in range(n * c):
                    _read(P[j, out, i], begin, H[j, out, i])
                for e in range(pairs):
                    for i in range(c):
                        _read(Pj[j, e, out, i], begin, Hj[j, e, out, i])
        for m in range(frames):
            for a in range(2 * n * c):
                _read(X[a, m], begin, x[a])
            p[:] = 0
            for j in range(n):
                for out in range(c):
                    for i in range(n * c):
                        _multiply_add(H[j, out, i], x[i], p[j, out])
            for j in range(n):
                for e in range(pairs):
                    estimate = e if pairs > 1 else j
                    for out in range(c):
                        pj[:] = 0
                        for i in range(c):
                            _multiply_add(Hj[j, e, out, i], x[j * c + i], pj)
                        y = x[(n + estimate) * c + out]
                        _add_parts(pj, p[estimate, out], x[j * c + out], y, images, parts)
                        for q in range(5):
                            E[q, j, e, m] += parts[q]
    return E


@jit
def _read(row, begin, x):
    row = row[begin : begin + TILE]  # the loop counts from 0: an index that may be negative is no vector instruction
    size = len(row)
    for t in range(size):
        x[t] = row[t].real
        x[TILE + t] = row[t].imag
    for t in range(size, TILE):
        x[t] = 0
        x[TILE + t] = 0


@jit
def _multiply_add(h, x, total):
    for t in range(TILE):
        total[t] += h[t] * x[t] - h[TILE + t] * x[TILE + t]
        total[TILE + t] += h[t] * x[TILE + t] + h[TILE + t] * x[t]


@jit
def _conjugate_multiply_add(h, x, total):
    for t in range(TILE):
        total[t] += h[t] * x[t] + h[TILE + t] * x[TILE + t]
        total[TILE + t] += h[t] * x[TILE + t] - h[TILE + t] * x[t]


@jit
def _add_parts(pj, p, s, y, images, parts):
    """Energies of P_j y, P y, P_j y - s (or y - P_j y), P y - P_j y and y - P y."""
    other = s if images else y
    e0, e1, e2, e3, e4 = 0.0, 0.0, 0.0, 0.0, 0.0
    for t in range(2 * TILE):
        e0 += pj[t] * pj[t]
        e1 += p[t] * p[t]
        rest, interference, artefacts = pj[t] - other[t], p[t] - pj[t], y[t] - p[t]
        e2 += rest * rest
        e3 += interference * interference
        e4 += artefacts * artefacts
    parts[0], parts[1], parts[2], parts[3], parts[4] = e0, e1, e2, e3, e4
