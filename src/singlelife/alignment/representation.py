"""The usual representation metrics, on the same views as the score: linear CKA, mutual k nearest neighbours, and RSA.

They ask whether two models find the same *images* alike; CAS asks whether they find the same *places*. They take one
vector per image, the mean of a model's patch tokens of a target view, so models of any grids and widths compare.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.stats import rankdata

from singlelife.alignment.extraction import Weights
from singlelife.alignment.models import AttentionMapProvider
from singlelife.alignment.pair_sets import PairSet
from singlelife.errors import PairSetError
from singlelife.files import atomic_write

MEASURES = ("cka", "mutual_knn", "rsa")
NEIGHBOURS = 10
_FEWEST_IMAGES = 4  # debiased CKA takes so many
_BLOCKS = 20  # of the jackknife
_T_OF_BLOCKS = 2.093  # 97.5% quantile of Student's t of 19 degrees of freedom
_SAME = 1e-6  # of the largest value: the rounding of float32, after a few sums
_FORMAT = 1  # raised whenever the same model would give other vectors


@dataclass(frozen=True, eq=False)
class RepresentationMetrics:
    """Representation metrics of n models, two by two, all float64 (n, n) and symmetric.

    Attributes:
        num_images: how many target views they use.
        neighbours: k of the nearest neighbours.
        mutual_knn_chance: what independent features would score, neighbours / (P - 1); chance of the other two is 0.
        cka: linear centred kernel alignment, debiased (Kornblith et al., arXiv 1905.00414; Nguyen et al., 2010.15327):
            1 for features that differ by a rotation, a shift and a scale, about 0 for independent ones, however few
            the images. NaN with a model whose vectors are all the same.
        mutual_knn: the mean share of each image's nearest images, by cosine, that two models have in common (Huh et
            al., "The Platonic Representation Hypothesis", arXiv 2405.07987), 0 to 1.
        rsa: representational similarity analysis (Kriegeskorte et al., 2008): Spearman's correlation of how unlike
            each two images are, 1 less Pearson's correlation of their vectors, -1 to 1. NaN as for `cka`.
        spread: half the width of the 95% interval of each measure, by its name. It is a delete-a-group jackknife's, of
            20 groups of images that follow each other, since neighbours are alike; a bootstrap would draw an image
            twice, which is then its own nearest neighbour. NaN with fewer than 80 images.
    """

    num_images: int
    neighbours: int
    mutual_knn_chance: float
    cka: np.ndarray
    mutual_knn: np.ndarray
    rsa: np.ndarray
    spread: dict[str, np.ndarray]

    def cell(self, measure: str, a: int, b: int) -> tuple[float, float]:
        """A measure of two models, and half the width of its interval; NaN where it is not known."""
        return float(getattr(self, measure)[a, b]), float(self.spread[measure][a, b])


def representation_metrics(features: Sequence[np.ndarray], neighbours: int = NEIGHBOURS) -> RepresentationMetrics:
    """Compare n models by their vectors of the same images, floating (P, D) each, of any D.

    Args:
        neighbours: at most; two fewer than there are images are taken if these are few.

    Raises:
        PairSetError: there are fewer than 4 images.
    """
    num_images = len(features[0])
    if num_images < _FEWEST_IMAGES:
        raise PairSetError(f"Representation metrics need at least {_FEWEST_IMAGES} pairs of views, not {num_images}.")
    neighbours = min(neighbours, num_images - 2)
    found, spread = _measures(features, neighbours), _spread(features, neighbours)
    chance = neighbours / (num_images - 1)
    return RepresentationMetrics(num_images, neighbours, chance, **found, spread=spread)


def _measures(features: Sequence[np.ndarray], neighbours: int) -> dict[str, np.ndarray]:
    """All three, (n, n) each, by name."""
    similar = [_unit(each.astype(np.float64)) for each in features]
    grams = [_debiased(each) for each in features]
    nearest = [_nearest(each, neighbours) for each in similar]
    ranks = [_ranks(each) for each in features]
    return {
        "cka": _square(grams, _cosine),
        "mutual_knn": _square(nearest, lambda a, b: float((a & b).sum() / (neighbours * len(a)))),
        "rsa": _square(ranks, _cosine),
    }


def _spread(features: Sequence[np.ndarray], neighbours: int) -> dict[str, np.ndarray]:
    num_images, num_models = len(features[0]), len(features)
    if num_images < _FEWEST_IMAGES * _BLOCKS:
        return {name: np.full((num_models, num_models), np.nan) for name in MEASURES}
    without = []
    for left_out in np.array_split(np.arange(num_images), _BLOCKS):
        without.append(_measures([np.delete(each, left_out, axis=0) for each in features], neighbours))
    values = {name: np.stack([each[name] for each in without]) for name in MEASURES}
    return {name: _T_OF_BLOCKS * np.sqrt((_BLOCKS - 1) * each.var(axis=0)) for name, each in values.items()}


def pooled_features(
    weights: Weights, load: Callable[[], AttentionMapProvider], pairs: PairSet, batch_size: int, folder: Path
) -> np.ndarray:
    """The mean patch token of each target view, float32 (P, D); a folder keeps it for the next time.

    Args:
        weights: of the model.
        load: loads it, if its vectors are not there.

    Raises:
        CheckpointError: the model cannot be loaded, or its features are not finite.
    """
    try:
        return load_file(_path(folder, weights, pairs))["pooled"]
    except (OSError, SafetensorError, KeyError):  # not there, or not whole: it is made
        pass
    model = load()
    pooled = np.concatenate([model.features(views).mean(dim=1).numpy() for views in pairs.target.split(batch_size)])
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(_path(folder, model, pairs)) as aside:
        aside.write_bytes(save({"pooled": pooled}))
    return pooled


def _path(folder: Path, weights: Weights, pairs: PairSet) -> Path:
    key = [_FORMAT, weights.revision, weights.method, list(weights.layers), pairs.hash]
    return folder / f"pooled-{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"


def _square(of_models: Sequence[np.ndarray], measure: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
    matrix = np.empty((len(of_models), len(of_models)))
    for a, first in enumerate(of_models):
        for b, second in enumerate(of_models[: a + 1]):
            matrix[a, b] = matrix[b, a] = measure(first, second)
    return matrix


def _debiased(features: np.ndarray) -> np.ndarray:
    """The Gram matrix whose inner products, over P (P - 3), are the unbiased estimate of HSIC (Song et al., 2012)."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    if np.abs(centred).max() < _SAME * np.abs(features).max():  # what is left is rounding
        centred[:] = 0
    gram = centred @ centred.T
    np.fill_diagonal(gram, 0)
    count = len(gram)
    means = gram.sum(axis=0) / (count - 2)
    gram -= means[:, None] + means[None] - means.sum() / (count - 1)
    np.fill_diagonal(gram, 0)
    return gram


def _nearest(unit: np.ndarray, neighbours: int) -> np.ndarray:
    """Which images are among the nearest of each, itself left out, bool (P, P); ties go by their order."""
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    chosen = np.zeros(similar.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-similar, axis=1, kind="stable")[:, :neighbours], True, axis=1)
    return chosen


def _ranks(features: np.ndarray) -> np.ndarray:
    """Centred ranks of how unlike each two images are, float64 (P (P - 1) / 2,)."""
    centred = features.astype(np.float64)
    centred = _unit(centred - centred.mean(axis=1, keepdims=True))
    alike = (centred @ centred.T)[np.triu_indices(len(centred), 1)]
    ranks = rankdata(-alike.round(12))  # so that rounding does not tell equal ones apart
    return ranks - ranks.mean()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    scale = np.sqrt(np.vdot(a, a) * np.vdot(b, b))
    return float(np.vdot(a, b) / scale) if scale > 0 else float("nan")
