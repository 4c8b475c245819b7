"""Spleeter (Hennequin et al. 2020): its TensorFlow variables, given as arrays, in separators of 2, 4 or 5 stems.

TensorFlow numbers the layers of a kind through all instruments in turn, and leaves out the number 0: with 7 convolutions
for each instrument the first of the second instrument is `conv2d_7`. The variables come from a checkpoint by

    reader = tf.train.load_checkpoint("4stems/model")
    numpy.savez("4stems.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})

Departs from Spleeter in the filter, ratios of magnitudes to the power of 1.25 instead of 2, and in the masks above the
networks' 11 kHz, where it gives nothing to any stem.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mss.adapters import StereoPairs
from mss.filters import softmask
from mss.importers.weights import ImportedWeightsError, fill
from mss.nets.unet import UNet, UNetMasks
from mss.separator import SpectralSeparator

__all__ = ["STEMS", "assembled", "network_of", "spleeter", "spleeter_file"]

STEMS = {  # number of stems: the instruments, in the order in which their layers are numbered
    2: ("vocals", "accompaniment"),
    4: ("vocals", "drums", "bass", "other"),
    5: ("vocals", "piano", "drums", "bass", "other"),
}
CONVOLUTIONS, NORMS, LEVELS = 7, 12, 6  # of one instrument; transposed convolutions: one for each level
PARTS = {"weight": "kernel", "bias": "bias"}
NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def spleeter(variables: Mapping[str, np.ndarray], stems: int | None = None) -> StereoPairs:
    """Builds the separator, at 44.1 kHz, for any number of channels.

    Args:
        variables: name -> array, as TensorFlow has them, such as `conv2d_transpose_3/bias`, also with `:0` at the end;
            those of the optimiser are left out.
        stems: 2, 4 or 5; None: as many as there are networks.

    Raises:
        ImportedWeightsError: a variable is absent or of another shape.
    """
    arrays = {name.removesuffix(":0"): array for name, array in variables.items()}
    if stems is None:
        stems = sum(f"{_numbered('conv2d_transpose', LEVELS * i)}/kernel" in arrays for i in range(max(STEMS) + 1))
    if stems not in STEMS:
        raise ImportedWeightsError(f"Spleeter has models of {', '.join(map(str, STEMS))} stems, not of {stems}")
    states = []  # of all, before a network is made
    for i, target in enumerate(STEMS[stems]):
        state = {}
        for ours, theirs in names(i).items():
            if theirs not in arrays:
                raise ImportedWeightsError(f"Spleeter's {stems} stems: no variable {theirs}, of {target}")
            array = np.array(arrays[theirs])
            if array.dtype.kind != "f":
                raise ImportedWeightsError(f"Spleeter's {stems} stems: {theirs} is {array.dtype}, not floating point")
            state[ours] = _turned(torch.from_numpy(array))
        states.append(state)
    networks = []
    for target, state in zip(STEMS[stems], states, strict=True):
        networks.append(network_of(stems))
        fill(networks[-1], state, f"Spleeter's {stems} stems, {target}")
    return assembled(networks, STEMS[stems])


def spleeter_file(path: str | Path, stems: int | None = None) -> StereoPairs:
    """The same from a .npz file of the variables; what is pickled in it is not read.

    Raises:
        ImportedWeightsError: also where this is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 4 * Path(path).stat().st_size:
                raise ImportedWeightsError(f"{path}: unpacks to more than weights can")
        with np.load(path, allow_pickle=False) as file:
            variables = {name: file[name] for name in file.files if name.count("/") == 1}  # an optimiser's have more
    except ImportedWeightsError:
        raise
    # RuntimeError: encrypted, or packed in a way that is not known
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError, MemoryError) as error:
        raise ImportedWeightsError(f"{path}: not a .npz file of arrays, or damaged: {error}") from error
    return spleeter(variables, stems)


def network_of(stems: int) -> UNet:
    """The U-Net of one instrument, with random weights."""
    return UNet(
        raw_skips=True,
        norm_last=True,
        dilated_head=True,
        activation="relu" if stems == 2 else "elu",
        logits=stems == 5,
    )


def assembled(networks: Sequence[UNet], targets: Sequence[str]) -> StereoPairs:
    """The separator of some networks, one for each target."""
    estimator = UNetMasks(networks, softmax=networks[0].logits)
    return StereoPairs(SpectralSeparator(estimator, targets=targets, filter=partial(softmask, power=1.25))).eval()


def names(instrument: int) -> dict[str, str]:
    """Name in `UNet` -> name of the variable, of the instrument with this number."""
    down, up, norm = CONVOLUTIONS * instrument, LEVELS * instrument, NORMS * instrument
    layers = {f"down.{i}": ("conv2d", down + i, PARTS) for i in range(LEVELS)}
    layers |= {"head": ("conv2d", down + LEVELS, PARTS)}
    layers |= {f"up.{i}": ("conv2d_transpose", up + i, PARTS) for i in range(LEVELS)}
    # that of the lowest level is made there too, but nothing goes through it
    layers |= {f"down_norm.{i}": ("batch_normalization", norm + i, NORM_PARTS) for i in range(LEVELS - 1)}
    layers |= {f"up_norm.{i}": ("batch_normalization", norm + LEVELS + i, NORM_PARTS) for i in range(LEVELS)}
    return {
        f"{ours}.{part}": f"{_numbered(kind, number)}/{theirs}"
        for ours, (kind, number, parts) in layers.items()
        for part, theirs in parts.items()
    }


def _numbered(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind


def _turned(array: Tensor) -> Tensor:
    """Kernels from (time, frequency, in, out), or transposed (.., out, in), to (out, in, frequency, time), or (in, out, ..)."""
    return array.permute(3, 2, 1, 0).contiguous() if array.ndim == 4 else array
