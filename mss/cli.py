"""What the command-line verbs share: starting torch, devices, ranks, background work, exit codes.

Imports torch only inside functions: a verb must be able to say `--help` at once.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import gc
import hashlib
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = [
    "INTERRUPTED",
    "UsageError",
    "background",
    "complain",
    "exit_code",
    "gather",
    "let_go_of_code",
    "pick_device",
    "program",
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
        complain(f"error: {error}")
        return USAGE
    except KeyboardInterrupt:
        complain("interrupted: nothing half-written was left", unless_said=True)
        return INTERRUPTED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # the reader of our output went away, as in `| head`
            if error.errno != errno.ENOSPC or error.filename is not None:  # of a file, which is told with its name
                raise
            complain(f"error: standard output cannot be written ({error})")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return FAILED


def program(main: Callable[[], int]) -> NoReturn:
    """Runs a verb as the whole of this process, and ends it without the destructors of libraries.

    Those of torch's would map 0.28 GB of code, more than any song needs, and take half a second. Threads have ended before,
    and what the verb and its libraries have registered with `atexit`; not so what was registered before this call. Who has
    more to do in the same process calls the verb's `main`.
    """
    code = FAILED

    def leave() -> None:
        logging.shutdown()
        failed = _flushed_in_vain()
        os._exit(code or failed)

    atexit.register(leave)  # before all others, so it runs after them
    try:
        code = main()
    except SystemExit as error:  # argparse
        code = error.code if isinstance(error.code, int) else FAILED if error.code else 0
        raise
    sys.exit(code)


def _flushed_in_vain() -> int:
    """Writes what is still to be written; FAILED if standard output cannot take it, else 0."""
    failed = 0
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output went away
        failed = FAILED
    except (OSError, ValueError) as error:
        failed = FAILED
        complain(f"error: standard output cannot be written ({error})")
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    return failed


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
    page by page, at every layer: a fifth of the time of a U-Net on a CPU. And torch's threads, when they have done their
    part of an operation, wait for the next one for milliseconds without leaving their core, which others want: the compiled
    code of `mss.cpu`, reading and writing.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # turns of a loop; read when torch is imported
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.enable()
        gc.freeze()
    let_go_of_code()
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:  # a libc without it (musl)
            return
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        # most tensors of a block are smaller and are kept; what is larger is rare, and kept it costs 0.2 GB and saves no time
        mallopt(mmap_threshold, 1 << 26)
        mallopt(trim_threshold, 1 << 27)


def let_go_of_code() -> None:
    """Unmaps the code of libraries; what runs again is mapped again, a microsecond for each 64 kB. Does nothing but on Linux.

    What ran once stays in memory for ever otherwise, and a queue such as Slurm's counts it: after importing torch for CUDA
    0.2 GB, of libraries that a CPU has no use for; after the first block of a song 0.2 GB, of compilers.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError, ValueError):
        madvise = ctypes.CDLL(None).madvise
        dont_need = 4  # MADV_DONTNEED of mman.h
        for line in Path("/proc/self/maps").read_text().splitlines():
            place, kind, *_, name = line.split(maxsplit=5)
            if kind == "r-xp" and ".so" in name:  # read from its file, and never written to
                first, last = (int(address, 16) for address in place.split("-"))
                madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), dont_need)


def pick_device(name: str) -> torch.device:
    """The device that a user named; "auto": CUDA (the one of this rank under torchrun and srun), then MPS, then the CPU.

    Raises:
        UsageError: there is no such device on this machine.
    """
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
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
    """Which of how many processes this is: what torchrun says, else srun, else (0, 1).

    A batch script of several tasks that was not started by srun is one process, whatever SLURM_NTASKS says.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
    return 0, 1


def complain(text: str, *, unless_said: bool = False) -> None:
    """Writes a line to stderr: of the ranks on a node that have the same to say, only the first does.

    Ranks that end at once cannot talk to one another, so an empty file in the system's temporary folder says it for them.

    Args:
        text: what is wrong.
        unless_said: say nothing, either, if a rank has complained of something else: torchrun and srun stop the others.
    """
    if launch := _launch():
        folder, mark = Path(tempfile.gettempdir()), f"mss-{_digest(launch)}-"
        if unless_said and any(folder.glob(f"{mark}*")):
            return
        try:
            (folder / f"{mark}{_digest(text)}").touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:  # better twice than never
            pass
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def _launch() -> str:
    """What the ranks on a node have in common and no others; empty for a process on its own."""
    parent = os.getppid()
    if "RANK" not in os.environ and "LOCAL_RANK" in os.environ:  # Lightning's: the first starts the others
        return f"lightning {os.getpid() if os.environ['LOCAL_RANK'] == '0' else parent}"
    if rank_and_world()[1] > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun {parent} {os.environ.get('TORCHELASTIC_RESTART_COUNT')}"
    if rank_and_world()[1] > 1 and "SLURM_STEP_ID" in os.environ:
        return "slurm " + " ".join(os.environ.get(f"SLURM_{x}", "") for x in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def gather(results: list[T]) -> list[T]:
    """The results of all ranks, on each; waits for the slowest, so that none that failed ends and takes the others along.

    Does nothing for a single process, or where torchrun did not start them: srun lets the others finish when one dies, so
    none of them may wait for it.
    """
    _, world = rank_and_world()
    if world == 1 or "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
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
