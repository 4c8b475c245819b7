"""Scores of data sets: what has a number, what has a reason instead, and what the files say."""

import csv
import importlib
import importlib.util
import json
import math
import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from mss.apps import leaderboard_page as sheet
from mss.metrics import bss_eval, scores, snr, usdr
from mss.metrics import leaderboard as board

RATE = 8000
NAMES = ("vocals", "accompaniment")


@pytest.fixture
def signals(generator) -> tuple[torch.Tensor, torch.Tensor]:
    """References and estimates (2, 1, t) of 2.5 s."""
    s = torch.randn(2, 1, 5 * RATE // 2, generator=generator) * 0.1
    return s, s + 0.3 * s.flip(0) + 0.01 * torch.randn(s.shape, generator=generator)


def scores_of(s, y, **options):
    return scores.score(s, y, NAMES[: len(s)], sample_rate=RATE, **options)


def results(system, values, *, protocol="2-source", failed=None, about=None) -> scores.Results:
    """A system whose tracks have these SDRs, one (targets, frames) list for each."""
    tracks = []
    for name, sdr in values.items():
        frames = torch.tensor(sdr, dtype=torch.float64).expand(4, -1, -1)  # (4, n, k)
        targets = [scores.TargetScores(NAMES[j], frames[:, j], sdr[j][0], sdr[j][0]) for j in range(len(sdr))]
        tracks.append(scores.TrackScores(name, "test", targets, 1.0, 1.0, about or {"data": "d"}))
    return scores.Results(system, protocol, tracks, failed or {}, about or {"data": "d"})


def saved(out: Path, *all_results: scores.Results) -> list[board.Board]:
    for one in all_results:
        folder = out / one.protocol / one.system
        for track in one.tracks:
            scores.write_track(track, folder / "test" / f"{track.track}.json")
        board.write_summary(one, folder)
    boards = board.leaderboard(scores.read_results(out))
    sheet.write_leaderboard(boards, out)
    return boards


# Scores


def test_scores_are_those_of_the_metrics(signals):
    found = scores_of(*signals, window=0.5, hop=0.25)
    expected = bss_eval(*signals, window=RATE // 2, hop=RATE // 4)
    assert torch.equal(torch.stack([x.frames for x in found], 1), torch.stack(expected[:4]))
    assert [x.sdr for x in found] == pytest.approx(snr(*(x.double() for x in signals)).tolist())
    assert [x.usdr for x in found] == pytest.approx(usdr(*(x.double() for x in signals)).tolist())
    assert [(x.name, x.note, x.valid) for x in found] == [(name, "", 9) for name in NAMES]


def test_a_silent_reference_has_a_reason_and_does_not_cost_the_others_their_scores(signals, generator):
    s, y = signals
    three = torch.cat([s, torch.zeros_like(s[:1])]), torch.cat([y, torch.randn(1, *s.shape[1:], generator=generator)])
    found = scores.score(*three, ("a", "b", "c"), sample_rate=RATE)
    assert torch.equal(torch.stack([x.frames for x in found[:2]]), torch.stack([x.frames for x in scores_of(s, y)]))
    assert found[2].frames.isnan().all()
    assert found[2].frames.shape == found[0].frames.shape
    assert math.isnan(found[2].sdr)
    assert found[2].note == "no score: the reference is silent"
    assert all(x.frames.isnan().all() for x in scores_of(torch.zeros_like(s), y))


def test_a_silent_estimate_does_not_change_the_scores_of_the_others(signals):
    s, y = signals
    mute = torch.stack([y[0], torch.zeros_like(y[1])])
    found, expected = scores_of(s, mute), scores_of(s, y)
    assert torch.allclose(found[0].frames, expected[0].frames, atol=1e-9)
    assert found[1].frames.isnan().all()
    assert found[1].note == "no frames: the estimate is silent"
    assert found[1].sdr == 0  # |s|² over |s - 0|²


def test_frames_without_a_score_are_counted(signals):
    s, y = (x.clone() for x in signals)
    s[1, :, :RATE] = 0
    found = scores_of(s, y)
    assert [x.valid for x in found] == [1, 1]
    assert found[0].frames[:, 0].isnan().all()
    assert "1 of 2 frames left out" in found[0].note
    assert found[0].medians()["SDR"] == found[0].frames[0, 1]
    perfect = scores.TargetScores("vocals", torch.tensor([[math.inf, math.inf, 3.0, 2.0, 1.0]] * 4), 1.0, 1.0)
    assert perfect.medians()["SDR"] == 2  # a file would have no number for the first two


def test_short_alone_and_perfect_are_said(signals):
    s, y = signals
    short = scores_of(s[..., :4000], y[..., :4000])
    assert short[0].frames.shape == (4, 1)
    assert short[0].note == "shorter than a window: one frame"
    alone = scores_of(torch.stack([s[0], s[1] * 0]), y)[0]
    assert "no SIR: all other references are silent" in alone.note
    assert "without any error" in scores_of(s, s)[0].note


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, y: (s, [y[0], y[1][:, :-1]]), "accompaniment: the reference has 20000 samples.*the estimate 19999"),
        (lambda s, y: (s, [y[0].expand(2, -1), y[1]]), "vocals: .* of 1 channels, the estimate 20000 of 2"),
        (lambda s, y: (s, [y[0] / 0, y[1]]), "vocals: the estimate holds samples that are not finite"),
    ],
)
def test_signals_that_cannot_be_compared(spoil, message, signals):
    with pytest.raises(ValueError, match=message):
        scores_of(*spoil(*signals))


