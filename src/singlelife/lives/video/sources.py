"""What the videos of a life are read from: files, or rows of a `datasets` column that hold the files' bytes."""

import glob
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import pyarrow as pa

from singlelife.errors import LifeError

if TYPE_CHECKING:
    from datasets import Dataset

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
)

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
            return self.path.open("rb")
        except OSError as error:
            raise LifeError(f"{self.path}: {(error.strerror or str(error)).lower()}.") from error


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


def find_videos(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` stand for, without doubles: in the order given, in natural order within each.

    Raises:
        LifeError: a path stands for nothing, or a list of videos cannot be read.
    """
    found: list[Path] = []
    for path in map(str, paths):
        whole = Path(path).expanduser()
        # glob.glob, since Path.glob refuses absolute patterns
        matches = [whole] if whole.exists() else map(Path, glob.glob(str(whole), recursive=True))  # noqa: PTH207
        inside = [file for match in sorted(matches, key=_natural) for file in videos_in(match)]
        if not path or not inside:
            raise LifeError(
                f"There is no video {path!r}: no such file, no match as a glob, or a folder without files that end in "
                f"{' '.join(sorted(VIDEO_SUFFIXES))}; name others themselves."
            )
        found += inside
    return distinct(found)


def distinct(files: Sequence[Path]) -> list[Path]:
    """Each file once, by its first path."""
    by_target: dict[Path, Path] = {}
    for file in files:
        by_target.setdefault(file.resolve(), file)
    return list(by_target.values())


def videos_in(path: Path) -> list[Path]:
    """A file itself, what a list names; the video files of a folder and of those in it, but no hidden ones."""
    if not path.is_dir():
        return listed_in(path) if path.suffix == ".txt" else [path]
    named = [file for file in path.rglob("[!.]*") if file.suffix.lower() in VIDEO_SUFFIXES]
    return sorted(filter(Path.is_file, named), key=_natural)


def listed_in(path: Path) -> list[Path]:
    """The files that a list names, a path a line, from the list's folder on; lines that begin with # say nothing.

    Raises:
        LifeError: it cannot be read, names none, or one that is not there.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise LifeError(f"The list of videos {path} cannot be read ({error}).") from error
    files = [path.parent / line for line in lines if line and not line.startswith("#")]
    gone = [file for file in files if not file.is_file()]
    if gone or not files:
        what = f"{len(gone)} of {len(files)} files that are not here, such as {gone[0]}" if gone else "no file"
        raise LifeError(f"The list of videos {path} names {what}.")
    return files


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts clip 2 before clip 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


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
