"""Preparing a life: from video files or a simulation to a dataset of frames, once.

A prepared life is a folder named after the life and the fingerprint of all it was made from. It appears whole or not
at all: work goes on in a folder beside it whose name ends in `.partial`, one Arrow file per video, each renamed when
it is complete, and the folder is renamed at the end. So a preparation that was killed goes on with the videos not yet
done.

A shuffled life, the control that has a life's frames in random order, is made from its base by copying the encoded
frames. It has the moments of its base, one after the other, and at each the frame of some other moment, together with
all that belongs to that frame (pose, depth). So its temporal pairs are pairs of any two frames.
"""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import DatasetInfo, Features
from tqdm.auto import tqdm

from singlelife.errors import LifeError, SingleLifeWarning
from singlelife.files import check_room, free_bytes, locked
from singlelife.lives.prepared import COLUMNS, FORMAT_VERSION, METADATA, OPTIONAL_COLUMNS, PreparedLife
from singlelife.lives.registry import Life, default_cache_dir
from singlelife.lives.shards import DEPTH_ERROR, Shard, VideoEstimate, start_worker, write_in_worker
from singlelife.lives.simulation.screen import SCREEN_VERSION, ScreenSource
from singlelife.lives.simulation.simulated import DEPTH_SCALE, RENDERER_VERSION, SimulatedSource
from singlelife.lives.video.reader import DECODER_VERSION
from singlelife.lives.video.sources import VideoFile, VideoSource
from singlelife.lives.video.sources import fingerprint as source_fingerprint

SHUFFLE_SEED = 0

_MANY_VIDEOS = 50  # to open more takes so long that it needs a progress bar
_ELSEWHERE = "choose another place with --cache-dir or the variable SINGLELIFE_CACHE"
_SHUFFLED_FILE = "data-00000-of-00001.arrow"
_MOMENT = ("timestamp", "video", "frame_index")  # the columns of a shuffled life that stay in their rows
_ROWS_IN_MEMORY = 32


