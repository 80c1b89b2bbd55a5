"""What is known of a life's cameras: where each frame was taken from, and which 3D points it sees.

Every source of geometry (Aria MPS, COLMAP, depth with poses) gives this one form, and all that spatial pairs need is
read from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
        offsets = np.zeros(len(unique) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in unique], out=offsets[1:])
        return cls(offsets, np.concatenate(unique) if unique else np.zeros(0, dtype=np.int64))

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
