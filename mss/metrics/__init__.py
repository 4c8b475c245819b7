"""Scores of separated sources: BSS Eval exactly as museval has it, and the plain and scale-invariant ratios."""

from mss.metrics.bss_eval import BSSEval, bss_eval, is_silent
from mss.metrics.sdr import sd_sdr, si_sar, si_sdr, si_sir, snr, usdr

__all__ = ["BSSEval", "bss_eval", "is_silent", "sd_sdr", "si_sar", "si_sdr", "si_sir", "snr", "usdr"]
