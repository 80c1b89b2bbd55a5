"""Homographies: read from the common forms of file, and as the truth of where pixels go.

A homography maps the pixels (x, y, 1) of one image to those of another, where (0, 0) is the *centre* of the top left
pixel, as in HPatches and OpenCV.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from singlelife.errors import EvaluationError

_LARGEST_FILE = 1 << 16  # bytes: more is no file of nine numbers, and is not worth parsing
_UNIT = 1000.0  # px: the scale of images, in which nine numbers are of comparable size
_LEAST_RANK = 1e-9  # of the smallest singular value to the largest, in that unit
# The numbers of a matrix in OpenCV's XML, or in its YAML or JSON.
_OPENCV_DATA = re.compile(r"<data>([^<]*)</data>|\bdata\"?\s*:\s*\[([^\]]*)\]")


def read_homography(path: Path) -> np.ndarray:
    """The homography in a file: text of nine numbers (spaces, commas or lines between them), an OpenCV FileStorage
    (XML, YAML, JSON) with one matrix of nine numbers, or a NumPy array (.npy, never unpickled).

    Returns:
        float64 (3, 3).

    Raises:
        EvaluationError: it cannot be read, is no homography, or has no inverse.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large for nine numbers")
        matrix = _parsed(path)
        if matrix.shape != (3, 3):
            raise ValueError(f"it has the shape {matrix.shape} instead of 3x3")
        if not np.isfinite(matrix).all():
            raise ValueError("some numbers are not finite")
        if is_singular(matrix):
            raise ValueError("it is singular: it maps the plane to a line or a point")
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError) as error:
        raise EvaluationError(
            f"{path}: not a homography ({' '.join(str(error).split())[:200]}). It should be nine numbers as text, "
            "OpenCV's XML, YAML or JSON, or a NumPy array (.npy)."
        ) from error
    return matrix


def _parsed(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    text = path.read_text(encoding="utf-8")
    found = [first or second for first, second in _OPENCV_DATA.findall(text)] or [text]
    lists = [words.replace(",", " ").replace(";", " ").split() for words in found]
    nines = [words for words in lists if len(words) == 9]
    if len(nines) != 1:
        raise ValueError(f"it has {len(nines)} matrices of nine numbers; its lists have {[*map(len, lists)]}")
    return np.array([float(word) for word in nines[0]]).reshape(3, 3)


def is_singular(matrix: np.ndarray) -> bool:
    """Whether a finite matrix (3, 3) has no inverse that could be trusted, at the scale of images."""
    scale = np.diag([1 / _UNIT, 1 / _UNIT, 1.0])
    values = np.linalg.svd(scale @ matrix @ np.linalg.inv(scale), compute_uv=False)
    return not values[-1] > _LEAST_RANK * values[0]


@dataclass(frozen=True)
class PlanarTruth:
    """Where the pixels of the target are in the source, by a homography.

    Attributes:
        matrix: from the pixels of the target to those of the source, float64 (3, 3).
        target_size, source_size: height and width in pixels.
    """

    matrix: np.ndarray
    target_size: tuple[int, int]
    source_size: tuple[int, int]

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See [`singlelife.evaluation.image_pairs.Truth`]."""
        pixels = points * self.target_size[::-1] - 0.5
        x, y, depth = self.matrix @ np.stack([pixels[:, 0], pixels[:, 1], np.ones(len(pixels))])
        # The plane is seen from one side: beyond its horizon the third coordinate changes its sign.
        middle = self.matrix[2] @ [(self.target_size[1] - 1) / 2, (self.target_size[0] - 1) / 2, 1]
        seen = depth * np.sign(middle) > 1e-9 * np.abs(self.matrix[2]).max()
        depth = np.where(seen, depth, 1.0)
        return (np.stack([x / depth, y / depth], axis=-1) + 0.5) / self.source_size[::-1], seen
