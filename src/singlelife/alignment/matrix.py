"""How far n models agree, two by two: the result of `singlelife align`, and how it is told."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from singlelife._version import __version__
from singlelife.alignment.cas import Score, Truth, scores
from singlelife.alignment.contrast import MEASURES, Contrast
from singlelife.alignment.extraction import (
    VARIANTS,
    Extraction,
    agreement,
    attention_shares,
    chance,
    position_agreement,
    salience,
    truth,
)
from singlelife.alignment.statistics import Permutation, permutation_test
from singlelife.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Failure:
    """A model that could not be compared."""

    model: str
    error: str


@dataclass(frozen=True)
class ModelReading:
    """What one model does on the pair set, at one k.

    Attributes:
        position: its raw score against the position map.
        sinks: the source patches that it looks at whatever the views show.
        sink_share: of all its raw matches, before any are left out, that lie on them; 0 to 1.
        truth, position_free_truth: how often its top k holds the true match; None where no match is known.
    """

    position: Score
    sinks: tuple[int, ...]
    sink_share: float
    truth: Truth | None
    position_free_truth: Truth | None


@dataclass(frozen=True)
class Difference:
    """The mean of cells within groups less that of cells across, with its 95% interval over pairs."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Block:
    """The mean of the cells of two groups, the diagonal left out.

    Attributes:
        groups: one group twice for the cells within it.
        num_cells: how many that is.
    """

    groups: tuple[str, str]
    num_cells: int
    score: Score


@dataclass(frozen=True, eq=False)
class Matrix:
    """The scores of n models, two by two, all (n, n) and symmetric.

    Attributes:
        cas: 0 to 1; 1 on the diagonal.
        chance: what independent maps would score.
        adjusted: 0 by chance, 1 in full agreement; NaN where chance is 1.
        low, high: 95% bootstrap intervals of `cas` over pairs.
        salience: what `cas` would be by salient patches alone, see `extraction.salience`; a model with itself too.
        mean: of all cells off the diagonal; None for one model.
        within, across: of those of two models of one group, and of two; None where there are none.
        difference: of these two.
        blocks: each group with itself and with each other.
        permutation: whether groups matter; None where they cannot.
    """

    cas: np.ndarray
    chance: np.ndarray
    adjusted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    salience: np.ndarray
    mean: Score | None
    within: Score | None
    across: Score | None
    difference: Difference | None
    blocks: tuple[Block, ...]
    permutation: Permutation | None


@dataclass(frozen=True)
class Part:
    """The mean scores of some of the pairs, or of one layer.

    Attributes:
        of: `"gap"` (seconds), `"overlap"` (0 to 1) or `"layer"`.
        low, high: the range of it; for layers, the lowest and the highest index among the models.
        num_pairs: how many pairs that is.
        raw, position_free: by `"mean"`, `"within"` and `"across"`, where there are such cells.
    """

    of: str
    low: float
    high: float
    num_pairs: int
    raw: dict[str, Score]
    position_free: dict[str, Score]


@dataclass(frozen=True, eq=False)
class AtK:
    """All that is said at one k; `per_pair` has the CAS of each pair of views (P, cells) for both variants, of which
    cell c is of the models `np.triu_indices(n, 1)[:, c]`."""

    k: int
    readings: tuple[ModelReading, ...]
    raw: Matrix
    position_free: Matrix
    parts: tuple[Part, ...]
    per_pair: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True, eq=False)
