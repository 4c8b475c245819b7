"""One file in, its stems out: read, separate and write at the same time, in bounded memory."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mss.adapters import Resampled, Select
from mss.apps.jobs import Job
from mss.apps.staging import publish, remove_stale, staging
from mss.audio import AudioError, AudioInfo, Encoding, Reader, Writer
from mss.classical import instruments, read_score, score_informed
from mss.cli import UsageError, background, let_go_of_code
from mss.combined import Cascade
from mss.filters import as_is, softmask, wiener
from mss.separator import Separator, SpectralSeparator
from mss.spec import options_of
from mss.wrappers import Chunked, Shifted, WithResidual, stream

if TYPE_CHECKING:
    from mss.apps.page import Page

__all__ = ["Recipe", "Report", "compose", "remove_stale", "separate_file"]

BLOCK_SECONDS = 12.0  # read, and handed on, at a time
REST = 10  # spectra of what a score does not name


@dataclass(frozen=True)
class Recipe:
    """How a separator is used; None: as it comes.

    Args:
        targets: stems to keep, in this order.
        niter: iterations of the multichannel Wiener filter in place of the separator's own filter.
        segment, overlap: seconds; separate in overlapping segments.
        shifts: average over this many delays of the input.
    """

    targets: tuple[str, ...] | None = None
    niter: int | None = None
    segment: float | None = None
    overlap: float | None = None
    shifts: int | None = None


@dataclass
class Report:
    """What became of one file: seconds of audio and of work, the gain of all stems, what the user should know."""

    source: Path
    outputs: dict[str, Path] = field(default_factory=dict)
    encoding: Encoding | None = None
    seconds: float = 0.0
    elapsed: float = 0.0
    gain: float = 1.0
    warnings: list[str] = field(default_factory=list)
    page: Page | None = None

    @property
    def speed(self) -> float:
        """As a multiple of real time."""
        return self.seconds / self.elapsed

    def told(self) -> str:
        """A line for the user."""
        gain = f", all stems times {self.gain:.3f}" if self.gain != 1 else ""
        folder = os.path.commonpath([path.parent for path in self.outputs.values()])
        done = f"{self.speed:.1f}x real time{gain}" if self.seconds else "already there"
        return f"{', '.join(self.outputs)} in {folder} ({done}){self.page_told()}"

    def page_told(self) -> str:
        """What ends the line where there is a page."""
        return f"; {self.page}" if self.page else ""

    def facts(self) -> dict[str, Any]:
        """What a script may want to know, for JSON."""
        return {
            "outputs": {stem: str(path) for stem, path in self.outputs.items()},
            "seconds": round(self.seconds, 3),
            "elapsed": round(self.elapsed, 3),
            "real_time_factor": round(self.speed, 2),
            "gain": self.gain,
            "warnings": self.warnings,
            **({"page": str(self.page.path)} if self.page else {}),
        }


def by_score(path: Path) -> Separator:
    """A separator of the instruments of a MIDI file, warped to each recording, and of the rest.

    Raises:
        ImportError, OSError, ValueError: the file cannot be read, or has no notes.
    """
    notes = read_score(path)
    if not notes:
        raise ValueError(f"{path} has no notes that have a pitch: nothing says what to separate")
    names: list[str] = []
    for name in (*instruments(notes), "rest"):  # stems are files: no folder in a name, and no name twice
        name = name.replace("/", " ")
        names.append(f"{name} {len(names) + 1}" if name in names else name)
    return SpectralSeparator(partial(score_informed, notes=notes, aligned=False, rest=REST), names)


def compose(separator: Separator, recipe: Recipe) -> Separator:
    """The separator with a recipe's filter and wrappers.

    Raises:
        UsageError: a target that it has not, or an option that does not go with it.
    """
    if recipe.niter:
        _use_wiener(separator, recipe.niter)
    try:
        if recipe.segment is not None or recipe.overlap is not None:
            separator = _in_segments(separator, recipe)
        if recipe.targets is not None:  # right around a Cascade, of which it takes what the targets need
            separator = Select(separator, recipe.targets)
        return separator if recipe.shifts is None else Shifted(separator, shifts=recipe.shifts)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _in_segments(separator: Separator, recipe: Recipe) -> Separator:
    """In overlapping segments; a Cascade stage by stage, since segments of both at once may have to be minutes long."""
    if isinstance(separator, Cascade):
        first, then = (_in_segments(stage, recipe) for stage in (separator.first, separator.then))
        return Cascade(first, then, stem=separator.stem)
    length = {} if recipe.segment is None else {"segment": recipe.segment}
    return Chunked(separator, **length, overlap=recipe.overlap)


def _use_wiener(separator: Separator, iterations: int) -> None:
    modules = separator.modules() if isinstance(separator, nn.Module) else ()
    filters = [(m, *options_of(m.filter)) for m in modules if isinstance(m, SpectralSeparator)]
    masking = [found for found in filters if found[1] is not as_is]  # the others have a filter of their own inside
    if not masking:
        raise UsageError("--niter needs a model that masks a spectrogram; this one does not")
    for module, function, options in masking:
        power = options["power"] if function is softmask else 1.0
        module.filter = partial(wiener, iterations=iterations, power=power)


@torch.inference_mode()
def separate_file(
    separator: Separator,
    job: Job,
    *,
    device: torch.device,
    residual: str | None = None,
    encoding: Encoding | None = None,
    clip_mode: Literal["none", "rescale", "clamp"] = "none",
    excerpt: tuple[float, float | None] = (0.0, None),
    fit: Callable[[Separator, AudioInfo], tuple[Separator, AudioInfo]] | None = None,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> Report:
    """Separates the file of a job and writes its stems: all of them, or none.

    Args:
        separator: on `device`, at any rate.
        residual: name of one more stem, the input less the others.
        encoding: of the stems; None: WAV with the bit depth of the input.
        clip_mode: "none" leaves the stems as they are (an integer format saturates, and a warning says how often),
            "rescale" lowers all stems by one gain if one would exceed full scale, "clamp" cuts them at full scale.
        excerpt: start and duration, seconds; a duration of None: to the end.
        fit: makes of the separator and what the input is the one to use, and what its stems are. None: as they are.
        progress: called with the seconds done and the seconds in all, where these are known.
        stop: set from another thread to give up, as by Ctrl-C.

    Raises:
        AudioError: the input cannot be read or an output cannot be written; says which and why.
    """
    begin = time.perf_counter()
    for path in job.outputs.values():
        if path.is_dir():
            raise AudioError(f"{path} is a folder, where a stem should go: move it, or choose another --out.")
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(job.source, start=excerpt[0], duration=excerpt[1]))
        folder = stack.enter_context(staging(job.root))
        info = reader.info
        fitted, info = (_fitted(separator, info, residual), info) if fit is None else fit(separator, info)
        # closed before the reader is: its thread must not be reading then
        incoming = stack.enter_context(closing(background(reader.blocks(round(BLOCK_SECONDS * info.sample_rate)))))
        report = Report(job.source, job.outputs, encoding or Encoding.like(info))
        report.encoding.check(info.sample_rate, info.channels)
        whole = None if reader.frames is None else reader.frames / info.sample_rate

        ceiling = full_scale(report.encoding)
        received = sent = 0

        def mixture() -> Iterator[Tensor]:
            nonlocal received
            for block in incoming:
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt
                received += block.shape[-1]
                yield block.unsqueeze(0).to(device)  # (1, c, t)

        def stems() -> Iterator[Tensor]:
            nonlocal sent
            for estimates in stream(fitted, mixture()):
                if not sent:
                    let_go_of_code()  # of what compiled the networks and started
                y = estimates[0].cpu()  # (n, c, t)
                if not math.isfinite(y.sum()):  # a sum is finite only if all are
                    raise AudioError(
                        f"{job.source}: the model gave samples that are not finite numbers; try --device cpu."
                    )
                sent += y.shape[-1]
                progress(sent / info.sample_rate, whole)
                yield y.clamp(-1, ceiling) if clip_mode == "clamp" else y
            if sent != received:
                raise AudioError(f"{job.source}: the model gave {sent} samples for {received}; it cannot be used.")
            report.seconds = sent / info.sample_rate

        if clip_mode == "rescale":
            rough = _write(stems(), job, folder, info, Encoding("wav", "float32"))
            report.gain = min(1.0, *(ceiling / max(writer.peak, ceiling) for writer in rough))
            blocks = _read_together([writer.path for writer in rough], report.gain)
        else:
            blocks = stems()
        written = _write(blocks, job, folder, info, report.encoding)
        report.warnings = _clipping(written, job)
        publish([writer.path for writer in written], list(job.outputs.values()))
    report.elapsed = time.perf_counter() - begin
    return report


def _fitted(separator: Separator, info: AudioInfo, residual: str | None) -> Separator:
    """The separator at the rate of a file. The residual is taken there, so that it has what a lower rate cannot hold."""
    if separator.sample_rate != info.sample_rate:
        separator = Resampled(separator, info.sample_rate)
    return separator if residual is None else WithResidual(separator, residual)


def _write(blocks: Iterable[Tensor], job: Job, folder: Path, info: AudioInfo, encoding: Encoding) -> list[Writer]:
    """Writes blocks (n, c, t) to one file per stem in `folder`, in a thread of its own; returns the closed writers."""
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                Writer(
                    _folder(folder) / f"{stem}.{encoding.extension}",
                    info.sample_rate,
                    info.channels,
                    encoding=encoding,
                    tags=info.tags,
                    layout=info.layout,
                )
            )
            for stem in job.outputs
        ]
        with ThreadPoolExecutor(1) as thread:
            writing = None
            for block in blocks:
                if writing is not None:
                    writing.result()  # raises what went wrong; at most one block waits
                writing = thread.submit(_write_block, writers, block)
            if writing is not None:
                writing.result()
    return writers


def _folder(parent: Path) -> Path:
    """A new folder in another, for one file."""
    try:
        return Path(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        raise AudioError(f"{parent.parent}: cannot be written to ({error.strerror}); choose another --out.") from error


def _write_block(writers: Sequence[Writer], block: Tensor) -> None:
    for writer, stem in zip(writers, block, strict=True):
        writer.write(stem)


def _read_together(paths: Sequence[Path], gain: float) -> Iterator[Tensor]:
    """Blocks (n, c, t) of several files of one length, times a gain."""
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(path)) for path in paths]
        size = round(BLOCK_SECONDS * readers[0].info.sample_rate)
        for blocks in zip(*(reader.blocks(size) for reader in readers), strict=True):
            yield torch.stack(blocks) * gain


def _clipping(writers: Sequence[Writer], job: Job) -> list[str]:
    return [
        f"{path.name}: {writer.clipped} samples exceed full scale (peak {writer.peak:.2f}) and were cut off by the integer "
        "format; use --float32, or --clip-mode rescale to lower all stems together"
        for writer, path in zip(writers, job.outputs.values(), strict=True)
        if writer.clipped
    ]


def full_scale(encoding: Encoding) -> float:
    """The largest sample that a format holds: an integer one stops a step below 1."""
    bits = {"int16": 16, "int24": 24, "int32": 32}.get(encoding.subtype)
    return 1.0 if bits is None else 1 - 2.0 ** (1 - bits)
