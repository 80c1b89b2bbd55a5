"""Preparing a life: from video files or a simulation to a dataset of frames, once.

A prepared life is a folder named after the life and the fingerprint of all it was made from. It appears whole or not
at all: work goes on in a folder beside it whose name ends in `.partial`, one Arrow file per video, each renamed when
it is complete, and the folder is renamed at the end. So a preparation that was killed goes on with the videos not yet
done.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array2D, DatasetInfo, Features, Image, List, Value
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from PIL import Image as PILImage
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.prepared import FORMAT_VERSION, METADATA, PreparedLife
from singlelife.lives.registry import Life
from singlelife.lives.simulated import DEPTH_SCALE, RENDERER_VERSION, render
from singlelife.lives.video import VideoReader, jpeg

_BYTES_PER_PIXEL = 0.5  # of a JPEG of quality 92; on the high side
_FINGERPRINTED = 1 << 20  # bytes at each end of a video
_ROWS_IN_MEMORY = 64

Counted = Callable[[int], object]  # told of frames as they are written


def default_cache_dir() -> Path:
    """`$SINGLELIFE_CACHE`, or `~/.cache/singlelife`."""
    return Path(os.environ.get("SINGLELIFE_CACHE") or Path.home() / ".cache" / "singlelife")


def prepare_life(
    life: Life,
    *,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PreparedLife:
    """The prepared life, made now if it has not been made before.

    Args:
        life: what to prepare.
        cache_dir: prepared lives go into its folder `lives`; `default_cache_dir()` if not given.
        num_workers: processes, each preparing one video at a time; as many as videos and cores allow by default.
        strict: stop at a video that cannot be read, instead of leaving it out with a warning.
        progress: show a progress bar on stderr.

    Raises:
        LifeError: a video cannot be read and `strict` is set, none can be read, or the disk lacks the room.
    """
    fingerprint = life_fingerprint(life)
    lives = Path(cache_dir or default_cache_dir()) / "lives"
    folder = lives / f"{life.name}-{fingerprint[:12]}"
    if not folder.exists():
        try:
            lives.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # a second process waits here, and then finds the folder
                if not folder.exists():
                    _prepare(life, fingerprint, folder, num_workers, strict, progress)
        except OSError as error:
            raise LifeError(
                f"The life {life.name} cannot be written into {lives}: {error.strerror or error}. Make room there, or "
                "choose another place with --cache-dir or the variable SINGLELIFE_CACHE. What was done is kept."
            ) from error
    return PreparedLife.load(folder)


def life_fingerprint(life: Life) -> str:
    """SHA-256 of all that decides what a life's prepared form holds, as a hex string.

    A video counts by its name, its size and its first and last MiB, not by its path or date: reading a week of video
    only to hash it would take as long as decoding it. An edit of a file's middle that keeps both its ends and its
    length to the byte is not noticed.

    Raises:
        LifeError: a video cannot be opened.
    """
    if life.simulation is not None:
        contents: Any = dataclasses.asdict(life.simulation) | {
            "renderer": RENDERER_VERSION,
            "vizdoom": version("vizdoom"),
        }
    else:
        contents = [[Path(video).name, _file_fingerprint(Path(video))] for video in life.videos]
    described = [FORMAT_VERSION, life.name, life.frame_rate, life.frame_size, contents]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _file_fingerprint(path: Path) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_FINGERPRINTED))
            file.seek(max(0, size - _FINGERPRINTED))
            digest.update(file.read(_FINGERPRINTED))
    except OSError as error:
        raise LifeError(f"{path}: {error.strerror}.") from error
    return f"{size}-{digest.hexdigest()}"


def _prepare(
    life: Life, fingerprint: str, folder: Path, num_workers: int | None, strict: bool, progress: bool
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    jobs = _jobs(life, partial)
    _check_room(life, jobs, partial)
    reports = _run(jobs, num_workers, strict, f"Preparing {life.name}" if progress else None)

    good = [report for report in reports if "error" not in report]
    errors = [report["error"] for report in reports if "error" in report]
    if not good:
        raise LifeError(f"No video of the life {life.name} can be used:\n  " + "\n  ".join(errors))
    for error in errors:
        warnings.warn(f"Left out of the life {life.name}: {error}", stacklevel=4)

    metadata = {
        "format_version": FORMAT_VERSION,
        "name": life.name,
        "fingerprint": fingerprint,
        "kind": life.kind,
        "dataset": life.dataset,
        "license": life.license,
        "frame_rate": life.frame_rate,
        "frame_size": life.frame_size,
        "simulation": dataclasses.asdict(life.simulation) if life.simulation else None,
        "depth_scale": DEPTH_SCALE if life.simulation else None,
        "num_frames": sum(report["num_frames"] for report in good),
        "videos": [{key: value for key, value in report.items() if key != "file"} for report in good],
        "left_out": errors,
    }
    _write_dataset_description(partial, [report["file"] for report in good], _features(life), fingerprint)
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    for leftover in partial.glob("*.report.json"):
        leftover.unlink()
    partial.rename(folder)


@dataclasses.dataclass(frozen=True)
class _Job:
    """One video of a life, or its simulation, and the Arrow file that it becomes."""

    life: Life
    video: str
    file: Path

    def run(self, counted: Counted) -> dict[str, Any]:
        """Write the Arrow file, and a report beside it that says that the file is complete."""
        aside, done = self.file.with_suffix(".tmp"), self.file.with_suffix(".report.json")
        if done.exists():
            return json.loads(done.read_text(encoding="utf-8"))
        damaged = 0
        if self.life.simulation is not None:
            num_frames, seconds = _write_rows(aside, self.life, _simulated_rows(self.life), counted)
        else:
            with VideoReader(Path(self.video), self.life.frame_rate, self.life.frame_size) as reader:
                rows = _video_rows(reader, Path(self.video).name)
                num_frames, seconds = _write_rows(aside, self.life, rows, counted)
                damaged = reader.damaged_packets
        report = {
            "file": self.file.name,
            "video": Path(self.video).name,
            "num_frames": num_frames,
            "seconds": seconds,
            "damaged_packets": damaged,
        }
        aside.rename(self.file)
        written = done.with_suffix(".tmp")
        written.write_text(json.dumps(report), encoding="utf-8")
        written.rename(done)
        return report

    def num_frames_estimate(self) -> int:
        if self.life.simulation is not None:
            return self.life.simulation.num_frames
        try:
            with VideoReader(Path(self.video), self.life.frame_rate, self.life.frame_size) as reader:
                return reader.num_frames_estimate or 0
        except LifeError:
            return 0  # said when its turn comes


def _jobs(life: Life, partial: Path) -> list[_Job]:
    videos = life.videos or (life.name,)
    return [_Job(life, video, partial / f"data-{i:05d}-of-{len(videos):05d}.arrow") for i, video in enumerate(videos)]


def _check_room(life: Life, jobs: list[_Job], partial: Path) -> None:
    missing = [job for job in jobs if not job.file.exists()]
    pixels = life.frame_size**2 * (16 / 9 if life.simulation is None else 1)
    needed = int(sum(job.num_frames_estimate() for job in missing) * pixels * _BYTES_PER_PIXEL)
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise LifeError(
            f"The life {life.name} needs about {needed / 1e9:.1f} GB in {partial.parent}, where {free / 1e9:.1f} GB "
            "are free. Make room, or choose another place with --cache-dir or the variable SINGLELIFE_CACHE."
        )


def _run(jobs: list[_Job], num_workers: int | None, strict: bool, title: str | None) -> list[dict[str, Any]]:
    """Run the jobs, several at once, and give their reports; `{"error": …}` for a video that cannot be read."""
    total = sum(job.num_frames_estimate() for job in jobs)
    num_workers = max(1, min(num_workers or os.cpu_count() or 1, len(jobs)))
    with tqdm(desc=title, total=total, unit=" frames", disable=title is None) as bar:
        if num_workers == 1:
            return [_attempt(job, bar.update, strict) for job in jobs]
        context = get_context("spawn")
        counter = context.Value("q", 0)
        with ProcessPoolExecutor(num_workers, context, _share_counter, (counter,)) as pool:
            futures = [pool.submit(_attempt_in_worker, job, strict) for job in jobs]
            pending: set[Future] = set(futures)
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    bar.update(counter.value - bar.n)
                    for future in done:
                        future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]


def _attempt(job: _Job, counted: Counted, strict: bool) -> dict[str, Any]:
    try:
        return job.run(counted)
    except LifeError as error:
        if strict:
            raise
        return {"error": str(error)}


_counter: Any = None  # of the pool's parent, in its workers


def _share_counter(counter: Any) -> None:
    global _counter
    _counter = counter


def _attempt_in_worker(job: _Job, strict: bool) -> dict[str, Any]:
    def counted(num_frames: int) -> None:
        with _counter.get_lock():
            _counter.value += num_frames

    return _attempt(job, counted, strict)


def _features(life: Life) -> Features:
    features = {
        "image": Image(),
        "timestamp": Value("float64"),
        "video": Value("string"),
        "frame_index": Value("int64"),
    }
    if life.simulation is not None:
        features |= {"pose": Array2D((4, 4), "float64"), "intrinsics": List(Value("float64"), length=4)}
        if life.simulation.depth != "none":
            features["depth"] = Image()
    return Features(features)


def _video_rows(reader: VideoReader, video: str) -> Iterator[dict[str, Any]]:
    for frame in reader:
        yield {
            "image": {"bytes": jpeg(frame.image), "path": None},
            "timestamp": frame.timestamp,
            "video": video,
            "frame_index": frame.frame_index,
        }


def _simulated_rows(life: Life) -> Iterator[dict[str, Any]]:
    assert life.simulation is not None
    for frame in render(life.simulation, life.frame_size):
        row = {
            "image": {"bytes": jpeg(frame.image), "path": None},
            "timestamp": frame.timestamp,
            "video": life.name,
            "frame_index": frame.frame_index,
            "pose": frame.pose,
            "intrinsics": frame.intrinsics,
        }
        if frame.depth is not None:
            levels = np.round(frame.depth / DEPTH_SCALE).clip(0, 65535).astype(np.uint16)
            encoded = io.BytesIO()
            PILImage.fromarray(levels).save(encoded, "PNG")
            row["depth"] = {"bytes": encoded.getvalue(), "path": None}
        yield row


def _write_rows(path: Path, life: Life, rows: Iterator[dict[str, Any]], counted: Counted) -> tuple[int, float]:
    """Write rows into an Arrow file with constant memory; their number, and the time of the last, in seconds."""
    num_frames, seconds = 0, 0.0
    with ArrowWriter(path=str(path), features=_features(life), writer_batch_size=_ROWS_IN_MEMORY) as writer:
        for row in rows:
            writer.write(row)
            num_frames, seconds = num_frames + 1, row["timestamp"]
            counted(1)
        writer.finalize()
    return num_frames, seconds


def _write_dataset_description(folder: Path, files: list[str], features: Features, fingerprint: str) -> None:
    """Make a folder of Arrow files one that `datasets.load_from_disk` opens, without copying them."""
    state: dict[str, Any] = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    DatasetInfo(features=features).write_to_directory(str(folder))
