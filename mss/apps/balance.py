"""What a mixing desk is set to: gains, pans, mutes and solos by the names of stems. No audio here, and no torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mss.cli import UsageError

__all__ = ["REST", "Balance", "is_setting", "parse", "weights"]

REST = "rest"  # what the stems leave of the song
VOCALS = "vocals"
LOUDEST = 60.0  # dB
MUTE, SOLO, PAN = "mute", "solo", "pan."


@dataclass(frozen=True)
class Balance:
    """Settings by the names that the user gave: gains in dB, pans from -100 (left) to 100, and what is heard alone."""

    gains: dict[str, float]
    pans: dict[str, float]
    solos: frozenset[str]

    @property
    def names(self) -> set[str]:
        """Of all stems that are set."""
        return {*self.gains, *self.pans, *self.solos}


def is_setting(argument: str) -> bool:
    """Whether an argument is a setting, stem=value, rather than a file."""
    return "=" in argument and not os.path.exists(argument)


def parse(settings: Iterable[str], *, karaoke: bool = False) -> Balance:
    """Reads settings such as vocals=+6dB, drums=-inf, bass=mute, other=solo, pan.vocals=-20.

    Raises:
        UsageError: one that means nothing, or two of the same thing.
    """
    gains: dict[str, float] = {VOCALS: -math.inf} if karaoke else {}
    pans: dict[str, float] = {}
    solos: set[str] = set()
    for setting in settings:
        name, _, text = (part.strip() for part in setting.rpartition("="))
        kind, name = (pans, name.removeprefix(PAN)) if name.startswith(PAN) else (gains, name)
        if not name:
            raise UsageError(f"{setting!r}: name a stem before the '=', as in vocals=+6dB")
        if name in kind or (kind is gains and name in solos):
            once = ", once by --karaoke" if karaoke and name == VOCALS and kind is gains else ""
            raise UsageError(f"{setting}: {name} is set twice{once}: leave one of them out")
        if kind is pans:
            pans[name] = _pan(setting, text)
        elif text.lower() == SOLO:
            solos.add(name)
        else:
            gains[name] = _gain(setting, text)
    return Balance(gains, pans, frozenset(solos))


def _gain(setting: str, text: str) -> float:
    """dB."""
    if text.lower() == MUTE:
        return -math.inf
    number = _number(re.sub(r"\s*dB$", "", text, flags=re.IGNORECASE))
    if number is None or not (number == -math.inf or abs(number) <= LOUDEST):
        raise UsageError(
            f"{setting}: a gain is a number of dB up to {LOUDEST:g}, as in {setting.partition('=')[0]}=+6dB or -3.5, "
            f"or -inf, {MUTE} or {SOLO}"
        )
    return number


def _pan(setting: str, text: str) -> float:
    number = _number(text)
    if number is None or not -100 <= number <= 100:
        raise UsageError(f"{setting}: a pan is a number from -100 (left) over 0 (as it is) to 100 (right)")
    return number


def _number(text: str) -> float | None:
    """What is written in ASCII as people write numbers: no 1_0, no nan."""
    if not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)|-inf", text, flags=re.ASCII | re.IGNORECASE):
        return None
    return float(text)


def weights(balance: Balance, stems: Sequence[str], *, rest: bool, where: str) -> dict[str, tuple[float, float]]:
    """The factors of the left and the right channel of each stem; they are equal where nothing is panned.

    `no_X` is all but X. A pan turns the balance by sqrt(2) cos t and sqrt(2) sin t, t from 0 to 90 degrees: the energy of
    a stem that is as loud left as right stays the same, and at the ends one channel is heard alone, 3 dB louder.

    Args:
        stems: those there are.
        rest: whether there is a song to take what the stems leave from; it is then the last of the result.
        where: what the stems are of, for messages.

    Raises:
        UsageError: a stem that is not there, or one that two names stand for.
    """
    there = [*stems, *([REST] if rest and REST not in stems else [])]
    gains = _each(balance.gains, there, where)
    pans = _each(balance.pans, there, where)
    solos = _each(dict.fromkeys(sorted(balance.solos), True), there, where)
    found = {}
    for stem in there:
        gain = 10 ** (gains.get(stem, 0.0) / 20) if not solos or stem in solos else 0.0
        pan = pans.get(stem, 0.0)
        angle = (pan / 100 + 1) * math.pi / 4
        left, right = (math.sqrt(2) * math.cos(angle), math.sqrt(2) * math.sin(angle)) if pan else (1.0, 1.0)
        found[stem] = (gain * left, gain * right)
    return found


def _each(settings: dict[str, float], there: Sequence[str], where: str) -> dict[str, float]:
    """The settings by the names of stems."""
    found: dict[str, float] = {}
    owners: dict[str, str] = {}
    for name, value in settings.items():
        for stem in _meant(name, there, where):
            if stem in found:
                raise UsageError(f"{stem} is set twice, by {owners[stem]} and by {name}: leave one of them out")
            found[stem], owners[stem] = value, name
    return found


def _meant(name: str, there: Sequence[str], where: str) -> list[str]:
    if name in there:
        return [name]
    others = [stem for stem in there if stem != name.removeprefix("no_")]
    if name.startswith("no_") and others != list(there):
        return others
    raise UsageError(f"there is no stem {name}; {where} has {', '.join(there)}")
