"""A data set made ready for Lightning: found, split, decoded, checked, and served as excerpts and as whole songs.

Everything that could be wrong with the data is found in `setup`, before the first step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mss.data.cache import cached
from mss.data.excerpts import Epochs, Excerpts, Mixed, Songs, Source, target_matrix
from mss.data.musdb import split
from mss.data.stored import CachedTrack
from mss.data.tracks import MIXTURE, Track, TrackError, common_stems, find_tracks

__all__ = ["DataModule", "Loader"]

VALID_OF_SYNTHETIC = 0.2


class Loader(DataLoader):
    """Batches (b, s, c, t) of excerpts; each `iter` is an epoch, from the first excerpt that was not handed out yet.

    Lightning saves and restores the state with its checkpoints, so a run that was stopped anywhere goes on with the very
    next excerpt, whatever the workers had prepared, and with other batches or more processes, too.

    Args:
        excerpts: with `__getitems__`.
        batch_size: excerpts.
        workers: processes that read; 0: this one does.
        rank, world: of this process, and how many there are.
    """

    def __init__(self, excerpts: Source, *, batch_size: int, workers: int = 0, rank: int = 0, world: int = 1) -> None:
        epochs = Epochs(len(excerpts), rank=rank, world=world)
        if len(epochs) < batch_size:
            raise TrackError(
                f"an epoch of {len(excerpts)} excerpts on {world} process(es) has not one batch of {batch_size}: take "
                "more excerpts per track, or smaller batches"
            )
        super().__init__(
            excerpts,
            batch_size,
            sampler=epochs,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
        )

    def __iter__(self) -> Iterator[Tensor]:
        for batch in super().__iter__():
            self.sampler.start += len(batch)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many excerpts all ranks have had."""
        return {"excerpts": self.sampler.start * self.sampler.world}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next `iter` goes on from there."""
        self.sampler.start = state["excerpts"] // self.sampler.world


class DataModule(lightning.LightningDataModule):
    """Excerpts to train on and songs to validate with, from tracks on disk.

    Run the trainer with `use_distributed_sampler=False`: each rank takes its own excerpts already.

    Args:
        root: as for `find_tracks`. None: `synthetic` songs alone, a fifth of them to validate with.
        extra: more such folders, whose tracks are trained on and never validated with: synthetic songs, for one.
        extra_share: how much of what is heard in training is from `extra` and `synthetic`, 0 to 1. None: as much as they have
            tracks.
        targets: what is to be separated, by the names of `mss.data.reference`.
        stems: what the targets and the mixture are made of. None: those that most of the training tracks have.
        synthetic: songs made up once and then trained on like those of `extra`: arguments of `mss.data.synthetic.song_folder`,
            {songs: 20, seconds: 30, midi: ..., singing: ..., soundfonts: [...], seed: 0}. None: none are.
        sample_rate: Hz; tracks of other rates are resampled once.
        channels: see `cached`.
        seconds, per_track, mix_tracks, silence: see `Excerpts`; audible are those targets that are stems.
        batch_size: excerpts of one process.
        workers: processes that read excerpts.
        seed: of excerpts and of a random split.
        valid: see `split`.
        cache, dtype: folder and samples of decoded tracks, see `cached`.

    Attributes:
        stems: tuple of names after `setup`, the order of the stems' axis.

    Raises (from `prepare_data` and `setup`):
        TrackError: nothing to train on or to validate with, a target that the stems do not give, a track that cannot be
            used, a cache that cannot be written.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        targets: Sequence[str] = (),
        *,
        extra: Sequence[str | Path] = (),
        extra_share: float | None = None,
        synthetic: Mapping[str, Any] | None = None,
        stems: Sequence[str] | None = None,
        sample_rate: int = 44100,
        channels: int = 2,
        seconds: float = 6.0,
        per_track: int = 64,
        mix_tracks: float = True,
        silence: float = 0.1,
        batch_size: int = 16,
        workers: int = 0,
        seed: int = 0,
        valid: float | Sequence[str] | None = None,
        cache: str | Path | None = None,
        dtype: str = "int16",
    ) -> None:
        super().__init__()
        if extra_share is not None and not 0 <= extra_share <= 1:
            raise TrackError(f"extra_share is a share of what is heard, from 0 to 1, not {extra_share}")
        self.root, self.extra, self.targets = root, tuple(extra), tuple(targets)
        self.extra_share = extra_share
        self.synthetic = None if synthetic is None else dict(synthetic)
        self.stems = None if stems is None else tuple(stems)
        self.sample_rate, self.channels, self.cache, self.dtype = sample_rate, channels, cache, dtype
        self.seconds, self.per_track, self.mix_tracks, self.silence = seconds, per_track, mix_tracks, silence
        self.batch_size, self.workers, self.seed, self.valid = batch_size, workers, seed, valid
        self.train_tracks: list[CachedTrack] = []
        self.valid_tracks: list[CachedTrack] = []
        self.digest = ""
        self._own = 0  # training tracks that are not `extra`; they come first
        self._loader: Loader | None = None
        self._resumed = {"excerpts": 0}

    def prepare_data(self) -> None:
        """Decodes what is not in the cache; Lightning calls it once on every node."""
        train, valid, _ = self._found()
        self._cached(train + valid)

    def setup(self, stage: str | None = None) -> None:
        """Opens the data set and checks that it can be trained on."""
        train, valid, self.stems = self._found()
        self.train_tracks, self.valid_tracks = self._cached(train), self._cached(valid)
        self.digest = _digest(train, valid)
        self.datasets()

    def datasets(self) -> list[tuple[Source, float]]:
        """What is trained on: sources of excerpts (s, c, t) and the probability of each. Extend it to add others."""
        audible = [target for target in self.targets if target in self.stems]
        excerpts = Excerpts(
            self.train_tracks,
            self.stems,
            seconds=self.seconds,
            per_track=self.per_track,
            seed=self.seed,
            mix_tracks=self.mix_tracks,
            audible=audible,
            silence=self.silence,
            weights=self._weights(),
        )
        return [(excerpts, 1.0)]

    def _weights(self) -> list[float] | None:
        """How often each training track is drawn."""
        others = len(self.train_tracks) - self._own
        if self.extra_share is None or not others:
            return None
        return [(1 - self.extra_share) / self._own] * self._own + [self.extra_share / others] * others

    def train_dataloader(self) -> Loader:
        """Batches (b, s, c, t) of stems."""
        sources, shares = zip(*self.datasets(), strict=True)
        excerpts = sources[0] if len(sources) == 1 else Mixed(sources, shares, self.seed)
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self._loader = Loader(excerpts, batch_size=self.batch_size, workers=self.workers, rank=rank, world=world)
        self._loader.load_state_dict(self._resumed)
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """Of the loader. Lightning keeps that, too, but forgets it where a schedule asks for the number of steps."""
        return self._resumed if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Comes before the loader is made."""
        self._resumed = state

    def val_dataloader(self) -> DataLoader:
        """Whole songs, one by one: mixture (1, c, t), stems (1, s, c, t), name (a list of one)."""
        return DataLoader(Songs(self.valid_tracks, self.stems), batch_size=1)

    def mixtures(self, seconds: float = 30.0) -> Iterator[Tensor]:
        """The mixtures of all training tracks, in pieces (1, c, t) of at most so many seconds."""
        step = round(seconds * self.sample_rate)
        for track in self.train_tracks:
            for start in range(0, track.length, step):
                yield track.waveform(MIXTURE, start, step)[None]

    def _found(self) -> tuple[list[Track], list[Track], tuple[str, ...]]:
        if not self.targets:
            raise TrackError("no targets: say what is to be separated, e.g. targets=[vocals]")
        root, extra, valid = self.root, list(self.extra), self.valid
        if self.synthetic is not None:
            from mss.data.synthetic import song_folder

            extra.append(song_folder(self.cache, **self.synthetic))
        if root is None:
            if not extra:
                raise TrackError("no data set: name its folder, e.g. data.root=musdb18")
            root, valid = extra.pop(), VALID_OF_SYNTHETIC if valid is None else valid
        train, valid = split(find_tracks(root), valid, seed=self.seed)
        taken, self._own = {track.name for track in valid}, len(train)
        train += [track for folder in extra for track in find_tracks(folder) if track.name not in taken]
        stems = common_stems(train) if self.stems is None else self.stems
        for track in train + valid:
            if not track.stems:
                raise TrackError(f"{track.where} holds a mixture but no stems: add them, one file for each")
        there = {stem for track in train for stem in track.stems}
        if absent := [stem for stem in stems if stem not in there]:
            raise TrackError(f"{root}: no training track has {', '.join(absent)}; there are {', '.join(sorted(there))}")
        target_matrix(stems, self.targets)
        return train, valid, stems

    def _cached(self, tracks: Sequence[Track]) -> list[CachedTrack]:
        return cached(tracks, sample_rate=self.sample_rate, channels=self.channels, dtype=self.dtype, folder=self.cache)


def _digest(train: Sequence[Track], valid: Sequence[Track]) -> str:
    """sha256 of the tracks' names, the names and sizes of their files, and the split."""

    def described(track: Track) -> list[Any]:
        files = track.files or {track.path.name: track.path}
        return [track.name, {part: path.stat().st_size for part, path in sorted(files.items())}]

    text = json.dumps({"train": [described(t) for t in train], "valid": [described(t) for t in valid]}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_is(batch: Tensor) -> Tensor:
    return batch
