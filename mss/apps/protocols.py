"""What is scored together, under which names, and against what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mss.data import Audio, Track
    from mss.evaluate import Options

__all__ = ["PROTOCOLS", "arranged", "protocols_of", "references"]

PROTOCOLS = {
    frozenset(("vocals", "accompaniment")): "2-source",
    frozenset(("vocals", "drums", "bass", "other")): "4-source",
}


def arranged(estimates: Tensor, mixture: Tensor, targets: Sequence[str], options: Options) -> dict[str, Tensor]:
    """The estimates (n, ...) that are scored, under their names in the data set."""
    renamed = dict(pair.split(":", 1) for pair in options.rename or ())
    stems = {renamed.get(name, name): y for name, y in zip(targets, estimates, strict=True)}
    if options.residual is not None:
        stems[options.residual] = mixture - sum(stems.values())
    if options.two_source and "accompaniment" not in stems:
        stems["accompaniment"] = sum(y for name, y in stems.items() if name != "vocals")
    return stems if options.targets is None else {name: stems[name] for name in options.targets}


def protocols_of(targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which targets are scored together: vocals and accompaniment, and all but accompaniment, where there are two or more."""
    sets = [tuple(name for name in ("vocals", "accompaniment") if name in targets)]
    if len(sets[0]) < 2:
        sets = [tuple(targets)]
    else:
        sets.append(tuple(name for name in targets if name != "accompaniment"))
    return {PROTOCOLS.get(frozenset(names), "+".join(sorted(names))): names for names in sets if len(names) > 1}


def references(track: Track, audio: Audio, targets: Sequence[str], expected: Sequence[str], fill: bool) -> Tensor:
    """The references of targets, (n, c, t).

    Args:
        expected: stems that tracks of this data set have; what a sum of all but one is of.
        fill: take those that are not there for silent.
    """
    import torch

    from mss.data import TrackError, reference

    stems = audio.stems
    lacking = [name for name in expected if name not in stems]
    if lacking and not all(name in stems for name in targets):
        if not fill:
            raise TrackError(
                f"{track.path} has no {', '.join(lacking)}, which most tracks have; partial=true takes what is missing for "
                "silent"
            )
        stems = {**stems, **{name: torch.zeros_like(audio.mixture) for name in lacking}}
    return torch.stack([reference(stems, name) for name in targets])
