"""The model that separates when nothing else is asked for, and the recipe that its own weights were made by."""

import json
import re
import runpy

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mss
from mss import checkpoint, train, zoo
from mss.audio import Encoding, write
from mss.data._notes import FAMILIES
from mss.wrappers import stream
from tests.conftest import ROOT, sdr

NAMES = ("vocals", "drums", "bass", "other")
WEIGHTS = zoo.WEIGHTS / "four-stems.safetensors"
RUNS = ("four_stems", "four_stems_low", "four_stems_low_on")


@pytest.fixture(scope="module")
def model():
    return mss.load("four-stems")


@pytest.fixture(scope="module")
def estimates(model, excerpt):
    with torch.inference_mode():
        return dict(zip(NAMES, model(excerpt["mixture"][None])[0], strict=True))


def test_its_stems_add_up_to_the_song(model, estimates, excerpt):
    assert model.targets == NAMES
    rest = sum(estimates.values()) - excerpt["mixture"]
    assert float(rest.abs().max()) < 1e-4


@torch.inference_mode()
def test_its_vocals_are_those_of_its_first_stage(estimates, excerpt):
    two = mss.load("spleeter-2stems")(excerpt["mixture"][None])[0]
    torch.testing.assert_close(estimates["vocals"], two[0])


@torch.inference_mode()
def test_it_is_better_than_its_guide_on_real_music(estimates, excerpt):
    guide = dict(zip(NAMES, mss.load("hybrid_4stems")(excerpt["mixture"][None])[0], strict=True))
    gains = [sdr(excerpt[name], estimates[name]) - sdr(excerpt[name], guide[name]) for name in NAMES[1:]]
    assert sum(gains) / 3 > 0.2, gains
    for name in NAMES:
        loud = 10 * torch.log10(estimates[name].square().mean() / excerpt[name].square().mean())
        assert abs(float(loud)) < 6, (name, float(loud))  # neither silent nor all of the song


@torch.inference_mode()
def test_a_song_in_blocks_is_the_song_at_once(model, excerpt):
    song = excerpt["mixture"][None].repeat(1, 1, 4)  # longer than a block
    blocks = torch.cat(list(stream(model, song.split(100_003, -1))), -1)
    torch.testing.assert_close(blocks, model(song), atol=1e-5, rtol=0)


def test_its_file_is_small_and_says_what_it_was_made_of():
    assert WEIGHTS.stat().st_size < 20e6
    header = checkpoint.outline(WEIGHTS)[0]
    assert header["licence"] == "MIT"
    assert "CC0" in header["training_data"]
    assert header["targets"] == list(NAMES[1:])
    text = json.dumps(header)
    assert not any(place in text for place in ("/tmp/", "/home/", "/root/", "/work/"))


def experiment(name):
    return yaml.safe_load((ROOT / "conf" / "experiment" / f"{name}.yaml").read_text())


def test_the_recipe_builds_what_the_weights_are_of():
    first = experiment("four_stems")["separator"]
    for wrapper in experiment("four_stems")["wrap"]:
        first = {"_target_": f"mss.{wrapper}", "separator": first}
    built = mss.build({**experiment("four_stems_low")["separator"], "first": first})
    ours = {name: tuple(value.shape) for name, value in built.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in load_file(WEIGHTS).items()} == ours


def test_the_recipe_gives_the_same_weights_twice(tmp_path):
    generator = torch.Generator().manual_seed(5)
    for song in ("a", "b", "mdn-funk"):
        for stem in ("drums", "bass", "other", "vocals"):
            path = tmp_path / "songs" / song / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, 0.1 * torch.randn(2, 4 * 44100, generator=generator), 44100, encoding=Encoding("wav", "int16"))
    results = []
    for out in ("one", "two"):
        for name in RUNS:
            options = {
                "data.synthetic": "null",
                "data.extra_share": "null",
                "data.cache": tmp_path / "cache",
                "data.batch_size": 2,
                "data.per_track": 2,
                "data.seconds": 1,
                "trainer.max_epochs": 1,
                "out": tmp_path / out / name,
                "quiet": "true",
            }
            if name != "four_stems":
                options["parts.first"] = tmp_path / out / "four_stems" / "best.safetensors"
            if name == "four_stems_low_on":
                options["start"] = tmp_path / out / "four_stems_low" / "best.safetensors"
            arguments = [f"{key}={value}" for key, value in options.items()]
            assert train.main([f"experiment={name}", f"data.root={tmp_path / 'songs'}", *arguments]) == 0
        pack = runpy.run_path(str(ROOT / "scripts" / "four_stems_train.py"))["pack"]
        made = [tmp_path / out / name / "best.safetensors" for name in RUNS]
        pack(made, tmp_path / out / "all.safetensors", mean_with=made[1])
        results.append(load_file(tmp_path / out / "all.safetensors"))
    one, two = results
    assert one.keys() == two.keys()
    assert all(bool((one[name] == two[name]).all()) for name in one)
    last = "then.separator.estimator.move.0.bias"
    before, after = (load_file(file)[last] for file in made[1:])
    assert float(one["first.separator.separator.estimator.decode.3.weight"].abs().max()) > 0
    assert not torch.equal(before, after)
    torch.testing.assert_close(one[last].float(), (before + after) / 2, rtol=1e-3, atol=1e-7)
    header = checkpoint.read_header(tmp_path / "two" / "all.safetensors")
    assert [run["config"]["name"] for run in header["runs"]] == list(RUNS)
    assert header["licence"] == "MIT"


def test_the_material_knows_the_pitches_of_names():
    script = runpy.run_path(str(ROOT / "scripts" / "four_stems_material.py"))
    pitches = {name: script["pitch_of"](name) for name in ("c4", "A#-1", "bb2", "E", "D#")}
    assert pitches == {"c4": 60, "A#-1": 10, "bb2": 46, "E": 28, "D#": 39}  # without an octave: from E1 on
    click = torch.cat([torch.zeros(1, 500), torch.ones(1, 10)], 1)
    assert script["from_onset"](click).shape == (1, 50)  # 40 samples before it are kept
    for clone, pattern, name, _ in script["INSTRUMENTS"]:
        assert {"note", "kind"} >= set(re.compile(pattern).groupindex), clone
        assert name.split("/")[0] in FAMILIES
