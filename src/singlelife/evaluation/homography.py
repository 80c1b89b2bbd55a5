"""Homographies: read from the three common forms of file, and as the truth of where pixels go.

A homography maps the pixels (x, y, 1) of one image to those of another, where (0, 0) is the *centre* of the top left
pixel, as in HPatches and OpenCV.
"""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from singlelife.errors import EvaluationError

FORMS = "nine numbers as text, OpenCV's XML, YAML or JSON, or a NumPy array (.npy)"

_LARGEST_FILE = 1 << 16  # bytes: more is no file of nine numbers, and is not worth parsing
_UNIT = 1000.0  # px: the scale of images, in which nine numbers are of comparable size
_LEAST_RANK = 1e-9  # of the smallest singular value to the largest, in that unit


def read_homography(path: Path) -> np.ndarray:
    """The homography in a file: text of nine numbers (spaces, commas or lines between them), an OpenCV FileStorage
    with one 3x3 matrix (.xml, .yml, .yaml, .json), or a NumPy array (.npy, never unpickled).

    Returns:
        float64 (3, 3).

    Raises:
        EvaluationError: it cannot be read, is no homography, or has no inverse.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large for nine numbers")
        matrix = _parse(path)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (
        OSError, EOFError, ValueError, KeyError, TypeError, RecursionError, ElementTree.ParseError, yaml.YAMLError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise EvaluationError(
            f"{path}: not a homography that can be read ({reason}). It should be {FORMS}."
        ) from error
    if matrix.shape != (3, 3):
        raise EvaluationError(
            f"{path}: not a homography, which has 3x3 numbers and an inverse; it has {matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        raise EvaluationError(f"{path}: not a homography, which has 3x3 numbers and an inverse; some are not finite.")
    if is_singular(matrix):
        raise EvaluationError(
            f"{path}: not a homography, which has 3x3 numbers and an inverse; it is singular: it maps the plane to a "
            "line or a point."
        )
    return matrix


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


def _parse(path: Path) -> np.ndarray:
    kind = path.suffix.lower()
    if kind == ".npy":
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    if kind == ".npz":
        raise ValueError("it is an archive of arrays; save the one as .npy")
    text = path.read_text(encoding="utf-8")
    start = text.lstrip()
    if kind == ".xml" or start.startswith("<"):
        return _only_matrix(_of_xml(ElementTree.fromstring(text)))
    if kind == ".json" or start.startswith("{"):
        return _only_matrix(_of_mapping(json.loads(text)))
    if kind in (".yml", ".yaml") or start.startswith("%YAML"):
        lines = [line for line in text.splitlines() if not line.startswith("%YAML")]  # "%YAML:1.0" is not YAML
        return _only_matrix(_of_mapping(yaml.load("\n".join(lines), Loader=_OpenCVLoader)))
    numbers = [float(word) for word in text.replace(",", " ").replace(";", " ").split()]
    if len(numbers) != 9:
        raise ValueError(f"it has {len(numbers)} numbers instead of nine")
    return np.array(numbers).reshape(3, 3)


class _OpenCVLoader(yaml.SafeLoader):
    """Safe YAML that takes a matrix as the mapping that it is."""


def _as_mapping(loader: Any, node: Any) -> Any:
    return loader.construct_mapping(node, deep=True)


_OpenCVLoader.add_constructor("tag:yaml.org,2002:opencv-matrix", _as_mapping)


def _of_xml(root: ElementTree.Element) -> list[np.ndarray]:
    found = [element for element in root.iter() if element.get("type_id") == "opencv-matrix"]
    return [
        _matrix(element.findtext("rows"), element.findtext("cols"), (element.findtext("data") or "").split())
        for element in found
    ]


def _of_mapping(content: Any) -> list[np.ndarray]:
    values = content.values() if isinstance(content, dict) else []
    found = [value for value in values if isinstance(value, dict) and {"rows", "cols", "data"} <= set(value)]
    return [_matrix(value["rows"], value["cols"], value["data"]) for value in found]


def _matrix(rows: Any, columns: Any, data: list[Any]) -> np.ndarray:
    return np.array([float(value) for value in data]).reshape(int(rows), int(columns))


def _only_matrix(matrices: list[np.ndarray]) -> np.ndarray:
    square = [matrix for matrix in matrices if matrix.shape == (3, 3)]
    if len(square) != 1:
        raise ValueError(f"it has {len(square)} matrices of 3x3 instead of one")
    return square[0]
