"""Specs, checkpoints and the zoo: what is saved comes back, what was tampered with does not."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

import mss
from mss import checkpoint, files, zoo
from mss.checkpoint import CheckpointError
from mss.filters import softmask
from mss.nets import UNet, UNetMasks
from mss.spec import SpecError, build, spec

TINY = Path(__file__).parent / "data" / "tiny-unet-1.safetensors"


def tiny(seed: int = 0):
    torch.manual_seed(seed)
    networks = [UNet(filters=(2, 3, 4), dilated_head=True) for _ in range(2)]
    estimator = UNetMasks(networks, bins=64, patch=16)
    separator = mss.SpectralSeparator(
        estimator,
        ("vocals", "rest"),
        sample_rate=8000,
        transform=mss.STFT(256, 64),
        filter=partial(softmask, power=2.0),
    )
    return separator.eval()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    mss.save(tiny(), path, licence="CC0-1.0", metrics={"sdr": 1.5})
    return path


def rewritten(path: Path, **changes) -> Path:
    """The same file with other entries in its description."""
    header, tensors = checkpoint.read_header(path) | changes, load_file(path)
    if "digest" not in changes:  # as someone would who knows how it is made
        header["digest"] = checkpoint._digest(header["spec"], tensors)
    save_file(tensors, path, {"mss": json.dumps(header)})
    return path


@pytest.mark.parametrize("make", [tiny, lambda: mss.Chunked(mss.StereoPairs(tiny()), segment=3.0)])
def test_a_spec_builds_an_equal_object(make, generator):
    separator = make()
    description = spec(separator)
    assert json.loads(json.dumps(description)) == description
    rebuilt, by_hydra = build(description).eval(), instantiate(description, _convert_="all").eval()
    assert spec(rebuilt) == spec(by_hydra) == description
    for other in (rebuilt, by_hydra):
        other.load_state_dict(separator.state_dict())
        x = torch.randn(1, 2, 9000, generator=generator)
        with torch.inference_mode():
            assert torch.equal(other(x), separator(x))


def test_a_spec_has_every_argument_of_functions_too():
    estimator = spec(mss.load("hpss"))["estimator"]
    assert estimator == {
        "_target_": "mss.classical.hpss", "_partial_": True, "kernel": 31, "power": 2.0, "margin": 1.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"_target_": "os.system", "command": "true"}, "outside of mss"),
        ({"_target_": "mss.spec.importlib.import_module", "name": "os"}, "not a separator, network or transform"),
        ({"_target_": "mss.audio.write", "path": "x.wav"}, "not a separator, network or transform"),
        ({"_target_": "mss.checkpoint.save", "_partial_": True}, "not a filter or estimator function"),
        ({"_target_": "mss.filters._em", "_partial_": True}, "private"),
        ({"_target_": "mss.nets.Transformer"}, "there is no 'mss.nets.Transformer'"),
        ({"_target_": 3}, "outside of mss"),
        ({"_target_": "mss.STFT", "size": 3}, "unexpected keyword argument 'size'"),
        ({"_target_": "mss.classical.hpss", "_partial_": True, "size": 3}, "unexpected keyword argument 'size'"),
        ({"_target_": "mss.Chunked", "separator": {"_target_": "builtins.eval"}}, "outside of mss"),
    ],
)
def test_only_parts_of_the_package_are_built(description, message):
    with pytest.raises(SpecError, match=message):
        build(description)


def test_what_cannot_be_described_is_refused():
    with pytest.raises(SpecError, match="not part of mss"):
        spec(mss.SpectralSeparator(torch.nn.Softplus(), ("a",)))


def test_a_checkpoint_needs_nothing_else(saved, generator):
    x = torch.randn(1, 2, 5000, generator=generator)
    loaded = mss.load(saved)
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(x), tiny()(x))
    header = checkpoint.read_header(saved)
    assert header["targets"] == ["vocals", "rest"]
    assert header["licence"] == "CC0-1.0"
    assert header["versions"]["torch"] == torch.__version__


def test_an_old_checkpoint_loads_for_ever():
    """Written by version 0.1.0. If this fails, checkpoints in the world no longer load: do not make the file anew."""
    separator = mss.load(TINY)
    x = torch.sin(torch.arange(8000) * 0.2).repeat(1, 2, 1)
    with torch.inference_mode():
        y = separator(x)
    assert separator.targets == ("vocals", "rest")
    energies = checkpoint.read_header(TINY)["metrics"]["energies"]
    assert y.square().sum((-1, -2))[0].tolist() == pytest.approx(energies, rel=1e-4)


def test_damage_is_found(saved):
    data = bytearray(saved.read_bytes())
    data[-10] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match="not what was saved"):
        mss.load(saved)
    saved.write_bytes(data[:2000])
    with pytest.raises(CheckpointError, match="not a checkpoint, or damaged"):
        mss.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": {"_target_": "os.system", "command": "touch hacked"}}, "outside of mss"),
        ({"spec": {"_target_": "mss.STFT"}}, "describes a STFT, not a separator"),
        ({"spec": [1]}, "describes a list, not a separator"),
        ({"spec": spec(tiny()) | {"targets": ["vocals"]}}, "not those of the separator"),
        ({"spec": spec(tiny()) | {"targets": [1, 2]}}, "targets must be a list of names"),
        ({"spec": spec(tiny()) | {"sample_rate": "44100"}}, "sample_rate must be a positive whole number"),
        ({"spec": spec(tiny()) | {"filter": 3}}, "must be callable"),
        ({"spec": {"_target_": "mss.Ensemble", "separators": []}}, "at least one separator"),
        ({"spec": {"_target_": "mss.nets.UNet", "filters": [1 << 40, 1 << 40]}}, "cannot be built"),
        ({"format": 99}, "format 99, this version reads 1"),
        ({"digest": "0" * 64}, "digest differs"),
    ],
)
def test_tampered_descriptions_are_refused(saved, changes, message):
    with pytest.raises(CheckpointError, match=message):
        mss.load(rewritten(saved, **changes))


def test_weights_of_another_network_are_refused(saved):
    other = spec(tiny())
    other["estimator"]["networks"][0]["filters"] = [2, 3, 5]
    with pytest.raises(CheckpointError, match="do not fit the network"):
        mss.load(rewritten(saved, spec=other))


def test_files_that_are_no_checkpoints(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="no description by mss"):
        mss.load(tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        mss.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        mss.load(tmp_path)


def test_precision_shared_weights_and_file_modes_survive(tmp_path):
    double = tiny().double()
    mss.save(double, tmp_path / "double.safetensors")
    assert {p.dtype for p in mss.load(tmp_path / "double.safetensors").parameters()} == {torch.float64}
    member = tiny()
    mss.save(mss.Ensemble([member, member]), tmp_path / "shared.safetensors")
    assert mss.load(tmp_path / "shared.safetensors").targets == member.targets
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "double.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError, match="metadata cannot be called digest"):
        mss.save(member, tmp_path / "x.safetensors", digest="0")


def test_half_the_bits_are_half_the_file(tmp_path):
    whole = tiny()
    mss.save(whole, tmp_path / "whole.safetensors")
    checkpoint.save(whole, tmp_path / "half.safetensors", half=True)
    sizes = [sum(x.nbytes for x in load_file(tmp_path / f"{name}.safetensors").values()) for name in ("whole", "half")]
    integers = sum(x.nbytes for x in whole.state_dict().values() if not x.is_floating_point())
    assert sizes[1] - integers == (sizes[0] - integers) / 2
    back = mss.load(tmp_path / "half.safetensors").state_dict()
    for name, value in whole.state_dict().items():
        assert back[name].dtype == value.dtype
        torch.testing.assert_close(back[name], value, rtol=2**-11, atol=2**-24)
    with torch.no_grad():
        next(whole.parameters()).view(-1)[0] = 1e6
    with pytest.raises(ValueError, match="half=False"):
        checkpoint.save(whole, tmp_path / "half.safetensors", half=True)


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        mss.save(tiny(), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(zoo.UnknownModelError, match=r"no model 'spleeter2stem': did you mean spleeter-2stems"):
        mss.load("spleeter2stem")
    with pytest.raises(zoo.UnknownModelError, match=r"known are four-stems, spleeter-2stems, .*hpss"):
        mss.load("qqqqqq")


def test_the_pretrained_model_is_converted_once_and_again_if_damaged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MSS_HOME", str(tmp_path / "home"))
    mss.load("spleeter-2stems")
    (file,) = (tmp_path / "home").iterdir()
    assert checkpoint.read_header(file)["licence"] == "MIT"
    stamp = file.stat().st_mtime_ns
    mss.load("spleeter-2stems")
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(b"damaged")
    mss.load("spleeter-2stems")
    assert "it is made again" in caplog.text
    assert checkpoint.read_header(file)["targets"] == ["vocals", "accompaniment"]


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MSS_HOME", str(tmp_path / "file" / "below"))
    assert mss.load("spleeter-2stems").targets == ("vocals", "accompaniment")
    assert "cannot be kept" in caplog.text
