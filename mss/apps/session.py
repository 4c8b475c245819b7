"""A run of `python -m mss.separate`, or of another verb, over all its files: progress, messages, results."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from tqdm import tqdm

from mss.apps.jobs import Job
from mss.apps.separation import Report
from mss.audio import AudioError

__all__ = ["Session"]

log = logging.getLogger(__name__)


class Session:
    """Does jobs one after the other or several at a time; one that fails does not keep the others from being done.

    Args:
        separate: does one job: (job, progress=..., stop=...) -> Report, with what is to be said of it.
        at_a_time: jobs at a time, in threads that share the cores.
        quiet: say nothing but errors.
    """

    def __init__(self, separate: Callable[..., Report], *, at_a_time: int = 1, quiet: bool = False) -> None:
        self.results: list[dict] = []
        self.failures = 0
        self._separate = separate
        self._at_a_time = at_a_time
        self._quiet = quiet
        self._stop = threading.Event()
        self._lines = list(range(at_a_time))  # lines of the screen that are free for a progress bar

    def run(self, jobs: Sequence[Job]) -> None:
        """Does the jobs; their results are in `results`."""
        if self._at_a_time == 1 or len(jobs) < 2:
            for job in jobs:
                self._run_one(job)
            return
        threads = max(torch.get_num_threads() // self._at_a_time, 1)
        with ThreadPoolExecutor(self._at_a_time, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            futures = [pool.submit(self._run_one, job) for job in jobs]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    future.result()
            finally:  # Ctrl-C or a fault: the jobs under way give up, the others do not start
                self._stop.set()
                pool.shutdown(cancel_futures=True)

    def say(self, text: str) -> None:
        """A line for the user, on stderr, above the progress bars."""
        if not self._quiet:
            with tqdm.external_write_mode(file=sys.stderr):
                print(text, file=sys.stderr, flush=True)

    def skipped(self, job: Job) -> None:
        """Notes a job whose outputs were there."""
        self.results.append(
            {
                "input": str(job.source),
                "status": "skipped",
                "outputs": {stem: str(path) for stem, path in job.outputs.items()},
            }
        )

    def failed(self, source: str | Path, message: str) -> None:
        """Tells of an input that could not be separated."""
        self.failures += 1
        self.results.append({"input": str(source), "status": "failed", "error": message})
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"error: {message}", file=sys.stderr, flush=True)

    def _run_one(self, job: Job) -> None:
        line = self._lines.pop(0)
        bar = _Progress(job.source.name, line, quiet=self._quiet)
        problem = report = None
        try:
            report = self._separate(job, progress=bar.update, stop=self._stop)
        except AudioError as error:
            problem = str(error) if job.source.name in str(error) else f"{job.source}: {error}"
        except (MemoryError, OSError, RuntimeError, ValueError) as error:  # of this file alone, so the others go on
            log.debug("separating %s", job.source, exc_info=True)
            # a ValueError is a refusal in a sentence; of others the kind is half of what they say
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            problem = f"{job.source}: {kind}{error}"
            if _out_of_memory(error):
                problem = f"{job.source}: not enough memory; use --segment 60, or less, or --device cpu"
        finally:
            bar.close()
            self._lines.append(line)
        if report is None:
            self.failed(job.source, problem)
        else:
            self._succeeded(report)

    def _succeeded(self, report: Report) -> None:
        for warning in report.warnings:
            self.say(f"warning: {report.source.name}: {warning}")
        self.say(f"{report.source.name}: {report.told()}")
        self.results.append({"input": str(report.source), "status": "done", **report.facts()})


class _Progress:
    """A bar in seconds of audio, with the speed as a multiple of real time and the time that remains."""

    FORMAT = "{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s, {remaining} left, {postfix}"

    def __init__(self, name: str, line: int, *, quiet: bool) -> None:
        off = quiet or not sys.stderr.isatty()
        self._bar = tqdm(desc=name, position=line, total=1, leave=False, disable=off, bar_format=self.FORMAT)

    def update(self, done: float, total: float | None) -> None:
        if not self._bar.disable:
            self._bar.total = max(total or 0, done)
            self._bar.n = done
            speed = done / max(self._bar.format_dict["elapsed"], 1e-3)
            self._bar.set_postfix_str(f"{speed:.1f}x real time")

    def close(self) -> None:
        self._bar.close()


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, which torch says on the CPU by the text alone."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
