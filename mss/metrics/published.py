"""Published results, to be shown beside one's own: `published.csv`, one number per line, each with its source.

    protocol      sisec2018, sisec2016, musdb18 (deep systems), musdb18-usdr, mdx21: what may share a table
    system        as its authors or the campaign call it
    dataset       and which part of it
    evaluator     how a track is scored
    metric        SDR, ISR, SIR, SAR or uSDR
    aggregation   "median of medians" over tracks of frames, "mean of medians", "mean" over tracks of whole tracks
    sources       2 or 4: among how many stems the score was taken; 0 where the source does not say
    target        vocals, drums, bass, other, accompaniment; average: of the four stems, as published
    value_db      dB
    extra_data    whether it was trained on more than the data set's training part; None where the source does not say

Two numbers are comparable only if all of this agrees: `differences` says in a sentence where it does not. Vocals scored
between two sources come out some 0.2 dB above those scored among four, since fewer frames are dropped as silent.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Published", "differences", "protocols", "published"]


class Published(NamedTuple):
    """One published number; the columns of `published.csv`."""

    protocol: str
    system: str
    dataset: str
    evaluator: str
    metric: str
    aggregation: str
    sources: int
    target: str
    value_db: float
    extra_data: bool | None
    source: str


_COMPARED = {  # column -> how a sentence calls it
    "dataset": "the data set",
    "evaluator": "the evaluator",
    "metric": "the metric",
    "aggregation": "the aggregation",
}
_EXTRA = {"yes": True, "no": False, "": None}


def protocols() -> tuple[str, ...]:
    """Names of the protocols."""
    return tuple(dict.fromkeys(row.protocol for row in _table()))


def published(protocol: str, **columns: str | int | bool | None) -> list[Published]:
    """The rows of a protocol in which every column named has the value given.

    Raises:
        ValueError: An unknown protocol or column.

    Example:
        >>> published("sisec2018", system="IRM2", metric="SDR", target="bass")[0].value_db
        7.12
    """
    if protocol not in protocols():
        raise ValueError(f"there are no results for a protocol {protocol!r}: choose one of {', '.join(protocols())}")
    unknown = [name for name in columns if name not in Published._fields]
    if unknown:
        raise ValueError(f"there is no column {', '.join(unknown)}: there are {', '.join(Published._fields)}")
    rows = (row for row in _table() if row.protocol == protocol)
    return [row for row in rows if all(getattr(row, name) == value for name, value in columns.items())]


def differences(
    rows: Iterable[Published],
    *,
    dataset: str | None = None,
    evaluator: str | None = None,
    metric: str | None = None,
    aggregation: str | None = None,
    sources: int | None = None,
) -> str:
    """Says in a sentence why your scores and the rows are not to be compared; "" where nothing speaks against it.

    Args:
        rows: What you mean to show, from `published`.
        dataset: Yours, such as "MUSDB18 test"; what is None is not looked at.
        evaluator: Yours, in the words of the table, such as "BSS Eval v4 images, 1 s frames".
        metric: Yours.
        aggregation: Yours.
        sources: Among how many stems yours were scored. A score among four, of a stem or of vocals, is not one of two.
    """
    rows = list(rows)
    yours = {"dataset": dataset, "evaluator": evaluator, "metric": metric, "aggregation": aggregation}
    reasons = []
    for column, mine in yours.items():
        theirs = list(dict.fromkeys(getattr(row, column) for row in rows))
        others = [value for value in theirs if mine is not None and value.casefold() != mine.strip().casefold()]
        if others:
            some = "" if len(others) == len(theirs) else " of some"
            reasons.append(f"{_COMPARED[column]}{some} is {' or '.join(others)}, yours is {mine}")
    if sources is not None:
        reasons += _among(rows, sources)
    if not reasons:
        return ""
    return f"Not the same protocol as {', '.join(dict.fromkeys(row.protocol for row in rows))}: {'; '.join(reasons)}."


def _among(rows: list[Published], mine: int) -> list[str]:
    """Which targets were scored among another number of stems, or nobody knows among how many."""
    reasons = []
    for theirs in sorted({row.sources for row in rows} - {mine}):
        odd = [row for row in rows if row.sources == theirs]
        targets = " and ".join(dict.fromkeys(row.target for row in odd))
        every = {row.system for row in rows if row.target in {row.target for row in odd}}
        systems = dict.fromkeys(row.system for row in odd)
        whose = "" if set(systems) == every else f" of {', '.join(systems)}"
        known = f"scored among {theirs} stems" if theirs else "scored among a number of stems that is not stated"
        reasons.append(f"{targets}{whose} were {known}, yours among {mine}")
    return reasons


@cache
def _table() -> tuple[Published, ...]:
    path = Path(__file__).with_name("published.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_row(fields) for fields in csv.DictReader(file))


def _row(fields: dict[str, str]) -> Published:
    numbers = {"sources": int(fields["sources"] or 0), "value_db": float(fields["value_db"])}
    return Published(**{**fields, **numbers, "extra_data": _EXTRA[fields["extra_data"]]})
