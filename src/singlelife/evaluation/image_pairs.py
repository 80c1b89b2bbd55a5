"""Pairs of images whose true correspondences are known: HPatches' sequences, and pairs of a life with depth and poses.

The *target* is the image whose pixels are looked for in the *source*. In HPatches, as is usual for dense matching, the
target is image k and the source image 1.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from singlelife.alignment.pair_sets import PairSet, resolve_pair_set
from singlelife.errors import EvaluationError, PairSetError
from singlelife.evaluation.features import rgb
from singlelife.evaluation.settings import CorrespondenceConfig

LEVELS = ("I", "II", "III", "IV", "V")  # of HPatches: the pairs of image 1 with images 2 to 6

# From places in the target, float64 (n, 2), to places in the source and whether they are known, bool (n,). Places are
# fractions of the width and height of their image; its top left corner is (0, 0). Places in the source may lie outside
# of it. A place that is hidden in the source is not known.
Truth = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_LOOK = (24, 24)  # rows and columns of points to check whether two views have anything in common
_THOUSANDS = np.diag([1e-3, 1e-3, 1.0])  # from pixels to a unit in which the nine numbers are of comparable size
_WORST_CONDITION = 1e9  # of a homography in that unit


@dataclass(frozen=True)
class ImagePair:
    """A pair of images in memory.

    Attributes:
        target, source: uint8 (3, H, W), each of its own size.
        truth: where the target's pixels are in the source.
        truth_key: what determines `truth`, for the hash.
    """

    target: torch.Tensor
    source: torch.Tensor
    truth: Truth
    truth_key: bytes = field(repr=False)

    @property
    def hash(self) -> str:
        """SHA-256 of the pixels and the truth."""
        digest = hashlib.sha256(str((tuple(self.target.shape), tuple(self.source.shape))).encode())
        for image in (self.target, self.source):
            digest.update(image.contiguous().numpy().data)
        digest.update(self.truth_key)
        return digest.hexdigest()


@dataclass(frozen=True)
class PairEntry:
    """A pair that is read only when needed.

    Attributes:
        name: for people, such as `v_wall 1-3`.
        load: reads it; raises an `EvaluationError` that names what is wrong.
        level: of HPatches, `"I"` to `"V"`; empty for other data.
    """

    name: str
    load: Callable[[], ImagePair]
    level: str = ""


@dataclass(frozen=True)
class PairData:
    """Pairs to evaluate on.

    Attributes:
        name: for people.
        pairs: the pairs.
        left_out: the number of pairs of a set that were left out, since their views have nothing in common.
    """

    name: str
    pairs: Sequence[PairEntry]
    left_out: int = 0


def open_pairs(config: CorrespondenceConfig) -> PairData:
    """The pairs that `config.data` names.

    Raises:
        SingleLifeError: there are no such pairs.
    """
    where = Path(config.data).expanduser()
    if where.is_dir() and ((where / "H_1_2").is_file() or any(where.glob("[vi]_*/"))):
        return hpatches(where, config.split)
    deeper = [path for depth in ("*", "*/*") for path in sorted(where.glob(f"{depth}/[vi]_*/H_1_2"))]
    if deeper:
        raise EvaluationError(f"HPatches' sequences lie deeper. Name their folder: --data {deeper[0].parents[1]}.")
    return pairs_of_set(
        resolve_pair_set(
            config.data, views=config.views, num_pairs=config.num_pairs, seed=config.seed, image_size=None,
            cache_dir=config.cache_dir,
        )
    )  # fmt: skip


def hpatches(folder: Path, split: str = "viewpoint") -> PairData:
    """HPatches: the pairs of image 1 with images 2 to 6 of each sequence, levels I to V.

    Args:
        folder: the folder of the sequences (`v_*` and `i_*`, each with `1.ppm` to `6.ppm` and `H_1_2` to `H_1_6`), or
            a sequence.
        split: `"viewpoint"` or `"illumination"`.

    Raises:
        EvaluationError: there is no such sequence. Faults in a sequence show when its pairs are read.
    """
    pattern = f"{split[0]}_*"
    sequences = [folder] if (folder / "H_1_2").is_file() else sorted(p for p in folder.glob(pattern) if p.is_dir())
    if not sequences:
        raise EvaluationError(
            f"{folder} has no {split} sequences of HPatches: folders {pattern} with 1.ppm to 6.ppm and H_1_2 to "
            "H_1_6. Name the folder hpatches-sequences-release; datasets_scripts/hpatches.py says how to get it."
        )
    entries = [
        PairEntry(f"{sequence.name} 1-{number}", partial(_of_sequence, sequence, number), level)
        for sequence in sequences
        for number, level in enumerate(LEVELS, start=2)
    ]
    return PairData(f"HPatches {split} ({len(sequences)} of its sequences)", entries)


def _of_sequence(sequence: Path, number: int) -> ImagePair:
    try:
        source, target = (rgb(sequence / f"{each}.ppm") for each in (1, number))
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    matrix = np.linalg.inv(read_homography(sequence / f"H_1_{number}"))
    truth = partial(planar_truth, matrix, tuple(target.shape[1:]), tuple(source.shape[1:]))
    return ImagePair(target, source, truth, matrix.astype("<f8").tobytes())


def read_homography(path: Path) -> np.ndarray:
    """The homography in a text file of three lines of three numbers. It maps the pixels (x, y, 1) of one image to
    those of another, where (0, 0) is the *centre* of the top left pixel.

    Returns:
        float64 (3, 3).

    Raises:
        EvaluationError: it cannot be read, is no homography, or has no inverse.
    """
    try:
        matrix = np.loadtxt(path, ndmin=2)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError("it is not 3x3 finite numbers")
        if not np.linalg.cond(_THOUSANDS @ matrix @ np.linalg.inv(_THOUSANDS)) < _WORST_CONDITION:
            raise ValueError("it is singular: it maps the plane to a line or a point")
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: not a homography ({error})") from error
    return matrix


def planar_truth(
    matrix: np.ndarray, target_size: tuple[int, ...], source_size: tuple[int, ...], points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The `Truth` of a homography.

    Args:
        matrix: from the pixels of the target to those of the source, float64 (3, 3).
        target_size, source_size: height and width in pixels.
        points: places in the target.
    """
    pixels = points * target_size[::-1] - 0.5
    x, y, depth = matrix @ np.stack([pixels[:, 0], pixels[:, 1], np.ones(len(pixels))])
    # The plane is seen from one side: beyond its horizon, the third coordinate changes sign.
    middle = matrix[2] @ [(target_size[1] - 1) / 2, (target_size[0] - 1) / 2, 1]
    seen = depth * np.sign(middle) > 1e-9 * np.abs(matrix[2]).max()
    depth = np.where(seen, depth, 1.0)
    return (np.stack([x / depth, y / depth], axis=-1) + 0.5) / source_size[::-1], seen


