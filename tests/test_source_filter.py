"""The source-filter model of a lead voice: its dictionary, its melody, its cost, and a singer whose pitch is known."""

import itertools
import math

import pytest
import torch

import mss
from mss.classical import melody, source_filter
from mss.classical._glottal import f0_grid, glottal_combs, klglott88, smooth_bumps
from mss.classical._melody import corridor, glide_penalty, viterbi, voiced_frames
from mss.classical._source_filter import Model, random_model
from tests.conftest import sdr

RATE = 22050
TRANSFORM = mss.STFT(1024, 256)


def singer(seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A voice with vibrato, glides of 50 ms and three formants, silent for 0.3 s; and its pitch in Hz, 0 in silence."""
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    notes = torch.tensor([57, 60, 62, 64, 62, 60, 55, 57], dtype=torch.float64)
    step = (notes[(t / 0.4).long() % 8] - 57).view(1, 1, -1)
    glide = torch.nn.functional.avg_pool1d(step, 1103, 1, 551, count_include_pad=False).flatten() + 57
    f0 = 440 * 2 ** ((glide - 69 + 0.4 * torch.sin(2 * math.pi * 5.5 * t)) / 12)
    phase = 2 * math.pi * (f0 / RATE).cumsum(0)
    voice = torch.zeros_like(t)
    for k in range(1, 41):
        f = k * f0
        formants = sum(g / (1 + ((f - c) / w) ** 2) for c, w, g in ((600, 120, 1), (1200, 150, 0.5), (2600, 250, 0.25)))
        voice += (formants + 0.01) / k**0.5 * torch.sin(k * phase) * (f < RATE / 2)
    sounds = ((t - 1.75).abs() > 0.15).double()
    fade = torch.nn.functional.avg_pool1d(sounds.view(1, 1, -1), 221, 1, 110, count_include_pad=False).flatten()
    return 0.4 * voice * fade / voice.abs().max(), f0 * sounds


def band(seconds: float) -> torch.Tensor:
    """Four decaying chords of eight partials, over and over, and bursts of noise."""
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    y, since = torch.zeros_like(t), t % 0.5
    for i, chord in enumerate(((48, 52, 55), (45, 48, 52), (41, 45, 48), (43, 47, 50))):
        f0 = (440 * 2 ** ((torch.tensor(chord, dtype=torch.float64) - 69) / 12)).unsqueeze(-1)
        notes = sum(torch.sin(2 * math.pi * k * f0 * t + k + f0) / k for k in range(1, 9)).sum(0)
        y += notes * torch.exp(-1.5 * since) * ((t / 0.5).long() % 4 == i)
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return 0.4 * y / y.abs().max() + 0.1 * noise * torch.exp(-(t % 0.25) / 0.006)


def test_klglott88_is_the_fourier_series_of_the_pulse():
    """Derivative of t^2 (Oq - t) while the glottis is open; by the midpoint rule."""
    oq, n = 0.4, 200_000
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    pulse = torch.where(t < oq, 2 * oq * t - 3 * t * t, 0)
    partial = torch.arange(1, 20, dtype=torch.float64)
    series = (pulse * torch.exp(-2j * math.pi * partial.unsqueeze(-1) * t)).mean(-1)
    assert torch.allclose(oq**3 * klglott88(partial, oq), series, atol=1e-8)


def test_columns_are_the_spectra_of_windowed_pulse_trains():
    f0 = f0_grid(100, 800, 8)
    assert (len(f0), f0[0]) == (289, 100)
    assert abs(f0[-1] - 800) < 1e-9
    combs = glottal_combs(f0, bins=1025, sample_rate=44100, open_quotient=0.25)
    t = (torch.arange(2048, dtype=torch.float64) - 1024) / 44100
    for u in (0, 150, 288):
        partial = torch.arange(1, int(22050 / f0[u]) + 1, dtype=torch.float64).unsqueeze(-1)
        train = (klglott88(partial, 0.25) * torch.exp(2j * math.pi * partial * f0[u] * t)).sum(0)
        power = torch.fft.fft(train * torch.hann_window(2048, dtype=torch.float64))[:1025].abs().square()
        assert torch.allclose(combs[:, u], power / power.max(), atol=5e-4)
        peaks = (f0[u] * torch.arange(1, 9) * 2048 / 44100).round().long()
        valleys = (f0[u] * (torch.arange(1, 9) + 0.5) * 2048 / 44100).round().long()
        assert (combs[peaks, u] > 30 * combs[valleys, u]).all()


def test_bumps_overlap_by_three_quarters_and_cover_the_band():
    bumps = smooth_bumps(1025, 24)
    assert bumps.min() == 1e-12
    assert torch.allclose(bumps[128:-128].sum(1), torch.tensor(2.0, dtype=torch.float64))


def test_viterbi_equals_brute_force(generator):
    emission = torch.randn(2, 4, 5, generator=generator)
    transition = torch.randn(4, 4, generator=generator)

    def score(item: int, path: tuple[int, ...]) -> float:
        steps = sum(transition[to, start] for start, to in itertools.pairwise(path))
        return float(sum(emission[item, u, n] for n, u in enumerate(path)) + steps)

    paths = viterbi(emission, transition)
    for item in range(2):
        best = max(itertools.product(range(4), repeat=5), key=lambda path: score(item, path))
        assert paths[item].tolist() == list(best)
    assert viterbi(emission[..., :1], transition).tolist() == emission[..., 0].argmax(1, keepdim=True).tolist()


def test_glides_cost_by_the_semitone_up_to_ten():
    penalty = glide_penalty(200, 8, 0.5)
    assert torch.allclose(penalty.exp().sum(1), torch.ones(200, dtype=torch.float64))
    below = penalty[100] - penalty[100, 100]
    assert torch.allclose(
        below[[100, 107, 108, 116, 180, 199, 0]], -0.5 * torch.tensor([0, 0, 1, 2, 10, 10, 10.0]).double()
    )


def test_voiced_frames_compare_energies_with_an_energy():
    """The quietest are left out until together they pass the share; a frame is not compared with the cumulative share."""
    energy = torch.tensor([[5.0, 0.002, 3.0, 0.003, 0.0, 2.0]])
    for level in (1, 1e-6):  # of which the second has all energies below any share
        assert voiced_frames(level * energy, 1e-3).tolist() == [[True, False, True, False, False, True]]
        assert voiced_frames(level * energy, 3e-4).tolist() == [[True, False, True, True, False, True]]
    assert not voiced_frames(torch.zeros(1, 3), 1e-3).any()


@pytest.fixture(scope="module")
def models() -> list[Model]:
    """Random powers of two channels, in two blocks of frames, with all pitches and in a corridor."""
    S = torch.rand(2, 2, 129, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square() + 1e-4
    combs = glottal_combs(f0_grid(200, 800, 4), bins=129, sample_rate=16000, open_quotient=0.25)
    path = torch.arange(40).expand(2, -1)
    options = {"side": 0.1, "shapes": 3, "components": 4, "seed": 0}
    return [
        random_model(S, combs, smooth_bumps(129, 12), active, **options)
        for active in (None, corridor(path, combs.shape[1], 2) & (path % 7 > 0).unsqueeze(1))
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_the_cost_never_rises(models, which):
    model = models[which]
    silent = [h == 0 for h in model.H_F0]
    costs = [model.cost()]
    for i in range(30):
        model.update(filters=i < 20)
        costs.append(model.cost())
    costs = torch.stack(costs)
    assert (costs.diff(dim=0) <= 1e-9 * costs[:-1]).all()
    assert (costs[-1] < 0.7 * costs[0]).all()
    assert all((h[zero] == 0).all() for h, zero in zip(model.H_F0, silent, strict=True))
    assert all(torch.allclose(v, model.W_F0 @ h) for v, h in zip(model.source, model.H_F0, strict=True))
    before = [model.lead(i) for i in range(len(model.S))]
    model.normalise()
    assert all(torch.allclose(model.lead(i), before[i]) for i in range(len(model.S)))
    assert torch.allclose(model.H_Phi[0].sum(1), torch.ones_like(model.H_Phi[0][:, 0]))


def test_a_singer_before_a_band():
    voice, f0 = singer(2.2)
    behind = band(2.2)
    X = TRANSFORM((voice + behind).view(1, 1, -1))
    options = {"sample_rate": RATE, "filters": 24, "shapes": 6, "components": 20, "iterations": 20}
    pitch, salience = melody(X, **options)
    assert salience.shape == (1, 289, X.shape[-1])
    true = f0[:: TRANSFORM.hop]
    pitch, sings = pitch[0, : len(true)], true > 0
    cents = 1200 * torch.log2(pitch[sings].clamp_min(1) / true[sings])
    assert (cents.abs() < 50).double().mean() > 0.95
    sung = {}
    for unvoiced in (0, 6):
        Y = source_filter(X, unvoiced=unvoiced, power=2.0, **options)
        assert torch.allclose(Y.sum(1), X)
        sung[unvoiced] = TRANSFORM.inverse(Y, len(voice))[0, :, 0]
    assert sdr(voice, sung[0][0]) > 11
    assert sdr(behind, sung[0][1]) > 5
    assert sdr(voice, sung[6][0]) > 8  # what is flat takes something of the noise


def test_the_voice_has_nothing_below_its_lowest_pitch_and_stays_in_the_middle(excerpt):
    transform = mss.STFT(2048)
    X = transform(excerpt["mixture"][None, :, : 2 * 44100])
    Y = source_filter(X, iterations=3, lowest=150.0)
    assert (Y[:, 0, :, :7] == 0).all()  # 7 bins are 150.7 Hz
    assert (Y[:, 0, :, 8:].abs() > 0).any()
    with pytest.raises(ValueError, match="half the sample rate"):
        source_filter(X, sample_rate=1500)


def test_a_real_singer(excerpt):
    mixture, voice = (excerpt[name][:, : 4 * 44100] for name in ("mixture", "vocals"))
    ours = mss.load("source_filter")(mixture[None])[0]
    assert sdr(voice, ours[0]) > sdr(voice, mixture) + 3
    assert sdr(mixture - voice, ours[1]) > sdr(mixture - voice, mixture) + 1
