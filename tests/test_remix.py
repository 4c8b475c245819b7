"""python -m mss.remix, as a user meets it: what it writes, what it reuses, what it refuses."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mss
from mss.apps import stems as sources
from mss.apps.balance import parse, weights
from mss.audio import Encoding, info, read, write
from mss.audio.loudness import loudness, true_peak
from mss.cli import UsageError
from mss.remix import main, model_for
from mss.separate import main as separate
from tests.conftest import ROOT

RATE = 44100
FOUR = ("vocals", "drums", "bass", "other")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def song(here, excerpt) -> Path:
    """Two seconds of real music, 16-bit WAV, at half its level."""
    x = excerpt["mixture"][:, RATE : 3 * RATE] / 2
    write(here / "song.wav", x, RATE, encoding=Encoding("wav", "int16"), tags={"title": "Falcon 69"})
    return here / "song.wav"


@pytest.fixture
def folder(here, excerpt) -> Path:
    """Its true stems."""
    (here / "true").mkdir()
    for name in FOUR:
        write(here / "true" / f"{name}.wav", excerpt[name][:, RATE : 3 * RATE] / 2, RATE)
    return here / "true"


def run(*args, model="hpss") -> int:
    return main([*map(str, args), "-n", model])


def remixed(name="song") -> torch.Tensor:
    return read(f"remixed/{name}.wav")[0]


def no_separation(monkeypatch) -> None:
    monkeypatch.setattr(sources, "separate_file", lambda *_, **__: pytest.fail("separated once more"))


# What it writes


def test_the_remix_is_the_song_and_what_was_added_of_the_stem(song):
    x = read(song)[0]
    harmonic, _ = mss.load("hpss")(x[None])[0]
    assert run(song, "harmonic=-6dB", "pan.harmonic=-20", "--float32", "--clip-mode", "none") == 0
    angle = 0.8 * math.pi / 4
    factors = 10 ** (-6 / 20) * math.sqrt(2) * torch.tensor([[math.cos(angle)], [math.sin(angle)]])
    assert (remixed() - (x + (factors - 1) * harmonic)).abs().max() < 1e-5
    found = info("remixed/song.wav")
    assert (found.sample_rate, found.channels, found.subtype, found.frames) == (RATE, 2, "float32", 2 * RATE)
    assert found.tags["title"] == "Falcon 69"


@pytest.mark.parametrize(
    "settings", [["harmonic=0"], ["harmonic=+0.0dB", "percussive=0 dB", "pan.harmonic=0", "rest=0"]]
)
def test_the_unchanged_balance_is_the_song_to_the_bit(song, settings, monkeypatch):
    no_separation(monkeypatch)
    assert run(song, *settings) == 0
    assert torch.equal(remixed(), read(song)[0])
    assert info("remixed/song.wav").subtype == "int16"


def test_the_unchanged_balance_with_stems_that_do_not_sum(song, folder, excerpt):
    """One stem is of 16 bits, one is missing: what they leave of the song stays, unless it is muted."""
    (folder / "bass.wav").unlink()
    write(folder / "other.wav", read(folder / "other.wav")[0], RATE, encoding=Encoding("wav", "int16"))
    x, vocals = read(song)[0], read(folder / "vocals.wav")[0]
    assert run(song, "--stems", folder, "vocals=+3", "--clip-mode", "none", "-o", "a.wav", "--float32") == 0
    assert (read("a.wav")[0] - (x + (10 ** (3 / 20) - 1) * vocals)).abs().max() < 1e-6
    assert run(song, "--stems", folder, "rest=-inf", "--clip-mode", "none", "-o", "b.wav", "--float32") == 0
    there = sum(read(folder / f"{name}.wav")[0] for name in ("vocals", "drums", "other"))
    assert (read("b.wav")[0] - there).abs().max() < 1e-6


def test_lossy_songs_come_back(song):
    write("song.mp3", read(song)[0], RATE)
    assert run("song.mp3", "harmonic=0", "percussive=0") == 0
    assert (remixed() - read("song.mp3")[0]).abs().max() <= 1e-4
    assert run("song.mp3", "harmonic=1e", "percussive=0") == 2
    assert run("song.mp3", "harmonic=0.001", "--clip-mode", "none") == 0
    assert (remixed() - read("song.mp3")[0]).abs().max() <= 2e-4
    assert info("remixed/song.wav").subtype == "float32"


def test_solo_mute_and_all_but(song, folder):
    stems = {name: read(folder / f"{name}.wav")[0] for name in FOUR}
    expected = {
        ("vocals=solo",): stems["vocals"],
        ("vocals=solo", "drums=solo", "bass=+3"): stems["vocals"] + stems["drums"],
        ("--karaoke",): sum(stems.values()) - stems["vocals"],
        ("no_vocals=mute",): stems["vocals"],
        ("drums=mute", "bass=-inf", "other=-6.02059991328dB"): stems["vocals"] + stems["other"] / 2,
    }
    for settings, wanted in expected.items():
        assert run(folder, *settings, "--clip-mode", "none") == 0
        assert (remixed("true") - wanted).abs().max() < 1e-6, settings


def test_a_mixture_in_the_folder_is_the_song(song, folder):
    x = read(song)[0]
    write(folder / "mixture.wav", x, RATE)
    (folder / "bass.wav").unlink()
    assert run(folder, "vocals=-inf") == 0
    assert (remixed("true") - (x - read(folder / "vocals.wav")[0])).abs().max() < 1e-6


def test_the_pan_law_keeps_the_energy_of_the_middle():
    for pan in (-100, -35, 0, 20, 100):
        ((left, right),) = weights(parse([f"pan.a={pan}"]), ["a"], rest=False, where="x").values()
        assert left**2 + right**2 == pytest.approx(2)
        assert (left > right) == (pan < 0)


@pytest.mark.parametrize(("channels", "setting"), [(1, "harmonic=-9"), (3, "percussive=mute"), (6, "harmonic=solo")])
def test_any_channels_but_no_pan(channels, setting, here, generator, capsys):
    x = torch.randn(channels, 9000, generator=generator) * 0.1
    write("x.flac", x, 22050)
    assert run("x.flac", setting, "--flac") == 0
    found = info("remixed/x.flac")
    assert (found.channels, found.sample_rate, found.frames, found.layout) == (
        channels, 22050, 9000, info("x.flac").layout
    )  # fmt: skip
    assert run("x.flac", "pan.harmonic=3", "-o", "y.wav") == 1
    assert f"needs two channels, and there are {channels}" in capsys.readouterr().err
    assert not Path("y.wav").exists()


# Peaks and loudness


def test_a_remix_that_would_clip_is_lowered_and_says_so(song, capsys):
    assert run(song, "harmonic=+12dB", "--json") == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)["files"][0]
    assert "lowered by" in said.err
    assert 20 * math.log10(true_peak(remixed())) == pytest.approx(-1, abs=0.02)
    assert facts["dbtp"] == -1
    lowered = remixed()
    assert run(song, "harmonic=+12dB", "--clip-mode", "none", "--float32") == 0
    assert remixed().abs().max() > 1
    assert (remixed() * facts["gain"] - lowered).abs().max() <= 1 / 32768
    assert run(song, "harmonic=+12dB", "--clip-mode", "clamp", "--float32") == 0
    assert remixed().abs().max() == 1
    capsys.readouterr()
    assert run(song, "harmonic=+12dB", "--clip-mode", "none") == 0
    assert "samples exceed full scale" in capsys.readouterr().err


def test_loudness(song, capsys):
    before = loudness(read(song)[0], RATE)
    assert run(song, "harmonic=-4", "--lufs", "song") == 0
    assert loudness(remixed(), RATE) == pytest.approx(before, abs=0.01)
    assert run(song, "--lufs", "-30") == 0
    assert loudness(remixed(), RATE) == pytest.approx(-30, abs=0.01)
    capsys.readouterr()
    assert run(song, "--lufs", "-2", "--float32") == 0
    assert true_peak(remixed()) <= 10 ** (-1 / 20) + 1e-4  # the peak has the last word
    assert "stays below the -2.0 LUFS asked for" in capsys.readouterr().err
    write("silent.wav", torch.zeros(2, RATE), RATE)
    assert run("silent.wav", "--lufs", "-14") == 0
    assert "no loudness" in capsys.readouterr().err


# Stems that are there


def test_stems_are_kept_and_used_again(song, monkeypatch, capsys):
    assert run(song, "harmonic=-3", "--float32") == 0
    first = remixed()
    assert sorted(path.name for path in Path("separated/hpss/song").iterdir()) == ["harmonic.wav", "percussive.wav"]
    no_separation(monkeypatch)
    assert run(song, "harmonic=-3", "--float32") == 0
    assert torch.equal(remixed(), first)
    assert "stems of" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--flac"], ["--mp3"]])
def test_stems_of_mss_separate_are_used(song, flags, monkeypatch):
    assert separate([str(song), "-n", "hpss", "-q", *flags]) == 0
    no_separation(monkeypatch)
    assert run(song, "harmonic=-3") == 0


def test_stems_that_are_not_kept_leave_nothing(song):
    assert run(song, "harmonic=-3", "--no-save-stems") == 0
    assert sorted(path.name for path in Path().rglob("*") if path.is_file()) == ["song.wav", "song.wav"]


def test_stale_stems_are_not_used_and_not_touched(song, capsys):
    place = Path("separated/hpss/song")
    x = read(song)[0]

    def refused(what: str, *flags: str) -> None:
        before = (place / "harmonic.wav").read_bytes()
        assert run(song, "harmonic=-inf", "--float32", "--clip-mode", "none", *flags) == 0
        assert what in capsys.readouterr().err
        assert (remixed() - mss.load("hpss")(x[None])[0, 1]).abs().max() < 1e-4
        assert (place / "harmonic.wav").read_bytes() == before

    for name in ("harmonic", "percussive"):
        write_new(place / f"{name}.wav", x[:, :-1] / 2)
    refused("samples")  # another length
    for name in ("harmonic", "percussive"):
        write_new(place / f"{name}.wav", x.flip(-1) / 2)
    refused("do not sum to the song")  # another song
    for name in ("harmonic", "percussive"):
        write_new(place / f"{name}.wav", x * 0.45)
    later = time.time() + 60
    os.utime(song, (later, later))
    refused("older than the song")
    (place / "harmonic.wav").write_bytes((place / "harmonic.wav").read_bytes()[:-1000])
    refused("truncated")
    assert run(song, "harmonic=-inf", "--save-stems", "--float32", "--clip-mode", "none") == 0
    assert (read(place / "harmonic.wav")[0] - mss.load("hpss")(x[None])[0, 0]).abs().max() < 1e-5


def test_options_of_the_separation_and_newer_checkpoints_separate_again(song, capsys):
    mss.save(mss.load("hpss"), "own.safetensors", licence="MIT")
    assert run(song, "harmonic=-3", model="own.safetensors") == 0
    assert run(song, "harmonic=-3", "--segment", "1", model="own.safetensors") == 0
    assert "their options are not known" in capsys.readouterr().err
    later = time.time() + 60
    os.utime("own.safetensors", (later, later))
    assert run(song, "harmonic=-3", model="own.safetensors") == 0
    assert "older than own.safetensors" in capsys.readouterr().err


def write_new(path: Path, x: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, x, RATE)


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        (["vocals=+6dB"], "four-stems"),
        (["no_vocals=-3", "pan.rest=5"], "four-stems"),
        (["vocals=+6dB", "drums=-inf", "other=0dB", "pan.vocals=-20"], "four-stems"),
        (["pan.bass=10"], "four-stems"),
        (["accompaniment=+3", "vocals=-3"], "spleeter-2stems"),
        (["kazoo=1"], "four-stems"),
    ],
)
def test_without_a_model_the_first_that_has_the_stems_is_taken(settings, model):
    assert model_for(parse(settings, karaoke=False)) == model


# What it refuses


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["kazoo=+3"], "there is no stem kazoo; hpss has harmonic, percussive, rest"),
        (["pan.kazoo=+3"], "there is no stem kazoo; hpss has harmonic, percussive, rest"),
        (["--karaoke"], "there is no stem vocals; hpss has harmonic, percussive, rest"),
        (["no_kazoo=+3"], "there is no stem no_kazoo"),
        (["harmonic=loud"], "a gain is a number of dB"),
        (["harmonic=nan"], "a gain is a number of dB"),
        (["harmonic=+inf"], "a gain is a number of dB"),
        (["harmonic=999"], "a gain is a number of dB"),
        (["harmonic="], "a gain is a number of dB"),
        (["=3"], "name a stem"),
        (["pan.harmonic=101"], "from -100"),
        (["harmonic=+6dB", "harmonic=-3"], "harmonic is set twice"),
        (["harmonic=+6dB", "no_percussive=-3"], "harmonic is set twice"),
        (["vocals=+6dB", "--karaoke"], "set twice, once by --karaoke"),
        ([], "nothing is to be changed"),
        (["harmonic+3"], "neither a file nor a setting"),
        (["harmonic=1", "--lufs", "loud"], "--lufs must be"),
        (["harmonic=1", "--lufs", "3"], "--lufs must be"),
        (["harmonic=1", "--true-peak", "3"], "--true-peak must be"),
        (["harmonic=1", "-o", "x.aiff"], "a file of .wav"),
        (["harmonic=1", "-o", "x.wav", "--mp3"], "leave out one"),
        (["harmonic=1", "-o", "song.wav"], "is an input"),
        (["harmonic=1", "--stems", "nowhere"], "not a folder"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(song, args, message, monkeypatch, capsys):
    no_separation(monkeypatch)
    assert run(song, *args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["song.wav"]


def test_folders_that_hold_no_stems_of_one_song(here, folder, capsys):
    (here / "above" / "below").mkdir(parents=True)
    assert run("above", "vocals=1") == 2
    assert "has no stems in it" in capsys.readouterr().err
    write_new(here / "above" / "below" / "vocals.wav", torch.ones(2, 100))
    assert run("above", "vocals=1") == 2
    assert "there are some in above/below" in capsys.readouterr().err
    assert run(folder, "kazoo=1") == 2
    assert "true has bass, drums, other, vocals\n" in capsys.readouterr().err
    write(folder / "drums.wav", torch.zeros(2, RATE), RATE)
    assert run(folder, "vocals=1") == 1
    assert "bass.wav has 88200 samples, drums.wav 44100" in capsys.readouterr().err
    write(folder / "drums.flac", torch.zeros(2, RATE), RATE)
    assert run(folder, "vocals=1") == 2
    assert "two files for drums" in capsys.readouterr().err
    (folder / "drums.flac").unlink()
    (folder / "drums.wav").rename(folder / "no_vocals.wav")
    assert run(folder, "vocals=1") == 2
    assert "no_vocals is all but vocals once more" in capsys.readouterr().err
    assert not Path("remixed").exists()


def test_one_bad_song_does_not_stop_the_others(song, capsys):
    assert run("missing.wav", song, "harmonic=-3", "--json") == 1
    said = capsys.readouterr()
    assert "missing.wav does not exist" in said.err
    assert [file["status"] for file in json.loads(said.out)["files"]] == ["failed", "done"]


def test_an_equals_sign_may_be_in_a_file_name(song):
    song.rename("a=b.wav")
    assert run("a=b.wav", "harmonic=-3", "--quiet") == 0
    assert Path("remixed/a=b.wav").exists()


def test_settings_are_read_as_people_write_them():
    balance = parse(["a=+6dB", "b=-3.5 DB", "c=-INF", "d=.5", "Violin 2=mute", "e=SOLO", "pan.a=-20"])
    assert balance.gains == {"a": 6, "b": -3.5, "c": -math.inf, "d": 0.5, "Violin 2": -math.inf}
    assert (balance.pans, balance.solos) == ({"a": -20}, {"e"})
    with pytest.raises(UsageError):
        parse(["a=1_0"])


def test_help_does_not_wait_for_torch():
    code = "import sys, mss.remix as verb; verb.parser().parse_args(['x.wav', 'a=1']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
