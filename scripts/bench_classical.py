"""Time of kernel models, robust PCA and NMF beside their peers, and memory for a whole song: a Markdown table.

    python scripts/bench_classical.py                                  # beside librosa and scikit-learn
    python scripts/bench_classical.py --nussl-python ENV/bin/python    # and nussl 1.1.9 there
    python scripts/bench_classical.py --song FOLDER                    # stems of a real song, a WAV file each

Every measurement is a process of its own in which the work is done several times; its time is the median of all but the
first, which pays for what is loaded or compiled once. The tools take turns, and a ratio is that of the medians.
"""

import argparse
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
SONG_SECONDS = 300  # for the memory
REPEATS = 4
METHODS = ("repet", "repet_sim", "ft2d", "rpca")
PLANE = (1025, 2584)
KERNEL, COMPONENTS, ITERATIONS = 31, 100, 100
WHOLE = (*METHODS, "hpss", "kam", "source_filter", "nmf", "drum_nmf")  # whose memory is looked at


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--song", type=Path, help="folder of four stems; default: the MUSDB18 excerpt of stempeg, repeated")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--nussl-python", type=Path, help="the Python of an environment in which nussl 1.1.9 imports")
    p.add_argument("--no-memory", action="store_true", help="leave out the five-minute songs")
    p.add_argument("--out", type=Path, default=Path("docs/bench_classical.md"))
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

    stems = read(args.song, SECONDS)
    np.save(folder / "mixture.npy", stems.sum(0))
    np.save(folder / "song.npy", read(args.song, SONG_SECONDS).sum(0))
    spectrum = torch.stft(
        torch.from_numpy(stems.sum((0, 1))), 2048, 512, window=torch.hann_window(2048), return_complex=True
    )
    np.save(folder / "plane.npy", np.ascontiguousarray(spectrum.abs()[: PLANE[0], : PLANE[1]]))
    tools = ["mss-hpss_plane", "librosa-hpss_plane", "mss-nmf_plane", "sklearn-nmf_plane", "products-nmf_plane"]
    tools += [f"mss-{method}" for method in METHODS]
    rounds = {tool: [] for tool in tools}
    if args.nussl_python:
        rounds |= {f"nussl-{method}": [] for method in METHODS}
    for turn in range(args.rounds):
        for tool, done in rounds.items():
            peer = tool.startswith("nussl")
            if not (peer and turn and done[0]["seconds"] > 60):  # minutes: once is enough
                done.append(child(__file__, tool, folder, args.nussl_python if peer else sys.executable))
    seconds = {tool: statistics.median(run["seconds"] for run in done) for tool, done in rounds.items()}

    def row(name: str, ours: str, *peers: str) -> str:
        theirs = "; ".join(
            f"{peer.partition('-')[0]} {seconds[peer]:.2f} s, **{seconds[peer] / seconds[ours]:.1f}**" for peer in peers
        )
        return f"| {name} | {seconds[ours]:.3f} | {theirs} |"

    lines = [
        "# Classical methods beside their peers",
        "",
        f"{SECONDS} s of stereo at 44.1 kHz, {'a real song' if args.song else 'an excerpt, repeated'}; "
        f"{torch.get_num_threads()} CPU threads ({platform.machine()}), torch {torch.__version__}; median of "
        f"{args.rounds} processes, taking turns; in bold how many times as long as ours. Written by "
        "`scripts/bench_classical.py`.",
        "",
        "| | mss s | peer |",
        "|---|---|---|",
        row(f"HPSS of one plane of {PLANE[0]} x {PLANE[1]}, kernel {KERNEL}", "mss-hpss_plane", "librosa-hpss_plane"),
        row(
            f"NMF (KL, {COMPONENTS} components, {ITERATIONS} iterations) of that plane",
            "mss-nmf_plane",
            "sklearn-nmf_plane",
            "products-nmf_plane",
        ),
        *(row(method, f"mss-{method}", f"nussl-{method}") for method in METHODS if args.nussl_python),
        "",
        '"products" are the matrix products of the updates alone.',
        "",
    ]
    if not args.no_memory:
        lines += [
            f"Stereo song of {SONG_SECONDS / 60:g} minutes:",
            "",
            "| | s | peak above the song |",
            "|---|---|---|",
        ]
        for method in WHOLE:
            run = child(__file__, f"song-{method}", folder)
            lines.append(f"| {method} | {run['seconds']:.1f} | {run['memory'] / 1024:.1f} GB |")
        lines.append("")
    if not args.nussl_python:
        print("nussl was not measured: --nussl-python names no environment that has it", file=sys.stderr)
    return "\n".join(lines)


