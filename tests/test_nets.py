"""Networks: what all of them promise, and of each what its paper says."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mss
from mss import SpectralSeparator
from mss.filters import mixture_phase, softmask, wiener
from mss.nets import (
    BLSTM,
    FCN,
    ConvTasNet,
    CrossBLSTM,
    HDemucs,
    Magnitudes,
    SpatialSeparator,
    UNet,
    UNetMasks,
    least_squares,
)
from mss.nets.blocks import mean_and_std
from mss.oracle import oracle
from mss.spec import build, spec
from mss.transforms import STFT
from tests.conftest import sdr

TARGETS = ("vocals", "accompaniment")
SHORT = STFT(128, 32)


def small_fcn(**options):
    return FCN(SHORT.bins, hidden=(16, 16), max_bin=50, **options)


def small_blstm(**options):
    return BLSTM(SHORT.bins, **{"hidden": 16, "layers": 2, "max_bin": 50, **options})


def small_unet(**options):
    return UNet(filters=(4, 8), **options)


SEPARATORS = {
    "fcn": lambda: SpectralSeparator(Magnitudes([small_fcn(), small_fcn(neighbours=1)]), TARGETS, transform=SHORT),
    "fcn softmax": lambda: SpectralSeparator(
        Magnitudes([small_fcn(targets=2, output="softmax")]), TARGETS, transform=SHORT, filter=mixture_phase
    ),
    "fcn ratio": lambda: SpectralSeparator(
        Magnitudes([small_fcn(targets=2, output="ratio")]), TARGETS, transform=SHORT, filter=mixture_phase
    ),
    "blstm": lambda: SpectralSeparator(
        Magnitudes([small_blstm(), small_blstm()]), TARGETS, transform=SHORT, filter=partial(wiener, window=20)
    ),
    "causal": lambda: SpectralSeparator(
        Magnitudes([small_blstm(causal=True), small_blstm(causal=True)]), TARGETS, transform=SHORT
    ),
    "x-umx": lambda: SpectralSeparator(CrossBLSTM([small_blstm(), small_blstm()]), TARGETS, transform=SHORT),
    "spleeter": lambda: SpectralSeparator(
        UNetMasks(
            [small_unet(raw_skips=True, norm_last=True, dilated_head=True, he_uniform=True) for _ in TARGETS],
            bins=48,
            patch=16,
        ),
        TARGETS,
        transform=SHORT,
    ),
    "jansson": lambda: SpectralSeparator(
        UNetMasks([small_unet(channels=1) for _ in TARGETS], bins=64, patch=16, extension="edge"),
        TARGETS,
        sample_rate=8192,
        transform=STFT(128, 96),
        filter=mixture_phase,
    ),
    "conv-tasnet": lambda: ConvTasNet(
        TARGETS, 8000, kernel=16, filters=16, bottleneck=8, hidden=16, layers=3, stacks=2
    ),
    "hdemucs": lambda: HDemucs(TARGETS, width=4),
    "spatial": lambda: SpatialSeparator(Magnitudes([small_fcn(), small_fcn()]), TARGETS, again=True, transform=SHORT),
    "spatial blstm": lambda: SpatialSeparator(
        Magnitudes([small_fcn(targets=2)]), TARGETS, networks=[small_blstm(), small_blstm()], transform=SHORT
    ),
}


@pytest.fixture(params=SEPARATORS)
def separator(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SEPARATORS[request.param]().eval()


def noise(generator, *shape):
    return 0.3 * torch.randn(*shape, generator=generator)


@torch.no_grad()
def test_any_length_comes_back(separator, generator):
    for length in (1, 100, 2001, 4097):
        y = separator(noise(generator, 1, 2, length))
        assert y.shape == (1, 2, 2, length)
        assert torch.isfinite(y).all()


@torch.no_grad()
def test_items_of_a_batch_do_not_see_each_other(separator, generator):
    x = noise(generator, 3, 2, 1501) * torch.tensor([1.0, 0.1, 3.0]).view(3, 1, 1)
    y = separator(x)
    for i in range(3):
        assert torch.allclose(separator(x[i : i + 1]), y[i : i + 1], atol=1e-5 * y[i].abs().max().item())


def test_gradients_are_finite_on_silence(separator):
    separator.train()
    silence = torch.zeros(2, 2, 2500)
    spectral = isinstance(separator, SpectralSeparator)
    y = separator.estimator(separator.transform(silence)) if spectral else separator(silence)
    y.square().sum().add(y.sum()).backward()
    gradients = [p.grad for p in separator.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_slopes_with_respect_to_the_input_are_finite_where_an_item_is_silent(separator, generator):
    x = noise(generator, 2, 2, 2500)
    x[0] = 0
    separator.eval()(x.requires_grad_())[1].square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad[0] == 0).all()
    assert (x.grad[1] != 0).any()


@torch.no_grad()
def test_its_spec_and_its_checkpoint_are_all_of_it(separator, generator, tmp_path):
    assert spec(build(spec(separator))) == spec(separator)
    for buffer in separator.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.1)
    x = noise(generator, 1, 2, 3001)
    mss.save(separator, tmp_path / "net.safetensors")
    loaded = mss.load(tmp_path / "net.safetensors")
    assert spec(loaded) == spec(separator)
    assert torch.equal(loaded(x), separator(x))


@torch.no_grad()
def test_runs_on_the_meta_device(separator):
    if isinstance(separator, HDemucs):
        pytest.skip("torchaudio's asks for the values of its input")
    y = separator.to("meta")(torch.empty(1, 2, 301, device="meta"))
    assert y.shape == (1, 2, 2, 301)


@torch.no_grad()
def test_streams_as_it_separates(separator, generator):
    x = noise(generator, 1, 2, 24000)
    if getattr(separator, "streams", False):
        separator.BLOCK = 64
        whole = separator(x) if separator.context is not None else None
        with torch.enable_grad():  # in one piece
            whole = separator(x) if whole is None else whole
        streamed = torch.cat(list(mss.stream(separator, x.split(1777, -1))), -1)
        assert torch.allclose(streamed, whole, atol=1e-5)
    else:
        assert separator.context is None


@pytest.mark.parametrize("name", ["fcn", "fcn softmax", "fcn ratio", "blstm", "x-umx", "spleeter", "jansson"])
def test_overfits_one_batch(name, generator):
    """In 300 steps the error falls below 5 % of what it was: the targets are bins that each network can tell apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        separator = SEPARATORS[name]().train()
        if name == "fcn":  # magnitudes of noise are no shares: each needs its own way through
            separator.estimator = Magnitudes([FCN(SHORT.bins, targets=2, hidden=(128,))])
        for module in separator.modules():
            if isinstance(module, UNet | nn.LSTM):
                module.dropout = 0.0
        X = separator.transform(noise(generator, 2, 2, 1500))
        own = (torch.rand(2, 1, X.shape[2], 1, generator=generator) < 0.5).float()
        own = torch.stack([own, 1 - own], 1).expand(-1, -1, 2, -1, X.shape[-1])
        if name in ("spleeter", "jansson"):  # without a limit they would have to know what is above their bins
            X = X[:, :, :48]
            own = own[..., :48, :]
            separator.estimator.bins = 48
        V = own * X.abs().unsqueeze(1)
        if hasattr(separator.estimator, "fit_input"):
            separator.estimator.fit_input([X])
        optimizer, losses = torch.optim.Adam(separator.parameters(), 3e-3 if name == "fcn" else 1e-2), []
        for _ in range(300):
            losses.append(F.mse_loss(separator.estimator(X), V))
            if losses[-1] < 0.05 * losses[0]:
                return
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    pytest.fail(f"from {losses[0]:.4f} to {losses[-1]:.4f}")


