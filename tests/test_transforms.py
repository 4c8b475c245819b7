"""The STFT against librosa and torch, its inverse, and the block-by-block form of both."""

import weakref

import librosa
import numpy as np
import pytest
import torch

from mss.transforms import STFT

PRESETS = [STFT(), STFT(2048, 512), STFT(1024, 256, "hamming"), STFT(1764, 441), STFT(1000, 300)]
PRESETS += [STFT(1024, 768), STFT(1024, 256, padding="reflect"), STFT(64, 32, padding="reflect")]


@pytest.mark.parametrize("transform", PRESETS, ids=str)
@pytest.mark.parametrize("length", [1, 1000, 4096, 44101])
def test_round_trip_is_exact(transform, length, generator):
    x = torch.randn(2, 3, length, dtype=torch.float64, generator=generator)
    X = transform(x)
    assert X.shape == (2, 3, transform.bins, transform.frames(length))
    assert torch.allclose(transform.inverse(X, length), x, atol=1e-12)
    single = transform.inverse(transform(x.float()), length)
    assert single.dtype == torch.float32
    assert (single - x).abs().max() < 1e-5


def test_equals_librosa(excerpt):
    x = excerpt["mixture"][0, :30000].double()
    ours = STFT(2048, 512)(x)
    theirs = librosa.stft(x.numpy(), n_fft=2048, hop_length=512, center=True, pad_mode="constant", dtype=np.complex128)
    assert np.abs(ours.numpy() - theirs).max() < 1e-10


@pytest.mark.parametrize("length", [600, 5000])
def test_reflection_is_that_of_torch(length, generator):
    x = torch.randn(2, length, dtype=torch.float64, generator=generator)
    window = torch.hann_window(1024, dtype=torch.float64)
    theirs = torch.stft(x, 1024, 256, window=window, pad_mode="reflect", return_complex=True)
    assert torch.allclose(STFT(1024, 256, padding="reflect")(x), theirs, atol=1e-12)


def test_inverse_equals_torch_on_a_masked_spectrum(excerpt, generator):
    x = excerpt["mixture"][:, :50000].double()
    transform = STFT()
    X = transform(x)
    X = X * torch.rand(X.shape, dtype=torch.float64, generator=generator)  # inconsistent, as after any mask
    window = torch.hann_window(4096, dtype=torch.float64)
    theirs = torch.istft(X, 4096, 1024, window=window, length=x.shape[-1])
    assert torch.allclose(transform.inverse(X, x.shape[-1]), theirs, atol=1e-12)


@pytest.mark.parametrize("transform", [*PRESETS, STFT(2048, 1024)], ids=str)
def test_what_is_done_to_a_spectrogram_never_returns_louder_at_the_end(transform, generator):
    longest = max(transform.hop - 1, 1)  # of what is beyond the last frame's centre
    for beyond in (0, 1, longest // 2, longest):
        length = 20 * transform.hop + beyond
        X = transform(torch.randn(1, length, dtype=torch.float64, generator=generator))
        y = transform.inverse(X * torch.rand(X.shape, generator=generator), length)
        assert y.abs().max() < 10, beyond


@pytest.mark.parametrize("transform", PRESETS, ids=str)
@pytest.mark.parametrize("length", [1, 5000, 20000, 20480])
@pytest.mark.parametrize(("size", "block"), [(1, 777), (7, 4096), (16, 100000)])
def test_blocks_put_together_are_the_whole(transform, length, size, block, generator):
    x = torch.randn(2, length, dtype=torch.float64, generator=generator)
    blocks = list(transform.blocks(x.split(block, -1), size))
    assert all(b.shape[-1] == size for b in blocks[:-1])
    X = torch.cat(blocks, -1)
    assert torch.allclose(X, transform(x), atol=1e-11)
    y = torch.cat(list(transform.inverse_blocks(X.split(size, -1))), -1)
    assert torch.allclose(y[..., :length], x, atol=1e-11)


@pytest.mark.parametrize("n_fft", [0, 1025, 2**40])
def test_windows_that_cannot_be_are_refused(n_fft):
    with pytest.raises(ValueError, match="n_fft must be an even number"):
        STFT(n_fft, 256)


def test_the_inverse_of_blocks_takes_one_without_frames(generator):
    transform = STFT(256, 64)
    X = transform(torch.randn(1, 2, 5000, generator=generator))
    blocks = [X[..., :10], X[..., :0], X[..., 10:]]
    y = torch.cat(list(transform.inverse_blocks(blocks)), -1)
    torch.testing.assert_close(y[..., :5000], transform.inverse(X, 5000))


def test_the_inverse_of_blocks_holds_none_while_it_waits(generator):
    """In a loop the last one would stay: of a network with two stems, 67 MB."""
    transform, alive = STFT(64, 16), weakref.WeakSet()

    def block(number):
        assert not alive, "while the next is made"
        X = torch.randn(2, 33, 10, dtype=torch.complex64, generator=generator)
        alive.add(X)
        return X

    for _ in transform.inverse_blocks(map(block, range(4))):
        assert not alive, "while what came out is used"


def test_gradients_flow_both_ways(generator):
    x = torch.randn(1, 90, dtype=torch.float64, generator=generator, requires_grad=True)
    transform = STFT(32, 8)
    assert torch.autograd.gradcheck(lambda x: transform.inverse(transform(x) * 0.5, 90), x)


def test_any_device():
    X = STFT()(torch.empty(1, 2, 44100, device="meta"))
    assert X.device.type == "meta"
    assert STFT().inverse(X, 44100).shape == (1, 2, 44100)


def test_settings_that_cannot_be_inverted_are_refused():
    with pytest.raises(ValueError, match="hop must be between 1 and 3 n_fft // 4 = 768"):
        STFT(1024, 800)
    with pytest.raises(ValueError, match="window must be one of hann, hamming"):
        STFT(window="square")
    with pytest.raises(ValueError, match="padding must be 'zeros' or 'reflect', not 'wrap'"):
        STFT(padding="wrap")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(("n_fft", "hop", "length"), [(512, 128, 3000), (512, 200, 3000), (64, 32, 1), (100, 30, 777)])
def test_the_compiled_inverse_equals_the_differentiable_one(n_fft, hop, length, dtype, generator):
    transform = STFT(n_fft, hop)
    frames = transform(torch.zeros(1, length)).shape[-1]
    X = torch.randn(2, 3, n_fft // 2 + 1, frames, dtype=dtype, generator=generator)
    for wanted in (length, length // 2, length + 400):  # also to less, and to more than there is
        ours, theirs = transform.inverse(X, wanted), transform.inverse(X.clone().requires_grad_(), wanted)
        assert ours.shape == theirs.shape == (2, 3, wanted)
        assert torch.allclose(ours, theirs.detach(), atol=1e-5 if dtype == torch.complex64 else 1e-12)
    # one or many at a time, Fourier transforms may round otherwise
    one, many = transform.inverse(X[0, 0], length), transform.inverse(X, length)[0, 0]
    assert torch.allclose(one, many, atol=1e-6 if dtype == torch.complex64 else 1e-12)
