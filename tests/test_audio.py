"""Truths about audio files: what is written comes back, to the bit or to the sample, or an error says why not."""

import importlib.util
import os
import resource
import stat
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from mss import audio
from mss.audio import AudioError, Encoding, Reader, Writer, decoding, integrity

TAGS = {"title": "Gymnopédie", "artist": "Érik", "album": "Trois", "date": "1888", "genre": "Classical"}
LOSSY = {"mp3": 44100, "ogg": 44100, "opus": 48000, "m4a": 44100}


def noise(channels, samples, seed=0, scale=0.1):
    """Low-passed noise: broadband enough to align by correlation, easy enough for any codec."""
    x = torch.randn(channels, samples + 8, generator=torch.Generator().manual_seed(seed))
    return scale * x.unfold(-1, 9, 1).mean(-1) * 3


def integers(channels, samples, bits):
    """Every kind of integer sample, both ends of the range included, as floats."""
    top = 2 ** (bits - 1)
    x = torch.randint(-top, top, (channels, samples), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, :2] = torch.tensor([-top, top - 1], dtype=torch.float64)
    return x / top


def lag(x, y):
    """By how many samples y is late."""
    size = 2 * max(x.shape[-1], y.shape[-1])
    correlation = torch.fft.irfft(torch.fft.rfft(y[0], size) * torch.fft.rfft(x[0], size).conj(), size)
    best = int(correlation.argmax())
    return best if best < size // 2 else best - size


