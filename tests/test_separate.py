"""python -m mss.separate, as a user meets it: what it writes, what it says, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mss
from mss.audio import Encoding, info, read, write
from mss.separate import main
from tests.conftest import ROOT, sdr
from tests.test_checkpoint import rewritten, tiny

RATE = 44100


@pytest.fixture
def song(tmp_path, excerpt) -> Path:
    """Two seconds of real music, 16-bit WAV."""
    path = tmp_path / "in" / "song.wav"
    path.parent.mkdir()
    write(
        path,
        excerpt["mixture"][:, RATE : 3 * RATE],
        RATE,
        encoding=Encoding("wav", "int16"),
        tags={"title": "Falcon 69"},
    )
    return path


def run(*args, model="hpss") -> int:
    return main([*map(str, args), "-n", model])


def tree(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def stems_of(folder: Path) -> dict[str, torch.Tensor]:
    return {path.stem: read(path)[0] for path in folder.rglob("*.wav")}


# What it writes


def test_stems_are_like_the_input_and_sum_to_it(song, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(song, "-o", out) == 0
    assert tree(out) == ["hpss/song/harmonic.wav", "hpss/song/percussive.wav"]
    for name in tree(out):
        facts = info(out / name)
        assert (facts.sample_rate, facts.channels, facts.subtype, facts.frames) == (RATE, 2, "int16", 2 * RATE)
        assert facts.tags["title"] == "Falcon 69"
    assert (sum(stems_of(out).values()) - read(song)[0]).abs().max() <= 1 / 32768  # two roundings to 16 bits
    said = capsys.readouterr()
    assert said.out == ""
    assert "hpss on cpu: 1 file" in said.err
    assert "song.wav: harmonic, percussive" in said.err
    assert "x real time" in said.err


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 192000])
def test_the_rate_of_the_input_comes_back(rate, tmp_path, generator):
    x = torch.randn(2, rate, generator=generator) * 0.1
    write(tmp_path / "x.flac", x, rate, encoding=Encoding("flac", "int24"))
    assert run(tmp_path / "x.flac", "-o", tmp_path / "out", "--residual", "rest") == 0
    paths = [tmp_path / "out" / name for name in tree(tmp_path / "out")]
    assert {path.stem for path in paths} == {"harmonic", "percussive", "rest"}
    assert {(info(p).sample_rate, info(p).frames, info(p).subtype) for p in paths} == {(rate, rate, "int24")}
    assert (sum(stems_of(tmp_path / "out").values()) - x).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [1, 3, 6, 8])
@pytest.mark.parametrize("model", ["hpss", "spleeter-2stems"])
def test_any_number_of_channels_comes_back(channels, model, tmp_path, generator):
    x = torch.randn(channels, 9000, generator=generator) * 0.1
    write(tmp_path / "x.wav", x, RATE)
    assert run(tmp_path / "x.wav", "-o", tmp_path / "out", model=model) == 0
    for name in tree(tmp_path / "out"):
        found = info(tmp_path / "out" / name)
        assert (found.channels, found.layout) == (channels, info(tmp_path / "x.wav").layout)
    assert (sum(stems_of(tmp_path / "out").values()) - x).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("flags", "container", "subtype"),
    [
        (["--int16"], "wav", "int16"),
        (["--int24"], "wav", "int24"),
        (["--float32"], "wav", "float32"),
        (["--flac"], "flac", "int24"),
        (["--flac", "--int16"], "flac", "int16"),
        (["--mp3", "--bitrate", "128"], "mp3", None),
        (["--ogg"], "ogg", None),
    ],
)
def test_output_formats(song, tmp_path, flags, container, subtype):
    assert run(song, "-o", tmp_path / "out", "--targets", "percussive", *flags) == 0
    (name,) = tree(tmp_path / "out")
    found = info(tmp_path / "out" / name)
    assert (found.container, found.subtype, found.frames) == (container, subtype, 2 * RATE)
    assert found.tags["title"] == "Falcon 69"


def test_a_lossy_input_gives_float_stems(song, tmp_path):
    write(tmp_path / "song.mp3", read(song)[0], RATE, tags={"artist": "The Easton Ellises"})
    assert run(tmp_path / "song.mp3", "-o", tmp_path / "out") == 0
    found = info(tmp_path / "out" / "hpss" / "song" / "harmonic.wav")
    assert (found.subtype, found.frames, found.tags["artist"]) == ("float32", 2 * RATE, "The Easton Ellises")


def test_two_stems_and_excerpts(song, tmp_path):
    assert run(song, "-o", tmp_path, "--two-stems", "percussive", "--start", "0.5", "--duration", "1") == 0
    stems = stems_of(tmp_path / "hpss")
    assert set(stems) == {"percussive", "no_percussive"}
    part = read(song)[0][:, RATE // 2 : RATE // 2 + RATE]
    assert stems["percussive"].shape == part.shape
    assert (sum(stems.values()) - part).abs().max() <= 1 / 32768


def test_the_default_model_reaches_its_score(excerpt_path, excerpt, tmp_path):
    assert main([str(excerpt_path), "-o", str(tmp_path), "-q"]) == 0
    folder = tmp_path / "four-stems" / "The Easton Ellises - Falcon 69"
    assert sdr(excerpt["vocals"], read(folder / "vocals.wav")[0]) >= 4.74


def test_reruns_are_identical_to_the_byte(song, tmp_path):
    for out in ("a", "b"):
        assert run(song, "-o", tmp_path / out, model="spleeter-2stems") == 0
    names = tree(tmp_path / "a")
    assert names == tree(tmp_path / "b")
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_wiener_segments_and_shifts(song, tmp_path):
    x = read(song)[0]
    expected = mss.load("hpss")(x[None])[0]
    assert run(song, "-o", tmp_path / "s", "--segment", "1.2", "--float32") == 0
    segmented = stems_of(tmp_path / "s")
    assert (segmented["harmonic"] - expected[0]).abs().max() < 1e-4
    for options in (["--niter", "1"], ["--shifts", "2"], ["--niter", "1", "--segment", "1", "--overlap", "0.5"]):
        out = tmp_path / "-".join(options)
        assert run(song, "-o", out, *options, "--float32") == 0
        stems = stems_of(out)
        assert 1e-4 < (stems["harmonic"] - expected[0]).abs().max() < 1
        assert sdr(x, sum(stems.values())) > 50  # the regularisation of the Wiener filter keeps the quietest bins


def test_the_wiener_filter_takes_the_place_of_masks_alone(song, tmp_path, capsys):
    """The default model ends in corrections, which are spectra and no models of magnitude."""
    assert run(song, "-o", tmp_path / "out", "--niter", "1", "--float32", model="four-stems") == 0
    assert sdr(read(song)[0], sum(stems_of(tmp_path / "out").values())) > 50
    for model in ("auxiva", "projet"):
        assert run(song, "-o", tmp_path / "no", "--niter", "1", model=model) == 2
        assert "--niter needs a model that masks a spectrogram" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@torch.inference_mode()
def test_the_default_model_goes_in_segments_too(excerpt):
    from mss.apps.separation import Recipe, compose

    x = excerpt["mixture"].repeat(1, 7)[None]
    expected = mss.load("four-stems")(x)
    assert x.shape[-1] > 36 * RATE  # a segment, and the context of the first stage, which is 12 s, on either side
    y = compose(mss.load("four-stems"), Recipe(segment=12.0))(x)
    assert (y - expected).abs().max() < 1e-4
    vocals = compose(mss.load("four-stems"), Recipe(("vocals",), segment=12.0))
    vocals.separator.then.register_forward_hook(lambda *_: pytest.fail("no vocals need the second stage"))
    assert torch.equal(vocals(x), y[:, :1])


def test_over_full_scale_nothing_is_cut_off_silently(tmp_path, capsys):
    """Two tones that cancel in the mixture: the stems are louder than full scale, the mixture is not."""
    x = mss.load("hpss")
    torch.manual_seed(0)
    t = torch.arange(RATE) / RATE
    chord = torch.sin(2 * torch.pi * 440 * t).expand(2, -1) * 1.6
    write(tmp_path / "loud.wav", chord, RATE)
    expected = x(chord[None])[0]
    assert expected.abs().max() > 1
    assert run(tmp_path / "loud.wav", "-o", tmp_path / "float") == 0
    assert stems_of(tmp_path / "float")["harmonic"].abs().max() > 1.5
    assert capsys.readouterr().err.count("warning") == 0
    assert run(tmp_path / "loud.wav", "-o", tmp_path / "int", "--int16") == 0
    assert "exceed full scale" in capsys.readouterr().err
    assert run(tmp_path / "loud.wav", "-o", tmp_path / "clamp", "--clip-mode", "clamp") == 0
    assert stems_of(tmp_path / "clamp")["harmonic"].abs().max() == 1
    capsys.readouterr()
    for mode in ("clamp", "rescale"):
        assert run(tmp_path / "loud.wav", "-o", tmp_path / f"int-{mode}", "--int16", "--clip-mode", mode) == 0
        assert "warning" not in capsys.readouterr().err
    assert run(tmp_path / "loud.wav", "-o", tmp_path / "scaled", "--clip-mode", "rescale", "--json") == 0
    gain = json.loads(capsys.readouterr().out)["files"][0]["gain"]
    scaled = stems_of(tmp_path / "scaled")
    assert gain == pytest.approx(1 / expected.abs().max().item(), rel=1e-4)
    for name, stem in zip(("harmonic", "percussive"), expected, strict=True):
        assert torch.allclose(scaled[name], stem * gain, atol=1e-5)  # one gain for all


# Many files


def test_folders_patterns_and_templates(song, tmp_path, monkeypatch):
    (song.parent / "below").mkdir()
    for name in ("below/two.wav", 'three\'s "quoted" 🎵.wav', ".hidden.wav"):
        (song.parent / name).write_bytes(song.read_bytes())
    (song.parent / "notes.txt").write_text("not music")
    args = ["--filename", "{parent}-{track}-{stem}.{ext}", "--targets", "harmonic", "-q"]
    assert run(song.parent, "-o", tmp_path / "out", *args) == 0
    assert tree(tmp_path / "out") == [
        "below-two-harmonic.wav", "in-song-harmonic.wav", "in-three's \"quoted\" 🎵-harmonic.wav"
    ]  # fmt: skip
    monkeypatch.chdir(song.parent)
    assert run("*.wav", "./song.wav", "-o", tmp_path / "glob", *args) == 0
    assert len(tree(tmp_path / "glob")) == 2
    assert run("../in/song.wav", "-o", "here", *args) == 0
    assert tree(song.parent / "here") == ["in-song-harmonic.wav"]


def test_one_song_in_two_formats_is_told_apart_by_its_suffix(song, tmp_path, capsys):
    write(song.with_suffix(".flac"), read(song)[0], RATE, encoding=Encoding("flac", "int16"))
    assert run(song.parent, "-o", tmp_path / "out") == 2
    assert "tell them apart with --filename, e.g. by {suffix}" in capsys.readouterr().err
    assert run(song.parent, "-o", tmp_path / "out", "--filename", "{track}.{suffix}/{stem}.{ext}") == 0
    stems = ("harmonic", "percussive")
    assert tree(tmp_path / "out") == [f"song.{suffix}/{stem}.wav" for suffix in ("flac", "wav") for stem in stems]


def test_a_folder_that_cannot_be_read_is_not_called_empty(song, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "-o", tmp_path / "out") == 1
    assert "a folder without audio files" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    assert run(tmp_path / "empty", "-o", tmp_path / "out") == 1
    assert "a folder that cannot be read (no permission)" in capsys.readouterr().err


def test_names_after_two_dashes_are_files(song, tmp_path, monkeypatch):
    song.rename(song.with_name("-song.wav"))
    monkeypatch.chdir(song.parent)
    assert main(["-n", "hpss", "-o", str(tmp_path / "out"), "--", "-song.wav"]) == 0
    assert tree(tmp_path / "out") == ["hpss/-song/harmonic.wav", "hpss/-song/percussive.wav"]


def test_stems_of_another_length_are_not_skipped(song, tmp_path, capsys):
    assert run(song, "-o", tmp_path / "out", "--duration", "1") == 0
    assert run(song, "-o", tmp_path / "out", "--duration", "1", "--skip-existing") == 0
    assert "1 already there" in capsys.readouterr().err
    assert run(song, "-o", tmp_path / "out", "--skip-existing") == 0
    assert "song.wav: the stems that are there are of another length: separated again" in capsys.readouterr().err
    assert all(y.shape[-1] == 2 * RATE for y in stems_of(tmp_path / "out").values())
    assert run(song, "-o", tmp_path / "out", "--skip-existing") == 0
    assert "1 already there" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, 3])
def test_one_bad_file_does_not_stop_the_others(song, tmp_path, jobs, capsys):
    names = ["a.wav", "b.wav", "c.wav"]
    for name in names:
        (song.parent / name).write_bytes(song.read_bytes())
    (song.parent / "bad.wav").write_text("this is no audio at all")
    assert run(song.parent, tmp_path / "gone.wav", "-o", tmp_path / "out", "-j", jobs, "--json") == 1
    report = {Path(f["input"]).name: f for f in json.loads(capsys.readouterr().out)["files"]}
    assert {name for name, f in report.items() if f["status"] == "failed"} == {"bad.wav", "gone.wav"}
    assert all(report[name]["status"] == "done" for name in [*names, "song.wav"])
    assert len(tree(tmp_path / "out")) == 8


def test_what_is_there_can_be_skipped(song, tmp_path, capsys):
    (song.parent / "two.wav").write_bytes(song.read_bytes())
    assert run(song.parent, "-o", tmp_path / "out") == 0
    gone = tmp_path / "out" / "hpss" / "two" / "harmonic.wav"
    gone.unlink()
    kept = tmp_path / "out" / "hpss" / "song" / "harmonic.wav"
    stamp = kept.stat().st_mtime_ns
    capsys.readouterr()
    assert run(song.parent, "-o", tmp_path / "out", "--skip-existing", "--json") == 0
    status = {Path(f["input"]).name: f["status"] for f in json.loads(capsys.readouterr().out)["files"]}
    assert status == {"song.wav": "skipped", "two.wav": "done"}
    assert gone.exists()
    assert kept.stat().st_mtime_ns == stamp


def test_ranks_share_the_files_and_a_second_run_does_what_is_missing(song, tmp_path, monkeypatch):
    for name in ("a.wav", "b.wav"):
        (song.parent / name).write_bytes(song.read_bytes())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(song.parent, "-o", tmp_path / "out", "-q") == 0
    assert {Path(name).parts[1] for name in tree(tmp_path / "out")} == {"b"}
    stamp = (tmp_path / "out/hpss/b/harmonic.wav").stat().st_mtime_ns
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert run(song.parent, "-o", tmp_path / "out", "-q") == 0
    assert {Path(name).parts[1] for name in tree(tmp_path / "out")} == {"a", "b", "song"}
    assert (tmp_path / "out/hpss/b/harmonic.wav").stat().st_mtime_ns == stamp


# How it ends


def bad_inputs() -> dict:
    """Name: (make the file from a good WAV, what the message must say)."""

    def text(path, _):
        path.with_suffix(".mp3").write_text("la la la, this is not music\n" * 50)
        return path.with_suffix(".mp3")

    def truncated(container):
        def make(path, good):
            whole = path.with_name(f"whole.{container}")
            write(whole, read(good)[0], RATE)
            cut = path.with_suffix(f".{container}")
            cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
            whole.unlink()
            return cut

        return make

    def with_value(value):
        def make(path, good):
            import soundfile

            x = read(good)[0].T.numpy()
            x[RATE, 1] = value
            soundfile.write(path, x, RATE, subtype="FLOAT")
            return path

        return make

    def empty(path, good):
        import soundfile

        soundfile.write(path, read(good)[0].T.numpy()[:0], RATE)
        return path

    return {
        "missing": (lambda path, _: path, "does not exist"),
        "folder": (lambda path, _: (path.mkdir(), path)[1], "folder without audio"),
        "text": (text, "audio"),
        "truncated flac": (truncated("flac"), "truncated|cut|ends|whole copy"),
        "truncated mp3": (truncated("mp3"), "truncated|cut|ends|whole copy"),
        "truncated wav": (truncated("wav"), "truncated|cut|ends|whole copy"),
        "NaN": (with_value(float("nan")), "1(\\.0+)? s"),
        "Inf": (with_value(float("inf")), "1(\\.0+)? s"),
        "no samples": (empty, "no samples|no audio"),
    }


@pytest.mark.parametrize("kind", bad_inputs())
def test_bad_input_fails_with_a_sentence_and_leaves_nothing(kind, song, tmp_path, capsys):
    make, message = bad_inputs()[kind]
    path = make(tmp_path / "it's bad.wav", song)
    assert run(path, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert path.name in error
    assert __import__("re").search(message, error), error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["hpss", "repet_sim", "spleeter-2stems"])
@pytest.mark.parametrize("samples", [1, 441])
def test_very_short_and_silent_input_is_separated(model, samples, tmp_path):
    write(tmp_path / "short.wav", torch.full((2, samples), 0.25), RATE)
    write(tmp_path / "silent.wav", torch.zeros(2, RATE), RATE)
    assert run(tmp_path / "short.wav", tmp_path / "silent.wav", "-o", tmp_path / "out", model=model) == 0
    folder = tmp_path / "out" / model
    assert all(x.shape == (2, samples) and x.isfinite().all() for x in stems_of(folder / "short").values())
    assert all(x.abs().max() == 0 for x in stems_of(folder / "silent").values())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no input"),
        (["x.wav", "-n", "spleeter-2stem"], "did you mean spleeter-2stems"),
        (["x.wav", "-n", "none.safetensors"], "no such file"),
        (["x.wav", "--targets", "voice"], "no target 'voice': there are vocals, drums, bass, other"),
        (["x.wav", "--two-stems", "piano"], "no target 'piano'"),
        (["x.wav", "--two-stems", "vocals", "--residual", "rest"], "leave out --targets and --residual"),
        (["x.wav", "--residual", "vocals"], "the model has a stem of that name"),
        (["x.wav", "--filename", "{track}.{ext}"], "needs {stem}"),
        (["x.wav", "--filename", "{song}/{stem}.{ext}"], "there is no field {song}"),
        (["x.wav", "--filename", "../{track}/{stem}.{ext}"], "outside of"),
        (["x.wav", "--segment", "-1"], "--segment must be more than 0 seconds, and not endless, got -1"),
        (["x.wav", "--segment", "2", "--overlap", "3"], "shorter than the segment"),
        (["x.wav", "--segment", "nan"], "and not endless, got nan"),
        (["x.wav", "--segment", "inf"], "and not endless, got inf"),
        (["x.wav", "--start", "1e300"], "and not endless"),
        (["x.wav", "--targets", ""], "--targets needs a name"),
        (["x.wav", "--targets", "vocals,"], "--targets needs a name"),
        (["x.wav", "--targets", "vocals,vocals"], "a target can be chosen once"),
        (["x.wav", "--two-stems", ""], "--two-stems needs a name"),
        (["x.wav", "--residual", "../up"], "cannot be in a file name"),
        (["x.wav", "-n", ""], "--model needs a name"),
        ([""], "no input"),
        (["x.wav", "--filename", "{stem:d}.{ext}"], "fields are plain names"),
        (["x.wav", "--filename", "{stem!r}.{ext}"], "fields are plain names"),
        (["x.wav", "--mp3", "--bitrate", "1000"], "at most 320 kbit/s"),
        (["x.wav", "-d", "meta"], "device 'meta' cannot be used"),
        (["...wav"], "cannot be in a file name"),
        (["x.wav", "-j", "0"], "--jobs must be at least 1"),
        (["x.wav", "--mp3", "--int16"], "--mp3 has no bit depth"),
        (["x.wav", "--flac", "--float32"], "FLAC has no float"),
        (["x.wav", "--bitrate", "128"], "--bitrate goes with"),
        (["x.wav", "-d", "cuda:77"], "device 'cuda:77' cannot be used"),
        (["x.wav", "-d", "gpu"], "device 'gpu' cannot be used"),
        (["a/x.wav", "b/x.wav"], "would both be written to"),
        (["x.wav", "x.mp3"], "would both be written to"),
        (["vocals.wav", "-o", ".", "--filename", "{stem}.{ext}"], "is an input and would be overwritten"),
    ],
)
def test_wrong_usage_is_exit_code_2(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_hostile_checkpoints_and_names(song, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    mss.save(tiny(), path)
    hacked = {"_target_": "os.system", "command": f"touch {tmp_path}/hacked"}
    assert run(song, "-o", tmp_path / "out", model=str(rewritten(path, spec=hacked))) == 2
    assert "outside of mss" in capsys.readouterr().err
    escaping = tiny()
    escaping.targets = ("../../../up", "rest")
    mss.save(escaping, path)
    assert run(song, "-o", tmp_path / "out", model=str(path)) == 2
    assert "cannot be in a file name" in capsys.readouterr().err
    assert tree(tmp_path) == ["in/song.wav", "m.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="names of other systems")
def test_names_that_cannot_be_looked_up_do_not_stop_the_others(song, tmp_path):
    os.mkfifo(song.parent / "pipe.wav")
    (song.parent / "circle.wav").symlink_to(song.parent / "circle.wav")
    odd = os.fsdecode(os.fsencode(song.parent) + b"/odd\xff.wav")
    Path(odd).write_bytes(song.read_bytes())
    names = [song, song.parent / "pipe.wav", song.parent / "circle.wav", "n" * 300, odd]
    process = command(*names, "-o", tmp_path / "out", "--json", "-n", "hpss")
    out, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert sorted(f["status"] for f in json.loads(out)["files"]) == ["done", "done", "failed", "failed", "failed"]
    assert "pipe or a device" in error
    assert "Traceback" not in error


def test_stems_of_an_earlier_run_are_not_songs(song, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(song.parent)
    hidden = song.parent / ".cache" / "x" / "old.wav"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(song.read_bytes())
    for _ in range(2):
        assert main([".", "-n", "hpss", "--json"]) == 0
        assert [Path(f["input"]).name for f in json.loads(capsys.readouterr().out)["files"]] == ["song.wav"]


def test_what_a_killed_run_left_is_removed(song, tmp_path):
    import platform

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = tmp_path / "out" / f".mss-{platform.node()}-{gone.pid}-abc" / "x"
    alive = tmp_path / "out" / f".mss-{platform.node()}-{os.getpid()}-abc"
    stale.mkdir(parents=True)
    alive.mkdir()
    assert run(song, "-o", tmp_path / "out") == 0
    assert not stale.parent.exists()
    assert alive.exists()


def test_the_code_of_the_start_is_let_go_once_a_song_when_its_first_block_is_there(excerpt, tmp_path, monkeypatch):
    from mss.apps import separation
    from mss.apps.jobs import Job

    write(tmp_path / "long.wav", excerpt["mixture"].repeat(1, 6), RATE)
    happened = []
    monkeypatch.setattr(separation, "let_go_of_code", lambda: happened.append("let go"))
    separator = mss.load("spleeter-2stems")
    outputs = {stem: tmp_path / f"{stem}.wav" for stem in separator.targets}
    job = Job(tmp_path / "long.wav", tmp_path, outputs)
    device = torch.device("cpu")
    separation.separate_file(separator, job, device=device, progress=lambda *_: happened.append("block"))
    assert happened.count("let go") == 1
    assert happened[:2] == ["let go", "block"]
    assert happened.count("block") > 1


def test_a_fault_while_writing_is_told_as_it_is(excerpt, tmp_path, monkeypatch, capsys):
    """The reader's thread is at work then; closing under it must not hide the fault."""
    from mss.apps import separation
    from mss.audio import AudioError

    write(tmp_path / "long.wav", excerpt["mixture"].repeat(1, 20), RATE)
    real = separation._write_block

    def fails(writers, block):
        real(writers, block)
        raise AudioError("the disk is on fire")

    monkeypatch.setattr(separation, "_write_block", fails)
    assert run(tmp_path / "long.wav", "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "long.wav: the disk is on fire" in error
    assert not (tmp_path / "out").exists()


def test_a_fault_of_one_file_does_not_stop_the_others(song, tmp_path, monkeypatch, capsys):
    from mss.apps import session

    (song.parent / "two.wav").write_bytes(song.read_bytes())
    real = session.Session._run_one
    calls = []

    def sometimes(self, job):
        calls.append(job)
        if len(calls) == 1:
            monkeypatch.setattr(self, "_separate", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("cuDNN error")))
        else:
            monkeypatch.undo()
        real(self, job)

    monkeypatch.setattr(session.Session, "_run_one", sometimes)
    assert run(song.parent, "-o", tmp_path / "out") == 1
    assert "song.wav: RuntimeError: cuDNN error" in capsys.readouterr().err
    assert {Path(name).parts[1] for name in tree(tmp_path / "out")} == {"two"}


