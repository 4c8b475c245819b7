"""What several classical methods share: running medians, nearest frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mss.filters import softmask

__all__ = ["median_filter", "similar_frames"]

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
    x = x.movedim(dim, -1)
    index = torch.arange(-(size // 2), x.shape[-1] + size // 2, device=x.device) % (2 * x.shape[-1])
    index = torch.minimum(index, 2 * x.shape[-1] - 1 - index)  # mirrored, however short the axis
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(rows)
    for part, result in zip(*(t.split(max(BLOCK // (size * x.shape[-1]), 1)) for t in (rows, out)), strict=True):
        result.copy_(part[:, index].unfold(-1, size, 1).median(-1).values)
    return out.view_as(x).movedim(-1, dim)


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


def require_channels(X: Tensor, method: str) -> None:
    """Refuses a mixture (b, c, f, k) of one channel on behalf of a method that compares channels."""
    if X.shape[1] < 2:
        raise ValueError(
            f"{method} needs two channels or more, whose differences tell the sources apart, but the mixture has {X.shape[1]}"
        )


def frequency_blocks(X: Tensor, size: int = 2**17) -> list[slice]:
    """Slices of the bins of X (b, c, f, k) with some `size` time-frequency points each: bounds the memory, fits a cache."""
    step = max(size // (X.shape[0] * X.shape[3]), 1)
    return [slice(i, min(i + step, X.shape[2])) for i in range(0, X.shape[2], step)]


def double(X: Tensor) -> Tensor:
    """Complex in double precision, where the device has it: covariances of panned sources are all but singular."""
    return X.to(torch.complex64 if X.device.type == "mps" else torch.complex128)


def squared(x: Tensor) -> Tensor:
    """|x|^2 of a complex tensor; without the square root of `abs`, which costs more than all else here."""
    return x.real.square() + x.imag.square()


def level(X: Tensor, floor: float = 1e-5) -> Tensor:
    """Root mean square of every bin of X (b, c, f, k) over channels and frames, (b, 1, f, 1); 1 where the item is silent.

    Not below `floor` times that of the whole item, or what a codec left in an empty bin would count as music.
    """
    magnitude = X.abs()
    peak = magnitude.amax((1, 2, 3), keepdim=True)
    peak = torch.where(peak > 0, peak, 1)
    power = (magnitude / peak).square().mean((1, 3), keepdim=True)
    power = torch.maximum(power, floor**2 * power.mean(2, keepdim=True))
    return peak * torch.where(power > 0, power, 1).sqrt()


def pack(A: Tensor) -> Tensor:
    """Hermitian (..., c, c) as coordinates (..., c^2) in an orthonormal real basis: tr(A B) = <pack(A), pack(B)>."""
    i, j = torch.triu_indices(A.shape[-1], A.shape[-1], 1, device=A.device)
    upper = 2**0.5 * A[..., i, j]
    return torch.cat([A.diagonal(dim1=-2, dim2=-1).real, upper.real, upper.imag], -1)


def unpack(a: Tensor) -> Tensor:
    """Inverse of `pack`."""
    c = math.isqrt(a.shape[-1])
    i, j = torch.triu_indices(c, c, 1, device=a.device)
    diagonal, real, imaginary = a.split([c, len(i), len(i)], -1)
    A = torch.zeros(*a.shape[:-1], c, c, dtype=a.dtype.to_complex(), device=a.device)
    A[..., i, j] = torch.complex(real, imaginary) / 2**0.5
    return A + A.mH + torch.diag_embed(diagonal)


def outer(x: Tensor) -> Tensor:
    """pack(x x^H) of vectors x (..., c, k) complex, as (..., c^2, k) real."""
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    upper = 2**0.5 * x[..., i, :] * x[..., j, :].conj()
    return torch.cat([squared(x), upper.real, upper.imag], -2)


def product(a: Tensor, x: Tensor) -> Tensor:
    """Packed matrices (..., c^2, k) times vectors (..., c, k) complex."""
    if x.shape[-2] == 2:
        upper = torch.complex(a[..., 2, :], a[..., 3, :]) / 2**0.5
        first, second = x.unbind(-2)
        return torch.stack([a[..., 0, :] * first + upper * second, upper.conj() * first + a[..., 1, :] * second], -2)
    return (unpack(a.transpose(-1, -2)) @ x.transpose(-1, -2).unsqueeze(-1)).squeeze(-1).transpose(-1, -2)


def inverse_and_logdet(a: Tensor) -> tuple[Tensor, Tensor]:
    """Of packed positive definite matrices (..., c^2, k) the packed inverses, and the logarithms (..., k) of the determinants.

    In closed form for two channels, where a batched factorisation spends its time on calls.
    """
    if a.shape[-2] == 4:
        first, second, real, imaginary = a.unbind(-2)
        det = first * second - (real.square() + imaginary.square()) / 2
        return torch.stack([second, first, -real, -imaginary], -2) / det.unsqueeze(-2), det.log()
    L = torch.linalg.cholesky_ex(unpack(a.transpose(-1, -2))).L
    logdet = 2 * L.diagonal(dim1=-2, dim2=-1).real.log().sum(-1)
    return pack(torch.cholesky_inverse(L)).transpose(-1, -2), logdet


def spatial_start(V: Tensor, X: Tensor, *, spread: float, diffuse: float = 0.2) -> tuple[Tensor, Tensor]:
    """Where models of spatial covariances start: the powers and covariances of the estimates that `softmask` gives.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex.
        spread: share of the mixture's power that all sources have alike, or what a mask shut would stay shut for ever.
        diffuse: share of the covariance that is the same for all directions.

    Returns:
        v (b, f, n, k), and R (b, f, n, c^2), packed, of trace c.
    """
    c, n = X.shape[1], V.shape[1]
    Y = softmask(V, X).movedim(3, 1)  # (b, f, n, c, k)
    power = squared(X).mean(1).unsqueeze(2)  # (b, f, 1, k)
    v = (1 - spread) * squared(Y).mean(3) + spread / n * power
    R = pack(Y @ Y.mH)
    trace = R[..., :c].sum(-1, keepdim=True)
    identity = pack(torch.eye(c, dtype=X.dtype, device=X.device))
    R = torch.where(trace > 0, c * R / torch.where(trace > 0, trace, 1), identity)
    return v, (1 - diffuse) * R + diffuse * identity


def nmf_start(
    V: Tensor, X: Tensor, *, components: int, spread: float, seed: int, iterations: int = 10
) -> tuple[Tensor, Tensor, Tensor]:
    """`spatial_start` with the powers of each source factored: NMF of the Kullback-Leibler divergence from random factors.

    Args:
        V: (b, n, c, f, k) magnitudes.
        X: (b, c, f, k) complex.
        components: spectra per source.
        spread: as for `spatial_start`.
        seed: of the random factors, the same for each item of the batch.
        iterations: multiplicative updates (Lee & Seung 2001).

    Returns:
        T (b, f, n, a), U (b, n, a, k), in double precision, and R (b, f, n, c^2) as of `spatial_start`.
    """
    (b, n, _, f, k), blocks = V.shape, frequency_blocks(X)
    start = [spatial_start(V[:, :, :, part], double(X[:, :, part]), spread=spread) for part in blocks]
    R = torch.cat([R for _, R in start], 1)
    powers = [v for v, _ in start]  # (b, f, n, k) each
    generator = torch.Generator().manual_seed(seed)
    T = 0.5 + torch.rand(f, n, components, generator=generator, dtype=torch.float64)
    U = 0.5 + torch.rand(n, components, k, generator=generator, dtype=torch.float64)
    T, U = (t.to(R).expand(b, *t.shape).contiguous() for t in (T, U))
    tiny = torch.finfo(R.dtype).tiny
    for _ in range(iterations):
        up = 0
        for part, v in zip(blocks, powers, strict=True):
            ratio = v / torch.einsum("bfna,bnak->bfnk", T[:, part], U).clamp_min(tiny)
            T[:, part] *= torch.einsum("bfnk,bnak->bfna", ratio, U) / U.sum(-1).unsqueeze(1).clamp_min(tiny)
            ratio = v / torch.einsum("bfna,bnak->bfnk", T[:, part], U).clamp_min(tiny)
            up = up + torch.einsum("bfnk,bfna->bnak", ratio, T[:, part])
        U = U * up / T.sum(1).unsqueeze(-1).clamp_min(tiny)
    return T.clamp_min(1e-12), U.clamp_min(1e-12), R


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def require_determined(X: Tensor, n: int, method: str) -> None:
    """Refuses a mixture (b, c, ...) whose channels are not as many as the `n` targets of a method that unmixes."""
    if X.shape[1] != n:
        count = f"{_NUMBERS[n] if n < len(_NUMBERS) else n} channel{'s' if n != 1 else ''}"
        raise ValueError(
            f"{method} with {n} target{'s' if n != 1 else ''} needs {count}, one for each, but the mixture has {X.shape[1]}"
        )


def whiten(X: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics that demixing works on: outer products of X, whitened in every bin.

    Every channel of every bin counts as having noise of its own, `floor` times the mean power of the channels in this
    bin and 0.01 `floor` times that of all bins. So no bin is singular, an empty one (above a codec's cut-off) has no
    say, and all of it scales with the mixture.

    Args:
        X: (b, c, f, k) complex.
        floor: power of the noise, relative.

    Returns:
        P (b, f, c^2, k), the packed z z^H of the whitened z = Q x, noise (b, f, c^2), the packed covariance of the
        whitened noise, and Q (b, f, c, c), symmetric: it turns no channel into another. The latter two in double precision.
    """
    b, c, f, k = X.shape
    blocks = frequency_blocks(X)
    parts = (double(X[:, :, part].transpose(1, 2)) for part in blocks)  # (b, f, c, k)
    C = torch.cat([x @ x.mH for x in parts], 1) / k
    power = C.diagonal(dim1=-2, dim2=-1).real.mean(-1)  # (b, f)
    mean = power.mean(1, keepdim=True)
    noise = floor * torch.where(mean > 0, power + 1e-2 * mean, 1)
    values, vectors = torch.linalg.eigh(C)
    values = values.clamp_min(0) + noise.unsqueeze(-1)
    Q = (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mH
    P = torch.empty(b, f, c * c, k, dtype=X.real.dtype, device=X.device)
    for part in blocks:
        P[:, part] = outer(Q[:, part] @ double(X[:, :, part].transpose(1, 2)))
    return P, noise.unsqueeze(-1) * pack(Q @ Q), Q


def iterative_projection(W: Tensor, U: Tensor) -> Tensor:
    """Demixing matrices that lower sum_j w_j U_j w_j^H - 2 log |det W|: iterative projection (Ono 2011).

    Row by row; for two channels both at once, in closed form, as eigenvectors of U_2^-1 U_1 (Ono 2012), which is
    exact and treats the channels alike.

    Args:
        W: (..., n, c) complex, n = c, the rows of y = W x.
        U: (..., n, c, c) Hermitian positive definite, what the weighted covariance is for each row.

    Returns:
        The new W, with w_j U_j w_j^H = 1.
    """
    if W.shape[-1] == 2:
        return _iterative_projection_2(W, U)
    rows = list(W.unbind(-2))
    identity = torch.eye(len(rows), dtype=W.dtype, device=W.device)
    for j, unit in enumerate(identity):
        WU = torch.stack(rows, -2) @ U[..., j, :, :]
        w = torch.linalg.solve_ex(WU, unit.expand(WU.shape[:-1]).unsqueeze(-1)).result.mH  # (..., 1, c)
        rows[j] = (w / (w @ U[..., j, :, :] @ w.mH).real.sqrt()).squeeze(-2)
    return torch.stack(rows, -2)


def _iterative_projection_2(W: Tensor, U: Tensor) -> Tensor:
    """`iterative_projection` for two channels."""
    first, second = U.unbind(-3)
    a, b, c, d = second.flatten(-2).unbind(-1)
    adjugate = torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2))
    D = adjugate @ first  # det(U_2) U_2^-1 U_1, whose eigenvalues are real
    q, r = D[..., 0, 1], D[..., 1, 0]
    mean, half = (D[..., 0, 0] + D[..., 1, 1]).real / 2, (D[..., 0, 0] - D[..., 1, 1]) / 2
    gap = (half.square() + q * r).real.clamp_min(0).sqrt()  # the eigenvalues are mean -+ gap
    positive = half.real >= 0
    t = torch.where(positive, gap + half, gap - half)  # of two forms of each eigenvector the one without cancellation
    positive = positive.unsqueeze(-1)
    lower = torch.where(positive, torch.stack([q, -t], -1), torch.stack([-t, r], -1))
    upper = torch.where(positive, torch.stack([t, r], -1), torch.stack([q, t], -1))
    told_apart = (gap > 1e-5 * mean)[..., None, None]  # else any W is as good: it stays
    W = torch.where(told_apart, torch.stack([lower, upper], -2).conj(), W)
    power = torch.einsum("...jc,...jcd,...jd->...j", W, U, W.conj()).real
    return W / power.sqrt().unsqueeze(-1)