# FCN


@pytest.mark.parametrize("stride", [1, 2])
def test_fcn_is_layers_on_stacked_frames(stride, generator):
    net = FCN(20, neighbours=2, stride=stride, hidden=(7,), max_bin=15).double()
    net.fit_input([torch.randn(1, 2, 20, 50, dtype=torch.complex128, generator=generator)])
    magnitude = torch.rand(1, 2, 20, 30, dtype=torch.float64, generator=generator)
    k = 17
    stacked = magnitude[0, ..., k - 2 * stride : k + 2 * stride + 1 : stride]  # (c, f, 5)
    g = stacked.square().sum((0, 1)).sqrt().mean()
    mean, std = net.input_mean[:15, None], net.input_scale[:15, None]
    x = (stacked[:, :15] / g - mean) / std
    first, last = net.layers
    x = torch.relu(first.weight.flatten(1) @ x.reshape(-1) + first.bias)
    y = (last.weight[..., 0] @ x + last.bias).view(2, 20)
    expected = torch.relu(y * net.input_scale + net.input_mean) * g
    assert torch.allclose(net(magnitude)[0, 0, ..., k], expected, atol=1e-12)


@pytest.mark.parametrize("output", ["magnitude", "softmax", "ratio"])
def test_fcn_follows_the_level(output, generator):
    net = small_fcn(targets=2, output=output).double()
    X = torch.randn(1, 2, SHORT.bins, 30, dtype=torch.complex128, generator=generator)
    quiet = build(spec(net)).double()
    quiet.load_state_dict(net.state_dict())
    net.fit_input([X])
    quiet.fit_input([1e-3 * X])
    assert torch.allclose(net(X.abs()), 1e3 * quiet(1e-3 * X.abs()), rtol=1e-9)
    assert not torch.allclose(net.input_scale, torch.ones(()).double())


