"""From tracks to batches: the cache, excerpts by number, splits, and everything that is wrong before the first step."""

import errno
import http.server
import importlib.util
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import time
import types
import zipfile
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import lightning
import pytest
import torch

from mss.audio import Encoding, read, resample, write
from mss.data import (
    CacheError,
    DataModule,
    Epochs,
    Excerpts,
    Mixed,
    Songs,
    Track,
    TrackError,
    cached,
    find_tracks,
    musdb,
    reference,
    split,
    target_matrix,
)
from mss.data.datamodule import Loader
from tests.conftest import ROOT
from tests.test_tracks import folder_track, one

RATE = 8000
STEMS = ("drums", "vocals")


@pytest.fixture
def root(tmp_path, generator) -> Path:
    """Four tracks to train on and one to validate with, 1000 samples each."""
    for name in ("train/a", "train/b", "train/c", "train/d", "valid/e"):
        folder_track(tmp_path / "data" / name, ["mixture", *STEMS], generator, samples=1000)
    return tmp_path / "data"


@pytest.fixture
def tracks(root, tmp_path):
    return cached(find_tracks(root, subset="train"), sample_rate=RATE, folder=tmp_path / "cache", dtype="float32")


def module(root, tmp_path, **options) -> DataModule:
    options = {"sample_rate": RATE, "seconds": 0.05, "per_track": 4, "batch_size": 2} | options
    return DataModule(root, options.pop("targets", ["vocals"]), cache=tmp_path / "cache", **options)


# Splits


def named(*names: str) -> list[Track]:
    return [Track(name.rpartition("/")[2], name.rpartition("/")[0], Path(name)) for name in names]


def test_musdb_names_its_own_validation_tracks():
    names = musdb.validation_tracks()
    assert len(set(names)) == 14
    assert "Meaxic - Take A Step" in names
    tracks = named(*(f"train/{name}" for name in names), "train/A", "test/B")
    train, valid = split(tracks)
    assert [t.name for t in train] == ["A"]
    assert {t.name for t in valid} == set(names)


def test_without_musdb_the_message_says_what_to_do(monkeypatch):
    musdb.metadata.cache_clear()
    monkeypatch.setattr(musdb.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrackError, match=r"pip install musdb; or name tracks.*valid=0\.1"):
        split(named("A", "B"))


def test_a_folder_a_list_and_a_share_to_validate_with():
    train, valid = split(named("train/A", "valid/B", "valid/Meaxic - Take A Step", "train/B", "test/C"))
    assert [t.name for t in train] == ["A"]  # B is in both: it is not trained on
    assert [(t.subset, t.name[0]) for t in valid] == [("valid", "B"), ("valid", "M")]
    tracks = named(*(f"train/{n}" for n in range(40)))
    train, valid = split(tracks, ["3", "7"])
    assert [t.name for t in valid] == ["3", "7"]
    assert len(train) == 38
    train, valid = split(tracks, 0.25, seed=1)
    assert len(valid) == 10
    assert {t.name for t in train} | {t.name for t in valid} == {t.name for t in tracks}
    assert split(tracks[::-1], 0.25, seed=1)[1] == valid[::-1]
    assert split(tracks, 0.25, seed=2)[1] != valid


@pytest.mark.parametrize(
    ("names", "valid", "message"),
    [
        ((), None, "nothing to train on: no tracks"),
        (("test/A", "test/B"), 0.5, "2 tracks, all of the subset test"),
        (("A", "B"), None, "none of 2 tracks is to validate with"),
        (("A", "B"), [], "none of the tracks is to validate with"),
        (("A", "B"), ["C"], "no track to validate with is called 'C'"),
        (("A", "B"), ["A", "B"], "nothing is left to train on: all 2"),
        (("A",), 0.1, "nothing is left to train on"),
        (("valid/A", "train/A"), None, "nothing is left to train on"),
        (("A", "B"), 1.5, "above 0 and below 1, not 1.5"),
    ],
)
def test_splits_with_nothing_on_one_side(names, valid, message):
    with pytest.raises(TrackError, match=message):
        split(named(*names), valid)


