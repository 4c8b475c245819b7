"""A listening test on separated stems, as one page that needs nothing but itself, and the key that tells its signals.

MUSHRA is ITU-R BS.1534-3 (10/2015), "Method for the subjective assessment of intermediate quality level of audio systems".
The mixture as an anchor for interference is that of V. Emiya, E. Vincent, N. Harlander, V. Hohmann, "Subjective and
objective quality assessment of audio source separation", IEEE TASLP 19(7), 2011.

The page knows its signals by codes only, so that neither a participant nor who stands beside is told by it what is heard.

<out>/index.html    the test
<out>/test.json     what the codes stand for: not for the participants
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import itertools
import json
import logging
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mss.apps.listening.signals import ANCHORS, LOWEST_RATE, aligned, faded, loudest, low_pass, safe_gain
from mss.apps.pages import document, fill
from mss.audio import Encoding, resample, write
from mss.cli import UsageError
from mss.data import Track, TrackError, common_stems, find_tracks, reference
from mss.files import write_whole

__all__ = ["MODES", "MOST_SIGNALS", "QUESTIONS", "REFERENCE", "Plan", "build", "find_systems"]

log = logging.getLogger(__name__)
MODES = ("mushra", "ab", "abx")
MOST_SIGNALS = 12  # in one trial, the hidden reference and the anchors included (BS.1534-3)
LONGEST = 12.0  # seconds
REFERENCE, MIXTURE = "reference", "mixture"
FORMAT = "mss-listening-test"
QUESTIONS = {  # the four of Emiya et al., in our words, and one for each of the other modes
    "overall": "How good is each signal, compared with the reference?",
    "target": "How well is the sound of the target kept, compared with the reference?",
    "interference": "How well are the other sources removed, compared with the reference?",
    "artefacts": "How free is each signal of noises that are in none of the sources, compared with the reference?",
    "ab": "Which one do you prefer?",
    "abx": "Which one is X?",
}


@dataclass(frozen=True)
class Plan:
    """What a test is to be.

    Args:
        systems: name -> its tracks.
        tracks: the true stems.
        mode: one of `MODES`.
        stems: to be judged. Empty: those that all systems have and that there are references for.
        pattern: of the names of the tracks.
        trials: the most excerpts; where there are more, so many are drawn, evenly from the tracks.
        anchors: of `ANCHORS`, and "mixture"; for MUSHRA.
        duration: seconds of an excerpt.
        start: where all excerpts begin, seconds. None: each where its reference has the most energy.
        lufs: loudness of all signals.
        repeats: how often each pair comes, for AB and ABX.
        question: a name in `QUESTIONS`, or the text. Empty: the mode's.
        title: of the page.
        subtype: of the FLAC in the page, int16 or int24.
        seed: of the draw, and of the codes.
    """

    systems: Mapping[str, Sequence[Track]]
    tracks: Sequence[Track]
    mode: str = "mushra"
    stems: Sequence[str] = ()
    pattern: str = "*"
    trials: int = 10
    anchors: Sequence[str] = ("low", "mid")
    duration: float = 10.0
    start: float | None = None
    lufs: float = -23.0
    repeats: int = 1
    question: str = ""
    title: str = "Listening test"
    subtype: str = "int16"
    seed: int = 0


def find_systems(root: Path, names: Sequence[str] = ()) -> dict[str, list[Track]]:
    """The systems in a folder, each a folder of tracks with their stems, perhaps one folder further down.

    Raises:
        UsageError: there are none, or not all of those named.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: give one with a folder for each system")
    systems = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if names and folder.name not in names:
            continue
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        for place in [folder, *inside[:1]] if len(inside) == 1 else [folder]:  # out/<system>/<model>/<track>
            try:
                systems[folder.name] = find_tracks(place)
            except TrackError:
                continue
            break
    missing = [name for name in names if name not in systems]
    if missing or not systems:
        raise UsageError(
            f"{root} has no {'system ' + missing[0] if missing else 'systems'}: expected <system>/<track>/<stem>.wav, as "
            "python -m mss.separate -o FOLDER writes them"
        )
    if REFERENCE in systems or systems.keys() & {*ANCHORS, MIXTURE}:
        raise UsageError(f"{root}: a system must not be called {', '.join((REFERENCE, *ANCHORS, MIXTURE))}: rename it")
    return systems


