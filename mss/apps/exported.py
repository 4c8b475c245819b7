"""Modules that are only there to be exported: separators in the operations that ONNX has, without complex numbers.

They compute the same as what they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.filters import ratio_mask, softmask
from mss.nets import HDemucs, Magnitudes, UNetMasks
from mss.spec import options_of
from mss.transforms import STFT

__all__ = ["Analysed", "ConvSTFT", "Convolved", "FromMagnitude", "with_traced_lstm"]


class FromMagnitude(nn.Module):
    """An estimator's networks on magnitudes (b, c, f, k), which gives (b, n, c, f, k)."""

    def __init__(self, estimator: Magnitudes | UNetMasks) -> None:
        super().__init__()
        self.estimator = estimator
        if isinstance(estimator, UNetMasks):
            estimator.together = 1 << 30  # no loop

    def forward(self, magnitude: Tensor) -> Tensor:
        estimator = self.estimator
        if not getattr(estimator, "scans", False):
            return estimator(magnitude)  # of what is not negative it takes the absolute value
        networks = estimator.networks  # one after the other, where the estimator uses threads
        encoded = estimator._bridged([network.encode(magnitude) for network in networks])
        recurrent = estimator._bridged([net.recur(x)[0] for net, x in zip(networks, encoded, strict=True)])
        found = zip(networks, encoded, recurrent, strict=True)
        return torch.stack([net.decode(x, y, magnitude) for net, x, y in found], 1)


class ConvSTFT(nn.Module):
    """`STFT` and its inverse as convolutions; a spectrum is a pair of real (..., f, k).

    Args:
        transform: whose window and padding count.
        normalized: over the root of n_fft, as Demucs has it.
    """

    def __init__(self, transform: STFT, *, normalized: bool = False) -> None:
        super().__init__()
        self.transform = transform
        n = transform.n_fft
        window = transform._window(torch.zeros(1, dtype=torch.float64))
        phase = torch.outer(torch.arange(transform.bins, dtype=torch.float64), torch.arange(n, dtype=torch.float64))
        phase = phase.remainder(n) * (2 * math.pi / n)
        waves = torch.stack([phase.cos(), -phase.sin()])  # (2, f, n)
        scale = n**-0.5 if normalized else 1.0
        weights = transform.multiplicity(window) / n  # (f, 1), in the inverse
        self.register_buffer("analysis", (waves * window * scale).flatten(0, 1).unsqueeze(1).float())
        self.register_buffer("synthesis", (waves * window * weights / scale).flatten(0, 1).unsqueeze(1).float())
        self.register_buffer("square", window.square().view(1, 1, -1).float())

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, t) -> two of (b, c, f, k)."""
        half, hop, length = self.transform.n_fft // 2, self.transform.hop, waveform.shape[-1]
        # as the transform's own, without the division of a negative number, which ONNX rounds to the other side
        after = half if self.transform.dense else (length + hop - 1) // hop * hop + half - length
        mode = "reflect" if self.transform.padding == "reflect" else "constant"
        return self.frames(F.pad(waveform, (half, after), mode=mode))

    def frames(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a waveform with the half window before and after it."""
        x = F.conv1d(padded.flatten(0, 1).unsqueeze(1), self.analysis, stride=self.transform.hop)
        x = x.unflatten(0, padded.shape[:2])  # (b, c, 2 f, k)
        return x[:, :, : self.transform.bins], x[:, :, self.transform.bins :]

    def inverse(self, real: Tensor, imag: Tensor, length: Tensor | int) -> Tensor:
        """Two of (..., f, k) -> (..., length)."""
        half, hop = self.transform.n_fft // 2, self.transform.hop
        x = torch.cat([real, imag], -2)
        flat = x.reshape(-1, *x.shape[-2:])
        total = F.conv_transpose1d(flat, self.synthesis, stride=hop)
        norm = F.conv_transpose1d(torch.ones_like(flat[:1, :1]), self.square, stride=hop)
        y = total[..., half : half + length] / norm[..., half : half + length].clamp_min(torch.finfo(norm.dtype).tiny)
        return y.reshape(*x.shape[:-2], length)


class Analysed(nn.Module):
    """A separator from waveform to waveform, (b, c, t) -> (b, n, c, t), of a network on magnitudes and a filter of bins."""

    def __init__(self, network: nn.Module, transform: STFT, filter: Callable) -> None:
        super().__init__()
        self.network = network
        self.transform = ConvSTFT(transform)
        self.function, self.options = options_of(filter)

    def forward(self, mixture: Tensor) -> Tensor:
        real, imag = self.transform(mixture)
        magnitude = (real.square() + imag.square()).sqrt()
        V = self.network(magnitude)
        if self.function is softmask:
            gain = ratio_mask(V, self.options["power"], empty=self.options["empty"])
        else:  # mixture_phase
            gain = V / magnitude.clamp_min(torch.finfo(V.dtype).tiny).unsqueeze(1)
        return self.transform.inverse(gain * real.unsqueeze(1), gain * imag.unsqueeze(1), mixture.shape[-1])


