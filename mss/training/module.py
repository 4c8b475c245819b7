"""The LightningModule: stems -> augmented stems -> mixture -> losses of what a separator makes of it.

It names no network, no loss and no data set: all of them are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from mss.data import target_matrix
from mss.metrics import snr as sdr  # of images, whole track: the same
from mss.nets.blocks import full_precision
from mss.separator import Separator
from mss.training.step import Step
from mss.wrappers import stream

__all__ = ["DivergedError", "Training"]

CHECK = 50  # steps between looks at whether the loss is still finite: each look waits for the device
BLOCK_SECONDS = 12.0  # of a song in validation, handed to a separator that can stream
LOSS_SECONDS = 30.0  # of a song at a time whose loss is computed, which holds all that training would


class DivergedError(ValueError):
    """A loss that is not finite: every weight after it would be NaN."""


class Training(lightning.LightningModule):
    """Trains a separator on batches of stems (b, s, c, t), and scores it on whole songs.

    Args:
        separator: what is trained; all its parameters that ask for gradients.
        losses: name -> (weight, function of a `Step`); the loss is their weighted sum.
        stems: names of the s stems; each target is one of them or a sum (`mss.data.reference`).
        augment: (stems, generator) -> stems, on the device of the batch; the mixture is summed after it.
        optimizer: (parameters) -> optimizer.
        scheduler: (optimizer, steps) -> what `configure_optimizers` returns beside it; steps: of the whole training.
        finished: what is scored and saved, where it is more than `separator`: the same one inside a wrapper.
        classes: what the losses compare with, where that is not the separator's targets: deep clustering learns from
            other groups than it makes. Estimates are then scored in their best order.
        fitted: whether the network has the statistics of its input already, as one has that was trained before.
        seed: of augmentation and dropout; that of a step depends on nothing but the seed, the step and the rank.

    Logs `train/loss` and each loss, `valid/loss`, `valid/sdr` and `valid/sdr/<target>` (dB, whole songs, their mean).
    """

    def __init__(
        self,
        separator: Separator,
        losses: Mapping[str, tuple[float, Callable[[Step], Tensor]]],
        stems: Sequence[str],
        *,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = torch.optim.Adam,
        scheduler: Callable[[torch.optim.Optimizer, int], dict[str, Any]] | None = None,
        finished: Separator | None = None,
        classes: Sequence[str] | None = None,
        fitted: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.separator = separator
        self.losses = dict(losses)
        self.augment = augment
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.classes = tuple(classes or separator.targets)
        self.anonymous = classes is not None
        self.fitted = fitted
        self.seed = seed
        self._finished = [separator if finished is None else finished]  # in a list: its weights are the separator's
        self.register_buffer("matrix", target_matrix(stems, self.classes), persistent=False)  # (n, s)
        self.register_buffer("diverged", torch.zeros((), dtype=torch.bool), persistent=False)

    @property
    def finished(self) -> Separator:
        """The separator as it is scored, saved and used."""
        return self._finished[0]

    def setup(self, stage: str) -> None:
        """Fits the statistics of the input, where the network has any; a resumed run replaces them by what it had."""
        fit = getattr(getattr(self.separator, "estimator", self.separator), "fit_input", None)
        if stage == "fit" and fit is not None and not self.fitted:
            fit(self.separator.transform(x) for x in self.trainer.datamodule.mixtures())

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, c, t) -> (b, n, c, t)."""
        return self.finished(mixture)

    def training_step(self, stems: Tensor, index: int) -> Tensor:
        """stems (b, s, c, t)."""
        seed = self._seed(index)
        torch.manual_seed(seed)  # of dropout: a resumed run draws the same
        with full_precision(stems.device):
            if self.augment is not None:
                stems = self.augment(stems, torch.Generator().manual_seed(seed))
            losses = self._losses(stems, stems.sum(1), network=self.trainer.precision_plugin.forward_context)
        loss = self._log_loss(losses, "train", len(stems))
        self.diverged |= ~loss.detach().isfinite()
        if index < 2 or index % CHECK == 0:
            self._require_finite()
        return loss

    def on_train_epoch_end(self) -> None:
        """Looks once more, before anything of this epoch is saved."""
        self._require_finite()

    def validation_step(self, song: dict[str, Any], index: int) -> None:
        """song: mixture (1, c, t), stems (1, s, c, t), both as they are in the data set."""
        with full_precision(song["mixture"].device):  # as it will be used
            self._validate(song)

    def _validate(self, song: dict[str, Any]) -> None:
        mixture, references = song["mixture"], self._targets(song["stems"])
        size = round(BLOCK_SECONDS * self.separator.sample_rate)
        estimates = torch.cat(list(stream(self.finished, mixture.split(size, -1))), -1)
        self._log_loss(self._losses_of_song(song["stems"], mixture, estimates[:, : references.shape[1]]), "valid", 1)
        if estimates.shape[1] < references.shape[1]:  # fewer anonymous sources than classes: none of them is any one's
            return
        estimates = best_order(references, estimates) if self.anonymous else estimates[:, : references.shape[1]]
        scores = sdr(references, estimates)[0]  # (n,) dB
        heard = scores.isfinite()  # not where the target is silent
        for name, score in zip(self.classes, scores.unbind(), strict=True):
            if bool(score.isfinite()):
                self.log(f"valid/sdr/{name}", score, batch_size=1, sync_dist=True)
        if bool(heard.any()):
            self.log("valid/sdr", scores[heard].mean(), batch_size=1, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer and its schedule."""
        optimizer = self.optimizer([p for p in self.separator.parameters() if p.requires_grad])
        if self.scheduler is None:
            return {"optimizer": optimizer}
        return {
            "optimizer": optimizer,
            "lr_scheduler": self.scheduler(optimizer, self.trainer.estimated_stepping_batches),
        }

    def _losses(
        self, stems: Tensor, mixture: Tensor, estimates: Tensor | None = None, **options: Any
    ) -> dict[str, Tensor]:
        step = Step(self.separator, self._targets(stems), mixture, estimates, **options)
        return {name: weight * function(step) for name, (weight, function) in self.losses.items()}

    def _losses_of_song(self, stems: Tensor, mixture: Tensor, estimates: Tensor) -> dict[str, Tensor]:
        """Their means over pieces of a song, all of about the same length."""
        t = mixture.shape[-1]
        pieces = max(round(t / (LOSS_SECONDS * self.separator.sample_rate)), 1)
        cut = [x.tensor_split(pieces, -1) for x in (stems, mixture, estimates)]
        each = [self._losses(*parts) for parts in zip(*cut, strict=True)]
        return {name: torch.stack([losses[name] for losses in each]).mean() for name in self.losses}

    def _log_loss(self, parts: dict[str, Tensor], kind: str, batch: int) -> Tensor:
        total = sum(parts.values())
        options = {"batch_size": batch, "on_step": kind == "train", "on_epoch": True, "sync_dist": kind == "valid"}
        self.log(f"{kind}/loss", total.detach(), prog_bar=True, **options)
        for name, part in parts.items() if len(parts) > 1 else ():
            self.log(f"{kind}/loss/{name}", part.detach(), **options)
        return total

    def _targets(self, stems: Tensor) -> Tensor:
        return torch.einsum("ns,bsct->bnct", self.matrix.to(stems), stems)

    def _seed(self, index: int) -> int:
        """Of everything random in one step."""
        key = f"{self.seed} {self.current_epoch} {index} {self.global_rank}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big")

    def _require_finite(self) -> None:
        """All ranks find out at once: none is left waiting for one that has ended."""
        if self.trainer.strategy.reduce_boolean_decision(bool(self.diverged), all=False):
            names = ", ".join(self.losses)
            raise DivergedError(
                f"the loss ({names}) is no longer a finite number, at or before step {self.global_step}: lower the learning "
                "rate, clip gradients (trainer.gradient_clip_val=1), train in single precision, or look for NaN in the data"
            )


def best_order(references: Tensor, estimates: Tensor) -> Tensor:
    """The estimates (b, n, c, t) in the order of the highest mean SDR, one for all items."""
    orders = [list(order) for order in permutations(range(estimates.shape[1]), references.shape[1])]
    means = torch.stack([sdr(references, estimates[:, order]).nanmean() for order in orders])
    return estimates[:, orders[int(means.argmax())]]
