"""A training that is killed ends with the weights of one that was not, wherever it was killed."""

import csv
import itertools
import multiprocessing
import os
import random
import signal
import sys
from typing import ClassVar

import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers.logger import DummyLogger

from mss import train
from mss.audio import Encoding, write
from mss.cli import INTERRUPTED, USAGE
from mss.data.datamodule import DataModule
from mss.training.module import Training
from mss.training.resuming import Curves, KeepsPlace, WholeFiles

RATE = 44100
NETWORK = [
    "experiment=cpu_blstm",
    "network.hidden=16",
    "network.layers=2",
    "network.dropout=0.5",
]  # dropout: random, too
DATA = ["data.seconds=0.3", "data.per_track=6", "data.batch_size=2", "trainer.max_epochs=4", "seed=3", "threads=1"]
AUGMENTED = "augment=[{_target_:mss.data.augment.Gain},{_target_:mss.data.augment.Equalizer}]"


@pytest.fixture(scope="module")
def data(excerpt, tmp_path_factory):
    """Two tracks to train on and one to validate with."""
    folder = tmp_path_factory.mktemp("tracks")
    for number, name in enumerate(("train/a", "train/b", "valid/c")):
        (folder / name).mkdir(parents=True)
        for stem in ("drums", "bass", "other", "vocals"):
            x = excerpt[stem][:, number * RATE : (number + 1) * RATE]
            write(folder / name / f"{stem}.wav", x.clamp(-1, 1), RATE, encoding=Encoding("wav", "int16"))
    return folder


@pytest.fixture(scope="module")
def command(data, tmp_path_factory):
    """The options of the run that is killed; the cache is there already."""
    cache = tmp_path_factory.mktemp("cache")
    module = DataModule(data, ("vocals", "accompaniment"), cache=cache)
    module.prepare_data()
    return [*NETWORK, *DATA, AUGMENTED, f"data.root={data}", f"data.cache={cache}", "checkpoint_minutes=0"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The folder of the run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert train.main([*command, f"out={folder}", "quiet=true"]) == 0
    return folder


def start(options, out, strike=None) -> multiprocessing.Process:
    """The run as a process of its own, which has what is imported here already; stderr goes to `said`.

    It calls `strike` itself, in its second step: seen from here, on a busy machine, it may have ended before it is hit.
    """

    def child() -> None:
        plain, steps = Training.training_step, itertools.count()

        def training_step(*given):
            if strike is not None and next(steps) == 1:
                strike()
            return plain(*given)

        Training.training_step = training_step
        os.dup2(os.open(out.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        sys.exit(train.main([*options, f"out={out}", "resume=true", "trainer.log_every_n_steps=1"]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def state(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def steps_done(folder) -> int:
    return state(folder)["global_step"] if (folder / "last.ckpt").exists() else 0


def rows(folder) -> list[int]:
    """The steps that metrics.csv has."""
    with open(folder / "logs" / "metrics.csv", encoding="utf-8") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss_step"]]


def same(a, b) -> bool:
    """Whether two nested states are equal, bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_killed_again_and_again_it_ends_where_one_run_does(command, whole, tmp_path):
    out, rng, kills = tmp_path / "run", random.Random(7), 0  # seeded, but where it hits depends on the machine
    for _ in range(3):
        after = 0.01 + rng.random() * 0.3  # seconds of its own work, after which it ends at once, wherever it is
        process = start(command, out, lambda after=after: signal.setitimer(signal.ITIMER_PROF, after))
        process.join()
        kills += process.exitcode == -signal.SIGPROF
    assert kills == 3
    assert 0 < steps_done(out) < steps_done(whole)
    for name in ("last.ckpt", "best.safetensors"):  # as a kill leaves it that comes while a file is written
        (out / f".{name}.abc123.part").write_bytes(b"half")
    process = start(command, out)
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    ours, theirs = state(out), state(whole)
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert same(ours[part], theirs[part]), part
    assert (out / "best.safetensors").read_bytes()[-1000:] == (whole / "best.safetensors").read_bytes()[-1000:]
    assert not [path for path in out.iterdir() if path.name.endswith(".part")]
    steps = rows(out)
    assert steps == sorted(set(steps)) == list(range(theirs["global_step"]))  # no step twice, none left out


def test_the_row_of_a_step_is_written_before_the_place_after_it(command, tmp_path):
    """Killed just after that is written."""
    plain = WholeFiles.save_checkpoint

    def strike():
        def last_one(*given, **options):
            plain(*given, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        WholeFiles.save_checkpoint = last_one

    out = tmp_path / "run"
    process = start(command, out, strike)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert rows(out) == list(range(state(out)["global_step"]))


class Boring(BoringModel):
    def training_step(self, batch, index):
        self.log("nothing", torch.nan)
        return super().training_step(batch, index)


def test_every_logger_has_every_step_once_though_a_place_is_kept_after_each(tmp_path):
    class Other(DummyLogger):
        steps: ClassVar[list[int]] = []

        def log_metrics(self, metrics, step):
            self.steps.append(step)

    curves = Curves(tmp_path, "", "")
    options = {"max_epochs": 1, "limit_train_batches": 5, "limit_val_batches": 0, "log_every_n_steps": 1}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    keeps = KeepsPlace(tmp_path / "last.ckpt", minutes=0)
    trainer = lightning.Trainer(logger=[curves, Other()], callbacks=[keeps], default_root_dir=tmp_path, **options)
    trainer.fit(Boring())
    assert Other.steps == [0, 1, 2, 3, 4]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [0, 1, 2, 3, 4]


def test_a_signal_lets_the_step_end_and_keeps_the_place(command, whole, tmp_path):
    options = [option for option in command if not option.startswith("checkpoint_minutes")]
    out = tmp_path / "run"
    process = start(options, out, lambda: os.kill(os.getpid(), signal.SIGTERM))
    process.join()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == INTERRUPTED, said
    assert "resume=true" in said
    assert "Traceback" not in said
    assert 0 < steps_done(out) < steps_done(whole)
    process = start(options, out)
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    assert same(state(out)["state_dict"], state(whole)["state_dict"])


def test_a_checkpoint_that_was_cut_is_refused_in_a_sentence(command, whole, tmp_path, capfd):
    out = tmp_path / "run"
    out.mkdir()
    data = (whole / "last.ckpt").read_bytes()
    (out / "last.ckpt").write_bytes(data[: len(data) // 2])
    assert train.main([*command, f"out={out}", "resume=true"]) != 0
    said = capfd.readouterr().err
    assert "last.ckpt cannot be read" in said
    assert "Traceback" not in said


def test_steps_do_not_depend_on_what_was_drawn_before(command, whole, tmp_path, monkeypatch):
    """Validation, logging or anything else may draw random numbers: those of a step are its own."""
    plain = Training.validation_step
    monkeypatch.setattr(Training, "validation_step", lambda *given: (torch.rand(3), plain(*given))[1])
    assert train.main([*command, f"out={tmp_path / 'run'}", "quiet=true"]) == 0
    assert same(state(tmp_path / "run")["state_dict"], state(whole)["state_dict"])


def test_minutes_below_zero_are_refused(command, tmp_path, capfd):
    assert train.main([*command, f"out={tmp_path / 'run'}", "checkpoint_minutes=-1"]) == USAGE
    assert "checkpoint_minutes" in capfd.readouterr().err
