"""Pictures for pages, of numbers alone: PNG by zlib, curves as SVG. Text is left to the page, so that it fits its colours."""

from __future__ import annotations

import html
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mss.apps.pages import data_uri

__all__ = ["apart", "dominance_image", "heat_image", "histogram_svg", "png", "wave_svg"]

HEAT = ("#07060f", "#2b1150", "#6a1c6e", "#ab2f5e", "#e0543f", "#f78f1e", "#fbcf4a", "#fdfbd8")  # ever lighter
SHADES = 32  # of a source in figure 1


def png(index: Tensor, palette: np.ndarray) -> bytes:
    """An indexed PNG (W3C Portable Network Graphics, third edition).

    Args:
        index: (r, k) integers, the lowest row first, as frequencies are.
        palette: (colours, 4) uint8, RGBA.
    """
    rows = index.flip(0).to(torch.uint8).numpy()
    height, width = rows.shape
    lines = np.zeros((height, width + 1), np.uint8)  # a filter of type 0 before each row
    lines[:, 1:] = rows

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", np.ascontiguousarray(palette[:, :3]).tobytes())
        + chunk(b"tRNS", np.ascontiguousarray(palette[:, 3]).tobytes())
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def heat_palette(count: int = 64) -> np.ndarray:
    """(count, 4) uint8, from dark to light."""
    anchors = np.array([_rgb(colour) for colour in HEAT], float)
    at = np.linspace(0, len(anchors) - 1, count)
    rgb = np.stack([np.interp(at, np.arange(len(anchors)), channel) for channel in anchors.T], 1)
    return np.concatenate([rgb.round(), np.full((count, 1), 255)], 1).astype(np.uint8)


def heat_image(level: Tensor, *, colours: int = 64) -> str:
    """Levels (r, k) from 0 to 1 as the URI of a picture, dark to light: its ground is dark on any page."""
    return data_uri(png((level * (colours - 1)).round(), heat_palette(colours)), "png")


def dominance_image(source: Tensor, level: Tensor, colours: Sequence[str]) -> str:
    """Figure 1 as the URI of a picture: the colour is the source (r, k), its opacity the level (r, k) from 0 to 1."""
    shades = min(SHADES, 256 // len(colours))
    alpha = np.linspace(0, 255, shades).round()
    palette = np.array([[*_rgb(colour), a] for colour in colours for a in alpha]).astype(np.uint8)
    return data_uri(png(source * shades + (level * (shades - 1)).round().long(), palette), "png")


def apart(x: Tensor, dim: int, width: int = 4) -> Tensor:
    """A matrix whose columns (dim 1) or rows (dim 0) are bars with as wide a gap between them."""
    x = x if dim else x.T
    bars = torch.stack([x, torch.zeros_like(x)], -1).flatten(1).repeat_interleave(width, 1)[:, :-width]
    return bars if dim else bars.T


def wave_svg(extremes: Iterable[tuple[float, float]], label: str, colour: str) -> str:
    """A waveform as one shape, from the lowest and highest sample of each column."""
    low, high = zip(*extremes, strict=True)
    points = [f"{i} {-y:.3f}" for i, y in enumerate(high)]
    points += [f"{i} {-y:.3f}" for i, y in reversed(list(enumerate(low)))]
    return (
        f'<svg class="wave" viewBox="0 -1 {max(1, len(low) - 1)} 2" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label)}"><path fill="{colour}" d="M{"L".join(points)}Z"/></svg>'
    )


def histogram_svg(parts: Mapping[str, Tensor], whole: Tensor, colours: Sequence[str], label: str) -> str:
    """Figure 5: histograms (bins,) of the parts, filled, below that of the whole, to one scale, by their square roots."""
    top = max(float(h.max()) for h in (whole, *parts.values())) or 1.0
    width, height = 600, 220

    def line(h: Tensor) -> str:
        step = width / max(1, len(h) - 1)
        return "L".join(
            f"{i * step:.1f} {height * (1 - (value / top) ** 0.5):.1f}" for i, value in enumerate(h.tolist())
        )

    shapes = [f'<path class="whole" d="M{line(whole)}"/>']
    shapes += [
        f'<path fill="{colour}" stroke="{colour}" fill-opacity=".3" stroke-width="2" '
        f'd="M0 {height}L{line(h)}L{width} {height}Z"/>'
        for h, colour in zip(parts.values(), colours, strict=True)
    ]
    grid = "".join(f'<path class="grid" d="M{x * width / 6:.1f} 0V{height}"/>' for x in range(7))
    return (
        f'<svg class="histogram" viewBox="0 -4 {width} {height + 5}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label)}">{grid}{"".join(shapes)}</svg>'
    )


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
