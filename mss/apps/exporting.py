"""Networks as programs for other runtimes: torch.export (.pt2) and ONNX, with what is to be done around them in a JSON file.

A network on magnitudes is exported without its transform, or, with `waveform`, from waveform to waveform, the STFT and its
inverse as convolutions. What is written is run again, and compared with the network it was made of.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mss
from mss.adapters import EachChannel, MidSide, Resampled, Select, StereoPairs
from mss.apps.exported import Analysed, Convolved, FromMagnitude, with_traced_lstm
from mss.files import write_whole
from mss.filters import mixture_phase, softmask, wiener
from mss.nets import ConvTasNet, HDemucs, Magnitudes, UNetMasks
from mss.separator import Separator, SpectralSeparator
from mss.spec import options_of, spec
from mss.transforms import STFT
from mss.wrappers import Chunked, Shifted

__all__ = ["TOLERANCE", "ExportError", "export", "without_wiener"]

log = logging.getLogger(__name__)

# what may be around a network: work that is left outside
AROUND = (Chunked, EachChannel, MidSide, Resampled, Select, Shifted, StereoPairs)
TOLERANCE = 1e-4  # of the peak of the output
OPSET = 18
AXES = {"magnitude": ("batch", "channel", "bin", "frame"), "mixture": ("batch", "channel", "sample")}


class ExportError(ValueError):
    """A model without a network, one that cannot be exported, or a result that is not the network's."""


