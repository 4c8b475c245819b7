"""Surround sound of stereo: what goes where, the down-mix, the files."""

import json
import math
import struct
import subprocess
import sys
from itertools import pairwise

import av
import pytest
import soundfile
import torch

from mss.audio import AudioError, Encoding, info, read, write
from mss.layouts import LAYOUTS, downmix_gains
from mss.surround import decorrelators
from mss.upmix import main
from mss.upmixer import Upmixer
from tests.conftest import sdr

RATE = 44100
MASKS = {"quad": 0x33, "5.0": 0x37, "5.1": 0x3F, "7.1": 0x63F}  # of WAVE_FORMAT_EXTENSIBLE


class Stems:
    """A separator that takes fixed shares of the mixture."""

    sample_rate, context = RATE, 0.0

    def __init__(self, **shares: float) -> None:
        self.targets, self.shares = tuple(shares), torch.tensor(list(shares.values())).view(-1, 1, 1)

    def __call__(self, mixture):
        return self.shares * mixture.unsqueeze(1)

    def stream(self, blocks):
        return map(self, blocks)


class Nonsense(Stems):
    """One that gives what has nothing to do with the mixture."""

    def __call__(self, mixture):
        return 0.3 * torch.randn(1, 2, *mixture.shape[1:], generator=torch.Generator().manual_seed(3))


@pytest.fixture
def noise(generator) -> torch.Tensor:
    """One second, (1, 1, t)."""
    return 0.1 * torch.randn(1, 1, RATE, generator=generator)


def panned(source: torch.Tensor, degrees: float) -> torch.Tensor:
    phi = math.radians(degrees)
    return torch.cat([math.cos(phi) * source, math.sin(phi) * source], 1)


