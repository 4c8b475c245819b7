"""Hybrid Demucs (Défossez 2021): state dicts of torchaudio and of the package `demucs`, in `mss.nets.HDemucs`.

Both have one network under two sets of names. A file of `demucs` (.th) names its class and arguments too: neither the class
nor anything else in it is imported; a stand-in takes its place, and the arguments are only compared with what
torchaudio's network does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mss.importers.weights import ImportedWeightsError, check_size, fill, read_pickle, tensors_of
from mss.nets import HDemucs

__all__ = ["SOURCES", "hdemucs", "hdemucs_file"]

SOURCES = ("drums", "bass", "other", "vocals")  # the order of all published models
NAMES = {"encoder": "freq_encoder", "decoder": "freq_decoder", "tencoder": "time_encoder", "tdecoder": "time_decoder"}
SAMPLE_RATE = 44100  # of demucs where its file says nothing
PLAIN = (bool, int, float, str, list, tuple, type(None))
SAME = {  # arguments of demucs that torchaudio's network has no others of
    "channels_time": None, "growth": 2, "wiener_iters": 0, "end_iters": 0, "cac": True, "rewrite": True,
    "hybrid": True, "hybrid_old": False, "multi_freqs": None, "freq_emb": 0.2, "emb_scale": 10, "kernel_size": 8,
    "time_stride": 2, "stride": 4, "context": 1, "context_enc": 0, "norm_starts": 4, "norm_groups": 4, "dconv_mode": 1,
    "dconv_depth": 2, "dconv_comp": 4, "dconv_attn": 4, "dconv_lstm": 4,
}  # fmt: skip


def hdemucs(
    state: Mapping[str, Tensor],
    targets: Sequence[str] = SOURCES,
    *,
    sample_rate: int = SAMPLE_RATE,
    source: object = "Hybrid Demucs",
) -> HDemucs:
    """The separator with these weights; its sizes are those of the weights.

    Args:
        state: names of `torchaudio.models.HDemucs`, or of `demucs.hdemucs.HDemucs`; half precision becomes single.
        targets: in the order of the network's outputs.
        sample_rate: Hz.
        source: named in errors.

    Raises:
        ImportedWeightsError: not the weights of such a network, or not for so many targets.
    """
    state = {_renamed(name): tensor for name, tensor in state.items()}
    first, embedding = (state.get(name) for name in ("time_encoder.0.conv.weight", "freq_emb.embedding.weight"))
    depth = sum(re.fullmatch(r"freq_encoder\.\d+\.conv\.weight", name) is not None for name in state)
    decoders = sum(re.fullmatch(r"time_decoder\.\d+\.conv_tr\.weight", name) is not None for name in state)
    last = state.get(f"time_decoder.{decoders - 1}.conv_tr.weight")
    shapes = ((first, 3), (last, 3), (embedding, 2))
    if any(t is None or t.ndim != n or not t.numel() for t, n in shapes) or not 1 <= depth <= 12:
        raise ImportedWeightsError(f"{source}: not the weights of Hybrid Demucs")
    width, channels = first.shape[:2]
    if last.shape[1] != channels * len(targets):
        raise ImportedWeightsError(
            f"{source}: is for {last.shape[1] // channels} targets, and {len(targets)} are named: {', '.join(targets)}"
        )
    n_fft = 2 * 4 * len(embedding)  # the first layer keeps every fourth bin
    make = partial(HDemucs, targets, sample_rate, channels=channels, width=width, depth=depth, n_fft=n_fft)
    check_size(make, state, source)
    with torch.device("meta"):  # nothing is drawn at random that is replaced
        network = make()
    network = network.to_empty(device="cpu")
    unused = {}  # torchaudio norms, which demucs has not, of layers that give out what comes before them
    for name, module in network.network.named_modules():
        if re.fullmatch(r"time_(encoder|decoder)\.\d+", name) and module.empty:
            unused |= {f"{name}.norm1.weight": 1.0, f"{name}.norm1.bias": 0.0}
    own = network.network.state_dict()
    state |= {name: torch.full_like(own[name], x) for name, x in unused.items() if name in own and name not in state}
    fill(network.network, state, source)
    return network.eval()


def hdemucs_file(path: str | Path, targets: Sequence[str] = SOURCES, *, sha256: str = "") -> HDemucs:
    """The same from a file: a state dict (torchaudio's .pt), or a model of `demucs` (.th), which names its targets itself.

    Args:
        path: read without running what is in it.
        targets: for a state dict.
        sha256: what the SHA-256 of the file must begin with.

    Raises:
        ImportedWeightsError: as `hdemucs`; also damaged files, quantised weights, bags of models, and other kinds of Demucs.
    """
    path = Path(path)
    content = read_pickle(path, sha256=sha256, stand_ins={"demucs.hdemucs.HDemucs": _StandIn})
    if not isinstance(content, dict) or "state" not in content or "kwargs" not in content:
        return hdemucs(tensors_of(content, path), targets, source=path)
    arguments = _arguments(content, path)
    state = content["state"]
    if isinstance(state, dict) and state.get("__quantized"):
        raise ImportedWeightsError(
            f"{path}: quantised weights (DiffQ), which cannot be read: take those in full precision"
        )
    if not all(isinstance(x, PLAIN) for x in arguments.values()):
        raise ImportedWeightsError(f"{path}: arguments of its network are no numbers or names")
    other = [f"{key} = {arguments[key]!r}" for key, value in SAME.items() if arguments.get(key, value) != value]
    if other:
        raise ImportedWeightsError(f"{path}: a Hybrid Demucs that torchaudio's network is not: {', '.join(other)}")
    rate = arguments.get("samplerate", SAMPLE_RATE)
    names = arguments.get("sources", targets)
    if (
        not isinstance(rate, int)
        or not 0 < rate < 1e7
        or not isinstance(names, list | tuple)
        or not all(isinstance(n, str) for n in names)
    ):
        raise ImportedWeightsError(f"{path}: has no names of its targets, or no sample rate")
    return hdemucs(tensors_of(state, path), names, sample_rate=rate, source=path)


class _StandIn:
    """In the place of a class that a file names."""


def _arguments(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Those that the network was made with; `sources` may stand alone."""
    args, kwargs = content.get("args", ()), content["kwargs"]
    if not isinstance(kwargs, dict) or not isinstance(args, list | tuple) or len(args) > 1:
        raise ImportedWeightsError(f"{path}: does not say how its network was made")
    return dict(zip(("sources",), args, strict=False)) | kwargs


def _renamed(name: str) -> str:
    first, dot, rest = name.partition(".")
    return NAMES.get(first, first) + dot + rest
