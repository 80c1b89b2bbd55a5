"""n models on one pair set, two by two: `singlelife.cas_matrix`, and what `singlelife cas A B C ...` prints: the
scores, their means within and across groups of models, and a test that groups matter.

Each model is run once on a pair set, ever, and is in memory only while it runs. One that fails is noted; the others
are compared.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import combinations, permutations
from math import factorial, prod
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from singlelife.alignment.comparison import (
    AlignmentResult,
    Model,
    ModelReading,
    coarser,
    facts_of,
    failure_lines,
    model_readings,
    model_table,
    open_model,
    pair_set_of,
    score_table,
    text_table,
)
from singlelife.alignment.extraction import Extraction, ExtractionCache, ModelHeader, check_ks, co_visible
from singlelife.alignment.models import UNTRAINED, AttentionMapProvider
from singlelife.alignment.null import CentredScore, centred_score, compare_cells
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.representation import (
    MEASURES,
    RepresentationMetrics,
    pooled_features,
    representation_metrics,
)
from singlelife.alignment.score import Score, scores
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.lives.registry import SHUFFLED, life_names, registered_life
from singlelife.machine import choose_device
from singlelife.results import ResultRow

CONTROLS = "controls"  # the group of models that should not align
_EXACT_UP_TO = 8  # models
_PERMUTATIONS = 10_000
_SMALL_P = 0.05
_LOG = logging.getLogger(__name__)
_Found = TypeVar("_Found")


def group_of(name: str) -> str:
    """The data set of the life in a model's name, such as `ORG/singlelife-wt3`, `runs/sim_1` or
    `runs/sim_1_seed1/checkpoint-200`; `"controls"` for a life that the registry calls a control, and `"untrained"`. A
    model whose name holds no life is a group of its own."""
    if name.startswith(UNTRAINED):
        return "untrained"
    for word in reversed(PurePath(name.partition("@")[0]).parts):
        if word.removeprefix("singlelife-").startswith(SHUFFLED):
            return CONTROLS
        named = [
            life
            for life in map(registered_life, life_names())
            if any(re.match(re.escape(each) + r"(?![A-Za-z0-9])", word) for each in (life.name, life.repository_name))
        ]
        if named:
            life = max(named, key=lambda life: len(life.name))
            return CONTROLS if life.description.startswith("control:") else life.dataset
    return name


@dataclass(frozen=True)
class Permutation:
    """Whether the groups that models belong to matter.

    Attributes:
        difference: mean of cells within groups less that of cells across.
        p_value: the share of assignments of the models to groups of these sizes whose difference is as large or
            larger; the one at hand is among them.
        assignments: how many were looked at: all there are of up to 8 models, else 10,000, drawn at random.
        smallest: the least p-value that groups of these sizes can reach.
    """

    difference: float
    p_value: float
    assignments: int
    smallest: float

    def __str__(self) -> str:
        """The p-value, unless so few models cannot reach a small one."""
        if self.smallest > _SMALL_P:
            return f"too few models to test (p is at least {self.smallest:.2g})"
        return f"p = {self.p_value:.4g}"


@dataclass(frozen=True, eq=False)
class Matrix:
    """The scores of n models, two by two.

    Attributes:
        cells: the scores, of the models `np.triu_indices(n, 1)`.
        mean, within, across: of all cells, of those of two models of one group, and of two; None where none is.
        difference: the mean within groups less that across, which is 0 where groups do not matter; None without both.
        permutation: whether groups matter, by the score above its chance or null; None where they cannot.
        arrays: each field of the scores, float64 (n, n) and symmetric, NaN where it is not defined.
    """

    cells: tuple[Score, ...]
    mean: Score
    within: Score | None
    across: Score | None
    difference: Score | None
    permutation: Permutation | None
    arrays: dict[str, np.ndarray]

    @property
    def cas(self) -> np.ndarray:
        """The scores, 0 to 1; 1 on the diagonal."""
        return self.arrays["cas"]

    @property
    def excess(self) -> np.ndarray:
        """What is above the null of centred scores, or the chance of raw ones; NaN on the diagonal."""
        return self.arrays.get("excess", self.arrays["cas"] - self.arrays["chance"])

    def cell(self, a: int, b: int) -> Score:
        """The score of two models."""
        return self.cells[int(np.flatnonzero((np.stack(_two(len(self.cas))) == [[min(a, b)], [max(a, b)]]).all(0))[0])]


def _two(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The models of each cell."""
    first, second = np.triu_indices(n, 1)
    return first, second


