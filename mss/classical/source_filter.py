"""Lead voice as a source times a filter (Durrieu, Richard, David & Févotte 2010; Durrieu, David & Richard 2011).

The powers of the voice are the product of a glottal source, combs of all pitches, and a smooth filter; those of the
accompaniment are an NMF:

    S_c(f, k) ~ A_c (W_F0 H_F0) (W_Gamma H_Gamma H_Phi) + W_M H_M,

fitted by multiplicative updates of the Itakura-Saito divergence. A first pass leaves all pitches open; H_F0 is its salience,
through which the Viterbi algorithm draws the melody. A second pass starts anew with the pitches within half a semitone of
the melody. A third adds a flat source, for what of the voice has no pitch.

Departs from the papers in three points. The channels are not left and right but their sum and differences, and the gains
are given: the voice is in the middle, the accompaniment anywhere, so of equal power in all. Factors in
which the model is linear together are updated at once. The masks are of magnitudes unless `power` is 2.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mss.classical._covariances import squared
from mss.classical._glottal import f0_grid, glottal_combs, smooth_bumps
from mss.classical._melody import corridor, glide_penalty, viterbi, voiced_frames
from mss.classical._source_filter import Model, lead_energy, lead_shares, random_model

__all__ = ["melody", "source_filter"]

FLOOR = 1e-9  # of the powers, relative to the largest
SIDE = 0.005  # power of the voice in each difference of channels, relative to that in their sum
FLAT = 0.01  # where the flat source starts, relative to the mean of the combs

LOWEST, HIGHEST, STEPS = 100.0, 800.0, 8
OPEN_QUOTIENT, FILTERS, SHAPES, COMPONENTS = 0.25, 80, 16, 6
ITERATIONS, GLIDE, QUIET = 30, 1.0, 5.84e-4


def source_filter(
    X: Tensor,
    *,
    sample_rate: int = 44100,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    open_quotient: float = OPEN_QUOTIENT,
    filters: int = FILTERS,
    shapes: int = SHAPES,
    components: int = COMPONENTS,
    iterations: int = ITERATIONS,
    glide: float = GLIDE,
    quiet: float = QUIET,
    unvoiced: int = 6,
    power: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Spectra of the lead voice and of what accompanies it.

    Args:
        X: (b, c, f, k) complex, of a Hann window as long as the transform.
        sample_rate: Hz.
        lowest: pitch of the voice, Hz; all bins below are accompaniment.
        highest: pitch of the voice, Hz.
        steps: pitches to the semitone.
        open_quotient: share of a period in which the glottis is open; less is brighter.
        filters: bumps, from 0 Hz to half the sample rate, of which the filters are sums.
        shapes: filters of the voice; vowels, so to speak.
        components: spectra of the accompaniment.
        iterations: of the first pass, and of the second.
        glide: what the melody pays for each semitone from frame to frame, up to ten, nepers of salience.
        quiet: share of the voice's energy in the frames that count as unvoiced.
        unvoiced: iterations of the third pass; 0: none, the voice is its pitched part.
        power: exponent of the masks; 2 is the Wiener filter.
        seed: of the random factors, the same for each item of the batch.

    Returns:
        Y (b, 2, c, f, k) complex: voice, accompaniment; they sum to X.
    """
    Z, S, f0, combs, bumps = _prepared(X, sample_rate, lowest, highest, steps, open_quotient, filters)
    first = _fitted(S, combs, bumps, None, shapes, components, iterations, seed)
    path, voiced, _ = _melody(first, steps, glide, quiet)
    active = corridor(path, len(f0), steps // 2) & voiced.unsqueeze(1)
    model = _fitted(S, combs, bumps, active, shapes, components, iterations, seed)
    if unvoiced:
        mean = sum(h.sum((1, 2), keepdim=True) for h in model.H_F0) / X.shape[-1]
        flat = torch.cat([combs, torch.ones_like(combs[:, :1])], 1)
        with_flat = [torch.cat([h, FLAT * mean.expand(-1, 1, h.shape[-1])], 1) for h in model.H_F0]
        model = replace(model, W_F0=flat, H_F0=with_flat)
        for _ in range(unvoiced):
            model.update(filters=False)
    share = lead_shares(model, power).to(X.real.dtype)
    share[:, :, : math.ceil(lowest * 2 * (X.shape[2] - 1) / sample_rate)] = 0
    voice = _rotated(share * Z, inverse=True)
    return torch.stack([voice, X - voice], 1)


def melody(
    X: Tensor,
    *,
    sample_rate: int = 44100,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    open_quotient: float = OPEN_QUOTIENT,
    filters: int = FILTERS,
    shapes: int = SHAPES,
    components: int = COMPONENTS,
    iterations: int = ITERATIONS,
    glide: float = GLIDE,
    quiet: float = QUIET,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Pitch of the lead voice, by the first pass of `source_filter`, whose options these are.

    Returns:
        f0 (b, k) in Hz, 0 where unvoiced, and the salience H_F0 (b, u, k) of `lowest` 2^(u / (12 `steps`)) Hz.
    """
    _, S, f0, combs, bumps = _prepared(X, sample_rate, lowest, highest, steps, open_quotient, filters)
    model = _fitted(S, combs, bumps, None, shapes, components, iterations, seed)
    path, voiced, salience = _melody(model, steps, glide, quiet)
    return (f0[path] * voiced).to(X.real.dtype), salience.to(X.real.dtype)


def _prepared(
    X: Tensor, sample_rate: int, lowest: float, highest: float, steps: int, open_quotient: float, filters: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sum and differences of the channels, their powers with a mean of about 1, the pitches, their combs, and the bumps."""
    if not 0 < lowest < highest < sample_rate / 2:
        raise ValueError(
            f"pitches must rise from above 0 to below {sample_rate / 2:g} Hz, half the sample rate, not "
            f"from lowest={lowest} to highest={highest} Hz"
        )
    Z = _rotated(X)
    peak = Z.abs().amax((1, 2, 3), keepdim=True)
    S = squared(Z / torch.where(peak > 0, peak, 1)).clamp_min(FLOOR)
    f0 = f0_grid(lowest, highest, steps)
    combs = glottal_combs(f0, bins=X.shape[2], sample_rate=sample_rate, open_quotient=open_quotient)
    S = S / S.mean((1, 2, 3), keepdim=True)
    return Z, S, f0.to(S), combs.to(S), smooth_bumps(X.shape[2], filters).to(S)


def _fitted(
    S: Tensor,
    combs: Tensor,
    bumps: Tensor,
    active: Tensor | None,
    shapes: int,
    components: int,
    iterations: int,
    seed: int,
) -> Model:
    """One pass."""
    model = random_model(S, combs, bumps, active, side=SIDE, shapes=shapes, components=components, seed=seed)
    for _ in range(iterations):
        model.update()
    return model


def _melody(model: Model, steps: int, glide: float, quiet: float) -> tuple[Tensor, Tensor, Tensor]:
    """Path (b, k) through the pitches, whether each frame is voiced (b, k), and the salience (b, u, k)."""
    model.normalise()
    salience = torch.cat(model.H_F0, -1)
    floor = 1e-12 * salience.amax((1, 2), keepdim=True)
    path = viterbi(torch.maximum(salience, floor).log(), glide_penalty(salience.shape[1], steps, glide).to(salience))
    near = corridor(path, salience.shape[1], steps // 2).split(model.S[0].shape[-1], -1)
    along = replace(model, H_F0=[h * part for h, part in zip(model.H_F0, near, strict=True)])
    return path, voiced_frames(lead_energy(along), quiet), salience


def _rotated(X: Tensor, *, inverse: bool = False) -> Tensor:
    """Channels (b, c, f, k) in the orthonormal basis of a cosine transform: their sum first, then their differences."""
    c = X.shape[1]
    n = torch.arange(c, dtype=torch.float64)
    basis = torch.cos(math.pi * (n + 0.5) * n.unsqueeze(-1) / c) * (2 / c) ** 0.5
    basis[0] = c**-0.5
    basis = (basis.T if inverse else basis).to(X)
    return (basis @ X.flatten(2)).view(X.shape)
