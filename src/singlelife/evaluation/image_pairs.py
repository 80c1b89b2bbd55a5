"""Pairs of images of which it is known where the pixels of one are in the other.

HPatches' sequences, one pair with a homography, a rectified stereo pair with its disparity, and pairs drawn from a
life with depth and poses. Everywhere the *target* is the image whose pixels are looked for, and the *source* the one
that they are looked for in. In HPatches, as is usual for dense matching, the target is image k and the source image 1.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps

from singlelife.alignment.pair_sets import PairSet
from singlelife.errors import EvaluationError, PairSetError
from singlelife.evaluation.homography import PlanarTruth, read_homography

LEVELS = ("I", "II", "III", "IV", "V")  # of HPatches: the pairs of image 1 with images 2 to 6
SPLITS = {"viewpoint": ("v_*", 59), "illumination": ("i_*", 57)}  # how many sequences HPatches has of each

_LOOK = (24, 24)  # rows and columns of points at which two views are looked at for anything in common
_MOST_PIXELS = 1 << 28  # of a disparity map: more is damage, and is not worth the memory
_SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg")  # as published, or converted


class Truth(Protocol):
    """Where what is seen at points of the target is in the source."""

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From places in the target, float64 (N, 2), to places in the source and whether they are known, bool (N,).

        Places are fractions of the width and height of their image; its top left corner is (0, 0). Those in the source
        may lie outside it. What is hidden in the source is not known.
        """
        ...


@dataclass(frozen=True)
class ImagePair:
    """A pair of images in memory.

    Attributes:
        target, source: uint8 (3, H, W), each of its own size.
        truth: where the target's pixels are in the source.
        truth_key: what `truth` follows from, so that the hash of the data tells another truth apart.
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
    """A pair that is read when its turn comes.

    Attributes:
        name: for people, such as `v_wall 1-3`.
        level: in which column of the table it counts.
        load: reads it; raises an `EvaluationError` that names what is wrong.
    """

    name: str
    level: str
    load: Callable[[], ImagePair]


@dataclass(frozen=True)
class PairData:
    """Pairs to evaluate on.

    Attributes:
        name: for people.
        kind: `"hpatches-viewpoint"`, `"hpatches-illumination"`, `"homography"`, `"stereo"` or `"pair-set"`.
        levels: the columns of the table, in order.
        pairs: the pairs.
        left_out: names of pairs of a set whose views have nothing in common.
    """

    name: str
    kind: str
    levels: tuple[str, ...]
    pairs: Sequence[PairEntry]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)


def hpatches(folder: Path, split: str = "viewpoint") -> PairData:
    """HPatches: of each sequence, the pairs of image 1 with images 2 to 6, levels I to V.

    The usual 59 viewpoint sequences are all that the release has; for sparse keypoints some papers leave out those of
    large images, which dense matching does not.

    Args:
        folder: of the sequences (`v_*` and `i_*`, each with `1.ppm` to `6.ppm` and `H_1_2` to `H_1_6`), or one of
            them.
        split: `"viewpoint"` or `"illumination"`.

    Raises:
        EvaluationError: there is no such sequence. What is wrong with a sequence is told when its pairs are read.
    """
    pattern, _ = SPLITS[split]
    sequences = [folder] if (folder / "H_1_2").is_file() else sorted(p for p in folder.glob(pattern) if p.is_dir())
    if not sequences:
        raise EvaluationError(
            f"{folder} has no {split} sequences of HPatches: folders {pattern} with 1.ppm to 6.ppm and H_1_2 to "
            "H_1_6. Name the folder hpatches-sequences-release; datasets_scripts/hpatches.py says how to get it."
        )
    entries = [
        PairEntry(f"{sequence.name} 1-{number}", level, partial(_of_sequence, sequence, number))
        for sequence in sequences
        for number, level in enumerate(LEVELS, start=2)
    ]
    count = f"{len(sequences)} sequence{'s' * (len(sequences) != 1)}"
    return PairData(f"HPatches {split} ({count})", f"hpatches-{split}", LEVELS, entries)


def homography_pair(reference: Path, other: Path, homography: Path) -> PairData:
    """One pair whose homography maps pixels of `reference`, the source, to those of `other`, the target."""
    name = f"{reference.stem}-{other.stem}"
    load = partial(_planar_pair, reference, other, homography)
    return PairData(name, "homography", ("all",), [PairEntry(name, "all", load)])


def stereo_pair(left: Path, right: Path, disparity: Path, scale: float | None = None) -> PairData:
    """One rectified stereo pair: the left image is the target, the right one the source.

    Args:
        disparity: of the left image: pixel (x, y) is at (x - d, y) in the right one. A PNG, in which 0 is unknown, or
            a PFM, in which infinite is.
        scale: pixels for each level of the file. 1 by default, as Middlebury has it at full size (its half- and
            third-size versions take 1/2 and 1/3), and 1/256 for PNGs of 16 bits, as KITTI has it.
    """
    name = f"{left.stem}-{right.stem}"
    return PairData(
        name, "stereo", ("all",), [PairEntry(name, "all", partial(_stereo, left, right, disparity, scale))]
    )


def pairs_of_set(pairs: PairSet) -> PairData:
    """The pairs of a pair set whose true matches are known, from exact depth and poses or from two cuts of one frame.

    Pairs are drawn by motion, and some of them turn away from all that they showed: these are left out.

    Raises:
        EvaluationError: no true matches are known.
    """
    if not pairs.matches_known:
        raise EvaluationError(
            f"Of the pairs {pairs.name} no true matches are known: their life has no depth. Take a life that has, "
            "such as sim_test, or --views shifted."
        )
    key = pairs.hash.encode()
    names = [f"{pairs.name} {number}" for number in range(len(pairs))]
    seen = (pairs.true_match(_LOOK) >= 0).any(dim=1).tolist()
    entries = [
        PairEntry(name, "all", partial(_of_set, pairs, number, key))
        for number, name in enumerate(names)
        if seen[number]
    ]
    left_out = tuple(name for number, name in enumerate(names) if not seen[number])
    if not entries:
        raise EvaluationError(f"Of the {len(pairs)} pairs {pairs.name}, no two views have anything in common.")
    return PairData(pairs.name, "pair-set", ("all",), entries, left_out)


def read_image(path: Path) -> torch.Tensor:
    """An image file as uint8 (3, H, W), turned upright as its camera says.

    Raises:
        EvaluationError: it is not there, is damaged, or is not of 8 bits.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise EvaluationError(f"{path}: not an image of 8 bits a channel, but of the mode {picture.mode}.")
            pixels = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{path}: not an image that can be read ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


