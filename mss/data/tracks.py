"""Recordings with their stems, found on disk and read when asked for.

Layouts, which one folder may mix, below train/ valid/ test/ or without:

    <name>.stem.mp4                      MUSDB18 (Z. Rafii et al. 2017): five streams, mixture drums bass other vocals
    <name>/mixture.wav, vocals.wav       MUSDB18-HQ: a folder per track; any audio format, any names of stems
    <name>/vocals.flac, drums.flac       the same without a mixture: it is the sum of the stems
    mixture/<name>.wav, vocals/<name>.wav  aligned pairs: a folder per stem, files of equal names

Aligned pairs are told from tracks by their names: a folder is called mixture, drums, bass, other or vocals, and no file
below is. Anything else that is on disk is described by a table, a .csv with a row for each track:

    name,subset,mixture,vocals,piano     subset and mixture may be left out, other columns are stems
    Song A,train,a/mix.wav,a/voc.wav,    files relative to the table; this track has no piano

Folders of estimates have the same layouts, so they are found and read by the same functions. What does not fit
together (lengths, rates, channels, two files for one stem) is refused, never patched.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from mss.audio import EXTENSIONS, read, read_stems

__all__ = ["STREAMS", "SUBSETS", "Audio", "Track", "TrackError", "common_stems", "find_tracks", "reference"]

STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a MUSDB18 file, in its order
SUBSETS = ("train", "valid", "test")
MIXTURE = "mixture"
_SUFFIX = ".stem.mp4"
_LOSSY = (".mp4", ".m4a", ".aac", ".mp3", ".ogg", ".opus", ".wma")


class TrackError(ValueError):
    """A data set or a track that cannot be used as asked; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Audio:
    """A track in memory.

    Args:
        mixture: (c, t).
        stems: name -> (c, t), all of the mixture's shape.
        sample_rate: Hz.
    """

    mixture: Tensor
    stems: dict[str, Tensor]
    sample_rate: int


@dataclass(frozen=True)
class Track:
    """A recording on disk; nothing is read before `load` or the first use of `audio`.

    Args:
        name: as in the name of its file or folder.
        subset: "train", "valid", "test", or "" where the data set is not split.
        path: a .stem.mp4, or the folder of `files`.
        files: name of a stem (or "mixture") -> file; empty for a .stem.mp4.
        problem: why the track cannot be used, found while looking for it; raised when it is read.

    Example:
        >>> for track in find_tracks("musdb18", subset="test"):
        ...     vocals = track.audio.stems["vocals"]        # (c, t)
    """

    name: str
    subset: str
    path: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    problem: str = ""

    @property
    def stems(self) -> tuple[str, ...]:
        """The names of its stems, without the mixture."""
        return tuple(name for name in self.files or STREAMS if name != MIXTURE)

    @property
    def lossy(self) -> bool:
        """Whether the references were compressed with loss: what they have above the codec's cut is rounding noise."""
        return any(path.suffix.lower() in _LOSSY for path in self.files.values() or [self.path])

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.path) if self.path.name.startswith(self.name) else f"{self.path}: {self.name!r}"

    @cached_property
    def audio(self) -> Audio:
        """The whole track, kept in memory as long as the track is."""
        return self.load()

    def load(self, *, start: float = 0.0, duration: float | None = None) -> Audio:
        """Reads the track, or an excerpt of it (seconds).

        Raises:
            TrackError: parts that do not fit together.
            mss.audio.AudioError: a file that cannot be read.
        """
        if self.problem:
            raise TrackError(self.problem)
        parts, rate = self._parts(start, duration)
        stems = {name: x for name, x in parts.items() if name != MIXTURE}
        if not stems:
            raise TrackError(f"{self.where} holds a mixture but no stems: add them, one file for each")
        return Audio(parts[MIXTURE] if MIXTURE in parts else sum(stems.values()), stems, rate)

    def _parts(self, start: float, duration: float | None) -> tuple[dict[str, Tensor], int]:
        """Everything there is, (c, t) each, and the sample rate."""
        if not self.files:
            streams, rate = read_stems(self.path, start=start, duration=duration)
            if len(streams) != len(STREAMS):
                raise TrackError(f"{self.path} has {len(streams)} streams; expected five: {', '.join(STREAMS)}")
            return dict(zip(STREAMS, streams, strict=True)), rate
        found = {name: read(path, start=start, duration=duration) for name, path in self.files.items()}
        kinds = {name: (rate, *x.shape) for name, (x, rate) in found.items()}
        if len(set(kinds.values())) > 1:
            first, a = next(iter(kinds.items()))
            other, b = next((name, kind) for name, kind in kinds.items() if kind != a)
            raise TrackError(f"{self.where}: {first} has {_kind(*a)}, {other} has {_kind(*b)}: they must be alike")
        return {name: x for name, (x, _) in found.items()}, next(iter(kinds.values()))[0]


