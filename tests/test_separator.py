"""The pipeline, the wrappers and the adapters: what they promise holds for separators with known behaviour."""

import gc
import weakref
from functools import partial

import pytest
import torch
from torch import nn

import mss
from mss.adapters import EachChannel, MidSide, Resampled, Select, StereoPairs
from mss.combined import Cascade, Ensemble
from mss.filters import wiener
from mss.separator import SpectralSeparator, context_of, copies, with_margins
from mss.transforms import STFT
from mss.wrappers import Chunked, Shifted, WithResidual, aligned, stream


class Bounded(nn.Module):
    """An estimator of bounded context: one convolution over 2 * context + 1 frames, seeded."""

    def __init__(self, context: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.context = context
        torch.manual_seed(seed)
        self.conv = nn.Conv1d(1, 2, 2 * context + 1, padding=context)

    def forward(self, X):
        b, c, f, k = X.shape
        V = self.conv(X.abs().reshape(-1, 1, k)).abs()
        return V.reshape(b, c, f, 2, k).movedim(3, 1)


class Patches(nn.Module):
    """An estimator that sees patches of 8 frames, each through its mean only."""

    context, grid = 0, 8

    def forward(self, X):
        V = nn.functional.pad(X.abs(), (0, -X.shape[-1] % 8)).unflatten(-1, (-1, 8))
        level = V.mean(-1, keepdim=True).expand_as(V).flatten(-2)[..., : X.shape[-1]]
        return torch.stack([X.abs(), level], 1)


def spectral(estimator, **options):
    options = {"targets": ("a", "b"), "sample_rate": 8000, "transform": STFT(256, 64), **options}
    return SpectralSeparator(estimator, **options).eval()


SEPARATORS = {
    "bounded": lambda: spectral(Bounded()),
    "patches": lambda: spectral(Patches()),
    "hpss": lambda: spectral(mss.classical.hpss),
    "pairs": lambda: StereoPairs(spectral(Bounded())),
    "each": lambda: EachChannel(spectral(Bounded())),
    "mid and side": lambda: MidSide(EachChannel(spectral(Bounded()))),
    "residual": lambda: WithResidual(spectral(Bounded()), "rest"),
    "cascade": lambda: Cascade(spectral(Patches()), spectral(Bounded(), targets=("c", "d")), stem="b"),
    "cascade of patches": lambda: Cascade(spectral(Bounded()), spectral(Patches(), targets=("c", "d")), stem="a"),
    "shifted": lambda: Shifted(spectral(Patches()), shifts=3, max_shift=0.1),
    "ensemble": lambda: Ensemble([spectral(Bounded()), spectral(Patches())], [1, 3]),
    "select": lambda: Select(spectral(Bounded()), ["b"]),
    "select from a cascade": lambda: Select(SEPARATORS["cascade"](), ["a"]),
}


@pytest.fixture
def noise(generator):
    return torch.randn(2, 2, 30011, generator=generator)


@pytest.mark.parametrize("name", SEPARATORS)
@pytest.mark.parametrize("block", [500, 4096, 100000])
@torch.inference_mode()
def test_a_stream_is_the_whole(name, block, noise, monkeypatch):
    monkeypatch.setattr(SpectralSeparator, "BLOCK", 24)
    separator = SEPARATORS[name]()
    assert context_of(separator) is not None
    blocks = list(stream(separator, noise.split(block, -1)))
    assert len(blocks) > 3  # it did not just wait for all of it
    streamed, whole = torch.cat(blocks, -1), separator(noise)
    assert streamed.shape == whole.shape == (2, len(separator.targets), 2, 30011)
    assert (streamed - whole).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["bounded", "patches", "hpss", "cascade", "cascade of patches", "shifted", "residual"])
@pytest.mark.parametrize("segment", [0.9, 1.7, 60])
@torch.inference_mode()
def test_chunks_with_context_are_the_whole(name, segment, noise):
    separator = SEPARATORS[name]()
    chunked = Chunked(separator, segment=segment)
    assert (chunked(noise) - separator(noise)).abs().max() < 1e-4


