"""State dicts of other systems read from their files, without running what is in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ImportedWeightsError", "check_size", "fill", "read_pickle", "read_state", "tensors_of"]


class ImportedWeightsError(ValueError):
    """Weights that are not there, or not the ones that are expected."""


def read_state(path: Path, *, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote of a state dict.

    Args:
        path: .pth, .pt, .th.
        sha256: what the SHA-256 of the file must begin with, hexadecimal.

    Raises:
        ImportedWeightsError: not such a file, another digest, or more in it than tensors.
    """
    return tensors_of(read_pickle(path, sha256=sha256), path)


def read_pickle(path: Path, *, sha256: str = "", stand_ins: Mapping[str, type] | None = None) -> Any:
    """What `torch.save` wrote: tensors and plain containers; `stand_ins` are made in the place of classes that it names.

    Raises:
        ImportedWeightsError: as `read_state`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImportedWeightsError(f"{path}: cannot be read ({error.strerror})") from error
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(sha256):
        raise ImportedWeightsError(
            f"{path}: its SHA-256 begins with {found[:8]}, not {sha256[:8]}: damaged, get it again"
        )
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > len(data):
                    raise ImportedWeightsError(f"{path}: unpacks to more than it has, which torch.save never writes")
        with torch.serialization.safe_globals([(cls, name) for name, cls in (stand_ins or {}).items()]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ImportedWeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise ImportedWeightsError(f"{path}: holds more than weights, or is damaged, and is not loaded") from error
    except (RuntimeError, zipfile.BadZipFile, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError,
            MemoryError, RecursionError, OverflowError, AssertionError) as error:  # fmt: skip
        raise ImportedWeightsError(f"{path}: not a file of weights, or damaged") from error


def tensors_of(state: Any, path: Path) -> dict[str, Tensor]:
    """A state dict, refused where it is none."""
    if not isinstance(state, dict) or not state:
        raise ImportedWeightsError(f"{path}: not a state dict but a {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ImportedWeightsError(f"{path}: not a state dict: {name!r} is a {type(tensor).__name__}")
    if sum(t.numel() * t.element_size() for t in state.values()) > 2 * path.stat().st_size:
        raise ImportedWeightsError(f"{path}: says to have more numbers than fit into it")
    return state


def check_size(make: Callable[[], nn.Module], state: Mapping[str, Tensor], source: object) -> None:
    """Refuses a network with far more numbers than its weights, before memory is taken for it.

    Args:
        make: makes the network; called where tensors have sizes and no memory.
        state: its weights; what sizes they claim for others may be anything.
        source: named in errors.

    Raises:
        ImportedWeightsError: it has, or there is no such network.
    """
    try:
        with torch.device("meta"):
            numbers = sum(p.numel() for p in make().parameters())
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise ImportedWeightsError(f"{source}: weights of no such network: {error}") from error
    if numbers > 2 * sum(t.numel() for t in state.values()):
        raise ImportedWeightsError(f"{source}: describes a network with far more weights than it holds")


def fill(network: nn.Module, state: Mapping[str, Tensor], source: object, *, spare: tuple[str, ...] = ()) -> None:
    """Gives a network its weights by name; what `state` has more is left out.

    Args:
        network: whose parameters and buffers are set; half precision becomes single.
        state: names of the network -> tensors.
        source: named in errors.
        spare: names that may be absent and stay as they are.

    Raises:
        ImportedWeightsError: one is absent, or of another shape.
    """
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in state:
            if name in spare or name.endswith("num_batches_tracked"):
                continue
            raise ImportedWeightsError(f"{source}: has no {name}: weights of another network")
        if state[name].shape != tensor.shape:
            raise ImportedWeightsError(
                f"{source}: {name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}: weights of another network"
            )
        if not torch.isfinite(state[name]).all():
            raise ImportedWeightsError(f"{source}: {name} is not finite everywhere")
    network.load_state_dict({name: state.get(name, tensor).to(tensor.dtype) for name, tensor in own.items()})
