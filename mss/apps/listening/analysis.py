"""What listeners said, in numbers: post-screening (ITU-R BS.1534-3, 4.1.2), means with intervals, tests, tables.

An assessor is one observation: means, intervals and tests of a condition are over the assessors' own means, because the
ratings that one person gives are not independent of each other.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mss.apps.listening.building import MIXTURE, REFERENCE
from mss.apps.listening.statistics import (
    binomial,
    bradley_terry,
    friedman,
    holm,
    mean_interval,
    proportion_interval,
)
from mss.metrics.significance import wilcoxon

__all__ = ["Report", "Table", "analyse", "answers", "screened"]

FEW = 20  # assessors, after screening, that BS.1534-3 holds for enough
LIMIT, SHARE, CROWD = 90, 0.15, 0.25  # the rating, and the shares of items and of assessors, of the screening
PLACES = {REFERENCE: 0, "mid": 2, "low": 3, MIXTURE: 4}  # the systems between them, the best first
NAMES = {"low": "anchor 3.5 kHz", "mid": "anchor 7 kHz", MIXTURE: "anchor mixture"}


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; floating-point numbers are kept as they are."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def records(self) -> list[dict[str, Any]]:
        return [{"table": self.title, **dict(zip(self.head, row, strict=True))} for row in self.rows]


@dataclass(frozen=True)
class Report:
    """The outcome of a test.

    Args:
        mode: of the test.
        assessors: whose answers count.
        excluded: who was screened out -> why.
        tables: in the order of reading.
        remarks: sentences.
        answers: one record for each rating or choice, of the excluded, too.
        drawn: condition -> the ratings that the figure shows; for AB and ABX, comparison -> share, low, high, percent.
    """

    mode: str
    assessors: list[str]
    excluded: dict[str, str]
    tables: list[Table]
    remarks: list[str]
    answers: list[dict[str, Any]]
    drawn: dict[str, list[float]] = field(default_factory=dict)

    def text(self) -> str:
        """For a terminal: nothing in a name can move its cursor."""
        parts = [self._lead()]
        for table in self.tables:
            cells = [[_cell(x) for x in row] for row in (table.head, *table.rows)]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            lines = ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in cells]
            parts.append("\n".join([_cell(table.title), "-" * len(table.title), *lines]))
        return "\n\n".join([*parts, *map(_cell, self.remarks)]) + "\n"

    def markdown(self) -> str:
        parts = ["# Listening test", _escaped(self._lead())]
        for table in self.tables:
            head, *rows = ([_escaped(_cell(x)) for x in row] for row in (table.head, *table.rows))
            lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
            parts.append(
                f"## {_escaped(_cell(table.title))}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
            )
        return "\n\n".join([*parts, *(_escaped(_cell(remark)) for remark in self.remarks)]) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        tables = [
            {"title": t.title, "rows": [dict(zip(t.head, row, strict=True)) for row in t.rows]} for t in self.tables
        ]
        return {
            "mode": self.mode,
            "assessors": self.assessors,
            "excluded": self.excluded,
            "tables": tables,
            "remarks": self.remarks,
        }

    def _lead(self) -> str:
        out = "; ".join(f"{_cell(name)} ({why})" for name, why in self.excluded.items())
        return f"{self.mode.upper()}, {len(self.assessors)} assessors" + (f"; excluded: {out}" if out else "")


def analyse(key: Mapping, results: Sequence[Mapping]) -> Report:
    """The report on results (`read_results`) of the test with this key (`read_key`)."""
    said = answers(key, results)
    return _ratings(said) if key["mode"] == "mushra" else _choices(key["mode"], said)


def answers(key: Mapping, results: Iterable[Mapping]) -> list[dict[str, Any]]:
    """One record for each rating or choice, with conditions in the place of codes."""
    trials = {trial["id"]: trial for trial in key["trials"]}
    said = []
    for result in results:
        for number, one in enumerate(result["trials"], 1):
            trial = trials[one["trial"]]
            about = {"participant": result["participant"], "trial": one["trial"], "track": trial["track"]}
            about |= {"stem": trial["stem"], "place": number, "seconds": one["seconds"]}
            names = trial["signals"]
            if key["mode"] == "mushra":
                said += [{**about, "condition": names[code], "rating": x} for code, x in one["ratings"].items()]
                continue
            first, second = names.values()
            record = {**about, "first": first, "second": second, "choice": names[one["choice"]]}
            said.append(record | ({"x": names[one["x"]]} if key["mode"] == "abx" else {}))
    return said


def screened(said: Sequence[Mapping]) -> dict[str, str]:
    """Who is to be excluded -> why (BS.1534-3, 4.1.2).

    Whoever rates the hidden reference below 90 in more than 15 % of the items, or the 7 kHz anchor above 90 in more than
    15 % of them. Items whose anchor more than 25 % of all assessors rate above 90 do not count there: it is hard to hear.
    """
    by_condition: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for one in said:
        by_condition[one["condition"]][one["participant"]][one["trial"]] = one["rating"]
    reference, mid = by_condition[REFERENCE], by_condition["mid"]
    crowd: dict[str, list[bool]] = defaultdict(list)
    for ratings in mid.values():
        for trial, rating in ratings.items():
            crowd[trial].append(rating > LIMIT)
    hard = {trial for trial, above in crowd.items() if sum(above) > CROWD * len(above)}
    why: dict[str, list[str]] = defaultdict(list)
    for name, ratings in reference.items():
        low = sum(rating < LIMIT for rating in ratings.values())
        if low > SHARE * len(ratings):
            why[name].append(f"hidden reference below {LIMIT} in {low} of {len(ratings)} items")
    for name, ratings in mid.items():
        high = sum(rating > LIMIT for trial, rating in ratings.items() if trial not in hard)
        if high > SHARE * len(ratings):
            why[name].append(f"7 kHz anchor above {LIMIT} in {high} of {len(ratings)} items")
    return {name: ", ".join(reasons) for name, reasons in why.items()}


def _ratings(said: list[dict]) -> Report:
    excluded = screened(said)
    kept = [one for one in said if one["participant"] not in excluded]
    assessors = sorted({one["participant"] for one in kept})
    means = {name: _mean(one["rating"] for one in kept if one["condition"] == name) for name in _conditions(said)}
    order = sorted(means, key=lambda name: (PLACES.get(name, 1), -(means[name] if kept else 0), name))
    tables, remarks = [], []
    for label, part in _parts(kept, "stem"):
        tables.append(_summary(f"Ratings, {label}", part, order))
        tables += _tests(label, part, [name for name in order if name == REFERENCE or name not in PLACES])
    for _, part in itertools.groupby(sorted(kept, key=_trial), key=_trial):
        part = list(part)
        tables.append(_summary(f"Item {part[0]['trial']}: {part[0]['stem']} of {part[0]['track']}", part, order))
    if len(assessors) < FEW:
        remarks.append(
            f"{len(assessors)} assessors are left, of about {FEW} that BS.1534-3 asks for: mind the intervals."
        )
    for name in order if kept else ():
        if name not in PLACES and "low" in means and means[name] < means["low"]:
            remarks.append(f"{name} is rated below the 3.5 kHz anchor: the scale was not used as the anchors meant it.")
        if name != REFERENCE and means[name] > means[REFERENCE]:
            remarks.append(
                f"{_label(name)} is rated above the hidden reference: look at how it was rated, item by item."
            )
    drawn = {_label(name): [one["rating"] for one in kept if one["condition"] == name] for name in order}
    return Report("mushra", assessors, excluded, tables, remarks, said, drawn)


def _summary(title: str, part: Sequence[Mapping], order: Sequence[str]) -> Table:
    rows = []
    for name in order:
        own = [one for one in part if one["condition"] == name]
        if own:
            ratings = torch.tensor([one["rating"] for one in own], dtype=torch.float64)
            q1, q2, q3 = ratings.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
            rows.append([_label(name), *mean_interval(list(_own_means(own).values())), q2, q1, q3, len(ratings)])
    return Table(title, ("condition", "mean", "95 % from", "to", "median", "quartile 1", "quartile 3", "ratings"), rows)


def _tests(label: str, part: Sequence[Mapping], names: Sequence[str]) -> list[Table]:
    """Friedman's test over the systems, and Wilcoxon's on every two of them and the reference, held to Holm's steps."""
    means = {name: _own_means(one for one in part if one["condition"] == name) for name in names}
    means = {name: own for name, own in means.items() if own}
    who = sorted(set.intersection(*(set(own) for own in means.values()))) if means else []
    columns = {name: torch.tensor([own[p] for p in who], dtype=torch.float64) for name, own in means.items()}
    pairs = list(itertools.combinations(columns, 2))
    p = [wilcoxon(columns[a] - columns[b]) for a, b in pairs]
    rows = [
        [f"{a} - {b}", float((columns[a] - columns[b]).mean()), raw, adjusted, "yes" if adjusted < 0.05 else "no"]
        for (a, b), raw, adjusted in zip(pairs, p, holm(p), strict=True)
    ]
    head = ("pair", "mean difference", "Wilcoxon p", "p by Holm", "differ")
    tables = [Table(f"Pairs, {label}", head, rows)] if rows else []
    systems = [x for name, x in columns.items() if name != REFERENCE]
    if len(systems) > 2 and len(who) > 1:
        chi, value = friedman(torch.stack(systems, 1))
        row = [len(systems), len(who), chi, value]
        tables.insert(0, Table(f"Friedman, {label}", ("systems", "assessors", "chi-squared", "p"), [row]))
    return tables


