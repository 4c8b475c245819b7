"""mss.oracle: closed forms, the campaign's formulae written out in numpy and scipy, invariants, order on real music."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import istft, stft

from mss.audio import read_stems
from mss.metrics import si_sdr
from mss.oracle import ORACLES, oracle
from mss.separator import Separator, context_of

from .conftest import ROOT, sdr

TARGETS = ("drums", "bass", "other", "vocals")
CONSERVATIVE = ("IBM", "IRM1", "IRM2", "MWF", "MIX")
MUSDB7 = Path(os.environ.get("MSS_DATA", ROOT.parent / "shared")) / "musdb7" / "test"
every = pytest.mark.parametrize("name", ORACLES)


@pytest.fixture(scope="module")
def stems(excerpt):
    """Two seconds of four stems, (1, 4, 2, t)."""
    return torch.stack([excerpt[name] for name in TARGETS])[None, ..., 44100 : 3 * 44100]


@every
def test_is_a_separator(name, stems):
    separator, mixture = oracle(name, stems, TARGETS), stems.sum(1)
    before = stems.clone(), mixture.clone()
    y = separator(mixture)
    assert isinstance(separator, Separator)
    assert separator.targets == TARGETS
    assert context_of(separator) is None  # it cannot be cut in pieces
    assert y.shape == stems.shape
    assert y.dtype == stems.dtype
    assert torch.isfinite(y).all()
    assert torch.equal(stems, before[0])
    assert torch.equal(mixture, before[1])
    if name in CONSERVATIVE:
        assert (y.sum(1) - mixture).abs().max() < 1e-5


@every
@pytest.mark.parametrize("scale", [1e-4, 100, -1])
def test_level_and_polarity(name, scale, stems):
    y = oracle(name, scale * stems, TARGETS)(scale * stems.sum(1))
    assert sdr(oracle(name, stems, TARGETS)(stems.sum(1)), y / scale) > 60


@every
def test_a_batch_is_the_same_as_one_by_one(name, stems):
    batch = torch.cat([stems, torch.zeros_like(stems), 0.1 * stems.flip(-1)])
    y = oracle(name, batch, TARGETS)(batch.sum(1))
    for i in range(3):
        assert torch.allclose(y[i : i + 1], oracle(name, batch[i : i + 1], TARGETS)(batch[i : i + 1].sum(1)), atol=1e-5)
    assert not y[1].any()


@every
def test_a_silent_stem_is_silent(name, stems):
    stems = stems.clone()
    stems[:, 2] = 0
    y = oracle(name, stems, TARGETS)(stems.sum(1))
    assert torch.isfinite(y).all()
    if name != "MIX":
        assert y[:, 2].abs().max() < 1e-5


@every
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels_and_precision(name, channels, stems):
    stems = torch.cat([stems, 0.5 * stems.roll(7, -1)], 2)[:, :, :channels, :20000].double()
    y = oracle(name, stems, TARGETS)(stems.sum(1))
    assert y.shape == stems.shape
    assert y.dtype == torch.float64


def scipys(mixture: torch.Tensor, stems: torch.Tensor, masks) -> torch.Tensor:
    """Masks (Y, X) -> M (n, c, f, k) put to work by scipy's STFT; mixture (c, t), stems (n, c, t), float64."""
    X, Y = (stft(x.numpy(), nperseg=2048)[-1] for x in (mixture, stems))
    return torch.from_numpy(istft(masks(Y, X) * X)[1][..., : mixture.shape[-1]])


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("IBM1", lambda Y, X: abs(Y) / abs(X) >= 0.5),
        ("IBM2", lambda Y, X: abs(Y) ** 2 / abs(X) ** 2 >= 0.5),
        ("IRM1", lambda Y, X: abs(Y) / abs(Y).sum(0)),
        ("IRM2", lambda Y, X: abs(Y) ** 2 / (abs(Y) ** 2).sum(0)),
    ],
)
def test_masks_are_those_of_the_campaign(name, masks, stems, generator):
    noise = 1e-6 * torch.randn(stems.shape, generator=generator, dtype=torch.float64)
    stems = (stems.double() + noise)[..., : 43 * 2048]  # whole frames: scipy pads others
    expected = scipys(stems.sum(1)[0], stems[0], masks)
    assert sdr(expected, oracle(name, stems, TARGETS)(stems.sum(1))[0]) > 100


def test_wiener_is_that_of_the_campaign(stems, generator):
    """With its formula bin by bin, inverted by numpy, and its epsilons as relative ones."""
    stems = stems.double()[..., : 10 * 2048] + 1e-3 * torch.randn(1, 4, 2, 20480, generator=generator).double()
    mixture = stems.sum(1)
    X, Y = (stft(x[0].numpy(), nperseg=2048)[-1] for x in (mixture, stems))
    Z = np.zeros_like(Y)
    for f in range(X.shape[1]):
        y = Y[:, :, f]  # (n, c, k)
        C = np.einsum("nck,ndk->nkcd", y, y.conj())
        R = (C / (abs(y) ** 2).mean(1)[..., None, None]).mean(1)
        R = R * 2 / np.trace(R, axis1=1, axis2=2).real[:, None, None] + 1e-10 * np.eye(2)
        v = np.einsum("ncd,nkdc->nk", np.linalg.inv(R), C).real / 2
        S = np.einsum("nk,ncd->nkcd", v, R)
        Z[:, :, f] = np.einsum("nkcd,kde,ek->nck", S, np.linalg.inv(S.sum(0)), X[:, f])
    expected = torch.from_numpy(istft(Z)[1][..., : mixture.shape[-1]])
    assert sdr(expected, oracle("MWF", stems, TARGETS)(mixture)[0]) > 100


