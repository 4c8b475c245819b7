"""Makes the weights of the model four-stems: trains its two networks, one after the other, the second in two runs.

The second network in the file has the mean of the weights that it has after each of its runs (Wortsman et al. 2022).

    python scripts/four_stems_material.py --out material ...
    python scripts/four_stems_train.py material --out trained          # four hours of two cores
    cp trained/four-stems.safetensors mss/weights/

Stopped and called again, it goes on where it was. The same files give the same weights on one kind of CPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mss import checkpoint

FIRST, SECOND, THIRD = "four_stems", "four_stems_low", "four_stems_low_on"
NAME = "four-stems.safetensors"
# Facts of a run that the file keeps of all; the rest the file says of itself.
FACTS = ("config", "augmentation", "data_digest", "command", "commit", "environment", "metrics")
# Tensors of a step are tens of megabytes: kept by the process instead of given back, they cost a quarter less time.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("material", type=Path, help="what scripts/four_stems_material.py has made")
    p.add_argument("--out", type=Path, required=True, help=f"folder of the runs and of {NAME}")
    given = p.parse_args()
    if not (songs := given.material / "songs").is_dir():
        p.error(f"{songs}: there is no such folder; scripts/four_stems_material.py makes it")
    first, second, third = (given.out / name / "best.safetensors" for name in (FIRST, SECOND, THIRD))
    begun = given.out / f"{SECOND}.safetensors"
    if code := train(FIRST, songs, first.parent):
        return code
    if code := train(SECOND, songs, second.parent, f"parts.first={first}"):
        return code
    pack([first, second], begun)
    if code := train(THIRD, songs, third.parent, f"parts.first={first}", f"start={begun}"):
        return code
    pack([first, second, third], given.out / NAME, mean_with=begun)
    print(given.out / NAME)
    return 0


def train(name: str, songs: Path, out: Path, *more: str) -> int:
    """Runs an experiment, or the rest of it; the exit code."""
    command = [sys.executable, "-m", "mss.train", f"experiment={name}", f"data.root={songs}", f"out={out}", *more]
    if (out / "last.ckpt").exists():
        command.append("resume=true")
    return subprocess.run(command, env=os.environ | MEMORY, check=False).returncode


def pack(made: Sequence[Path], path: Path, *, mean_with: Path | None = None) -> None:
    """What the last of some runs has made, with the facts of all, in a file of 16 bits a weight.

    Args:
        made: the checkpoint of each run.
        path: of the file.
        mean_with: a checkpoint of the same separator; the weights are the mean of both.

    Raises:
        mss.checkpoint.CheckpointError: not a checkpoint.
    """
    headers = [checkpoint.read_header(file) for file in made]
    runs = [{name: header[name] for name in FACTS if name in header} for header in headers]
    said = {name: headers[-1][name] for name in ("licence", "training_data")}
    separator = checkpoint.load(made[-1])
    if mean_with is not None:
        other = checkpoint.load(mean_with).state_dict()
        for name, weights in separator.state_dict().items():
            if weights.is_floating_point():
                weights.lerp_(other[name], 0.5)
    checkpoint.save(separator, path, half=True, **said, runs=runs)


if __name__ == "__main__":
    sys.exit(main())
