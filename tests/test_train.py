"""python -m mss.train as its users meet it: every experiment learns, its file is used by all, and wrong calls say why."""

import csv
import json
import logging
import sys
from functools import partial

import pytest
import torch

import mss
from mss import checkpoint, train
from mss.audio import Encoding, write
from mss.cli import USAGE
from mss.files import config_folder
from tests.conftest import sdr

RATE = 44100
BEST = "best.safetensors"
TINY = {  # what makes an experiment small enough for a test
    "umx": ["network.hidden=16", "network.layers=1"],
    "xumx": ["network.hidden=16", "network.layers=1", "data.batch_size=2"],
    "fcn": ["network.hidden=[16]"],
    "unet_jansson": ["network.filters=[2,4]", "separator.estimator.patch=16", "data.seconds=3"],
    "unet_spleeter": ["network.filters=[2,4]", "separator.estimator.patch=16", "data.batch_size=2"],
    "deep_clustering": ["network.hidden=8", "network.layers=1", "network.dimension=4"],
    "chimera": ["network.hidden=8", "network.layers=1", "network.dimension=4"],
    "convtasnet": [f"separator.{name}=8" for name in ("filters", "bottleneck", "hidden")] + ["separator.layers=2"],
    "hdemucs": ["separator.width=4", "data.seconds=1", "data.batch_size=2"],
    "cpu_blstm": ["network.hidden=16", "network.layers=1"],
    "cpu_unet": ["network.filters=[2,4]", "separator.estimator.patch=16"],
    "cpu_fcn": ["network.hidden=[16]"],
    "cpu_deep_clustering": ["network.hidden=8", "network.layers=1", "network.dimension=4"],
    "four_stems": ["separator.estimator.hidden=8", "data.synthetic=null", "data.extra_share=null", "data.valid=null"],
}
TINY["four_stems_low"] = [
    "separator.then.separator.estimator.hidden=8",
    "parts.first=first.safetensors",
    *TINY["four_stems"][1:],
]
TINY["four_stems_low_on"] = ["start=second.safetensors", *TINY["four_stems_low"]]
SHORT = ["data.seconds=1", "data.per_track=2", "data.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def data(excerpt, tmp_path_factory):
    """Three tracks of two seconds, one of them to validate with."""
    folder = tmp_path_factory.mktemp("tracks")
    for number, name in enumerate(("a", "b", "c")):
        track = folder / ("valid" if name == "c" else "train") / name
        track.mkdir(parents=True)
        for stem in ("drums", "bass", "other", "vocals"):
            x = excerpt[stem][:, number * RATE : (number + 2) * RATE]
            write(track / f"{stem}.wav", x.clamp(-1, 1), RATE, encoding=Encoding("wav", "int16"))
    return folder


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """run(*overrides) -> exit code; in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> int:
        return train.main([f"data.root={data}", f"data.cache={tmp_path / 'cache'}", "out=run", *overrides])

    return call


@pytest.mark.parametrize("experiment", sorted(set(TINY)))
def test_every_experiment_trains_and_what_it_saves_separates(experiment, run, tmp_path, capfd):
    if "parts.first=first.safetensors" in TINY[experiment]:
        mss.save(mss.MidSide(mss.EachChannel(first_part())), tmp_path / "first.safetensors")
    if "start=second.safetensors" in TINY[experiment]:
        before = TINY[experiment][1:]
        assert run("experiment=four_stems_low", "out=before", *before, *SHORT, "trainer.limit_train_batches=1") == 0
        capfd.readouterr()
        (tmp_path / "before" / "best.safetensors").rename(tmp_path / "second.safetensors")
    assert run(f"experiment={experiment}", *SHORT, *TINY[experiment], "trainer.limit_train_batches=2") == 0
    said = capfd.readouterr()
    assert "run/best.safetensors" in said.out
    assert "epoch 0" in said.err
    separator = mss.load(tmp_path / "run" / "best.safetensors")
    mixture = torch.randn(1, 2, separator.sample_rate, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        estimates = separator(mixture)
    assert estimates.shape == (1, len(separator.targets), 2, separator.sample_rate)
    assert estimates.isfinite().all()
    header = checkpoint.read_header(tmp_path / "run" / "best.safetensors")
    assert header["config"]["name"] == experiment
    assert len(header["data_digest"]) == 64
    assert header["metrics"]["step"] == 2


def first_part():
    """What another training might have made: shares of drums, bass and other that no song has."""
    torch.manual_seed(3)
    guide = partial(mss.classical.rhythm_section)
    network = mss.nets.GuidedTCN(guide, 3, bins=1025, hidden=4, dilations=(1,), maps=2)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return mss.SpectralSeparator(network, ("drums", "bass", "other"), transform=mss.STFT(2048, 512))


def test_parts_come_from_checkpoints_and_stay_as_they_are(run, tmp_path):
    part = first_part()
    mss.save(mss.EachChannel(part), tmp_path / "first.safetensors")
    tiny = ["experiment=four_stems_low", *TINY["four_stems_low"], *SHORT]
    assert run(*tiny, "separator.then.separator.estimator.maps=2") == 0
    made = mss.load(tmp_path / "run" / "best.safetensors")
    assert isinstance(made, mss.Corrected)
    assert isinstance(made.first, mss.EachChannel)
    for name, value in mss.EachChannel(part).state_dict().items():
        # the moving average rounds
        torch.testing.assert_close(made.first.state_dict()[name], value, rtol=1e-6, atol=1e-9)
    assert float(made.then.separator.estimator.move[0].bias.abs().max()) > 0
    header = checkpoint.read_header(tmp_path / "run" / "best.safetensors")
    assert header["config"]["parts"] == {"first": "first.safetensors"}


def test_parts_that_are_not_there_are_said(run, capfd):
    tiny = ["experiment=four_stems_low", *TINY["four_stems_low"], *SHORT]
    assert run(*tiny) == USAGE
    assert "first.safetensors: no such file" in capfd.readouterr().err


def test_a_training_starts_from_the_weights_it_is_given(run, tmp_path, capfd):
    assert run(*small()) == 0
    trained = mss.load(tmp_path / "run" / BEST)
    for (
        p
    ) in trained.parameters():  # those of other songs: of these, the statistics of the input would come out the same
        torch.nn.init.normal_(p, std=0.1)
    mss.save(trained, tmp_path / "before.safetensors")
    (tmp_path / "run").rename(tmp_path / "trained")
    begin = "start=before.safetensors"
    assert run(*small("optimizer.lr=0", begin)) == 0
    kept = dict(mss.load(tmp_path / "run" / BEST).named_parameters())
    for name, value in trained.named_parameters():
        torch.testing.assert_close(kept[name], value, rtol=1e-5, atol=1e-9, msg=name)  # the moving average rounds
    assert checkpoint.read_header(tmp_path / "run" / BEST)["config"]["start"] == "before.safetensors"
    (tmp_path / "run").rename(tmp_path / "kept")
    mss.save(mss.Chunked(trained), tmp_path / "before.safetensors")  # whatever is put around it, it is the same
    assert run(*small(begin, "optimizer.lr=0", "out=again")) == 0
    again = mss.load(tmp_path / "again" / BEST).state_dict()
    for name, value in mss.load(tmp_path / "kept" / BEST).state_dict().items():
        assert torch.equal(again[name], value), name
    capfd.readouterr()
    assert run(*small(begin, "network.hidden=32")) == USAGE
    said = capfd.readouterr().err
    assert "start: before.safetensors holds another separator" in said
    assert "((16,) there, (32,) here)" in said
    assert said.count("\n") == 1
    assert run(*small("start=nowhere.safetensors")) == USAGE
    assert "nowhere.safetensors: no such file" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_experiment_is_left_out():
    assert {path.stem for path in (config_folder() / "experiment").glob("*.yaml")} == {*TINY, "smoke"}


def small(*more: str) -> list[str]:
    return ["experiment=cpu_blstm", *TINY["cpu_blstm"], *SHORT, *more]


def weights(folder) -> dict[str, torch.Tensor]:
    return mss.load(folder / "run" / "best.safetensors").state_dict()


def test_a_seed_gives_the_same_weights_and_another_seed_others(run, tmp_path):
    found = []
    for seed in (1, 1, 2):
        assert run(*small(f"seed={seed}")) == 0
        found.append(weights(tmp_path))
        (tmp_path / "run").rename(tmp_path / f"run{len(found)}")
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_a_resumed_run_ends_where_one_run_would(run, tmp_path):
    assert run(*small("trainer.max_epochs=3", "schedule.name=constant")) == 0
    whole = weights(tmp_path)
    (tmp_path / "run").rename(tmp_path / "whole")
    assert run(*small("trainer.max_epochs=1", "schedule.name=constant")) == 0
    assert run(*small("trainer.max_epochs=3", "schedule.name=constant", "resume=true")) == 0
    last = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    expected = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(last[name], expected[name]) for name in expected)
    assert whole.keys() == weights(tmp_path).keys()


def test_learns_an_excerpt_by_heart(run, tmp_path, data):
    assert run(
        *small("trainer.max_epochs=40", "data.mix_tracks=false", "augment=[]", "optimizer.lr=1e-2", "ema=null"),
        "network.hidden=32", "data.seconds=1.9",
    ) == 0  # fmt: skip
    track = mss.data.find_tracks(data, subset="train")[0].audio
    with torch.inference_mode():
        vocals = mss.load(tmp_path / "run" / "best.safetensors")(track.mixture[None])[0, 0]
    assert sdr(track.stems["vocals"], vocals) > sdr(track.stems["vocals"], track.mixture) + 3


def test_loggers_keep_curves_sounds_and_pictures_offline(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert run(*small("logger=[csv,tensorboard,wandb]", "wandb.offline=true", "examples=1")) == 0
    with open(tmp_path / "run" / "logs" / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert any(row.get("valid/sdr/vocals") for row in rows)
    assert (
        next((tmp_path / "run").rglob("events.out.tfevents*")).stat().st_size > 100_000
    )  # sounds and pictures are in it
    assert list((tmp_path / "run").rglob("*.wandb"))


def test_a_sweep_has_a_folder_for_each_run(run, tmp_path):
    assert run(*small("optimizer.lr=1e-3,1e-2", "--multirun")) == 0
    found = [
        json.dumps(checkpoint.read_header(path)["config"]) for path in (tmp_path / "run").rglob("best.safetensors")
    ]
    assert len(found) == 2
    assert {json.loads(config)["optimizer"]["lr"] for config in found} == {1e-3, 1e-2}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["experiment=umxx"], "did you mean umx"),
        (["experiment=umx", "optimiser.lr=1"], "did you mean optimizer"),
        (["experiment=umx", "data.bach_size=1"], "did you mean data.batch_size"),
        (["experiment=umx", "network.hiden=3"], "hiden"),
        (["experiment=umx", "losses.magnitude_mes=1"], "magnitude_mse"),
        (["experiment=umx", "losses.magnitude_mse=null"], "no loss"),
        (["experiment=umx", "optimizer.name=Adamm"], "did you mean Adam"),
        (["experiment=umx", "schedule.name=step"], "cosine"),
        (["experiment=umx", "optimizer.lrr=1"], "lrr"),
        (["experiment=umx", "logger=[csw]"], "tensorboard"),
        (["experiment=umx", "separator._target_=os.system"], "os.system"),
        (["experiment=umx", "data.root=nowhere"], "no such folder"),
        (["experiment=umx", "data.root=null"], "no data set"),
        (["experiment=umx", "separator.targets=[piano]", "separator.estimator.networks=['${network}']"], "piano"),
        (["experiment=umx", "data.valid=[z]"], "'z'"),
        (["experiment=umx", "data.seconds=0.05"], "window"),
        (["experiment=umx", "ema=2"], "between 0 and 1"),
        (["experiment=umx", "trainer.accelerator=abacus"], "abacus"),
        (["experiment=umx", "trainer.precision=bf16-true"], "bf16-mixed"),
        ([], "experiment=umx"),
    ],
)
def test_wrong_calls_say_what_to_do_before_the_first_step(run, overrides, says, tmp_path, capfd):
    assert run(*overrides) == USAGE
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(run, tmp_path, capfd):
    assert run(*small()) == 0
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    assert run(*small()) == USAGE
    assert "resume=true" in capfd.readouterr().err
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_ends_the_run(run, tmp_path, capfd):
    assert run(*small("optimizer={name: SGD, lr: 1e30}", "trainer.max_epochs=3")) == 1
    assert "no longer a finite number" in capfd.readouterr().err


def test_library_warnings_do_not_reach_users(run, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        assert run(*small()) == 0
    assert "lightning" not in capfd.readouterr().err.lower()


def test_without_lightning_it_says_what_to_install(run, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert run("experiment=smoke") == USAGE
    assert "pip install 'mss-separation[train]'" in capfd.readouterr().err


def test_experiments_of_ones_own_are_found(run, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [cpu_blstm, _self_]\nname: mine\nnetwork: {hidden: 8, layers: 1}\n",
        encoding="utf-8",
    )
    assert run("--config-dir", str(tmp_path / "conf"), "experiment=mine", *SHORT) == 0
    assert checkpoint.read_header(tmp_path / "run" / "best.safetensors")["config"]["network"]["hidden"] == 8


def test_the_filter_in_the_end_may_be_another(run, tmp_path, capfd):
    tiny = ["experiment=cpu_unet", *TINY["cpu_unet"], *SHORT]
    assert run(*tiny) == 0
    softer = mss.load(tmp_path / "run" / "best.safetensors").separator
    assert softer.filter.keywords["power"] == 0.8
    (tmp_path / "run").rename(tmp_path / "softer")
    assert run(*tiny, "filter=null") == 0
    plain = mss.load(tmp_path / "run" / "best.safetensors").separator
    assert plain.filter.keywords.get("power", 1) == 1
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), softer.state_dict().values(), strict=True)
    )
    capfd.readouterr()
    described = "filter={_target_: mss.filters.softmask, _partial_: true}"
    assert run("experiment=convtasnet", *TINY["convtasnet"], *SHORT, described, "out=other") == USAGE
    assert "filter: a ConvTasNet has none, only a SpectralSeparator has" in capfd.readouterr().err