class CasMatrix:
    """The alignment of n models.

    Attributes:
        models: what the user called them.
        groups, revisions, methods, layers: one for each.
        failed: those that could not be compared.
        pairs, pairs_hash, num_pairs: the pair set, the SHA-256 of its pixels, its size.
        grid: rows and columns of patches that were compared.
        direction: one of `extraction.DIRECTIONS`.
        sinks: `"keep"` or `"mask"`.
        at_k: by k, ascending.
        k: the one that is told of first.
        by_layer: one part for each layer, if that was asked for, at that k.
        mean_maps: of each model's logits over the pair set, float32 (N, N).
        contrast: the same models by other measures, if that was asked for.
        num_run: how many models had to be run; the others' extractions were there.
        version: of singlelife.
    """

    models: tuple[str, ...]
    groups: tuple[str, ...]
    revisions: tuple[str, ...]
    methods: tuple[str, ...]
    layers: tuple[tuple[int, ...], ...]
    failed: tuple[Failure, ...]
    pairs: str
    pairs_hash: str
    num_pairs: int
    grid: tuple[int, int]
    direction: str
    sinks: str
    k: int
    at_k: dict[int, AtK]
    by_layer: tuple[Part, ...]
    mean_maps: tuple[np.ndarray, ...] = field(repr=False)
    contrast: Contrast | None = None
    num_run: int = 0
    version: str = __version__

    @cached_property
    def main(self) -> AtK:
        """What is said at the first k."""
        return self.at_k[self.k]

    def to_dict(self) -> dict[str, Any]:
        """All but the mean maps and the values of each pair of views, as JSON has them: NaN is null."""
        return plain(self)

    def to_table(self) -> pa.Table:
        """A row for each k, variant and two models: cas, chance, adjusted, low, high, salience, and what they are
        of; and, if that was asked for, the measures of `contrast`, which do not depend on k and variant."""
        rows = []
        first, second = np.triu_indices(len(self.models), 1)
        for k, found in self.at_k.items():
            for variant in VARIANTS:
                matrix: Matrix = getattr(found, variant)
                for a, b in zip(first.tolist(), second.tolist(), strict=True):
                    names = ("cas", "chance", "adjusted", "low", "high", "salience")
                    values = {name: float(getattr(matrix, name)[a, b]) for name in names}
                    rows.append(
                        {"model_a": self.models[a], "model_b": self.models[b], "group_a": self.groups[a]}
                        | {"group_b": self.groups[b], "k": k, "variant": variant}
                        | {name: None if np.isnan(value) else value for name, value in values.items()}
                        | {name: self._contrast(name, a, b) for name in _CONTRAST_COLUMNS}
                        | {"revision_a": self.revisions[a], "revision_b": self.revisions[b]}
                    )
        settings = {
            "pairs": self.pairs,
            "pairs_hash": self.pairs_hash,
            "num_pairs": str(self.num_pairs),
            "direction": self.direction,
            "sinks": self.sinks,
            "version": self.version,
        }
        return pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata(settings))

    def _contrast(self, column: str, a: int, b: int) -> float | None:
        if self.contrast is None:
            return None
        name = column.removesuffix("_spread")
        values = self.contrast.spread[name] if name != column else getattr(self.contrast, name)
        return None if np.isnan(values[a, b]) else float(values[a, b])

    def plot(self) -> "Figure":
        """The matrix, raw and position-free, by groups; `save` writes this and further pictures. Takes two models."""
        import matplotlib.pyplot  # noqa: F401  tells notebooks how to show a figure

        from singlelife.alignment.plots.matrix import draw_matrix

        return draw_matrix(self)

    def save(self, folder: str | Path) -> None:
        """Write into a folder result.json, result.parquet (`to_table`), result.safetensors (the mean map of each model
        under `mean_map/NAME`, the values of each pair of views under `per_pair/K/VARIANT`) and the pictures of
        `plots.all.write_pictures`."""
        from singlelife.alignment.plots.all import write_pictures

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"mean_map/{name}": each for name, each in zip(self.models, self.mean_maps, strict=True)}
        for k, found in self.at_k.items():
            tensors |= {f"per_pair/{k}/{variant}": values for variant, values in found.per_pair.items()}
        with atomic_write(folder / "result.safetensors") as aside:
            aside.write_bytes(save(tensors, metadata={"pairs_hash": self.pairs_hash}))
        with atomic_write(folder / "result.parquet") as aside:
            pq.write_table(self.to_table(), aside)
        with atomic_write(folder / "result.json") as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_pictures(self, folder)

    def __str__(self) -> str:
        from singlelife.alignment.matrix_text import text

        return text(self)


