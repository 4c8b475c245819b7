"""The common fate transform and what its model can do that a plain NMF cannot: two tones in unison."""

import torch

import mss
from mss.classical import common_fate, common_fate_inverse, common_fate_transform
from mss.classical.common_fate import _fit
from tests.conftest import sdr

RATE = 44100


def tone(rate: float, phase: float, depth: float = 0.02, seconds: float = 4.0) -> torch.Tensor:
    """A note of 440 Hz with eight partials and a vibrato of `rate` Hz."""
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    swing = depth * 440 / rate * torch.sin(2 * torch.pi * rate * t + phase)
    return sum(torch.sin(k * (2 * torch.pi * 440 * t + swing) + phase) / k for k in range(1, 9))


def test_the_transform_comes_back(generator):
    for f, k, patch in ((65, 100, (8, 12)), (33, 7, (16, 10)), (1, 1, (2, 2))):
        X = torch.randn(2, 2, f, k, dtype=torch.complex128, generator=generator)
        C = common_fate_transform(X, patch)
        assert C.shape[-2:] == patch
        assert (common_fate_inverse(C, (f, k)) - X).abs().max() < 1e-12


def test_the_divergence_never_rises(generator):
    V = torch.rand(2, 30, 2, 20, dtype=torch.float64, generator=generator)
    costs = []
    for iterations in range(6):
        W, H, Q = _fit(V, 3, iterations, 0)
        Z = torch.einsum("bfn,bnk,bnc->bfck", W, H, Q)
        costs.append((torch.special.xlogy(V, V / Z) - V + Z).sum((1, 2, 3)))
    costs = torch.stack(costs)
    assert (costs.diff(dim=0) < 0).all()


def test_two_tones_in_unison_come_apart():
    fast, slow = tone(7.0, 1.0), tone(4.0, 0.3)
    t = torch.arange(fast.numel()) / RATE
    stems = torch.stack([fast * (t < 3), slow * (t > 1)])  # they sound together for half of the time
    transform = mss.STFT(2048, 512)
    X = transform(stems.sum(0)[None, None])
    Y = common_fate(X)
    assert (Y.sum(1) - X).abs().max() < 1e-10 * X.abs().max()
    estimates = transform.inverse(Y, t.numel())[0, :, 0]

    def best(estimates: torch.Tensor) -> float:
        return max(
            sum(sdr(s, estimates[i]) for s, i in zip(stems, order, strict=True)) / 2 for order in ((0, 1), (1, 0))
        )

    W, H, Q = _fit(X.abs().permute(0, 2, 1, 3), 2, 50, 0)  # KL-NMF on the spectrogram itself
    V = torch.einsum("bfn,bnk,bnc->bncfk", W, H, Q)
    nmf = transform.inverse(mss.filters.softmask(V, X), t.numel())[0, :, 0]
    assert best(estimates) > best(nmf) + 4
