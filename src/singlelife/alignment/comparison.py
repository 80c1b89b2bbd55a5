"""Two models or many on one pair set: `singlelife.cas`, `singlelife.cas_matrix`, and what `singlelife cas` prints.

A comparison of two models is a matrix of two. Each model runs only once on a pair set, and is in memory only while it
runs. If one of many models fails, its error is noted and the others are compared.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from singlelife.alignment.extraction import (
    Extraction,
    ModelHeader,
    check_ks,
    counted,
    extract_each,
    extract_once,
)
from singlelife.alignment.matrix import (
    AlignmentResult,
    AtK,
    CasMatrix,
    ModelReading,
    at_one_k,
    facts_of,
    failure_lines,
    model_table,
    score_table,
    text_table,
)
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.null import (
    CentredScore,
    RepresentationMetrics,
    pooled_features,
    representation_metrics,
    search_null,
)
from singlelife.alignment.pair_sets import PairSet, resolve_pair_set
from singlelife.alignment.score import Score, agreement, mean_known
from singlelife.alignment.settings import UNTRAINED, CasConfig
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.lives.registry import SHUFFLED, life_names, registered_life
from singlelife.machine import choose_device
from singlelife.results import ResultRow

Model = str | Path | AttentionMapProvider

CONTROLS = "controls"  # the group of models that should not align
_BEST = 5  # pairs of blocks or heads that the table names
_LOG = logging.getLogger(__name__)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class ScoresAtK:
    """The two scores at one k."""

    k: int
    centred: CentredScore
    raw: Score


@dataclass(frozen=True)
class SearchScores:
    """Each block, or head, of A with each of B.

    Attributes:
        of: `"blocks"` or `"heads"`.
        names: the layers (or `layer.head`) of A and of B.
        raw, centred, excess: the raw and centred CAS, and the excess over the null, float64 (names of A, names of B).
        tried: the number of combinations.
        p_value: for the largest excess, corrected for all combinations: the share of mismatches whose largest excess
            over all combinations is as large.
    """

    of: str
    names: tuple[tuple[str, ...], tuple[str, ...]]
    raw: np.ndarray
    centred: np.ndarray
    excess: np.ndarray
    tried: int
    p_value: float

    def __str__(self) -> str:
        """The combinations that agree most."""
        lines = {}
        for index in np.argsort(-self.excess, axis=None, kind="stable")[:_BEST]:
            a, b = np.unravel_index(index, self.raw.shape)
            values = [self.centred[a, b], self.excess[a, b], self.raw[a, b]]
            lines[f"{self.names[0][a]} and {self.names[1][b]}"] = values
        return (
            f"{self.of} of A and B that agree most, of {self.tried:,} combinations\n"
            f"{text_table(lines, ['centred', 'excess', 'raw'])}\n"
            f"p = {self.p_value:.3g} for the first, corrected for all {self.tried:,}"
        )


@dataclass(frozen=True, kw_only=True)
class CasResult(AlignmentResult):
    """The alignment of two models, A and B.

    Attributes:
        centred, raw: the scores at the primary k.
        readings: the scores of A and of B alone.
        curve: the scores at every k, ascending.
        search: the scores of every two blocks or heads, if asked for.
        centring: each model's mean map over the pair set, and its spread, float32 (2, N, N): see `score.centre`.
    """

    centred: CentredScore
    raw: Score
    readings: tuple[ModelReading, ...]
    curve: tuple[ScoresAtK, ...]
    search: SearchScores | None = field(default=None, compare=False)
    centring: tuple[np.ndarray, ...] = field(repr=False, compare=False)

    def rows(self) -> list[ResultRow]:
        """Both scores at every k, with A as the model and B as the reference; then the scores of each model alone."""
        found = [row for at in self.curve for row in self._score_rows(at.k, 0, 1, at.raw, at.centred)]
        for model, reading in enumerate(self.readings):
            found += self._reading_rows(self.k, model, reading)
        return found

    def __str__(self) -> str:
        scores = {"A and B": (self.raw, self.centred)}
        if len(self.curve) > 1:
            scores = {f"k = {at.k}": (at.raw, at.centred) for at in self.curve}
        return self._text(
            f"A  {self.models[0]}\nB  {self.models[1]}\non {self._title()}",
            score_table(scores),
            model_table(dict(zip("AB", self.readings, strict=True))),
            str(self.search or ""),
            self.summary(),
        )

    def summary(self) -> str:
        """The scores in two or three sentences."""
        raw, centred = self.raw, self.centred
        if np.isnan(raw.cas):
            return "There is no score: no patch has a top k in both models."
        position = min(reading.position.cas for reading in self.readings)
        sentences = (
            f"Raw, they agree on {raw.cas:.0%}, where chance is {raw.chance:.0%} and the model that depends less on "
            f"position agrees with the position map on {position:.0%}."
        )
        if np.isnan(centred.cas):
            return f"{sentences} There is no centred score."
        clear = "above" if centred.excess_low > 0 else "below" if centred.excess_high < 0 else "not clear of"
        return (
            f"Centred, A and B agree on {centred.cas:.0%} of matches, and by accident on {centred.null:.0%}. The "
            f"excess is {clear} 0. {sentences}"
        )


def cas(
    a: Model,
    b: Model,
    config: CasConfig | None = None,
    *,
    pairs: str | Path | PairSet | None = None,
    **overrides: Any,
) -> CasResult:
    """The Correspondence Alignment Score of two models, centred and raw, with what a reader needs to judge it:

        cas("runs/sim_1", "runs/sim_2", pairs="sim_test", k=5)

    Models with different grids are compared on the coarser one.

    Args:
        a, b: run folders, local checkpoints, Hub ids, `"untrained:PRESET@SEED"`, or loaded models.
        config: the settings; the defaults of `CasConfig` if not given.
        pairs: replaces the setting: what `--pairs` takes, or a pair set.
        overrides: settings of `CasConfig` by name.

    Raises:
        SingleLifeError: a setting is not allowed, there is no such model or life, or they cannot be compared.
    """
    config = replace(config or CasConfig(), **overrides)
    on, by_k, _, _ = _measure([a, b], config, pairs)
    search = None if config.search == "none" else _search([a, b], on, config, by_k[config.k[0]][0].grid)
    return compare_extractions(by_k, on, config, search=search)


def _measure(
    models: Sequence[Model],
    config: CasConfig,
    pairs: str | Path | PairSet | None,
    *,
    representation: bool = False,
    keep_loaded: bool = False,
) -> tuple[PairSet, dict[int, list[Extraction]], dict[str, str], RepresentationMetrics | None]:
    """Run models on the pairs that the settings or `pairs` name, one in memory at a time.

    Args:
        keep_loaded: also cache the extractions of models that were passed loaded.

    Returns:
        The pairs, the extractions by k, the errors of models that failed, and the representation metrics if asked for.
    """
    device, failed = choose_device(config.device), dict[str, str]()
    on_each = partial(_on_each, models, failed=failed, progress=config.progress)

    def load(index: int) -> AttentionMapProvider:
        return open_model(models[index], device, config)

    opened = on_each(range(len(models)), "Opening models", lambda index: ModelHeader.of(load(index)))
    grid = coarser([header.grid for header in opened.values()])
    check_ks(config.k, grid)
    on = pairs
    if not isinstance(on, PairSet):
        on = resolve_pair_set(
            config.pairs if on is None else str(on),
            views=config.views,
            num_pairs=config.num_pairs,
            seed=config.seed,
            image_size=config.image_size or max(header.image_size for header in opened.values()),
            cache_dir=config.cache_dir,
        )

    def run(index: int) -> dict[int, Extraction]:
        model = models[index]
        keep = keep_loaded or isinstance(model, str | Path)
        found = extract_once(opened[index], lambda: load(index), on, config, grid, keep=keep)
        return {k: replace(each, model=_name(model)) for k, each in found.items()}

    def pooled(index: int) -> np.ndarray:
        return pooled_features(load(index), on, config.batch_size)

    found, metrics = on_each(opened, "Running models", run), None
    if representation:
        features = on_each(found, "Pooling features", pooled)
        found = {index: found[index] for index in features}
        metrics = representation_metrics(list(features.values()))
    return on, {k: [each[k] for each in found.values()] for k in sorted(set(config.k))}, failed, metrics


def _name(model: Model) -> str:
    return str(model) if isinstance(model, str | Path) else model.name


def open_model(model: Model, device: str, config: CasConfig) -> AttentionMapProvider:
    """Open a model by its name; return a loaded one as it is."""
    if isinstance(model, str | Path):
        return load_model(str(model), device, method=config.method, layers=config.layers)
    return model


def coarser(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The coarsest of several grids, on which their models are compared."""
    return min(grids, key=lambda grid: grid[0] * grid[1])


