"""Audio files to waveforms (c, t) and back."""

from .formats import EXTENSIONS, AudioError, AudioInfo, Encoding
from .reader import Reader, info, read, read_stems
from .resample import resample, resample_blocks
from .writer import Writer, write

__all__ = [
    "EXTENSIONS",
    "AudioError",
    "AudioInfo",
    "Encoding",
    "Reader",
    "Writer",
    "info",
    "read",
    "read_stems",
    "resample",
    "resample_blocks",
    "write",
]
