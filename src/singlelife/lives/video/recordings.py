"""Find the recordings in a folder, glob or list, and put them in order of time."""

import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from singlelife.errors import LifeError

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".insv", ".m2t", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg",
     ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)  # fmt: skip

# 2024-01-31 12-00-00, 20240131_120000, 2024_0131_120000 or 20240131120000 anywhere in a name; thousandths may follow.
_TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)(?:[-_ T.]|[-_ ]at[-_ ])*"
    r"(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(\d*)"
)
# A GoPro writes a long recording as several files: GOPR0001 GP010001 GP020001, or GX010001 GX020001 (also GH).
_GOPRO = re.compile(r"(?:GOPR|GP(?P<old>\d\d)|G[HX](?P<new>\d\d|[A-Z]{2}))(?P<recording>\d{4})(?!\d)", re.IGNORECASE)


def find_videos(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name, each once: in the given order, and within a folder or glob in order of time.

    Files that are named one by one keep their order, unless it is alphabetical, as when a shell expands a glob: then
    they are put in order of time too. Unreadable files are included, so that an error names them when they are opened.

    Raises:
        LifeError: a path matches nothing, or a list of videos cannot be read.
    """
    found: list[Path] = []
    named: list[Path] = []  # files named one by one since the last folder, glob or list
    for path in map(str, paths):
        whole = Path(path).expanduser()
        # glob.glob, since Path.glob refuses absolute patterns
        there = os.path.lexists(whole)
        matches = [whole] if there else map(Path, glob.glob(str(whole), recursive=True))  # noqa: PTH207
        inside = [file for match in sorted(matches, key=_natural) for file in videos_in(match)]
        if not path or not inside:
            raise LifeError(
                f"There is no video {path!r}: no such file, no match as a glob, or a folder without files that end in "
                f"{' '.join(sorted(VIDEO_SUFFIXES))}; name files with other endings one by one."
            )
        if inside == [whole]:
            named.append(whole)
            continue
        found += _as_named(named) + (inside if whole.suffix == ".txt" else in_order_of_time(inside))
        named = []
    return distinct(found + _as_named(named))


def _as_named(files: list[Path]) -> list[Path]:
    alphabet = (sorted(files), sorted(files, key=lambda file: str(file).casefold()))
    return in_order_of_time(files) if files in alphabet else files


def distinct(files: Sequence[Path]) -> list[Path]:
    """Each file once, by its first path."""
    by_target: dict[str, Path] = {}
    for file in files:
        by_target.setdefault(os.path.realpath(file), file)  # it copes with circles of links
    return list(by_target.values())


def videos_in(path: Path) -> list[Path]:
    """The files at a path: a file itself; the files that a list names; or a folder's video files, except hidden ones,
    at any depth in natural order. Links to folders are followed once each. Unreadable paths are included."""
    if not path.is_dir():
        return listed_in(path) if path.suffix == ".txt" else [path]
    lost: list[OSError] = []
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(path, onerror=lost.append, followlinks=True):
        here = os.path.realpath(root)
        if here in seen:  # a link has led here before
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(root, name) for name in files if not name.startswith(".")]
        # os.path.exists, since Path.exists raises an error without permission to look
        found += [file for file in paths if file.suffix.lower() in VIDEO_SUFFIXES or not os.path.exists(file)]  # noqa: PTH110
    return sorted([*found, *(Path(error.filename) for error in lost)], key=_natural)


def listed_in(path: Path) -> list[Path]:
    """The files that a list names, one path per line, relative to the list's folder; lines with # are comments.

    Raises:
        LifeError: the list cannot be read, is empty, or names a missing file.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise LifeError(f"The list of videos {path} cannot be read ({error}).") from error
    files = [path.parent / line for line in lines if line and not line.startswith("#")]
    gone = [file for file in files if not file.is_file()]
    if gone or not files:
        what = f"{len(files)} file(s), {len(gone)} of them missing, such as {gone[0]}" if gone else "no file"
        raise LifeError(f"The list of videos {path} names {what}.")
    return files


def in_order_of_time(files: Sequence[Path]) -> list[Path]:
    """Files in the order of their recording, by the first of `_ORDERS` that can place all of them."""
    return _ordered(files)[1]


def order_of(files: Sequence[Path]) -> str:
    """The rule that the order of files follows, for people."""
    name, ordered = _ordered(files)
    return name if list(files) == ordered else "as given"


def _ordered(files: Sequence[Path]) -> tuple[str, list[Path]]:
    # os.path.isfile, since Path.is_file raises an error without permission to look. Unreadable files come last.
    known = [file for file in files if os.path.isfile(file)] or files  # noqa: PTH113
    found = ((name, order(known)) for name, order in _ORDERS.items())
    name, keys = next((name, keys) for name, keys in found if keys is not None)
    ordered = sorted(zip(keys, known, strict=True), key=lambda pair: (pair[0], _natural(pair[1])))
    lost = sorted(set(files) - set(known), key=_natural)
    return name, [*(file for _, file in ordered), *lost]


def _times_in_names(files: Iterable[Path]) -> list[Any] | None:
    keys = []
    for file in files:
        match = _TIME.search(file.name)
        try:
            keys.append((datetime(*map(int, match.groups()[:6])), match[7]) if match else None)  # type: ignore[arg-type]
        except ValueError:  # there is no such day
            return None
    return keys if all(keys) else None


def _gopro_numbers(files: Sequence[Path]) -> list[Any] | None:
    known = all(_GOPRO.match(file.name) for file in files) and len({file.parent for file in files}) == 1
    return [()] * len(files) if known else None  # natural order has the rest


def _times_of_creation(files: Iterable[Path]) -> list[Any] | None:
    keys = []
    for file in files:
        try:
            known = file.stat()
            created = _created(file, known.st_size, known.st_mtime_ns)
        except (OSError, LifeError):  # preparing the life will name it and leave it out
            created = datetime.max.replace(tzinfo=UTC)
        if created is None:
            return None
        keys.append(created)
    return keys if len(set(keys)) > 1 else None


@cache
def _created(file: Path, _size: int, _changed: int) -> datetime | None:
    from singlelife.lives.video.reader import VideoReader  # imports PyAV, which is rarely needed

    with VideoReader(file, 1.0, 16) as reader:
        return reader.created


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts clip 2 before clip 10, and a GoPro's second chapter after its recording's first."""
    gopro = _GOPRO.match(path.name)
    if gopro is not None:
        chapter = gopro["old"] or gopro["new"] or "00"
        path = path.with_name(f"G {gopro['recording']} {chapter}{path.name[gopro.end() :]}")
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


_ORDERS: dict[str, Callable[[Sequence[Path]], list[Any] | None]] = {
    "by the times in their names": _times_in_names,
    "by GoPro's numbers of recordings and chapters": _gopro_numbers,
    "by the times of creation in the files": _times_of_creation,
    "by name": lambda files: [()] * len(files),
}
