"""Synthetic songs: the same for the same number, made of stems that sound like what they are called."""

import hashlib
import importlib
import os
import pickle
import random
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mss.audio import write
from mss.data import TrackError, common_stems, find_tracks
from mss.data import synthetic as module
from mss.data._hits import Kit, recorded_hits
from mss.data._machines import bass, drum_machine
from mss.data._notes import Instrument, recorded_notes
from mss.data._rendering import arranged, read_midi, render
from mss.data._songs import Part, compose
from mss.data._styles import STYLES
from mss.data._voice import sing
from mss.data.synthetic import STEMS, Synthetic, find_soundfont
from mss.transforms import STFT

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("MSS_DATA", ROOT.parent / "shared"))
RATE = 22050
needs_shared = pytest.mark.skipif(not (SHARED / "midi").is_dir(), reason="no MIDI files: set MSS_DATA")


@pytest.fixture(scope="module")
def soundfont() -> Path:
    pytest.importorskip("symusic", exc_type=ImportError)
    return find_soundfont() or pytest.skip("no SoundFont")


@pytest.fixture(scope="module", autouse=True)
def short_songs():
    patch = pytest.MonkeyPatch()
    patch.setattr(Synthetic, "LENGTH", 4.0)
    patch.setattr(Synthetic, "TOGETHER", 2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def songs(soundfont) -> Synthetic:
    return Synthetic([soundfont], seconds=2, sample_rate=RATE, seed=3)


@pytest.fixture(scope="module")
def six(songs) -> torch.Tensor:
    """(song, s, c, t), eight seconds each."""
    return torch.stack([songs.song(number, 8) for number in range(6)])


def spectrum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies (f,) and power (..., f) summed over time and channels."""
    transform = STFT(2048, 512)
    return torch.arange(transform.bins) * RATE / 2048, transform(x).abs().square().sum((-1, -3))


def test_an_excerpt_depends_on_its_number_alone(songs, soundfont):
    once = {i: songs[i] for i in (0, 1, 300)}
    assert once[0].shape == (4, 2, 2 * RATE)
    assert once[0].dtype == torch.float32
    assert not torch.equal(once[0], once[1])
    again = pickle.loads(pickle.dumps(songs))
    assert not again._made
    for i in (300, 1, 0, 1):
        assert torch.equal(again[i], once[i])
    other = Synthetic([soundfont], seconds=2, sample_rate=RATE, seed=4)
    assert not torch.equal(other[0], once[0])
    assert len(songs) == 64 * Synthetic.PER_SONG
    assert songs[len(songs)].isfinite().all()  # and on


def test_another_process_hears_the_same(soundfont):
    code = (
        # with as many threads as another test may have left here: the last bits of sums depend on it
        f"import sys, torch; torch.set_num_threads({torch.get_num_threads()})\n"
        "from mss.data.synthetic import Synthetic; Synthetic.LENGTH, Synthetic.TOGETHER = 4.0, 2\n"
        f"x = Synthetic([sys.argv[1]], seconds=2, sample_rate={RATE}, seed=3)[1]\n"
        "import hashlib; print(hashlib.sha256((x * 32767).round().short().numpy().tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code, str(soundfont)], capture_output=True, text=True, check=True)
    fresh = Synthetic(
        [soundfont], seconds=2, sample_rate=RATE, seed=3
    )  # nothing of `songs`, made with who knows how many
    here = hashlib.sha256((fresh[1] * 32767).round().short().numpy().tobytes()).hexdigest()
    assert there.stdout.strip() == here


def test_excerpts_are_coherent_or_mixed_as_asked(soundfont):
    """Of one song and time, an excerpt is found in that song; else, its stems are of different places."""

    def where(x, songs):
        """The song and start of each stem, where it sounds."""
        found = []
        for stem, part in enumerate(x):
            loud = int(part[0].abs().argmax())
            for number in range(2):
                whole = songs._song(number)[stem].float() / 32767
                at = (whole[0] == part[0, loud]).nonzero().flatten() - loud
                starts = [s for s in at.tolist() if s >= 0 and torch.equal(whole[:, s : s + part.shape[-1]], part)]
                found += [(number, start) for start in starts[:1] if part.any()]
        return set(found)

    one = Synthetic([soundfont], seconds=2, sample_rate=RATE, coherent=1)
    mixed = Synthetic([soundfont], seconds=2, sample_rate=RATE, coherent=0)
    assert [len(where(one[i], one)) for i in range(4)] == [1] * 4
    assert all(len(where(mixed[i], mixed)) > 1 for i in range(4))


def test_stems_sound_as_they_are_called(six):
    """Medians over six songs."""
    assert six.isfinite().all()
    assert (six.square().mean((-1, -2)) > 1e-7).all()  # all of them sound
    assert six.abs().max() <= 0.981
    assert six.sum(1).abs().max() <= 0.981
    hz, power = spectrum(six)  # (song, s, f)
    centroid = ((power * hz).sum(-1) / power.sum(-1)).median(0).values
    drums, bass, other, vocals = centroid.tolist()
    assert bass < 300 < min(other, vocals)
    assert bass < vocals < 3000
    assert drums > 2 * bass
    low = (power[..., hz < 300].sum(-1) / power.sum(-1)).median(0).values
    assert low[1] > 0.8
    assert low[3] < 0.6
    assert low[1] > low[2]
    flux = STFT(1024, 256)(six).abs().mean(2).add(1e-4).log().diff(dim=-1).clamp_min(0).mean(-2)
    flux = flux - flux.median(-1, keepdim=True).values
    onsets = (flux > 0.25).sum(-1).float().median(0).values  # frames that begin something
    assert onsets[0] > 16  # two a second


def test_levels_are_those_of_real_stems(songs):
    """Before the peak of a song is brought within range: mean and deviation of what the desk gives."""
    x = torch.randn(1, 4, 2, 2000, generator=torch.Generator().manual_seed(0))
    levels = []
    for seed in range(60):
        y = module._recorded(x, RATE, torch.Generator().manual_seed(seed))
        levels.append(10 * y.square().mean((0, 2, 3)).log10())
    levels = torch.stack(levels)
    torch.testing.assert_close(levels.mean(0), torch.tensor(module.RMS), atol=1.6, rtol=0)
    assert (levels.std(0) - 4).abs().max() < 1.2


def test_the_voice_sings_the_notes():
    melody = [(0.1, 0.8, 57, 100), (1.0, 0.9, 64, 100), (2.4, 0.5, 60, 90)]
    for seed in range(4):
        y = sing(melody, seconds=3, sample_rate=RATE, rng=random.Random(seed))
        assert y.shape == (3 * RATE,)
        assert float(y.abs().max()) == 1
        assert y[int(2.05 * RATE) : int(2.3 * RATE)].square().mean() < 1e-3 * y.square().mean()  # a rest
        for onset, duration, pitch, _ in melody[:2]:
            part = y[int((onset + 0.3) * RATE) : int((onset + duration - 0.1) * RATE)]
            power = torch.fft.rfft(part * torch.hann_window(len(part)), 2**17).abs().square()
            correlation = torch.fft.irfft(power)
            low, high = int(RATE / 1100), int(RATE / 60)
            f0 = RATE / (low + int(correlation[low:high].argmax()))
            octaves = torch.log2(torch.tensor(f0 / (440 * 2 ** ((pitch - 69) / 12))))
            assert abs(octaves - octaves.round()) < 0.06  # 70 cents of vibrato and drift
    assert torch.equal(sing([], seconds=1, sample_rate=RATE, rng=random.Random(0)), torch.zeros(RATE))


def test_songs_that_are_made_up():
    sketches = [compose(random.Random(i), 20) for i in range(60)]
    for sketch in sketches:
        assert [part.stem for part in sketch.parts[:3]] == ["drums", "bass", "other"]
        for part in sketch.parts[:3]:
            assert len(part.notes) > 3
            assert max(onset for onset, *_ in part.notes) > 12  # to the end
        for part in sketch.parts:
            assert all(o >= 0 and d > 0 and 0 <= p < 128 and 0 < v < 128 for o, d, p, v in part.notes)
    assert len({part.program for sketch in sketches for part in sketch.parts}) > 25
    assert sum(bool(sketch.melody) for sketch in sketches) > 50
    tempi = {style.tempo for style in STYLES}
    assert len(tempi) == 8
    for style in STYLES:
        for pattern in (*style.kick, *style.snare, *style.hat, *style.bass, *style.comp):
            assert len(pattern) == 16
    again = compose(random.Random(7), 20)
    assert again == sketches[7]


def test_what_is_written_is_found(songs, soundfont, tmp_path):
    written = songs.write(tmp_path / "data", songs=2, seconds=3)
    tracks = find_tracks(tmp_path / "data")
    assert [track.path for track in tracks] == written
    assert set(common_stems(tracks)) == set(STEMS)
    for number, track in enumerate(tracks):
        audio = track.load()
        assert audio.sample_rate == RATE
        assert audio.mixture.shape == (2, 3 * RATE)
        torch.testing.assert_close(sum(audio.stems.values()), audio.mixture)
        song = songs.song(number, 3)
        torch.testing.assert_close(torch.stack([audio.stems[name] for name in STEMS]), song, atol=2e-5, rtol=0)
    with pytest.raises(TrackError, match="not empty"):
        songs.write(tmp_path / "data", songs=1)


def test_mono_and_recorded_singing(soundfont, excerpt, tmp_path):
    write(tmp_path / "voice.wav", excerpt["vocals"][:, 44100:176400], 44100)
    songs = Synthetic([soundfont], singing=tmp_path, seconds=1, sample_rate=RATE, channels=1)
    x = songs.song(1, 5)
    assert x.shape == (4, 1, 5 * RATE)
    assert x[3].square().mean() > 1e-6
    assert torch.equal(x, songs.song(1, 5))


@needs_shared
def test_songs_from_midi_files(soundfont):
    with pytest.warns(UserWarning, match="left out"):  # two are for one instrument
        songs = Synthetic([soundfont], midi=SHARED / "midi", seconds=2, sample_rate=RATE)
    assert len(songs.midi) > 45
    x = torch.stack([songs.song(number, 8) for number in range(3)])  # of twelve stems, some rest that long
    assert (x.square().mean((-1, -2)) > 1e-7).sum() >= 10
    hz, power = spectrum(x[:, 1])
    low = power[:, hz < 300].sum(-1)
    assert (low > 0.7 * power.sum(-1)).sum() >= 2
    parts = read_midi(songs.midi[0])
    a, b = (arranged(read_midi(songs.midi[0]), random.Random(5), 8) for _ in range(2))
    assert a == b
    assert {part.stem for part in a.parts} == {part.stem for part in parts}


def test_bad_input(soundfont, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.mid").write_bytes(b"MThd nothing of the kind")
    (tmp_path / "font.sf2").write_bytes(b"RIFF0000WAVE")
    cases = [
        ({"soundfonts": []}, "need a SoundFont"),
        ({"soundfonts": [None]}, "need a SoundFont"),
        ({"soundfonts": ["none.sf2"]}, "there is no such SoundFont"),
        ({"soundfonts": [tmp_path / "font.sf2"]}, "is not a SoundFont"),
        ({"midi": empty}, "no MIDI files in it"),
        ({"midi": tmp_path / "nowhere"}, "there is no such folder"),
        ({"midi": bad}, "no usable MIDI file.*a.mid cannot be read"),
        ({"singing": empty}, "no recordings in it"),
        ({"seconds": 0}, "seconds above 0"),
        ({"channels": 3}, "1 or 2 channels"),
        ({"songs": 0}, "at least 1 song"),
        ({"coherent": 2}, "coherent from 0 to 1"),
        ({"machines": -0.1}, "machines is a probability"),
        ({"composed": 2}, "composed is a probability"),
        ({"distortion": 2}, "distortion is a probability"),
        ({"bass_corner": (900, 100)}, "bass_corner is a range of Hz"),
        ({"synthesizer": "harp"}, "no synthesizer 'harp'; there are symusic, tinysoundfont"),
        ({"hits": empty}, "no recording is called a kick or a snare"),
    ]
    for options, message in cases:
        with pytest.raises(TrackError, match=message):
            Synthetic(**{"soundfonts": [soundfont], **options})
    with pytest.raises(IndexError, match="from 0 on"):
        Synthetic([soundfont])[-1]


def test_a_corrupt_midi_file_is_left_out_with_a_warning(soundfont, tmp_path):
    import symusic

    score = symusic.Score(ttype="tick")
    for program, drum in ((0, True), (33, False), (0, False)):
        track = symusic.Track("", program, drum, ttype="tick")
        for beat in range(8):
            track.notes.append(symusic.Note(960 * beat, 800, 40, 90, ttype="tick"))
        score.tracks.append(track)
    score.dump_midi(tmp_path / "good.mid")
    (tmp_path / "torn.mid").write_bytes((tmp_path / "good.mid").read_bytes()[:60])
    with pytest.warns(UserWarning, match="left out 1 of 2 MIDI files.*torn.mid"):
        songs = Synthetic([soundfont], midi=tmp_path, sample_rate=RATE)
    assert [path.name for path in songs.midi] == ["good.mid"]
    assert songs.song(0, 3)[:3].abs().amax((1, 2)).min() > 0


def test_without_symusic_it_says_what_to_install(monkeypatch, soundfont):
    monkeypatch.setitem(sys.modules, "symusic", None)
    with pytest.raises(ImportError, match=r"mss-separation\[synthetic\]"):
        Synthetic([soundfont])


def test_without_pretty_midi_there_is_no_soundfont(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_soundfont() is None


def test_the_script(soundfont, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["make_synthetic.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(ROOT / "scripts" / "make_synthetic.py"), run_name="__main__")
        return done.value.code, *capsys.readouterr()

    code, said, _ = run("--songs", 1, "--seconds", 2, "--out", tmp_path / "x", "--soundfont", soundfont)
    assert code == 0
    assert "1 songs" in said
    assert len(find_tracks(tmp_path / "x")) == 1
    missing = tmp_path / "none.sf2"
    code, _, error = run("--out", tmp_path / "y", "--soundfont", missing)
    assert code == 1
    assert error.strip() == f"{missing}: there is no such SoundFont; give an .sf2 file"


def test_a_filter_that_runs_away_is_not_heard(monkeypatch):
    """symusic 0.5.9 renders some whistles with 1e27; as NaN that would end a training."""
    symusic = pytest.importorskip("symusic")
    part = Part("other", 78, [(0.0, 1.0, 60, 100)])
    calls = []

    class Synthesizer:
        def __init__(self, *_):
            pass

        def render(self, score, stereo):
            calls.append(score.tracks[0].program)
            x = np.full((2, 44100), 0.1, np.float32)
            x[:, 5000] = {78: 1e27, 0: 0.5}[calls[-1]]
            return x

    monkeypatch.setattr(symusic, "Synthesizer", Synthesizer)
    sound = render(part, Path("any.sf2"), seconds=1.0, sample_rate=44100)
    assert calls == [78, 0]
    assert float(sound.max()) == 0.5


def onsets_of(x: torch.Tensor, rate: int) -> list[float]:
    """Seconds at which the level of x (t,) rises by 6 dB within 5 ms."""
    level = x.square().unfold(-1, rate // 200, rate // 200).mean(-1).clamp_min(1e-9).log10() * 10
    rising = (level[1:] - level[:-1] > 6).nonzero().flatten() + 1
    return [float(at) / 200 for at in rising]


def test_a_machine_plays_when_it_is_told_and_as_its_drums_are():
    rng = random.Random(5)
    notes = [(0.25, 0.1, 36, 110), (0.75, 0.1, 38, 110), (1.25, 0.1, 42, 110), (1.75, 0.1, 36, 60)]
    highs = []
    for _ in range(5):
        machine = drum_machine(rng, RATE)
        alone = [machine.play([note], 2.5, rng) for note in notes]
        for x, (onset, *_) in zip(alone, notes, strict=True):
            assert x.shape == (2, round(2.5 * RATE))
            assert x.isfinite().all()
            assert onsets_of(x.mean(0), RATE)[0] == pytest.approx(onset, abs=0.006)
        power = torch.stack([torch.fft.rfft(x).abs().square().sum(0) for x in alone])
        power, hz = power / power.sum(-1, keepdim=True), torch.fft.rfftfreq(round(2.5 * RATE), 1 / RATE)
        assert power[0, hz < 200].sum() > 0.6, "a kick is low"
        assert power[2, hz > 4000].sum() > 0.6, "a hi-hat is high"
        highs.append(float(power[1, hz > 4000].sum()))
        loud, soft = machine.play([notes[0], notes[3]], 2.5, rng).split([round(1.7 * RATE), round(0.8 * RATE)], -1)
        quieter = 10 * (loud.square().sum() / soft.square().sum()).log10()
        assert quieter == pytest.approx(50 / 127 * 24, abs=2.5)  # strokes differ a little
    assert max(highs) > 2 * min(highs), "no two snares are alike"


def test_a_shut_hi_hat_ends_an_open_one():
    kit = Kit({"open": [torch.ones(RATE)], "shut": [torch.zeros(100)]}, RATE)
    x = kit.play([(0.0, 1.0, 46, 110), (0.5, 0.1, 42, 110)], 1.0, random.Random(0))
    assert x[:, : RATE // 2].min() > 0
    assert x[:, round(0.6 * RATE) :].max() < 1e-3 * x.max()
    assert kit.play([(0.0, 1.0, 36, 110)], 1.0, random.Random(0)).abs().max() == 0  # nothing to play a kick with


@pytest.mark.parametrize("seed", range(6))
def test_a_bass_of_formulae_is_in_tune(seed):
    x = bass([(0.0, 0.9, 40, 100), (1.0, 0.9, 45, 100)], random.Random(seed), seconds=2.5, sample_rate=RATE)
    assert x.isfinite().all()
    hz = torch.fft.rfftfreq(8 * RATE, 1 / RATE)
    for start, pitch in ((0.05, 40), (1.05, 45)):
        piece = x[round(start * RATE) : round((start + 0.8) * RATE)]
        X = torch.fft.rfft(piece * torch.hann_window(len(piece)), 8 * RATE).abs()
        f0 = 440 * 2 ** ((pitch - 69) / 12)
        near = [f0 * 2 ** (i / 12) for i in (0, -6, -1, 1, 6)]
        energy = {f: float(X[(hz > 0.98 * f) & (hz < 1.02 * f)].square().sum()) for f in near}
        assert max(energy, key=energy.get) == pytest.approx(f0)
        assert energy[f0] > 30 * sorted(energy.values())[-2]
    assert x[round(2.4 * RATE) :].abs().max() == 0  # it ends


def test_hits_are_told_apart_by_their_names(tmp_path):
    names = (
        "Kick 01",
        "bd_808",
        "sn_generic",
        "elec_hi_snare",
        "drum_cymbal_closed",
        "drum_cymbal_open",
        "drum_tom_hi_soft",
    )
    for name in (*names, "drum_splash_hard", "loop_amen", "tabla_na", "hand_clap", "guit_em9"):
        write(tmp_path / f"{name}.wav", torch.randn(1, 2000), RATE)
    found = {kind: [path.stem for path in paths] for kind, paths in recorded_hits(tmp_path).items()}
    assert found == {
        "kick": ["Kick 01", "bd_808"],
        "snare": ["elec_hi_snare", "sn_generic"],
        "shut": ["drum_cymbal_closed"],
        "open": ["drum_cymbal_open"],
        "crash": ["drum_splash_hard"],
        "high tom": ["drum_tom_hi_soft"],
        "clap": ["hand_clap"],
        "other": ["tabla_na"],
    }
    (tmp_path / "only").mkdir()
    write(tmp_path / "only" / "kick.wav", torch.randn(1, 2000), RATE)
    with pytest.raises(TrackError, match="no recording is called a snare; name files after drums"):
        recorded_hits(tmp_path / "only")
    with pytest.raises(TrackError, match="there is no such folder"):
        recorded_hits(tmp_path / "nowhere")


def test_what_songs_are_played_with_can_be_chosen(soundfont, tmp_path, monkeypatch):
    """Hits and machines take over drums and bass, and only those, and songs stay functions of their number."""
    for kind in ("kick", "snare", "closed"):
        write(tmp_path / f"{kind}.wav", torch.randn(1, 800, generator=torch.Generator().manual_seed(0)), RATE)
    played = []
    monkeypatch.setattr(module, "render", lambda part, *_, **__: played.append(part.stem) or torch.ones(2, 4 * RATE))
    songs = Synthetic([soundfont], sample_rate=RATE, machines=1.0, hits=tmp_path)
    one = songs.song(0, 4)
    assert set(played) == {"other"}
    assert torch.equal(songs.song(0, 4), one)
    assert one[0].abs().max() > 0
    songs = Synthetic([soundfont], sample_rate=RATE, hits=tmp_path)
    played.clear()
    for number in range(6):
        songs.song(number, 4)
    assert 0 < played.count("drums") < 6
    assert played.count("bass") == 6


def test_a_folder_of_midi_files_leaves_room_for_songs_by_rules(soundfont, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_usable_midi", lambda folder: [folder / "a.mid"])
    monkeypatch.setattr(module, "read_midi", lambda path: [])
    asked = []
    monkeypatch.setattr(module, "arranged", lambda parts, rng, seconds: asked.append(1) or compose(rng, seconds))
    songs = Synthetic([soundfont], midi=tmp_path, composed=0.5, sample_rate=RATE)
    for number in range(12):
        songs.song(number, 1)
    assert 2 <= len(asked) <= 10


def test_tinysoundfont_plays_what_it_is_told_whatever_it_played_before(soundfont):
    pytest.importorskip("tinysoundfont", exc_type=ImportError)
    notes = [(0.5, 0.5, 69, 100), (1.5, 0.3, 81, 100)]
    options = {"seconds": 2.0, "sample_rate": RATE, "synthesizer": "tinysoundfont"}
    flute = render(Part("other", 73, notes), soundfont, **options)
    strokes = [(0.25 * i, 0.1, 38, 100) for i in range(8)]
    drums = render(Part("drums", 0, strokes), soundfont, **options)
    render(Part("drums", 0, [*strokes, (1.95, 0.1, 49, 127)]), soundfont, **options)  # a cymbal that rings on
    assert torch.equal(render(Part("other", 73, notes), soundfont, **options), flute)
    assert flute.shape == (2, 2 * RATE)
    assert flute[:, : round(0.49 * RATE)].abs().max() < 1e-3 * flute.abs().max()
    piece = flute[0, round(0.7 * RATE) : round(0.9 * RATE)]
    peak = torch.fft.rfft(piece * torch.hann_window(len(piece)), 8 * RATE).abs().argmax() / 8
    assert float(peak) == pytest.approx(440, rel=0.02)
    assert len(onsets_of(drums.mean(0), RATE)) >= 7  # snares sound, where symusic's end after 4 ms


def test_without_tinysoundfont_it_says_what_to_install(monkeypatch, soundfont):
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(ImportError, match="pip install --no-deps tinysoundfont"):
        Synthetic([soundfont], synthesizer="tinysoundfont")


def test_basses_are_as_dark_as_they_are_wanted(soundfont):
    """Above the corner by more than two octaves there is nothing left."""
    bright, dark = (
        Synthetic([soundfont], sample_rate=RATE, seed=5, bass_corner=corner)._instruments(
            compose(random.Random(1), 4), 4.0, random.Random(2), torch.Generator().manual_seed(3)
        )[1]
        for corner in (None, (100, 100))
    )
    hz, power = spectrum(torch.stack([bright, dark])[:, None])
    above = 10 * (power[..., hz > 500].sum(-1) / power.sum(-1)).log10()
    assert above[1] < above[0] - 15


def recorded(folder: Path, notes: dict[str, int]) -> Path:
    """A folder of tones (family/instrument -> MIDI pitch of its only note) of half a second at 44.1 kHz, stereo."""
    for name, pitch in notes.items():
        (folder / name).mkdir(parents=True)
        tone = torch.sin(2 * torch.pi * 440 * 2 ** ((pitch - 69) / 12) * torch.arange(22050) / 44100)
        write(folder / name / f"{pitch}_1.wav", 0.3 * tone.expand(2, -1), 44100)
    return folder


def test_recorded_notes_are_played_at_their_pitches_and_end_in_time(tmp_path):
    [takes] = recorded_notes(recorded(tmp_path, {"bass/one": 45}))["bass"]
    wanted = [(0.0, 0.2, 45, 110), (0.6, 0.3, 50, 110), (1.2, 0.3, 40, 70), (1.8, 0.3, 60, 110), (2.4, 0.2, 26, 110)]
    x = Instrument(takes, RATE).play(wanted, 4.0, random.Random(0))
    assert x.shape == (4 * RATE,)
    hz = torch.fft.rfftfreq(8 * RATE, 1 / RATE)
    levels = []
    # more than a fifth away, by octaves: 60 is played as 48, 26 as 38
    for (onset, _, _, _), pitch in zip(wanted, (45, 50, 40, 48, 38), strict=True):
        piece = x[round(onset * RATE) :][: round(0.2 * RATE)]
        X = torch.fft.rfft(piece * torch.hann_window(len(piece)), 8 * RATE).abs()
        assert float(hz[X.argmax()]) == pytest.approx(440 * 2 ** ((pitch - 69) / 12), rel=0.01)
        levels.append(float(piece.abs().max()))
    assert levels[0] == pytest.approx(1, rel=0.02)  # the peak of the take, for velocity 110
    assert 20 * np.log10(levels[2] / levels[1]) == pytest.approx(-40 / 127 * 24, abs=0.3)
    assert x[round(0.55 * RATE) : round(0.6 * RATE)].abs().max() < 0.1  # the first has ended before the second
    assert x[round(3.4 * RATE) :].abs().max() == 0  # as have all in the end, without a click
    assert (x[1:] - x[:-1]).abs().max() < 0.2
    assert torch.equal(Instrument(takes, RATE).play(wanted, 4.0, random.Random(0)), x)


def test_recorded_notes_are_told_apart_by_their_names(tmp_path):
    recorded(tmp_path, {"bass/one": 40, "bass/two": 41, "piano/grand": 60})
    (tmp_path / "saxophone" / "none").mkdir(parents=True)
    found = recorded_notes(tmp_path)
    assert {family: [list(takes) for takes in instruments] for family, instruments in found.items()} == {
        "bass": [[40], [41]],
        "piano": [[60]],
    }
    (tmp_path / "bass" / "one" / "c3.wav").touch()
    with pytest.raises(TrackError, match=r"c3\.wav: a note's name begins with its MIDI pitch, as 45_1\.flac does"):
        recorded_notes(tmp_path)
    (tmp_path / "kazoo" / "one").mkdir(parents=True)
    (tmp_path / "bass" / "one" / "c3.wav").unlink()
    with pytest.raises(TrackError, match=r"kazoo: unknown family of instruments; there are piano, "):
        recorded_notes(tmp_path)
    with pytest.raises(TrackError, match="there is no such folder"):
        recorded_notes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrackError, match="no recorded notes in it"):
        recorded_notes(tmp_path / "empty")


def test_half_of_the_parts_are_played_with_recorded_notes(soundfont, tmp_path, monkeypatch):
    folder = recorded(tmp_path, {"bass/one": 40})
    rendered = []
    monkeypatch.setattr(module, "render", lambda part, *_, **__: rendered.append(part.stem) or torch.ones(2, 4 * RATE))
    songs = Synthetic([soundfont], sample_rate=RATE, notes=folder)
    for number in range(12):
        songs.song(number, 4)
    assert 0 < rendered.count("bass") < 12
    assert rendered.count("drums") == 12
    assert torch.equal(songs.song(0, 4), songs.song(0, 4))


def test_many_songs_are_written_by_several_processes_and_are_the_same(soundfont, tmp_path, monkeypatch):
    songs = Synthetic([soundfont], sample_rate=RATE, seed=5)
    here = songs.write(tmp_path / "here", songs=2, seconds=1.0)
    monkeypatch.setattr(Synthetic, "MANY", 2)
    there = songs.write(tmp_path / "there", songs=2, seconds=1.0)
    assert [path.name for path in here] == [path.name for path in there]
    for one, other in zip(here, there, strict=True):
        for stem in STEMS:
            assert (one / f"{stem}.wav").read_bytes() == (other / f"{stem}.wav").read_bytes()
