"""The usual representation metrics, on the same views as the score: linear CKA and mutual k nearest neighbours.

They ask whether two models find the same *images* alike; CAS asks whether they find the same *places*. They take one
vector per image, the mean of a model's patch tokens of a target view, so models of any grids and widths compare.

Views of one life that follow each other look alike to any model, so both metrics are high by accident. Their *null* is
what they are when the images of one model are shifted against those of the other in the order of time, as for the
centred score; a metric less its null is calibrated, and the p-value is the share of shifts that reach it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from singlelife.alignment.models import AttentionMapProvider
from singlelife.alignment.null import ROUNDING, far_shifts
from singlelife.alignment.pair_sets import PairSet
from singlelife.errors import PairSetError

MEASURES = ("cka", "mutual_knn")
_NEIGHBOURS = 10
_FEWEST_IMAGES = 4  # debiased CKA takes so many
_SAME = 1e-6  # of the largest value: the rounding of float32, after a few sums


@dataclass(frozen=True, eq=False)
class RepresentationMetrics:
    """Representation metrics of n models, two by two, float64 (n, n) and symmetric.

    Attributes:
        num_images: how many target views they use.
        neighbours: k of the nearest neighbours: 10, or two fewer than images if these are few.
        mutual_knn_chance: what independent features would score, neighbours / (P - 1); chance of CKA is 0.
        cka: linear centred kernel alignment, debiased (Kornblith et al., arXiv 1905.00414; Nguyen et al., 2010.15327):
            1 for features that differ by a rotation, a shift and a scale, about 0 for independent ones, however few
            the images. NaN with a model whose vectors are all the same.
        mutual_knn: the mean share of each image's nearest images, by cosine, that two models have in common (Huh et
            al., "The Platonic Representation Hypothesis", arXiv 2405.07987), 0 to 1.
        nulls, p_values: of each of `MEASURES`, float64 (n, n): its mean over shifted images, and the share of shifts
            that reach it, with the images in place counted in. NaN with fewer than 2 images.
    """

    num_images: int
    neighbours: int
    mutual_knn_chance: float
    cka: np.ndarray
    mutual_knn: np.ndarray
    nulls: dict[str, np.ndarray]
    p_values: dict[str, np.ndarray]


def representation_metrics(features: Sequence[np.ndarray]) -> RepresentationMetrics:
    """Compare n models by their vectors of the same images in the order of time, floating (P, D) each, of any D.

    Raises:
        PairSetError: there are fewer than 4 images.
    """
    num_images = len(features[0])
    if num_images < _FEWEST_IMAGES:
        raise PairSetError(f"Representation metrics need at least {_FEWEST_IMAGES} pairs of views, not {num_images}.")
    neighbours, shifts = min(_NEIGHBOURS, num_images - 2), [0, *far_shifts(num_images)]
    grams, nearest = [_debiased(each) for each in features], [_nearest(each, neighbours) for each in features]
    values = {name: np.empty((len(shifts), len(features), len(features))) for name in MEASURES}
    for number, shift in enumerate(shifts):
        for a, b in np.ndindex(len(features), len(features)):
            values["cka"][number, a, b] = _cosine(grams[a], np.roll(grams[b], shift, axis=(0, 1)))
            common = nearest[a] & np.roll(nearest[b], shift, axis=(0, 1))
            values["mutual_knn"][number, a, b] = common.sum() / (neighbours * num_images)
    return RepresentationMetrics(
        num_images,
        neighbours,
        neighbours / (num_images - 1),
        **{name: found[0] for name, found in values.items()},
        nulls={name: found[1:].mean(axis=0) for name, found in values.items()},
        p_values={
            name: np.where(np.isnan(found[0]), np.nan, (found >= found[0] - ROUNDING).mean(axis=0))
            for name, found in values.items()
        },
    )


def pooled_features(model: AttentionMapProvider, pairs: PairSet, batch_size: int) -> np.ndarray:
    """The mean patch token of each target view in the order of time, float32 (P, D).

    Raises:
        CheckpointError: the features are not finite.
    """
    views = pairs.target[torch.from_numpy(pairs.order)]
    return np.concatenate([model.features(each).mean(dim=1).numpy() for each in views.split(batch_size)])


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


def _nearest(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Which images are among the nearest of each, itself left out, bool (P, P); ties go by their order."""
    rows = features.astype(np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    chosen = np.zeros(similar.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-similar, axis=1, kind="stable")[:, :neighbours], True, axis=1)
    return chosen


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    scale = np.sqrt(np.vdot(a, a) * np.vdot(b, b))
    return float(np.vdot(a, b) / scale) if scale > 0 else float("nan")
