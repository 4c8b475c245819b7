"""mss.metrics.peass: what it refuses, what has no score, and, where python-peass is installed, what it predicts."""

import sys
from types import SimpleNamespace

import pytest
import torch

from mss.metrics.peass import peass


@pytest.fixture
def signals(generator):
    return torch.randn(2, 2, 2, 4000, generator=generator), torch.randn(2, 2, 2, 4000, generator=generator)


@pytest.fixture
def listener(monkeypatch):
    """A package in place of the real one: it hears how loud the estimate is, and keeps what it was given."""
    calls = []

    def predict(original, estimate, *, sampling_frequency_hz):
        calls.append((original, estimate, sampling_frequency_hz))
        names = ("overall", "target", "interference", "artifact")
        return SimpleNamespace(
            **{f"{name}_perceptual_score": float(abs(estimate).max()) + i for i, name in enumerate(names)}
        )

    monkeypatch.setitem(sys.modules, "peass", SimpleNamespace(predict_perceptual_evaluation_scores=predict))
    return calls


def test_says_what_to_install(monkeypatch, signals):
    monkeypatch.setitem(sys.modules, "peass", None)
    with pytest.raises(ImportError, match=r"pip install 'mss-separation\[peass\]'"):
        peass(*signals)


def test_hands_over_the_target_first_then_the_others(listener, signals):
    s, y = signals
    scores = peass(s, y, 16000)
    assert all(score.shape == (2, 2) for score in scores)
    assert torch.equal(scores.ops, y.abs().amax((-2, -1)).double())
    assert torch.equal(scores.aps, scores.ops + 3)
    (target, other), estimate, rate = listener[1]  # first of the batch, second source
    assert rate == 16000
    for given, true in ((target, s[0, 1]), (other, s[0, 0]), (estimate, y[0, 1])):
        assert torch.equal(torch.from_numpy(given), true.T.double())
    assert peass(s[0], y[0], 16000).ops.shape == (2,)


def test_silence_has_no_score(listener, signals):
    s, y = signals
    y[0, 1] = 0  # a silent estimate
    s[1, 0] = 0  # a silent reference, and so the other has nothing to be told from
    ops = peass(s, y, 16000).ops
    assert ops.isnan().tolist() == [[False, True], [True, True]]
    assert len(listener) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y: (s[:, :1], y[:, :1]), "two sources"),
        (lambda s, y: (s, y[..., :-1]), "one shape"),
        (lambda s, y: (s.mT, y.mT), "swap"),
        (lambda s, y: (s, y / 0), "NaN or Inf"),
        (lambda s, y: (s[..., :700], y[..., :700]), "50 ms"),
    ],
)
def test_refuses_what_cannot_be_scored(listener, signals, change, message):
    with pytest.raises(ValueError, match=message):
        peass(*change(*signals), 16000)


def test_real_scores(excerpt):
    pytest.importorskip("peass", reason="python-peass is not installed")
    stems = torch.stack([excerpt["vocals"], excerpt["drums"]])[:, :1, 3 * 44100 : 4 * 44100]
    mixture = stems.sum(0, keepdim=True).expand_as(stems)
    perfect, unprocessed = peass(stems, stems), peass(stems, mixture)
    assert perfect.ops[0] > 95  # of the voice
    assert (unprocessed.ops < perfect.ops - 15).all()
    assert (unprocessed.ips < perfect.ips - 15).all()  # all of the others is still there
