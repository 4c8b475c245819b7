"""Random excerpts of stems by their number, and whole songs to validate with.

Excerpt `index` is a pure function of (seed, index): its random numbers come from a counter-based generator (Philox:
J. K. Salmon et al., SC 2011) whose key they are. So neither workers nor ranks nor a resumed run change what is heard,
and epochs are just ranges of numbers: item i of epoch e is excerpt e * len + i.

Stems are mixed across tracks as in Open-Unmix (F.-R. Stöter et al., JOSS 4(41):1667, 2019, after S. Uhlich et al., ICASSP
2017): every stem from a track and a time of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mss.cpu import empty
from mss.data.stored import CachedTrack
from mss.data.tracks import MIXTURE, TrackError, reference

__all__ = ["Epochs", "Excerpts", "Mixed", "Songs", "Source", "target_matrix"]

REDRAWS = 16  # after which silence passes: a stem that is silent nearly everywhere


class Source(Protocol):
    """Where excerpts come from: `len` of them make an epoch, and any index from 0 on gives one (s, c, t)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class Excerpts(Dataset):
    """Random excerpts of tracks.

    Args:
        tracks: from `mss.data.cached`.
        stems: what an excerpt is made of; other stems of the tracks are left out.
        seconds: of an excerpt; a shorter track is followed by silence.
        per_track: excerpts in an epoch for each track.
        seed: of everything.
        mix_tracks: probability (True: 1) that each stem comes from a track and a time of its own, and only from tracks
            that have it; otherwise all are of one track and time, where a stem that the track lacks is silent, and an
            epoch takes each track equally often.
        audible: stems that should be heard.
        silence: probability that digital silence passes where one of those is silent; otherwise it is drawn again (the
            whole excerpt, when the stems are of one track), up to 16 times. Open-Unmix lets all pass: 1.
        weights: how often each track is drawn, up to a factor. None: all equally often.

    Raises:
        TrackError: no tracks, or a stem that none of them has.
    """

    def __init__(
        self,
        tracks: Sequence[CachedTrack],
        stems: Sequence[str],
        *,
        seconds: float = 6.0,
        per_track: int = 64,
        seed: int = 0,
        mix_tracks: float = True,
        audible: Sequence[str] = (),
        silence: float = 0.1,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not tracks:
            raise TrackError("no tracks to take excerpts of")
        if not stems or (unknown := set(audible) - set(stems)):
            raise TrackError(f"excerpts are of stems {list(stems)}; {sorted(unknown) if stems else 'name some'}")
        self.tracks, self.stems = list(tracks), tuple(stems)
        self.length = round(seconds * tracks[0].sample_rate)
        if self.length < 1 or per_track < 1:
            raise TrackError(f"an excerpt is longer than {seconds} s, and a track gives at least one, not {per_track}")
        self.per_track, self.seed = per_track, seed
        self.mix_tracks, self.audible, self.silence = float(mix_tracks), frozenset(audible), silence
        if weights is not None and (len(weights) != len(tracks) or min(weights) < 0 or not sum(weights) > 0):
            raise TrackError(f"expected a weight, 0 or more, for each of {len(tracks)} tracks; got {list(weights)}")
        everywhere = [1.0] * len(tracks) if weights is None else weights
        drawn = [(track, weight) for track, weight in zip(tracks, everywhere, strict=True) if weight > 0]
        self.all = _Draw(drawn)
        self.having = {stem: _Draw([(t, w) for t, w in drawn if stem in t.stems]) for stem in stems}
        self.weighted = weights is not None
        for stem, having in self.having.items():
            if not having.tracks:
                there = sorted({name for track in tracks for name in track.stems})
                raise TrackError(f"no track has the stem {stem!r}; there are {', '.join(there)}")

    def __len__(self) -> int:
        return len(self.tracks) * self.per_track

    def __getitem__(self, index: int) -> Tensor:
        """(s, c, t) float32."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """(b, s, c, t) float32, each excerpt read to its place."""
        shape = (len(indices), len(self.stems), self.tracks[0].shape[1], self.length)
        batch = empty(shape, torch.float32, torch.device("cpu"))
        for index, excerpt in zip(indices, batch, strict=True):
            for stem, out, (track, start) in zip(self.stems, excerpt, self.draw(index), strict=True):
                if stem in track.stems:
                    track.read(stem, start, out)
                else:
                    out.zero_()
        return batch

    def draw(self, index: int) -> list[tuple[CachedTrack, int]]:
        """The track and the first sample of each stem."""
        rng = _generator(self.seed, index)
        if rng.random() < self.mix_tracks:
            return [self._place(rng, self.having[stem], self.audible & {stem}) for stem in self.stems]
        first = None if self.weighted else self.tracks[index % len(self.tracks)]
        return [self._place(rng, self.all, self.audible, first)] * len(self.stems)

    def _place(
        self,
        rng: np.random.Generator,
        tracks: _Draw,
        audible: frozenset[str],
        first: CachedTrack | None = None,
    ) -> tuple[CachedTrack, int]:
        """A track and a time where one of the audible stems is heard; the first choice of the track may be made."""
        passes = not audible or rng.random() < self.silence
        for _ in range(1 + REDRAWS):
            track = first or tracks(rng)
            start = int(rng.integers(max(track.length - self.length, 0) + 1))
            if passes or any(s in track.stems and not track.silent(s, start, self.length) for s in audible):
                break
            first = None
        return track, start


class _Draw:
    """Draws tracks, each as often as its weight says."""

    def __init__(self, weighted: Sequence[tuple[CachedTrack, float]]) -> None:
        self.tracks = [track for track, _ in weighted]
        self.bounds = list(accumulate(weight for _, weight in weighted))

    def __call__(self, rng: np.random.Generator) -> CachedTrack:
        at = bisect_right(self.bounds, rng.random() * self.bounds[-1])
        return self.tracks[min(at, len(self.tracks) - 1)]  # a product may be rounded up to the last bound


class Mixed(Dataset):
    """Excerpts from several sources, each index from one of them, drawn with given probabilities.

    An epoch is as long as the first source's; source i answers for an index with the excerpt it has under this index.

    Args:
        datasets: anything with a length that gives an excerpt (s, c, t), of one shape, for any index from 0 on.
        shares: their probabilities, up to a factor.
        seed: of the draw.
    """

    def __init__(self, datasets: Sequence[Source], shares: Sequence[float], seed: int = 0) -> None:
        if not datasets or len(datasets) != len(shares) or min(shares) < 0 or not sum(shares) > 0:
            raise ValueError(f"expected a share, 0 or more, for each of {len(datasets)} sources; got {list(shares)}")
        self.datasets, self.shares, self.seed = list(datasets), list(shares), seed
        self.bounds = [bound / sum(shares) for bound in accumulate(shares)][:-1]

    def __len__(self) -> int:
        return len(self.datasets[0])

    def __getitem__(self, index: int) -> Tensor:
        return self.datasets[bisect_right(self.bounds, _generator(self.seed, index, 1).random())][index]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self[index] for index in indices])


class Epochs(Sampler[int]):
    """Indices of one epoch, from `start` on: rank r of w takes r, r + w, r + 2w, ...

    It has no `set_epoch`, with which Lightning would skip the rest of an epoch that a run was stopped in.

    Args:
        size: items in an epoch.
        rank, world: of this process, and how many there are.

    Attributes:
        start: items that this rank has had, of all epochs; epoch e begins at e * len.
    """

    def __init__(self, size: int, *, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"ranks go from 0 to {world - 1}; there is none {rank}")
        self.size, self.rank, self.world = size, rank, world
        self.start = 0

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[int]:
        first = self.start * self.world + self.rank
        return iter(range(first, first + len(self) * self.world, self.world))


class Songs(Dataset):
    """Whole tracks: dicts of mixture (c, t), the track's own where it has one, stems (s, c, t) and name.

    A stem that a track lacks is silent.
    """

    def __init__(self, tracks: Sequence[CachedTrack], stems: Sequence[str]) -> None:
        self.tracks, self.stems = list(tracks), tuple(stems)

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        track = self.tracks[index]
        silence = torch.zeros(track.shape[1:])
        stems = [track.waveform(stem) if stem in track.stems else silence for stem in self.stems]
        return {"mixture": track.waveform(MIXTURE), "stems": torch.stack(stems), "name": track.name}


def target_matrix(stems: Sequence[str], targets: Sequence[str]) -> Tensor:
    """(n, s) of 0 and 1: which stems add up to which target, by the names of `mss.data.reference`.

    Raises:
        TrackError: a target that the stems do not give.
    """
    rows = dict(zip(stems, torch.eye(len(stems)), strict=True))
    return torch.stack([reference(rows, target) for target in targets])


def _generator(seed: int, index: int, purpose: int = 0) -> np.random.Generator:
    """Random numbers of their own for each seed, index and purpose."""
    key = np.array([seed % 2**64, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, purpose], np.uint64)))