def build(plan: Plan, out: Path) -> dict:
    """Writes the page and the key; returns the key.

    Raises:
        UsageError: what was asked for cannot be made of these files.
        mss.audio.AudioError: a file that cannot be read.
    """
    _check(plan)
    rng = random.Random(plan.seed)
    items = _chosen(plan, rng)
    rendered, rate, gain = [], 0, 1.0
    for track, stem in items:
        start, signals, own = _signals(plan, track, stem)
        if rate not in (0, own):
            raise UsageError(f"{track.where} is at {own} Hz, others at {rate} Hz: a page has one rate, resample it")
        rate, gain = own, min(gain, safe_gain(signals))
        rendered.append((track, stem, start, signals))
    sounds: dict[str, str] = {}
    key: dict = {"format": FORMAT, "version": 1, "id": "", "mode": plan.mode, "title": plan.title}
    key |= {"question": QUESTIONS.get(plan.question or _default(plan.mode), plan.question), "sample_rate": rate}
    key |= {"lufs": plan.lufs, "common_gain": gain, "seed": plan.seed, "trials": []}
    numbers = list(range(1, sum(len(signals) for *_, signals in rendered) + 1))
    rng.shuffle(numbers)
    for track, stem, start, signals in rendered:
        codes = {name: f"s{numbers.pop()}" for name in signals}
        for name, x in signals.items():
            sounds[codes[name]] = _flac(x * gain, rate, plan.subtype)
        length = next(iter(signals.values())).shape[-1] / rate
        for shown in _shown(plan, list(signals)):
            trial = {"id": f"t{len(key['trials']) + 1}", "track": track.name, "stem": stem, "start": start}
            trial |= {"duration": length, "signals": {codes[name]: name for name in shown}}
            if plan.mode != "abx" and REFERENCE in codes:
                trial["reference"] = codes[REFERENCE]
            key["trials"].append(trial)
    sounds = {code: sounds[code] for code in sorted(sounds, key=lambda code: int(code[1:]))}
    about = json.dumps([key, list(sounds.values())], sort_keys=True)
    key["id"] = hashlib.sha256(about.encode()).hexdigest()[:16]
    _check_free(out, key["id"])
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "test.json", json.dumps(key, indent=2, ensure_ascii=False).encode())
    write_whole(out / "index.html", _page(key, sounds).encode())
    return key


def _check_free(out: Path, own: str) -> None:
    """Refuses to write over the key of another test that has answers: without it nobody could tell what they are of."""
    results = out / "results"
    try:
        other = json.loads((out / "test.json").read_bytes())["id"]
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or none that could be told
        return
    if other != own and any(results.glob("*.json")):
        raise UsageError(f"{out} is another test, with answers in {results}: choose another --out, or move them away")


def _page(key: Mapping, sounds: Mapping[str, str]) -> str:
    """The page: codes in the place of names."""
    import html

    trials = [
        {"id": t["id"], "stem": t["stem"], "reference": t.get("reference"), "signals": sorted(t["signals"])}
        for t in key["trials"]
    ]
    shared = {name: key[name] for name in ("id", "mode", "title", "question")}
    return document(
        key["title"],
        fill("listening.html", title=html.escape(key["title"])),
        styles=("base.css", "listening.css"),
        scripts=("player.js", "listening_session.js", "listening.js"),
        data={"test": {**shared, "rate": key["sample_rate"], "training": 0, "trials": trials}, **sounds},
        connect="'self'",
    )


def _check(plan: Plan) -> None:
    if plan.mode not in MODES:
        raise UsageError(f"there is no mode {plan.mode!r}: choose {', '.join(MODES)}")
    if not 1 <= plan.duration <= LONGEST:
        raise UsageError(
            f"an excerpt has 1 to {LONGEST:g} seconds, not {plan.duration:g}: nobody remembers longer ones"
        )
    if unknown := [name for name in plan.anchors if name not in (*ANCHORS, MIXTURE)]:
        raise UsageError(f"there is no anchor {unknown[0]!r}: choose among {', '.join((*ANCHORS, MIXTURE))}")
    if plan.mode == "ab" and len(plan.systems) < 2:
        raise UsageError("a preference needs two systems or more: there is only one")
    most = len(plan.systems) + 1 + len(plan.anchors)
    if plan.mode == "mushra" and most > MOST_SIGNALS:
        raise UsageError(
            f"{most} signals in a trial, the hidden reference and the anchors included: at most {MOST_SIGNALS} can be compared "
            "at once; name fewer with --systems"
        )


def _default(mode: str) -> str:
    return "overall" if mode == "mushra" else mode


def _shown(plan: Plan, names: Sequence[str]) -> list[list[str]]:
    """Which signals of an excerpt the trials on it compare."""
    if plan.mode == "mushra":
        return [list(names)]
    pairs = list(itertools.combinations(plan.systems, 2)) or [(REFERENCE, *plan.systems)]
    return [list(pair) for pair in pairs for _ in range(plan.repeats)]