# Cache


def test_what_comes_from_the_cache_is_what_was_decoded(excerpt_path, excerpt, tmp_path):
    (tmp_path / "a.stem.mp4").symlink_to(excerpt_path)
    found = find_tracks(tmp_path)
    (exact,) = cached(found, folder=tmp_path / "cache", dtype="float32")
    (small,) = cached(found, folder=tmp_path / "cache")
    assert exact.parts == small.parts == ("mixture", "drums", "bass", "other", "vocals")
    for name, x in excerpt.items():
        assert torch.equal(exact.waveform(name), x)
        assert torch.equal(exact.waveform(name, 1000, 50), x[:, 1000:1050])
        error = small.waveform(name) - x
        assert error.abs().max() <= 1.01 * x.abs().max() / 65534
        assert 20 * torch.log10(error.square().mean().sqrt() / x.abs().max()) == pytest.approx(-101.1, abs=0.2)
    assert small.path.stat().st_size < 0.51 * exact.path.stat().st_size


def test_sixteen_bits_stay_what_they_are(tmp_path, generator):
    folder_track(tmp_path / "a", STEMS, generator, samples=500)
    x = torch.randint(-(2**15), 2**15, (2, 500), generator=generator) / 2**15
    write(tmp_path / "a" / "vocals.wav", x, RATE, encoding=Encoding(subtype="int16"))
    (track,) = cached(find_tracks(tmp_path), sample_rate=RATE, folder=tmp_path / "cache")
    assert torch.equal(track.waveform("vocals"), x)


def test_rates_and_channels_are_made_alike(tmp_path, generator):
    folder_track(tmp_path / "a", STEMS, generator, samples=500, channels=1)
    folder_track(tmp_path / "b", STEMS, generator, samples=500, channels=3)
    a, b = find_tracks(tmp_path)
    (stereo,) = cached([a], sample_rate=12000, folder=tmp_path / "cache", dtype="float32")
    expected = resample(a.audio.stems["drums"], RATE, 12000)
    assert torch.allclose(stereo.waveform("drums"), expected.expand(2, -1), atol=1e-6)
    assert torch.allclose(stereo.waveform("mixture"), resample(a.audio.mixture, RATE, 12000).expand(2, -1), atol=1e-6)
    (mono,) = cached([b], sample_rate=RATE, channels=1, folder=tmp_path / "cache", dtype="float32")
    assert torch.equal(mono.waveform("drums"), b.audio.stems["drums"].mean(0, keepdim=True))
    with pytest.raises(TrackError, match="b: 3 channels cannot be made 2"):
        cached([b], sample_rate=RATE, folder=tmp_path / "cache")


def refuse(*_args, **_options):
    raise AssertionError("nothing was to be decoded")


def test_only_what_has_changed_is_decoded_again(root, tmp_path, generator, monkeypatch):
    options = {"sample_rate": RATE, "folder": tmp_path / "cache", "dtype": "float32"}
    before = cached(find_tracks(root), **options)
    with monkeypatch.context() as patch:
        patch.setattr(Track, "load", refuse)
        patch.setattr("mss.data.cache.FileLock", refuse)  # a whole cache may be on a disk that cannot be written to
        assert cached(find_tracks(root), **options) == before
    x = torch.randn(2, 1000, generator=generator) * 0.1
    write(root / "train" / "a" / "drums.wav", x, RATE)
    with monkeypatch.context() as patch:
        real = Track.load
        patch.setattr(Track, "load", lambda track: real(track) if track.name == "a" else refuse())
        after = cached(find_tracks(root), **options)
    assert torch.equal(after[0].waveform("drums"), x)
    assert after[1:] == before[1:]
    assert not before[0].path.exists()


