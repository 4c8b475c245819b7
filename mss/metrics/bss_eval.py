"""BSS Eval: SDR, ISR, SIR and SAR per target and frame, exactly as ``museval`` gives them, several dozen times faster.

E. Vincent, R. Gribonval, C. Févotte, "Performance measurement in blind audio source separation", IEEE TASLP 14(4),
2006; images version (v3) and version 4 (one filter for the whole track): F.-R. Stöter, A. Liutkus, N. Ito, "The 2018
Signal Separation Evaluation Campaign", LVA/ICA 2018. The reference tool is museval 0.4.1 (``museval.metrics``).

An estimate y is split as y = s + e_spat + e_interf + e_artif, with P_j the least-squares projection on the
``filter_length`` delayed copies of every channel of reference j, and P the one on those of all references:

    e_spat = P_j y - s        e_interf = P y - P_j y        e_artif = y - P y

How it is computed, and why it is fast:

1. *Filters* (`_filters.py`). The normal equations G C = D need only correlations at lags below ``filter_length``. They
   come from one pass of blockwise FFTs over all signals at once, not from FFTs as long as the track. G is block-Toeplitz
   and shared by all estimates: one Cholesky factor serves them all, and its diagonal blocks give P_j.
2. *Energies* (`_energies.py`). museval filters the references of each frame, zero-padded, and sums squares in time. A
   frame's spectrum on N >= window + filter_length - 1 points holds the same signals without aliasing, so Parseval gives
   the energies with no inverse FFT. Frames too long for that (BSS Eval v3, or the whole track) are cut in overlapping
   segments and summed in time, so that memory stays bounded at any length. Every energy is a sum of squares of the
   signal itself, never a difference of energies: a SAR of 150 dB is as exact as one of 5 dB.
3. The SDR of the images version needs no filter: it is the plain SNR of the frame.

Differences from museval, all on purpose:

- An estimate equal to its reference gives SDR = inf exactly; museval returns its rounding noise (about 300 dB).
- The best permutation ignores silent frames; one silent frame makes museval fall back on the identity, silently.
- When G is singular, as with a mono bass in a stereo mix, the filters are the least-squares ones; museval's come from LU
  or, if that fails, from an SVD of half a minute. The projections agree, and so do the scores.
- When G is singular but for rounding, the filters are rounding noise in the directions without energy, in museval as
  here, and a frame's cut edges make that noise heard. Music at 16 bits agrees to 1e-6 dB, or to 4e-6 where a codec had
  cut the treble, which is as far as museval is from the exact solution. Decoded AAC or MP3 kept in floating point has a
  G with a condition number of 1e16: there SIR and SAR of single frames differ by tenths of a dB, as museval's do from
  themselves when the sources are listed in another order. Round such references to 16 bits, as stempeg does.
- NaN, Inf, integer audio, windows that are not whole samples and swapped axes are refused with a message.

Letters: C and Cj filters of P and P_j, L filter length.
Axes: n reference, e estimate, c channel, t sample, k frame, p problem (a batch item, or a frame when filters are
framewise).
"""

import math
from itertools import permutations
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mss.metrics._blocks import WORKSPACE
from mss.metrics._energies import energies
from mss.metrics._filters import filters
from mss.metrics._inputs import check_shapes

__all__ = ["BSSEval", "bss_eval", "is_silent"]

MAX_PERMUTED = 8  # 8! = 40320 orders; 10! would no longer fit in memory


class BSSEval(NamedTuple):
    """Result of `bss_eval`, in dB, float64. Silent frames are NaN, an error of exactly zero gives inf."""

    sdr: Tensor  # (..., n, frames) source to distortion ratio
    isr: Tensor  # (..., n, frames) image to spatial distortion ratio; NaN in the "sources" variant
    sir: Tensor  # (..., n, frames) source to interference ratio
    sar: Tensor  # (..., n, frames) source to artefact ratio
    perm: Tensor  # (..., n, 1), or (..., n, frames) with framewise filters: the estimate taken for each reference


