"""NMF of harmonic spectra: its atoms are what the transform makes of sines, its pitches are the notes that are played."""

import pytest
import torch

import mss
from mss.classical import harmonic_templates
from mss.classical._nmf import divergence
from mss.classical.harmonic_nmf import LOWEST, PITCHES, harmonic_atoms, noise_atoms
from tests.conftest import sdr
from tests.test_classical import RATE, clicks, tones


@pytest.mark.parametrize("pitch", [33, 69, 90])
def test_atoms_are_the_spectrum_of_the_partials(pitch):
    t = torch.arange(RATE, dtype=torch.float64) / RATE
    partials = [440 * 2 ** ((pitch - 69) / 12) * m for m in (1, 2, 5)]
    X = mss.STFT()(sum(torch.sin(2 * torch.pi * f * t) for f in partials))[:, 20].abs()
    atoms = harmonic_atoms(2049)[:, pitch - LOWEST, [0, 1, 4]].sum(-1)
    assert (X / X.max() - atoms / atoms.max()).abs().max() < 0.05


def test_inharmonic_partials_are_higher():
    straight, stiff = harmonic_atoms(2049), harmonic_atoms(2049, inharmonicity=1e-3)
    place = lambda atoms: atoms[:, 12, 9].argmax()  # noqa: E731
    assert place(stiff) / place(straight) == pytest.approx((1 + 1e-3 * 100) ** 0.5, rel=0.02)


def test_bands_share_the_whole_axis_evenly():
    total = noise_atoms(2049).sum(-1)
    assert (total > 0.8).all()
    assert (total < 1.01).all()


def test_the_divergence_never_rises(excerpt):
    V = mss.STFT()(excerpt["mixture"][:1, : 2 * RATE]).abs()
    V = V / V.mean()
    costs = []
    for iterations in (1, 2, 3, 5, 10, 20):
        W, H = harmonic_templates(V, iterations=iterations, continuity=0.0)
        costs.append(float(divergence(V, W, H)))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.6 * costs[0]


def test_the_pitches_of_a_chord_are_found():
    V = mss.STFT()(tones()[None]).abs()
    W, H = harmonic_templates(V / V.mean())
    loudness = (W.sum(1) * H.sum(-1))[0, :PITCHES]  # of each pitch
    assert (loudness.topk(3).indices + LOWEST).sort().values.tolist() == [60, 64, 67]
    assert W.shape[-1] > PITCHES


def test_a_chord_and_clicks_are_parted():
    h, p = tones(), clicks()
    harmonic, percussive = mss.load("harmonic_nmf")((h + p).view(1, 1, -1))[0, :, 0]
    assert sdr(h, harmonic) > 24
    assert sdr(p, percussive) > 8