@dataclass(frozen=True)
class DisparityTruth:
    """Where the pixels of the left image are in the right one.

    Attributes:
        disparity: in pixels, float64 (H, W); NaN where not known or hidden in the right image.
    """

    disparity: np.ndarray

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See [`Truth`]: the disparity of the pixel that a point lies in."""
        height, width = self.disparity.shape
        column = np.clip((points[:, 0] * width).astype(np.int64), 0, width - 1)
        row = np.clip((points[:, 1] * height).astype(np.int64), 0, height - 1)
        disparity = self.disparity[row, column]
        known = np.isfinite(disparity)
        return points - np.stack([np.where(known, disparity, 0) / width, np.zeros(len(points))], axis=-1), known


def read_disparity(path: Path, width: int, scale: float | None = None) -> np.ndarray:
    """The disparities in a PNG or PFM file, see `stereo_pair`.

    Args:
        width: of the images in pixels, which no disparity exceeds.

    Returns:
        float64 (H, W) in pixels, NaN where unknown.

    Raises:
        EvaluationError: it cannot be read, knows nothing, or is of another unit.
    """
    try:
        if path.suffix.lower() == ".pfm":
            levels, usual = _read_pfm(path), 1.0
        else:
            with Image.open(path) as picture:
                if picture.mode not in ("L", "P", "I", "I;16", "I;16B", "RGB"):
                    raise ValueError(f"its mode is {picture.mode}")
                values = np.array(picture.convert("L") if picture.mode in ("P", "RGB") else picture)
                usual = 1 / 256 if picture.mode.startswith("I") else 1.0
            levels = np.where(values == 0, np.nan, values.astype(np.float64))
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{path}: not a disparity map that can be read ({error})") from error
    disparity = levels * (usual if scale is None else scale)
    disparity = np.where(np.isfinite(disparity), disparity, np.nan)
    if np.isnan(disparity).all():
        raise EvaluationError(f"{path}: the disparity is not known of any pixel.")
    if np.nanmin(disparity) < 0 or np.nanmax(disparity) >= width:
        raise EvaluationError(
            f"{path}: disparities from {np.nanmin(disparity):g} to {np.nanmax(disparity):g} px cannot be those of "
            f"images {width} px wide, so its unit is another. Say with --disparity-scale how many pixels a level "
            "is (KITTI: 0.00390625)."
        )
    return disparity


def hide_occluded(disparity: np.ndarray) -> np.ndarray:
    """Disparities (H, W) with NaN where a nearer surface of the left image covers the pixel in the right one.

    Two pixels of a row that fall on the same pixel of the right image cannot both be seen there: the one of the larger
    disparity, the nearer one, is, and those within one pixel of its disparity, which are the same surface.
    """
    height, width = disparity.shape
    row, column = np.nonzero(np.isfinite(disparity))
    known = disparity[row, column]
    there = np.rint(column - known).astype(np.int64)
    inside = there >= 0
    nearest = np.zeros((height, width))
    np.maximum.at(nearest, (row[inside], there[inside]), known[inside])
    hidden = inside.copy()
    hidden[inside] = known[inside] < nearest[row[inside], there[inside]] - 1
    result = disparity.copy()
    result[row[hidden], column[hidden]] = np.nan
    return result


def _of_sequence(sequence: Path, number: int) -> ImagePair:
    return _planar_pair(_numbered(sequence, 1), _numbered(sequence, number), sequence / f"H_1_{number}")


def _numbered(sequence: Path, number: int) -> Path:
    found = [path for suffix in _SUFFIXES if (path := sequence / f"{number}{suffix}").is_file()]
    return found[0] if found else sequence / f"{number}{_SUFFIXES[0]}"


def _planar_pair(reference: Path, other: Path, homography: Path) -> ImagePair:
    source, target = read_image(reference), read_image(other)
    matrix = np.linalg.inv(read_homography(homography))
    sizes = ((target.shape[1], target.shape[2]), (source.shape[1], source.shape[2]))
    return ImagePair(target, source, PlanarTruth(matrix, *sizes), matrix.astype("<f8").tobytes())


def _stereo(left: Path, right: Path, disparity: Path, scale: float | None) -> ImagePair:
    target, source = read_image(left), read_image(right)
    if target.shape != source.shape:
        raise EvaluationError(
            f"{left} is of {target.shape[2]}x{target.shape[1]} px and {right} of {source.shape[2]}x{source.shape[1]}: "
            "the images of a rectified pair are of one size."
        )
    values = read_disparity(disparity, target.shape[2], scale)
    if values.shape != tuple(target.shape[1:]):
        raise EvaluationError(
            f"{disparity} is of {values.shape[1]}x{values.shape[0]} px and {left} of "
            f"{target.shape[2]}x{target.shape[1]}: a disparity map is of the size of its image."
        )
    values = hide_occluded(values)
    return ImagePair(target, source, DisparityTruth(values), values.astype("<f8").tobytes())


def _read_pfm(path: Path) -> np.ndarray:
    """A grey Portable Float Map: rows from the bottom up, little-endian where its scale is negative."""
    with path.open("rb") as content:
        kind = content.readline(16).strip()
        size = content.readline(64).split()
        order = content.readline(64)
        if kind != b"Pf" or len(size) != 2:
            raise ValueError("it is no grey PFM")
        width, height = int(size[0]), int(size[1])
        if not (0 < width and 0 < height and width * height <= _MOST_PIXELS):
            raise ValueError(f"its size is {width} x {height}")
        values = np.frombuffer(content.read(4 * width * height), dtype="<f4" if float(order) < 0 else ">f4")
    if len(values) != width * height:
        raise ValueError("it is cut off")
    return values.reshape(height, width)[::-1].astype(np.float64)


def _of_set(pairs: PairSet, number: int, key: bytes) -> ImagePair:
    def truth(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return pairs.find(number, points)
        except PairSetError as error:
            raise EvaluationError(str(error)) from error

    return ImagePair(pairs.target[number], pairs.source[number], truth, key + str(number).encode())
