"""The figures of a page as HTML: a legend, a picture with its axes, and one sentence that says what is seen."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mss.apps import drawing, figures

__all__ = ["dominance_figure", "frequencies", "nmf_figure", "panning_figure", "times"]


def _legend(names: Mapping[int, str], colours: Mapping[int, str], whole: str = "") -> str:
    items = [
        f'<li><span class="swatch" style="--own: {colours[i]}"></span>{html.escape(n)}</li>' for i, n in names.items()
    ]
    if whole:
        items.append(f'<li><span class="swatch line"></span>{html.escape(whole)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def dominance_figure(
    names: Mapping[int, str], colours: Mapping[int, str], powers: Sequence[Tensor], axes: figures.Axes
) -> str:
    """Figure 1, of the powers (r, k) of at least two sources; of fewer there is none."""
    if len(powers) < 2:
        return ""
    stacked = torch.stack(list(powers))
    level = figures.levels(stacked.amax(0), float(stacked.max()))
    uri = drawing.dominance_image(figures.dominant(stacked), level, list(colours.values()))
    label = html.escape(f"The loudest of {', '.join(names.values())} at each time and frequency")
    return (
        f'<figure>{_legend(names, colours)}<div class="picture"><img src="{uri}" alt="{label}">{frequencies(axes)}</div>'
        f'<div class="scale">{times(axes.samples / axes.sample_rate)}</div>'
        "<figcaption>Figure 1, after Cano et al. 2019: which source dominates each time-frequency bin, in its colour, the "
        "stronger the louder; where one source alone is loud, a mask can take it out.</figcaption></figure>"
    )


def panning_figure(
    whole: str, mixture: Tensor, names: Mapping[int, str], colours: Mapping[int, str], parts: Sequence[Tensor]
) -> str:
    """Figure 5, of waveforms (c, t); of one channel a sentence."""
    histograms = figures.panning([mixture, *parts])
    if histograms is None:
        return (
            '<p class="caption">No Figure 5, the panning histogram: it compares two channels, and the song has one.</p>'
        )
    shapes = dict(zip(map(str, names), histograms[1:], strict=True))
    svg = drawing.histogram_svg(shapes, histograms[0], list(colours.values()), "Energy over the panning angle")
    places = ((0, "left"), (1 / 2, "centre"), (1, "right"))
    scale = "".join(
        f'<span style="left: {100 * x:g}%"{" class=end" if x == 1 else ""}>{90 * x:g}° {place}</span>'
        for x, place in places
    )
    return (
        f'<figure>{_legend(names, colours, whole)}{svg}<div class="scale" aria-hidden="true">{scale}</div>'
        "<figcaption>Figure 5, after Cano et al. 2019: how much energy sits at each panning angle, from the level "
        "difference of the two channels in every bin (heights by the square root); a peak is a source, or several at one "
        "place, as the methods DUET, ADRess and PROJET find them.</figcaption></figure>"
    )


def nmf_figure(whole: str, power: Tensor, axes: figures.Axes) -> str:
    """Figure 6, of the power (r, k) of a sound; of silence there is none."""
    factors = figures.templates(power)
    if factors is None:
        return ""
    W, H = factors
    a = W.shape[1]
    Y = (W @ H).square()
    spectra = drawing.apart((W / W.amax(0).clamp_min(1e-12)).sqrt(), 1)
    images = {
        "W": drawing.heat_image(spectra),
        "Y": drawing.heat_image(figures.levels(Y, float(Y.max()))),
        "H": drawing.heat_image(drawing.apart(H, 0)),
    }
    return (
        '<figure class="nmf-figure"><div class="nmf">'
        f'<div class="picture"><img src="{images["W"]}" alt="{a} spectral templates, one in each column"></div>'
        f'<div class="picture"><img src="{images["Y"]}" alt="Spectrogram that templates and activations make">'
        f"{frequencies(axes)}</div>"
        '<div class="corner">above: templates W, below right: activations H</div>'
        f'<div class="activations"><img src="{images["H"]}" alt="Activations of the {a} templates over time"></div>'
        f'<div></div><div class="scale">{times(axes.samples / axes.sample_rate)}</div></div>'
        f"<figcaption>Figure 6, after Cano et al. 2019: non-negative matrix factorisation takes the spectrogram of "
        f"{html.escape(whole)} to pieces, {a} spectral templates (columns on the left, from low to high) times how loud each "
        "is over time (rows at the bottom, the lowest template in the lowest row); their product is the spectrogram above."
        "</figcaption></figure>"
    )


def frequencies(axes: figures.Axes) -> str:
    """Marks over a picture, at its right edge."""
    marks = ((100, "100 Hz"), (1000, "1 kHz"), (10000, "10 kHz"))
    spans = "".join(
        f'<span style="bottom: {100 * axes.height(hertz):.1f}%">{text}</span>'
        for hertz, text in marks
        if hertz < axes.top
    )
    return f'<div class="frequencies" aria-hidden="true">{spans}</div>'


def times(seconds: float) -> str:
    """Marks below a picture."""
    at = {t: 100 * t / seconds for t in figures.ticks(seconds)}
    return "".join(
        f'<span style="left: {x:.2f}%"{" class=end" if x > 96 else ""}>{t:g} s</span>' for t, x in at.items()
    )
