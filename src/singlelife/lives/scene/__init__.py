"""The geometry of a life: camera poses, and the 3D points that each frame sees."""

import numpy as np


def rigid_transforms(quaternions: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Rigid transforms, float64 (k, 4, 4), from quaternions (k, 4), real part first, and shifts (k, 3).

    A transform is all NaN if its quaternion has no length or a number is not finite.
    """
    from scipy.spatial.transform import Rotation  # takes half a second, which --help saves

    lengths = np.linalg.norm(quaternions, axis=1)
    known = (lengths > 0) & np.isfinite(lengths) & np.isfinite(shifts).all(axis=1)
    matrices = np.full((len(shifts), 4, 4), np.nan)
    matrices[known] = np.eye(4)
    matrices[known, :3, :3] = Rotation.from_quat(np.roll(quaternions[known], -1, axis=1)).as_matrix()
    matrices[known, :3, 3] = shifts[known]
    return matrices
