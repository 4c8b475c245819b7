"""Writes synthetic songs as a data set: a folder for each, with drums.wav, bass.wav, other.wav and vocals.wav."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from mss.data import TrackError
from mss.data.synthetic import SYNTHESIZERS, Synthetic, find_soundfont


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, required=True, help="a new folder")
    p.add_argument("--songs", type=int, default=20)
    p.add_argument("--seconds", type=float, default=30.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--midi", type=Path, help="folder of MIDI files to play; without it, songs are made up")
    p.add_argument("--composed", type=float, default=0.0, help="share of songs that are made up though there is --midi")
    p.add_argument("--singing", type=Path, help="folder of recorded singing; without it, the voice is synthesised")
    p.add_argument("--soundfont", type=Path, action="append", help=".sf2 file; may be given several times")
    p.add_argument("--hits", type=Path, help="folder of recorded drum hits, named after drums: snare_1.wav")
    p.add_argument("--notes", type=Path, help="folder of recorded notes: <family>/<instrument>/<MIDI pitch>_1.flac")
    p.add_argument("--machines", type=float, default=0.0, help="share of drums and of basses that are made of formulae")
    p.add_argument("--distortion", type=float, default=0.0, help="share of electric guitars that are distorted")
    p.add_argument("--bass-corner", type=float, nargs=2, metavar=("LOW", "HIGH"), help="Hz, of a low pass for basses")
    p.add_argument("--synthesizer", default=SYNTHESIZERS[0], choices=SYNTHESIZERS)
    given = p.parse_args()
    begin = time.monotonic()
    try:
        fonts = given.soundfont or [find_soundfont()]
        songs = Synthetic(
            fonts,
            midi=given.midi,
            composed=given.composed,
            singing=given.singing,
            hits=given.hits,
            notes=given.notes,
            machines=given.machines,
            distortion=given.distortion,
            bass_corner=given.bass_corner,
            synthesizer=given.synthesizer,
            seed=given.seed,
        )
        written = songs.write(given.out, songs=given.songs, seconds=given.seconds)
    except (ImportError, OSError, TrackError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.out}: {len(written)} songs in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
