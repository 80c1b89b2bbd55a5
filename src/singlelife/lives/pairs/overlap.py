"""The pairs of frames in a life that see the same place, found once and stored with the life as `pairs-<key>.parquet`.

The overlap of two frames is the Jaccard index |A ∩ B| / |A ∪ B| of the sets of 3D points that they see, as in "Unique
Lives, Shared World" (arXiv 2512.04085). The search is exact: the product of the sparse matrix frames × points with its
transpose, a block of frames at a time, counts the common points of all pairs that have any. A stored table's key is a
hash of the geometry and the settings.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse
from tqdm.auto import tqdm

from singlelife.errors import LifeError, SingleLifeWarning
from singlelife.files import atomic_write, locked
from singlelife.lives.pairs import PairSettings
from singlelife.lives.scene.geometry import Geometry, VisiblePoints, frames_at_rate

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife

_COMMON_AT_ONCE = 1 << 25  # maximum number of pairs with a common point in one block, which bounds the memory
_TARGET_BITS = 7  # bits of a pair's sort key for the target's place in its block
_BLOCK_FRAMES = 1 << _TARGET_BITS  # maximum number of frames compared with the others at a time
_FORMAT_VERSION = 1  # part of the key: raise it when the same geometry and settings give another table
_DESCRIPTION = b"singlelife"  # the key of our JSON in the metadata of the file's schema
_SCHEMA = pa.schema([("target", pa.int32()), ("source", pa.int32()), ("overlap", pa.float32())])


@dataclass(frozen=True)
class PairTable:
    """Pairs of frames that overlap, sorted by target, then source. Each pair has two rows, one for each order.

    Attributes:
        target, source: rows of the life, int32 (m,).
        overlap: Jaccard index of their visible points, float32 (m,).
        num_frames: the number of frames in the life.
        num_in_range: ordered pairs within the range of overlaps; more than m if `max_neighbours` left some out.
        num_above: ordered pairs that overlap more than the range allows.
        key: hash of the geometry and settings that a stored table was made from; empty if it is not stored.
    """

    target: np.ndarray
    source: np.ndarray
    overlap: np.ndarray
    num_frames: int
    num_in_range: int
    num_above: int
    key: str = ""

    def __len__(self) -> int:
        return len(self.target)


def find_overlaps(
    points: VisiblePoints, component: np.ndarray, settings: PairSettings, *, progress: bool = False
) -> PairTable:
    """All pairs of frames whose overlap is in a range, but at most `max_neighbours` for each target.

    If a target has more partners, the pairs with the smallest hash are kept. The hash depends on the two rows and not
    on their order, so the choice is fair (it knows neither time nor overlap) and the same in every run.

    Args:
        points: the points that each of n frames sees.
        component: int64 (n,), as in a `Geometry`. Frames of different components, or of -1, are not compared.
        settings: the range of overlaps, and the number of neighbours.
    """
    least, most, neighbours = settings.min_overlap, settings.max_overlap, settings.max_neighbours
    found, in_range, above = [], 0, 0
    with tqdm(desc="Finding overlaps", total=int((component >= 0).sum()), unit=" frames", disable=not progress) as bar:
        for number in np.unique(component[component >= 0]):
            rows = np.flatnonzero(component == number)
            for start, target, source, overlap in _overlapping(points, rows, bar):
                above += int((overlap > np.float32(most)).sum())
                inside = (overlap >= np.float32(least)) & (overlap <= np.float32(most))
                target, source, overlap = target[inside], source[inside], overlap[inside]
                in_range += len(target)
                kept = _smallest_hashes(target - start, rows[target], rows[source], neighbours)
                found.append((rows[target[kept]], rows[source[kept]], overlap[kept]))
    # Each component's pairs are sorted already, but components interleave in time, so sort all of them.
    target, source, overlap = (
        np.concatenate([part[column] for part in found]).astype(dtype) if found else np.zeros(0, dtype)
        for column, dtype in enumerate((np.int32, np.int32, np.float32))
    )
    order = np.argsort(target, kind="stable")
    return PairTable(target[order], source[order], overlap[order], len(points), in_range, above)


def overlaps_of(points: VisiblePoints, component: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The overlap of given pairs of rows, int64 (m, 2), as float32 (m,); NaN if the two cannot be compared.

    They cannot if a pose is unknown, if they belong to different components, or if neither sees a point.
    """
    overlap = np.full(len(pairs), np.nan, dtype=np.float32)
    for pair, (first, second) in enumerate(pairs):
        union = len(points[first]) + len(points[second])
        if union and component[first] == component[second] >= 0:
            common = len(np.intersect1d(points[first], points[second], assume_unique=first != second))
            overlap[pair] = np.float32(common) / np.float32(union - common)
    return overlap