class Convolved(nn.Module):
    """`HDemucs` with the transform of its network as a convolution."""

    def __init__(self, separator: HDemucs) -> None:
        super().__init__()
        self.separator = deepcopy(separator)
        network = self.separator.network
        network.convolutions = ConvSTFT(STFT(network.nfft, network.hop_length), normalized=True)
        for method in (_spec, _magnitude, _mask, _ispec):
            setattr(network, method.__name__, MethodType(method, network))

    def forward(self, mixture: Tensor) -> Tensor:
        return self.separator(mixture)


# Of torchaudio's network, on pairs of real spectra in a dimension before the bins


def _spec(self: Any, x: Tensor) -> Tensor:
    hop, half = self.hop_length, self.nfft // 2
    frames = -(-x.shape[-1] // hop)
    side = hop // 2 * 3
    x = self._pad1d(x, side, side + frames * hop - x.shape[-1], mode="reflect")
    real, imag = self.convolutions.frames(F.pad(x, (half, half), mode="reflect"))
    return torch.stack([real, imag], 2)[..., :-1, 2 : 2 + frames]  # (b, c, 2, f, k)


def _magnitude(self: Any, z: Tensor) -> Tensor:
    return z.flatten(1, 2)


def _mask(self: Any, m: Tensor) -> Tensor:
    return m.unflatten(2, (-1, 2))  # (b, n, c, 2, f, k)


def _ispec(self: Any, z: Tensor, length: int) -> Tensor:
    hop, side = self.hop_length, self.hop_length // 2 * 3
    real, imag = F.pad(z, (2, 2, 0, 1)).unbind(3)
    return self.convolutions.inverse(real, imag, hop * -(-length // hop) + 2 * side)[..., side : side + length]


class TracedLSTM(nn.Module):
    """`nn.LSTM` for any number of frames, where tracing would count and unroll them: the operator of ONNX, or a scan.

    Outside of a trace it is the layer itself.
    """

    def __init__(self, lstm: nn.LSTM, *, onnx: bool) -> None:
        super().__init__()
        if lstm.batch_first or lstm.proj_size or not lstm.bias:
            raise ValueError("only LSTM with biases, frames first and without a projection are translated")
        self.lstm = lstm
        self.onnx = onnx
        for layer in range(lstm.num_layers):  # in advance: what is done to weights in a trace is in the program
            w, r, bw, br = (self._of_both(part, layer) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            if onnx:  # whose order of the gates is input, output, forget, cell
                w, r, bw, br = (torch.cat([t.chunk(4, 1)[i] for i in (0, 3, 1, 2)], 1) for t in (w, r, bw, br))
            self.register_buffer(f"weights_{layer}", w)
            self.register_buffer(f"recurrent_{layer}", r)
            self.register_buffer(f"biases_{layer}", torch.cat([bw, br], 1) if onnx else bw + br)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """(k, b, i) -> (k, b, o); a state only goes into the layer itself."""
        if not torch.compiler.is_exporting():
            return self.lstm(x, state)
        for layer in range(self.lstm.num_layers):
            weights = [getattr(self, f"{part}_{layer}") for part in ("weights", "recurrent", "biases")]
            y = (self._operator if self.onnx else self._scan)(x, *weights)  # (k, d, b, o)
            x = y.transpose(1, 2).flatten(2)
        return x, None

    def _of_both(self, part: str, layer: int) -> Tensor:
        """(d, 4 o, ...), of both directions; gates in torch's order: input, forget, cell, output."""
        suffixes = ("", "_reverse") if self.lstm.bidirectional else ("",)
        return torch.stack([getattr(self.lstm, f"{part}_l{layer}{suffix}").detach() for suffix in suffixes])

    def _operator(self, x: Tensor, w: Tensor, r: Tensor, b: Tensor) -> Tensor:
        directions, width = len(w), self.lstm.hidden_size
        return torch.onnx.ops.symbolic(
            "LSTM",
            [x, w, r, b],
            {"hidden_size": width, "direction": "bidirectional" if directions == 2 else "forward"},
            dtype=x.dtype,
            shape=(x.shape[0], directions, x.shape[1], width),
        )

    def _scan(self, x: Tensor, w: Tensor, r: Tensor, b: Tensor) -> Tensor:
        from torch._higher_order_ops.scan import scan  # there is no public name for it yet

        gates = torch.einsum("kbi,dgi->kdbg", x, w) + b.unsqueeze(1)
        both = len(w) == 2
        gates = torch.stack([gates[:, 0], gates[:, 1].flip(0)], 1) if both else gates

        def step(carry: tuple[Tensor, Tensor], gate: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            h, c = carry
            i, f, g, o = (gate + h @ r.mT).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            return (h, c), h.clone()

        zero = x.new_zeros(len(w), x.shape[1], self.lstm.hidden_size)
        y = scan(step, (zero, zero.clone()), gates)[1]
        return torch.stack([y[:, 0], y[:, 1].flip(0)], 1) if both else y


def with_traced_lstm(module: nn.Module, *, onnx: bool) -> nn.Module:
    """The module with every LSTM replaced, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LSTM):
                setattr(parent, name, TracedLSTM(child, onnx=onnx))
    return module
