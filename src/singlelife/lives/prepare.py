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
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features
from filelock import AcquireReturnProxy, FileLock, Timeout
from tqdm.auto import tqdm

from singlelife.errors import LifeError, SingleLifeWarning
from singlelife.files import check_room, free_bytes
from singlelife.lives.columns import COLUMNS, OPTIONAL_COLUMNS
from singlelife.lives.estimate import Outlook, cost_of, look_at
from singlelife.lives.prepared import FORMAT_VERSION, METADATA, PreparedLife
from singlelife.lives.registry import Life
from singlelife.lives.shards import DEPTH_ERROR, Shard, start_worker, write_in_worker
from singlelife.lives.shuffled import SHUFFLE_SEED, prepare_shuffled
from singlelife.lives.simulation.screen import SCREEN_VERSION, ScreenSource
from singlelife.lives.simulation.simulated import DEPTH_SCALE, RENDERER_VERSION, SimulatedSource
from singlelife.lives.video.reader import DECODER_VERSION
from singlelife.lives.video.sources import VideoFile, VideoSource
from singlelife.lives.video.sources import fingerprint as source_fingerprint
from singlelife.text import duration, in_bytes

_LONG = 6_000  # frames; a preparation of more says beforehand what it will take


@dataclass(frozen=True)
class Plan:
    """What preparing a life will do, as far as can be told without doing it.

    Attributes:
        folder: where the prepared life will be.
        is_done: it is there already.
        outlooks: of the videos that are to come, or of all if it is done.
        num_frames_done: how many are there already.
        num_bytes: about how much the frames to come will take.
        free_bytes: how much room there is.
        seconds: about how long it will take with `num_workers` processes; None if that is not known.
        num_workers: how many videos will be prepared at once.
    """

    folder: Path
    is_done: bool
    outlooks: list[Outlook]
    num_frames_done: int
    num_bytes: int
    free_bytes: int
    seconds: float | None
    num_workers: int

    @property
    def num_frames(self) -> int:
        """About how many frames are to come."""
        return sum(outlook.num_frames for outlook in self.outlooks)

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.num_bytes <= self.free_bytes

    @property
    def losses(self) -> list[str]:
        """Which videos are damaged or cannot be used, and why, for people."""
        return _losses([dataclasses.asdict(outlook) for outlook in self.outlooks])

    @property
    def gives_nothing(self) -> bool:
        """Whether no video can be used."""
        return not self.is_done and not self.num_frames_done and all(outlook.error for outlook in self.outlooks)


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
    folder = _folder(life, fingerprint, cache_dir)
    lives = folder.parent
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
        warnings.warn(f"The life {life.name} is not whole: {loss}", SingleLifeWarning, stacklevel=2)
    return prepared


def plan_preparation(
    life: Life, *, cache_dir: str | Path | None = None, num_workers: int | None = None, progress: bool = True
) -> Plan:
    """What `prepare_life` would do, without doing it. Takes a few seconds, and some milliseconds a video.

    Besides videos that cannot be opened it finds those of which no frame can be decoded, and those that end before
    their header says; damage in the middle of a video is only found by preparing it.

    Args:
        life: what would be prepared.
        cache_dir: as of `prepare_life`.
        num_workers: as of `prepare_life`.
        progress: show a progress bar on stderr if there are many videos.

    Raises:
        LifeError: a video is missing.
    """
    folder = _folder(life, life_fingerprint(life), cache_dir)
    if folder.exists():
        prepared = PreparedLife.load(folder)
        outlooks = [
            Outlook(report["video"], error=report.get("error"), damage=report.get("damage"))
            for report in prepared.metadata["videos"] + prepared.metadata["left_out"]
        ]
        return Plan(folder, True, outlooks, len(prepared), 0, free_bytes(folder), 0.0, 1)
    if life.base is not None:
        return _plan_copy(
            plan_preparation(life.base, cache_dir=cache_dir, num_workers=num_workers, progress=progress), folder
        )
    shards = _shards(life, _partial(folder))
    reports = {shard: report for shard in shards if (report := shard.finished()) is not None}
    missing, num_workers = _shared_out([shard for shard in shards if shard not in reports], num_workers)
    outlooks = look_at(missing, closely=True, title=f"Looking at {life.name}" if progress else None)
    cost = cost_of(missing, outlooks, num_workers, tried=True)
    done = sum(report["num_frames"] for report in reports.values())
    free = free_bytes(folder)
    return Plan(folder, False, outlooks, done, cost.num_bytes, free, cost.seconds, num_workers)


