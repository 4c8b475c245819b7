"""What a checkpoint says of itself, for people: the lines of `info`, and the model card (README.md) of the Hub."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from mss import checkpoint
from mss.apps.carried import Table, tables

__all__ = ["card", "facts", "lines", "printable"]

LICENCES = (  # the Hub's own names for them; any other is "other" with a name
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-sa-3.0",
)  # fmt: skip
SAID = ("licence", "source", "training_data", "data_digest", "warning", "commit")  # facts that a header may have


def facts(path: Path) -> dict[str, Any]:
    """What is inside: the header as it is, and what follows from the file; the weights are not read.

    Raises:
        mss.checkpoint.CheckpointError: not a checkpoint, or what it describes cannot be built.
    """
    header, separator = checkpoint.outline(path)
    numbers = sum(p.numel() for p in separator.parameters()) if isinstance(separator, nn.Module) else 0
    return {"file": str(path), "bytes": path.stat().st_size, "parameters": numbers, **header}


def lines(known: dict[str, Any]) -> str:
    """The facts for a terminal, one to a line."""
    rows = {
        "file": f"{known['file']} ({known['bytes'] / 1e6:.1f} MB)",
        "targets": ", ".join(map(str, known["targets"])),
        "sample rate": f"{known['sample_rate']} Hz",
        "separator": " ".join(_classes(known["spec"])),
        "parameters": f"{known['parameters']:,}",
        **{name.replace("_", " "): known.get(name) for name in SAID},
        **{f"metric {name}": f"{value:.4g}" for name, value in _numbers(known.get("metrics"))},
        "digest": known["digest"],
        "versions": _joined(known.get("versions")),
        "trained with": _joined(known.get("environment")),
    }
    unknown = ("licence", "training data")  # whose absence is worth a line
    told = {name: value for name, value in rows.items() if value not in (None, "") or name in unknown}
    width = max(map(len, told))
    facts = [
        f"{printable(name):{width}}  {printable(value) if value is not None else 'not stated'}"
        for name, value in told.items()
    ]
    return "\n".join([*facts, *(line for table in tables(known.get("scores")) for line in _aligned(table))])


def card(known: dict[str, Any], *, address: str) -> str:
    """The model card: front matter as the Hub reads it, then scores, training data, how to use it, known limits.

    Args:
        known: `facts` of the file.
        address: what others load it by: a path, an URL, `hf:owner/repo`.
    """
    targets = [printable(name) for name in known["targets"]]
    front = {
        **_licence(known.get("licence")),
        "library_name": "mss",
        "pipeline_tag": "audio-to-audio",
        "tags": ["audio", "music-source-separation", *dict.fromkeys(targets)],
    }
    metrics = [f"| {_cell(name)} | {value:.4g} |" for name, value in _numbers(known.get("metrics"))]
    scores = ["| metric | value |", "|---|---|", *metrics] if metrics else []
    scores += [line for table in tables(known.get("scores")) for line in _markdown(table)]
    training = [f"- {name.replace('_', ' ')}: {_cell(known[name])}" for name in SAID[1:] if known.get(name)]
    if not known.get("training_data") and not known.get("data_digest"):
        training.append(
            "- training data: not stated, so scores on published test sets may be those of songs it was trained on"
        )
    config = known.get("config") if isinstance(known.get("config"), dict) else {}
    training += [
        f"- {name}: {_cell(config[name])}" for name in ("name", "seed", "losses") if config.get(name) is not None
    ]
    return "\n".join([
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# Separates music into {_cell(', '.join(targets))}",
        "",
        f"{' '.join(_classes(known['spec']))}: {known['parameters']:,} parameters, {known['sample_rate']} Hz.",
        "",
        "## How to use it",
        "",
        "```bash",
        f"python -m mss.separate song.mp3 --model {printable(address)}",
        "```",
        "",
        "```python",
        "import mss",
        "",
        f"separator = mss.load({printable(address)!r})",
        "estimates = separator(mixture)  # (batch, channel, sample) -> (batch, target, channel, sample)",
        "```",
        "",
        "## Scores",
        "",
        *(scores or ["None are kept in the file."]),
        "",
        "## How it was made",
        "",
        *(training or ["Not stated."]),
        f"- versions: {_cell(_joined(known.get('versions')))}",
        f"- digest of description and weights: {_cell(known['digest'])}",
        "",
        "## Known limits",
        "",
        f"- It gives {_cell(', '.join(targets))} and nothing else; what is none of them goes to the one it resembles.",
        f"- It works at {known['sample_rate']} Hz: resample what has another rate (the command line does).",
        "- Scores hold for the recordings they were measured on; other music, live or lo-fi, can come out worse.",
        "- The licence is that of the weights; the songs that are separated have their own.",
        "",
    ])  # fmt: skip


def _aligned(table: Table) -> list[str]:
    """A table for a terminal, after an empty line."""
    rows = [[printable(row[0]), *map(_cell_of, row[1:])] for row in ([table.columns, *table.rows])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([f"{row[0]:{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return ["", printable(table.title), *lines]


def _markdown(table: Table) -> list[str]:
    """The same as Markdown."""
    rows = [[_cell(row[0]), *(_cell(_cell_of(x)) for x in row[1:])] for row in ([table.columns, *table.rows])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"|---|{'---:|' * (len(table.columns) - 1)}"
    return ["", f"{_cell(table.title)}:", "", lines[0], rule, *lines[1:]]


def _cell_of(value: float | str) -> str:
    """A number, or the head of a column."""
    return printable(value) if isinstance(value, str) else "–" if math.isnan(value) else f"{value:.2f}"


def printable(value: Any) -> str:
    """A fact on one line, without what could steer a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:500]


def _cell(value: Any) -> str:
    """The same for Markdown: no table, tag, link or code begins in it."""
    return "".join(f"\\{c}" if c in "\\|[]`*" else c for c in printable(value)).replace("<", "&lt;")


def _licence(name: Any) -> dict[str, str]:
    if not name:
        return {"license": "unknown"}
    known = printable(name).lower()
    return {"license": known} if known in LICENCES else {"license": "other", "license_name": printable(name)}


def _classes(description: Any) -> Iterator[str]:
    """What a spec names, in its order, once each."""
    seen: dict[str, None] = {}

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("_target_"), str):
                seen[printable(part["_target_"]).rpartition(".")[2]] = None
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(description)
    yield from seen


def _numbers(metrics: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested metrics, by names with dots; lists (frames, tracks) are left to --json."""
    if isinstance(metrics, dict):
        for name, value in metrics.items():
            yield from _numbers(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(metrics, int | float) and not isinstance(metrics, bool):
        yield prefix, metrics


def _joined(versions: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, dict) else ""
