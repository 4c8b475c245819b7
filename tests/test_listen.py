"""Listening tests: their signals, their page in a browser, their server, and what is made of the answers."""

from __future__ import annotations

import base64
import contextlib
import csv
import dataclasses
import http.client
import json
import math
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from mss.apps.listening.analysis import analyse, answers, screened
from mss.apps.listening.building import REFERENCE, Plan, build, find_systems
from mss.apps.listening.results import ResultError, checked, read_key, read_results
from mss.apps.listening.server import TestServer, is_local
from mss.apps.listening.signals import LOWEST_RATE, aligned, faded, loudest, low_pass, safe_gain
from mss.apps.listening.statistics import (
    binomial,
    bradley_terry,
    friedman,
    holm,
    mean_interval,
    proportion_interval,
    t_quantile,
)
from mss.apps.plots import ratings_figure, shares_figure
from mss.audio import read, write
from mss.audio.loudness import loudness, true_peak
from mss.cli import UsageError
from mss.data import find_tracks
from mss.listen import main
from tests.conftest import sdr

RATE = 44100
EVIL = "<img src=x onerror=alert(1)>\"'"
SECONDS = 1.5


@pytest.fixture(scope="module")
def data(tmp_path_factory, excerpt) -> Path:
    """Two songs of four stems, and two systems' estimates of them: one at half the level, one with much of the rest."""
    root = tmp_path_factory.mktemp("data")
    for track in (EVIL, "song"):
        for name, x in excerpt.items():
            folders = {root / "ref" / track: x}
            if name != "mixture":
                folders[root / "sys" / "half" / track] = 0.5 * x
                folders[root / "sys" / "leaky" / "test" / track] = 0.6 * x + 0.4 * excerpt["mixture"]
            for folder, y in folders.items():
                folder.mkdir(parents=True, exist_ok=True)
                write(folder / f"{name}.wav", y[:, : 3 * RATE], RATE)
    return root


def plan(data: Path, *names: str, **options) -> Plan:
    options = {"stems": ("vocals",), "pattern": "song", "duration": SECONDS} | options
    return Plan(find_systems(data / "sys", names), find_tracks(data / "ref"), **options)