def pairs_of_set(pairs: PairSet) -> PairData:
    """The pairs of a pair set whose true matches are known, from exact depth and poses or from two cuts of one frame.

    Pairs are drawn by motion. Pairs whose views have nothing in common, since the camera turned away, are left out.

    Raises:
        EvaluationError: no true matches are known.
    """
    if not pairs.matches_known:
        raise EvaluationError(
            f"The true matches of the pairs {pairs.name} are not known: their life has no depth. Take a life that has "
            "it, such as sim_test, or --views shifted."
        )
    common = (pairs.true_match(_LOOK) >= 0).any(dim=1).tolist()
    numbers = [number for number in range(len(pairs)) if common[number]]
    entries = [PairEntry(f"{pairs.name} {number}", partial(_of_set, pairs, number)) for number in numbers]
    if not entries:
        raise EvaluationError(f"The two views of each of the {len(pairs)} pairs {pairs.name} have nothing in common.")
    return PairData(pairs.name, entries, len(pairs) - len(entries))


def _of_set(pairs: PairSet, number: int) -> ImagePair:
    def truth(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return pairs.find(number, points)
        except PairSetError as error:
            raise EvaluationError(str(error)) from error

    return ImagePair(pairs.target[number], pairs.source[number], truth, f"{pairs.hash}{number}".encode())
