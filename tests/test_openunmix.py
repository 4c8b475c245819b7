"""Open-Unmix: with equal weights the same network, the same separator and the same training step as the published package."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from openunmix.model import OpenUnmix
from openunmix.model import Separator as Theirs
from openunmix.transforms import ComplexNorm, TorchSTFT
from sklearn.preprocessing import StandardScaler

import mss
from mss import SpectralSeparator
from mss.filters import mixture_phase, wiener
from mss.nets import BLSTM, Magnitudes
from mss.training.losses import magnitude_mse
from mss.training.step import Step
from mss.transforms import STFT

TARGETS = ("vocals", "drums", "bass", "other")
N_FFT, HOP, MAX_BIN = 512, 128, 190


def pair(*, hidden=16, causal=False, seed=0, layers=3):
    """Their network with random weights and statistics, and ours with the same, both in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = OpenUnmix(N_FFT // 2 + 1, 2, hidden, layers, causal, max_bin=MAX_BIN).double().eval()
        with torch.no_grad():
            for p in theirs.parameters():
                p.add_(0.05 * torch.randn_like(p))
            for name, buffer in theirs.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(0, 0.1)
                if name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
    ours = BLSTM(N_FFT // 2 + 1, hidden=hidden, layers=layers, causal=causal, max_bin=MAX_BIN).double().eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_network(causal, training, generator):
    theirs, ours = pair(causal=causal)
    theirs.train(training)
    ours.train(training)
    magnitude = 5 * torch.rand(3, 2, N_FFT // 2 + 1, 33, dtype=torch.float64, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)  # dropout
        expected = theirs(magnitude)
        torch.manual_seed(1)
        V = ours(magnitude)
    assert expected.max() > 1
    assert torch.allclose(V, expected, atol=1e-11)
    for (name, theirs_buffer), ours_buffer in zip(theirs.named_buffers(), ours.buffers(), strict=True):
        assert torch.allclose(ours_buffer, theirs_buffer, atol=1e-12), name


def test_network_in_single_precision(generator):
    theirs, ours = (net.float() for net in pair())
    magnitude = torch.rand(1, 2, N_FFT // 2 + 1, 33, generator=generator)
    with torch.no_grad():
        assert torch.allclose(ours(magnitude), theirs(magnitude), atol=1e-6)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_separator(iterations, residual, excerpt):
    """On a second of music, which is two windows of their filter; loud, because quiet windows are not scaled there."""
    mixture = 4 * excerpt["mixture"][None, :, 88200:133333].double()
    pairs = [pair(seed=seed) for seed in range(4)]
    networks = {name: theirs for name, (theirs, _) in zip(TARGETS, pairs, strict=True)}
    theirs = Theirs(networks, iterations, residual=residual, n_fft=N_FFT, n_hop=HOP).double().eval()
    ours = SpectralSeparator(
        Magnitudes([ours for _, ours in pairs]),
        (*TARGETS, "residual") if residual else TARGETS,
        transform=STFT(N_FFT, HOP, padding="reflect"),
        filter=partial(wiener, iterations=iterations, start="mixture_phase", residual=residual, eps=1e-10, window=300),
    ).eval()
    whole = ours(mixture)
    with torch.inference_mode():
        expected = theirs(mixture)
        assert expected.abs().max() > 0.1
        assert (whole - expected).abs().max() < 1e-5
        assert (ours(mixture) - whole).abs().max() < 1e-12  # in blocks of frames
        streamed = torch.cat(list(mss.stream(ours, mixture.split(10011, -1))), -1)
    assert (streamed - whole).abs().max() < 1e-12


def test_windows_of_the_filter_are_filtered_each_on_its_own(generator):
    X = torch.view_as_complex(torch.randn(1, 2, 5, 23, 2, generator=generator, dtype=torch.float64))
    V = torch.rand(1, 3, 2, 5, 23, generator=generator, dtype=torch.float64)
    Y = wiener(V, X, 2, window=10, eps=1e-10)
    for part in (slice(0, 10), slice(10, 20), slice(20, 23)):
        assert torch.equal(Y[..., part], wiener(V[..., part], X[..., part], 2, eps=1e-10))
    assert not torch.allclose(Y, wiener(V, X, 2, eps=1e-10))
    with pytest.raises(ValueError, match="window: expected a number of frames or None, got 0"):
        wiener(V, X, window=0)


def test_training_step(excerpt):
    """Their loss on uncentred frames, Adam with its weight decay: the same loss and the same weights after it."""
    theirs, ours = pair(layers=2)
    cut = [excerpt[name][:, 44100 * i : 44100 * i + 30001] for i in range(3) for name in ("mixture", "vocals")]
    x, y = torch.stack(cut[::2]).double(), torch.stack(cut[1::2]).double()
    separator = SpectralSeparator(Magnitudes([ours]), ["vocals"], transform=STFT(N_FFT, HOP), filter=mixture_phase)

    encoder = torch.nn.Sequential(TorchSTFT(N_FFT, HOP).double(), ComplexNorm())
    losses = []
    for network, loss in (
        (theirs, lambda: F.mse_loss(theirs(encoder(x)), encoder(y))),
        (ours, lambda: magnitude_mse(Step(separator, y.unsqueeze(1), x))),
    ):
        network.train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-5)
        with torch.random.fork_rng():
            torch.manual_seed(3)  # dropout
            losses.append(loss())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.01
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    before = dict(pair(layers=2)[1].named_parameters())
    for (name, p), q in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert (p - before[name]).abs().max() > 1e-5, name  # it moved
        assert (p - q).abs().max() < 1e-6, name


def test_statistics_of_the_input(excerpt):
    """Those of their `get_statistics`: scikit-learn's scaler, track by track, on the mean of the channels' magnitudes."""
    transform, scaler = STFT(N_FFT, HOP), StandardScaler()
    tracks = [
        excerpt[name][None, :, :length] for name, length in (("drums", 50000), ("mixture", 90000), ("bass", 3000))
    ]
    for track in tracks:
        scaler.partial_fit(transform(track).abs().mean(1)[0].T.double().numpy())
    std = torch.from_numpy(scaler.scale_).clamp_min(1e-4 * scaler.scale_.max())
    networks = [BLSTM(N_FFT // 2 + 1, hidden=4, max_bin=MAX_BIN).double() for _ in range(2)]
    Magnitudes(networks).fit_input(transform(track) for track in tracks)  # can be read once
    for network in networks:
        assert torch.allclose(network.input_mean, -torch.from_numpy(scaler.mean_)[:MAX_BIN], rtol=1e-6)
        assert torch.allclose(network.input_scale, 1 / std[:MAX_BIN], rtol=1e-6)