# Files


def museval():
    """museval itself; what it imports to read music, which wants an ffmpeg binary, is not needed to read scores."""
    stub = types.ModuleType("musdb")
    try:
        sys.modules.setdefault("musdb", stub)
        return importlib.import_module("museval")
    finally:  # other tests look for the true one
        if sys.modules.get("musdb") is stub:
            del sys.modules["musdb"]


def test_peass_hears_the_loudest_part_and_stands_in_the_files(monkeypatch, signals, tmp_path):
    from mss.metrics.peass import PEASS

    s, y = (x.clone() for x in signals)
    s[..., RATE : RATE + 800] *= 10
    heard = []

    def listener(references, estimates, sample_rate):
        heard.append((references, estimates, sample_rate))
        return PEASS(*(torch.tensor([10.0 * i, float("nan")]) for i in range(4)))

    monkeypatch.setattr(scores, "peass", listener)
    targets = scores_of(s, y, peass_seconds=0.1)
    ((references, estimates, rate),) = heard
    assert rate == RATE
    assert torch.equal(references, s[..., RATE : RATE + 800])
    assert torch.equal(estimates, y[..., RATE : RATE + 800])
    path = tmp_path / "2-source" / "a" / "test" / "x.json"
    scores.write_track(scores.TrackScores("x", "test", targets, 1.0, 1.0, {"data": "d"}), path)
    assert list(scores.read_track(path).targets[0].peass.items()) == [("OPS", 0), ("TPS", 10), ("IPS", 20), ("APS", 30)]
    one = scores.Results("a", "2-source", [scores.read_track(path)], {}, {"data": "d"})
    head, rows = board.long_table(board.leaderboard([one, results("b", {"x": [[1.0], [2.0]]})])[0])
    assert head[-5:] == ["OPS", "TPS", "IPS", "APS", "frames"]
    cells = {(row[0], row[1]): row[-5:-1] for row in rows}
    assert cells["a", "vocals"] == ["0.00", "10.00", "20.00", "30.00"]
    assert cells["a", "accompaniment"] == cells["b", "vocals"] == ["–"] * 4
    assert scores_of(s, y)[0].peass == {}


def test_track_files_are_those_of_museval(signals, tmp_path):
    import jsonschema

    s, y = signals
    s[1, :, :RATE] = 0  # a frame of NaN
    path = tmp_path / "test" / "it's.json"
    scored = scores.TrackScores("it's", "test", scores_of(s, y), 1.0, 1.0, {"data": "d"})
    scores.write_track(scored, path)
    content = json.loads(path.read_text())
    schema = Path(importlib.util.find_spec("museval").submodule_search_locations[0]) / "musdb.schema.json"
    jsonschema.validate(content, json.loads(schema.read_text()))
    store = museval().EvalStore()
    store.add_eval_dir(tmp_path)
    theirs = store.agg_frames_tracks_scores()
    for target in scored.targets:
        for metric in scores.METRICS:
            assert theirs[target.name][metric] == pytest.approx(target.medians()[metric], abs=1e-5)
    back = scores.read_track(path)
    assert back.about == scored.about
    for a, b in zip(back.targets, scored.targets, strict=True):
        assert torch.allclose(a.frames, b.frames, atol=1e-5, equal_nan=True)
        assert (a.name, a.sdr, a.usdr, a.note) == (b.name, b.sdr, b.usdr, b.note)


