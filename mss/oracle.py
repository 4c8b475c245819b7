"""Oracles: what a kind of filter could do if it knew the true stems. Upper bounds, and `MIX` for a floor.

E. Vincent, R. Gribonval, M. Plumbley, "Oracle estimators for the benchmarking of source separation algorithms", Signal
Processing 87(8), 2007; the set is that of the campaign: F.-R. Stöter, A. Liutkus, N. Ito, "The 2018 Signal Separation
Evaluation Campaign", LVA/ICA 2018 (STFT of 2048 samples, hop 1024, Hann; all but MWF treat each channel alone).

    IBM1  IBM2   every bin where |Y_j|^a >= |X|^a / 2, a = 1 or 2; several targets or none may own a bin
    IBM          every bin goes to the strongest target (not in the campaign; sums to the mixture)
    IRM1  IRM2   |Y_j|^a / sum_i |Y_i|^a
    MWF          v_j R_j (sum_i v_i R_i)^-1 with R_j(f) the mean of Y_j Y_j^H / (mean_c |Y_jc|^2) over the frames and
                 v_j(f, k) = Y_j^H R_j^-1 Y_j / c, the likeliest power of Y_j given R_j
    MIX          X / n, so its SDR is better than that of X itself; SI-SDR is the same

Departs from the campaign where a result would depend on the loudness of the file: no absolute epsilon; R_j has a trace
of c and then a floor of `FLOOR` (there: 2e-16). Letters: Y true spectra (b, n, c, f, k), X mixture (b, c, f, k).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mss.filters import binary_mask, hermitian_inverse, ratio_mask, softmask
from mss.separator import SpectralSeparator
from mss.transforms import STFT

__all__ = ["ORACLES", "Truth", "oracle"]

FLOOR = 1e-10  # of the eigenvalues of R_j, whose mean is 1: invertible in double precision, 100 dB below any music


def oracle(
    name: str,
    references: Tensor,
    targets: Sequence[str],
    sample_rate: int = 44100,
    *,
    sums: Mapping[str, Sequence[str]] | None = None,
    transform: STFT = STFT(n_fft=2048, hop=1024),  # noqa: B008  (frozen, so it can be shared)
) -> SpectralSeparator:
    """The oracle `name` for one track, a separator of its mixture and of nothing else.

    Args:
        name: One of `ORACLES`.
        references: The true stems (b, n, c, t).
        targets: Names of the n stems.
        sample_rate: Hz.
        sums: Estimates to add up after filtering, the parts being left out, in the end of the targets. The campaign
            scores vocals and accompaniment from four stems: {"accompaniment": ("drums", "bass", "other")}. An oracle
            of two stems is another one: its masks do not err between drums and bass, which is of no help to MIX.
        transform: Waveform <-> spectrum.

    Raises:
        ValueError: An unknown name, references of another shape, or parts that are no targets.

    Example:
        >>> separator = mss.oracle.oracle("IRM2", stems[None], ("drums", "bass", "other", "vocals"))
        >>> estimates = separator(mixture[None])                # (1, 4, c, t)
    """
    if name not in ORACLES:
        raise ValueError(f"there is no oracle {name!r}: choose one of {', '.join(ORACLES)}")
    if references.ndim != 4 or references.shape[1] != len(targets):
        raise ValueError(
            f"expected references (batch, {len(targets)} targets, channel, time), one for each of {', '.join(targets)}, "
            f"got {tuple(references.shape)}"
        )
    outputs, S = _sums(tuple(targets), sums or {})
    fill = ORACLES[name] if S is None else partial(_summed, fill=ORACLES[name], S=S)
    truth = Truth(references, transform)
    return SpectralSeparator(truth, outputs, sample_rate=sample_rate, transform=transform, filter=fill)


class Truth(nn.Module):
    """The estimator that knows: whatever the mixture, the true spectra Y (b, n, c, f, k), complex."""

    def __init__(self, references: Tensor, transform: STFT) -> None:
        super().__init__()
        self.register_buffer("references", references, persistent=False)
        self.transform = transform

    def forward(self, X: Tensor) -> Tensor:
        """X (b, c, f, k) is only looked at to see that it can be the mixture of the references."""
        b, _, c, t = self.references.shape
        expected = (b, c, self.transform.bins, self.transform.frames(t))
        if tuple(X.shape) != expected:
            raise ValueError(
                f"an oracle only separates the mixture of its references, whole: expected the spectrum of {b} x {c} "
                f"channels of {t} samples, (batch, channel, bin, frame) = {expected}, got {tuple(X.shape)}"
            )
        return self.transform(self.references.to(X.real))


def ideal_binary_mask(Y: Tensor, X: Tensor) -> Tensor:
    """Every bin to the strongest target; sums to the mixture."""
    return binary_mask(Y.abs(), X)


def ideal_threshold_mask(Y: Tensor, X: Tensor, power: float = 1.0, threshold: float = 0.5) -> Tensor:
    """Every bin where |Y_j|^power is at least `threshold` of |X|^power: to several targets, to one or to none."""
    X = X.unsqueeze(1)
    return (Y.abs() >= threshold ** (1 / power) * X.abs()) * X


def ideal_ratio_mask(Y: Tensor, X: Tensor, power: float = 1.0) -> Tensor:
    """Every target gets the share of its |Y_j|^power in their sum, channel by channel; sums to the mixture."""
    return softmask(Y.abs(), X, power)


def ideal_wiener(Y: Tensor, X: Tensor, block: int = 64) -> Tensor:
    """Multichannel Wiener filter with true powers and true, time-invariant spatial covariances; sums to the mixture.

    Args:
        Y: (b, n, c, f, k) true spectra.
        X: (b, c, f, k) mixture.
        block: Bins that are worked on at a time: bounds the memory, changes nothing.
    """
    parts = zip(Y.split(block, dim=3), X.split(block, dim=2), strict=True)
    return torch.cat([_wiener(y, x) for y, x in parts], 3)


def _wiener(Y: Tensor, X: Tensor) -> Tensor:
    """`ideal_wiener` of some bins, in double precision where there is one, since R_j of a panned stem is singular."""
    single, double = Y.dtype, torch.complex64 if Y.device.type == "mps" else torch.complex128
    Y, X = Y.to(double), X.to(double)
    c, identity = Y.shape[2], torch.eye(Y.shape[2], dtype=double, device=Y.device)
    U = Y / _or_one(Y.abs().square().sum(2, keepdim=True).sqrt())  # directions: unit vectors, or 0 in silence
    R = torch.einsum("bncfk,bndfk->bnfcd", U, U.conj())  # (b, n, f, c, c)
    trace = R.diagonal(dim1=-2, dim2=-1).sum(-1).real[..., None, None]
    R = torch.where(trace > 0, c * R / _or_one(trace), identity) + FLOOR * identity
    v = torch.einsum("bncfk,bnfcd,bndfk->bnfk", Y.conj(), hermitian_inverse(R), Y).real / c
    v = ratio_mask(v)  # only their shares count, and shares can neither overflow nor vanish
    C = torch.einsum("bnfk,bnfcd->bfkcd", v.to(R.dtype), R)
    whitened = torch.einsum("bfkcd,bdfk->bcfk", hermitian_inverse(C), X)
    return (torch.einsum("bnfcd,bdfk->bncfk", R, whitened) * v.unsqueeze(2)).to(single)


def unprocessed(Y: Tensor, X: Tensor) -> Tensor:
    """Every target is the mixture over their number."""
    return (X.unsqueeze(1) / Y.shape[1]).expand_as(Y)


ORACLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # name -> (Y, X) -> estimates (b, n, c, f, k)
    "IBM": ideal_binary_mask,
    "IBM1": partial(ideal_threshold_mask, power=1.0),
    "IBM2": partial(ideal_threshold_mask, power=2.0),
    "IRM1": partial(ideal_ratio_mask, power=1.0),
    "IRM2": partial(ideal_ratio_mask, power=2.0),
    "MWF": ideal_wiener,
    "MIX": unprocessed,
}


def _sums(targets: tuple[str, ...], sums: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], Tensor | None]:
    """Names of the outputs, and which targets each of them adds up, (m, n); None: the targets themselves."""
    parts = [part for whole in sums.values() for part in whole]
    unknown = [part for part in parts if part not in targets]
    if unknown:
        raise ValueError(f"cannot sum {', '.join(unknown)}: the targets are {', '.join(targets)}")
    kept = tuple(target for target in targets if target not in parts)
    if not sums:
        return kept, None
    wanted = [(target,) for target in kept] + [tuple(whole) for whole in sums.values()]
    return (*kept, *sums), torch.tensor([[float(target in whole) for target in targets] for whole in wanted])


def _summed(Y: Tensor, X: Tensor, *, fill: Callable[[Tensor, Tensor], Tensor], S: Tensor) -> Tensor:
    """What `fill` estimates, added up by S (m, n): (b, m, c, f, k)."""
    return torch.einsum("mn,bncfk->bmcfk", S.to(Y), fill(Y, X))


def _or_one(x: Tensor) -> Tensor:
    """x, or 1 where x is 0: a divisor."""
    return torch.where(x > 0, x, 1)