@pytest.mark.parametrize("spoil", [lambda d: d[:-4], lambda d: d[:-64] + bytes(64), lambda d: d[:100], lambda d: b"x"])
def test_a_damaged_file_is_decoded_again(spoil, root, tmp_path, caplog):
    options = {"sample_rate": RATE, "folder": tmp_path / "cache"}
    first = cached(find_tracks(root), **options)[0]
    expected, data = first.waveform("drums"), first.path.read_bytes()
    first.path.unlink()  # it is mapped
    first.path.write_bytes(spoil(data))
    assert torch.equal(cached(find_tracks(root), **options)[0].waveform("drums"), expected)
    assert "a in the cache is damaged" in caplog.text


def decode_slowly(root, folder, log, killed) -> None:
    """In a process of its own."""
    load = Track.load

    def slow(track):
        with open(log, "a", buffering=1) as file:
            file.write(f"+{track.name}\n")
            time.sleep(0.2)
            file.write(f"-{track.name}\n")
        return load(track)

    Track.load = slow
    if killed:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    tracks = cached(find_tracks(root), sample_rate=RATE, folder=folder)
    assert [track.name for track in tracks] == list("abcde")


@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
def test_builders_share_the_work_and_may_be_killed(root, tmp_path):
    folder, log, fork = tmp_path / "cache", tmp_path / "log", multiprocessing.get_context("fork")

    def build(count, killed=False) -> list[int]:
        running = [fork.Process(target=decode_slowly, args=(root, folder, log, killed)) for _ in range(count)]
        for process in running:
            process.start()
        for process in running:
            process.join(60)
        return [process.exitcode for process in running]

    assert build(1, killed=True) == [-signal.SIGKILL]
    assert len(list(folder.glob("*.part"))) == 1
    assert build(2) == [0, 0]
    events = log.read_text().split()[2:]  # after those of the killed one
    assert sorted(events) == [f"{sign}{name}" for sign in "+-" for name in "abcde"]  # each once
    assert max(accumulate(1 if event[0] == "+" else -1 for event in events)) == 2  # side by side
    assert not list(folder.glob("*.part"))
    assert len(list(folder.glob("*.safetensors"))) == 5


def fail(number):
    def function(*_, **__):
        raise OSError(number, os.strerror(number))

    return function


def test_a_full_disk_leaves_nothing_half_written(root, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    needed = r"No space left.*: 5 tracks need 0\.0 GB; make room, or keep it elsewhere.*MSS_HOME"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail(errno.ENOSPC))
        with pytest.raises(CacheError, match=needed):
            cached(find_tracks(root), sample_rate=RATE, folder=folder)
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=59_999))
        patch.setattr(Track, "load", refuse)
        with pytest.raises(CacheError, match=needed):  # 5 tracks, 3 parts, 2 channels, 1000 samples, 2 bytes
            cached(find_tracks(root), sample_rate=RATE, folder=folder)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=60_000))
        cached(find_tracks(root), sample_rate=RATE, folder=folder)


def test_a_cache_that_cannot_be_written_to(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MSS_HOME", str(tmp_path / "file"))
    with pytest.raises(CacheError, match=r"Not a directory.*5 tracks need"):
        cached(find_tracks(root), sample_rate=RATE)
    monkeypatch.setattr("mss.data.cache.FileLock", fail(errno.EROFS))
    with pytest.raises(CacheError, match="Read-only file system"):
        cached(find_tracks(root), sample_rate=RATE, folder=tmp_path / "cache")


# Excerpts


def test_an_excerpt_is_a_function_of_seed_and_index(tracks):
    excerpts = Excerpts(tracks, STEMS, seconds=0.05, seed=3)
    indices = [7, 0, 10**12, 300, 7]
    batch = excerpts.__getitems__(indices)
    assert batch.shape == (5, 2, 2, 400)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[0], batch[4])
    assert len(pickle.dumps(excerpts)) < 10_000  # for a worker, which maps the samples itself
    again = pickle.loads(pickle.dumps(excerpts))
    for index, excerpt in zip(indices, batch, strict=True):
        assert torch.equal(again[index], excerpt)
        assert not torch.equal(Excerpts(tracks, STEMS, seconds=0.05, seed=4)[index], excerpt)
        for stem, x, (track, start) in zip(STEMS, excerpt, excerpts.draw(index), strict=True):
            assert torch.equal(x, track.waveform(stem)[:, start : start + 400])
    assert len(excerpts) == 4 * 64