def test_the_campaign_can_compare_systems_by_method_store(tmp_path):
    saved(tmp_path, results("a", {"x": [[1, 2], [3, 4]]}), results("b", {"x": [[5, 6], [7, 8]]}))
    store = museval().MethodStore()
    for name in "ab":
        store.add_eval_dir(tmp_path / "2-source" / name)
    assert store.agg_frames_tracks_scores()["b"]["vocals"]["SDR"] == 5.5


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        scores.write_text(tmp_path / "x.json", "a" * 100 + "\udc80")
    assert list(tmp_path.iterdir()) == []
    scores.write_text(tmp_path / "x.json", "1")
    scores.write_text(tmp_path / "x.json", "2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["2"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"targets": [{}]}', '{"targets": 3}'])
def test_damaged_files_are_named(text, tmp_path):
    path = tmp_path / "2-source" / "a" / "summary.json"
    scores.write_text(path, text)
    with pytest.raises(ValueError, match=r"summary\.json: not a summary"):
        scores.read_results(tmp_path)
    with pytest.raises(ValueError, match="not the scores of a track"):
        scores.read_track(path)


def test_scores_made_with_other_settings_are_not_mixed_in(tmp_path):
    saved(tmp_path, results("a", {"x": [[1], [1]]}, about={"data": "d", "hop": 2}), results("a", {"y": [[2], [2]]}))
    (found,) = scores.read_results(tmp_path)
    assert [track.track for track in found.tracks] == ["x", "y"]  # the summary is about d, whatever the hop
    saved(tmp_path, results("a", {"y": [[2], [2]]}, about={"data": "d", "hop": 1}))
    (found,) = scores.read_results(tmp_path)
    assert [track.track for track in found.tracks] == ["y"]


# Statistics


def test_medians_of_medians_means_and_what_is_left_out():
    nan = math.nan
    line = board.entry(
        results("a", {"x": [[1, 9, 2], [0, 0, 0]], "y": [[4, nan, 5], [1, 1, 1]], "z": [[nan] * 3, [2, 2, 2]]})
    )
    s = line.targets["vocals"]["SDR"]
    assert (s.median, s.mean, s.tracks) == ((2 + 4.5) / 2, (2 + 4.5) / 2, 2)
    assert line.targets["accompaniment"]["SDR"].median == 1
    assert line.frames == {"vocals": (5, 9), "accompaniment": (9, 9)}
    assert line.note == "1 with a target without score"
    assert line.mean == pytest.approx((3.25 + 1) / 2)


def test_bootstrap_intervals_are_seeded_and_cover(generator):
    x = torch.randn(40, generator=generator).tolist()
    first = board.statistic(x, seed=1)
    assert first == board.statistic(x, seed=1)
    assert first != board.statistic(x, seed=2)
    covered = 0
    for _ in range(200):
        s = board.statistic(torch.randn(30, generator=generator).tolist(), resamples=300)
        assert s.low <= s.median <= s.high
        covered += s.low <= 0 <= s.high
    assert 0.88 <= covered / 200 <= 0.99
    alone = board.statistic([3.0])
    assert (alone.median, alone.tracks) == (3.0, 1)
    assert math.isnan(alone.low)
    assert board.statistic([math.nan]).tracks == 0


# Leaderboard


def test_boards_are_ordered_and_protocols_kept_apart(tmp_path):
    boards = saved(
        tmp_path,
        results("weak", {"x": [[1], [1]], "y": [[1], [1]]}),
        results("strong", {"x": [[5], [7]], "y": [[6], [8]]}, failed={"z": "no such | file"}),
        results("silent", {"x": [[math.nan], [math.nan]], "y": [[math.nan], [math.nan]]}),
        results("weak", {"x": [[3], [3]]}, protocol="4-source"),
        results("strong", {"x": [[3], [3]]}, about={"data": "other"}, protocol="3-source"),
    )
    assert [board.protocol for board in boards] == ["2-source", "3-source", "4-source"]
    assert [line.system for line in boards[0].entries] == ["strong", "weak", "silent"]
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.index("| strong | 5.50 [5.00, 6.00] | 7.50 [7.00, 8.00] | 6.50 | 2 | 1 failed |") < text.index(
        "| weak | 1.00"
    )
    assert "failed, strong, z: no such | file" in text
    with (tmp_path / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = (
        x
        for x in rows
        if (x["protocol"], x["system"], x["target"], x["metric"]) == ("2-source", "strong", "vocals", "SDR")
    )
    assert float(row["median"]) == 5.5
    with (tmp_path / "tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2 + 2 + 2 + 1
    assert {x["note"] for x in rows} == {"", "failed: no such | file"}
    assert {x["SDR"] for x in rows if x["system"] == "silent"} == {""}


def test_lines_that_cannot_be_compared_are_pointed_out(tmp_path):
    (board,) = saved(
        tmp_path,
        results("a", {"x": [[1], [1]], "y": [[1], [1]]}, about={"data": "d", "scoring": {"hop": 1}}),
        results("b", {"x": [[1], [1]]}, about={"data": "d", "scoring": {"hop": 2}}),
    )
    assert any("b has 1 of the 2 tracks" in warning for warning in board.warnings)
    assert any("scored differently" in warning for warning in board.warnings)
    for name in ("leaderboard.md", "leaderboard.html"):
        assert "b has 1 of the 2 tracks" in (tmp_path / name).read_text()


def test_lines_from_elsewhere_stand_in_their_protocol():
    published = board.Entry(
        "U-Net", {"vocals": {"SDR": board.Statistic(3, math.nan, math.nan, 3, 50)}}, 50, note="SiSEC 2018"
    )
    boards = board.leaderboard([results("a", {"x": [[1], [1]]})], others={"2-source": [published], "4-source": []})
    assert [line.system for line in boards[0].entries] == ["U-Net", "a"]
    assert "| U-Net | 3.00 | – | 3.00 | 50 | SiSEC 2018 |" in board.markdown(boards)
    assert "U-Net" in sheet.page(boards)


class Page(HTMLParser):
    """Collects the tags of a page and checks that they nest."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(tmp_path):
    hostile = '<script>alert("x")</script> & "co"'
    one = results("a</style>", {hostile: [[1, 2], [3, 4]], "b": [[0, 0], [2, 2]], "c": [[math.nan] * 2, [2, 3]]})
    one.failed["d"] = "<b>why</b>"
    one.tracks[0].targets[0].audio = "estimates/a #1?/ü.wav"
    text = sheet.page(board.leaderboard([one]))
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    addresses = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
    assert addresses == ["estimates/a%20%231%3F/%C3%BC.wav"]
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "<b>why" not in text
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    assert sum(tag == "circle" for tag, _ in page.tags) == 2 + 3  # the track without a score has no dot
    rows = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td>", text[text.index("the worst first") :])
    assert [name for name, _ in rows] == [
        "c",
        "b",
        "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &quot;co&quot;",
    ]


def test_box_plots_are_where_the_numbers_are():
    text = sheet.page(board.leaderboard([results("a", {str(i): [[i], [i]] for i in range(11)})]))
    svg = text[text.index("<svg") : text.index("</svg>")]
    ticks = {int(v): float(x) for x, v in re.findall(r'class="tick" x="([\d.]+)"[^>]*>(-?\d+)<', svg)}
    scale = np.polyfit(list(ticks), list(ticks.values()), 1)
    (median,) = re.findall(r'class="median" x1="([\d.]+)"', svg)
    (box, width) = re.findall(r'class="box" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)[0]
    assert float(median) == pytest.approx(np.polyval(scale, 5), abs=0.2)
    assert float(box) == pytest.approx(np.polyval(scale, 2.5), abs=0.2)
    assert float(width) == pytest.approx(scale[0] * 5, abs=0.2)
