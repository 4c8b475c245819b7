"""The network that starts from the masks of a method without training."""

from functools import partial

import pytest
import torch

import mss
from mss.filters import ratio_mask
from mss.nets import GuidedTCN
from mss.nets.blocks import HALF, KERNEL, LEAST_MAGNITUDE, DilatedBlocks, convolutions
from mss.nets.guided import LEAST_SHARE, band_matrices, band_starts

GUIDE = partial(mss.classical.rhythm_section, time_kernel=5, frequency_kernel=5)
TRANSFORM = mss.STFT(n_fft=512, hop=128)


def network(**options):
    torch.manual_seed(0)
    return GuidedTCN(GUIDE, 3, **{"bins": 257, "hidden": 16, "dilations": (1, 2)} | options).eval()


def taught(**options):
    """One whose last layer does something."""
    net = network(**options)
    with torch.no_grad():
        net.decode[-1].weight.normal_(std=0.3)
        net.decode[-1].bias.normal_(std=0.3)
        if net.maps:
            net.join[-1].weight.normal_(std=0.1)
    return net


def spectrum(seconds=1.0, channels=1, batch=1):
    generator = torch.Generator().manual_seed(1)
    return TRANSFORM(torch.randn(batch, channels, round(44100 * seconds), generator=generator))


@torch.inference_mode()
@pytest.mark.parametrize("maps", [0, 4])
def test_runs_on_the_meta_device(maps):
    X = spectrum().to("meta")
    assert network(maps=maps).to("meta")(X).shape == (1, 3, *X.shape[1:])


