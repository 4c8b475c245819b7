"""The work of the web demo, visitor by visitor: a song taken in, its stems, a remix of them; all gone when the visit ends.

What a browser gets to know of files are random tokens; it never names a path.
"""

from __future__ import annotations

import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mss.apps.balance import Balance
from mss.apps.jobs import Job
from mss.apps.page import Song, Sound, write_page
from mss.apps.remixing import remix_file
from mss.apps.separation import Report, separate_file
from mss.apps.stems import Stems
from mss.apps.web.catalogue import Catalogue, Refusal
from mss.apps.web.guard import Limits
from mss.audio import EXTENSIONS, AudioError, Encoding, Reader

__all__ = ["Kept", "Visit", "Visits", "is_audio"]

CHANNELS, RATE = 8, 192_000  # the most of a song; more is no music but a way to use up memory
IDLE = 3600.0  # seconds after which a visit that nobody ended is over
# What audio files begin with. FFmpeg would also take playlists, which make it open other files.
BEGINNINGS = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"BW64",
    b"riff",
    b"FORM",
    b"fLaC",
    b"OggS",
    b"caff",
    b".snd",
    b"\x1aE\xdf\xa3",
)
BEGINNINGS += (b"0&\xb2u", b"wvpk", b"MAC ", b"TTA1", b"\0\0\x01\xba", b"#!AMR", b"\x0bw")
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # of MP4, from the fifth byte on


@dataclass(frozen=True)
class Kept:
    """A file that a token stands for, and what it is called when it is saved."""

    path: Path
    name: str


@dataclass
class Visit:
    """One visitor's song and what was made of it."""

    folder: Path
    song: Path | None = None
    name: str = ""
    stems: dict[str, Path] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)  # what: token
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while there is work
    used: float = field(default_factory=time.monotonic)


