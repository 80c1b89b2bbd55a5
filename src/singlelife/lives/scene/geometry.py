"""What is known of a life's cameras: where each frame was taken from, and which 3D points it sees.

Every source of geometry (Aria MPS, COLMAP, depth with poses) gives this one form, and all that spatial pairs need is
read from it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from singlelife.errors import LifeError

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife

_VOXEL_BITS = 21  # of each coordinate: three of them make a positive int64


@dataclass(frozen=True)
class VisiblePoints:
    """The 3D points that each of n frames sees, as one array: frame i sees `ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: int64 (n + 1,), from 0, never falling.
        ids: int64 (offsets[-1],), ascending and without doubles within each frame. Ids of different `component`s of a
            `Geometry` say nothing of each other.
    """

    offsets: np.ndarray
    ids: np.ndarray

    @classmethod
    def from_frames(cls, frames: Sequence[np.ndarray]) -> "VisiblePoints":
        """From the ids of each frame, in any order and with doubles."""
        unique = [np.unique(np.asarray(ids, dtype=np.int64)) for ids in frames]
        counts = np.array([len(ids) for ids in unique], dtype=np.int64)
        return cls.from_counts(counts, np.concatenate(unique) if unique else np.zeros(0, dtype=np.int64))

    @classmethod
    def from_counts(cls, counts: np.ndarray, ids: np.ndarray) -> "VisiblePoints":
        """From how many points each frame sees, and the ids of all frames one after another."""
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), ids)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, frame: int) -> np.ndarray:
        return self.ids[self.offsets[frame] : self.offsets[frame + 1]]

    @property
    def counts(self) -> np.ndarray:
        """How many points each frame sees, int64 (n,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Geometry:
    """The cameras and visible points of a life, a row for each of its n frames.

    Attributes:
        points: what each frame sees; nothing where the frame's pose is not known.
        component: int64 (n,). Frames share a world, and may be compared, only within a component (a graph of a SLAM
            system, a model of a reconstruction); -1 where the pose is not known.
        poses: camera to world, float64 (n, 4, 4); camera axes x right, y down, z forward; NaN where not known.
        intrinsics: fx, fy, cx, cy in pixels of the stored frame, float64 (n, 4); NaN where not known.
    """

    points: VisiblePoints
    component: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray

    def __len__(self) -> int:
        return len(self.component)

    @classmethod
    def unknown(cls, num_frames: int) -> "Geometry":
        """Of which nothing is known yet, to be filled in; it has no points."""
        return cls(
            VisiblePoints.from_counts(np.zeros(num_frames, dtype=np.int64), np.zeros(0, dtype=np.int64)),
            np.full(num_frames, -1, dtype=np.int64),
            np.full((num_frames, 4, 4), np.nan),
            np.full((num_frames, 4), np.nan),
        )


@dataclass(frozen=True)
class GeometrySettings:
    """How to make geometry from its source. Each source takes what it needs."""

    voxel_size: float = 0.0
    """side of the voxels that stand for points, in the unit of the poses; 0 takes 0.1 m for Aria, and an eighth of
    the median depth for depth"""
    max_inv_dist_std: float = 0.005
    """leave out points of Aria that are less certain, in 1/m; the default is what its makers recommend"""
    max_dist_std: float = 0.01
    """leave out points of Aria that are less certain, in m; the default is what its makers recommend"""
    tolerance: float = 0.05
    """most seconds between a frame of an Aria video and its pose, and between it and the observations it sees"""
    max_distance: float = 5.0
    """how far points of Aria count as visible where there are no observations, in m"""
    video_start: str = ""
    """when an Aria video begins on the device's clock, in seconds, or `trajectory` for the time of the first pose;
    needed where no NAME_mp4_to_vrs_time_ns.csv says"""
    upright: bool = True
    """Aria's videos have been turned by a quarter clockwise from how the sensor is mounted, as its tools do"""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in asdict(self).items() if isinstance(value, float)}
        for name, value in numbers.items():
            if not 0 <= value < float("inf"):
                raise LifeError(f"{name} should be a number from 0, not {value:g}.")
        try:
            number = 0.0 if self.video_start in ("", "trajectory") else float(self.video_start)
        except ValueError:
            number = float("nan")
        if not 0 <= number < float("inf"):
            raise LifeError(f"video_start should be seconds from 0, or trajectory, not {self.video_start!r}.")


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
    """The voxel of each point, as one number, so that what is seen twice has one name.

    Args:
        points: world coordinates, (..., 3), in any unit.
        size: side of a voxel, in the same unit.

    Returns:
        int64 (...), not negative, the same for all points of a voxel and no others; -1 for points that are not finite
        or lie further than a million voxels from the origin.
    """
    half = 1 << (_VOXEL_BITS - 1)
    with np.errstate(invalid="ignore"):  # NaN and infinity become -1 below
        cells = np.floor(np.asarray(points, dtype=np.float64) / size)
        known = np.asarray((np.abs(cells + 0.5) < half).all(axis=-1))
    x, y, z = np.moveaxis(np.where(known[..., None], cells, 0).astype(np.int64) + half, -1, 0)
    return np.where(known, (x << 2 * _VOXEL_BITS) | (y << _VOXEL_BITS) | z, -1)


def rigid_transforms(quaternions: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Rigid transforms as matrices.

    Args:
        quaternions: (k, 4), real part first, of any length but 0.
        shifts: (k, 3).

    Returns:
        float64 (k, 4, 4); all NaN where a quaternion has no length or something is not finite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrices = np.tile(np.eye(4), (len(shifts), 1, 1))
    matrices[:, :3, :3], matrices[:, :3, 3] = np.moveaxis(np.array(rotation), -1, 0), shifts
    matrices[~np.isfinite(matrices).all(axis=(1, 2))] = np.nan
    return matrices