def test_wiener_separates_two_panned_sources_exactly(generator):
    s = torch.randn(2, 1, 30000, generator=generator, dtype=torch.float64)
    pan = torch.tensor([[0.9, 0.3], [0.4, 0.8]], dtype=torch.float64)
    stems = (s * pan[..., None])[None]  # as many channels as sources: the mixing can be undone
    assert sdr(stems, oracle("MWF", stems, ("a", "b"))(stems.sum(1))) > 80
    assert sdr(stems, oracle("IRM2", stems, ("a", "b"))(stems.sum(1))) < 20


def test_wiener_of_one_channel_is_the_power_ratio_mask(stems):
    stems = stems[:, :, :1].double()
    y, expected = (oracle(name, stems, TARGETS)(stems.sum(1)) for name in ("MWF", "IRM2"))
    assert torch.allclose(y, expected, atol=1e-9)


def test_unprocessed_is_the_mixture_shared(stems):
    mixture = stems.sum(1)
    y = oracle("MIX", stems, TARGETS)(mixture)
    assert torch.allclose(y, (mixture / 4)[:, None].expand_as(y), atol=1e-6)
    assert torch.allclose(si_sdr(stems, y), si_sdr(stems, mixture[:, None].expand_as(y)), atol=1e-3)


@every
def test_sums_add_up_the_estimates(name, stems):
    mixture = stems.sum(1)
    four = oracle(name, stems, TARGETS)(mixture)
    two = oracle(name, stems, TARGETS, sums={"accompaniment": TARGETS[:3]})
    assert two.targets == ("vocals", "accompaniment")
    assert torch.allclose(two(mixture), torch.stack([four[:, 3], four[:, :3].sum(1)], 1), atol=1e-5)


def test_refuses_what_is_not_its_track(stems):
    mixture = stems.sum(1)
    separator = oracle("IRM1", stems, TARGETS)
    for other in (mixture[..., :-5000], mixture[:, :1], torch.cat([mixture, mixture])):
        with pytest.raises(ValueError, match="mixture of its references"):
            separator(other)
    with pytest.raises(ValueError, match="IRM2"):
        oracle("IRM3", stems, TARGETS)
    with pytest.raises(ValueError, match="one for each of"):
        oracle("IRM1", stems, TARGETS[:3])
    with pytest.raises(ValueError, match="cannot sum piano"):
        oracle("IRM1", stems, TARGETS, sums={"accompaniment": ("piano",)})


def test_order_and_levels_of_sisec_2018_on_real_music():
    """Average SDR of four stems, and of the accompaniment; rough levels: other songs, and seven seconds of each."""
    if not MUSDB7.is_dir():
        pytest.skip("no musdb7: set MSS_DATA")
    published = {"MIX": 1.07, "IBM1": 6.46, "IBM2": 6.60, "IRM1": 7.24, "MWF": 7.88, "IRM2": 8.22}
    four, two = {name: [] for name in published}, {name: [] for name in published}
    for path in sorted(MUSDB7.glob("*.mp4")):
        streams = (read_stems(path)[0] * 32768).round() / 32768
        mixture, stems = streams[:1], streams[None, 1:]
        accompaniment = stems[0, :3].sum(0)
        for name in published:
            y = oracle(name, stems, TARGETS)(mixture)[0]
            four[name].append(bss_sdr(stems[0], y))
            two[name].append(
                10 * (accompaniment.square().sum() / (accompaniment - y[:3].sum(0)).square().sum()).log10()
            )
    average = {name: float(torch.stack(rows).quantile(0.5, 0).mean()) for name, rows in four.items()}
    assert average["MIX"] < average["IBM1"] < average["IBM2"] < average["IRM1"] < min(average["IRM2"], average["MWF"])
    for name, level in published.items():
        assert abs(average[name] - level) < 1, (name, average[name], level)
    acc = {name: float(torch.stack(rows).median()) for name, rows in two.items()}
    assert acc["MIX"] < acc["IBM2"] < acc["IBM1"] < acc["IRM1"] < acc["MWF"] < acc["IRM2"]  # as in the campaign


def bss_sdr(stems: torch.Tensor, estimates: torch.Tensor) -> torch.Tensor:
    """Median over frames of one second of the SDR, (n,): without filters, which do not enter it, so a hundred times faster."""
    frames = (x.unfold(-1, 44100, 44100) for x in (stems, estimates))  # (n, c, frames, 44100)
    s, y = frames
    ratio = 10 * (s.square().sum((1, 3)) / (s - y).square().sum((1, 3))).log10()
    silent = (~(s.sum(1).any(-1) & y.sum(1).any(-1))).any(0)
    return ratio[:, ~silent].quantile(0.5, 1).double()
