"""Classical methods: each file one paper, each an estimator X (b, c, f, k) complex -> V (b, n, c, f, k) real >= 0."""

from mss.classical.hpss import hpss
from mss.classical.repet_sim import repet_sim

__all__ = ["hpss", "repet_sim"]
