"""Scores of separated sources: BSS Eval as museval computes it, and the scale-invariant and plain ratios."""

from mss.metrics.bss_eval import BSSEval, bss_eval, is_silent

__all__ = ["BSSEval", "bss_eval", "is_silent"]
