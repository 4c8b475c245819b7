"""Audio files to waveforms (c, t): whole, in blocks, an excerpt, or all the stems of one file.

Lossless files are read with libsndfile, which seeks to the sample and checks FLAC frames, and so is Ogg Vorbis, of
which FFmpeg loses the last block of some short files. Everything else is FFmpeg's. Lossy files are decoded from the
beginning whatever the start, because a decoder that starts in the middle may give other samples. A file that ends
early, breaks in the middle or holds NaN is refused, never patched.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import soundfile
import torch
from torch import Tensor

from .decoding import decode, open_container
from .formats import DEFAULT_LAYOUTS, VORBIS_ORDER, AudioError, AudioInfo
from .integrity import broken_page, missing_bytes, xing_header
from .resample import resample

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Reader", "info", "read", "read_stems"]

_LOSSLESS = ("wav", "w64", "aiff", "caf", "au", "flac")  # containers that libsndfile may read
_PIECE = 1 << 16  # samples asked from libsndfile at once
_SUBTYPES = {
    "PCM_U8": "uint8",
    "PCM_S8": "int8",
    "PCM_16": "int16",
    "PCM_24": "int24",
    "PCM_32": "int32",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "ALAC_16": "int16",
    "ALAC_20": "int24",
    "ALAC_24": "int24",
    "ALAC_32": "int32",
}
_PCM = {"u8": "uint8", "s8": "int8", "s16": "int16", "s24": "int24", "s32": "int32", "f32": "float32", "f64": "float64"}
_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "mkv", "asf": "wma"}
# what muxers write about themselves, not about the music
# fmt: off
_TECHNICAL = frozenset(
    {
        "encoder", "encoded_by", "major_brand", "minor_version", "compatible_brands", "creation_time",
        "handler_name", "vendor_id", "duration", "language",
    }
)
# fmt: on


@dataclass(frozen=True)
class _Source:
    """A file's stream, how to read it, and how far the samples may fall short of the promise."""

    info: AudioInfo
    native: bool  # read by libsndfile
    seeks: bool  # starts at any sample
    tolerance: int  # samples
    padded: bool  # what follows the promised samples is the encoder's padding


def info(path: str | Path, *, stream: int = 0) -> AudioInfo:
    """Describe one audio stream of a file from its header.

    Args:
        path: an audio file, or a video file with sound.
        stream: which of the file's audio streams, from 0.

    Raises:
        AudioError: if there is no such file or stream.
    """
    return _probe(Path(path), stream).info


