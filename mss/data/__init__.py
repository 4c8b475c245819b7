"""Recordings with their stems: what separators are trained on and scored with.

`DataModule` is imported when it is asked for: Lightning, which it needs, is for training only.
"""

from typing import TYPE_CHECKING, Any

from mss.data import augment
from mss.data.cache import CacheError, cached
from mss.data.excerpts import Epochs, Excerpts, Mixed, Songs, target_matrix
from mss.data.musdb import split
from mss.data.stored import CachedTrack
from mss.data.synthetic import Synthetic, find_soundfont
from mss.data.tracks import Audio, Track, TrackError, common_stems, find_tracks, reference

if TYPE_CHECKING:
    from mss.data.datamodule import DataModule

__all__ = [
    "Audio",
    "CacheError",
    "CachedTrack",
    "DataModule",
    "Epochs",
    "Excerpts",
    "Mixed",
    "Songs",
    "Synthetic",
    "Track",
    "TrackError",
    "augment",
    "cached",
    "common_stems",
    "find_soundfont",
    "find_tracks",
    "reference",
    "split",
    "target_matrix",
]


def __getattr__(name: str) -> Any:
    if name == "DataModule":
        from mss.data.datamodule import DataModule

        return DataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
