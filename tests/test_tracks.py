"""Data sets on disk: what is found, what is read, and what is refused."""

import math
from pathlib import Path

import pytest
import torch

from mss.audio import AudioError, read, write
from mss.data import TrackError, common_stems, find_tracks, reference
from mss.data.tracks import STREAMS

RATE = 8000


def folder_track(folder: Path, names, generator, *, samples=RATE, channels=2, suffix="wav") -> Path:
    """A track with noise for stems."""
    folder.mkdir(parents=True)
    for name in names:
        write(folder / f"{name}.{suffix}", torch.randn(channels, samples, generator=generator) * 0.1, RATE)
    return folder


def test_a_stem_file_is_five_streams(excerpt_path, excerpt, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / excerpt_path.name).symlink_to(excerpt_path)
    (track,) = find_tracks(tmp_path)
    assert (track.name, track.subset) == ("The Easton Ellises - Falcon 69", "test")
    assert track.stems == STREAMS[1:]
    assert torch.equal(track.audio.mixture, excerpt["mixture"])
    assert all(torch.equal(track.audio.stems[name], excerpt[name]) for name in STREAMS[1:])
    assert track.audio is track.audio  # read once
    part = track.load(start=1.0, duration=0.5)
    assert torch.equal(part.stems["bass"], excerpt["bass"][:, 44100 : 44100 + 22050])


def test_the_mixture_is_its_file_and_else_the_sum(tmp_path, generator):
    folder_track(tmp_path / "test" / "a", ["mixture", "vocals", "drums"], generator)
    folder_track(tmp_path / "test" / "b", ["vocals", "drums"], generator, suffix="flac")
    a, b = (track.load() for track in find_tracks(tmp_path))
    assert list(a.stems) == list(b.stems) == ["drums", "vocals"]
    assert torch.equal(b.mixture, b.stems["drums"] + b.stems["vocals"])
    assert not torch.allclose(a.mixture, sum(a.stems.values()))
    assert a.sample_rate == RATE


def test_layouts_mix_and_subsets_are_kept_apart(excerpt_path, tmp_path, generator):
    folder_track(tmp_path / "train" / "b", ["vocals"], generator)
    folder_track(tmp_path / "test" / "c", ["vocals"], generator)
    folder_track(tmp_path / "test" / ".hidden", ["vocals"], generator)
    (tmp_path / "test" / "notes").mkdir()
    (tmp_path / "test" / "licence.txt").write_text("free")
    (tmp_path / "test" / excerpt_path.name).symlink_to(excerpt_path)
    assert [(t.subset, t.name[:3]) for t in find_tracks(tmp_path)] == [("train", "b"), ("test", "The"), ("test", "c")]
    assert [t.name for t in find_tracks(tmp_path, subset="train")] == ["b"]
    assert {t.subset for t in find_tracks(tmp_path / "test")} == {"test"}
    (alone,) = find_tracks(tmp_path / "train" / "b")
    assert (alone.name, alone.subset) == ("b", "")


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "vocals.wav").write_text("this is no audio")
    (track,) = find_tracks(tmp_path)
    assert track.stems == ("vocals",)
    with pytest.raises(AudioError, match=r"vocals\.wav"):
        track.load()


def test_references_are_stems_or_all_but_one():
    stems = {name: torch.full((2, 3), 2.0**i) for i, name in enumerate(("drums", "bass", "other", "vocals"))}
    assert reference(stems, "drums") is stems["drums"]
    assert reference(stems, "accompaniment")[0, 0] == 1 + 2 + 4
    assert reference(stems, "no_bass")[0, 0] == 1 + 4 + 8
    own = {**stems, "accompaniment": torch.zeros(2, 3)}
    assert reference(own, "accompaniment") is own["accompaniment"]
    for stems_, name in ((stems, "guitar"), (stems, "no_guitar"), ({"drums": stems["drums"]}, "accompaniment")):
        with pytest.raises(TrackError, match=f"no reference for '{name}'"):
            reference(stems_, name)


def test_common_stems_are_those_of_most_tracks(tmp_path, generator):
    for name, stems in (("a", ["vocals", "drums"]), ("b", ["vocals", "drums", "bass"]), ("c", ["vocals", "guitar"])):
        folder_track(tmp_path / name, stems, generator, samples=10)
    assert common_stems(find_tracks(tmp_path)) == ("drums", "vocals")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "gone", "there is no such folder"),
        (lambda root: root, "no tracks in it; expected"),
        (lambda root: [(root / "f").write_text(""), root / "f"][1], "is a file; give a folder"),
        (lambda root: [(root / "a.stem.mp4").touch(), (root / "a").mkdir(), one(root / "a"), root][-1], "called 'a'"),
    ],
)
def test_folders_that_are_no_data_set(make, message, tmp_path):
    with pytest.raises(TrackError, match=message):
        find_tracks(make(tmp_path))


def one(folder: Path, name="vocals.wav", *, samples=100, channels=2, rate=RATE, value=0.1) -> None:
    write(folder / name, torch.full((channels, samples), value), rate)


