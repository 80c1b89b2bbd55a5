"""n models on one pair set, two by two: `singlelife.cas_matrix`, and what `singlelife cas A B C ...` prints.

Each model is run once on a pair set, ever, and is in memory only while it runs. One that fails is noted; the others
are compared.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from singlelife.alignment.comparison import coarser, model_readings, pair_set_of
from singlelife.alignment.extraction import (
    VARIANTS,
    Extraction,
    ExtractionCache,
    agreement,
    chance,
    check_ks,
)
from singlelife.alignment.groups import Matrix, group_of, matrix_of
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.representation import (
    MEASURES,
    RepresentationMetrics,
    pooled_features,
    representation_metrics,
)
from singlelife.alignment.settings import CasConfig
from singlelife.alignment.tables import AlignmentResult, ModelReading, failures, number, score_columns
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.machine import choose_device
from singlelife.results import ResultRow
from singlelife.text import aligned

_LOG = logging.getLogger(__name__)
_Found = TypeVar("_Found")
_FEW_MODELS = 6  # up to which the table lists all cells with their intervals


@dataclass(frozen=True)
class Failure:
    """A model that could not be compared."""

    model: str
    error: str


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
        failed: the models that could not be compared.
        at_k: by k, ascending.
        mean_maps: of each model's logits over the pair set, float32 (N, N).
        representation: the same models by representation metrics, if that was asked for.
        num_run: how many models had to be run; the others' extractions were in the cache.
    """

    groups: tuple[str, ...]
    failed: tuple[Failure, ...]
    at_k: dict[int, AtK]
    mean_maps: tuple[np.ndarray, ...] = field(repr=False)
    representation: RepresentationMetrics | None = None
    num_run: int = 0

    @cached_property
    def main(self) -> AtK:
        """The scores at the primary k."""
        return self.at_k[self.k]

    def rows(self) -> list[ResultRow]:
        """At every k: raw and position-free of each two models, then each model by itself. Representation metrics come
        last."""
        found = []
        for k, at in self.at_k.items():
            for a, b in combinations(range(len(self.models)), 2):
                found += [self._score_row(variant, getattr(at, variant).cell(a, b), k, a, b) for variant in VARIANTS]
            for model, reading in enumerate(at.readings):
                found += self._reading_rows(reading, k, model)
        if self.representation:
            for a, b in combinations(range(len(self.models)), 2):
                for name in MEASURES:
                    value, half = self.representation.cell(name, a, b)
                    settings = self._of_model(a) | {"reference_revision": self.revisions[b]}
                    bounds = (None, None) if np.isnan(half) else (value - half, value + half)
                    found.append(self._row(name, a, b, settings, value, *bounds))
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """The mean map of each model under `mean_map/NAME`, and the values of each pair of views under
        `per_pair/K/VARIANT`."""
        tensors = {f"mean_map/{name}": each for name, each in zip(self.models, self.mean_maps, strict=True)}
        for k, found in self.at_k.items():
            tensors |= {f"per_pair/{k}/{variant}": values for variant, values in found.per_pair.items()}
        return tensors

    def __str__(self) -> str:
        n = len(self.models)
        parts = [f"{n} model{'s' if n > 1 else ''} on {self._title()}", self._models()]
        if n > 1:
            raw, free = self.main.raw, self.main.position_free
            parts += [_square("CAS, raw", raw), _square("CAS, position-free", free)]
            parts.append(_groups(raw, free) if n > _FEW_MODELS else f"{self._cells()}\n\n{_groups(raw, free)}")
            if len(self.at_k) > 1:
                parts.append(self._by_k())
            if self.representation:
                parts.append(self._metrics(self.representation))
        if self.failed:
            parts.append(failures([(each.model, each.error) for each in self.failed]))
        return "\n\n".join(parts)

    def _models(self) -> str:
        rows = [
            [
                "",
                "model",
                "group",
                "position map",
                "sinks",
                "on sinks",
                "truth",
                "truth (free)",
                "large shifts",
                "large shifts (free)",
            ]
        ]
        for index, (name, group, reading) in enumerate(
            zip(self.models, self.groups, self.main.readings, strict=True), start=1
        ):
            truths = (reading.truth, reading.position_free_truth)
            rows.append(
                [str(index), name, group, number(reading.position.cas), str(len(reading.sinks))]
                + [number(reading.sink_share), *(number(each and each.matches) for each in truths)]
                + [number(each and each.large_shifts) for each in truths]
            )
        if all(reading.truth is None for reading in self.main.readings):
            rows = [row[:6] for row in rows]
        return aligned(rows)

    def _cells(self) -> str:
        rows = [["", "raw", "95% interval", "chance-corrected", "position-free", "95% interval", "chance-corrected"]]
        for a, b in combinations(range(len(self.models)), 2):
            both = (matrix.cell(a, b) for matrix in (self.main.raw, self.main.position_free))
            rows.append([f"{a + 1} and {b + 1}", *(column for each in both for column in score_columns(each))])
        return aligned(rows)

    def _by_k(self) -> str:
        rows = [["CAS against k", "chance", "raw", "position-free"]]
        for k, at in self.at_k.items():
            means = [mean and mean.cas for mean in (at.raw.mean, at.position_free.mean)]
            rows.append([f"  k = {k}", *map(number, [at.raw.mean and at.raw.mean.chance, *means])])
        return aligned(rows)

    def _metrics(self, metrics: RepresentationMetrics) -> str:
        """The representation metrics beside the score."""
        rows = [["", "CAS", "CAS (free)", "CKA", f"mutual {metrics.neighbours}-NN", "RSA"]]
        for a, b in combinations(range(len(self.models)), 2):
            row = [f"{a + 1} and {b + 1}"]
            row += [number(matrix.cas[a, b]) for matrix in (self.main.raw, self.main.position_free)]
            for name in MEASURES:
                value, half = metrics.cell(name, a, b)
                row.append(number(value) + ("" if np.isnan(half) else f" ± {half:.3f}"))
            rows.append(row)
        chance = number(float(self.main.raw.chance[np.triu_indices(len(self.models), 1)].mean()))
        rows.append(["chance", chance, chance, "0.000", number(metrics.mutual_knn_chance), "0.000"])
        title = f"representation metrics of {metrics.num_images} views; ± is half a 95% interval"
        return f"{title}\n{aligned(rows)}"


