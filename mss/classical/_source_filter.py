"""The powers of a lead voice, a source times a filter, and of what accompanies it: the factors and their updates.

Frames are worked on in blocks, which bound the memory; axes as everywhere, u for the pitches, a for the
spectra of the accompaniment, s for the frames of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mss.filters import ratio_mask

__all__ = ["Model", "lead_energy", "lead_shares", "random_model"]

BLOCK = 2**20  # points of a block of frames, over channels and bins: bounds the memory


@dataclass
class Model:
    """S ~ A (W_F0 H_F0) (W_Gamma H_Gamma H_Phi) + W_M H_M in every channel; lists are of blocks of frames."""

    S: Sequence[Tensor]  # (b, c, f, s) each: powers of the mixture
    W_F0: Tensor  # (f, u)
    W_Gamma: Tensor  # (f, p)
    H_F0: list[Tensor]  # (b, u, s)
    H_Phi: list[Tensor]  # (b, k, s)
    H_Gamma: Tensor  # (b, p, k)
    W_M: Tensor  # (b, f, a)
    H_M: list[Tensor]  # (b, a, s)
    A: Tensor  # (b, c): gains of the lead, given

    def __post_init__(self) -> None:
        self.source = [self.W_F0 @ h for h in self.H_F0]  # (b, f, s); kept, as it costs most

    def lead(self, i: int) -> Tensor:
        """Powers of the lead before its gains, (b, f, s)."""
        return self.source[i] * (self.W_Gamma @ self.H_Gamma @ self.H_Phi[i])

    def lead_images(self, i: int) -> Tensor:
        """Powers of the lead, (b, c, f, s)."""
        return self.A[..., None, None] * self.lead(i).unsqueeze(1)

    def accompaniment(self, i: int) -> Tensor:
        """Powers of the accompaniment, the same in all channels, (b, 1, f, s)."""
        return (self.W_M @ self.H_M[i]).unsqueeze(1)

    def cost(self) -> Tensor:
        """Itakura-Saito divergence (b,) that the updates lower."""
        total = 0
        for i, S in enumerate(self.S):
            ratio = S / (self.lead_images(i) + self.accompaniment(i))
            total = total + (ratio - ratio.log() - 1).sum((1, 2, 3))
        return total

    def update(self, *, filters: bool = True) -> None:
        """One iteration: multiplicative updates of all factors, but of H_Gamma only with `filters`.

        Factors in which the model is linear together are updated at once: fewer models to compute, and as monotone.
        """
        W_Phi = self.W_Gamma @ self.H_Gamma
        gamma, spectra = [0, 0], [0, 0]
        for i in range(len(self.S)):
            envelope = W_Phi @ self.H_Phi[i]
            N = self._weights(i, self.source[i] * envelope)
            self.H_F0[i] = self.H_F0[i] * _ratio(*(self.W_F0.mT @ (envelope * self._mixed(n)) for n in N))
            self.H_M[i] = self.H_M[i] * _ratio(*(self.W_M.mT @ n.sum(1) for n in N))
            self.source[i] = self.W_F0 @ self.H_F0[i]
            N = self._weights(i, self.source[i] * envelope)
            self.H_Phi[i] = self.H_Phi[i] * _ratio(*(W_Phi.mT @ (self.source[i] * self._mixed(n)) for n in N))
            N = self._weights(i, self.source[i] * (W_Phi @ self.H_Phi[i]))
            for j, n in enumerate(N):
                if filters:
                    gamma[j] = gamma[j] + (self.source[i] * self._mixed(n)) @ self.H_Phi[i].mT
                spectra[j] = spectra[j] + n.sum(1) @ self.H_M[i].mT
        self.W_M = self.W_M * _ratio(*spectra)
        if filters:
            self.H_Gamma = self.H_Gamma * _ratio(*(self.W_Gamma.mT @ g for g in gamma))

    def normalise(self) -> None:
        """Leaves the model as it is, with the scale of the lead in H_F0, whose columns can then be compared."""
        scale = self.H_Gamma.sum(1, keepdim=True)  # (b, 1, k)
        self.H_Gamma = self.H_Gamma / scale
        for i in range(len(self.S)):
            H_Phi = self.H_Phi[i] * scale.mT
            total = H_Phi.sum(1, keepdim=True)  # (b, 1, s)
            self.H_Phi[i] = H_Phi / total
            self.H_F0[i] = self.H_F0[i] * total
            self.source[i] = self.source[i] * total

    def _weights(self, i: int, lead: Tensor) -> tuple[Tensor, Tensor]:
        """S / Y^2 and 1 / Y, (b, c, f, s) each, of a block with the given powers (b, f, s) of the lead."""
        S = self.S[i]
        Y = torch.addcmul(self.accompaniment(i), self.A[..., None, None], lead.unsqueeze(1))
        inverse = Y.reciprocal_()
        return (S * inverse).mul_(inverse), inverse

    def _mixed(self, n: Tensor) -> Tensor:
        """Channels (b, c, f, s) weighted by the gains of the lead, (b, f, s)."""
        if n.shape[1] == 1:
            return n.squeeze(1) * self.A.unsqueeze(-1)
        return (self.A.unsqueeze(1) @ n.flatten(2)).view(n.shape[0], *n.shape[2:])


def random_model(
    S: Tensor,
    W_F0: Tensor,
    W_Gamma: Tensor,
    active: Tensor | None = None,
    *,
    side: float,
    shapes: int,
    components: int,
    seed: int,
) -> Model:
    """Where the updates start: random factors, the same for each item of the batch, at the level of S.

    Args:
        S: (b, c, f, k) powers of mean 1.
        W_F0: (f, u).
        W_Gamma: (f, p).
        active: (b, u, k) bool, the pitches that may sound; they start at 1, all others stay 0. None: all, at random.
        side: gain of the lead in all channels but the first, where it is 1.
        shapes: spectral envelopes of the lead.
        components: spectra of the accompaniment.
        seed: of the random factors.
    """
    b, c, f, k = S.shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        start = 0.1 + torch.rand(*size, generator=generator, dtype=torch.float64)
        return start.to(S).expand(b, *size).contiguous()

    step = max(BLOCK // (b * c * f), 1)
    W_M = draw(f, components) * S.mean((1, 3)).unsqueeze(-1) / components
    H_M, H_Phi, H_Gamma = draw(components, k), draw(shapes, k), draw(W_Gamma.shape[1], shapes)
    H_F0 = draw(W_F0.shape[1], k) if active is None else active.to(S)
    A = torch.cat([S.new_ones(b, 1), S.new_full((b, c - 1), side)], 1)
    blocks = [[t.contiguous() for t in x.split(step, -1)] for x in (S, H_F0, H_Phi, H_M)]
    return Model(blocks[0], W_F0, W_Gamma, blocks[1], blocks[2], H_Gamma, W_M, blocks[3], A)


def lead_shares(model: Model, power: float) -> Tensor:
    """The lead's share (b, c, f, k) of magnitudes to the `power`, in every bin."""
    return torch.cat(
        [
            ratio_mask(
                torch.stack(torch.broadcast_tensors(model.lead_images(i), model.accompaniment(i)), 1), power / 2
            )[:, 0]
            for i in range(len(model.S))
        ],
        -1,
    )


def lead_energy(model: Model) -> Tensor:
    """Energy (b, k) of the lead in every frame, by the Wiener filter."""
    energy = []
    for i, S in enumerate(model.S):
        V = model.lead_images(i)
        energy.append(((V / (V + model.accompaniment(i))).square() * S).sum((1, 2)))
    return torch.cat(energy, -1)


def _ratio(up: Tensor, down: Tensor) -> Tensor:
    """up / down, 1 where a factor does not matter."""
    return torch.where(down > 0, up / torch.where(down > 0, down, 1), 1)
