"""The scores of n models as a matrix, and what groups of models add: means within and across, and a test."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import PurePath

import numpy as np

from singlelife.alignment.models import UNTRAINED
from singlelife.alignment.score import Score, scores
from singlelife.lives.registry import SHUFFLED, life_names, registered_life

_EXACT_UP_TO = 8  # models
_PERMUTATIONS = 10_000


def group_of(name: str) -> str:
    """The data set of the life in a model's name, such as `ORG/singlelife-wt3`, `runs/sim_1` or
    `runs/sim_1_seed1/checkpoint-200`. A model whose name holds no life is a group of its own."""
    if name.startswith(UNTRAINED):
        return "untrained"
    for word in reversed(PurePath(name.partition("@")[0]).parts):
        if word.removeprefix("singlelife-").startswith(SHUFFLED):
            return "controls"
        named = [
            life
            for life in map(registered_life, life_names())
            if any(re.match(re.escape(each) + r"(?![A-Za-z0-9])", word) for each in (life.name, life.repository_name))
        ]
        if named:
            return max(named, key=lambda life: len(life.name)).dataset
    return name


@dataclass(frozen=True)
class Permutation:
    """Whether the groups that models belong to matter.

    Attributes:
        difference: mean of cells within groups less that of cells across.
        p_value: the share of assignments of the models to groups of these sizes whose difference is as large or
            larger; the one at hand is among them.
        assignments: how many were looked at: all there are of up to 8 models, else 10,000, drawn at random.
    """

    difference: float
    p_value: float
    assignments: int


@dataclass(frozen=True, eq=False)
class Matrix:
    """The scores of n models, two by two, all (n, n) and symmetric.

    Attributes:
        cas: 0 to 1; 1 on the diagonal.
        chance: what independent maps would score; NaN on the diagonal.
        chance_corrected: 0 by chance, 1 in full agreement; NaN where chance is 1.
        low, high: 95% bootstrap intervals of `cas` over pairs.
        mean, within, across: of all cells, of those of two models of one group, and of two; None where none is.
        difference: the mean within groups less that across, whose chance is 0; None without both.
        permutation: whether groups matter; None where they cannot.
    """

    cas: np.ndarray
    chance: np.ndarray
    chance_corrected: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: Score
    within: Score | None
    across: Score | None
    difference: Score | None
    permutation: Permutation | None

    def cell(self, a: int, b: int) -> Score:
        """The score of two models."""
        corrected = float(self.chance_corrected[a, b])
        cas, chance, low, high = (float(each[a, b]) for each in (self.cas, self.chance, self.low, self.high))
        return Score(cas, chance, None if np.isnan(corrected) else corrected, low, high)


def matrix_of(values: np.ndarray, chances: np.ndarray, groups: Sequence[str], seed: int) -> Matrix:
    """The matrix of n models.

    Args:
        values: the score of each pair of views in each cell, float64 (P, cells), of which cell c is of the models
            `np.triu_indices(n, 1)[:, c]`.
        chances: of each cell.
        groups: of each model.
        seed: of the bootstrap and of the permutation test.
    """
    n = len(groups)
    same = np.array([a == b for a, b in combinations(groups, 2)], dtype=bool)
    kinds = {"mean": np.ones_like(same), "within": same, "across": ~same}
    averages = {name: values[:, cells].mean(axis=1) for name, cells in kinds.items() if cells.any()}
    expected = [float(chances[kinds[name]].mean()) for name in averages]
    if {"within", "across"} <= averages.keys():
        averages["difference"] = averages["within"] - averages["across"]
        expected.append(0.0)
    found = scores([*values.T, *averages.values()], [*chances, *expected], seed)  # all of the same resamples
    of_kinds = dict(zip(averages, found[len(same) :], strict=True))

    def square(name: str, diagonal: float = 1.0) -> np.ndarray:
        matrix = np.diag(np.full(n, diagonal))
        matrix[np.triu_indices(n, 1)] = [getattr(each, name) for each in found[: len(same)]]  # None becomes NaN
        return np.triu(matrix) + np.triu(matrix, 1).T

    cas = square("cas")
    return Matrix(
        cas=cas,
        chance=square("chance", np.nan),
        chance_corrected=square("chance_corrected"),
        low=square("low"),
        high=square("high"),
        mean=of_kinds["mean"],
        **{name: of_kinds.get(name) for name in ("within", "across", "difference")},
        permutation=permutation_test(cas, groups, seed),
    )


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
    if len(labels) <= _EXACT_UP_TO:
        assigned = np.unique(list(permutations(labels.tolist())), axis=0)
    else:
        drawn = np.random.default_rng(seed).permuted(np.tile(labels, (_PERMUTATIONS - 1, 1)), axis=1)
        assigned = np.concatenate([labels[None], drawn])
    as_large = differences(assigned) >= observed - 1e-12  # so that rounding does not tell equal ones apart
    return Permutation(float(observed), float(as_large.mean()), len(assigned))
