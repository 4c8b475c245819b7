"""Scores that travel in a checkpoint: those that the evaluation wrote come out again, and the weights stay as they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mss
from mss import checkpoint, evaluate, share
from mss.apps.carried import ScoresError, packed, tables, unpack, unpacked
from mss.checkpoint import CheckpointError
from mss.metrics.scores import TargetScores, TrackScores, read_results, read_track, write_track
from tests.test_checkpoint import tiny
from tests.test_hostile import raw
from tests.test_share import home  # noqa: F401

SYSTEM = "2-source/model"


@pytest.fixture(scope="module")
def evaluated(excerpt_path, tmp_path_factory) -> Path:
    """A folder with model.safetensors, and in out/ its scores of the excerpt."""
    folder = tmp_path_factory.mktemp("evaluated")
    mss.save(tiny(), folder / "model.safetensors", licence="MIT", metrics={"sdr": 1.0})
    (folder / "musdb").mkdir()
    (folder / "musdb" / excerpt_path.name).symlink_to(excerpt_path)
    options = {"data": folder / "musdb", "separator": folder / "model.safetensors", "out": folder / "out"}
    assert evaluate.main([*(f"{k}={v}" for k, v in options.items()), "rename=[rest:accompaniment]", "quiet=true"]) == 0
    return folder


@pytest.fixture
def model(evaluated, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes((evaluated / "model.safetensors").read_bytes())
    return path


def weights(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_scores_of_real_music_come_out_as_they_went_in(evaluated, model, tmp_path, capsys):
    before = checkpoint.read_header(model)
    assert share.main(["score", str(model), str(evaluated / "out")]) == 0
    header = checkpoint.read_header(model)
    assert {name for name in header if header[name] != before.get(name)} == {"scores"}
    assert weights(model) == weights(evaluated / "model.safetensors")
    assert all(torch.equal(tensor, load_file(model)[name]) for name, tensor in tiny().state_dict().items())
    mss.load(model)
    assert str(tmp_path) not in json.dumps(header)  # whose folders it lay in is nobody's business
    assert share.main(["scores", str(model), "-o", str(tmp_path / "back")]) == 0
    (path,) = (evaluated / "out" / SYSTEM / "test").glob("*.json")
    back = tmp_path / "back" / SYSTEM
    written = json.loads((back / "test" / path.name).read_text())
    original = json.loads(path.read_text())
    assert original["mss"]["system"].pop("source").endswith("/model.safetensors")
    assert written["mss"]["system"].pop("source") == "separator=model.safetensors"
    assert json.dumps(written) == json.dumps(original)  # as text: NaN is not equal to itself
    summary = json.loads((back / "summary.json").read_text())
    assert summary["targets"] == json.loads((evaluated / "out" / SYSTEM / "summary.json").read_text())["targets"]
    (results,) = read_results(tmp_path / "back")  # and mss.evaluate's leaderboard has it
    assert [track.track for track in results.tracks] == [path.stem]
    capsys.readouterr()
    assert share.main(["scores", str(model), "-o", str(tmp_path / "back")]) == 1
    assert "is there already" in capsys.readouterr().err


def test_medians_take_less_and_are_those_of_the_frames(evaluated, model, tmp_path):
    full = model.stat().st_size
    assert share.main(["score", str(model), str(evaluated / "out" / SYSTEM)]) == 0
    full = model.stat().st_size - full
    (track,) = unpacked(checkpoint.read_header(model)["scores"])[0].tracks
    assert share.main(["score", "--medians", str(model), str(evaluated / "out")]) == 0
    scores = checkpoint.read_header(model)["scores"]
    (short,) = unpacked(scores)[0].tracks
    assert all(target.frames.shape == (4, 1) for target in short.targets)
    assert [target.medians() for target in short.targets] == [target.medians() for target in track.targets]
    assert short.window == 6  # seconds of the excerpt
    assert model.stat().st_size - (evaluated / "model.safetensors").stat().st_size < full
    unpack(scores, tmp_path / "back")
    path = next((tmp_path / "back" / SYSTEM / "test").glob("*.json"))
    assert read_track(path).targets[0].medians() == pytest.approx(track.targets[0].medians(), abs=1e-5)


def test_info_and_card_show_every_track(evaluated, model, capsys):
    share.main(["score", "-q", str(model), str(evaluated / "out")])
    (path,) = (evaluated / "out" / SYSTEM / "test").glob("*.json")
    expected = [f"{target.medians()['SDR']:.2f}" for target in read_track(path).targets]
    assert share.main(["info", str(model)]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert next(line for line in lines if line.startswith(path.stem)).removeprefix(path.stem).split() == expected
    head = next(i for i, line in enumerate(lines) if line.startswith("target "))
    assert lines[head].split()[1:5] == ["SDR", "ISR", "SIR", "SAR"]
    assert lines[head + 1].split()[:2] == ["vocals", expected[0]]
    assert share.main(["card", str(model)]) == 0
    assert f"| {path.stem} | {' | '.join(expected)} |" in capsys.readouterr().out


def of(digest: str, folder: Path, *, tracks: int = 1, frames: int = 3, system: str = "s", protocol: str = "2-source"):
    """Scores as mss.evaluate writes them, some of them NaN and infinite."""
    about = {"system": {"source": f"separator=/a/{system}.safetensors", "revision": digest}, "data": "d"}
    for number in range(tracks):
        x = torch.arange(4.0 * frames, dtype=torch.float64).reshape(4, frames).clone()
        x[:, 1] = torch.nan
        targets = [TargetScores("vocals", x, float("inf"), 1.25, "a note", peass={"OPS": 50.0})]
        path = folder / protocol / system / "test" / f"ünü | {number}.json"
        write_track(TrackScores(path.stem, "test", targets, 1.0, 0.5, {**about, "files": {"": [number]}}), path)
    content = {"system": system, "protocol": protocol, "failed": {"x": "broken"}, "about": about}
    (folder / protocol / system / "summary.json").write_text(json.dumps(content))
    return folder


@pytest.mark.filterwarnings("ignore:invalid value")  # of the bootstrap of what is endless
def test_frames_without_a_score_and_endless_ones_are_kept(tmp_path):
    packet = json.loads(json.dumps(packed(of("1", tmp_path / "in", tracks=2), "1")))
    assert packet["2-source"]["tracks"][0]["targets"][0]["frames"][0] == [0.0, None, 2.0]
    unpack(packet, tmp_path / "out")
    for path in sorted((tmp_path / "in").rglob("test/*.json")):
        back = (tmp_path / "out" / path.relative_to(tmp_path / "in")).read_text()
        assert back == path.read_text().replace("/a/s.safetensors", "s.safetensors")
    (medians, each) = tables(packet)
    assert medians.rows[0][:2] == ["vocals", 1.0]
    assert [row[0] for row in each.rows] == ["ünü | 0", "ünü | 1", "x (failed)"]


def test_scores_of_a_whole_test_set_fit(tmp_path, model):
    """Fifty songs of four minutes, one target, in frames of a second: a header has room for thirty such targets."""
    of("1", tmp_path / "in", tracks=50, frames=240)
    checkpoint.amend(model, scores=packed(tmp_path / "in", "1"))
    assert model.stat().st_size < checkpoint.LARGEST_HEADER / 30


def test_scores_of_others_are_not_taken(tmp_path, model, capsys):
    digest = checkpoint.read_header(model)["digest"]
    before = model.read_bytes()
    other = of("0" * 64, tmp_path / "other")
    assert share.main(["score", str(model), str(other)]) == 1
    assert "no scores of this checkpoint: there are " in capsys.readouterr().err
    assert share.main(["score", str(model), str(other), "--force"]) == 1
    named = of("", tmp_path / "named")  # evaluated by a name, so it is not known what that was
    assert share.main(["score", str(model), str(named)]) == 1
    assert model.read_bytes() == before
    assert share.main(["score", "-q", str(model), str(named), "--force"]) == 0
    of(digest, of(digest, tmp_path / "two"), system="again")
    with pytest.raises(ScoresError, match="two sets of scores"):
        packed(tmp_path / "two", digest)
    (tmp_path / "named" / "2-source" / "s" / "summary.json").write_text("[]")
    assert share.main(["score", str(model), str(named)]) == 1
    assert share.main(["score", str(model), str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("no such folder; mss.evaluate writes one\n")


def test_a_checkpoint_without_scores_says_so(model, tmp_path, capsys):
    assert share.main(["scores", str(model), "-o", str(tmp_path / "x")]) == 1
    assert "has no scores" in capsys.readouterr().err


HOSTILE = {
    "track": lambda s: s["tracks"][0].update(track="../../hacked"),
    "backslash": lambda s: s["tracks"][0].update(track="..\\hacked"),
    "absolute": lambda s: s["tracks"][0].update(track="/tmp/hacked"),
    "dots": lambda s: s.update(system=".."),
    "empty": lambda s: s.update(system=""),
    "subset": lambda s: s["tracks"][0].update(subset="../.."),
    "terminal": lambda s: s["tracks"][0].update(track="\x1b[31m"),
    "long": lambda s: s["tracks"][0].update(track="x" * 999),
    "ragged": lambda s: s["tracks"][0]["targets"][0]["frames"][0].append(1),
    "flat": lambda s: s["tracks"][0]["targets"][0].update(frames=[1, 2, 3, 4]),
    "words": lambda s: s["tracks"][0]["targets"][0]["frames"][0].__setitem__(0, "x"),
    "no tracks": lambda s: s.pop("tracks"),
    "a list": lambda s: s.update(about=[]),
    "a huge number": lambda s: s["tracks"][0].update(window=10**400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_scores_end_in_one_sentence(name, model, tmp_path, capsys):
    packet = packed(of("1", tmp_path / "in"), "1")
    HOSTILE[name](packet["2-source"])
    checkpoint.amend(model, scores=packet)
    for verb in (
        ["scores", str(model), "-o", str(tmp_path / "a" / "b" / "c")],
        ["info", str(model)],
        ["card", str(model)],
    ):
        assert share.main(verb) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: the scores in it are not as mss writes them: ")
        assert said.err.count("\n") == 1
        assert "\x1b" not in said.err
    assert not list(tmp_path.rglob("*hacked*"))
    assert not (tmp_path / "a").exists()
    mss.load(model)  # which has no use for them


def test_a_protocol_is_no_path_either(model, tmp_path):
    packet = packed(of("1", tmp_path / "in"), "1")
    with pytest.raises(ScoresError, match="cannot be the name of a file"):
        unpack({"../../x": packet["2-source"]}, tmp_path / "a" / "b")
    for nonsense in ([], "x", 3, {"2-source": None}, {"2-source": []}):
        if nonsense:
            with pytest.raises(ScoresError):
                unpacked(nonsense)


def test_facts_are_added_replaced_and_removed_and_nothing_else_changes(model):
    before, size = weights(model), model.stat().st_size
    checkpoint.amend(model, licence="CC0-1.0", note="ü" * 3)
    header = checkpoint.read_header(model)
    assert (header["licence"], header["note"], header["metrics"]) == ("CC0-1.0", "üüü", {"sdr": 1.0})
    assert weights(model) == before
    assert (model.stat().st_size - len(before)) % 8 == 0  # where readers want the weights to begin
    mss.load(model)
    checkpoint.amend(model, licence="MIT", note=None)
    assert "note" not in checkpoint.read_header(model)
    assert model.stat().st_size - size < 8
    for name in ("spec", "digest", "format", "targets", "sample_rate", "versions"):
        with pytest.raises(ValueError, match="the file says that itself"):
            checkpoint.amend(model, **{name: 1})
    with pytest.raises(ValueError, match=r"the facts take .* 16777216 are allowed"):
        checkpoint.amend(model, scores="x" * (17 << 20))
    (model.parent / "x.safetensors").write_bytes(
        raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
    )
    with pytest.raises(CheckpointError, match="no description by mss"):
        checkpoint.amend(model.parent / "x.safetensors", licence="MIT")
    assert weights(model) == before
