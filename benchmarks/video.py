"""How fast a video is prepared: frames/s through decoding, resizing and JPEG over frames/s of decoding alone.

    python benchmarks/video.py
    python benchmarks/video.py --video day.mp4 --threads 2 --json video.json
    python benchmarks/video.py --memory

Decoding alone is PyAV's plain loop over all frames. Preparing is what a worker of `singlelife prepare` does. Both use
the same number of decoder threads and take turns; the medians are compared. Without `--video`, the script makes a file
of H.264, 1280x720 px at 30 Hz and 5 Mbit/s: a camera wanders over a picture, with new noise in each frame.

`--memory` prepares the file repeated to some minutes, and to ten times that, each in its own process, and compares
their peak memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from singlelife.lives.prepare import life_features, prepare_life
from singlelife.lives.registry import get_life
from singlelife.lives.shards import Shard
from singlelife.lives.video.reader import VideoFile

WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 30, 20


def main() -> None:
    """Measure, print the numbers and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--video", type=Path, help="measure on this file (default: one is made)")
    parser.add_argument("--threads", type=int, default=1, help="decoder threads, for both")
    parser.add_argument("--rounds", type=int, default=9, help="turns to take medians of")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--minutes", type=float, default=6.0, help="length of the shorter file, with --memory")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--prepare-only", type=Path, help=argparse.SUPPRESS)  # what --memory runs
    arguments = parser.parse_args()
    if arguments.prepare_only:
        print(peak_of_this_process(arguments.prepare_only))
        return
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video or make_video(Path(folder) / "made.mp4")
        measure = memory if arguments.memory else speed
        results = {"video": video.name} | measure(video, arguments, Path(folder))
    for name, value in results.items():
        print(f"{name.replace('_', ' '):<30}{f'{value:,.4g}' if isinstance(value, float) else value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def speed(video: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Frames/s of decoding alone and of preparing."""
    life = get_life("benchmark", [video])
    schema, file = life_features(life).arrow_schema, folder / "frames.arrow"
    shard = Shard(
        VideoFile(video), video.name, life.frame_rate, life.frame_size, file, schema, num_threads=arguments.threads
    )
    num_frames = decode(video, arguments.threads)
    turns = {"decode": lambda: decode(video, arguments.threads), "prepare": lambda: shard.write(lambda _: None)}
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in tqdm(range(arguments.rounds), desc="rounds", file=sys.stderr):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            taken[name].append(time.perf_counter() - start)
    decoding, preparing = (statistics.median(taken[name]) for name in turns)
    return {
        "threads": arguments.threads,
        "frames": num_frames,
        "frames_kept": shard.write(lambda _: None)["num_frames"],
        "decode_frames_per_second": num_frames / decoding,
        "prepare_frames_per_second": num_frames / preparing,
        "prepare_over_decode": decoding / preparing,
    }


def decode(video: Path, threads: int) -> int:
    """Decode all frames, and count them."""
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        container.streams.video[0].thread_count = threads
        return sum(1 for _ in container.decode(video=0))


def memory(video: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The peak memory of preparing a file, and a file ten times as long."""
    results: dict[str, Any] = {}
    for name, minutes in (("short", arguments.minutes), ("long", 10 * arguments.minutes)):
        file = repeat(video, folder / f"{name}.mp4", 60 * minutes)
        command = [sys.executable, __file__, "--prepare-only", str(file)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[f"{name}_file_megabytes"] = file.stat().st_size / 1e6
        results[f"{name}_peak_mebibytes"] = float(done.stdout)
    return results | {"long_over_short_peak": results["long_peak_mebibytes"] / results["short_peak_mebibytes"]}


def peak_of_this_process(video: Path) -> float:
    """Prepare a video in this process; the peak memory in MiB."""
    with tempfile.TemporaryDirectory() as cache:
        prepare_life(get_life("benchmark", [video]), cache_dir=cache, num_workers=1)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def make_video(path: Path) -> Path:
    """A camera that wanders over a picture with detail at all scales."""
    generator = np.random.default_rng(0)
    picture = np.full((2048, 3072, 3), 128, dtype=np.float32)
    for pixels, contrast in ((128, 30), (32, 20), (8, 12), (2, 6)):
        coarse = generator.normal(128, contrast, (2048 // pixels, 3072 // pixels, 3)).clip(0, 255).astype(np.uint8)
        picture += np.asarray(Image.fromarray(coarse).resize((3072, 2048), Image.Resampling.BICUBIC), np.float32) - 128
    noise = generator.normal(0, 4, (8, HEIGHT, WIDTH, 1)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "medium"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 5_000_000
        for index in tqdm(range(SECONDS * RATE), desc="making a video", file=sys.stderr):
            x = round(880 * (1 + np.sin(index / RATE * 0.9)))
            y = round(660 * (1 + np.cos(index / RATE * 0.7)))
            view = (picture[y : y + HEIGHT, x : x + WIDTH] + noise[index % len(noise)]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeat(video: Path, path: Path, seconds: float) -> Path:
    """A file with the packets of another, over and over, without encoding."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        assert stream.duration is not None and stream.time_base is not None
        for turn in range(max(1, round(seconds / float(stream.duration * stream.time_base)))):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is not None and packet.pts is not None:
                    packet.dts, packet.pts = packet.dts + turn * stream.duration, packet.pts + turn * stream.duration
                    packet.stream = copy
                    target.mux(packet)
    return path


if __name__ == "__main__":
    main()
