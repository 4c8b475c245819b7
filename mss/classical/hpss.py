"""Harmonic/percussive separation by median filtering (FitzGerald 2010), with the margin of Driedger, Müller & Disch 2014.

In a spectrogram, harmonic sounds are horizontal lines and percussive ones vertical: a median along time keeps the first, H,
a median along frequency the second, P.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._ops import median_filter
from mss.cpu import empty, in_threads, untracked

__all__ = ["hpss"]


def hpss(X: Tensor, *, kernel: int = 31, power: float = 2.0, margin: float = 1.0) -> Tensor:
    """Magnitudes of the harmonic and the percussive part, and with a margin of what is neither.

    Args:
        X: (b, c, f, k) complex.
        kernel: length of both medians, frames and bins; odd.
        power: exponent of the masks.
        margin: how many times louder a part must be than the other; above 1 there is a third target, the residual.

    Returns:
        V (b, n, c, f, k), n = 2, or 3 with a margin above 1; they sum to |X|, so `softmask` gives just these masks.
    """
    if margin < 1:
        raise ValueError(f"margin must be at least 1 (1: two parts, above: a residual too), not {margin}")
    magnitude = X.abs()
    H, P = median_filter(magnitude, kernel, -1), median_filter(magnitude, kernel, -2)
    if untracked(magnitude):
        return _parts_cpu(magnitude, H, P, power, margin)
    harmonic, percussive = _share(H, margin * P, power), _share(P, margin * H, power)
    parts = [harmonic, percussive] if margin == 1 else [harmonic, percussive, 1 - harmonic - percussive]
    return torch.stack(parts, 1) * magnitude.unsqueeze(1)


hpss.context = lambda *, kernel, **_: kernel // 2


def _share(wanted: Tensor, other: Tensor, power: float) -> Tensor:
    """wanted^p / (wanted^p + other^p), one half where both are 0."""
    peak = torch.maximum(wanted, other).clamp_min(torch.finfo(wanted.dtype).tiny)
    wanted, other = ((x / peak).pow(power) for x in (wanted, other))
    total = wanted + other
    return torch.where(total > 0, wanted / total.clamp_min(torch.finfo(total.dtype).tiny), 0.5)


def _parts_cpu(V: Tensor, H: Tensor, P: Tensor, power: float, margin: float) -> Tensor:
    """The same in one walk through memory, compiled."""
    from mss.classical._medians_cpu import hpss_part  # compiled code is loaded where it is wanted

    out = empty((V.shape[0], 2 if margin == 1 else 3, *V.shape[1:]), V.dtype, V.device)
    options = float(power), V.numpy().dtype.type(margin), V.numpy().dtype.type(torch.finfo(V.dtype).tiny)
    for b in range(len(V)):
        v, h, p, own = V[b].flatten(0, 1).numpy(), H[b].flatten(0, 1).numpy(), P[b].flatten(0, 1).numpy(), out[b]
        parts = own.flatten(1, 2).numpy()

        def work(first: int, last: int, v=v, h=h, p=p, parts=parts) -> None:
            hpss_part(v, h, p, parts[0], first, last, *options)
            hpss_part(v, p, h, parts[1], first, last, *options)

        in_threads(work, len(v))
        if margin > 1:
            torch.sub(V[b], own[0], out=own[2]).sub_(own[1])
    return out