def _square(title: str, matrix: Matrix) -> str:
    n = len(matrix.cas)
    rows = [["", *map(str, range(1, n + 1))]]
    for a in range(n):
        cells = [matrix.cas[a, b] if b < a else matrix.chance_corrected[a, b] for b in range(n)]
        rows.append([str(a + 1), *("1" if a == b else number(cell) for b, cell in enumerate(cells))])
    below = np.tril_indices(n, -1)
    widest = np.maximum(matrix.high - matrix.cas, matrix.cas - matrix.low)[below].max()
    chances = matrix.chance[below]
    by_chance = number(chances.min()) + ("" if np.ptp(chances) < 5e-4 else f" to {number(chances.max())}")
    note = f"{title}; chance {by_chance}; 95% intervals within ±{widest:.3f}; chance-corrected above the diagonal"
    return f"{note}\n{aligned(rows)}"


def _groups(raw: Matrix, free: Matrix) -> str:
    rows = [["mean", "raw", "95% interval", "chance-corrected", "position-free", "95% interval", "chance-corrected"]]
    names = {"mean": "of all cells", "within": "within groups", "across": "across groups"}
    for kind, name in names.items():
        of_kind = getattr(raw, kind), getattr(free, kind)
        if all(of_kind):
            rows.append([name, *(column for each in of_kind for column in score_columns(each))])
    if raw.difference and free.difference:
        row = ["within less across"]
        for each in (raw.difference, free.difference):
            row += [f"{each.difference:.3f}", f"{each.low:.3f} to {each.high:.3f}", ""]
        rows.append(row)
    text = aligned(rows)
    if raw.permutation and free.permutation:
        kind = "all" if raw.permutation.exact else "random"
        text += (
            f"\npermutation test that groups matter: p = {raw.permutation.p_value:.4g} raw, "
            f"p = {free.permutation.p_value:.4g} position-free ({raw.permutation.assignments:,} assignments, {kind})"
        )
    return text


def matrix_at_k(
    extractions: Sequence[Extraction], groups: Sequence[str], true_match: np.ndarray, seed: int = 0
) -> AtK:
    """All scores of n models at one k.

    Args:
        extractions: of one pair set and one setting.
        groups: of each model.
        true_match: see `extraction.truth_counts`.
        seed: of the bootstrap and of the permutation test.
    """
    cells = list(combinations(extractions, 2))
    chances = np.array([chance(a, b) for a, b in cells])
    alone = np.array([chance(each, each) for each in extractions])
    per_pair = {variant: np.empty((len(extractions[0].raw), len(cells))) for variant in VARIANTS}
    for variant, values in per_pair.items():
        for cell, (a, b) in enumerate(cells):
            values[:, cell] = agreement(a, b, variant)
    raw, free = (matrix_of(values, chances, alone, groups, seed) for values in per_pair.values())
    readings = tuple(model_readings(extractions, true_match, seed))
    return AtK(extractions[0].k, readings, raw, free, per_pair)


