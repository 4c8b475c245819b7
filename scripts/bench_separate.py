"""Whole-process time and peak memory of `python -m mss.separate` against the same network run plainly, in one run.

"Plainly" is what one writes first: read the song, one STFT, for each stem and each patch of 512 frames one eager forward in
float32 through the layers as they are in the paper, ratio masks, inverse STFT, write. Same weights, same options, so
the outputs must agree. Prints the ratio of medians and writes a Markdown table.

    python scripts/bench_separate.py [--song song.wav] [--runs 5] [--minutes 2 20] [--out docs/bench_separate.md]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mss.apps.options import DEFAULT_MODEL

MODEL = "spleeter-2stems"
SONG_SECONDS = 240


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--song", type=Path, help="default: the MUSDB18 excerpt of stempeg, repeated to 4 minutes")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--minutes", type=float, nargs="*", default=[2, 20], help="lengths to measure the memory at")
    p.add_argument("--out", type=Path, default=Path("docs/bench_separate.md"))
    p.add_argument("--plain", nargs=2, type=Path, metavar=("SONG", "OUT"), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.plain:
        plain(*args.plain)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = bench(args, Path(folder))
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(report, encoding="utf-8")
    print(report)


def bench(args: argparse.Namespace, folder: Path) -> str:
    """Runs both, in turn, and returns the report."""
    song = args.song or song_of(SONG_SECONDS, folder / "song.wav")
    separate = [sys.executable, "-m", "mss.separate", "-o", str(folder), "-q", "--float32", "-n"]
    ours = [*separate, MODEL, str(song)]
    four = [*separate, DEFAULT_MODEL, str(song)]
    plainly = [sys.executable, __file__, "--plain", str(song), str(folder / "plain")]
    times: dict[str, list[float]] = {"mss": [], "plain": [], DEFAULT_MODEL: []}
    memory: dict[str, float] = {}
    for run in range(args.runs + 1):
        for name, command in (("mss", ours), ("plain", plainly), (DEFAULT_MODEL, four)):
            seconds, megabytes = measured(command)
            if run:  # the first warms the disk's cache
                times[name].append(seconds)
                memory[name] = max(memory.get(name, 0), megabytes)
    from torch.backends.cpu import get_cpu_capability

    difference = largest_difference(folder / MODEL / song.stem, folder / "plain")
    medians = {name: statistics.median(values) for name, values in times.items()}
    lines = [
        f"`python -m mss.separate`, {MODEL}, {length_of(song):.0f} s of stereo, {os.cpu_count()} cores, "
        f"{args.runs} runs in turn, whole process "
        f"({platform.machine()}, {get_cpu_capability()}, Python {platform.python_version()}):",
        "",
        "| | median s | min s | max s | peak MB |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {medians[name]:.2f} | {min(values):.2f} | {max(values):.2f} | {memory[name]:.0f} |"
            for name, values in times.items()
        ),
        "",
        f"plain / mss, ratio of medians: **{medians['plain'] / medians['mss']:.2f}**; "
        f"largest difference of a sample: {difference:.1e}",
        "",
        f"{DEFAULT_MODEL} is **{length_of(song) / medians[DEFAULT_MODEL]:.1f}** times faster than real time.",
        "",
    ]
    if args.minutes:
        lines += ["| minutes | model | s | peak MB |", "|---|---|---|---|"]
        for minutes, model in itertools.product(args.minutes, (MODEL, DEFAULT_MODEL)):
            long = song_of(minutes * 60, folder / "long.wav")
            seconds, megabytes = measured([*separate, model, str(long)])
            lines.append(f"| {minutes:g} | {model} | {seconds:.1f} | {megabytes:.0f} |")
    return "\n".join(lines) + "\n"


def measured(command: list[str]) -> tuple[float, float]:
    """Wall-clock seconds and peak resident megabytes of a command."""
    begin = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, usage.ru_maxrss * (1024 if sys.platform == "linux" else 1) / 1e6


def song_of(seconds: float, path: Path) -> Path:
    """The excerpt that stempeg ships, repeated to a length, as 16-bit WAV."""
    import torch

    from mss.audio import Encoding, Writer, read

    data = Path(importlib.util.find_spec("stempeg").submodule_search_locations[0]) / "data"
    excerpt, rate = read(next(data.glob("*.mp4")))
    left = round(seconds * rate)
    with Writer(path, rate, excerpt.shape[0], encoding=Encoding("wav", "int16")) as writer:
        while left > 0:
            writer.write(excerpt[:, :left] * torch.tensor(0.9))
            left -= excerpt.shape[1]
    return path


def length_of(song: Path) -> float:
    from mss.audio import info

    return info(song).duration


def largest_difference(ours: Path, theirs: Path) -> float:
    from mss.audio import read

    return max(float((read(path)[0] - read(theirs / path.name)[0]).abs().max()) for path in ours.glob("*.wav"))


def plain(song: Path, out: Path) -> None:
    """The peer: the network as it is written first, on the weights and with the mask options of this project's model."""
    import soundfile
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file
    from torch import nn

    from mss.zoo import PRETRAINED, cache_folder

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            down = [2, 16, 32, 64, 128, 256, 512]
            up = [(512, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1)]
            self.down = nn.ModuleList(nn.Conv2d(i, o, 5, 2) for i, o in itertools.pairwise(down))
            self.down_norm = nn.ModuleList(nn.BatchNorm2d(o, eps=1e-3) for o in down[1:-1])
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 5, 2) for i, o in up)
            self.up_norm = nn.ModuleList(nn.BatchNorm2d(o, eps=1e-3) for _, o in up)
            self.head = nn.Conv2d(1, 2, 4, dilation=2, padding=3)

        def forward(self, x):
            skips = []
            for conv, norm in zip(self.down, [*self.down_norm, nn.Identity()], strict=True):
                skips.append(conv(F.pad(x, (1, 2, 1, 2))))
                x = F.leaky_relu(norm(skips[-1]), 0.2)
            x = skips.pop()
            for level, (conv, norm) in enumerate(zip(self.up, self.up_norm, strict=True)):
                x = x if level == 0 else torch.cat([skips.pop(), x], 1)
                x = norm(F.relu(conv(x)[..., 1:-2, 1:-2]))
            return torch.sigmoid(self.head(x))

    state = load_file(cache_folder() / f"{MODEL}-{PRETRAINED[MODEL].revision}.safetensors")
    networks = []
    for i in range(2):
        prefix = f"separator.estimator.networks.{i}."
        network = Plain().eval()
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        networks.append(network)
    audio, rate = soundfile.read(song, dtype="float32", always_2d=True)
    mixture, window = torch.from_numpy(audio.T.copy()), torch.hann_window(4096)
    with torch.inference_mode():
        X = torch.stft(mixture, 4096, 1024, window=window, pad_mode="constant", return_complex=True)
        magnitude = X[:, :1024].abs()
        patches = F.pad(magnitude, (0, -X.shape[-1] % 512)).split(512, -1)
        masks = torch.stack([torch.cat([net(p.unsqueeze(0)) for p in patches], -1)[0] for net in networks])
        masks = masks[..., : X.shape[-1]]
        masks = torch.cat([masks, masks[:, :, -200:].mean(2, keepdim=True).expand(-1, -1, 1025, -1)], 2) ** 1.25
        masks = masks / masks.sum(0).clamp_min(1e-20)
        out.mkdir(exist_ok=True)
        for name, mask in zip(PRETRAINED[MODEL].targets, masks, strict=True):
            stem = torch.istft(mask * X, 4096, 1024, window=window, length=mixture.shape[-1])
            soundfile.write(out / f"{name}.wav", stem.T.numpy(), rate, subtype="FLOAT")


if __name__ == "__main__":
    main()
