"""mss.train --from: a checkpoint's run made again is the same run; what differs is said; what is hostile is not heard."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import mss
from mss import checkpoint, train, zoo
from mss.apps import provenance
from mss.cli import USAGE, UsageError
from tests.servers import Server, running
from tests.test_checkpoint import tiny
from tests.test_train import SHORT, TINY, data  # noqa: F401

RECIPE = ["experiment=cpu_blstm", *TINY["cpu_blstm"], *SHORT, "data.per_track=4", "optimizer.lr=3e-3", "seed=7"]


@pytest.fixture(scope="module")
def original(data, tmp_path_factory) -> Path:  # noqa: F811
    """A folder in which a run of two steps was made, with an average of the weights."""
    folder = tmp_path_factory.mktemp("original")
    named = [f"data.root={data}", f"data.cache={folder / 'cache'}", f"out={folder / 'run'}", "ema=0.5"]
    assert train.main([*RECIPE, *named]) == 0
    return folder


@pytest.fixture
def best(original) -> Path:
    return original / "run" / "best.safetensors"


@pytest.fixture
def again(original, tmp_path, monkeypatch):
    """again(model, *overrides) -> exit code; in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSS_HOME", str(original / "cache"))
    return lambda model, *overrides: train.main(["--from", str(model), *overrides])


