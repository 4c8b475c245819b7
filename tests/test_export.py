"""Exported networks, run by onnxruntime and torch.export, against the separators they were made of."""

import json
import subprocess
import sys
from functools import cache, partial

import pytest
import torch

import mss
from mss import export as verb
from mss.apps import exporting
from mss.apps.exported import Convolved, ConvSTFT, TracedLSTM
from mss.apps.exporting import ExportError, export, without_wiener
from mss.filters import mixture_phase, softmask, wiener
from mss.nets import BLSTM, FCN, ConvTasNet, CrossBLSTM, HDemucs, Magnitudes, UNet, UNetMasks
from mss.spec import build

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")


@pytest.fixture(scope="module", autouse=True)
def one_registry():
    """The table of what ONNX has for each operation of torch, which takes half a second, made once for all exports."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


T = mss.STFT(128, 32, padding="reflect")


def separator_of(estimator, *, targets=("a", "b"), transform=T, filter=softmask):
    return mss.SpectralSeparator(estimator, targets, transform=transform, filter=filter, sample_rate=8000).eval()


def randomised(network):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def lstm(layers=1, **options):
    return randomised(BLSTM(T.bins, hidden=8, layers=layers, max_bin=50, **options))


def of_cross():
    return separator_of(CrossBLSTM([lstm(), lstm()]), filter=mixture_phase)


def of_fcn():
    network = randomised(FCN(T.bins, targets=2, hidden=(16,)))
    return separator_of(
        Magnitudes([network]), transform=mss.STFT(128, 96, "hamming"), filter=partial(softmask, power=2.0)
    )


def of_unet():
    networks = [randomised(UNet(1, filters=(2, 4), raw_skips=True)) for _ in range(2)]
    return mss.StereoPairs(separator_of(UNetMasks(networks, bins=48, patch=16, extension_bins=5)))


def of_causal():
    return separator_of(Magnitudes([lstm(causal=True)]), targets=["a"], filter=mixture_phase)


def run(path, x):
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(x)
    session = onnxruntime.InferenceSession(path)
    name = json.loads(path.with_name(f"{path.name}.json").read_text())["input"]["name"]
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def close(x, y):
    return (x - y).abs().max() < 1e-4 * y.abs().max()


@pytest.mark.parametrize(("make", "suffix"), [(of_cross, "onnx"), (of_unet, "onnx"), (of_causal, "pt2")])
def test_network_with_its_transform_outside(make, suffix, tmp_path, mixture):
    """Separates a song by what the JSON says, in other lengths than the network was traced with."""
    path, separator = tmp_path / f"net.{suffix}", make()
    assert export(separator, path)["error"] < 1e-5
    facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert facts["targets"] == list(separator.targets)
    assert facts["input"]["axes"] == ["batch", "channel", "bin", "frame"]
    transform, filter = build(facts["transform"]), build(facts["filter"])
    frames = facts["input"]["shape"][3]
    assert frames == (16 if make is of_unet else None)
    for length in (15 * 32,) if frames else (700, 9001):
        x = mixture[..., :length]
        X = transform(x)
        V = run(path, X.abs())
        with torch.inference_mode():
            assert close(transform.inverse(filter(V, X), length), separator(x))
    assert [w["_target_"] for w in facts["around"]] == (["mss.StereoPairs"] if make is of_unet else [])


@pytest.mark.parametrize(("make", "suffix"), [(of_fcn, "onnx"), (of_causal, "onnx")])
def test_network_with_its_transform_inside(make, suffix, tmp_path, mixture):
    path, separator = tmp_path / f"net.{suffix}", make()
    facts = export(separator, path, waveform=True)
    assert facts["input"]["shape"] == [1, 2, None]
    assert facts["output"]["shape"] == [1, len(separator.targets), 2, None]
    for length in (701, 9001):
        x = mixture[..., :length]
        with torch.inference_mode():
            assert close(run(path, x), separator(x))


def test_network_on_waveforms(tmp_path, mixture):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        separator = ConvTasNet(["a", "b"], 8000, filters=8, bottleneck=4, hidden=8, layers=1, stacks=1).eval()
    facts = export(mss.Chunked(separator, segment=3.0), tmp_path / "net.onnx", seconds=0.25)
    assert facts["input"]["shape"] == [1, 2, 2000]
    assert facts["around"] == [{"_target_": "mss.Chunked", "segment": 3.0, "overlap": None}]
    with torch.inference_mode():
        assert close(run(tmp_path / "net.onnx", mixture[..., :2000]), separator(mixture[..., :2000]))


@pytest.mark.parametrize(
    "transform", [T, mss.STFT(128, 96), mss.STFT(128, 48, "hamming"), mss.STFT(126, 42, padding="reflect")]
)
def test_transform_as_convolution(transform, mixture):
    x = mixture[..., :3001]
    X, convolved = transform(x), ConvSTFT(transform)
    real, imag = convolved(x)
    assert torch.allclose(torch.complex(real, imag), X, atol=1e-4 * X.abs().max())
    assert torch.allclose(convolved.inverse(real.unsqueeze(1), imag.unsqueeze(1), 3001)[:, 0], x, atol=1e-5)
    masked = X * torch.rand(X.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(convolved.inverse(masked.real, masked.imag, 3001), transform.inverse(masked, 3001), atol=1e-5)


def test_hdemucs_with_its_transform_as_convolution(mixture):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        separator = HDemucs(["a", "b"], width=4).eval()
    for length in (22050, 30001):
        x = mixture[..., :length]
        with torch.inference_mode():
            assert close(Convolved(separator)(x), separator(x))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_for_any_number_of_frames(bidirectional, generator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.LSTM(3, 4, 2, bidirectional=bidirectional).eval().requires_grad_(False)
    traced = TracedLSTM(layer, onnx=False)
    weights = [getattr(traced, f"{part}_0") for part in ("weights", "recurrent", "biases")]
    x = torch.randn(7, 2, 3, generator=generator)
    assert torch.equal(traced(x)[0], layer(x)[0])  # outside of a trace
    one = torch.nn.LSTM(3, 4, 1, bidirectional=bidirectional)
    one.load_state_dict({name: p for name, p in layer.state_dict().items() if "l0" in name})
    with torch.no_grad():
        assert torch.allclose(traced._scan(x, *weights).transpose(1, 2).flatten(2), one(x)[0], atol=1e-6)
    with pytest.raises(ValueError, match="frames first"):
        TracedLSTM(torch.nn.LSTM(3, 4, batch_first=True), onnx=True)


@pytest.mark.parametrize(
    ("make", "name", "options", "message"),
    [
        (lambda: mss.load("hpss"), "x.onnx", {}, "there is no network in this SpectralSeparator"),
        (lambda: mss.load("hybrid_4stems"), "x.onnx", {}, "this Cascade is made of several: export its networks"),
        (of_causal, "x.pth", {}, r"must end in \.onnx or \.pt2"),
        (of_causal, "no/x.onnx", {}, "no such folder"),
        (
            lambda: separator_of(Magnitudes([lstm(), lstm()]), filter=partial(wiener, residual=False)),
            "x.onnx",
            {"waveform": True},
            "the filter wiener has no place in an exported program: --niter 0, or leave out --waveform",
        ),
    ],
)
def test_what_cannot_be_exported(tmp_path, make, name, options, message):
    with pytest.raises(ExportError, match=message):
        export(make(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"ONNX needs the package onnxscript: pip install mss-separation\[export\]"):
        export(of_causal(), tmp_path / "x.onnx")


def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    separator = separator_of(Magnitudes([FCN(T.bins, targets=2, hidden=(4,))]))
    with pytest.raises(ExportError, match="the exported network differs by"):
        export(separator, tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


def test_the_wiener_filter_is_left_out():
    start = without_wiener(separator_of(Magnitudes([lstm()]), filter=partial(wiener, power=2.0))).filter
    assert (start.func, start.keywords) == (softmask, {"power": 2.0})
    assert without_wiener(separator_of(Magnitudes([lstm()]), filter=partial(wiener, start="mixture_phase"))).filter is (
        mixture_phase
    )
    with pytest.raises(ExportError, match="adds a residual"):
        without_wiener(separator_of(Magnitudes([lstm()]), filter=partial(wiener, residual=True)))


def test_verb(tmp_path, capsys):
    separator = separator_of(Magnitudes([FCN(T.bins, targets=2, hidden=(4,))]), filter=partial(wiener, iterations=1))
    mss.save(separator, tmp_path / "m.safetensors")
    out = tmp_path / "m.pt2"
    assert verb.main([str(tmp_path / "m.safetensors"), "--out", str(out), "--waveform"]) == 2
    assert "error: the filter wiener" in capsys.readouterr().err
    assert verb.main([str(tmp_path / "m.safetensors"), "-o", str(out), "--waveform", "--niter", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"]["name"] == "mixture"
    assert {path.name for path in tmp_path.iterdir()} == {"m.safetensors", "m.pt2", "m.pt2.json"}
    assert verb.main(["hpss", "-o", str(out), "--seconds", "nan"]) == 2
    assert verb.main(["hps", "-o", str(out)]) == 2
    assert "did you mean" in capsys.readouterr().err
    code = (
        "import sys, mss.export as verb; verb.parser().parse_args(['x', '-o', 'y.onnx']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
