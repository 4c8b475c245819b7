"""What the benchmarks of methods share: real stems, processes of their own, and nussl in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RATE = 44100


def read(song: Path | None, seconds: float) -> np.ndarray:
    """Four stems (4, 2, t) of a folder of WAV files, or of the MUSDB18 excerpt of stempeg, repeated."""
    import soundfile

    from mss.audio import read_stems

    if song is None:
        package = importlib.util.find_spec("stempeg").submodule_search_locations[0]
        stems = read_stems(next((Path(package) / "data").glob("*.mp4")))[0][1:].numpy()
    else:
        files = sorted(path for path in song.iterdir() if path.suffix == ".wav" and path.stem != "mixture")
        if len(files) != 4:
            raise SystemExit(f"{song}: expected four stems as WAV files, found {len(files)}")
        parts = [soundfile.read(path, dtype="float32", always_2d=True)[0].T for path in files]
        shortest = min(s.shape[1] for s in parts)
        stems = np.stack([np.broadcast_to(s, (2, s.shape[1]))[:, :shortest] for s in parts])
    length = round(seconds * RATE)
    return np.tile(stems, -(-length // stems.shape[-1]))[..., :length]


def child(script: str, tool: str, folder: Path, python: Path | str = sys.executable) -> dict:
    """What `script --measure tool folder` prints last, as JSON, in a process of its own."""
    done = subprocess.run(
        [str(python), "-W", "ignore", script, "--measure", tool, str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{tool}: {result['seconds']:.3f} s", file=sys.stderr, flush=True)
    return result


def memory(field: str) -> float:
    """Megabytes that this process has (VmRSS) or had at most (VmHWM); Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 2**10


def reset_peak() -> None:
    """From here on VmHWM counts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def import_nussl():
    """nussl 1.1.9 on libraries that have removed aliases it uses."""
    import scipy.signal

    for name in ("hamming", "hann", "blackman", "triang", "boxcar"):
        setattr(scipy.signal, name, getattr(scipy.signal.windows, name))
    for name, kind in (("float", float), ("int", int), ("bool", bool), ("complex", complex), ("object", object)):
        if name not in np.__dict__:
            setattr(np, name, kind)
    tools = Path(tempfile.mkdtemp())
    for name in ("ffmpeg", "ffprobe"):  # its import looks for them, its arrays need none
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    os.environ["PATH"] += os.pathsep + str(tools)
    import nussl

    return nussl
