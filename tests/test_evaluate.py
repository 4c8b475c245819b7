"""python -m mss.evaluate, as a user meets it: what it scores, what it writes, what it says, how it ends."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import mss
from mss.apps.protocols import protocols_of
from mss.audio import read, write
from mss.data import find_tracks, reference
from mss.evaluate import main
from mss.metrics import bss_eval, snr
from mss.metrics.scores import read_results, read_track
from tests.conftest import ROOT
from tests.test_checkpoint import tiny

RATE = 8000
STEMS = ("drums", "vocals")
FOUR = ("bass", "drums", "other", "vocals")


@pytest.fixture
def data(tmp_path, generator) -> Path:
    """Three tracks of two stems of noise, 2.2 s, in the layout of MUSDB18-HQ."""
    return data_set(tmp_path / "data", "abc", STEMS, generator)


def data_set(root: Path, names: str, stems: tuple[str, ...], generator) -> Path:
    for name in names:
        folder = root / "test" / name
        folder.mkdir(parents=True)
        noise = torch.randn(len(stems), 1, RATE * 22 // 10, generator=generator) * 0.1
        for stem, x in zip(stems, noise, strict=True):
            write(folder / f"{stem}.wav", x, RATE)
        write(folder / "mixture.wav", noise.sum(0), RATE)
    return root


@pytest.fixture
def estimates(data, tmp_path, generator) -> Path:
    """Ready-made estimates of them: the references with noise."""
    folder = tmp_path / "ready"
    for track in find_tracks(data):
        (folder / track.name).mkdir(parents=True)
        for stem, x in track.load().stems.items():
            write(folder / track.name / f"{stem}.wav", x + 0.05 * torch.randn(x.shape, generator=generator), RATE)
    return folder


def run(*options, data, out="out", **named) -> int:
    named = {"data": data, "out": Path(data).parent / out, "quiet": "true", **named}
    return main([*options, *(f"{key}={value}" for key, value in named.items())])


def scores(out: Path, protocol: str, system: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((out / protocol / system).glob("test/*.json"))}


def sdr_of(path: Path) -> dict[str, list[float]]:
    return {
        target["name"]: [frame["metrics"]["SDR"] for frame in target["frames"]]
        for target in json.loads(path.read_text())["targets"]
    }


# What it scores


def test_the_numbers_are_those_of_the_metrics_on_the_same_signals(data, tmp_path):
    assert run(data=data, separator="repet_sim") == 0
    separator = mss.Resampled(mss.load("repet_sim"), RATE)
    files = scores(tmp_path / "out", "2-source", "repet_sim")
    assert list(files) == ["a", "b", "c"]
    for track in find_tracks(data):
        audio = track.load()
        s = torch.stack([reference(audio.stems, name) for name in ("vocals", "accompaniment")])
        y = separator(audio.mixture[None])[0]
        order = [separator.targets.index(name) for name in ("vocals", "accompaniment")]
        expected = bss_eval(s, y[order], window=RATE, hop=RATE)
        found = read_track(files[track.name])
        assert [target.name for target in found.targets] == ["vocals", "accompaniment"]
        for j, target in enumerate(found.targets):
            assert torch.allclose(target.frames, torch.stack([x[j] for x in expected[:4]]), atol=2e-5)
            assert target.sdr == pytest.approx(snr(s.double(), y[order].double())[j].item(), abs=1e-4)
    summary = json.loads((tmp_path / "out" / "2-source" / "repet_sim" / "summary.json").read_text())
    medians = [np.median(sdr_of(path)["vocals"]) for path in files.values()]
    assert summary["targets"]["vocals"]["SDR"]["median"] == pytest.approx(np.median(medians))
    assert summary["targets"]["vocals"]["frames"] == {"valid": 6, "total": 6}


def test_a_musdb_folder_and_the_default_model(excerpt_path, tmp_path, capsys):
    (tmp_path / "musdb" / "test").mkdir(parents=True)
    (tmp_path / "musdb" / "test" / excerpt_path.name).symlink_to(excerpt_path)
    assert run(data=tmp_path / "musdb", separator="spleeter-2stems", save="true", quiet="false") == 0
    said = capsys.readouterr()
    assert "spleeter-2stems: 1 track\n" in said.err
    assert "Falcon 69: SDR vocals" in said.err
    assert "## 2-source: vocals, accompaniment (musdb/test)" in said.out
    (one,) = read_results(tmp_path / "out")
    assert {target.name: target.sdr > 4.5 for target in one.tracks[0].targets} == {
        "vocals": True,
        "accompaniment": True,
    }
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    for target in one.tracks[0].targets:
        assert (tmp_path / "out" / target.audio).is_file()
        assert f'src="{target.audio.replace(" ", "%20")}"' in page


def test_oracles_and_their_protocols(tmp_path, generator):
    data = data_set(tmp_path / "data", "a", FOUR, generator)
    for name in ("IRM2", "MIX"):
        assert run(data=data, oracle=name, two_source="true") == 0
    by = {(one.protocol, one.system): one for one in read_results(tmp_path / "out")}
    assert set(by) == {(p, s) for p in ("2-source", "4-source") for s in ("IRM2", "MIX")}

    def vocals(protocol, system):
        values = [t.sdr for track in by[protocol, system].tracks for t in track.targets if t.name == "vocals"]
        return float(np.median(values))

    assert vocals("2-source", "IRM2") > vocals("2-source", "MIX") + 1
    assert vocals("2-source", "IRM2") == vocals("4-source", "IRM2")  # a whole-track SDR knows no other target


def test_estimates_that_were_kept_score_the_same_again(data, tmp_path):
    assert run(data=data, separator="repet_sim", save="true") == 0
    kept = tmp_path / "out" / "estimates" / "repet_sim"
    assert run(data=data, estimates=kept, name="again") == 0
    first, again = (scores(tmp_path / "out", "2-source", name) for name in ("repet_sim", "again"))
    assert all(sdr_of(first[name]) == sdr_of(again[name]) for name in "abc")
    text = (tmp_path / "out" / "leaderboard.html").read_text()
    assert text.count("<audio") == 2 * 3 * 2


def test_names_may_be_fitted(data, tmp_path):
    assert run("rename=[percussive:drums,harmonic:no_drums]", data=data, separator="hpss", tracks="a") == 0
    (path,) = scores(tmp_path / "out", "drums+no_drums", "hpss").values()
    assert list(sdr_of(path)) == ["no_drums", "drums"]
    assert run("targets=[vocals]", data=data, separator="repet_sim", residual="no_vocals", tracks="a") == 2
    options = ["targets=[vocals,no_vocals]", "rename=[accompaniment:rest]"]
    assert run(*options, data=data, separator="repet_sim", residual="no_vocals", tracks="a") == 0
    (path,) = scores(tmp_path / "out", "no_vocals+vocals", "repet_sim").values()
    assert list(sdr_of(path)) == ["vocals", "no_vocals"]


def test_protocols_are_named_and_do_not_mix():
    assert protocols_of(("accompaniment", "vocals")) == {"2-source": ("vocals", "accompaniment")}
    assert protocols_of(("vocals", "drums", "bass", "other")) == {"4-source": ("vocals", "drums", "bass", "other")}
    both = protocols_of((*FOUR, "accompaniment"))
    assert both == {"2-source": ("vocals", "accompaniment"), "4-source": FOUR}
    assert protocols_of(("vocals", "drums")) == {"drums+vocals": ("vocals", "drums")}
    assert protocols_of(("vocals",)) == {}


def test_checkpoints_and_their_names(data, tmp_path, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        torch.manual_seed(len(folder))
        mss.save(mss.StereoPairs(tiny()), tmp_path / folder / "best.safetensors")
    names = tiny().targets
    own = f"rename=[{names[0]}:vocals,{names[1]}:accompaniment]"
    assert run(own, data=data, separator=tmp_path / "one" / "best.safetensors", tracks="a") == 0
    assert run(own, data=data, separator=tmp_path / "two" / "best.safetensors", tracks="a") == 2
    assert "holds the scores of separator=" in capsys.readouterr().err
    assert run(own, data=data, separator=tmp_path / "two" / "best.safetensors", tracks="a", name="two") == 0
    assert {one.system for one in read_results(tmp_path / "out")} == {"best", "two"}


# Many runs


def test_what_is_done_is_not_done_again(data, tmp_path):
    def stamps():
        return {name: path.stat().st_mtime_ns for name, path in scores(tmp_path / "out", "drums+vocals", "MIX").items()}

    assert run(data=data, oracle="MIX") == 0
    first = stamps()
    assert run(data=data, oracle="MIX") == 0
    assert stamps() == first
    scores(tmp_path / "out", "drums+vocals", "MIX")["b"].unlink()
    assert run(data=data, oracle="MIX") == 0
    second = stamps()
    assert {name for name in "abc" if second[name] != first[name]} == {"b"}
    vocals = data / "test" / "c" / "vocals.wav"
    write(vocals, read(vocals)[0], RATE, encoding=mss.audio.Encoding("wav", "int16"))
    scores(tmp_path / "out", "drums+vocals", "MIX")["a"].write_text("{")  # as no interruption leaves it
    assert run(data=data, oracle="MIX") == 0
    third = stamps()
    assert {name for name in "abc" if third[name] != second[name]} == {"a", "c"}
    assert run(data=data, oracle="MIX", hop="0.5") == 0
    assert all(third[name] != stamp for name, stamp in stamps().items())
    (one,) = read_results(tmp_path / "out")
    assert {track.hop for track in one.tracks} == {0.5}


def test_ranks_share_the_tracks_and_the_last_writes_about_all(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    counts = []
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        assert run(data=data, oracle="MIX") == 0
        (one,) = read_results(tmp_path / "out")
        counts.append(len(one.tracks))
    assert counts == [1, 3]
    assert "| MIX |" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_multirun_gives_one_leaderboard(data, tmp_path, capsys):
    assert run("--multirun", data=data, oracle="MIX,nonsense,IRM2,IBM") == 2  # the others are done
    assert "there is no oracle 'nonsense'" in capsys.readouterr().err
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    order = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert order[1:5] == ["---", *sorted(order[2:5], key=lambda name: name == "MIX")]
    assert set(order[2:5]) == {"MIX", "IRM2", "IBM"}
    assert order[4] == "MIX"


def test_published_results_stand_beside_with_a_warning(tmp_path, generator):
    data = data_set(tmp_path / "data", "a", FOUR, generator)
    assert run(data=data, oracle="MIX", published="true") == 0
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert re.search(r"\| UHL3 .*\| published, sisec2018", text)
    assert (
        "Warning, 4-source: Not the same protocol as sisec2018: the data set is MUSDB18 test, yours is data test"
        in text
    )
    assert "UHL3" in (tmp_path / "out" / "leaderboard.html").read_text()


# How it ends


def spoil_length(ready: Path, _: Path) -> None:
    write(ready / "b" / "vocals.wav", read(ready / "b" / "vocals.wav")[0][:, :-7], RATE)


def spoil_all_lengths(ready: Path, _: Path) -> None:
    for path in (ready / "b").glob("*.wav"):
        write(path, read(path)[0][:, :-7], RATE)


def spoil_rate(ready: Path, _: Path) -> None:
    for path in (ready / "b").glob("*.wav"):
        write(path, read(path)[0], 2 * RATE)


def spoil_channels(ready: Path, _: Path) -> None:
    for path in (ready / "b").glob("*.wav"):
        write(path, read(path)[0].expand(2, -1), RATE)


def spoil_nan(ready: Path, _: Path) -> None:
    x = read(ready / "b" / "drums.wav")[0].T.numpy()
    x[100] = math.nan
    soundfile.write(ready / "b" / "drums.wav", x, RATE, subtype="FLOAT")


def spoil_reference(_: Path, data: Path) -> None:
    (data / "test" / "b" / "drums.wav").write_text("no audio")


BAD_TRACKS = {
    "one estimate shorter": (spoil_length, r"vocals has 17593 samples|17600 samples"),
    "all estimates shorter": (
        spoil_all_lengths,
        "the reference has 17600 samples of 1 channels, the estimate 17593 of 1",
    ),
    "another rate": (spoil_rate, "at 16000 Hz, the references are at 8000 Hz"),
    "stereo": (spoil_channels, "of 1 channels, the estimate 17600 of 2"),
    "NaN": (spoil_nan, "NaN"),
    "no estimate": (lambda ready, _: (ready / "b" / "drums.wav").unlink(), "has no estimate of drums"),
    "an extra estimate": (
        lambda ready, _: shutil.copy(ready / "b/drums.wav", ready / "b/guitar.wav"),
        "an estimate of guitar",
    ),
    "no folder": (lambda ready, _: shutil.rmtree(ready / "b"), "there are no estimates of this track"),
    "no reference": (lambda _, data: (data / "test/b/drums.wav").unlink(), "has no drums, which most tracks have"),
    "bad reference": (spoil_reference, r"drums\.wav"),
    "two references": (
        lambda _, data: write(data / "test/b/drums.flac", torch.zeros(1, 9), RATE),
        "two files for 'drums'",
    ),
}


@pytest.mark.parametrize("kind", BAD_TRACKS)
def test_a_bad_track_fails_with_a_sentence_and_the_others_are_scored(kind, data, estimates, tmp_path, capsys):
    spoil, message = BAD_TRACKS[kind]
    spoil(estimates, data)
    assert run(data=data, estimates=estimates) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert re.match("error: b: ", error)
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1
    (one,) = read_results(tmp_path / "out")
    assert [track.track for track in one.tracks] == ["a", "c"]
    assert re.search(message, one.failed["b"])
    for name in ("leaderboard.md", "leaderboard.html", "tracks.csv"):
        assert "failed" in (tmp_path / "out" / name).read_text().lower()


def test_a_failed_track_is_tried_again(data, estimates, tmp_path):
    kept = (estimates / "b" / "drums.wav").read_bytes()
    (estimates / "b" / "drums.wav").unlink()
    assert run(data=data, estimates=estimates) == 1
    (estimates / "b" / "drums.wav").write_bytes(kept)
    assert run(data=data, estimates=estimates) == 0
    (one,) = read_results(tmp_path / "out")
    assert (len(one.tracks), one.failed) == (3, {})


def test_silent_stems_are_nan_with_a_reason(tmp_path, generator, capsys):
    data = data_set(tmp_path / "data", "abc", FOUR[:3], generator)
    write(data / "test" / "a" / "other.wav", torch.zeros(1, RATE * 22 // 10), RATE)
    (data / "test" / "b" / "bass.wav").unlink()
    assert run(data=data, oracle="IRM1", partial="true", quiet="false") == 0
    assert "warning: a: other: no score: the reference is silent" in capsys.readouterr().err
    (one,) = read_results(tmp_path / "out")
    notes = {(t.track, s.name): s.note for t in one.tracks for s in t.targets if s.note}
    assert notes == dict.fromkeys((("a", "other"), ("b", "bass")), "no score: the reference is silent")
    by = {(t.track, s.name): s.valid for t in one.tracks for s in t.targets}
    assert by["a", "other"] == by["b", "bass"] == 0
    assert sum(by.values()) == 7 * 2
    summary = json.loads((tmp_path / "out" / one.protocol / "IRM1" / "summary.json").read_text())
    assert summary["targets"]["bass"]["SDR"]["tracks"] == 2
    assert "2 with a target without score" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_a_track_shorter_than_a_window_is_one_frame_and_says_so(data, tmp_path):
    assert run(data=data, oracle="IRM1", window=3, hop=3, tracks="a") == 0
    (one,) = read_results(tmp_path / "out")
    assert {(s.frames.shape[1], s.note) for s in one.tracks[0].targets} == {(1, "shorter than a window: one frame")}


def test_stems_that_nothing_is_scored_against_are_named(tmp_path, generator, capsys):
    data = data_set(tmp_path / "data", "a", FOUR, generator)
    assert run("targets=[vocals,drums]", data=data, oracle="MIX", quiet="false") == 0
    assert "drums+vocals: bass, other is in no target" in capsys.readouterr().err


def test_systems_are_compared_track_by_track(data, tmp_path, capsys):
    assert run(data=data, oracle="MIX") == 0
    assert run(data=data, oracle="IBM", compare="MIX", quiet="false") == 0
    assert "SDR of IBM against MIX. drums: " in capsys.readouterr().out
    assert "SDR of IBM against MIX. drums: " in (tmp_path / "out" / "leaderboard.html").read_text()
    assert run(data=data, oracle="IBM", compare="none") == 2
    assert "there are no scores of it" in capsys.readouterr().err


def test_estimates_of_other_tracks_are_named(data, estimates, capsys):
    shutil.copytree(estimates / "a", estimates / "stranger")
    assert run(data=data, estimates=estimates, quiet="false") == 0
    assert "not scored, of 1 other tracks: stranger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["separator=hpss", "data=null"], "no data set"),
        ([], "give one of separator=, oracle= and estimates=, not none"),
        (["separator=hpss", "oracle=MIX"], "not separator and oracle"),
        (["separator=spleeter-2stem"], "did you mean spleeter-2stems"),
        (["separator=none.safetensors"], "no such file"),
        (
            ["separator=hpss"],
            "'harmonic' has no reference: hpss makes harmonic, percussive, the tracks have drums, vocals",
        ),
        (["separator=hpss", "rename=[drums:x]"], "rename: no target 'drums': there are harmonic, percussive"),
        (["separator=repet_sim", "targets=[voice]"], "targets: no target 'voice'"),
        (["separator=repet_sim", "targets=[vocals]"], "one target cannot be told from the rest"),
        (["oracle=irm"], "did you mean IRM"),
        (["oracle=MIX", "separater=x"], "there is no option 'separater': did you mean separator?"),
        (["oracle=MIX", "zzz=1"], "there is no option 'zzz': there are data, separator"),
        (["oracle=MIX", "window=long"], "could not be converted to Float"),
        (["oracle=MIX", "window=0"], "window must be more than 0 seconds, not 0"),
        (["oracle=MIX", "hop=nan"], "hop must be more than 0 seconds, not nan"),
        (["oracle=MIX", "mode=v5"], "mode must be v3 or v4, not 'v5'"),
        (["oracle=MIX", "name=a/b"], "leave out slashes"),
        (["oracle=MIX", "tracks=z*"], "no track of .* is called 'z\\*'"),
        (["oracle=MIX", "subset=train"], "has no subset 'train'; it has test"),
        (["oracle=MIX", "data=nowhere"], "nowhere: there is no such folder"),
        (["oracle=MIX", "device=gpu"], "device 'gpu' cannot be used"),
        (["oracle=MIX", "data=[1"], "no viable alternative"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(options, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([f"data={data}", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_folders_without_tracks_or_with_other_tracks(data, estimates, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(data=tmp_path / "empty", oracle="MIX") == 2
    assert "no tracks in it" in capsys.readouterr().err
    assert run(data=data, estimates=tmp_path / "empty") == 2
    assert "no tracks in it" in capsys.readouterr().err
    for name in "abc":
        (estimates / name).rename(estimates / f"other {name}")
    assert run(data=data, estimates=estimates) == 2
    assert "has estimates of other tracks than" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_take_a_track_fails_in_a_line(data, tmp_path, capsys):
    mss.save(tiny(), tmp_path / "stereo.safetensors")  # the tracks are mono
    own = (
        "rename=["
        + ",".join(f"{a}:{b}" for a, b in zip(tiny().targets, ("vocals", "accompaniment"), strict=True))
        + "]"
    )
    assert run(own, data=data, separator=tmp_path / "stereo.safetensors") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line[:24] for line in lines] == [f"error: {name}: RuntimeError: " for name in "abc"]


def test_a_separator_that_gives_nan_is_told_of(data, tmp_path, capsys, monkeypatch):
    class Broken:
        targets, sample_rate = ("vocals", "accompaniment"), RATE

        def to(self, _):
            return self

        def __call__(self, mixture):
            return mixture.unsqueeze(1).expand(-1, 2, -1, -1) * math.nan

    monkeypatch.setattr("mss.zoo.load", lambda name: Broken())
    assert run(data=data, separator="broken") == 1
    assert capsys.readouterr().err.count("the estimate holds samples that are not finite numbers") == 3
    (one,) = read_results(tmp_path / "out")
    assert set(one.failed) == set("abc")


def test_the_command_as_a_subprocess(data, tmp_path):
    command = [sys.executable, "-m", "mss.evaluate", f"data={data}", "oracle=IBM", "tracks=a"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| IBM |" in done.stdout
    assert "report: evaluated/data/leaderboard.html" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "evaluated"]
    assert not list((tmp_path / "evaluated").rglob(".*"))


def test_lossy_references_are_warned_of_and_bits_rounds_them(excerpt_path, tmp_path, capsys):
    folder = tmp_path / "data" / "test"
    folder.mkdir(parents=True)
    shutil.copy(excerpt_path, folder / "a.stem.mp4")
    out, common = tmp_path / "out", [f"data={tmp_path / 'data'}", "oracle=IRM1", f"out={tmp_path / 'out'}"]
    assert main([*common, "name=float"]) == 0
    assert "bits=16" in capsys.readouterr().err
    assert main([*common, "name=rounded", "bits=16"]) == 0
    assert "bits=16" not in capsys.readouterr().err
    results = {one.system: one.tracks[0] for one in read_results(out)}
    track = find_tracks(tmp_path / "data")[0].audio
    names = [target.name for target in results["rounded"].targets]
    s = torch.stack([track.stems[name] for name in names])
    y = mss.oracle.oracle("IRM1", s[None], names, 44100)(track.mixture[None])[0]
    expected = bss_eval(*(torch.round(x.double() * 32768) / 32768 for x in (s, y)))
    for j, target in enumerate(results["rounded"].targets):
        assert torch.allclose(target.frames[2], expected.sir[j], atol=1e-3)
    gain = [
        b.frames[2].median() - a.frames[2].median()
        for a, b in zip(*(results[k].targets for k in ("float", "rounded")), strict=True)
    ]
    assert min(gain) > 3  # dB of SIR: what the noise above the codec's cut had cost
    assert "scored differently" in (out / "leaderboard.md").read_text()
    assert main([*common, "name=x", "bits=99"]) == 2
