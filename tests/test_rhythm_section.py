"""Four stems without training: where drums, bass and the rest are in frequency, and on real music."""

import pytest
import torch

import mss
from mss.classical import rhythm_section
from tests.conftest import sdr

RATE = 44100


def test_a_kick_a_bass_note_a_chord_and_a_cymbal_go_where_they_belong():
    t = torch.arange(3 * RATE) / RATE
    bass = 0.3 * torch.sin(2 * torch.pi * 82.4 * t)
    chord = 0.1 * sum(torch.sin(2 * torch.pi * f * t) for f in (440.0, 554.4, 659.3))
    hit = torch.randn(RATE // 20, generator=torch.Generator().manual_seed(1)) * torch.linspace(1, 0, RATE // 20)
    drums = torch.zeros_like(t)
    for start in range(RATE // 10, 2 * RATE, RATE // 2):
        drums[start : start + hit.numel()] += 0.3 * hit
    stems = torch.stack([drums, bass, chord])
    transform = mss.STFT()
    X = transform(stems.sum(0).expand(1, 1, -1))
    V = rhythm_section(X)
    assert torch.allclose(V.sum(1), X.abs(), atol=1e-5)
    estimates = transform.inverse(mss.filters.softmask(V, X), t.numel())[0, :, 0]
    for stem, estimate, least in zip(stems, estimates, (9, 15, 20), strict=True):
        assert sdr(stem, estimate) > least


def test_slopes_are_finite_where_a_song_pauses(excerpt):
    x = excerpt["mixture"][None].clone()
    x[..., RATE : RATE + 8000] = 0
    X = mss.STFT()(x).requires_grad_()
    rhythm_section(X)[:, 0].square().sum().backward()
    assert X.grad.isfinite().all()
    assert X.grad.abs().max() > 1


def test_four_stems_of_real_music_come_out_better_than_they_went_in(excerpt):
    names = ("vocals", "drums", "bass", "other")
    with torch.inference_mode():
        estimates = mss.load("hybrid_4stems")(excerpt["mixture"][None])[0]
    for name, estimate in zip(names, estimates, strict=True):
        assert sdr(excerpt[name], estimate) > sdr(excerpt[name], excerpt["mixture"]) + 4
        assert sdr(excerpt[name], estimate) > (0.5 if name != "bass" else 0)


@pytest.mark.parametrize("name", ["rhythm_section", "hybrid_4stems"])
def test_the_names_of_the_stems(name):
    wanted = ("drums", "bass", "other") if name == "rhythm_section" else ("vocals", "drums", "bass", "other")
    assert mss.load(name).targets == wanted
