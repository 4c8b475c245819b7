"""A score that is played at another tempo: found again in the recording, and separated from the command line."""

import math

import pretty_midi
import pytest
import torch

from mss.apps.separation import by_score
from mss.audio import read, write
from mss.classical import Note, instruments, read_score, score_informed
from mss.classical._alignment import align
from mss.filters import softmask
from mss.separate import main
from mss.transforms import STFT
from tests.conftest import sdr

RATE = 44100


def played(onset: torch.Tensor) -> torch.Tensor:
    """When a player with a rubato of their own plays what the score has at `onset`."""
    return 0.6 + 1.1 * onset + 0.1 * torch.sin(0.7 * onset)


def part(seed: int, low: int, count: int = 24) -> list[tuple[int, float, float]]:
    """Notes (pitch, onset, offset)."""
    generator = torch.Generator().manual_seed(seed)
    pitches = torch.randint(low, low + 12, (count,), generator=generator).tolist()
    return [(pitch, 0.3 * i, 0.3 * i + 0.28) for i, pitch in enumerate(pitches)]


def sound(notes: list[tuple[int, float, float]], seconds: float = 9.5) -> torch.Tensor:
    t = torch.arange(round(seconds * RATE)) / RATE
    x = torch.zeros_like(t)
    for pitch, onset, offset in notes:
        start, stop = played(torch.tensor([onset, offset])).tolist()
        f, now = 440 * 2 ** ((pitch - 69) / 12), (t >= start) & (t < stop)
        x[now] += 0.05 * sum(torch.sin(2 * math.pi * k * f * t[now] + k) / k for k in range(1, 9))
    return x


@pytest.fixture(scope="module")
def duet() -> tuple[dict[str, list[tuple[int, float, float]]], torch.Tensor]:
    parts = {"flute": part(1, 60), "cello": part(2, 45)}
    return parts, torch.stack([sound(notes) for notes in parts.values()])


@pytest.fixture
def score(duet, tmp_path):
    midi = pretty_midi.PrettyMIDI()
    for name, notes in duet[0].items():
        instrument = pretty_midi.Instrument(0, name=name)
        instrument.notes = [pretty_midi.Note(100, pitch, onset, offset) for pitch, onset, offset in notes]
        midi.instruments.append(instrument)
    midi.write(str(tmp_path / "duet.mid"))
    return tmp_path / "duet.mid"


def test_a_score_is_found_in_its_recording(duet):
    parts, stems = duet
    pitches, onsets, offsets = torch.tensor([note for notes in parts.values() for note in notes]).double().unbind(1)
    V = STFT()(stems.sum(0)[None, None])[0, 0].abs()
    found, ended = align(pitches, onsets, offsets, V, RATE / 1024, RATE)
    error = (found - played(onsets)).abs()
    assert error.median() < 0.05
    assert error.max() < 0.35
    assert (ended > found).all()
    assert (onsets - played(onsets)).abs().median() > 0.5  # as far off as they were


def test_separation_by_a_score_at_another_tempo(duet, score):
    parts, stems = duet
    transform, length = STFT(), stems.shape[-1]
    X = transform(stems.sum(0)[None, None])
    notes = read_score(score)
    times = [(note, played(torch.tensor([note.onset, note.offset])).tolist()) for note in notes]
    true = [Note(note.instrument, note.pitch, *now) for note, now in times]

    def score_of(**options: object) -> list[float]:
        V = score_informed(X, **options)
        Y = transform.inverse(softmask(V, X), length)[0, :, 0]
        estimates = dict(zip(instruments(notes), Y, strict=True))
        return [sdr(s, estimates[name]) for s, name in zip(stems, parts, strict=True)]

    exact = score_of(notes=true)
    warped = score_of(notes=notes, aligned=False)
    assert min(warped) > 10
    assert all(w > e - 3 for w, e in zip(warped, exact, strict=True))
    assert all(
        w > s + 4 for w, s in zip(warped, score_of(notes=notes), strict=True)
    )  # the times of the file are of no use


def test_a_stem_per_instrument_from_the_command_line(duet, score, tmp_path, capsys):
    _, stems = duet
    write(tmp_path / "duet.wav", stems.sum(0)[None], RATE)
    assert main([str(tmp_path / "duet.wav"), "--score", str(score), "-o", str(tmp_path / "out"), "-q"]) == 0
    folder = tmp_path / "out" / "score_informed" / "duet"
    assert sorted(path.stem for path in folder.iterdir()) == ["cello", "flute", "rest"]
    assert sdr(stems[0], read(folder / "flute.wav")[0][0]) > 4
    midi = pretty_midi.PrettyMIDI(str(score))
    for instrument, name in zip(midi.instruments, ("rest", "a/b"), strict=True):
        instrument.name = name
    midi.write(str(tmp_path / "names.mid"))
    assert by_score(tmp_path / "names.mid").targets == ("a b", "rest", "rest 3")
    (tmp_path / "broken.mid").write_bytes(b"MThd nothing")
    for args, words in (
        (["--score", str(tmp_path / "broken.mid")], "broken.mid"),
        (["--score", str(tmp_path / "none.mid")], "none.mid"),
        (["--score", str(score), "-n", "hpss"], "--model hpss"),
        (["--score", str(score), "--segment", "5"], "--segment"),
        (["-n", "score_informed"], "--score song.mid"),
    ):
        assert main([str(tmp_path / "duet.wav"), "-o", str(tmp_path / "none"), *args]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
