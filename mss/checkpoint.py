"""One .safetensors file that explains itself: the weights and, in its header, how to build what they belong to.

Nothing is pickled and nothing in the header is executed: `mss.spec.build` makes parts of this package only.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

import mss
from mss.files import write_whole
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
    # copies, because two names of one tensor cannot be saved
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in separator.state_dict().items()}
    description = spec(separator)
    header = {
        "format": FORMAT,
        "spec": description,
        "targets": list(separator.targets),
        "sample_rate": separator.sample_rate,
        "digest": _digest(description, tensors),
        "versions": {"mss": mss.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if reserved := header.keys() & metadata.keys():
        raise ValueError(f"metadata cannot be called {', '.join(sorted(reserved))}: the file says that itself")
    header |= metadata
    write_whole(path, to_bytes(tensors, {"mss": json.dumps(header)}))


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
    if header.get("digest") != _digest(header["spec"], tensors):
        raise CheckpointError(f"{path}: not what was saved (digest differs), damaged or changed: get the file again")
    try:
        with torch.device("meta"):  # takes no memory, whatever size is described
            separator = build(header["spec"])
        if not isinstance(separator, nn.Module) or not isinstance(separator, Separator):
            raise SpecError(f"describes a {type(separator).__name__}, not a separator")
        if [list(separator.targets), separator.sample_rate] != [header.get("targets"), header.get("sample_rate")]:
            raise SpecError("its targets or sample rate are not those of the separator it describes")
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be built: {str(error) or type(error).__name__}") from error
    try:
        separator.load_state_dict(tensors, assign=True)
        if any(buffer.is_meta for buffer in separator.buffers()):  # one that is made, not saved
            separator = build(header["spec"])
            separator.load_state_dict(tensors, assign=True)
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
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {error}") from error
    if not isinstance(header, dict) or "spec" not in header:
        raise CheckpointError(f"{path}: has weights but no description by mss: save it with mss.save, or import it")
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: written in format {header.get('format')!r}, this version reads {FORMAT}: update mss"
        )
    return header, tensors


def _digest(description: Any, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the description, and names, types, shapes and bytes in the order of the names."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
