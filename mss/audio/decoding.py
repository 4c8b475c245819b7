"""From packets to float32 samples: what FFmpeg's decoders give, cut to the length that the container promises.

FFmpeg drops an encoder's delay by itself. It keeps padding where the container writes the length elsewhere: in
the last packet's duration (MP4), in the last granule position (Ogg), in the LAME header of a very short MP3.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .formats import AudioError
from .integrity import xing_header

__all__ = ["decode", "open_container"]

_FULL_SCALE = {"u8": 2**7, "s16": 2**15, "s32": 2**31, "s64": 2**63}
_LONGEST_PADDING = 8192  # samples: the longest Vorbis block; no codec pads its last packet with more
_EDIT_ROUNDING = Fraction(1, 500)  # seconds; edit lists are rounded to milliseconds or less, paddings are longer


# Demuxers of formats.EXTENSIONS. Not playlists, in whatever disguise: they would have other files of this machine read.
_DEMUXERS = "aac,ac3,aiff,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,mpegvideo,ogg,tta,w64,wav,wv"
_ONLY = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}


def open_container(path: Path) -> av.container.InputContainer:
    """Open a media file."""
    with path.open("rb") as file:
        head = file.read(3)
    # FFmpeg takes some MP3 files of a few frames for video
    kind = "mp3" if (head == b"ID3" or head[:1] == b"\xff") and xing_header(path) else None
    try:
        return av.open(str(path.resolve()), format=kind, options=_ONLY)
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(
            f"{path} is not a readable audio file ({reason}): it is damaged, cut short or of another kind; "
            "check that it plays, or convert it to WAV."
        ) from error


def decode(
    container: av.container.InputContainer, path: Path, streams: list[av.AudioStream], length: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode streams in one pass.

    Args:
        container: what `open_container` gave; it is read to its end.
        path: for messages.
        streams: of `container`.
        length: samples after which there is only padding; for MP4 it is found on the way.

    Yields:
        the position in `streams` and float32 samples (c, t).
    """
    outputs = {stream.index: _Output(path, stream, length) for stream in streams}
    position = {stream.index: n for n, stream in enumerate(streams)}
    broken: tuple[av.Packet, Exception] | None = None
    for packet in _packets(container, path, streams):
        output = outputs[packet.stream.index]
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            broken = broken or (packet, error)
            continue
        if frames and broken:
            raise _damaged(path, *broken)
        output.mark(packet)
        for frame in frames:
            yield from ((position[packet.stream.index], samples) for samples in output.take(frame))
    if broken and not _is_tag(*broken):
        raise _damaged(path, *broken)
    for index, output in outputs.items():
        yield from ((position[index], samples) for samples in output.finish())


def _packets(container, path: Path, streams) -> Iterator[av.Packet]:
    try:
        yield from container.demux(streams)
    except av.FFmpegError as error:
        raise AudioError(
            f"{path} cannot be read to its end ({error.strerror}): the file is damaged or cut short; get a whole copy."
        ) from error


def _damaged(path: Path, packet: av.Packet, error: av.FFmpegError) -> AudioError:
    when = "" if packet.pts is None else f" near {float(packet.pts * packet.time_base):.3f} s"
    return AudioError(f"{path} is damaged{when} ({error.strerror}): it cannot be decoded; get an intact copy.")


def _is_tag(packet: av.Packet, _: Exception) -> bool:
    """Whether the packet is what tag editors and downloads leave behind the last MP3 frame, rather than a frame."""
    return packet.stream.codec_context.name.startswith("mp3") and bytes(packet)[:1] != b"\xff"


class _Output:
    """One stream's samples, held back beyond the length that is known so far."""

    def __init__(self, path: Path, stream: av.AudioStream, length: int | None) -> None:
        self.path = path
        self.rate, self.channels = stream.rate, stream.channels
        self.follows_packets = stream.container.format.name.startswith("mov")
        self.origin: int | None = None  # of the first frame, in time_base
        self.time_base = stream.time_base
        self.promised = stream.duration  # in time_base
        self.limit = length
        self.given = 0  # samples
        self.held: list[np.ndarray] = []
        self.unpack = av.AudioResampler(format="flt")
        self.end: int | None = None

    def mark(self, packet: av.Packet) -> None:
        """Learn from a packet how far the stream reaches."""
        if self.follows_packets and packet.pts is not None and packet.duration:
            end = packet.pts + packet.duration
            self.end = end if self.end is None else max(self.end, end)

    def take(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        if frame.sample_rate != self.rate or frame.layout.nb_channels != self.channels:
            raise AudioError(
                f"{self.path} changes from {self.rate} Hz and {self.channels} channels to {frame.sample_rate} Hz and "
                f"{frame.layout.nb_channels} on its way: convert it to WAV with one format first."
            )
        if self.origin is None:
            self.origin = frame.pts or 0
        self.held.append(self._samples(frame))
        yield from self._give()

    def finish(self) -> Iterator[np.ndarray]:
        """Drop the padding, or give it if it is too long to be one."""
        if sum(block.shape[1] for block in self.held) > _LONGEST_PADDING:
            yield from self.held

    def _give(self) -> Iterator[np.ndarray]:
        if self.end is not None:
            ticks = self.end - self.origin
            if self.promised and (ticks - self.promised) * self.time_base > _EDIT_ROUNDING:
                ticks = self.promised
            self.limit = max(0, round(ticks * self.time_base * self.rate))
        while self.held:
            block = self.held[0]
            room = block.shape[1] if self.limit is None else min(block.shape[1], self.limit - self.given)
            if room <= 0:
                return
            self.given += room
            yield block[:, :room]
            self.held[0] = block[:, room:]
            if not self.held[0].shape[1]:
                self.held.pop(0)

    def _samples(self, frame: av.AudioFrame) -> np.ndarray:
        if frame.format.is_planar and self.channels >= 8:
            # PyAV looks for a ninth plane behind eight, and crashes: make it one plane of interleaved samples
            (frame,) = self.unpack.resample(frame)
        array = frame.to_ndarray()
        if not frame.format.is_planar:
            array = array.reshape(-1, self.channels).T
        kind = frame.format.name.removesuffix("p")
        if kind == "u8":
            array = array.astype(np.float32) - 128
        if kind in _FULL_SCALE:
            # a float32 holds 24 bits, so only 32-bit samples are rounded, once
            return array.astype(np.float32) / np.float32(_FULL_SCALE[kind])
        return array.astype(np.float32)
