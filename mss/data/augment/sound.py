"""The sound of a stem: equaliser, low pass, reverberation and an imitation of lossy coding, all in the frequency domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mss.data.augment.base import Augmentation, over_tiny, require_range, uniform
from mss.transforms import STFT

__all__ = ["Codec", "Equalizer", "LowPass", "Reverb"]


class Equalizer(Augmentation):
    """A low shelf, two peaks and a high shelf at random frequencies, without phase, so that stems stay aligned.

    Gains are those of analogue prototypes: shelves of first order, which reach half their dB at their corner, and peaks of
    second order (R. Bristow-Johnson's cookbook), which reach theirs at their centre. Corners are uniform in log frequency.

    Args:
        decibels: largest gain of each of the four; uniform up to it, either way.
        sample_rate: Hz.
        p: probability per stem.
    """

    CORNERS = ((60.0, 400.0), (200.0, 1500.0), (1000.0, 6000.0), (3000.0, 12000.0))  # Hz: low shelf, peaks, high shelf
    WIDTHS = (0.5, 2.0)  # quality factors of the peaks

    def __init__(self, decibels: float = 6.0, *, sample_rate: int = 44100, p: float = 1.0) -> None:
        super().__init__(p)
        if decibels < 0:
            raise ValueError(f"decibels must be at least 0, not {decibels}")
        self.decibels = decibels
        self.sample_rate = sample_rate

    def draw(self, count: int, generator: torch.Generator, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Corners in Hz (r, 4), gains in dB (r, 4), quality factors of the peaks (r, 2)."""
        corners = [uniform(count, math.log(low), math.log(high), generator, like).exp() for low, high in self.CORNERS]
        gains = [uniform(count, -self.decibels, self.decibels, generator, like) for _ in self.CORNERS]
        widths = [uniform(count, *self.WIDTHS, generator, like) for _ in range(2)]
        return torch.stack(corners, -1), torch.stack(gains, -1), torch.stack(widths, -1)

    def response(self, frequencies: Tensor, corners: Tensor, gains: Tensor, widths: Tensor) -> Tensor:
        """Amplitude (r, f) at `frequencies` (f,) in Hz."""
        A = 10 ** (gains / 40).unsqueeze(-1)  # (r, 4, 1), square root of the amplitude
        w = (frequencies / corners.unsqueeze(-1)).square()  # (r, 4, f)
        low = (w[:, 0] + A[:, 0].square()) / (w[:, 0] + A[:, 0] ** -2)
        high = (1 + A[:, 3].square() * w[:, 3]) / (1 + w[:, 3] * A[:, 3] ** -2)
        away, Q, A, w = (1 - w[:, 1:3]).square(), widths.unsqueeze(-1), A[:, 1:3], w[:, 1:3]
        peaks = (away + w * (A / Q).square()) / (away + w / (A * Q).square())
        return (low * high * peaks.prod(1)).sqrt()

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        drawn = self.draw(len(x), generator, x)
        return filtered(x, self.sample_rate, lambda frequencies: self.response(frequencies, *drawn).unsqueeze(1))


class LowPass(Augmentation):
    """A low pass of second order (Butterworth) without phase: what a bass sounds like in most mixes, or a closed tone control.

    Args:
        corner: Hz, where it has -3 dB; uniform in log frequency in (low, high).
        sample_rate: Hz.
        p: probability per stem.
    """

    def __init__(self, corner: Sequence[float] = (100.0, 800.0), *, sample_rate: int = 44100, p: float = 1.0) -> None:
        super().__init__(p)
        self.corner = require_range("corner", corner, 1)
        self.sample_rate = sample_rate

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        corner = uniform(len(x), *map(math.log, self.corner), generator, x).exp()[:, None, None]
        return filtered(x, self.sample_rate, lambda frequencies: (1 + (frequencies / corner) ** 4).rsqrt())


class Reverb(Augmentation):
    """Adds exponentially decaying noise, independent in each channel: a room without early reflections (J. Moorer 1979).

    The direct sound stays where and what it is; then the sum is scaled to the energy that it would have if the room's answer
    were uncorrelated with it, so the level stays about the same. What rings on after the excerpt's end is cut.

    Args:
        decay: seconds in which the room's answer falls by 60 dB, uniform in (low, high).
        wet: energy of the answer over that of the direct sound, dB, uniform in (low, high).
        delay: seconds before the answer starts, uniform in (low, high).
        sample_rate: Hz.
        p: probability per stem.
    """

    DAMPING = (2000.0, 10000.0)  # Hz, corner of the answer's first-order low pass

    def __init__(
        self,
        decay: Sequence[float] = (0.2, 1.2),
        wet: Sequence[float] = (-20.0, -6.0),
        *,
        delay: Sequence[float] = (0.005, 0.03),
        sample_rate: int = 44100,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.decay = require_range("decay", decay, 1e-3)
        self.wet = require_range("wet", wet)
        self.delay = require_range("delay", delay, 0)
        self.sample_rate = sample_rate

    def answer(self, rows: int, channels: int, generator: torch.Generator, like: Tensor) -> Tensor:
        """(r, c, n) impulse responses of the rooms, of energy 1, without the direct sound."""
        n = math.ceil((self.decay[1] + self.delay[1]) * self.sample_rate)
        decay, delay, corner = (
            uniform(rows, *bounds, generator, like)[:, None, None] for bounds in (self.decay, self.delay, self.DAMPING)
        )
        noise = torch.randn(rows, channels, n, generator=generator).to(like.device, like.dtype, non_blocking=True)
        time = torch.arange(n, device=like.device, dtype=like.dtype) / self.sample_rate - delay
        h = torch.where(time >= 0, noise * 10 ** (-3 * time.clamp_min(0) / decay), 0)
        size = fast_length(2 * n)
        frequency = torch.arange(size // 2 + 1, device=like.device, dtype=like.dtype) * (self.sample_rate / size)
        pole = torch.exp(-2 * math.pi * corner / self.sample_rate)  # (r, 1, 1)
        turn = 2 * math.pi * frequency / self.sample_rate
        H = torch.fft.rfft(h, size) / (1 - pole * torch.polar(torch.ones_like(turn), -turn))
        h = torch.fft.irfft(H, size)[..., :n]
        return h / over_tiny(h.square().sum(-1, keepdim=True)).sqrt()

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        r, c, t = x.shape
        wet = 10 ** (uniform(r, *self.wet, generator, x) / 20)[:, None, None]
        h = self.answer(r, c, generator, x)
        n = fast_length(t + h.shape[-1])
        y = torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(h, n), n)[..., :t]
        return (x + wet * y) / (1 + wet.square()).sqrt()


class Codec(Augmentation):
    """What lossy coding leaves of a stem, imitated: nothing above a cut, and noise and holes below a masking threshold.

    No codec's bit stream: the bins of an STFT are rounded to multiples of a step that is one for each third of an octave and
    frame, so that the rounding noise lies `below` the energy of the band or of its neighbours; faint bins vanish.

    Args:
        cut: Hz, uniform in (low, high); MP3 and AAC cut at 16 kHz at 128 kbit/s.
        below: dB from a band's level down to its rounding noise, uniform in (low, high).
        sample_rate: Hz.
        p: probability per stem.
    """

    SPREAD = 10.0  # dB by which a band masks the one below or above it less than itself

    def __init__(
        self,
        cut: Sequence[float] = (11000.0, 19000.0),
        below: Sequence[float] = (9.0, 20.0),
        *,
        sample_rate: int = 44100,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.cut = require_range("cut", cut, 0)
        self.below = require_range("below", below)
        self.sample_rate = sample_rate

    def change(self, x: Tensor, generator: torch.Generator) -> Tensor:
        transform = STFT(2048, 1024)
        cut = uniform(len(x), *self.cut, generator, x)[:, None, None, None]
        below = 10 ** (uniform(len(x), *self.below, generator, x) / 10)[:, None, None, None]
        frequency = torch.arange(transform.bins, device=x.device, dtype=x.dtype) * (self.sample_rate / transform.n_fft)
        band = (3 * (frequency / 100).clamp_min(1).log2()).round().long()  # 0 up to 100 Hz, then thirds of an octave
        count = 1 + round(3 * math.log2(max(self.sample_rate / 200, 1)))
        member = (band.unsqueeze(-1) == torch.arange(count, device=x.device)).to(x.dtype)  # (f, bands)
        peak = over_tiny(x.abs().amax((1, 2), keepdim=True))
        X = transform(x / peak)  # (r, c, f, k)
        power = torch.einsum("rcfk,fa->rcak", X.real.square() + X.imag.square(), member)
        power = power / member.sum(0).clamp_min(1).unsqueeze(-1)
        spread = 10 ** (-self.SPREAD / 10) * power
        mask = power.clone()
        mask[..., 1:, :] = torch.maximum(mask[..., 1:, :], spread[..., :-1, :])
        mask[..., :-1, :] = torch.maximum(mask[..., :-1, :], spread[..., 1:, :])
        step = over_tiny(6 * mask / below).sqrt()[..., band, :]  # rounding noise of a complex bin: step ** 2 / 6
        X = torch.complex((X.real / step).round() * step, (X.imag / step).round() * step)
        return peak * transform.inverse(X * (frequency.unsqueeze(-1) < cut), x.shape[-1])


def filtered(x: Tensor, sample_rate: int, amplitude: Callable[[Tensor], Tensor]) -> Tensor:
    """x (r, c, t) through a filter without phase; `amplitude` of frequencies (f,) in Hz is (f,) or (r, 1, f)."""
    t = x.shape[-1]
    n = fast_length(t + sample_rate // 20)  # 50 ms: what rings on from the end does not reach the start
    frequencies = torch.arange(n // 2 + 1, device=x.device, dtype=x.dtype) * (sample_rate / n)
    return torch.fft.irfft(torch.fft.rfft(x, n) * amplitude(frequencies), n)[..., :t].contiguous()


def fast_length(n: int) -> int:
    """The next length of at least n whose transform is fast: 2, 3, 5 or 9 times a power of two."""
    powers = [m << max((-(-n // m) - 1).bit_length(), 0) for m in (1, 3, 5, 9, 15)]
    return min(power for power in powers if power % 2 == 0) if n > 1 else 2