def same(one: Path, other: Path) -> bool:
    a, b = (mss.load(path).state_dict() for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def edited(best: Path, path: Path, **changes) -> Path:
    """The checkpoint with other options in its configuration; names with dots as data__root."""
    shutil.copy(best, path)
    config = checkpoint.read_header(best)["config"]
    for name, value in changes.items():
        *groups, last = name.split("__")
        inner = config
        for group in groups:
            inner = inner[group]
        inner[last] = value
    checkpoint.amend(path, config=config)
    return path


def test_the_run_again_ends_with_the_same_weights(again, best, tmp_path, capfd):
    assert again(best, "out=again") == 0
    assert same(best, tmp_path / "again" / "best.safetensors")
    said = capfd.readouterr().err
    assert f"{best}: its run 'cpu_blstm' again, seed 7, with the data of " in said
    assert "nothing differs here from where it was made\n" in said
    assert not any(line.startswith(("torch:", "data:", "device:")) for line in said.splitlines())
    old, new = (checkpoint.read_header(path) for path in (best, tmp_path / "again" / "best.safetensors"))
    ours = {name: value for name, value in new["config"].items() if name != "data"}
    assert ours == {name: value for name, value in old["config"].items() if name != "data"}
    assert new["config"]["data"] == old["config"]["data"] | {"cache": None}  # where that is, is another's choice
    assert new["data_digest"] == old["data_digest"]
    assert again(tmp_path / "again" / "best.safetensors", "out=third", "quiet=true") == 0  # and so on
    assert same(best, tmp_path / "third" / "best.safetensors")


def test_overrides_are_on_top(again, best, tmp_path, capfd):
    assert again(best, "out=again", "seed=8", "optimizer.lr=1e-2", "network.hidden=8") == 0
    said = capfd.readouterr().err
    for line in ("seed: 7 there, 8 here, as you say", "optimizer.lr: 0.003 there, 0.01 here, as you say",
                 "network.hidden: 16 there, 8 here, as you say"):  # fmt: skip
        assert said.count(f"\n{line}\n") == 1
    assert "out:" not in said
    header = checkpoint.read_header(tmp_path / "again" / "best.safetensors")
    assert (header["config"]["seed"], header["config"]["optimizer"]["lr"]) == (8, 0.01)
    networks = header["config"]["separator"]["estimator"]["networks"]
    assert [(network["hidden"], network["layers"]) for network in networks] == [(8, 1)] * len(
        networks
    )  # all by that name
    assert header["config"]["data"]["per_track"] == 4
    assert not same(best, tmp_path / "again" / "best.safetensors")


def test_what_differs_is_said_line_by_line(best, data, tmp_path, again, capfd):  # noqa: F811
    path = tmp_path / "old.safetensors"
    shutil.copy(best, path)
    environment = {"lightning": "1.0", "platform": "Plan 9", "device": "Abacus", "threads": 77}
    checkpoint.amend(path, commit="c" * 40, environment=environment)
    other = tmp_path / "data"
    shutil.copytree(data, other)
    (other / "train" / "a").rename(other / "train" / "d")
    assert again(path, "out=again", f"data.root={other}", "trainer.accelerator=cpu") == 0
    said = capfd.readouterr().err.splitlines()
    assert any(f"with the data of {other}" in line for line in said)
    for line in ("commit: cccc", "Lightning: 1.0 there, ", "platform: Plan 9 there, ", "device: Abacus there, cpu here",
                 "threads: 77 there, ", "data: others than it was trained on (digest "):  # fmt: skip
        assert len([one for one in said if one.startswith(line)]) == 1, line
    assert not any(line.startswith(("torch", "Python")) for line in said)


def test_versions_are_compared_and_what_is_not_recorded_is_said(best):
    header = checkpoint.read_header(best)
    here = provenance.environment("cpu")
    assert list(provenance.differences(header, here, header["data_digest"])) == []
    header["versions"] = {"mss": "0.0.1", "torch": "\x1b[31m1.0", "python": "2.7"}
    del header["environment"]
    lines = list(provenance.differences(header, here, header["data_digest"]))
    assert lines[0] == f"mss: 0.0.1 there, {mss.__version__} here"
    assert [line.partition(":")[0] for line in lines if "not recorded" in line] == [
        "Lightning", "platform", "device", "threads",
    ]  # fmt: skip
    assert not any("\x1b" in line for line in lines)
    assert list(provenance.differences({"versions": [], "environment": 3}, here, "x"))


def test_it_is_found_at_an_address(best, again, tmp_path):
    with running(Server()) as server:
        server.files["/best.safetensors"] = best.read_bytes()
        assert again(f"{server.url}/best.safetensors", "out=again", "quiet=true") == 0
    assert same(best, tmp_path / "again" / "best.safetensors")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("hpss", "hpss is a method that was not trained: choose an experiment"),
        ("umxhq", "umxhq was trained elsewhere and imported"),
        ("bare.safetensors", "has no configuration, as it was imported or saved by hand"),
        ("nowhere.safetensors", "no such file"),
        ("text.safetensors", "not a checkpoint, or damaged"),
        ("hf:me", "the Hub's files are hf:owner/repo"),
        ("", "--from takes a checkpoint"),
        ("-q", "--from takes a checkpoint"),
    ],
)
def test_what_was_not_trained_here_is_refused(model, says, again, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(zoo, "load", None)  # nothing is converted or fetched to find that out
    mss.save(tiny(), tmp_path / "bare.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    assert again(model) == USAGE
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1


def test_an_experiment_beside_is_refused(again, best, capfd):
    assert again(best, "experiment=umx") == USAGE
    assert "leave out experiment=" in capfd.readouterr().err
    assert train.main(["--from"]) == USAGE


def test_the_flag_is_found_in_both_forms():
    assert provenance.without_from(["a=1", "--from", "x", "-m"]) == ("x", ["a=1", "-m"])
    assert provenance.without_from(["--from=x=y", "b"]) == ("x=y", ["b"])
    assert provenance.without_from(["from=3"]) == (None, ["from=3"])


def test_data_that_are_not_here_are_asked_for(again, best, tmp_path, capfd):
    path = edited(best, tmp_path / "moved.safetensors", data__root="/nowhere/musdb", data__extra=["/nowhere/more"])
    assert again(path, "out=again") == USAGE
    said = capfd.readouterr().err
    assert "data.root=/nowhere/musdb, data.extra=/nowhere/more: recorded in " in said
    assert not (tmp_path / "again").exists()
    path = edited(
        best, path, data__root=None, data__synthetic={"songs": 2, "midi": "/nowhere", "soundfonts": ["/no.sf2"]}
    )
    assert again(path, "out=again") == USAGE
    assert "data.synthetic.midi=/nowhere, data.synthetic.soundfonts=/no.sf2" in capfd.readouterr().err


HOSTILE = {
    "the environment": ({"licence": "${oc.env:HOME}"}, "has interpolations"),
    "a file": ({"licence": "${oc.decode:${oc.env:HOME}}"}, "has interpolations"),
    "another option": ({"separator__targets": ["${data.root}"]}, "has interpolations"),
    "in a name": ({"separator__x${oc.env:HOME}": 1}, "has interpolations"),
    "os.system": ({"separator": {"_target_": "os.system", "command": "touch hacked"}}, "os.system"),
    "os.system in an augmentation": ({"augment": [{"_target_": "os.system", "command": "touch hacked"}]}, "os.system"),
    "hydra's own": ({"augment": [{"_target_": "hydra.utils.call"}]}, "outside of mss"),
    "a class of Lightning": ({"augment": [{"_target_": "mss.train.main"}]}, "is not"),
    "an optimizer that is none": ({"optimizer": {"name": "__import__", "lr": 1}}, "__import__"),
    "an optimizer without a name": ({"optimizer": {"lr": 1}}, "run cannot be made again: 'name'"),
    "a loss that is none": ({"losses": {"__class__": 1}}, "__class__"),
    "a wrapper that is none": ({"wrap": {"save": {"path": "hacked"}}}, "no wrapper"),
    "a seed that is none": ({"seed": "x"}, "seed is x"),
    "a name that is none": ({"name": None}, "name is null"),
    "a list for options": ({"data": []}, "data is"),
    "a trainer that is none": ({"trainer__strategy": {"a": 1}}, "run cannot be made again|strategy"),
    "tensors for nothing": ({"data__seconds": {"a": [1]}}, "unsupported operand"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_ends_in_one_sentence(name, again, best, tmp_path, capfd):
    changes, says = HOSTILE[name]
    path = edited(best, tmp_path / "evil.safetensors", **changes)
    before = sorted(tmp_path.rglob("*"))
    assert again(path, "out=again") == USAGE
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert re.search(says, said)
    assert os.environ["HOME"] not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_configuration_chooses_no_place_to_write_and_nobody_to_tell(again, best, tmp_path, capfd):
    places = {name: str(tmp_path / "hacked" / name) for name in ("out", "cache", "wandb", "root_dir")}
    path = edited(
        best,
        tmp_path / "evil.safetensors",
        name="../../hacked",
        out=places["out"],
        resume=True,
        data__cache=places["cache"],
        logger=["wandb"],
        wandb={"save_dir": places["wandb"], "settings": {"base_url": "http://127.0.0.1:9"}},
        trainer__default_root_dir=places["root_dir"],
        trainer__profiler="simple",
        trainer__plugins="x",
        hydra={"run": {"dir": places["out"]}},
        defaults=["x"],
    )
    assert again(path) == 0
    said = capfd.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["evil.safetensors", "trained"]
    assert [one.name for one in (tmp_path / "trained").iterdir()] == ["run"]
    assert "name: ../../hacked cannot name a folder, the run is called 'run'\n" in said.replace(
        "'../../hacked'", "../../hacked"
    )
    for option in ("trainer.default_root_dir", "trainer.profiler", "trainer.plugins", "hydra", "defaults"):
        assert f"{option}: no option of this version, left out\n" in said
    assert checkpoint.read_header(tmp_path / "trained" / "run" / "best.safetensors")["config"]["logger"] == ["csv"]


def test_a_configuration_too_deep_is_not_followed(best):
    header, deep = checkpoint.read_header(best), []
    for _ in range(500):
        deep = [deep]
    header["config"]["losses"] = {"x": deep}
    with pytest.raises(UsageError, match="nested deeper"):
        provenance.recorded(header, OmegaConf.create({}))


def test_the_environment_is_recorded(best):
    header = checkpoint.read_header(best)
    assert header["environment"] == json.loads(json.dumps(provenance.environment("cpu")))
    assert header["environment"]["device"] == "cpu"
    assert {"mss", "torch", "python"} <= header["versions"].keys()