def _choices(mode: str, said: list[dict]) -> Report:
    tables, drawn = [], {}
    for label, part in [*_parts(said, "stem"), *_parts(said, "participant")[1:]]:
        pairs: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for one in part:
            hit = one["choice"] == (one["x"] if mode == "abx" else one["first"])
            pairs[one["first"], one["second"]].append(hit)
        p = [binomial(sum(hits), len(hits), two_sided=mode == "ab") for hits in pairs.values()]
        rows = []
        for ((a, b), hits), raw, adjusted in zip(pairs.items(), p, holm(p), strict=True):
            share, ends = sum(hits) / len(hits), proportion_interval(sum(hits), len(hits))
            rows.append([f"{a} - {b}", sum(hits), len(hits), share, *ends, raw, adjusted])
            if label == "all":
                drawn[f"{a} - {b}"] = [100 * share, 100 * ends[0], 100 * ends[1]]
        what = "first preferred" if mode == "ab" else "correct"
        head = ("pair", what, "answers", "share", "95 % from", "to", "binomial p", "p by Holm")
        tables.append(Table(f"Choices, {label}", head, rows))
        if mode == "ab" and len(pairs) > 1 and label == "all":
            wins: dict[tuple[str, str], int] = defaultdict(int)
            for one in part:
                loser = one["second"] if one["choice"] == one["first"] else one["first"]
                wins[one["choice"], loser] += 1
            strengths = sorted(bradley_terry(wins).items(), key=lambda pair: (-pair[1], pair[0]))
            tables.append(Table("Bradley-Terry", ("system", "strength"), [list(pair) for pair in strengths]))
    remarks = ["All answers count as independent, also those of one assessor: with few assessors, p is too small."]
    return Report(mode, sorted({one["participant"] for one in said}), {}, tables, remarks, said, drawn)


