"""What happens around training: the best separator on disk as one file, things to look at and to listen to."""

from __future__ import annotations

import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from mss import checkpoint
from mss.files import remove_unfinished
from mss.training.module import Training
from mss.transforms import STFT

__all__ = ["BestSeparator", "Examples", "Lines"]

log = logging.getLogger(__name__)


class BestSeparator(Callback):
    """Keeps the separator of the best validation so far in a file that `mss.load` takes.

    Must come before the callback that averages weights: it then finds the averages in place.

    Args:
        path: of the .safetensors file.
        monitor: what is watched; "epoch" with "max" keeps the last, whatever validation says.
        mode: "min" or "max".
        metadata: what the file's header says besides: configuration, data digest, licence, ...
    """

    def __init__(self, path: Path, *, monitor: str = "valid/loss", mode: str = "min", metadata: dict[str, Any]) -> None:
        self.path = Path(path)
        self.monitor = monitor
        self.mode = mode
        self.metadata = metadata
        self.best = math.inf if mode == "min" else -math.inf
        self.epoch = 0
        self.scores: dict[str, float] = {}

    def on_fit_start(self, trainer: lightning.Trainer, module: Training) -> None:
        """Removes what a run that was killed while it wrote the file has left of it."""
        if trainer.is_global_zero:
            remove_unfinished(self.path)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: Training) -> None:
        """Saves, if this was the best validation."""
        if trainer.sanity_checking:
            return
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        scores["epoch"] = trainer.current_epoch
        if self.monitor not in scores:
            known = ", ".join(sorted(scores))
            raise ValueError(f"there is no {self.monitor!r} to watch: this run has {known}; say so with monitor=")
        value = scores[self.monitor]
        if not (value < self.best if self.mode == "min" else value > self.best):
            return
        self.best, self.epoch = value, trainer.current_epoch
        self.scores = {name: score for name, score in scores.items() if name.startswith("valid/")}
        if trainer.is_global_zero:
            metrics = {"epoch": self.epoch, "step": trainer.global_step, **self.scores}
            checkpoint.save(module.finished, self.path, metrics=metrics, **self.metadata)

    def state_dict(self) -> dict[str, Any]:
        """Travels in the file a run is resumed from."""
        return {"best": self.best, "epoch": self.epoch, "scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes."""
        self.best, self.epoch, self.scores = state["best"], state["epoch"], state["scores"]


class Examples(Callback):
    """Logs what the first validation song sounds and looks like: every estimate, as audio and as a spectrogram.

    Args:
        every: epochs between examples.
        seconds: of the song, from its middle.
    """

    def __init__(self, *, every: int = 10, seconds: float = 10.0) -> None:
        self.every = every
        self.seconds = seconds

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: Training, outputs: Any, song: dict[str, Any], index: int, *_: Any
    ) -> None:
        """Separates the excerpt and hands it to those loggers that can show it."""
        if index or trainer.sanity_checking or not trainer.is_global_zero or trainer.current_epoch % self.every:
            return
        able = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger | TensorBoardLogger)]
        if not able:
            return
        rate = module.separator.sample_rate
        samples = min(round(self.seconds * rate), song["mixture"].shape[-1])
        start = (song["mixture"].shape[-1] - samples) // 2
        with torch.no_grad():
            estimates = module.finished(song["mixture"][..., start : start + samples])[0].float().cpu()  # (n, c, t)
        for name, x in zip(module.finished.targets, estimates, strict=True):
            for logger in able:
                show(logger, f"example/{name}", x, rate, trainer.global_step)


class Lines(Callback):
    """A line for each epoch in the log: what a progress bar would show."""

    def on_train_start(self, trainer: lightning.Trainer, module: Training) -> None:
        """Looks at the clock; a run that goes on from the middle of an epoch has no start of it."""
        self._start = time.monotonic()

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Training) -> None:
        """Looks again."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Training) -> None:
        """Writes the line."""
        if trainer.is_global_zero:
            scores = trainer.callback_metrics
            shown = [
                f"{key} {float(scores[key]):.4g}" for key in ("train/loss", "valid/loss", "valid/sdr") if key in scores
            ]
            seconds = time.monotonic() - self._start
            print(f"epoch {trainer.current_epoch}: {', '.join(shown)} ({seconds:.0f} s)", file=sys.stderr, flush=True)


def show(logger: WandbLogger | TensorBoardLogger, name: str, x: Tensor, rate: int, step: int) -> None:
    """x (c, t) in a logger, as audio and as a picture."""
    picture, x = spectrogram(x), x.clamp(-1, 1)
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_audio(name, x.mean(0), step, rate)
        logger.experiment.add_image(f"{name}/spectrogram", picture, step)
        return
    import wandb

    things = {name: wandb.Audio(x.T.numpy(), rate), f"{name}/spectrogram": wandb.Image(picture[0].numpy())}
    logger.experiment.log({**things, "trainer/global_step": step})


def spectrogram(x: Tensor, *, floor: float = -80.0) -> Tensor:
    """x (c, t) -> (1, f, k) in [0, 1], highest frequency first: dB below the peak, `floor` and less is 0."""
    power = STFT()(x).abs().square().mean(0)
    dB = 10 * torch.log10(power / power.amax().clamp_min(torch.finfo(power.dtype).tiny) + 10 ** (floor / 10))
    return (1 - dB / floor).clamp(0, 1).flip(0).unsqueeze(0)
