"""Real music and small helpers that several test files share."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mss.audio import read_stems

ROOT = Path(__file__).parent.parent
torch.set_num_threads(min(2, torch.get_num_threads()))  # OMP_NUM_THREADS=1 is heard: two wait long on a busy machine


@pytest.fixture(scope="session")
def excerpt_path() -> Path:
    """The MUSDB18 excerpt that stempeg ships: five AAC streams, mixture drums bass other vocals, 6 s."""
    spec = importlib.util.find_spec("stempeg")  # not imported: it wants an ffmpeg binary
    return next((Path(spec.submodule_search_locations[0]) / "data").glob("*.mp4"))


@pytest.fixture(scope="session")
def excerpt(excerpt_path) -> dict[str, torch.Tensor]:
    """Its streams, (c, t) each, at 44.1 kHz."""
    stems, _ = read_stems(excerpt_path)
    return dict(zip(("mixture", "drums", "bass", "other", "vocals"), stems, strict=True))


@pytest.fixture(scope="session")
def mixture(excerpt) -> torch.Tensor:
    """Two seconds of it, (1, 2, t)."""
    return excerpt["mixture"][None, :, 44100 : 3 * 44100]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line sets up logging for its process, which here has tests to come that read warnings."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.setLevel(logging.WARNING)  # whatever a fixture of a whole file has run
    yield
    root.setLevel(logging.WARNING)
    root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Iterator[None]:
    """A recipe may ask for threads, which the tests to come would have, too."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Headless Chromium, of Playwright's `Browser`; tests that ask for it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    quiet = (
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-quic",
    )
    sound = ("autoplay-policy=no-user-gesture-required", "mute-audio")
    options = [f"--{name}" for name in ("no-sandbox", "disable-gpu", *quiet, *sound)]
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def generator() -> torch.Generator:
    """A source of random numbers that is the same in every test, in any order."""
    return torch.Generator().manual_seed(20190101)


def sdr(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    """Whole-track SDR, dB: energy over energy of the error (Mitsufuji et al. 2022)."""
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))
