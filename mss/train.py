"""python -m mss.train experiment=umx data.root=musdb18: trains a separator, and keeps the best one as one file.

--from best.safetensors makes the run again that made that file, with what is said besides on top.

Exit codes: 0 done, 1 the training failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mss.apps.configured import configured
from mss.apps.provenance import Origin, without_from
from mss.cli import UsageError, exit_code, rank_and_world, set_up_logging, start_torch
from mss.files import config_folder

if TYPE_CHECKING:
    from mss.apps.training import Run

__all__ = ["Options", "main", "train"]

# options that take what those take whom they name
FREE = ("data.synthetic", "separator", "parts", "network", "filter", "wrap", "losses", "optimizer", "schedule", "wandb")
GIVEN = ("self", "targets", "sample_rate", "seed")  # arguments of the data that follow from the rest


@dataclass
class Options:
    """What may be set, as name=value; what an experiment is made of is in conf/experiment.

    Args:
        name: of the run; an experiment has its own.
        data: arguments of `mss.data.DataModule`; data.root is the folder of the data set.
        separator: what is trained, as `mss.build` takes it.
        parts: of the separator, taken from checkpoints as they are and not trained, e.g. {first: trained/umx/best.safetensors}.
        start: checkpoint of a separator of this kind, whose weights the training starts from: fine-tuning. Default: new ones.
        network: one that the separator has, as ${network}, once or more often.
        filter: of the separator in the end, where it is to be another than in training, as `mss.build` takes it.
        wrap: what is put around it in the end, from the inside out, e.g. {WithResidual: {name: accompaniment}}.
        classes: what deep clustering is to tell apart, where that is not what the separator calls its targets.
        losses: name -> weight, or name -> {weight: 1, options} (`mss.training.losses`).
        augment: modules of `mss.data.augment`, as `mss.build` takes them.
        optimizer: name of one of torch.optim, and its options.
        schedule: plateau, cosine, exponential or constant, and its options (`mss.training.setup`).
        ema: share of itself that the moving average of the weights keeps at each step, e.g. 0.999. Default: none is kept.
        early_stopping: epochs without getting better after which the training ends. Default: it goes on.
        monitor: what "best" is measured by: valid/loss, or with mode=max valid/sdr, or epoch, so that the last is kept.
        mode: min or max.
        trainer: arguments of Lightning's Trainer.
        logger: any of csv, tensorboard, wandb.
        wandb: arguments of Lightning's WandbLogger; wandb.offline=true needs no account.
        examples: epochs between sounds and pictures of the first validation song, for tensorboard and wandb.
        threads: of the CPU. Default: all.
        seed: of everything.
        out: folder of the run.
        checkpoint_minutes: between two writings of the place the run is at, besides those after each epoch and on Ctrl-C.
        resume: go on where the run in `out` was interrupted.
        licence: of the weights, kept in the file.
        training_data: what the weights were learned from, in words, kept in the file.
        quiet: print nothing but errors.
    """

    name: str = "run"
    data: dict[str, Any] = field(default_factory=dict)
    separator: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    network: dict[str, Any] = field(default_factory=dict)
    filter: dict[str, Any] | None = None
    wrap: dict[str, Any] = field(default_factory=dict)
    classes: list[str] | None = None
    losses: dict[str, Any] = field(default_factory=dict)
    augment: list[Any] = field(default_factory=list)
    optimizer: dict[str, Any] = field(default_factory=lambda: {"name": "Adam", "lr": 1e-3, "weight_decay": 0.0})
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "constant"})
    ema: float | None = None
    early_stopping: int | None = None
    monitor: str = "valid/loss"
    mode: str = "min"
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: list[str] = field(default_factory=lambda: ["csv"])
    wandb: dict[str, Any] = field(default_factory=lambda: {"project": "mss", "offline": False})
    examples: int = 10
    threads: int | None = None
    seed: int = 42
    out: str = "trained/${name}"
    checkpoint_minutes: float = 10.0
    resume: bool = False
    licence: str | None = None
    training_data: str | None = None
    quiet: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """Reads the command line with Hydra and trains once, or once for each of a sweep."""
    from hydra.core.config_store import ConfigStore

    if not any(argument in ("--help", "-h", "--hydra-help", "--version") for argument in argv):
        start_torch()
    command = shlex.join(["python", "-m", "mss.train", *argv])
    model, argv = without_from(argv)
    try:
        defaults = schema()
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'mss-separation[train]'") from error
    origin = None if model is None else Origin(model, defaults)
    if origin is not None and any(argument.lstrip("+~").startswith("experiment") for argument in argv):
        raise UsageError("--from brings a whole configuration: leave out experiment=, or --from")
    ConfigStore.instance().store("train_options", defaults if origin is None else origin.options)
    # defaults are in signatures, not in YAML, so what an override names is often not there yet; `build` finds what is wrong
    argv = [f"++{argument}" if argument.startswith(FREE) and "=" in argument else argument for argument in argv]
    return configured(
        "train", argv, lambda config: train(config, command, origin), known(defaults), search=str(config_folder())
    )


def schema() -> DictConfig:
    """All options with their defaults; those of the data and of the trainer are what their constructors say."""
    import lightning

    from mss.data.datamodule import DataModule

    config = OmegaConf.create(vars(Options()))
    config.data = defaults_of(DataModule.__init__, GIVEN)
    left_out = (
        "self",
        "logger",
        "callbacks",
        "plugins",
        "profiler",
        "default_root_dir",
        "model_registry",
        "fast_dev_run",
    )
    config.trainer = defaults_of(lightning.Trainer.__init__, left_out)
    return config


def defaults_of(function: Callable, left_out: Sequence[str]) -> dict[str, Any]:
    """Name -> default of a function's arguments, all of which have one."""
    arguments = inspect.signature(function).parameters.values()
    plain = {p.name: p.default for p in arguments if p.name not in left_out}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def known(config: DictConfig) -> list[str]:
    """The names of all options, with dots."""
    inner = [f"{group}.{name}" for group in ("data", "trainer", "optimizer", "wandb") for name in config[group]]
    return [*map(str, config), "experiment", *inner]


