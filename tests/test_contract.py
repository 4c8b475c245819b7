"""What every separator that can be loaded by name must do, found by itself: a new file in conf/separator is tested here."""

import copy
import inspect
import re
from functools import cache, partial

import pytest
import torch
import yaml
from hydra.utils import instantiate

import mss
from mss import zoo
from mss.separator import context_of
from mss.spec import build, options_of, spec

METHODS = sorted(zoo.methods())
NAMES = [*filter(zoo.is_here, zoo.PRETRAINED), *METHODS]
LEVEL_DEPENDENT = {
    "four-stems",
    "spleeter-2stems",
    "hybrid_4stems",
}  # networks trained at a level; all others scale with their input

load = cache(mss.load)
separate = torch.inference_mode()(lambda name, mixture: load(name)(mixture))
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def of_mixture(mixture):
    """What a separator, by name, makes of the mixture: several tests compare with it."""
    return cache(lambda name: separate(name, mixture))


@every
def test_shape_targets_and_sum(name, mixture):
    separator = load(name)
    before = mixture.clone()
    y = separate(name, mixture)
    assert y.shape == (1, len(separator.targets), *mixture.shape[1:])
    assert y.dtype == mixture.dtype
    assert torch.isfinite(y).all()
    assert torch.equal(mixture, before)
    assert len(set(separator.targets)) == len(separator.targets)
    assert (y.sum(1) - mixture).abs().max() < 1e-4
    assert all(stem.square().mean() > 1e-8 for stem in y[0])  # each target has something of real music


@every
def test_a_batch_is_the_same_as_one_by_one(name, mixture):
    mixture = mixture[..., :44100]
    batch = torch.cat([mixture, mixture.flip(-1) * 0.1, torch.zeros_like(mixture)])
    y = separate(name, batch)
    for i in range(3):
        assert torch.allclose(y[i : i + 1], separate(name, batch[i : i + 1]), atol=2e-5)
    assert torch.equal(y[2], torch.zeros_like(y[2]))  # silence in, silence out


@every
# powers of two are not rounded, or a method of hard decisions may decide otherwise where two sides are equally strong
@pytest.mark.parametrize("scale", [2**-10, 8, -1])
def test_level_and_polarity(name, scale, mixture, of_mixture):
    if name in LEVEL_DEPENDENT and scale > 0:
        pytest.skip("was trained at the level of records")
    y = separate(name, mixture * scale)
    assert torch.allclose(y / scale, of_mixture(name), atol=2e-5)


@every
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels(name, channels, mixture):
    x = torch.cat([mixture, -mixture, mixture * 0.5], 1)[:, :channels, :30000]
    try:
        y = separate(name, x)
    except ValueError as error:
        y, refusal = None, str(error)
    if y is None:  # position models: clearly, and never of stereo
        assert channels != 2
        assert re.search(rf"two channels.* {channels}\b", refusal)
        return
    assert y.shape == (1, len(load(name).targets), channels, 30000)
    assert (y.sum(1) - x).abs().max() < 1e-4


@every
@pytest.mark.parametrize("length", [1, 441, 4097])
def test_very_short_input(name, length, mixture):
    x = mixture[..., :length]
    y = separate(name, x)
    assert y.shape[-1] == length
    assert torch.isfinite(y).all()
    assert (y.sum(1) - x).abs().max() < 1e-4


@every
def test_a_spec_makes_the_same_separator(name, mixture, of_mixture):
    separator, description = load(name), spec(load(name))
    for rebuilt in (build(description), instantiate(description, _convert_="all")):
        rebuilt = rebuilt.eval()
        rebuilt.load_state_dict(separator.state_dict())
        with torch.inference_mode():
            assert torch.equal(rebuilt(mixture), of_mixture(name))


@every
def test_single_and_double_precision_agree(name, mixture, of_mixture):
    single = of_mixture(name)
    with torch.inference_mode():
        double = copy.deepcopy(load(name)).double()(mixture.double())
    error = (single - double).square().sum() / double.square().sum()
    assert 10 * torch.log10(error) < -40


@every
@torch.inference_mode()
def test_a_stream_is_the_whole(name, mixture, of_mixture):
    blocks = list(mss.stream(load(name), mixture.split(30000, -1)))
    y = torch.cat(blocks, -1)
    assert y.shape[-1] == mixture.shape[-1]
    assert (y - of_mixture(name)).abs().max() < 1e-5


@every
def test_works_on_a_device_without_memory(name, mixture):
    """The meta device does no arithmetic, but refuses a tensor that was made on another device."""
    separator = copy.deepcopy(load(name)).to("meta")
    y = separator(mixture.to("meta"))
    assert y.shape == (1, len(separator.targets), *mixture.shape[1:])


@every
def test_context_is_seconds_or_none(name):
    context = context_of(load(name))
    assert context is None or 0 < context < 60


@pytest.mark.parametrize("name", METHODS)
def test_yaml_never_repeats_a_default(name):
    def check(node):
        if isinstance(node, list):
            for item in node:
                check(item)
        if not isinstance(node, dict):
            return
        target = node.get("_target_")
        if target is not None:
            obj = mss
            for part in target.split(".")[1:]:
                obj = getattr(obj, part)
            parameters = inspect.signature(obj).parameters
            for key, value in node.items():
                if key not in ("_target_", "_partial_"):
                    assert value != parameters[key].default, f"{name}.yaml repeats the default {key}: {value}"
        for value in node.values():
            check(value)

    text = zoo.methods()[name].read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line says in a comment what the method is and whose"
    check(yaml.safe_load(text))


def test_options_of_functions_are_complete():
    function, options = options_of(partial(mss.classical.hpss, kernel=17))
    assert function is mss.classical.hpss
    assert options == {"kernel": 17, "power": 2.0, "margin": 1.0}
