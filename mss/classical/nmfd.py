"""Non-negative matrix factor deconvolution: components that are short spectrograms (Smaragdis 2004).

    V(f, k) ~ Y(f, k) = sum_a sum_(t < T) W_t(f, a) H(a, k - t),

a drum hit, say, wherever H has a peak. With the shifted activations H(a, k - t) as rows (a, t) it is an NMF, so W follows the
usual update; H gathers what all its shifts ask for. Both are the minimum of a bound of the Kullback-Leibler divergence, which
never rises. The paper updates the W_t one after the other and averages over what each asks of H, which has no such proof.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mss.classical._nmf import NOISE, concatenated

__all__ = ["deconvolve", "nmfd"]


def nmfd(
    X: Tensor, *, sources: int = 3, length: int = 12, iterations: int = 60, seed: int = 0, sharp: float = 0.0
) -> Tensor:
    """Magnitudes of sounds that recur, each a spectrogram of some frames, from the lowest to the highest.

    Args:
        X: (b, c, f, k) complex; the channels share the sounds.
        sources: how many; of a drum loop kick, snare and hi-hat, say.
        length: of each, frames (12: 0.28 s at a hop of 1024 at 44.1 kHz).
        iterations: of sounds and activations.
        seed: of the random start, the same for each item of the batch.
        sharp: weight of the sum of the activations: fewer and sharper ones.

    Returns:
        V (b, sources, c, f, k), in the order of the mean frequency of the sounds.
    """
    b, c, f, k = X.shape
    V, level = concatenated(X.abs())
    V = V.unflatten(-1, (c, k))
    generator = torch.Generator().manual_seed(seed)
    W = 0.5 + torch.rand(f, sources, 1, generator=generator, dtype=torch.float64)
    W = (W * torch.linspace(1, 0.1, length, dtype=torch.float64) / sources).to(V).expand(b, -1, -1, -1)
    H = 0.5 + torch.rand(sources, 1, k, generator=generator, dtype=torch.float64)
    H = (H / length).to(V).expand(b, -1, c, -1)
    W, H = deconvolve(V, W, H, iterations=iterations, l1=sharp)
    spectrum = W.sum(-1)  # (b, f, a)
    bins = torch.arange(f, device=V.device, dtype=V.dtype).unsqueeze(-1)
    height = (bins * spectrum).sum(1) / spectrum.sum(1).clamp_min(torch.finfo(V.dtype).tiny)
    order = height.argsort(1)  # (b, a)
    W = W.gather(2, order.view(b, 1, -1, 1).expand_as(W)) * level.unsqueeze(-1)
    H = H.gather(1, order.view(b, -1, 1, 1).expand_as(H))
    shifted = shifts(H, length).flatten(3)  # (b, a, T, c * k)
    parts = [W[:, :, a] @ shifted[:, a] for a in range(sources)]
    return torch.stack(parts, 1).unflatten(-1, (c, k)).transpose(2, 3)


@torch.no_grad()
def deconvolve(
    V: Tensor, W: Tensor, H: Tensor, *, iterations: int = 60, fixed: int = 0, l1: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Factors of V; in each iteration first W, then H.

    Args:
        V: (b, f, c, k) real >= 0; the channels are separate stretches of time.
        W: (b, f, a, T) sounds to start from.
        H: (b, a, c, k) activations to start from.
        iterations: of both.
        fixed: the first so many sounds stay as they are.
        l1: weight of the sum of H.

    Returns:
        W (b, f, a, T), H (b, a, c, k).
    """
    b, _, c, k = V.shape
    a, T = W.shape[2:]
    tiny = torch.finfo(V.dtype).tiny
    least = 1e4 * tiny  # arithmetic with smaller ones is slow, and they say nothing
    noise = V.mean((1, 2, 3)).view(b, 1, 1)
    noise = torch.where(noise > 0, noise, 1) * NOISE
    V = V.flatten(2)
    W, H = W.clone(), H.clone()
    reach = shifts(torch.ones_like(H[:, :1, :1]), T).flip(-1)  # (b, 1, T, 1, k): which shifts stay in the recording
    for _ in range(iterations):
        rows = shifts(H, T).flatten(3).flatten(1, 2)  # (b, a * T, c * k)
        if fixed < a:
            Y = torch.baddbmm(noise, W.flatten(2), rows)
            up = torch.div(V, Y, out=Y) @ rows[:, fixed * T :].mT
            down = rows[:, fixed * T :].sum(-1).unsqueeze(1).clamp_min(tiny)
            W[:, :, fixed:] *= (up / down).unflatten(-1, (a - fixed, T))
        Y = torch.baddbmm(noise, W.flatten(2), rows)
        wanted = (W.flatten(2).mT @ torch.div(V, Y, out=Y)).unflatten(1, (a, T)).unflatten(-1, (c, k))
        up = sum(F.pad(wanted[:, :, t, :, t:], (0, min(t, k))) for t in range(T))
        down = (W.sum(1).view(b, a, T, 1, 1) * reach).sum(2) + l1
        H = H * up / down.clamp_min(tiny)
        H = H.where(H.gt(least), 0)
    return W, H


def shifts(H: Tensor, length: int) -> Tensor:
    """H (b, a, c, k) at the delays 0, 1, ... `length` - 1, (b, a, T, c, k), with 0 before the beginning."""
    k = H.shape[-1]
    return F.pad(H, (length - 1, 0)).unfold(-1, k, 1).flip(-2).movedim(-2, 2)
