"""Energies of all frames of the signals that BSS Eval splits an estimate into, by Parseval or in segments.

Letters: C and Cj filters of P and P_j, H their frequency responses, S and X spectra of the references and of all signals.
Axes: n reference, e estimate, c channel, t sample, f bin, k frame, m frame or segment in a chunk.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mss.cpu import shared
from mss.metrics._blocks import WORKSPACE, block_size, cut, fft_size, framed

__all__ = ["energies"]

LONG_FRAME = 1 << 17  # samples; above, a whole-frame FFT of all signals would fill the memory


def energies(s: Tensor, y: Tensor, C: Tensor, Cj: Tensor, window: int, hop: int, variant: str, every: bool) -> Tensor:
    """Energies (7, n, e, k) of s, s-y and the five signals of `_filtered`."""
    (n, c, t), length = s.shape, C.shape[1]
    frames = (t - window) // hop + 1
    whole = window <= LONG_FRAME
    n_fft = fft_size(window + length - 1) if whole else block_size(length)
    m = max(2 if whole else 1, WORKSPACE // (n_fft * 2 * n * c))  # frames, or segments, at a time
    H = _responses(C, Cj, n_fft)

    def whole_frames(chunks: Sequence[tuple[int, int]]) -> tuple[Tensor]:
        E = torch.zeros((7, n, n if every else 1, frames), dtype=torch.float64, device=s.device)
        memory = s.new_zeros((2 * n * c, m, n_fft), dtype=torch.float64)  # once, for new memory is cleared page by page
        spectra = memory.new_empty((*memory.shape[:2], n_fft // 2 + 1), dtype=torch.complex128)
        for k, _ in chunks:
            size = min(m, frames - k)
            x, X = memory[:, :size], spectra[:, :size]  # (2·n·c, m, time or bins)
            framed(s, y, window, hop, k, x)
            torch.fft.rfft(x, out=X)
            E[:2, ..., k : k + size] = _plain(x[..., :window], n, every)
            E[2:, ..., k : k + size] = _parseval(X, H, n_fft, n, variant, every)
        return (E,)

    def segments(chunks: Sequence[tuple[int, int]]) -> tuple[Tensor]:
        E = torch.zeros((7, n, n if every else 1, frames), dtype=torch.float64, device=s.device)
        memory = s.new_empty((2 * n * c, m * step + length - 1), dtype=torch.float64)
        for k, start in chunks:
            # each segment begins length-1 samples before the last one ended: there the cyclic convolution wraps around
            cut(s, y, start - length + 1, (k * hop, k * hop + window), memory)
            x = memory.unfold(-1, n_fft, step)
            spectra = _project(torch.fft.rfft(x[: n * c]), H)
            P, Pj = (torch.fft.irfft(Y, n=n_fft)[..., length - 1 :] for Y in spectra)
            x = x[..., length - 1 :]
            E[:2, ..., k] += _plain(x, n, every).sum(-1)
            E[2:, ..., k] += _filtered(x, P, Pj, variant, every).sum(-1)
        return (E,)

    if whole:
        return shared(whole_frames, [(k, 0) for k in range(0, frames, m)], s.device)[0]
    step = n_fft - length + 1
    starts = [(k, i) for k in range(frames) for i in range(k * hop, k * hop + window + length - 1, m * step)]
    return shared(segments, starts, s.device)[0]


def _plain(x: Tensor, n: int, every: bool) -> Tensor:
    """Energies (2, n, e, m) of s and s-y from samples (2·n·c, m, time)."""
    s, y = x.unflatten(0, (2, n, -1))
    error = _power(s.unsqueeze(1) - _other(y, every))
    return torch.stack((_power(s).unsqueeze(1).expand_as(error), error))


def _responses(C: Tensor, Cj: Tensor, n_fft: int) -> tuple[Tensor, Tensor]:
    """Frequency responses of P (n estimates, c out, n·c in, f) and of P_j (n, e, c out, c in, f)."""
    P = torch.fft.rfft(C, n=n_fft, dim=1).permute(2, 0, 1).unflatten(0, (-1, Cj.shape[2]))
    return P.contiguous(), torch.fft.rfft(Cj, n=n_fft, dim=3).permute(0, 1, 4, 2, 3).contiguous()


def _project(S: Tensor, H: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """P y (n, c, m, f) and P_j y (n, e, c, m, f) from spectra S (n·c, m, f) of the references."""
    # a running sum over the few input channels: a matrix product would need the bins first in memory, and moving them
    # there costs more than the product
    HP, HPj = H[0].unsqueeze(-2), H[1].unsqueeze(-2)  # an axis for m
    P = HP[:, :, 0] * S[0]
    for i in range(1, len(S)):
        P.addcmul_(HP[:, :, i], S[i])
    Sj = S.unflatten(0, (-1, 1, HPj.shape[3], 1))  # (n, 1, c in, 1, m, f)
    Pj = HPj[:, :, :, 0] * Sj[:, :, 0]
    for i in range(1, HPj.shape[3]):
        Pj.addcmul_(HPj[:, :, :, i], Sj[:, :, i])
    return P, Pj


def _parseval(X: Tensor, H: tuple[Tensor, Tensor], n_fft: int, n: int, variant: str, every: bool) -> Tensor:
    """`_filtered` energies (5, n, e, m) from the spectra X (2·n·c, m, f) of whole frames."""
    X[..., [0, -1]] *= math.sqrt(0.5)  # in half a spectrum all bins count twice, but not these (n_fft is even)
    if X.device.type == "cpu":
        from mss.metrics._compiled import frame_energies  # compiled code is loaded where it is wanted

        E = torch.from_numpy(frame_energies(X.numpy(), H[0].numpy(), H[1].numpy(), variant == "images"))
    else:
        E = _filtered(X, *_project(X[: len(X) // 2], H), variant, every)
    return E * (2 / n_fft)


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
