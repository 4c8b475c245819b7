"""Time and memory of the EM Wiener filter, DUET and PROJET beside their peers: a Markdown table.

    python scripts/bench_filters.py                                    # the filter beside norbert and Open-Unmix
    python scripts/bench_filters.py --nussl-python ENV/bin/python      # and DUET and PROJET beside nussl 1.1.9 there
    python scripts/bench_filters.py --song FOLDER                      # stems of a real song, a WAV file each

Every measurement is a process of its own in which the work is done several times; its time is the median of all but the
first, which pays for what is loaded or compiled once. The tools take turns, and a ratio is that of the medians.
"""

import argparse
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _bench import RATE, child, import_nussl, memory, read, reset_peak

SECONDS = 30
N_FFT, HOP = 4096, 1024
WINDOW = 300  # frames that Open-Unmix filters at a time
ANGLES = (15.0, 35.0, 55.0, 75.0)  # where the four stems of the mixture for DUET and PROJET sit, in degrees
REPEATS = 4
POSITION_SECONDS = {"duet": SECONDS, "projet": 6}  # nussl's PROJET takes minutes, and at 30 s over 12 GB
FILTERS = ("mss", "norbert", "openunmix")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--song", type=Path, help="folder of four stems; default: the MUSDB18 excerpt of stempeg, repeated")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--nussl-python", type=Path, help="the Python of an environment in which nussl 1.1.9 imports")
    p.add_argument("--out", type=Path, default=Path("docs/bench_filters.md"))
    p.add_argument("--measure", nargs=2, metavar=("TOOL", "FOLDER"), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        report = bench(args, Path(folder))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report, encoding="utf-8")
    print(report)


def bench(args: argparse.Namespace, folder: Path) -> str:
    import torch

    prepare(args.song, folder)
    rounds = {tool: [] for tool in (*FILTERS, "mss-duet", "mss-projet")}
    if args.nussl_python:
        rounds |= {"nussl-duet": [], "nussl-projet": []}
    for turn in range(args.rounds):
        for tool, done in rounds.items():
            if turn and tool.startswith("nussl"):
                continue  # minutes of it: once is enough
            done.append(
                child(__file__, tool, folder, args.nussl_python if tool.startswith("nussl") else sys.executable)
            )
    seconds = {tool: statistics.median(run["seconds"] for run in done) for tool, done in rounds.items()}
    memory = {tool: max(run["memory"] for run in done) for tool, done in rounds.items()}
    difference = {tool: spectra_difference(folder, tool) for tool in ("norbert", "openunmix")}
    lines = [
        "# Filters and position models beside their peers",
        "",
        f"{SECONDS} s of stereo at 44.1 kHz, four targets, {'a real song' if args.song else 'an excerpt, repeated'}; "
        f"{torch.get_num_threads()} CPU threads ({platform.machine()}), torch {torch.__version__}; median of "
        f"{args.rounds} processes, taking turns. Written by `scripts/bench_filters.py`.",
        "",
        f"EM Wiener filter, 1 iteration, n_fft {N_FFT}, hop {HOP} (Open-Unmix in windows of {WINDOW} frames); memory is "
        "above inputs and output:",
        "",
        "| | s | ratio | memory | difference from ours |",
        "|---|---|---|---|---|",
        f"| mss | {seconds['mss']:.3f} | 1 | {memory['mss']:.0f} MB | |",
        *(
            f"| {tool} | {seconds[tool]:.2f} | **{seconds[tool] / seconds['mss']:.1f}** | {memory[tool]:.0f} MB "
            f"| {difference[tool]:.0e} |"
            for tool in ("norbert", "openunmix")
        ),
        "",
        "Differences are the largest of all bins, over the largest of all magnitudes; Open-Unmix has the statistics of "
        "300 frames, the others those of the song.",
        "",
    ]
    if args.nussl_python:
        lines += [
            "Position models, four stems at known angles (SI-SDR of the stems, mean):",
            "",
            "| | seconds of music | mss s | nussl s | ratio | mss dB | nussl dB |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {method} | {POSITION_SECONDS[method]} | {seconds[f'mss-{method}']:.2f} | {seconds[f'nussl-{method}']:.1f} "
                f"| **{seconds[f'nussl-{method}'] / seconds[f'mss-{method}']:.1f}** "
                f"| {rounds[f'mss-{method}'][0]['score']:.1f} | {rounds[f'nussl-{method}'][0]['score']:.1f} |"
                for method in ("duet", "projet")
            ),
            "",
        ]
    else:
        print("nussl was not measured: --nussl-python names no environment that has it", file=sys.stderr)
    return "\n".join(lines)