def bss_eval(
    references: Tensor,
    estimates: Tensor,
    *,
    window: float = 44100,
    hop: float = 44100,
    filter_length: int = 512,
    framewise_filters: bool = False,
    mode: Literal["v4", "v3"] = "v4",
    variant: Literal["images", "sources"] = "images",
    compute_permutation: bool = False,
) -> BSSEval:
    """BSS Eval of `estimates` against `references`, both (..., n, c, t), on their device.

    A frame where any reference or any estimate is silent (its channels sum to zero at every sample, so exact anti-phase
    stereo counts) is NaN for all sources. A last partial window is dropped; a track shorter than a window is one frame.

    Args:
        references: True sources (..., n, c, t), floating point.
        estimates: Estimated sources, same shape.
        window: Frame length in samples; `math.inf` for the whole track.
        hop: Step between frames in samples.
        filter_length: Taps of the allowed distortion filters.
        framewise_filters: Fit the filters in each frame anew, as BSS Eval v3 does, instead of once per track.
        mode: "v3" is another name for `framewise_filters=True`, as in `museval.evaluate`. The v3 campaigns used
            `window=30 * 44100, hop=15 * 44100`.
        variant: "images" (all campaigns), or "sources": the filtered reference is the target (BSS Eval v2).
        compute_permutation: Assign estimates to references by the highest mean SIR, over the track or, with framewise
            filters, in each frame.

    Returns:
        `sdr`, `isr`, `sir`, `sar`, each (..., n, frames), and `perm`.

    Raises:
        ValueError: For inputs on which a score would mean nothing: different shapes, swapped axes, NaN or Inf, a
            source that is silent all along.

    Example:
        >>> s = torch.randn(2, 2, 44100)
        >>> bss_eval(s, 0.5 * s).sdr.round(decimals=2).flatten().tolist()
        [6.02, 6.02]
    """
    _check_options(window, hop, filter_length, mode, variant)
    _check_signals(references, estimates)
    *batch, n, c, t = references.shape
    if compute_permutation and n > MAX_PERMUTED:
        raise ValueError(f"compute_permutation tries all n! orders: expected at most {MAX_PERMUTED} sources, got {n}.")
    window, hop = _whole_samples(window, hop, t)
    s, y = references.detach().reshape(-1, n, c, t), estimates.detach().reshape(-1, n, c, t)
    framewise = framewise_filters or mode == "v3"
    if framewise:  # each frame is a problem of its own, with one frame: (b, n, c, t) -> (b, n, c, k, window)
        s, y = s.unfold(-1, window, hop), y.unfold(-1, window, hop)
        problems = [(s[b, :, :, k], y[b, :, :, k]) for b in range(s.shape[0]) for k in range(s.shape[3])]
    else:
        problems = list(zip(s, y, strict=True))

    scores = torch.stack(  # (p, 4, n, e, k)
        [_score(*sy, window, hop, filter_length, variant, compute_permutation) for sy in problems]
    )
    if compute_permutation:
        order = _best_order(scores[:, 2])
        scores = scores.take_along_dim(order[:, None, :, None, None], 3)
    else:
        order = torch.arange(n, device=s.device).expand(len(problems), n)
    scores = scores.squeeze(3)
    if framewise:  # (b·k, 4, n, 1) -> (b, 4, n, k)
        scores = scores.unflatten(0, (s.shape[0], -1)).squeeze(-1).movedim(1, -1)
        order = order.unflatten(0, (s.shape[0], -1)).movedim(1, -1)
    else:
        order = order.unsqueeze(-1)
    scores = scores.reshape(*batch, *scores.shape[1:])
    return BSSEval(*scores.unbind(-3), perm=order.reshape(*batch, *order.shape[1:]))