def measure(tool: str, folder: Path) -> dict:
    """Seconds, and megabytes above the input, of one tool in this process."""
    family, _, method = tool.partition("-")
    if family == "song":
        return measure_song(method, folder)
    if method.endswith("_plane"):
        work = PLANES[tool](np.load(folder / "plane.npy"))
    elif family == "mss":
        work = use_mss(method, np.load(folder / "mixture.npy"))
    else:
        work = use_nussl(method, np.load(folder / "mixture.npy"))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        if times[0] > 30:
            break
    return {"seconds": statistics.median(times[1:] or times)}


def measure_song(method: str, folder: Path) -> dict:
    use_mss(method, np.load(folder / "mixture.npy")[:, :RATE])()
    work = use_mss(method, np.load(folder / "song.npy"))
    before = memory("VmRSS")
    reset_peak()
    start = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start, "memory": memory("VmHWM") - before}


def use_mss(method: str, mixture: np.ndarray):
    import torch

    import mss

    separator, x = mss.load(method), torch.from_numpy(mixture)[None]

    def work() -> None:
        with torch.inference_mode():
            separator(x)

    return work


def use_nussl(method: str, mixture: np.ndarray):
    nussl = import_nussl()
    kinds = {
        "repet": nussl.separation.primitive.Repet,
        "repet_sim": nussl.separation.primitive.RepetSim,
        "ft2d": nussl.separation.primitive.FT2D,
        "rpca": nussl.separation.factorization.RPCA,
    }
    signal = nussl.AudioSignal(audio_data_array=mixture.copy(), sample_rate=RATE)
    return lambda: kinds[method](signal)()


def plane_hpss_mss(V: np.ndarray):
    import torch

    from mss.classical import hpss

    X = torch.from_numpy(V)[None, None].to(torch.complex64)
    return lambda: hpss(X, kernel=KERNEL)


def plane_hpss_librosa(V: np.ndarray):
    import librosa

    X = V.astype(np.complex64)
    return lambda: librosa.decompose.hpss(X, kernel_size=KERNEL)


def start(V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((V.shape[0], COMPONENTS), np.float32) + 0.1, rng.random(
        (COMPONENTS, V.shape[1]), np.float32
    ) + 0.1


def plane_nmf_mss(V: np.ndarray):
    import torch

    from mss.classical import factorise

    W, H = (torch.from_numpy(x)[None] for x in start(V))
    V = torch.from_numpy(V)[None] + 1e-6
    return lambda: factorise(V, W, H, beta=1.0, iterations=ITERATIONS)


def plane_nmf_sklearn(V: np.ndarray):
    from sklearn.decomposition import non_negative_factorization

    W, H = start(V)
    options = {"solver": "mu", "beta_loss": "kullback-leibler", "init": "custom", "max_iter": ITERATIONS, "tol": 0}
    return lambda: non_negative_factorization(
        V + np.float32(1e-6), W.copy(), H.copy(), n_components=COMPONENTS, **options
    )


def plane_nmf_products(V: np.ndarray):
    import torch

    W, H = (torch.from_numpy(x) for x in start(V))
    V = torch.from_numpy(V)
    Y, A, B = torch.empty_like(V), torch.empty_like(W), torch.empty_like(H)

    def work() -> None:
        for _ in range(ITERATIONS):
            torch.mm(W, H, out=Y)
            torch.mm(V, H.T, out=A)
            torch.mm(W, H, out=Y)
            torch.mm(W.T, V, out=B)

    return work


PLANES = {
    "mss-hpss_plane": plane_hpss_mss,
    "librosa-hpss_plane": plane_hpss_librosa,
    "mss-nmf_plane": plane_nmf_mss,
    "sklearn-nmf_plane": plane_nmf_sklearn,
    "products-nmf_plane": plane_nmf_products,
}


if __name__ == "__main__":
    main()
