"""How far a centred score lies above what the same two models reach by accident, and how certain that is.

Agreement by accident is measured: A's sets of pair p are compared with B's sets of another pair q, from another time,
over many cyclic shifts of the pairs in the order of time. The mean over shifts is the *null*, the score less the null
is the *excess*, and the p-value is the share of shifts that reach the score, counting the score itself.

The interval of the excess covers other *pairs*, by the variance of the mean over blocks of consecutive pairs, and
other *weights*: two models with random weights agree a little more or less than by accident on any number of pairs,
since both see the same images. A jackknife over a model's heads (or groups of feature channels) measures this.

Linear CKA and mutual k nearest neighbours are calibrated by the same shifts. They ask whether two models find the same
*images* alike; CAS asks whether they find the same *places*. They take the mean patch token of each target view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import factorial, prod

import numpy as np
import torch
from scipy.stats import t as student_t

from singlelife.alignment.extraction import Extraction, chance
from singlelife.alignment.models import AttentionMapProvider
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import Score, agreement, agreements, mean_known
from singlelife.alignment.settings import CasConfig
from singlelife.errors import PairSetError

ROUNDING = 1e-9  # so that sums in another order are equal
MEASURES = ("cka", "mutual_knn")
SMALL_P = 0.05
FEW_PAIRS = 16  # a mean over fewer is rough

_EXACT_UP_TO = 8  # models
_PERMUTATIONS = 10_000
_MOST_SHIFTS = 99
_SHIFTS_OF_PARTS = 7
_NEIGHBOURS = 10
_FEWEST_IMAGES = 4  # that debiased CKA can use
_SAME = 1e-6  # relative to the largest value: the rounding of float32, after a few sums
_MANY_CELLS, _FEW_SHIFTS = 256, 19  # a search of more cells than this uses only this many shifts


@dataclass(frozen=True)
class CentredScore(Score):
    """A centred score; `low` and `high` are the null plus the interval of the excess. All are NaN if no row of the two
    models can be compared.

    Attributes:
        null: what the same two models score when their pairs are mismatched.
        excess: the score less the null; about 0 for models that share nothing.
        excess_low, excess_high: its 95% interval, over pairs and over the heads of both models.
        p_value: the share of mismatches that score as high, counting the score itself; at least 1 / (shifts + 1).
        shifts: the number of mismatches tried.
    """

    null: float
    excess: float
    excess_low: float
    excess_high: float
    p_value: float
    shifts: int


@dataclass(frozen=True, eq=False)
class Mismatch:
    """Cells, each comparing two of n models, on P pairs in the order of time.

    Attributes:
        matched: the score of each pair, float64 (P, cells).
        shifted: the mean score at each shift, float64 (shifts, cells).
        excess: each pair's part of the mean excess, float64 (P, cells).
        parts: the excess on some of the pairs without each of G groups of heads of each model, float64 (n, G, cells);
            the same for all G if the model is not in the cell.
        chances: the chance of each cell, float64 (cells,).
    """

    matched: np.ndarray
    shifted: np.ndarray
    excess: np.ndarray
    parts: np.ndarray
    chances: np.ndarray


def far_shifts(num_pairs: int, most: int = _MOST_SHIFTS) -> list[int]:
    """Cyclic shifts of pairs in the order of time, in both directions, by at least an eighth of the pairs."""
    least = max(1, num_pairs // 8)
    every = np.arange(least, num_pairs - least + 1)
    every = every[every < num_pairs]
    return every[np.unique(np.linspace(0, len(every) - 1, min(most, len(every)), dtype=int))].tolist()


def mismatch(
    sets: Sequence[np.ndarray],
    parts: Sequence[np.ndarray],
    some: Sequence[np.ndarray],
    k: int,
    cells: Sequence[tuple[int, int]],
    chances: Sequence[float],
) -> Mismatch:
    """Compare models two by two, matched and mismatched.

    Args:
        sets: centred sets of each model, uint64 (P, N, W), in the order of time.
        parts: each model's sets of some pairs without each of its G groups of heads, uint64 (G, p, N, W); G may differ
            between models, and is 0 for a model with one map.
        some: the indices of these pairs, int64 (p,) for each model.
        cells: the indices of two models each.
        chances: the chance of each cell.
    """
    shifts = far_shifts(len(sets[0]))
    most = max(len(each) for each in parts)
    matched, shifted, excess = [], [], []
    without = np.zeros((len(sets), most, len(cells)))
    for cell, (a, b) in enumerate(cells):
        own = agreement(sets[a], sets[b], k)
        others = agreements(sets[a], sets[b], k, shifts) if shifts else np.full((1, len(own)), np.nan)
        back = np.stack([np.roll(each, shift) for each, shift in zip(others, shifts or [0], strict=True)])
        matched.append(own)
        shifted.append(mean_known(others, axis=1))
        excess.append(own - (mean_known(others, axis=0) + mean_known(back, axis=0) - mean_known(others)))
        for model, other in ((a, b), (b, a)):
            few = far_shifts(len(some[model]), _SHIFTS_OF_PARTS)
            if len(parts[model]) and few:
                found = mean_known(agreements(parts[model], sets[other][some[model]], k, [0, *few]), axis=2)
                without[model, : len(found[0]), cell] = found[0] - mean_known(found[1:], axis=0)
                without[model, len(found[0]) :, cell] = mean_known(without[model, : len(found[0]), cell])
    return Mismatch(
        np.stack(matched, axis=1),
        np.stack(shifted, axis=1),
        np.stack(excess, axis=1),
        without,
        np.asarray(chances, dtype=np.float64),
    )


def compare_cells(extractions: Sequence[Extraction], pairs: PairSet) -> Mismatch:
    """Compare the centred sets of models at one k, two by two, in the order of `np.triu_indices(n, 1)`."""
    cells = list(combinations(range(len(extractions)), 2))
    chances = [chance(extractions[a], extractions[b]) for a, b in cells]
    sets = [each.centred[pairs.order] for each in extractions]
    parts, some = [each.parts for each in extractions], [each.some for each in extractions]
    return mismatch(sets, parts, some, extractions[0].k, cells, chances)


def notes_of(extractions: Sequence[Extraction], pairs: PairSet, config: CasConfig) -> tuple[str, ...]:
    """What a reader of the scores should know: what is undefined, left out or rough, and why."""
    blank, notes = int(pairs.blank.sum()), []
    left, advice = len(pairs) - blank, f"Compare on at least {FEW_PAIRS} pairs."
    if blank:
        notes.append(f"{blank} of {len(pairs)} pairs have a view of one colour. They are left out.")
    if left == 1:
        notes.append(f"One pair has no centred score, which subtracts the mean map of several pairs. {advice}")
    elif 1 < left < FEW_PAIRS:
        least = 1 / (1 + len(far_shifts(left)))
        notes.append(f"{left} pairs are few: the centred score is rough, and p is at least {least:.2g}. {advice}")
    for each in extractions if left else ():
        raw, centred = (1 - sets[~pairs.blank].any(axis=-1).mean() for sets in (each.raw, each.centred))
        if raw == 1:
            notes.append(f"{each.model} looks at all source patches alike, so it has no top {each.k} and no score.")
        elif centred == 1 and left > 1:
            notes.append(f"{each.model} gives the same map for all pairs, so it has no centred score.")
        elif config.patches == "all" and not pairs.even and left > 1:
            shares = {"raw": raw, "centred": centred}
            words = [f"{share:.2%} of {name} rows" for name, share in shares.items() if share > 0]
            if words:
                notes.append(f"{each.model} has no top {each.k} in {' and '.join(words)}. They are left out.")
        if not len(each.parts) and left > 1:
            notes.append(f"{each.model} has one map and no heads, so its interval covers only pairs.")
    return tuple(notes)


def centred_score(found: Mismatch, weights: np.ndarray) -> CentredScore:
    """The score of a weighted sum of cells, such as one cell or their mean, by weights (cells,)."""
    used = np.flatnonzero(weights)
    means = (mean_known(found.matched, axis=0), mean_known(found.shifted, axis=0), found.chances)
    cas, null, chance = (float(values[used] @ weights[used]) for values in means)
    excess, shifted = found.excess[:, used], found.shifted[:, used] @ weights[used]
    excess = np.where(np.isnan(excess), mean_known(excess, axis=0), excess) @ weights[used]
    margin = _margin(excess, found.parts[:, :, used] @ weights[used])
    defined = np.isfinite(cas) and np.isfinite(null)
    return CentredScore(
        cas=cas,
        chance=chance,
        chance_corrected=float((cas - chance) / (1 - chance)) if defined and chance < 1 else None,
        low=cas - margin,
        high=cas + margin,
        null=null,
        excess=cas - null,
        excess_low=cas - null - margin,
        excess_high=cas - null + margin,
        p_value=float(1 + (shifted >= cas - ROUNDING).sum()) / (1 + len(shifted)) if defined else float("nan"),
        shifts=len(shifted) if defined else 0,
    )


def search_null(a: Sequence[np.ndarray], b: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Compare each of a's sets with each of b's, uint64 (P, N, W) in the order of time.

    Returns:
        The scores and their excess, float64 (len(a), len(b)), and the p-value of the largest excess: the share of
        shifts whose largest excess is as large, counting the matched pairs.
    """
    shifts = [0, *far_shifts(len(a[0]), _MOST_SHIFTS if len(a) * len(b) <= _MANY_CELLS else _FEW_SHIFTS)]
    found = np.array([[mean_known(agreements(x, y, k, shifts), axis=1) for y in b] for x in a])
    excess = found - mean_known(found[..., 1:], axis=2)[..., None]
    largest = np.nanmax(np.where(np.isnan(excess), -np.inf, excess), axis=(0, 1))
    defined = len(shifts) > 1 and np.isfinite(largest).all()
    return found[..., 0], excess[..., 0], float((largest >= largest[0] - ROUNDING).mean()) if defined else float("nan")


