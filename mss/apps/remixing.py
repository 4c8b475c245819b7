"""A song and its stems in, the song at another balance out, in bounded memory.

With x the song, y_j its stems, g_j their factors and g_r that of the rest x - sum_j y_j, the remix is
g_r x + sum_j (g_j - g_r) y_j: the song itself where all factors are 1, and where one stem is changed, the errors of
that stem alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mss.apps.balance import REST, Balance, weights
from mss.apps.jobs import Job
from mss.apps.separation import Report, full_scale
from mss.apps.staging import publish, staging
from mss.apps.stems import Separated, Stems, together
from mss.audio import AudioError, AudioInfo, Encoding, Reader, Writer
from mss.audio.loudness import Loudness, TruePeak

if TYPE_CHECKING:
    from mss.apps.page import Page

__all__ = ["Remix", "remix_file"]


@dataclass
class Remix(Report):
    """What became of one song: also where the stems are from, and loudness (LUFS) and true peak (linear), if measured."""

    stems: str = ""
    loudness: float | None = None
    true_peak: float | None = None

    def told(self) -> str:
        notes = [f"{self.speed:.1f}x real time", self.stems]
        if self.loudness is not None:
            notes.append(f"{self.loudness:.1f} LUFS")
        if self.true_peak is not None:
            notes.append(f"{_decibel(self.true_peak):.1f} dBTP")
        return f"{', '.join(map(str, self.outputs.values()))} ({', '.join(filter(None, notes))}){self.page_told()}"

    def facts(self) -> dict[str, Any]:
        peak = None if not self.true_peak else round(_decibel(self.true_peak), 2)
        loud = None if self.loudness is None or math.isinf(self.loudness) else round(self.loudness, 2)
        return {**super().facts(), "stems": self.stems or None, "lufs": loud, "dbtp": peak}


@torch.inference_mode()
def remix_file(
    job: Job,
    source: Stems | Separated,
    *,
    balance: Balance,
    encoding: Encoding | None = None,
    clip_mode: Literal["none", "rescale", "clamp"] = "rescale",
    true_peak: float = -1.0,
    lufs: float | Literal["song"] | None = None,
    page: Callable[[Path, Path | None, Mapping[str, Path]], Page] | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> Remix:
    """Writes a song at another balance: whole, or not at all. Balanced as it was, it is passed on.

    Args:
        job: with one output.
        source: of the stems.
        encoding: None: WAV with the bit depth of the song.
        clip_mode: "rescale" lowers a remix that would peak above `true_peak`, and says so; "clamp" cuts it off at full
            scale; "none" leaves it.
        true_peak: dB of full scale.
        lufs: integrated loudness to bring the remix to; "song": that of the song.
        page: makes a page of (remix, song, stems), while stems that are not kept are still there.
        say: told what the user should know before the work begins.
        progress, stop: as of `separate_file`.

    Raises:
        AudioError: a file cannot be read, stems do not fit together, or the output cannot be written.
        UsageError: a stem that is not there.
    """
    begin = time.perf_counter()
    (output,) = job.outputs.values()
    if output.is_dir():
        raise AudioError(f"{output} is a folder, where the remix should go: move it, or choose another --out.")
    factors = weights(balance, source.names, rest=source.song is not None, where=source.where)
    with ExitStack() as stack:
        with Reader(source.song or next(iter(source.get(job.root)[0].values()))) as reader:
            info = reader.info
        if info.channels != 2 and balance.pans:
            name = next(iter(balance.pans))
            raise AudioError(
                f"{job.source}: pan.{name} needs two channels, and there are {info.channels}; leave it out."
            )
        report = Remix(job.source, job.outputs, encoding or Encoding.like(info))
        report.encoding.check(info.sample_rate, info.channels)
        folder = stack.enter_context(staging(job.root))
        stems: dict[str, Path] = {}
        if source.song is None or any(factor != factors[REST] for factor in factors.values()):
            stems, report.stems = source.get(folder, say=say, progress=progress, stop=stop)
        desk = _Desk(source.song, stems, factors, info)
        measures = lufs is not None or (clip_mode == "rescale" and not desk.unchanged)

        def watched() -> Iterator[Tensor]:
            for mixed in desk.blocks(meter if lufs == "song" else None):
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt
                report.seconds += mixed.shape[-1] / info.sample_rate
                yield mixed

        meter = Loudness(info.sample_rate, info.channels, info.layout) if lufs is not None else None
        blocks = watched()
        if measures:
            rough, loudness, peak = _measured(blocks, folder / "rough.wav", info, lufs is not None)
            target = meter.integrated if lufs == "song" else lufs
            limit = min(10 ** (true_peak / 20), full_scale(report.encoding)) if clip_mode == "rescale" else math.inf
            _set_gain(report, target, loudness, peak, limit)
            blocks = (block * report.gain for block in together([rough]))
            blocks = (block[0] for block in blocks)
        with Writer(
            folder / f"whole.{report.encoding.extension}",
            info.sample_rate,
            info.channels,
            encoding=report.encoding,
            tags=info.tags,
            layout=info.layout,
        ) as writer:
            for block in blocks:
                writer.write(block.clamp(-1, full_scale(report.encoding)) if clip_mode == "clamp" else block)
        if writer.clipped:
            report.warnings.append(
                f"{writer.clipped} samples exceed full scale (peak {writer.peak:.2f}) and were cut off by the integer "
                "format; use --float32, or --clip-mode rescale"
            )
        if page is not None:
            report.page = page(writer.path, source.song, stems)
        publish([writer.path], [output])
    report.elapsed = time.perf_counter() - begin
    return report


class _Desk:
    """Mixes files of one length, sample by sample."""

    def __init__(
        self,
        song: Path | None,
        stems: Mapping[str, Path],
        factors: Mapping[str, tuple[float, float]],
        info: AudioInfo,
    ) -> None:
        self.unchanged = set(factors.values()) == {(1.0, 1.0)}
        base = (0.0, 0.0) if song is None else factors[REST]
        rows = [] if song is None else [base]
        self._paths = [] if song is None else [song]
        for name, path in stems.items():
            row = tuple(factor - common for factor, common in zip(factors[name], base, strict=True))
            if song is None or any(row):
                rows.append(row)
                self._paths.append(path)
        left_right = torch.tensor(rows)
        # without a pan both are the same, and what there are of channels have it
        self._factors = (left_right if info.channels == 2 else left_right[:, :1].expand(-1, info.channels))[..., None]
        self._song = slice(0, 1) if song is not None else slice(None)

    def blocks(self, meter: Loudness | None) -> Iterator[Tensor]:
        """The remix (c, t); the song, unchanged, goes to the meter."""
        for block in together(self._paths):
            if meter is not None:
                meter.add(block[self._song].sum(0))
            yield (self._factors * block).sum(0)


def _measured(
    blocks: Iterator[Tensor], path: Path, info: AudioInfo, loudness: bool
) -> tuple[Path, float | None, float]:
    """Writes blocks as they are; returns the file, its loudness (LUFS) if wanted, and its true peak (linear)."""
    peak = TruePeak(info.channels)
    meter = Loudness(info.sample_rate, info.channels, info.layout) if loudness else None
    encoding = Encoding("wav", "float32")
    with Writer(path, info.sample_rate, info.channels, encoding=encoding, layout=info.layout) as writer:
        for block in blocks:
            peak.add(block)
            if meter is not None:
                meter.add(block)
            writer.write(block)
    return path, None if meter is None else meter.integrated, peak.peak


def _set_gain(report: Remix, target: float | None, loudness: float | None, peak: float, limit: float) -> None:
    """One gain for all samples: to the target, but not above the limit of the true peak."""
    if target is not None and (math.isinf(loudness) or math.isinf(target)):
        report.warnings.append("silent, or shorter than 0.4 s, so that it has no loudness: left as it is")
    elif target is not None:
        report.gain = 10 ** ((target - loudness) / 20)
    if peak * report.gain > limit:
        wanted, report.gain = report.gain, limit / peak
        over = f"it would peak at {_decibel(peak * wanted):+.1f} dBTP (limit {_decibel(limit):.1f})"
        short = "" if target is None else f" and stays below the {target:.1f} LUFS asked for"
        lowered = f"lowered by {_decibel(wanted / report.gain):.1f} dB{short}, for {over}; --clip-mode none leaves it"
        report.warnings.append(lowered)
    report.true_peak = peak * report.gain
    report.loudness = None if loudness is None else loudness + _decibel(report.gain)


def _decibel(factor: float) -> float:
    return 20 * math.log10(factor) if factor > 0 else -math.inf