def find_tracks(root: str | Path, *, subset: str | None = None) -> list[Track]:
    """The tracks of a data set, in order of their names.

    Args:
        root: a folder of tracks, one with subfolders train, valid, test, the folder of a single track, or a .csv.
        subset: one of these subfolders (or of the table's subsets) only. None: all of them.

    Raises:
        TrackError: no such folder or subset, no tracks in it, two of one name, or a row that cannot be used.
    """
    root = Path(root)
    if root.suffix.lower() == ".csv" and root.is_file():
        return _tracks_of_table(root, subset)
    if not root.is_dir():
        what = "is a file" if root.exists() else "there is no such folder"
        raise TrackError(f"{root}: {what}; give a folder of tracks, or a .csv")
    split = [name for name in SUBSETS if (root / name).is_dir()]
    if subset is None:
        own = root.name if root.name in SUBSETS else ""
        tracks = _tracks_in(root, own) + [t for name in split for t in _tracks_in(root / name, name)]
        if not tracks and (alone := _folder_track(root, own)) is not None:
            tracks = [alone]
    elif subset in split:
        tracks = _tracks_in(root / subset, subset)
    elif subset == root.name:
        tracks = _tracks_in(root, subset)
    else:
        raise TrackError(f"{root} has no subset {subset!r}; it has {', '.join(split) or 'none'}")
    if not tracks:
        raise TrackError(f"{root}: no tracks in it; expected .stem.mp4 files, or folders with a file for each stem")
    for (own, name), count in Counter((t.subset, t.name) for t in tracks).items():
        if count > 1:
            raise TrackError(f"{root / own}: two tracks are called {name!r}: rename one")
    return tracks


def common_stems(tracks: Sequence[Track]) -> tuple[str, ...]:
    """The stems that more than half of the tracks have, in MUSDB's order, then in that of the alphabet."""
    counts = Counter(stem for track in tracks for stem in track.stems)
    common = sorted(stem for stem, count in counts.items() if 2 * count > len(tracks))
    return tuple(sorted(common, key=lambda stem: STREAMS.index(stem) if stem in STREAMS else len(STREAMS)))


def reference(stems: Mapping[str, Tensor], name: str) -> Tensor:
    """A stem, or the sum of all but one: "accompaniment" is all but vocals, "no_drums" all but drums.

    Args:
        stems: name -> (c, t).
        name: what is wanted.

    Raises:
        TrackError: neither there nor to be had from what is there.
    """
    if name in stems:
        return stems[name]
    left_out = "vocals" if name == "accompaniment" else name.removeprefix("no_")
    if left_out == name or left_out not in stems or len(stems) < 2:
        raise TrackError(f"no reference for {name!r}: there are {', '.join(stems)}")
    return sum(x for stem, x in stems.items() if stem != left_out)


def _tracks_in(folder: Path, subset: str) -> list[Track]:
    """The tracks directly in a folder."""
    tracks, folders = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and (subset or path.name not in SUBSETS):
            track = _folder_track(path, subset)
            if track is not None:
                tracks.append(track)
                folders.append(track)
        elif path.name.endswith(_SUFFIX):
            tracks.append(Track(path.name.removesuffix(_SUFFIX), subset, path))
    if _aligned(folders):
        return [t for t in tracks if t not in folders] + _pairs(folder, subset, folders)
    return tracks


