"""Open-Unmix models (Stöter et al. 2019) as the package `openunmix` 1.3 keeps them, in both directions.

A folder has `separator.json` (`nfft`, `nhop`, `sample_rate`, `nb_channels`) and for each target its weights, `<target>.pth`,
or with the first digits of their SHA-256 `<target>-<digits>.pth` (`_` in umxse), and `<target>.json` on its training. The
sizes of the networks are those of the weights. Of the three JSON files' many entries only those named are needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mss.adapters import EachChannel, StereoPairs
from mss.files import write_whole
from mss.filters import mixture_phase, wiener
from mss.importers.weights import ImportedWeightsError, check_size, fill, read_state
from mss.nets import BLSTM, CrossBLSTM, Magnitudes
from mss.separator import SpectralSeparator
from mss.spec import options_of
from mss.transforms import STFT

__all__ = ["export_openunmix", "from_weights", "openunmix"]

log = logging.getLogger(__name__)

ORDER = ("vocals", "drums", "bass", "other", "speech", "noise")  # of their models; other targets after them, by name
NAME = re.compile(r"(?P<target>.+?)(?:[-_](?P<digits>[0-9a-f]{8}))?\.pth")
LAYERS = 3  # their loader knows no other number
DEEPEST = 50  # layers of weights that are read all the same
LONGEST = 1 << 20  # bytes of a JSON file; they have some hundred, and a hundred more for each epoch


def openunmix(
    folder: str | Path,
    targets: Sequence[str] | None = None,
    *,
    iterations: int | None = None,
    window: int | None = 300,
) -> SpectralSeparator | EachChannel | StereoPairs:
    """The separator in a folder; one of mono or stereo takes any number of channels.

    Args:
        folder: see above.
        targets: in this order; None: all.
        iterations: of the Wiener filter; None: the `niter` of separator.json, or 1, Open-Unmix's own default. A single
            target has nothing to be filtered with.
        window: frames that the filter takes together.

    Raises:
        ImportedWeightsError: a file is absent, damaged, or not what its name says.
    """
    folder = Path(folder)
    conf = _json(folder / "separator.json")
    found = _weights(folder)
    if targets is None:
        targets = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    if absent := [name for name in targets if name not in found]:
        raise ImportedWeightsError(f"{folder}: no weights of {', '.join(absent)}: there are {', '.join(sorted(found))}")
    numbers = {}
    for key in ("nfft", "nhop", "sample_rate", "nb_channels"):
        value = conf.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e7 or value != int(value):
            raise ImportedWeightsError(f"{folder / 'separator.json'}: {key} must be a whole number, not {value!r}")
        numbers[key] = int(value)
    niter = conf.get("niter", 1) if iterations is None else iterations
    if not isinstance(niter, int) or not 0 <= niter < 100:
        raise ImportedWeightsError(f"{folder / 'separator.json'}: niter must be a whole number, not {niter!r}")
    states = {name: read_state(path, sha256=digits) for name, (path, digits) in found.items() if name in targets}
    return from_weights(
        {name: states[name] for name in targets},
        channels=numbers["nb_channels"],
        sample_rate=numbers["sample_rate"],
        n_fft=numbers["nfft"],
        hop=numbers["nhop"],
        iterations=niter,
        window=window,
        source=folder,
    )


def from_weights(
    states: Mapping[str, Mapping[str, Tensor]],
    *,
    channels: int = 2,
    sample_rate: int = 44100,
    n_fft: int = 4096,
    hop: int = 1024,
    iterations: int = 1,
    window: int | None = 300,
    source: object = "Open-Unmix",
) -> SpectralSeparator | EachChannel | StereoPairs:
    """The same from state dicts, target -> {name: tensor}; the defaults are those of umx, umxhq and umxl.

    Raises:
        ImportedWeightsError: they do not fit together or to the transform.
    """
    try:
        transform = STFT(n_fft, hop, padding="reflect")
    except ValueError as error:
        raise ImportedWeightsError(f"{source}: {error}") from error
    networks = []
    for target, state in states.items():
        name = f"{source}: {target}"
        options = _sizes(state, transform.bins, channels, name)
        make = partial(BLSTM, transform.bins, channels, **options)
        check_size(make, state, name)
        network = make()
        fill(network, state, name)
        networks.append(network)
    # eps as theirs in single precision
    filter = partial(wiener, iterations=iterations, start="mixture_phase", eps=1e-10, window=window)
    separator = SpectralSeparator(
        Magnitudes(networks),
        tuple(states),
        sample_rate=sample_rate,
        transform=transform,
        filter=filter if iterations and len(states) > 1 else mixture_phase,
    )
    fit = {1: EachChannel, 2: StereoPairs}.get(channels, lambda separator: separator)
    return fit(separator).eval()


def export_openunmix(separator: nn.Module, folder: str | Path) -> None:
    """Writes a folder that `openunmix.utils.load_separator(folder, targets)` loads.

    Args:
        separator: a `SpectralSeparator` of `BLSTM`s, alone or in wrappers, which have no place in the folder.
        folder: is made; existing files of these names are replaced.

    Raises:
        ValueError: Open-Unmix has no such network or transform.
    """
    folder = Path(folder)
    found = [module for module in separator.modules() if isinstance(module, SpectralSeparator)]
    if len(found) != 1:
        raise ValueError(f"Open-Unmix holds one SpectralSeparator, and this has {len(found)}")
    inner = found[0]
    networks = _exportable(inner)
    niter, residual = _filter_settings(inner)
    names = inner.targets[:-1] if residual else inner.targets
    for name in names:
        if any(other != name and other.startswith(name) for other in names) or not re.fullmatch(r"[\w][\w -]*", name):
            raise ValueError(
                f"target {name!r}: their loader finds files by the beginning of their names: rename it so that "
                "no other target begins with it, with letters and digits"
            )
    network, transform = networks[0], inner.transform
    conf = {"nfft": transform.n_fft, "nhop": transform.hop, "sample_rate": inner.sample_rate}
    conf |= {"nb_channels": network.channels}
    folder.mkdir(parents=True, exist_ok=True)
    for old in [path for name in names for path in folder.glob("*.pth") if NAME.fullmatch(path.name)["target"] == name]:
        old.unlink()  # of another digest: their loader would take the first it finds
    for name, network in zip(names, networks, strict=True):
        data = io.BytesIO()
        torch.save(
            {key: tensor.detach().cpu().contiguous().clone() for key, tensor in network.state_dict().items()}, data
        )
        digits = hashlib.sha256(data.getvalue()).hexdigest()[:8]
        write_whole(folder / f"{name}-{digits}.pth", data.getvalue())
        args = conf | {"target": name, "hidden_size": network.hidden, "unidirectional": False}
        _write(folder / f"{name}.json", {"args": args})
    _write(folder / "separator.json", conf | {"niter": niter})


def _exportable(separator: SpectralSeparator) -> list[BLSTM]:
    """Its networks, if Open-Unmix has the like."""
    estimator, transform = separator.estimator, separator.transform
    networks = list(estimator.networks) if isinstance(estimator, Magnitudes) else []
    if isinstance(estimator, CrossBLSTM) or not networks or not all(isinstance(net, BLSTM) for net in networks):
        raise ValueError(
            f"Open-Unmix has BLSTM networks, one for each target, and no {type(estimator).__name__} like this"
        )
    for network in networks:
        if network.causal or network.layers != LAYERS:
            raise ValueError(f"the loader of Open-Unmix knows {LAYERS} layers in both directions, and no other network")
    if len({(net.bins, net.channels) for net in networks}) > 1:
        raise ValueError("the networks differ in bins or channels, which Open-Unmix does not know")
    if not isinstance(transform, STFT) or transform.window != "hann":
        raise ValueError(f"Open-Unmix has a STFT with a Hann window, not {transform}")
    if transform.padding != "reflect":
        log.warning("Open-Unmix reflects the ends of the waveform: the first and the last frames will differ")
    return networks


def _filter_settings(separator: SpectralSeparator) -> tuple[int, bool]:
    """Iterations, and whether a target is the residual: what their loader is to be told."""
    function, options = options_of(separator.filter)
    if function is wiener and options["start"] == "mixture_phase":
        return options["iterations"], options["residual"]
    if function is not mixture_phase:
        log.warning("Open-Unmix has no filter %s: what it separates will differ", function.__name__)
    return 0, False


def _weights(folder: Path) -> dict[str, tuple[Path, str]]:
    """target -> its file, and the digits in the name of it."""
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(folder.glob("*.pth")):
        match = NAME.fullmatch(path.name)
        target = match["target"]
        if target in found:
            raise ImportedWeightsError(f"{folder}: two files for {target}, {found[target][0].name} and {path.name}")
        found[target] = path, match["digits"] or ""
    if not found:
        raise ImportedWeightsError(f"{folder}: no weights (<target>.pth) in this folder")
    return found


def _sizes(state: Mapping[str, Tensor], bins: int, channels: int, name: str) -> dict[str, Any]:
    """The options of the network that has such weights."""
    for key in ("fc1.weight", "input_mean", "output_mean"):
        if key not in state or state[key].ndim < 1 or not state[key].numel():
            raise ImportedWeightsError(f"{name}: has no {key}: not an Open-Unmix network")
    if len(state["output_mean"]) != bins:
        raise ImportedWeightsError(
            f"{name}: is for {len(state['output_mean'])} bins, and separator.json says {bins}: files of two models"
        )
    if tuple(state["fc1.weight"].shape[1:]) != (len(state["input_mean"]) * channels,):
        raise ImportedWeightsError(f"{name}: is not for {channels} channels, which separator.json says")
    seen = len(state["input_mean"])
    if seen > bins:
        raise ImportedWeightsError(f"{name}: sees {seen} bins of {bins}: not an Open-Unmix network")
    layers = 0
    while f"lstm.weight_ih_l{layers}" in state:
        layers += 1
    causal = "lstm.weight_ih_l0_reverse" not in state
    hidden = len(state["fc1.weight"])
    if not 0 < layers <= DEEPEST or (hidden % 2 and not causal):
        raise ImportedWeightsError(f"{name}: has no LSTM that fits: not an Open-Unmix network")
    return {"hidden": hidden, "layers": layers, "causal": causal, "max_bin": seen}


def _json(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > LONGEST:
            raise ImportedWeightsError(f"{path}: {size} bytes, where a few hundred are expected: it is not read")
        value = json.loads(path.read_text(encoding="utf-8"))
    except ImportedWeightsError:
        raise
    except FileNotFoundError:
        raise ImportedWeightsError(
            f"{path}: no such file: a folder is loaded if it is one of Open-Unmix, with separator.json"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ImportedWeightsError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ImportedWeightsError(f"{path}: not a JSON object")
    return value


def _write(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(value, indent=4, sort_keys=True) + "\n").encode())
