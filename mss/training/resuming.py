"""A run that may be stopped at any moment, by whatever, and goes on as if it had not been.

All that a step depends on is either in the checkpoint (weights, averages, optimizer, schedule, how many excerpts were
had) or follows from the seed and the step (excerpts, augmentation, dropout). So a run that goes on from a checkpoint of
the middle of an epoch does again, bit by bit, what was lost after it.
"""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from mss.files import remove_unfinished, write_whole
from mss.training.module import Training

__all__ = ["Curves", "KeepsPlace", "StoppedError", "WholeFiles"]

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")  # the last: what a queue sends before it takes the machine away
LOOK = 20  # steps between two looks at the clocks and signals of several processes, which have to agree


class StoppedError(Exception):
    """A signal asked the run to end; its place is kept."""


class KeepsPlace(Checkpoint):
    """Writes the file that a run goes on from: after every epoch, every so many minutes, and when a signal says to stop.

    A first SIGINT, SIGTERM or SIGUSR1 lets the step end, or the validation, writes, and raises `StoppedError`; a second one
    does what it did before.

    Args:
        path: of the file.
        minutes: between two; 0 writes after each step.
    """

    def __init__(self, path: Path, *, minutes: float = 10.0) -> None:
        if minutes < 0:
            raise ValueError(f"checkpoint_minutes is a number of at least 0, not {minutes}")
        self.path = Path(path)
        self.minutes = minutes
        self.asked = False
        self._written = time.monotonic()
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: lightning.Trainer, module: Training) -> None:
        """Listens to signals, in place of Lightning and of the command line."""
        if trainer.is_global_zero:
            remove_unfinished(self.path)
        self.asked = False
        try:
            for name in SIGNALS:
                if hasattr(signal, name):  # not all of them on Windows
                    number = getattr(signal, name)
                    self._handlers[number] = signal.signal(number, self._ask)
        except ValueError:  # not the main thread: signals are somebody else's
            self._handlers.clear()

    def on_train_start(self, trainer: lightning.Trainer, module: Training) -> None:
        """The clock starts."""
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Training, outputs: Any, batch: Tensor, index: int
    ) -> None:
        """Writes, if it is time; not at the last step of an epoch, which is at its end after the validation."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch or (index + 1) % trainer.accumulate_grad_batches:
            return
        asked, due = self.asked, time.monotonic() - self._written >= 60 * self.minutes
        if trainer.world_size > 1:
            if index % LOOK:
                return
            asked, due = (trainer.strategy.reduce_boolean_decision(one, all=False) for one in (asked, due))
        if asked or due:
            _log_now(trainer)
            self._write(trainer, stop=asked)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Training) -> None:
        """Writes."""
        asked = self.asked
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        self._write(trainer, stop=asked)

    def teardown(self, trainer: lightning.Trainer, module: Training, stage: str) -> None:
        """Signals are again what they were."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _write(self, trainer: lightning.Trainer, *, stop: bool) -> None:
        trainer.save_checkpoint(self.path)
        self._written = time.monotonic()
        if stop:
            raise StoppedError

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(number, self._handlers[number])


def _log_now(trainer: lightning.Trainer) -> None:
    """The row of this step, into metrics.csv. Lightning logs it after its callbacks: who is killed in between would go on from
    the place that is written now, and lack it."""
    loggers = trainer.loggers
    trainer.loggers = [logger for logger in loggers if isinstance(logger, Curves)]  # it alone knows a row that it has
    try:
        trainer._logger_connector.update_train_step_metrics()
    finally:
        trainer.loggers = loggers


class WholeFiles(TorchCheckpointIO):
    """A checkpoint that is there is complete, also after a power failure; one that cannot be read says so in a sentence."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes it beside `path` and then renames it."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), buffer.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads it; executes nothing.

        Raises:
            ValueError: not a checkpoint, or a damaged one.
        """
        try:
            return torch.load(path, map_location, weights_only=True)
        except Exception as error:  # zip, pickle and torch have one each
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}): the run cannot go on from it; train anew, into another "
                "folder"
            ) from error


class Curves(CSVLogger):
    """metrics.csv, which a resumed run goes on with, from the step at which it does."""

    def __init__(self, folder: Path, name: str, version: str) -> None:
        super().__init__(folder, name=name, version=version)
        path = Path(self.log_dir) / "metrics.csv"
        self._earlier: list[dict[str, Any]] = []
        self._last: tuple[set[str], int | None] = (set(), None)  # names and step of the last row
        if path.is_file():  # Lightning is going to delete it
            with path.open(newline="", encoding="utf-8") as file:
                self._earlier = list(csv.DictReader(file))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Adds a row; before the first one, those of earlier steps."""
        if self._earlier and step is not None and lightning.pytorch.utilities.rank_zero_only.rank == 0:
            self.experiment.metrics = [row for row in self._earlier if int(row["step"]) < step]
            self._earlier = []
        if (set(metrics), step) != self._last:  # else `KeepsPlace` had it written before the place was
            super().log_metrics(dict(metrics), step)
        self._last = set(metrics), step