def is_silent(signals: Tensor) -> Tensor:
    """Which of the sources (..., n, c, t) are silent in museval's sense, (..., n) bool: leave them out."""
    silent = torch.ones(signals.shape[:-2], dtype=torch.bool, device=signals.device)
    for block in signals.split(max(1, WORKSPACE // max(1, signals[..., 0].numel())), -1):
        silent &= ~block.sum(-2).any(-1)
        if not silent.any():  # music: after the first block or two
            break
    return silent


# ---------------------------------------------------------------------------------------------------- input


def _check_options(window: float, hop: float, filter_length: int, mode: str, variant: str) -> None:
    for name, value in (("window", window), ("hop", hop)):
        if not (value == math.inf or (value >= 1 and value == int(value))):
            raise ValueError(f"{name}: expected a whole number of samples >= 1 or math.inf, got {value}; round it.")
    if filter_length < 1 or filter_length != int(filter_length):
        raise ValueError(f"filter_length: expected a whole number of taps >= 1, got {filter_length}.")
    if mode not in ("v4", "v3"):
        raise ValueError(f'mode: expected "v4" (one filter per track) or "v3" (framewise filters), got {mode!r}.')
    if variant not in ("images", "sources"):
        raise ValueError(f'variant: expected "images" or "sources", got {variant!r}.')


def _check_signals(references: Tensor, estimates: Tensor) -> None:
    check_shapes(references, estimates)
    for name, x in (("references", references), ("estimates", estimates)):
        if not torch.stack(torch.aminmax(x)).isfinite().all():  # both extremes propagate NaN, and need no copy
            raise ValueError(f"{name}: contains NaN or Inf; find out where the file or the separator makes them.")
        silent = is_silent(x)
        if silent.any():
            where = [tuple(i) if len(i) > 1 else i[0] for i in silent.nonzero().tolist()]
            raise ValueError(
                f"{name}: source {where} is silent over the whole track (its channels sum to zero), BSS Eval is not "
                "defined; leave it out of both references and estimates (see is_silent)."
            )


def _whole_samples(window: float, hop: float, t: int) -> tuple[int, int]:
    """Window and hop as integers; a window of the track or more is one frame, whatever the hop."""
    if window >= t:
        return t, t
    if hop == math.inf:
        raise ValueError(f"hop=math.inf needs window=math.inf, got a window of {window} samples on a track of {t}.")
    return int(window), int(hop)


# ------------------------------------------------------------------------------------------ one problem


def _score(s: Tensor, y: Tensor, window: int, hop: int, length: int, variant: str, every: bool) -> Tensor:
    """SDR, ISR, SIR, SAR (4, n, e, k) of references s and estimates y (n, c, t), filters fitted on all of t.

    e is 1 (estimate j belongs to reference j), or n if `every` estimate is scored against every reference.
    """
    C, Cj = filters(s, y, length, every)
    true, error, target, explained, rest, interf, artif = energies(s, y, C, Cj, window, hop, variant, every)
    if variant == "images":
        sdr, isr = _decibels(true, error), _decibels(true, rest)
    else:
        sdr, isr = _decibels(target, rest), torch.full_like(true, math.nan)
    sir, sar = _decibels(target, interf), _decibels(explained, artif)
    return torch.stack((sdr, isr, sir, sar)).masked_fill(_silent_frames(s, y, window, hop), math.nan)


def _silent_frames(s: Tensor, y: Tensor, window: int, hop: int) -> Tensor:
    """Frames (k,) in which any source of s or y (n, c, t) is silent: its channels sum to zero at every sample."""
    frames = [x.unfold(-1, window, hop) for x in (s, y)]
    few = min(window, 64)  # samples: enough to tell that nearly every frame sounds, without reading the track once more
    silent = ~torch.stack([x[..., -few:].sum(1).any(-1) for x in frames]).all(0).all(0)
    for k in silent.nonzero().flatten().tolist():
        silent[k] = ~torch.stack([x[:, :, k].sum(1).any(-1) for x in frames]).all()
    return silent


def _decibels(num: Tensor, den: Tensor) -> Tensor:
    return torch.where(den == 0, math.inf, 10 * torch.log10(num / den))  # 0/0 is inf too, as in museval


def _best_order(sir: Tensor) -> Tensor:
    """Order (p, n) of the estimates with the highest SIR (p, n references, n estimates, k), averaged over frames."""
    n = sir.shape[1]
    orders = torch.tensor(list(permutations(range(n))), device=sir.device)  # (n!, n)
    mean = sir.nanmean(-1).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)  # all silent: the first order wins
    total = mean[:, torch.arange(n, device=sir.device), orders].mean(-1)  # (p, n!)
    return orders[total.argmax(-1)]
