"""Several processes: they train as one would, decode once, fail with one sentence, and share a catalogue among them.

They are real ones, that talk over gloo on the CPU.
"""

import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import multiprocessing

import mss
from mss import evaluate, train
from mss.apps.evaluation import Evaluation
from mss.audio import Encoding, write
from mss.cli import USAGE, complain, rank_and_world
from mss.data.cache import cached
from mss.data.datamodule import DataModule
from mss.data.tracks import find_tracks
from mss.metrics.scores import read_results
from mss.training import losses
from mss.training.cluster import started_by
from mss.training.module import Training

RATE = 8000
WORLD = 2
OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def data(tmp_path, generator) -> Path:
    """Six tracks of a second of noise, one to validate with."""
    for name in ("train/a", "train/b", "train/c", "train/d", "train/e", "valid/f"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for stem in ("drums", "vocals"):
            x = torch.randn(2, RATE, generator=generator) / 10
            write(folder / f"{stem}.wav", x.clamp(-1, 1), RATE, encoding=Encoding("wav", "int16"))
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def one_thread():
    """A process that forked from one with several waits for ever for those it does not have (conftest gives them back)."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Lightning leaves some of these behind."""
    for name in list(os.environ):
        if name in OURS or name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)


def in_processes(work, *arguments) -> None:
    """work(rank, *arguments) in a process for each rank, which has what is imported here already."""
    multiprocessing.start_processes(work, arguments, nprocs=WORLD, start_method="fork")


class Net(torch.nn.Module):
    """Gains of each bin from the magnitudes of all, frame by frame; nothing in it looks at a whole batch."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(bins, 8), torch.nn.ReLU(), torch.nn.Linear(8, bins))

    def forward(self, X):
        return (X.abs() * self.layers(X.abs().mT).sigmoid().mT).unsqueeze(1)


class Recording(Training):
    """Keeps the batches that it was given."""

    def training_step(self, stems, index):
        self.seen.append(stems.float().sum((1, 2, 3)))
        return super().training_step(stems, index)


def trained(rank: int, world: int, batch: int, data: Path, out: Path, port: int) -> None:
    """Trains in float64 and without augmentation; keeps weights and batches."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    separator = mss.SpectralSeparator(Net(65), ("vocals",), sample_rate=RATE, transform=mss.STFT(n_fft=128, hop=64))
    loader = {"per_track": 5, "seconds": 0.25, "batch_size": batch, "seed": 1, "cache": data.parent / "cache"}
    module = DataModule(data, ("vocals",), sample_rate=RATE, **loader)
    module.setup("fit")
    training = Recording(
        separator, {"magnitude_mse": (1.0, losses.magnitude_mse)}, module.stems,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    )  # fmt: skip
    training.seen = []
    several = {}
    if world > 1:
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        several = {"strategy": DDPStrategy(process_group_backend="gloo"), "plugins": LightningEnvironment()}
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", devices=world, precision="64-true", use_distributed_sampler=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, **silent, **several,
    )  # fmt: skip
    trainer.fit(training, datamodule=module)
    state = {"weights": separator.state_dict(), "seen": training.seen, "loader": module.state_dict()}
    torch.save(state, out / f"{world}-{rank}.pt")


