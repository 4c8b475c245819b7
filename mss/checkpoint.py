"""One .safetensors file that explains itself: the weights and, in its header, how to build what they belong to.

Nothing is pickled and nothing in the header is executed: `mss.spec.build` makes parts of this package only. What a file
claims is held against its size before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import mss
from mss.files import write_whole
from mss.separator import Separator
from mss.spec import SpecError, build, spec

__all__ = ["CheckpointError", "amend", "load", "outline", "read_header", "save"]

FORMAT = 1
LARGEST_HEADER = 1 << 24  # bytes; as Python objects they may take thirty times as much
CALLS_PER_TENSOR = 50  # of torch, to make a separator; 3 to 8 is usual
FAULTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or whose contents are not what was saved."""


def save(separator: Separator, path: str | Path, *, half: bool = False, **metadata: Any) -> None:
    """Writes a separator with its weights; the file appears under its name only when it is complete.

    Args:
        separator: of this package, so that its spec can be written.
        path: ends in .safetensors.
        half: keep the weights in 16 bits, 11 of them significant: half the file. `load` gives them back in 32.
        metadata: JSON-able facts that travel along: licence, source, training_data, metrics, config, ...
    """
    path = Path(path)
    # copies, because two names of one tensor cannot be saved
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in separator.state_dict().items()}
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
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
    data = to_bytes(tensors, {"mss": json.dumps(header | metadata)})
    _check_room(path, int.from_bytes(data[:8], "little"))
    write_whole(path, data)


def amend(path: str | Path, **metadata: Any) -> None:
    """Adds facts to a checkpoint, or replaces them; the bytes of the weights, and the digest, stay as they are.

    Args:
        path: of the checkpoint.
        metadata: as for `save`; None: no longer said.

    Raises:
        CheckpointError: not a checkpoint.
        ValueError: more facts than a file may have, or what the file says of itself.
    """
    path = Path(path)
    header, _ = _open(path, weights=False)
    if reserved := {"format", "spec", "targets", "sample_rate", "digest", "versions"} & metadata.keys():
        raise ValueError(f"{', '.join(sorted(reserved))}: the file says that itself")
    facts = {name: value for name, value in (header | metadata).items() if value is not None}
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    outer = json.loads(data[8:end])
    outer["__metadata__"]["mss"] = json.dumps(facts)
    text = json.dumps(outer, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the weights begin at a multiple of 8 bytes
    _check_room(path, len(text))
    write_whole(path, len(text).to_bytes(8, "little") + text + data[end:])


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
    try:
        digest = _digest(header["spec"], tensors)
    except FAULTS as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {_sentence(error)}") from error
    if header.get("digest") != digest:
        raise CheckpointError(f"{path}: not what was saved (digest differs), damaged or changed: get the file again")
    separator = _described(path, header, len(tensors))
    # of `save(half=True)`
    tensors = {name: x.float() if x.dtype == torch.float16 else x for name, x in tensors.items()}
    try:
        separator.load_state_dict(tensors, assign=True)
        if any(buffer.is_meta for buffer in separator.buffers()):  # one that is made, not saved
            separator = build(header["spec"])
            separator.load_state_dict(tensors, assign=True)
    except FAULTS as error:
        raise CheckpointError(f"{path}: the weights do not fit the network it describes: {_sentence(error)}") from error
    return separator.eval()


def outline(path: str | Path) -> tuple[dict[str, Any], Separator]:
    """The header, and the separator it describes on the device "meta": sizes without numbers.

    Raises:
        CheckpointError: as `load`, but for damaged numbers, which are not read.
    """
    path = Path(path)
    header, names = _open(path, weights=False)
    return header, _described(path, header, len(names))


def _halved(name: str, tensor: Tensor) -> Tensor:
    """In 16 bits, if it is of floating point."""
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    if not bool(half.isfinite().all()):
        raise ValueError(f"{name} has values beyond 65504, which 16 bits do not hold: save it with half=False")
    return half


def _check_room(path: Path, size: int) -> None:
    if size > LARGEST_HEADER:
        raise ValueError(
            f"{path}: the facts take {size} bytes, {LARGEST_HEADER} are allowed: keep them in a file of their own"
        )


def _described(path: Path, header: dict[str, Any], tensors: int) -> Separator:
    """What the header describes, without memory for it, whatever size it is."""
    try:
        with torch.device("meta"), _Bounded(tensors):
            separator = build(header["spec"])
        if not isinstance(separator, nn.Module) or not isinstance(separator, Separator):
            raise SpecError(f"describes a {type(separator).__name__}, not a separator")
        if [list(separator.targets), separator.sample_rate] != [header.get("targets"), header.get("sample_rate")]:
            raise SpecError("its targets or sample rate are not those of the separator it describes")
    except (*FAULTS, ImportError) as error:
        raise CheckpointError(f"{path}: cannot be built: {_sentence(error)}") from error
    return separator


class _Bounded(TorchFunctionMode):
    """Stops the making of what has far more weights than a file: `layers: 1000000000` is a loop without end."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.left = CALLS_PER_TENSOR * (tensors + 10)

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise SpecError("it describes far more weights than it holds")
        return func(*args, **(kwargs or {}))


def _sentence(error: BaseException) -> str:
    """What an error says, on one line that a terminal can show."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:300]) + ("..." if len(text) > 300 else "")


def _open(path: Path, *, weights: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header, and the tensors by their names, or the names only."""
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not a checkpoint' if path.is_dir() else 'no such file'}")
    try:
        _check_start(path)
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mss", "null"))
            tensors = {name: file.get_tensor(name) if weights else None for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, *FAULTS) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {_sentence(error)}") from error
    if not isinstance(header, dict) or "spec" not in header:
        raise CheckpointError(f"{path}: has weights but no description by mss: save it with mss.save, or import it")
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: written in format {header.get('format')!r:.40}, this version reads {FORMAT}: update mss"
        )
    return header, tensors


def _check_start(path: Path) -> None:
    """Tells a pickle by its first bytes, and a header that cannot be, before either is read."""
    with path.open("rb") as file:
        start = file.read(9)
    size, room = int.from_bytes(start[:8], "little"), path.stat().st_size - 8
    if start[:4] == b"PK\3\4" or (start[:1] == b"\x80" and start[1:2] <= b"\5" and start[8:] != b"{"):
        raise ValueError("a pickle or an archive of them, which can run code and is never opened; ask for .safetensors")
    if room < 2 or start[8:] != b"{":
        raise ValueError("does not begin as a .safetensors file does")
    if size > min(room, LARGEST_HEADER):
        raise ValueError(f"claims a header of {size} bytes in a file of {room + 8}; at most {LARGEST_HEADER} are read")


def _digest(description: Any, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the description, and names, types, shapes and bytes in the order of the names."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
