"""NMF of harmonic spectra (Vincent, Bertin & Badeau, IEEE TASLP 18(3), 2010): |X| ~ W H, each W_a a sum of fixed atoms.

    W_a = sum_m E_am P_am      pitch a: P_am is what the window makes of the m-th partial of f0_a, at m f0_a (1 + B m^2)^(1/2)
                               noise a: P_am is the m-th of a row of broad bands, too smooth for any partial

E >= 0 and H >= 0 lower the Kullback-Leibler divergence by multiplicative updates: E by those of W, carried back onto the atoms.
The envelope of each pitch is learned, its partials stay where they are; so a component is a note, whatever plays it. Departs
from the paper in its atoms: one per partial, not one per band of partials, and bands beside them for what has no pitch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mss.classical._nmf import concatenated, continuity_terms

__all__ = ["harmonic_atoms", "harmonic_nmf", "harmonic_templates", "noise_atoms"]

LOWEST, PITCHES = 28, 68  # E1, 41 Hz, to B6: below, partials are closer than the window tells apart
PARTIALS = 30
NOISES, BANDS = 8, 24
NOISE = 1e-10  # of the mean: what Y is at least


def harmonic_nmf(
    X: Tensor, *, iterations: int = 60, inharmonicity: float = 0.0, continuity: float = 10.0, sample_rate: int = 44100
) -> Tensor:
    """Magnitudes of what has a pitch and of what has none.

    Args:
        X: (b, c, f, k) complex, f bins from 0 to half the sampling rate of a Hann window as long as the transform.
        iterations: of envelopes and activations.
        inharmonicity: B, of stiff strings.
        continuity: weight of the changes of the pitches' activations from frame to frame (Virtanen 2007).
        sample_rate: Hz.

    Returns:
        V (b, 2, c, f, k): harmonic, percussive.
    """
    V, level = concatenated(X.abs())
    W, H = harmonic_templates(
        V, iterations=iterations, inharmonicity=inharmonicity, continuity=continuity, sample_rate=sample_rate
    )
    H = H.unflatten(-1, (X.shape[1], -1)).transpose(1, 2)  # (b, c, a, k)
    parts = (W[..., :PITCHES], H[:, :, :PITCHES]), (W[..., PITCHES:], H[:, :, PITCHES:])
    return torch.stack([(w * level).unsqueeze(1) @ h for w, h in parts], 1)


@torch.no_grad()
def harmonic_templates(
    V: Tensor, *, iterations: int = 60, inharmonicity: float = 0.0, continuity: float = 10.0, sample_rate: int = 44100
) -> tuple[Tensor, Tensor]:
    """The factors of V (b, f, k), of mean 1 per item: W (b, f, a), H (b, a, k); the pitches first, then noises.

    Args: as of `harmonic_nmf`.
    """
    b, f, k = V.shape
    V = V.contiguous()
    bins, lobes = _lobes(f, sample_rate, inharmonicity)  # (4 partial, pitch)
    bins, lobes = bins.to(V.device).expand(b, -1, -1), lobes.to(V)
    N = noise_atoms(f, sample_rate).to(V)  # (f, band)
    E = V.new_ones(b, PITCHES, PARTIALS) / torch.arange(1, PARTIALS + 1, device=V.device)
    # noises that are alike stay alike: each starts with a hump of its own
    bands, centres = torch.arange(BANDS, device=V.device), torch.linspace(0, BANDS - 1, NOISES, device=V.device)
    D = (
        (0.1 + torch.exp(-0.5 * ((bands - centres.unsqueeze(-1)) / 3).square())).to(V).expand(b, -1, -1)
    )  # (b, noise, band)
    H = V.new_full((b, PITCHES + NOISES, k), 1 / PITCHES)
    heights, sizes = lobes.unflatten(0, (4, -1)).sum(0).mT, N.sum(0)  # of the atoms, (pitch, partial) and (band,)
    floor = NOISE * torch.where(V.mean((1, 2)) > 0, V.mean((1, 2)), 1).view(-1, 1, 1)
    tiny = torch.finfo(V.dtype).tiny

    def spectra() -> Tensor:
        pitched = V.new_zeros(b, f, PITCHES).scatter_add_(1, bins, lobes * E.mT.repeat(1, 4, 1))
        return torch.cat([pitched, N @ D.mT], -1)

    for _ in range(iterations):
        G = (V / (spectra() @ H + floor)) @ H.mT  # (b, f, a)
        times = H.sum(-1).unsqueeze(-1)  # (b, a, 1)
        heard = (lobes * G[..., :PITCHES].gather(1, bins)).unflatten(1, (4, -1)).sum(1).mT  # (b, pitch, partial)
        E = E * heard / (heights * times[:, :PITCHES]).clamp_min(tiny)
        D = D * (G[..., PITCHES:].mT @ N) / (sizes * times[:, PITCHES:]).clamp_min(tiny)
        W = spectra()
        total = W.sum(1).unsqueeze(-1)  # (b, a, 1)
        total = torch.where(total > 0, total, 1)
        E, D, H = (
            E / total[:, :PITCHES],
            D / total[:, PITCHES:],
            H * total,
        )  # continuity compares activations: of unit spectra
        W = W / total.mT
        up, down = W.mT @ (V / (W @ H + floor)), W.sum(1).unsqueeze(-1).expand_as(H)
        plus, minus = (continuity * x for x in continuity_terms(H[:, :PITCHES]))
        up = torch.cat([up[:, :PITCHES] + minus, up[:, PITCHES:]], 1)
        down = torch.cat([down[:, :PITCHES] + plus, down[:, PITCHES:]], 1)
        H = H * up / down.clamp_min(tiny)
    return spectra(), H


def harmonic_atoms(f: int, sample_rate: int = 44100, inharmonicity: float = 0.0) -> Tensor:
    """(f, pitch, partial): the main lobe of a Hann window about each partial; nothing where that is above the last bin."""
    bins, lobes = (x.unflatten(0, (4, -1)) for x in _lobes(f, sample_rate, inharmonicity))  # (4, partial, pitch)
    atoms = torch.zeros(f, PARTIALS, PITCHES, dtype=torch.float64).scatter_add_(0, bins, lobes)
    return atoms.transpose(1, 2)


def _lobes(f: int, sample_rate: int, inharmonicity: float) -> tuple[Tensor, Tensor]:
    """The atoms where they are not 0: bins and heights, (4 * partial, pitch), the four bins of a lobe outermost."""
    f0 = 440 * 2 ** ((torch.arange(LOWEST, LOWEST + PITCHES, dtype=torch.float64) - 69) / 12)
    m = torch.arange(1, PARTIALS + 1, dtype=torch.float64).unsqueeze(-1)
    place = f0 * m * (1 + inharmonicity * m.square()).sqrt() * 2 * (f - 1) / sample_rate  # bins, (partial, pitch)
    bins = place.floor() + torch.arange(-1, 3).view(-1, 1, 1)  # a lobe ends 2 bins away from its centre
    x = bins - place
    lobes = torch.where(x.abs() == 1, 0.5, torch.sinc(x) / torch.where(x.abs() == 1, 1, 1 - x.square())).clamp_min(0)
    inside = (place < f - 2) & (bins >= 0)
    return torch.where(inside, bins, 0).long().flatten(0, 1), torch.where(inside, lobes, 0).flatten(0, 1)


def noise_atoms(f: int, sample_rate: int = 44100) -> Tensor:
    """(f, band): raised cosines side by side on the scale of equivalent rectangular bandwidths (Moore & Glasberg 1990)."""
    frequency = torch.linspace(0, sample_rate / 2, f, dtype=torch.float64)
    erb = 21.4 * torch.log10(1 + 0.00437 * frequency)
    x = erb.unsqueeze(-1) / erb[-1] * (BANDS - 1) - torch.arange(BANDS, dtype=torch.float64)
    return torch.where(x.abs() < 1.5, (1 + torch.cos(torch.pi * x / 1.5)) / 3, 0)