def back_project(X: Tensor, W: Tensor, Q: Tensor) -> Tensor:
    """Images of the sources that B = W Q unmixes: column j of B^-1 times row j of B times X. They sum to X.

    Sorted from the first channel to the second by the angle of their mean magnitudes there; where there are not two
    channels, the loudest first.

    Args:
        X: (b, c, f, k) complex.
        W: (b, f, n, c) complex, n = c.
        Q: (b, f, c, c), as of `whiten`.

    Returns:
        Y (b, n, c, f, k).
    """
    B = W @ Q
    A = torch.linalg.inv_ex(B).inverse  # (b, f, c, n)
    power = (A.abs().square() * W.abs().square().sum(-1).unsqueeze(-2)).sum(1)  # (b, c, n), as Q X is white
    order = sort_by_direction(power)
    A = A.take_along_dim(order[:, None, None], -1)
    B = B.take_along_dim(order[:, None, :, None], -2)
    b, c, f, k = X.shape
    Y = torch.empty(b, c, c, f, k, dtype=X.dtype, device=X.device)
    for part in frequency_blocks(X):
        y = B[:, part] @ double(X[:, :, part].transpose(1, 2))  # (b, f, n, k)
        Y[:, :, :, part] = torch.einsum("bfcn,bfnk->bncfk", A[:, part], y)
    return Y