class Reader:
    """A stream of a file, or an excerpt of it, in blocks of float32 (c, t).

    Args:
        path: an audio file, or a video file with sound.
        start: seconds, rounded to the sample.
        duration: seconds; `None` or more than there is: up to the end.
        stream: which of the file's audio streams, from 0.

    Attributes:
        info: the whole stream's description.
        frames: samples of the excerpt as the header promises them, or `None`.

    Raises:
        AudioError: if the file cannot be read to the end of the excerpt, has no samples there, or holds NaN or Inf.

    Example:
        >>> with Reader("song.flac", start=30.0, duration=10.0) as song:
        ...     peak = max(block.abs().max() for block in song.blocks(65536))
    """

    def __init__(self, path: str | Path, *, start: float = 0.0, duration: float | None = None, stream: int = 0) -> None:
        self._path, self._stream = Path(path), stream
        _require_file(self._path)
        _require_whole(self._path)
        self._source = _probe(self._path, stream)
        self.info = self._source.info
        self._start, self._count = _excerpt(self.info, start, duration)
        self.frames = None
        if self.info.frames is not None:
            left = self.info.frames - self._start
            self.frames = left if self._count is None else min(left, self._count)
        self._running: list[Iterator[Tensor]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; iterators that `blocks` gave end."""
        for running in self._running:
            running.close()
        self._running.clear()

    def blocks(self, size: int) -> Iterator[Tensor]:
        """The excerpt from its beginning: float32 (c, size), the last block (c, 1 to size)."""
        if size < 1:
            raise AudioError(f"A block holds at least one sample, not {size}.")
        self._running.append(self._blocks(size))
        return self._running[-1]

    def _blocks(self, size: int) -> Iterator[Tensor]:
        done = 0
        for block in _rechunk(self._excerpt_samples(), size):
            _require_finite(block, self._path, self._start + done, self.info.sample_rate)
            done += block.shape[1]
            yield torch.from_numpy(block)

    def _excerpt_samples(self) -> Iterator[np.ndarray]:
        """Samples from `_start` on, at most `_count`; checks the promised length if the end was reached."""
        seen = self._start if self._source.seeks else 0
        stop = None if self._count is None else self._start + self._count
        for piece in _samples(self._path, self._source, self._stream, self._start):
            first, seen = seen, seen + piece.shape[1]
            wanted = piece[:, max(0, self._start - first) : None if stop is None else max(0, stop - first)]
            if wanted.shape[1]:
                yield wanted
            if stop is not None and seen >= stop:
                return
        promised = self.info.frames
        if promised is not None and seen < promised - self._source.tolerance:
            raise AudioError(
                f"{self._path} is truncated or damaged: its header promises {promised} samples, only {seen} could be "
                "decoded; get a whole copy."
            )
        if seen == 0:
            raise _no_samples(self._path)
        if seen <= self._start:
            raise _beyond_end(self._path, self._start, seen, self.info.sample_rate)


def read(
    path: str | Path,
    *,
    start: float = 0.0,
    duration: float | None = None,
    stream: int = 0,
    sample_rate: int | None = None,
) -> tuple[Tensor, int]:
    """Read a file or an excerpt of it at once.

    Args:
        path, start, duration, stream: as for `Reader`.
        sample_rate: Hz to resample to; `None` keeps the file's.

    Returns:
        The waveform, float32 (c, t), and its sample rate in Hz.
    """
    with Reader(path, start=start, duration=duration, stream=stream) as reader:
        waveform = torch.cat(list(reader.blocks(_PIECE)), dim=1)
        rate = reader.info.sample_rate
    if sample_rate is None:
        return waveform, rate
    return resample(waveform, rate, sample_rate), sample_rate


def read_stems(path: str | Path, *, start: float = 0.0, duration: float | None = None) -> tuple[Tensor, int]:
    """Read all audio streams of one file, such as a `.stem.mp4`, in one pass.

    Returns:
        The stems, float32 (s, c, t), in the file's order (MUSDB: mixture, drums, bass, other, vocals), and the sample
        rate in Hz. Stems that end early are followed by silence, with a warning.

    Raises:
        AudioError: as for `Reader`, and if the streams differ in sample rate or channels.
    """
    path = Path(path)
    readers = [Reader(path, start=start, duration=duration)]
    readers += [Reader(path, start=start, duration=duration, stream=n) for n in range(1, readers[0].info.streams)]
    _require_alike(path, [reader.info for reader in readers])
    rate = readers[0].info.sample_rate
    first, count = _excerpt(readers[0].info, start, duration)
    last = None if count is None else first + count
    pieces: list[list[np.ndarray]] = [[] for _ in readers]
    seen = [0] * len(readers)
    with open_container(path) as container:
        for n, piece in decode(container, path, list(container.streams.audio)):
            begin, seen[n] = seen[n], seen[n] + piece.shape[1]
            pieces[n].append(piece[:, max(0, first - begin) : None if last is None else max(0, last - begin)])
            if last is not None and min(seen) >= last:
                break
    for n, reader in enumerate(readers):
        promised = reader.info.frames
        to_the_end = last is None or seen[n] < last
        if promised is not None and to_the_end and seen[n] < promised - reader._source.tolerance:
            raise AudioError(f"Stream {n} of {path} is truncated: {seen[n]} of {promised} samples; get a whole copy.")
    if max(seen) <= first:
        raise _beyond_end(path, first, max(seen), rate) if max(seen) else _no_samples(path)
    nothing = np.zeros((readers[0].info.channels, 0), np.float32)
    stems = [np.concatenate([nothing, *some], axis=1) for some in pieces]
    for stem in stems:
        _require_finite(stem, path, first, rate)
    return torch.from_numpy(_stacked(stems, path)), rate


def _require_alike(path: Path, streams: list[AudioInfo]) -> None:
    rate, channels = streams[0].sample_rate, streams[0].channels
    for n, stream in enumerate(streams):
        if (stream.sample_rate, stream.channels) != (rate, channels):
            raise AudioError(
                f"{path} has no stems to stack: stream 0 has {rate} Hz and {channels} channels, stream {n} "
                f"{stream.sample_rate} Hz and {stream.channels}; read them one by one."
            )


def _stacked(stems: list[np.ndarray], path: Path) -> np.ndarray:
    """Stems (c, any) as (s, c, t), with silence after those that end early, and a warning."""
    longest = max(stem.shape[1] for stem in stems)
    if any(stem.shape[1] != longest for stem in stems):
        lengths = ", ".join(str(stem.shape[1]) for stem in stems)
        warnings.warn(f"The stems of {path} have {lengths} samples; the shorter ones end in silence.", stacklevel=3)
    return np.stack([np.pad(stem, ((0, 0), (0, longest - stem.shape[1]))) for stem in stems])


def _probe(path: Path, stream: int) -> _Source:
    """Open a file, describe the stream and choose who reads it."""
    _require_file(path)
    with open_container(path) as container:
        streams = container.streams.audio
        if not streams:
            raise AudioError(f"{path} has no audio stream: give a file with sound.")
        if not 0 <= stream < len(streams):
            raise AudioError(f"{path} has {len(streams)} audio streams, numbered from 0, so there is none {stream}.")
        chosen = streams[stream]
        context = chosen.codec_context
        rate, channels = context.sample_rate, context.channels
        if rate <= 0 or channels <= 0 or context.format is None:
            raise AudioError(f"{path} names no sample rate, channels or codec: it is damaged or of another kind.")
        # Ogg keeps the tags with the stream, all others with the file
        found = {**container.metadata, **(chosen.metadata if container.format.name == "ogg" else {})}
        tags = {key.lower(): value for key, value in found.items() if key.lower() not in _TECHNICAL}
        layout = chosen.layout.name
        if layout in ("1 channels", "2 channels"):
            layout = DEFAULT_LAYOUTS[channels]
        name = _CONTAINERS.get(container.format.name, container.format.name.split(",")[0])
        if name == "mkv" and path.suffix.lower() == ".webm":
            name = "webm"
        promised, tolerance, padded = _promise(path, container, chosen)
        native = _native(path, name, chosen, promised, tolerance)
        if native:
            frames, tolerance, subtype = native.frames, 0, _SUBTYPES.get(native.subtype)
        else:
            frames, subtype = promised, _subtype(context)
        described = AudioInfo(path, rate, channels, frames, name, subtype, len(streams), tags, layout)
    if frames == 0:
        raise _no_samples(path)
    return _Source(described, native is not None, native is not None and name in _LOSSLESS, tolerance, padded)


def _sndfile_name(path: Path) -> str | bytes:
    """A name as libsndfile takes it; as bytes, it need not be valid text."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _native(path: Path, container: str, stream: av.AudioStream, promised: int | None, tolerance: int):
    """What libsndfile says of a file if it is to read it, else `None`."""
    vorbis = container == "ogg" and stream.codec_context.name == "vorbis"
    if not (container in _LOSSLESS or vorbis):
        return None
    try:
        found = soundfile.info(_sndfile_name(path))
    except soundfile.LibsndfileError:
        return None
    # it takes an unknown length for none or for the largest number
    if (found.samplerate, found.channels) != (stream.rate, stream.channels) or not 0 < found.frames < 2**62:
        return None
    if vorbis and (promised is None or abs(found.frames - promised) > tolerance):
        return None  # several streams after one another, of which it sees the first
    return found


def _promise(
    path: Path, container: av.container.InputContainer, stream: av.AudioStream
) -> tuple[int | None, int, bool]:
    """The samples promised, by how many a healthy file may miss them, and whether more than that is padding."""
    kind, rate = container.format.name, stream.rate
    if kind == "mp3":
        header = xing_header(path)
        if header is None:
            return None, 0, False
        # some encoders count the header's own frame
        return header.samples, header.frame_length, header.extension is not None
    if stream.duration is None or stream.duration <= 0:
        return None, 0, False
    frames = round(stream.duration * stream.time_base * rate)
    if kind == "ogg":
        if stream.codec_context.name == "opus":
            head = bytes(stream.codec_context.extradata or b"")
            frames -= int.from_bytes(head[10:12], "little")  # the last granule position counts the pre-skip
        return max(0, frames), 8192, True  # streams cut out of a longer one begin with a block that only primes
    if kind.startswith("mov"):
        return frames, rate // 10, False  # MP4 says it more exactly in its packets
    return None, 0, False


def _subtype(context: av.AudioCodecContext) -> str | None:
    """The sample format of a lossless codec."""
    match = re.fullmatch(r"pcm_([suf]\d+)(le|be)?(_planar)?", context.name)
    if match:
        return _PCM.get(match[1])
    if context.name in ("flac", "alac", "wavpack", "tta", "ape"):
        return {"s16": "int16", "s32": "int24", "u8": "uint8"}.get(context.format.name.removesuffix("p"), "float32")
    return None


def _samples(path: Path, source: _Source, stream: int, start: int) -> Iterator[np.ndarray]:
    """Float32 pieces (c, t): from sample `start` on if the source seeks, else from 0."""
    if not source.native:
        with open_container(path) as container:
            length = source.info.frames if source.padded else None
            for _, piece in decode(container, path, [container.streams.audio[stream]], length):
                yield piece
        return
    order = VORBIS_ORDER.get(source.info.channels) if source.info.container == "ogg" else None
    try:
        with soundfile.SoundFile(_sndfile_name(path)) as file:
            if source.seeks:
                file.seek(start)
            left = file.frames - file.tell()
            while left:
                piece = file.read(min(_PIECE, left), dtype="float32", always_2d=True)
                if len(piece) < min(_PIECE, left):  # a hole, which the next read would step over
                    at = (file.frames - left + len(piece)) / file.samplerate
                    raise AudioError(f"{path} is truncated or damaged near {at:.3f} s: get an intact copy.")
                left -= len(piece)
                yield piece.T if order is None else piece.T[np.argsort(order)]
    except soundfile.LibsndfileError as error:
        reason = str(error).strip() or "libsndfile lost the stream"
        raise AudioError(f"{path} is truncated or damaged ({reason}): get an intact copy.") from error


def _rechunk(pieces: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Arrays (c, any) to contiguous arrays (c, size) and a shorter last one."""
    held: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += piece.shape[1]
        if count < size:
            continue
        whole = np.concatenate(held, axis=1)
        full = count - count % size
        for begin in range(0, full, size):
            yield np.array(whole[:, begin : begin + size], order="C")
        held, count = [whole[:, full:]], count - full
    if count:
        yield np.ascontiguousarray(np.concatenate(held, axis=1))


def _excerpt(described: AudioInfo, start: float, duration: float | None) -> tuple[int, int | None]:
    """Seconds to samples, checked against the file."""
    rate = described.sample_rate
    if not 0 <= start < float("inf"):
        raise AudioError(f"An excerpt starts at zero seconds or later, not {start}.")
    if duration is not None and not duration > 0:
        raise AudioError(f"An excerpt lasts more than zero seconds, not {duration}.")
    first = round(start * rate)
    if described.frames is not None and first >= described.frames:
        raise _beyond_end(described.path, first, described.frames, rate)
    count = None if duration is None or duration == float("inf") else max(1, round(duration * rate))
    return first, count


def _require_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise AudioError(f"{path} is a directory: give one of the files in it.")
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device never ends
            raise AudioError(f"{path} is not a file but a pipe or a device: give a file.")
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise AudioError(f"{path} does not exist: check the name.") from error
    except PermissionError as error:
        raise AudioError(f"{path} may not be read: change its permissions.") from error
    except OSError as error:
        raise AudioError(f"{path} cannot be opened ({error.strerror}): check the name and the disk.") from error
    if empty:
        raise AudioError(f"{path} is empty (0 bytes): get a whole copy.")


def _require_whole(path: Path) -> None:
    missing = missing_bytes(path)
    if missing:
        raise AudioError(
            f"{path} is truncated: at least {missing} bytes are missing that its header promises; get a whole copy."
        )
    with path.open("rb") as file:
        ogg = file.read(4) == b"OggS"
    if ogg and (at := broken_page(path)) is not None:
        raise AudioError(f"{path} is damaged: its Ogg page at byte {at} is not what was written; get an intact copy.")


def _require_finite(block: np.ndarray, path: Path, position: int, rate: int) -> None:
    bad = ~np.isfinite(block)
    if bad.any():
        first = (position + int(bad.any(axis=0).argmax())) / rate
        raise AudioError(
            f"{path} holds NaN or infinite samples: {int(bad.sum())} in this block, the first at {first:.6f} s; "
            "repair the file or export it again."
        )


def _no_samples(path: Path) -> AudioError:
    return AudioError(f"{path} holds no samples: give a file with sound in it.")


def _beyond_end(path: Path, first: int, frames: int, rate: int) -> AudioError:
    return AudioError(
        f"{path} ends at {frames / rate:.3f} s, before the start asked for, {first / rate:.3f} s: start earlier."
    )
