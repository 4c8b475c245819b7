"""What all augmentations share: whom they change, and that they change nothing but in training.

An augmentation takes stems (b, s, c, t) and an explicit generator on the CPU and gives stems of the same shape, dtype and
device; its mixture is their sum. Every draw is made on the CPU, so that a seed gives the same on any device and nothing
waits for a GPU. Whom it changes is drawn first, and only those are computed. Silence stays silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Augment", "Augmentation", "Only"]


class Augmentation(nn.Module):
    """Changes stems, or whole items, each with its own probability; in `eval()` none.

    Args:
        p: probability that a stem is changed (an item, where `whole_items`).
    """

    whole_items = False

    def __init__(self, p: float = 1.0) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability, from 0 to 1, not {p}")
        self.p = p

    def forward(self, stems: Tensor, generator: torch.Generator) -> Tensor:
        """(b, s, c, t) -> the same shape, a new tensor or the input itself, which is never written to."""
        if stems.ndim != 4 or not stems.is_floating_point():
            raise ValueError(f"expected stems (b, s, c, t) of floating point, not {stems.dtype} {tuple(stems.shape)}")
        if not self.training or self.p == 0 or stems.numel() == 0:
            return stems
        rows = stems if self.whole_items else stems.flatten(0, 1)
        chosen = torch.rand(len(rows), generator=generator) < self.p
        if bool(chosen.all()):
            return self.change(rows, generator).view_as(stems)
        if not bool(chosen.any()):
            return stems
        where = chosen.nonzero().squeeze(-1).to(stems.device, non_blocking=True)
        return rows.index_copy(0, where, self.change(rows[where], generator)).view_as(stems)

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """All of x, (r, c, t) stems or (r, s, c, t) items, changed; contiguous."""
        raise NotImplementedError


class Only(nn.Module):
    """An augmentation of some stems; the others stay as they are.

    Args:
        step: what is done to them.
        stems: their places on the stems' axis.

    Example:
        >>> Only(LowPass(p=0.4), stems=[1])              # of drums, bass, other and vocals the bass
    """

    def __init__(self, step: nn.Module, stems: Sequence[int]) -> None:
        super().__init__()
        self.step = step
        self.stems = tuple(stems)

    def forward(self, stems: Tensor, generator: torch.Generator) -> Tensor:
        """(b, s, c, t) -> the same shape."""
        if any(not 0 <= place < stems.shape[1] for place in self.stems):
            raise ValueError(f"stems {list(self.stems)} of {stems.shape[1]} stems: give their places, from 0 on")
        places = list(self.stems)
        own = stems[:, places]
        changed = self.step(own, generator)
        if changed is own:
            return stems
        result = stems.clone()
        result[:, places] = changed
        return result


class Augment(nn.Module):
    """Augmentations one after another.

    Args:
        steps: in order; each takes stems and a generator.

    Example:
        >>> augment = Augment([Gain(), ChannelSwap(), Remix(group=4)])
        >>> stems = augment(stems, generator)            # (b, s, c, t)
        >>> mixture = stems.sum(1)
    """

    def __init__(self, steps: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, stems: Tensor, generator: torch.Generator) -> Tensor:
        """(b, s, c, t) -> the same shape."""
        for step in self.steps:
            stems = step(stems, generator)
        return stems


def uniform(count: int, low: float, high: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """(count,) in [low, high), on the device and of the dtype of `like`."""
    x = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    return x.to(like.device, like.dtype, non_blocking=True)


def require_range(name: str, values: Sequence[float], lowest: float = -float("inf")) -> tuple[float, float]:
    """Two numbers, the lower first, none below `lowest`."""
    low, high = values
    if not lowest <= low <= high:
        floor = "" if lowest == -float("inf") else f" of at least {lowest}"
        raise ValueError(f"{name} is a range (low, high){floor}, not {tuple(values)}")
    return float(low), float(high)


def over_tiny(x: Tensor) -> Tensor:
    """x as a divisor: the smallest normal number where it is zero."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)
