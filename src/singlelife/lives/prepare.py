"""Prepare a life: turn video files or a simulation into a dataset of frames, once.

A prepared life is a folder named after the life and the fingerprint of its sources and settings. Work goes on in a
folder beside it whose name ends in `.partial`: one Arrow file per video, renamed when it is complete. At the end the
folder itself is renamed. A preparation that was killed continues with the videos that are not done.

A shuffled life has the timestamps of its base, and at each the encoded frame of some other time, with that frame's
pose and depth. So its temporal pairs are pairs of any two frames.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import DatasetInfo, Features
from tqdm.auto import tqdm

from singlelife.errors import LifeError, SingleLifeWarning
from singlelife.files import check_room, locked
from singlelife.lives.prepared import COLUMNS, FORMAT_VERSION, METADATA, OPTIONAL_COLUMNS, PreparedLife
from singlelife.lives.registry import Life, life_folder
from singlelife.lives.scene.rgbd import MILLIMETRES, PosedRecording
from singlelife.lives.shards import Shard, Source, start_worker, write_in_worker
from singlelife.lives.simulation import DEPTH_SCALE, ScreenSource
from singlelife.lives.simulation.simulated import RENDERER_VERSION, SCREEN_VERSION
from singlelife.lives.video.reader import DECODER_VERSION, VideoFile, VideoSource, video_fingerprint
from singlelife.lives.video.recordings import order_of

SHUFFLE_SEED = 0
# In map units, where depth is known: a bound for 95% of the pixels (buffer) or for all (exact).
DEPTH_ERROR = {"": None, "none": None, "measured": None, "buffer": 5.0, "exact": DEPTH_SCALE / 2}

ELSEWHERE = "choose another place with --cache-dir or the variable SINGLELIFE_CACHE"
_SHUFFLED_FILE = "data-00000-of-00001.arrow"
_MOMENT = ("timestamp", "video", "frame_index")  # the columns that shuffling leaves in place
_ROWS_IN_MEMORY = 32
_MOST_REMARKS = 20  # lines


def prepare_life(
    life: Life,
    *,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PreparedLife:
    """The prepared life, made now unless it exists already.

    If two processes ask for the same life at once, one makes it and the other waits.

    Args:
        life: what to prepare.
        cache_dir: prepared lives go into its folder `lives`; `default_cache_dir()` if not given.
        num_workers: processes, each preparing one video at a time; by default as many as videos and cores allow. A
            script that uses several needs `if __name__ == "__main__":`.
        strict: refuse a life with a video that is damaged or cannot be read. By default a warning names each such
            video, and the readable part goes in.

    Raises:
        LifeError: a video cannot be read and `strict` is set, none can be read, or the disk has too little room.
    """
    fingerprint = life_fingerprint(life)
    folder = life.prepared or life_folder(life.name, fingerprint, cache_dir)
    if not folder.exists():
        base = None
        if life.base is not None:
            base = prepare_life(
                life.base, cache_dir=cache_dir, num_workers=num_workers, strict=strict, progress=progress
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder, f"the life {life.name}"):
                if not folder.exists():  # otherwise the process that held the lock has made it
                    with _partial(folder) as partial:
                        if base is not None:
                            described = _shuffle(life, base, partial, progress)
                        else:
                            described = _write(life, partial, num_workers, strict, progress)
                        _complete(life, fingerprint, described, partial, folder)
                    for remark in remarks(described) if progress else ():
                        print(remark, file=sys.stderr)
        except BrokenProcessPool as error:
            raise LifeError(
                "A process that was preparing a video has been killed, perhaps because memory ran out. Try again with "
                "fewer at a time (num_workers). Finished work is kept."
            ) from error
        except OSError as error:
            raise LifeError(
                f"The life {life.name} cannot be written into {folder.parent}: {error.strerror or error}. Make room "
                f"there, or {ELSEWHERE}. Finished work is kept."
            ) from error
    prepared = PreparedLife.load(folder)
    reports = prepared.metadata["videos"] + prepared.metadata["left_out"]
    if strict:
        _refuse(life.name, reports)
    for loss in losses(reports):
        warnings.warn(f"The life {life.name} is incomplete: {loss}", SingleLifeWarning, stacklevel=2)
    return prepared


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """The folder to work in. After a failure it is deleted, unless it has complete videos for the next try."""
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    try:
        yield partial
    except BaseException as error:
        if isinstance(error, _NotWholeError) or not list(partial.glob("*.report.json")):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def plan_preparation(life: Life, *, progress: bool = True) -> list[dict[str, Any]]:
    """An estimate for each video of a life, or of a shuffled life's base; see `Shard.estimate`.

    Only preparing a video finds damage in its middle.
    """
    return _estimates(_shards(life.base or life, Path()), life.name, progress)


def life_fingerprint(life: Life) -> str:
    """SHA-256 of everything that determines a life's prepared form, as a hex string.

    A video counts by its name, its size and its first and last MiB, since reading a whole week of video takes as long
    as decoding it.
    """
    if life.prepared is not None:
        return json.loads((life.prepared / METADATA).read_text(encoding="utf-8"))["fingerprint"]
    if isinstance(life.simulation, ScreenSource):
        contents: Any = dataclasses.asdict(life.simulation) | {"drawer": SCREEN_VERSION, "pillow": version("pillow")}
    elif life.simulation is not None:
        renderer = {"renderer": RENDERER_VERSION, "vizdoom": version("vizdoom")}
        contents = dataclasses.asdict(life.simulation) | renderer
    elif life.parts:
        contents = {"joined": [life_fingerprint(part) for part in life.parts]}
    elif life.base is not None:
        contents = {"shuffled": life_fingerprint(life.base), "seed": SHUFFLE_SEED}
    else:
        contents = [DECODER_VERSION, *([name, _content_of(source)] for name, source in _named_videos(life))]
    described = [FORMAT_VERSION, life.name, life.frame_rate, life.frame_size, contents]
    if life.pairs_within_video:
        described.append("pairs within video")
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _content_of(source: VideoSource | PosedRecording) -> str:
    try:
        return source.fingerprint() if isinstance(source, PosedRecording) else video_fingerprint(source)
    except LifeError:  # preparing the life will name the video, say why, and leave it out
        return "cannot be read"


def _named_videos(life: Life) -> list[tuple[str, VideoSource | PosedRecording]]:
    """The videos of a life by their file names, with as many parent folders as it takes to tell them apart.

    Cameras number their files from 1 in every folder.
    """
    sources = [VideoFile(Path(video).absolute()) if isinstance(video, str) else video for video in life.videos]
    paths = [source.path for source in sources]
    if not paths or len(set(paths)) < len(paths):
        listed = ", ".join(map(str, paths))
        raise LifeError(f"The life {life.name} should have videos, each only once; it has {listed or 'none'}.")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [("/".join(source.path.parts[-depth:]), source) for source in sources]


def seeded_order(length: int, seed: int) -> np.ndarray:
    """A random order of 0 to `length` - 1, int64, from Philox's raw numbers: the same for a seed on every machine and
    with every version of NumPy."""
    return np.argsort(np.random.Philox(key=seed).random_raw(length), kind="stable").astype(np.int64)


def _shuffle(life: Life, base: PreparedLife, partial: Path, progress: bool) -> dict[str, Any]:
    """Copy the frames of the base in random order. Returns the metadata."""
    size = sum(file.stat().st_size for file in base.path.glob("*.arrow"))
    check_room(size, partial, f"The life {life.name}", ELSEWHERE)
    rows, schema = base.dataset.with_format("arrow"), base.dataset.features.arrow_schema
    order = seeded_order(len(base), SHUFFLE_SEED)
    bar = tqdm(desc=f"Shuffling {base.name}", total=len(base), unit=" frames", disable=not progress)
    with bar, pa.OSFile(str(partial / _SHUFFLED_FILE), "wb") as out, pa.ipc.new_stream(out, schema) as stream:
        for first in range(0, len(base), _ROWS_IN_MEMORY):
            moments = rows[first : first + _ROWS_IN_MEMORY]
            frames = rows[order[first : first + _ROWS_IN_MEMORY].tolist()]
            columns = [(moments if name in _MOMENT else frames)[name] for name in schema.names]
            stream.write_table(pa.table(columns, schema=schema).combine_chunks())  # otherwise each row is a batch
            bar.update(len(moments))
    shuffled = {"life": base.name, "fingerprint": base.metadata["fingerprint"], "seed": SHUFFLE_SEED}
    videos = [report | {"file": _SHUFFLED_FILE} for report in base.metadata["videos"]]
    return base.metadata | {"shuffled": shuffled, "videos": videos}


def _complete(life: Life, fingerprint: str, described: dict[str, Any], partial: Path, folder: Path) -> None:
    """Write the description of the partial folder, and give it its final name."""
    identity: dict[str, Any] = {"format_version": FORMAT_VERSION, "name": life.name, "fingerprint": fingerprint}
    identity |= {name: getattr(life, name) for name in ("kind", "dataset", "license")}
    metadata = identity | described | identity  # identity's keys come first and its values win
    files = list(dict.fromkeys(report["file"] for report in metadata["videos"]))
    write_dataset_description(partial, files, life_features(life.base or life), fingerprint)
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    partial.rename(folder)
    for report_file in folder.glob("*.report.json"):
        report_file.unlink()


def _shards(life: Life, partial: Path) -> list[Shard]:
    """A shard for each video of a life, in order."""
    videos: list[tuple[str, Source]] = []
    for part in life.parts or (life,):
        if part.simulation is not None:
            videos.append((part.name, part.simulation))
        else:
            prefix = f"{part.name}/" if life.parts else ""
            videos += [(prefix + name, source) for name, source in _named_videos(part)]
    schema, count = life_features(life).arrow_schema, len(videos)
    files = [partial / f"data-{number:05d}-of-{count:05d}.arrow" for number in range(count)]
    return [
        Shard(source, name, life.frame_rate, life.frame_size, file, schema)
        for (name, source), file in zip(videos, files, strict=True)
    ]


def _estimates(shards: list[Shard], name: str, progress: bool) -> list[dict[str, Any]]:
    """Look at the videos of shards, several at once."""
    with ThreadPoolExecutor(8) as threads:
        looked_at = threads.map(Shard.estimate, shards)
        return list(tqdm(looked_at, f"Looking at {name}", len(shards), False, unit=" videos", disable=not progress))


def _write(life: Life, partial: Path, num_workers: int | None, strict: bool, progress: bool) -> dict[str, Any]:
    """Write the videos that are not there yet, several at once. Returns the metadata."""
    for leftover in partial.glob("*.tmp"):  # from processes that were killed
        leftover.unlink()
    shards = _shards(life, partial)
    reports = {shard.video: report for shard in shards if (report := shard.finished()) is not None}
    missing = [shard for shard in shards if shard.video not in reports]
    there = sum(report["num_frames"] for report in reports.values())
    cores = os.cpu_count() or 1
    num_workers = max(1, min(num_workers or cores, len(missing)))
    missing = [dataclasses.replace(shard, num_threads=max(1, cores // num_workers)) for shard in missing]
    estimates = _estimates(missing, life.name, progress)
    if strict:  # before hours of work
        _refuse(life.name, [each for each in estimates if "error" in each])
    needed, to_come = (sum(each.get(what, 0) for each in estimates) for what in ("num_bytes", "num_frames"))
    check_room(needed, partial, f"The life {life.name}", ELSEWHERE)
    bar = tqdm(
        desc=f"Preparing {life.name}", initial=there, total=there + to_come, unit=" frames", disable=not progress
    )
    with bar:
        for shard, report in _written(missing, num_workers, bar):
            if strict:
                _refuse(life.name, [report])
            reports[shard.video] = report
            bar.set_postfix_str(f"{len(reports)} of {len(shards)} videos")
    ordered = [reports[shard.video] for shard in shards]
    good = [report for report in ordered if "error" not in report]
    left_out = [report for report in ordered if "error" in report]
    if not good:
        raise LifeError("\n  ".join([f"No video of the life {life.name} can be used:", *losses(left_out)]))
    simulations = {part.name: dataclasses.asdict(part.simulation) for part in life.parts if part.simulation}
    seconds = {
        f"{kind}_seconds": round(sum(last - first for report in good for first, last in report.get(kind, ())), 2)
        for kind in ("blank", "frozen")
    }
    files = [Path(source.path) for _, source in _named_videos(life)] if life.videos else []
    return {
        "frame_rate": life.frame_rate,
        "frame_size": life.frame_size,
        "pairs_within_video": life.pairs_within_video,
        "simulation": (dataclasses.asdict(life.simulation) if life.simulation else simulations) or None,
        "depth_scale": {"": None, "measured": MILLIMETRES}.get(life.depth, DEPTH_SCALE),
        "depth_error": DEPTH_ERROR[life.depth],
        "order": order_of(files) if len(files) > 1 else "",
        **seconds,
        "num_frames": sum(report["num_frames"] for report in good),
        "videos": good,
        "left_out": left_out,
    }


def _written(shards: list[Shard], num_workers: int, bar: tqdm) -> Iterator[tuple[Shard, dict[str, Any]]]:
    """Write shards, here or in `num_workers` processes, and yield each with its report when it is done."""
    if num_workers == 1:
        for shard in shards:
            yield shard, shard.write(bar.update)
        return
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
                    yield running.pop(future), future.result()
        except BaseException:
            ours.close()  # the workers end now, not when their videos do
            raise


def losses(reports: list[dict[str, Any]]) -> list[str]:
    """The videos with something missing, from their reports or estimates, for people."""
    found = ((report["video"], report.get("error") or report.get("damage")) for report in reports)
    return [f"{video}: {loss}" for video, loss in found if loss]


def remarks(described: dict[str, Any]) -> list[str]:
    """Other notes about a life's videos, from its metadata, for people: each note once."""
    found: dict[str, list[str]] = {}
    for report in described["videos"]:
        for note in report.get("notes", ()):
            found.setdefault(note, []).append(report["video"])
    lines = [
        f"{videos[0]}{f' and {len(videos) - 1} more' * (len(videos) > 1)}: {note}" for note, videos in found.items()
    ]
    if order := described.get("order"):
        lines.insert(0, f"{len(described['videos'])} videos, in order {order}")
    more = len(lines) - _MOST_REMARKS
    return lines if more <= 0 else [*lines[:_MOST_REMARKS], f"and {more} more remarks, in {METADATA}"]


class _NotWholeError(LifeError):
    pass


def _refuse(name: str, reports: list[dict[str, Any]]) -> None:
    if lost := losses(reports):
        listed = "\n  ".join([f"The life {name} is incomplete:", *lost])
        raise _NotWholeError(f"{listed}\nRepair or leave out these videos, or drop --strict.")


def life_features(life: Life) -> Features:
    """The columns of a life's dataset of frames."""
    known = {"": (), "none": ("pose", "intrinsics")}.get(life.depth, OPTIONAL_COLUMNS)
    return Features(COLUMNS | {name: OPTIONAL_COLUMNS[name] for name in known})


def write_dataset_description(folder: Path, files: list[str], features: Features, fingerprint: str) -> None:
    """Describe a folder of Arrow files so that `datasets.load_from_disk` opens it, without copying them."""
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
