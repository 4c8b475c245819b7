"""Non-negative matrix factorisation V ~ W H by multiplicative updates (Lee & Seung 1999; Févotte & Idier 2011).

    W <- W ((V Y^(beta-2)) H^T / Y^(beta-1) H^T)^g,  H <- H (W^T (V Y^(beta-2)) / W^T Y^(beta-1))^g,  Y = W H + e

lower the beta-divergence of V from Y: beta = 2 the squared error, 1 Kullback-Leibler, 0 Itakura-Saito. Each is the minimum of
an upper bound of it where g = 1 / (2 - beta) for beta < 1, 1 / (beta - 1) for beta > 2, else 1; so it never rises. The
noise e, far below the item's level, is one more component that stays as it is: it changes nothing of that, and bounds
what is divided by. What is 0 in W or H stays 0.

Axes as everywhere, and a for the components.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["concatenated", "continuity_terms", "divergence", "factorise", "model", "random_start", "sparseness_terms"]

NOISE = 1e-10  # of the mean of an item
FLUSH = (
    1e-15  # of the largest entry of its component: below, an entry is 0, or it would fall until arithmetic gets slow
)
BLOCK = 2**20  # elements of V worked on at a time: a few megabytes, as smaller matrices are slower to multiply
LEAST = 64  # bins at a time, whatever the number of frames, or products are not worth their call


def concatenated(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """(b, c, f, k) real as V (b, f, c * k) of mean 1, the channels one after the other, and its level (b, 1, 1)."""
    V = magnitude.transpose(1, 2).flatten(2)
    level = V.mean((1, 2), keepdim=True)
    level = torch.where(level > 0, level, 1)
    return V / level, level


def random_start(V: Tensor, components: int, seed: int) -> tuple[Tensor, Tensor]:
    """W (b, f, a) and H (b, a, k) whose product has a mean of about 1, the same for each item."""
    b, f, k = V.shape
    generator = torch.Generator().manual_seed(seed)
    W = (0.5 + torch.rand(f, components, generator=generator, dtype=torch.float64)) / components
    H = 0.5 + torch.rand(components, k, generator=generator, dtype=torch.float64)
    return W.to(V).expand(b, -1, -1), H.to(V).expand(b, -1, -1)


@torch.no_grad()
def factorise(
    V: Tensor,
    W: Tensor | int,
    H: Tensor | None = None,
    *,
    beta: float = 1.0,
    iterations: int = 100,
    fixed: int = 0,
    mm: bool = True,
    l1: float = 0.0,
    continuity: float | Tensor = 0.0,
    sparseness: float = 0.0,
    restarts: int = 1,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Factors of V from a given or a random start; in each iteration first W, then H.

    Args:
        V: (b, f, k) real >= 0.
        W: (b, f, a) spectra to start from, or how many.
        H: (b, a, k) activations to start from; None: random, as V then is expected to have a mean of 1 per item.
        beta: of the divergence.
        iterations: of both factors.
        fixed: the first so many columns of W stay as they are.
        mm: take the exponent g with which no iteration raises the divergence; else 1, faster for beta < 1 and > 2.
        l1: weight of the sum of H; for a W that stays as it is, or it takes over the scale.
        continuity: weight of `continuity_terms` (Virtanen 2007), one or (a, 1).
        sparseness: weight of `sparseness_terms` (Virtanen 2007).
        restarts: random starts, all at once, of which that of the least divergence is kept.
        seed: of the random start.

    Returns:
        W (b, f, a), H (b, a, k).
    """
    b, f, k = V.shape
    count = W if isinstance(W, int) else W.shape[-1]
    if restarts > 1:
        V = V.unsqueeze(1).expand(b, restarts, f, k).flatten(0, 1)
        starts = [random_start(V[:1], count, seed + i) for i in range(restarts)]
        random_W, random_H = (torch.cat(x).repeat(b, 1, 1) for x in zip(*starts, strict=True))
        W = random_W if isinstance(W, int) else W.repeat_interleave(restarts, 0)
        H = random_H if H is None else H.repeat_interleave(restarts, 0)
    elif isinstance(W, int) or H is None:
        random_W, random_H = random_start(V, count, seed)
        W, H = random_W if isinstance(W, int) else W, random_H if H is None else H
    V = V.contiguous()  # a spectrogram often has its bins side by side: dividing by rows then takes ten times as long
    W, H = with_noise(V, W, H)
    a = count
    exponent = 1.0 if not mm or 1 <= beta <= 2 else 1 / (2 - beta) if beta < 1 else 1 / (beta - 1)
    for _ in range(iterations):
        up, down = _iterate(V, W, H, beta=beta, exponent=exponent, fixed=fixed)
        for weight, terms in ((continuity, continuity_terms), (sparseness, sparseness_terms)):
            if isinstance(weight, Tensor) or weight:
                plus, minus = terms(H[:, :a])
                up, down = up + weight * minus, down + weight * plus
        _multiply(H[:, :a], up, down + l1, exponent, -1)
    if restarts > 1:
        best = divergence(V, W[..., :a], H[:, :a], beta).view(b, restarts).argmin(1)
        best = best + restarts * torch.arange(b, device=V.device)
        W, H = W[best], H[best]
    return W[..., :a], H[:, :a]