def test_a_subset_that_is_not_there(tmp_path, generator):
    folder_track(tmp_path / "train" / "a", ["vocals"], generator, samples=10)
    with pytest.raises(TrackError, match="has no subset 'test'; it has train"):
        find_tracks(tmp_path, subset="test")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: one(folder, "drums.wav", samples=99), "drums has 99 samples.*vocals has 100 samples"),
        (lambda folder: one(folder, "drums.wav", channels=1), "1 channel at 8000 Hz"),
        (lambda folder: one(folder, "drums.wav", rate=44100), "44100 Hz.*8000 Hz"),
        (lambda folder: one(folder, "vocals.flac"), "two files for 'vocals': remove one"),
        (lambda folder: (folder / "vocals.wav").rename(folder / "mixture.wav"), "a mixture but no stems"),
    ],
)
def test_tracks_whose_parts_do_not_fit(spoil, message, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    one(folder)
    spoil(folder)
    (track,) = find_tracks(tmp_path)  # the others could be used
    with pytest.raises(TrackError, match=message):
        track.load()


def test_a_stem_that_holds_nan_is_refused(tmp_path):
    import soundfile

    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "vocals.wav", [[0.0, math.nan]] * 10, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        find_tracks(tmp_path)[0].load()


def test_a_stem_file_with_another_number_of_streams(tmp_path, generator):
    import soundfile

    path = tmp_path / "song.stem.mp4"  # the container is what it is, whatever its name
    soundfile.write(path, torch.randn(100, 2, generator=generator).numpy() * 0.1, RATE, format="WAV")
    with pytest.raises(TrackError, match="1 streams; expected five"):
        find_tracks(tmp_path)[0].load()


def test_folders_of_stems_are_aligned_by_their_files_names(tmp_path, generator):
    for stem in ("mixture", "vocals", "piano"):
        folder_track(tmp_path / "train" / stem, ["b", "a"], generator, samples=50)
    tracks = find_tracks(tmp_path)
    assert [(t.subset, t.name, t.stems) for t in tracks] == [("train", name, ("piano", "vocals")) for name in "ab"]
    expected = read(tmp_path / "train" / "piano" / "b.wav")[0]
    assert torch.equal(tracks[1].audio.stems["piano"], expected)
    assert torch.equal(tracks[1].audio.mixture, read(tmp_path / "train" / "mixture" / "b.wav")[0])
    # a name that is missing somewhere: the others can be used
    (tmp_path / "train" / "piano" / "a.wav").unlink()
    a, b = find_tracks(tmp_path)
    assert b.load().sample_rate == RATE
    with pytest.raises(TrackError, match="'a' is in mixture, vocals but not in piano"):
        a.load()


def test_a_track_that_is_called_like_a_stem_is_a_track(tmp_path, generator):
    for name in ("other", "song"):
        folder_track(tmp_path / name, ["vocals", "guitar"], generator, samples=50)
    assert [(t.name, t.stems) for t in find_tracks(tmp_path)] == [(n, ("guitar", "vocals")) for n in ("other", "song")]


def test_a_table_says_which_file_is_what(tmp_path, generator):
    folder_track(tmp_path / "x", ["mix", "voc", "pno"], generator, samples=50)
    table = tmp_path / "data.csv"
    table.write_text(
        "\ufeffname, subset,mixture,vocals,piano\n"
        'B,train,x/mix.wav,x/voc.wav,\n\n"A, live",train,,x/voc.wav,x/pno.wav\nC,,,,x/pno.wav\n',
        encoding="utf-8",
    )
    tracks = find_tracks(table)
    assert [(t.subset, t.name, t.stems) for t in tracks] == [
        ("", "C", ("piano",)),
        ("train", "A, live", ("vocals", "piano")),
        ("train", "B", ("vocals",)),
    ]
    assert torch.equal(tracks[2].audio.mixture, read(tmp_path / "x" / "mix.wav")[0])
    assert find_tracks(table, subset="train") == tracks[1:]
    one(tmp_path / "x", "long.wav", samples=60)
    table.write_text("name,vocals,drums\nD,x/voc.wav,x/long.wav\n")
    with pytest.raises(TrackError, match=r"'D': vocals has 50 samples.*drums has 60"):
        find_tracks(table)[0].load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the columns name.*found nothing"),
        ("name;vocals\nA;v.wav", "line 1: expected the columns name, subset.*found name;vocals"),
        ("name,mixture\nA,v.wav", "line 1: expected.*one for each stem"),
        ("name,vocals\n", "no tracks in it; expected a line"),
        ("name,vocals\nA,v.wav\n\nB,w.wav", r"line 4: vocals of 'B': there is no file .*w\.wav"),
        ("name,vocals\nA,v.wav\nA,v.wav", "line 3: 'A' is there already"),
        ("name,vocals\nA,v.wav\n,v.wav", "line 3: the track has no name"),
        ("name,vocals\nA,", "line 2: 'A' has no stems"),
        ("name,vocals\nA, b,v.wav", "line 2: 3 cells for 2 columns"),
        ("name,subset,vocals\nA,training,v.wav", "line 2: unknown subset 'training'; use train, valid, test"),
    ],
)
def test_tables_that_cannot_be_used(text, message, tmp_path):
    one(tmp_path, "v.wav")
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(TrackError, match=message):
        find_tracks(tmp_path / "data.csv")


def test_a_subset_that_is_not_in_the_table(tmp_path):
    one(tmp_path, "v.wav")
    (tmp_path / "data.csv").write_text("name,subset,vocals\nA,train,v.wav")
    with pytest.raises(TrackError, match="has no subset 'test'; it has train"):
        find_tracks(tmp_path / "data.csv", subset="test")
