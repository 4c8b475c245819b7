"""Songs made up by rules: keys, chord progressions, drum patterns with fills, bass lines, accompaniment and a melody.

Nothing here is sound. A song is notes in seconds, from one `random.Random`, whose sequence no version of Python changes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from mss.data._styles import FUNK, HIPHOP, RHYTHMS, STYLES, SWING

__all__ = ["Note", "Part", "Sketch", "compose", "strength"]

Note = tuple[float, float, int, int]  # onset and duration in seconds, MIDI pitch, velocity


@dataclass
class Part:
    """What one instrument plays.

    Args:
        stem: "drums", "bass" or "other".
        program: of General MIDI; of drums, the kit.
        notes: in any order.
    """

    stem: str
    program: int
    notes: list[Note] = field(default_factory=list)


@dataclass
class Sketch:
    """A song before it sounds: parts of instruments, and the notes of a voice."""

    parts: list[Part]
    melody: list[Note]


MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
LOOPS = {  # degrees of the scale, from 0
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (5, 3, 0, 4), (0, 2, 3, 4), (1, 4, 0, 0), (0, 3, 0, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (0, 3, 0, 4), (0, 0, 5, 6), (3, 6, 0, 0), (0, 5, 3, 4)),
}
KICK, SIDE, SNARE, CLAP, SHUT, OPEN, RIDE, CRASH = 36, 37, 38, 39, 42, 46, 51, 49
TOMS = (50, 48, 45, 43, 41)
SNARES = {  # of each kit: those that symusic sustains; of snare 38 in the others it plays 4 ms
    0: (40, CLAP), 8: (40, CLAP), 16: (SNARE, 40), 24: (CLAP,), 25: (CLAP,), 32: (40, CLAP), 40: (SNARE, 40),
}  # fmt: skip


def strength(velocity: int) -> float:
    """The amplitude that recordings of single sounds are played with: 24 dB over all velocities, and 1 at 110."""
    return 10 ** ((velocity - 110) / 127 * 24 / 20)


def compose(rng: random.Random, seconds: float) -> Sketch:
    """A song of at least `seconds`, in one of eight styles.

    Args:
        rng: all choices come from it.
        seconds: that are wanted.
    """
    return _Composer(rng, seconds).song()


class _Composer:
    """One song in the making: what was chosen once, for all parts to agree on."""

    def __init__(self, rng: random.Random, seconds: float) -> None:
        self.rng = rng
        self.style = rng.choice(STYLES)
        self.step = 60 / rng.uniform(*self.style.tempo) / 4  # seconds
        self.bars = int(seconds / (16 * self.step)) + 1
        minor = rng.random() < self.style.minor
        self.scale = MINOR if minor else MAJOR
        self.key = rng.randrange(12)
        loops = LOOPS["minor" if minor else "major"]
        verse, chorus = rng.choice(loops), rng.choice(loops)
        # sections of eight bars (four, in a slow song) take turns
        self.section = 8 if self.bars > 8 else 4
        self.chords = [(chorus if i // self.section % 2 else verse)[i % 4] for i in range(self.bars)]
        self.kit = rng.choice(list(SNARES))
        self.snare = rng.choice(SNARES[self.kit])
        self.loose = rng.uniform(0.0, 0.012)  # seconds, how far players are from the beat

    def song(self) -> Sketch:
        rng, programs = self.rng, self.style.programs
        parts = [
            Part("drums", self.kit, self.drums()),
            Part("bass", rng.choice(programs["bass"]), self.bass()),
            Part("other", rng.choice(programs["comp"]), self.comp()),
        ]
        if rng.random() < 0.6:
            parts.append(Part("other", rng.choice(programs["pad"]), self.pad()))
        if rng.random() < 0.45:
            parts.append(Part("other", rng.choice(programs["comp"] + programs["pad"]), self.arpeggio()))
        if rng.random() < 0.5:
            lead = self.melody(rng.choice((60, 67, 72)), density=0.6)
            parts.append(Part("other", rng.choice(programs["lead"]), lead))
        return Sketch(parts, self.melody(rng.choice((50, 55, 60, 64)), density=0.85))

    def at(self, bar: int, step: float) -> float:
        """Seconds, swung and a little early or late."""
        late = self.style.swing * (step % 2 >= 1)
        return max(0.0, (16 * bar + step + late) * self.step + self.rng.gauss(0, self.loose))

    def struck(self, strength: str | int) -> int:
        return max(20, min(127, int(strength) * 12 + 12 + self.rng.randint(-8, 8)))

    def pitch(self, degree: int, around: int) -> int:
        """The pitch of a degree of the scale, in the octave from `around` - 6 on."""
        pitch = self.key + self.scale[degree % 7]
        return around - 6 + (pitch - around + 6) % 12

    def chord(self, bar: int, around: int) -> list[int]:
        """Three or four pitches close to `around`, in whatever inversion that is."""
        degrees = (0, 2, 4, 6) if self.rich else (0, 2, 4)
        return sorted(self.pitch(self.chords[bar] + degree, around) for degree in degrees)

    @property
    def rich(self) -> bool:
        """Whether chords have sevenths."""
        return self.style in (FUNK, SWING, HIPHOP)

    def drums(self) -> list[Note]:
        rng, notes = self.rng, []
        kick, snare, hat = (rng.choice(pattern) for pattern in (self.style.kick, self.style.snare, self.style.hat))
        other_kick, other_hat = rng.choice(self.style.kick), rng.choice(self.style.hat)
        back = self.snare if rng.random() < 0.85 else SIDE
        cymbals = (rng.choice((SHUT, SHUT, RIDE)), rng.choice((SHUT, RIDE, OPEN)))
        enters = rng.choice((0, 0, 0, 1, 2)) if self.bars > 6 else 0  # the bar
        for bar in range(enters, self.bars):
            chorus = bar // self.section % 2
            fill = bar % 4 == 3 and rng.random() < (0.8 if bar % self.section == self.section - 1 else 0.25)
            until = rng.choice((8, 12)) if fill else 16
            lines = (
                (KICK, other_kick if chorus else kick),
                (back, snare),
                (cymbals[chorus], other_hat if chorus else hat),
            )
            for drum, pattern in lines:
                for step, strength in enumerate(pattern[:until]):
                    if strength != "0" and not (drum == SHUT and rng.random() < 0.04):
                        opened = OPEN if drum == SHUT and step == 14 and rng.random() < 0.15 else drum
                        notes.append((self.at(bar, step), 0.4, opened, self.struck(strength)))
            if fill:
                notes += self.fill(bar, until)
            if bar % self.section == 0 and rng.random() < 0.8:
                notes.append((self.at(bar, 0), 2.0, rng.choice((CRASH, 57, 55)), self.struck(8)))
        return notes

    def fill(self, bar: int, first: int) -> list[Note]:
        """Snare and toms from step `first` to the end of the bar, growing louder downwards."""
        rng, notes, tom = self.rng, [], 0
        for step in range(first, 16):
            if rng.random() < 0.8:
                tom = min(tom + (rng.random() < 0.45), len(TOMS))
                drum = self.snare if tom == 0 else TOMS[tom - 1]
                notes.append((self.at(bar, step), 0.5, drum, self.struck(5 + (step - first) * 4 // (16 - first))))
        return notes

    def bass(self) -> list[Note]:
        rng, notes = self.rng, []
        patterns, centre = [rng.choice(self.style.bass) for _ in range(2)], rng.choice((33, 36, 38))
        walking = self.style is SWING
        moves = rng.choice(((0,), (0, 0, 0, 4), (0, 0, 7, 4), (0, 2, 4, 0)))  # degrees above the root
        for bar in range(self.bars):
            pattern = patterns[bar // self.section % 2]
            steps = [step for step, strength in enumerate(pattern) if strength != "0"]
            length = rng.choice((0.6, 0.9, 0.98))
            for i, (step, after) in enumerate(zip(steps, [*steps[1:], 16], strict=True)):
                degree = rng.choice((0, 2, 4, 6)) if walking and i else moves[i % len(moves)]
                pitch = self.pitch(self.chords[bar], centre)
                if degree:
                    pitch += (self.pitch(self.chords[bar] + degree, centre) - pitch) % 12
                notes.append(
                    (self.at(bar, step), (after - step) * self.step * length, pitch, self.struck(pattern[step]))
                )
        return notes

    def comp(self) -> list[Note]:
        rng, notes = self.rng, []
        patterns, centre = [rng.choice(self.style.comp) for _ in range(2)], rng.choice((55, 60, 64))
        length, strum = rng.choice((0.3, 0.7, 1.0)), rng.choice((0, 0, 0.008, 0.02))  # seconds from string to string
        for bar in range(self.bars):
            pattern = patterns[bar // self.section % 2]
            steps = [step for step, strength in enumerate(pattern) if strength != "0"]
            for step, after in zip(steps, [*steps[1:], 16], strict=True):
                onset, duration = self.at(bar, step), (after - step) * self.step * length
                for string, pitch in enumerate(self.chord(bar, centre)):
                    notes.append((onset + strum * string, max(duration, 0.08), pitch, self.struck(pattern[step]) - 10))
        return notes

    def pad(self) -> list[Note]:
        centre = self.rng.choice((60, 66, 72))
        return [
            (self.at(bar, 0), 15.8 * self.step, pitch, self.struck(5))
            for bar in range(self.bars)
            for pitch in self.chord(bar, centre)
        ]

    def arpeggio(self) -> list[Note]:
        rng, notes = self.rng, []
        order, pace = rng.choice(((0, 1, 2, 1), (0, 1, 2), (2, 1, 0), (0, 2, 1, 2, 3))), rng.choice((1, 2, 2))
        centre = rng.choice((60, 67, 72))
        for bar in range(self.bars):
            if bar // 4 % 2 and rng.random() < 0.3:
                continue
            chord = self.chord(bar, centre)
            chord = [*chord, *(pitch + 12 for pitch in chord)]
            for i, step in enumerate(range(0, 16, pace)):
                pitch = chord[order[i % len(order)]]
                notes.append((self.at(bar, step), pace * self.step * 1.1, pitch, self.struck(6)))
        return notes

    def melody(self, low: int, *, density: float) -> list[Note]:
        """Phrases of two bars, whose rhythm comes back, on the scale, with notes of the chord on the beats."""
        rng, notes = self.rng, []
        rhythms = [rng.choice(RHYTHMS) for _ in range(3)]
        place, phrase = rng.randrange(3, 8), True
        for bar in range(self.bars):
            if bar % 2 == 0:
                phrase = rng.random() < density
            step = 0
            for count in rng.choice(rhythms) if phrase else ():
                if count > 0:
                    place = min(max(place + rng.choice((-2, -1, -1, 0, 1, 1, 2)), 0), 10)
                    if step % 4 == 0:
                        tones = {(self.chords[bar] + degree) % 7 for degree in (0, 2, 4)}
                        place = min((p for p in range(11) if p % 7 in tones), key=lambda p: abs(p - place))
                    pitch = self.pitch(0, low + 6) + self.scale[place % 7] + 12 * (place // 7)
                    notes.append((self.at(bar, step), count * self.step * 0.95, pitch, self.struck(7)))
                step += abs(count)
        return notes