@torch.inference_mode()
def test_chunks_without_known_context_return_an_identity_exactly(noise):
    class Identity(nn.Module):
        targets, sample_rate = ("all",), 8000

        def forward(self, mixture):
            return mixture.unsqueeze(1)

    for overlap in (None, 0.0, 0.3):
        y = Chunked(Identity(), segment=0.7, overlap=overlap)(noise)
        assert torch.allclose(y[:, 0], noise, atol=1e-6)


def test_chunks_too_short_for_their_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap must be at least 0 s and shorter than the segment of 2 s, not 3"):
        Chunked(spectral(Bounded()), segment=2, overlap=3)


@torch.inference_mode()
def test_a_statistical_filter_needs_the_whole_song(noise):
    separator = spectral(Bounded(), filter=partial(wiener, iterations=1))
    assert context_of(separator) is None
    blocks = list(stream(separator, noise[..., :5000].split(700, -1)))
    assert len(blocks) == 1
    assert torch.equal(blocks[0], separator(noise[..., :5000]))
    with pytest.raises(ValueError, match=r"needs the whole song.*mss\.Chunked"):
        next(separator.stream([noise]))


@torch.inference_mode()
def test_shifts_average_delays_and_repeat_exactly(noise):
    separator = spectral(Patches())
    shifted = Shifted(separator, shifts=2, max_shift=0.01)
    late = separator(nn.functional.pad(noise, (40, 0)))[..., 40:]
    assert torch.allclose(shifted(noise), (separator(noise) + late) / 2, atol=1e-6)
    assert torch.equal(shifted(noise), shifted(noise))


@torch.inference_mode()
def test_residual_makes_the_sum_the_mixture(noise):
    y = WithResidual(Select(spectral(Bounded()), ["a"]), "no_a")(noise)
    assert (y.sum(1) - noise).abs().max() < 1e-6
    with pytest.raises(ValueError, match="cannot be called 'a'"):
        WithResidual(spectral(Bounded()), "a")


@torch.inference_mode()
def test_cascade_splits_the_stem_and_keeps_the_sum(noise):
    cascade = SEPARATORS["cascade"]()
    assert cascade.targets == ("a", "c", "d")
    first = cascade.first(noise)
    y = cascade(noise)
    assert torch.equal(y[:, 0], first[:, 0])
    assert torch.allclose(y[:, 1:].sum(1), first[:, 1], atol=1e-5)
    with pytest.raises(ValueError, match="has no target 'c'; it has a, b"):
        Cascade(spectral(Patches()), spectral(Bounded()), stem="c")
    with pytest.raises(ValueError, match="both separators have a target a"):
        Cascade(spectral(Patches()), spectral(Bounded()), stem="b")


@torch.inference_mode()
def test_ensemble_weights_its_members(noise):
    members = [spectral(Bounded()), spectral(Patches())]
    y = Ensemble(members, [1, 3])(noise)
    assert torch.allclose(y, (members[0](noise) + 3 * members[1](noise)) / 4, atol=1e-6)
    with pytest.raises(ValueError, match="same targets at the same rate"):
        Ensemble([members[0], Select(members[0], ["b"])])
    with pytest.raises(ValueError, match="2 separators need as many weights, got 3"):
        Ensemble(members, [1, 2, 3])
    with pytest.raises(ValueError, match="must not be negative"):
        Ensemble(members, [1, -1])
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


@torch.inference_mode()
def test_mid_and_side_hear_what_is_in_the_middle_and_what_is_not(generator):
    class Parted(nn.Module):
        """One target per channel."""

        targets, sample_rate = ("first", "second"), 8000

        def forward(self, mixture):
            return torch.eye(2)[..., None] * mixture.unsqueeze(1)

    middle, wide = torch.randn(2, 1, 100, generator=generator)
    stereo = torch.cat([middle + wide, middle - wide])[None]
    y = MidSide(Parted())(stereo)[0]
    torch.testing.assert_close(y[0], middle.expand(2, -1))
    torch.testing.assert_close(y[1], torch.cat([wide, -wide]))
    for channels in (1, 3, 6):  # nothing is known of their middle
        x = torch.randn(1, channels, 30000, generator=generator)
        each = EachChannel(spectral(Bounded()))
        assert torch.equal(MidSide(each)(x), each(x))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8, 9])
