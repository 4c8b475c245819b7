"""BSS Eval: SDR, ISR, SIR and SAR per target and frame, exactly as ``museval`` gives them, several dozen times faster.

E. Vincent, R. Gribonval, C. Févotte, "Performance measurement in blind audio source separation", IEEE TASLP 14(4),
2006; images version (v3) and version 4 (one filter for the whole track): F.-R. Stöter, A. Liutkus, N. Ito, "The 2018
Signal Separation Evaluation Campaign", LVA/ICA 2018. The reference tool is museval 0.4.1 (``museval.metrics``).

An estimate y is split as y = s + e_spat + e_interf + e_artif, with P_j the least-squares projection on the
``filter_length`` delayed copies of every channel of reference j, and P the one on those of all references:

    e_spat = P_j y - s        e_interf = P y - P_j y        e_artif = y - P y

How it is computed, and why it is fast:

1. *Filters.* The normal equations G C = D need only correlations at lags below ``filter_length``. They come from one
   pass of blockwise FFTs over all signals at once (`_correlations`), not from FFTs as long as the track. G is
   block-Toeplitz and shared by all estimates: one Cholesky factor serves them all, and its diagonal blocks give P_j.
2. *Energies.* museval filters the references of each frame, zero-padded, and sums squares in time. A frame's spectrum
   on N >= window + filter_length - 1 points holds the same signals without aliasing, so Parseval gives the energies
   with no inverse FFT (`_parseval`). Frames too long for that (BSS Eval v3, or the whole track) are cut in
   overlapping segments and summed in time (`_segments`), so that memory stays bounded at any length. Every energy is
   a sum of squares of the signal itself, never a difference of energies: a SAR of 150 dB is as exact as one of 5 dB.
3. The SDR of the images version needs no filter: it is the plain SNR of the frame.

Differences from museval, all on purpose:

- An estimate equal to its reference gives SDR = inf exactly; museval returns its rounding noise (about 300 dB).
- The best permutation ignores silent frames; one silent frame makes museval fall back on the identity, silently.
- When G is singular, as with a mono bass in a stereo mix, the filters are the least-squares ones (`_least_squares`);
  museval's come from LU or, if that fails, from an SVD of half a minute. The projections agree, and so do the scores.
- NaN, Inf, integer audio, windows that are not whole samples and swapped axes are refused with a message.

Letters: R correlations, G Gram matrix, D right-hand side, C and Cj filters of P and P_j, L filter length, X spectra.
Axes: p problem (a batch item, or a frame when filters are framewise), n reference, e estimate, c channel, a and b
signals (source and channel in one), k frame, f bin, m frame or block in a chunk.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mss.metrics._inputs import check_shapes

__all__ = ["BSSEval", "bss_eval", "is_silent"]

MAX_PERMUTED = 8  # 8! = 40320 orders; 10! would no longer fit in memory
WORKSPACE = 1 << 19  # real samples per chunk and thread: 4 MiB of float64, whatever the length of the track
BLOCK = 1 << 13  # FFT points of the blockwise passes: long against the filters, short against the cache
BINS = 3 << 11  # of a spectrum at a time: fewer bins stay in the cache, but more operations take their overhead
LONG_FRAME = 1 << 17  # samples; above, a whole-frame FFT of all signals would fill the memory


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
    C, Cj = _filters(s, y, length, every)
    true, error, target, explained, rest, interf, artif = _energies(s, y, C, Cj, window, hop, variant, every)
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


# ------------------------------------------------------------------------------------------ the filters


def _filters(s: Tensor, y: Tensor, length: int, every: bool) -> tuple[Tensor, Tensor]:
    """Filters C (n·c in, L, n·c out) of P for all estimates, and Cj (n, e, c in, L, c out) of P_j for the pairs."""
    n, c = s.shape[:2]
    R = _correlations(s, y, length)  # (n·c, 2·n·c, L)
    Rs, D = R[:, : n * c], R[:, n * c :].transpose(1, 2)  # D (a, lag, b)
    R = torch.cat((Rs.transpose(0, 1).flip(-1)[..., :-1], Rs), -1)  # lags -(L-1)..L-1, for R_ab(-τ) = R_ba(τ)

    Gj = torch.stack([_gram(R[i : i + c, i : i + c], length) for i in range(0, n * c, c)])
    Cj = _solve(Gj, D.reshape(n, c * length, n * c)).reshape(n, c, length, n, c)  # all pairs cost no more than n
    Cj = Cj.permute(0, 3, 1, 2, 4) if every else Cj.diagonal(dim1=0, dim2=3).movedim(-1, 0).unsqueeze(1)
    if n == 1:
        return Cj[0, 0], Cj
    C = _solve(_gram(R, length)[None], D.reshape(1, n * c * length, n * c))
    return C.reshape(n * c, length, n * c), Cj


def _gram(R: Tensor, length: int) -> Tensor:
    """Block-Toeplitz Gram matrix (a·L, a·L) from two-sided correlations (a, a, 2L-1): (a,i), (b,j) holds R_ab(i-j)."""
    a = torch.arange(R.shape[0], device=R.device)
    i = torch.arange(length, device=R.device)
    lag = i[:, None, None] - i + length - 1  # (i, 1, j)
    G = R[a[:, None, None, None], a[:, None], lag]  # (a, i, b, j), gathered straight into place
    G = G.reshape(len(a) * length, -1)
    G.diagonal().add_(torch.finfo(G.dtype).eps)  # as museval: makes the empty rows of a hard-panned source solvable
    return G


def _solve(G: Tensor, D: Tensor) -> Tensor:
    """Solution of G C = D (p, rows, columns) by Cholesky, or least squares where G (overwritten) is singular."""
    factor, failed = torch.linalg.cholesky_ex(G)
    C = torch.cholesky_solve(D, factor)
    del factor
    for p in failed.nonzero().flatten().tolist():
        C[p] = _least_squares(G[p], D[p])
    return C


def _least_squares(G: Tensor, D: Tensor) -> Tensor:
    """Least squares solution of G C = D for a singular G (rows, rows) >= 0, which is overwritten.

    A channel that repeats another, such as a bass in mono, is common, and an SVD of 4096 rows takes half a minute. A
    ridge at rounding level makes G definite; repeating the solve on what is left over then removes the ridge's effect,
    by a factor ridge / eigenvalue each time, from all but the null directions, where C stays at zero.
    """
    ridge = 0.0
    step = torch.finfo(G.dtype).eps * G.diagonal().sum()
    for _ in range(8):
        G.diagonal().add_(step)
        ridge = ridge + step
        factor, failed = torch.linalg.cholesky_ex(G)
        if not failed:
            break
        step = 16 * step
    else:
        raise ValueError("the correlations of the references overflow; scale references and estimates to about +-1.")
    C = torch.zeros_like(D)
    for _ in range(4):
        C = C + torch.cholesky_solve(D - G @ C + ridge * C, factor)
    return C


def _correlations(s: Tensor, y: Tensor, length: int) -> Tensor:
    """R_ab(τ) = Σ_t s_a(t) x_b(t+τ), lags 0 ≤ τ < length, x all of s and y: (n, c, t) twice -> (n·c, 2·n·c, length).

    Blocks of all signals are zero-padded, so that each needs one FFT; the products within a block are summed on the
    spectra. What this misses, the end of a block of s against the beginning of the next of x, is as short as the lags.
    """
    n, c, t = s.shape
    n_fft, n_join = _block_size(length), _power_of_two(2 * length)
    step = n_fft - length + 1
    lags = length - 1
    m = max(1, WORKSPACE // (n_fft * 2 * n * c))  # blocks at a time

    def spectra(starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        within = s.new_zeros((n_fft // 2 + 1, n * c, 2 * n * c), dtype=torch.complex128)
        across = s.new_zeros((n_join // 2 + 1, n * c, 2 * n * c), dtype=torch.complex128)
        padded = s.new_zeros((2 * n * c, m, n_fft), dtype=torch.float64)
        for start in starts:
            x = _slice(s, y, start, start + m * step + lags, (0, t))
            padded[..., :step] = x[:, : m * step].unflatten(-1, (m, step))
            X = _bins_first(torch.fft.rfft(padded))  # (f, b, m)
            # bins lead, so that one batched product (f, a, m) @ (f, m, b) serves all pairs; the conjugate of what is
            # wanted, for BLAS conjugates a transposed factor for nothing, but another only by a copy
            within.baddbmm_(X[:, : n * c], X.mH)
            if lags:
                ends, beginnings = padded[: n * c, :, step - lags : step], x[:, step:].unfold(-1, lags, step)
                X = _bins_first(torch.fft.rfft(beginnings, n=n_join))
                across.baddbmm_(_bins_first(torch.fft.rfft(ends, n=n_join)), X.mH)
        return within, across

    within, across = _shared(spectra, range(0, t, m * step), s.device)
    R = torch.fft.irfft(within.permute(1, 2, 0).conj(), n=n_fft)[..., :length]
    return R + torch.fft.irfft(across.permute(1, 2, 0).conj(), n=n_join).roll(lags, -1)[..., :length]


# ------------------------------------------------------------------------------------------ the energies


def _energies(
    s: Tensor, y: Tensor, C: Tensor, Cj: Tensor, window: int, hop: int, variant: str, every: bool
) -> Tensor:
    """Energies (7, n, e, k) of s, s-y and the five signals of `_filtered`."""
    (n, c, t), length = s.shape, C.shape[1]
    frames = (t - window) // hop + 1
    whole = window <= LONG_FRAME
    n_fft = _fft_size(window + length - 1) if whole else _block_size(length)
    m = max(2 if whole else 1, WORKSPACE // (n_fft * 2 * n * c))  # frames, or segments, at a time
    H = _responses(C, Cj, n_fft)

    def whole_frames(chunks: Sequence[tuple[int, int]]) -> tuple[Tensor]:
        E = torch.zeros((7, n, n if every else 1, frames), dtype=torch.float64, device=s.device)
        for k, _ in chunks:
            stop = min(k + m, frames)
            x = _frames(s, y, window, hop, slice(k, stop), n_fft)  # (2·n·c, m, time)
            E[:2, ..., k:stop] = _plain(x[..., :window], n, every)
            E[2:, ..., k:stop] = _parseval(torch.fft.rfft(x), H, n_fft, n, variant, every)
        return (E,)

    def segments(chunks: Sequence[tuple[int, int]]) -> tuple[Tensor]:
        E = torch.zeros((7, n, n if every else 1, frames), dtype=torch.float64, device=s.device)
        for k, start in chunks:
            # each segment begins length-1 samples before the last one ended: there the cyclic convolution wraps around
            x = _slice(s, y, start - length + 1, start + m * step, (k * hop, k * hop + window)).unfold(-1, n_fft, step)
            spectra = _project(torch.fft.rfft(x[: n * c]), H, slice(None))
            P, Pj = (torch.fft.irfft(Y, n=n_fft)[..., length - 1 :] for Y in spectra)
            x = x[..., length - 1 :]
            E[:2, ..., k] += _plain(x, n, every).sum(-1)
            E[2:, ..., k] += _filtered(x, P, Pj, variant, every).sum(-1)
        return (E,)

    if whole:
        return _shared(whole_frames, [(k, 0) for k in range(0, frames, m)], s.device)[0]
    step = n_fft - length + 1
    starts = [(k, i) for k in range(frames) for i in range(k * hop, k * hop + window + length - 1, m * step)]
    return _shared(segments, starts, s.device)[0]


def _plain(x: Tensor, n: int, every: bool) -> Tensor:
    """Energies (2, n, e, m) of s and s-y from samples (2·n·c, m, time)."""
    s, y = x.unflatten(0, (2, n, -1))
    error = _power(s.unsqueeze(1) - _other(y, every))
    return torch.stack((_power(s).unsqueeze(1).expand_as(error), error))


def _responses(C: Tensor, Cj: Tensor, n_fft: int) -> tuple[Tensor, Tensor]:
    """Frequency responses of P (n estimates, c out, n·c in, f) and of P_j (n, e, c out, c in, f)."""
    P = torch.fft.rfft(C, n=n_fft, dim=1).permute(2, 0, 1).unflatten(0, (-1, Cj.shape[2]))
    return P.contiguous(), torch.fft.rfft(Cj, n=n_fft, dim=3).permute(0, 1, 4, 2, 3).contiguous()


def _project(S: Tensor, H: tuple[Tensor, Tensor], bins: slice) -> tuple[Tensor, Tensor]:
    """P y (n, c, m, f) and P_j y (n, e, c, m, f) from spectra S (n·c, m, f) of the references."""
    # a running sum over the few input channels: a matrix product would need the bins first in memory, and moving them
    # there costs more than the product
    HP, HPj = H[0][..., None, bins], H[1][..., None, bins]  # an axis for m
    P = HP[:, :, 0] * S[0]
    for i in range(1, len(S)):
        P.addcmul_(HP[:, :, i], S[i])
    Sj = S.unflatten(0, (-1, 1, HPj.shape[3], 1))  # (n, 1, c in, 1, m, f)
    Pj = HPj[:, :, :, 0] * Sj[:, :, 0]
    for i in range(1, HPj.shape[3]):
        Pj.addcmul_(HPj[:, :, :, i], Sj[:, :, i])
    return P, Pj


def _parseval(X: Tensor, H: tuple[Tensor, Tensor], n_fft: int, n: int, variant: str, every: bool) -> Tensor:
    """`_filtered` energies (5, n, e, m) from the spectra X (2·n·c, m, f) of whole frames, some bins at a time."""
    X[..., [0, -1]] *= math.sqrt(0.5)  # in half a spectrum all bins count twice, but not these (n_fft is even)
    total: Tensor | float = 0.0
    for f in range(0, X.shape[-1], BINS):
        bins = slice(f, f + BINS)
        x = X[..., bins]
        total = total + _filtered(x, *_project(x[: len(x) // 2], H, bins), variant, every)
    return total * (2 / n_fft)


def _filtered(x: Tensor, P: Tensor, Pj: Tensor, variant: str, every: bool) -> Tensor:
    """Energies (5, n, e, m) of P_j y, P y, e_spat (sources variant: y - P_j y), e_interf and e_artif.

    Args:
        x: The references, then the estimates (2·n·c, m, time or bins).
        P: P y of all estimates (n, c, m, time or bins).
        Pj: P_j y of all pairs (n, e, c, m, time or bins).
    """
    s, y = x.unflatten(0, (2, *P.shape[:2]))
    rest = Pj - s.unsqueeze(1) if variant == "images" else _other(y, every) - Pj
    parts = Pj, _other(P, every), rest, _other(P, every) - Pj, _other(y - P, every)
    return torch.stack(torch.broadcast_tensors(*(_power(part) for part in parts)))


def _other(x: Tensor, every: bool) -> Tensor:
    """Signals of the estimates (n, ...) on the grid (n, e, ...) of references and estimates."""
    return x.unsqueeze(0 if every else 1)


def _power(x: Tensor) -> Tensor:
    """Energy (..., m) of real or complex signals (..., c, m, time or bins)."""
    x = torch.view_as_real(x).flatten(-2) if x.is_complex() else x
    return torch.linalg.vector_norm(x, dim=-1).square().sum(-2)  # the norm reads once and stores no squares


# --------------------------------------------------------------------------------------------- blocks


def _shared(
    work: Callable[[Sequence], tuple[Tensor, ...]], items: Sequence, device: torch.device
) -> tuple[Tensor, ...]:
    """Sums of the results of `work` over parts of the items, one part per CPU thread.

    Threads that each take whole chunks stay in their own cache and meet once; with torch's own threads inside every
    operation they would meet thousands of times, and on a machine that also does other things each time wait.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    if workers == 1:
        return work(items)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(work, [items[i::workers] for i in range(workers)]))
    finally:
        torch.set_num_threads(threads)  # the setting is each thread's own, but also the default of threads to come
    return tuple(sum(results[1:], results[0]) for results in zip(*parts, strict=True))