@pytest.fixture
def port() -> int:
    """One that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_train_as_one_with_twice_the_batch(data, tmp_path, port):
    in_processes(trained, WORLD, 3, data, tmp_path, port)
    trained(0, 1, 3 * WORLD, data, tmp_path, port)
    one = torch.load(tmp_path / "1-0.pt")
    ranks = [torch.load(tmp_path / f"{WORLD}-{rank}.pt") for rank in range(WORLD)]
    for rank in ranks:
        for name, weight in one["weights"].items():
            torch.testing.assert_close(rank["weights"][name], weight, rtol=0, atol=1e-12)
    # 25 excerpts an epoch: 4 batches of 6 each, and what is left over begins the next; so none is had twice or left out
    assert len(one["seen"]) == 3 * 4
    for batch, *parts in zip(one["seen"], *(rank["seen"] for rank in ranks), strict=True):
        assert torch.equal(batch, torch.stack(parts, 1).flatten())
    assert len(torch.cat(one["seen"]).unique()) == 3 * 24
    assert all(rank["loader"] == one["loader"] == {"excerpts": 72} for rank in ranks)


def decoding(rank: int, data: Path, cache: Path, out: Path) -> None:
    """Opens the tracks and keeps how many of them this process had to decode itself."""
    from mss.data import tracks

    loads, load = [], tracks.Track.load

    def counted(self):
        loads.append(self.name)
        time.sleep(0.2)
        return load(self)

    tracks.Track.load = counted
    while len(list(out.glob("ready*"))) < WORLD:
        (out / f"ready{rank}").touch()
    found = cached(find_tracks(data), sample_rate=RATE, folder=cache)
    (out / f"{rank}.txt").write_text("\n".join(loads))
    assert len(found) == 6


def test_every_track_is_decoded_by_one_process_only(data, tmp_path):
    in_processes(decoding, data, tmp_path / "cache", tmp_path)
    loads = [(tmp_path / f"{rank}.txt").read_text().split() for rank in range(WORLD)]
    assert sorted(loads[0] + loads[1]) == list("abcdef")
    assert all(loads)  # they share the work


def verb(rank: int, main, options: list[str], folder: Path) -> None:
    """A verb of the command line as srun starts it; stderr goes to a file."""
    os.environ |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "job", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    os.environ |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2"}
    os.environ |= {"SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}", "TMPDIR": str(folder)}
    tempfile.tempdir = None
    os.chdir(folder)
    with open(folder / f"said{rank}", "w", encoding="utf-8") as said:
        os.dup2(said.fileno(), 2)
        sys.stderr = said
        code = main(options)
        said.flush()
        os._exit(code)


def ranks_of(main, options: list[str], folder: Path) -> list[multiprocessing.Process]:
    """One process for each rank."""
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=verb, args=(rank, main, options, folder)) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    return ranks


def ended(ranks: list[multiprocessing.Process]) -> list[int]:
    """Their exit codes."""
    for rank in ranks:
        rank.join(60)
    return [rank.exitcode for rank in ranks]


def test_a_wrong_call_ends_all_ranks_with_one_sentence(tmp_path):
    assert ended(ranks_of(train.main, ["experiment=umxx"], tmp_path)) == [USAGE, USAGE]
    said = [(tmp_path / f"said{rank}").read_text() for rank in range(WORLD)]
    assert "did you mean umx?" in "".join(said)
    assert "" in said


def test_complaints_that_differ_are_all_heard(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    complain("alone")
    complain("alone")
    assert capsys.readouterr().err == "alone\n" * 2
    for name, value in {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    for text in ("no such file", "no such device", "no such file"):
        complain(text)
    complain("interrupted", unless_said=True)
    assert capsys.readouterr().err == "no such file\nno such device\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the job once more
    complain("no such file")
    assert capsys.readouterr().err == "no such file\n"


def test_ranks_are_those_of_torchrun_before_those_of_srun(monkeypatch):
    assert rank_and_world() == (0, 1)
    assert started_by() is None
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "x"}.items():
        monkeypatch.setenv(name, value)
    assert rank_and_world() == (0, 1)  # a batch script that does not use srun
    assert isinstance(started_by(), LightningEnvironment)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(ValueError, match="--ntasks-per-node=4"):
        started_by()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert rank_and_world() == (3, 4)
    assert isinstance(started_by(), SLURMEnvironment)
    assert not started_by().auto_requeue
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    assert rank_and_world() == (1, 2)
    assert isinstance(started_by(), TorchElasticEnvironment)


def slow(options: list[str]) -> int:
    """An evaluation that can be caught in the midst."""
    score = Evaluation._score
    Evaluation._score = lambda *arguments: (time.sleep(0.4), score(*arguments))[1]
    return evaluate.main(options)


def test_ranks_outlive_one_that_is_killed_and_a_second_run_does_what_is_missing(data, tmp_path):
    options = [f"data={data}", "subset=train", "oracle=MIX", "out=report"]
    first, second = ranks_of(slow, options, tmp_path)
    folder = tmp_path / "report" / "drums+vocals" / "MIX" / "train"
    give_up = time.monotonic() + 60
    while not (folder / "a.json").exists():  # a, c and e are of rank 0
        assert time.monotonic() < give_up
        assert first.exitcode is None, (tmp_path / "said0").read_text()
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    assert ended([first, second]) == [-signal.SIGKILL, 0]
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert {"a", "b", "d"} <= {path.stem for path in stamps} < set("abcde")
    assert ended(ranks_of(evaluate.main, options, tmp_path)) == [0, 0]
    assert {path.stem for path in folder.glob("*.json")} == set("abcde")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    (one,) = read_results(tmp_path / "report")
    assert len(one.tracks) == 5
