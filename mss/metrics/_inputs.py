"""What every metric asks of its two signals (..., source, channel, time)."""

from torch import Tensor

__all__ = ["check_shapes"]

MAX_CHANNELS = 64  # more than this is a (time, channel) array with its axes swapped


def check_shapes(references: Tensor, estimates: Tensor) -> None:
    """Refuse, with a `ValueError`, signals whose shapes, types or devices make a score meaningless."""
    if references.shape != estimates.shape:
        raise ValueError(
            f"references and estimates must have one shape (..., source, channel, time), got {tuple(references.shape)} "
            f"and {tuple(estimates.shape)}; trim or pad the estimates to the references first."
        )
    if references.ndim < 3 or 0 in references.shape:
        raise ValueError(
            f"expected non-empty (..., source, channel, time), got shape {tuple(references.shape)}; "
            "give mono audio a channel axis of 1."
        )
    c, t = references.shape[-2:]
    if c > MAX_CHANNELS or c > t:
        raise ValueError(f"expected (..., source, channel, time), got {c} channels of {t} samples; swap the last axes.")
    if references.device != estimates.device:
        raise ValueError(f"references are on {references.device}, estimates on {estimates.device}; use one device.")
    for name, x in (("references", references), ("estimates", estimates)):
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected floating-point audio, got {x.dtype}; convert it, e.g. x / 32768.")