@pytest.mark.parametrize("output", ["softmax", "ratio"])
def test_shares_add_up_to_the_mixture(output, generator):
    magnitude = torch.rand(1, 2, SHORT.bins, 30, generator=generator)
    V = small_fcn(targets=2, output=output)(magnitude)
    assert torch.allclose(V.sum(1), magnitude, atol=1e-6)
    assert V.min() >= 0


def test_least_squares_comes_closest_and_a_relu_after_it_closer(generator):
    x = torch.rand(500, 12, dtype=torch.float64, generator=generator)
    truth = torch.randn(5, 12, dtype=torch.float64, generator=generator)
    linear = x @ truth.T + 3
    weight, bias = least_squares(x, linear, ridge=1e-12)
    assert torch.allclose(weight, truth, atol=1e-6)
    assert torch.allclose(bias, torch.full((5,), 3.0).double(), atol=1e-6)

    targets = torch.relu(linear - 3)  # not linear, and never negative
    weight, bias = least_squares(x, targets)
    y = x @ weight.T + bias
    error, plain = (y - targets).square().sum(), (targets - targets.mean(0)).square().sum()
    assert error < 0.5 * plain
    assert (torch.relu(y) - targets).square().sum() < error
    assert all(torch.isfinite(p).all() for p in least_squares(torch.zeros(9, 3), torch.ones(9, 2)))


def test_statistics_of_the_input_are_read_once_and_lose_no_digits(generator):
    x = 1e4 + torch.randn(1, 3, 4000, dtype=torch.float64, generator=generator) * torch.tensor([[1.0], [0.1], [0.0]])
    mean, std = mean_and_std(iter(x.split([1, 1999, 0, 2000], -1)))
    assert torch.allclose(mean, x[0].mean(-1), rtol=1e-12)
    assert torch.allclose(std[:2], x[0, :2].std(-1, correction=0), rtol=1e-9)
    assert std[2] == pytest.approx(1e-4 * std[0].item())
    assert mean_and_std([torch.zeros(1, 3, 4)])[1].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="no frames to take the statistics of the input from"):
        mean_and_std([])


# BLSTM


def test_causal_network_looks_and_reads_no_further(generator):
    separator = SEPARATORS["causal"]().eval()
    x = noise(generator, 1, 2, 24000)
    later = x.clone()
    later[..., 12000:] = 0
    with torch.no_grad():
        y, z = separator(x), separator(later)
        seen = 12000 - SHORT.n_fft
        assert torch.allclose(y[..., :seen], z[..., :seen], atol=1e-6)
        assert not torch.allclose(y[..., 12000:], z[..., 12000:], atol=1e-3)

        separator.BLOCK, read = 16, 0

        def blocks():
            nonlocal read
            for block in x.split(500, -1):
                read += 1
                yield block

        next(mss.stream(separator, blocks()))
        assert read <= 4  # of 48


def test_cross_networks_go_on_from_their_mean(generator):
    networks = [small_blstm() for _ in range(3)]
    X = torch.randn(1, 2, SHORT.bins, 20, dtype=torch.complex64, generator=generator)
    magnitude = X.abs()
    V = CrossBLSTM(networks).eval()(X)
    encoded = torch.stack([net.encode(magnitude) for net in networks]).mean(0)
    recurrent = torch.stack([net.lstm(encoded)[0] for net in networks]).mean(0)
    for i, net in enumerate(networks):
        assert torch.allclose(V[:, i], net.decode(encoded, recurrent, magnitude), atol=1e-6)
    assert not torch.allclose(V, Magnitudes(networks)(X), atol=1e-3)


def test_networks_refuse_other_spectra():
    for net in (small_blstm(), small_fcn()):
        with pytest.raises(ValueError, match="this network is for 2 channels of 65 bins, not "):
            net(torch.rand(1, 1, 65, 4))
    with pytest.raises(ValueError, match="max_bin must be between 1 and bins = 65"):
        BLSTM(65, max_bin=66)
    with pytest.raises(ValueError, match="shares the mixture among targets"):
        FCN(65, output="softmax")


# UNet


def test_unet_trains_on_excerpts_that_are_no_patches(generator):
    separator = SEPARATORS["spleeter"]().train()
    X = separator.transform(noise(generator, 2, 2, 1300))  # 41 frames, three patches of 16
    V = separator.estimator(X)
    assert V.shape == (2, 2, 2, 65, 41)
    V.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in separator.parameters())
    norm = separator.estimator.networks[0].up_norm[0]
    assert norm.num_batches_tracked == 1  # all patches together
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))