def prepared_folders(life: Life, cache_dir: str | Path | None = None) -> list[Path]:
    """The prepared forms of a life that are kept, of whatever videos and settings."""
    lives = Path(cache_dir or default_cache_dir()) / "lives"
    return sorted(lives.glob(f"{life.name}-{'[0-9a-f]' * 12}"))


def _plan_copy(base: Plan, folder: Path) -> Plan:
    """What a life takes that has the frames of another: those too, if they are not there yet, and a copy of them."""
    if not base.is_done:
        return dataclasses.replace(base, folder=folder, num_bytes=2 * base.num_bytes)
    prepared = PreparedLife.load(base.folder)
    seconds = sum(report["seconds"] for report in prepared.metadata["videos"])
    outlook = Outlook(prepared.name, seconds, len(prepared))
    num_bytes = sum(file.stat().st_size for file in base.folder.glob("*.arrow"))
    return dataclasses.replace(
        base,
        folder=folder,
        is_done=False,
        outlooks=[outlook],
        num_frames_done=0,
        num_bytes=num_bytes,
        seconds=None,
    )


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
    write_dataset_description(partial, [report["file"] for report in good], features, fingerprint)
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    partial.rename(folder)
    for report_file in folder.glob("*.report.json"):
        report_file.unlink()


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


def _shared_out(shards: list[Shard], num_workers: int | None) -> tuple[list[Shard], int]:
    """The shards, each with its share of the cores for its decoder, and how many to write at once."""
    cores = os.cpu_count() or 1
    num_workers = max(1, min(num_workers or cores, len(shards)))
    return [dataclasses.replace(shard, num_threads=max(1, cores // num_workers)) for shard in shards], num_workers


def _write(
    life: Life, shards: list[Shard], num_workers: int | None, strict: bool, progress: bool
) -> list[dict[str, Any]]:
    """Write the shards that are not there yet, several at once, and give the reports of all."""
    reports = {shard.video: report for shard in shards if (report := shard.finished()) is not None}
    missing, num_workers = _shared_out([shard for shard in shards if shard.video not in reports], num_workers)
    there = sum(report["num_frames"] for report in reports.values())
    outlooks = look_at(missing, title=f"Looking at {life.name}" if progress else None)
    to_come = sum(outlook.num_frames for outlook in outlooks)
    cost = cost_of(missing, outlooks, num_workers, tried=to_come > _LONG)
    lives = shards[0].file.parent.parent
    elsewhere = "choose another place with --cache-dir or the variable SINGLELIFE_CACHE"
    check_room(cost.num_bytes, lives, f"The life {life.name}", elsewhere)
    if progress and cost.seconds is not None:
        length = duration(sum(outlook.seconds for outlook in outlooks))
        done = f", besides {there:,} that are done" if there else ""
        print(
            f"Preparing {life.name}: about {to_come:,} frames of {len(missing)} video(s) ({length}){done}. They need "
            f"about {in_bytes(cost.num_bytes)} in {lives}, where {in_bytes(free_bytes(lives))} are free, and about "
            f"{duration(cost.seconds)}.",
            file=sys.stderr,
        )

    title = f"Preparing {life.name}"
    with tqdm(desc=title, initial=there, total=there + to_come, unit=" frames", disable=not progress) as bar:

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
