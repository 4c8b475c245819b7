"""The models that visitors of the web demo choose from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mss import zoo
from mss.apps.options import name_of, refusals
from mss.cli import UsageError
from mss.separator import Separator

__all__ = ["Catalogue", "Offer", "Refusal"]


class Refusal(Exception):  # noqa: N818
    """What a visitor asked for cannot be done; the sentence says why, and names no path of this machine."""


@dataclass(frozen=True)
class Offer:
    """A model of the catalogue."""

    name: str
    targets: tuple[str, ...]
    about: str


class Catalogue:
    """The models that visitors choose from: those on this machine that need no score, and those named at the start.

    Args:
        models: checkpoints, or other models, as `mss.load` has them; they come first.
        methods: offer of the zoo only these; None: all.

    Raises:
        UsageError: one cannot be loaded, or two have one name.
    """

    def __init__(
        self, models: Sequence[str] = (), *, methods: Sequence[str] | None = None, device: torch.device
    ) -> None:
        self.device = device
        self.offers: dict[str, Offer] = {}
        self._sources: dict[str, str] = {}
        self._loaded: tuple[str, Separator] | None = None
        self._lock = threading.Lock()
        here = [name for name in zoo.PRETRAINED if zoo.is_here(name)]
        for model in models:
            with refusals():
                separator = zoo.load(model)
            name = name_of(model)
            if name in self.offers:
                raise UsageError(f"two models are called {name}: rename one of the files")
            self._add(name, model, separator.targets, _about(model))
        for name in [*here, *zoo.methods()] if methods is None else methods:
            if name not in here and name not in zoo.methods():
                known = ", ".join([*here, *zoo.methods()])
                raise UsageError(f"there is no method {name!r} on this machine: there are {known}")
            if name not in self.offers:
                pretrained = zoo.PRETRAINED.get(name)
                self._add(name, name, pretrained.targets if pretrained else zoo.load(name).targets, _about(name))

    @property
    def most(self) -> int:
        """Stems that a model has at most."""
        return max(len(offer.targets) for offer in self.offers.values())

    def load(self, name: str) -> Separator:
        """The model, on its device; the last one is kept."""
        if not isinstance(name, str) or name not in self.offers:
            raise Refusal("There is no such method here: choose one of the list.")
        with self._lock:
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = None
                self._loaded = name, zoo.load(self._sources[name]).to(self.device)
            return self._loaded[1]

    def _add(self, name: str, source: str, targets: Sequence[str], about: str) -> None:
        self.offers[name] = Offer(name, tuple(targets), about)
        self._sources[name] = source


def _about(name: str) -> str:
    if name in zoo.PRETRAINED:
        entry = zoo.PRETRAINED[name]
        return f"{entry.source}; {entry.licence}"
    if name in zoo.methods():
        return zoo.methods()[name].read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
    return "a checkpoint"
