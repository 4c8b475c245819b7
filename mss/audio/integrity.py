"""What a file's own structure promises: bytes that must be there, frames that must come out.

Decoders stop quietly at the end of a file, so a truncated one is found by comparing with these promises. Streaming
writers that could not seek back leave placeholders (0, all ones, -1), which promise nothing.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["XingHeader", "broken_page", "missing_bytes", "ogg_checksum", "xing_header"]

_PLACEHOLDERS = (0, 0xFFFFFFFF, 0x7FFFF000)  # the last is what SoX writes into a pipe
_BOXES = (b"ftyp", b"mdat", b"moov", b"moof", b"free", b"skip", b"wide", b"uuid", b"styp", b"sidx", b"mfra")
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page


def missing_bytes(path: Path) -> int:
    """How many bytes the container says should follow the end of the file; 0 if none, or if it does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        end = 0
        if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX", b"FORM"):
            end = _riff_end(file, ">" if head[:4] in (b"RIFX", b"FORM") else "<")
        elif head[:4] == b"riff":
            end = _w64_end(file)
        elif head[:4] == b"caff":
            end = _caf_end(file)
        elif head[4:8] in _BOXES:
            end = _mp4_end(file, size)
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            end = _matroska_end(file)
        elif head[:4] == b"OggS":
            end = _ogg_end(file, size)
    return max(0, end - size)


def _riff_end(file: BinaryIO, order: str) -> int:
    position, long_size = 12, None
    while True:
        file.seek(position)
        head = file.read(32)
        if len(head) < 8:
            return 0
        name, size = head[:4], struct.unpack_from(order + "I", head, 4)[0]
        if name == b"ds64" and len(head) >= 24:
            long_size = struct.unpack_from("<Q", head, 16)[0]
        if name in (b"data", b"SSND"):
            if size == 0xFFFFFFFF and long_size is not None:
                return position + 8 + long_size
            return 0 if size in _PLACEHOLDERS else position + 8 + size
        position += 8 + size + size % 2


def _w64_end(file: BinaryIO) -> int:
    position = 40
    while True:
        file.seek(position)
        head = file.read(24)
        if len(head) < 24:
            return 0
        size = struct.unpack_from("<Q", head, 16)[0]
        if head[:4] == b"data":
            return position + size if 24 < size < 2**62 else 0
        position += max(24, (size + 7) // 8 * 8)


def _caf_end(file: BinaryIO) -> int:
    position = 8
    while True:
        file.seek(position)
        head = file.read(12)
        if len(head) < 12:
            return 0
        size = struct.unpack_from(">q", head, 4)[0]
        if head[:4] == b"data" or size < 0:
            return position + 12 + size if size > 0 else 0
        position += 12 + size


def _mp4_end(file: BinaryIO, file_size: int) -> int:
    position = 0
    while position + 8 <= file_size:
        file.seek(position)
        head = file.read(16)
        size, name = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
        if name not in _BOXES or size < 8:  # size 0 reaches to the end; what is no box is no promise
            return 0
        position += size
    return position


def _matroska_end(file: BinaryIO) -> int:
    position = 0
    for _ in range(2):  # the EBML header, then the segment
        file.seek(position)
        head = file.read(12)
        if len(head) < 12 or not head[4]:
            return 0
        width = 9 - head[4].bit_length()
        size = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if size == (1 << 7 * width) - 1:
            return 0
        position += 4 + width + size
    return position


def _ogg_end(file: BinaryIO, file_size: int) -> int:
    offset = max(0, file_size - 2 * _LARGEST_PAGE)
    file.seek(offset)
    tail = file.read()
    position = tail.find(b"OggS")
    while position >= 0:
        if len(tail) < position + 27 or len(tail) < position + 27 + tail[position + 26]:
            return file_size + 1  # the page is cut within its header
        table = tail[position + 27 : position + 27 + tail[position + 26]]
        end = position + 27 + len(table) + sum(table)
        if end > len(tail):
            return offset + end
        position = tail.find(b"OggS", end)
    return 0


def broken_page(path: Path) -> int | None:
    """The byte where an Ogg file's pages first fail their checksums or numbering; `None` if all are well.

    The decoders skip such a page and fill or close the gap, so nobody else would notice. The file is read once, at
    several hundred MB/s.
    """
    following: dict[bytes, int] = {}  # of each stream, the number of its next page
    with path.open("rb") as file:
        while len(head := file.read(27)) == 27:
            at = file.tell() - 27
            if head[:4] != b"OggS":
                rest = head + file.read(_LARGEST_PAGE)
                return at if b"OggS" in rest else None  # else what follows the last page is no audio
            table = file.read(head[26])
            body = file.read(sum(table))
            serial, number = head[14:18], int.from_bytes(head[18:22], "little")
            if following.get(serial, number) != number:
                return at
            following[serial] = (number + 1) % 2**32
            if ogg_checksum(head[:22] + bytes(4) + head[26:] + table + body) != int.from_bytes(head[22:26], "little"):
                return at
    return None


def ogg_checksum(page: bytes) -> int:
    """Ogg's CRC-32 from zlib's: the same polynomial with the bits mirrored, and no inversion before and after."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


@dataclass(frozen=True)
class XingHeader:
    """The first frame of most MP3 files: how many frames follow, and how much of them is the encoder's own.

    `frame` and `extension` are the byte positions of that frame and of its LAME part (`None` without one).
    """

    frames: int  # MPEG frames
    frame_length: int  # samples per MPEG frame
    padding: int  # samples that the encoder added, before and after
    frame: int
    extension: int | None

    @property
    def samples(self) -> int:
        return max(0, self.frames * self.frame_length - self.padding)


def xing_header(path: Path) -> XingHeader | None:
    """The Xing, Info or VBRI header of an MP3 file, or `None`."""
    with path.open("rb") as file:
        start, head = 0, file.read(10)
        while head[:3] == b"ID3" and len(head) == 10:
            size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
            start += 10 + size + (10 if head[5] & 16 else 0)
            file.seek(start)
            head = file.read(10)
        file.seek(start)
        data = file.read(1 << 16)
    for at in range(len(data) - 200):  # padding may stand between the tag and the first frame
        if data[at] == 255 and data[at + 1] & 0xE6 == 0xE2 and data[at + 1] & 0x18 != 0x08:  # a layer III header
            return _parse_xing(data, at, start)
    return None


def _parse_xing(data: bytes, at: int, start: int) -> XingHeader | None:
    mpeg1, mono = data[at + 1] & 0x18 == 0x18, data[at + 3] >> 6 == 3
    length = 1152 if mpeg1 else 576
    if data[at + 36 : at + 40] == b"VBRI":
        return XingHeader(int.from_bytes(data[at + 50 : at + 54], "big"), length, 0, start + at, None)
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)  # bytes of side information
    mark = at + 4 + side
    flags = int.from_bytes(data[mark + 4 : mark + 8], "big")
    if data[mark : mark + 4] not in (b"Xing", b"Info") or not flags & 1:
        return None
    frames = int.from_bytes(data[mark + 8 : mark + 12], "big")
    extension = mark + 12 + (4 if flags & 2 else 0) + (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    if data[extension : extension + 4] not in (b"LAME", b"Lavf", b"Lavc"):  # whose delays FFmpeg believes
        return XingHeader(frames, length, 0, start + at, None)
    delays = int.from_bytes(data[extension + 21 : extension + 24], "big")
    return XingHeader(frames, length, (delays >> 12) + (delays & 0xFFF), start + at, start + extension)
