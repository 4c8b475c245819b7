"""Pictures of what the package computes, as matplotlib figures: data in, figure out, nothing shown or saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["learning_figure", "panning_figure"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind too


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
