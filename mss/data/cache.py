"""Tracks decoded once and then mapped into memory, so that an excerpt costs what its own samples cost.

Each track becomes one file, `<track>-<state>.safetensors`: a tensor `samples` (part, c, t) at the wanted rate and number
of channels, and a header that names the parts. `<track>` stands for where it comes from, `<state>` for the sizes and
times of its sources and for how it is kept, so a changed source is decoded anew and its old copy is removed.

A file appears under its name only when it is whole and on the disk. Builders of one cache share the work: each track is
locked while it is decoded, by a lock that the system releases when a process dies, and who finds it locked goes on to
the next and comes back. At each opening the file's size and a digest are checked: of all samples up to 4 MB, of 64
pieces spread over a larger file (some milliseconds, against minutes for a whole data set; it finds what crashes and broken
copies leave, which is blocks of zeros); what fails is decoded anew.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from mss import files
from mss.audio import info, resample
from mss.data.stored import KINDS, CachedTrack, open_track, write_track
from mss.data.tracks import MIXTURE, Track, TrackError

__all__ = ["CacheError", "cache_folder", "cached", "fit_channels"]

log = logging.getLogger(__name__)
VERSION = 1


class CacheError(TrackError):
    """The cache cannot be written; the message says how much room it needs and how to move it."""


def cache_folder() -> Path:
    """Where decoded tracks are kept when no folder is given."""
    return files.cache_folder() / "tracks"


def cached(
    tracks: Sequence[Track],
    *,
    sample_rate: int = 44100,
    channels: int = 2,
    dtype: str = "int16",
    folder: str | Path | None = None,
) -> list[CachedTrack]:
    """The tracks from the cache, decoded first where they are not in it; in their order.

    Args:
        tracks: of any layout.
        sample_rate: Hz; others are resampled.
        channels: mono is copied to all of them; one channel is the mean of all. Nothing else is converted.
        dtype: "int16", with a scale for each part: exact for 16-bit sources, else an error of white noise 101 dB below
            the part's peak; or "float32", which is exact and takes twice the room (60 GB for MUSDB18 instead of 30).
        folder: of the cache. None: `cache_folder()`.

    Raises:
        CacheError: the folder cannot be written to, or the disk is full.
        TrackError: a track whose parts do not fit together, or with channels that cannot be converted.
        mss.audio.AudioError: a file that cannot be read.
    """
    if dtype not in KINDS:
        raise TrackError(f"unknown dtype {dtype!r} of the cache; use {' or '.join(KINDS)}")
    folder = cache_folder() if folder is None else Path(folder).expanduser()
    kind = _Kind(sample_rate, channels, dtype)
    paths = [folder / _name(track, kind) for track in tracks]
    wanted = dict(zip(paths, tracks, strict=True))
    found: dict[Path, CachedTrack | None] = dict.fromkeys(wanted)

    def missing() -> list[tuple[Path, Track]]:
        return [(path, track) for path, track in wanted.items() if found[path] is None]

    try:
        found |= {path: open_track(path, track) for path, track in missing()}
        if missing():
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < sum(_size(track, kind) for _, track in missing()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for wait in (0, -1):  # what another process is decoding is left to it, and waited for at the end
            for path, track in missing():
                try:
                    with FileLock(folder / f".{path.name.split('-')[0]}.lock", timeout=wait):
                        found[path] = open_track(path, track) or _decoded(path, track, kind)
                except Timeout:
                    log.info("%s is being decoded by another process", track.name)
    except OSError as error:
        size = sum(_size(track, kind) for _, track in missing()) / 1e9
        raise CacheError(
            f"the cache of decoded tracks in {folder} cannot be written ({error.strerror or error}): {len(missing())} "
            f"tracks need {size:.1f} GB; make room, or keep it elsewhere (another cache folder, or MSS_HOME)"
        ) from error
    # files that two tracks share are there once
    return [replace(found[path], name=t.name, subset=t.subset) for path, t in zip(paths, tracks, strict=True)]


def fit_channels(x: Tensor, channels: int) -> Tensor:
    """(c, t) with the wanted number of channels: one is copied to all, all are averaged to one."""
    if x.shape[0] == channels:
        return x
    if x.shape[0] == 1:
        return x.expand(channels, -1)
    if channels == 1:
        return x.mean(0, keepdim=True)
    raise TrackError(f"{x.shape[0]} channels cannot be made {channels}: give the number that the tracks have, or 1")


@dataclass(frozen=True)
class _Kind:
    """How tracks are kept."""

    sample_rate: int
    channels: int
    dtype: str


def _sources(track: Track) -> list[tuple[str, Path]]:
    return [(part, path.resolve()) for part, path in track.files.items()] or [("", track.path.resolve())]


def _name(track: Track, kind: _Kind) -> str:
    """The file's name: where the track comes from and how it is kept, and the state of its sources."""
    if track.problem:
        raise TrackError(track.problem)
    sources = _sources(track)
    try:
        states = [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for _, path in sources)]
    except OSError as error:
        raise TrackError(f"{track.where} cannot be read: {error.strerror} ({error.filename})") from error
    track_key = repr(([(part, str(path)) for part, path in sources], kind))
    return f"{_hex(track_key.encode())}-{_hex(repr((VERSION, states)).encode())}.safetensors"


def _size(track: Track, kind: _Kind) -> int:
    """Bytes in the cache; 0 where the container does not say how long it is."""
    sources = _sources(track)
    described = info(sources[0][1])
    samples = -(-(described.frames or 0) * kind.sample_rate // described.sample_rate)
    count = len(sources) if track.files else described.streams
    return count * kind.channels * samples * np.dtype(kind.dtype).itemsize


def _decoded(path: Path, track: Track, kind: _Kind) -> CachedTrack:
    """Decodes a track into its file; whoever calls this holds its lock."""
    log.info("decoding %s", track.name)
    audio = track.load()
    waveforms = {MIXTURE: audio.mixture} if MIXTURE in track.files or not track.files else {}
    waveforms |= audio.stems
    scales, samples = [], None
    for n, x in enumerate(waveforms.values()):
        try:
            x = resample(fit_channels(x, kind.channels), audio.sample_rate, kind.sample_rate)
        except TrackError as error:
            raise TrackError(f"{track.where}: {error}") from error
        if samples is None:
            samples = np.empty((len(waveforms), *x.shape), kind.dtype)
        scales.append(_scale(x) if kind.dtype == "int16" else 1.0)
        torch.from_numpy(samples[n]).copy_(x if kind.dtype == "float32" else (x / scales[-1]).round())
    write_track(
        path, samples, {"name": track.name, "parts": list(waveforms), "scales": scales, "rate": kind.sample_rate}
    )
    for old in path.parent.glob(f"{path.name.split('-')[0]}-*"):  # of other sources, or left by a killed process
        if old != path:
            with suppress(OSError):  # some systems keep what others have mapped
                old.unlink()
    done = open_track(path, track)
    if done is None:
        raise OSError(errno.EIO, "what was written reads back otherwise")
    return done


def _scale(x: Tensor) -> float:
    """The step of 16 bits: the source's own where it has 16, so that nothing is lost, else what its peak needs."""
    steps = x * 2**15
    if torch.equal(steps, steps.round()) and steps.min() >= -(2**15) and steps.max() < 2**15:
        return 2.0**-15
    return float(x.abs().max()) / (2**15 - 1)


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]
