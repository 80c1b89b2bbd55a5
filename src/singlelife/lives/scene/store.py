"""The geometry of a life: found once and stored with its frames.

It is the folder `geometry` in the prepared life's folder: a `datasets` dataset with a row for each frame, and metadata
about its source. It is written atomically, and made again when its source has changed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import load_from_disk
from datasets.arrow_writer import ArrowWriter

from singlelife.errors import LifeError
from singlelife.files import atomic_dir, locked
from singlelife.lives.prepare import write_dataset_description
from singlelife.lives.prepared import GEOMETRY as FOLDER
from singlelife.lives.prepared import GEOMETRY_COLUMNS, PreparedLife
from singlelife.lives.prepared import GEOMETRY_METADATA as METADATA
from singlelife.lives.registry import recordings_dir
from singlelife.lives.scene import aria, colmap
from singlelife.lives.scene.geometry import Geometry, VisiblePoints, default_voxel_size, depth_geometry
from singlelife.lives.video.reader import VideoFile, video_fingerprint

FORMAT_VERSION = 1

_ROWS_IN_A_BATCH = 4096
_FILES = {
    "Aria MPS": (aria.TRAJECTORY, aria.POINTS, aria.OBSERVATIONS, aria.CALIBRATION, aria.FOLDERS, f"*{aria.TIMES}"),
    "COLMAP": ("cameras.bin", "images.bin"),
    "depth": (),
}
# Settings that earlier versions let users change; still part of the format.
_SETTINGS = {
    "max_inv_dist_std": aria.MAX_INV_DIST_STD,
    "max_dist_std": aria.MAX_DIST_STD,
    "tolerance": 0.05,
    "max_distance": 5.0,
    "video_start": "",
    "upright": True,
}


class GeometrySource(NamedTuple):
    """The source of a life's geometry."""

    kind: str
    """`"Aria MPS"`, `"COLMAP"` or `"depth"` (the life's own)"""
    folders: tuple[Path, ...] = ()
    """the MPS folders or COLMAP models"""
    roots: tuple[Path, ...] = ()
    """the folders to search for their files, and for the times of Aria's videos"""


def stored_geometry(life: PreparedLife) -> Geometry | None:
    """The geometry stored with a life, or None if there is none in this version's format.

    Raises:
        LifeError: it is damaged.
    """
    metadata = geometry_metadata(life)
    if metadata is None:
        return None
    try:
        table = load_from_disk(str(life.path / FOLDER)).data
        poses, intrinsics, component = (table.column(name).combine_chunks() for name in list(GEOMETRY_COLUMNS)[:3])
        points = table.column("point_ids")
        ids = np.concatenate([chunk.flatten().to_numpy() for chunk in points.chunks])  # too long for one list array
        geometry = Geometry(
            VisiblePoints.from_counts(pc.list_value_length(points).to_numpy(), ids),
            component.to_numpy(),
            poses.storage.flatten().flatten().to_numpy().reshape(-1, 4, 4),
            intrinsics.flatten().to_numpy().reshape(-1, 4),
            metadata.get("voxel_size", 0.0),
        )
        if len(geometry) != len(life):
            raise ValueError(f"it has {len(geometry)} frames, not {len(life)}")
    except Exception as error:  # several libraries raise errors of their own
        raise _damaged(life, error) from error
    return geometry


def geometry_metadata(life: PreparedLife) -> dict[str, Any] | None:
    """The metadata of the stored geometry, or None if `stored_geometry` is None.

    Returns:
        `source` (its kind), `fingerprint` (of the source's files, the settings and the life), `settings`, `voxel_size`
        (0 if points are not voxels), `chosen` (True if the user named the source), `num_frames`, `num_registered` and
        `components`.

    Raises:
        LifeError: it cannot be read.
    """
    path = life.path / FOLDER / METADATA
    if not path.is_file():
        return None
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(life, error) from error
    return metadata if metadata.get("format_version") == FORMAT_VERSION else None


def _damaged(life: PreparedLife, error: Exception) -> LifeError:
    folder = life.path / FOLDER
    return LifeError(f"{folder} cannot be read ({error}). Delete it and run `singlelife poses {life.name}` again.")


def life_geometry(
    life: PreparedLife, *, source: Path | None = None, voxel_size: float = 0.0, progress: bool = True
) -> Geometry:
    """The geometry of a life: the stored one, or made and stored now.

    If two processes ask at once, one makes it and the other waits.

    Args:
        source: a folder with Aria MPS output or COLMAP models. By default the source named before, or the folder
            `slam` of the life's recordings, or the life's own depth and poses.
        voxel_size: side of the voxels that stand for points, in the unit of the poses; 0 keeps the size used before
            or, the first time, takes 0.1 m for Aria and an eighth of the median depth for a life with depth. COLMAP's
            points need none.

    Raises:
        LifeError: there is no source, or it cannot be used.
    """
    metadata = geometry_metadata(life)
    named_before = source is None and metadata is not None and metadata["chosen"]
    found = None if named_before else find_source(life, source)
    if found is not None:
        settings = {"voxel_size": voxel_size or (metadata["settings"]["voxel_size"] if metadata else 0.0), **_SETTINGS}
        made_from = {"fingerprint": _fingerprint(life, found, settings), "chosen": source is not None}
        if metadata is None or metadata["fingerprint"] != made_from["fingerprint"]:
            with locked(Path(f"{life.path}.geometry"), f"the poses of {life.name}"):
                metadata = geometry_metadata(life)  # the process that held the lock may have made it
                if metadata is None or metadata["fingerprint"] != made_from["fingerprint"]:
                    _make(life, found, settings, made_from, progress)
    geometry = stored_geometry(life)
    if geometry is None:
        raise LifeError(
            f"The camera poses of the life {life.name} are unknown. Put an Aria MPS folder or a COLMAP model into "
            f"{recordings_dir() / life.name / 'slam'}, name one with `singlelife poses {life.name} --from FOLDER`, or "
            f"let `singlelife poses {life.name}` reconstruct them from the frames."
        )
    return geometry