def stored_pair_table(
    life: "PreparedLife",
    geometry: Geometry,
    settings: PairSettings,
    *,
    num_frames: int | None = None,
    progress: bool = True,
) -> PairTable:
    """The overlapping frames of a life, read if they are stored, otherwise found and stored by one process at a time.

    A file that is damaged, or belongs to another geometry or other settings, is made again, with a warning.

    Args:
        geometry: the life's geometry.
        settings: the range of overlaps, the number of neighbours and the rate.
        num_frames: use only this many frames, as if the life ended there; all by default.

    Raises:
        LifeError: the geometry belongs to another life, or the table cannot be written.
    """
    if len(geometry) != len(life):
        raise LifeError(f"The life {life.name} has {len(life)} frames, but this geometry has {len(geometry)}.")
    component = np.full(len(life), -1, dtype=np.int64)
    looked_at = frames_at_rate(life, settings.spatial_rate)
    looked_at = looked_at[: np.searchsorted(looked_at, len(life) if num_frames is None else num_frames)]
    component[looked_at] = geometry.component[looked_at]
    key = pair_table_key(replace(geometry, component=component), settings)
    path = life.path / f"pairs-{key[:12]}.parquet"
    table = _read_if_there(path, key)
    if table is not None:
        return table
    try:
        with locked(Path(f"{life.path}.pairs"), f"the pairs of {life.name}"):
            table = _read_if_there(path, key)  # perhaps made by the process that held the lock
            if table is None:
                table = replace(find_overlaps(geometry.points, component, settings, progress=progress), key=key)
                _write(table, path)
    except OSError as error:
        raise LifeError(
            f"The pairs of the life {life.name} cannot be written as {path}: {error.strerror or error}. Make room, or "
            "make the folder writable."
        ) from error
    return table


def pair_table_key(geometry: Geometry, settings: PairSettings) -> str:
    """SHA-256 of everything that determines a pair table, as a hex string.

    Args:
        geometry: the frames' geometry; frames that are left out have the component -1.
        settings: the settings of the search.
    """
    described = [_FORMAT_VERSION, settings.min_overlap, settings.max_overlap, settings.max_neighbours]
    digest = hashlib.sha256(json.dumps(described).encode())
    for values in (geometry.component, geometry.points.offsets, geometry.points.ids):
        digest.update(np.ascontiguousarray(values, dtype="<i8").data)
    return digest.hexdigest()


def _overlapping(
    points: VisiblePoints, rows: np.ndarray, bar: tqdm
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """For each block of one component's frames, its first frame, and the target, source and overlap of its pairs.

    Frames are numbered by their place in `rows`. Pairs without a common point are left out.
    """
    sizes = points.counts[rows]
    ids = np.concatenate([points[row] for row in rows])
    _, number, seen_by = np.unique(ids, return_inverse=True, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    seen = sparse.csr_array((np.ones(len(ids), np.float32), number, offsets), shape=(len(rows), len(seen_by)))
    seen_from = seen.T.tocsr()
    # A block ends before its pairs could exceed the limit; its first frame is always in it.
    most_pairs = np.concatenate([[0], np.cumsum(np.minimum(seen @ seen_by, len(rows)))])
    start = 0
    while start < len(rows):
        fitting = int(np.searchsorted(most_pairs, most_pairs[start] + _COMMON_AT_ONCE, side="right")) - 1
        stop = min(max(fitting, start + 1), start + _BLOCK_FRAMES, len(rows))
        common = (seen[start:stop] @ seen_from).tocoo()
        target, source = common.coords[0].astype(np.int64) + start, common.coords[1].astype(np.int64)
        union = (sizes[target] + sizes[source]).astype(np.float32) - common.data
        others = target != source  # a frame is not its own partner
        yield start, target[others], source[others], (common.data / union)[others]
        bar.update(stop - start)
        start = stop


def _smallest_hashes(target: np.ndarray, first: np.ndarray, second: np.ndarray, most: int) -> np.ndarray:
    """Indices of the pairs to keep, at most `most` for each target, sorted by target, then source."""
    hashed = _hash(np.minimum(first, second), np.maximum(first, second))
    key = (target.astype(np.uint64) << np.uint64(64 - _TARGET_BITS)) | (hashed >> np.uint64(_TARGET_BITS))
    order = np.argsort(key)
    counts = np.bincount(target)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = order[rank < most]
    return kept[np.lexsort((second[kept], target[kept]))]


def _hash(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A uint64 for each pair of rows, by SplitMix64's finaliser (Steele et al., OOPSLA 2014), once for each part."""
    mixed = np.zeros(1, dtype=np.uint64)
    for part in (mixed, low, high):  # the first was once a seed
        mixed = (mixed ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def _write(table: PairTable, path: Path) -> None:
    description = {name: getattr(table, name) for name in ("key", "num_frames", "num_in_range", "num_above")}
    columns = pa.table(
        [table.target, table.source, table.overlap],
        schema=_SCHEMA.with_metadata({_DESCRIPTION: json.dumps(description)}),
    )
    with atomic_write(path) as aside:
        pq.write_table(columns, aside, compression="zstd")


def _read_if_there(path: Path, key: str) -> PairTable | None:
    """A stored table, or None if none can be used."""
    if not path.exists():
        return None
    try:
        columns = pq.read_table(path)
        description = json.loads((columns.schema.metadata or {})[_DESCRIPTION])
        if description["key"] != key:
            raise ValueError("it was made from other poses or settings")
        arrays = {name: columns.column(name).combine_chunks().to_numpy() for name in _SCHEMA.names}
        return PairTable(**arrays, **description)
    except Exception as error:  # several libraries raise errors of their own
        warnings.warn(
            f"The pair table {path} cannot be used ({error}). Making it again.", SingleLifeWarning, stacklevel=3
        )
        return None
