"""n models on one pair set, two by two: `singlelife.cas_matrix`, and what `singlelife cas A B C ...` prints.

Each model is run once on a pair set, ever, and is in memory only while it runs. One that fails is noted; the others
are compared.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
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
from singlelife.alignment.extraction import (
    VARIANTS,
    Extraction,
    ExtractionCache,
    ModelHeader,
    agreement,
    chance,
    check_ks,
)
from singlelife.alignment.groups import Matrix, group_of, matrix_of
from singlelife.alignment.models import AttentionMapProvider
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.representation import (
    MEASURES,
    RepresentationMetrics,
    pooled_features,
    representation_metrics,
)
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.machine import choose_device
from singlelife.results import ResultRow

_LOG = logging.getLogger(__name__)
_Found = TypeVar("_Found")


@dataclass(frozen=True, eq=False)
class AtK:
    """All scores at one k; `per_pair` has the CAS of each pair of views (P, cells) for both variants, of which cell c
    is of the models `np.triu_indices(n, 1)[:, c]`."""

    k: int
    readings: tuple[ModelReading, ...]
    raw: Matrix
    position_free: Matrix
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
        """At every k: raw and position-free of each two models, then each model by itself. Representation metrics come
        last."""
        found, both = [], list(combinations(range(len(self.models)), 2))
        for k, at in self.at_k.items():
            for a, b in both:
                found += self._score_rows(k, a, b, at.raw.cell(a, b), at.position_free.cell(a, b))
            for model, reading in enumerate(at.readings):
                found += self._reading_rows(k, model, reading)
        for a, b in both if self.representation else []:
            found += [self._row(name, getattr(self.representation, name)[a, b], a, b) for name in MEASURES]
        return found

    def __str__(self) -> str:
        n, raw, free = len(self.models), self.main.raw, self.main.position_free
        names = [f"{index + 1} {self.models[index]} ({self.groups[index]})" for index in range(n)]
        readings = model_table(dict(zip(names, self.main.readings, strict=True)))
        parts = [f"{n} models on {self._title()}", readings]
        parts += [_square("CAS, raw", raw), _square("CAS, position-free", free)]
        kinds = {"mean": "mean of all cells", "within": "mean within groups", "across": "mean across groups",
                 "difference": "within less across"}  # fmt: skip
        means = {name: (getattr(raw, kind), getattr(free, kind)) for kind, name in kinds.items() if getattr(raw, kind)}
        if len(self.at_k) > 1:
            means |= {f"mean at k = {k}": (at.raw.mean, at.position_free.mean) for k, at in self.at_k.items()}
        parts.append(score_table(means))
        if raw.permutation and free.permutation:
            parts.append(
                f"permutation test that groups matter: p = {raw.permutation.p_value:.4g} raw, "
                f"p = {free.permutation.p_value:.4g} position-free ({raw.permutation.assignments:,} assignments)"
            )
        if self.representation:
            parts.append(self._metrics(self.representation))
        if self.failed:
            parts.append(failure_lines(self.failed))
        return "\n\n".join(parts)

    def _metrics(self, metrics: RepresentationMetrics) -> str:
        """The representation metrics beside the score."""
        lines = {"chance": [*[float(np.nanmean(self.main.raw.chance))] * 2, 0.0, metrics.mutual_knn_chance]}
        for a, b in combinations(range(len(self.models)), 2):
            squares = (self.main.raw.cas, self.main.position_free.cas, metrics.cka, metrics.mutual_knn)
            lines[f"{a + 1} and {b + 1}"] = [float(square[a, b]) for square in squares]
        columns = ["CAS", "CAS (free)", "CKA", f"mutual {metrics.neighbours}-NN"]
        return f"representation metrics of {metrics.num_images} views\n{text_table(lines, columns)}"


def _square(title: str, matrix: Matrix) -> str:
    """CAS below the diagonal, chance-corrected above."""
    n = len(matrix.cas)
    below = np.tril_indices(n, -1)
    widest = np.maximum(matrix.high - matrix.cas, matrix.cas - matrix.low)[below].max()
    lowest, highest = (f"{each:.3f}" for each in (matrix.chance[below].min(), matrix.chance[below].max()))
    by_chance = lowest if lowest == highest else f"{lowest} to {highest}"
    note = f"{title}; chance {by_chance}; 95% intervals within ±{widest:.3f}; chance-corrected above the diagonal"
    cells = np.where(np.tri(n, dtype=bool), matrix.cas, matrix.chance_corrected)
    lines = {str(index + 1): row for index, row in enumerate(cells.tolist())}
    return f"{note}\n{text_table(lines, list(lines))}"


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
    for k in sorted(set(config.k)):
        found = [replace(cache.load(header, k), model=name) for name, header in headers.items()]
        at_k[k] = _at_k(found, true_match, of_groups, config.seed)
    return CasMatrix(
        **facts_of(found, on, config.seed) | {"k": config.k[0]},
        groups=of_groups,
        failed=failed,
        at_k=at_k,
        representation=metrics,
    )


def _at_k(extractions: Sequence[Extraction], true_match: np.ndarray, groups: Sequence[str], seed: int) -> AtK:
    """All scores of n models at one k."""
    cells = list(combinations(extractions, 2))
    chances = np.array([chance(a, b) for a, b in cells])
    per_pair = {variant: np.stack([agreement(a, b, variant) for a, b in cells], axis=1) for variant in VARIANTS}
    raw, free = (matrix_of(values, chances, groups, seed) for values in per_pair.values())
    return AtK(extractions[0].k, model_readings(extractions, true_match, seed), raw, free, per_pair)


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
