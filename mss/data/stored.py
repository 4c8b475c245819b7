"""A decoded track in a file of its own, mapped into memory when it is read.

The file is a safetensors file: a tensor `samples` (part, c, t) and, in the header, the parts' names and scales.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mss.data.tracks import MIXTURE, Track

__all__ = ["KINDS", "CachedTrack", "open_track", "write_track"]

log = logging.getLogger(__name__)
KINDS = {"int16": "I16", "float32": "F32"}  # numpy's name: that of safetensors
_PIECES, _PIECE = 64, 1 << 16  # how many bytes of a file are checked when it is opened


@dataclass(frozen=True)
class CachedTrack:
    """A decoded track; its samples stay on disk until they are asked for.

    Args:
        name, subset: of the track.
        path: its file in the cache.
        parts: the names along the first axis: "mixture" where the track has one, then the stems.
        scales: what the stored samples of each part are multiplied with.
        shape: of the samples, (part, c, t).
        dtype: of the stored samples.
        offset: of the samples in the file, bytes.
        sample_rate: Hz.
    """

    name: str
    subset: str
    path: Path
    parts: tuple[str, ...]
    scales: tuple[float, ...]
    shape: tuple[int, int, int]
    dtype: str
    offset: int
    sample_rate: int

    @property
    def stems(self) -> tuple[str, ...]:
        """The names of its stems, without the mixture."""
        return tuple(part for part in self.parts if part != MIXTURE)

    @property
    def length(self) -> int:
        """Samples per channel."""
        return self.shape[-1]

    @cached_property
    def samples(self) -> Tensor:
        """(part, c, t) as stored, mapped into memory; not to be written to."""
        mapped = np.memmap(self.path, self.dtype, "c", self.offset, self.shape)  # torch dislikes read-only memory
        return torch.from_numpy(mapped)

    def read(self, part: str, start: int, out: Tensor) -> None:
        """Fills `out` (c, t) with a part from sample `start` on, and with silence beyond its end."""
        n = self.parts.index(part)
        count = max(0, min(out.shape[-1], self.length - start))
        out[:, :count].copy_(self.samples[n, :, start : start + count])
        if self.scales[n] != 1:
            out[:, :count].mul_(self.scales[n])
        out[:, count:].zero_()

    def silent(self, part: str, start: int, count: int) -> bool:
        """Whether a part is digital silence from sample `start` on."""
        samples = self.samples.numpy()[self.parts.index(part), :, start : start + count]
        return not (samples[:, ::97].any() or samples.any())  # music shows itself in the first look

    def waveform(self, part: str, start: int = 0, count: int | None = None) -> Tensor:
        """(c, t) float32 of a stem or the mixture, which is the sum of all stems where the track has none of its own."""
        count = max(0, self.length - start if count is None else min(count, self.length - start))
        out = torch.empty(self.shape[1], count)
        if part in self.parts or part != MIXTURE:
            self.read(part, start, out)
            return out
        return sum(self.waveform(stem, start, count) for stem in self.stems)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "samples"}


def write_track(path: Path, samples: np.ndarray, facts: dict[str, Any]) -> None:
    """A safetensors file that appears when it is whole."""
    data = memoryview(samples).cast("B")
    text = json.dumps(facts)
    header = {
        "__metadata__": {"track": text, "digest": _digest(text, lambda at: data[at : at + _PIECE], len(data))},
        "samples": {"dtype": KINDS[str(samples.dtype)], "shape": samples.shape, "data_offsets": [0, len(data)]},
    }
    head = json.dumps(header).encode()
    head += b" " * (-(8 + len(head)) % 64)
    part = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def open_track(path: Path, track: Track) -> CachedTrack | None:
    """The track's file if there is one and it is as it was written."""
    try:
        with path.open("rb") as file:
            offset = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(offset, 1 << 20) - 8))
            tensor, text = header["samples"], header["__metadata__"]["track"]
            size = tensor["data_offsets"][1]

            def piece(at: int) -> bytes:
                file.seek(offset + at)
                return file.read(min(_PIECE, size - at))

            whole = path.stat().st_size == offset + size
            if not whole or _digest(text, piece, size) != header["__metadata__"]["digest"]:
                raise ValueError("its samples are not those that were written")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s in the cache is damaged (%s) and is decoded anew", track.name, error)
        return None
    facts = json.loads(text)
    dtype = next(name for name, code in KINDS.items() if code == tensor["dtype"])
    shape, parts = tuple(tensor["shape"]), tuple(facts["parts"])
    return CachedTrack(
        track.name, track.subset, path, parts, tuple(facts["scales"]), shape, dtype, offset, facts["rate"]
    )


def _digest(text: str, piece: Callable[[int], bytes | memoryview], size: int) -> str:
    """Of the header's facts and of pieces spread over the samples."""
    done = hashlib.sha256(text.encode())
    for at in range(0, size, max(_PIECE, size // _PIECES)):
        done.update(piece(at))
    return done.hexdigest()
