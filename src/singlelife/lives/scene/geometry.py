"""The camera pose of each frame of a life, and the 3D points that it sees.

Every source of geometry (Aria MPS, COLMAP, depth with poses) gives this form, and spatial pairs read nothing else.
Depth is the simplest source: its pixels are projected back into the world, and the voxels that they fall into are the
frame's points. A depth map holds the first surface along each ray, so hidden points are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from singlelife.errors import LifeError

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife

_VOXEL_BITS = 21  # per coordinate: three coordinates make a positive int64
_GRID = 48  # maximum number of rows and columns of pixels to use from a frame's depth
_VOXELS_PER_DEPTH = 8  # with 4 or 16, the overlap correlates less with the overlap by depth warping (0.96 and 0.94)
_BATCH = 256  # frames whose depth is read at once
_NEARNESS = 1.5  # a voxel's weight is this power of its nearness: far voxels cover less of the image


@dataclass(frozen=True)
class VisiblePoints:
    """The 3D points that each of n frames sees, as one array: frame i sees `ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: int64 (n + 1,), from 0, never decreasing.
        ids: int64 (offsets[-1],), ascending and unique within each frame; each component has its own world of ids.
    """

    offsets: np.ndarray
    ids: np.ndarray

    @classmethod
    def from_frames(cls, frames: Sequence[np.ndarray]) -> "VisiblePoints":
        """From the ids of each frame, in any order and perhaps repeated."""
        unique = [np.unique(np.asarray(ids, dtype=np.int64)) for ids in frames]
        counts = np.array([len(ids) for ids in unique], dtype=np.int64)
        return cls.from_counts(counts, np.concatenate([np.zeros(0, dtype=np.int64), *unique]))

    @classmethod
    def from_counts(cls, counts: np.ndarray, ids: np.ndarray) -> "VisiblePoints":
        """From the number of points that each frame sees, and the ids of all frames one after another."""
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), ids)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, frame: int) -> np.ndarray:
        return self.ids[self.offsets[frame] : self.offsets[frame + 1]]

    @property
    def counts(self) -> np.ndarray:
        """The number of points that each frame sees, int64 (n,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Geometry:
    """The cameras and visible points of a life, a row for each of its n frames.

    Attributes:
        points: the points that each frame sees; none if the frame's pose is unknown.
        component: int64 (n,). Frames share a world, and may be compared, only within a component (a graph of a SLAM
            system, a model of a reconstruction); -1 if the pose is unknown.
        poses: camera to world, float64 (n, 4, 4); camera axes x right, y down, z forward; NaN if unknown.
        intrinsics: fx, fy, cx, cy in pixels of the stored frame, float64 (n, 4); NaN if unknown.
        voxel_size: side of the voxels that stand for points, in the unit of the poses; 0 if points are not voxels.
    """

    points: VisiblePoints
    component: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray
    voxel_size: float = 0.0

    def __len__(self) -> int:
        return len(self.component)


def frame_sizes(life: "PreparedLife") -> np.ndarray:
    """Height and width of the stored frames of each video, int64 (number of videos, 2)."""
    first = [int(np.argmax(life.video_index == video)) for video in range(len(life.videos))]
    return np.array([image.shape[-2:] for image in life.decode(first)], dtype=np.int64)


def frames_at_rate(life: "PreparedLife", rate: float) -> np.ndarray:
    """Rows of the first frame in each `1 / rate` seconds of each video, or all rows if the rate is 0; int64."""
    if rate == 0:
        return np.arange(len(life))
    tick = np.floor(life.timestamps * rate + 1e-6)
    new = np.ones(len(life), dtype=bool)
    new[1:] = (np.diff(tick) != 0) | (np.diff(life.video_index) != 0)
    return np.flatnonzero(new)


def voxel_ids(points: np.ndarray, size: float) -> np.ndarray:
    """The voxel of each point as one number, so that a place seen twice has one name.

    Args:
        points: world coordinates, (..., 3), in any unit.
        size: side of a voxel, in the same unit.

    Returns:
        int64 (...), at least 0, unique to each voxel; -1 for points that are not finite or lie further than a million
        voxels from the origin.
    """
    half = 1 << (_VOXEL_BITS - 1)
    with np.errstate(invalid="ignore"):  # NaN and infinity become -1 below
        cells = np.floor(np.asarray(points, dtype=np.float64) / size)
        known = np.asarray((np.abs(cells + 0.5) < half).all(axis=-1))
    x, y, z = np.moveaxis(np.where(known[..., None], cells, 0).astype(np.int64) + half, -1, 0)
    return np.where(known, (x << 2 * _VOXEL_BITS) | (y << _VOXEL_BITS) | z, -1)


def median_depths(life: "PreparedLife", rows: np.ndarray, geometry: Geometry | None = None) -> np.ndarray:
    """The median depth in each frame, along the camera's axis, in the unit of the poses.

    Args:
        rows: rows of the life, int64 (k,).
        geometry: the life's geometry, whose voxels are used; without it, the life's own depth.

    Returns:
        float64 (k,); NaN if unknown, for example with COLMAP's points, whose positions are not stored.
    """
    found = np.full(len(life), np.nan)
    for start in range(0, len(looked_at := np.unique(rows)), _BATCH):
        batch = looked_at[start : start + _BATCH]
        depth = life.depth(batch) if geometry is None else None
        for place, row in enumerate(batch):
            if depth is not None:
                seen = depth[place].ravel()
                weight = np.ones_like(seen)
            elif geometry is not None and geometry.voxel_size:
                ids, pose = geometry.points[row], geometry.poses[row]
                cells = ids[:, None] >> np.array([2 * _VOXEL_BITS, _VOXEL_BITS, 0]) & ((1 << _VOXEL_BITS) - 1)
                world = (cells - (1 << (_VOXEL_BITS - 1)) + 0.5) * geometry.voxel_size
                seen = (world - pose[:3, 3]) @ pose[:3, 2]
                weight = np.maximum(seen, geometry.voxel_size) ** -_NEARNESS
            else:
                continue
            order = np.argsort(seen)[(seen <= 0).sum() :]  # 0 is unknown
            if len(order):
                summed = np.cumsum(weight[order])
                found[row] = seen[order[np.searchsorted(summed, summed[-1] / 2)]]
    return found[rows]


def default_voxel_size(life: "PreparedLife") -> float:
    """An eighth of the life's median depth, to two digits, in the unit of its poses, whatever that is.

    Raises:
        LifeError: depth is unknown in all the frames sampled.
    """
    depth = _depth(life, np.unique(np.linspace(0, len(life) - 1, 64).astype(np.int64)))
    if not (depth > 0).any():
        raise LifeError(f"The depth of the life {life.name} is unknown in all of {len(depth)} frames.")
    return float(f"{np.median(depth[depth > 0]) / _VOXELS_PER_DEPTH:.2g}")


def depth_geometry(life: "PreparedLife", *, voxel_size: float, progress: bool = True) -> Geometry:
    """The geometry of a life that has poses, intrinsics and depth.

    All its poses count as one world. Memory grows only with the number of visible points.

    Args:
        life: the prepared life.
        voxel_size: side of a voxel, in the unit of the poses; larger than the depth's error and its pixels' spacing.
        progress: show a progress bar on stderr.

    Raises:
        LifeError: the life lacks poses, intrinsics or depth, or has frames of several sizes.
    """
    rows = np.arange(len(life))
    poses, intrinsics = life.poses(rows), life.intrinsics(rows)
    if poses is None or intrinsics is None:
        raise LifeError(f"The life {life.name} has no poses and intrinsics to turn its depth into points.")
    seen = []
    with tqdm(desc=f"Points of {life.name}", total=len(life), unit=" frames", disable=not progress) as bar:
        for start in range(0, len(life), _BATCH):
            batch = rows[start : start + _BATCH]
            points = back_project(_depth(life, batch), poses[batch], intrinsics[batch])
            seen += [np.unique(ids[ids >= 0]) for ids in voxel_ids(points, voxel_size)]
            bar.update(len(batch))
    known = np.isfinite(poses).all(axis=(1, 2))
    return Geometry(VisiblePoints.from_frames(seen), np.where(known, 0, -1), poses, intrinsics, voxel_size)


def back_project(depth: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """World points at the centres of a grid of pixels in each frame.

    Args:
        depth: depth along the camera's axis, (k, height, width); 0 where unknown.
        poses: camera to world, (k, 4, 4).
        intrinsics: fx, fy, cx, cy in pixels, (k, 4).

    Returns:
        float64 (k, at most 48 * 48, 3), in the unit of depth and poses; NaN where the depth is unknown.
    """
    row, column = (np.unique(np.linspace(0, side - 1, _GRID).round().astype(int)) for side in depth.shape[1:])
    z = depth[:, row[:, None], column].astype(np.float64)
    z[z <= 0] = np.nan
    fx, fy, cx, cy = intrinsics.T[..., None, None]
    camera = np.stack([(column + 0.5 - cx) / fx * z, (row[:, None] + 0.5 - cy) / fy * z, z], axis=-1)
    camera = camera.reshape(len(depth), -1, 3)
    return camera @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]


def _depth(life: "PreparedLife", rows: np.ndarray) -> np.ndarray:
    try:
        depth = life.depth(rows)
    except ValueError as error:  # frames of several sizes do not stack
        raise LifeError(f"The depth maps of the life {life.name} differ in size: {error}.") from error
    if depth is None:
        raise LifeError(f"The life {life.name} has no depth.")
    return depth
