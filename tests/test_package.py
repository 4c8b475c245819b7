"""What leaves the house: sdist and wheel build, a wheel alone runs, the demo and the benchmark's peer work."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mss.audio import read, write
from mss.files import write_whole
from scripts.bench_separate import plain
from tests.conftest import ROOT

RATE = 44100
WEIGHTS = "mss/weights/four-stems.safetensors"


def test_a_file_written_whole_has_the_rights_that_others_have(tmp_path, monkeypatch):
    """Without asking for the umask, which would change it for all threads."""
    (tmp_path / "plain").touch()
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    write_whole(tmp_path / "whole", b"data")
    assert (tmp_path / "whole").read_bytes() == b"data"
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "whole"]


def call(*command, **options) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the sdist, so that also the sdist is complete."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


def test_the_wheel_has_the_configuration_and_nothing_strange(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("mss/conf/separator/hpss.yaml", "mss/conf/evaluate.yaml", "mss/metrics/published.csv", WEIGHTS):
        assert name in names
    for path in (ROOT / "mss" / "apps" / "pages").glob("[!_]*.*"):
        assert f"mss/apps/pages/{path.name}" in names
    assert all(name.startswith(("mss/", "mss_separation-")) for name in names)
    packed = {info.filename: info.compress_size for info in zipfile.ZipFile(wheel).infolist()}
    assert packed.pop(WEIGHTS) < 20e6
    assert sum(packed.values()) < 1e6


def test_a_wheel_in_an_empty_environment_separates(wheel, tmp_path, excerpt):
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
    site = next((tmp_path / "venv" / "lib").glob("*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # what pip would fetch, gigabytes of it
    write(tmp_path / "song.wav", excerpt["mixture"][:, :RATE], RATE)
    where = call(python, "-c", "import mss; print(mss.__file__, mss.__version__)", cwd=tmp_path)
    assert str(site) in where
    assert "0.1.0" in where
    for model, stems in (("hpss", {"harmonic", "percussive"}), ("four-stems", {"vocals", "drums", "bass", "other"})):
        call(python, "-m", "mss.separate", "song.wav", "-n", model, cwd=tmp_path)
        assert {path.stem for path in (tmp_path / "separated" / model / "song").iterdir()} == stems
    assert "hpss" in call(tmp_path / "venv" / "bin" / "mss-separate", "--list-models", cwd=tmp_path)


def test_the_demo_makes_stems_scores_and_a_page(tmp_path):
    said = call(sys.executable, ROOT / "scripts" / "demo.py", "-o", tmp_path / "demo", cwd=ROOT)
    vocals = float(next(line for line in said.splitlines() if line.startswith("vocals ")).split()[-1])
    assert vocals >= 4.74
    page = (tmp_path / "demo" / "index.html").read_text()
    for name in ("mixture", "vocals", "drums", "bass", "other"):
        assert f'aria-label="Mute {name}"' in page
        assert read(tmp_path / "demo" / f"{name}.wav")[0].shape == (2, 268288)


def test_the_benchmark_compares_equal_outputs(tmp_path, excerpt):
    write(tmp_path / "song.wav", excerpt["mixture"].repeat(1, 3), RATE)  # two patches, the second not full
    plain(tmp_path / "song.wav", tmp_path / "plain")
    call(
        sys.executable,
        "-m",
        "mss.separate",
        tmp_path / "song.wav",
        "-n",
        "spleeter-2stems",
        "-o",
        tmp_path,
        "-q",
        cwd=ROOT,
    )
    for name in ("vocals", "accompaniment"):
        ours, theirs = (read(tmp_path / d / f"{name}.wav")[0] for d in ("spleeter-2stems/song", "plain"))
        assert (ours - theirs).abs().max() < 1e-4


def test_readme_and_changelog_name_what_there_is():
    from mss import zoo

    readme = (ROOT / "README.md").read_text()
    for name in [*zoo.PRETRAINED, *zoo.methods()]:
        assert f"| `{name}` |" in readme
    for line in (ROOT / "Makefile").read_text().splitlines():
        if line.startswith(".PHONY"):
            assert line.split()[1:] == ["setup", "lint", "demo", "test", "bench", "docs"]
