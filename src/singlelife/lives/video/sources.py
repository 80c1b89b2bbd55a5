"""What the videos of a life are read from: files, or rows of a `datasets` column that hold the files' bytes."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

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
        if not self.path.is_file():
            raise LifeError(f"{self.path}: no such file.")
        try:
            return self.path.open("rb")
        except OSError as error:
            raise LifeError(f"{self.path}: {error.strerror}.") from error


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


VideoSource: TypeAlias = VideoFile | EmbeddedVideo


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

        videos = videos_of(load_dataset("videofolder", data_dir="clips", split="train"))
        life = prepare_life(get_life("my_clips", videos=videos))

    Rows that hold a path of this machine give that file, once if several rows name it. Rows that hold bytes are named
    by the path that stands beside them, with the row's number as a folder in front where two rows have the same one,
    or by the row's number alone. Nothing is decoded, copied or written, and torchcodec is not needed.

    Args:
        dataset: of one split, not streamed.
        column: which of its columns; may be left out where one alone is of the type `Video`.

    Raises:
        LifeError: there is no such column, it is not of the type `Video`, there are several, or a row's video is not
            on this machine.
    """
    column = _video_column(dataset, column)
    view = dataset.select_columns(column).with_format("arrow")
    paths: list[str | None] = []
    contents: list[pa.Buffer | None] = []
    for row in range(len(dataset)):
        video = view[row][column][0]
        known = video.is_valid
        paths.append(video["path"].as_py() if known else None)
        contents.append(video["bytes"].as_buffer() if known and video["bytes"].is_valid else None)

    times = Counter(paths)
    videos: dict[Any, Path | EmbeddedVideo] = {}
    for row, (path, content) in enumerate(zip(paths, contents, strict=True)):
        if content is None and path:
            if not Path(path).is_file():
                raise LifeError(
                    f"Row {row} of the column {column!r} holds no bytes, and its path {path!r} is no file of this "
                    "machine. Load the data set without streaming, so that its videos are downloaded."
                )
            videos[path] = Path(path)
        else:
            name = PurePath(path or "")
            if not name.name or times[path] > 1:
                name = PurePath(f"row-{row:06d}", name.name)
            videos[row] = EmbeddedVideo(name, content or pa.py_buffer(b""))
    if not videos:
        raise LifeError(f"The data set has no rows, so no videos in its column {column!r}.")
    return list(videos.values())


def _video_column(dataset: "Dataset", column: str | None) -> str:
    from datasets import Dataset, Video  # here, so that workers, which are given sources, start without it

    if not isinstance(dataset, Dataset):
        known = f" Choose one of its splits: {', '.join(map(str, dataset))}." if isinstance(dataset, dict) else ""
        raise LifeError(f"Videos come from a datasets.Dataset that is not streamed, not from {type(dataset)}.{known}")
    kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
    found = [name for name, feature in dataset.features.items() if isinstance(feature, Video)]
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if column is None and len(found) == 1:
        return found[0]
    if column is None:
        several = f"several columns of the type Video, {' and '.join(found)}; name one"
        raise LifeError(f"The data set has {several if found else 'no column of the type Video, but ' + listed}.")
    if column not in found:
        raise LifeError(f"The data set has no column {column!r} of the type Video, but {listed}.")
    return column
