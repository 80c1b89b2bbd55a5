"""How fast a video is prepared: frames/s through decoding, resizing and JPEG over those of decoding alone.

    python benchmarks/prepare_video.py
    python benchmarks/prepare_video.py --video day.mp4 --threads 2 --json prepare.json
    python benchmarks/prepare_video.py --memory

Decoding alone is PyAV's plain loop over all frames. Preparing is what a worker of `singlelife prepare` does: it keeps
frames at `--frame-rate`, resizes them to `--frame-size` px, encodes and writes them. Both use as many decoder threads
and take turns, so that a change of the machine's speed meets both; the medians are compared. Without `--video` a file
of H.264 of 1280x720 px at 30 Hz and 5 Mbit/s is made: a camera wanders over a picture with detail at all scales and
noise of its own in each frame.

`--memory` prepares a file of some minutes, and one of ten times that, each as `singlelife prepare` would, in a process
of its own, and compares the most memory that each held. The long file is the short one's packets over and over.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from singlelife.lives.prepare import life_features, prepare_life
from singlelife.lives.registry import get_life
from singlelife.lives.shards import Shard
from singlelife.lives.video.sources import VideoFile

_WIDTH, _HEIGHT, _RATE, _BITS_PER_SECOND = 1280, 720, 30, 5_000_000
_SCENE_SIDE = 3072  # px of the picture that the camera wanders over
_MADE_SECONDS = 20


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    if arguments.prepare_only:
        print(peak_of_this_process(arguments))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure = memory if arguments.memory else speed
        results = measure(arguments, Path(folder))
    print("\n".join(f"{name.replace('_', ' '):<30}{shown(value)}" for name, value in results.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--video", type=Path, help="measure on this file (default: one is made)")
    parser.add_argument("--threads", type=int, default=1, help="of the decoder, of both")
    parser.add_argument("--frame-rate", type=float, default=10.0, help="of the kept frames, in Hz")
    parser.add_argument("--frame-size", type=int, default=256, help="shorter side of the kept frames, in px")
    parser.add_argument("--rounds", type=int, default=9, help="turns to take medians of")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--minutes", type=float, default=6.0, help="of the shorter file, with --memory")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--prepare-only", type=Path, help=argparse.SUPPRESS)  # what --memory runs
    return parser.parse_args()


def speed(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Frames/s of decoding alone and of preparing."""
    video = arguments.video or make_video(folder / "made.mp4", _MADE_SECONDS)
    life = get_life("benchmark", [video])
    shard = Shard(
        VideoFile(video),
        video.name,
        arguments.frame_rate,
        arguments.frame_size,
        file=folder / "frames.arrow",
        schema=life_features(life).arrow_schema,
        num_threads=arguments.threads,
    )
    num_frames = decode(video, arguments.threads)
    turns: dict[str, Callable[[], object]] = {
        "decode": lambda: decode(video, arguments.threads),
        "prepare": lambda: shard.write(lambda _: None),
    }
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in tqdm(range(arguments.rounds), desc="rounds", file=sys.stderr):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            taken[name].append(time.perf_counter() - start)
    decoding, preparing = (statistics.median(taken[name]) for name in turns)
    report = shard.write(lambda _: None)
    return {
        **described(video),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "frames": num_frames,
        "frames_kept": report["num_frames"],
        "kept_bytes_per_frame": round(shard.file.stat().st_size / report["num_frames"]),
        "decode_frames_per_second": num_frames / decoding,
        "prepare_frames_per_second": num_frames / preparing,
        "prepare_over_decode": decoding / preparing,
    }


