"""One video of a life, or its simulation, as one Arrow file: the work of one process of a preparation.

Imports neither torch nor datasets, so that workers start fast and stay small.
"""

import contextlib
import io
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.simulation.screen import ScreenSource, draw_screen
from singlelife.lives.simulation.simulated import DEPTH_SCALE, SimulatedSource, render
from singlelife.lives.video.reader import VideoReader, jpeg
from singlelife.lives.video.sources import VideoSource

# In map units, where depth is known: the bound for 95% of the pixels (buffer), for all (exact).
DEPTH_ERROR = {"none": None, "buffer": 5.0, "exact": DEPTH_SCALE / 2}

_ROWS_IN_MEMORY = 32
_PNG_LEVEL = 1  # lossless at all levels: a depth of 96 px takes 0.23 ms and 1.1 kB at this one, 0.37 and 0.9 at 6

Counted = Callable[[int], object]  # told of frames as they are written


@dataclass(frozen=True, eq=False)
class Shard:
    """What to write where.

    Attributes:
        source: the video, or what to render.
        video: its name within the life.
        frame_rate: kept frames per second, in Hz; unused in a simulation.
        frame_size: shorter side of the kept frames, in pixels.
        file: the Arrow file to write. Beside it appears a report, when the file is complete.
        schema: of its columns.
        num_threads: of the video decoder.
    """

    source: VideoSource | SimulatedSource | ScreenSource
    video: str
    frame_rate: float
    frame_size: int
    file: Path
    schema: pa.Schema
    num_threads: int = 1

    def finished(self) -> dict[str, Any] | None:
        """The report of an earlier, complete `write`, if there is one."""
        report = self._report()
        return json.loads(report.read_text(encoding="utf-8")) if report.exists() else None

    def write(self, counted: Counted) -> dict[str, Any]:
        """Write the Arrow file with constant memory.

        Returns:
            `video` and `file` (names), `num_frames`, `seconds` (time of the last frame) and `damage` (what was lost
            of a damaged video, or None); or `video` and `error` for one of which nothing can be used.

        Raises:
            OSError: there is no room for it, or it cannot be written.
        """
        aside = self.file.with_suffix(f".{os.getpid()}.tmp")
        damage = None
        try:
            if isinstance(self.source, SimulatedSource | ScreenSource):
                num_frames, seconds = self._write_rows(aside, self._simulated_rows(self.source), counted)
            else:
                with VideoReader(self.source, self.frame_rate, self.frame_size, self.num_threads) as reader:
                    num_frames, seconds = self._write_rows(aside, self._video_rows(reader), counted)
                    damage = reader.damage
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
        except LifeError as error:
            return {"video": self.video, "error": without_path(error, self.source)}
        finally:
            aside.unlink(missing_ok=True)  # what is not whole only takes room
        return report

    def sample(self, seconds: float) -> tuple[int, int, float]:
        """Make frames for a while, of a video from its middle on, and throw them away.

        The first is not counted: it takes the time to open the video, or to start the simulation.

        Returns:
            How many frames, their bytes, and the seconds that they took.

        Raises:
            LifeError: nothing can be used of the video.
        """
        with contextlib.ExitStack() as opened:
            if isinstance(self.source, SimulatedSource | ScreenSource):
                rows = self._simulated_rows(self.source)
            else:
                reader = VideoReader(self.source, self.frame_rate, self.frame_size, self.num_threads)
                opened.enter_context(reader).seek(0.5)
                rows = self._video_rows(reader)
            opened.enter_context(contextlib.closing(rows))
            next(rows, None)
            num_frames, num_bytes, start = 0, 0, time.perf_counter()
            for row in rows:
                num_frames += 1
                num_bytes += sum(len(cell["bytes"]) for cell in row.values() if isinstance(cell, dict))
                if time.perf_counter() > start + seconds:
                    break
        return num_frames, num_bytes, time.perf_counter() - start

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

    def _video_rows(self, reader: VideoReader) -> Generator[dict[str, Any]]:
        for frame in reader:
            yield {
                "image": {"bytes": jpeg(frame.image), "path": None},
                "timestamp": frame.timestamp,
                "video": self.video,
                "frame_index": frame.frame_index,
            }

    def _simulated_rows(self, source: SimulatedSource | ScreenSource) -> Generator[dict[str, Any]]:
        return self._rendered_rows(source) if isinstance(source, SimulatedSource) else self._screen_rows(source)

    def _screen_rows(self, source: ScreenSource) -> Generator[dict[str, Any]]:
        for index, image in enumerate(draw_screen(source, self.frame_size)):
            yield {
                "image": {"bytes": jpeg(image), "path": None},
                "timestamp": index / source.frames_per_second,
                "video": self.video,
                "frame_index": index,
            }

    def _rendered_rows(self, source: SimulatedSource) -> Generator[dict[str, Any]]:
        for frame in render(source, self.frame_size):
            row = {
                "image": {"bytes": jpeg(frame.image), "path": None},
                "timestamp": frame.timestamp,
                "video": self.video,
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


def without_path(error: LifeError, source: VideoSource | SimulatedSource | ScreenSource) -> str:
    """What an error says of a video, without where the video lies: it may be published with the life."""
    if isinstance(source, SimulatedSource | ScreenSource):
        return str(error)
    return str(error).removeprefix(f"{source.path}: ")


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