@torch.inference_mode()
def test_stereo_pairs_take_any_channels_in_their_order(channels, generator):
    class StereoOnly(nn.Module):
        """Swaps the sides of a pair and says which pair it saw by its energy."""

        targets, sample_rate = ("same", "swapped"), 8000

        def forward(self, mixture):
            assert mixture.shape[1] == 2
            return torch.stack([mixture, mixture.flip(1)], 1)

    x = torch.randn(2, channels, 100, generator=generator)
    y = StereoPairs(StereoOnly())(x)
    assert torch.allclose(y[:, 0], x)
    pairs = {1: [0], 3: [1, 0, 2], 5: [1, 0, 2, 4, 3], 6: [1, 0, 2, 3, 5, 4], 7: [1, 0, 2, 3, 4, 6, 5]}
    default = [i ^ 1 if i ^ 1 < channels else i for i in range(channels)]
    expected = {**pairs, 8: [1, 0, 2, 3, 5, 4, 7, 6]}.get(channels, default)
    assert torch.allclose(y[:, 1], x[:, expected])


@pytest.mark.parametrize("rate", [8000, 11025, 48000, 96000])
@torch.inference_mode()
def test_resampled_keeps_length_and_stream(rate, generator):
    separator = Resampled(spectral(Bounded()), rate)
    x = torch.randn(1, 2, rate + 7, generator=generator)
    whole = separator(x)
    assert whole.shape == (1, 2, 2, rate + 7)
    streamed = torch.cat(list(stream(separator, x.split(3001, -1))), -1)
    assert streamed.shape == whole.shape
    assert (streamed - whole).abs().max() < 1e-4
    tone = torch.sin(torch.arange(rate) * 2 * torch.pi * 440 / rate).expand(1, 1, -1)
    middle = slice(rate // 4, rate // 2)
    assert (separator(tone).sum(1) - tone)[..., middle].abs().max() < 1e-3  # what both rates hold comes back


def test_aligned_cuts_streams_to_common_blocks():
    a = [torch.arange(0, 5), torch.arange(5, 12)]
    b = [torch.arange(0, 1), torch.arange(1, 1), torch.arange(1, 12)]
    pairs = list(aligned(a, b))
    assert all(torch.equal(x, y) for x, y in pairs)
    assert torch.equal(torch.cat([x for x, _ in pairs]), torch.arange(12))


def test_select_names_what_there_is():
    with pytest.raises(ValueError, match="no target 'voice': there are a, b"):
        Select(spectral(Bounded()), ["a", "voice"])


@torch.inference_mode()
def test_select_does_only_the_work_that_its_targets_need(noise):
    outer = Cascade(SEPARATORS["cascade"](), spectral(Patches(), targets=("e", "f")), stem="d")
    assert outer.targets == ("a", "c", "e", "f")
    calls = []
    for module in (outer.first.then, outer.then):
        module.register_forward_hook(lambda module, *_: calls.append(module))
    for names, needed in {
        ("a",): [],
        ("c", "a"): [outer.first.then],
        ("a", "f"): [outer.first.then, outer.then],
    }.items():
        calls.clear()
        y = Select(outer, names)(noise)
        assert calls == needed
        assert torch.equal(y, outer(noise)[:, [outer.targets.index(name) for name in names]])
    whole = Cascade(spectral(Bounded()), spectral(mss.classical.repet, targets=("c", "d")), stem="b")
    assert whole.context is None
    assert Select(whole, ["a"]).context == whole.first.context is not None
    assert Select(whole, ["c"]).context is None


@torch.inference_mode()
def test_chunks_go_inside_a_resampler(generator):
    x = torch.randn(1, 2, 30000, generator=generator)
    inside = Resampled(Chunked(spectral(Bounded()), segment=0.9), 11025)
    assert (inside(x) - Resampled(spectral(Bounded()), 11025)(x)).abs().max() < 1e-4
    patches = Patches()
    patches.grid = 4099  # of which 64 samples at 8 kHz are a whole number at 11025 Hz only after minutes
    outside = Resampled(spectral(patches), 11025)
    with pytest.raises(ValueError, match="put the Chunked inside"):
        Chunked(outside, segment=10)


@pytest.mark.parametrize("x", [torch.zeros(2, 100), torch.zeros(100), torch.zeros(1, 2, 100, dtype=torch.int16)])
def test_what_is_no_mixture_is_refused_before_it_takes_memory(x):
    for separator in (spectral(Bounded()), StereoPairs(spectral(Bounded()))):
        with pytest.raises(ValueError, match=r"a mixture is floating point \(batch, channel, sample\)"):
            separator(x)


def test_separators_of_other_make_work_in_an_ensemble(noise):
    class Plain:
        """Not a torch module, but a separator."""

        targets, sample_rate = ("a",), 8000

        def __call__(self, mixture):
            return mixture.unsqueeze(1)

    y = Ensemble([Plain(), Plain()])(noise)
    assert torch.equal(y[:, 0], noise)


def test_gradients_reach_every_parameter_of_a_network_in_training(generator):
    network = mss.nets.UNet(filters=(2, 3, 4), raw_skips=True, norm_last=True, dilated_head=True)
    estimator = mss.nets.UNetMasks([network], bins=64, patch=16).train()
    X = STFT(256, 64)(torch.randn(2, 2, 9000, generator=generator))
    estimator(X).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in estimator.parameters())