def compare_extractions(
    by_k: Mapping[int, Sequence[Extraction]], pairs: PairSet, config: CasConfig, *, search: SearchScores | None = None
) -> CasResult:
    """`cas` from the extractions of two models.

    Args:
        by_k: the extractions of A and B, with the same grid and settings.
        config: the settings; the first k is the primary one.
        search: the scores of their blocks or heads, if there are any.
    """
    at_k, shown = _at_each_k(by_k, pairs, config)
    curve = {k: ScoresAtK(k, at.centred.cell(0, 1), at.raw.cell(0, 1)) for k, at in at_k.items()}
    main = config.k[0]
    return CasResult(
        **facts_of(shown, pairs, config),
        raw=curve[main].raw,
        centred=curve[main].centred,
        readings=at_k[main].readings,
        curve=tuple(curve.values()),
        search=search,
        centring=tuple(np.stack([each.mean_map, each.spread]) for each in shown),
    )


def _at_each_k(
    by_k: Mapping[int, Sequence[Extraction]], pairs: PairSet, config: CasConfig, groups: Sequence[str] | None = None
) -> tuple[dict[int, AtK], list[Extraction]]:
    """The scores at each k, ascending, and the extractions at the primary k, over the patches that count."""
    main = by_k[config.k[0]]
    true_match, groups = pairs.true_match(main[0].grid).numpy(), groups or [each.model for each in main]
    shown = {k: counted(by_k[k], pairs, true_match, config.patches) for k in sorted(by_k)}
    at_k = {k: at_one_k(found, pairs, true_match, groups, config.seed) for k, found in shown.items()}
    return at_k, shown[config.k[0]]


