"""From names and numbers of a configuration to optimizers, schedules, losses, loggers and callbacks."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau

from mss.training.losses import LOSSES, loss_by_name
from mss.training.names import chosen
from mss.training.resuming import Curves

__all__ = ["SCHEDULES", "average", "logger_of", "losses_of", "optimizer_of", "patience", "schedule_of"]

OPTIMIZERS = {name: getattr(torch.optim, name) for name in ("Adam", "AdamW", "RAdam", "SGD", "RMSprop", "LBFGS")}


def plateau(
    optimizer: Optimizer,
    steps: int,
    *,
    monitor: str = "valid/loss",
    mode: str = "min",
    factor: float = 0.3,
    patience: int = 80,
    cooldown: int = 10,
) -> dict[str, Any]:
    """Times `factor` when nothing got better for `patience` epochs; defaults of Open-Unmix (Stöter et al. 2019)."""
    schedule = ReduceLROnPlateau(optimizer, mode, factor=factor, patience=patience, cooldown=cooldown)
    return {"scheduler": schedule, "monitor": monitor, "interval": "epoch"}


def cosine(optimizer: Optimizer, steps: int, *, warmup: int = 0, final: float = 0.0) -> dict[str, Any]:
    """Up in a line over `warmup` steps, down in half a cosine to `final` times the rate (Loshchilov & Hutter 2017)."""
    if not math.isfinite(steps):
        raise ValueError("a cosine schedule must know its end: set trainer.max_epochs or trainer.max_steps")

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(steps - warmup, 1), 1)
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}


def exponential(optimizer: Optimizer, steps: int, *, gamma: float = 0.98) -> dict[str, Any]:
    """Times `gamma` after each epoch."""
    return {"scheduler": ExponentialLR(optimizer, gamma), "interval": "epoch"}


def constant(optimizer: Optimizer, steps: int, *, warmup: int = 0) -> dict[str, Any]:
    """Up in a line over `warmup` steps, then as it is."""
    return {"scheduler": LambdaLR(optimizer, lambda step: min((step + 1) / max(warmup, 1), 1.0)), "interval": "step"}


SCHEDULES = {"plateau": plateau, "cosine": cosine, "exponential": exponential, "constant": constant}


def optimizer_of(name: str, options: Mapping[str, Any]) -> Callable[..., Optimizer]:
    """(parameters) -> optimizer, by its name in torch.optim."""
    return partial(chosen("optimizer", name, OPTIMIZERS, options, given=1), **options)


def schedule_of(name: str, options: Mapping[str, Any]) -> Callable[[Optimizer, int], dict[str, Any]]:
    """(optimizer, steps) -> what Lightning takes beside an optimizer."""
    return partial(chosen("schedule", name, SCHEDULES, options, given=2), **options)


def losses_of(config: Mapping[str, Any]) -> dict[str, tuple[float, Callable]]:
    """name -> weight, or name -> {weight: ..., options}, as `Training` takes them.

    Raises:
        ValueError: no loss at all, an unknown one, options that it does not have.
    """
    losses = {}
    for name, value in config.items():
        if value is None:  # how an override takes away what an experiment has
            continue
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = float(options.pop("weight", 1.0))
        losses[name] = (weight, loss_by_name(name, options))
    if not losses:
        raise ValueError(
            f"no loss to train with: give at least one of {', '.join(LOSSES)}, e.g. losses.magnitude_mse=1"
        )
    return losses


def logger_of(names: Sequence[str], folder: Path, run: str, wandb: Mapping[str, Any], config: Any) -> list[Logger]:
    """Where curves go: csv, tensorboard, wandb; all write into the folder of the run.

    Raises:
        ValueError: an unknown logger, or one that is not installed.
    """
    loggers: list[Logger] = []
    for name in names:
        if name not in ("csv", "tensorboard", "wandb"):
            raise ValueError(f"there is no logger {name!r}: there are csv, tensorboard, wandb")
        if name != "csv" and importlib.util.find_spec(name) is None:
            raise ValueError(f"the logger {name} is not installed: pip install {name}, or leave it out of logger=")
        if name == "csv":
            loggers.append(Curves(folder, name="", version="logs"))
        elif name == "tensorboard":
            loggers.append(TensorBoardLogger(folder, name="", version="logs"))
        else:
            loggers.append(WandbLogger(name=run, save_dir=folder, config=config, **wandb))
    return loggers


def average(decay: float) -> Callback:
    """Exponential moving average of the weights, which validation and the saved separator use."""
    if not 0 < decay < 1:
        raise ValueError(
            f"ema is the share that the average keeps at each step, between 0 and 1, e.g. 0.999, not {decay}"
        )
    return EMAWeightAveraging(decay=decay)


def patience(epochs: int, monitor: str, mode: str) -> Callback:
    """Ends the training when nothing got better for so many epochs."""
    return EarlyStopping(monitor, mode=mode, patience=epochs, check_finite=False)
