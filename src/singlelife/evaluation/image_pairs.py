"""Pairs of images whose true correspondences are known.

HPatches' sequences, one pair with a homography, and pairs drawn from a life with depth and poses. The
*target* is the image whose pixels are looked for in the *source*. In HPatches, as is usual for dense matching, the
target is image k and the source image 1.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from singlelife.alignment.pair_sets import PairSet, resolve_pair_set
from singlelife.errors import EvaluationError, PairSetError
from singlelife.evaluation.homography import PlanarTruth, read_homography
from singlelife.evaluation.images import read_image
from singlelife.evaluation.settings import CorrespondenceConfig

LEVELS = ("I", "II", "III", "IV", "V")  # of HPatches: the pairs of image 1 with images 2 to 6

_LOOK = (24, 24)  # rows and columns of points at which two views are looked at for anything in common
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
        left_out: names of pairs of a set whose views have nothing in common.
    """

    name: str
    pairs: Sequence[PairEntry]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)


def open_pairs(config: CorrespondenceConfig) -> PairData:
    """The pairs that `config.data` names.

    Raises:
        SingleLifeError: there are no such pairs.
    """
    where = Path(config.data[0]).expanduser()
    if config.homography is not None:
        return homography_pair(where, Path(config.data[1]).expanduser(), config.homography.expanduser())
    if where.is_dir() and ((where / "H_1_2").is_file() or any(where.glob("[vi]_*/"))):
        return hpatches(where, config.split)
    if where.is_file():
        raise EvaluationError(
            f"--data {config.data[0]} is a file. It takes a folder, a life, or two images with --homography FILE."
        )
    is_path = len(where.parts) > 2 or config.data[0].startswith(("/", ".", "~"))
    if is_path and not where.exists() and where.name != "held-out":  # which ends the words for a part of a life
        raise EvaluationError(
            f"There is nothing to evaluate correspondence on at {config.data[0]}: no such folder. --data takes the "
            "folder of HPatches' sequences, a prepared life, a stored pair set, or two images."
        )
    return pairs_of_set(
        resolve_pair_set(
            config.data[0], views=config.views, num_pairs=config.num_pairs, seed=config.seed, image_size=None,
            cache_dir=config.cache_dir,
        )
    )  # fmt: skip


def hpatches(folder: Path, split: str = "viewpoint") -> PairData:
    """HPatches: of each sequence, the pairs of image 1 with images 2 to 6, levels I to V.

    The usual 59 viewpoint sequences are all that the release has; for sparse keypoints some papers leave out those of
    large images, which dense matching does not.

    Args:
        folder: of the sequences (`v_*` and `i_*`, each with `1.ppm` to `6.ppm` and `H_1_2` to `H_1_6`), or one of
            them.
        split: `"viewpoint"` or `"illumination"`.

    Raises:
        EvaluationError: there is no such sequence. What is wrong with a sequence shows when its pairs are read.
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


def homography_pair(reference: Path, other: Path, homography: Path) -> PairData:
    """One pair whose homography maps pixels of `reference`, the source, to those of `other`, the target."""
    name = f"{reference.stem}-{other.stem}"
    return PairData(name, [PairEntry(name, partial(_planar_pair, reference, other, homography))])


def pairs_of_set(pairs: PairSet) -> PairData:
    """The pairs of a pair set whose true matches are known, from exact depth and poses or from two cuts of one frame.

    Pairs are drawn by motion, and some of them turn away from all that they showed: these are left out.

    Raises:
        EvaluationError: no true matches are known.
    """
    if not pairs.matches_known:
        raise EvaluationError(
            f"The true matches of the pairs {pairs.name} are not known: their life has no depth. Take a life that has "
            "it, such as sim_test, or --views shifted."
        )
    key = pairs.hash.encode()
    seen = (pairs.true_match(_LOOK) >= 0).any(dim=1).tolist()
    entries = [
        PairEntry(f"{pairs.name} {number}", partial(_of_set, pairs, number, key)) for number in range(len(pairs))
    ]
    left_out = tuple(entry.name for entry, common in zip(entries, seen, strict=True) if not common)
    entries = [entry for entry, common in zip(entries, seen, strict=True) if common]
    if not entries:
        raise EvaluationError(f"The two views of each of the {len(pairs)} pairs {pairs.name} have nothing in common.")
    return PairData(pairs.name, entries, left_out)


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


def _of_set(pairs: PairSet, number: int, key: bytes) -> ImagePair:
    def truth(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return pairs.find(number, points)
        except PairSetError as error:
            raise EvaluationError(str(error)) from error

    return ImagePair(pairs.target[number], pairs.source[number], truth, key + str(number).encode())