def _chosen(plan: Plan, rng: random.Random) -> list[tuple[Track, str]]:
    """Tracks and stems that all systems have, as many as asked for, each track as often as any other."""
    found = {name: {track.name: track for track in tracks} for name, tracks in plan.systems.items()}
    tracks = [t for t in plan.tracks if fnmatch.fnmatchcase(t.name, plan.pattern)]
    common = [track for track in tracks if all(track.name in mine for mine in found.values())]
    if not common:
        strange = [name for name, mine in found.items() if not any(t.name in mine for t in tracks)]
        hint = f"; {strange[0]} has {next(iter(found[strange[0]]))!r}" if strange else ""
        hint += f", there are references of {tracks[0].name!r}" if tracks else ""
        raise UsageError(f"no track of the references fits {plan.pattern!r} and is in all systems{hint}")
    by_track: list[list[tuple[Track, str]]] = []
    for track in common:
        ready = [mine[track.name] for mine in found.values()]
        stems = plan.stems or [name for name in common_stems(ready[:1]) if all(name in one.stems for one in ready)]
        for name in plan.stems:
            if lacking := [s for s, one in zip(found, ready, strict=True) if name not in one.stems]:
                raise UsageError(f"{lacking[0]} has no stem {name!r} of {track.name!r}: see --stems")
        stems = [name for name in stems if plan.stems or _has(track, name)]
        by_track.append([(track, name) for name in stems])
        rng.shuffle(by_track[-1])
    rng.shuffle(by_track)
    rounds = itertools.zip_longest(*by_track)
    items = [item for one in rounds for item in one if item is not None]
    if not items:
        raise UsageError("the systems have no stem in common that there is a reference for: name one with --stems")
    if len(items) > plan.trials:
        log.warning("%d excerpts could be tested; %d of them are drawn (--trials)", len(items), plan.trials)
    return items[: plan.trials]


def _has(track: Track, name: str) -> bool:
    try:
        reference(dict.fromkeys(track.stems, 0), name)
    except TrackError:
        return False
    return True


def _signals(plan: Plan, track: Track, stem: str) -> tuple[float, dict[str, Tensor], int]:
    """Start of the excerpt, seconds; its signals (c, t), faded and of one loudness; their rate."""
    try:
        whole = track.load()
        truth, rate = reference(whole.stems, stem), whole.sample_rate
        if rate < LOWEST_RATE or truth.shape[0] > 2:
            raise TrackError(f"{track.where}: a page plays mono or stereo, from {LOWEST_RATE} Hz on, not this")
        start = loudest(truth, rate, plan.duration) if plan.start is None else plan.start
        first, count = round(start * rate), round(plan.duration * rate)
        signals = {REFERENCE: truth[:, first : first + count]}
        if signals[REFERENCE].shape[-1] < rate:
            raise TrackError(f"{track.where} has less than a second from {start:g} s on: choose another --start")
        if plan.mode == "mushra":
            for name in plan.anchors:
                x = whole.mixture[:, first : first + count] if name == MIXTURE else signals[REFERENCE]
                signals[name] = x if name == MIXTURE else low_pass(x, rate, ANCHORS[name])
        for system, tracks in plan.systems.items():
            ready = next(one for one in tracks if one.name == track.name)
            signals[system] = _excerpt(ready, stem, rate, first, signals[REFERENCE])
        faded_ = {name: faded(x, rate) for name, x in signals.items()}
        loud, quiet = aligned(faded_, rate, plan.lufs, reference=REFERENCE)
    except (TrackError, ValueError) as error:
        raise UsageError(f"{track.name}, {stem}: {error}") from error
    if quiet:
        log.warning(
            "%s, %s: too quiet to be brought to the loudness of the rest: %s", track.name, stem, ", ".join(quiet)
        )
    return start, loud, rate


def _excerpt(ready: Track, stem: str, rate: int, first: int, like: Tensor) -> Tensor:
    """The same excerpt of a system's estimate."""
    audio = ready.load(start=first / rate, duration=like.shape[-1] / rate)
    x = audio.stems[stem]
    if audio.sample_rate != rate:
        x = resample(ready.load().stems[stem], audio.sample_rate, rate)[:, first : first + like.shape[-1]]
    if x.shape != like.shape:
        raise TrackError(f"{ready.where} has an excerpt of {tuple(x.shape)}, the reference one of {tuple(like.shape)}")
    return x


def _flac(x: Tensor, rate: int, subtype: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signal.flac"
        write(path, x, rate, encoding=Encoding("flac", subtype))
        return base64.b64encode(path.read_bytes()).decode("ascii")