def test_a_stream_holds_no_spectrum_while_it_waits(noise):
    alive = weakref.WeakSet()

    def estimator(X):
        alive.update((X, V := torch.stack([X.abs(), X.abs()], 1)))
        return V

    def blocks():
        for block in noise.split(4000, -1):
            assert not alive, "while the next block is waited for"
            yield block

    estimator.context, estimator.block = 0, 32  # frames
    received = 0
    for y in spectral(estimator).stream(blocks()):
        assert not alive, "while what came out is used"
        received += y.shape[-1]
    assert received == noise.shape[-1]


def test_blocks_come_with_the_margins_that_each_tensor_asks_for():
    whole = torch.arange(35.0).view(1, -1), -torch.arange(70.0).view(2, -1)
    sizes = [10, 10, 10, 5]
    blocks = list(zip(*(x.split(sizes, -1) for x in whole), strict=True))
    start = 0
    for parts, size in zip(with_margins(iter(blocks), 0, 7), sizes, strict=True):
        for (x, own), all_of_it, margin in zip(parts, whole, (0, 7), strict=True):
            assert torch.equal(x, all_of_it[:, max(start - margin, 0) : start + size + margin])
            assert torch.equal(x[:, own], all_of_it[:, start : start + size])
        start += size
    assert start == 35
    assert list(with_margins(iter([]), 3)) == []


def test_blocks_with_margins_are_not_kept():
    """Of a block that was given out, only its last frames are."""
    alive = weakref.WeakSet()

    def blocks():
        for _ in range(6):
            alive.add(block := torch.zeros(1, 10))
            yield [block]
            del block

    for _ in with_margins(blocks(), 2):
        gc.collect()
        assert len(alive) <= 1, "the block after"


def test_copies_of_a_stream_keep_no_block_that_all_have_given():
    alive = weakref.WeakSet()

    def blocks():
        for number in range(80):
            block = torch.full((1, 1, 4), float(number))
            alive.add(block)
            yield block

    first, second = copies(blocks())
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        assert a is b
        assert float(a[0, 0, 0]) == number
        del a, b
        gc.collect()
        assert len(alive) <= 2, "itertools.tee has 57"
    ahead, behind = copies(iter(range(5)))
    assert list(ahead) == list(behind) == [0, 1, 2, 3, 4]
