"""What encoders leave undone: an Ogg file that is the same each time, an MP3 header with the right length."""

from __future__ import annotations

from pathlib import Path

from .formats import AudioError
from .integrity import ogg_checksum, xing_header

__all__ = ["finish_mp3", "finish_ogg"]

_SERIAL = b"\x01\x00\x00\x00"


def finish_ogg(path: Path, frames: int) -> None:
    """Number the stream 1 instead of at random, and check that the last page closes it after `frames` samples."""
    with path.open("r+b") as file:
        closed = False
        granule = 0
        while len(head := file.read(27)) == 27 and head[:4] == b"OggS":
            table = file.read(head[26])
            body = file.read(sum(table))
            blank = head[:14] + _SERIAL + head[18:22] + bytes(4) + head[26:]
            checksum = ogg_checksum(blank + table + body)
            file.seek(-27 - len(table) - len(body), 1)
            file.write(blank[:22] + checksum.to_bytes(4, "little") + blank[26:])
            file.seek(len(table) + len(body), 1)
            closed, granule = bool(head[5] & 4), int.from_bytes(head[6:14], "little")
    if not closed or granule != frames:
        raise AudioError(f"{path} could not be written whole: is the disk full?")


def finish_mp3(path: Path, frames: int) -> None:
    """Correct the padding in the LAME header: FFmpeg counts only one MPEG frame of it, too little below 47 samples."""
    header = xing_header(path)
    if header is None or header.extension is None or header.samples == frames:
        return
    with path.open("r+b") as file:
        file.seek(header.frame)
        data = bytearray(file.read(header.extension + 36 - header.frame))
        delays = len(data) - 36 + 21
        value = int.from_bytes(data[delays : delays + 3], "big")
        padding = (value & 0xFFF) + header.samples - frames
        if not 0 <= padding <= 0xFFF:
            raise AudioError(f"{path} has {header.samples} samples instead of {frames}: the MP3 encoder failed.")
        data[delays : delays + 3] = (value & 0xFFF000 | padding).to_bytes(3, "big")
        data[-2:] = _lame_checksum(bytes(data[:-2])).to_bytes(2, "big")
        file.seek(header.frame)
        file.write(data)


def _lame_checksum(data: bytes) -> int:
    """CRC-16 (polynomial 0x8005, mirrored) of the header's first 190 bytes."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value