def with_noise(V: Tensor, W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """W and H, copied, with the noise as their last component."""
    level = V.mean((1, 2), keepdim=True)
    level = torch.where(level > 0, level, 1) * NOISE
    W = torch.cat([W.expand(len(V), -1, -1), level.expand(-1, V.shape[1], 1)], -1)
    return W, torch.cat([H.expand(len(V), -1, -1), torch.ones_like(H[:1, :1]).expand(len(V), 1, -1)], 1)


def _iterate(V: Tensor, W: Tensor, H: Tensor, *, beta: float, exponent: float, fixed: int) -> tuple[Tensor, Tensor]:
    """Updates W in place; returns what H is multiplied with and divided by, (b, a, k) and what broadcasts to it.

    A bin's W depends on no other bin, so both updates can work on the same few bins while those are in the cache.
    """
    b, f, k = V.shape
    a = W.shape[-1] - 1
    free = H[:, fixed:a]
    up = V.new_zeros(b, k, a)  # products with the long axis first are the faster ones
    simple = beta in (1, 2)  # for the squared error, Y H^T is W (H H^T)
    down = None if simple else torch.zeros_like(up)
    step = min(max(BLOCK // (b * k), LEAST), f)
    Y, power = V.new_empty(b, step, k), None if simple else V.new_empty(b, step, k)
    if beta == 1:
        sums = free.sum(-1).unsqueeze(1)
    elif beta == 2:
        squares = H @ free.mT  # (b, a + 1, free)
    for first in range(0, f, step):
        v, w = V[:, first : first + step], W[:, first : first + step]
        y, p = (None if x is None else x[:, : v.shape[1]] for x in (Y, power))
        if fixed < a:
            ratio, p = _ratio(v, w, H, y, p, beta)
            over = ratio @ free.mT
            under = sums if beta == 1 else w @ squares if beta == 2 else p @ free.mT
            _multiply(w[..., fixed:a], over, under, exponent, None)
        ratio, p = _ratio(v, w, H, y, p, beta)
        torch.baddbmm(up, ratio.mT, w[..., :a], out=up)
        if down is not None:
            torch.baddbmm(down, p.mT, w[..., :a], out=down)
    if fixed < a:
        _flush(W[..., fixed:a], 1)
    up = up.mT.contiguous()
    if down is not None:
        down = down.mT.contiguous()
    elif beta == 1:
        down = W[..., :a].sum(1).unsqueeze(-1)
    else:
        down = (W[..., :a].mT @ W) @ H
    return up, down


def _ratio(v: Tensor, w: Tensor, H: Tensor, y: Tensor, p: Tensor | None, beta: float) -> tuple[Tensor, Tensor | None]:
    """V Y^(beta-2) and Y^(beta-1), in place of y and p; the second where it is not known otherwise."""
    if beta == 2:
        return v, None
    torch.bmm(w, H, out=y)
    if beta == 1:
        return torch.div(v, y, out=y), None
    if beta == 0:
        torch.reciprocal(y, out=p)
        return torch.mul(p, p, out=y).mul_(v), p
    torch.pow(y, beta - 1, out=p)
    return torch.div(p, y, out=y).mul_(v), p


def _multiply(x: Tensor, up: Tensor, down: Tensor, exponent: float, dim: int | None) -> None:
    """x <- x (up / down)^exponent, in place; 0 where nothing holds an entry."""
    factor = up.div_(down.clamp_min(torch.finfo(x.dtype).tiny))
    x.mul_(factor if exponent == 1 else factor.pow_(exponent))
    if dim is not None:
        _flush(x, dim)


def _flush(x: Tensor, dim: int) -> None:
    """Sets to 0 what along `dim` is far below the largest entry."""
    least = (FLUSH * x.amax(dim, keepdim=True)).clamp_min(1e4 * torch.finfo(x.dtype).tiny)
    x.mul_(x >= least)


def continuity_terms(H: Tensor) -> tuple[Tensor, Tensor]:
    """The positive and the negative part of the slope of sum_a k sum_k (h_k - h_(k-1))^2 / sum_k h_k^2; both of H's shape."""
    k = H.shape[-1]
    energy = H.square().sum(-1, keepdim=True).clamp_min(torch.finfo(H.dtype).tiny)
    change = H.diff(dim=-1).square().sum(-1, keepdim=True)
    neighbours, count = torch.zeros_like(H), torch.zeros_like(H)
    neighbours[..., 1:] += H[..., :-1]
    neighbours[..., :-1] += H[..., 1:]
    count[..., 1:] += 1
    count[..., :-1] += 1
    return 2 * k * count * H / energy, 2 * k * (neighbours / energy + H / energy * (change / energy))


def sparseness_terms(H: Tensor) -> tuple[Tensor, Tensor]:
    """The positive and the negative part of the slope of sum_a sum_k h_k / (sum_k h_k^2 / k)^(1/2)."""
    norm = H.square().mean(-1, keepdim=True).clamp_min(torch.finfo(H.dtype).tiny).sqrt()
    return (1 / norm).expand_as(H), H / norm * (H / norm).mean(-1, keepdim=True) / norm


def divergence(V: Tensor, W: Tensor, H: Tensor, beta: float = 1.0) -> Tensor:
    """Beta-divergence of V (b, f, k) from W H and the noise, (b,)."""
    W, H = with_noise(V, W, H)
    tiny = torch.finfo(V.dtype).tiny
    total = V.new_zeros(len(V))
    step = max(BLOCK // (V.shape[0] * V.shape[2]), 1)
    for first in range(0, V.shape[1], step):
        v, y = V[:, first : first + step], W[:, first : first + step] @ H
        if beta == 1:
            d = torch.xlogy(v, v.clamp_min(tiny) / y) - v + y
        elif beta == 0:
            q = v.clamp_min(tiny) / y
            d = q - q.log() - 1
        else:
            d = (v.pow(beta) + (beta - 1) * y.pow(beta) - beta * v * y.pow(beta - 1)) / (beta * (beta - 1))
        total = total + d.sum((1, 2))
    return total


def model(W: Tensor, H: Tensor, groups: Tensor, channels: int) -> Tensor:
    """What the components of each group add up to, (b, n, c, f, k), for the channels one after the other in H (b, a, c * k).

    Args:
        W: (b, f, a).
        H: (b, a, c * k).
        groups: (b, n, a) shares of each component.
        channels: c.
    """
    H = H.unflatten(-1, (channels, -1)).transpose(1, 2)  # (b, c, a, k)
    return torch.stack([(W * share.unsqueeze(1)).unsqueeze(1) @ H for share in groups.unbind(1)], 1)
