"""Between bins and bands of frequency on a CPU, compiled: what is read once is not written and read again."""

from __future__ import annotations

from mss.cpu import jit

__all__ = ["masks_and_means"]


@jit
def masks_and_means(V, loudness, edges, least, masks, means, first, last):
    """masks (n, c, f, k) = V / sum V, at least `least`, for V (n, c, f, k); means (n, c, bands, k) of the loudness (c, f, k),
    and of all masks but the last.

    For items first to last of c bands, in such an order that wide bands and narrow ones are spread over all. Where all V are 0
    the masks are alike.
    """
    n, channels = V.shape[:2]
    bands = len(edges) - 1
    for item in range(first, last):
        position, c = item // channels, item % channels
        half = (bands + 1) // 2
        band = 2 * position if position < half else 2 * (position - half) + 1
        low, high = edges[band], edges[band + 1]
        for j in range(n):
            _clear(means[j, c, band])
        for row in range(low, high):
            _add(loudness[c, row], means[0, c, band])
            total = masks[n - 1, c, row]
            _clear(total)
            for j in range(n):
                _add(V[j, c, row], total)
            for j in range(n - 1):
                _divide(V[j, c, row], total, 1 / n, least, masks[j, c, row])
                _add(masks[j, c, row], means[j + 1, c, band])
            _divide(V[n - 1, c, row], total, 1 / n, least, total)
        for j in range(n):
            _scale(means[j, c, band], 1 / (high - low))


@jit
def _clear(x):
    for t in range(len(x)):
        x[t] = 0


@jit
def _add(x, y):
    for t in range(len(x)):
        y[t] += x[t]


@jit
def _scale(x, factor):
    for t in range(len(x)):
        x[t] *= factor


@jit
def _divide(v, total, share, least, out):
    for t in range(len(v)):
        mask = v[t] / total[t] if total[t] > 0 else share
        out[t] = mask if mask > least else least
