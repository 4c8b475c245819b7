"""Sinusoidal models, and what builds on them: signals whose partials are known."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

import mss
from mss.classical import (
    Peaks,
    Tracks,
    phase_hpss,
    pitch_informed,
    sinusoidal_split,
    sinusoidal_synthesis,
    sinusoidal_tracks,
    spectral_peaks,
    track_peaks,
)
from mss.classical.phase_hpss import _near
from mss.classical.sinusoidal import _cubic, _links
from mss.filters import softmask
from tests.conftest import sdr
from tests.test_classical import clicks, tones

RATE, N_FFT, HOP = 44100, 4096, 1024
INNER = slice(N_FFT, -N_FFT)


def cosines(*frequencies: float, seconds: float = 1.0, dtype=torch.float64) -> torch.Tensor:
    """Of amplitudes 0.4, 0.2, 0.13 ..., the phases those numbers; (1, t)."""
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    parts = [0.4 / (i + 1) * torch.cos(2 * math.pi * f * t + f) for i, f in enumerate(frequencies)]
    return sum(parts)[None].to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("frequency", [200.0, 1000.3, 4321.0, 15000.7])
def test_a_sinusoid_is_one_peak_and_comes_back(frequency, dtype):
    x = cosines(frequency, dtype=dtype)
    peaks = Peaks(*(values[0, 4:-4] for values in spectral_peaks(x)))
    assert ((peaks.amplitude > 0).sum(-1) == 1).all()  # no side lobes
    assert (peaks.frequency[:, 0] - frequency).abs().max() < 0.005 * RATE / N_FFT
    assert (peaks.amplitude[:, 0] - 0.4).abs().max() < 2e-4
    expected = (
        2 * math.pi * frequency * HOP / RATE * torch.arange(4, 4 + len(peaks.phase), dtype=torch.float64) + frequency
    )
    assert (torch.exp(1j * expected) - torch.exp(1j * peaks.phase[:, 0].double())).abs().max() < 5e-3
    tracks = sinusoidal_tracks(x)
    assert tracks.track.unique().tolist() == [0]
    y = sinusoidal_synthesis(tracks, x.shape[-1])
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert sdr(x[:, INNER], y[:, INNER]) > 60


def test_zero_padding_is_what_makes_frequencies_exact():
    def worst(padding):
        offsets = (1000.3, 1002.0, 1003.5)
        return max(float((spectral_peaks(cosines(f), padding=padding).frequency[0, 9, 0] - f).abs()) for f in offsets)

    assert worst(1) > 5 * worst(2)


def test_a_chord_comes_back_and_the_residual_is_the_noise(generator):
    chord = cosines(441.7, 777.1, 1310.9)
    tracks = sinusoidal_tracks(chord)
    assert tracks.track.unique().tolist() == [0, 1, 2]
    assert sdr(chord[:, INNER], sinusoidal_synthesis(tracks, chord.shape[-1])[:, INNER]) > 60
    noise = 0.01 * torch.randn(chord.shape, generator=generator, dtype=chord.dtype)
    sinusoids, residual = sinusoidal_split(chord + noise, floor=-40.0)
    assert torch.allclose(sinusoids + residual, chord + noise)
    assert sdr(chord[:, INNER], sinusoids[:, INNER]) > 40
    assert sdr(noise[:, INNER], residual[:, INNER]) > 10


def test_the_cubic_phase_meets_both_ends(generator):
    th0, th1 = ((torch.rand(100, generator=generator, dtype=torch.float64) - 0.5) * 2 * math.pi for _ in range(2))
    w0, w1 = (torch.rand(100, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    alpha, beta = _cubic(th0, w0, th1, w1, HOP)
    end = th0 + w0 * HOP + alpha * HOP**2 + beta * HOP**3
    assert (torch.exp(1j * end) - torch.exp(1j * th1)).abs().max() < 1e-9
    assert (w0 + 2 * alpha * HOP + 3 * beta * HOP**2 - w1).abs().max() < 1e-12
    # of all turns the smoothest: the speed stays near the straight line between both
    t = torch.linspace(0, HOP, 50, dtype=torch.float64).view(-1, 1)
    speed = w0 + 2 * alpha * t + 3 * beta * t.square()
    line = w0 + (w1 - w0) * t / HOP
    assert (speed - line).abs().max() < 1.5 * math.pi / HOP * 1.01


def test_a_glide_is_one_track():
    t = torch.arange(2 * RATE, dtype=torch.float64) / RATE
    x = torch.cos(2 * math.pi * (300 * t + 50 * t.square()))[None]  # 300 to 500 Hz
    tracks = sinusoidal_tracks(x)
    assert tracks.track.unique().tolist() == [0]
    frames = torch.arange(4, tracks.track.shape[1] - 4)
    assert (tracks.peaks.frequency[0, frames, 0] - (300 + 100 * frames * HOP / RATE)).abs().max() < 0.2
    y = sinusoidal_synthesis(tracks, x.shape[-1])
    assert sdr(x[:, INNER], y[:, INNER]) > 15  # a window sees a glide's phase a little off


def test_links_go_to_the_nearest_and_losers_look_once_more():
    before = torch.tensor([[100.0, 102.0, 300.0, 500.0]])
    now = torch.tensor([[101.8, 101.9, 340.0, 501.0]])
    on = torch.ones(1, 4, dtype=torch.bool)
    assert _links(before, now, on, on, 0.03).tolist() == [[0, 1, -1, 3]]
    assert _links(before, now, on, on, 0.2).tolist() == [[0, 1, 2, 3]]
    off = torch.tensor([[True, False, True, True]])
    assert _links(before, now, off, on, 0.03).tolist() == [[0, -1, -1, 3]]
    assert _links(before, now, on, off, 0.03).tolist() == [[1, -1, -1, 3]]


def test_tracks_are_born_die_and_keep_their_slots():
    """Two notes one after the other, one throughout, and a blip that is too short."""
    amplitude = torch.zeros(1, 20, 3)
    frequency = torch.zeros(1, 20, 3)
    for frame in range(20):
        found = [700.0] + ([400.0] if frame < 8 else []) + ([450.0] if frame >= 8 else []) * (frame != 9)
        found = [*found, 2000.0] if frame == 5 else found
        for i, value in enumerate(sorted(found, key=lambda f: (f * (frame + 1)) % 7)):  # in any order
            frequency[0, frame, i], amplitude[0, frame, i] = value, 0.1
    tracks = track_peaks(Peaks(frequency, amplitude, torch.zeros_like(amplitude)))
    assert isinstance(tracks, Tracks)
    of = {}
    for name in tracks.track.unique().tolist():
        frames, slots = (tracks.track[0] == name).nonzero().T
        if name >= 0:
            assert len(slots.unique()) == 1
            assert (frames.diff() == 1).all()
            assert len(tracks.peaks.frequency[0, frames, slots].unique()) == 1
            of.setdefault(float(tracks.peaks.frequency[0, frames[0], slots[0]]), []).append(frames.tolist())
    assert of == {400.0: [list(range(8))], 450.0: [list(range(10, 20))], 700.0: [list(range(20))]}
    assert not tracks.peaks.amplitude[tracks.track < 0].any()


def test_where_a_track_begins_and_ends_it_fades_over_a_hop():
    amplitude = torch.zeros(1, 8, 1, dtype=torch.float64)
    amplitude[0, 3:5] = 0.5
    phase = 2 * math.pi * 4.3 * torch.arange(8, dtype=torch.float64).view(1, -1, 1)
    peaks = Peaks(torch.full_like(amplitude, RATE / HOP * 4.3), amplitude, phase)
    y = sinusoidal_synthesis(Tracks(peaks, (amplitude > 0).long() - 1, HOP, RATE), 8 * HOP)[0]
    t = torch.arange(8 * HOP, dtype=torch.float64)
    envelope = 0.5 * torch.minimum((t / HOP - 2).clamp(0, 1), (5 - t / HOP).clamp(0, 1))
    assert torch.allclose(y, envelope * torch.cos(2 * math.pi * 4.3 * t / HOP), atol=1e-9)


def test_sinusoids_of_a_batch_of_silence_of_little_and_of_music(excerpt):
    x = excerpt["mixture"][:, : 2 * RATE]
    sinusoids, residual = sinusoidal_split(torch.cat([x, 0 * x]))
    assert not sinusoids[2:].any()
    assert not residual[2:].any()
    assert torch.allclose(sinusoidal_split(x[:1])[0], sinusoids[:1], atol=1e-5)
    assert torch.allclose(sinusoidal_split(10 * x)[0], 10 * sinusoids[:2], atol=1e-3)
    assert residual[:2].square().sum() < 0.5 * x.square().sum()
    for length in (1, 441, 5000):
        assert sum(sinusoidal_split(x[:, :length])).shape == (2, length)


def melody(
    seed: int, low: int, high: int, seconds: float = 6.0, step: float = 0.25
) -> tuple[torch.Tensor, torch.Tensor]:
    """Notes of ten partials, peak 0.3, and their frequency at each sample, 0 in the pauses."""
    rng = np.random.default_rng(seed)
    x, f0 = np.zeros(round(seconds * RATE)), np.zeros(round(seconds * RATE))
    t = np.arange(round(0.95 * step * RATE)) / RATE
    envelope = np.exp(-1.5 * t) * np.minimum(t / 0.01, 1) * np.minimum((t[-1] - t) / 0.03, 1)
    for i in range(round(seconds / step)):
        f = 440 * 2 ** ((rng.integers(low, high) - 69) / 12)
        note = slice(round(i * step * RATE), round(i * step * RATE) + len(t))
        x[note] = envelope * sum(np.sin(2 * np.pi * f * h * t + rng.uniform(0, 2 * np.pi)) / h for h in range(1, 11))
        f0[note] = f
    return torch.from_numpy(0.3 * x / np.abs(x).max()), torch.from_numpy(f0)


@pytest.fixture(scope="module")
def duet():
    solo, f0 = melody(1, 60, 72)
    other = melody(2, 45, 57)[0] + clicks(6.0).double()
    X = mss.STFT()((solo + other)[None, None])
    return solo, other, X, F.pad(f0[::HOP], (0, X.shape[-1] - len(f0[::HOP])))[None]


def separated(X, f0, length, **options):
    return mss.STFT().inverse(softmask(pitch_informed(X, f0, **options), X), length)[0, :, 0]


def test_the_solo_of_a_known_pitch(duet):
    solo, other, X, f0 = duet
    scores = {}
    for factor in (1.0, 1.01, 0.5, 2.0):
        y = separated(X, factor * f0, len(solo))
        assert torch.allclose(y.sum(0), solo + other)
        scores[factor] = sdr(solo, y[0]), sdr(other, y[1])
    assert scores[1.0] > (12.5, 0)
    assert scores[1.0][1] > 12
    assert scores[1.01][0] > 12  # partials are looked for
    assert scores[0.5][0] < scores[1.0][0] - 3
    assert scores[2.0][0] < scores[1.0][0] - 9


def test_no_pitch_no_solo_and_attacks_come_early(duet):
    _, _, X, f0 = duet
    f0 = f0.clone()
    f0[:, 50:60] = 0
    solo, rest = pitch_informed(X, f0)[0]
    assert not solo[..., 50:59].any()
    assert solo[..., 59].any()
    assert solo[..., 49].any()
    assert not pitch_informed(X, f0, attack=0)[0, 0, ..., 59].any()
    assert torch.allclose(solo + rest, X[0].abs())
    with pytest.raises(ValueError, match="one frequency per frame"):
        pitch_informed(X, f0[:, 1:])


def test_a_partial_that_shares_its_bins_gets_the_course_of_the_others():
    """A steady tone at the third partial of a note that decays and comes again."""
    t = torch.arange(3 * RATE, dtype=torch.float64) / RATE
    envelope = torch.exp(-4 * (t % 0.75))
    solo = envelope * sum(torch.sin(2 * math.pi * 440 * h * t) / h for h in range(1, 9)) * 0.2
    tone = 0.2 * torch.sin(2 * math.pi * 1320 * t + 1)
    X = mss.STFT()((solo + tone)[None, None])
    f0 = torch.full((1, X.shape[-1]), 440.0)
    shared, own = (separated(X, f0, len(t), correlation=c) for c in (-1.1, 0.9))
    assert sdr(solo, own[0]) > sdr(solo, shared[0]) + 0.8


@pytest.mark.parametrize("stretch", [0.0, 4e-4])
def test_stiff_strings_have_their_partials_where_they_are(stretch):
    t = torch.arange(RATE, dtype=torch.float64) / RATE
    partials = [220 * h * math.sqrt(1 + stretch * h * h) for h in range(1, 31)]
    solo = sum(torch.sin(2 * math.pi * f * t + f) for f in partials)
    X = mss.STFT()(solo[None, None])
    y = separated(X, torch.full((1, X.shape[-1]), 220.0), RATE, inharmonicity=stretch, search=0.0)
    assert sdr(solo[INNER], y[0, INNER]) > 20


def test_phase_hpss_parts_a_chord_from_clicks():
    h, p = tones(), clicks()

    def scores(**options):
        separator = mss.SpectralSeparator(
            partial(phase_hpss, **options), ("harmonic", "percussive"), transform=mss.STFT(4096, 512)
        )
        harmonic, percussive = separator((h + p).view(1, 1, -1))[0, :, 0]
        return sdr(h, harmonic), sdr(p, percussive)

    harmonic, percussive = scores()
    assert harmonic > 27
    assert percussive > 9
    assert scores(frames=3)[1] < percussive - 5  # overlapping frames see the same click
    assert scores(tolerance=0.1)[0] < harmonic - 3  # partials are anywhere in their bins
    with pytest.raises(ValueError, match="at least 1"):
        phase_hpss(torch.ones(1, 1, 5, 3).cfloat(), frames=0)


@pytest.mark.parametrize("frames", [1, 4, 9, 60])
def test_a_run_is_long_enough_as_in_scipy(frames, generator):
    mask = torch.rand(6, 50, generator=generator) < 0.85
    expected = [scipy.ndimage.binary_opening(row, np.ones(frames)) for row in mask.numpy()]
    assert torch.equal(_near(mask, frames), torch.from_numpy(np.stack(expected)))
