"""The network that corrects the low end of what a separator gave, and the wrapper that adds its corrections."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import mss
from mss.audio import resample
from mss.filters import as_is, softmask
from mss.nets import LowEnd
from mss.wrappers import stream

RATE = 8000
NAMES = ("one", "two")
FIRST = mss.STFT(n_fft=256, hop=64)
FINER = mss.STFT(n_fft=1024, hop=256)


class Halves(nn.Module):
    """Gives each of two targets its share of the mixture, which it may learn."""

    context = 0

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))
        self.drop = nn.Dropout(0.5)

    def forward(self, X):
        return torch.stack([self.share * self.drop(X.abs()), (1 - self.share) * X.abs()], 1)


def low_end(**options):
    torch.manual_seed(0)
    options = {"bins": 513, "low": 40, "hidden": 16, "dilations": (1, 2), "maps": 4} | options
    return LowEnd(2, **options)


def taught(network):
    """One whose last layers do something."""
    for last in network.move:
        nn.init.normal_(last.weight, std=0.1)
        nn.init.normal_(last.bias, std=0.1)
    return network.eval()


def corrected(network=None, first=None):
    first = first or mss.SpectralSeparator(Halves(), NAMES, sample_rate=RATE, transform=FIRST, filter=partial(softmask))
    network = taught(low_end()) if network is None else network
    then = mss.SpectralSeparator(network, NAMES, sample_rate=RATE, transform=FINER, filter=as_is)
    return mss.Corrected(first, then).eval()


def noise(seconds=1.0, channels=1, batch=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, round(RATE * seconds), generator=generator)


@torch.inference_mode()
def test_untaught_it_changes_nothing():
    x = noise(channels=2)
    model = corrected(low_end().eval())
    assert torch.equal(model(x), model.first(x))


@torch.inference_mode()
def test_corrections_take_from_one_what_they_give_another_and_only_at_the_low_end():
    x = noise(2.0)
    model = corrected()
    estimates, changed = model.first(x), model(x)
    moved = changed - estimates
    assert float(moved.abs().max()) > 0.01
    torch.testing.assert_close(changed.sum(1), estimates.sum(1), atol=1e-5, rtol=0)
    spectrum = torch.fft.rfft(moved[0, 0, 0] * torch.hann_window(x.shape[-1])).abs()
    bound = round(40 / 1024 * x.shape[-1])
    assert float(spectrum[bound + 20 :].max()) < 0.02 * float(spectrum[:bound].max())


@torch.inference_mode()
def test_every_channel_is_corrected_by_itself():
    x = noise(channels=2, batch=2)
    model = corrected()
    together = model(x)
    for channel in (0, 1):
        torch.testing.assert_close(together[:, :, channel : channel + 1], model(x[:, channel : channel + 1]))


@torch.inference_mode()
def test_mid_and_side_are_corrected_too():
    x = noise(channels=2, batch=2)
    one, both = corrected(), corrected()
    both.mid_side = True
    turned = torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], 1) / 2
    estimates = both.first(x)
    own, other = (one(y) - one.first(y) for y in (x, turned))
    back = torch.stack([other[:, :, 0] + other[:, :, 1], other[:, :, 0] - other[:, :, 1]], 2)
    torch.testing.assert_close(both(x), estimates + (own + back) / 2, atol=1e-5, rtol=0)
    assert float((own - back).abs().max()) > 1e-3
    mono = x[:, :1]
    torch.testing.assert_close(both(mono), one(mono))


@pytest.mark.parametrize("mid_side", [False, True])
@torch.inference_mode()
def test_blocks_give_what_the_whole_gives(mid_side):
    x = noise(7.3, channels=2)
    model = corrected()
    model.mid_side = mid_side
    blocks = torch.cat(list(stream(model, x.split(5000, -1))), -1)
    torch.testing.assert_close(blocks, model(x), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_it_looks_no_further_than_it_says():
    x = noise(6.0)
    model = corrected()
    assert model.context == pytest.approx(model.first.context + model.then.context)
    other = x.clone()
    start = 3 * RATE
    other[..., start:] = 0
    near, far = (round(start - seconds * RATE) for seconds in (0.01, model.context))
    change = (model(other) - model(x)).abs().amax((0, 1, 2))
    assert float(change[:far].max()) < 1e-5
    assert float(change[near:start].max()) > 1e-3


@torch.inference_mode()
def test_runs_on_the_meta_device():
    Z = FINER(noise(channels=2)).to("meta")
    assert low_end().to("meta")(Z).shape == (1, 2, 1, *Z.shape[2:])


def test_a_first_that_is_not_trained_computes_as_in_use():
    model = corrected(low_end())
    model.first.requires_grad_(False)
    model.train()
    assert not model.first.training
    assert model.then.training
    x = noise()
    torch.testing.assert_close(model(x), model.first(x))  # no dropout
    (model(x)[:, 0] * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert model.first.estimator.share.grad is None
    assert float(model.then.estimator.move[0].bias.grad.abs().max()) > 0

    model.first.requires_grad_(True)
    model.train()
    assert model.first.training
    model(x).square().sum().backward()
    assert model.first.estimator.share.grad is not None


def test_it_learns_to_tell_tones_that_short_windows_do_not():
    """125 and 140 Hz, in windows of 31 Hz: the first gives each half of both; the second sees bins of 8 Hz."""
    times = torch.arange(2 * RATE) / RATE
    generator = torch.Generator().manual_seed(0)
    model = corrected(low_end(hidden=32, dropout=0.0, maps=8))
    model.first.requires_grad_(False)
    model.train()

    def tones(count):
        phases = 2 * math.pi * torch.rand(count, 2, 1, generator=generator)
        loud = 0.5 + torch.rand(count, 2, 1, generator=generator)
        return loud * torch.sin(2 * math.pi * torch.tensor([125.0, 140.0])[:, None] * times + phases)

    def sdr(stems):
        error = stems - model(stems.sum(1, keepdim=True)).squeeze(2)
        return 10 * (stems.square().sum(-1) / error.square().sum(-1)).log10()

    optimizer = torch.optim.Adam(model.then.parameters(), 3e-3)
    for _ in range(60):
        loss = -sdr(tones(4)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        stems = tones(8)
        before = stems - model.first(stems.sum(1, keepdim=True)).squeeze(2)
        assert float(10 * (stems.square().sum() / before.square().sum()).log10()) < 4
        assert float(sdr(stems).mean()) > 12


@torch.inference_mode()
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        LowEnd(1, bins=513, low=40)
    with pytest.raises(ValueError, match="bins = 513"):
        LowEnd(2, bins=513, low=514)
    with pytest.raises(ValueError, match="maps"):
        LowEnd(2, bins=513, low=40, maps=1)
    with pytest.raises(ValueError, match="2 estimates of 513 bins"):
        low_end()(FINER(noise(channels=3)))
    with pytest.raises(ValueError, match="2 estimates of 513 bins"):
        next(low_end().stream([mss.STFT(2048, 512)(noise(channels=2))]))
    first = mss.SpectralSeparator(Halves(), ("a", "b"), sample_rate=RATE, transform=FIRST)
    with pytest.raises(ValueError, match="corrections of one, two are not of a, b"):
        corrected(first=first)
    slower = mss.SpectralSeparator(Halves(), NAMES, sample_rate=RATE // 2, transform=FIRST)
    with pytest.raises(ValueError, match="one rate"):
        corrected(first=slower)


@torch.inference_mode()
def test_at_a_lower_rate_its_corrections_are_those_of_the_low_end():
    """Inside `Resampled`: what a tone of 100 Hz is worth at 8000 and at 1000 samples a second is the same."""
    times = torch.arange(4 * RATE) / RATE
    x = torch.sin(2 * math.pi * 100 * times)[None, None]
    network = taught(low_end(bins=129, low=100))
    slow = mss.SpectralSeparator(network, NAMES, sample_rate=1000, transform=mss.STFT(256, 32), filter=as_is)
    first = mss.SpectralSeparator(Halves(), NAMES, sample_rate=RATE, transform=FIRST, filter=partial(softmask))
    model = mss.Corrected(first.eval(), mss.Resampled(slow, RATE)).eval()
    moved = model(x) - first(x)
    inside = slow(first(x)[:, :, 0, ::8])  # a tone needs no filter
    middle = slice(RATE // 8, 3 * RATE // 8)
    most = float(inside[..., middle].abs().max())
    assert most > 0.05
    torch.testing.assert_close(
        moved[..., ::8][..., middle], inside[..., middle], atol=most / 12, rtol=0
    )  # a sample late is 60 %
    blocks = torch.cat(list(stream(model, x.split(3000, -1))), -1)
    torch.testing.assert_close(blocks, model(x), atol=1e-5, rtol=0)


def test_mixed_precision_leaves_the_filters_of_resampling_alone():
    x = noise()
    with torch.autocast("cpu", torch.bfloat16):
        inside = resample(x, RATE, 1000)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, resample(x, RATE, 1000))
