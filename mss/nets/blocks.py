"""What networks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss.separator import copies, with_margins

__all__ = ["DilatedBlocks", "InStages", "Magnitudes", "convolutions", "full_precision", "mean_and_std"]

KERNEL, HALF = (5, 3), (2, 1)  # of `convolutions`, bands or bins and frames
# Just above the noise of 16 bits in an STFT of 4096 points. Below, where a codec has cut a song off, there is rounding alone,
# of which a root and a ratio would make much.
LEAST_MAGNITUDE = 1e-3


class Magnitudes(nn.Module):
    """Estimator: networks on the mixture's magnitude, one for each target, or one for several.

    Args:
        networks: magnitudes (b, c, f, k) -> (b, c, f, k), or (b, n, c, f, k) of n targets; in the order of the targets.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @property
    def context(self) -> int | None:
        """Frames on either side; None where a network needs all."""
        contexts = [getattr(network, "context", None) for network in self.networks]
        return None if None in contexts else max(contexts)

    @property
    def grid(self) -> int:
        """Frames."""
        return math.lcm(*(getattr(network, "grid", 1) for network in self.networks))

    @property
    def scans(self) -> bool:
        """Whether all networks are recurrent between an encoder and a decoder of single frames."""
        return all(hasattr(network, "recur") for network in self.networks)

    def forward(self, X: Tensor) -> Tensor:
        """X (b, c, f, k) complex -> V (b, n, c, f, k)."""
        if self.scans:
            return self.finish(X, *self.scan([X]))
        magnitude = X.abs()
        parts = [network(magnitude) for network in self.networks]
        return torch.cat([V if V.ndim == 5 else V.unsqueeze(1) for V in parts], 1)

    def scan(self, spectra: Iterable[Tensor]) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """For each block of X (b, c, f, k), what every network's encoder and recurrent layers make of it, (k, b, h) each.

        Gives it out when it has read the block, where all networks are causal; else when it has read all.
        """
        blocks = (self._bridged(self._each("encode", X.abs())) for X in spectra)
        if all(network.causal for network in self.networks):
            states: list[Any] = [None] * len(self.networks)
            for encoded in blocks:
                recurrent, states = self._recurred(encoded, states)
                yield list(zip(encoded, recurrent, strict=True))
            return
        held = list(blocks)
        if held:
            recurrent, _ = self._recurred([torch.cat(parts) for parts in zip(*held, strict=True)])
            start = 0
            for encoded in held:
                now = slice(start, start + len(encoded[0]))
                yield [(e, r[now]) for e, r in zip(encoded, recurrent, strict=True)]
                start = now.stop

    def finish(self, X: Tensor, found: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """V (b, n, c, f, k) of a block of X and of what `scan` found there."""
        magnitude = X.abs()
        return torch.stack([net.decode(*own, magnitude) for net, own in zip(self.networks, found, strict=True)], 1)

    def fit_input(self, spectra: Iterable[Tensor]) -> None:
        """Sets what the networks know of their input, from mixtures X (b, c, f, k); all see the same."""
        first, *others = self.networks
        first.fit_input(spectra)
        with torch.no_grad():
            for network in others:
                network.input_mean.copy_(first.input_mean)
                network.input_scale.copy_(first.input_scale)

    def _each(self, method: str, magnitude: Tensor) -> list[Tensor]:
        return [getattr(network, method)(magnitude) for network in self.networks]

    def _bridged(self, tensors: list[Tensor]) -> list[Tensor]:
        """What the networks tell each other: here nothing."""
        return tensors

    def _recurred(self, encoded: list[Tensor], states: Sequence[Any] | None = None) -> tuple[list[Tensor], list[Any]]:
        jobs = list(zip(self.networks, encoded, states or [None] * len(encoded), strict=True))
        results = _in_parallel(lambda job: job[0].recur(*job[1:]), jobs, encoded[0].device)
        outputs, states = zip(*results, strict=True)
        return self._bridged(list(outputs)), list(states)


class _Convolutions(nn.Sequential):
    """Layers that in use have each batch normalisation inside the convolution before it and, on a CPU, hand on what they make
    in the layout that oneDNN computes in. The rest of the time is for turning it there and back."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, maps, f, k) -> the same of other maps."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        onednn = torch.backends.mkldnn
        inside = onednn.is_available() and onednn.enabled and x.device.type == "cpu" and x.dtype == torch.float32
        x = x.to_mkldnn() if inside else x
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.ReLU):
                x = x.relu_()
                continue
            weight, bias = layer.weight, layer.bias
            if layers and isinstance(layers[0], nn.BatchNorm2d):
                norm = layers.pop(0)
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                weight, bias = weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
            if inside:
                weight, bias = weight.to_mkldnn(), bias.to_mkldnn()
            x = F.conv2d(x, weight, bias, padding=layer.padding)
        return x.to_dense() if inside else x


def convolutions(*maps: int) -> nn.Sequential:
    """From maps[0] to maps[1], and so on, each with batch normalisation and rectified."""
    layers = _Convolutions()
    for of, to in pairwise(maps):
        layers.extend([nn.Conv2d(of, to, KERNEL, padding=HALF, bias=False), nn.BatchNorm2d(to), nn.ReLU()])
    return layers


class DilatedBlocks(nn.ModuleList):
    """Residual dilated convolutions over time (Bai et al. 2018), of three taps each, as `GuidedTCN` and `LowEnd` have them.

    Args:
        hidden: h, their width.
        dilations: one for each block; the output looks at as many frames on either side as their sum.
        dropout: after each block.
    """

    def __init__(self, hidden: int, dilations: Sequence[int], dropout: float) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv1d(hidden, hidden, 3, dilation=d, padding=d, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, k) -> (b, h, k)."""
        for block in self:
            x = x + block(x)
        return x

    def beside(self, parts: Iterable[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
        """Consecutive blocks of tensors (..., k), of which the last is (b, h, k), each with what `forward` makes of that of the
        whole put behind it. Every block keeps the frames that the next one needs, so nothing is computed twice."""
        ahead, behind = copies(parts)
        results: Iterable[Tensor] = (part[-1] for part in ahead)
        for block in self:
            results = self._streamed(block, results)
        held, results = None, iter(results)
        for part in behind:
            frames = part[-1].shape[-1]
            while held is None or held.shape[-1] < frames:
                held = next(results) if held is None else torch.cat([held, next(results)], -1)
            yield [*part, held[..., :frames]]
            held = held[..., frames:]

    @staticmethod
    def _streamed(block: nn.Sequential, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """x + block(x) of the blocks (b, h, k) put together, as soon as it is known."""
        convolution, *rest = block
        reach = convolution.dilation[0]
        held = None
        for x in chain(blocks, [None]):
            if held is None:
                held = F.pad(x, (reach, 0))
            else:
                held = F.pad(held, (0, reach)) if x is None else torch.cat([held, x], -1)
            known = held.shape[-1] - 2 * reach
            if known > 0:
                y = F.conv1d(held, convolution.weight, dilation=reach)
                for layer in rest:
                    y = layer(y)
                yield held[..., reach : reach + known] + y
                held = held[..., known:]


class InStages(nn.Module):
    """An estimator that looks far over time in its middle stage alone, `blocks`, which keeps frames from one block of a song to
    the next. So the first stage and the last, which do most of the work, see a few frames beyond each block and no more."""

    KNOWN: int  # tensors of `_heard` that `_applied` needs
    blocks: DilatedBlocks

    def forward(self, X: Tensor) -> Tensor:
        """(b, c, f, k) complex -> (b, n, c, f, k)."""
        *known, looked, encoded = self._heard(X)
        return self._applied(self._answer(looked, encoded, self.blocks(encoded)), *known)

    def stream(self, spectra: Iterable[Tensor]) -> Iterator[Tensor]:
        """Blocks of X, all but the last of at least `context` frames, -> what `forward` makes of all put together."""
        before, after = self._reach()
        blocks = with_margins(((X,) for X in spectra), before)
        heard = ([x[..., own] for x in self._heard(X)] for [(X, own)] in blocks)
        return map(self._answered, with_margins(self.blocks.beside(heard), *[0] * self.KNOWN, after, after, after))

    def _answered(self, parts: list[tuple[Tensor, slice]]) -> Tensor:
        """Of a block: what `_heard` makes of it, the layers over time make of that, and a few frames on either side."""
        tensors, (*_, own) = zip(*parts, strict=True)
        return self._applied(self._answer(*tensors[self.KNOWN :])[..., own], *tensors[: self.KNOWN])

    def _reach(self) -> tuple[int, int]:
        """Frames on either side that the first stage looks at, and the last."""
        raise NotImplementedError

    def _heard(self, X: Tensor) -> tuple[Tensor, ...]:
        """What the answer is applied to, what goes around the layers over time, and what goes into them, (b, h, k)."""
        raise NotImplementedError

    def _answer(self, looked: Tensor, encoded: Tensor, over_time: Tensor) -> Tensor:
        """(..., k)."""
        raise NotImplementedError

    def _applied(self, answer: Tensor, *known: Tensor) -> Tensor:
        """The estimates."""
        raise NotImplementedError


def full_precision(device: torch.device) -> AbstractContextManager:
    """Mixed precision (`trainer.precision`) is for networks: half of it is not enough for sound, spectra and losses."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def mean_and_std(parts: Iterable[Tensor], floor: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every bin over the frames of all parts (..., f, k), (f,) each, in double precision.

    Sums of squared differences from the mean are merged (Chan et al. 1983), so no digits are lost over many hours.

    Args:
        parts: are read once.
        floor: least deviation, as a share of the largest; where all are 0 they become 1.

    Raises:
        ValueError: no frames at all.
    """
    count, mean, squares = 0, None, None
    for part in parts:
        x = part.detach().double().movedim(-2, 0).flatten(1)  # (f, frames)
        n, own = x.shape[1], x.mean(1)
        if n == 0:
            continue
        own_squares = (x - own.unsqueeze(1)).square().sum(1)
        if mean is None:
            count, mean, squares = n, own, own_squares
            continue
        shift, count = own - mean, count + n
        mean = mean + shift * (n / count)
        squares = squares + own_squares + shift.square() * (n * (count - n) / count)
    if mean is None:
        raise ValueError("no frames to take the statistics of the input from: the training set is empty")
    std = (squares / count).sqrt()
    peak = std.max()
    return mean, torch.where(peak > 0, std.clamp_min(floor * peak), 1)


def _in_parallel(work: Callable[[Any], Any], jobs: Sequence, device: torch.device) -> list:
    """[work(job) for job in jobs], on a CPU and without gradients each in one thread: recurrent layers hardly use two."""
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs)) if device.type == "cpu" and not torch.is_grad_enabled() else 1
    if workers == 1:
        return [work(job) for job in jobs]
    inference = torch.is_inference_mode_enabled()

    def worker(job: Any) -> Any:
        with torch.inference_mode(inference), torch.no_grad():  # both are each thread's own
            return work(job)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(worker, jobs))
    finally:
        torch.set_num_threads(threads)  # the setting is each thread's own, but also the default of threads to come