def test_stems_are_mixed_across_tracks_and_times(tracks):
    places = [Excerpts(tracks, STEMS, seconds=0.05).draw(index) for index in range(2000)]
    pairs = [(a.name, b.name) for (a, _), (b, _) in places]
    counts = torch.tensor([pairs.count((a, b)) for a in "abcd" for b in "abcd"])
    assert ((counts - 125).abs() < 5 * 125**0.5).all()  # all pairs alike
    starts = torch.tensor([[a, b] for (_, a), (_, b) in places]).double()
    assert starts.min() == 0
    assert starts.max() == 600
    assert starts.mean() == pytest.approx(300, abs=5 * 173 / 4000**0.5)
    assert abs(torch.corrcoef(starts.T)[0, 1]) < 5 / 2000**0.5


def test_stems_of_one_track_stay_together(tracks):
    together = Excerpts(tracks, STEMS, seconds=0.05, mix_tracks=False)
    places = [together.draw(index) for index in range(len(together))]
    assert all(a == b for a, b in places)
    names = [a[0].name for a, _ in places]
    assert [names.count(name) for name in "abcd"] == [64] * 4
    assert len({a[1] for a, _ in places}) > 100
    half = Excerpts(tracks, STEMS, seconds=0.05, mix_tracks=0.5)
    alike = sum(a == b for a, b in map(half.draw, range(2000)))
    assert alike == pytest.approx(1000, abs=5 * 500**0.5)


def test_silence_is_drawn_again_where_a_stem_should_be_heard(tmp_path, generator):
    for name in "ab":
        folder_track(tmp_path / "data" / name, STEMS, generator, samples=1000)
    x = read(tmp_path / "data" / "a" / "vocals.wav")[0]
    write(tmp_path / "data" / "a" / "vocals.wav", x * (torch.arange(1000) >= 900), RATE)
    found = cached(find_tracks(tmp_path / "data"), sample_rate=RATE, folder=tmp_path / "cache")

    def silent(**options):
        excerpts = Excerpts(found, STEMS, seconds=0.0125, **options)
        return sum(not excerpts[index][1].any() for index in range(400)) / 400

    # 801 of 901 times in one of two tracks
    assert silent() == pytest.approx(0.444, abs=0.12)
    assert silent(audible=["vocals"], silence=0) == 0
    assert silent(audible=["vocals"], silence=0, mix_tracks=False) == 0
    assert silent(audible=["vocals"], silence=0.5) == pytest.approx(0.222, abs=0.1)
    write(tmp_path / "data" / "b" / "vocals.wav", x * 0, RATE)
    write(tmp_path / "data" / "a" / "vocals.wav", x * 0, RATE)
    found = cached(find_tracks(tmp_path / "data"), sample_rate=RATE, folder=tmp_path / "cache")
    assert silent(audible=["vocals"], silence=0) == 1  # it does not draw for ever


def test_short_tracks_end_in_silence_and_missing_stems_are_drawn_elsewhere(tmp_path, generator):
    folder_track(tmp_path / "data" / "a", ["drums"], generator, samples=30)
    folder_track(tmp_path / "data" / "b", STEMS, generator, samples=50)
    found = cached(find_tracks(tmp_path / "data"), sample_rate=RATE, folder=tmp_path / "cache", dtype="float32")
    excerpts = Excerpts(found, STEMS, seconds=0.01)
    for index in range(20):
        x = excerpts[index]
        assert torch.equal(x[1], torch.nn.functional.pad(found[1].waveform("vocals"), (0, 30)))
    assert {excerpts.draw(index)[0][0].name for index in range(20)} == {"a", "b"}
    together = Excerpts(found, STEMS, seconds=0.01, mix_tracks=False)
    assert not together[0][1].any()  # of a, which has no vocals
    assert {
        p[0].name
        for i in range(9)
        for p in Excerpts(found, STEMS, seconds=0.005, mix_tracks=False, audible=["vocals"], silence=0).draw(i)
    } == {"b"}