def matrix_of(
    groups: Sequence[str], seed: int, scores_of: Callable[[Sequence[np.ndarray]], Sequence[Score]]
) -> Matrix:
    """The matrix of n models.

    Args:
        groups: of each model.
        seed: of the permutation test.
        scores_of: the scores of weighted sums of the cells `np.triu_indices(n, 1)`.
    """
    n = len(groups)
    same = np.array([a == b for a, b in combinations(groups, 2)], dtype=bool)
    kinds = {"mean": np.ones_like(same), "within": same, "across": ~same}
    weights = {name: cells / cells.sum() for name, cells in kinds.items() if cells.any()}
    if {"within", "across"} <= weights.keys():
        weights["difference"] = weights["within"] - weights["across"]
    found = scores_of([*np.eye(len(same)), *weights.values()])
    of_kinds = dict(zip(weights, found[len(same) :], strict=True))
    cells, arrays = tuple(found[: len(same)]), {}
    for name in (each.name for each in fields(cells[0])):
        square = np.full((n, n), 1.0 if name in ("cas", "chance_corrected", "low", "high") else np.nan)
        square[_two(n)] = square.T[_two(n)] = [getattr(each, name) for each in cells]  # None becomes NaN
        arrays[name] = square
    excess = arrays.get("excess", arrays["cas"] - arrays["chance"])
    return Matrix(
        cells=cells,
        mean=of_kinds["mean"],
        **{name: of_kinds.get(name) for name in ("within", "across", "difference")},
        permutation=permutation_test(np.nan_to_num(excess), groups, seed),
        arrays=arrays,
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
    # Groups of the same size may change their names, and the difference stays.
    same = prod(factorial(int(number)) for number in np.unique(sizes, return_counts=True)[1])
    ways = factorial(len(labels)) // prod(factorial(int(size)) for size in sizes)
    smallest = max(1 / len(assigned), same / ways)
    return Permutation(float(observed), float(as_large.mean()), len(assigned), smallest)


@dataclass(frozen=True, eq=False)
class AtK:
    """All scores at one k; `per_pair` has the raw and the centred CAS of each pair of views (P, cells), of which cell
    c is of the models `np.triu_indices(n, 1)[:, c]`."""

    k: int
    readings: tuple[ModelReading, ...]
    centred: Matrix
    raw: Matrix
    per_pair: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class CasMatrix(AlignmentResult):
    """The alignment of n models.

    Attributes:
        groups: of each model.
        failed: the errors of the models that could not be compared, by model.
        at_k: by k, ascending.
        representation: the same models by representation metrics, if that was asked for.
    """

    groups: tuple[str, ...]
    failed: dict[str, str]
    at_k: dict[int, AtK]
    representation: RepresentationMetrics | None = None

    @property
    def main(self) -> AtK:
        """The scores at the primary k."""
        return self.at_k[self.k]

    def rows(self) -> list[ResultRow]:
        """At every k: both scores of each two models, then each model by itself. Representation metrics come last."""
        found, both = [], list(combinations(range(len(self.models)), 2))
        for k, at in self.at_k.items():
            for cell, (a, b) in enumerate(both):
                centred = at.centred.cells[cell]
                assert isinstance(centred, CentredScore)
                found += self._score_rows(k, a, b, at.raw.cells[cell], centred)
            for model, reading in enumerate(at.readings):
                found += self._reading_rows(k, model, reading)
        for a, b in both if self.representation else []:
            found += [self._row(name, getattr(self.representation, name)[a, b], a, b) for name in MEASURES]
        return found

    def __str__(self) -> str:
        n, raw, centred = len(self.models), self.main.raw, self.main.centred
        names = [f"{index + 1} {self.models[index]} ({self.groups[index]})" for index in range(n)]
        readings = model_table(dict(zip(names, self.main.readings, strict=True)))
        parts = [f"{n} models on {self._title()}", readings]
        title = "centred CAS less its null; above the diagonal, the p-value"
        parts.append(_square(title, centred.excess, centred.arrays["p_value"]))
        parts.append(_square(f"raw CAS; chance {raw.mean.chance:.3f}", raw.cas, raw.cas))
        kinds = {"mean": "mean of all cells", "within": "mean within groups", "across": "mean across groups",
                 "difference": "within less across"}  # fmt: skip
        means = {name: (getattr(raw, of), getattr(centred, of)) for of, name in kinds.items() if getattr(raw, of)}
        if len(self.at_k) > 1:
            means |= {f"mean at k = {k}": (at.raw.mean, at.centred.mean) for k, at in self.at_k.items()}
        parts.append(score_table(means))
        if raw.permutation and centred.permutation:
            tests = f"centred: {centred.permutation}\nraw: {raw.permutation}"
            if centred.permutation.smallest > _SMALL_P:
                tests = str(centred.permutation)
            parts.append(f"permutation test that groups matter ({raw.permutation.assignments:,} assignments)\n{tests}")
        if self.representation:
            parts.append(self._metrics(self.representation))
        parts += self._notes()
        if self.failed:
            parts.append(failure_lines(self.failed))
        return "\n\n".join(parts)

    def _metrics(self, metrics: RepresentationMetrics) -> str:
        """The representation metrics beside the score."""
        lines = {}
        for a, b in combinations(range(len(self.models)), 2):
            squares = [self.main.centred.excess]
            for name in MEASURES:
                squares += [getattr(metrics, name), metrics.nulls[name], metrics.p_values[name]]
            lines[f"{a + 1} and {b + 1}"] = [float(square[a, b]) for square in squares]
        columns = ["CAS excess", "CKA", "null", "p", f"mutual {metrics.neighbours}-NN", "null", "p"]
        return f"representation metrics of {metrics.num_images} views\n{text_table(lines, columns)}"


def _square(title: str, below: np.ndarray, above: np.ndarray) -> str:
    """One array below the diagonal, and one above."""
    cells = np.where(np.tri(len(below), k=-1, dtype=bool), below, above)
    np.fill_diagonal(cells, np.nan)
    lines = {str(index + 1): row for index, row in enumerate(cells.tolist())}
    return f"{title}\n{text_table(lines, list(lines))}"


def cas_matrix(
    models: Sequence[Model],
    config: CasConfig | None = None,
    *,
    pairs: str | Path | PairSet | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    representation: bool = False,
    **overrides: Any,
) -> CasMatrix:
    """The scores of n models, two by two, with their statistics. Each model is run once on a pair set, ever:

        cas_matrix(["runs/sim_1", "runs/sim_2", "runs/sim_3"], pairs="sim_test")

    Args:
        models: as in `cas`.
        config: the settings; the defaults of `CasConfig` if not given.
        pairs: instead of the setting: what `--pairs` takes, or a pair set.
        groups: the names of the models of each group; models that are in none are grouped by `group_of`.
        representation: also compare pooled features by linear CKA and mutual nearest neighbours.
        overrides: settings of `CasConfig` by name.

    Raises:
        SingleLifeError: a setting is not allowed, a model is named twice, a group holds what is not compared, there
            is no such life, or fewer than two models are left. Those that fail are in `CasMatrix.failed`.
    """
    config = replace(config or CasConfig(), **overrides)
    names = [str(each) if isinstance(each, str | Path) else each.name for each in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CheckpointError(f"Named twice: {', '.join(twice)}. Each model is compared once.")
    grouped = {str(model): group for group, members in (groups or {}).items() for model in members}
    if unknown := sorted(set(grouped) - set(names)):
        raise CheckpointError(f"The groups name {', '.join(unknown)}, which is not among the models to compare.")
    device, failed = choose_device(config.device), dict[str, str]()
    by_name = dict(zip(names, models, strict=True))

    def load(name: str) -> AttentionMapProvider:
        return open_model(by_name[name], device, config)

    on_each = partial(_on_each, failed=failed, progress=config.progress)
    opened = on_each(names, "Opening models", lambda name: ModelHeader.of(load(name)))
    grid = coarser([header.grid for header in opened.values()])
    check_ks(config.k, grid)
    on = pair_set_of(config, pairs, max(header.image_size for header in opened.values()))
    cache = ExtractionCache(on, grid, config)

    # A run that is under way may have gone on in between: the headers are new where a model was run.
    headers = on_each(opened, "Running models", lambda name: cache.fill(opened[name], lambda: load(name)))
    metrics = None
    if representation:
        pooled = on_each(headers, "Pooling features", lambda name: pooled_features(load(name), on, config.batch_size))
        headers = {name: headers[name] for name in pooled}
        metrics = representation_metrics(list(pooled.values()))

    of_groups = tuple(grouped.get(name) or group_of(name) for name in headers)
    at_k, true_match = {}, on.true_match(grid).numpy()
    for k in sorted(set(config.k), key=lambda k: (k == config.k[0], k)):  # the primary one last, for the facts
        found = [replace(cache.load(header, k), model=name) for name, header in headers.items()]
        if config.patches != "all":
            found = [co_visible(each, on, true_match) for each in found]
        at_k[k] = _at_k(found, on, true_match, of_groups, config.seed)
    return CasMatrix(
        **facts_of(found, on, config),
        groups=of_groups,
        failed=failed,
        at_k={k: at_k[k] for k in sorted(at_k)},
        representation=metrics,
    )


def _at_k(
    extractions: Sequence[Extraction], pairs: PairSet, true_match: np.ndarray, groups: Sequence[str], seed: int
) -> AtK:
    """All scores of n models at one k."""
    found = compare_cells(extractions, pairs)

    def raw_scores(weights: Sequence[np.ndarray]) -> Sequence[Score]:
        chances = [float(found.chances @ each) for each in weights]
        return scores([_weighted(found.raw, each) for each in weights], chances, seed)

    return AtK(
        extractions[0].k,
        model_readings(extractions, true_match, seed),
        centred=matrix_of(groups, seed, lambda weights: [centred_score(found.centred, each) for each in weights]),
        raw=matrix_of(groups, seed, raw_scores),
        per_pair={"raw": found.raw, "centred": found.centred.matched[np.argsort(pairs.order)]},
    )


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of the cells that have a weight (P,)."""
    used = np.flatnonzero(weights)
    return values[:, used[0]] if len(used) == 1 else values[:, used] @ weights[used]


def _on_each(
    names: Iterable[str], what: str, work: Callable[[str], _Found], *, failed: dict[str, str], progress: bool
) -> dict[str, _Found]:
    """What a function finds of each model. The errors of those that fail are added to `failed`.

    Raises:
        CheckpointError: fewer than two are left.
    """
    found = {}
    for name in tqdm(list(names), what, unit=" models", leave=False, disable=not progress):
        try:
            found[name] = work(name)
        except SingleLifeError as error:
            failed[name] = str(error)
        except Exception as error:  # whatever one model does, the others' results are kept
            _LOG.exception("The model %s failed.", name)
            failed[name] = f"{type(error).__name__}: {error}"
    if len(found) < 2:
        raise CheckpointError(f"Fewer than two models can be compared.\n{failure_lines(failed)}")
    return found
