"""What several classical methods share: medians, nearest frames, periods."""

from __future__ import annotations

import torch
from torch import Tensor

from mss.cpu import in_threads, untracked

__all__ = [
    "BLOCK",
    "beat_spectrum",
    "footprint_median",
    "frames_median",
    "median_filter",
    "period_range",
    "repeating_periods",
    "similar_frames",
    "vertex",
    "voice_and_background",
]

BLOCK = 2**24  # elements of a temporary; bounds the memory


def median_filter(x: Tensor, size: int, dim: int) -> Tensor:
    """Running median of odd length along one axis; the edges are mirrored with the edge sample repeated (as SciPy's "reflect").

    Args:
        x: real.
        size: odd, samples of the axis.
        dim: the axis.
    """
    if size % 2 == 0:
        raise ValueError(f"a median filter needs an odd length, or it shifts by half a sample; got {size}")
    if untracked(x):
        return _median_filter_cpu(x, size, dim)
    x = x.movedim(dim, -1)
    index = _mirrored(torch.arange(-(size // 2), x.shape[-1] + size // 2, device=x.device), x.shape[-1])
    parts = x.reshape(-1, x.shape[-1]).split(max(BLOCK // (size * x.shape[-1]), 1))
    medians = torch.cat([part[:, index].unfold(-1, size, 1).median(-1).values for part in parts])
    return medians.view_as(x).movedim(-1, dim)


def frames_median(x: Tensor, frames: Tensor) -> Tensor:
    """Medians over chosen frames; of an even number the mean of the middle two, of none 0.

    Args:
        x: (b, c, f, k) real.
        frames: (b, q, m) indices into k; those below 0 count for none.

    Returns:
        (b, c, f, q).
    """
    b, c, f, _ = x.shape
    if untracked(x):
        from mss.classical import _medians_cpu  # compiled code is loaded where it is wanted

        rows = x.contiguous().flatten(1, 2)
        out = torch.empty(*rows.shape[:2], frames.shape[1], dtype=x.dtype)
        arrays = rows.numpy(), frames.contiguous().numpy(), out.numpy()
        tiles = b * -(-c * f // _medians_cpu.TILE)
        in_threads(lambda first, last: _medians_cpu.frames(*arrays, first, last), tiles)
        return out.unflatten(1, (c, f))
    parts = []
    for index in frames.split(max(BLOCK // (b * c * f * frames.shape[-1]), 1), 1):  # (b, s, m)
        gathered = x.flatten(1, 2).gather(-1, index.clamp_min(0).flatten(1).unsqueeze(1).expand(-1, c * f, -1))
        gathered = gathered.unflatten(-1, index.shape[1:])  # (b, c * f, s, m)
        gathered = gathered.masked_fill((index < 0).unsqueeze(1), torch.inf).sort(-1).values
        found = (index >= 0).sum(-1)  # (b, s)
        middle = torch.stack([(found - 1).clamp_min(0) // 2, found // 2], -1)
        medians = gathered.gather(-1, middle.clamp_max(index.shape[-1] - 1).unsqueeze(1).expand(-1, c * f, -1, -1))
        parts.append(medians.mean(-1).where((found > 0).unsqueeze(1), 0))
    return torch.cat(parts, -1).unflatten(1, (c, f))


def footprint_median(x: Tensor, footprint: Tensor) -> Tensor:
    """Median over a neighbourhood of any form, edges mirrored as in `median_filter`.

    Args:
        x: (..., f, k) real.
        footprint: (odd, odd) boolean, bins and frames around the bin in question; an odd number is True.
    """
    if footprint.dtype != torch.bool or footprint.ndim != 2 or footprint.shape[0] % 2 * footprint.shape[1] % 2 == 0:
        raise ValueError(f"a footprint is boolean with odd sides, not {footprint.dtype} {tuple(footprint.shape)}")
    offsets = footprint.cpu().nonzero() - torch.tensor([n // 2 for n in footprint.shape])
    if len(offsets) % 2 == 0:
        raise ValueError(
            f"a footprint needs an odd number of points, or its median is not one of them; got {len(offsets)}"
        )
    f, k = x.shape[-2:]
    if untracked(x):
        from mss.classical import _medians_cpu

        planes = x.contiguous().flatten(0, -3) if x.ndim > 2 else x.contiguous().unsqueeze(0)
        out = torch.empty_like(planes)
        arrays = planes.numpy(), offsets.numpy(), out.numpy()
        in_threads(lambda first, last: _medians_cpu.footprint(*arrays, first, last), len(planes) * f)
        return out.view_as(x)
    bins, times = torch.arange(f, device=x.device), torch.arange(k, device=x.device)
    columns = [_mirrored(times + int(shift), k) for _, shift in offsets]
    parts = []
    for own in bins.split(max(BLOCK * f // (x.numel() * len(offsets)), 1)):
        rows = [_mirrored(own + int(shift), f) for shift, _ in offsets]
        near = [x[..., row, :][..., column] for row, column in zip(rows, columns, strict=True)]
        parts.append(torch.stack(near).median(0).values)
    return torch.cat(parts, -2)


def beat_spectrum(V: Tensor) -> Tensor:
    """Unbiased autocorrelation of V^2, less its mean, along time, summed over bins; lag l at index l.

    Args:
        V: (b, c, f, k) magnitudes.

    Returns:
        (b, k), 1 at lag 0 (0 in silence).
    """
    b, c, _, k = V.shape
    size = 2 * k
    power = V / V.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(V.dtype).tiny)
    spectrum = sum(
        torch.view_as_real(torch.fft.rfft(_centred(part.square().mean(1)), size)).square().sum((1, 3))
        for part in power.split(max(BLOCK // (b * c * size), 1), 2)
    )
    B = torch.fft.irfft(spectrum, size)[:, :k] / torch.arange(k, 0, -1, device=V.device)
    return B / B[:, :1].clamp_min(torch.finfo(V.dtype).tiny)


def _centred(power: Tensor) -> Tensor:
    return power - power.mean(-1, keepdim=True)


def repeating_periods(B: Tensor, low: int, high: int, count: int = 1) -> Tensor:
    """The lags of the highest peaks of beat spectra between two lags, to a fraction of a frame by a parabola.

    Args:
        B: (..., k), lag l at index l.
        low: least lag.
        high: largest lag.
        count: peaks, highest first; where there are fewer, the first again.

    Returns:
        (..., count) lags in frames, dtype of B.
    """
    inside = B[..., low : high + 1]
    if inside.shape[-1] == 0:
        return B.new_full((*B.shape[:-1], count), low)
    around = torch.nn.functional.pad(B, (1, 1), value=-torch.inf)[..., low : low + inside.shape[-1] + 2].unfold(
        -1, 3, 1
    )
    peaks = inside >= around.amax(-1)
    peaks |= (inside >= inside.amax(-1, keepdim=True)) & ~peaks.any(-1, keepdim=True)
    values, lags = inside.where(peaks, -torch.inf).topk(min(count, inside.shape[-1]), -1)
    lags = lags.where(values > -torch.inf, lags[..., :1]) + low
    return torch.cat([vertex(B, lags), vertex(B, lags[..., :1]).expand(*B.shape[:-1], count - lags.shape[-1])], -1)


def vertex(B: Tensor, lag: Tensor) -> Tensor:
    """Where the parabola through B (..., k) at each lag (..., n) has its top; the lag itself where it is no peak."""
    left, middle, right = (B.gather(-1, (lag + i).clamp(0, B.shape[-1] - 1)) for i in (-1, 0, 1))
    curvature = 2 * middle - left - right
    peak = (middle >= left) & (middle >= right) & (curvature > 0)
    return lag + torch.where(peak, (right - left) / (2 * torch.where(peak, curvature, 1)), 0)


def period_range(k: int, shortest: int, longest: int) -> tuple[int, int]:
    """Least and largest period to look for in k frames: three repetitions at least."""
    if not 0 < shortest <= longest:
        raise ValueError(f"periods go from shortest to longest, at least 1 frame, not from {shortest} to {longest}")
    high = max(min(longest, k // 3), 1)
    return max(min(shortest, high // 2), 1), high


def voice_and_background(V: Tensor, background: Tensor, lowest_bin: int) -> Tensor:
    """Voice and background (b, 2, c, f, k), which sum to V; bins 1 to `lowest_bin` - 1 are all background."""
    background = torch.minimum(background, V)
    background[..., 1:lowest_bin, :] = V[..., 1:lowest_bin, :]
    return torch.stack([V - background, background], 1)


def _median_filter_cpu(x: Tensor, size: int, dim: int) -> Tensor:
    from mss.classical import _medians_cpu

    x = x.contiguous()
    out = torch.empty_like(x)
    dim %= x.ndim
    if dim == x.ndim - 1:
        function, shape = _medians_cpu.running_right, (-1, x.shape[-1])
        tiles = -(-x.numel() // x.shape[-1] // _medians_cpu.TILE)
    else:
        function, shape = _medians_cpu.running_down, (x.shape[:dim].numel(), x.shape[dim], x.shape[dim + 1 :].numel())
        tiles = shape[0] * -(-shape[2] // _medians_cpu.TILE)
    arrays = x.view(shape).numpy(), out.view(shape).numpy()
    in_threads(lambda first, last: function(*arrays, first, last, size), tiles)
    return out


def _mirrored(index: Tensor, n: int) -> Tensor:
    """Indices into n samples that are mirrored at the edges, again and again."""
    index = index % (2 * n)
    return torch.minimum(index, 2 * n - 1 - index)


def similar_frames(V: Tensor, *, count: int, distance: int) -> Tensor:
    """For each frame the frames most like it by cosine similarity, at least `distance` frames from one another.

    Args:
        V: (b, f, k) real >= 0.
        count: frames to return for each, itself included; fewer where there are not as many.
        distance: frames.

    Returns:
        (b, k, count) indices; where fewer were found, -1.
    """
    b, _, k = V.shape
    unit = V / V.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(V.dtype).tiny)
    count = min(count, k)
    found = torch.full((b, k, count), -1, dtype=torch.long, device=V.device)
    rows = max(BLOCK // k, 1)
    for start in range(0, k, rows):
        similarity = unit[..., start : start + rows].transpose(1, 2) @ unit  # (b, rows, k)
        own = torch.arange(start, min(start + rows, k), device=V.device)
        similarity[:, own - start, own] = torch.inf  # the frame itself comes first, even in silence
        peaks = torch.nn.functional.max_pool1d(similarity, 2 * distance + 1, 1, distance) == similarity
        values, indices = similarity.where(peaks, -torch.inf).topk(count, -1)
        found[:, start : start + rows] = indices.where(values > -torch.inf, -1)
    return found