def test_he_uniform_start():
    net = UNet(he_uniform=True)
    for layer in (net.down[3], net.up[2]):
        inputs = layer.weight[0].numel()  # as Keras counts them, of a transposed convolution its outputs
        assert layer.weight.abs().max().item() == pytest.approx((6 / inputs) ** 0.5, rel=1e-3)
        assert layer.bias.abs().max() == 0


# waveforms


@pytest.mark.parametrize("name", ["conv-tasnet", "hdemucs"])
@torch.no_grad()
def test_waveform_networks_follow_the_level(name, generator):
    separator = SEPARATORS[name]().eval()
    x = noise(generator, 1, 2, 5000)
    y = separator(x)
    assert y.abs().max() > 0
    assert torch.allclose(separator(1e-3 * x), 1e-3 * y, atol=1e-7)
    assert torch.equal(separator(torch.zeros(1, 2, 5000)), separator(torch.zeros(1, 2, 5000)))
    assert separator(x[:, :1]).shape == (1, 2, 1, 5000)
    assert separator.targets == TARGETS


@torch.no_grad()
def test_conv_tasnet_takes_each_channel_for_itself(generator):
    separator = SEPARATORS["conv-tasnet"]().eval()
    x = noise(generator, 1, 2, 3000)
    swapped = separator(x.flip(1)).flip(2)
    assert torch.allclose(swapped, separator(x), atol=1e-6)


def test_waveform_networks_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="this network is for 2 channels, not 3"):
        SEPARATORS["hdemucs"]()(torch.zeros(1, 3, 100))
    with pytest.raises(ValueError, match="targets must be a list of names"):
        ConvTasNet("vocals")
    with pytest.raises(ValueError, match="kernel must be an even number"):
        ConvTasNet(["vocals"], kernel=15)


# networks inside the multichannel EM


class Known(nn.Module):
    """The true magnitudes."""

    def __init__(self, V):
        super().__init__()
        self.V = V

    def forward(self, X):
        return self.V.to(X.real)


@pytest.mark.parametrize("iterations", [1, 2])
def test_oracle_magnitudes_in_the_em_reach_the_oracle_wiener_filter(iterations, excerpt):
    targets, transform = ("drums", "bass", "other", "vocals"), STFT(2048, 1024)
    stems = torch.stack([excerpt[name] for name in targets])[None]
    ours = SpatialSeparator(Known(transform(stems).abs()), targets, iterations=iterations, transform=transform)
    estimates = ours(stems.sum(1))[0]
    assert torch.allclose(estimates.sum(0), stems[0].sum(0), atol=1e-4)
    best = oracle("MWF", stems, targets, transform=transform)(stems.sum(1))[0]
    for name, estimate, limit in zip(targets, estimates, best, strict=True):
        assert sdr(excerpt[name], estimate) >= sdr(excerpt[name], limit) - 0.5


def test_em_finds_where_sources_are(generator):
    """Two sources of the same powers, left and right: magnitudes cannot tell them apart, a start a little off them can."""
    left, right = noise(generator, 2, 1, 1, 30000)
    stems = torch.cat([left * torch.tensor([[1.0], [0.1]]), right * torch.tensor([[0.1], [1.0]])])[None]
    S = SHORT(stems).abs()
    V = S + 0.5 * S.flip(1)
    score = {
        n: sdr(stems, SpatialSeparator(Known(V), TARGETS, iterations=n, transform=SHORT)(stems.sum(1))) for n in (0, 5)
    }
    assert score[5] > score[0] + 3


def test_networks_of_later_steps_see_the_separated_targets(excerpt):
    seen = []

    class Watching(nn.Module):
        def forward(self, magnitude):
            seen.append(magnitude)
            return magnitude

    targets, transform = ("drums", "bass", "other", "vocals"), STFT(2048, 1024)
    stems = torch.stack([excerpt[name] for name in targets])[None]
    V = transform(stems).abs()
    networks = [Watching() for _ in targets]
    ours = SpatialSeparator(Known(V), targets, networks=networks, iterations=1, transform=transform)
    assert sdr(stems, ours(stems.sum(1))) > 5
    for magnitude, truth in zip(seen, V.unbind(1), strict=True):
        assert sdr(truth, magnitude) > 8  # each its own, at the level of the song
    with pytest.raises(ValueError, match="4 targets need as many networks, got 1"):
        SpatialSeparator(Known(V), targets, networks=networks[:1])
    with pytest.raises(ValueError, match="again needs an estimator with a network for each target"):
        SpatialSeparator(softmask, targets, again=True)
