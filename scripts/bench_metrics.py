"""Time and memory of `mss.metrics` beside museval's: a Markdown table, and where our time goes.

    python scripts/bench_metrics.py                          # synthetic stems, 30 s and 4 minutes: about 6 minutes
    python scripts/bench_metrics.py --track song.stem.mp4    # a real song, repeated to the wanted length
    python scripts/bench_metrics.py --seconds 30 --rounds 5

Each measurement is a process of its own, so that its peak memory is its own; the two tools take turns, so that a busy
machine disturbs both alike, and the ratio is that of the medians.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

RATE = 44100
CASES = {
    "v4": {"window": RATE, "hop": RATE},
    "v3": {"window": 30 * RATE, "hop": 15 * RATE, "framewise_filters": True},
}
STAGES = {  # module and function below mss.metrics: what it does; seconds are wall time
    "bss_eval._check_signals": "checking the input",
    "_filters._correlations": "correlations: FFTs and products over bins",
    "_filters._gram": "building the Gram matrices",
    "_filters._solve": "Cholesky factors and solves",
    "bss_eval.energies": "energies of all frames: FFTs, filters, sums",
}


def museval_metrics():
    """museval/metrics.py without the package, whose import of stempeg wants an ffmpeg binary."""
    path = Path(importlib.util.find_spec("museval").submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signals(seconds: float, track: Path | None) -> np.ndarray:
    """References and estimates (2, 4, 2, t) float32, at 16-bit resolution."""
    t = int(seconds * RATE)
    rng = np.random.default_rng(0)
    if track is None:  # noise with a sloping spectrum, a different one for each stem
        s = rng.standard_normal((4, 2, t), dtype=np.float32)
        for j in range(4):
            s[j, :, 1:] += (0.5 + 0.1 * j) * s[j, :, :-1]
        s *= 0.05
    else:
        import av

        stems = []
        for j in range(1, 5):
            with av.open(str(track)) as file:
                stems.append(np.concatenate([f.to_ndarray() for f in file.decode(file.streams.audio[j])], 1))
        s = np.stack(stems)
        s = np.tile(s, -(-t // s.shape[-1]))[..., :t]
    s = np.round(s * 32768) / np.float32(32768)
    y = np.float32(0.8) * s + np.float32(0.1) * s.sum(0)
    y += np.float32(0.005) * rng.standard_normal(y.shape, dtype=np.float32)
    return np.stack((s, y))


def measure(tool: str, case: str, path: Path) -> dict:
    """Run one tool on one file in this process: seconds, CPU seconds, peak GB, scores and, for ours, time per stage."""
    stages: dict[str, float] = {}
    options = CASES[case]
    if tool == "museval":
        bss_eval = museval_metrics().bss_eval
        s, y = (x.transpose(0, 2, 1).astype(float) for x in np.load(path))
        bss_eval(s[:, :RATE], y[:, :RATE], window=RATE, hop=RATE, filters_len=16)  # load what is loaded lazily
        start, cpu = time.perf_counter(), time.process_time()
        scores = bss_eval(s, y, **options)[:4]
    else:
        from mss.metrics import bss_eval

        for name in STAGES:
            timed(name, stages)
        s, y = torch.from_numpy(np.load(path))
        bss_eval(s[..., :RATE], y[..., :RATE], filter_length=16)
        stages.clear()
        start, cpu = time.perf_counter(), time.process_time()
        scores = [x.numpy() for x in bss_eval(s, y, **options)[:4]]
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "stages": stages, "scores": np.stack(scores).tolist()}


def timed(path: str, stages: dict[str, float]) -> None:
    """Adds the time that a function of mss.metrics takes to the stages, from now on."""
    module, name = path.split(".")
    module = importlib.import_module(f"mss.metrics.{module}")
    function = getattr(module, name)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            stages[path] = stages.get(path, 0.0) + time.perf_counter() - start

    setattr(module, name, wrapper)


def child(tool: str, case: str, path: Path) -> dict:
    command = [sys.executable, __file__, "--measure", tool, case, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def bench(case: str, seconds: float, rounds: int, track: Path | None) -> tuple[str, dict]:
    """One row of the table, and our last measurement."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signals.npy"
        np.save(path, signals(seconds, track))
        runs = {"museval": [], "mss": []}
        for _ in range(rounds):
            for tool, done in runs.items():
                done.append(child(tool, case, path))
                print(f"{case} {seconds:g} s {tool}: {done[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    times = {tool: statistics.median(run["seconds"] for run in done) for tool, done in runs.items()}
    theirs, ours = runs["museval"][-1], runs["mss"][-1]
    difference = np.nanmax(np.abs(np.array(theirs["scores"]) - np.array(ours["scores"])))
    row = (
        f"| {case} | {seconds:g} s | {times['museval']:.1f} s | {times['mss']:.2f} s "
        f"| {times['museval'] / times['mss']:.0f} | {theirs['cpu']:.0f} s | {ours['cpu']:.1f} s "
        f"| {theirs['peak']:.2f} GB | {ours['peak']:.2f} GB "
        f"| {difference:.0e} dB |"
    )
    return row, ours


def bench_si_sdr() -> str:
    """SI-SDR of a batch beside the time to read and write its signals once."""
    from mss.metrics import si_sdr

    s = torch.randn(8, 4, 2, 5 * RATE)
    y = s + torch.randn_like(s)
    times = {"copy": [], "si_sdr": []}
    for _ in range(7):
        for name, function in (("copy", lambda: (s.clone(), y.clone())), ("si_sdr", lambda: si_sdr(s, y))):
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    copy, ours = (statistics.median(t) for t in times.values())
    return (
        f"SI-SDR of 8 x 4 stereo sources of 5 s, float32: {1e3 * ours:.0f} ms, {ours / copy:.1f} times as long as "
        "copying the signals."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/bench_metrics.md"), help="Markdown file to write")
    parser.add_argument("--track", type=Path, help="stem file (mixture and four stems) instead of synthetic stems")
    parser.add_argument("--seconds", type=float, nargs="*", default=[30, 240], help="lengths for v4")
    parser.add_argument("--v3-seconds", type=float, nargs="*", default=[60], help="lengths for v3")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each tool")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        tool, case, path = options.measure
        print(json.dumps(measure(tool, case, Path(path))))
        return

    cases = [("v4", t) for t in options.seconds] + [("v3", t) for t in options.v3_seconds]
    results = [bench(case, seconds, options.rounds, options.track) for case, seconds in cases]
    lines = [
        "# BSS Eval: `mss.metrics` and museval",
        "",
        f"4 stereo sources at 44.1 kHz, {'a real song' if options.track else 'synthetic stems'} at 16 bits; "
        f"{torch.get_num_threads()} CPU threads ({platform.machine()}), torch {torch.__version__}. "
        f"v4: windows of 1 s; v3: 30 s every 15 s. Median of {options.rounds}, tools taking turns; the peak is that of "
        "the whole process, signals included. Written by `scripts/bench_metrics.py`.",
        "",
        "| mode | track | museval | mss | ratio | CPU museval | CPU mss | peak museval | peak mss | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(row for row, _ in results),
        "",
    ]
    for (case, seconds), (_, ours) in zip(cases, results, strict=True):
        lines += [f"Where our {ours['seconds']:.2f} s go, {case}, {seconds:g} s:", ""]
        lines += [f"- {STAGES[name]}: {spent:.2f} s" for name, spent in ours["stages"].items()]
        lines += [""]
    lines += [bench_si_sdr(), ""]
    text = "\n".join(lines)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
