"""What the videos of a life are read from: files, or rows of a `datasets` column that hold the files' bytes."""

import hashlib
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import pyarrow as pa

from singlelife.errors import LifeError

if TYPE_CHECKING:
    from datasets import Dataset

_FINGERPRINTED = 1 << 20  # bytes at each end of a video


@dataclass(frozen=True)
class VideoFile:
    """A video in a file of its own."""

    path: Path

    def open(self) -> BinaryIO:
        """Its bytes.

        Raises:
            LifeError: there is no such file, or it cannot be opened.
        """
        try:
            mode = self.path.stat().st_mode
            if not stat.S_ISREG(mode):  # to open a pipe would wait for ever
                kind = "a folder that cannot be read" if stat.S_ISDIR(mode) else "a pipe or device, not a file"
                raise LifeError(f"{self.path}: {kind}.")
            return self.path.open("rb")
        except OSError as error:
            link = " (a link that leads nowhere)" if self.path.is_symlink() else ""
            raise LifeError(f"{self.path}: {(error.strerror or str(error)).lower()}{link}.") from error


@dataclass(frozen=True, eq=False)
class EmbeddedVideo:
    """A video whose bytes are in a data set.

    Attributes:
        path: what names it; nothing is there.
        content: of the video file. Of a data set on disk it is a part of the memory-mapped file and takes no memory.
    """

    path: PurePath
    content: pa.Buffer

    def open(self) -> BinaryIO:
        """Its bytes, without a copy."""
        return pa.BufferReader(self.content)


VideoSource: TypeAlias = VideoFile | EmbeddedVideo  # of a container that is decoded; see also `scene.rgbd`


def fingerprint(source: VideoSource) -> str:
    """What tells a video from others: its size and the SHA-256 of its first and last MiB.

    Raises:
        LifeError: it cannot be read.
    """
    try:
        with source.open() as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(file.read(_FINGERPRINTED))
            file.seek(max(0, size - _FINGERPRINTED))
            digest.update(file.read(_FINGERPRINTED))
    except OSError as error:
        raise LifeError(f"{source.path}: {error.strerror}.") from error
    return f"{size}-{digest.hexdigest()}"


def videos_of(dataset: "Dataset", column: str | None = None) -> list[Path | EmbeddedVideo]:
    """The videos of a data set's `Video` column, in the order of its rows, for `get_life(name, videos=...)`.

    Rows that hold bytes are named by the path beside them, with the row's number as a folder in front where two rows
    have the same one, or by the row's number alone; other rows give the file of their path. Nothing is decoded, copied
    or written, and torchcodec is not needed.

    Args:
        dataset: of one split, not streamed.
        column: which of its columns; may be left out where one alone is of the type `Video`.

    Raises:
        LifeError: there is no such column, there are several, or it has no rows.
    """
    from datasets import Dataset, Video  # here, so that workers, which are given sources, start without it

    if not isinstance(dataset, Dataset):
        raise LifeError(f"Videos come from one split of a data set that is not streamed, not from {type(dataset)}.")
    found = [name for name, feature in dataset.features.items() if isinstance(feature, Video)]
    named = [name for name in found if column in (name, None)]
    if len(named) != 1:
        raise LifeError(
            f"One column of the type Video should be named, not {column}. The data set has {found or 'none'} among "
            f"its columns {', '.join(dataset.features)}."
        )
    rows = dataset.select_columns(named[0]).with_format("arrow")
    cells = [rows[row][named[0]][0] for row in range(len(dataset))]
    paths = [cell["path"].as_py() if cell.is_valid else None for cell in cells]
    times = Counter(paths)
    videos: list[Path | EmbeddedVideo] = []
    for row, (path, cell) in enumerate(zip(paths, cells, strict=True)):
        content = cell["bytes"].as_buffer() if cell.is_valid and cell["bytes"].is_valid else None
        if content is None and path:
            videos.append(Path(path))
        else:
            name = PurePath(path or "")
            if not name.name or times[path] > 1:
                name = PurePath(f"row-{row:06d}", name.name)
            videos.append(EmbeddedVideo(name, content or pa.py_buffer(b"")))
    if not videos:
        raise LifeError(f"The data set has no rows, so no videos in its column {named[0]!r}.")
    return videos