def cas_matrix(
    models: Sequence[str | Path],
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
        models: as in `cas`, but by name.
        config: the settings; the defaults of `CasConfig` if not given.
        pairs: instead of the setting: what `--pairs` takes, or a pair set.
        groups: the names of the models of each group; models that are in none are grouped by `group_of`.
        representation: also compare pooled features by linear CKA, mutual nearest neighbours and RSA.
        overrides: settings of `CasConfig` by name.

    Raises:
        SingleLifeError: a setting is not allowed, no model can be compared, a group holds what is not compared, or
            there is no such life. Models that fail are in `CasMatrix.failed`, and the others are compared.
    """
    config = CasConfig.of(config, **overrides)
    names = [str(model) for model in models]
    grouped = {str(model): group for group, members in (groups or {}).items() for model in members}
    if unknown := sorted(set(grouped) - set(names)):
        raise CheckpointError(f"The groups name {', '.join(unknown)}, which is not among the models to compare.")
    device = choose_device(config.device)
    return align_models(
        names,
        lambda name: load_model(name, device, method=config.method, layers=config.layers),
        lambda size: pair_set_of(config, pairs, size),
        config,
        groups=[grouped.get(name) or group_of(name) for name in names],
        representation=representation,
    )


def align_models(
    names: Sequence[str],
    load: Callable[[str], AttentionMapProvider],
    pair_set: Callable[[int], PairSet],
    config: CasConfig,
    *,
    groups: Sequence[str] | None = None,
    representation: bool = False,
) -> CasMatrix:
    """`cas_matrix` of models from anywhere.

    Args:
        names: of the models, each once.
        load: loads one.
        pair_set: makes the pair set, of views of a side in pixels.
        config: the settings; what loading and drawing need of them is up to these two functions.
        groups: of each model; those of `group_of` by default.
        representation: see `cas_matrix`.

    Raises:
        CheckpointError: no model can be compared, or one is named twice.
        PairSetError: a k is out of range.
    """
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise CheckpointError(f"Named twice: {', '.join(twice)}. Each model is compared once.")
    group = dict(zip(names, groups or map(group_of, names), strict=True))
    work = _Work(config.progress)
    opened = work.on_each(names, "Opening models", lambda name: _Header.of(load(name)))
    grid = coarser([header.grid for header in opened.values()])
    check_ks(config.k, grid)
    pairs = pair_set(config.image_size or max(header.image_size for header in opened.values()))
    cache = ExtractionCache(pairs, grid, config)
    run: list[str] = []

    def run_one(name: str) -> _Header:
        if not cache.missing(opened[name]):
            return opened[name]
        model = load(name)
        cache.fill(model)
        run.append(name)
        return _Header.of(model)  # a run that is under way may have gone on in between

    headers = work.on_each(opened, "Running models", run_one)
    metrics = None
    if representation:

        def pool_one(name: str) -> np.ndarray:
            return pooled_features(headers[name], lambda: load(name), pairs, config.batch_size, cache.folder)

        pooled = work.on_each(headers, "Pooling features", pool_one)
        headers = {name: headers[name] for name in pooled}
        metrics = representation_metrics(list(pooled.values()))

    true_match = pairs.true_match(grid).numpy()
    at_k: dict[int, AtK] = {}
    for k in sorted(set(config.k)):
        found = [replace(cache.load(header, k), model=name) for name, header in headers.items()]
        at_k[k] = matrix_at_k(found, [group[name] for name in headers], true_match, config.seed)
    return CasMatrix(
        models=tuple(headers),
        groups=tuple(group[name] for name in headers),
        revisions=tuple(header.revision for header in headers.values()),
        methods=tuple(header.method for header in headers.values()),
        layers=tuple(header.layers for header in headers.values()),
        pairs=pairs.name,
        pairs_hash=pairs.hash,
        num_pairs=len(pairs),
        views=pairs.provenance.get("views", ""),
        grid=grid,
        direction=config.direction,
        sinks=config.sinks,
        seed=config.seed,
        k=config.k[0],
        at_k=at_k,
        representation=metrics,
        failed=tuple(work.failed),
        mean_maps=tuple(each.mean_map for each in found),
        num_run=len(run),
    )


@dataclass(frozen=True)
class _Header:
    """What is known of a model once it was loaded; it takes no memory."""

    revision: str
    method: str
    layers: tuple[int, ...]
    grid: tuple[int, int]
    image_size: int

    @classmethod
    def of(cls, model: AttentionMapProvider) -> "_Header":
        return cls(model.revision, model.method, model.layers, model.grid, model.image_size)


@dataclass
class _Work:
    """Takes models one by one. One that fails is noted in `failed`, and the others go on."""

    progress: bool
    failed: list[Failure] = field(default_factory=list)

    def on_each(self, names: Iterable[str], what: str, work: Callable[[str], _Found]) -> dict[str, _Found]:
        """What a function finds of each model, for those that do not fail.

        Raises:
            CheckpointError: all models have failed.
        """
        found = {}
        for name in tqdm(list(names), what, unit=" models", leave=False, disable=not self.progress):
            try:
                found[name] = work(name)
            except SingleLifeError as error:
                self.failed.append(Failure(name, str(error)))
            except Exception as error:  # whatever one model does, the others' results are kept
                _LOG.exception("The model %s failed.", name)
                self.failed.append(Failure(name, f"{type(error).__name__}: {error}"))
        if not found:
            reasons = "\n".join(f"  {each.model}: {each.error}" for each in self.failed)
            raise CheckpointError(f"No model can be compared:\n{reasons}")
        return found
