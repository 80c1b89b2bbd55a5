"""A decoded copy of a life's frames, for a training that its loader would hold up.

Half of the time that it takes to read a pair goes into decoding JPEG files, each again and again. The copy trades that
time for room on the disk: it has the very pixels that the frames decode to, so that whatever is read of it is the same
to the bit. It is a folder beside the frames, and can be deleted at any time.
"""

import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.files import check_room
from singlelife.lives.prepared import PreparedLife

FOLDER = "decoded"

_PIXELS, _SIZES = "pixels.bin", "sizes.json"
_AHEAD = 256  # frames that are decoded before they are written, at most


class DecodedFrames:
    """The frames of a decoded copy, mapped into memory: all processes of a machine share what is read of them.

    Args:
        folder: of the copy.
        num_frames: that it should have.

    Raises:
        LifeError: it is damaged, or is that of another life.
    """

    def __init__(self, folder: Path, num_frames: int):
        self._path = folder / _PIXELS
        try:
            runs = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
            sizes = np.repeat(np.array([run[1:] for run in runs], dtype=np.int64), [run[0] for run in runs], axis=0)
            offsets = np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * 3)])
            if len(sizes) != num_frames or self._path.stat().st_size != offsets[-1]:
                raise ValueError("it is not as long as the life")
        except (OSError, ValueError, TypeError, IndexError) as error:
            raise LifeError(
                f"The decoded frames in {folder} cannot be used ({error}). Delete the folder; it is made again."
            ) from error
        self._sizes, self._offsets = sizes, offsets
        self._map()

    def _map(self) -> None:
        self._pixels = np.memmap(self._path, dtype=np.uint8, mode="c")  # written to, it changes here, not on the disk

    def __getitem__(self, row: int) -> torch.Tensor:
        """A frame, uint8 (3, height, width), with the channels last in memory, as `decode_jpeg` gives it."""
        height, width = self._sizes[row]
        pixels = self._pixels[self._offsets[row] : self._offsets[row + 1]]
        return torch.from_numpy(pixels.reshape(height, width, 3)).permute(2, 0, 1)

    def __getstate__(self) -> dict[str, Any]:  # a worker that is spawned maps the file itself
        return {name: value for name, value in self.__dict__.items() if name != "_pixels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()


def use_decoded_frames(life: PreparedLife, *, num_workers: int | None = None, progress: bool = True) -> None:
    """Let a life's frames be read from their decoded copy, which is made if it is not there.

    Of several processes one makes it and the others wait.

    Args:
        life: the prepared life.
        num_workers: threads to decode in; one per core by default.
        progress: show a progress bar on stderr.

    Raises:
        LifeError: the disk lacks the room, the life's folder cannot be written, or a frame is damaged.
    """
    folder = life.path / FOLDER
    try:
        if not folder.exists():
            with FileLock(life.path / f"{FOLDER}.lock"):
                if not folder.exists():
                    _make(life, folder, num_workers or os.cpu_count() or 1, progress)
    except OSError as error:
        raise LifeError(
            f"The frames of {life.name} cannot be decoded into {folder}: {error.strerror or error}. Make room there, "
            "or go without --decoded-frames."
        ) from error
    life.decoded = DecodedFrames(folder, len(life))


def _make(life: PreparedLife, folder: Path, num_workers: int, progress: bool) -> None:
    _, firsts, counts = np.unique(life.video_index, return_index=True, return_counts=True)
    needed = sum(image.numel() * int(count) for image, count in zip(life.iter_decode(firsts), counts, strict=True))
    check_room(needed, folder, f"A decoded copy of the life {life.name}", "go without --decoded-frames")
    aside = folder.with_name(f"{FOLDER}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    aside.mkdir()
    sizes: list[tuple[int, ...]] = []
    bar = tqdm(total=len(life), desc=f"decode {life.name}", unit="frame", disable=not progress, file=sys.stderr)
    try:
        with (aside / _PIXELS).open("wb") as file, bar:
            for image in _decoded(life, num_workers):
                file.write(image.permute(1, 2, 0).numpy().data)
                sizes.append(tuple(image.shape[1:]))
                bar.update()
            file.flush()
            os.fsync(file.fileno())  # before it gets its name, as a loss of power would not show in its length
        runs = [[len(list(group)), *size] for size, group in groupby(sizes)]
        (aside / _SIZES).write_text(json.dumps(runs), encoding="utf-8")
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _decoded(life: PreparedLife, num_workers: int) -> Iterator[torch.Tensor]:
    """All frames in order, decoded in threads: the decoder works without Python's lock."""
    waiting: deque[Future[list[torch.Tensor]]] = deque()
    with ThreadPoolExecutor(num_workers) as threads:
        for row in range(len(life)):
            waiting.append(threads.submit(life.decode, [row]))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()[0]
        while waiting:
            yield waiting.popleft().result()[0]