def _search(models: Sequence[Model], pairs: PairSet, config: CasConfig, grid: tuple[int, int]) -> SearchScores:
    """Run both models again, for the maps of each block or head at the primary k."""
    device, k, match = choose_device(config.device), config.k[0], pairs.true_match(grid).numpy()
    found, names = [], []
    for model in (open_model(each, device, config) for each in models):
        alone = [by_k[k] for by_k in extract_each(model, pairs, [k], config, grid, config.search)]
        found.append(counted(alone, pairs, match, config.patches))
        heads = range(model.num_heads // len(model.layers))
        of_heads = [f"{layer}.{head}" for layer in model.layers for head in heads]
        names.append(tuple(map(str, model.layers) if config.search == "blocks" else of_heads))
    first, second = found
    raw = np.array([[mean_known(agreement(a.raw, b.raw, a.k)) for b in second] for a in first])
    in_time = [[each.centred[pairs.order] for each in sets] for sets in found]
    centred, excess, p_value = search_null(in_time[0], in_time[1], k)
    return SearchScores(config.search, (names[0], names[1]), raw, centred, excess, raw.size, p_value)


def group_of(name: str) -> str:
    """The data set of the life in a model's name, such as `ORG/singlelife-wt3`, `runs/sim_1` or
    `runs/sim_1_seed1/checkpoint-200`; `"controls"` for a life that the registry calls a control, and `"untrained"` for
    untrained models. A model whose name holds no life is a group of its own."""
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


def cas_matrix(
    models: Sequence[Model],
    config: CasConfig | None = None,
    *,
    pairs: str | Path | PairSet | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    representation: bool = False,
    **overrides: Any,
) -> CasMatrix:
    """The scores of n models, two by two, with their statistics. Each model runs only once on a pair set:

        cas_matrix(["runs/sim_1", "runs/sim_2", "runs/sim_3"], pairs="sim_test")

    Args:
        models: as in `cas`.
        config: the settings; the defaults of `CasConfig` if not given.
        pairs: replaces the setting: what `--pairs` takes, or a pair set.
        groups: the names of the models of each group; `group_of` groups the other models.
        representation: also compare pooled features by linear CKA and mutual nearest neighbours.
        overrides: settings of `CasConfig` by name.

    Raises:
        SingleLifeError: a setting is not allowed, a model is named twice, a group names a model that is not compared,
            there is no such life, or fewer than two models are left. Models that fail are in `CasMatrix.failed`.
    """
    config = replace(config or CasConfig(), **overrides)
    names = list(map(_name, models))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CheckpointError(f"Named twice: {', '.join(twice)}. Name each model once.")
    grouped = {str(model): group for group, members in (groups or {}).items() for model in members}
    if unknown := sorted(set(grouped) - set(names)):
        raise CheckpointError(f"The groups name {', '.join(unknown)}, which is not among the models to compare.")
    on, by_k, failed, metrics = _measure(models, config, pairs, representation=representation, keep_loaded=True)
    of_groups = tuple(grouped.get(each.model) or group_of(each.model) for each in by_k[config.k[0]])
    at_k, shown = _at_each_k(by_k, on, config, of_groups)
    return CasMatrix(**facts_of(shown, on, config), groups=of_groups, failed=failed, at_k=at_k, representation=metrics)


def _on_each(
    models: Sequence[Model],
    indices: Iterable[int],
    what: str,
    work: Callable[[int], _Found],
    *,
    failed: dict[str, str],
    progress: bool,
) -> dict[int, _Found]:
    """Call `work` for each model and collect the results. The errors of models that fail are added to `failed`.

    Raises:
        CheckpointError: fewer than two models are left. With only two models, the first error is raised as it is.
    """
    found = {}
    for index in tqdm(list(indices), what, unit=" models", leave=False, disable=not progress):
        name = _name(models[index])
        try:
            found[index] = work(index)
        except Exception as error:  # whatever one model does, the results of the others are kept
            if len(models) == 2:
                raise
            failed[name] = str(error) if isinstance(error, SingleLifeError) else f"{type(error).__name__}: {error}"
            if not isinstance(error, SingleLifeError):
                _LOG.exception("The model %s failed.", name)
    if len(found) < 2:
        raise CheckpointError(f"Fewer than two models can be compared.\n{failure_lines(failed)}")
    return found
