"""Pictures of what the package computes, as matplotlib figures: data in, figure out, nothing shown or saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from mss.apps.figures import COLOURS

__all__ = ["learning_figure", "panning_figure", "ratings_figure", "shares_figure"]


def panning_figure(
    mixture: Tensor, centres: Tensor, stems: Mapping[str, Tensor] | None = None, *, title: str | None = None
) -> Figure:
    """The panning histogram of a mixture, and of its stems where they are known (Figure 5 of Cano et al. 2019).

    Args:
        mixture: (bins,), the first that `mss.classical.panning_histogram` returns, of one song.
        centres: (bins,) degrees, the second.
        stems: name -> (bins,), drawn below in the unit of the mixture.
        title: above it all.

    Example:
        >>> h, centres = panning_histogram(X)                   # X (2, f, k)
        >>> parts, _ = panning_histogram(stems)                 # stems (n, 2, f, k)
        >>> panning_figure(h, centres, dict(zip(names, parts))).savefig("panning.png")
    """
    if mixture.shape != centres.shape or centres.ndim != 1:
        raise ValueError(
            f"expected the histogram and the centres of one song, (bins,) both, got {tuple(mixture.shape)} "
            f"and {tuple(centres.shape)}"
        )
    x, total = centres.detach().cpu().numpy(), float(mixture.sum()) or 1.0
    figure = Figure(figsize=(7, 5 if stems else 3), layout="constrained", dpi=150)
    axes = figure.subplots(2 if stems else 1, 1, sharex=True, squeeze=False)[:, 0]
    y = mixture.detach().cpu().numpy() * (100 / total)
    axes[0].fill_between(x, y, color="0.75", linewidth=0)
    axes[0].plot(x, y, color="0.25", linewidth=1.2, label="mixture")
    for (name, h), colour in zip((stems or {}).items(), COLOURS * (1 + len(stems or {}) // len(COLOURS)), strict=False):
        y = h.detach().cpu().numpy() * (100 / total)
        axes[1].fill_between(x, y, color=colour, alpha=0.25, linewidth=0)
        axes[1].plot(x, y, color=colour, linewidth=1.4, label=name)
    for axis in axes:
        axis.set_ylabel("% of the mixture's\nenergy per bin")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=6, borderaxespad=0)
    places = {-45: "anti-phase", 0: "left", 15: "", 30: "", 45: "centre", 60: "", 75: "", 90: "right"}
    ticks = [place for place in places if x[0] <= place <= x[-1]]
    axes[-1].set_xticks(ticks, [f"{place}°\n{places[place]}" for place in ticks])
    axes[-1].set_xlim(x[0], x[-1])
    axes[-1].set_xlabel("panning angle (0°: first channel alone, 90°: second channel alone)")
    if title:
        figure.suptitle(title)
    return figure


def learning_figure(
    runs: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, x_label: str = "epoch", title: str | None = None
) -> Figure:
    """Curves of trainings: one panel for each quantity, one colour for each run.

    Args:
        runs: name -> quantity -> points (x, y), as the CSV logger keeps them; what a run does not have is left out.
        x_label: of all panels.
        title: above it all.

    Example:
        >>> learning_figure({"umx": {"valid/sdr, dB": [(0, 1.2), (1, 2.5)]}}).savefig("curves.svg")
    """
    quantities = list(dict.fromkeys(quantity for curves in runs.values() for quantity in curves))
    if not quantities:
        raise ValueError("no curves to draw: give at least one run with one quantity")
    figure = Figure(figsize=(4.2 * len(quantities), 3.2), layout="constrained", dpi=150)
    for axis, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        for (name, curves), colour in zip(runs.items(), COLOURS * (1 + len(runs) // len(COLOURS)), strict=False):
            if quantity in curves:
                axis.plot(*zip(*curves[quantity], strict=True), color=colour, label=name, linewidth=1.4)
        axis.set_xlabel(x_label)
        axis.set_ylabel(quantity)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def ratings_figure(ratings: Mapping[str, Sequence[float]], *, title: str | None = None) -> Figure:
    """Box plots of ratings from 0 to 100: quartiles, whiskers to 1.5 times their distance, means as diamonds.

    Args:
        ratings: condition -> its ratings, in the order in which they are drawn.
        title: above it.

    Example:
        >>> ratings_figure({"reference": [100, 98], "umx": [61, 70], "anchor 3.5 kHz": [20, 11]}).savefig("ratings.png")
    """
    if not ratings or not all(map(len, ratings.values())):
        raise ValueError("no ratings to draw: give at least one of each condition")
    figure = Figure(figsize=(max(4.5, 1.2 + 0.9 * len(ratings)), 4.2), layout="constrained", dpi=150)
    axis = figure.subplots()
    for height in range(0, 100, 40):
        axis.axhspan(height, height + 20, color="0.95", linewidth=0)
    mean = {"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": "0.2"}
    boxes = axis.boxplot(
        list(ratings.values()),
        widths=0.55,
        patch_artist=True,
        showmeans=True,
        meanprops=mean,
        medianprops={"color": "0.1", "linewidth": 1.6},
        flierprops={"marker": "o", "markersize": 3, "markeredgecolor": "0.4"},
    )
    for box, colour in zip(boxes["boxes"], COLOURS * (1 + len(ratings) // len(COLOURS)), strict=False):
        box.set(facecolor=colour, alpha=0.55, linewidth=0.8)
    names = [name if len(name) <= 24 else name[:23] + "…" for name in ratings]
    axis.set_xticks(range(1, len(names) + 1), names, rotation=25, ha="right", parse_math=False)
    axis.set_ylim(-2, 102)
    axis.set_ylabel("rating")
    words = axis.secondary_yaxis("right")
    words.set_yticks((10, 30, 50, 70, 90), ("bad", "poor", "fair", "good", "excellent"))
    words.tick_params(length=0)
    for one in (axis, words):
        one.spines[:].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure


def shares_figure(shares: Mapping[str, tuple[float, float, float]], *, title: str | None = None) -> Figure:
    """Shares with their intervals, in percent, one line for each comparison; half is chance.

    Args:
        shares: comparison -> share, and the ends of its interval.
        title: above it.
    """
    if not shares:
        raise ValueError("no shares to draw: give at least one")
    figure = Figure(figsize=(6, 1.4 + 0.4 * len(shares)), layout="constrained", dpi=150)
    axis = figure.subplots()
    axis.axvline(50, color="0.6", linewidth=1, linestyle="--")
    for place, (share, low, high) in enumerate(shares.values()):
        axis.plot((low, high), (place, place), color=COLOURS[0], linewidth=2)
        axis.plot(share, place, "D", color=COLOURS[0])
    names = [name if len(name) <= 40 else name[:39] + "…" for name in shares]
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("%")
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure
