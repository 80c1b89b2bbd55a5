"""How sure a score is: intervals by the bootstrap over pairs, and a permutation test over models."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 250
_PERMUTATIONS = 10_000


def bootstrap(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """95% intervals of the means of columns. Each resample draws the same rows of all columns.

    Args:
        values: float (P, C): a row for each pair.

    Returns:
        float64 (2, C): low and high.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((_RESAMPLES, values.shape[1]))
    for start in range(0, _RESAMPLES, _RESAMPLES_AT_ONCE):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES_AT_ONCE)
        means[start : start + _RESAMPLES_AT_ONCE] = drawn @ values / count
    return np.quantile(means, [0.025, 0.975], axis=0)


@dataclass(frozen=True)
class Permutation:
    """Whether the groups that models belong to matter.

    Attributes:
        difference: mean of cells within groups less that of cells across.
        p_value: the share of assignments of the models to groups of these sizes whose difference is as large or
            larger; the one at hand is among them.
        assignments: how many were looked at.
        exact: those are all there are; else they were drawn at random.
    """

    difference: float
    p_value: float
    assignments: int
    exact: bool


def permutation_test(scores: np.ndarray, groups: Sequence[str], seed: int = 0) -> Permutation | None:
    """Test that models of one group agree more than models of two.

    Args:
        scores: symmetric (n, n), of which the diagonal is not looked at.
        groups: of each model.

    Returns:
        None if no two models are of one group, or all are.
    """
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(labels)
    cells = len(labels) * (len(labels) - 1) // 2
    within = int((sizes * (sizes - 1) // 2).sum())
    if within in (0, cells):
        return None
    off_diagonal = scores - np.diag(np.diag(scores))
    total = off_diagonal.sum() / 2

    def differences(assigned: np.ndarray) -> np.ndarray:
        inside = np.zeros(len(assigned))
        for label in range(len(sizes)):
            members = (assigned == label).astype(np.float64)
            inside += ((members @ off_diagonal) * members).sum(axis=1) / 2
        return inside / within - (total - inside) / (cells - within)

    (observed,) = differences(labels[None])
    possible = math.factorial(len(labels)) // math.prod(math.factorial(int(size)) for size in sizes)
    as_large = observed - 1e-12  # so that rounding does not tell equal ones apart
    if possible <= _PERMUTATIONS:
        found = differences(np.array(list(_assignments(sizes.tolist()))))
        return Permutation(float(observed), float(np.mean(found >= as_large)), possible, True)
    drawn = np.random.default_rng(seed).permuted(np.tile(labels, (_PERMUTATIONS - 1, 1)), axis=1)
    as_large_as = 1 + int(np.sum(differences(drawn) >= as_large))
    return Permutation(float(observed), as_large_as / _PERMUTATIONS, _PERMUTATIONS, False)


def _assignments(sizes: list[int]) -> Iterator[list[int]]:
    """All different orders of labels of which label i occurs sizes[i] times."""
    if not any(sizes):
        yield []
        return
    for label, left in enumerate(sizes):
        if left:
            rest = [count - (other == label) for other, count in enumerate(sizes)]
            yield from ([label, *order] for order in _assignments(rest))
