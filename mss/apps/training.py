"""A run of `python -m mss.train`: everything is built and checked before the first step, then trained, then summed up."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, TQDMProgressBar
from torch import nn

import mss
from mss import checkpoint
from mss.apps.provenance import commit, environment
from mss.cli import FAILED, INTERRUPTED, UsageError, complain
from mss.data import augment
from mss.data.datamodule import DataModule
from mss.separator import SpectralSeparator
from mss.spec import build, spec
from mss.training import setup
from mss.training.callbacks import BestSeparator, Examples, Lines
from mss.training.cluster import started_by
from mss.training.module import Training
from mss.training.resuming import KeepsPlace, StoppedError, WholeFiles
from mss.training.step import Step

if TYPE_CHECKING:
    from mss.separator import Separator
    from mss.train import Options

__all__ = ["Run"]

log = logging.getLogger(__name__)
LAST, BEST = "last.ckpt", "best.safetensors"
WRAPPERS = ("Chunked", "EachChannel", "MidSide", "Shifted", "StereoPairs", "WithResidual")


class Run:
    """One training, built from its options.

    Args:
        options: of the command line.
        out: folder of the run.
        command: that it was started with, for the checkpoint.

    Raises:
        UsageError: something that the options say cannot be; nothing was trained or written.
    """

    def __init__(self, options: Options, out: Path, command: str) -> None:
        self.options = options
        self.out = out
        self.last = out / LAST
        self._refuse_what_is_there()
        if options.threads:
            torch.set_num_threads(options.threads)
        lightning.seed_everything(options.seed, verbose=False)
        try:
            self.separator: Separator = assembled(options.separator, options.parts, options.start)
            self.finished = wrapped(filtered(self.separator, options.filter), options.wrap)
            self.data = self._data()
            self.module = self._module()
            self._try_an_excerpt()
            metadata = self._metadata(command)
            best = BestSeparator(out / BEST, monitor=options.monitor, mode=options.mode, metadata=metadata)
            self.best = best
            self.trainer = self._trainer([best, *self._callbacks()], metadata["config"])
        except UsageError:
            raise
        except (ValueError, TypeError, ImportError) as error:  # refusals in a sentence, and what Lightning refuses
            raise UsageError(str(error)) from error

    def train(self) -> int:
        """Trains to the end; returns the exit code of the command."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # advice on workers and logging intervals
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            resumed = str(self.last) if self.options.resume and self.last.is_file() else None
            try:
                self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resumed, weights_only=True)
            except StoppedError:
                if self.trainer.is_global_zero:
                    sys.stderr.write(f"stopped: {self.last} has its place, resume=true goes on from it\n")
                return INTERRUPTED
            except SystemExit as error:  # what Lightning makes of a second Ctrl-C
                raise KeyboardInterrupt from error
            except ValueError as error:  # DivergedError, data that cannot be used: sentences
                complain(f"error: {error}")
                return FAILED
            except (torch.OutOfMemoryError, MemoryError):
                complain(
                    "error: not enough memory: take smaller batches (data.batch_size) or shorter ones (data.seconds)"
                )
                return FAILED
        if self.trainer.is_global_zero:
            self._sum_up()
        return 0

    def _refuse_what_is_there(self) -> None:
        if self.options.resume:
            if not self.last.is_file():
                log.warning("%s: nothing to resume, the run starts anew", self.out)
        elif self.last.exists() or (self.out / BEST).exists():
            raise UsageError(
                f"{self.out} has a run already: go on with it by resume=true, or give another folder, out="
            )

    def _data(self) -> DataModule:
        options = self.options
        classes = options.classes or self.separator.targets
        data = DataModule(
            **options.data, targets=tuple(classes), sample_rate=self.separator.sample_rate, seed=options.seed
        )
        data.setup("fit")  # decodes, too, what is not in the cache
        return data

    def _try_an_excerpt(self) -> None:
        """Refuses excerpts that the transform cannot use."""
        silence = torch.zeros(1, self.data.channels, round(self.data.seconds * self.separator.sample_rate))
        step = Step(self.separator, silence.unsqueeze(1), silence)
        if step.spectral:
            _ = step.X

    def _module(self) -> Training:
        options = self.options
        chain = augment.Augment([build(item) for item in options.augment]) if options.augment else None
        optimizer, schedule = (
            {k: v for k, v in x.items() if v is not None} for x in (options.optimizer, options.schedule)
        )
        return Training(
            self.separator,
            setup.losses_of(options.losses),
            self.data.stems,
            augment=chain,
            optimizer=setup.optimizer_of(optimizer.pop("name"), optimizer),
            scheduler=setup.schedule_of(schedule.pop("name"), schedule),
            finished=self.finished,
            classes=options.classes,
            fitted=options.start is not None,
            seed=options.seed,
        )

    def _callbacks(self) -> list[Callback]:
        options = self.options
        callbacks: list[Callback] = [
            Examples(every=options.examples),
            LearningRateMonitor(),
            KeepsPlace(self.last, minutes=options.checkpoint_minutes),
        ]
        if options.ema is not None:
            callbacks.append(setup.average(options.ema))
        if options.early_stopping is not None:
            callbacks.append(setup.patience(options.early_stopping, options.monitor, options.mode))
        if self._bar:
            callbacks.append(TQDMProgressBar())
        elif not options.quiet:
            callbacks.append(Lines())
        return callbacks

    def _trainer(self, callbacks: list[Callback], config: dict[str, Any]) -> lightning.Trainer:
        options = self.options
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        given = {name: value for name, value in options.trainer.items() if value is not None}
        given |= {"enable_progress_bar": self._bar}
        if (precision := str(given.get("precision"))).endswith("16-true"):
            raise UsageError(
                f"trainer.precision={precision} is half precision for sound and spectra, too, which Fourier transforms do not "
                f"have: take {precision.replace('true', 'mixed')}, which keeps it to the network"
            )
        loggers = setup.logger_of(options.logger, self.out, options.name, options.wandb, config)
        started = started_by()
        ours = {
            "plugins": [WholeFiles(), *([] if started is None else [started])],
            "use_distributed_sampler": False,  # the data see to their own share
            "enable_model_summary": False,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*`srun` command")  # it is not always wanted where it is there
            return lightning.Trainer(**(given | ours), logger=loggers, callbacks=callbacks, default_root_dir=self.out)

    @property
    def _bar(self) -> bool:
        """Whether there is someone to watch a progress bar; a log file gets lines."""
        wanted = self.options.trainer.get("enable_progress_bar") is not False
        return wanted and not self.options.quiet and sys.stderr.isatty()

    def _metadata(self, command: str) -> dict[str, Any]:
        """What the checkpoint says of how it was made."""
        options = self.options
        config = {name: value for name, value in vars(options).items() if name not in ("resume", "quiet", "out")}
        return {
            "config": json.loads(json.dumps(config, default=str)),
            "augmentation": spec(self.module.augment) if isinstance(self.module.augment, nn.Module) else None,
            "data_digest": self.data.digest,
            "command": command,
            "commit": commit(),
            "environment": environment(options.trainer.get("accelerator")),
            **{name: said for name in ("licence", "training_data") if (said := getattr(options, name))},
        }

    def _sum_up(self) -> None:
        """Tells where the result is, how it scored, and what to do with it."""
        path = self.out / BEST
        if self.options.quiet:
            return
        if not path.is_file():
            sys.stderr.write(f"the run ended before its first validation: there is no {path}\n")
            return
        scores = [f"{name.removeprefix('valid/')} {value:.3f}" for name, value in sorted(self.best.scores.items())]
        print(
            f"{path}: the best of {self.trainer.current_epoch} epochs is {self.best.epoch}, validation: {', '.join(scores)}"
        )
        print(f"use it: python -m mss.separate song.mp3 --model {path}")
        print(f"score it: python -m mss.evaluate data={self.options.data['root'] or 'FOLDER'} separator={path}")


def assembled(described: dict[str, Any], parts: dict[str, Any], start: str | None = None) -> Separator:
    """Builds the separator, with the weights of the checkpoint `start` if there is one.

    Parts of it, by their names, come from checkpoints of their own and ask for no gradients.

    Raises:
        UsageError: the checkpoint `start` has weights of other names or shapes.
    """
    trained = {name: checkpoint.load(path) for name, path in parts.items()}
    separator = build({**described, **{name: spec(part) for name, part in trained.items()}})
    if start is not None:
        begin_with(inside(separator), inside(checkpoint.load(start)), start)
    for name, part in trained.items():
        own = getattr(separator, name)
        own.load_state_dict(part.state_dict())
        own.requires_grad_(False)
    return separator.train()


def begin_with(separator: Separator, trained: Separator, path: str) -> None:
    """Gives a separator the weights of one that was trained; both without their wrappers, which have none."""
    own, given = ({name: tuple(x.shape) for name, x in s.state_dict().items()} for s in (separator, trained))
    if other := sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name)):
        raise UsageError(
            f"start: {path} holds another separator: {len(other)} of its weights or of this one's are not in the other or have "
            f"another shape there, the first {other[0]} ({given.get(other[0], 'not')} there, {own.get(other[0], 'not')} here): "
            "give the separator= of that file, or another file"
        )
    separator.load_state_dict(trained.state_dict())


def inside(separator: Separator) -> Separator:
    """What is inside all wrappers."""
    while type(separator).__name__ in WRAPPERS:
        separator = separator.separator
    return separator


def filtered(separator: Separator, described: dict[str, Any] | None) -> Separator:
    """The separator with another filter, the same estimator in it."""
    if described is None:
        return separator
    if not isinstance(separator, SpectralSeparator):
        raise UsageError(f"filter: a {type(separator).__name__} has none, only a SpectralSeparator has")
    return SpectralSeparator(
        separator.estimator,
        separator.targets,
        sample_rate=separator.sample_rate,
        transform=separator.transform,
        filter=build(described),
        phase=separator.phase,
    )


def wrapped(separator: Separator, wrap: dict[str, Any]) -> Separator:
    """The separator inside the wrappers named, the first the innermost."""
    for name, options in wrap.items():
        if options is None:  # how an experiment takes away what its recipe has
            continue
        if name not in WRAPPERS:
            raise UsageError(f"there is no wrapper {name!r}: there are {', '.join(WRAPPERS)}")
        separator = partial(getattr(mss, name), separator)(**options)
    return separator
