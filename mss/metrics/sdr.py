"""Energy ratios of whole signals, in dB: SNR, uSDR, SI-SDR, SD-SDR, SI-SIR and SI-SAR.

All take references s and estimates y (..., n, c, t) and give one number per source, (..., n). A source's channels are
flattened: one gain for all of them, energies summed over channels and time (averaging the ratios of the channels is
another measure). All are batched, differentiable, of the inputs' dtype and device. Each of them computes:

    snr      |s|² / |s-y|²                          every error of gain and delay counts
    usdr     (|s|² + δ) / (|s-y|² + δ), δ = 1e-7    Y. Mitsufuji et al., "Music Demixing Challenge 2021", Front. Signal
                                                    Process. 2022: then averaged over stems, then over songs
    si_sdr   |αs|² / |y-αs|²,  α = <y,s> / |s|²     J. Le Roux, S. Wisdom, H. Erdogan, J. Hershey, "SDR - half-baked or
    sd_sdr   |αs|² / |y-s|²                         well done?", ICASSP 2019
    si_sir   |αs|² / |Py-αs|²                       the same paper; P projects on all references, one gain for each.
    si_sar   |αs|² / |y-Py|²                        For 512-tap filters see `bss_eval(..., window=math.inf)`

Where the ratio means nothing the result is NaN and its gradient zero, so that `nanmean` is a usable loss: a silent
reference (usdr apart: its δ defines it), a silent estimate where the gain is free, NaN or Inf in the signals.
A perfect estimate is inf; a silent estimate has an SNR of 0 dB, by definition.
"""

import torch
from torch import Tensor

from mss.metrics._inputs import check_shapes

__all__ = ["sd_sdr", "si_sar", "si_sdr", "si_sir", "snr", "usdr"]

BLOCK = 1 << 18  # values of each signal: with what is computed from them they stay in a CPU's cache


def snr(references: Tensor, estimates: Tensor) -> Tensor:
    """Plain signal to noise ratio in dB, (..., n, c, t) twice -> (..., n): the SDR of BSS Eval images, whole track.

    Raises:
        ValueError: For different shapes, swapped axes or integer audio, as all functions of this module.
    """
    check_shapes(references, estimates)
    return _ratio(_energy(references), _residual(references, estimates))


def usdr(references: Tensor, estimates: Tensor, *, delta: float = 1e-7) -> Tensor:
    """SDR of the Music Demixing Challenge 2021 in dB, (..., n, c, t) twice -> (..., n)."""
    check_shapes(references, estimates)
    return _ratio(_energy(references) + delta, _residual(references, estimates) + delta)


def si_sdr(references: Tensor, estimates: Tensor, *, zero_mean: bool = False) -> Tensor:
    """Scale-invariant SDR in dB, (..., n, c, t) twice -> (..., n).

    Args:
        references: True sources (..., n, c, t).
        estimates: Estimated sources, same shape.
        zero_mean: Remove the mean of each channel first. The paper assumes signals without any.

    Example:
        >>> s = torch.randn(2, 2, 44100)
        >>> torch.equal(si_sdr(s, s + s.roll(1)), si_sdr(s, 2 * (s + s.roll(1))))
        True
    """
    check_shapes(references, estimates)
    s, y = references, estimates
    if zero_mean:
        s, y = s - s.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    alpha, energy = _gain(s, y)
    return _ratio(alpha.square() * energy, _residual(s, y, alpha))


def sd_sdr(references: Tensor, estimates: Tensor) -> Tensor:
    """Scale-dependent SDR in dB, (..., n, c, t) twice -> (..., n): SI-SDR less the loss through a wrong level."""
    check_shapes(references, estimates)
    alpha, energy = _gain(references, estimates)
    return _ratio(alpha.square() * energy, _residual(references, estimates))


def si_sir(references: Tensor, estimates: Tensor) -> Tensor:
    """Scale-invariant SIR of the whole track in dB, (..., n, c, t) twice -> (..., n); inf for a single source."""
    check_shapes(references, estimates)
    target = _target(references, estimates)
    if references.shape[-3] == 1:
        return _ratio(_energy(target), torch.zeros_like(_energy(target)))
    return _ratio(_energy(target), _energy(_explained(references, estimates) - target))


def si_sar(references: Tensor, estimates: Tensor) -> Tensor:
    """Scale-invariant SAR of the whole track in dB, (..., n, c, t) twice -> (..., n)."""
    check_shapes(references, estimates)
    return _ratio(_energy(_target(references, estimates)), _energy(estimates - _explained(references, estimates)))


def _target(s: Tensor, y: Tensor) -> Tensor:
    """αs (..., n, c, t): the projection of each estimate on its own reference; zero for a silent reference."""
    return _gain(s, y)[0][..., None, None] * s


def _gain(s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """α = <y,s> / |s|² and |s|², each (..., n); α is zero for a silent reference."""
    blocks = [(a.square().sum((-2, -1)), (a * b).sum((-2, -1))) for a, b in _blocks(s, y)]
    energy, product = (sum(part[1:], part[0]) for part in zip(*blocks, strict=True))
    return product / energy.masked_fill(energy == 0, 1), energy


def _residual(s: Tensor, y: Tensor, alpha: Tensor | None = None) -> Tensor:
    """Energy (..., n) of y - αs, α = 1 unless given."""
    if alpha is None:
        parts = [_energy(b - a) for a, b in _blocks(s, y)]
    else:
        gain = alpha[..., None, None]
        parts = [_energy(torch.addcmul(b, gain, a, value=-1)) for a, b in _blocks(s, y)]
    return sum(parts[1:], parts[0])


def _blocks(s: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Both signals, some time at a time, so that on a CPU what is computed from a block stays in the cache."""
    size = max(1, BLOCK * s.shape[-1] // s.numel()) if s.device.type == "cpu" else s.shape[-1]
    return list(zip(s.split(size, -1), y.split(size, -1), strict=True))


def _explained(s: Tensor, y: Tensor) -> Tensor:
    """P y (..., n, c, t): the projection of each estimate on the span of all references."""
    # orthonormal columns spanning the references, loudness taken out; null directions (a silent or a repeated
    # reference) are cut at rounding level, where their singular values are noise
    A = s.flatten(-2).double()  # (..., n, c·t)
    energy = A.square().sum(-1, keepdim=True)
    A = A / energy.masked_fill(energy == 0, 1).sqrt()
    B = (A @ y.flatten(-2).double().mT).mT  # (..., estimate, reference)
    gains = B @ torch.linalg.pinv(A @ A.mT, hermitian=True, rtol=1e-13)
    return (gains @ A).reshape(y.shape).to(y.dtype)


def _energy(x: Tensor) -> Tensor:
    return x.square().sum((-2, -1))


def _ratio(num: Tensor, den: Tensor) -> Tensor:
    """10 log10(num/den); with zero gradient, NaN where num is zero or either is not finite, else infinite where den is zero."""
    void = (num == 0) | ~num.isfinite() | ~den.isfinite()
    perfect = (den == 0) & ~void
    db = 10 * (num.masked_fill(void | perfect, 1).log10() - den.masked_fill(void | perfect, 1).log10())
    return db.masked_fill(void, torch.nan).masked_fill(perfect, torch.inf)