def _slice(s: Tensor, y: Tensor, start: int, stop: int, bounds: tuple[int, int]) -> Tensor:
    """Samples start..stop of s and y (..., t), zero outside the bounds: (signals, stop-start) float64."""
    lo, hi = max(start, bounds[0]), min(stop, bounds[1])
    s, y = s[..., lo:hi].flatten(0, -2), y[..., lo:hi].flatten(0, -2)
    out = s.new_zeros((len(s) + len(y), stop - start), dtype=torch.float64)
    out[: len(s), lo - start : hi - start] = s
    out[len(s) :, lo - start : hi - start] = y
    return out


def _frames(s: Tensor, y: Tensor, window: int, hop: int, frames: slice, n_fft: int) -> Tensor:
    """Frames of s and y (n, c, t), zero-padded to n_fft samples: (2·n·c, m, n_fft) float64."""
    s, y = (x.flatten(0, 1).unfold(-1, window, hop)[:, frames] for x in (s, y))
    out = s.new_empty((2 * len(s), s.shape[1], n_fft), dtype=torch.float64)
    out[: len(s), :, :window] = s
    out[len(s) :, :, :window] = y
    out[..., window:] = 0
    return out


def _bins_first(X: Tensor) -> Tensor:
    """(signals, m, f) -> (f, signals, m) in memory, as batched products over bins want it."""
    return X.permute(2, 0, 1).contiguous()


def _block_size(length: int) -> int:
    return max(BLOCK, _power_of_two(4 * length))


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << (n - 1).bit_length()


def _fft_size(n: int) -> int:
    """The smallest even number >= n without prime factors above 5."""
    while True:
        n += n % 2
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2