class Visits:
    """All visits; what they keep is in folders of their own.

    Args:
        root: folder.
        catalogue: of models.
        limits: of songs.
    """

    def __init__(self, root: Path, catalogue: Catalogue, limits: Limits) -> None:
        self.root, self.catalogue, self.limits = root, catalogue, limits
        self.kept: dict[str, Kept] = {}
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def accept(self, key: str, upload: Path) -> str:
        """Takes in an uploaded song in place of the one before; returns a line on it.

        Raises:
            Refusal: it is no audio, or too much of it.
        """
        self.close(key)
        self._close_idle()
        name = upload.name
        if upload.stat().st_size > self.limits.bytes:
            raise Refusal(f"{name} is too large: at most {self.limits.megabytes:g} MB are taken.")
        if not is_audio(upload):
            raise Refusal(f"{name} is not an audio file of a kind that is taken here: send WAV, FLAC, MP3, Ogg or M4A.")
        visit = Visit(self.root / secrets.token_hex(16), name=name)
        visit.folder.mkdir()
        suffix = upload.suffix.lower()
        song = visit.folder / f"song{suffix if suffix in EXTENSIONS else ''}"
        shutil.copyfile(upload, song)
        try:
            with self._sentences(visit, song):
                seconds, told = self._measured(song, name)
        except Refusal:
            shutil.rmtree(visit.folder, ignore_errors=True)
            raise
        visit.song = song
        with self._lock:
            self._visits[key] = visit
        return f"{name}: {_clock(seconds)}, {told}"

    def separate(
        self, key: str, model: str, progress: Callable[[float, str], None] = lambda share, text: None
    ) -> tuple[Report, str, dict[str, str]]:
        """The stems of the visitor's song.

        Args:
            key: of the visit.
            model: of the catalogue.
            progress: told the share that is done, and of what.

        Returns:
            the report, the token of the page, and those of the stems by name.

        Raises:
            Refusal: there is no song or no such model, the work was given up, or it cannot be done.
        """
        with self._working(key) as visit, self._sentences(visit, visit.song):

            def going_on(share: float, text: str) -> None:
                if visit.stop.is_set():
                    raise KeyboardInterrupt
                progress(share, text)

            going_on(0.0, f"Loading {model}")
            separator = self.catalogue.load(model)
            going_on(0.0, "Separating")
            self._forget(visit)
            names = separator.targets
            job = Job(visit.song, visit.folder, {name: visit.folder / f"{n}.wav" for n, name in enumerate(names)})
            # 32-bit float, because a remix takes stems out of the song whole
            report = separate_file(
                separator,
                job,
                device=self.catalogue.device,
                encoding=Encoding("wav", "float32"),
                progress=lambda done, total: going_on(0.9 * done / max(total or 0, done, 1e-9), "Separating"),
                stop=visit.stop,
            )
            going_on(0.9, "Drawing the figures")
            sounds = [Sound("mixture", visit.song, part=False, muted=True, note="the song, as it was")]
            sounds += [Sound(name, path) for name, path in job.outputs.items()]
            page = visit.folder / "page.html"
            write_page(page, [Song(visit.name, sounds, f"Separated by {model}.")], title=f"{visit.name}: its stems")
            visit.stems = job.outputs
            track = Path(visit.name).stem
            tokens = {name: self._keep(visit, name, path, f"{track} {name}.wav") for name, path in job.outputs.items()}
            return report, self._keep(visit, "", page, f"{track}.html"), tokens

    def remix(self, key: str, settings: Sequence[tuple[float, bool, float]]) -> tuple[str, list[str]]:
        """The song at another balance.

        Args:
            settings: of each stem, in their order: gain in dB, whether it is mute, pan from -100 to 100.

        Returns:
            the token of the remix, and what the visitor should know.

        Raises:
            Refusal: there are no stems, or it cannot be done.
        """
        with self._working(key) as visit, self._sentences(visit, visit.song):
            if not visit.stems:
                raise Refusal("Separate the song first.")
            chosen = dict(zip(visit.stems, settings, strict=False))
            numbers = [float(x) for gain, _, pan in chosen.values() for x in (gain / 60, pan / 100)]
            if len(chosen) < len(visit.stems) or not all(abs(x) <= 1 for x in numbers):
                raise Refusal("A gain is at most 60 dB, and a pan goes from -100 to 100.")
            gains = {name: -math.inf if mute else float(gain) for name, (gain, mute, _) in chosen.items()}
            pans = {name: float(pan) for name, (_, _, pan) in chosen.items() if pan}
            path = visit.folder / f"remix{secrets.token_hex(4)}.wav"
            source = Stems(visit.name, visit.stems, visit.song)
            balance = Balance(gains, pans, frozenset())
            report = remix_file(
                Job(visit.song, visit.folder, {"remix": path}), source, balance=balance, stop=visit.stop
            )
            if (old := self.kept.pop(visit.tokens.get("remix/", ""), None)) is not None:
                old.path.unlink(missing_ok=True)
            token = self._keep(visit, "remix/", path, f"{Path(visit.name).stem} remix.wav")
            return token, [warning.partition("; --")[0] for warning in report.warnings]

    def give_up(self, key: str) -> None:
        """Stops the work of a visit."""
        if (visit := self._visits.get(key)) is not None:
            visit.stop.set()

    def close(self, key: str) -> None:
        """Ends a visit, and removes all it kept."""
        with self._lock:
            visit = self._visits.pop(key, None)
        if visit is not None:
            visit.stop.set()
            with visit.lock:
                self._forget(visit)
                shutil.rmtree(visit.folder, ignore_errors=True)

    def stop_all(self) -> None:
        """Stops all work, as the server ends."""
        for key in list(self._visits):
            self.give_up(key)

    def close_all(self) -> None:
        """Ends all visits."""
        for key in list(self._visits):
            self.close(key)

    def _close_idle(self) -> None:
        for key, visit in list(self._visits.items()):
            if time.monotonic() - visit.used > IDLE and not visit.lock.locked():
                self.close(key)

    @contextmanager
    def _working(self, key: str) -> Iterator[Visit]:
        visit = self._visits.get(key)
        if visit is None:
            raise Refusal("Drop a song first.")
        with visit.lock:
            visit.stop.clear()
            if self._visits.get(key) is not visit:  # asked after, so that a visit that ends now is stopped
                raise Refusal("Given up.")
            try:
                yield visit
            finally:
                visit.used = time.monotonic()

    @contextmanager
    def _sentences(self, visit: Visit, song: Path) -> Iterator[None]:
        """What fails because of a song, as a sentence with the visitor's name for it."""
        try:
            yield
        except KeyboardInterrupt as error:  # of separate_file, when `stop` is set
            raise Refusal("Given up.") from error
        except (AudioError, MemoryError, OSError, RuntimeError, ValueError) as error:
            text = str(error) or "there is not enough memory"
            for path in (song, song.resolve(), visit.folder):
                text = text.replace(str(path), visit.name)
            raise Refusal(text) from error

    def _measured(self, song: Path, name: str) -> tuple[float, str]:
        """Seconds, counted, for a header may say anything; and what else is to be said."""
        long = f"{name} is too long: at most {self.limits.minutes:g} minutes are taken."
        with Reader(song, duration=self.limits.seconds + 1) as reader:
            info = reader.info
            if info.channels > CHANNELS or info.sample_rate > RATE:
                raise Refusal(
                    f"{name} has {info.channels} channels at {info.sample_rate} Hz: at most {CHANNELS} at {RATE} Hz are taken."
                )
            if info.duration is not None and info.duration > self.limits.seconds:
                raise Refusal(long)
            samples = sum(block.shape[-1] for block in reader.blocks(1 << 18))
        if samples > self.limits.seconds * info.sample_rate:
            raise Refusal(long)
        channels = {1: "mono", 2: "stereo"}.get(info.channels, f"{info.channels} channels")
        return samples / info.sample_rate, f"{info.sample_rate / 1000:g} kHz, {channels}"

    def _keep(self, visit: Visit, what: str, path: Path, name: str) -> str:
        token = visit.tokens[what] = secrets.token_urlsafe(24)
        self.kept[token] = Kept(path, name)
        return token

    def _forget(self, visit: Visit) -> None:
        """Removes what was made of a song."""
        for token in visit.tokens.values():
            if (kept := self.kept.pop(token, None)) is not None:
                kept.path.unlink(missing_ok=True)
        visit.tokens, visit.stems = {}, {}


def is_audio(path: Path) -> bool:
    """Whether a file begins as audio files do; what FFmpeg makes of the rest is another matter."""
    with path.open("rb") as file:
        head = file.read(16)
        tagged = False
        while head[:3] == b"ID3" and len(head) >= 10:  # FFmpeg looks behind the tags for what a file is
            tagged = True
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            file.seek(file.tell() - len(head) + 10 + size + (10 if head[5] & 0x10 else 0))
            head = file.read(16)
    frame = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0  # of MP3 and AAC
    return frame or head.startswith(BEGINNINGS) or head[4:8] in BOXES or (tagged and head[:1] == b"\0")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    return f"{minutes}:{rest:02d}"
