"""Stands in until the geometry store is merged: voxels of a life's own depth and poses, made anew each time."""

from pathlib import Path

import numpy as np

from singlelife.errors import LifeError
from singlelife.lives.geometry import Geometry, VisiblePoints
from singlelife.lives.prepared import PreparedLife


def stored_geometry(life: PreparedLife) -> Geometry | None:
    return life_geometry(life) if "depth" in life.dataset.column_names else None


def life_geometry(life: PreparedLife, *, source: Path | None = None, progress: bool = True) -> Geometry:
    rows = np.arange(len(life))
    poses, intrinsics, depth = life.poses(rows), life.intrinsics(rows), life.depth(rows)
    if poses is None or intrinsics is None or depth is None:
        raise LifeError(
            f"The camera poses of the life {life.name} are not known. `singlelife poses {life.name}` makes them."
        )
    step = max(1, depth.shape[1] // 48)
    depth = depth[:, ::step, ::step]
    y, x = np.mgrid[: depth.shape[1], : depth.shape[2]] * step + 0.5
    voxel = float(np.median(depth[depth > 0])) / 8
    seen = []
    for z, pose, (fx, fy, cx, cy) in zip(depth, poses, intrinsics, strict=True):
        camera = np.stack([(x - cx) / fx * z, (y - cy) / fy * z, z], axis=-1)[z > 0]
        cell = np.floor((camera @ pose[:3, :3].T + pose[:3, 3]) / voxel).astype(np.int64) + (1 << 20)
        seen.append(cell[:, 0] << 42 | cell[:, 1] << 21 | cell[:, 2])
    return Geometry(VisiblePoints.from_frames(seen), np.zeros(len(life), dtype=np.int64), poses, intrinsics)