@pytest.fixture(scope="session")
def stems_path():
    spec = importlib.util.find_spec("stempeg")
    if spec is None:
        pytest.skip("stempeg's excerpt is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("data/*.mp4"))


# Round trips


@pytest.mark.parametrize(
    ("name", "subtype", "bits"),
    [("wav", "int16", 16), ("wav", "int24", 24), ("flac", "int16", 16), ("flac", "int24", 24)],
)
def test_integers_come_back_bit_by_bit(tmp_path, name, subtype, bits):
    x = integers(2, 5000, bits)
    path = tmp_path / f"x.{name}"
    stats = audio.write(path, x, 44100, encoding=Encoding(name, subtype))
    y, rate = audio.read(path)
    assert rate == 44100
    assert torch.equal(y.double(), x)
    assert stats.clipped == 0
    raw, _ = soundfile.read(path, dtype="int32")
    assert np.array_equal(raw.T, (x * 2**31).numpy().astype(np.int32))
    assert audio.info(path).subtype == subtype


def test_int32_and_float32(tmp_path):
    x = integers(1, 5000, 32)
    audio.write(tmp_path / "i.wav", x, 8000, encoding=Encoding("wav", "int32"))
    raw, _ = soundfile.read(tmp_path / "i.wav", dtype="int32")
    assert np.array_equal(raw, (x[0] * 2**31).numpy().astype(np.int64).astype(np.int32))
    assert torch.equal(audio.read(tmp_path / "i.wav")[0], x.float())
    loud = noise(3, 1000, scale=100.0)
    stats = audio.write(tmp_path / "f.wav", loud, 8000)
    assert torch.equal(audio.read(tmp_path / "f.wav")[0], loud)
    assert stats.peak == loud.abs().max()
    assert stats.clipped == 0
    assert stats.frames == 1000


@pytest.mark.parametrize(
    ("form", "subtype", "named"),
    [
        ("WAV", "PCM_U8", "uint8"),
        ("WAV", "DOUBLE", "float64"),
        ("WAVEX", "PCM_24", "int24"),
        ("RF64", "PCM_16", "int16"),
        ("W64", "PCM_16", "int16"),
        ("AIFF", "PCM_24", "int24"),
        ("CAF", "PCM_32", "int32"),
        ("CAF", "ALAC_16", "int16"),
        ("AU", "PCM_16", "int16"),
        ("FLAC", "PCM_S8", "int8"),
        ("WAV", "ULAW", None),
        ("WAV", "IMA_ADPCM", None),
    ],
)
def test_reads_lossless_formats(tmp_path, form, subtype, named):
    path = tmp_path / f"x.{form.lower()}"
    soundfile.write(path, noise(2, 4040).T.numpy(), 22050, format=form, subtype=subtype)
    truth, _ = soundfile.read(path, dtype="float32")
    y, rate = audio.read(path)
    assert rate == 22050
    assert np.array_equal(y.T.numpy(), truth)
    assert audio.info(path).subtype == named
    assert audio.info(path).frames == len(truth)


def test_stems_take_the_depth_of_the_input(tmp_path):
    soundfile.write(tmp_path / "x.aiff", noise(1, 100).T.numpy(), 8000, subtype="PCM_24")
    assert Encoding.like(audio.info(tmp_path / "x.aiff")) == Encoding("wav", "int24")
    audio.write(tmp_path / "x.mp3", noise(1, 3000), 8000)
    assert Encoding.like(audio.info(tmp_path / "x.mp3")) == Encoding("wav", "float32")


def test_saturation_is_counted(tmp_path):
    x = torch.tensor([[0.5, 1.5, -1.0, -1.25, 32767 / 32768, 1.0]])
    with Writer(tmp_path / "x.wav", 8000, 1, encoding=Encoding("wav", "int16")) as writer:
        writer.write(x[:, :3])
        writer.write(x[:, 3:])
    assert (writer.clipped, writer.peak, writer.frames) == (3, 1.5, 6)
    assert audio.read(tmp_path / "x.wav")[0].mul(32768).tolist() == [[16384, 32767, -32768, -32768, 32767, 32767]]


# Lossy codecs: aligned to the sample, of the same length, the same bytes each time


@pytest.mark.parametrize(
    ("name", "rate"),
    [*LOSSY.items(), ("mp3", 8000), ("mp3", 16000), ("mp3", 48000), ("ogg", 22050), ("m4a", 8000), ("m4a", 64000)],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_codecs_keep_time_and_length(tmp_path, name, rate, channels):
    path = tmp_path / f"x.{name}"
    for samples in (1, 30, rate // 100, 1152, 2048, 44101):
        x = noise(channels, samples)
        audio.write(path, x, rate)
        y, got = audio.read(path)
        assert (got, y.shape, audio.info(path).frames) == (rate, x.shape, samples)
        if samples > 2000:
            assert lag(x, y) == 0
            assert torch.corrcoef(torch.stack([x[0], y[0]]))[0, 1] > 0.9


@pytest.mark.parametrize("name", ["wav", "flac", *LOSSY])
def test_the_same_samples_give_the_same_bytes(tmp_path, name):
    x, rate = noise(2, 30000), LOSSY.get(name, 44100)
    files = []
    for sizes in (30000, 777):
        with Writer(tmp_path / f"{sizes}.{name}", rate, 2, tags=TAGS) as writer:
            for block in x.split(sizes, dim=1):
                writer.write(block)
        files.append((tmp_path / f"{sizes}.{name}").read_bytes())
    assert files[0] == files[1]


def test_ogg_pages_have_valid_checksums(tmp_path):
    audio.write(tmp_path / "x.ogg", noise(1, 30000), 44100)
    data = (tmp_path / "x.ogg").read_bytes()
    while data:
        size = 27 + data[26] + sum(data[27 : 27 + data[26]])
        register = 0
        for byte in data[:22] + bytes(4) + data[26:size]:
            register ^= byte << 24
            for _ in range(8):
                register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
        assert register == int.from_bytes(data[22:26], "little")
        data = data[size:]


def test_bitrate_is_obeyed(tmp_path):
    sizes = {}
    for name, rate in LOSSY.items():
        for bitrate in (64_000, 192_000):
            audio.write(tmp_path / f"x.{name}", noise(2, 3 * rate), rate, encoding=Encoding(name, bitrate=bitrate))
            sizes[name, bitrate] = (tmp_path / f"x.{name}").stat().st_size
    assert all(sizes[name, 192_000] > 1.5 * sizes[name, 64_000] for name in LOSSY)


# Blocks and excerpts


@pytest.mark.parametrize("name", ["wav", "flac", *LOSSY])
def test_excerpts_equal_slices_and_blocks_the_whole(tmp_path, name):
    path, rate = tmp_path / f"x.{name}", LOSSY.get(name, 44100)
    audio.write(path, noise(2, 70000), rate)
    whole, _ = audio.read(path)
    assert whole.dtype == torch.float32
    for first, count in ((0, 1), (1, 5000), (33333, 20000), (69999, 1)):
        excerpt, _ = audio.read(path, start=first / rate, duration=count / rate)
        assert torch.equal(excerpt, whole[:, first : first + count])
    assert torch.equal(audio.read(path, start=60000 / rate, duration=9.0)[0], whole[:, 60000:])
    with Reader(path) as reader:
        assert reader.frames == 70000
        for size in (999, 70000, 100000):
            blocks = list(reader.blocks(size))
            assert all(block.shape == (2, size) for block in blocks[:-1])
            assert torch.equal(torch.cat(blocks, dim=1), whole)
    with Reader(path, start=1.0, duration=0.25) as reader:
        assert reader.frames == round(0.25 * rate)


def test_five_stems(stems_path):
    stems, rate = audio.read_stems(stems_path)
    assert rate == 44100
    assert stems.shape == (5, 2, 268288)
    assert audio.info(stems_path).streams == 5
    for n in range(5):
        assert torch.equal(stems[n], audio.read(stems_path, stream=n)[0])
    excerpt, _ = audio.read_stems(stems_path, start=2.0, duration=1.0)
    assert torch.equal(excerpt, stems[:, :, 88200 : 88200 + 44100])
    # each stem is an AAC file of its own, so the mixture equals their sum up to the codec's noise
    error = stems[1:].sum(0) - stems[0]
    assert error.square().mean() < 0.05 * stems[0].square().mean()


def test_audio_of_a_video(tmp_path):
    x = noise(2, 48000)
    for name, codec in (("mp4", "aac"), ("mov", "aac"), ("mkv", "aac"), ("webm", "libopus")):
        path = tmp_path / f"x.{name}"
        with av.open(str(path), "w") as container:
            video = container.add_stream("mpeg4" if name != "webm" else "libvpx", rate=25)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            sound = container.add_stream(codec, rate=48000)
            sound.codec_context.layout = "stereo"
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            for number in range(25):
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            for begin in range(0, 48000, 960):
                piece = np.ascontiguousarray(x[:, begin : begin + 960].T.numpy().reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(piece, "flt", "stereo")
                frame.sample_rate, frame.pts = 48000, begin
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        y, rate = audio.read(path)
        assert rate == 48000
        assert lag(x, y) == 0
        assert 0 <= y.shape[1] - 48000 < 1024  # a Matroska file does not say how much padding AAC has


# Resampling


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (44100, 48000), (48000, 44100), (44100, 16000), (8000, 44100), (96000, 48000),
        (44100, 1050), (1050, 44100), (22050, 44100),
    ],
)  # fmt: skip
def test_resampling_in_blocks_equals_the_whole(before, after):
    x = noise(2, 180000, scale=0.3)
    whole = audio.resample(x, before, after)
    assert whole.shape == (2, -(-180000 * after // before))
    for size in (1000, 70001, 180000):
        blocks = torch.cat(list(audio.resample_blocks(x.split(size, dim=1), before, after)), dim=1)
        assert blocks.shape == whole.shape
        assert (blocks - whole).abs().max() < 1e-6
    assert torch.equal(torch.cat(list(audio.resample_blocks(x.split(999, dim=1), before, before)), dim=1), x)


def test_resampling_takes_any_layout_in_memory():
    x = noise(2, 9000).view(1, 2, -1).expand(3, 2, -1).transpose(0, 1)
    assert torch.equal(audio.resample(x, 44100, 16000), audio.resample(x.contiguous(), 44100, 16000))


@pytest.mark.parametrize(("before", "after"), [(42, 1), (1, 42), (2, 1), (1, 2), (3, 2), (31, 5), (5, 31), (147, 160)])
def test_resampling_by_few_filters_and_by_many_is_torchaudios(before, after):
    """Few are a matrix of shifted copies here."""
    theirs = torchaudio.transforms.Resample(before, after, "sinc_interp_kaiser", 64, 0.95, 14.77, dtype=torch.float64)
    for length in (0, 1, before, 100 * before + 1, 500 * before):
        x = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert audio.resample(x, before, after).shape == (2, 3, -(-length * after // before))
        if length:
            assert torch.allclose(audio.resample(x, before, after), theirs(x), atol=1e-12)


def test_resampling_can_be_differentiated_after_it_was_used_in_inference():
    for rates in ((8820, 210), (8820, 9600)):  # few filters, many
        with torch.inference_mode():
            audio.resample(noise(1, 9000), *rates)
        x = noise(1, 9000).requires_grad_()
        audio.resample(x, *rates).square().sum().backward()
        assert x.grad.abs().max() > 0


def test_resampling_keeps_a_sine_and_removes_what_would_alias(tmp_path):
    t = torch.arange(44100, dtype=torch.float64) / 44100
    sine = torch.sin(2 * torch.pi * 1000 * t)[None].float()
    y = audio.resample(sine, 44100, 48000)[0]
    truth = torch.sin(2 * torch.pi * 1000 * torch.arange(48000, dtype=torch.float64) / 48000).float()
    assert (y - truth)[500:-500].abs().max() < 1e-4
    high = torch.sin(2 * torch.pi * 9000 * t)[None].float()
    assert audio.resample(high, 44100, 16000)[0, 500:-500].abs().max() < 1e-4
    audio.write(tmp_path / "x.wav", sine, 44100)
    read, rate = audio.read(tmp_path / "x.wav", sample_rate=48000)
    assert rate == 48000
    assert torch.equal(read[0], y)
    assert next(audio.resample_blocks([torch.ones(1, 1)], 8000, 16000)).shape == (1, 2)
    with pytest.raises(AudioError, match="common divisor"):
        audio.resample(sine, 44100, 44101)


# Tags, layouts, limits


@pytest.mark.parametrize("name", ["wav", "flac", *LOSSY])
@pytest.mark.parametrize("source", ["flac", "mp3", "ogg", "m4a"])
def test_tags_survive(tmp_path, source, name):
    audio.write(tmp_path / f"a.{source}", noise(1, 9000), 44100, tags=TAGS)
    tags = audio.info(tmp_path / f"a.{source}").tags
    assert tags == TAGS
    audio.write(tmp_path / f"b.{name}", noise(1, 9000), LOSSY.get(name, 44100), tags=tags)
    assert audio.info(tmp_path / f"b.{name}").tags == TAGS


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "m4a"])
@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("3.0", 3), ("5.1", 6), ("7.1", 8)])
def test_channels_keep_their_places(tmp_path, name, layout, channels):
    t = torch.arange(48000) / 48000
    x = torch.stack([0.1 * torch.sin(2 * torch.pi * 20 * (c + 1) * t) for c in range(channels)])
    audio.write(tmp_path / f"x.{name}", x, 48000, layout=layout)
    y, _ = audio.read(tmp_path / f"x.{name}")
    described = audio.info(tmp_path / f"x.{name}")
    assert (described.layout, described.channels, y.shape) == (layout, channels, x.shape)
    peaks = torch.fft.rfft(y).abs().argmax(-1)
    assert peaks.tolist() == [20 * (c + 1) for c in range(channels)]


@pytest.mark.parametrize("channels", [3, 5, 6, 7, 8])
def test_vorbis_orders_channels_as_its_specification_says(tmp_path, channels):
    """FFmpeg, which the reader does not use here, finds them at the same places."""
    t = torch.arange(48000) / 48000
    x = torch.stack([0.1 * torch.sin(2 * torch.pi * 20 * (c + 1) * t) for c in range(channels)])
    audio.write(tmp_path / "x.ogg", x, 48000)
    with decoding.open_container(tmp_path / "x.ogg") as container:
        stream = container.streams.audio[0]
        y = np.concatenate([piece for _, piece in decoding.decode(container, tmp_path, [stream])], axis=1)
    assert np.abs(np.fft.rfft(y[:, :48000])).argmax(-1).tolist() == [20 * (c + 1) for c in range(channels)]
    assert torch.allclose(audio.read(tmp_path / "x.ogg")[0], torch.from_numpy(y[:, :48000]), atol=1e-6)


def test_wav_and_flac_hold_the_channel_mask(tmp_path):
    audio.write(tmp_path / "x.wav", noise(6, 100), 48000, layout="5.1(side)")
    data = (tmp_path / "x.wav").read_bytes()
    assert struct.unpack_from("<I", data, data.index(b"fmt ") + 8 + 20)[0] == 0x60F
    for name in ("wav", "flac"):
        audio.write(tmp_path / f"x.{name}", noise(6, 100), 48000, layout="5.1(side)")
        assert audio.info(tmp_path / f"x.{name}").layout == "5.1(side)"
    audio.write(tmp_path / "x.wav", noise(10, 100), 48000)
    assert torch.equal(audio.read(tmp_path / "x.wav")[0], noise(10, 100))


@pytest.mark.parametrize(
    ("encoding", "rate", "channels", "message"),
    [
        (Encoding("opus"), 44100, 2, "only 48000 Hz"),
        (Encoding("opus"), 48000, 5, "1, 2, 3, 4, 6, 8 channels"),
        (Encoding("mp3"), 96000, 2, "cannot hold 96000 Hz"),
        (Encoding("mp3"), 44100, 6, "1, 2 channels, not 6"),
        (Encoding("mp3", bitrate=400_000), 44100, 2, "32000 to 320000 bit/s"),
        (Encoding("m4a"), 192000, 2, "cannot hold 192000 Hz"),
        (Encoding("ogg"), 4000, 2, "8000 to 192000 Hz"),
        (Encoding("flac"), 44100, 9, "not 9"),
        (Encoding("flac"), 700000, 1, "655350"),
    ],
)
def test_limits_are_refused_at_once(tmp_path, encoding, rate, channels, message):
    with pytest.raises(AudioError, match=message):
        Writer(tmp_path / f"x.{encoding.extension}", rate, channels, encoding=encoding)
    assert not list(tmp_path.iterdir())


def test_encodings_are_checked():
    for arguments, message in [
        (("flac", "float32"), "use int24"),
        (("mp3", "int16"), "lossy"),
        (("wav", None, 128000), "lossless"),
        (("aiff",), "Unknown container"),
        (("wav", "int8"), "use one of"),
    ]:
        with pytest.raises(AudioError, match=message):
            Encoding(*arguments)
    assert (Encoding().subtype, Encoding("flac").subtype, Encoding("opus").extension) == ("float32", "int24", "opus")


@pytest.mark.parametrize("rate", [8000, 192000])
def test_wav_beyond_four_gigabytes_has_room_for_its_size(tmp_path, rate):
    audio.write(tmp_path / "x.wav", noise(1, 10), rate)
    data = (tmp_path / "x.wav").read_bytes()
    assert data[12:16] == b"JUNK"  # where the muxer puts ds64 when the data outgrow 32 bits
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    long = b"RF64" + b"\xff" * 4 + b"WAVEds64" + struct.pack("<IQQQI", 28, 0, 5 << 30, 5 << 29, 0) + fmt
    path = tmp_path / "long.wav"
    with path.open("wb") as file:  # five sparse gigabytes
        file.write(long + b"data" + b"\xff" * 4)
        begin = file.tell()
        file.truncate(begin + (5 << 30))
        file.seek(begin + (5 << 30) - 2)
        file.write(b"\x00\x40")
    with Reader(path, start=((5 << 29) - 3) / rate) as reader:
        assert reader.info.frames == 5 << 29
        assert next(reader.blocks(10)).tolist() == [[0, 0, 0.5]]
    os.truncate(path, 5 << 29)
    assert integrity.missing_bytes(path) == (5 << 29) + begin


# Bad input


def refused(path, message, **options):
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(path, **options)
    assert path.name in str(caught.value)


def test_what_is_no_audio_file(tmp_path, monkeypatch):
    refused(tmp_path / "none.wav", "does not exist")
    refused(tmp_path, "is a directory")
    (tmp_path / "empty.mp3").touch()
    refused(tmp_path / "empty.mp3", "empty")
    (tmp_path / "text.mp3").write_text("This is no music. " * 500)
    refused(tmp_path / "text.mp3", "not a readable audio file")
    image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
    for name, kind, message in (("x.png", "image2", "of another kind"), ("x.mov", "mov", "no audio stream")):
        with av.open(str(tmp_path / name), "w", format=kind) as container:
            stream = container.add_stream("png", rate=1)
            stream.width = stream.height = 32
            stream.pix_fmt = "rgb24"
            container.mux(stream.encode(image))
        refused(tmp_path / name, message)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(tmp_path / "text.mp3", "permissions")


@pytest.mark.parametrize("name", ["wav", "flac", *LOSSY, "aiff", "caf", "w64", "webm"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_files(tmp_path, name, part):
    path, rate = tmp_path / f"x.{name}", LOSSY.get(name, 48000)
    if name in ("aiff", "caf", "w64"):
        soundfile.write(path, noise(2, 100000).T.numpy(), rate)
    elif name == "webm":
        audio.write(tmp_path / "x.opus", noise(2, 100000), 48000)
        with av.open(str(tmp_path / "x.opus")) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(source.streams.audio[0]):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    else:
        audio.write(path, noise(2, 100000), rate)
    audio.read(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(path, "truncated|damaged|cut short")


@pytest.mark.parametrize("name", ["flac", *LOSSY])
def test_damage_in_the_middle(tmp_path, name):
    path = tmp_path / f"x.{name}"
    audio.write(path, noise(2, 100000), LOSSY.get(name, 44100))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    if name in ("flac", "ogg", "opus"):  # which have checksums
        data[middle] ^= 1
        path.write_bytes(data)
        refused(path, "damaged")
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    refused(path, "damaged")


def test_healthy_oddities_are_read(tmp_path):
    """Streaming sizes in WAV, no length in FLAC, no header or foreign tags in MP3, an unpadded last chunk."""
    x = noise(1, 30001)
    audio.write(tmp_path / "x.wav", x, 44100, encoding=Encoding("wav", "int16"))
    data = bytearray((tmp_path / "x.wav").read_bytes())
    whole, _ = audio.read(tmp_path / "x.wav")
    at = data.index(b"data") + 4
    for size in (0, 0xFFFFFFFF):
        data[at : at + 4] = data[4:8] = struct.pack("<I", size)
        (tmp_path / "stream.wav").write_bytes(data)
        assert torch.equal(audio.read(tmp_path / "stream.wav")[0], whole)
    soundfile.write(tmp_path / "x.flac", whole.T.numpy(), 44100)
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(data)
    assert torch.equal(audio.read(tmp_path / "x.flac")[0], whole)
    assert audio.info(tmp_path / "x.flac").frames is None
    soundfile.write(tmp_path / "odd.wav", np.zeros((3, 1)), 8000, subtype="PCM_U8")
    data = (tmp_path / "odd.wav").read_bytes()
    (tmp_path / "odd.wav").write_bytes(data[: data.index(b"data") + 8 + 3])
    assert audio.read(tmp_path / "odd.wav")[0].shape == (1, 3)
    audio.write(tmp_path / "x.mp3", x, 44100)
    data = (tmp_path / "x.mp3").read_bytes()
    whole, _ = audio.read(tmp_path / "x.mp3")
    for tail in (b"TAG" + bytes(125), b"LYRICSBEGIN" + b"la " * 300 + b"LYRICS200", bytes(5000)):
        (tmp_path / "tail.mp3").write_bytes(data + tail)
        assert torch.equal(audio.read(tmp_path / "tail.mp3")[0], whole)
    header = integrity.xing_header(tmp_path / "x.mp3")
    second = data.index(b"\xff\xfb", header.extension + 36)
    (tmp_path / "bare.mp3").write_bytes(data[second:])
    assert audio.info(tmp_path / "bare.mp3").frames is None
    assert audio.read(tmp_path / "bare.mp3")[0].shape[1] == header.frames * 1152


def test_mp3_header_is_the_measure(tmp_path):
    """Whole MPEG frames removed from the end leave a file that decodes without any error."""
    audio.write(tmp_path / "x.mp3", noise(1, 60000), 44100, encoding=Encoding("mp3", bitrate=128_000))
    data = (tmp_path / "x.mp3").read_bytes()
    (tmp_path / "x.mp3").write_bytes(data[: -4 * 418])
    refused(tmp_path / "x.mp3", "header promises 60000 samples")


def test_samples_that_are_no_numbers(tmp_path):
    x = noise(2, 5000)
    x[0, 4000], x[1, 4000], x[1, 4500] = float("nan"), float("inf"), float("-inf")
    soundfile.write(tmp_path / "x.wav", x.T.numpy(), 8000, subtype="FLOAT")
    refused(tmp_path / "x.wav", r"3 in this block, the first at 0\.5000")
    with (
        Reader(tmp_path / "x.wav") as reader,
        pytest.raises(AudioError, match=r"2 in this block, the first at 0\.5000"),
    ):
        list(reader.blocks(4200))
    assert audio.read(tmp_path / "x.wav", duration=0.5)[0].shape == (2, 4000)
    with pytest.raises(AudioError, match=r"given NaN or infinite samples: 3"):
        audio.write(tmp_path / "y.wav", x, 8000)
    assert not (tmp_path / "y.wav").exists()


def test_excerpts_and_streams_that_are_not_there(tmp_path):
    for name in ("wav", "mp3"):
        audio.write(tmp_path / f"x.{name}", noise(1, 8000), 8000)
        refused(tmp_path / f"x.{name}", r"ends at 1\.000 s, before the start asked for, 2\.000 s", start=2.0)
        refused(tmp_path / f"x.{name}", "none 1", stream=1)
        with pytest.raises(AudioError, match="starts at zero"):
            audio.read(tmp_path / f"x.{name}", start=-1.0)
        with pytest.raises(AudioError, match="more than zero"):
            audio.read(tmp_path / f"x.{name}", duration=0.0)
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), 8000)
    refused(tmp_path / "none.wav", "no samples")
    soundfile.write(tmp_path / "none.flac", np.zeros((0, 2)), 8000)
    refused(tmp_path / "none.flac", "empty")


# The writer's manners


@pytest.mark.parametrize("name", ["wav", "flac", *LOSSY])
def test_a_file_appears_only_when_complete(tmp_path, name):
    path, rate = tmp_path / f"x.{name}", LOSSY.get(name, 44100)
    path.write_bytes(b"before")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), Writer(path, rate, 2) as writer:  # noqa: PT012
            writer.write(noise(2, 20000))
            assert path.read_bytes() == b"before"
            assert len(list(tmp_path.iterdir())) == 2
            raise error
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        assert path.read_bytes() == b"before"
    with pytest.raises(AudioError, match="no samples"), Writer(path, rate, 2):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    old = os.umask(0o027)
    try:
        audio.write(path, noise(2, 100), rate)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert audio.read(path)[0].shape == (2, 100)


@pytest.mark.parametrize("name", ["wav", "flac", *LOSSY])
def test_a_full_disk_is_reported(tmp_path, name):
    path, rate = tmp_path / f"x.{name}", LOSSY.get(name, 44100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    try:
        with pytest.raises(AudioError, match="disk"):
            audio.write(path, noise(2, 100000), rate)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written(tmp_path):
    for name in ("x.wav", "x.ogg"):
        with pytest.raises(AudioError, match="folder exists"):
            Writer(tmp_path / "none" / name, 8000, 1)
    with pytest.raises(AudioError, match="no known suffix"):
        Writer(tmp_path / "x.xyz", 8000, 1)
    with pytest.raises(AudioError, match=r"name it with \.flac"):
        Writer(tmp_path / "x.wav", 8000, 1, encoding=Encoding("flac"))
    with pytest.raises(AudioError, match="has 6 channels, not 2"):
        Writer(tmp_path / "x.wav", 8000, 2, layout="5.1")
    with Writer(tmp_path / "x.wav", 8000, 2) as writer:
        for bad in (torch.zeros(1, 5), torch.zeros(5), torch.zeros(2, 5, dtype=torch.int16)):
            with pytest.raises(AudioError, match="floating-point blocks"):
                writer.write(bad)
        writer.write(torch.zeros(2, 0))
        writer.write(torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(AudioError, match="closed"):
        writer.write(torch.zeros(2, 5))


@pytest.mark.parametrize("playlist", ["ffconcat version 1.0\nfile private.wav\n", "#EXTM3U\n#EXTINF:2,\nprivate.wav\n"])
@pytest.mark.parametrize("head", [b"", b"ID3\x04\x00\x00\x00\x00\x00\x00"], ids=["", "behind a tag"])
def test_a_playlist_in_disguise_opens_no_other_file(tmp_path, playlist, head):
    soundfile.write(tmp_path / "private.wav", noise(1, 8000).T, 8000)
    song = tmp_path / "song.mp3"
    song.write_bytes(head + playlist.encode())
    with pytest.raises(AudioError, match="not a readable audio file"):
        audio.read(song)
