"""Signals block by block: cuts and frames of references and estimates together."""

from torch import Tensor

__all__ = ["WORKSPACE", "block_size", "cut", "fft_size", "framed", "power_of_two"]

WORKSPACE = 1 << 20  # real samples per chunk and thread: 4 MiB of float64, whatever the length of the track
BLOCK = 1 << 13  # FFT points of the blockwise passes: long against the filters, short against the cache


def cut(s: Tensor, y: Tensor, start: int, bounds: tuple[int, int], out: Tensor) -> None:
    """Writes the samples of s and y (..., t) from start on, zero outside the bounds, to out (signals, size)."""
    stop = start + out.shape[-1]
    lo, hi = max(start, bounds[0]), min(stop, bounds[1])
    s, y = s[..., lo:hi].flatten(0, -2), y[..., lo:hi].flatten(0, -2)
    out[:, : lo - start] = 0
    out[: len(s), lo - start : hi - start] = s
    out[len(s) :, lo - start : hi - start] = y
    out[:, hi - start :] = 0


def framed(s: Tensor, y: Tensor, window: int, hop: int, start: int, out: Tensor) -> None:
    """Writes frames of s and y (n, c, t), from the start-th on, to out (2·n·c, m, time >= window)."""
    stop = start + out.shape[1]
    s, y = (x.flatten(0, 1).unfold(-1, window, hop)[:, start:stop] for x in (s, y))
    out[: len(s), :, :window] = s
    out[len(s) :, :, :window] = y


def block_size(length: int) -> int:
    return max(BLOCK, power_of_two(4 * length))


def power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << (n - 1).bit_length()


def fft_size(n: int) -> int:
    """The smallest even number >= n without prime factors above 7."""
    while True:
        n += n % 2
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2