def _parts(said: Sequence[dict], what: str) -> list[tuple[str, list[dict]]]:
    """All, and where there are several, each stem or participant."""
    values = sorted({one[what] for one in said})
    return [("all", list(said))] + [
        (_cell(value), [one for one in said if one[what] == value]) for value in values if len(values) > 1
    ]


def _own_means(said: Iterable[Mapping]) -> dict[str, float]:
    """The mean rating of each assessor."""
    own: dict[str, list[float]] = defaultdict(list)
    for one in said:
        own[one["participant"]].append(one["rating"])
    return {name: _mean(ratings) for name, ratings in own.items()}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def _conditions(said: Iterable[Mapping]) -> list[str]:
    return list(dict.fromkeys(one["condition"] for one in said))


def _trial(one: Mapping) -> tuple[int, str]:
    return len(one["trial"]), one["trial"]


def _label(name: str) -> str:
    return NAMES.get(name, name)


def _cell(x: Any) -> str:
    if isinstance(x, float):
        return "–" if x != x else f"{x:.1e}" if 0 < abs(x) < 1e-3 else f"{x:.3f}" if 0 < abs(x) < 1 else f"{x:.1f}"
    return "".join(letter if letter.isprintable() else "?" for letter in str(x))


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", html.escape(text, quote=False))
