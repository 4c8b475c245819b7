"""What the command-line verbs share: starting torch, devices, ranks, background work, exit codes.

Imports torch only inside functions: a verb must be able to say `--help` at once.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = [
    "INTERRUPTED",
    "UsageError",
    "background",
    "exit_code",
    "gather",
    "pick_device",
    "rank_and_world",
    "start_torch",
]

T = TypeVar("T")
FAILED, USAGE, INTERRUPTED = 1, 2, 130  # the shell's own convention for 130: 128 + SIGINT


class UsageError(ValueError):
    """The call is wrong: told without a traceback, exit code 2."""


def exit_code(main: Callable[[], int]) -> int:
    """Runs a verb and turns what it raises into an exit code and one line on stderr."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last: the terminal was closed; not on Windows
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), _interrupt_once)
    try:
        return main()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was left", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _interrupt_once(number: int, frame: object) -> None:
    """Raises KeyboardInterrupt, and lets nothing interrupt the clean-up that follows."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise KeyboardInterrupt


def start_torch() -> None:
    """Imports torch, faster, and makes the allocator keep what it has.

    Importing torch creates a million objects that all stay: searching them for garbage meanwhile takes an eighth of the
    time. And glibc gives each freed block of some megabytes back to the system, which a network then faults in again,
    page by page, at every layer: a fifth of the time of a U-Net on a CPU.
    """
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.enable()
        gc.freeze()
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:  # a libc without it (musl)
            return
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 1 << 28)
        mallopt(trim_threshold, 1 << 29)


def pick_device(name: str) -> torch.device:
    """The device that a user named; "auto": CUDA (the one of this rank under torchrun), then MPS, then the CPU.

    Raises:
        UsageError: there is no such device on this machine.
    """
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} cannot be used: choose auto, cpu, cuda, cuda:1 ... or mps")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name!r} cannot be used: this machine does not have it (try --device auto)"
        ) from error
    return device


def rank_and_world() -> tuple[int, int]:
    """Which of how many processes this is: what torchrun says, or (0, 1)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def gather(results: list[T]) -> list[T]:
    """The results of all ranks, on each; waits for the slowest, so that none that failed ends and takes the others along.

    Does nothing for a single process, or where ranks cannot talk to one another (no MASTER_ADDR).
    """
    _, world = rank_and_world()
    if world == 1 or "MASTER_ADDR" not in os.environ:
        return results
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        parts: list[list[T]] = [[] for _ in range(world)]
        dist.all_gather_object(parts, results)
    finally:
        dist.destroy_process_group()
    return [result for part in parts for result in part]


def background(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items, made in a thread that runs up to `depth` of them ahead; its exceptions are raised here."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    end = object()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # handed over, not swallowed
            put((end, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def set_up_logging(quiet: bool) -> None:
    """Warnings of the library to stderr, unless quiet."""
    logging.basicConfig(
        format="%(levelname)s: %(message)s", level=logging.ERROR if quiet else logging.WARNING, force=True
    )
