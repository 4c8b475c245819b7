"""Training and inference beside Open-Unmix's, a Markdown table: excerpts per second from compressed tracks and from WAV;
a training step beside the network alone; a whole song through networks of equal weights.

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
from _bench import child, memory, reset_peak

SECONDS, TRACKS, STEMS = 6.0, 3, ("vocals", "drums", "bass", "other")
BATCH, STEPS = 8, 6
UMX = {
    "_target_": "mss.SpectralSeparator",
    "targets": list(STEMS),
    "estimator": {
        "_target_": "mss.nets.Magnitudes",
        "networks": [{"_target_": "mss.nets.BLSTM", "max_bin": 1487} for _ in STEMS],
    },
    "transform": {"_target_": "mss.STFT", "padding": "reflect"},
    "filter": {"_target_": "mss.filters.wiener", "_partial_": True, "window": 300},
}
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


def bare_step() -> dict:
    """Seconds of one step of Open-Unmix, written out: transform, network, loss, backward, optimizer, on one batch."""
    from mss.spec import build
    from mss.training.step import Step

    torch.manual_seed(0)
    separator = build(UMX)
    optimizer = torch.optim.Adam(separator.parameters())
    stems = torch.randn(BATCH, len(STEMS), 2, round(SECONDS * 44100)) / 10
    times, alone = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad()
        step = Step(separator, stems, stems.sum(1))
        X, S = step.X, step.S.abs()
        network = time.perf_counter()
        torch.nn.functional.mse_loss(separator.estimator(X), S).backward()
        optimizer.step()
        end = time.perf_counter()
        times.append(end - start)
        alone.append(end - network)
    return {"seconds": statistics.median(times[1:]), "network": statistics.median(alone[1:])}


def whole_step(folder: Path) -> dict:
    """Seconds of one step of the same under `python -m mss.train`: reading, augmentation, logging and all."""
    import lightning
    from omegaconf import OmegaConf

    from mss.apps import training
    from mss.train import Options, schema

    class Clock(lightning.Callback):
        def __init__(self):
            self.times = []

        def on_train_batch_start(self, *_):
            self.start = getattr(self, "end", time.perf_counter())  # from the end of the last: reading counts, too

        def on_train_batch_end(self, *_):
            self.end = time.perf_counter()
            self.times.append(self.end - self.start)

    options = OmegaConf.to_container(schema(), throw_on_missing=False)
    options["data"] |= {
        "root": str(folder / "wav"), "valid": ["0"], "cache": str(folder / "cache-wav"), "seconds": SECONDS,
        "batch_size": BATCH, "per_track": BATCH * (STEPS + 1),
    }  # fmt: skip
    options["trainer"] |= {"max_steps": STEPS, "limit_val_batches": 0, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    options |= {"separator": UMX, "losses": {"magnitude_mse": 1}, "quiet": True}
    options["augment"] = [{"_target_": f"mss.data.augment.{name}"} for name in ("Gain", "ChannelSwap")]
    run = training.Run(Options(**options), folder / f"run-{os.getpid()}", "bench")
    clock = Clock()
    run.trainer.callbacks.append(clock)
    run.trainer.fit(run.module, datamodule=run.data)
    return {"seconds": statistics.median(clock.times[1:])}


def song(tool: str) -> dict:
    """Seconds and peak memory of four minutes through four networks of 512 hidden units, one EM iteration."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, 240 * 44100) / 10
    if tool == "openunmix":
        from openunmix.model import OpenUnmix, Separator

        networks = {name: OpenUnmix(nb_bins=2049, max_bin=1487) for name in STEMS}
        separator = Separator(networks, niter=1, sample_rate=44100.0, nb_channels=2).eval()
    else:
        from mss.spec import build

        separator = build(UMX).eval()
    with torch.inference_mode():
        separator(x[..., : 10 * 44100])
        reset_peak()
        base = memory("VmRSS")
        start = time.perf_counter()
        separator(x)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": (memory("VmHWM") - base) / 1e3, "outputs": x.nbytes * len(STEMS) / 1e9}


def bench_steps(rounds: int) -> list[str]:
    """The table of training steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, None)
        runs = {"step-bare": [], "step-whole": []}
        for _ in range(rounds):
            for tool, done in runs.items():
                done.append(child(__file__, tool, folder))
    bare = statistics.median(run["seconds"] for run in runs["step-bare"])
    alone = statistics.median(run["network"] for run in runs["step-bare"])
    whole = statistics.median(run["seconds"] for run in runs["step-whole"])
    return [
        f"A training step of Open-Unmix, four targets, {BATCH} excerpts of {SECONDS:g} s (medians of {rounds}).",
        "",
        "| network, loss, optimizer | and transforms | `mss.train`: and reading, augmentation, logging | over the second |",
        "|---|---|---|---|",
        f"| {alone:.2f} s | {bare:.2f} s | {whole:.2f} s | {100 * (whole / bare - 1):+.1f} % |",
    ]


def bench_songs(rounds: int) -> list[str]:
    """The table of inference."""
    runs = {"openunmix-song": [], "mss-song": []}
    for _ in range(rounds):
        for tool, done in runs.items():
            done.append(child(__file__, tool, Path()))
    a, b = (statistics.median(run["seconds"] for run in done) for done in runs.values())
    c, d = (statistics.median(run["peak"] for run in done) for done in runs.values())
    return [
        f"Four minutes of stereo through four networks of 512 hidden units and one EM iteration (medians of {rounds}); memory "
        f"beside the song, of which the estimates are {runs['mss-song'][0]['outputs']:.2f} GB.",
        "",
        "| | openunmix | mss | ratio |",
        "|---|---|---|---|",
        f"| time | {a:.1f} s | {b:.1f} s | {a / b:.1f} |",
        f"| memory | {c:.2f} GB | {d:.2f} GB | {c / d:.1f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/bench_training.md"), help="Markdown file to write")
    parser.add_argument("--track", type=Path, help="a .stem.mp4 with five streams")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each tool")
    parser.add_argument("--only", nargs="+", choices=("data", "steps", "songs"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        tool, folder = options.measure
        from mss.cli import start_torch

        with open(os.devnull, "w") as quiet:  # Open-Unmix prints what it finds
            out, sys.stdout = sys.stdout, quiet
            start_torch()  # as the command does: it keeps freed memory
            if tool == "step-bare":
                result = bare_step()
            elif tool == "step-whole":
                result = whole_step(Path(folder))
            elif tool.endswith("-song"):
                result = song(tool.removesuffix("-song"))
            else:
                result = measure(tool, Path(folder))
            sys.stdout = out
        print(json.dumps(result))
        return
    parts = {
        "data": lambda: bench_data(options.track, options.rounds),
        "steps": lambda: bench_steps(options.rounds),
        "songs": lambda: bench_songs(options.rounds),
    }
    chosen = [parts[name]() for name in options.only or parts]
    about = f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}. Written by `scripts/bench_training.py`."
    text = "\n".join(
        ["# Training: `mss` and Open-Unmix", "", about, *(line for part in chosen for line in ("", *part)), ""]
    )
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