def export(
    separator: Separator,
    path: str | Path,
    *,
    waveform: bool = False,
    seconds: float = 10.0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Writes `path` and, beside it, `path`.json, which says what goes in and comes out.

    Args:
        separator: wrappers around the network are named in the JSON, and are not in the program.
        path: .onnx or .pt2.
        waveform: the transform and the filter in the program too.
        seconds: of the input of a network on waveforms, which is for one length.
        progress: is told what is being done.

    Returns:
        What the JSON says; `error` is the largest difference from the network, relative to the peak.

    Raises:
        ExportError
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise ExportError(f"{path.name}: the name says what is written: it must end in .onnx or .pt2")
    onnx = path.suffix == ".onnx"
    if onnx:
        _require("onnx", "onnxscript", "onnxruntime")
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent}: no such folder")
    inner, around = _unwrapped(separator)
    module, reference, facts, example, dynamic = _program(inner, onnx=onnx, waveform=waveform, seconds=seconds)
    name, module = facts["input"]["name"], module.eval().requires_grad_(False)
    progress("tracing the network")
    program = _traced(module, example, {name: dynamic})
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        if onnx:
            progress("translating it to ONNX")
            _to_onnx(program, temporary, name, facts["output"]["name"], dynamic)
        else:
            torch.export.save(program, temporary)
        progress("running it")
        error = _compared(temporary, reference, example, dynamic)
        if not error <= TOLERANCE:
            raise ExportError(f"the exported network differs by {error:.1e} of the peak, more than {TOLERANCE:.0e}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    facts |= {"around": around, "error": error, "versions": {"mss": mss.__version__, "torch": torch.__version__}}
    write_whole(path.with_name(f"{path.name}.json"), (json.dumps(facts, indent=2) + "\n").encode())
    return facts


def without_wiener(separator: Separator) -> Separator:
    """The separator with the start of its Wiener filter for a filter.

    Raises:
        ExportError: the filter adds a target.
    """
    for module in separator.modules() if isinstance(separator, nn.Module) else ():
        if isinstance(module, SpectralSeparator):
            function, options = options_of(module.filter)
            if function is wiener and options["residual"]:
                raise ExportError("the Wiener filter adds a residual to the targets: it cannot be left out")
            if function is wiener:
                first = options["start"] == "softmask"
                module.filter = partial(softmask, power=options["power"]) if first else mixture_phase
    return separator


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ExportError(
                f"ONNX needs the package {package}: pip install mss-separation[export], or export to .pt2"
            ) from error


def _unwrapped(separator: Separator) -> tuple[Separator, list[dict[str, Any]]]:
    """The separator within wrappers, and what those are, from the outside in."""
    around = []
    while isinstance(separator, AROUND):
        description = spec(separator)
        around.append({key: value for key, value in description.items() if key != "separator"})
        separator = separator.separator
    return separator, around


def _program(
    separator: Separator, *, onnx: bool, waveform: bool, seconds: float
) -> tuple[nn.Module, Callable[[Tensor], Tensor], dict[str, Any], Tensor, dict[int, Any]]:
    """The module, what it is to equal, what is to be known of it, an input, and its axes that may have any length."""
    if isinstance(separator, HDemucs | ConvTasNet):
        separator = deepcopy(separator).cpu().float().eval()
        shape = (1, getattr(separator, "channels", 2), round(seconds * separator.sample_rate))
        module = Convolved(separator) if isinstance(separator, HDemucs) else deepcopy(separator)
        module = with_traced_lstm(module, onnx=onnx)
        return module, separator, _facts(separator, "mixture", shape, {}, "estimates"), _noise(*shape), {}
    estimator = getattr(separator, "estimator", None)
    if not isinstance(separator, SpectralSeparator) or not isinstance(estimator, nn.Module):
        kind = type(separator).__name__
        if isinstance(separator, nn.Module) and any(True for _ in separator.parameters()):
            raise ExportError(
                f"this {kind} is made of several: export its networks, each from a file of its own (mss.save)"
            )
        raise ExportError(f"there is no network in this {kind}: methods without one run in mss only")
    if not isinstance(estimator, Magnitudes | UNetMasks) or not isinstance(separator.transform, STFT):
        raise ExportError(f"{type(estimator).__name__} cannot be exported: its input is not the magnitude of a STFT")
    if waveform:
        _check_filter(separator)
    separator = deepcopy(separator).cpu().float().eval()
    transform, channels = separator.transform, _channels(estimator)
    fixed = estimator.patch if isinstance(estimator, UNetMasks) else None
    k = fixed or 40
    module: nn.Module = with_traced_lstm(FromMagnitude(deepcopy(separator.estimator)), onnx=onnx)
    if waveform:
        name, shape, output = "mixture", (1, channels, (k - 1) * transform.hop), "estimates"
        module, reference = Analysed(module, transform, separator.filter), separator
    else:
        name, shape, output = "magnitude", (1, channels, transform.bins, k), "magnitudes"
        reference = separator.estimator
    dynamic = {} if fixed else {len(shape) - 1: torch.export.Dim.DYNAMIC}
    facts = _facts(separator, name, shape, dynamic, output)
    if not waveform:
        facts |= {"transform": spec(transform), "filter": spec(separator.filter), "use": USE}
    return module, reference, facts, _noise(*shape, positive=not waveform), dynamic


USE = "magnitude = |transform(mixture)|; network; filter(magnitudes, transform(mixture)); inverse transform"


def _facts(
    separator: Separator, name: str, shape: tuple[int, ...], dynamic: dict[int, Any], output: str
) -> dict[str, Any]:
    axes = AXES[name]
    sizes = [None if i in dynamic else n for i, n in enumerate(shape)]
    return {
        "targets": list(separator.targets),
        "sample_rate": separator.sample_rate,
        "input": {"name": name, "axes": list(axes), "shape": sizes, "dtype": "float32"},
        "output": {
            "name": output,
            "axes": [axes[0], "target", *axes[1:]],
            "shape": [sizes[0], len(separator.targets), *sizes[1:]],
            "dtype": "float32",
        },
    }


def _channels(estimator: nn.Module) -> int:
    """2 for networks of a single channel in `UNetMasks` too, which takes any number."""
    found = {getattr(network, "channels", None) for network in estimator.networks}
    if isinstance(estimator, UNetMasks) and found == {1}:
        return 2
    if len(found) > 1 or None in found:
        raise ExportError(f"networks of one number of channels can be exported, not {sorted(map(str, found))}")
    return found.pop()


def _check_filter(separator: SpectralSeparator) -> None:
    function, _ = options_of(separator.filter)
    if function in (softmask, mixture_phase) and separator.phase is None:
        return
    hint = "--niter 0, or leave" if function is wiener else "leave"
    raise ExportError(
        f"the filter {function.__name__} has no place in an exported program: {hint} out --waveform, and filter outside"
    )


def _noise(*shape: int, positive: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.abs() if positive else 0.1 * x


def _traced(module: nn.Module, example: Tensor, dynamic: dict[str, dict[int, Any]]) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of attributes that the tracing sets and resets
        try:
            return torch.export.export(module, (example,), dynamic_shapes=tuple(dynamic.values()), strict=False)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise ExportError(f"torch cannot trace this network: {_first_line(error)}") from error


def _to_onnx(
    program: torch.export.ExportedProgram, path: Path, name: str, output: str, dynamic: dict[int, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            written = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=[name], output_names=[output], opset_version=OPSET
            )
            written.save(path)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"torch cannot translate this network to ONNX: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _compared(path: Path, reference: Callable[[Tensor], Tensor], example: Tensor, dynamic: dict[int, Any]) -> float:
    """The largest difference of what a file computes, over the peak; of two lengths if it takes any."""
    inputs = [example]
    if dynamic:
        longer = torch.cat([example, example.flip(-1)[..., 1 : example.shape[-1] * 2 // 3]], -1)
        inputs.append(longer)
    run, errors = _runner(path), []
    for x in inputs:
        with torch.inference_mode():
            expected = reference(x)
        errors.append(((run(x) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item())
    return max(errors)


def _runner(path: Path) -> Callable[[Tensor], Tensor]:
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
