"""Curves of trainings, from the CSV files that they leave: python scripts/plot_learning.py trained/* --out curves.svg"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from mss.apps.plots import learning_figure

SHOWN = {"train/loss_epoch": "training loss", "valid/loss": "validation loss", "valid/sdr": "validation SDR, dB"}


def curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Quantity -> (epoch, value) of one run."""
    with open(folder / "logs" / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {
        title: [(float(row["epoch"]), float(row[key])) for row in rows if row.get(key)] for key, title in SHOWN.items()
    }
    return {title: points for title, points in found.items() if points}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split(":")[0])
    p.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    p.add_argument("--out", type=Path, required=True, help="a picture, .svg or .png")
    given = p.parse_args()
    try:
        figure = learning_figure({folder.name: curves(folder) for folder in given.runs})
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    figure.savefig(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
