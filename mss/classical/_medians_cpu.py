"""Medians compiled for CPUs: of sliding windows, of chosen frames, of footprints.

All work on tiles of numbers side by side (*lanes*), so that comparing two rows of a tile is a few vector instructions and
nothing depends on the data. Rows are sorted by Batcher's merge-exchange. A median is a selection: results are exact.

Sliding windows share what they have in common. The windows of g consecutive outputs share all but g - 1 samples of each;
of these, sorted, only the middle g can still be the median of one of them. Each half of the outputs shares g / 2 samples
more: sorted and merged with the g, again only the middle g / 2 count, and so on down to one output and one number. What
is left out on either side is always as much below as above, so one rule serves all levels.
"""

from __future__ import annotations

import numpy as np

from mss.cpu import jit

__all__ = ["TILE", "footprint", "frames", "hpss_part", "running_down", "running_right"]

TILE = 64  # lanes
GROUP = 32  # outputs that share their sorting, at most
CHUNK = 128  # outputs between two readings: with a usual window they stay in the core's own cache


@jit
def running_right(x, out, first, last, size):
    """Running medians along the second axis of x (r, n), tiles first to last of TILE rows each."""
    r, n = x.shape
    half = size // 2
    rows = np.zeros((CHUNK + size - 1, TILE), x.dtype)
    result = np.empty((CHUNK, TILE), x.dtype)
    group = _group(half)
    core, extra = np.empty((size - group + 1, TILE), x.dtype), np.empty((group, TILE), x.dtype)
    a, b = np.empty((group, TILE), x.dtype), np.empty((group, TILE), x.dtype)
    for tile in range(first, last):
        begin = tile * TILE
        width = min(TILE, r - begin)
        for start in range(0, n, CHUNK):
            count = min(CHUNK, n - start)
            for i in range(0, count + size - 1, 16):
                top = min(i + 16, count + size - 1)
                if start + i - half >= 0 and start + top - half <= n:
                    for t in range(width):
                        for s in range(i, top):
                            rows[s, t] = x[begin + t, start + s - half]
                else:
                    for s in range(i, top):
                        at = _mirrored(start + s - half, n)
                        for t in range(width):
                            rows[s, t] = x[begin + t, at]
            _slide(rows, result, count, half, group, core, extra, a, b)
            for i in range(0, count, 16):
                for t in range(width):
                    for s in range(i, min(i + 16, count)):
                        out[begin + t, start + s] = result[s, t]


