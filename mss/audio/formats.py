"""What an audio file is: its description, how one is to be written, and the error that every refusal raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["DEFAULT_LAYOUTS", "EXTENSIONS", "VORBIS_ORDER", "AudioError", "AudioInfo", "Encoding"]

# fmt: off
EXTENSIONS: frozenset[str] = frozenset(
    {
        ".wav", ".wave", ".rf64", ".bwf", ".w64", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd", ".flac",
        ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".m4a", ".m4b", ".aac", ".alac", ".ac3", ".eac3", ".wma",
        ".wv", ".ape", ".tta", ".mka", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg",
        ".ts", ".wmv", ".flv",
    }
)
# fmt: on

# The layout that FLAC, Vorbis and Opus fix for each number of channels, in FFmpeg's names.
DEFAULT_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
# The channels of those layouts in the order of the Vorbis specification: centre second, low frequencies last.
VORBIS_ORDER = {3: [0, 2, 1], 5: [0, 2, 1, 3, 4], 6: [0, 2, 1, 4, 5, 3], 7: [0, 2, 1, 5, 6, 4, 3]}
VORBIS_ORDER[8] = [0, 2, 1, 6, 7, 4, 5, 3]

_SUBTYPES = {"wav": ("float32", "int16", "int24", "int32"), "flac": ("int24", "int16")}  # the default comes first
_LOSSY = ("mp3", "ogg", "opus", "m4a")
_CONTAINERS = (*_SUBTYPES, *_LOSSY)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# FFmpeg permutes 5 and 7 channels of Opus and labels them wrongly, so these two are refused.
_CHANNELS = {"mp3": (1, 2), "opus": (1, 2, 3, 4, 6, 8)}
_UP_TO_EIGHT = tuple(range(1, 9))


class AudioError(ValueError):
    """A file that cannot be read or written as asked; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class AudioInfo:
    """One audio stream of a file, as its header describes it.

    `frames` is what the container promises, in samples per channel: `None` where it promises nothing. It is exact for
    PCM, FLAC, Ogg, MP3 with a LAME header and what `Writer` writes; an MP4 of other software may round it by a few
    milliseconds, and the reader then returns what the packets hold.
    """

    path: Path
    sample_rate: int  # Hz
    channels: int
    frames: int | None
    container: str
    subtype: str | None
    streams: int = 1
    tags: dict[str, str] = field(default_factory=dict)
    layout: str = ""

    @property
    def duration(self) -> float | None:
        """Seconds, or `None` when the container does not promise a length."""
        return None if self.frames is None else self.frames / self.sample_rate


@dataclass(frozen=True)
class Encoding:
    """How a waveform is stored.

    Args:
        container: "wav", "flac", "mp3", "ogg" (Vorbis), "opus" or "m4a" (AAC).
        subtype: the samples of wav (float32, int16, int24, int32) and flac (int24, int16); the first is the default.
        bitrate: bit/s of a lossy codec; without it, 160 kbit/s per channel or what the codec allows at that rate.
            For Vorbis it is the nominal rate of a variable one.
    """

    container: str = "wav"
    subtype: str | None = None
    bitrate: int | None = None

    def __post_init__(self) -> None:
        if self.container not in _CONTAINERS:
            raise AudioError(f"Unknown container {self.container!r}: choose one of {', '.join(_CONTAINERS)}.")
        if self.container in _LOSSY:
            if self.subtype is not None:
                raise AudioError(f"{self.container} is lossy and has no sample format {self.subtype!r}: leave it out.")
            if self.bitrate is not None and self.bitrate <= 0:
                raise AudioError(f"A bit rate is a positive number of bit/s, not {self.bitrate}.")
            return
        if self.bitrate is not None:
            raise AudioError(f"{self.container} is lossless and takes no bit rate: leave it out.")
        known = _SUBTYPES[self.container]
        if self.subtype is None:
            object.__setattr__(self, "subtype", known[0])
        elif self.subtype not in known:
            hint = "FLAC has no float: use int24" if self.container == "flac" else f"use one of {', '.join(known)}"
            raise AudioError(f"{self.container} cannot hold {self.subtype!r} samples; {hint}.")

    @property
    def extension(self) -> str:
        """The file name's suffix, without the dot."""
        return self.container

    def check(self, sample_rate: int, channels: int) -> None:
        """Raise `AudioError` if this container cannot hold the sample rate (Hz), the channels or the bit rate."""
        if sample_rate != int(sample_rate) or sample_rate <= 0 or channels != int(channels) or channels <= 0:
            raise AudioError(
                f"Sample rate and channels are positive integers, not {sample_rate!r} Hz and {channels!r}."
            )
        self._check_rate(sample_rate)
        allowed = _CHANNELS.get(self.container, _UP_TO_EIGHT)
        if self.container == "wav":
            if channels > 1024:
                raise AudioError(f"wav is written with at most 1024 channels, not {channels}.")
        elif channels not in allowed:
            count = ", ".join(map(str, allowed))
            raise AudioError(f"{self.container} holds {count} channels, not {channels}; use wav for any number.")
        low, high = self._bitrates(sample_rate, channels)
        if self.bitrate is not None and not low <= self.bitrate <= high:
            raise AudioError(
                f"{self.container} at {sample_rate} Hz with {channels} channels takes {low} to {high} bit/s, "
                f"not {self.bitrate}."
            )

    def _check_rate(self, sample_rate: int) -> None:
        rates = {"mp3": _MP3_RATES, "m4a": _AAC_RATES, "opus": (48000,)}.get(self.container)
        if rates is not None and sample_rate not in rates:
            raise AudioError(
                f"{self.container} cannot hold {sample_rate} Hz, only {', '.join(map(str, rates))} Hz: "
                "resample first or choose wav or flac."
            )
        low, high = {"ogg": (8000, 192000), "flac": (1, 655350)}.get(self.container, (1, 2**31 - 1))
        if not low <= sample_rate <= high:
            raise AudioError(
                f"{self.container} holds {low} to {high} Hz, not {sample_rate}: resample first or use wav."
            )

    def _bitrates(self, sample_rate: int, channels: int) -> tuple[int, int]:
        """Lowest and highest bit/s."""
        if self.container == "mp3":  # MPEG-1, 2 and 2.5 have a table each
            if sample_rate >= 32000:
                return 32_000, 320_000
            return 8_000, 160_000 if sample_rate >= 16000 else 64_000
        if self.container == "m4a":  # a frame of 1024 samples holds 6144 bits per channel
            return 8_000, 6 * sample_rate * channels
        if self.container == "opus":
            return 6_000, 256_000 * channels
        return 8_000, 250_000 * channels

    def target_bitrate(self, sample_rate: int, channels: int) -> int | None:
        """The bit/s to encode with; `None` for a lossless container."""
        if self.container not in _LOSSY:
            return None
        return self.bitrate or min(160_000 * channels, self._bitrates(sample_rate, channels)[1])

    @classmethod
    def like(cls, info: AudioInfo) -> Encoding:
        """WAV with the bit depth of the file; float32 after a lossy codec, whose decoder may exceed full scale."""
        depths = {"uint8": "int16", "int8": "int16", "float64": "float32", None: "float32"}
        return cls("wav", depths.get(info.subtype, info.subtype))
