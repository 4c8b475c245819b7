"""What can be evaluated: separators, oracles and ready-made estimates, all as one function from a track to its estimates."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mss.apps.protocols import references
from mss.cli import UsageError, pick_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mss.data import Audio, Track
    from mss.evaluate import Options
    from mss.separator import Separator

__all__ = ["System", "system_of"]

log = logging.getLogger(__name__)
BLOCK_SECONDS = 12.0  # handed to a separator at a time


@dataclass(frozen=True)
class System:
    """What is evaluated.

    Args:
        name: in the report and in paths.
        source: the option that names it; two systems of one name are told apart by it.
        targets: what it calls its estimates.
        estimate: (track, audio) -> estimates (n, c, t).
        revision: JSON-able; changes when the estimates may.
        files: track -> files of ready-made estimates.
    """

    name: str
    source: str
    targets: tuple[str, ...]
    estimate: Callable[[Track, Audio], Tensor]
    revision: str = ""
    files: Callable[[Track], dict[str, Path]] = lambda track: {}


def system_of(options: Options, tracks: Sequence[Track]) -> System:
    """The system asked for."""
    if options.separator is not None:
        return separator_system(options)
    if options.oracle is not None:
        return oracle_system(options, tracks)
    return estimates_system(options, tracks)


def separator_system(options: Options) -> System:
    """A separator: estimates are made of the mixture."""
    from mss import checkpoint, zoo

    device = pick_device(options.device)
    try:
        separator = zoo.load(options.separator).to(device)
    except ValueError as error:  # an unknown name, a damaged checkpoint, weights that are not there
        raise UsageError(str(error)) from error
    name, source, revision = options.separator, options.separator, ""
    if name.endswith(".safetensors"):
        source, revision = str(Path(name).resolve()), checkpoint.read_header(name)["digest"]
        name = Path(name).stem
    name = (options.name or name).replace("/", "-")
    return System(name, f"separator={source}", separator.targets, partial(separated, separator, device), revision)


def separated(separator: Separator, device: torch.device, _: Track, audio: Audio) -> Tensor:
    """What a separator at any rate makes of the mixture of a track, (n, c, t)."""
    import torch

    from mss.adapters import Resampled
    from mss.wrappers import stream

    if separator.sample_rate != audio.sample_rate:
        separator = Resampled(separator, audio.sample_rate)
    with torch.inference_mode():
        blocks = audio.mixture.unsqueeze(0).split(round(BLOCK_SECONDS * audio.sample_rate), -1)
        parts = stream(separator, (block.to(device) for block in blocks))
        y = torch.cat([part[0].cpu() for part in parts], -1)
    return y.clone()  # outside of inference mode, so that it is a tensor like any other


def oracle_system(options: Options, tracks: Sequence[Track]) -> System:
    """An oracle of the stems of the data set: estimates are made of the mixture and the references."""
    from mss.data import common_stems
    from mss.oracle import ORACLES

    if options.oracle not in ORACLES:
        near = difflib.get_close_matches(options.oracle.upper(), ORACLES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ORACLES)}"
        raise UsageError(f"there is no oracle {options.oracle!r}: {hint}")
    device, stems = pick_device(options.device), common_stems(tracks)
    estimate = partial(known, options.oracle, stems, options.partial, device)
    return System(options.name or options.oracle, f"oracle={options.oracle}", stems, estimate)


def known(name: str, stems: Sequence[str], fill: bool, device: torch.device, track: Track, audio: Audio) -> Tensor:
    """What an oracle makes of a track, (n, c, t)."""
    import torch

    from mss.oracle import oracle

    truth = references(track, audio, stems, stems, fill).unsqueeze(0).to(device)
    separator = oracle(name, truth, stems, audio.sample_rate).to(device)
    with torch.no_grad():
        return separator(audio.mixture.unsqueeze(0).to(device))[0].cpu()


def estimates_system(options: Options, tracks: Sequence[Track]) -> System:
    """Ready-made estimates: a folder in which the tracks have the names of those of the data set."""
    from mss.data import common_stems, find_tracks

    folder = Path(options.estimates)
    found = {track.name: track for track in find_tracks(folder)}
    both = [found[track.name] for track in tracks if track.name in found]
    if not both:
        raise UsageError(
            f"{folder} has estimates of other tracks than {options.data}: there is {next(iter(found))!r}, which is not in "
            f"the data set, and {tracks[0].name!r} is missing"
        )
    names = {track.name for track in tracks}
    strangers = [name for name in found if name not in names]
    if strangers:
        log.warning(
            "%s has estimates that are not scored, of %d other tracks: %s", folder, len(strangers), strangers[0]
        )
    stems = tuple(options.targets or common_stems(both))
    if options.rename or options.residual or options.two_source:
        stems = common_stems(both)

    def files(track: Track) -> dict[str, Path]:
        ready = found.get(track.name)
        return {} if ready is None else dict(ready.files) or {"": ready.path}

    name = (options.name or folder.resolve().name).replace("/", "-")
    strict = options.targets is None
    estimate = partial(ready_made, found, stems, strict)
    return System(name, f"estimates={folder.resolve()}", stems, estimate, files=files)


def ready_made(found: Mapping[str, Track], stems: Sequence[str], strict: bool, track: Track, audio: Audio) -> Tensor:
    """The estimates of a track that are on disk, (n, c, t)."""
    import torch

    from mss.data import TrackError

    if track.name not in found:
        raise TrackError("there are no estimates of this track")
    ready = found[track.name]
    estimates = ready.load()
    missing = [name for name in stems if name not in estimates.stems]
    if missing:
        raise TrackError(f"{ready.path} has no estimate of {', '.join(missing)}; it has {', '.join(estimates.stems)}")
    extra = [name for name in estimates.stems if name not in stems]
    if extra and strict:
        raise TrackError(
            f"{ready.path} has an estimate of {', '.join(extra)}, which most others have not: remove it, or say which are "
            f"scored: targets=[{','.join(stems)}]"
        )
    if estimates.sample_rate != audio.sample_rate:
        raise TrackError(
            f"{ready.path} is at {estimates.sample_rate} Hz, the references are at {audio.sample_rate} Hz: resample it"
        )
    return torch.stack([estimates.stems[name] for name in stems])
