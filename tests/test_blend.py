"""The mean of estimators: what it is, what it says of itself, and that it is kept in half the room."""

from functools import partial

import pytest
import torch

import mss
from mss import checkpoint
from mss.filters import softmask
from mss.nets import Blend, GuidedTCN
from mss.wrappers import stream

GUIDE = partial(mss.classical.rhythm_section)
TARGETS = ("drums", "bass", "other")


def network(seed: int, dilations=(1, 2)) -> GuidedTCN:
    """One that departs from its guide, as trained ones do."""
    torch.manual_seed(seed)
    made = GuidedTCN(GUIDE, 3, bins=1025, hidden=8, dilations=dilations, maps=4)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return made.eval()


def separator(estimator) -> mss.SpectralSeparator:
    transform = mss.STFT(n_fft=2048, hop=512)
    return mss.SpectralSeparator(estimator, TARGETS, transform=transform, filter=partial(softmask, power=1))


@torch.inference_mode()
def test_it_is_the_ensemble_of_the_separators(excerpt):
    networks = [network(0), network(1)]
    mono = excerpt["mixture"][None, :1, :44100]
    blend = separator(Blend(networks))(mono)
    apart = mss.Ensemble([separator(one) for one in networks])(mono)
    torch.testing.assert_close(blend, apart, atol=1e-6, rtol=0)
    assert float((blend - separator(networks[0])(mono)).abs().max()) > 1e-3  # they differ


@torch.inference_mode()
def test_it_looks_as_far_as_the_one_that_looks_farthest(excerpt):
    near, far = network(0), network(1, dilations=(1, 2, 4))
    blend = Blend([near, far])
    assert blend.context == far.context > near.context
    assert blend.block == near.block
    song = excerpt["mixture"][None, :1].repeat(1, 1, 3)
    blocks = torch.cat(list(stream(separator(blend), song.split(50_001, -1))), -1)
    torch.testing.assert_close(blocks, separator(blend)(song), atol=1e-5, rtol=0)
    assert Blend([near, mss.classical.nmf]).context is None  # a method that needs the whole song


def test_estimators_of_other_targets_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        Blend([])
    X = torch.randn(1, 1, 1025, 8, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"same targets; one gives \(1, 3, 1, 1025, 8\), another \(1, 2, 1, 1025, 8\)"):
        Blend([GUIDE_OF_SPECTRA, mss.classical.hpss])(X)


def GUIDE_OF_SPECTRA(X):  # noqa: N802
    return GUIDE(X.abs())


def test_half_the_room_for_the_same_sound(tmp_path, excerpt):
    whole = separator(Blend([network(0), network(1)]))
    for half in (False, True):
        mss.save(whole, tmp_path / f"{half}.safetensors", half=half)
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.65 * sizes[0]
    kept = mss.load(tmp_path / "True.safetensors")
    assert {p.dtype for p in kept.parameters()} == {torch.float32}
    for name, value in kept.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], atol=1e-7, rtol=2**-11)
    with torch.inference_mode():
        mono = excerpt["mixture"][None, :1, :44100]
        torch.testing.assert_close(kept(mono), whole(mono), atol=2e-3, rtol=0)


def test_what_half_cannot_hold_is_refused(tmp_path):
    large = network(0)
    with torch.no_grad():
        large.decode[-1].bias[0] = 1e5
    with pytest.raises(ValueError, match=r"estimator\.decode\.3\.bias has values beyond 65504"):
        checkpoint.save(separator(large), tmp_path / "large.safetensors", half=True)
    assert not list(tmp_path.iterdir())
