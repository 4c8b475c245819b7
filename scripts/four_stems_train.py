"""Makes the weights of the model four-stems: trains its two networks and joins them.

    python scripts/four_stems_material.py --out material ...
    python scripts/four_stems_train.py material --out trained          # two and a half hours of two cores
    cp trained/four-stems.safetensors mss/weights/

Stopped and called again, it goes on where it was. The same files give the same weights on one kind of CPU. `--join` alone joins
two trained networks; docs/four_stems.md says how the weights in the package were made.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from mss import EachChannel, MidSide, SpectralSeparator, checkpoint
from mss.nets import Blend

EXPERIMENTS = ("four_stems", "four_stems_2")
FACTS = ("licence", "training_data", "config", "augmentation", "data_digest", "commit", "environment", "metrics")
# Tensors of a step are tens of megabytes: kept by the process instead of given back, they cost a quarter less time.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("material", type=Path, nargs="?", help="what scripts/four_stems_material.py has made")
    p.add_argument("--out", type=Path, required=True, help="folder of the runs and of four-stems.safetensors")
    p.add_argument(
        "--join", type=Path, nargs="+", metavar="FILE", help="checkpoints that are there already, in their order"
    )
    given = p.parse_args()
    if (given.material is None) == (given.join is None):
        p.error("give the folder of the material, or --join and the checkpoints")
    files = given.join
    if files is None:
        if not (songs := given.material / "songs").is_dir():
            p.error(f"{songs}: there is no such folder; scripts/four_stems_material.py makes it")
        for name in EXPERIMENTS:
            if code := trained(name, songs, given.out / name):
                return code
        files = [given.out / name / "best.safetensors" for name in EXPERIMENTS]
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "four-stems.safetensors"
    try:
        join(files, path)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


def trained(name: str, songs: Path, out: Path) -> int:
    """Runs an experiment, or the rest of it; the exit code."""
    command = [sys.executable, "-m", "mss.train", f"experiment={name}", f"data.root={songs}", f"out={out}"]
    if (out / "last.ckpt").exists():
        command.append("resume=true")
    return subprocess.run(command, env=os.environ | MEMORY, check=False).returncode


def join(files: list[Path], path: Path) -> None:
    """The mean of the masks of networks that were trained apart, in a file of 16 bits a weight.

    Raises:
        mss.checkpoint.CheckpointError: not a checkpoint.
        ValueError: not networks for one transform and the same targets.
    """
    inner = [checkpoint.load(file) for file in files]
    for wrapper in (MidSide, EachChannel):
        if not all(isinstance(separator, wrapper) for separator in inner):
            raise ValueError(f"{', '.join(map(str, files))}: not all are trained by the recipe four_stems")
        inner = [separator.separator for separator in inner]
    first = inner[0]
    if any(
        (other.targets, other.sample_rate, other.transform) != (first.targets, first.sample_rate, first.transform)
        for other in inner
    ):
        raise ValueError(f"{', '.join(map(str, files))}: of different targets, rates or transforms")
    joined = SpectralSeparator(
        Blend([separator.estimator for separator in inner]),
        first.targets,
        sample_rate=first.sample_rate,
        transform=first.transform,
        filter=first.filter,
    )
    headers = [checkpoint.read_header(file) for file in files]
    said = [{name: header[name] for name in FACTS if name in header} for header in headers]
    licences = {header.get("licence") for header in headers}
    if len(licences) > 1:
        raise ValueError(f"{', '.join(map(str, files))}: under different licences")
    material = "; ".join(dict.fromkeys(header["training_data"] for header in headers))
    checkpoint.save(
        MidSide(EachChannel(joined)), path, half=True, licence=licences.pop(), training_data=material, networks=said
    )


if __name__ == "__main__":
    sys.exit(main())