def test_excerpts_of_what_is_not_there(tracks):
    with pytest.raises(TrackError, match="no track has the stem 'piano'; there are drums, vocals"):
        Excerpts(tracks, ("drums", "piano"))
    with pytest.raises(TrackError, match="no tracks to take"):
        Excerpts([], STEMS)
    with pytest.raises(TrackError, match=r"\['piano'\]"):
        Excerpts(tracks, STEMS, audible=["piano"])


@pytest.mark.parametrize("mix_tracks", [True, False])
def test_extra_tracks_have_the_share_they_are_given(mix_tracks, root, tmp_path, generator):
    folder_track(tmp_path / "extra" / "more", STEMS, generator, samples=1000)
    data = module(root, tmp_path, extra=[tmp_path / "extra"], extra_share=0.25, mix_tracks=mix_tracks)
    data.setup()
    names = [track.name for index in range(1000) for track, _ in data.datasets()[0][0].draw(index)]
    assert names.count("more") == pytest.approx(500, abs=5 * (2000 * 0.1875) ** 0.5 * (1 if mix_tracks else 2**0.5))
    for name in "abcd":
        assert names.count(name) == pytest.approx(375, abs=6 * 375**0.5)
    without = module(root, tmp_path, extra=[tmp_path / "extra"], extra_share=0.0)
    without.setup()
    assert "more" not in {track.name for index in range(100) for track, _ in without.datasets()[0][0].draw(index)}


@pytest.mark.parametrize("weights", [[1, 2], [1, 1, 1, -1], [0, 0, 0, 0]])
def test_weights_that_fit_no_tracks_are_refused(weights, tracks):
    with pytest.raises(TrackError, match="a weight, 0 or more, for each of 4 tracks"):
        Excerpts(tracks, STEMS, weights=weights)


def test_sources_are_mixed_by_their_shares(tracks):
    class Constant:
        def __init__(self, value):
            self.value = value

        def __len__(self):
            return 10

        def __getitem__(self, index):
            return torch.full((2, 2, 4), self.value + 10.0 * index)

    mixed = Mixed([Constant(0), Constant(1), Constant(2)], [1, 0, 3], seed=5)
    chosen = [int(mixed[index][0, 0, 0]) - 10 * index for index in range(2000)]
    assert chosen.count(0) == pytest.approx(500, abs=5 * 375**0.5)
    assert chosen.count(1) == 0
    assert torch.equal(mixed.__getitems__([3, 9]), torch.stack([mixed[3], mixed[9]]))
    with pytest.raises(ValueError, match="a share, 0 or more, for each of 1"):
        Mixed([Constant(0)], [1, 2])


