"""mss.metrics.published: spot values, and that the table agrees with itself."""

import csv
import math
from collections import defaultdict
from pathlib import Path

import pytest

from mss.metrics import published as module
from mss.metrics.published import Published, differences, protocols, published

STEMS = ("vocals", "drums", "bass", "other")
ROWS = [row for protocol in protocols() for row in published(protocol)]
MEDIANS = {"metric": "SDR", "aggregation": "median of medians"}


@pytest.mark.parametrize(
    ("protocol", "system", "target", "value"),
    [
        ("sisec2018", "IRM2", "accompaniment", 15.64),
        ("sisec2018", "IBM2", "accompaniment", 8.69),
        ("sisec2018", "MIX", "vocals", 1.12),
        ("sisec2018", "TAK2", "average", 6.04),
        ("sisec2018", "HPSS", "vocals", -0.34),
        ("sisec2018", "STL2", "drums", 4.22),
        ("sisec2016", "HUA", "vocals", -3.94),
        ("sisec2016", "UHL3", "other", 3.43),
        ("musdb18", "UMX", "vocals", 6.32),
        ("musdb18", "Demucs v1", "average", 5.6),
        ("musdb18", "ResUNet143", "accompaniment", 16.8),
    ],
)
def test_spot_values(protocol, system, target, value):
    (row,) = published(protocol, system=system, target=target, **MEDIANS)
    assert row.value_db == value


def test_other_measures_and_means():
    assert [r.value_db for r in published("sisec2018", system="MWF", metric="SIR")] == [20.59]
    means = published("sisec2018", system="UHL2", aggregation="mean of medians")
    assert {r.target: r.value_db for r in means}["accompaniment"] == 12.16
    assert published("musdb18-usdr", system="BS-RoFormer", target="drums")[0].value_db == 11.61


def test_averages_are_those_of_the_stems():
    scores = defaultdict(dict)
    for r in ROWS:
        scores[r.protocol, r.system, r.metric, r.aggregation, r.extra_data][r.target] = r
    checked = 0
    for stems in scores.values():
        if {"average", *STEMS} <= set(stems) and "its average is not" not in stems["average"].source:
            mean = sum(stems[target].value_db for target in STEMS) / 4
            assert abs(mean - stems["average"].value_db) < 0.0101, stems["average"]
            checked += 1
    assert checked >= 45


def test_every_number_is_complete_and_there_once():
    assert len(ROWS) > 400
    for row in ROWS:
        assert row.source
        assert row.dataset
        assert math.isfinite(row.value_db)
        assert row.sources in (0, 2, 4)
        assert row.target in (*STEMS, "accompaniment", "average")
        assert row.sources == 2 or row.target != "accompaniment"
        assert row.sources == 4 or row.target in ("vocals", "accompaniment")
    keys = [tuple(v for k, v in r._asdict().items() if k not in ("value_db", "source")) for r in ROWS]
    assert len(set(keys)) == len(keys)
    path = Path(module.__file__).with_name("published.csv")
    with path.open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == list(Published._fields)


def test_vocals_of_the_campaign_are_of_two_sources_where_there_is_an_accompaniment():
    for row in published("sisec2018", target="vocals", **MEDIANS):
        assert (row.sources == 2) == bool(published("sisec2018", system=row.system, target="accompaniment", **MEDIANS))


def test_unknown_names():
    with pytest.raises(ValueError, match="sisec2018"):
        published("sisec2017")
    with pytest.raises(ValueError, match="target"):
        published("sisec2018", stem="vocals")


def test_no_difference_is_no_sentence():
    rows = published("sisec2018", target="drums", **MEDIANS)
    same = {"dataset": "musdb18 TEST", "evaluator": "BSS Eval v4 images, 1 s frames", "sources": 4, **MEDIANS}
    assert differences(rows, **same) == ""


def test_differences_are_named():
    rows = published("sisec2018", target="drums", **MEDIANS)
    text = differences(rows, dataset="musdb7/test", metric="uSDR", aggregation="mean", sources=2)
    assert text == (
        "Not the same protocol as sisec2018: the data set is MUSDB18 test, yours is musdb7/test; the metric is SDR, "
        "yours is uSDR; the aggregation is median of medians, yours is mean; drums were scored among 4 stems, yours "
        "among 2."
    )


def test_systems_scored_otherwise_are_named():
    rows = published("sisec2018", target="vocals", **MEDIANS)
    text = differences(rows, sources=2)
    assert "vocals of HEL1, RGT1, RGT2, STL2 were scored among 4 stems, yours among 2" in text
    assert "not stated" in differences(published("sisec2016", target="vocals"), sources=4)
