"""Sample rate conversion with a windowed sinc (J. O. Smith, "Digital Audio Resampling"), whole or in blocks.

A rate change from p to q samples is q interleaved filters over p samples, so an input cut at multiples of p, with the
filter's reach on either side, gives the very samples of the whole.

The filters are torchaudio's, which applies them as a convolution of one channel. Few of them no library convolves well: 44100
to 1050 Hz is a single one of 5702 taps. As a matrix, of as many shifted copies as make it worth multiplying with, they take a
tenth of the time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import AudioError

__all__ = ["resample", "resample_blocks"]

_ZERO_CROSSINGS = 64
_ROLLOFF = 0.95  # of the lower Nyquist frequency, so that the Kaiser window's slope ends below it
_BETA = 14.77  # about 140 dB of stopband attenuation
_LARGEST_KERNEL = 80_000_000  # taps of all filters together: 320 MB; 44.1 to 8.192 kHz are 71 million
_MANY = 32  # filters side by side: so many are worth multiplying with
_SHORTEST_BLOCK = 1 << 16  # samples, of the higher rate, worth building the filters for


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate, keeping time zero.

    Args:
        waveform: (..., t) floating point.
        from_rate: Hz of `waveform`.
        to_rate: Hz wanted.

    Returns:
        (..., ceil(t * to_rate / from_rate)); the input itself if the rates are equal.

    Raises:
        AudioError: if a rate is not a positive integer, or if their ratio is so irregular (44100 to 44101 Hz) that
            the filters would not fit in memory.
    """
    p, q, _ = _ratio(from_rate, to_rate)
    if p == q or waveform.shape[-1] == 0:
        return waveform
    kind = waveform.device.type
    # mixed precision around a network is not for the filters of sound
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        if min(p, q) >= _MANY:
            return _filters(p, q, waveform.dtype, waveform.device)(waveform.contiguous())  # torchaudio's takes no other
        return _multiplied(waveform, p, q)


def _multiplied(waveform: Tensor, p: int, q: int) -> Tensor:
    """The same by a matrix.

    A cell of Q output samples is made of l cells of P input samples: where the output is longer, the input is laid out l times;
    else each cell of it is multiplied with all l parts of the filters, and the products are added.
    """
    filters, before = _matrix(p, q, waveform.dtype, waveform.device)
    parts, P, Q = filters.shape
    length = -(-waveform.shape[-1] * q // p)
    cells = max(-(-length // Q), 1)
    total = (cells + parts - 1) * P
    x = F.pad(waveform, (before, max(total - before - waveform.shape[-1], 0)))[..., :total]
    x = x.unflatten(-1, (-1, P))  # (..., cells + l - 1, P)
    if q > p:
        y = x.unfold(-2, parts, 1).transpose(-1, -2).flatten(-2) @ filters.flatten(0, 1)  # (..., cells, Q)
    else:
        products = (x @ filters.transpose(0, 1).flatten(1)).unflatten(-1, (parts, Q))  # (..., cells + l - 1, l, Q)
        y = sum(products[..., i : i + cells, i, :] for i in range(parts))
    return y.flatten(-2)[..., :length]


@functools.lru_cache(maxsize=4)
def _filters(p: int, q: int, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The filters of one ratio, which take longer to compute than to apply to a block."""
    from torchaudio.transforms import Resample  # costs a second to import, and most files need none

    # without a dtype they are computed in float64 and stored in float32
    wanted = None if dtype == torch.float32 else dtype
    with torch.inference_mode(False):  # who asks first need not be who differentiates
        return Resample(p, q, "sinc_interp_kaiser", _ZERO_CROSSINGS, _ROLLOFF, _BETA, dtype=wanted).to(device)


@functools.lru_cache(maxsize=4)
def _matrix(p: int, q: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """Copies of them, each p samples later than the last, (l, P, Q), and how many samples before the first they begin."""
    made = _filters(p, q, dtype, device)
    with torch.inference_mode(False):
        kernel = made.kernel.squeeze(1)  # (q, taps)
        taps, copies = kernel.shape[1], -(-_MANY // min(p, q))
        parts = -(-(taps + (copies - 1) * p) // (copies * p))
        filters = kernel.new_zeros(copies, q, parts * copies * p)
        for i in range(copies):
            filters[i, :, i * p : i * p + taps] = kernel
        return filters.flatten(0, 1).T.reshape(parts, copies * p, copies * q).contiguous(), made.width


def resample_blocks(blocks: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    """`resample` in bounded memory: blocks (..., t) of any lengths in, whose concatenation is resampled, blocks out."""
    p, q, reach = _ratio(from_rate, to_rate)
    if p == q:
        yield from blocks
        return
    reach = math.ceil(reach / p) * p  # samples, a multiple of p
    step = math.ceil(max(_SHORTEST_BLOCK * p // max(p, q), 4 * reach) / p) * p
    held: list[Tensor] = []
    count = past = 0  # samples held; how many of them are context of the left side
    for block in blocks:
        held.append(block)
        count += block.shape[-1]
        if count < past + step + reach:
            continue
        whole = torch.cat(held, dim=-1)
        ready = (count - past - reach) // p * p  # samples with full context on the right
        output = resample(whole[..., : past + ready + reach], from_rate, to_rate)
        yield output[..., past * q // p : (past + ready) * q // p]
        keep = past + ready - min(reach, past + ready)
        held, count, past = [whole[..., keep:]], count - keep, min(reach, past + ready)
    if held and count > past:
        yield resample(torch.cat(held, dim=-1), from_rate, to_rate)[..., past * q // p :]


def _ratio(from_rate: int, to_rate: int) -> tuple[int, int, int]:
    """The rates in lowest terms and how far the filter reaches, in input samples."""
    if from_rate != int(from_rate) or to_rate != int(to_rate) or from_rate <= 0 or to_rate <= 0:
        raise AudioError(f"Sample rates are positive integers in Hz, not {from_rate!r} and {to_rate!r}.")
    divisor = math.gcd(int(from_rate), int(to_rate))
    p, q = int(from_rate) // divisor, int(to_rate) // divisor
    reach = math.ceil(_ZERO_CROSSINGS * p / (min(p, q) * _ROLLOFF)) + p
    if p != q and q * (2 * reach + p) > _LARGEST_KERNEL:
        raise AudioError(
            f"{from_rate} Hz to {to_rate} Hz needs {q} filters, too many to hold: choose rates with a larger common "
            "divisor, such as 44100 and 48000."
        )
    return p, q, reach
