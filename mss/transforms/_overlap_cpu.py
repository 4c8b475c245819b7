"""Overlap-add of windowed frames on a CPU, compiled: every sample is written once."""

from __future__ import annotations

from mss.cpu import jit

__all__ = ["overlap_add"]


@jit
def overlap_add(frames, window, hop, skip, out, first, last):
    """out (r, t) = sum of the frames (r, k, n), windowed and `hop` samples apart, less the first `skip` samples.

    For pieces first to last of `hop` samples each, those of each row in turn.
    """
    _, k, n = frames.shape
    length = out.shape[1]
    pieces = -(-length // hop)
    for piece in range(first, last):
        row, begin = piece // pieces, piece % pieces * hop
        y = out[row, begin : min(begin + hop, length)]
        for t in range(len(y)):
            y[t] = 0
        earliest = max(0, -(-(skip + begin - n + 1) // hop))
        for frame in range(earliest, min(k, (skip + begin + len(y) - 1) // hop + 1)):
            start = skip + begin - frame * hop  # of the piece, in the frame
            left, right = max(0, -start), min(len(y), n - start)
            _add(frames[row, frame, start + left : start + right], window[start + left : start + right], y[left:right])


@jit
def _add(x, window, y):
    for t in range(len(y)):
        y[t] += x[t] * window[t]
