"""One stereo file in, one file of surround sound out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mss.adapters import Resampled
from mss.apps.jobs import Job
from mss.apps.separation import Report, separate_file
from mss.audio import AudioError, AudioInfo
from mss.layouts import LAYOUTS
from mss.separator import Separator
from mss.upmixer import Upmixer

__all__ = ["Upmix", "upmix_file"]


@dataclass
class Upmix(Report):
    """What became of one file."""

    def told(self) -> str:
        gain = f", all channels times {self.gain:.3f}" if self.gain != 1 else ""
        return f"{', '.join(map(str, self.outputs.values()))} ({self.speed:.1f}x real time{gain})"


def upmix_file(
    separator: Separator | None,
    job: Job,
    *,
    device: torch.device,
    layout: str = "5.1",
    shares: Mapping[str, Any] | None = None,
    **options: Any,
) -> Upmix:
    """Writes the surround sound of a job's file: whole, or not at all.

    Args:
        separator: on `device`, at any rate; None: by ambience alone.
        job: with one output.
        layout, shares: of `Upmixer`, which has the defaults of the latter.
        options: of `separate_file`.

    Raises:
        AudioError: the input is not stereo, cannot be read, or the output cannot be written.
    """
    fit = partial(_fitted, device=device, layout=layout, shares=shares or {})
    return Upmix(**vars(separate_file(separator, job, device=device, fit=fit, **options)))


def _fitted(
    separator: Separator | None, info: AudioInfo, *, device: torch.device, layout: str, shares: Mapping[str, Any]
) -> tuple[Separator, AudioInfo]:
    """The upmixer at the rate of a file, as a separator of one stem, and what that is."""
    if info.channels == 1:
        raise AudioError(
            f"{info.path} is mono: there is no image to unfold, its place is the centre; give a stereo file."
        )
    if info.channels > 2:
        what = f"{info.channels} channels" + (f" ({info.layout})" if info.layout in LAYOUTS else "")
        raise AudioError(f"{info.path} has {what}: it is surround sound already; give a stereo file.")
    if separator is not None and separator.sample_rate != info.sample_rate:
        separator = Resampled(separator, info.sample_rate)
    upmixer = Upmixer(layout, separator, sample_rate=info.sample_rate, **shares).to(device)
    return _OneStem(upmixer), replace(info, channels=len(LAYOUTS[layout]), layout=layout)


class _OneStem(nn.Module):
    """An upmixer as a separator whose one estimate has other channels than the mixture."""

    streams = True

    def __init__(self, upmixer: Upmixer) -> None:
        super().__init__()
        self.upmixer = upmixer
        self.targets = (upmixer.layout,)
        self.sample_rate = upmixer.sample_rate

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, 2, t) -> (b, 1, c, t)."""
        return self.upmixer(mixture).unsqueeze(1)

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        for y in self.upmixer.stream(blocks):
            yield y.unsqueeze(1)
