"""What `--list-models` and `--env` print."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

import torch

import mss
from mss import zoo

__all__ = ["environment", "models"]


def models(*, as_json: bool = False) -> str:
    """A line for each model that is known by name: stems, licence, whether it is on this machine, source and warning."""
    rows = [
        {"name": name, "stems": list(entry.targets), "here": zoo.is_here(name), **entry.facts()}
        for name, entry in zoo.PRETRAINED.items()
    ]
    for name, path in zoo.methods().items():
        source = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        stems = list(zoo.load(name).targets)
        rows.append({"name": name, "stems": stems, "here": True, "licence": "MIT", "source": source})
    if as_json:
        return json.dumps(rows, indent=2)
    table = [
        (
            row["name"],
            ", ".join(row["stems"]),
            row["licence"],
            "here" if row["here"] else "not here",
            "; ".join(filter(None, (row["source"], row.get("warning")))),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)


def environment(*, as_json: bool = False) -> str:
    """Versions, devices and folders: what a report of a fault should begin with."""
    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    facts = {
        "mss": mss.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in ("torch", "torchaudio", "av", "soundfile", "numpy", "safetensors")},
        "devices": devices + (["mps"] if torch.backends.mps.is_available() else []),
        "threads": torch.get_num_threads(),
        "cache": str(zoo.cache_folder()),
    }
    if as_json:
        return json.dumps(facts, indent=2)
    return "\n".join(f"{name:12} {', '.join(x) if isinstance(x, list) else x}" for name, x in facts.items())
