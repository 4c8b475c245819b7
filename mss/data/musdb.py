"""MUSDB18's own facts, and which tracks are trained on and which are validated with.

Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis, R. Bittner, "The MUSDB18 corpus for music separation", 2017. The
facts are those of the installed package `musdb`; it is not imported, because it wants an ffmpeg binary, only its
data file is read.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mss.data.tracks import Track, TrackError

__all__ = ["metadata", "split", "validation_tracks"]

_CHOOSE = "name tracks to validate with (valid=[name, ...]) or give the share to draw (valid=0.1)"


@cache
def metadata() -> dict[str, Any]:
    """MUSDB18's metadata: sample rate, stems, targets, names of the validation tracks, address of the 7-second edition.

    Raises:
        TrackError: the package `musdb` is not installed.
    """
    found = importlib.util.find_spec("musdb")
    if found is None or not found.submodule_search_locations:
        raise TrackError("MUSDB18's metadata come with the package musdb, which is not installed: pip install musdb")
    path = Path(found.submodule_search_locations[0]) / "configs" / "mus.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def validation_tracks() -> tuple[str, ...]:
    """The names of the 14 tracks of MUSDB18's training set that are validated with."""
    return tuple(metadata()["validation_tracks"])


def split(
    tracks: Sequence[Track], valid: float | Sequence[str] | None = None, *, seed: int = 0
) -> tuple[list[Track], list[Track]]:
    """Tracks to train on and tracks to validate with; tracks of the subset test are neither.

    Args:
        tracks: of a data set.
        valid: None: the subset valid where there is one, else those that MUSDB18 names. Otherwise, of all that are not
            test: names of tracks, or the share (above 0, below 1) that is drawn at random, at least one track.
        seed: of that draw, which depends on the tracks' names and not on their order.

    Raises:
        TrackError: one of the two would be empty; a name that is not there; MUSDB18's list is needed and not installed.
    """
    pool = [track for track in tracks if track.subset != "test"]
    if not pool:
        raise TrackError(
            f"there is nothing to train on: {len(tracks)} tracks, all of the subset test"
            if tracks
            else "there is nothing to train on: no tracks"
        )
    if valid is None and any(track.subset == "valid" for track in pool):
        chosen = [track for track in pool if track.subset == "valid"]
    elif valid is None:
        try:
            official = validation_tracks()
        except TrackError as error:
            raise TrackError(f"{error}; or {_CHOOSE}") from error
        chosen = [track for track in pool if track.name in official]
        if not chosen:
            raise TrackError(
                f"none of {len(pool)} tracks is to validate with: there is no folder valid/, and none is of MUSDB18's "
                f"validation list; {_CHOOSE}"
            )
    elif isinstance(valid, (int, float)):
        if not 0 < valid < 1:
            raise TrackError(f"the share of tracks to validate with is above 0 and below 1, not {valid}")
        ordered = sorted(pool, key=lambda track: (track.name, track.subset))
        chosen = random.Random(seed).sample(ordered, max(1, round(valid * len(ordered))))
    else:
        names = [valid] if isinstance(valid, str) else list(valid)
        if unknown := sorted(set(names) - {track.name for track in pool}):
            raise TrackError(f"no track to validate with is called {', '.join(map(repr, unknown))}: check the names")
        chosen = [track for track in pool if track.name in names]
        if not chosen:
            raise TrackError("none of the tracks is to validate with: name at least one in valid")
    # by name: a song that is in train/ and in valid/ would be heard in both
    taken = {track.name for track in chosen}
    train = [track for track in pool if track.name not in taken]
    if not train:
        raise TrackError(f"nothing is left to train on: all {len(pool)} tracks are to validate with; name fewer")
    return train, [track for track in pool if track in chosen]
