"""Dynamic time warping, compiled: every cell needs its neighbours."""

from __future__ import annotations

import numpy as np

from mss.cpu import jit

__all__ = ["warp"]


@jit
def warp(cost):
    """For each row of cost (n, m) the mean column of the cheapest path from the first cell to the last, (n,).

    Steps are one row, one column, or both, which costs half as much again; but the path may leave out columns at either end.
    """
    n, m = cost.shape
    total = np.empty((n, m))
    for j in range(m):
        total[0, j] = cost[0, j]
    for i in range(1, n):
        total[i, 0] = total[i - 1, 0] + cost[i, 0]
        for j in range(1, m):
            total[i, j] = min(
                total[i - 1, j] + cost[i, j], total[i, j - 1] + cost[i, j], total[i - 1, j - 1] + 1.5 * cost[i, j]
            )
    i, j = n - 1, 0
    for column in range(m):
        if total[i, column] < total[i, j]:
            j = column
    sums, counts = np.zeros(n), np.zeros(n)
    while True:
        sums[i] += j
        counts[i] += 1
        if i == 0:
            break
        if j == 0:
            i -= 1
            continue
        both = total[i - 1, j - 1] + 1.5 * cost[i, j]
        row, column = total[i - 1, j] + cost[i, j], total[i, j - 1] + cost[i, j]
        i, j = (i - 1, j - 1) if both <= min(row, column) else (i - 1, j) if row <= column else (i, j - 1)
    return sums / counts