def test_ranks_divide_an_epoch_and_go_on_together():
    ranks = [Epochs(11, rank=rank, world=3) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [3, 3, 3]
    for first in (0, 9):
        assert sorted(chain(*ranks)) == [first + i for i in range(9)]
        for rank in ranks:
            rank.start += 3
    with pytest.raises(ValueError, match="from 0 to 2; there is none 3"):
        Epochs(11, rank=3, world=3)


def test_a_loader_goes_on_with_other_batches_and_ranks(tracks):
    excerpts = Excerpts(tracks, STEMS, seconds=0.05, per_track=4)
    first = Loader(excerpts, batch_size=3)
    seen = list(first)
    assert len(seen) == 5
    state = pickle.loads(pickle.dumps(first.state_dict()))
    ranks = [Loader(excerpts, batch_size=2, rank=rank, world=2) for rank in range(2)]
    for loader in ranks:
        loader.load_state_dict(state)
    (a, *_), (b, *_) = ranks
    assert torch.equal(torch.stack([a, b], 1).flatten(0, 1), excerpts.__getitems__(range(14, 18)))


def test_songs_have_their_own_mixture(tracks, tmp_path, generator):
    song = Songs(tracks, ("vocals", "piano"))[1]
    assert song["name"] == "b"
    assert torch.equal(song["mixture"], tracks[1].waveform("mixture"))
    assert not torch.allclose(song["mixture"], tracks[1].waveform("vocals") + tracks[1].waveform("drums"))
    assert torch.equal(song["stems"], torch.stack([tracks[1].waveform("vocals"), torch.zeros(2, 1000)]))


def test_targets_are_sums_of_stems(generator):
    stems = ("drums", "bass", "vocals")
    targets = ("vocals", "accompaniment", "no_bass", "drums")
    x = torch.randn(3, 2, 5, generator=generator)
    expected = torch.stack([reference(dict(zip(stems, x, strict=True)), target) for target in targets])
    assert torch.allclose(torch.einsum("ns,sct->nct", target_matrix(stems, targets), x), expected)
    with pytest.raises(TrackError, match="no reference for 'guitar': there are drums, bass, vocals"):
        target_matrix(stems, ["guitar"])


# DataModule


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers(workers, root, tmp_path):
    data = module(root, tmp_path, workers=workers, seed=2)
    data.prepare_data()
    data.setup()
    assert data.stems == STEMS
    loader = data.train_dataloader()
    assert len(loader) == 8
    excerpts = data.datasets()[0][0]
    for epoch in range(2):
        for step, batch in enumerate(loader):
            assert torch.equal(batch, excerpts.__getitems__([16 * epoch + 2 * step, 16 * epoch + 2 * step + 1]))
    (song,) = data.val_dataloader()
    assert song["name"] == ["e"]
    assert torch.equal(song["mixture"][0], data.valid_tracks[0].waveform("mixture"))
    pieces = list(data.mixtures(0.1))
    assert [piece.shape for piece in pieces[:2]] == [(1, 2, 800), (1, 2, 200)]
    assert torch.equal(torch.cat(pieces[:2], -1)[0], data.train_tracks[0].waveform("mixture"))


class Recorder(lightning.LightningModule):
    """Trains nothing and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch.clone())
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(root, tmp_path, steps, checkpoint=None) -> tuple[list, lightning.Trainer]:
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=module(root, tmp_path), ckpt_path=checkpoint, weights_only=True)
    return recorder.seen, trainer


@pytest.mark.parametrize("steps", [3, 8, 11])
@pytest.mark.filterwarnings("ignore")
def test_a_stopped_run_goes_on_with_the_next_excerpt(steps, root, tmp_path):
    whole, _ = fit(root, tmp_path, 18)
    first, trainer = fit(root, tmp_path, steps)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second, _ = fit(root, tmp_path, 18, tmp_path / "last.ckpt")
    assert len(whole) == 18
    assert torch.equal(torch.stack(first + second), torch.stack(whole))
    assert not torch.equal(whole[0], whole[8])  # of two epochs


def test_the_digest_names_the_data_and_the_split(root, tmp_path, generator):
    def digest(**options):
        data = module(root, tmp_path, **options)
        data.setup()
        return data.digest

    before = digest()
    assert digest(seed=7) == before
    assert digest(valid=["a"]) != before
    for subset in ("valid", "train"):
        folder_track(root / subset / f"new in {subset}", STEMS, generator, samples=500)
        assert digest() != before
        before = digest()


def loader_of(root, tmp_path, **options) -> Loader:
    data = module(root, tmp_path, **options)
    data.prepare_data()
    data.setup()
    return data.train_dataloader()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda root: shutil.rmtree(root), {}, "there is no such folder"),
        (lambda root: [shutil.rmtree(root), root.mkdir()], {}, "no tracks in it"),
        (lambda root: shutil.rmtree(root / "valid"), {}, "none of 4 tracks is to validate with"),
        (lambda root: shutil.rmtree(root / "train"), {}, "nothing is left to train on"),
        (lambda root: None, {"targets": ["piano"]}, "no reference for 'piano': there are drums, vocals"),
        (lambda root: None, {"stems": ["drums", "piano"]}, "no training track has piano; there are drums, mix|vocals"),
        (lambda root: None, {"extra_share": 2}, "extra_share is a share"),
        (lambda root: None, {"batch_size": 17}, "an epoch of 16 excerpts .* has not one batch of 17"),
        (lambda root: one(root / "train" / "c", "drums.wav", samples=999), {}, "c: drums has 999 samples"),
        (lambda root: one(root / "train" / "c", "drums.wav", samples=1000, rate=44100), {}, "c: drums .* 44100 Hz"),
        (lambda root: one(root / "train" / "c", "vocals.flac"), {}, "two files for 'vocals'"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(spoil, options, message, root, tmp_path):
    spoil(root)
    with pytest.raises(TrackError, match=message):
        loader_of(root, tmp_path, **options)


def test_another_source_of_excerpts_can_be_added(root, tmp_path):
    class More(DataModule):
        def datasets(self):
            return [*super().datasets(), (Excerpts(self.valid_tracks, self.stems, seconds=0.05), 1.0)]

    data = More(root, ["vocals"], sample_rate=RATE, seconds=0.05, per_track=8, cache=tmp_path / "cache")
    data.setup()
    loader = data.train_dataloader()
    assert isinstance(loader.dataset, Mixed)
    assert next(iter(loader)).shape == (16, 2, 2, 400)


# The 7-second edition


@pytest.fixture
def fetch(monkeypatch, tmp_path, capsys):
    """The script run on what a server on this machine has under a name: exit code and what it says."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "musdb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "stempeg", types.ModuleType("stempeg"))
    script = importlib.util.spec_from_file_location("fetch_musdb7", ROOT / "scripts" / "fetch_musdb7.py")
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def run(name: str, port: int = server.server_port) -> tuple[int, str]:
            url = f"http://127.0.0.1:{port}/{name}"
            monkeypatch.setattr(sys, "argv", ["fetch_musdb7.py", str(tmp_path / "musdb7"), "--url", url])
            code = module.main()
            out = capsys.readouterr()
            return code, out.out.replace(f"Downloading MUSDB 7s Sample Dataset to {tmp_path}", "") + out.err

        yield run
        server.shutdown()
    for name in [name for name in sys.modules if name.partition(".")[0] == "musdb"]:
        del sys.modules[name]


