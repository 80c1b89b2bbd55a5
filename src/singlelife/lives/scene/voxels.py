"""Points of a world as the voxels that they are in, so that what is seen twice has one name."""

import numpy as np

_BITS = 21  # of each coordinate: three of them make a positive int64
_HALF = 1 << (_BITS - 1)


def voxel_ids(points: np.ndarray, size: float) -> np.ndarray:
    """The voxel of each point, as one number.

    Args:
        points: world coordinates, (..., 3), in any unit.
        size: side of a voxel, in the same unit.

    Returns:
        int64 (...), not negative, the same for all points of a voxel and no others; -1 for points that are not finite
        or lie further than a million voxels from the origin.
    """
    with np.errstate(invalid="ignore"):  # NaN and infinity become -1 below
        cells = np.floor(np.asarray(points, dtype=np.float64) / size)
        known = np.asarray((np.abs(cells + 0.5) < _HALF).all(axis=-1))
    x, y, z = np.moveaxis(np.where(known[..., None], cells, 0).astype(np.int64) + _HALF, -1, 0)
    return np.where(known, (x << 2 * _BITS) | (y << _BITS) | z, -1)