def sort_by_direction(power: Tensor) -> Tensor:
    """Order (b, n) of sources of powers (b, c, n): of two channels from the first to the second, else the loudest first."""
    if power.shape[1] == 2:
        return torch.atan2(power[:, 1].sqrt(), power[:, 0].sqrt()).argsort(stable=True, dim=-1)
    return power.sum(1).argsort(stable=True, dim=-1, descending=True)


def require_stereo(X: Tensor, method: str) -> None:
    """Refuses a mixture (..., c, f, k) of other than two channels on behalf of a position model."""
    if X.shape[-3] != 2:
        raise ValueError(f"{method} needs two channels, left and right, to compare, but the mixture has {X.shape[-3]}")


def channel_products(X: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """|X_1|^2, |X_2|^2 and the real and imaginary part of X_1 conj(X_2) of X (..., 2, f, k), with a peak of about 1.

    They are all that position models look at. Divided by the peak of each item, so that no square can vanish.
    """
    a, b = torch.view_as_real(X).unbind(-4)  # (..., f, k, 2)
    peak = torch.maximum(*(x.abs().amax((-3, -2, -1), keepdim=True) for x in (a, b)))
    scale = torch.where(peak > 0, peak, 1).reciprocal()
    a, b, c, d = (part for x in (a, b) for part in (x * scale).unbind(-1))
    return a * a + b * b, c * c + d * d, a * c + b * d, b * c - a * d


def principal_angles(difference: Tensor, coherence: Tensor) -> Tensor:
    """Degrees of the direction in which the two channels are strongest, in [-45, 135): 0 to 90 in phase, beyond it not.

    Args:
        difference: |X_1|^2 - |X_2|^2.
        coherence: 2 Re X_1 conj(X_2).
    """
    angles = torch.atan2(coherence, difference).rad2deg() / 2
    return torch.where(angles < -45, angles + 180, angles)


def in_phase(E: Tensor, real: Tensor, imaginary: Tensor, width: float = 0.05) -> Tensor:
    """The magnitude of each bin, less the further its two channels are from being in phase.

    Where two panned sources overlap, the ratio of the channels is complex or negative; the angle there is that of
    neither. Without such bins the peaks of a histogram stand clear of the ghosts between them.

    Args:
        E: |X_1|^2 + |X_2|^2.
        real, imaginary: parts of X_1 conj(X_2).
        width: of twice these, relative to E, at which a bin counts for a quarter.
    """
    unit = (width / 2 * E).clamp_min(torch.finfo(E.dtype).tiny)
    return E.sqrt() / (1 + (imaginary / unit).square() + (real.clamp_max(0) / unit).square()).square()


def histogram(index: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Sums of the weights (..., f, k) that share an index (..., f, k): (..., bins)."""
    rows = weights.new_zeros(*weights.shape[:-1], bins)  # per frequency first: a single sum of millions loses digits
    return rows.scatter_add(-1, index, weights).sum(-2)


def azimuth_histogram(angles: Tensor, weights: Tensor, bins: int, smoothing: float) -> Tensor:
    """Weighted histogram (..., bins) of angles (..., f, k) in degrees; the centres are linspace(0, 90, bins)."""
    index = (angles * ((bins - 1) / 90)).round().long()
    inside = (index >= 0) & (index < bins)
    return smooth(histogram(index.clamp(0, bins - 1), weights * inside, bins), smoothing)


def smooth(h: Tensor, sigma: float, *, circular: bool = False) -> Tensor:
    """Gaussian smoothing of the last axis by `sigma` bins; nothing is lost at the edges, which are walls or join."""
    if sigma == 0:
        return h
    n = h.shape[-1]
    i = torch.arange(n, device=h.device)
    distance = (i[:, None] - i).abs()
    if circular:
        distance = torch.minimum(distance, n - distance)
    kernel = torch.exp(-(distance / sigma).square() / 2).to(h.dtype)
    return h @ (kernel / kernel.sum(0)).mT


def find_peaks(h: Tensor, count: int, reach: tuple[int, int], floor: float = 0.002) -> tuple[Tensor, Tensor, Tensor]:
    """The highest local maxima of h (..., u, v), refined by a parabola along each axis.

    Args:
        h: histogram >= 0.
        count: how many.
        reach: bins of each axis within which a maximum must be the highest.
        floor: of the highest peak; what is below is none.

    Returns:
        Their places along u and along v, fractions of bins, and whether there is one: (..., count) each, highest first.
    """
    u, v = h.shape[-2:]
    pooled = torch.nn.functional.max_pool2d(h.reshape(-1, u, v), [2 * r + 1 for r in reach], 1, reach).view_as(h)
    highest = h.amax((-2, -1), keepdim=True)
    flat = h.where((h == pooled) & (h > floor * highest), 0).flatten(-2)
    flat = torch.nn.functional.pad(flat, (0, max(count - u * v, 0)))
    values, place = flat.topk(count, -1)
    i, j = place.clamp_max(u * v - 1) // v, place.clamp_max(u * v - 1) % v

    def at(i: Tensor, j: Tensor) -> Tensor:
        i, j = ((n - 1 - (n - 1 - x.abs()).abs()).clamp_min(0) for x, n in ((i, u), (j, v)))  # mirrored at the edges
        return h.flatten(-2).gather(-1, i * v + j)

    def vertex(before: Tensor, after: Tensor) -> Tensor:
        curvature = 2 * at(i, j) - before - after
        slope = (after - before) / 2
        return torch.where(curvature > 0, slope / torch.where(curvature > 0, curvature, 1), 0).clamp(-0.5, 0.5)

    return i + vertex(at(i - 1, j), at(i + 1, j)), j + vertex(at(i, j - 1), at(i, j + 1)), values > 0


def find_azimuths(histogram: Tensor, sources: int, *, distance: float = 5.0) -> Tensor:
    """Azimuths of the highest peaks of a panning histogram.

    Args:
        histogram: (..., bins), from hard left, 0 degrees, to hard right, 90 degrees, both of them bin centres.
        sources: how many.
        distance: degrees that they are apart at least.

    Returns:
        (..., sources) degrees, ascending. Where there are fewer peaks, the surplus azimuths are spread out: each is put as
        far as can be from those before it, so the azimuths of a mono song played in stereo are 0, 45 and 90.
    """
    step = 90 / (histogram.shape[-1] - 1)
    place, _, found = find_peaks(histogram.unsqueeze(-1), sources, (max(round(distance / step), 1), 0))
    return spread(place * step, found).sort(-1).values


def spread(angles: Tensor, found: Tensor) -> Tensor:
    """Puts the angles (..., n) that were not `found`, always the last, as far as can be from those before them."""
    placed: list[Tensor] = []
    grid = torch.linspace(0, 90, 91, dtype=angles.dtype, device=angles.device)
    for angle, known in zip(angles.unbind(-1), found.unbind(-1), strict=True):
        if placed:
            gap = (grid - torch.stack(placed, -1).unsqueeze(-1)).abs().amin(-2)  # (..., 91)
            free = grid[gap.argmax(-1)]
        else:
            free = torch.full_like(angle, 45)
        placed.append(torch.where(known, angle, free))
    return torch.stack(placed, -1)


def given_angles(angles: Sequence[float], like: Tensor) -> Tensor:
    """Checks angles in degrees: (b, n), the same for every item of `like` (b, ...)."""
    if not angles or not all(0 <= angle <= 90 for angle in angles):
        raise ValueError(f"angles are degrees from 0 (left) to 90 (right), one per target, not {list(angles)}")
    return torch.tensor(list(angles), dtype=like.dtype, device=like.device).expand(like.shape[0], -1)


def highest(scores: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The highest of several scores of the same shape, and which it is, the first where they are equal.

    One after another, which takes a quarter of the time of `argmax` over an axis that is not the last.
    """
    best = winner = None
    for j, score in enumerate(scores):
        if best is None:
            best, winner = score, torch.zeros_like(score, dtype=torch.uint8)
        else:
            winner = torch.where(score > best, torch.full((), j, dtype=torch.uint8, device=score.device), winner)
            best = torch.maximum(best, score)
    return best, winner


def awarded(winner: Tensor, n: int, X: Tensor) -> Tensor:
    """|X| (b, c, f, k) to the winner (b, f, k) of each bin, nothing to the others: V (b, n, c, f, k)."""
    index = torch.arange(n, dtype=winner.dtype, device=X.device).view(-1, 1, 1)
    own = winner.unsqueeze(1) == index  # (b, n, f, k)
    return torch.where(own.unsqueeze(2), X.abs().unsqueeze(1), 0)