def test_the_small_musdb_is_fetched_whole_or_not_at_all(fetch, excerpt_path, tmp_path):
    def here():
        return sorted(path.name for path in tmp_path.iterdir() if path.name != "served")

    with zipfile.ZipFile(tmp_path / "served" / "good.zip", "w") as archive:
        archive.write(excerpt_path, "train/a.stem.mp4")
        archive.write(excerpt_path, "test/b.stem.mp4")
    good = (tmp_path / "served" / "good.zip").read_bytes()
    (tmp_path / "served" / "short.zip").write_bytes(good[:-100])
    with zipfile.ZipFile(tmp_path / "served" / "other.zip", "w") as archive:
        archive.writestr("train/readme.txt", "no music")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, said = fetch("good.zip", closed.getsockname()[1])
        assert (code, here()) == (1, [])
        assert "cannot be reached" in said
    for name, message in (
        ("gone.zip", "cannot be reached"),
        ("short.zip", "no whole archive"),
        ("other.zip", "no tracks in it"),
    ):
        code, said = fetch(name)
        assert message in said
        assert (code, here()) == (1, [])
    assert fetch("good.zip")[0] == 0
    assert [(t.subset, t.name) for t in find_tracks(tmp_path / "musdb7")] == [("train", "a"), ("test", "b")]
    code, said = fetch("good.zip")
    assert code == 1
    assert "is there already" in said
