"""Stereo to surround: the front image stays, what is in the middle goes to the centre, ambience and chosen stems behind.

After Avendano & Jot (2004), with the stems of a separator where there is one (FitzGerald 2011): in each bin, the local
covariance of the two channels of a stem says how far it is in the middle, and how much of it is ambience (Faller 2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.filters import as_is
from mss.layouts import LAYOUTS
from mss.separator import Separator, SpectralSeparator, copies, require_mixture
from mss.surround import HIGH_PASS, Convolution, decorrelators, linkwitz_riley, low_frequencies
from mss.transforms import STFT
from mss.wrappers import aligned, stream

__all__ = ["Upmixer"]

HALF = math.sqrt(0.5)


class Upmixer(nn.Module):
    """Makes surround sound (b, channels of the layout, t) of stereo (b, 2, t), whole or block by block.

    Of each stem with the channels l and r, and of what the stems leave of the mixture, a share c sin(2 phi) of
    m = (l + r) / sqrt(2) goes to the centre, phi being where it is panned: nothing of what is hard left or right. A share
    s + (1 - s) a w goes to the surrounds, w being how much of it is ambience, delayed and decorrelated. Both are taken
    from the fronts so that the down-mix of ITU-R BS.775 (`downmix_gains`; without the LFE) gives the song back: by
    subtraction of the very samples, so to the rounding of the samples (1e-6 of full scale in float32, -120 dB), whatever
    the separator does.
    Where not `exact`, the fronts keep none of what goes behind and their energy is lowered instead: no decorrelated sound
    in the fronts, no energy added, but the down-mix loses -10 lg(1 - s^2 / 2) dB of a stem that is sent behind by s.

    Args:
        layout: a name of `LAYOUTS`.
        separator: of stereo, at `sample_rate`; None: the song is one stem.
        sample_rate: Hz.
        centre: c by name of the stem, 0 to 1, in place of the usual; "residual" is what the stems leave.
        surround: s likewise.
        ambience: a, 0 to 1.
        exact: see above.

    Raises:
        ValueError: an unknown layout or stem, a share that is not between 0 and 1, a mixture that is not stereo.

    Example:
        >>> upmixer = Upmixer("5.1", mss.load("spleeter-2stems"), surround={"accompaniment": 0.5})
        >>> left, right, centre, lfe, left_behind, right_behind = upmixer(mixture)[0]
    """

    # the share of the centre and that of the surrounds, by what a stem is called; of others, ambience alone goes behind
    SHARES: ClassVar = {
        "vocals": (0.8, 0.0),
        "bass": (0.4, 0.0),
        "drums": (0.3, 0.1),
        "other": (0.0, 0.4),
        "accompaniment": (0.3, 0.3),
        "piano": (0.0, 0.3),
        "guitar": (0.0, 0.3),
        "harmonic": (0.3, 0.3),
        "percussive": (0.3, 0.1),
        "foreground": (0.8, 0.0),
        "background": (0.3, 0.3),
    }
    WHOLE = (0.7, 0.0)  # of a song that is not separated

    def __init__(
        self,
        layout: str = "5.1",
        separator: Separator | None = None,
        *,
        sample_rate: int = 44100,
        centre: Mapping[str, float] | None = None,
        surround: Mapping[str, float] | None = None,
        ambience: float = 0.7,
        exact: bool = True,
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
        if separator is not None and separator.sample_rate != sample_rate:
            raise ValueError(
                f"the separator works at {separator.sample_rate} Hz, not {sample_rate} Hz: wrap it in mss.Resampled"
            )
        if not 0 <= ambience <= 1:
            raise ValueError(f"the share of the ambience must be between 0 and 1, not {ambience}")
        self.layout = layout
        self.separator = separator
        self.sample_rate = sample_rate
        self.exact = exact
        stems = () if separator is None else separator.targets
        usual = {name: self.SHARES.get(name, (0.0, 0.0)) for name in stems}
        usual["residual"] = (0.0, 0.0) if stems else self.WHOLE
        to_centre = _shares("centre", {name: c for name, (c, _) in usual.items()}, centre or {})
        behind = _shares("surround", {name: s for name, (_, s) in usual.items()}, surround or {})
        transform = STFT(*_window(sample_rate))
        if "C" not in LAYOUTS[layout]:
            to_centre = [0.0] * len(to_centre)
        frequencies = torch.linspace(0, math.pi, transform.bins, dtype=torch.float64)
        passed = None if exact else linkwitz_riley(frequencies, HIGH_PASS, sample_rate, high=True).abs()
        sends = _Sends(to_centre, behind, ambience, passed)
        self._sends = SpectralSeparator(sends, ["sends"], sample_rate=sample_rate, transform=transform, filter=as_is)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names, in the order of the output."""
        return LAYOUTS[self.layout]

    def forward(self, mixture: Tensor) -> Tensor:
        """(b, 2, t) -> (b, c, t)."""
        require_mixture(mixture)
        return torch.cat(list(self.stream([mixture])), -1)

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Like `forward` on the blocks (b, 2, t) put together; memory is bounded where the separator's is."""
        low, copy = copies(self._but_low(blocks))
        names = [name for name in self.channels if name != "LFE"]
        at = [names.index(name) if name in names else len(names) for name in self.channels]
        for y, lfe in aligned(low, self._low(copy)):
            yield torch.cat([y, lfe], 1)[:, at]

    def _but_low(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """All channels but the LFE."""
        waves, copy = copies(self._with_stems(blocks))
        behind = [name for name in self.channels if name[1:] in ("s", "b")]
        scatter = Convolution(decorrelators(behind, self.sample_rate))
        for wave, sends in aligned(waves, self._sends.stream(copy)):
            centre, sides, fronts = sends[:, 0].tensor_split((1, 3), 1)
            surrounds = scatter(sides.repeat(1, len(behind) // 2, 1))
            if self.exact:
                fronts = wave[:, :2] - HALF * surrounds.unflatten(1, (-1, 2)).sum(1)
            fronts = fronts - HALF * centre
            yield torch.cat([fronts, centre, surrounds] if "C" in self.channels else [fronts, surrounds], 1)

    def _low(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The LFE (b, 1, t), of the same length: of both fronts and the centre, and in phase with them."""
        kernel = low_frequencies(self.sample_rate)
        deepen, late = Convolution(kernel), kernel.shape[-1] // 2
        skip, sums = late, (y[:, :3].sum(1, keepdim=True) for y in blocks)
        for y in sums:
            low = deepen(y)
            yield low[..., skip:]
            skip = max(skip - low.shape[-1], 0)
        yield deepen(y.new_zeros(*y.shape[:-1], late))[..., skip:]

    def _with_stems(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The mixture and below it the stems: (b, 2 + 2 n, t)."""
        mixture, copy = copies(_stereo(blocks))
        if self.separator is None:
            yield from mixture
            return
        for x, y in aligned(mixture, stream(self.separator, copy)):
            yield torch.cat([x, y.flatten(1, 2)], 1)


class _Sends(nn.Module):
    """What goes to the centre, to the surrounds and, where the fronts are lowered, to them: (b, 1, 3 or 5, f, k) complex.

    Args:
        centre, surround: a share of each stem and of the rest.
        ambience: share of the ambience.
        passed: (f,), what the surrounds get of each frequency, to lower the fronts by; None: not lowered.
    """

    REACH = (3, 15)  # bins and frames over which covariances are averaged: 174 ms

    def __init__(self, centre: list[float], surround: list[float], ambience: float, passed: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor(centre).view(-1, 1, 1), persistent=False)
        self.register_buffer("surround", torch.tensor(surround).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("passed", None if passed is None else passed.float().view(-1, 1), persistent=False)
        self.ambience = ambience
        self.context = self.REACH[1] // 2

    def forward(self, X: Tensor) -> Tensor:
        """X (b, 2 + 2 n, f, k), the mixture's channels and those of each stem."""
        mixture, stems = X.unflatten(1, (-1, 2)).tensor_split((1,), 1)
        Y = torch.cat([stems, mixture - stems.sum(1, keepdim=True)], 1)  # (b, n + 1, 2, f, k)
        middle, ambience = self._image(Y)
        share = self.surround + (1 - self.surround) * self.ambience * ambience
        parts = [(share * Y).sum(1)]
        if self.passed is not None:
            Y = (1 - (share * self.passed).square()).sqrt() * Y
            parts.append(Y.sum(1))
        centre = (self.centre * middle * Y.sum(2)).sum(1, keepdim=True) * HALF
        return torch.cat([centre, *parts], 1).unsqueeze(1)

    def _image(self, Y: Tensor) -> tuple[Tensor, Tensor]:
        """How far each stem is in the middle (b, n + 1, f, k), and how much of its channels is ambience, 0 to 1 each.

        Of a covariance with the powers p, q and the real, positive cross power x, the first is sin 2 phi = 2 x / (p + q),
        and the power of the ambience in either channel is the smaller eigenvalue: what no one panned source explains. So
        what is in opposite phase is ambience, what is in one channel alone is not.
        """
        left, right = Y.unbind(2)
        powers = torch.stack([_power(left), _power(right), (left * right.conj()).real], 2)
        p, q, x = self._averaged(powers).unbind(2)
        x = x.clamp_min(0)
        tiny = torch.finfo(p.dtype).tiny
        total = p + q + tiny
        gap = (p * q - x.square()).clamp_min(0)
        ambience = 2 * gap / (total + ((p - q).square() + 4 * x.square()).sqrt())
        return 2 * x / total, (ambience.unsqueeze(2) / (torch.stack([p, q], 2) + tiny)).clamp_max(1)

    def _averaged(self, powers: Tensor) -> Tensor:
        flat = powers.flatten(0, 2).unsqueeze(1)
        padding = (self.REACH[0] // 2, self.REACH[1] // 2)
        mean = F.avg_pool2d(flat, self.REACH, stride=1, padding=padding, count_include_pad=False)
        return mean.view_as(powers)


def _power(X: Tensor) -> Tensor:
    return X.real.square() + X.imag.square()


def _window(sample_rate: int) -> tuple[int, int]:
    """Samples of the window and of the hop: 2048 and 512 at 44.1 kHz."""
    size = 1 << max(round(math.log2(0.0464 * sample_rate)), 4)
    return size, size // 4


def _shares(what: str, usual: Mapping[str, float], wanted: Mapping[str, float]) -> list[float]:
    """The shares of all stems."""
    for name, value in wanted.items():
        if name not in usual:
            raise ValueError(f"{what}: there is no stem {name!r}; there are {', '.join(usual)}")
        if not 0 <= value <= 1:
            raise ValueError(f"{what}: the share of {name} must be between 0 and 1, not {value}")
    return list({**usual, **wanted}.values())


def _stereo(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    for block in blocks:
        if block.shape[1] != 2:
            raise ValueError(f"surround is made of stereo, not of {block.shape[1]} channels")
        yield block