def decode(video: Path, threads: int) -> int:
    """Decode a file with PyAV and nothing else. Returns how many frames there are."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", threads
        return sum(1 for _ in container.decode(stream))


def memory(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The most memory that preparing a file takes, and one ten times as long."""
    piece = arguments.video or make_video(folder / "made.mp4", _MADE_SECONDS)
    results: dict[str, Any] = {**described(piece), "threads": arguments.threads}
    for name, minutes in (("short", arguments.minutes), ("long", 10 * arguments.minutes)):
        video = repeat(piece, folder / f"{name}.mp4", minutes * 60)
        command = [sys.executable, __file__, "--prepare-only", str(video), "--threads", str(arguments.threads)]
        start = time.perf_counter()
        peak = int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        results[f"{name}_minutes"] = minutes
        results[f"{name}_file_megabytes"] = video.stat().st_size / 1e6
        results[f"{name}_seconds"] = time.perf_counter() - start
        results[f"{name}_peak_mebibytes"] = peak / 2**20
        video.unlink()
    results["long_over_short_peak"] = results["long_peak_mebibytes"] / results["short_peak_mebibytes"]
    return results


def peak_of_this_process(arguments: argparse.Namespace) -> int:
    """Prepare a file in this process. Returns the most memory that was resident, in bytes."""
    with tempfile.TemporaryDirectory(dir=arguments.prepare_only.parent) as cache:
        prepare_life(get_life("benchmark", [arguments.prepare_only]), cache_dir=cache, num_workers=1)
    if sys.platform == "linux":  # whose ru_maxrss includes what the process that started this one held
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def make_video(path: Path, seconds: float) -> Path:
    """Encode H.264 of a camera that wanders over a picture with detail at all scales, with noise."""
    rng = np.random.default_rng(0)
    luma, *chroma = (scene(rng, _SCENE_SIDE // share, contrast) for share, contrast in ((1, 1.0), (2, 0.4), (2, 0.4)))
    noise = rng.normal(0, 3, (16, _HEIGHT, _WIDTH))
    with av.open(str(path), "w") as container:
        options = {"preset": "medium", "colorspace": "bt709", "color_range": "tv"}
        stream = container.add_stream("libx264", rate=_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.bit_rate, stream.codec_context.gop_size = _BITS_PER_SECOND, 2 * _RATE
        for index in tqdm(range(round(seconds * _RATE)), desc="making a video", file=sys.stderr):
            x = 2 * round(440 * (1 + np.sin(index / _RATE * 0.9)))  # even, since chroma has half the resolution
            y = 2 * round(580 * (1 + np.cos(index / _RATE * 0.7)))
            view = luma[y : y + _HEIGHT, x : x + _WIDTH] + noise[index % len(noise)]
            halves = [plane[y // 2 : (y + _HEIGHT) // 2, x // 2 : (x + _WIDTH) // 2] for plane in chroma]
            planes = np.concatenate([plane.ravel() for plane in (view, *halves)]).clip(16, 235).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(planes.reshape(_HEIGHT * 3 // 2, _WIDTH), format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, _RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def scene(rng: np.random.Generator, side: int, contrast: float) -> np.ndarray:
    """A picture with detail at all scales, float32 (side, side), about 128."""
    picture = np.full((side, side), 128, dtype=np.float32)
    for pixels, amplitude in ((128, 30), (32, 20), (8, 12), (2, 6)):
        coarse = Image.fromarray(rng.normal(0, contrast * amplitude, (side // pixels,) * 2).astype(np.float32))
        picture += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return picture


def repeat(video: Path, path: Path, seconds: float) -> Path:
    """A file with the packets of another, over and over, without encoding."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        assert stream.duration is not None and stream.time_base is not None
        for turn in range(round(seconds / float(stream.duration * stream.time_base))):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is not None and packet.pts is not None:
                    packet.dts, packet.pts = packet.dts + turn * stream.duration, packet.pts + turn * stream.duration
                    packet.stream = copy
                    target.mux(packet)
    return path


def described(video: Path) -> dict[str, Any]:
    """What a file holds."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return {
            "video": video.name,
            "pixels": f"{stream.width}x{stream.height}",
            "codec": stream.codec_context.name,
            "megabits_per_second": (container.bit_rate or 0) / 1e6,
            "pyav": av.__version__,
        }


def shown(value: Any) -> str:
    """A number or a word for people."""
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