def _margin(excess: np.ndarray, parts: np.ndarray) -> float:
    """Half the width of the 95% interval, over pairs (P,) in order and models without each group of heads (n, G)."""
    pairs, groups = len(excess), parts.shape[1]
    block = max(1, round(pairs ** (1 / 3)))
    if pairs <= block:
        return float("nan")
    ring = np.concatenate([excess, excess[: block - 1]])
    means = np.convolve(ring, np.full(block, 1 / block), mode="valid")
    variances, freedom = [np.square(means - excess.mean()).mean() * block / (pairs - block)], [pairs / block - 1]
    for each in parts:
        if groups > 1 and np.ptp(each) > 0:
            variances.append(np.square(each - each.mean()).sum() * (groups - 1) / groups)
            freedom.append(groups - 1)
    total = float(sum(variances))
    if not total > 0:
        return 0.0 if total == 0 else float("nan")
    weight = sum(variance**2 / degrees for variance, degrees in zip(variances, freedom, strict=True))
    return float(student_t.ppf(0.975, max(1.0, total**2 / weight)) * np.sqrt(total))


@dataclass(frozen=True, eq=False)
class RepresentationMetrics:
    """Representation metrics of n models, two by two, float64 (n, n) and symmetric.

    Attributes:
        num_images: the number of target views.
        neighbours: the number of nearest neighbours: 10, or two fewer than images if there are few. Independent
            features have neighbours / (num_images - 1) of them in common.
        cka: debiased linear CKA (arXiv 1905.00414, 2010.15327): 1 for features that differ by a rotation, a shift and
            a scale, about 0 for independent ones. NaN if all vectors of a model are the same.
        mutual_knn: the mean share of each image's nearest images, by cosine, that two models have in common (arXiv
            2405.07987), 0 to 1.
        nulls, p_values: for each of `MEASURES`, float64 (n, n): its mean over shifted images, and the share of shifts
            that reach it, counting the images in place.
    """

    num_images: int
    neighbours: int
    cka: np.ndarray
    mutual_knn: np.ndarray
    nulls: dict[str, np.ndarray]
    p_values: dict[str, np.ndarray]