def prepare(song: Path | None, folder: Path) -> None:
    """Writes what every tool reads: stems and spectra, and a mixture of the stems at known angles."""
    import torch

    from mss.transforms import STFT

    stems = read(song, SECONDS)
    transform = STFT(N_FFT, HOP)
    Y = transform(torch.from_numpy(stems))  # (n, c, f, k)
    torch.manual_seed(0)
    V = Y.abs() * torch.empty_like(Y.real).uniform_(0.5, 1.5)  # as inexact as a model's
    np.save(folder / "X.npy", Y.sum(0).numpy())
    np.save(folder / "V.npy", V.numpy())
    angles = np.radians(ANGLES)
    mono = stems.mean(1)
    images = np.stack([np.cos(angles)[:, None] * mono, np.sin(angles)[:, None] * mono], 1)
    images += 1e-5 * np.random.default_rng(0).standard_normal(
        images.shape
    )  # nussl's PROJET gives NaN where all is zero
    np.save(folder / "images.npy", images.astype(np.float32))


def measure(tool: str, folder: Path) -> dict:
    """Seconds, and megabytes above inputs and output, or the score, of one tool in this process."""
    family, _, method = tool.partition("-")
    if method:
        return measure_positions(family, method, np.load(folder / "images.npy")[..., : POSITION_SECONDS[method] * RATE])
    X, V = np.load(folder / "X.npy"), np.load(folder / "V.npy")
    work = FILTER_TOOLS[tool](V, X)
    output = V.nbytes * X.itemsize // V.itemsize
    del X, V
    before, times = memory("VmRSS"), []
    reset_peak()
    for _ in range(REPEATS):
        Y = None  # so that two outputs are never there at once
        start = time.perf_counter()
        Y = work()
        times.append(time.perf_counter() - start)
    above = memory("VmHWM") - before - output / 2**20
    if tool in FILTERS:
        np.save(folder / f"{tool}.npy", Y[..., ::16])
    return {"seconds": statistics.median(times[1:]), "memory": max(0.0, above)}


def use_mss(V: np.ndarray, X: np.ndarray):
    import torch

    from mss.filters import wiener

    v, x = torch.from_numpy(V)[None], torch.from_numpy(X)[None]
    wiener(v[..., :40], x[..., :40])
    return lambda: wiener(v, x)[0].numpy()


def use_norbert(V: np.ndarray, X: np.ndarray):
    import norbert

    v, x = V.transpose(3, 2, 1, 0).copy(), X.transpose(2, 1, 0).copy()
    return lambda: norbert.wiener(v, x.copy(), 1, use_softmask=True).transpose(3, 2, 1, 0)  # it writes into x


def use_openunmix(V: np.ndarray, X: np.ndarray):
    import torch
    from openunmix.filtering import wiener

    v = torch.from_numpy(V.transpose(3, 2, 1, 0).copy())
    x = torch.view_as_real(torch.from_numpy(X.transpose(2, 1, 0).copy()))

    def work() -> np.ndarray:
        Y = torch.zeros(*x.shape, v.shape[-1])
        for k in range(0, len(x), WINDOW):
            Y[k : k + WINDOW] = wiener(v[k : k + WINDOW], x[k : k + WINDOW], 1, softmask=True)
        return torch.view_as_complex(Y.movedim(-1, 3).contiguous()).permute(3, 2, 1, 0).numpy()

    return work


FILTER_TOOLS = {"mss": use_mss, "norbert": use_norbert, "openunmix": use_openunmix}


def spectra_difference(folder: Path, tool: str) -> float:
    ours, theirs = np.load(folder / "mss.npy"), np.load(folder / f"{tool}.npy")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def measure_positions(family: str, method: str, images: np.ndarray) -> dict:
    """Seconds and mean SI-SDR of a position model on the mixture of images (n, 2, t)."""
    mixture, times = images.sum(0), []
    work = (use_mss_method if family == "mss" else use_nussl)(method, mixture, len(images))
    for _ in range(REPEATS if family == "mss" else 1):
        start = time.perf_counter()
        estimates = work()
        times.append(time.perf_counter() - start)
    score = np.mean([max(si_sdr(image, y) for y in estimates) for image in images])
    return {"seconds": statistics.median(times[1:] or times), "memory": 0.0, "score": float(score)}


def use_mss_method(method: str, mixture: np.ndarray, n: int):
    import torch

    import mss

    separator, x = mss.load(method), torch.from_numpy(mixture)[None]
    separator = mss.SpectralSeparator(
        functools.partial(getattr(mss.classical, method), sources=n),
        [f"source {j}" for j in range(n)],
        transform=separator.transform,
        filter=separator.filter,
    )

    def work() -> np.ndarray:
        with torch.inference_mode():
            return separator(x)[0].numpy()

    return work


def use_nussl(method: str, mixture: np.ndarray, n: int):
    nussl = import_nussl()
    signal = nussl.AudioSignal(audio_data_array=mixture.copy(), sample_rate=RATE)
    kind = {"duet": nussl.separation.spatial.Duet, "projet": nussl.separation.spatial.Projet}[method]
    return lambda: [estimate.audio_data for estimate in kind(signal, num_sources=n)()]


def si_sdr(s: np.ndarray, y: np.ndarray) -> float:
    """Of both channels at once."""
    s, y = s.astype(float).ravel(), y[:, : s.shape[-1]].astype(float).ravel()
    target = s * (s @ y / (s @ s))
    return float(10 * np.log10(np.sum(target**2) / np.sum((y - target) ** 2)))


if __name__ == "__main__":
    main()