def sounds(folder: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The signals in a page, by their codes."""
    found = {}
    for code, text in re.findall(r'id="(s\d+)">"([^"]+)"<', (folder / "index.html").read_text(encoding="utf-8")):
        (tmp_path / "x.flac").write_bytes(base64.b64decode(text))
        found[code], _ = read(tmp_path / "x.flac")
    return found


def by_name(folder: Path, tmp_path: Path, trial: int = 0) -> dict[str, torch.Tensor]:
    signals, heard = read_key(folder)["trials"][trial]["signals"], sounds(folder, tmp_path)
    return {name: heard[code] for code, name in signals.items()}


# --- signals ---


@pytest.mark.parametrize("rate", [LOWEST_RATE, 44100, 48000, 96000])
@pytest.mark.parametrize("edge", [3500.0, 7000.0])
def test_anchors_are_flat_and_steep_and_not_late(rate, edge):
    impulse = torch.zeros(1, 1 << 15, dtype=torch.float64)
    impulse[0, 1 << 14] = 1
    y = low_pass(impulse, rate, edge)
    gain = 20 * torch.log10(torch.fft.rfft(y)[0].abs() + 1e-12)
    frequency = torch.fft.rfftfreq(1 << 15, 1 / rate)
    assert gain[frequency <= edge].abs().max() <= 0.1
    for steps, less in ((1, 25), (2, 50)):  # 4 and 4.5 kHz for the low anchor
        beyond = frequency >= edge + steps * 500 * edge / 3500
        assert not beyond.any() or gain[beyond].max() <= -less
    assert int(y.argmax()) == 1 << 14
    torch.testing.assert_close(y, y.roll(-1, -1).flip(-1), atol=1e-12, rtol=0)  # no phase


def test_anchors_refuse_rates_that_cannot_hold_them():
    with pytest.raises(ValueError, match="16000"):
        low_pass(torch.zeros(1, 100), 8000, 3500)


def test_the_excerpt_is_where_the_energy_is(generator):
    x = 0.01 * torch.randn(2, 10 * 8000, generator=generator)
    x[:, 5 * 8000 : 7 * 8000] *= 50
    assert loudest(x, 8000, 2.0) == 5.0
    assert loudest(x, 8000, 12.0) == 0.0


def test_fades_touch_the_ends_only():
    y = faded(torch.ones(2, RATE), RATE)
    assert (y[:, [0, -1]] < 1e-4).all()
    assert (y[:, 900:-900] == 1).all()
    assert (y.diff().abs() < 0.01).all()


def test_signals_get_one_loudness_but_silence_stays_silence(mixture):
    x = mixture[0]
    signals = {"reference": x, "loud": 3 * x, "low": 0.3 * x, "silent": 0 * x, "whisper": 0.001 * x}
    y, quiet = aligned(signals, RATE, -23.0, reference="reference")
    for name in ("reference", "loud", "low"):
        assert loudness(y[name], RATE) == pytest.approx(-23, abs=0.05)
    assert quiet == ["silent", "whisper"]
    assert (y["silent"] == 0).all()
    # 60 dB below, lifted by 12
    assert 20 * math.log10(y["whisper"].abs().max() / y["reference"].abs().max()) == pytest.approx(-48, abs=0.1)
    with pytest.raises(ValueError, match="silent"):
        aligned({"reference": 0 * x}, RATE, -23.0, reference="reference")


def test_the_safe_gain_is_that_of_the_highest_true_peak(mixture):
    signals = {"a": mixture[0], "b": 4 * mixture[0]}
    gain = safe_gain(signals)
    assert gain < 1
    assert 20 * math.log10(gain * true_peak(signals["b"])) == pytest.approx(-1, abs=1e-3)
    assert safe_gain({"a": 0.001 * mixture[0]}) == 1.0


# --- building ---


def test_a_page_holds_what_bs1534_asks_for(data, tmp_path):
    key = build(plan(data, anchors=("low", "mid", "mixture")), tmp_path / "test")
    (trial,) = key["trials"]
    assert sorted(trial["signals"].values()) == ["half", "leaky", "low", "mid", "mixture", "reference"]
    assert trial["signals"][trial["reference"]] == REFERENCE
    heard = by_name(tmp_path / "test", tmp_path)
    assert {x.shape for x in heard.values()} == {(2, round(SECONDS * RATE))}
    for x in heard.values():
        assert loudness(x, RATE) == pytest.approx(-23 + 20 * math.log10(key["common_gain"]), abs=0.1)
        assert true_peak(x) <= 10 ** (-1 / 20)
    # the hidden reference, and a system that only halves it, are the excerpt itself, at one gain, in 16 bits
    first = round(trial["start"] * RATE)
    truth = faded(read(data / "ref" / "song" / "vocals.wav")[0][:, first : first + heard["low"].shape[1]], RATE)
    gain = float((heard["reference"] * truth).sum() / truth.square().sum())
    assert (heard["reference"] - gain * truth).abs().max() < 1.1 / 65536
    assert (heard["reference"] - heard["half"]).abs().max() < 1.1 / 32768
    assert heard["leaky"].ne(heard["half"]).any()
    spectrum = torch.fft.rfft(heard["low"]).abs().square().sum(0)
    above = torch.fft.rfftfreq(heard["low"].shape[1], 1 / RATE) > 4500
    assert 10 * math.log10(spectrum[above].sum() / spectrum.sum()) < -50


def test_all_signals_share_the_gain_that_keeps_the_peaks_safe(data, tmp_path):
    quiet, loud = (build(plan(data, lufs=lufs), tmp_path / str(lufs)) for lufs in (-40.0, -10.0))
    assert quiet["common_gain"] == 1.0
    assert loud["common_gain"] < 1
    levels = [loudness(x, RATE) for x in by_name(tmp_path / "-10.0", tmp_path).values()]
    assert max(levels) - min(levels) < 0.1
    peaks = [true_peak(x) for x in sounds(tmp_path / "-10.0", tmp_path).values()]
    assert 20 * math.log10(max(peaks)) == pytest.approx(-1, abs=0.02)


def test_a_page_is_the_same_each_time_and_tells_no_names(data, tmp_path):
    one, two = (
        build(plan(data, pattern="*", stems=("vocals", "drums"), seed=3, title=EVIL), tmp_path / n) for n in "ab"
    )
    assert one == two
    pages = [(tmp_path / n / "index.html").read_text(encoding="utf-8") for n in "ab"]
    assert pages[0] == pages[1]
    assert {(t["track"], t["stem"]) for t in one["trials"]} == {
        (t, s) for t in (EVIL, "song") for s in ("vocals", "drums")
    }
    told = re.search(r'id="test">(.*?)</script>', pages[0])[1]
    assert json.loads(told)["title"] == EVIL
    assert not re.search('leaky|half|song|reference": "reference|mid', told)
    assert "<img" not in pages[0]
    orders = [list(trial["signals"].values()) for trial in one["trials"]]
    places = [sorted(t["signals"], key=lambda code: int(code[1:])) for t in one["trials"]]
    assert (
        len({tuple(o.index(t["signals"][c]) for c in p) for o, p, t in zip(orders, places, one["trials"], strict=True)})
        > 1
    )


def test_a_test_that_has_answers_is_not_written_over(data, tmp_path):
    out = tmp_path / "test"
    key = build(plan(data), out)
    assert build(plan(data, seed=5), out)["id"] != key["id"]  # nobody has answered yet
    (out / "results").mkdir()
    (out / "results" / "one.json").write_text("{}")
    assert build(plan(data, seed=5), out)["seed"] == 5  # the same again
    before = (out / "test.json").read_bytes()
    with pytest.raises(UsageError, match=r"is another test, with answers in .*results: choose another --out"):
        build(plan(data), out)
    assert (out / "test.json").read_bytes() == before


def test_few_trials_are_spread_over_the_tracks(data, tmp_path, caplog):
    key = build(plan(data, pattern="*", stems=(), trials=2, anchors=()), tmp_path / "test")
    assert sorted(t["track"] for t in key["trials"]) == [EVIL, "song"]
    assert "8 excerpts could be tested; 2" in caplog.text


def test_ab_and_abx_compare_every_two(data, tmp_path):
    key = build(plan(data, mode="ab"), tmp_path / "ab")
    assert [sorted(t["signals"].values()) for t in key["trials"]] == [["half", "leaky"]]
    assert "reference" in key["trials"][0]
    key = build(plan(data, "leaky", mode="abx", repeats=5), tmp_path / "abx")
    assert [sorted(t["signals"].values()) for t in key["trials"]] == [["leaky", "reference"]] * 5
    assert "reference" not in key["trials"][0]


def refusal(call, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return str(caught.value)


def test_what_cannot_be_tested_is_refused_with_a_reason(data, tmp_path):
    assert "two systems" in refusal(build, plan(data, "half", mode="ab"), tmp_path)
    assert "no stem 'piano'" in refusal(build, plan(data, stems=("piano",)), tmp_path)
    assert "fits 'nothing'" in refusal(build, plan(data, pattern="nothing"), tmp_path)
    assert "12 seconds" in refusal(build, plan(data, duration=13.0), tmp_path)
    assert "less than a second" in refusal(build, plan(data, start=2.5), tmp_path)
    apart = {"a": find_tracks(data / "sys" / "half")[:1], "b": find_tracks(data / "sys" / "half")[1:]}
    assert "is in all systems" in refusal(build, Plan(apart, find_tracks(data / "ref")), tmp_path)
    strange = {"a": [dataclasses.replace(apart["a"][0], name="else")]}
    assert "a has 'else'" in refusal(build, Plan(strange, find_tracks(data / "ref")), tmp_path)
    many = {f"s{n}": find_tracks(data / "sys" / "half") for n in range(10)}
    assert "13 signals" in refusal(build, Plan(many, find_tracks(data / "ref")), tmp_path)
    assert "no system nobody" in refusal(find_systems, data / "sys", ["nobody"])
    assert "expected <system>" in refusal(find_systems, data / "ref" / "song")
    assert not list(tmp_path.iterdir())


def test_estimates_at_another_rate_are_resampled(data, tmp_path):
    folder = tmp_path / "sys" / "slow" / "song"
    folder.mkdir(parents=True)
    x, _ = read(data / "ref" / "song" / "bass.wav", sample_rate=48000)
    write(folder / "bass.wav", x, 48000)
    build(Plan(find_systems(tmp_path / "sys"), find_tracks(data / "ref"), duration=SECONDS), tmp_path / "test")
    heard = by_name(tmp_path / "test", tmp_path)
    assert sdr(heard["reference"], heard["slow"]) > 40


def test_the_folders_of_mss_separate_are_found(data, tmp_path):
    (tmp_path / "mine" / "hpss").mkdir(parents=True)
    (tmp_path / "mine" / "hpss" / "song").symlink_to(data / "sys" / "half" / "song")
    assert [t.name for t in find_systems(tmp_path)["mine"]] == ["song"]


# --- statistics ---


def test_quantiles_of_student_are_those_of_scipy():
    for degrees in (1, 2, 3, 4, 7, 19, 30, 101):
        for confidence in (0.5, 0.95, 0.99):
            expected = stats.t.ppf((1 + confidence) / 2, degrees)
            assert t_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-9)
    # by hand: 80, 90, 100: mean 90, s = 10, t(2) = 4.3027
    assert mean_interval([80, 90, 100]) == pytest.approx((90, 65.159, 114.841), abs=1e-3)
    assert mean_interval([5.0])[0] == 5.0
    assert math.isnan(mean_interval([5.0])[1])


def test_friedman_is_that_of_scipy_with_ties():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (9, 4)) + np.arange(4)
    expected = stats.friedmanchisquare(*scores.T)
    assert friedman(torch.tensor(scores)) == pytest.approx((expected.statistic, expected.pvalue))
    assert friedman(torch.ones(5, 3)) == (0.0, 1.0)
    assert math.isnan(friedman(torch.ones(5, 2))[0])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_tosses_are_counted_as_scipy_counts_them():
    for hits, n in ((0, 5), (5, 10), (8, 10), (10, 10), (61, 100)):
        for sided, name in ((True, "two-sided"), (False, "greater")):
            expected = stats.binomtest(hits, n, alternative=name).pvalue
            assert binomial(hits, n, two_sided=sided) == pytest.approx(expected)
        low, high = stats.binomtest(hits, n).proportion_ci(0.95)
        assert proportion_interval(hits, n) == pytest.approx((low, high), abs=1e-9)


def test_bradley_terry_finds_the_maximum():
    assert bradley_terry({("a", "b"): 6, ("b", "a"): 2}) == pytest.approx({"a": 0.75, "b": 0.25})
    wins = {("a", "b"): 7, ("b", "a"): 3, ("a", "c"): 8, ("c", "a"): 1, ("b", "c"): 5, ("c", "b"): 4}

    def loss(x):
        s = dict(zip("abc", np.exp([0, *x]), strict=True))
        return -sum(n * math.log(s[i] / (s[i] + s[j])) for (i, j), n in wins.items())

    s = np.exp([0, *optimize.minimize(loss, [0, 0]).x])
    assert list(bradley_terry(wins).values()) == pytest.approx(list(s / s.sum()), abs=1e-4)
    assert all(map(math.isnan, bradley_terry({("a", "b"): 4}).values()))
    unbeaten = {("a", "b"): 4, ("a", "c"): 4, ("b", "c"): 1, ("c", "b"): 1}
    assert all(map(math.isnan, bradley_terry(unbeaten).values()))


# --- answers ---

CONDITIONS = (REFERENCE, "low", "mid", "good", "poor")


def a_key(trials: int = 4, mode: str = "mushra") -> dict:
    names = CONDITIONS if mode == "mushra" else ("good", "poor")
    made = [
        {"id": f"t{i}", "track": f"song {i}", "stem": "vocals", "signals": {f"s{i}{j}": n for j, n in enumerate(names)}}
        for i in range(trials)
    ]
    return {"format": "mss-listening-test", "version": 1, "id": "abc", "mode": mode, "trials": made}


def a_result(key: dict, name: str, answer) -> dict:
    """`answer`: (trial number) -> fields of the answer, with names of conditions in the place of codes."""
    trials = []
    for i, trial in enumerate(key["trials"]):
        codes = {n: c for c, n in trial["signals"].items()}
        said = answer(i)
        if "ratings" in said:
            said = {"ratings": {codes[n]: x for n, x in said["ratings"].items()}}
        else:
            said = {what: codes[n] for what, n in said.items()}
        trials.append({"trial": trial["id"], "signals": list(codes.values()), "seconds": 5, **said})
    about = {"format": "mss-listening-results", "version": 1, "test": key["id"], "participant": name, "seed": 1}
    return {**about, "started": "a", "finished": "b", "volume": 0, "comment": "", "trials": trials}


def rating(reference=100.0, low=20.0, mid=60.0, good=80.0, poor=40.0) -> dict:
    return {"ratings": dict(zip(CONDITIONS, (reference, low, mid, good, poor), strict=True))}


def test_who_cannot_hear_is_screened_out():
    key = a_key(20)
    people = {
        "fine": lambda i: rating(reference=89 if i < 3 else 90),  # 3 of 20 are 15 %, not more
        "deaf": lambda i: rating(reference=89 if i < 4 else 100),
        "kind": lambda i: rating(mid=91 if 4 <= i < 8 else 90),
        **{f"ok{n}": lambda i: rating() for n in range(3)},
    }
    results = [a_result(key, name, answer) for name, answer in people.items()]
    out = screened(answers(key, results))
    assert set(out) == {"deaf", "kind"}
    assert out["deaf"] == "hidden reference below 90 in 4 of 20 items"
    # items whose anchor more than a quarter rate above 90 are hard: nobody is excluded for them
    results[3] = a_result(key, "ok0", lambda i: rating(mid=95 if 4 <= i < 8 else 60))
    assert set(screened(answers(key, results))) == {"deaf"}


def test_the_report_is_that_of_scipy():
    key, rng = a_key(3), np.random.default_rng(1)
    table = rng.integers(0, 60, (9, 3))
    results = [
        a_result(
            key, f"p{n}", lambda i, n=n: rating(poor=float(table[n, i]), good=float(table[n, i] + 20 + 2 * n - 4 * i))
        )
        for n in range(9)
    ]
    results.append(a_result(key, "deaf", lambda i: rating(reference=0, good=0)))
    report = analyse(key, results)
    assert list(report.excluded) == ["deaf"]
    rows = {row[0]: row for row in report.tables[0].rows}
    assert list(rows) == ["reference", "good", "poor", "anchor 7 kHz", "anchor 3.5 kHz"]
    means = table.mean(1)
    low, high = stats.t.interval(0.95, 8, means.mean(), stats.sem(means))
    assert rows["poor"][1:4] == pytest.approx([means.mean(), low, high])
    assert rows["poor"][4:] == pytest.approx([*np.percentile(table, [50, 25, 75]), 27])
    good = means + 20 + 2 * np.arange(9) - 4
    pairs = {row[0]: row for row in report.tables[1].rows}
    raw = [stats.wilcoxon(100 - good).pvalue, stats.wilcoxon(100 - means).pvalue, stats.wilcoxon(good - means).pvalue]
    assert [row[2] for row in pairs.values()] == pytest.approx(raw)
    assert [row[3] for row in pairs.values()] == pytest.approx(holm(raw))
    item = next(t for t in report.tables if t.title == "Item t1: vocals of song 1")
    own = {row[0]: row for row in item.rows}["poor"]
    ends = stats.t.interval(0.95, 8, table[:, 1].mean(), stats.sem(table[:, 1]))
    assert own[1:4] == pytest.approx([table[:, 1].mean(), *ends])
    assert "9 assessors are left" in report.remarks[0]


def test_a_report_without_anybody_left_says_so():
    key = a_key(2)
    report = analyse(key, [a_result(key, "deaf", lambda i: rating(reference=0))])
    assert report.assessors == []
    assert "deaf" in report.text()


def test_preferences_and_identifications_are_counted():
    key = a_key(8, "ab")
    results = [a_result(key, name, lambda i: {"choice": "good" if i < 7 else "poor"}) for name in "xy"]
    row = analyse(key, results).tables[0].rows[0]
    assert row[:4] == ["good - poor", 14, 16, 0.875]
    assert row[6] == pytest.approx(stats.binomtest(14, 16).pvalue)
    key = a_key(8, "abx")
    results = [a_result(key, "x", lambda i: {"x": "good" if i % 2 else "poor", "choice": "good"})]
    row = analyse(key, results).tables[0].rows[0]
    assert row[:4] == ["good - poor", 4, 8, 0.5]
    assert row[6] == pytest.approx(stats.binomtest(4, 8, alternative="greater").pvalue)


def test_names_are_harmless_in_reports():
    key = a_key(2)
    key["trials"][0]["track"] = "a | b `<script>` \x1b[31m"
    report = analyse(key, [a_result(key, "\x1b]0;x\x07" + EVIL, lambda i: rating())])
    assert "\x1b" not in report.text() + report.markdown()
    assert "<script>" not in report.markdown()
    assert "a \\| b" in report.markdown()


def test_figures_draw_what_they_are_given(tmp_path):
    figure = ratings_figure({"reference": [100, 98, 100], "<$x$>": [0, 50], "low": [20]})
    figure.savefig(tmp_path / "a.png")
    assert [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_marker() == "D"] == pytest.approx(
        [298 / 3, 25, 20]
    )
    shares_figure({"a - b": (75, 50, 90)}).savefig(tmp_path / "b.png")
    with pytest.raises(ValueError, match="no ratings"):
        ratings_figure({"a": []})


def test_the_last_results_of_a_participant_count_and_strangers_are_named(tmp_path, caplog):
    key = a_key(2)
    for n, (name, finished, poor) in enumerate((("ann", "2", 30.0), ("ann", "1", 10.0), ("bob", "1", 50.0))):
        result = a_result(key, name, lambda i, poor=poor: rating(poor=poor)) | {"finished": finished}
        (tmp_path / f"{n}.json").write_text(json.dumps(result))
    (tmp_path / "other.json").write_text(json.dumps(a_result(key | {"id": "x"}, "eve", lambda i: rating())))
    results, problems = read_results([tmp_path], key)
    assert [(r["participant"], r["finished"]) for r in results] == [("ann", "2"), ("bob", "1")]
    assert list(problems) == [str(tmp_path / "other.json")]
    assert "'ann' took the test twice" in caplog.text


# --- server ---


@contextlib.contextmanager
def serving(folder: Path, **options) -> Iterator[TestServer]:
    with TestServer(folder, folder / "results", port=0, **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, method, path, body=None, **headers) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.fixture
def built(tmp_path) -> Path:
    """A test with a key of a few trials and a page of a word."""
    (tmp_path / "test.json").write_text(json.dumps(a_key(2)))
    (tmp_path / "index.html").write_text("page")
    return tmp_path


def test_the_server_gives_the_page_and_nothing_else(built):
    with serving(built) as server:
        assert ask(server, "GET", "/") == (200, b"page")
        assert ask(server, "HEAD", "/") == (200, b"")
        for path in ("/test.json", "/../test.json", "/%2e%2e/test.json", "//etc/passwd", "/results", "/results/", "*"):
            status, text = ask(server, "GET", path)
            assert (status, b"mss-listening" in text) == (404, False)
        assert ask(server, "GET", "/", Host="evil.example")[0] == 403  # a name that was made to point here
        assert ask(server, "PUT", "/x.json", b"{}")[0] == 501


def test_good_results_are_kept_once(built):
    said, key = [], a_key(2)
    with serving(built, say=said.append) as server:
        body = json.dumps(a_result(key, "../../ann\0", lambda i: rating())).encode()
        for _ in range(2):
            assert ask(server, "POST", "/results", body)[0] == 200
        assert ask(server, "POST", "/results", body, Origin=f"http://127.0.0.1:{server.server_port}")[0] == 200
    (file,) = (built / "results").iterdir()
    assert re.fullmatch(r"[0-9a-f]{32}\.json", file.name)
    assert len(said) == 3
    assert json.loads(file.read_text())["participant"] == "../../ann\0"
    assert {path.name for path in built.iterdir()} == {"test.json", "index.html", "results"}


def test_hostile_results_are_refused(built, monkeypatch):
    key = a_key(2)
    good = a_result(key, "ann", lambda i: rating())
    text = json.dumps(good)

    def with_(**changes) -> bytes:
        return json.dumps(good | changes).encode()

    def with_answer(**changes) -> bytes:
        return with_(trials=[good["trials"][0] | changes, good["trials"][1]])

    bad = [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"{}",
        with_(test="../../etc/passwd"),
        with_(test=[[]]),
        with_(participant=""),
        with_(participant="x" * 65),
        with_(participant={"a": 1}),
        with_(participant="\ud800"),
        with_(comment="x" * 2001),
        with_(seed=True),
        with_(seed=10**400),
        with_(trials=[]),
        with_(trials=[good["trials"][0]] * 2),
        with_(trials=[{"trial": []}, {"trial": {}}]),
        with_(trials="t0t1"),
        with_answer(ratings={**good["trials"][0]["ratings"], "s00": 101}),
        with_answer(ratings={**good["trials"][0]["ratings"], "extra": 1}),
        with_answer(ratings={"s00": 1}),
        with_answer(signals=["s00"] * 5),
        with_answer(seconds=-1),
        text.replace("100.0", "NaN", 1).encode(),
        text.replace("100.0", "1e999", 1).encode(),
        text.replace("100.0", '"100"', 1).encode(),
    ]
    with serving(built) as server:
        for body in bad:
            assert ask(server, "POST", "/results", body)[0] == 400, body[:200]
        body = text.encode()
        assert ask(server, "POST", "/results", body, Content_Type="text/plain")[0] == 415
        assert ask(server, "POST", "/results", body, Origin="http://evil.example")[0] == 403
        assert ask(server, "POST", "/results", body, Origin="null")[0] == 403
        assert ask(server, "POST", "/other", body)[0] == 404
        assert ask(server, "POST", "/results", None, Content_Type="application/json")[0] == 411
        assert ask(server, "POST", "/results", b"", Content_Length="-5")[0] == 411
        assert ask(server, "POST", "/results", b"", Content_Length="1000001")[0] == 413
        assert ask(server, "POST", "/results", b"", Content_Length="9" * 30)[0] == 413
        monkeypatch.setattr("mss.apps.listening.server.MOST_RESULTS", 0)
        assert ask(server, "POST", "/results", body)[0] == 507
    assert not list((built / "results").iterdir())
    extra = good | {"secret": "x", "trials": [one | {"more": 1} for one in good["trials"]]}
    assert checked(json.dumps(extra).encode(), key) == good  # what does not belong there is not kept
    with pytest.raises(ResultError, match="another test"):
        checked(with_(test="x"), key)


def test_only_loopback_is_local():
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "0.0.0.0", "", "192.168.0.2", "::1")] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]


# --- the verb ---


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_serving_the_network_is_warned_of(built, capsys, monkeypatch, host):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(TestServer, "serve_forever", interrupted)
    assert main(["serve", str(built), "--host", host, "--port", "0"]) == 0
    said = capsys.readouterr()
    assert ("everybody in the network" in said.err) == (host == "0.0.0.0")
    assert f"the test is at http://{host}:" in said.out


def test_the_verb_builds_and_analyses(data, tmp_path, capsys):
    out = str(tmp_path / "test")
    common = [str(data / "sys"), str(data / "ref"), "-o", out, "--tracks", "song", "--duration", "1.5"]
    assert main(["build", *common, "--stems", "vocals", "--question", "interference"]) == 0
    key = read_key(tmp_path / "test")
    assert key["question"].startswith("How well are the other sources removed")
    assert main(["analyse", out]) == 2
    assert "no results" in capsys.readouterr().err
    (tmp_path / "test" / "results").mkdir()
    codes = {name: code for code, name in key["trials"][0]["signals"].items()}
    for n in range(3):
        ratings = {codes[name]: x + n for name, x in zip(codes, (95, 10, 40, 70, 50), strict=True)}
        one = {"trial": "t1", "signals": list(codes.values()), "seconds": 1, "ratings": ratings}
        result = a_result(key | {"trials": []}, f"p{n}", None) | {"trials": [one]}
        (tmp_path / "test" / "results" / f"{n}.json").write_text(json.dumps(result))
    (tmp_path / "test" / "results" / "broken.json").write_text("{")
    assert main(["analyze", out]) == 1  # for the broken one
    said = capsys.readouterr()
    assert "broken.json" in said.err
    assert "MUSHRA, 3 assessors" in said.out
    made = tmp_path / "test" / "analysis"
    assert {p.name for p in made.iterdir()} == {
        "report.txt", "report.md", "answers.csv", "statistics.csv", "statistics.json", "plot.png",
    }  # fmt: skip
    rows = list(csv.DictReader((made / "answers.csv").open(encoding="utf-8")))
    assert len(rows) == 15
    assert {row["condition"] for row in rows} == set(codes)
    whole = json.loads((made / "statistics.json").read_text(encoding="utf-8"))
    assert whole["tables"][0]["rows"][0]["mean"] == pytest.approx(96)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["build", "nowhere", "nowhere"], "nowhere is not a folder"),
        (["build", "x", "x", "--lufs", "0"], "--lufs"),
        (["build", "x", "x", "--repeats", "3"], "--mode ab and abx"),
        (["build", "x", "x", "--trials", "0"], "--trials"),
        (["build", "x", "x", "--duration", "nan"], "--duration"),
        (["serve", "nowhere"], "nowhere is not a folder"),
        (["serve", "nowhere", "--port", "70000"], "--port"),
        (["analyse", "nowhere"], "give the folder that `build` wrote"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence(arguments, text, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


# --- the page ---


def opened(browser, url: str, **options):
    """A page, and what it complains of."""
    page = browser.new_context(**options).new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.goto(url)
    return page, problems


def begin(page, name: str) -> None:
    page.fill("#participant", name)
    page.click("#begin button")
    ready(page)


def ready(page) -> None:
    until(page, "document.querySelector('#todo').textContent.startsWith('Still')")


def until(page, expression: str, seconds: float = 20) -> None:
    """Playwright's own way of waiting needs `eval`, which the page's policy forbids."""
    for _ in range(round(seconds / 0.05)):
        if page.evaluate(expression):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{expression} did not become true in {seconds} s")


def listen(page, labels: str) -> None:
    """Hears what these keys stand for for as long as it takes."""
    for key in labels:
        page.keyboard.press(key)
        label = "Reference" if key == "R" else key if key.isalpha() else "ABCDEFGH"[int(key) - 1]
        until(page, f"(shown.heard[{label!r}] ?? 0) >= 1")


def mulberry(seed: int) -> Iterator[float]:
    """The generator of the page, in Python."""

    def multiply(a: int, b: int) -> int:
        return (a * b) & 0xFFFFFFFF

    while True:
        seed = (seed + 0x6D2B79F5) & 0xFFFFFFFF
        t = multiply(seed ^ (seed >> 15), 1 | seed)
        t = ((t + multiply(t ^ (t >> 7), 61 | t)) & 0xFFFFFFFF) ^ t
        yield (t ^ (t >> 14)) / 2**32


def shuffled(items: Iterable, random: Iterator[float]) -> list:
    items = list(items)
    for i in range(len(items) - 1, 0, -1):
        j = int(next(random) * (i + 1))
        items[i], items[j] = items[j], items[i]
    return items


def test_a_whole_session_in_a_browser(browser, data, tmp_path):
    folder = tmp_path / "test"
    key = build(plan(data, "half", title=EVIL), folder)
    (trial,) = key["trials"]
    name = EVIL + " ä"
    with serving(folder) as server:
        page, problems = opened(browser, server.url, accept_downloads=True)
        assert page.title() == EVIL
        begin(page, name)
        assert page.inner_text("#place") == "Training"
        assert page.is_disabled("#next")
        listen(page, "R1234")
        for _ in range(20):  # the keyboard alone, from slider to slider
            page.keyboard.press("Tab")
            if page.evaluate(
                "document.activeElement.type === 'range' && Boolean(document.activeElement.closest('.row'))"
            ):
                page.keyboard.press("ArrowRight")
        page.click("#next")
        ready(page)
        assert page.inner_text("#place") == "Trial 1 of 1"
        listen(page, "R12")
        assert page.evaluate("player.playing")
        gains = page.evaluate("Object.fromEntries(player.names.map((n) => [n, player.node(n).gain.value]))")
        assert {label: round(gain, 3) for label, gain in gains.items()} == {
            "Reference": 0,
            "A": 0,
            "B": 1,
            "C": 0,
            "D": 0,
        }
        page.keyboard.press(" ")
        assert not page.evaluate("player.playing")
        page.locator(".scale input").nth(0).fill("0")
        page.reload()  # what was done is kept
        begin(page, name)
        assert page.inner_text("#todo") == "Still to do: listen to C, D; rate B, C, D."
        listen(page, "34")
        for n in range(1, 4):
            assert page.is_disabled("#next")
            page.locator(".scale input").nth(n).fill(str(33 * n))
        page.click("#next")
        page.fill("#comment", "fine")
        with page.expect_download() as download:
            page.click("#save")
        saved, named = Path(download.value.path()).read_bytes(), download.value.suggested_filename
        page.click("#send")
        until(page, "document.querySelector('#outcome').textContent.includes('have arrived')")
        page.context.close()
    assert problems == []
    (file,) = (folder / "results").iterdir()
    result = checked(saved, key)
    assert json.loads(file.read_text(encoding="utf-8")) == result
    assert named.startswith(f"listening-{key['id'][:8]}-img-src")
    assert (result["participant"], result["comment"]) == (name, "fine")
    # the order is the one that the name decides
    seed = 0x811C9DC5
    for byte in f"{key['id']}\n{name}".encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    assert result["seed"] == seed
    random = mulberry(seed)
    assert shuffled([0], random) == [0]
    order = shuffled(sorted(trial["signals"]), random)
    assert result["trials"][0]["signals"] == order
    # and what was moved is what is analysed
    assert main(["-q", "analyse", str(folder)]) in (0, 2)
    said = {one["condition"]: one["rating"] for one in answers(key, [result])}
    assert said == {trial["signals"][code]: 33 * n for n, code in enumerate(order)}
    assert (folder / "analysis" / "plot.png").exists() == (said[REFERENCE] >= 90)


@pytest.mark.parametrize("mode", ["ab", "abx"])
def test_a_choice_in_a_browser(browser, data, tmp_path, mode):
    key = build(plan(data, mode=mode), tmp_path)
    page, problems = opened(browser, (tmp_path / "index.html").as_uri(), viewport={"width": 390, "height": 844})
    begin(page, "ann")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("session.at = 0; show()")  # past the training
    ready(page)
    listen(page, "RAB" if mode == "ab" else "ABX")
    page.click("#choices button:nth-child(1)")
    page.click("#choices button:nth-child(2)")
    pressed = page.locator("#choices button").evaluate_all("all => all.map((one) => one.ariaPressed)")
    assert pressed == ["false", "true"]
    page.click("#next")
    page.wait_for_selector("#finish:not([hidden])")
    result = checked(page.evaluate("results()").encode(), key)
    (one,) = result["trials"]
    assert one["choice"] == one["signals"][1]
    assert mode == "ab" or one["x"] in one["signals"]
    assert page.is_hidden("#send")  # nobody to send to
    for seed in (0, 7, 2**32 - 1):
        drawn = page.evaluate(f"shuffled([...Array(40).keys()], generator({seed}))")
        assert drawn == shuffled(range(40), mulberry(seed))
    page.context.close()
    assert problems == []


OFFLINE = """
window.AudioContext = class extends OfflineAudioContext {
  constructor() { super(1, 44100 * 4, 44100); }
  resume() { return this.rendering ? super.resume() : Promise.resolve(); }
};
"""
RENDER = """async () => {
  const context = player.context;
  context.suspend(0.5).then(() => { choose("B"); context.resume(); });
  context.suspend(1.0).then(() => { choose("Reference"); context.resume(); });
  let wrap = 0;
  context.suspend(2.2).then(() => {
    wrap = context.currentTime + 0.02 + 0.8 - player.time;
    loop(0.2, 0.8);
    context.resume();
  });
  choose("A");
  await Promise.resolve();
  context.rendering = true;
  const out = (await context.startRendering()).getChannelData(0);
  const packed = (x) => {
    const bytes = new Uint8Array(x.slice().buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
    return btoa(text);
  };
  const own = Object.fromEntries(["A", "B", "Reference"].map((n) => [n, packed(player.buffer(n).getChannelData(0))]));
  return { out: packed(out), wrap: packed(Float32Array.of(wrap)), ...own };
}"""


def test_switching_is_in_sync_and_without_a_click(browser, data, tmp_path):
    """The samples that leave the page, rendered as fast as can be."""
    for system in ("half", "leaky"):
        for path in (data / "sys" / system).rglob("song/vocals.wav"):
            target = tmp_path / "mono" / system / "song" / "vocals.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            write(target, read(path)[0][:1], RATE)
    (tmp_path / "true" / "song").mkdir(parents=True)
    write(tmp_path / "true" / "song" / "vocals.wav", read(data / "ref" / "song" / "vocals.wav")[0][:1], RATE)
    build(Plan(find_systems(tmp_path / "mono"), find_tracks(tmp_path / "true"), duration=SECONDS), tmp_path / "test")
    page = browser.new_context().new_page()
    page.add_init_script(OFFLINE)
    page.goto((tmp_path / "test" / "index.html").as_uri())
    begin(page, "ann")
    found = {name: np.frombuffer(base64.b64decode(x), "<f4") for name, x in page.evaluate(RENDER).items()}
    page.context.close()
    out, n = found["out"], len(found["A"])
    assert n == round(SECONDS * RATE)
    begun = round(0.02 * RATE)
    now = np.arange(n) + begun
    fade = round(0.02 * RATE)
    first, second = round(0.5 * RATE), round(1.0 * RATE)
    for name, low, high in (
        ("A", begun, first),
        ("B", first + fade, second),
        ("Reference", second + fade, begun + n - fade),
    ):
        inside = (now >= low) & (now < high)
        assert inside.sum() > 15000
        np.testing.assert_allclose(out[now][inside], found[name][inside], atol=2e-6)
    # the second time round, from the same sample on, until a part of it is chosen, which is left and begun softly
    again = slice(fade, round(0.6 * RATE))
    np.testing.assert_allclose(out[now + n][again], found["Reference"][again], atol=2e-6)
    wrap, region = round(float(found["wrap"][0]) * RATE), found["Reference"][round(0.2 * RATE) : round(0.8 * RATE)]
    part = slice(fade, -fade)
    np.testing.assert_allclose(out[wrap : wrap + len(region)][part], region[part], atol=2e-6)
    for edge, own in ((out[wrap - 20 : wrap], region[-20:]), (out[wrap : wrap + 20], region[:20])):
        assert np.abs(own).max() > 1e-3
        assert np.abs(edge).max() < 0.05 * np.abs(own).max()
    # a switch takes 15 ms, in which the sound is ever less of the one and more of the other
    for old, new, at in (("A", "B", first), ("B", "Reference", second)):
        here = np.arange(at - 200, at + fade)
        x, y, z = found[old][here - begun], found[new][here - begun], out[here]
        apart = np.abs(x - y) > 1e-3
        assert apart.sum() > 300
        share = (z - x)[apart] / (y - x)[apart]
        assert np.diff(share).min() > -2e-3
        assert np.diff(share).max() < 0.1
        assert 0.5 < ((share > 0.01) & (share < 0.99)).mean() / (0.015 * RATE / len(here)) < 1.5
    steps = max(np.abs(np.diff(found[name])).max() for name in ("A", "B", "Reference"))
    assert np.abs(np.diff(out)).max() <= 1.2 * steps
