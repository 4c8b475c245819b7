"""Waveforms (c, t) to audio files: in blocks, under the final name only when complete, the same bytes each time.

FFmpeg encodes everything but Vorbis, for which libsndfile has the better encoder. Float samples x become integers
round(x * 2^(bits-1)), the inverse of what the reader does, so integer files come back bit by bit.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import av
import numpy as np
import soundfile
import torch
from torch import Tensor

from .finishing import finish_mp3, finish_ogg
from .formats import DEFAULT_LAYOUTS, VORBIS_ORDER, AudioError, Encoding
from .integrity import missing_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Writer", "write"]

_SUFFIXES = {
    "wav": "wav",
    "wave": "wav",
    "rf64": "wav",
    "flac": "flac",
    "mp3": "mp3",
    "ogg": "ogg",
    "oga": "ogg",
    "opus": "opus",
    "m4a": "m4a",
    "mp4": "m4a",
}
_CODECS = {  # FFmpeg's encoder and the sample format it is fed
    "int16": ("pcm_s16le", "s16"),
    "int24": ("pcm_s24le", "s32"),
    "int32": ("pcm_s32le", "s32"),
    "float32": ("pcm_f32le", "flt"),
    "mp3": ("libmp3lame", "fltp"),
    "opus": ("libopus", "flt"),
    "m4a": ("aac", "fltp"),
}
_MUXERS = {"m4a": "ipod"}
_BITS = {"int16": 16, "int24": 24, "int32": 32}
_REPORTS = (OSError, av.FFmpegError, soundfile.SoundFileError)
_PIECE = 1 << 16  # samples per packet where the codec does not say: few calls, as each stops the threads that separate
_VORBIS_TAGS = ("title", "artist", "album", "date", "comment", "genre", "copyright", "license", "tracknumber")
# nominal kbit/s of two channels at 44.1 kHz for the qualities 0, 0.1, ... 1
_VORBIS_RATES = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)


class Writer:
    """Write an audio file block by block.

    The samples go to a hidden file in the same folder, which takes the final name in `close`. Leaving the `with` block
    by an exception removes it.

    Args:
        path: the file; its suffix says what it is if `encoding` does not (.wav: float32).
        sample_rate: Hz.
        channels: number of channels.
        encoding: how to store the samples.
        tags: text tags such as title, artist, album; those that the container has no place for are left out.
        layout: FFmpeg's name of the channel layout, as in `AudioInfo.layout`; by default the usual one.

    Attributes:
        frames: samples per channel written so far.
        peak: the largest absolute sample given.
        clipped: samples that exceeded the range of an integer format and were saturated.

    Raises:
        AudioError: if the file cannot hold this, cannot be created, or the disk is full.

    Example:
        >>> with Writer("vocals.flac", 44100, 2, tags={"title": "Vocals"}) as file:
        ...     for block in blocks:
        ...         file.write(block)
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int,
        channels: int,
        *,
        encoding: Encoding | None = None,
        tags: Mapping[str, str] | None = None,
        layout: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.encoding = _encoding_of(self.path, encoding)
        self.encoding.check(sample_rate, channels)
        self.sample_rate, self.channels = int(sample_rate), int(channels)
        self.layout = _layout_of(layout, self.channels, self.encoding)
        self.frames, self.peak, self.clipped = 0, 0.0, 0
        if self.path.is_dir():
            raise AudioError(f"{path} is a directory: give the name of a file.")
        self._part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._file: _File | None = None
        self._rest = np.zeros((self.channels, 0), np.float32)  # too short to encode yet
        with self._guarded():
            self._part.open("xb").close()  # libsndfile does not say why it cannot create a file, FFmpeg says it later
            opened = _VorbisFile if self.encoding.container == "ogg" else _FFmpegFile
            self._file = opened(self._part, self, {key.lower(): str(value) for key, value in (tags or {}).items()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, block: Tensor) -> None:
        """Append a block (c, t) of floating-point samples, on any device."""
        if self._file is None:
            raise AudioError(f"{self.path} is closed: nothing more can be written to it.")
        if block.ndim != 2 or block.shape[0] != self.channels or not block.is_floating_point():
            raise AudioError(
                f"{self.path} takes floating-point blocks ({self.channels}, t), not {block.dtype} "
                f"{tuple(block.shape)}: reshape or convert them."
            )
        if not block.shape[1]:
            return
        samples = block.detach().cpu()
        samples = (samples if samples.dtype == torch.float64 else samples.float()).numpy()
        peak = float(np.abs(samples).max())
        if not np.isfinite(peak):
            bad = ~np.isfinite(samples)
            first = (self.frames + int(bad.any(axis=0).argmax())) / self.sample_rate
            raise AudioError(
                f"{self.path} was given NaN or infinite samples: {int(bad.sum())} in this block, the first at "
                f"{first:.6f} s; correct what computed them."
            )
        self.peak = max(self.peak, peak)
        bits = _BITS.get(self.encoding.subtype)
        with self._guarded():
            self._encode(self._integers(samples, bits) if bits else samples.astype(np.float32))
        self.frames += block.shape[1]

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._file is None:
            return
        with self._guarded():
            if not self.frames:
                raise AudioError(f"{self.path} would hold no samples: write some before closing it.")
            if self._rest.shape[1]:
                self._file.write(self._rest)
            self._file.close()
            self._file = None
            if missing_bytes(self._part):
                raise AudioError(f"{self.path} could not be written whole: is the disk full?")
            os.replace(self._part, self.path)

    def abort(self) -> None:
        """Give up: remove what was written, touch no file of the final name."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(*_REPORTS):
                file.discard()
        self._part.unlink(missing_ok=True)

    def _encode(self, samples: np.ndarray) -> None:
        """Hand over pieces of one length, so that the file does not depend on the blocks."""
        length = self._file.length
        if self._rest.shape[1]:
            samples = np.concatenate([self._rest, samples], axis=1)
        full = samples.shape[1] - samples.shape[1] % length
        for begin in range(0, full, length):
            self._file.write(samples[:, begin : begin + length])
        self._rest = samples[:, full:].copy()

    def _integers(self, samples: np.ndarray, bits: int) -> np.ndarray:
        """Round to integers, saturate and count; 24 bits stand in the upper part of an int32."""
        top = 2.0 ** (bits - 1)
        # float64, because a float32 cannot hold the largest 32-bit integer
        rounded = np.rint(samples.astype(np.float64) * top)
        inside = np.clip(rounded, -top, top - 1)
        self.clipped += int(np.count_nonzero(inside != rounded))
        if bits == 16:
            return inside.astype(np.int16)
        return inside.astype(np.int32) << (32 - bits)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever goes wrong, leave no file; what the system and the codecs report becomes a sentence."""
        try:
            yield
        except BaseException as error:
            self.abort()
            if isinstance(error, AudioError) or not isinstance(error, _REPORTS):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AudioError(
                f"{self.path} cannot be written ({reason}): check that the folder exists and may be written to, "
                "and that the disk is not full."
            ) from error


def write(
    path: str | Path,
    waveform: Tensor,
    sample_rate: int,
    *,
    encoding: Encoding | None = None,
    tags: Mapping[str, str] | None = None,
    layout: str | None = None,
) -> Writer:
    """Write a waveform (c, t) as one file; the closed `Writer` tells `frames`, `peak` and `clipped`."""
    if waveform.ndim != 2:
        raise AudioError(f"A waveform to write is (channels, samples), not {tuple(waveform.shape)}.")
    with Writer(path, sample_rate, waveform.shape[0], encoding=encoding, tags=tags, layout=layout) as writer:
        for block in waveform.split(1 << 18, dim=1):
            writer.write(block)
    return writer


class _File(Protocol):
    """What encodes: pieces (c, length) of float32, int16 or int32 and a shorter last one in, a closed file out."""

    length: int

    def write(self, samples: np.ndarray) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


class _FFmpegFile:
    """An encoder and a muxer of FFmpeg."""

    def __init__(self, path: Path, writer: Writer, tags: Mapping[str, str]) -> None:
        encoding, rate = writer.encoding, writer.sample_rate
        container = encoding.container
        if container == "flac":
            codec, sample_format = "flac", _CODECS[encoding.subtype][1]
        else:
            codec, sample_format = _CODECS[encoding.subtype or container]
        # bitexact: no random serial numbers, no version of the encoder
        options = {"fflags": "+bitexact"}
        if container == "wav":
            options["rf64"] = "auto"
        if container == "m4a":
            options["movie_timescale"] = str(rate)  # the edit list, which holds the length, counts in it
        self.path, self.mp3 = path, container == "mp3"
        self.container = av.open(str(path.absolute()), "w", format=_MUXERS.get(container, container), options=options)
        try:
            self.container.metadata.update(tags)
            self.stream = self.container.add_stream(codec, rate=rate)
            self.context = self.stream.codec_context
            self.context.layout = writer.layout
            self.context.format = sample_format
            if bitrate := encoding.target_bitrate(rate, writer.channels):
                self.context.bit_rate = bitrate
            self.context.open()
        except BaseException:
            self.discard()
            raise
        # PyAV miscounts the planes of eight channels, so these are handed over interleaved and split by FFmpeg
        self.planar = sample_format == "fltp" and writer.channels < 8
        self.format = sample_format if self.planar else sample_format.removesuffix("p")
        self.rate, self.layout = rate, writer.layout
        self.length = self.context.frame_size or _PIECE
        self.done = 0

    def write(self, samples: np.ndarray) -> None:
        array = np.ascontiguousarray(samples if self.planar else samples.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(array, format=self.format, layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self.done, self.context.time_base
        self.done += samples.shape[1]
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()
        if self.mp3:
            finish_mp3(self.path, self.done)

    def discard(self) -> None:
        self.container.close()


class _VorbisFile:
    """libsndfile's Vorbis encoder, which FFmpeg's own equals neither in quality nor in channels."""

    def __init__(self, path: Path, writer: Writer, tags: Mapping[str, str]) -> None:
        self.path, self.length, self.frames = path, _PIECE, 0
        rate = writer.encoding.target_bitrate(writer.sample_rate, writer.channels)
        nominal = rate / 1000 * 2 / writer.channels * 44100 / writer.sample_rate
        quality = float(np.interp(nominal, _VORBIS_RATES, np.linspace(0, 1, len(_VORBIS_RATES))))
        self.order = VORBIS_ORDER.get(writer.channels)
        self.file = soundfile.SoundFile(
            str(path), "w", writer.sample_rate, writer.channels, "VORBIS", format="OGG", compression_level=1 - quality
        )
        tags = {"tracknumber" if key == "track" else key: value for key, value in tags.items()}
        for key in _VORBIS_TAGS:
            if key in tags:
                setattr(self.file, key, tags[key])

    def write(self, samples: np.ndarray) -> None:
        ordered = samples.T if self.order is None else samples.T[:, self.order]
        self.file.write(ordered)
        self.frames += len(ordered)

    def close(self) -> None:
        self.file.close()
        finish_ogg(self.path, self.frames)

    def discard(self) -> None:
        self.file.close()


def _encoding_of(path: Path, encoding: Encoding | None) -> Encoding:
    """What the suffix says, or the encoding given if the suffix does not contradict it."""
    suffix = path.suffix.lower().removeprefix(".")
    container = _SUFFIXES.get(suffix)
    if encoding is None:
        if container is None:
            raise AudioError(f"{path} has no known suffix: use one of .{', .'.join(_SUFFIXES)}, or give an encoding.")
        return Encoding(container)
    if container != encoding.container:
        raise AudioError(f"{path} is to be written as {encoding.container}: name it with .{encoding.extension}.")
    return encoding


def _layout_of(layout: str | None, channels: int, encoding: Encoding) -> str:
    """The layout to write, checked against the channels and the container."""
    usual = DEFAULT_LAYOUTS.get(channels, f"{channels} channels")
    unspecified = layout is not None and layout.endswith(" channels")
    if not layout or (unspecified and encoding.container != "wav"):
        return usual
    try:
        found = av.AudioLayout(layout).nb_channels
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"Unknown channel layout {layout!r}: use a name such as stereo, 5.1 or 7.1.") from error
    if found != channels:
        raise AudioError(f"The layout {layout} has {found} channels, not {channels}.")
    if encoding.container in ("ogg", "opus") and layout.replace("(side)", "") != usual:
        raise AudioError(f"{encoding.container} stores {channels} channels as {usual}, not {layout}: use wav or flac.")
    return usual if encoding.container in ("ogg", "opus") else layout