@torch.inference_mode()
@pytest.mark.parametrize("maps", [0, 4])
def test_untaught_it_is_its_guide(maps):
    X = spectrum(batch=2)
    expected = ratio_mask(GUIDE(X)).clamp_min(LEAST_SHARE)
    expected = expected / expected.sum(1, keepdim=True) * X.abs().unsqueeze(1)
    torch.testing.assert_close(network(maps=maps)(X), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("maps", [0, 4])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("max_bin", [None, 100])
def test_targets_add_up_to_the_mixture(channels, maps, max_bin):
    options = {"channels": channels, "maps": maps, "max_bin": max_bin}
    X = spectrum(channels=channels, batch=2)
    V = taught(**options)(X)
    assert V.shape == (2, 3, *X.shape[1:])
    assert bool((V >= 0).all())
    torch.testing.assert_close(V.sum(1), X.abs(), atol=1e-4, rtol=1e-4)
    assert float((V - network(**options)(X)).abs().max()) > 0.1


@torch.inference_mode()
@pytest.mark.parametrize(("maps", "context"), [(0, 2 + 3), (4, 2 + 3 + 6)])  # half of the median, dilations, maps
def test_no_frame_beyond_its_context_is_seen_and_one_at_its_end_is(maps, context):
    net = taught(maps=maps).double()
    assert net.context == context
    X = spectrum().to(torch.complex128)
    frame = X.shape[-1] // 2
    for distance, seen in ((net.context, True), (net.context + 1, False)):
        changed = X.clone()
        changed[..., frame + distance] *= 30
        moved = float((net(changed) - net(X))[..., frame].abs().max())
        assert (moved > 1e-9) == seen, (distance, moved)


@torch.inference_mode()
@pytest.mark.parametrize("maps", [0, 4])
def test_a_song_in_blocks_is_the_song_at_once(maps):
    separator = mss.SpectralSeparator(taught(maps=maps), ("drums", "bass", "other"), transform=TRANSFORM)
    separator.BLOCK = 20
    song = torch.randn(1, 1, 3 * 44100, generator=torch.Generator().manual_seed(2))
    whole = separator(song)
    blocks = torch.cat(list(mss.wrappers.stream(separator, song.split(10007, -1))), -1)
    torch.testing.assert_close(blocks, whole, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("sizes", [(40,), (20, 20), (3, 1, 30, 2, 4), (1,) * 40])
def test_layers_over_time_take_a_song_in_blocks_of_any_length(sizes):
    """Shorter ones than their dilations, too."""
    torch.manual_seed(3)
    layers = DilatedBlocks(4, (1, 2, 4, 1), 0.5).double().eval()
    for module in layers.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, sum(sizes), dtype=torch.float64)
    number = torch.arange(x.shape[-1])
    parts = list(layers.beside(zip(number.split(sizes), x.split(sizes, -1), strict=True)))
    assert [part[0].tolist() for part in parts] == [part.tolist() for part in number.split(sizes)]
    torch.testing.assert_close(torch.cat([part[1] for part in parts], -1), x)
    torch.testing.assert_close(torch.cat([part[2] for part in parts], -1), layers(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolutions_in_use_are_those_in_training_without_their_normalisation(dtype):
    torch.manual_seed(4)
    layers = convolutions(3, 5, 4).append(torch.nn.Conv2d(4, 2, KERNEL, padding=HALF)).to(dtype).eval()
    for module in layers.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
            module.bias.data.normal_()
    x = torch.randn(2, 3, 11, 13, dtype=dtype)
    expected = x
    for layer in layers:
        expected = layer(expected)
    kept = x.clone()
    with torch.inference_mode():
        torch.testing.assert_close(layers(x), expected.detach())
    assert torch.equal(x, kept)
    torch.testing.assert_close(layers(x), expected)


@pytest.mark.parametrize("channels", [1, 2])
def test_compiled_masks_and_means_are_those_of_the_equations(channels):
    net = network(channels=channels, maps=4, max_bin=100)
    net.input_mean.uniform_(1, 2)
    net.input_scale.uniform_(1, 2)
    magnitude = spectrum(channels=channels, batch=2).abs()
    magnitude[..., 3:5] = 0

    def guide(x):  # sums to something else, and where it is quiet to 0
        return GUIDE(x.sqrt()) * (x > 2 * LEAST_MAGNITUDE).unsqueeze(1)

    net.guide = guide
    ours = net._known(magnitude)
    theirs = net.double()._known(magnitude.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.float(), atol=1e-5, rtol=1e-5)
    assert float(ours[1].min()) == pytest.approx(LEAST_SHARE)


@torch.inference_mode()
def test_rounding_where_a_codec_has_cut_a_song_off_moves_nothing():
    X = spectrum()
    X[:, :, 180:] = 0
    generator = torch.Generator().manual_seed(6)
    one, other = (X + 1e-5 * torch.randn(X.shape, generator=generator) for _ in range(2))
    net = taught()
    assert float((net(one) - net(other)).abs().max()) < 1e-3, "of magnitudes of 10"


def test_bands_are_bins_at_the_bottom_and_fractions_of_an_octave_above():
    starts = band_starts(2049, 24)
    widths = [b - a for a, b in zip(starts, [*starts[1:], 2049], strict=True)]
    assert starts[0] == 0
    assert set(widths[:40]) == {1}
    assert all(w >= 1 for w in widths)
    inside = [i for i, start in enumerate(starts) if 400 <= start < 800]
    assert abs(len(inside) - 24) <= 1  # an octave


def test_bands_give_a_mean_and_straight_lines():
    starts = band_starts(257, 6)
    pool, spread = band_matrices(starts, 257)
    torch.testing.assert_close(pool @ torch.ones(257, 1), torch.ones(len(starts), 1))
    ramp = torch.arange(257.0)
    centres = pool @ ramp
    torch.testing.assert_close(spread @ torch.ones(len(starts)), torch.ones(257))
    inside = slice(int(centres[0]), int(centres[-1]) + 1)
    torch.testing.assert_close((spread @ centres)[inside], ramp[inside])
    last = ramp > centres[-1]
    torch.testing.assert_close((spread @ centres)[last], centres[-1].expand(int(last.sum())))


def test_input_is_scaled_by_its_own_mean_and_deviation():
    net = network(max_bin=100)
    assert len(net.input_mean) == sum(start < 100 for start in band_starts(257, 24))
    X = spectrum(channels=2, batch=3)
    net.fit_input(iter(X.split(1)))
    bands = (net.pool @ X.abs().clamp_min(LEAST_MAGNITUDE) ** 0.3).mean(1)[:, : len(net.input_mean)]  # (b, bands, k)
    frames = bands.transpose(0, 1).flatten(1)
    torch.testing.assert_close(net.input_mean, frames.mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net.input_scale, frames.std(1, correction=0), atol=1e-5, rtol=1e-4)


def test_it_learns_what_its_guide_cannot_know():
    """A steady sine at 3 kHz that is drums, against the guide's word."""
    t = torch.arange(22050) / 44100
    sine, noise = (
        torch.sin(2 * torch.pi * 3000 * t),
        0.1 * torch.randn(22050, generator=torch.Generator().manual_seed(3)),
    )
    X, S = TRANSFORM((sine + noise)[None, None]), TRANSFORM(torch.stack([sine, 0 * noise, noise])[None])
    net = network(dropout=0.0)
    net.fit_input([X])
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    errors = []
    for _ in range(30):
        error = (net(X)[:, :, 0] - S.abs()).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.2 * errors[0], errors


@pytest.mark.parametrize("maps", [0, 2])
def test_its_slope_is_that_of_finite_differences_where_the_guide_stays(maps):
    """The guide is given, so nothing is differentiated through it."""
    X = spectrum(0.01).to(torch.complex128)
    guessed = torch.rand(1, 3, *X.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    net = taught(maps=maps).double()
    net.guide = lambda magnitude: guessed
    weight = torch.rand(1, 3, *X.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    magnitude, step = X.abs().requires_grad_(), 1e-6
    (weight * net(magnitude)).sum().backward()
    for f, k in ((3, 0), (20, 1), (200, 3)):
        moved = torch.zeros_like(magnitude)
        moved[..., f, k] = step
        with torch.no_grad():
            difference = (weight * (net(magnitude + moved) - net(magnitude - moved))).sum() / (2 * step)
        torch.testing.assert_close(magnitude.grad[0, 0, f, k], difference, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:TF32")  # torch, of Intel's GPUs
def test_without_onednn_it_computes_the_same():
    torch.manual_seed(7)
    layers, x = convolutions(3, 5, 4).eval(), torch.randn(2, 3, 11, 13)
    with torch.inference_mode():
        expected = layers(x)
        with torch.backends.mkldnn.flags(enabled=False):
            torch.testing.assert_close(layers(x), expected)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    separator = mss.SpectralSeparator(taught(), ("drums", "bass", "other"), transform=TRANSFORM)
    mss.save(separator, tmp_path / "x.safetensors")
    again = mss.load(tmp_path / "x.safetensors")
    song = torch.randn(1, 1, 20000, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        assert bool((again(song) == separator.eval()(song)).all())
    assert again.context == separator.context


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="two or more, not 1"):
        GuidedTCN(GUIDE, 1)
    with pytest.raises(ValueError, match="max_bin must be between 1 and bins = 2049"):
        GuidedTCN(GUIDE, 3, max_bin=5000)
    with pytest.raises(ValueError, match="maps must be 0 or two or more"):
        GuidedTCN(GUIDE, 3, maps=1)
    with pytest.raises(ValueError, match="1 channels of 257 bins, not \\(2, 257\\)"):
        network()(spectrum(channels=2))
    with pytest.raises(ValueError, match="1 channels of 257 bins, not \\(2, 257\\)"):
        next(network().stream([spectrum(channels=2)]))
    with pytest.raises(ValueError, match="gives 3 targets, not 2"):
        GuidedTCN(GUIDE, 2, bins=257)(spectrum())