def train(config: DictConfig, command: str, origin: Origin | None = None) -> int:
    """Trains one separator; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    # each rank would say the same; those that Lightning starts know the number on their node only
    first = rank_and_world()[0] == 0 and os.environ.get("LOCAL_RANK", "0") == "0"
    set_up_logging(config.quiet or not first)
    hydra = HydraConfig.get()
    out = Path(config.out)
    if hydra.mode == RunMode.MULTIRUN:  # every run of a sweep has its own folder
        out = out / str(hydra.job.num)
    if not config.separator:
        there = ", ".join(sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml")))
        raise UsageError(f"nothing to train: choose an experiment, e.g. experiment=umx; there are {there}")
    options = OmegaConf.to_container(config, resolve=True)
    if origin is not None:
        origin.check(options["data"])
        sys.argv[1:1] = ["--from", origin.model]  # with which Lightning starts the other ranks
    from mss.apps.training import Run

    with nullcontext() if origin is None else origin.faults():
        started: Run = Run(Options(**options), out, command)
    strategy = started.trainer.strategy
    alone = started.trainer.world_size == 1 or strategy.cluster_environment.creates_processes_externally
    if hydra.mode == RunMode.MULTIRUN and not alone:  # each process that Lightning starts would run the whole sweep
        raise UsageError(
            "runs of a sweep cannot start processes of their own: start this command with torchrun, or give each run to a "
            "queue (hydra/launcher=submitit_slurm)"
        )
    if origin is not None and first and not config.quiet:
        sys.stderr.write(origin.told(options, started.data.digest))
    return started.train()


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    sys.exit(main())
