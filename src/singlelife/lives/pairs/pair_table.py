"""The overlapping frames of a life, found once and kept beside its frames as `pairs-<key>.parquet`.

The key is a hash of the geometry and of the settings, so that a table is never taken for another's. The file is
written aside and renamed. Of several processes that ask for a table one makes it and the others wait.
"""

import hashlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import AcquireReturnProxy, FileLock, Timeout

from singlelife.errors import LifeError, SingleLifeWarning
from singlelife.lives.pairs.overlap import PairTable, find_overlaps
from singlelife.lives.pairs.pairing import PairSettings
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry

_MANY_FRAMES = 300_000  # several minutes; the time grows with the square
_FORMAT_VERSION = 1  # part of the key: raise it when the same geometry and settings give another table
_DESCRIPTION = b"singlelife"  # what the file says of itself, as JSON in the metadata of its schema
_SCHEMA = pa.schema([("target", pa.int32()), ("source", pa.int32()), ("overlap", pa.float32())])


def stored_pair_table(
    life: PreparedLife,
    geometry: Geometry,
    settings: PairSettings,
    *,
    num_frames: int | None = None,
    progress: bool = True,
) -> PairTable:
    """The overlapping frames of a life: read if they are stored, or else found and stored.

    A file that is damaged, or is not of this geometry and these settings, is made again, with a warning.

    Args:
        life: the prepared life.
        geometry: its own.
        settings: of them the overlaps and the number of neighbours.
        num_frames: of the life, from its first, to look at; all by default. The neighbours of a frame are drawn among
            these, so they are as many as if the life ended there.
        progress: show a progress bar on stderr if the table must be made.

    Raises:
        LifeError: the geometry is of another life, a setting is out of its range, or the table cannot be written.
    """
    if len(geometry) != len(life):
        raise LifeError(
            f"The life {life.name} has {len(life)} frames and its geometry {len(geometry)}: they are not of the same "
            "preparation. Make the poses again."
        )
    component = np.where(_rows_at_rate(life, settings.spatial_rate), geometry.component, -1)
    if num_frames is not None:
        component[num_frames:] = -1
    key = pair_table_key(replace(geometry, component=component), settings)
    path = life.path / f"pairs-{key[:12]}.parquet"
    table = _read_or_warn(path, key, settings)
    if table is not None:
        return table
    try:
        with _locked(life):
            table = _read_or_warn(path, key, settings)  # perhaps made by the process that held the lock
            if table is None:
                if progress:
                    _say_if_long(int((component >= 0).sum()))
                table = find_overlaps(
                    geometry.points,
                    component,
                    min_overlap=settings.min_overlap,
                    max_overlap=settings.max_overlap,
                    max_neighbours=settings.max_neighbours,
                    progress=progress,
                )
                _write(table, path, key)
    except OSError as error:
        raise LifeError(
            f"The pairs of the life {life.name} cannot be written as {path}: {error.strerror or error}. Make room, or "
            "make the folder writable."
        ) from error
    return _read(path, key, settings)


def pair_table_key(geometry: Geometry, settings: PairSettings) -> str:
    """SHA-256 of all that decides what a pair table holds, as a hex string.

    Args:
        geometry: of the frames that are compared; those left out have the component -1.
        settings: of the search.
    """
    described = [_FORMAT_VERSION, settings.min_overlap, settings.max_overlap, settings.max_neighbours]
    digest = hashlib.sha256(json.dumps(described).encode())
    for values in (geometry.component, geometry.points.offsets, geometry.points.ids):
        digest.update(np.ascontiguousarray(values, dtype="<i8").data)
    return digest.hexdigest()


def _rows_at_rate(life: PreparedLife, rate: float) -> np.ndarray:
    """The first frame in each 1 / rate seconds of each video, or all if the rate is 0: bool (n,)."""
    if rate == 0 or len(life) == 0:
        return np.ones(len(life), dtype=bool)
    tick = np.floor(life.timestamps * rate + 1e-6)
    return np.concatenate([[True], (np.diff(tick) != 0) | (np.diff(life.video_index) != 0)])


def _say_if_long(num_frames: int) -> None:
    if num_frames > _MANY_FRAMES:
        print(
            f"Overlaps of {num_frames:,} frames take hours and much memory to find. --spatial-rate 1 looks at one a "
            "second, which is enough for a life of days.",
            file=sys.stderr,
        )


def _write(table: PairTable, path: Path, key: str) -> None:
    description = {
        "key": key,
        "num_frames": table.num_frames,
        "num_in_range": table.num_in_range,
        "num_above": table.num_above,
    }
    columns = pa.table(
        [table.target, table.source, table.overlap],
        schema=_SCHEMA.with_metadata({_DESCRIPTION: json.dumps(description)}),
    )
    aside = path.with_name(f"{path.name}.tmp")
    pq.write_table(columns, aside, compression="zstd")
    aside.replace(path)


def _read_or_warn(path: Path, key: str, settings: PairSettings) -> PairTable | None:
    if not path.exists():
        return None
    try:
        return _read(path, key, settings)
    except LifeError as error:
        warnings.warn(f"{error} It is made again.", SingleLifeWarning, stacklevel=3)
        return None


def _read(path: Path, key: str, settings: PairSettings) -> PairTable:
    """A stored table, checked, since what is out of range here would be a crash hours into a run.

    Raises:
        LifeError: it is damaged, or of something else.
    """
    try:
        columns = pq.read_table(path)
        description = json.loads((columns.schema.metadata or {})[_DESCRIPTION])
        if description.pop("key") != key or not columns.schema.equals(_SCHEMA):
            raise ValueError("it was made from other poses or settings")
        arrays = {name: columns.column(name).combine_chunks().to_numpy() for name in _SCHEMA.names}
        table = PairTable(**arrays, **description, key=key)
        _check(table, settings)
    except Exception as error:  # of several libraries, by what is damaged
        raise LifeError(f"The pair table {path} cannot be used ({error}).") from error
    return table


def _check(table: PairTable, settings: PairSettings) -> None:
    least, most = np.float32(settings.min_overlap), np.float32(settings.max_overlap)
    for rows in (table.target, table.source):
        if len(rows) and not 0 <= rows.min() <= rows.max() < table.num_frames:
            raise ValueError("it names frames that are not there")
    if (np.diff(table.target) < 0).any() or not ((table.overlap >= least) & (table.overlap <= most)).all():
        raise ValueError("its pairs are out of order or out of range")


def _locked(life: PreparedLife) -> AcquireReturnProxy:
    lock = FileLock(life.path.with_name(f"{life.path.name}.pairs.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"The pairs of {life.name} are being found by another process; waiting for it.", file=sys.stderr)
        return lock.acquire()
