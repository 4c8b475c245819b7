"""Training beside Open-Unmix's: excerpts per second from compressed tracks and from WAV; a Markdown table.

    python scripts/bench_training.py                          # MUSDB18's excerpt in stempeg, 40 times: minutes
    python scripts/bench_training.py --track song.stem.mp4    # a whole song

Each measurement is a process of its own. Open-Unmix reads MUSDB18 through stempeg, which wants ffmpeg and ffprobe: the
first is searched on the PATH and in the package imageio-ffmpeg, the second is replaced by a script that repeats what it
would say, at once. Its WAV files are read by libsndfile as with the torchaudio that it was written for, whose `info` is
no more.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from _bench import child

SECONDS, TRACKS, STEMS = 6.0, 3, ("vocals", "drums", "bass", "other")
ROWS = {"mp4": "`.stem.mp4`", "wav": "WAV, 16 bits"}
COUNTS = {"openunmix-mp4": 5, "openunmix-wav": 100, "mss-mp4": 600, "mss-wav": 600}  # excerpts in one measurement


def prepare(folder: Path, song: Path | None) -> None:
    """Tracks to train on below mp4/train and wav/train: one song under several names."""
    from mss.audio import Encoding, read_stems, write

    if song is None:
        package = importlib.util.find_spec("stempeg").submodule_search_locations[0]
        song = folder / "song.stem.mp4"
        repeat(next((Path(package) / "data").glob("*.mp4")), song, 40)
    parts, rate = read_stems(song)
    (folder / "mp4" / "train").mkdir(parents=True)
    for n in range(TRACKS):
        shutil.copy(song, folder / "mp4" / "train" / f"{n}.stem.mp4")
        (folder / "wav" / "train" / str(n)).mkdir(parents=True)
        for name, x in zip(("mixture", "drums", "bass", "other", "vocals"), parts, strict=True):
            write(folder / "wav" / "train" / str(n) / f"{name}.wav", x, rate, encoding=Encoding(subtype="int16"))


def repeat(song: Path, out: Path, times: int) -> None:
    """A longer file of the same packets."""
    import av

    with av.open(str(song)) as first, av.open(str(out), "w", format="mp4") as target:
        streams = [target.add_stream_from_template(stream) for stream in first.streams.audio]
        begin = 0
        for _ in range(times):
            end = begin
            with av.open(str(song)) as source:
                position = {stream.index: n for n, stream in enumerate(source.streams.audio)}
                for packet in source.demux():
                    if packet.dts is not None and packet.stream.index in position:
                        packet.dts = packet.pts = packet.dts + begin
                        end = max(end, packet.dts + packet.duration)
                        packet.stream = streams[position[packet.stream.index]]
                        target.mux(packet)
            begin = end


def ffmpeg() -> str | None:
    """The binary, if there is one."""
    if found := shutil.which("ffmpeg"):
        return found
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return None
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def provide_ffmpeg(tracks: Path) -> None:
    """An ffmpeg, and an ffprobe that knows these tracks, on the PATH of this process."""
    from mss.audio import info

    tools = tracks.parent / "tools"
    tools.mkdir()
    (tools / "ffmpeg").symlink_to(ffmpeg())
    one = info(next(tracks.glob("*.mp4")))
    stream = {"codec_type": "audio", "sample_rate": str(one.sample_rate), "channels": one.channels}
    streams = [
        {**stream, "index": n, "duration": str(one.duration), "duration_ts": one.frames} for n in range(one.streams)
    ]
    answer = json.dumps({"streams": streams, "format": {"duration": str(one.duration)}})
    (tools / "ffprobe").write_text(f"#!/bin/sh\necho '{answer}'\n")
    (tools / "ffprobe").chmod(0o755)
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"


def provide_torchaudio() -> None:
    """The functions of torchaudio 0.9 that Open-Unmix calls."""
    import soundfile
    import torchaudio

    def info(path):
        found = soundfile.info(path)
        return SimpleNamespace(sample_rate=found.samplerate, num_frames=found.frames, num_channels=found.channels)

    def load(path, num_frames=-1, frame_offset=0):
        x, rate = soundfile.read(path, num_frames, frame_offset, dtype="float32", always_2d=True)
        return torch.from_numpy(x.T), rate

    torchaudio.get_audio_backend = lambda: "soundfile"
    torchaudio.info, torchaudio.load = info, load


def theirs(layout: str, folder: Path):
    from openunmix import data

    if layout == "mp4":
        provide_ffmpeg(folder / "mp4" / "train")
        return data.MUSDBDataset(
            "vocals",
            root=str(folder / "mp4"),
            subsets=["train"],
            split="train",
            seq_duration=SECONDS,
            samples_per_track=64,
            random_track_mix=True,
        )
    provide_torchaudio()
    files = [f"{stem}.wav" for stem in STEMS]
    return data.FixedSourcesTrackFolderDataset(
        str(folder / "wav"),
        target_file=files[0],
        interferer_files=files[1:],
        seq_duration=SECONDS,
        random_chunks=True,
        random_track_mix=True,
    )


def ours(layout: str, folder: Path):
    from mss.data import Excerpts, cached, find_tracks

    tracks = cached(find_tracks(folder / layout), folder=folder / f"cache-{layout}")
    return Excerpts(tracks, STEMS, seconds=SECONDS)


def measure(tool: str, folder: Path) -> dict:
    """Seconds for an excerpt of four stereo stems, and seconds until the first can be read."""
    torch.set_num_threads(1)
    name, layout = tool.split("-")
    begin = time.perf_counter()
    excerpts = (theirs if name == "openunmix" else ours)(layout, folder)
    ready = time.perf_counter() - begin
    times = []
    for index in range(COUNTS[tool]):
        start = time.perf_counter()
        excerpts[index % len(excerpts)]
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.mean(times[len(times) // 4 :]), "ready": ready}


def bench_data(song: Path | None, rounds: int) -> list[str]:
    """The table of excerpts per second."""
    lines = [
        f"Excerpts of {SECONDS:g} s, four stereo stems each from a random track and time, read one by one in one process "
        f"(medians of {rounds}, tools taking turns); decoding {TRACKS} tracks into the cache is done once.",
        "",
        "| from | openunmix | mss | ratio | decoding once |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, song)
        for layout, title in ROWS.items():
            if layout == "mp4" and ffmpeg() is None:
                ready = child(__file__, "mss-mp4", folder)
                rate = 1 / child(__file__, "mss-mp4", folder)["seconds"]
                lines.append(f"| {title} | no ffmpeg binary here | {rate:.0f} /s | | {ready['ready']:.1f} s |")
                continue
            runs = {"openunmix": [], "mss": []}
            for _ in range(rounds):
                for tool, done in runs.items():
                    shutil.rmtree(folder / "mp4" / "tools", ignore_errors=True)
                    done.append(child(__file__, f"{tool}-{layout}", folder))
            a, b = (1 / statistics.median(run["seconds"] for run in done) for done in runs.values())
            lines.append(f"| {title} | {a:.2f} /s | {b:.0f} /s | {b / a:.0f} | {runs['mss'][0]['ready']:.1f} s |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/bench_training.md"), help="Markdown file to write")
    parser.add_argument("--track", type=Path, help="a .stem.mp4 with five streams")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each tool")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        tool, folder = options.measure
        with open(os.devnull, "w") as quiet:  # Open-Unmix prints what it finds
            out, sys.stdout = sys.stdout, quiet
            result = measure(tool, Path(folder))
            sys.stdout = out
        print(json.dumps(result))
        return
    text = "\n".join(["# Training: `mss` and Open-Unmix", "", *bench_data(options.track, options.rounds), ""])
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