def find_source(life: PreparedLife, folder: Path | None = None) -> GeometrySource | None:
    """The source of a life's geometry: in `folder`, or by default with the life.

    Raises:
        LifeError: `folder` holds neither Aria MPS output nor a COLMAP model.
    """
    root = folder or recordings_dir() / life.name / "slam"
    shuffled = life.metadata.get("shuffled")  # its frames are not where the recording's times say
    if shuffled and folder is not None:
        raise LifeError(f"The frames of {life.name} are in random order: add poses to its base life instead.")
    places = sorted(path for path in (root, *root.rglob("*")) if path.is_dir()) if not shuffled else []
    for kind, matches in (("Aria MPS", aria.is_mps_folder), ("COLMAP", colmap.is_model)):
        if folders := tuple(filter(matches, places)):
            times = recordings_dir() / life.name  # a video's times may be with the recordings
            beside = (times,) if kind == "Aria MPS" and times.is_dir() else ()
            return GeometrySource(kind, folders, (root, *beside))
    if folder is not None:
        raise LifeError(
            f"{folder} holds neither Aria MPS output ({aria.TRAJECTORY}, {aria.POINTS}) nor a COLMAP model "
            "(cameras.bin, images.bin), and neither do the folders in it. Unpack its .zip files, if there are any."
        )
    known = {"pose", "intrinsics", "depth"} <= set(life.dataset.column_names)
    return GeometrySource("depth") if known else None


def _fingerprint(life: PreparedLife, source: GeometrySource, settings: dict[str, Any]) -> str:
    files: set[Path] = set()
    for root in source.roots:
        files |= {path for pattern in _FILES[source.kind] for path in root.rglob(pattern) if path.is_file()}
    described = [
        FORMAT_VERSION,
        life.metadata["fingerprint"],
        source.kind,
        settings,
        [[path.name, video_fingerprint(VideoFile(path))] for path in sorted(files)],
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _make(
    life: PreparedLife, source: GeometrySource, settings: dict[str, Any], metadata: dict[str, Any], progress: bool
) -> None:
    """Make and store the geometry, and `metadata` with it."""
    size = settings["voxel_size"]
    if source.kind == "Aria MPS":
        size = size or aria.DEFAULT_VOXEL_SIZE
        geometry = aria.aria_geometry(life, source.folders, source.roots, voxel_size=size, progress=progress)
    elif source.kind == "COLMAP":
        geometry = colmap.colmap_geometry(life, list(source.folders))
    else:
        geometry = depth_geometry(life, voxel_size=size or default_voxel_size(life), progress=progress)
    metadata |= {
        "format_version": FORMAT_VERSION,
        "source": source.kind,
        "settings": settings,
        "voxel_size": geometry.voxel_size,
        "num_frames": len(geometry),
        "num_registered": int((geometry.component >= 0).sum()),
        "components": len(np.unique(geometry.component[geometry.component >= 0])),
        "warnings": [],  # part of the format: earlier versions judged the camera's motion
    }
    try:
        store_geometry(life, geometry, metadata)
    except OSError as error:
        raise LifeError(
            f"The geometry of {life.name} cannot be written into {life.path}: {error.strerror or error}. Make room "
            "there and try again."
        ) from error


def store_geometry(life: PreparedLife, geometry: Geometry, metadata: dict[str, Any]) -> None:
    """Store a geometry with its life, in place of an earlier one."""
    file = "data-00000-of-00001.arrow"
    with atomic_dir(life.path / FOLDER) as aside:
        with ArrowWriter(features=GEOMETRY_COLUMNS, path=str(aside / file)) as writer:
            for start in range(0, len(geometry), _ROWS_IN_A_BATCH):
                rows = range(start, min(start + _ROWS_IN_A_BATCH, len(geometry)))
                part = slice(start, rows.stop)
                writer.write_batch(
                    {
                        "pose": geometry.poses[part],
                        "intrinsics": geometry.intrinsics[part],
                        "component": geometry.component[part],
                        "point_ids": [geometry.points[row] for row in rows],
                    }
                )
            writer.finalize()
        write_dataset_description(aside, [file], GEOMETRY_COLUMNS, metadata["fingerprint"])
        (aside / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