def test_all_stems_or_none(song, tmp_path, capsys):
    taken = tmp_path / "out" / "hpss" / "song" / "percussive.wav"
    taken.mkdir(parents=True)
    assert run(song, "-o", tmp_path / "out") == 1
    assert "is a folder, where a stem should go" in capsys.readouterr().err
    assert tree(tmp_path / "out") == []


def test_a_stem_that_cannot_be_moved_takes_the_others_back(tmp_path):
    from mss.apps.staging import publish
    from mss.audio import AudioError

    for name in ("a", "b", "file"):
        (tmp_path / name).write_text(name)
    targets = [tmp_path / "out" / "a.wav", tmp_path / "file" / "b.wav"]  # the second below what is no folder
    with pytest.raises(AudioError, match=r"b\.wav: cannot be written"):
        publish([tmp_path / "a", tmp_path / "b"], targets)
    assert not targets[0].exists()


def test_a_stem_that_cannot_be_moved_leaves_the_stems_of_an_earlier_run(tmp_path):
    from mss.apps.staging import publish
    from mss.audio import AudioError

    for name in ("a", "b", "file"):
        (tmp_path / name).write_text(name)
    targets = [tmp_path / "out" / "a.wav", tmp_path / "file" / "b.wav"]
    targets[0].parent.mkdir()
    targets[0].write_text("earlier")
    with pytest.raises(AudioError, match=r"b\.wav: cannot be written"):
        publish([tmp_path / "a", tmp_path / "b"], targets)
    assert targets[0].read_text() == "earlier"
    targets[1] = tmp_path / "out" / "b.wav"
    (tmp_path / "a").write_text("new")
    publish([tmp_path / "a", tmp_path / "b"], targets)
    assert [path.read_text() for path in targets] == ["new", "b"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written(song, capsys):
    assert run(song, "-o", "/proc/stems") == 1
    assert "cannot be written to" in capsys.readouterr().err
    (song.parent / "file").write_text("")
    assert run(song, "-o", song.parent / "file") == 1
    assert "choose another folder with --out" in capsys.readouterr().err


def command(*args, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen([sys.executable, "-m", "mss.separate", *map(str, args)], **pipes, **options)


def test_a_full_disk(song, tmp_path):
    import resource

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = command(song, "-o", tmp_path / "out", "-n", "hpss", preexec_fn=limited)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert "File too large" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_it_leaves_nothing_half_written(number, jobs, excerpt, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.wav", excerpt["mixture"].repeat(1, 40), RATE)
    out = tmp_path / "out"
    process = command(tmp_path / "a.wav", tmp_path / "b.wav", "-o", out, "-j", jobs)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(
        path.stat().st_size > 1e6 for path in out.rglob("*") if path.is_file()
    ):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[1]
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not out.exists()


def test_torchrun_shares_the_files(song, tmp_path):
    for name in ("a.wav", "b.wav"):
        (song.parent / name).write_bytes(song.read_bytes())
    (song.parent / "0 bad.wav").write_text("its rank is the first to be done, and must not end before the others")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", sys.executable]
    arguments = ["-m", "mss.separate", str(song.parent), "-o", str(tmp_path / "out"), "-n", "hpss", "--json"]
    done = subprocess.run([*torchrun, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr
    assert len(json.loads(done.stdout)["files"]) == 4
    assert "rank 0 of 2" in done.stderr
    assert "rank 1 of 2" in done.stderr
    assert len(tree(tmp_path / "out")) == 6


# What it tells


def test_lists_and_environment(capsys):
    assert main(["--list-models"]) == 0
    assert "spleeter-2stems vocals, accompaniment MIT" in " ".join(capsys.readouterr().out.split())
    assert main(["--list-models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["hpss"]["stems"] == ["harmonic", "percussive"]
    assert all(row["licence"] and row["source"] for row in rows.values())
    assert main(["--env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert "cpu" in facts["devices"]


def test_quiet_says_nothing(song, tmp_path, capsys):
    assert run(song, "-o", tmp_path / "out", "-q") == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_progress_bar(song, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "mss.separate", str(song), "-o", str(tmp_path / "out"), "-n", "hpss"],
        cwd=ROOT,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # Linux says so at the end of a terminal
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert "song.wav 100% |" in text
    assert "2/2 s" in text
    assert "x real time" in text
