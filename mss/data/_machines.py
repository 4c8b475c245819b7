"""Instruments made of formulae: drum kits and basses, no two alike, that nobody's recordings are needed for.

Drums are what analogue drum machines make them of (and what physical drums sound like from afar): sines whose pitch falls,
filtered noise, beating square waves for cymbals, each with an exponential decay. A bass is a sum of partials: plucked, with
partials that die the sooner the higher they are and a comb for the place of the pick; or a synthesizer's, a saw or square
wave through a low pass that closes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mss.data._hits import Kit

__all__ = ["bass", "drum_machine"]

METAL = (205.3, 304.4, 369.6, 522.7, 540.0, 800.0)  # Hz, the square waves of a TR-808's cymbals
BRIGHTEST = 15000.0  # Hz, of a bass's partials


def drum_machine(rng: random.Random, sample_rate: int) -> Kit:
    """A kit whose drums are drawn at random, three strokes of each."""
    machine = _Machine(rng, sample_rate)
    return Kit({kind: [make() for _ in range(3)] for kind, make in machine.drums().items()}, sample_rate)


class _Machine:
    def __init__(self, rng: random.Random, sample_rate: int) -> None:
        self.rng, self.rate = rng, sample_rate
        self.generator = torch.Generator().manual_seed(rng.getrandbits(62))

    def drums(self) -> dict[str, Callable[[], Tensor]]:
        rng = self.rng
        return {
            "kick": self.kick(
                rng.uniform(42, 68), rng.uniform(1.5, 8), 10 ** rng.uniform(-2.2, -1.3), self.log(0.06, 0.4)
            ),
            "snare": self.snare(
                rng.uniform(150, 260), self.log(0.05, 0.3), rng.uniform(0.25, 0.9), self.log(400, 3000)
            ),
            "rim": self.snare(rng.uniform(350, 900), self.log(0.01, 0.04), rng.uniform(0.1, 0.5), self.log(800, 3000)),
            "clap": self.clap(self.log(700, 1800), self.log(0.05, 0.25)),
            "shut": self.cymbal(
                self.log(0.015, 0.08), self.log(4000, 9000), rng.uniform(0, 0.7), rng.uniform(0.8, 2.2)
            ),
            "open": self.cymbal(self.log(0.15, 0.6), self.log(4000, 8000), rng.uniform(0, 0.7), rng.uniform(0.8, 2.2)),
            "ride": self.cymbal(self.log(0.4, 1.5), self.log(2000, 6000), rng.uniform(0.3, 0.9), rng.uniform(1.2, 3.5)),
            "crash": self.cymbal(self.log(0.5, 2.0), self.log(1200, 5000), rng.uniform(0, 0.4), rng.uniform(1.0, 3.0)),
            "high tom": self.tom(rng.uniform(150, 240)),
            "tom": self.tom(rng.uniform(105, 150)),
            "low tom": self.tom(rng.uniform(65, 105)),
            "other": self.snare(
                rng.uniform(300, 1500), self.log(0.02, 0.12), rng.uniform(0.05, 0.9), self.log(800, 5000)
            ),
        }

    def log(self, low: float, high: float) -> float:
        return math.exp(self.rng.uniform(math.log(low), math.log(high)))

    def time(self, decay: float) -> Tensor:
        """Until 60 dB of a decay to 1/e are over, (t,)."""
        return torch.arange(max(int(7 * decay * self.rate), 64), dtype=torch.float32) / self.rate

    def noise(self, t: Tensor, low: float, high: float = 20000.0) -> Tensor:
        """Noise with slopes of 12 dB per octave outside a band, RMS 1."""
        X = torch.fft.rfft(torch.randn(len(t), generator=self.generator))
        f = torch.arange(len(X)) * (self.rate / len(t))
        X = X / (1 + (low / f.clamp_min(1)) ** 4).sqrt() / (1 + (f / high) ** 4).sqrt()
        x = torch.fft.irfft(X, len(t))
        return x / x.square().mean().sqrt().clamp_min(1e-9)

    def swept(self, t: Tensor, f: float, rise: float, fall: float) -> Tensor:
        """A sine whose frequency falls from (1 + rise) f to f."""
        return torch.sin(2 * math.pi * f * (t + rise * fall * (1 - torch.exp(-t / fall))))

    def kick(self, f: float, rise: float, fall: float, decay: float) -> Callable[[], Tensor]:
        click, drive = self.rng.uniform(0, 0.4), self.log(0.5, 4)

        def strike() -> Tensor:
            t = self.time(decay)
            x = self.swept(t, f, rise, fall) * torch.exp(-t / decay) * (t / 0.001).clamp_max(1)
            x = x + click * self.noise(t, 1500) * torch.exp(-t / 0.004)
            return torch.tanh(drive * x)

        return strike

    def tom(self, f: float) -> Callable[[], Tensor]:
        return self.kick(f, self.rng.uniform(0.1, 0.8), self.log(0.02, 0.08), self.log(0.1, 0.4))

    def snare(self, f: float, decay: float, wires: float, low: float) -> Callable[[], Tensor]:
        second, short, drive = self.rng.uniform(1.4, 1.9), self.log(0.02, 0.12), self.log(0.5, 3)
        top = self.log(6000, 18000)

        def strike() -> Tensor:
            t = self.time(max(decay, short))
            body = self.swept(t, f, 0.5, 0.01) + 0.6 * self.swept(t, f * second, 0.3, 0.01)
            x = (1 - wires) * body * torch.exp(-t / short) + wires * self.noise(t, low, top) * torch.exp(-t / decay)
            return torch.tanh(drive * x * (t / 0.0005).clamp_max(1))

        return strike

    def clap(self, f: float, decay: float) -> Callable[[], Tensor]:
        hands, apart = self.rng.randint(2, 5), self.rng.uniform(0.006, 0.014)

        def strike() -> Tensor:
            t = self.time(decay + 0.02)
            bursts = sum(
                torch.exp(-(t - i * apart).clamp_min(0) / (0.004 if i < hands - 1 else decay)) * (t >= i * apart)
                for i in range(hands)
            )
            return self.noise(t, 0.7 * f, 2.5 * f) * bursts / hands

        return strike

    def cymbal(self, decay: float, low: float, metal: float, tune: float) -> Callable[[], Tensor]:
        second = self.log(0.2, 1.0)  # of the decay: highs go sooner

        def strike() -> Tensor:
            t = self.time(decay)
            squares = sum(torch.sign(torch.sin(2 * math.pi * f * tune * t)) for f in METAL) / len(METAL)
            X = torch.fft.rfft(squares)
            f = torch.arange(len(X)) * (self.rate / len(t))
            ring = torch.fft.irfft(X / (1 + (low / f.clamp_min(1)) ** 6).sqrt(), len(t))
            ring = ring / ring.square().mean().sqrt().clamp_min(1e-9)
            hiss = self.noise(t, low)
            x = metal * ring * torch.exp(-t / decay) + (1 - metal) * hiss * torch.exp(-t / (second * decay))
            return x * (t / 0.0005).clamp_max(1)

        return strike


def bass(
    notes: Sequence[tuple[float, float, int, int]], rng: random.Random, *, seconds: float, sample_rate: int
) -> Tensor:
    """(t,), of notes (onset and duration in seconds, MIDI pitch, velocity), one instrument for all."""
    length = round(seconds * sample_rate)
    out = torch.zeros(length)
    play = _plucked(rng) if rng.random() < 0.55 else _synthetic(rng)
    release = rng.uniform(0.01, 0.06)
    for onset, duration, pitch, velocity in notes:
        start = round(onset * sample_rate)
        count = min(round((duration + 5 * release) * sample_rate), length - start)
        if start < 0 or count < 2:
            continue
        t = torch.arange(count, dtype=torch.float32) / sample_rate
        f0 = 440 * 2 ** ((pitch - 69) / 12)
        highest = max(int(min(BRIGHTEST, 0.45 * sample_rate) / f0), 1)
        h = torch.arange(1, min(highest, 60) + 1, dtype=torch.float32).unsqueeze(-1)
        sound = play(h, f0, t, velocity / 127)
        envelope = (t / 0.002).clamp_max(1) * torch.exp(-(t - duration).clamp_min(0) / release)
        out[start : start + count] += sound * envelope * 10 ** ((velocity - 100) / 127 * 20 / 20)
    if rng.random() < 0.25:  # an amplifier that is turned up
        level = out.square().mean().sqrt().clamp_min(1e-9)
        out = torch.tanh(out / level * 10 ** (rng.uniform(-12, 6) / 20))
    return out


def _plucked(rng: random.Random) -> Callable[[Tensor, float, Tensor, float], Tensor]:
    pick, long, loss = rng.uniform(0.07, 0.3), rng.uniform(0.5, 3.0), rng.uniform(0.05, 0.5)
    stiff, soft = 10 ** rng.uniform(-5, -3.7), rng.uniform(0.4, 1.6)

    def play(h: Tensor, f0: float, t: Tensor, strength: float) -> Tensor:
        amplitude = torch.sin(math.pi * h * pick).abs() / h ** (soft + 0.6 * (1 - strength))
        f = f0 * h * (1 + stiff * h.square()).sqrt()
        partials = amplitude * torch.sin(2 * math.pi * f * t) * torch.exp(-t * (1 + loss * h) / long)
        return partials.sum(0)

    return play


def _synthetic(rng: random.Random) -> Callable[[Tensor, float, Tensor, float], Tensor]:
    square, sub = rng.random() < 0.4, rng.choice((0.0, 0.0, 0.5, 1.0))
    corner, opened, closing = 10 ** rng.uniform(2.0, 3.5), rng.uniform(0, 8), 10 ** rng.uniform(-1.6, -0.3)
    slope, detune = rng.choice((2, 4)), rng.choice((0.0, 0.0, 0.003, 0.008))

    def play(h: Tensor, f0: float, t: Tensor, strength: float) -> Tensor:
        amplitude = (h % 2 if square else 1.0) / h
        cutoff = corner * (1 + opened * strength * torch.exp(-t / closing))
        partials = amplitude / (1 + (f0 * h / cutoff) ** (2 * slope)).sqrt()
        x = (partials * torch.sin(2 * math.pi * f0 * h * t)).sum(0)
        if detune:
            x = x + (partials * torch.sin(2 * math.pi * f0 * (1 + detune) * h * t + 1.0)).sum(0)
        return x + sub * torch.sin(math.pi * f0 * t)

    return play
