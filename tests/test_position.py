"""Position models on sources that were panned to known angles: real stems, and melodies whose answer was measured before."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import mss
from mss.apps.plots import panning_figure
from mss.classical import (
    adress,
    adress_positions,
    adress_resynthesis,
    azimuth_names,
    duet,
    duet_positions,
    find_azimuths,
    panning,
    panning_angles,
    panning_histogram,
    projet,
    projet_positions,
)
from mss.classical.adress import adress_nulls
from mss.classical.projet import _squares, _start, fit, gains, magnitudes
from mss.filters import softmask
from mss.metrics import si_sdr

RATE = 44100
STFT = mss.STFT(4096, 1024)


def panned(sources: torch.Tensor, angles) -> torch.Tensor:
    """Mono sources (n, t) -> images (n, 2, t) by the constant-power law."""
    phi = torch.tensor(angles, dtype=sources.dtype).deg2rad()
    return torch.stack([phi.cos(), phi.sin()], 1).unsqueeze(-1) * sources.unsqueeze(1)


def scores(images: torch.Tensor, estimates: torch.Tensor) -> torch.Tensor:
    """SI-SDR of images (n, 2, t), dB, both channels taken as one signal."""
    return si_sdr(images.flatten(1).unsqueeze(1), estimates.flatten(1).unsqueeze(1))


def separated(method, X: torch.Tensor, length: int, **options) -> torch.Tensor:
    """Estimates (n, 2, t) of a spectrum (2, f, k)."""
    Y = method(X[None], **options)
    return STFT.inverse(Y if Y.is_complex() else softmask(Y, X[None]), length)[0]


def melody(seed: int, low: int, high: int, seconds: float = 6.0) -> np.ndarray:
    """Notes of a quarter of a second of ten partials each, drawn between two MIDI numbers; peak 0.3."""
    rng, length = np.random.default_rng(seed), round(0.25 * 0.95 * RATE)
    x, t = np.zeros(round(seconds * RATE)), np.arange(length) / RATE
    envelope = np.minimum(1, t / 0.01) * np.minimum(1, (t[-1] - t) / 0.03) * np.exp(-1.5 * t)
    for i in range(round(seconds / 0.25)):
        pitch = 440 * 2 ** ((rng.integers(low, high) - 69) / 12)
        phases = rng.uniform(0, 2 * np.pi, 10)
        note = sum(np.sin(2 * np.pi * pitch * k * t + p) / k for k, p in enumerate(phases, 1))
        start = round(0.25 * i * RATE)
        x[start : start + length] += envelope * note
    return 0.3 * x / np.abs(x).max()


@pytest.fixture(scope="module")
def melodies() -> torch.Tensor:
    return torch.tensor(np.stack([melody(1, 48, 60), melody(2, 60, 72), melody(3, 72, 84)]), dtype=torch.float32)


@pytest.fixture(scope="module")
def stems(excerpt) -> torch.Tensor:
    """Vocals, bass and drums of real music, mono."""
    return torch.stack([excerpt[name].mean(0) for name in ("vocals", "bass", "drums")])


FINDERS = {
    "panning": lambda X: find_azimuths(panning_histogram(X, coherent=True)[0], 3),
    "duet": lambda X: duet_positions(X)[0],
    "adress": adress_positions,
    "projet": projet_positions,
}


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize("angles", [(15, 45, 75), (10, 40, 80), (25, 45, 60), (0, 45, 90)])
def test_three_stems_are_found_where_they_are(name, angles, stems):
    X = STFT(panned(stems, angles).sum(0))
    found = FINDERS[name](X[None])[0]
    assert (found - torch.tensor(angles)).abs().max() < 2


@pytest.mark.parametrize(
    ("method", "least"),
    [
        (panning, (12.5, 11, 12)),
        (duet, (12.5, 11, 12)),
        (adress, (12.5, 11, 12)),
        (adress_resynthesis, (12.5, 10.5, 14.5)),
        (projet, (15, 12.5, 15)),
    ],
)
def test_three_melodies_come_apart(method, least, melodies):
    images = panned(melodies, (15, 45, 75))
    mixture = images.sum(0)
    estimates = separated(method, STFT(mixture), mixture.shape[-1])
    got = scores(images, estimates)
    assert (got > torch.tensor(least)).all()


@pytest.mark.parametrize(
    ("method", "gain"),
    [(panning, (15, 9, 11.5)), (duet, (15, 9.2, 11.5)), (adress, (15, 9.2, 11.5)), (projet, (16.5, 9.5, 12))],
)
@pytest.mark.parametrize("angles", [(15, 45, 75), (25, 45, 60)])
def test_three_real_stems_come_apart(method, gain, angles, stems):
    images = panned(stems, angles)
    mixture = images.sum(0)
    estimates = separated(method, STFT(mixture), mixture.shape[-1])
    better = scores(images, estimates) - scores(images, mixture.expand_as(images))
    assert (better > torch.tensor(gain)).all()


@pytest.mark.parametrize("method", [panning, duet, adress, projet])
def test_angles_that_are_given_do_as_well_as_those_found(method, stems):
    images = panned(stems[..., : 3 * RATE], (15, 45, 75))
    mixture = images.sum(0)
    X = STFT(mixture)
    found, given = (separated(method, X, mixture.shape[-1], angles=angles) for angles in (None, (15, 45, 75)))
    assert (scores(images, found) - scores(images, given)).abs().max() < 0.1
    turned = separated(method, X, mixture.shape[-1], angles=(75, 15, 45))  # targets are in the order given
    assert (turned[[1, 2, 0]] - given).square().sum() < 1e-6 * given.square().sum()


def test_delays_and_levels_of_melodies(melodies):
    gains, lags = torch.tensor([0.5, 1, 2]), torch.tensor([0.6, 0, -0.6])
    omega = torch.linspace(0, torch.pi, melodies.shape[-1] // 2 + 1)
    shift = torch.polar(gains[:, None].expand(3, omega.numel()), -lags[:, None] * omega)
    second = torch.fft.irfft(torch.fft.rfft(melodies) * shift, n=melodies.shape[-1])
    images = torch.stack([melodies, second], 1)
    mixture = images.sum(0)
    transform = mss.STFT(2048, 512)
    X = transform(mixture)[None]
    angles, delays = duet_positions(X, max_delay=1.5)
    ratio = angles[0].deg2rad().tan()
    assert (ratio / gains - 1).abs().max() < 0.05
    assert (delays[0] - lags).abs().max() < 0.1
    V = duet(X, max_delay=1.5)
    got = scores(images, transform.inverse(softmask(V, X), mixture.shape[-1])[0])
    assert got.min() > 9.5
    same = duet(X, angles=angles[0].tolist(), delays=delays[0].tolist())
    assert (same != V).float().mean() < 1e-4
    Y = projet(X, max_delay=1.5)
    assert (Y.sum(1) - X).abs().max() < 1e-4 * X.abs().max()
    projected = scores(images, transform.inverse(Y, mixture.shape[-1])[0])
    assert projected.min() > 10.5


@pytest.mark.parametrize("method", [duet, projet])
def test_delays_go_with_angles(method, stems):
    X = STFT(panned(stems[:, :RATE], (15, 45, 75)).sum(0))[None]
    with pytest.raises(ValueError, match="delays belong to angles"):
        method(X, delays=[0.5, 0, 0])
    with pytest.raises(ValueError, match="one delay for each of 2 angles"):
        method(X, angles=[20, 60], delays=[0.5])


@pytest.mark.parametrize("phi", [0, 15, 45, 70, 90])
def test_the_null_depth_of_a_lone_source(phi, stems):
    source = stems[:1, :RATE].double()
    image = panned(source, (phi,))
    X = STFT(image[0])[None]
    azimuth, left, depth = adress_nulls(X)
    S = STFT(source[0]).abs()
    law = max(math.cos(math.radians(phi)), math.sin(math.radians(phi)))
    assert left.max() < 1e-6 * S.max()
    assert (depth[0] - law * S).abs().max() < 1e-6 * S.max()
    assert (azimuth[0] - phi).abs()[1e-6 * S.max() < S].max() < 1e-3
    Y = adress_resynthesis(X, angles=[phi])
    assert (Y[0, 0] - X[0]).abs().max() < 1e-6 * S.max()


def test_the_null_in_closed_form_is_that_of_a_search(stems):
    X = STFT(panned(stems[..., RATE : RATE + RATE // 4].double(), (15, 40, 75)).sum(0))
    beta = 300
    g = torch.arange(beta + 1) / beta
    first, second = X
    plane = torch.cat(
        [(second - g.view(-1, 1, 1) * first).abs(), (first - g.flip(0)[1:].view(-1, 1, 1) * second).abs()]
    )
    least, place = plane.min(0)
    positions = torch.cat([g.atan(), math.pi / 2 - g.flip(0)[1:].atan()]).rad2deg()
    azimuth, left, depth = adress_nulls(X[None])
    loud = X.abs().amax(0)
    assert ((azimuth[0] - positions[place]).abs() < 45 / beta * 1.5).float().mean() > 0.998  # but where two are as deep
    assert (left[0] <= least + 1e-9 * loud.max()).all()
    assert (least - left[0] <= loud / beta).all()
    assert (depth[0] - (plane.amax(0) - least) >= -1e-9 * loud.max()).all()


@pytest.mark.parametrize("max_delay", [0.0, 1.5])
@pytest.mark.parametrize("beta", [1.0, 0.5, 2.0])
def test_projections_fit_ever_better_and_conserve_the_mixture(stems, beta, max_delay):
    images = panned(stems[..., : 2 * RATE].double(), (15, 45, 75))
    X = STFT(images.sum(0))[None, ..., :8]
    model, costs = _start(X, 3, max_delay=max_delay), []
    x = X[0] / torch.view_as_real(X).abs().max()
    x = x.flatten(-2).unflatten(-1, (len(model.B), -1))  # (2, g, s)
    V = torch.einsum("gcm,cgs->gms", model.B.to(x.dtype), x).abs()  # from the definition
    assert torch.allclose(magnitudes(model.planes, _squares(model.B))[0], V, atol=1e-7)
    for _ in range(6):
        P, Q = fit(model, 1, beta)
        model = model._replace(P=P, Q=Q)
        sigma = (gains(Q, model.K).mT @ P)[0]
        if beta == 1:
            assert float(sigma.sum()) == pytest.approx(float(V.sum()), rel=1e-9)  # as after every update of this kind
            costs.append(float((torch.special.xlogy(V, V / sigma) - V + sigma).sum()))
        else:
            terms = V**beta + (beta - 1) * sigma**beta - beta * V * sigma ** (beta - 1)
            costs.append(float(terms.sum() / (beta * (beta - 1))))
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(costs))
    assert costs[-1] < 0.99 * costs[0]
    Y = projet(X, iterations=5, max_delay=max_delay)
    assert (Y.sum(1) - X).abs().max() < 1e-9 * X.abs().max()


@pytest.mark.parametrize("method", [panning, duet, adress, projet])
def test_swapping_the_channels_swaps_left_and_right(method, stems):
    X = STFT(panned(stems[..., : 2 * RATE].double(), (12, 40, 80)).sum(0))[None]
    Y, swapped = method(X), method(X.flip(1))
    error = (Y - swapped.flip(1, 2)).abs().square().sum() / Y.abs().square().sum()
    assert error < 1e-6


def test_histograms_of_stems_peak_at_their_angles(stems):
    angles = (20, 45, 90)
    X = STFT(panned(stems, angles))[None]  # (1, 3, 2, f, k)
    h, centres = panning_histogram(X)
    assert h.shape == (1, 3, 91)
    assert torch.allclose(h.sum(-1), X.abs().square().sum((2, 3, 4)), rtol=1e-4)
    assert torch.equal(centres[h.argmax(-1)[0]], torch.tensor(angles, dtype=centres.dtype))
    assert (find_azimuths(h, 1)[0, :, 0] - torch.tensor(angles)).abs().max() < 0.1
    signed, circle = panning_histogram(X * torch.tensor([1.0, -1.0]).view(2, 1, 1), signed=True)
    found = circle[signed.argmax(-1)[0]]  # in anti-phase 20 degrees are -20, and 90, in one channel, stay what they are
    assert torch.equal(found, torch.tensor([-20, -45, 90], dtype=circle.dtype))
    seam = panned(stems[:1, :RATE], (134.8,))  # which is -45.2: the circle is closed
    signed, circle = panning_histogram(STFT(seam), signed=True)
    assert circle[signed.argmax()] == -45
    angles = panning_angles(STFT(seam)[0], signed=True)  # no leading axis
    assert angles.shape == STFT(seam).shape[2:]
    loud = STFT(seam)[0].abs().amax(0)
    assert (angles - 134.8)[loud > 1e-3 * loud.max()].abs().max() < 0.05


@pytest.mark.parametrize("name", FINDERS)
def test_a_source_is_found_that_is_far_below_the_others(name, stems):
    """The bass at a fifth of its level: in a histogram of energy the shoulders of the others hide it."""
    X = STFT(panned(stems * torch.tensor([[1], [0.2], [1]]), (10, 40, 80)).sum(0))
    assert (FINDERS[name](X[None])[0] - torch.tensor((10, 40, 80))).abs().max() < 2
    plain = find_azimuths(panning_histogram(X)[0], 3)
    assert (plain - torch.tensor((10, 40, 80))).abs().max() > 2


@pytest.mark.parametrize("method", [panning, duet, adress, projet])
def test_mono_played_in_stereo_is_all_centre(method, stems):
    mono = stems.sum(0).expand(2, -1)[:, :RATE]
    estimates = separated(method, STFT(mono), mono.shape[-1])
    energy = estimates.square().sum((1, 2)) / mono.square().sum()
    assert torch.isfinite(estimates).all()
    assert energy[1] > 0.95
    assert energy[[0, 2]].max() < 0.01
    assert find_azimuths(torch.zeros(91), 1).item() == 45
    empty = method(torch.zeros_like(STFT(mono))[None])
    assert not empty.any()


@pytest.mark.parametrize("method", [panning, duet, adress, adress_resynthesis, projet])
@pytest.mark.parametrize("channels", [1, 6])
def test_refuses_what_is_not_stereo(method, channels, stems):
    X = STFT(stems[0, :RATE].expand(channels, -1))[None]
    with pytest.raises(ValueError, match=rf"two channels.* {channels}$"):
        method(X)
    with pytest.raises(ValueError, match="degrees from 0"):
        method(torch.cat([X, X], 1)[:, :2], angles=[10, 100])


def test_targets_are_named_by_their_azimuths():
    assert azimuth_names([15, 45, 75]) == ("left", "centre", "right")
    assert azimuth_names([20, 70]) == ("left", "right")
    assert azimuth_names([5, 20, 45]) == ("pan_5", "pan_20", "pan_45")
    assert azimuth_names([10, 10.25]) == ("pan_10.0", "pan_10.2")
    with pytest.raises(ValueError, match="different"):
        azimuth_names([10, 10])


def test_a_picture_has_the_mixture_and_its_stems(stems, tmp_path):
    X = STFT(panned(stems[..., :RATE], (15, 45, 75)))
    h, centres = panning_histogram(X.sum(0))
    figure = panning_figure(h, centres, dict(zip(("vocals", "bass", "drums"), panning_histogram(X)[0], strict=True)))
    above, below = figure.axes
    assert [line.get_label() for line in below.lines] == ["vocals", "bass", "drums"]
    assert [int(line.get_xdata()[line.get_ydata().argmax()]) for line in below.lines] == [15, 45, 75]
    assert above.lines[0].get_ydata().sum() == pytest.approx(100, rel=1e-4)
    assert "left" in below.get_xticklabels()[0].get_text()
    figure.savefig(tmp_path / "panning.png")
    signed = panning_figure(*panning_histogram(X.sum(0), signed=True))
    assert len(signed.axes) == 1
    with pytest.raises(ValueError, match="one song"):
        panning_figure(h.expand(2, -1), centres)
