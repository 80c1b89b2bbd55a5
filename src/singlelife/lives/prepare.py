"""Preparing a life: from video files or a simulation to a dataset of frames, once.

A prepared life is a folder named after the life and the fingerprint of all it was made from. It appears whole or not
at all: work goes on in a folder beside it whose name ends in `.partial`, one Arrow file per video, each renamed when
it is complete, and the folder is renamed at the end. So a preparation that was killed goes on with the videos not yet
done.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features
from filelock import AcquireReturnProxy, FileLock, Timeout
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.columns import COLUMNS, OPTIONAL_COLUMNS
from singlelife.lives.prepared import FORMAT_VERSION, METADATA, PreparedLife
from singlelife.lives.registry import Life
from singlelife.lives.shards import DEPTH_ERROR, Shard, start_worker, write_in_worker
from singlelife.lives.shuffled import SHUFFLE_SEED, prepare_shuffled
from singlelife.lives.simulated import DEPTH_SCALE, RENDERER_VERSION

_BYTES_PER_PIXEL = 0.5  # of a JPEG of quality 92; on the high side
_FINGERPRINTED = 1 << 20  # bytes at each end of a video


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

    Two processes may ask for the same life at once: one makes it, the other waits.

    Args:
        life: what to prepare.
        cache_dir: prepared lives go into its folder `lives`; `default_cache_dir()` if not given.
        num_workers: processes, each preparing one video at a time; as many as videos and cores allow by default. As
            they are started afresh, a script that asks for several needs `if __name__ == "__main__":`.
        strict: refuse a life of which a video is damaged or cannot be read. By default a warning names each, whatever
            can be read of it goes in, and the others do.
        progress: show a progress bar on stderr.

    Raises:
        LifeError: a video cannot be read and `strict` is set, none can be read, or the disk lacks the room.
    """
    if life.base is not None:
        base = prepare_life(life.base, cache_dir=cache_dir, num_workers=num_workers, strict=strict, progress=progress)
        return prepare_shuffled(life, life_fingerprint(life), base, progress)
    fingerprint = life_fingerprint(life)
    lives = Path(cache_dir or default_cache_dir()) / "lives"
    folder = lives / f"{life.name}-{fingerprint[:12]}"
    if not folder.exists():
        try:
            lives.mkdir(parents=True, exist_ok=True)
            with locked(Path(f"{folder}.lock"), life.name):
                if not folder.exists():  # else the process that held the lock has made it
                    _prepare(life, fingerprint, folder, num_workers, strict, progress)
        except OSError as error:
            raise LifeError(
                f"The life {life.name} cannot be written into {lives}: {error.strerror or error}. Make room there, or "
                "choose another place with --cache-dir or the variable SINGLELIFE_CACHE. What was done is kept."
            ) from error
    prepared = PreparedLife.load(folder)
    losses = _losses(prepared.metadata["videos"] + prepared.metadata["left_out"])
    if strict:
        _refuse(life.name, losses)
    for loss in losses:
        warnings.warn(f"The life {life.name} is not whole: {loss}", stacklevel=2)
    return prepared


def prepared_folders(life: Life, cache_dir: str | Path | None = None) -> list[Path]:
    """The prepared forms of a life that are kept, of whatever videos and settings."""
    lives = Path(cache_dir or default_cache_dir()) / "lives"
    return sorted(lives.glob(f"{life.name}-{'[0-9a-f]' * 12}"))


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
    elif life.base is not None:
        contents = {"shuffled": life_fingerprint(life.base), "seed": SHUFFLE_SEED}
    else:
        contents = [[name, file_fingerprint(path)] for name, path in _named_videos(life)]
    described = [FORMAT_VERSION, life.name, life.frame_rate, life.frame_size, contents]
    if life.pairs_within_video:
        described.append("pairs within video")
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """A file's size and the SHA-256 of its first and last MiB.

    Raises:
        LifeError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_FINGERPRINTED))
            file.seek(max(0, size - _FINGERPRINTED))
            digest.update(file.read(_FINGERPRINTED))
    except OSError as error:
        raise LifeError(f"{path}: {error.strerror}.") from error
    return f"{size}-{digest.hexdigest()}"


def _named_videos(life: Life) -> list[tuple[str, Path]]:
    """The videos of a life by their file names, with as many folders in front as it takes to tell all apart.

    Cameras count their files from 1 again in every folder.
    """
    paths = [Path(video).absolute() for video in life.videos]
    if not paths or len(set(paths)) < len(paths):
        raise LifeError(f"The life {life.name} should have one video or more, each once; it has {list(life.videos)}.")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [("/".join(path.parts[-depth:]), path) for path in paths]


def locked(path: Path, name: str) -> AcquireReturnProxy:
    """Hold a lock file while a life is worked on, having told whom one waits for."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"The life {name} is being prepared by another process; waiting for it.", file=sys.stderr)
        return lock.acquire()


