"""The classical methods against reference implementations and on signals whose answer is known."""

import librosa
import numpy as np
import pytest
import scipy.ndimage
import torch

import mss
from mss.classical import hpss, repet_sim
from mss.classical._ops import median_filter, similar_frames
from mss.filters import softmask
from tests.conftest import sdr

RATE = 44100


def tones(seconds: float = 3.0) -> torch.Tensor:
    """A stationary chord of three notes with eight partials each, peak 0.3."""
    t = torch.arange(round(seconds * RATE)) / RATE
    x = sum(torch.sin(2 * torch.pi * f * k * t + f + k) / k for f in (261.63, 329.63, 392.0) for k in range(1, 9))
    return 0.3 * x / x.abs().max()


def clicks(seconds: float = 3.0, every: float = 0.25) -> torch.Tensor:
    """Decaying bursts of noise, peak 0.3."""
    burst = torch.randn(round(0.03 * RATE), generator=torch.Generator().manual_seed(1))
    burst = burst * torch.exp(-torch.arange(burst.numel()) / (0.006 * RATE))
    x = torch.zeros(round(seconds * RATE))
    for start in range(RATE // 10, x.numel() - burst.numel(), round(every * RATE)):
        x[start : start + burst.numel()] += burst
    return 0.3 * x / x.abs().max()


@pytest.mark.parametrize("size", [1, 3, 31])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 40), (1, 1)])
@pytest.mark.parametrize("dim", [-1, -2])
def test_median_filter_equals_its_definition_and_scipy(size, shape, dim, generator):
    x = torch.rand(shape, generator=generator)
    ours = median_filter(x, size, dim)
    widths = [(0, 0)] * x.ndim
    widths[dim] = (size // 2, size // 2)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, widths, mode="symmetric"), size, axis=dim)
    assert torch.equal(ours, torch.from_numpy(np.median(windows, -1)))
    if size <= shape[dim]:  # with longer windows SciPy 1.17 now and then returns what is not a median of its input
        window = [1] * x.ndim
        window[dim] = size
        assert torch.equal(ours, torch.from_numpy(scipy.ndimage.median_filter(x.numpy(), window)))
    with pytest.raises(ValueError, match="odd length"):
        median_filter(x, 4, dim)


@pytest.mark.parametrize("margin", [1.0, 2.0])
def test_hpss_equals_librosa(excerpt, margin):
    X = mss.STFT(2048, 512)(excerpt["mixture"][:1, : 2 * RATE])
    ours = hpss(X[None], margin=margin)[0, :, 0]
    theirs = librosa.decompose.hpss(X[0].numpy(), kernel_size=31, margin=margin)
    for i, part in enumerate(theirs):
        assert np.abs(ours[i].numpy() - np.abs(part)).max() < 1e-5 * X.abs().max()
    assert ours.shape[0] == (2 if margin == 1 else 3)
    assert torch.allclose(ours.sum(0), X[0].abs(), atol=1e-4)
    with pytest.raises(ValueError, match="margin must be at least 1"):
        hpss(X[None], margin=0.5)


def test_hpss_parts_a_chord_from_clicks():
    h, p = tones(), clicks()
    harmonic, percussive = mss.load("hpss")((h + p).view(1, 1, -1))[0, :, 0]
    assert sdr(h, harmonic) > 27
    assert sdr(p, percussive) > 9.5


def test_hpss_leaves_a_pure_chord_alone():
    h = tones()
    harmonic = mss.load("hpss")(h.view(1, 1, -1))[0, 0, 0]
    middle = slice(RATE, 2 * RATE)
    assert sdr(h[middle], harmonic[middle]) > 40


def test_similar_frames_are_the_repetitions(generator):
    pattern = torch.rand(1, 20, 16, generator=generator)
    frames = similar_frames(pattern.repeat(1, 1, 5), count=5, distance=8)
    for k in (0, 17, 79):
        assert sorted(frames[0, k].tolist()) == [k % 16 + 16 * i for i in range(5)]
        assert frames[0, k, 0] == k  # itself first


def test_similar_frames_keep_their_distance_and_say_when_there_are_few(generator):
    V = torch.rand(2, 10, 30, generator=generator)
    frames = similar_frames(V, count=20, distance=5)
    for row in frames.flatten(0, 1):
        found = row[row >= 0].sort().values
        assert (found.diff() > 5).all()
        assert 1 <= len(found) <= 6


def test_repet_sim_finds_the_loop_under_a_voice():
    """A loop of 0.5 s, ten times over, under a gliding tone: the loop is the background."""
    generator = torch.Generator().manual_seed(3)
    hop, n = 1024, 22 * 1024
    loop = torch.randn(n, generator=generator) * torch.exp(-torch.arange(n) / 4000) + tones(n / RATE + 1)[:n]
    background = 0.3 * (loop / loop.abs().max()).repeat(10)
    t = torch.arange(background.numel()) / RATE
    voice = 0.1 * torch.sin(2 * torch.pi * (440 * t + 60 * t * t)) + 0.05 * torch.sin(
        2 * torch.pi * (880 * t + 120 * t * t)
    )
    X = mss.STFT()((background + voice).view(1, 1, -1))
    V = repet_sim(X, distance=8, count=10)
    assert V.shape == (1, 2, 1, *X.shape[-2:])
    assert torch.allclose(V.sum(1), X.abs(), atol=1e-4)
    foreground, behind = mss.STFT().inverse(softmask(V, X), background.numel())[0, :, 0]
    middle = slice(20 * hop, -20 * hop)
    assert sdr(background[middle], behind[middle]) > 12
    assert sdr(voice[middle], foreground[middle]) > 19


def test_repet_sim_keeps_the_bass_in_the_background(excerpt):
    X = mss.STFT()(excerpt["mixture"][None])
    voice = repet_sim(X)[:, 0]
    assert voice[..., 1:10, :].abs().max() == 0
    assert voice[..., 10:, :].abs().max() > 0


def test_methods_beat_the_mixture_on_real_music(excerpt):
    accompaniment = excerpt["drums"] + excerpt["bass"] + excerpt["other"]
    vocals, rest = mss.load("repet_sim")(excerpt["mixture"][None])[0]
    assert sdr(excerpt["vocals"], vocals) > sdr(excerpt["vocals"], excerpt["mixture"]) + 5
    assert sdr(accompaniment, rest) > sdr(accompaniment, excerpt["mixture"]) + 0.5
    _, percussive = mss.load("hpss")(excerpt["mixture"][None])[0]
    assert sdr(excerpt["drums"], percussive) > sdr(excerpt["drums"], excerpt["mixture"]) + 1