_CONTRAST_COLUMNS = tuple(f"{name}{of}" for name in MEASURES for of in ("", "_spread"))
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("model_a", "model_b", "group_a", "group_b")]
    + [("k", pa.int64()), ("variant", pa.string())]
    + [(name, pa.float64()) for name in ("cas", "chance", "adjusted", "low", "high", "salience", *_CONTRAST_COLUMNS)]
    + [("revision_a", pa.string()), ("revision_b", pa.string())]
)


def at_k(
    extractions: Sequence[Extraction],
    groups: Sequence[str],
    true_match: np.ndarray,
    bins: dict[str, np.ndarray],
    seed: int = 0,
) -> AtK:
    """All that is said of n models at one k.

    Args:
        extractions: of one pair set and one setting.
        groups: of each model.
        true_match: see `extraction.truth_counts`.
        bins: something of each pair, (P,), by its name, NaN where it is not known; the scores are given for each
            quarter of the pairs by it.
        seed: of the bootstrap and of the permutation test.
    """
    chances = cell_chances(extractions)
    alone = np.array([chance(each, each) for each in extractions])
    per_pair = {variant: per_pair_scores(extractions, variant) for variant in VARIANTS}
    raw, free = (
        _matrix(per_pair[variant], chances, alone, _saliences(extractions, variant), groups, seed)
        for variant in VARIANTS
    )
    return AtK(
        k=extractions[0].k,
        readings=tuple(_readings(extractions, true_match, seed)),
        raw=raw,
        position_free=free,
        parts=tuple(
            Part(name, low, high, int(chosen.sum()), *(means(values[chosen], chances, groups, seed)
                                                       for values in per_pair.values()))
            for name, values_of in bins.items()
            for low, high, chosen in _quarters(values_of)
        ),
        per_pair=per_pair,
    )  # fmt: skip


def per_pair_scores(extractions: Sequence[Extraction], variant: str) -> np.ndarray:
    """The CAS of each two models for each pair of views, float64 (P, cells), of which cell c is of the models
    `np.triu_indices(n, 1)[:, c]`."""
    cells = list(combinations(extractions, 2))
    values = np.empty((len(extractions[0].raw), len(cells)))
    for cell, (a, b) in enumerate(cells):
        values[:, cell] = agreement(a, b, variant)
    return values


def means(values: np.ndarray, chances: np.ndarray, groups: Sequence[str], seed: int = 0) -> dict[str, Score]:
    """Of all cells, of those within groups and of those across, where there are such.

    Args:
        values: `per_pair_scores`.
        chances: of each cell.
    """
    chosen = _kinds(groups)
    columns = [values[:, cells].mean(axis=1) for cells in chosen.values()]
    return dict(zip(chosen, scores(columns, [chances[cells].mean() for cells in chosen.values()], seed), strict=True))


def of_one_group(groups: Sequence[str]) -> np.ndarray:
    """Which cells, in the order of `np.triu_indices(n, 1)`, are of two models of one group, bool (cells,)."""
    return np.array([a == b for a, b in combinations(groups, 2)], dtype=bool)


def _kinds(groups: Sequence[str]) -> dict[str, np.ndarray]:
    """Which cells `means` are of, bool (cells,)."""
    same = of_one_group(groups)
    kinds = {"mean": np.ones_like(same), "within": same, "across": ~same}
    return {name: cells for name, cells in kinds.items() if cells.any()}


def cell_chances(extractions: Sequence[Extraction]) -> np.ndarray:
    """What independent maps would score in each cell of `per_pair_scores`."""
    return np.array([chance(a, b) for a, b in combinations(extractions, 2)])


