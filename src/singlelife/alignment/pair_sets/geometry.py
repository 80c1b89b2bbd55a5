"""Where a point of one frame is seen in another, from the depths and cameras of both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from singlelife.errors import PairSetError
from singlelife.lives.prepared import decode_depth

_DEPTH_TOLERANCE = 0.05  # relative: two views see the same point if their depths of it agree so far


@dataclass(frozen=True)
class PairGeometry:
    """The cameras and depths of the frames that pairs of views are cut from.

    Attributes:
        depth: of the target's and the source's frame of each pair, 16-bit PNG files as a life stores them, so that
            thousands take little memory; None where they are not known.
        scale: the unit of the poses to a level of depth, float64 (P,).
        poses: camera to world, float64 (P, 2, 4, 4); axes x right, y down, z forward.
        intrinsics: fx, fy, cx, cy in pixels of the frame, float64 (P, 2, 4).
    """

    depth: Sequence[tuple[bytes, bytes] | None]
    scale: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray

    def levels(self, pair: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The levels of depth of the two frames of a pair, uint16 (height, width) each; None where not known.

        Raises:
            PairSetError: they are damaged.
        """
        encoded = self.depth[pair]
        if encoded is None:
            return None
        try:
            return decode_depth(encoded[0]), decode_depth(encoded[1])
        except ValueError as error:
            raise PairSetError(f"The depth of pair {pair} is damaged. Make or download the pair set again.") from error

    def project(self, pair: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points of a pair's target frame are in its source frame.

        Args:
            points: float64 (N, 2), x and y in pixels.

        Returns:
            The same in the source frame, and whether it is seen there, bool (N,): the source's depth at that place
            must be the point's.
        """
        levels = self.levels(pair)
        if levels is None:
            return points, np.zeros(len(points), dtype=bool)
        target, source = (each.astype(np.float32) * np.float32(self.scale[pair]) for each in levels)
        z = _look_up(target, points)
        fx, fy, cx, cy = self.intrinsics[pair, 0]
        camera = np.stack([(points[:, 0] - cx) / fx * z, (points[:, 1] - cy) / fy * z, z, np.ones_like(z)], axis=-1)
        moved = camera @ (np.linalg.inv(self.poses[pair, 1]) @ self.poses[pair, 0]).T
        fx, fy, cx, cy = self.intrinsics[pair, 1]
        in_front = (z > 0) & (moved[:, 2] > 1e-6)
        depth = np.where(in_front, moved[:, 2], 1.0)
        found = np.stack([fx * moved[:, 0] / depth + cx, fy * moved[:, 1] / depth + cy], axis=-1)
        seen = _look_up(source, found)
        return found, in_front & (seen > 0) & (np.abs(seen - depth) <= _DEPTH_TOLERANCE * depth)


def _look_up(depth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Depth (N,) of an image (H, W) at points (N, 2), x and y in pixels; 0 outside."""
    height, width = depth.shape
    column, row = np.floor(points[:, 0]), np.floor(points[:, 1])
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = np.where(inside, row, 0).astype(np.int64), np.where(inside, column, 0).astype(np.int64)
    return np.where(inside, depth[row, column], 0.0)
