"""make demo: separates the MUSDB18 excerpt that the package stempeg ships, scores the stems, makes a page to look at."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from mss.apps.page import Song, Sound, write_page
from mss.audio import Encoding, read, read_stems, write
from mss.metrics import usdr
from mss.separate import DEFAULT_MODEL
from mss.separate import main as separate


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("-o", "--out", type=Path, default=Path("demo"))
    out = p.parse_args().out
    found = importlib.util.find_spec("stempeg")  # not imported: it wants an ffmpeg binary
    song = next((Path(found.submodule_search_locations[0]) / "data").glob("*.mp4"))
    track = song.name.removesuffix(".stem.mp4")

    code = separate([str(song), "-o", str(out), "--filename", "{stem}.{ext}"])
    if code:
        return code
    mixture, drums, bass, other, vocals = read_stems(song)[0]
    truth = {"vocals": vocals, "drums": drums, "bass": bass, "other": other}
    estimates = {name: read(out / f"{name}.wav")[0] for name in truth}
    rate = read(out / "vocals.wav")[1]
    write(out / "mixture.wav", mixture, rate, encoding=Encoding("wav", "float32"))

    print(f"\n{'SDR, dB':15} {'mixture':>8} {DEFAULT_MODEL:>16}")
    before, after = {}, {}
    for name, reference in truth.items():
        before[name], after[name] = (float(usdr(reference[None], x[None])) for x in (mixture, estimates[name]))
        print(f"{name:15} {before[name]:8.2f} {after[name]:16.2f}")
    unprocessed = ", ".join(f"{value:.2f} dB for {name}" for name, value in before.items())
    about = (
        f"Separated by python -m mss.separate with {DEFAULT_MODEL}. SDR: energy of the true stem over energy of the error, "
        f"whole excerpt, against the stems that the excerpt comes with. Unprocessed, the mixture has {unprocessed}."
    )
    sounds = [Sound("mixture", out / "mixture.wav", part=False, muted=True)]
    sounds += [Sound(name, out / f"{name}.wav", note=f"{after[name]:.2f} dB SDR") for name in estimates]
    page = write_page(out / "index.html", [Song(track, sounds, about)], title=track)
    print(f"\nstems: {os.path.abspath(out)}\npage:  {page.path.resolve().as_uri()} ({page.size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
