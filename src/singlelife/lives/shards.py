"""Write one video of a life, or its simulation, as one Arrow file: the task of one process when preparing a life.

Imports neither torch nor datasets, so that workers start fast and stay small.
"""

import io
import itertools
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.scene.rgbd import MILLIMETRES, PosedRecording
from singlelife.lives.simulation import DEPTH_SCALE, ScreenSource, SimulatedSource
from singlelife.lives.simulation.simulated import draw_screen, render
from singlelife.lives.video.reader import VideoReader, VideoSource, jpeg

_BYTES_PER_PIXEL = {"video": 0.25, "simulated": 0.5}  # about, for JPEG quality 92; rendered frames are sharper
_ROWS_IN_MEMORY = 32
_FRAMES_AHEAD = 4  # frames made while one is encoded
_PNG_LEVEL = 1  # all levels are lossless: a depth map of 96 px takes 0.23 ms and 1.1 kB at level 1, 0.37 and 0.9 at 6

Source: TypeAlias = VideoSource | PosedRecording | SimulatedSource | ScreenSource
Counted = Callable[[int], object]  # called with the number of frames just written


@dataclass(frozen=True, eq=False)
class Shard:
    """A video to write, and the file to write it to.

    Attributes:
        source: the video, or what to render.
        video: its name within the life.
        frame_rate: kept frames per second, in Hz.
        frame_size: shorter side of the kept frames, in pixels.
        file: the Arrow file to write. A report appears beside it when it is complete.
        schema: the file's columns.
        num_threads: threads of the video decoder.
    """

    source: Source
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
            `video` and `file` (names), `num_frames`, `seconds` (time of the last frame), and for a video the facts of
            `VideoReader`, such as `damage` (None if intact); or `video` and `error` if no frame can be used.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        aside = self.file.with_suffix(f".{os.getpid()}.tmp")
        facts: dict[str, Any] = {"damage": None}
        try:
            if isinstance(self.source, SimulatedSource | ScreenSource | PosedRecording):
                num_frames, seconds = self._write_rows(aside, self._rows(self.source), counted)
            else:
                with VideoReader(self.source, self.frame_rate, self.frame_size, self.num_threads) as reader:
                    num_frames, seconds = self._write_rows(aside, self._rows(reader), counted)
                    facts = reader.facts
            aside.replace(self.file)
            report = {"video": self.video, "file": self.file.name, "num_frames": num_frames, "seconds": seconds}
            report |= facts
            aside.write_text(json.dumps(report), encoding="utf-8")
            aside.replace(self._report())
        except LifeError as error:
            return {"video": self.video, "error": self._without_path(error)}
        finally:
            aside.unlink(missing_ok=True)  # an incomplete file only takes room
        return report

    def estimate(self) -> dict[str, Any]:
        """Read the video's header, decode its first frame, and check that the file is not cut short.

        Returns:
            `video`, estimates of `seconds`, `num_frames` and `num_bytes`, each 0 if its header does not say, and for a
            video the facts of `VideoReader`; or `video` and `error`, the reason why it cannot be used.
        """
        facts: dict[str, Any] = {"damage": None}
        if isinstance(self.source, SimulatedSource | ScreenSource):
            num_frames, seconds = self.source.num_frames, self.source.num_frames / self.frame_rate
            size = self.frame_size**2 * _BYTES_PER_PIXEL["simulated"]
        elif isinstance(self.source, PosedRecording) and self.source.video is None:
            seconds = float(self.source.times[-1])
            num_frames = min(len(self.source), round(seconds * self.frame_rate) + 1)
            size = 2 * self.frame_size**2 * _BYTES_PER_PIXEL["video"]  # wider than high, and its depth
        else:
            video = self.source.video if isinstance(self.source, PosedRecording) else self.source
            assert video is not None  # recordings with images are handled above
            try:
                with VideoReader(video, self.frame_rate, self.frame_size) as reader:
                    num_frames, seconds = reader.num_frames_estimate, reader.announced_seconds
                    width, height = reader.stored_size
                    reader.glance()
                    facts = reader.facts
            except LifeError as error:
                return {"video": self.video, "error": self._without_path(error)}
            size = width * height * min(1.0, self.frame_size / min(width, height)) ** 2 * _BYTES_PER_PIXEL["video"]
        found = {"seconds": seconds, "num_frames": num_frames, "num_bytes": round(num_frames * size)}
        return {"video": self.video} | found | facts

    def _report(self) -> Path:
        return self.file.with_suffix(".report.json")

    def _without_path(self, error: LifeError) -> str:
        """An error's message without the video's path, since it may be published with the life."""
        return str(error).removeprefix(f"{getattr(self.source, 'path', '')}: ")

    def _write_rows(self, path: Path, rows: Iterator[dict[str, Any]], counted: Counted) -> tuple[int, float]:
        num_frames, seconds = 0, 0.0
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, self.schema) as stream:
            while batch := list(itertools.islice(rows, _ROWS_IN_MEMORY)):
                stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=self.schema))
                num_frames, seconds = num_frames + len(batch), batch[-1]["timestamp"]
                counted(len(batch))
        return num_frames, seconds

    def _rows(self, source: SimulatedSource | ScreenSource | PosedRecording | VideoReader) -> Iterator[dict[str, Any]]:
        """The rows in order, each encoded in a thread while the next frames are made."""
        with ThreadPoolExecutor(1) as encoder:
            encoding: deque[Future[dict[str, Any]]] = deque()
            for frame in _frames(source, self.frame_rate, self.frame_size):
                encoding.append(encoder.submit(self._row, *frame))
                if len(encoding) > _FRAMES_AHEAD:
                    yield encoding.popleft().result()
            while encoding:
                yield encoding.popleft().result()

    def _row(self, image: np.ndarray, timestamp: float, frame_index: int, scene: "_Scene | None") -> dict[str, Any]:
        encoded = {"bytes": jpeg(image), "path": None}
        row = {"image": encoded, "timestamp": timestamp, "video": self.video, "frame_index": frame_index}
        return row if scene is None else row | _scene_columns(*scene)


