"""One video of a life, or its simulation, as one Arrow file: the work of one process of a preparation.

Imports neither torch nor datasets, so that workers start fast and stay small.
"""

import io
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.registry import Life
from singlelife.lives.simulated import DEPTH_SCALE, render
from singlelife.lives.video import VideoReader, jpeg

# In map units, where depth is known: the bound for 95% of the pixels (buffer), for all (exact).
DEPTH_ERROR = {"none": None, "buffer": 5.0, "exact": DEPTH_SCALE / 2}

_ROWS_IN_MEMORY = 32
_PNG_LEVEL = 1  # lossless at all levels: a depth of 96 px takes 0.23 ms and 1.1 kB at this one, 0.37 and 0.9 at 6

Counted = Callable[[int], object]  # told of frames as they are written


@dataclass(frozen=True)
class Shard:
    """What to write where.

    Attributes:
        life: of which it is a part.
        path: of the video; unused in a simulated life.
        video: the video's name within the life.
        file: the Arrow file to write. Beside it appears a report, when the file is complete.
        schema: of its columns.
        num_threads: of the video decoder; 0 lets it choose.
    """

    life: Life
    path: Path
    video: str
    file: Path
    schema: pa.Schema
    num_threads: int = 0

    def finished(self) -> dict[str, Any] | None:
        """The report of an earlier, complete `write`, if there is one."""
        report = self._report()
        return json.loads(report.read_text(encoding="utf-8")) if report.exists() else None

    def write(self, counted: Counted) -> dict[str, Any]:
        """Write the Arrow file with constant memory.

        Returns:
            `video` and `file` (names), `num_frames`, `seconds` (time of the last frame) and `damage` (what was lost
            of a damaged video, or None); or `video` and `error` for one of which nothing can be used.
        """
        aside = self.file.with_suffix(f".{os.getpid()}.tmp")
        damage = None
        try:
            if self.life.simulation is not None:
                num_frames, seconds = self._write_rows(aside, _simulated_rows(self.life), counted)
            else:
                with VideoReader(self.path, self.life.frame_rate, self.life.frame_size, self.num_threads) as reader:
                    num_frames, seconds = self._write_rows(aside, _video_rows(reader, self.video), counted)
                    damage = reader.damage
        except LifeError as error:
            aside.unlink(missing_ok=True)
            return {"video": self.video, "error": str(error).removeprefix(f"{self.path}: ")}
        aside.replace(self.file)
        report = {
            "video": self.video,
            "file": self.file.name,
            "num_frames": num_frames,
            "seconds": seconds,
            "damage": damage,
        }
        aside.write_text(json.dumps(report), encoding="utf-8")
        aside.replace(self._report())
        return report

    def num_frames_estimate(self) -> int:
        """About how many frames there will be; 0 where the video does not say or cannot be read."""
        if self.life.simulation is not None:
            return self.life.simulation.num_frames
        try:
            with VideoReader(self.path, self.life.frame_rate, self.life.frame_size) as reader:
                return reader.num_frames_estimate
        except LifeError:
            return 0  # `write` will say why

    def _report(self) -> Path:
        return self.file.with_suffix(".report.json")

    def _write_rows(self, path: Path, rows: Iterator[dict[str, Any]], counted: Counted) -> tuple[int, float]:
        num_frames, seconds = 0, 0.0
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, self.schema) as stream:
            while batch := list(itertools.islice(rows, _ROWS_IN_MEMORY)):
                stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=self.schema))
                num_frames, seconds = num_frames + len(batch), batch[-1]["timestamp"]
                counted(len(batch))
        return num_frames, seconds


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
            "pose": frame.pose.tolist(),
            "intrinsics": frame.intrinsics.tolist(),
        }
        if frame.depth is not None:
            levels = np.round(frame.depth / DEPTH_SCALE)
            levels[levels > np.iinfo(np.uint16).max] = 0  # further than can be stored: unknown
            encoded = io.BytesIO()
            Image.fromarray(levels.astype(np.uint16)).save(encoded, "PNG", compress_level=_PNG_LEVEL)
            row["depth"] = {"bytes": encoded.getvalue(), "path": None}
        yield row


_counter: Any = None  # frames written by all workers of a pool


def start_worker(counter: Any, parent: Connection) -> None:
    """Make this process a worker that counts its frames into `counter` and ends as soon as `parent` is closed.

    The other end of that pipe is open in the parent alone, so a parent that is killed, too, takes its workers along:
    none goes on writing beside the next preparation.
    """
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_when_closed, args=(parent,), daemon=True).start()


def _exit_when_closed(parent: Connection) -> None:
    wait([parent])
    os._exit(1)


def write_in_worker(shard: Shard) -> dict[str, Any]:
    """`shard.write`, in a worker."""

    def counted(num_frames: int) -> None:
        with _counter.get_lock():
            _counter.value += num_frames

    return shard.write(counted)