def _prepare(
    life: Life, fingerprint: str, folder: Path, num_workers: int | None, strict: bool, progress: bool
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    for leftover in partial.glob("*.tmp"):
        leftover.unlink()
    videos = _named_videos(life) if life.simulation is None else [(life.name, Path())]
    cores = os.cpu_count() or 1
    num_workers = max(1, min(num_workers or cores, len(videos)))
    features = _features(life)
    shards = [
        Shard(
            life,
            path,
            name,
            file=partial / f"data-{number:05d}-of-{len(videos):05d}.arrow",
            schema=features.arrow_schema,
            num_threads=max(1, cores // num_workers),
        )
        for number, (name, path) in enumerate(videos)
    ]
    reports = _write(shards, num_workers, strict, f"Preparing {life.name}" if progress else None)

    good = [report for report in reports if "error" not in report]
    left_out = [report for report in reports if "error" in report]
    if not good:
        raise LifeError("\n  ".join([f"No video of the life {life.name} can be used:", *_losses(left_out)]))
    metadata = {
        "format_version": FORMAT_VERSION,
        "name": life.name,
        "fingerprint": fingerprint,
        "kind": life.kind,
        "dataset": life.dataset,
        "license": life.license,
        "frame_rate": life.frame_rate,
        "frame_size": life.frame_size,
        "pairs_within_video": life.pairs_within_video,
        "simulation": dataclasses.asdict(life.simulation) if life.simulation else None,
        "depth_scale": DEPTH_SCALE if life.simulation else None,
        "depth_error": DEPTH_ERROR[life.simulation.depth] if life.simulation else None,
        "num_frames": sum(report["num_frames"] for report in good),
        "videos": good,
        "left_out": left_out,
    }
    write_dataset_description(partial, [report["file"] for report in good], features, fingerprint)
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    partial.rename(folder)
    for report_file in folder.glob("*.report.json"):
        report_file.unlink()


def _write(shards: list[Shard], num_workers: int, strict: bool, title: str | None) -> list[dict[str, Any]]:
    """Write the shards that are not there yet, several at once, and give the reports of all."""
    reports = {shard: report for shard in shards if (report := shard.finished()) is not None}
    missing = {shard: shard.num_frames_estimate() for shard in shards if shard not in reports}
    there, to_come = sum(report["num_frames"] for report in reports.values()), sum(missing.values())
    _check_room(shards[0], to_come)

    def finish(shard: Shard, report: dict[str, Any]) -> None:
        if strict:
            _refuse(shard.life.name, _losses([report]))
        reports[shard] = report

    with tqdm(desc=title, initial=there, total=there + to_come, unit=" frames", disable=title is None) as bar:
        if num_workers == 1:
            for shard in missing:
                finish(shard, shard.write(bar.update))
        else:
            _write_in_pool(list(missing), num_workers, finish, bar)
    return [reports[shard] for shard in shards]


def _write_in_pool(
    shards: list[Shard], num_workers: int, finish: Callable[[Shard, dict[str, Any]], None], bar: tqdm
) -> None:
    context = get_context("spawn")
    written = context.Value("q", 0)
    theirs, ours = context.Pipe(duplex=False)
    with ProcessPoolExecutor(num_workers, context, start_worker, (written, theirs)) as pool:
        try:
            running = {pool.submit(write_in_worker, shard): shard for shard in shards}
            before = bar.n
            while running:
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(before + written.value - bar.n)
                for future in done:
                    finish(running.pop(future), future.result())
        except BrokenProcessPool as error:
            raise LifeError(
                "A process that was preparing a video has been killed, perhaps for want of memory. Try again with "
                "fewer at a time (num_workers). What was done is kept."
            ) from error
        except BaseException:
            ours.close()  # the workers end now, not when their videos do
            raise


def _check_room(shard: Shard, num_frames: int) -> None:
    life, lives = shard.life, shard.file.parent.parent
    pixels = life.frame_size**2 * (16 / 9 if life.simulation is None else 1)
    needed, free = int(num_frames * pixels * _BYTES_PER_PIXEL), shutil.disk_usage(lives).free
    if needed > free:
        raise LifeError(
            f"The life {life.name} needs about {needed / 1e9:.1f} GB in {lives}, where {free / 1e9:.1f} GB are free. "
            "Make room, or choose another place with --cache-dir or the variable SINGLELIFE_CACHE."
        )


def _losses(reports: list[dict[str, Any]]) -> list[str]:
    """What is missing of which videos, for people."""
    losses = [(report["video"], report.get("error") or report.get("damage")) for report in reports]
    return [f"{video}: {loss}" for video, loss in losses if loss]


def _refuse(name: str, losses: list[str]) -> None:
    if losses:
        listed = "".join(f"\n  {loss}" for loss in losses)
        raise LifeError(f"The life {name} is not whole:{listed}\nMend or leave out what is named, or drop --strict.")


def _features(life: Life) -> Features:
    known: tuple[str, ...] = ()
    if life.simulation is not None:
        known = ("pose", "intrinsics") if life.simulation.depth == "none" else tuple(OPTIONAL_COLUMNS)
    return Features(COLUMNS | {name: OPTIONAL_COLUMNS[name] for name in known})


def write_dataset_description(folder: Path, files: list[str], features: Features, fingerprint: str) -> None:
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
