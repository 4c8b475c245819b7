"""PEASS: what listeners would say of a separation, predicted. Four scores from 0 to 100, beside the SDRs.

V. Emiya, E. Vincent, N. Harlander, V. Hohmann, "Subjective and objective quality assessment of audio source separation",
IEEE TASLP 19(7), 2011. An estimate is split into target, target distortion, interference and artefacts in gammatone
bands; what an auditory model hears of each goes through a small network trained on listening tests.

The work is done by the PyPI package `python-peass` (GPL-3.0, a port of the authors' MATLAB code), which is not installed
with mss. It takes some seconds per second of music and source: score excerpts of some seconds, not songs. For music the
scores and the listeners agree weakly (E. Cano, D. FitzGerald, K. Brandenburg, EUSIPCO 2016): they stand beside listening
tests, not in their place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mss.metrics._inputs import check_shapes

__all__ = ["PEASS", "peass"]


class PEASS(NamedTuple):
    """Result of `peass`, 0 to 100, float64, each (..., n); NaN where a score would mean nothing."""

    ops: Tensor  # overall
    tps: Tensor  # target preservation
    ips: Tensor  # suppression of the other sources
    aps: Tensor  # absence of artefacts


def peass(references: Tensor, estimates: Tensor, sample_rate: int = 44100) -> PEASS:
    """PEASS of each of the excerpts (..., n, c, t), on the CPU and without gradients.

    NaN where a reference or its estimate is silent, or all the other references are: the package would give numbers.

    Args:
        references: True sources (..., n, c, t), floating point, at least two, of at least 50 ms.
        estimates: Estimated sources, same shape.
        sample_rate: Hz.

    Raises:
        ImportError: `python-peass` is not installed.
        ValueError: One source only, different shapes, swapped axes, NaN or Inf, or less than 50 ms.
    """
    check_shapes(references, estimates)
    *batch, n, _, t = references.shape
    if n < 2:
        raise ValueError("PEASS asks how far the other sources are suppressed: expected two sources or more, got one")
    if t < 0.05 * sample_rate:
        raise ValueError(f"PEASS needs 50 ms, got {t} samples at {sample_rate} Hz")
    if not (references.isfinite().all() and estimates.isfinite().all()):
        raise ValueError(
            "references or estimates contain NaN or Inf; find out where the file or the separator makes them"
        )
    predict = _predictor()
    s, y = (
        x.detach().double().cpu().flatten(0, -4) if batch else x.detach().double().cpu()[None]
        for x in (references, estimates)
    )
    scores = [[_score(predict, s[b], y[b], j, sample_rate) for j in range(n)] for b in range(len(s))]
    table = torch.tensor(scores, dtype=torch.float64, device=references.device).reshape(*batch, n, 4)
    return PEASS(*table.unbind(-1))


def _score(predict, s: Tensor, y: Tensor, j: int, sample_rate: int) -> list[float]:
    """The four scores of estimate j; s and y (n, c, t)."""
    others = [s[i] for i in range(len(s)) if i != j and s[i].any()]
    if not (s[j].any() and y[j].any() and others):
        return [torch.nan] * 4
    original = [x.T.numpy() for x in (s[j], *others)]  # (t, c), the target first
    scores = predict(original, y[j].T.numpy(), sampling_frequency_hz=float(sample_rate))
    return [getattr(scores, f"{name}_perceptual_score") for name in ("overall", "target", "interference", "artifact")]


def _predictor():
    try:
        from peass import predict_perceptual_evaluation_scores
    except ImportError as error:
        raise ImportError(
            "PEASS needs the package python-peass, which is not installed: pip install 'mss-separation[peass]'"
        ) from error
    return predict_perceptual_evaluation_scores