@jit
def running_down(x, out, first, last, size):
    """Running medians along the second axis of x (m, n, l), tiles first to last of TILE columns, those of each m in turn."""
    _, n, lanes = x.shape
    half = size // 2
    rows = np.zeros((CHUNK + size - 1, TILE), x.dtype)
    result = np.empty((CHUNK, TILE), x.dtype)
    group = _group(half)
    core, extra = np.empty((size - group + 1, TILE), x.dtype), np.empty((group, TILE), x.dtype)
    a, b = np.empty((group, TILE), x.dtype), np.empty((group, TILE), x.dtype)
    tiles = -(-lanes // TILE)
    for tile in range(first, last):
        item, begin = tile // tiles, tile % tiles * TILE
        width = min(TILE, lanes - begin)
        for start in range(0, n, CHUNK):
            count = min(CHUNK, n - start)
            for s in range(count + size - 1):
                at = _mirrored(start + s - half, n)
                for t in range(width):
                    rows[s, t] = x[item, at, begin + t]
            _slide(rows, result, count, half, group, core, extra, a, b)
            for s in range(count):
                for t in range(width):
                    out[item, start + s, begin + t] = result[s, t]


@jit
def frames(x, index, out, first, last):
    """out (b, r, q): medians of x (b, r, k) over the frames `index` (b, q, m), of which those below 0 count for none.

    For tiles first to last of TILE rows, those of each item in turn. An even number gives the mean of the middle two, none 0.
    """
    _, r, k = x.shape
    q, m = index.shape[1:]
    columns, rows = np.zeros((k, TILE), x.dtype), np.empty((m, TILE), x.dtype)
    lower, upper = np.empty(TILE, x.dtype), np.empty(TILE, x.dtype)
    tiles = -(-r // TILE)
    for tile in range(first, last):
        item, begin = tile // tiles, tile % tiles * TILE
        width = min(TILE, r - begin)
        for i in range(0, k, 16):
            for t in range(width):
                for s in range(i, min(i + 16, k)):
                    columns[s, t] = x[item, begin + t, s]
        for j in range(q):
            found = 0
            for i in range(m):
                at = index[item, j, i]
                if at >= 0:
                    _copy(columns[at], rows[found])
                    found += 1
            _middle(rows, found, lower, upper)
            for t in range(width):
                out[item, begin + t, j] = lower[t]


@jit
def footprint(x, offsets, out, first, last):
    """out (m, f, k): medians of x over the odd number of `offsets` (s, 2) in bins and frames, edges mirrored.

    For rows first to last of all m · f.
    """
    _, f, k = x.shape
    rows = np.zeros((len(offsets), TILE), x.dtype)
    lower, upper = np.empty(TILE, x.dtype), np.empty(TILE, x.dtype)
    for row in range(first, last):
        item, bin_ = row // f, row % f
        for begin in range(0, k, TILE):
            width = min(TILE, k - begin)
            for i in range(len(offsets)):
                source = x[item, _mirrored(bin_ + offsets[i, 0], f)]
                shift = begin + offsets[i, 1]
                if shift >= 0 and shift + width <= k:
                    for t in range(width):
                        rows[i, t] = source[shift + t]
                else:
                    for t in range(width):
                        rows[i, t] = source[_mirrored(shift + t, k)]
            _middle(rows, len(offsets), lower, upper)
            for t in range(width):
                out[item, bin_, begin + t] = lower[t]


@jit
def hpss_part(V, wanted, other, out, first, last, power, margin, tiny):
    """out = V w^p / (w^p + (margin o)^p), rows first to last of all (r, k); half of V where both are 0."""
    for row in range(first, last):
        v, w, o, y = V[row], wanted[row], other[row], out[row]
        for t in range(len(v)):
            a, c = w[t], margin * o[t]
            peak = max(max(a, c), tiny)
            a, c = a / peak, c / peak
            if power == 2:
                a, c = a * a, c * c
            elif power != 1:
                a, c = a**power, c**power
            total = a + c
            y[t] = v[t] * a / total if total > 0 else v[t] / 2


@jit
def _group(half):
    group = 1
    while 2 * group <= min(half + 1, GROUP):
        group *= 2
    return group


@jit
def _mirrored(i, n):
    i = i % (2 * n)
    return min(i, 2 * n - 1 - i)


@jit
def _slide(rows, result, count, half, group, core, extra, a, b):
    """result[i] = median of rows[i] to rows[i + 2 half], for i below `count`."""
    for start in range(0, count, group):
        for i in range(len(core)):
            _copy(rows[min(start + group - 1 + i, len(rows) - 1)], core[i])
        _sort(core, 0, len(core))
        for i in range(group):
            _copy(core[half - group + 1 + i], a[i])
        g = group
        while g > 1:
            h = g // 2
            for q in range(0, group, g):
                for side in range(2):
                    new = start + q + (2 * half + 1 if side else h - 1)
                    for i in range(h):
                        _copy(rows[min(new + i, len(rows) - 1)], extra[i])
                    _sort(extra, 0, h)
                    for i in range(h):
                        _ranked(a, q, g, extra, 0, h, h + i, b[q + side * h + i])
            a, b = b, a
            g = h
        for i in range(min(group, count - start)):
            _copy(a[i], result[start + i])


@jit
def _middle(rows, count, lower, upper):
    """lower = median of the first rows; sorts them in two halves."""
    if count == 0:
        for t in range(TILE):
            lower[t] = 0
        return
    half = count // 2
    _sort(rows, 0, half)
    _sort(rows, half, count - half)
    _ranked(rows, half, count - half, rows, 0, half, (count - 1) // 2, lower)
    if count % 2 == 0:
        _ranked(rows, half, count - half, rows, 0, half, count // 2, upper)
        for t in range(TILE):
            lower[t] = (lower[t] + upper[t]) / 2


@jit
def _sort(rows, begin, n):
    """Batcher's merge-exchange: sorts rows begin to begin + n, lane by lane."""
    top = 1
    while 2 * top < n:
        top *= 2
    p = top
    while p > 0 and n > 1:
        q, r, d = top, 0, p
        while True:
            for i in range(n - d):
                if i & p == r:
                    _exchange(rows[begin + i], rows[begin + i + d])
            if q == p:
                break
            d = q - p
            q //= 2
            r = p
        p //= 2


@jit
def _ranked(a, a0, n, b, b0, m, rank, out):
    """The number of this rank, from 0, of the sorted rows a0 to a0 + n of a and b0 to b0 + m of b together.

    It is the least of max(a[i - 1], b[j - 1]) over all i + j = rank + 1.
    """
    first = True
    for j in range(max(rank + 1 - n, 0), min(rank + 1, m) + 1):
        i = rank + 1 - j
        x = a[a0 + i - 1] if i > 0 else b[b0 + j - 1]
        y = b[b0 + j - 1] if j > 0 else x
        if first:
            for t in range(TILE):
                out[t] = x[t] if x[t] > y[t] else y[t]
            first = False
        else:
            for t in range(TILE):
                larger = x[t] if x[t] > y[t] else y[t]
                out[t] = larger if larger < out[t] else out[t]


@jit
def _exchange(x, y):
    for t in range(TILE):
        u, v = x[t], y[t]
        x[t] = v if v < u else u
        y[t] = u if v < u else v


@jit
def _copy(x, y):
    for t in range(TILE):
        y[t] = x[t]
