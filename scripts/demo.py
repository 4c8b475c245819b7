"""make demo: separates the MUSDB18 excerpt that the package stempeg ships, scores the stems, makes a page to look at."""

from __future__ import annotations

import argparse
import html
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import torch

from mss.audio import Encoding, read, read_stems, write
from mss.metrics import usdr
from mss.separate import DEFAULT_MODEL
from mss.separate import main as separate

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>mss: {track}</title>
<style>
:root {{ color-scheme: light dark; --wave: #2f6fde; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
figure {{ margin: 1.5rem 0; }}
figcaption {{ display: flex; justify-content: space-between; gap: 1rem; }}
svg {{ width: 100%; height: 4.5rem; fill: var(--wave); display: block; }}
audio {{ width: 100%; }}
</style>
<h1>{track}</h1>
<p>Separated by <code>python -m mss.separate</code> with {model}. SDR: energy of the true stem over energy of the error,
whole excerpt, against the stems that the excerpt comes with. Unprocessed, the mixture has {mixture}.</p>
{figures}
</html>
"""
FIGURE = """<figure><figcaption><strong>{name}</strong><span>{score}</span></figcaption>
<svg viewBox="0 -1 {columns} 2" preserveAspectRatio="none" role="img" aria-label="waveform of {name}"><path d="{path}"/></svg>
<audio controls preload="metadata" src="{source}"></audio></figure>"""


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
    truth = {"vocals": vocals, "accompaniment": drums + bass + other}
    estimates = {name: read(out / f"{name}.wav")[0] for name in truth}
    rate = read(out / "vocals.wav")[1]
    write(out / "mixture.wav", mixture, rate, encoding=Encoding("wav", "float32"))

    print(f"\n{'SDR, dB':15} {'mixture':>8} {DEFAULT_MODEL:>16}")
    before, after = {}, {}
    for name, reference in truth.items():
        before[name], after[name] = (float(usdr(reference[None], x[None])) for x in (mixture, estimates[name]))
        print(f"{name:15} {before[name]:8.2f} {after[name]:16.2f}")
    figures = [figure("mixture", mixture, "", out)]
    figures += [figure(name, x, f"{after[name]:.2f} dB SDR", out) for name, x in estimates.items()]
    unprocessed = ", ".join(f"{value:.2f} dB for {name}" for name, value in before.items())
    page = out / "index.html"
    filled = PAGE.format(track=html.escape(track), model=DEFAULT_MODEL, mixture=unprocessed, figures="\n".join(figures))
    page.write_text(filled, encoding="utf-8")
    print(f"\nstems: {os.path.abspath(out)}\npage:  {page.resolve().as_uri()}")
    return 0


def figure(name: str, x: torch.Tensor, score: str, out: Path, columns: int = 600) -> str:
    """A waveform as one path, its extremes per column, and a player."""
    parts = np.array_split(x.mean(0).numpy(), columns)
    top = [f"{i},{-part.max():.3f}" for i, part in enumerate(parts)]
    bottom = [f"{i},{-part.min():.3f}" for i, part in enumerate(parts)]
    path = "M" + " L".join([*top, *reversed(bottom)]) + "Z"
    return FIGURE.format(name=html.escape(name), score=score, columns=columns, path=path, source=f"{name}.wav")


if __name__ == "__main__":
    sys.exit(main())
