"""Layouts of loudspeakers: which channels they have, in the order of files, and what stereo makes of them."""

from __future__ import annotations

import math

__all__ = ["LAYOUTS", "downmix_gains"]

LAYOUTS = {  # FFmpeg's names, which `mss.audio` takes; the order of WAVE_FORMAT_EXTENSIBLE, and of FLAC
    "quad": ("L", "R", "Lb", "Rb"),
    "5.0": ("L", "R", "C", "Ls", "Rs"),
    "5.1": ("L", "R", "C", "LFE", "Ls", "Rs"),
    "7.1": ("L", "R", "C", "LFE", "Lb", "Rb", "Ls", "Rs"),
}


def downmix_gains(layout: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gains of the channels in Lo and in Ro (ITU-R BS.775): centre and surrounds at -3 dB, no LFE."""
    own = {"L": (1.0, 0.0), "R": (0.0, 1.0), "C": (math.sqrt(0.5), math.sqrt(0.5)), "LFE": (0.0, 0.0)}
    behind = {"L": (math.sqrt(0.5), 0.0), "R": (0.0, math.sqrt(0.5))}
    left, right = zip(*(own.get(name) or behind[name[0]] for name in LAYOUTS[layout]), strict=True)
    return left, right
