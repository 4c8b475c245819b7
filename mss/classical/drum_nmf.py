"""Drums by a partially fixed NMF (Wu & Lerch, EUSIPCO 2015), its templates adapted to the song (Wu & Lerch, ISMIR 2015).

|X| ~ W_D H_D + W_R H_R by the Kullback-Leibler divergence: first the spectra W_D are those of drums, and only their
activations are sought, along with spectra and activations of the rest; then W_D is free, too, and takes the shape that this
kit has. What it finds is weighed by how percussive each bin is, by running medians (FitzGerald 2010). Departs from the
papers in three points: the templates are no recordings but smooth bands about where a kick, a
snare, a tom and a cymbal have their energy; the rest is made to change slowly (Virtanen 2007), or it would take the drums
that the templates do not match; and the output is not where the drums are hit, but what they play.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._nmf import concatenated, factorise, model, random_start
from mss.classical._ops import median_filter
from mss.filters import ratio_mask

__all__ = ["drum_nmf", "drum_templates"]

# each a sum of bands: centre in Hz, width (standard deviation) in octaves, height
TEMPLATES = (
    ((55.0, 0.35, 1.0), (110.0, 0.6, 0.2), (3000.0, 1.0, 0.01)),  # a low kick
    ((80.0, 0.4, 1.0), (160.0, 0.6, 0.3), (3500.0, 1.0, 0.03)),  # a high kick, with its beater
    ((110.0, 0.3, 1.0), (230.0, 0.4, 0.2)),  # toms
    ((190.0, 0.25, 1.0), (330.0, 0.4, 0.4), (3000.0, 1.2, 0.15)),  # a snare's head and wires
    ((1500.0, 1.0, 0.5), (5000.0, 1.0, 1.0)),  # a snare's wires alone, claps
    ((8500.0, 0.5, 1.0), (4000.0, 0.5, 0.2)),  # a hi-hat
    ((13000.0, 0.5, 1.0), (6000.0, 0.8, 0.5)),  # cymbals
)


def drum_templates(f: int, sample_rate: int = 44100) -> Tensor:
    """Magnitude spectra of drums (f, a), each with a sum of 1; the bins go from 0 to half the sampling rate, Hz."""
    frequency = torch.linspace(0, sample_rate / 2, f, dtype=torch.float64).clamp_min(1)
    spectra = [
        sum(height * torch.exp(-0.5 * ((frequency / centre).log2() / width) ** 2) for centre, width, height in bands)
        for bands in TEMPLATES
    ]
    W = torch.stack(spectra, -1)
    return W / W.sum(0)


def drum_nmf(
    X: Tensor,
    *,
    components: int = 50,
    copies: int = 2,
    iterations: int = 60,
    adaptation: int = 20,
    continuity: float = 10.0,
    kernel: int = 31,
    sample_rate: int = 44100,
    seed: int = 0,
) -> Tensor:
    """Magnitudes of the drums and of the rest.

    Args:
        X: (b, c, f, k) complex.
        components: spectra of the rest.
        copies: of each template, all the same as long as they are fixed, but for a little noise.
        iterations: with the drums' spectra fixed.
        adaptation: iterations after these, with all spectra free.
        continuity: weight of the changes of the rest from frame to frame, the magnitudes having a mean of 1.
        kernel: length of the medians, frames and bins; odd.
        sample_rate: Hz.
        seed: of what the rest starts from, the same for each item of the batch.

    Returns:
        V (b, 2, c, f, k): drums, rest; they sum to |X|.
    """
    V, level = concatenated(X.abs())
    drums = drum_templates(X.shape[-2], sample_rate).to(V).repeat(1, copies)
    a = drums.shape[-1]
    W, H = random_start(V, a + components, seed)
    W = torch.cat([drums * (X.shape[-2] * W[..., :a]), W[..., a:]], -1)
    smooth = torch.cat([torch.zeros(a, 1), torch.full((components, 1), continuity)]).to(V)
    W, H = factorise(V, W, H, iterations=iterations, fixed=a, continuity=smooth)
    W, H = factorise(V, W, H, iterations=adaptation, continuity=smooth)
    groups = torch.zeros(2, a + components)
    groups[0, :a] = groups[1, a:] = 1
    magnitude = X.abs()
    parts = model(W * level, H, groups.to(V).expand(len(V), -1, -1), X.shape[1])
    H, P = (median_filter(magnitude, kernel, dim) for dim in (-1, -2))
    return ratio_mask(parts * ratio_mask(torch.stack([P, H], 1), 2.0)) * magnitude.unsqueeze(1)