def _saliences(extractions: Sequence[Extraction], variant: str) -> np.ndarray:
    """`extraction.salience`, the mean over pairs, of each two models, float64 (n, n)."""
    shares = [attention_shares(each, variant) for each in extractions]
    return np.array([[salience(a, b, extractions[0].k).mean() for b in shares] for a in shares])


def _matrix(
    values: np.ndarray,
    chances: np.ndarray,
    alone: np.ndarray,
    saliences: np.ndarray,
    groups: Sequence[str],
    seed: int,
) -> Matrix:
    n = len(groups)
    of_cell = [tuple(sorted(pair)) for pair in combinations(groups, 2)]
    blocks = {pair: np.array([each == pair for each in of_cell]) for pair in sorted(set(of_cell))}
    kinds = _kinds(groups)
    chosen = [*blocks.values(), *kinds.values()]
    averages = [values[:, cells].mean(axis=1) for cells in chosen]
    expected = [float(chances[cells].mean()) for cells in chosen]
    compared = "within" in kinds and "across" in kinds
    if compared:
        averages.append(averages[-2] - averages[-1])  # within, the last but one of the kinds, less across
        expected.append(0.0)
    found = scores([*values.T, *averages], [*chances, *expected], seed)  # all of the same resamples
    of_cells, found = found[: len(of_cell)], found[len(of_cell) :]
    of_blocks, found = found[: len(blocks)], found[len(blocks) :]
    of_kinds = dict(zip(kinds, found, strict=False))

    def square(name: str, diagonal: np.ndarray) -> np.ndarray:
        matrix = np.diag(diagonal.astype(np.float64))
        matrix[np.triu_indices(n, 1)] = [getattr(each, name) for each in of_cells]  # None becomes NaN
        return np.triu(matrix) + np.triu(matrix, 1).T

    full = np.ones(n)
    cas = square("cas", full)
    return Matrix(
        cas=cas,
        chance=square("chance", alone),
        adjusted=square("adjusted", np.where(alone < 1, full, np.nan)),
        low=square("low", full),
        high=square("high", full),
        salience=saliences,
        mean=of_kinds.get("mean"),
        within=of_kinds.get("within"),
        across=of_kinds.get("across"),
        difference=Difference(found[-1].cas, found[-1].low, found[-1].high) if compared else None,
        blocks=tuple(
            Block((pair[0], pair[1]), int(cells.sum()), each)
            for (pair, cells), each in zip(blocks.items(), of_blocks, strict=True)
        ),
        permutation=permutation_test(cas, groups, seed),
    )


def _readings(extractions: Sequence[Extraction], true_match: np.ndarray, seed: int) -> Iterator[ModelReading]:
    positions = scores(list(map(position_agreement, extractions)), list(map(chance, extractions)), seed)
    for extraction, position in zip(extractions, positions, strict=True):
        yield ModelReading(
            position=position,
            sinks=tuple(np.flatnonzero(extraction.sinks).tolist()),
            sink_share=extraction.sink_share,
            truth=truth(extraction, true_match, "raw"),
            position_free_truth=truth(extraction, true_match, "position_free"),
        )


def _quarters(values: np.ndarray) -> list[tuple[float, float, np.ndarray]]:
    """The range and the members of each quarter of values. Equal values stay together; NaN is in none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    parts = [(which == index) & ~np.isnan(values) for index in range(max(len(edges) - 1, 1))]
    return [(float(values[part].min()), float(values[part].max()), part) for part in parts if part.any()]


def plain(value: Any) -> Any:
    """Dataclasses, arrays and NaN as JSON has them; without what is too long for it."""
    if hasattr(value, "__dataclass_fields__"):
        left_out = ("mean_maps", "per_pair", "num_run")
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__ if name not in left_out}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return None if np.isnan(value) else float(value)
    return value