_Scene: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None, float]  # pose, intrinsics, depth, depth scale


def _frames(
    source: SimulatedSource | ScreenSource | PosedRecording | VideoReader, frame_rate: float, frame_size: int
) -> Iterator[tuple[np.ndarray, float, int, _Scene | None]]:
    """Image, timestamp and number of each frame, and its pose, intrinsics and depth if known."""
    if isinstance(source, SimulatedSource):
        for frame in render(source, frame_size):
            scene = frame.pose, frame.intrinsics, frame.depth, DEPTH_SCALE
            yield frame.image, frame.timestamp, frame.frame_index, scene
    elif isinstance(source, PosedRecording):
        for kept, pose, intrinsics, depth in source.frames(frame_rate, frame_size):
            yield kept.image, kept.timestamp, kept.frame_index, (pose, intrinsics, depth, MILLIMETRES)
    elif isinstance(source, ScreenSource):
        for index, image in enumerate(draw_screen(source, frame_size)):
            yield image, index / source.frames_per_second, index, None
    else:
        for kept in source:
            yield kept.image, kept.timestamp, kept.frame_index, None


def _scene_columns(pose: np.ndarray, intrinsics: np.ndarray, depth: np.ndarray | None, scale: float) -> dict[str, Any]:
    columns: dict[str, Any] = {"pose": pose.tolist(), "intrinsics": intrinsics.tolist()}
    if depth is not None:
        levels = np.round(depth / scale)
        levels[levels > np.iinfo(np.uint16).max] = 0  # too far to store: unknown
        encoded = io.BytesIO()
        Image.fromarray(levels.astype(np.uint16)).save(encoded, "PNG", compress_level=_PNG_LEVEL)
        columns["depth"] = {"bytes": encoded.getvalue(), "path": None}
    return columns


_counter: Any = None  # frames written by all workers of a pool


def start_worker(counter: Any, parent: Connection) -> None:
    """Make this process a worker that counts its frames into `counter` and ends as soon as `parent` is closed.

    Only the parent has the other end of that pipe, so its workers end with it, even if it is killed: none goes on
    writing during the next preparation.
    """
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=lambda: (wait([parent]), os._exit(1)), daemon=True).start()


def write_in_worker(shard: Shard) -> dict[str, Any]:
    """`shard.write`, in a worker."""

    def counted(num_frames: int) -> None:
        with _counter.get_lock():
            _counter.value += num_frames

    return shard.write(counted)
