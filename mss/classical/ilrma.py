"""Independent low-rank matrix analysis: independent vector analysis with an NMF as model of each source (Kitamura et al. 2016).

As many sources as channels, mixed by filters. Where `auxiva` gives a source one activation for all bins, here its power
spectrogram is a product of a few spectra and their activations, r_j = T_j V_j: notes may come and go in bins of their own.
Both the demixing and the factors are updated so that the cost never rises; it has many minima, and the start counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._covariances import frequency_blocks, outer, unpack
from mss.classical._demixing import back_project, iterative_projection, require_determined, whiten

__all__ = ["ilrma"]


def ilrma(
    X: Tensor,
    *,
    sources: int = 2,
    components: int = 10,
    iterations: int = 40,
    seed: int = 0,
    floor: float = 1e-5,
) -> Tensor:
    """Images of as many sources as channels, by independent low-rank matrix analysis (Kitamura et al. 2016, method 1).

    Departs from the paper in four points: it works on, and starts from, whitened channels; two channels are updated at
    once (Ono 2012); every channel has a little noise, which bounds what is divided by; and nothing is normalised
    between iterations, as every update commutes with the scales of the sources, and the images do not depend on them.

    Args:
        X: (b, c, f, k) complex, c = `sources`.
        sources: how many.
        components: spectra per source.
        iterations: of spectra, activations and demixing matrices.
        seed: of the spectra and activations that it starts from, the same for each item of the batch.
        floor: power of the noise relative to that of each bin.

    Returns:
        Y (b, n, c, f, k), which sum to X: from left to right for two channels, else the loudest first.
    """
    require_determined(X, sources, "ilrma")
    P, noise, Q = whiten(X, floor)
    W = torch.eye(sources, dtype=Q.dtype, device=Q.device).expand_as(Q)
    T, V = _start(P, sources, components, seed)
    for _ in range(iterations):
        W, T, V = _update(W, T, V, P, noise)
    return back_project(X, W, Q)


def _start(P: Tensor, sources: int, components: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random spectra T (b, f, n, a) and activations V (b, n, a, k), the same for each source; their product has a mean of 1."""
    b, f, _, k = P.shape
    generator = torch.Generator().manual_seed(seed)
    T = (0.5 + torch.rand(f, 1, components, generator=generator, dtype=torch.float64)) / components
    V = 0.5 + torch.rand(components, k, generator=generator, dtype=torch.float64)
    return T.to(P).expand(b, -1, sources, -1), V.to(P).expand(b, sources, -1, -1)


def _update(W: Tensor, T: Tensor, V: Tensor, P: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One iteration on the demixing matrices W (b, f, n, c), the spectra and the activations, in blocks of frequency."""
    spectra, up, down = [], 0, 0
    blocks = frequency_blocks(P.transpose(1, 2), 2**19)
    for part in blocks:
        energy = _energy(W[:, part], P[:, part], noise[:, part])
        inverse = 1 / _model(T[:, part], V)
        ratio = torch.einsum("bfnk,bnak->bfna", energy * inverse.square(), V)
        spectra.append(T[:, part] * (ratio / torch.einsum("bfnk,bnak->bfna", inverse, V)).sqrt())
        inverse = 1 / _model(spectra[-1], V)
        up = up + torch.einsum("bfnk,bfna->bnak", energy * inverse.square(), spectra[-1])
        down = down + torch.einsum("bfnk,bfna->bnak", inverse, spectra[-1])
    T, V = torch.cat(spectra, 1), V * (up / down).sqrt()
    demixing = []
    for part in blocks:
        weight = 1 / _model(T[:, part], V)  # (b, f, n, k)
        U = (P[:, part] @ weight.mT).mT.to(noise) / P.shape[-1]  # (b, f, n, c^2)
        U = U + noise[:, part].unsqueeze(2) * weight.mean(-1, keepdim=True)
        demixing.append(iterative_projection(W[:, part], unpack(U)))
    return torch.cat(demixing, 1), T, V


def _model(T: Tensor, V: Tensor) -> Tensor:
    """Power spectrograms (b, f, n, k)."""
    return torch.einsum("bfna,bnak->bfnk", T, V)


def _energy(W: Tensor, P: Tensor, noise: Tensor) -> Tensor:
    """Power spectrograms (b, f, n, k) of what the rows of W let through, noise included."""
    rows = outer(W.mH)  # (b, f, c^2, n)
    through = rows.mT.to(P) @ P
    return through.clamp_min(0) + torch.einsum("bfpn,bfp->bfn", rows, noise).unsqueeze(-1).to(P)


def _cost(W: Tensor, T: Tensor, V: Tensor, P: Tensor, noise: Tensor) -> Tensor:
    """What `_update` lowers, (b,): the negative log-likelihood per frame, up to a constant."""
    R = _model(T, V)
    fit = (_energy(W, P, noise) / R + R.log()).mean(-1).sum((1, 2))
    return fit - 2 * torch.linalg.slogdet(W).logabsdet.sum(-1)