def channels(upmixer: Upmixer, mixture: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(zip(upmixer.channels, upmixer(mixture)[0], strict=True))


def downmix(layout: str, y: torch.Tensor) -> torch.Tensor:
    return torch.tensor(downmix_gains(layout), dtype=y.dtype) @ y


def bands(y: torch.Tensor, low: float = 300.0) -> torch.Tensor:
    """Energy (octaves,) of (..., t) in octave bands from `low` Hz on, over all channels."""
    power = torch.fft.rfft(y).abs().square().reshape(-1, y.shape[-1] // 2 + 1).sum(0)
    frequency = torch.fft.rfftfreq(y.shape[-1], 1 / RATE)
    edges = [low * 2**i for i in range(7)]
    return torch.stack([power[(frequency >= a) & (frequency < b)].sum() for a, b in pairwise(edges)])


def decibel(ratio: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(ratio)


# The down-mix


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stems", [None, Stems(vocals=0.5, other=0.3), Nonsense(vocals=1, other=1)])
def test_the_downmix_of_any_layout_is_the_song_whatever_the_stems(layout, stems, mixture):
    y = Upmixer(layout, stems)(mixture)
    assert y.shape == (1, len(LAYOUTS[layout]), mixture.shape[-1])
    assert sdr(mixture, downmix(layout, y)) > 120
    assert (downmix(layout, y) - mixture).abs().max() < 1e-6


def test_downmix_gains_are_those_of_the_recommendation():
    half = math.sqrt(0.5)
    assert downmix_gains("5.1") == ((1, 0, half, 0, half, 0), (0, 1, half, 0, 0, half))
    assert downmix_gains("7.1")[0] == (1, 0, half, 0, half, 0, half, 0)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_naturally_the_energy_stays_and_the_downmix_loses_what_is_known(share, noise):
    x = panned(noise, 20)
    upmixer = Upmixer("5.0", Stems(other=1), surround={"other": share}, exact=False)
    y = upmixer(x)
    assert decibel(bands(y) / bands(x)).abs().max() < 0.5
    expected = 10 * math.log10(1 - share**2 / 2)
    assert (decibel(bands(downmix("5.0", y)) / bands(x)) - expected).abs().max() < 1


def test_naturally_the_fronts_keep_none_of_the_decorrelated_sound(noise):
    options = {"surround": {"other": 0.6}, "ambience": 0.0}
    x = panned(noise, 0)
    exact, natural = (channels(Upmixer("5.0", Stems(other=1), exact=e, **options), x) for e in (True, False))
    assert abs(torch.corrcoef(torch.stack([natural["L"], natural["Ls"]]))[0, 1]) < 0.05
    assert torch.corrcoef(torch.stack([exact["L"], exact["Ls"]]))[0, 1] < -0.2


# What goes where


def test_what_is_in_the_middle_goes_to_the_centre_alone(noise):
    y = channels(Upmixer("5.0", centre={"residual": 1}), panned(noise, 45))
    assert torch.allclose(y["C"], noise[0, 0], atol=1e-6)
    assert max(y[name].abs().max() for name in ("L", "R", "Ls", "Rs")) < 1e-6


@pytest.mark.parametrize(("degrees", "own", "other"), [(0, "L", "R"), (90, "R", "L")])
def test_what_is_on_one_side_stays_there(noise, degrees, own, other):
    y = channels(Upmixer("5.0", centre={"residual": 1}, ambience=1), panned(noise, degrees))
    assert torch.allclose(y[own], noise[0, 0], atol=1e-6)
    assert max(y[name].abs().max() for name in (other, "C", "Ls", "Rs")) < 1e-6


def test_between_middle_and_side_the_centre_takes_the_sine_of_the_double_angle(noise):
    x = panned(noise, 30)
    centre = channels(Upmixer("5.0", centre={"residual": 1}), x)["C"]
    m = x.sum(1)[0] * math.sqrt(0.5)
    assert float((centre * m).sum() / m.square().sum()) == pytest.approx(math.sin(math.radians(60)), abs=1e-3)


def test_what_is_in_opposite_phase_goes_behind(noise):
    y = channels(Upmixer("5.0", centre={"residual": 1}, ambience=1, exact=False), torch.cat([noise, -noise], 1))
    assert y["C"].abs().max() < 1e-6
    assert decibel(bands(y["Ls"]) / bands(noise)).abs().max() < 0.5
    assert decibel(bands(y["L"]) / bands(noise)).max() < -10


def test_what_the_channels_do_not_share_is_ambience_and_goes_behind(noise):
    apart = torch.cat([noise, noise.flip(-1)], 1)
    wide = channels(Upmixer("5.0", ambience=1, exact=False), apart)
    narrow = channels(Upmixer("5.0", ambience=1, exact=False), panned(noise, 30))
    behind = decibel(bands(wide["Ls"]).sum() / bands(noise).sum())
    assert behind > -5
    assert decibel(bands(narrow["Ls"]).sum() / bands(noise).sum()) < behind - 40


def test_ambience_is_told_from_what_the_channels_share(noise, generator):
    """As much of each: the smaller eigenvalue of the covariance is half the power of a channel, and so is its gain."""
    apart = 0.1 * torch.randn(1, 2, RATE, generator=generator)
    y = channels(Upmixer("5.0", ambience=1), noise + apart)
    assert decibel(bands(y["Ls"]).sum() / (2 * bands(noise).sum())) == pytest.approx(20 * math.log10(0.5), abs=1)


def test_what_goes_behind_takes_nothing_from_the_centre_where_the_downmix_is_exact(noise):
    options = {"centre": {"other": 1}, "surround": {"other": 0.6}}
    exact = channels(Upmixer("5.0", Stems(other=1), **options), panned(noise, 45))
    natural = channels(Upmixer("5.0", Stems(other=1), **options, exact=False), panned(noise, 45))
    assert torch.allclose(exact["C"], noise[0, 0], atol=1e-6)
    assert decibel(bands(natural["C"]) / bands(noise)).tolist() == pytest.approx([20 * math.log10(0.8)] * 6, abs=0.3)


def test_stems_go_where_they_are_sent(mixture):
    stems = Stems(vocals=0.5, other=0.5)
    none = {"vocals": 0, "other": 0, "residual": 0}
    silent = channels(Upmixer("5.1", stems, surround=none, centre=none, ambience=0), mixture)
    assert silent["C"].abs().max() == silent["Ls"].abs().max() == 0
    vocals = channels(Upmixer("5.1", stems, surround=none | {"vocals": 1}, centre=none, ambience=0), mixture)
    usual = channels(Upmixer("5.1", stems, ambience=0), mixture)
    # half the song by 1, or by the usual 0.4 of other
    assert torch.allclose(0.4 * vocals["Ls"], usual["Ls"], atol=1e-5)
    assert usual["C"].abs().max() > 0.01


def test_seven_channels_share_the_energy_of_five(mixture):
    five, seven = (channels(Upmixer(layout), mixture) for layout in ("5.1", "7.1"))
    energy = sum(seven[name].square().sum() for name in ("Ls", "Lb"))
    assert abs(decibel(energy / five["Ls"].square().sum())) < 0.2
    assert sdr(five["C"], seven["C"]) > 100


def test_surrounds_are_late_without_bass_of_flat_magnitude_and_unlike():
    kernels = decorrelators(["Ls", "Rs", "Lb", "Rb"], RATE) * math.sqrt(2)
    spectra = torch.fft.rfft(kernels, 1 << 15)
    frequency = torch.fft.rfftfreq(1 << 15, 1 / RATE)
    assert (20 * torch.log10(spectra.abs()))[:, frequency > 600].abs().max() < 0.1
    at_cutoff = (frequency - 150).abs().argmin()
    assert (20 * torch.log10(spectra.abs()))[:, at_cutoff].tolist() == pytest.approx([-6.02] * 4, abs=0.2)
    assert kernels[:, : round(0.0115 * RATE)].abs().max() < 1e-4
    correlation = torch.fft.irfft(spectra.unsqueeze(0) * spectra.unsqueeze(1).conj())
    apart = ~torch.eye(4, dtype=torch.bool)
    assert correlation[apart].abs().max() < 0.2
    assert correlation[~apart][:, 0].tolist() == pytest.approx([1] * 4, abs=0.02)


@pytest.mark.parametrize("hertz", [30, 60, 120, 240, 1000])
def test_the_lfe_is_a_linkwitz_riley_low_pass_in_phase_with_the_fronts(hertz):
    tone = torch.sin(2 * math.pi * hertz * torch.arange(2 * RATE) / RATE).view(1, 1, -1)
    y = channels(Upmixer("5.1"), panned(tone, 45))
    inside = slice(RATE // 2, 3 * RATE // 2)
    fronts = (y["L"] + y["R"] + y["C"])[inside]
    measured = (y["LFE"][inside] * fronts).sum() / fronts.square().sum()
    assert float(measured) == pytest.approx(math.sqrt(0.1) / (1 + (hertz / 120) ** 4), abs=5e-4)
    assert float((y["LFE"][inside] - measured * fronts).abs().max()) < 2e-3


# In blocks


@pytest.mark.parametrize("size", [RATE, 12345, 700])
def test_blocks_give_what_the_whole_gives(size, mixture):
    upmixer = Upmixer("7.1", Stems(vocals=0.5, other=0.3))
    whole = upmixer(mixture)
    upmixer._sends.BLOCK = 20  # frames at a time, so that there are several
    assert torch.allclose(torch.cat(list(upmixer.stream(mixture.split(size, -1))), -1), whole, atol=1e-5)


def test_a_song_of_a_batch_is_as_on_its_own(mixture):
    pair = torch.cat([mixture, 0.1 * mixture.flip(1)])
    upmixer = Upmixer("5.1")
    assert torch.allclose(upmixer(pair)[1:], upmixer(pair[1:]), atol=1e-6)


def test_memory_is_bounded_at_any_length(generator):
    taken = 0

    def minute():
        nonlocal taken
        for _ in range(60):
            taken += 1
            yield 0.1 * torch.randn(1, 2, RATE, generator=generator)

    given = 0
    for y in Upmixer("5.1", Stems(other=0.5)).stream(minute()):
        assert taken - given / RATE < 20  # seconds
        given += y.shape[-1]
    assert given == 60 * RATE


@pytest.mark.parametrize("length", [1, 100, 3000])
def test_short_and_silent_songs(length):
    y = Upmixer("5.1")(torch.zeros(1, 2, length))
    assert y.shape == (1, 6, length)
    assert not y.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "6.1"}, "6.1"),
        ({"surround": {"vocals": 0.5}}, "vocals.*residual"),
        ({"centre": {"residual": 2}}, "between 0 and 1"),
        ({"ambience": -1}, "between 0 and 1"),
        ({"separator": Stems(other=1), "sample_rate": 48000}, "44100.*48000"),
    ],
)
def test_what_means_nothing_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Upmixer(**arguments)


