"""What CPUs want: loops compiled where tensor operations would cross main memory many times, threads, large pages.

Numba is imported with the first compiled module, and those are imported where they are called: a command that needs none
of it does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["empty", "in_threads", "jit", "shared", "untracked"]

# NaN stays NaN; sums may be taken in any order, without which no sum becomes vector instructions
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}


def jit(function: Callable) -> Callable:
    """The function, compiled when first called and then kept on disk, beside the package or in the user's cache."""
    import numba

    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no place for the cache can be written to
        return numba.njit(**OPTIONS)(function)


def untracked(*tensors: Tensor) -> bool:
    """Whether compiled code may take these tensors' memory: on a CPU, of usual precision, and nothing to be differentiated."""
    return all(
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)
        and x.numel() > 0
        and not (torch.is_grad_enabled() and x.requires_grad)
        and forward_ad.unpack_dual(x).tangent is None
        for x in tensors
    )


def in_threads(work: Callable[[int, int], Any], size: int, *, pieces: int = 4) -> list:
    """The results of work(first, last) on parts of range(size), in as many threads as torch has, several parts for each."""
    threads = torch.get_num_threads()
    step = max(1, -(-size // (threads * pieces)))
    parts = [(first, min(first + step, size)) for first in range(0, size, step)]
    if threads == 1:
        return [work(*part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda part: work(*part), parts))


def shared(work: Callable[[Sequence], tuple[Tensor, ...]], items: Sequence, device: torch.device) -> tuple[Tensor, ...]:
    """Sums of the results of `work` over parts of the items, one part per CPU thread.

    Threads that each take whole chunks stay in their own cache and meet once; with torch's own threads inside every
    operation they would meet thousands of times, and on a machine that also does other things each time wait.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    if workers == 1:
        return work(items)
    inference = torch.is_inference_mode_enabled()

    def worker(part: Sequence) -> tuple[Tensor, ...]:
        with torch.inference_mode(inference), torch.no_grad():  # both are each thread's own
            return work(part)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(worker, [items[i::workers] for i in range(workers)]))
    finally:
        torch.set_num_threads(threads)  # the setting is each thread's own, but also the default of threads to come
    return tuple(sum(results[1:], results[0]) for results in zip(*parts, strict=True))


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for a tensor of many megabytes; on a CPU in pages of 2 MB, of which 512 times fewer are cleared one by one."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    memory = np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype)  # NumPy asks the system for such pages
    return torch.from_numpy(memory)
