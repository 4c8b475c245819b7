"""Where the stems of a song come from: a folder of them, an earlier separation that fits the song, or a new one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mss.apps.jobs import Job
from mss.apps.separation import BLOCK_SECONDS, separate_file
from mss.audio import EXTENSIONS, AudioError, AudioInfo, Encoding, Reader
from mss.cli import UsageError
from mss.separator import Separator

__all__ = ["Earlier", "Separated", "Stems", "folder_of_stems", "together"]

SONGS = ("mixture", "mix")  # files that are no stems, in folders of stems
SURE, LIKELY = (
    40.0,
    6.0,
)  # dB, by which the stems' sum must come near a song to be its stems; with the dates, and without


@dataclass(frozen=True)
class Stems:
    """Stems that are there: files by name, of one rate, length and number of channels.

    Args:
        where: what they are of, for messages.
        files: the stems.
        song: what they are the stems of; None: their sum.
    """

    where: str
    files: dict[str, Path]
    song: Path | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def get(self, folder: Path, **_: Any) -> tuple[dict[str, Path], str]:
        """The files, and what is to be said of them."""
        return self.files, f"stems of {self.where}"


@dataclass(frozen=True)
class Earlier:
    """Where stems of a song may be, or are to be kept.

    Args:
        places: complete sets, each in another format; the first is where they are kept.
        checkpoint: the file of the model; stems older than that are not its stems.
        reuse: whether stems that are there may be taken.
        save: whether new stems are kept; None: where nothing is in their way.
    """

    places: Sequence[Job]
    checkpoint: Path | None = None
    reuse: bool = True
    save: bool | None = None

    def find(self, song: Path, say: Callable[[str], None]) -> dict[str, Path] | None:
        """Stems of this song by this model; says why those that are there are not."""
        for place in self.places:
            if place.done:
                reason = self._objection(song, place) if self.reuse else "their options are not known"
                if reason is None:
                    return place.outputs
                hint = "" if self.save else "; --save-stems replaces them"
                say(f"{song.name}: the stems in {place.folder} are not used: {reason}{hint}")
                return None
        return None

    def _objection(self, song: Path, place: Job) -> str | None:
        """Why these cannot be the stems of the song by the model."""
        try:
            near = _near(song, list(place.outputs.values()))
            oldest = min(path.stat().st_mtime for path in place.outputs.values())
            if self.checkpoint is not None and self.checkpoint.stat().st_mtime > oldest:
                return f"they are older than {self.checkpoint.name}"
            if near < LIKELY:
                return f"they do not sum to the song (what is missing is {near:.1f} dB below it)"
            if near < SURE and song.stat().st_mtime > oldest:
                return (
                    f"they are older than the song, and what is missing from their sum is only {near:.1f} dB below it"
                )
        except (AudioError, OSError) as error:
            return str(error).rstrip(".")
        return None


@dataclass(frozen=True)
class Separated:
    """Stems that a separator gives, unless they are there."""

    where: str
    separator: Separator
    device: torch.device
    song: Path
    earlier: Earlier

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.separator.targets)

    def get(self, folder: Path, *, say: Callable[[str], None], **options: Any) -> tuple[dict[str, Path], str]:
        """The files, of which those not kept are in `folder`, and what is to be said of them."""
        found = self.earlier.find(self.song, say)
        if found is not None:
            return found, f"stems of {_folder(found)}"
        kept, save = self.earlier.places[0], self.earlier.save
        if save or (save is None and not any(path.exists() for path in kept.outputs.values())):
            job, note = kept, f"stems kept in {kept.folder}"
        else:
            names = {name: folder / f"{n}.wav" for n, name in enumerate(self.names)}
            job, note = Job(self.song, folder, names), "stems not kept"
        # 32-bit float, because stems that are cut off at full scale would not be taken out whole
        separate_file(self.separator, job, device=self.device, encoding=Encoding("wav", "float32"), **options)
        return job.outputs, note


def folder_of_stems(folder: Path) -> tuple[dict[str, Path], Path | None]:
    """The stems in a folder by name, and the song if a file `mixture` or `mix` is there.

    Raises:
        UsageError: there are none, two of one name, or a stem and all the others (no_X) as well as these others.
    """
    files: dict[str, Path] = {}
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: give one with stems in it")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and path.is_file() and not path.name.startswith("."):
            if path.stem in files:
                raise UsageError(f"{folder} has two files for {path.stem}, {files[path.stem].name} and {path.name}")
            files[path.stem] = path
    song = next((files[name] for name in SONGS if name in files), None)
    stems = {name: path for name, path in files.items() if name not in SONGS}
    if not stems:
        below = next((path.parent for path in sorted(folder.rglob("*/*")) if path.suffix.lower() in EXTENSIONS), None)
        hint = "" if below is None else f"; there are some in {below}"
        raise UsageError(f"{folder} has no stems in it: it needs audio files named after them, as vocals.wav{hint}")
    for name in stems:
        if f"no_{name}" in stems and len(stems) > 2:
            raise UsageError(
                f"{folder} holds {', '.join(stems)}: no_{name} is all but {name} once more; keep them in folders of their own"
            )
    return stems, song


def _near(song: Path, stems: Sequence[Path]) -> float:
    """How far what the stems leave of a song is below it, dB."""
    whole = left = 0.0
    for block in together([song, *stems]):
        whole += float(block[0].double().square().sum())
        left += float((block[0].double() - block[1:].double().sum(0)).square().sum())
    return math.inf if left == 0 else 10 * math.log10(max(whole, 1e-30) / left)


def together(paths: Sequence[Path]) -> Iterator[Tensor]:
    """Blocks (n, c, t) of n files.

    Raises:
        AudioError: they are not of one rate, number of channels and length.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(path)) for path in paths]
        facts = [reader.info for reader in readers]
        for fact in facts:
            for kind in ("sample_rate", "channels"):
                if getattr(fact, kind) != getattr(facts[0], kind):
                    raise _unequal(facts[0], fact, kind)
        size = round(BLOCK_SECONDS * facts[0].sample_rate)
        lengths = [0] * len(readers)
        for blocks in zip_longest(*(reader.blocks(size) for reader in readers)):
            for n, block in enumerate(blocks):
                lengths[n] += 0 if block is None else block.shape[-1]
                if lengths[n] != lengths[0]:
                    raise _unequal(facts[0], facts[n], "frames")
            yield torch.stack(blocks)


def _unequal(a: AudioInfo, b: AudioInfo, kind: str) -> AudioError:
    what = {"sample_rate": "Hz", "channels": "channels", "frames": "samples"}[kind]
    numbers = [getattr(x, kind) or "another number of" for x in (a, b)]
    return AudioError(
        f"{a.path.name} has {numbers[0]} {what}, {b.path.name} {numbers[1]}: a song and its stems have one rate, length "
        "and number of channels"
    )


def _folder(files: Mapping[str, Path]) -> Path:
    return next(iter(files.values())).parent
