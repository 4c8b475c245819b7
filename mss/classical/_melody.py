"""One melody line through a salience, and where it sounds."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["corridor", "glide_penalty", "viterbi", "voiced_frames"]


def viterbi(emission: Tensor, transition: Tensor) -> Tensor:
    """Best paths (b, k): the states whose emissions (b, u, k) and transitions (to, from), all logarithms, sum to most."""
    b, u, k = emission.shape
    emission = emission.permute(2, 0, 1).contiguous()  # (k, b, u)
    came_from = torch.zeros(k, b, u, dtype=torch.int16, device=emission.device)
    score = emission[0]
    for n in range(1, k):
        best = (score.unsqueeze(1) + transition).max(-1)
        came_from[n] = best.indices
        score = best.values + emission[n]
    path = torch.empty(k, b, dtype=torch.long, device=emission.device)
    path[-1] = score.argmax(-1)
    for n in range(k - 1, 0, -1):
        path[n - 1] = came_from[n].gather(-1, path[n].unsqueeze(-1)).squeeze(-1)
    return path.T


def glide_penalty(states: int, steps: int, penalty: float) -> Tensor:
    """Transitions (u, u) for `viterbi`: `penalty` per whole semitone, that of ten for all leaps beyond; rows sum to 1."""
    state = torch.arange(states)
    semitones = ((state - state.unsqueeze(-1)).abs() // steps).clamp_max(10)
    return torch.log_softmax(-penalty * semitones.double(), -1)


def corridor(path: Tensor, states: int, width: int) -> Tensor:
    """(b, u, k) bool: the states within `width` of the path (b, k)."""
    return (torch.arange(states, device=path.device).unsqueeze(-1) - path.unsqueeze(1)).abs() <= width


def voiced_frames(energy: Tensor, share: float) -> Tensor:
    """(b, k) bool: all frames but the quietest, which together have at most the `share` of the energy (b, k) of a song.

    The energy that is compared is that of a frame, the cumulative sum only gives the threshold.
    """
    ordered = energy.sort(-1).values
    total = ordered.cumsum(-1)
    last = (total <= share * total[..., -1:]).sum(-1, keepdim=True) - 1  # of the quietest; -1: there is none
    threshold = ordered.gather(-1, last.clamp_min(0)).where(last >= 0, 0)
    return energy > threshold