@dataclass(frozen=True)
class Plan:
    """What preparing a life will do, as far as it is known without doing it.

    Attributes:
        folder: where the prepared life will be.
        is_done: it is there already.
        estimates: of the videos that are to come, or of all if it is done.
        num_frames_done: how many frames are there already.
        num_bytes: about how much room the frames to come will take.
        free_bytes: how much room there is.
        mismatches: how the videos differ from those that the life should have, for people.
    """

    folder: Path
    is_done: bool
    estimates: list[VideoEstimate]
    num_frames_done: int
    num_bytes: int
    free_bytes: int
    mismatches: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """About how many frames are to come."""
        return sum(estimate.num_frames for estimate in self.estimates)

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.num_bytes <= self.free_bytes

    @property
    def losses(self) -> list[str]:
        """Which videos are damaged or cannot be used, and why, for people."""
        return _losses([dataclasses.asdict(estimate) for estimate in self.estimates])

    @property
    def gives_nothing(self) -> bool:
        """Whether no video can be used."""
        return not self.is_done and not self.num_frames_done and all(estimate.error for estimate in self.estimates)


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
    fingerprint = life_fingerprint(life)
    folder = _folder(life, fingerprint, cache_dir)
    if not folder.exists():
        base = None
        if life.base is not None:
            base = prepare_life(
                life.base, cache_dir=cache_dir, num_workers=num_workers, strict=strict, progress=progress
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(Path(f"{folder}.lock"), f"the life {life.name}"):
                if folder.exists():
                    pass  # the process that held the lock has made it
                elif base is not None:
                    _shuffle(life, fingerprint, base, folder, progress)
                else:
                    _prepare(life, fingerprint, folder, num_workers, strict, progress)
        except OSError as error:
            raise LifeError(
                f"The life {life.name} cannot be written into {folder.parent}: {error.strerror or error}. Make room "
                f"there, or {_ELSEWHERE}. What was done is kept."
            ) from error
    prepared = PreparedLife.load(folder)
    losses = _losses(prepared.metadata["videos"] + prepared.metadata["left_out"])
    if strict:
        _refuse(life.name, losses)
    for loss in losses:
        warnings.warn(f"The life {life.name} is not whole: {loss}", SingleLifeWarning, stacklevel=2)
    return prepared


def plan_preparation(life: Life, *, cache_dir: str | Path | None = None, progress: bool = True) -> Plan:
    """What `prepare_life` would do, without doing it. Takes some milliseconds a video.

    Besides videos that cannot be opened it finds those of which no frame can be decoded, and those that end before
    their header says; damage in the middle of a video is only found by preparing it.

    Args:
        life: what would be prepared.
        cache_dir: as of `prepare_life`.
        progress: show a progress bar on stderr if there are many videos.

    Raises:
        LifeError: a video is missing.
    """
    folder = _folder(life, life_fingerprint(life), cache_dir)
    if folder.exists():
        prepared = PreparedLife.load(folder)
        estimates = [
            VideoEstimate(report["video"], error=report.get("error"), damage=report.get("damage"))
            for report in prepared.metadata["videos"] + prepared.metadata["left_out"]
        ]
        return Plan(folder, True, estimates, len(prepared), 0, free_bytes(folder))
    if life.base is not None:
        return _plan_shuffled(plan_preparation(life.base, cache_dir=cache_dir, progress=progress), folder)
    shards = _shards(life, _partial(folder))
    reports = {shard: report for shard in shards if (report := shard.finished()) is not None}
    missing = [shard for shard in shards if shard not in reports]
    estimates = _estimates(missing, closely=True, title=f"Looking at {life.name}" if progress else None)
    done = sum(report["num_frames"] for report in reports.values())
    num_bytes = sum(estimate.num_bytes for estimate in estimates)
    mismatches = life.mismatches([shard.video for shard in shards])
    return Plan(folder, False, estimates, done, num_bytes, free_bytes(folder), mismatches)


def life_fingerprint(life: Life) -> str:
    """SHA-256 of all that decides what a life's prepared form holds, as a hex string.

    A video counts by its name, its size and its first and last MiB, not by its path or date: reading a week of video
    only to hash it would take as long as decoding it. An edit of a file's middle that keeps both its ends and its
    length to the byte is not noticed.

    Raises:
        LifeError: a video cannot be opened.
    """
    if isinstance(life.simulation, ScreenSource):
        contents: Any = dataclasses.asdict(life.simulation) | {"drawer": SCREEN_VERSION, "pillow": version("pillow")}
    elif life.simulation is not None:
        contents = dataclasses.asdict(life.simulation) | {
            "renderer": RENDERER_VERSION,
            "vizdoom": version("vizdoom"),
        }
    elif life.parts:
        contents = {"joined": [life_fingerprint(part) for part in life.parts]}
    elif life.base is not None:
        contents = {"shuffled": life_fingerprint(life.base), "seed": SHUFFLE_SEED}
    else:
        contents = [DECODER_VERSION, *([name, source_fingerprint(source)] for name, source in _named_videos(life))]
    described = [FORMAT_VERSION, life.name, life.frame_rate, life.frame_size, contents]
    if life.pairs_within_video:
        described.append("pairs within video")
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _folder(life: Life, fingerprint: str, cache_dir: str | Path | None) -> Path:
    return Path(cache_dir or default_cache_dir()) / "lives" / f"{life.name}-{fingerprint[:12]}"


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _named_videos(life: Life) -> list[tuple[str, VideoSource]]:
    """The videos of a life by their file names, with as many folders in front as it takes to tell all apart.

    Cameras count their files from 1 again in every folder.
    """
    sources = [VideoFile(Path(video).absolute()) if isinstance(video, str) else video for video in life.videos]
    paths = [source.path for source in sources]
    if not paths or len(set(paths)) < len(paths):
        listed = ", ".join(map(str, paths))
        raise LifeError(f"The life {life.name} should have one video or more, each once; it has {listed or 'none'}.")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [("/".join(source.path.parts[-depth:]), source) for source in sources]


def _plan_shuffled(base: Plan, folder: Path) -> Plan:
    """What a shuffled life takes: a copy of its base's frames, and those too if they are not there yet."""
    if not base.is_done:
        return dataclasses.replace(base, folder=folder, num_bytes=2 * base.num_bytes)
    prepared = PreparedLife.load(base.folder)
    seconds = sum(report["seconds"] for report in prepared.metadata["videos"])
    estimate = VideoEstimate(prepared.name, seconds, len(prepared))
    return dataclasses.replace(
        base, folder=folder, is_done=False, estimates=[estimate], num_frames_done=0, num_bytes=_size(prepared)
    )


def seeded_order(length: int, seed: int) -> np.ndarray:
    """A random order of 0 to `length` - 1, int64: the same for a seed on every machine, with every version of NumPy.

    It sorts by the raw numbers of Philox, a counter-based generator whose raw numbers are defined once and for all;
    `Generator.permutation` may change between versions.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(length), kind="stable").astype(np.int64)


def _shuffle(life: Life, fingerprint: str, base: PreparedLife, folder: Path, progress: bool) -> None:
    check_room(_size(base), folder.parent, f"The life {life.name}", _ELSEWHERE)
    partial = _partial(folder)
    partial.mkdir(exist_ok=True)
    rows, schema = base.dataset.with_format("arrow"), base.dataset.features.arrow_schema
    order = seeded_order(len(base), SHUFFLE_SEED)
    bar = tqdm(desc=f"Shuffling {base.name}", total=len(base), unit=" frames", disable=not progress)
    with bar, pa.OSFile(str(partial / _SHUFFLED_FILE), "wb") as out, pa.ipc.new_stream(out, schema) as stream:
        for first in range(0, len(base), _ROWS_IN_MEMORY):
            moments = rows[first : first + _ROWS_IN_MEMORY]
            frames = rows[order[first : first + _ROWS_IN_MEMORY].tolist()]
            columns = [(moments if name in _MOMENT else frames)[name] for name in schema.names]
            stream.write_table(pa.table(columns, schema=schema).combine_chunks())  # else a batch for each row
            bar.update(len(moments))
    metadata = base.metadata | {
        "name": life.name,
        "fingerprint": fingerprint,
        "kind": life.kind,
        "dataset": life.dataset,
        "license": life.license,
        "shuffled": {"life": base.name, "fingerprint": base.metadata["fingerprint"], "seed": SHUFFLE_SEED},
        "videos": [report | {"file": _SHUFFLED_FILE} for report in base.metadata["videos"]],
    }
    _complete(folder, metadata, base.dataset.features)


def _size(prepared: PreparedLife) -> int:
    return sum(file.stat().st_size for file in prepared.path.glob("*.arrow"))


def _prepare(
    life: Life, fingerprint: str, folder: Path, num_workers: int | None, strict: bool, progress: bool
) -> None:
    partial = _partial(folder)
    partial.mkdir(exist_ok=True)
    for leftover in partial.glob("*.tmp"):  # of processes that were killed
        leftover.unlink()
    features = life_features(life)
    reports = _write(life, _shards(life, partial), num_workers, strict, progress)

    good = [report for report in reports if "error" not in report]
    left_out = [report for report in reports if "error" in report]
    if not good:
        raise LifeError("\n  ".join([f"No video of the life {life.name} can be used:", *_losses(left_out)]))
    depth = _depth(life)
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
        "simulation": _simulations(life),
        "depth_scale": DEPTH_SCALE if depth else None,
        "depth_error": DEPTH_ERROR[depth] if depth else None,
        "num_frames": sum(report["num_frames"] for report in good),
        "videos": good,
        "left_out": left_out,
    }
    _complete(folder, metadata, features)
    for report_file in folder.glob("*.report.json"):
        report_file.unlink()


def _complete(folder: Path, metadata: dict[str, Any], features: Features) -> None:
    """Describe what is in the partial folder, and give it its name."""
    partial = _partial(folder)
    files = list(dict.fromkeys(report["file"] for report in metadata["videos"]))
    write_dataset_description(partial, files, features, metadata["fingerprint"])
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    partial.rename(folder)


def _shards(life: Life, partial: Path) -> list[Shard]:
    """One for each video of a life, in order."""
    videos: list[tuple[str, VideoSource | SimulatedSource | ScreenSource]] = []
    for part in life.parts or (life,):
        named = _named_videos(part) if part.simulation is None else [(part.name, part.simulation)]
        videos += [(f"{part.name}/{video}" if life.parts and part.simulation is None else video, source)
                   for video, source in named]  # fmt: skip
    schema = life_features(life).arrow_schema
    return [
        Shard(
            source,
            name,
            life.frame_rate,
            life.frame_size,
            file=partial / f"data-{number:05d}-of-{len(videos):05d}.arrow",
            schema=schema,
        )
        for number, (name, source) in enumerate(videos)
    ]


def _estimates(shards: Sequence[Shard], *, closely: bool = False, title: str | None = None) -> list[VideoEstimate]:
    """Open the videos of shards, several at once, and read their headers.

    Args:
        shards: whose videos.
        closely: as of `Shard.estimate`.
        title: of a progress bar on stderr, which appears where there are many; None for none.
    """

    def estimate(shard: Shard) -> VideoEstimate:
        return shard.estimate(closely=closely)

    hidden = title is None or len(shards) < _MANY_VIDEOS
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as threads:
        return list(tqdm(threads.map(estimate, shards), title, len(shards), unit=" videos", disable=hidden))


def _write(
    life: Life, shards: list[Shard], num_workers: int | None, strict: bool, progress: bool
) -> list[dict[str, Any]]:
    """Write the shards that are not there yet, several at once, and give the reports of all."""
    reports = {shard.video: report for shard in shards if (report := shard.finished()) is not None}
    there = sum(report["num_frames"] for report in reports.values())
    missing = [shard for shard in shards if shard.video not in reports]
    cores = os.cpu_count() or 1
    num_workers = max(1, min(num_workers or cores, len(missing)))
    missing = [dataclasses.replace(shard, num_threads=max(1, cores // num_workers)) for shard in missing]
    estimates = _estimates(missing, title=f"Looking at {life.name}" if progress else None)
    to_come = sum(estimate.num_frames for estimate in estimates)
    needed, lives = sum(estimate.num_bytes for estimate in estimates), shards[0].file.parent.parent
    check_room(needed, lives, f"The life {life.name}", _ELSEWHERE)
    with tqdm(
        desc=f"Preparing {life.name}", initial=there, total=there + to_come, unit=" frames", disable=not progress
    ) as bar:

        def finish(shard: Shard, report: dict[str, Any]) -> None:
            if strict:
                _refuse(life.name, _losses([report]))
            reports[shard.video] = report
            if len(shards) > 1:
                bar.set_postfix_str(f"{len(reports)} of {len(shards)} videos")

        if num_workers == 1:
            for shard in missing:
                finish(shard, shard.write(bar.update))
        else:
            _write_in_pool(missing, num_workers, finish, bar)
    return [reports[shard.video] for shard in shards]


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


def _losses(reports: list[dict[str, Any]]) -> list[str]:
    """What is missing of which videos, for people."""
    losses = [(report["video"], report.get("error") or report.get("damage")) for report in reports]
    return [f"{video}: {loss}" for video, loss in losses if loss]


def _refuse(name: str, losses: list[str]) -> None:
    if losses:
        listed = "".join(f"\n  {loss}" for loss in losses)
        raise LifeError(f"The life {name} is not whole:{listed}\nMend or leave out what is named, or drop --strict.")


def _depth(life: Life) -> str:
    """That of a walk that is simulated, or of several that are joined; empty for anything else."""
    source = (life.parts or (life,))[0].simulation
    return source.depth if isinstance(source, SimulatedSource) else ""


def _simulations(life: Life) -> dict[str, Any] | None:
    """What was rendered: of a joined life, by the names of its parts. None of recordings."""
    if life.parts and life.parts[0].simulation:
        return {part.name: dataclasses.asdict(part.simulation) for part in life.parts if part.simulation}
    return dataclasses.asdict(life.simulation) if life.simulation else None


def life_features(life: Life) -> Features:
    """The columns of a life's dataset of frames."""
    known: tuple[str, ...] = ()
    if depth := _depth(life):
        known = ("pose", "intrinsics") if depth == "none" else tuple(OPTIONAL_COLUMNS)
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
