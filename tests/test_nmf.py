"""Factorisations against scikit-learn and definitions, planted factors, and the separators that are made of them."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.decomposition import non_negative_factorization

import mss
from mss.classical import (
    DictionaryNMF,
    Note,
    deconvolve,
    drum_nmf,
    drum_templates,
    hpss,
    instruments,
    nmfd,
    read_score,
    score_informed,
)
from mss.classical._nmf import continuity_terms, divergence, factorise, sparseness_terms
from mss.classical.nmfd import shifts
from mss.filters import softmask
from mss.spec import build, spec
from tests.conftest import sdr
from tests.test_classical import clicks, tones

RATE = 44100
STFT = mss.STFT(4096, 1024)


def rand(generator, *shape) -> torch.Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0, 0.5, 1, 1.5, 2, 3])
@pytest.mark.parametrize("fixed", [False, True])
def test_factors_equal_those_of_scikit_learn(beta, fixed, generator):
    V, W, H = rand(generator, 2, 80, 60), rand(generator, 2, 80, 5), rand(generator, 2, 5, 60)
    l1 = 0.3 if fixed and beta != 1 else 0  # there scikit-learn 1.9 adds the weight anew in every iteration
    ours = factorise(V, W, H, beta=beta, iterations=30, l1=l1, fixed=5 * fixed)
    options = {"n_components": 5, "init": "custom", "solver": "mu", "beta_loss": beta, "max_iter": 30, "tol": 0}
    for i in range(2):
        if fixed:  # scikit-learn holds the second factor: all transposed; and starts the first by a constant of its own
            start = np.full((60, 5), np.sqrt(V[i].mean() / 5))
            h = factorise(
                V[i : i + 1], W[i : i + 1], torch.tensor(start.T)[None], beta=beta, l1=l1, fixed=5, iterations=30
            )[1]
            theirs = non_negative_factorization(
                V[i].T.numpy(),
                H=W[i].T.numpy().copy(),
                update_H=False,
                **options,
                alpha_W=l1 / 80,
                alpha_H=0,
                l1_ratio=1,
            )[0].T
            assert np.abs(h[0].numpy() - theirs).max() < 1e-6
            assert torch.equal(ours[0], W)
        else:
            w, h, _ = non_negative_factorization(V[i].numpy(), W[i].numpy().copy(), H[i].numpy().copy(), **options)
            assert np.abs(ours[0][i].numpy() - w).max() < 1e-6
            assert np.abs(ours[1][i].numpy() - h).max() < 1e-6


@pytest.mark.parametrize("beta", [-0.5, 0, 0.5, 1, 1.5, 2, 3])
@pytest.mark.parametrize("fixed", [0, 2])
def test_no_divergence_rises(beta, fixed, generator):
    V, W, H = rand(generator, 2, 30, 40) + 0.01, rand(generator, 2, 30, 4), rand(generator, 2, 4, 40)
    costs = [divergence(V, W, H, beta)]
    for _ in range(40):
        W, H = factorise(V, W, H, beta=beta, iterations=1, fixed=fixed)
        costs.append(divergence(V, W, H, beta))
    assert all((after <= before * (1 + 1e-12)).all() for before, after in pairwise(costs))
    assert (costs[-1] < 0.9 * costs[0]).all()
    difference = V - W @ H
    if beta == 2:
        assert torch.allclose(costs[-1], difference.square().sum((1, 2)) / 2)


def test_a_planted_factorisation_is_recovered(generator):
    W, H = rand(generator, 1, 40, 3), rand(generator, 1, 3, 60)
    W[rand(generator, 1, 40, 3) < 0.6] = 0  # with zeros of their own, the factors are the only ones
    H[rand(generator, 1, 3, 60) < 0.6] = 0
    V = W @ H
    V = V / V.mean()
    w, h = factorise(V, 3, iterations=1000, restarts=4)
    start = factorise(V, 3, iterations=0)
    assert divergence(V, w, h) < 1e-4 * divergence(V, *start)
    for found, planted in ((w.mT, W.mT), (h, H)):
        unit = (x[0] / x[0].norm(dim=-1, keepdim=True) for x in (found, planted))
        likeness = next(unit) @ next(unit).T
        assert (likeness.amax(0) > 0.999).all()
        assert sorted(likeness.argmax(0).tolist()) == [0, 1, 2]


def test_restarts_keep_the_best_of_each_item(generator):
    V = rand(generator, 2, 20, 30) ** 3
    V = V / V.mean((1, 2), keepdim=True)
    best = divergence(V, *factorise(V, 4, iterations=20, restarts=3))
    each = torch.stack([divergence(V, *factorise(V, 4, iterations=20, seed=s)) for s in range(3)])
    assert torch.allclose(best, each.amin(0))
    assert (each.amax(0) > 1.001 * each.amin(0)).all()


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_zeros_survive_and_silence_does_no_harm(beta, generator):
    V, W, H = rand(generator, 2, 20, 30), rand(generator, 2, 20, 4), rand(generator, 2, 4, 30)
    V[1], V[0, :5], V[0, :, 9] = 0, 0, 0
    W[:, 3:8, 1], H[:, 2, 10:20], H[:, 3] = 0, 0, 0
    w, h = factorise(V, W, H, beta=beta)
    assert torch.isfinite(w).all()
    assert torch.isfinite(h).all()
    assert (w[:, 3:8, 1] == 0).all()
    assert (h[:, 2, 10:20] == 0).all()
    assert (h[:, 3] == 0).all()
    assert ((w @ h)[1] < 1e-9).all()


@pytest.mark.parametrize(
    ("terms", "cost"),
    [
        (continuity_terms, lambda h: h.shape[-1] * (h.diff(dim=-1).square().sum(-1) / h.square().sum(-1)).sum()),
        (sparseness_terms, lambda h: (h.sum(-1) / h.square().mean(-1).sqrt()).sum()),
    ],
)
def test_penalties_have_the_slope_of_their_cost(terms, cost, generator):
    H = rand(generator, 2, 3, 25).requires_grad_()
    (slope,) = torch.autograd.grad(cost(H), H)
    plus, minus = terms(H.detach())
    assert (plus - minus - slope).abs().max() < 1e-12
    assert min(plus.min(), minus.min()) >= 0


def test_continuity_makes_activations_change_slowly(generator):
    V = rand(generator, 1, 30, 50) ** 4
    V = V / V.mean()
    changes = []
    for weight in (0.0, 1.0, 10.0):
        _, H = factorise(V, 4, continuity=weight)
        changes.append((H.diff(dim=-1).square().sum(-1) / H.square().sum(-1)).sum())
    assert changes[0] > 1.5 * changes[1] > 2 * changes[2]


def test_nmf_parts_a_chord_from_clicks():
    h, p = tones(), clicks()
    x = (h + p).view(1, 1, -1)
    harmonic, percussive = mss.load("nmf")(x)[0, :, 0]
    assert sdr(h, harmonic) > 25
    assert sdr(p, percussive) > 8.5


def melody(seed: int, low: int, high: int, name: str, seconds: float = 6.0) -> tuple[torch.Tensor, list[Note]]:
    """Notes of a quarter of a second of ten partials each, drawn between two MIDI numbers; peak 0.3; and its score."""
    rng, length = np.random.default_rng(seed), round(0.25 * 0.95 * RATE)
    x, t, notes = np.zeros(round(seconds * RATE)), np.arange(length) / RATE, []
    envelope = np.minimum(1, t / 0.01) * np.minimum(1, (t[-1] - t) / 0.03) * np.exp(-1.5 * t)
    for i in range(round(seconds / 0.25)):
        pitch = int(rng.integers(low, high))
        phases, f = rng.uniform(0, 2 * np.pi, 10), 440 * 2 ** ((pitch - 69) / 12)
        start = round(0.25 * i * RATE)
        x[start : start + length] += envelope * sum(
            np.sin(2 * np.pi * f * k * t + p) / k for k, p in enumerate(phases, 1)
        )
        notes.append(Note(name, pitch, 0.25 * i, 0.25 * (i + 0.95)))
    return torch.tensor(0.3 * x / np.abs(x).max(), dtype=torch.float32), notes


def separated(estimator, x: torch.Tensor) -> torch.Tensor:
    X = STFT(x.view(1, 1, -1))
    return STFT.inverse(softmask(estimator(X), X), x.shape[-1])[0, :, 0]


@pytest.fixture(scope="module")
def duet():
    """Two melodies (2, t), and the score."""
    (low, low_notes), (high, high_notes) = melody(21, 48, 60, "cello"), melody(22, 60, 72, "viola")
    return torch.stack([low, high]), low_notes + high_notes


@pytest.fixture(scope="module")
def trained():
    spectra = {
        "cello": STFT(melody(11, 48, 60, "")[0].view(1, 1, -1)),
        "viola": STFT(melody(12, 60, 72, "")[0].view(1, 1, -1)),
    }
    return DictionaryNMF.learn(spectra, components=24, iterations=60)


@pytest.fixture(scope="module")
def with_dictionaries(trained, duet):
    return [sdr(s, y) for s, y in zip(duet[0], separated(trained, duet[0].sum(0)), strict=True)]


def test_dictionaries_from_other_recordings_separate(trained, with_dictionaries, duet, tmp_path):
    mixed = [sdr(s, duet[0].sum(0)) for s in duet[0]]
    assert all(after > before + 3 for before, after in zip(mixed, with_dictionaries, strict=True))
    assert trained.targets == ("cello", "viola")
    separator = mss.SpectralSeparator(trained, trained.targets)
    mss.save(separator, tmp_path / "duet.safetensors")
    again = mss.load(str(tmp_path / "duet.safetensors"))
    x = duet[0].sum(0).view(1, 1, -1)[..., :RATE]
    assert torch.equal(again(x), separator(x))
    with pytest.raises(ValueError, match="use the same transform"):
        trained(mss.STFT(2048, 512)(x))


def test_free_spectra_take_what_has_no_dictionary(duet):
    X = STFT(duet[0][0].view(1, 1, -1))
    estimator = DictionaryNMF.learn({"cello": X}, "rest", components=24, free=12, iterations=60)
    y = separated(estimator, duet[0].sum(0))
    assert estimator.targets == ("cello", "rest")
    assert sdr(duet[0][0], y[0]) > 6
    assert sdr(duet[0][1], y[1]) > 6
    with pytest.raises(ValueError, match="belong together"):
        DictionaryNMF.learn({"cello": X}, "rest")
    with pytest.raises(ValueError, match="needs a dictionary"):
        DictionaryNMF(["rest"], free=3)


def test_a_score_separates_better_than_dictionaries(duet, with_dictionaries, tmp_path):
    pretty_midi = pytest.importorskip("pretty_midi")
    stems, notes = duet
    midi = pretty_midi.PrettyMIDI()
    for name in instruments(notes):
        track = pretty_midi.Instrument(42, name=name)
        track.notes = [pretty_midi.Note(90, n.pitch, n.onset, n.offset) for n in notes if n.instrument == name]
        midi.instruments.append(track)
    midi.instruments.append(pretty_midi.Instrument(0, is_drum=True, name="drums"))
    midi.instruments[-1].notes.append(pretty_midi.Note(90, 36, 0, 1))
    midi.write(str(tmp_path / "duet.mid"))
    read = read_score(tmp_path / "duet.mid")
    assert instruments(read) == ("cello", "viola")
    assert len(read) == len(notes)
    for ours, theirs in zip(read, sorted(notes, key=lambda n: (n.onset, n.pitch)), strict=True):
        assert (ours.instrument, ours.pitch) == (theirs.instrument, theirs.pitch)
        assert abs(ours.onset - theirs.onset) + abs(ours.offset - theirs.offset) < 0.01
    scores = [
        sdr(s, y) for s, y in zip(stems, separated(partial(score_informed, notes=read), stems.sum(0)), strict=True)
    ]
    assert scores[0] > 7
    assert scores[1] > 6.5
    assert all(score > other for score, other in zip(scores, with_dictionaries, strict=True))


def test_instruments_that_play_the_same_note_are_told_apart_by_its_time():
    x = torch.zeros(2, 3 * RATE)
    x[0, RATE // 4 : RATE], x[1, 2 * RATE : 11 * RATE // 4] = (tones(0.75) for _ in range(2))
    notes = [Note(name, p, t, t + 0.75) for name, t in (("cello", 0.25), ("viola", 2)) for p in (60, 64, 67)]
    y = separated(partial(score_informed, notes=notes), x.sum(0))
    assert min(sdr(*pair) for pair in zip(x, y, strict=True)) > 20


def test_a_score_is_part_of_a_spec(duet):
    stems, notes = duet
    estimator = partial(score_informed, notes=notes, rest=3, onsets=1, iterations=5)
    separator = mss.SpectralSeparator(estimator, [*instruments(notes), "rest"])
    x = stems.sum(0).view(1, 1, -1)
    assert torch.equal(build(spec(separator))(x), separator(x))


def test_bad_scores_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ends after it begins"):
        Note("cello", 60, 1, 1)
    with pytest.raises(ValueError, match="no notes"):
        score_informed(torch.zeros(1, 1, 9, 9, dtype=torch.complex64), notes=[])
    pytest.importorskip("pretty_midi")
    (tmp_path / "no.mid").write_bytes(b"not MIDI at all")
    with pytest.raises(ValueError, match="cannot be read as a MIDI file"):
        read_score(tmp_path / "no.mid")
    with pytest.raises(FileNotFoundError):
        read_score(tmp_path / "none.mid")


def deconvolved(W, H):
    """Its definition: a sum over delays; for one channel."""
    Y = torch.zeros(len(W), W.shape[1], H.shape[-1], dtype=W.dtype)
    for t in range(W.shape[-1]):
        Y[..., t:] += W[..., t] @ H[:, :, 0, : H.shape[-1] - t]
    return Y


def test_shifted_activations_are_a_convolution(generator):
    W, H = rand(generator, 2, 12, 3, 5), rand(generator, 2, 3, 1, 20)
    by_shifts = W.flatten(2) @ shifts(H, 5).flatten(3).flatten(1, 2)
    assert torch.allclose(by_shifts, deconvolved(W, H), atol=1e-14)
    for w, h, y in zip(W, H, by_shifts, strict=True):
        padded = torch.nn.functional.pad(h.movedim(1, 0), (4, 0))
        assert torch.allclose(torch.conv1d(padded, w.flip(-1))[0], y, atol=1e-14)


def test_deconvolution_never_raises_the_divergence_and_keeps_what_is_fixed(generator):
    V, W, H = rand(generator, 2, 12, 1, 30), rand(generator, 2, 12, 3, 5), rand(generator, 2, 3, 1, 30)
    first, costs = W[:, :, :1].clone(), []
    for _ in range(50):
        Y = deconvolved(W, H)
        costs.append((V[:, :, 0] * (V[:, :, 0] / Y).log() - V[:, :, 0] + Y).sum((1, 2)))
        W, H = deconvolve(V, W, H, iterations=1, fixed=1)
    assert all((after <= before * (1 + 1e-12)).all() for before, after in pairwise(costs))
    assert (costs[-1] < 0.7 * costs[0]).all()
    assert torch.equal(W[:, :, :1], first)


def test_activations_take_the_step_that_the_slopes_say(generator):
    V, W, H = rand(generator, 2, 12, 1, 30), rand(generator, 2, 12, 3, 5), rand(generator, 2, 3, 1, 30).requires_grad_()
    Y = deconvolved(W, H)
    (up,) = torch.autograd.grad((V[:, :, 0] * Y.log()).sum(), H, retain_graph=True)
    (down,) = torch.autograd.grad(Y.sum(), H)
    _, after = deconvolve(V, W, H.detach(), iterations=1, fixed=3)
    assert torch.allclose(after, H.detach() * up / down, atol=1e-8)


def test_planted_hits_are_found(generator):
    """Three sounds of eight frames, each in bins of its own and in those of the others, hit at random."""
    f, k, T = 60, 200, 8
    hits = torch.rand(3, k, generator=generator) < torch.tensor([[0.06], [0.04], [0.1]])
    centre, decay = torch.tensor([8.0, 25.0, 48.0]), torch.tensor([2.5, 2.0, 1.2])
    bins, t = torch.arange(f).view(-1, 1, 1), torch.arange(T)
    W = torch.exp(-(((bins - centre.view(-1, 1)) / 7) ** 2)) * torch.exp(-t / decay.view(-1, 1)) + 0.01
    W = W * (0.5 + torch.rand(f, 3, T, generator=generator))
    H = hits.float()
    planted = torch.stack([deconvolved(W[None, :, i : i + 1], H[None, i : i + 1, None])[0] for i in range(3)])
    V = nmfd(planted.sum(0)[None, None].to(torch.complex64), length=T)
    assert V.shape == (1, 3, 1, f, k)
    for i in range(3):
        assert sdr(planted[i], V[0, i, 0]) > 12
        flux = V[0, i, 0].sum(0).diff(prepend=torch.zeros(1)).clamp_min(0)
        found, true = flux > 0.4 * flux.max(), hits[i]
        assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.95


def test_drums_are_better_than_percussion(excerpt):
    """Of real music: what is kept of the drums, in dB, beats that of a median filter and of the mixture."""
    X = STFT(excerpt["mixture"][None])
    length = excerpt["mixture"].shape[-1]
    drums = STFT.inverse(softmask(drum_nmf(X), X), length)[0, 0]
    percussive = STFT.inverse(softmask(hpss(X), X), length)[0, 1]
    reference = excerpt["drums"]
    assert sdr(reference, drums) > sdr(reference, percussive) + 1
    assert sdr(reference, drums) > sdr(reference, excerpt["mixture"]) + 1


def test_drum_templates_are_where_drums_are():
    W = drum_templates(2049)
    assert torch.allclose(W.sum(0), torch.ones(W.shape[1], dtype=torch.float64))
    frequency = torch.linspace(0, RATE / 2, 2049)
    assert 40 < frequency[W[:, 0].argmax()] < 70
    assert frequency[W[:, -1].argmax()] > 10000
    half = drum_templates(1025, 22050)  # the same bins in Hz, the lower half of them
    ratio = half[50:900, 0] / W[50:900, 0]
    assert torch.allclose(ratio, ratio[:1].expand(850))
