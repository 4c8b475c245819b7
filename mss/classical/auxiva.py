"""Independent vector analysis: what is active at the same times, in whichever bins, is one source (Kim et al. 2007).

As many sources as channels, mixed by a filter per source and channel, which in each bin of a spectrogram is a matrix. ICA
bin by bin would find its inverse but not which row belongs to which source; here one activation r_j(k) for all bins ties
them, so nothing is left to permute. The cost is lowered by an auxiliary function (Ono 2011), and never rises.

It asks for bins that come and go together, as in speech and noise. The partials of a melody do not: they move from bin to
bin with the notes, and two melodies are not told apart.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mss.classical._covariances import outer, unpack
from mss.classical._demixing import back_project, iterative_projection, require_determined, whiten

__all__ = ["auxiva"]


def auxiva(
    X: Tensor,
    *,
    sources: int = 2,
    iterations: int = 30,
    model: Literal["laplace", "gauss"] = "laplace",
    floor: float = 1e-5,
) -> Tensor:
    """Images of as many sources as channels, by auxiliary-function independent vector analysis (Ono 2011).

    Departs from the paper in three points: it works on, and starts from, whitened channels;
    two channels are updated at once (Ono 2012); and every channel has a little noise, which bounds what is divided by.

    Args:
        X: (b, c, f, k) complex, c = `sources`. Windows as long as the reverberation separate best.
        sources: how many.
        iterations: of the demixing matrices.
        model: of a source's frames: "laplace", all of the same scale, or "gauss", each with a variance of its own.
        floor: power of the noise relative to that of each bin.

    Returns:
        Y (b, n, c, f, k), which sum to X: from left to right for two channels, else the loudest first. Where
        the channels are equal, so are the sources.
    """
    require_determined(X, sources, "auxiva")
    P, noise, Q = whiten(X, floor)
    W = torch.eye(sources, dtype=Q.dtype, device=Q.device).expand_as(Q)  # no channel is turned into another
    for _ in range(iterations):
        W = _update(W, P, noise, model)
    return back_project(X, W, Q)


def _update(W: Tensor, P: Tensor, noise: Tensor, model: str) -> Tensor:
    """One iteration on the demixing matrices W (b, f, n, c) of what `whiten` gives."""
    energy = _energy(W, P, noise)  # (b, n, k), r^2
    weight = W.shape[1] / energy if model == "gauss" else 0.5 * energy.rsqrt()
    U = (P.flatten(1, 2) @ weight.mT.to(P)).to(W.real) / P.shape[-1]  # (b, f c^2, n)
    U = U.unflatten(1, noise.shape[1:]).mT + noise.unsqueeze(2) * weight.mean(-1)[:, None, :, None]  # (b, f, n, c^2)
    return iterative_projection(W, unpack(U))


def _energy(W: Tensor, P: Tensor, noise: Tensor) -> Tensor:
    """What the rows of W let through in each frame, all bins together, (b, n, k), noise included."""
    rows = outer(W.mH)  # (b, f, c^2, n)
    through = (rows.flatten(1, 2).mT.to(P) @ P.flatten(1, 2)).to(W.real)
    return through.clamp_min(0) + torch.einsum("bfpn,bfp->bn", rows, noise).unsqueeze(-1)


def _cost(W: Tensor, P: Tensor, noise: Tensor, model: str) -> Tensor:
    """What `_update` lowers, (b,): the negative log-likelihood per frame, up to a constant."""
    energy = _energy(W, P, noise)
    contrast = W.shape[1] * (energy / W.shape[1]).log() if model == "gauss" else energy.sqrt()
    return contrast.mean(-1).sum(-1) - 2 * torch.linalg.slogdet(W).logabsdet.sum(-1)