def representation_metrics(features: Sequence[np.ndarray]) -> RepresentationMetrics:
    """Compare n models by their vectors of the same images in the order of time, floating (P, D) each; D may differ.

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
    """Which images are among the nearest of each, except itself, bool (P, P); earlier images win ties."""
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


@dataclass(frozen=True)
class Permutation:
    """Whether the groups that models belong to matter.

    Attributes:
        difference: the mean of cells within groups less the mean of cells across groups.
        p_value: the share of assignments of the models to groups of these sizes whose difference is as large or
            larger, counting the actual one.
        assignments: how many were tried: all for up to 8 models, otherwise 10,000, drawn at random.
        smallest: the smallest p-value that groups of these sizes can reach.
    """

    difference: float
    p_value: float
    assignments: int
    smallest: float

    def __str__(self) -> str:
        """The p-value, or a remark if there are too few models to reach a small one."""
        if self.smallest > SMALL_P:
            return f"too few models to test (p is at least {self.smallest:.2g})"
        return f"p = {self.p_value:.4g}"


def permutation_test(scores: np.ndarray, groups: Sequence[str], seed: int = 0) -> Permutation | None:
    """Test whether models of the same group agree more than models of different groups.

    Args:
        scores: symmetric (n, n); the diagonal is ignored.
        groups: the group of each model.

    Returns:
        None if no two models are in one group, or all are.
    """
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(labels)
    cells = len(labels) * (len(labels) - 1) // 2
    within = int((sizes * (sizes - 1) // 2).sum())
    if within in (0, cells):
        return None
    above = scores[np.triu_indices(len(labels), 1)]

    def differences(assigned: np.ndarray) -> np.ndarray:
        first, second = (assigned[:, of_cell] for of_cell in np.triu_indices(len(labels), 1))
        inside = np.where(first == second, above, 0).sum(axis=1)
        return inside / within - (above.sum() - inside) / (cells - within)

    (observed,) = differences(labels[None])
    if len(labels) <= _EXACT_UP_TO:
        assigned = np.unique(list(permutations(labels.tolist())), axis=0)
    else:
        drawn = np.random.default_rng(seed).permuted(np.tile(labels, (_PERMUTATIONS - 1, 1)), axis=1)
        assigned = np.concatenate([labels[None], drawn])
    as_large = differences(assigned) >= observed - 1e-12  # so that rounding does not separate equal ones
    # Groups of the same size can swap names without changing the difference.
    same = prod(factorial(int(number)) for number in np.unique(sizes, return_counts=True)[1])
    ways = factorial(len(labels)) // prod(factorial(int(size)) for size in sizes)
    smallest = max(1 / len(assigned), same / ways)
    return Permutation(float(observed), float(as_large.mean()), len(assigned), smallest)