def test_only_stereo_is_unfolded():
    with pytest.raises(ValueError, match="6 channels"):
        Upmixer("5.1")(torch.zeros(1, 6, 1000))


# Files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_are_named_as_in_files(layout):
    names = {"L": "FL", "R": "FR", "C": "FC", "Lb": "BL", "Rb": "BR", "Ls": "SL", "Rs": "SR"}
    if layout != "7.1":  # the one pair behind is called the back in files
        names |= {"Ls": "BL", "Rs": "BR"}
    assert [names.get(name, name) for name in LAYOUTS[layout]] == [c.name for c in av.AudioLayout(layout).channels]


def chunk(data: bytes, name: bytes) -> bytes:
    begin = data.index(name) + 8
    return data[begin : begin + struct.unpack_from("<I", data, begin - 4)[0]]


@pytest.fixture(params=LAYOUTS)
def tones(request) -> tuple[str, torch.Tensor, list[int]]:
    """A tone of its own in each channel, the lowest in the LFE, 48 kHz."""
    hertz = [60 if name == "LFE" else 200 + 150 * i for i, name in enumerate(LAYOUTS[request.param])]
    t = torch.arange(48000) / 48000
    return request.param, torch.stack([0.3 * torch.sin(2 * math.pi * f * t) for f in hertz]), hertz


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding("wav", "int16"),
        Encoding("wav", "int24"),
        Encoding("wav"),
        Encoding("flac"),
        Encoding("ogg"),
        Encoding("m4a"),
        Encoding("opus"),
    ],
    ids=str,
)
def test_channels_and_their_places_come_back(tones, encoding, tmp_path):
    layout, x, hertz = tones
    path = tmp_path / f"x.{encoding.extension}"
    if encoding.container == "opus" and layout == "5.0":
        with pytest.raises(AudioError, match="5"):
            write(path, x, 48000, encoding=encoding, layout=layout)
        return
    write(path, x, 48000, encoding=encoding, layout=layout)
    y, _ = read(path)
    assert torch.fft.rfft(y[:, :48000]).abs().argmax(1).tolist() == hertz
    with av.open(str(path)) as container:
        assert container.streams.audio[0].layout.name == layout
    data = path.read_bytes()
    if encoding.container == "wav":
        fmt = chunk(data, b"fmt ")
        assert (fmt[:2], len(fmt)) == (b"\xfe\xff", 40)
        assert struct.unpack_from("<I", fmt, 20)[0] == MASKS[layout]
    if encoding.container == "flac":
        assert (int.from_bytes(data[18:26], "big") >> 41 & 7) + 1 == len(x)  # STREAMINFO
        comment = data.partition(b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x")[2]
        assert not comment or int(comment[:3].rstrip(b"\x81\x00"), 16) == MASKS[layout]
    if encoding.container in ("wav", "flac"):
        samples, _ = soundfile.read(path, dtype="float32")
        assert torch.equal(torch.from_numpy(samples.T), y)


@pytest.fixture
def song(tmp_path, excerpt):
    path = tmp_path / "in" / "song.wav"
    path.parent.mkdir()
    encoding = Encoding("wav", "int16")
    write(path, excerpt["mixture"][:, RATE : 3 * RATE], RATE, encoding=encoding, tags={"title": "Falcon 69"})
    return path


def run(*arguments) -> int:
    return main([*map(str, arguments), "-d", "cpu"])


@pytest.mark.parametrize("model", ["none", "hpss"])
def test_a_file_like_the_input_whose_downmix_is_the_song(song, tmp_path, model, capsys):
    assert run(song, "-n", model, "-o", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").rglob("*")
    facts = info(path)
    assert (path.name, facts.subtype, facts.layout, facts.tags["title"]) == (
        "song-5.1.wav",
        "int16",
        "5.1",
        "Falcon 69",
    )
    y, x = read(path)[0], read(song)[0]
    assert y.abs().amax(1).min() > 0.01
    # half a step of the front, and 0.7 halves of the centre and of the surround
    assert (downmix("5.1", y) - x).abs().max() * 32768 <= 0.5 + math.sqrt(0.5) + 0.01
    assert str(path) in capsys.readouterr().err


def test_another_rate_than_the_separators_and_a_result_for_scripts(tmp_path, excerpt, capsys):
    write(tmp_path / "song.wav", excerpt["mixture"][:, :48000], 48000)
    arguments = (tmp_path / "song.wav", "-n", "hpss", "-l", "7.1", "--flac", "-q", "--json", "-o", tmp_path)
    assert run(*arguments, "--surround", "harmonic=0.8,percussive=0") == 0
    said = capsys.readouterr()
    (done,) = json.loads(said.out)["files"]
    assert not said.err
    y, rate = read(done["outputs"]["7.1"])
    assert (rate, done["gain"]) == (48000, 1)
    assert sdr(read(tmp_path / "song.wav")[0], downmix("7.1", y)) > 100


def test_a_song_too_loud_for_its_centre_is_lowered_by_one_gain(tmp_path, capsys):
    tone = torch.sin(2 * math.pi * 440 * torch.arange(RATE) / RATE).expand(2, -1)
    write(tmp_path / "song.wav", tone, RATE, encoding=Encoding("wav", "int16"))
    assert run(tmp_path / "song.wav", "-n", "none", "--centre", "residual=1", "-o", tmp_path, "--int24", "--json") == 0
    (done,) = json.loads(capsys.readouterr().out)["files"]
    assert done["gain"] == pytest.approx(math.sqrt(0.5), abs=1e-3)
    y, _ = read(tmp_path / "song-5.1.wav")
    assert 0.999 < y.abs().max() < 1
    assert sdr(done["gain"] * tone, downmix("5.1", y)) > 90


def test_what_is_not_stereo_is_refused_and_the_rest_is_done(song, tmp_path, capsys):
    x = read(song)[0]
    write(tmp_path / "mono.wav", x[:1], RATE)
    write(tmp_path / "six.wav", torch.cat([x, x, x]), RATE)
    (tmp_path / "text.wav").write_text("hello")
    files = [tmp_path / name for name in ("mono.wav", "six.wav", "text.wav")]
    out = tmp_path / "out"
    assert run(*files, song, "-n", "none", "-o", out) == 1
    said = capsys.readouterr().err
    for words in ("mono.wav is mono", "six.wav has 6 channels (5.1)", "text.wav is not a readable audio file"):
        assert words in said
    assert [path.name for path in out.rglob("*")] == ["song-5.1.wav"]
    assert run(files[0], "-n", "none", "-o", tmp_path / "none") == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no input"),
        (["x.wav", "-l", "6.1"], "quad, 5.0, 5.1, 7.1"),
        (["x.wav", "-n", "nothing"], "no model"),
        (["x.wav", "-n", "none", "--surround", "vocals=1"], "no stem 'vocals'"),
        (["x.wav", "-l", "quad", "--centre", "vocals=1"], "has no centre"),
        (["x.wav", "--ambience", "nan"], "--ambience is a share"),
        (["x.wav", "--opus", "--int16"], "no bit depth"),
        (["x.wav", "--flac", "--bitrate", "64"], "--bitrate goes with"),
        (["x.wav", "--filename", "{stem}"], "needs {ext}"),
    ],
)
def test_wrong_calls(arguments, message, capsys):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("shares", ["other", "other=2", "=1", "other=nan", "other=0.5,"])
def test_wrong_shares(shares, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("x.wav", "--surround", shares)
    assert "share from 0 to 1" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys, mss.upmix as v; v.parser().format_help(); print({'torch', 'numpy', 'av'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