def _aligned(folders: Sequence[Track]) -> bool:
    """Whether these are no tracks but stems, each a folder of tracks."""
    named = any(track.name in STREAMS for track in folders)
    return len(folders) > 1 and named and not any(name in STREAMS for track in folders for name in track.files)


def _pairs(root: Path, subset: str, folders: Sequence[Track]) -> list[Track]:
    """Tracks of files that bear one name in all folders."""
    tracks = []
    for name in sorted({name for folder in folders for name in folder.files}):
        files = {folder.name: folder.files[name] for folder in folders if name in folder.files}
        problem = next((folder.problem for folder in folders if folder.problem), "")
        if missing := [folder.name for folder in folders if name not in folder.files]:
            problem = f"{root}: {name!r} is in {', '.join(files)} but not in {', '.join(missing)}: add or remove it"
        tracks.append(Track(name, subset, root, files, problem))
    return tracks


def _tracks_of_table(path: Path, subset: str | None) -> list[Track]:
    """The tracks of a .csv, of all subsets or one, in the order of their subsets and names."""
    tracks: dict[tuple[str, str], Track] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, skipinitialspace=True)
        columns = [name.strip() for name in next(rows, [])]
        if "name" not in columns or len(set(columns)) < len(columns) or not {*columns} - {"name", "subset", MIXTURE}:
            raise TrackError(
                f"{path}, line 1: expected the columns name, subset and mixture (may be left out) and one for each "
                f"stem, separated by commas; found {', '.join(columns) or 'nothing'}"
            )
        for cells in rows:
            if any(cell.strip() for cell in cells):
                track = _row(path, rows.line_num, columns, [cell.strip() for cell in cells])
                if (track.subset, track.name) in tracks:
                    raise TrackError(f"{path}, line {rows.line_num}: {track.name!r} is there already: rename one")
                tracks[track.subset, track.name] = track
    subsets = [name for name in ("", *SUBSETS) if name in {s for s, _ in tracks}]
    if subset is not None and subset not in subsets:
        raise TrackError(f"{path} has no subset {subset!r}; it has {', '.join(filter(None, subsets)) or 'none'}")
    if not tracks:
        raise TrackError(f"{path}: no tracks in it; expected a line for each")
    ordered = sorted(tracks.values(), key=lambda track: (subsets.index(track.subset), track.name))
    return [track for track in ordered if subset in (None, track.subset)]


def _row(path: Path, line: int, columns: Sequence[str], cells: Sequence[str]) -> Track:
    here = f"{path}, line {line}"
    if len(cells) > len(columns):
        raise TrackError(f"{here}: {len(cells)} cells for {len(columns)} columns: put names with a comma in quotes")
    row = {column: cell for column, cell in zip(columns, cells, strict=False) if cell}
    name, subset = row.pop("name", ""), row.pop("subset", "")
    if not name:
        raise TrackError(f"{here}: the track has no name")
    if subset not in ("", *SUBSETS):
        raise TrackError(f"{here}: unknown subset {subset!r}; use {', '.join(SUBSETS)} or nothing")
    if not row.keys() - {MIXTURE}:
        raise TrackError(f"{here}: {name!r} has no stems")
    files = {part: path.parent / file for part, file in row.items()}
    for part, file in files.items():
        if not file.is_file():
            raise TrackError(f"{here}: {part} of {name!r}: there is no file {file}")
    return Track(name, subset, path.parent, files)


def _folder_track(folder: Path, subset: str) -> Track | None:
    """The track whose stems are the audio files of a folder; None: there are none."""
    inside = (p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and not p.name.endswith(_SUFFIX))
    audio = [path for path in inside if path.suffix.lower() in EXTENSIONS and path.is_file()]
    if not audio:
        return None
    twice = [name for name, count in Counter(path.stem for path in audio).items() if count > 1]
    problem = f"{folder}: there are two files for {twice[0]!r}: remove one" if twice else ""
    return Track(folder.name, subset, folder, {path.stem: path for path in audio}, problem)


def _kind(rate: int, channels: int, samples: int) -> str:
    return f"{samples} samples of {channels} {'channel' if channels == 1 else 'channels'} at {rate} Hz"
