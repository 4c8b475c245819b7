"""One .safetensors file that explains itself: the weights and, in its header, how to build what they belong to.

Nothing is pickled and nothing in the header is executed: `mss.spec.build` makes parts of this package only.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

import mss
from mss.separator import Separator
from mss.spec import SpecError, build, spec

__all__ = ["CheckpointError", "load", "read_header", "save"]

FORMAT = 1


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or whose contents are not what was saved."""


def save(separator: Separator, path: str | Path, **metadata: Any) -> None:
    """Writes a separator with its weights; the file appears under its name only when it is complete.

    Args:
        separator: of this package, so that its spec can be written.
        path: ends in .safetensors.
        metadata: JSON-able facts that travel along: licence, source, training_data, metrics, config, ...
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in separator.state_dict().items()}
    header = {
        "format": FORMAT,
        "spec": spec(separator),
        "targets": list(separator.targets),
        "sample_rate": separator.sample_rate,
        "digest": _digest(tensors),
        "versions": {"mss": mss.__version__, "torch": torch.__version__, "python": platform.python_version()},
        **metadata,
    }
    data = to_bytes(tensors, {"mss": json.dumps(header)})
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_header(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself; the weights are not read."""
    return _open(Path(path), weights=False)[0]


def load(path: str | Path) -> Separator:
    """Builds the separator that a checkpoint describes and gives it its weights, ready to separate, on the CPU.

    Raises:
        CheckpointError: not a checkpoint, damaged, of a later format, or describing something that is not built.
    """
    path = Path(path)
    header, tensors = _open(path, weights=True)
    if header.get("digest") != _digest(tensors):
        raise CheckpointError(f"{path}: the weights are not those that were saved (digest differs): get the file again")
    try:
        separator = build(header["spec"])
    except SpecError as error:
        raise CheckpointError(f"{path}: cannot be built: {error}") from error
    if not isinstance(separator, nn.Module) or not isinstance(separator, Separator):
        raise CheckpointError(f"{path}: describes a {type(separator).__name__}, not a separator")
    try:
        separator.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the network it describes: {error}") from error
    return separator.eval()


def _open(path: Path, *, weights: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not a checkpoint' if path.is_dir() else 'no such file'}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mss", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()} if weights else {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {error}") from error
    if not isinstance(header, dict) or "spec" not in header:
        raise CheckpointError(f"{path}: has weights but no description by mss: save it with mss.save, or import it")
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: written in format {header.get('format')}, this version reads {FORMAT}: update mss"
        )
    return header, tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
