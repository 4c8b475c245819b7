"""Signals block by block: chunks for the threads of a CPU, cuts and frames of references and estimates together."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["WORKSPACE", "block_size", "cut", "fft_size", "framed", "power_of_two", "shared"]

WORKSPACE = 1 << 19  # real samples per chunk and thread: 4 MiB of float64, whatever the length of the track
BLOCK = 1 << 13  # FFT points of the blockwise passes: long against the filters, short against the cache


def shared(work: Callable[[Sequence], tuple[Tensor, ...]], items: Sequence, device: torch.device) -> tuple[Tensor, ...]:
    """Sums of the results of `work` over parts of the items, one part per CPU thread.

    Threads that each take whole chunks stay in their own cache and meet once; with torch's own threads inside every
    operation they would meet thousands of times, and on a machine that also does other things each time wait.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    if workers == 1:
        return work(items)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(work, [items[i::workers] for i in range(workers)]))
    finally:
        torch.set_num_threads(threads)  # the setting is each thread's own, but also the default of threads to come
    return tuple(sum(results[1:], results[0]) for results in zip(*parts, strict=True))


def cut(s: Tensor, y: Tensor, start: int, stop: int, bounds: tuple[int, int]) -> Tensor:
    """Samples start..stop of s and y (..., t), zero outside the bounds: (signals, stop-start) float64."""
    lo, hi = max(start, bounds[0]), min(stop, bounds[1])
    s, y = s[..., lo:hi].flatten(0, -2), y[..., lo:hi].flatten(0, -2)
    out = s.new_zeros((len(s) + len(y), stop - start), dtype=torch.float64)
    out[: len(s), lo - start : hi - start] = s
    out[len(s) :, lo - start : hi - start] = y
    return out


def framed(s: Tensor, y: Tensor, window: int, hop: int, frames: slice, n_fft: int) -> Tensor:
    """Frames of s and y (n, c, t), zero-padded to n_fft samples: (2·n·c, m, n_fft) float64."""
    s, y = (x.flatten(0, 1).unfold(-1, window, hop)[:, frames] for x in (s, y))
    out = s.new_empty((2 * len(s), s.shape[1], n_fft), dtype=torch.float64)
    out[: len(s), :, :window] = s
    out[len(s) :, :, :window] = y
    out[..., window:] = 0
    return out


def block_size(length: int) -> int:
    return max(BLOCK, power_of_two(4 * length))


def power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << (n - 1).bit_length()


def fft_size(n: int) -> int:
    """The smallest even number >= n without prime factors above 5."""
    while True:
        n += n % 2
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2
