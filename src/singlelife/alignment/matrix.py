"""The results of a measurement, and the scores of n models, two by two: their means within and across groups of
models, and a test whether groups matter."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from singlelife._version import __version__
from singlelife.alignment.extraction import Extraction, chance, position_sets, truth
from singlelife.alignment.null import (
    MEASURES,
    SMALL_P,
    CentredScore,
    Permutation,
    RepresentationMetrics,
    centred_score,
    compare_cells,
    notes_of,
    permutation_test,
)
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import Score, Truth, agreement, scores
from singlelife.alignment.settings import CasConfig
from singlelife.files import atomic_write
from singlelife.results import ResultRow, to_frame

if TYPE_CHECKING:
    import pandas

PROTOCOL = "cas/2"
_NOT_IN_JSON = ("per_pair", "centring", "cells")


@dataclass(frozen=True)
class ModelReading:
    """The scores of one model alone on the pair set, at one k.

    Attributes:
        position: its raw score against the position map.
        sinks: the source patches that it looks at whatever the views show.
        sink_share: the share of its raw matches that lie on sinks, before any are left out; 0 to 1.
        truth, centred_truth: how often its top k holds the true match, raw and centred; None if no match is known.
    """

    position: Score
    sinks: tuple[int, ...]
    sink_share: float
    truth: Truth | None
    centred_truth: Truth | None


@dataclass(frozen=True, kw_only=True)
class AlignmentResult:
    """The facts of a measurement.

    Attributes:
        models: as the user named them.
        revisions, methods, layers: each model's weights, way of making maps, and blocks used.
        pairs, pairs_hash, num_pairs: the pair set's name, SHA-256 hash and number of pairs.
        views: how the views were cut, if known.
        k: the primary k.
        grid: rows and columns of patches that were compared.
        direction, maps, sinks, patches: see `CasConfig`.
        notes: what is undefined, left out or rough, and why.
        seed: of the bootstrap.
        version: of singlelife.
    """

    models: tuple[str, ...]
    revisions: tuple[str, ...]
    methods: tuple[str, ...]
    layers: tuple[tuple[int, ...], ...]
    pairs: str
    pairs_hash: str
    num_pairs: int
    views: str = ""
    k: int
    grid: tuple[int, int]
    direction: str
    maps: str
    sinks: str
    patches: str
    notes: tuple[str, ...] = ()
    seed: int = 0
    version: str = __version__

    @property
    def num_patches(self) -> int:
        """The number of patches of a view on the compared grid."""
        return self.grid[0] * self.grid[1]

    def rows(self) -> list[ResultRow]:
        """A row of the results table for each number."""
        raise NotImplementedError

    def to_frame(self) -> "pandas.DataFrame":
        """`rows` as a frame with the columns of `ResultRow`."""
        return to_frame(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """All fields except long arrays, as JSON values; NaN becomes None."""
        return _plain(self)

    def save_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON."""
        with atomic_write(Path(path)) as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def _title(self) -> str:
        """The pair set and the settings, in one line."""
        facts = {"direction": "target-source", "maps": "logits", "sinks": "keep", "patches": "all"}
        other = [f", {name} {getattr(self, name)}" for name, usual in facts.items() if getattr(self, name) != usual]
        return (
            f"{self.num_pairs} pairs of {self.pairs} ({self.pairs_hash[:12]}), top {self.k} of {self.num_patches} "
            f"patches{''.join(other)}"
        )

    def _text(self, *parts: str, failed: Mapping[str, str] | None = None) -> str:
        """The parts, then the notes and the models that failed, if there are any."""
        notes = "\n".join(f"Note: {each}" for each in self.notes)
        return "\n\n".join(filter(None, [*parts, notes, failure_lines(failed) if failed else ""]))

    def _score_rows(self, k: int, model: int, reference: int, raw: Score, centred: CentredScore) -> list[ResultRow]:
        at: dict[str, Any] = {"k": k, "chance": centred.chance}
        above, shifts = (centred.excess, model, reference, centred.excess_low, centred.excess_high), centred.shifts
        return [
            self._row("centred", centred.cas, model, reference, centred.low, centred.high, **at),
            self._row("centred_null", centred.null, model, reference, **at),
            self._row("centred_excess", *above, k=k, chance=0.0),
            self._row("centred_p", centred.p_value, model, reference, **at, shifts=shifts),
            self._row("raw", raw.cas, model, reference, raw.low, raw.high, k=k, chance=raw.chance),
        ]

    def _reading_rows(self, k: int, model: int, reading: ModelReading) -> list[ResultRow]:
        """The scores of one model alone: position map, true matches."""
        at = reading.position
        rows = [self._row("position_raw", at.cas, model, None, at.low, at.high, k=k, chance=at.chance)]
        for variant, found in (("raw", reading.truth), ("centred", reading.centred_truth)):
            for which, share in (("", "matches"), ("_large_shifts", "large_shifts")):
                value = getattr(found, share, None)
                if value is not None:
                    metric = f"true_match_{variant}{which}"
                    rows.append(self._row(metric, value, model, k=k, chance=k / self.num_patches))
        return rows

    def _row(
        self,
        metric: str,
        value: float,
        model: int,
        reference: int | None = None,
        low: float | None = None,
        high: float | None = None,
        **settings: Any,
    ) -> ResultRow:
        settings |= {"method": self.methods[model], "layers": list(self.layers[model]), "direction": self.direction}
        settings |= {"num_patches": self.num_patches, "sinks": self.sinks, "views": self.views}
        settings |= {"maps": self.maps, "patches": self.patches}
        if reference is not None:
            settings["reference_revision"] = self.revisions[reference]
            settings["reference_method"] = self.methods[reference]
            settings["reference_layers"] = list(self.layers[reference])
        return ResultRow(
            model=self.models[model],
            revision=self.revisions[model],
            task="cas",
            protocol=PROTOCOL,
            data=self.pairs,
            data_hash=self.pairs_hash,
            metric=metric,
            value=value,
            low=None if low is None or np.isnan(low) else low,
            high=None if high is None or np.isnan(high) else high,
            seed=self.seed,
            reference="" if reference is None else self.models[reference],
            settings=settings,
            version=self.version,
        )


def facts_of(extractions: Sequence[Extraction], pairs: PairSet, config: CasConfig) -> dict[str, Any]:
    """The fields of `AlignmentResult` for models that were run on the pairs, at the primary k."""
    first = extractions[0]
    return {
        "models": tuple(each.model for each in extractions),
        "revisions": tuple(each.revision for each in extractions),
        "methods": tuple(each.method for each in extractions),
        "layers": tuple(each.layers for each in extractions),
        "pairs": pairs.name,
        "pairs_hash": pairs.hash,
        "num_pairs": len(pairs),
        "views": pairs.provenance.get("views", ""),
        "k": first.k,
        "grid": first.grid,
        "direction": first.direction,
        "maps": config.maps,
        "sinks": config.sinks,
        "patches": "co-visible" if pairs.even else config.patches,
        "notes": notes_of(extractions, pairs, config),
        "seed": config.seed,
    }


def score_table(rows: Mapping[str, tuple[Score, CentredScore]]) -> str:
    """A table with the centred and the raw score of each name."""
    columns = ["centred", "by accident", "excess", "95% interval", "p", "raw", "95% interval", "chance"]
    lines = {
        name: [
            centred.cas, centred.null, centred.excess, _interval(centred.excess_low, centred.excess_high),
            centred.p_value, raw.cas, _interval(raw.low, raw.high), raw.chance,
        ]
        for name, (raw, centred) in rows.items()
    }  # fmt: skip
    return text_table(lines, columns)


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) or np.isnan(high) else f"{low:.3f} to {high:.3f}"


def model_table(readings: Mapping[str, ModelReading]) -> str:
    """A table with the scores of each model alone: position map, sinks, and true matches if any are known."""
    columns = ["position map", "sinks", "on sinks"]
    lines: dict[str, list[Any]] = {
        name: [each.position.cas, str(len(each.sinks)), each.sink_share] for name, each in readings.items()
    }
    if any(each.truth for each in readings.values()):
        columns += ["true match", "(centred)", "large shifts", "(centred)"]
        for name, each in readings.items():
            truths = (each.truth, each.centred_truth)
            lines[name] += [getattr(found, share, None) for share in ("matches", "large_shifts") for found in truths]
    return text_table(lines, columns)


def text_table(lines: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> str:
    """A table of words and numbers. A cell is empty where its number is None or NaN."""
    import pandas

    frame = pandas.DataFrame(list(lines.values()), list(lines), list(columns), dtype=object)
    return frame.where(frame.notna(), "").to_string(float_format="{:.3f}".format)


def failure_lines(failed: Mapping[str, str]) -> str:
    """The models that could not be compared, each with its error."""
    return "\n".join(["could not be compared", *(f"  {model}: {error}" for model, error in failed.items())])


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and NaN as JSON values, without the fields that are too long."""
    if hasattr(value, "__dataclass_fields__"):
        names = [name for name in value.__dataclass_fields__ if name not in _NOT_IN_JSON]
        found = {name: _plain(getattr(value, name)) for name in names}
        return found | found.pop("arrays", {})  # of a matrix, each under its own name
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(value)
    return value


@dataclass(frozen=True, eq=False)
class Matrix:
    """The scores of n models, two by two.

    Attributes:
        cells: the Score or CentredScore of each two models, by their indices, the smaller one first.
        mean, within, across: the mean of all cells, within groups, and across groups; None if there are no such cells.
        difference: the mean within groups less the mean across, about 0 if groups do not matter; None without both.
        permutation: a test whether groups matter for the score above its chance or null; None if it is not possible.
        arrays: each field of the scores, float64 (n, n) and symmetric, NaN where it is not defined.
    """

    cells: dict[tuple[int, int], Any]
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
        """Centred scores above their null, or raw scores above chance; NaN on the diagonal."""
        return self.arrays.get("excess", self.arrays["cas"] - self.arrays["chance"])

    def cell(self, a: int, b: int) -> Any:
        """The score of two models."""
        return self.cells[min(a, b), max(a, b)]


def matrix_of(
    groups: Sequence[str], seed: int, scores_of: Callable[[Sequence[np.ndarray]], Sequence[Score]]
) -> Matrix:
    """The matrix of n models.

    Args:
        groups: the group of each model.
        seed: of the permutation test.
        scores_of: gives the scores of weighted sums of the cells, in the order of `np.triu_indices(n, 1)`.
    """
    n, both = len(groups), list(combinations(range(len(groups)), 2))
    same = np.array([groups[a] == groups[b] for a, b in both], dtype=bool)
    kinds = {"mean": np.ones_like(same), "within": same, "across": ~same}
    # With two models there is one cell, which is its own mean.
    weights = {name: cells / cells.sum() for name, cells in kinds.items() if cells.any() and len(same) > 1}
    if {"within", "across"} <= weights.keys():
        weights["difference"] = weights["within"] - weights["across"]
    found = scores_of([*np.eye(len(same)), *weights.values()])
    of_kinds = dict(zip(weights, found[len(same) :], strict=True))
    arrays = {}
    for name in (each.name for each in fields(found[0])):
        square = np.full((n, n), 1.0 if name in ("cas", "chance_corrected", "low", "high") else np.nan)
        for (a, b), score in zip(both, found, strict=False):
            square[a, b] = square[b, a] = getattr(score, name)  # None becomes NaN
        arrays[name] = square
    matrix = Matrix(
        cells=dict(zip(both, found, strict=False)),
        mean=of_kinds.get("mean", found[0]),
        **{name: of_kinds.get(name) for name in ("within", "across", "difference")},
        permutation=None,
        arrays=arrays,
    )
    return replace(matrix, permutation=permutation_test(np.nan_to_num(matrix.excess), groups, seed))


@dataclass(frozen=True, eq=False)
class AtK:
    """All scores at one k; `per_pair` has the raw and the centred CAS of each pair of views (P, cells), where cell c
    compares the models `np.triu_indices(n, 1)[:, c]`."""

    k: int
    readings: tuple[ModelReading, ...]
    centred: Matrix
    raw: Matrix
    per_pair: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class CasMatrix(AlignmentResult):
    """The alignment of n models.

    Attributes:
        groups: the group of each model.
        failed: the errors of the models that could not be compared, by model.
        at_k: the scores by k, ascending.
        representation: representation metrics of the same models, if asked for.
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
        """At every k: both scores of each two models, then each model alone. Representation metrics come last."""
        found = []
        for k, at in self.at_k.items():
            for a, b in at.raw.cells:
                found += self._score_rows(k, a, b, at.raw.cells[a, b], at.centred.cells[a, b])
            for model, reading in enumerate(at.readings):
                found += self._reading_rows(k, model, reading)
        for a, b in self.main.raw.cells if self.representation else ():
            found += [self._row(name, getattr(self.representation, name)[a, b], a, b) for name in MEASURES]
        return found

    def __str__(self) -> str:
        n, raw, centred = len(self.models), self.main.raw, self.main.centred
        names = [f"{index + 1} {self.models[index]} ({self.groups[index]})" for index in range(n)]
        readings = model_table(dict(zip(names, self.main.readings, strict=True)))
        title = "centred CAS less its null; above the diagonal, the p-value"
        parts = [
            f"{n} models on {self._title()}",
            readings,
            _square(title, centred.excess, centred.arrays["p_value"]),
            _square(f"raw CAS; chance {raw.mean.chance:.3f}", raw.cas, raw.cas),
        ]
        kinds = {"mean": "mean of all cells", "within": "mean within groups", "across": "mean across groups",
                 "difference": "within less across"}  # fmt: skip
        means = {name: (getattr(raw, of), getattr(centred, of)) for of, name in kinds.items() if getattr(raw, of)}
        if len(self.at_k) > 1:
            means |= {f"mean at k = {k}": (at.raw.mean, at.centred.mean) for k, at in self.at_k.items()}
        parts.append(score_table(means))
        if raw.permutation and centred.permutation:
            tests = f"centred: {centred.permutation}\nraw: {raw.permutation}"
            if centred.permutation.smallest > SMALL_P:
                tests = str(centred.permutation)
            parts.append(f"permutation test that groups matter ({raw.permutation.assignments:,} assignments)\n{tests}")
        if self.representation:
            parts.append(self._metrics(self.representation))
        return self._text(*parts, failed=self.failed)

    def _metrics(self, metrics: RepresentationMetrics) -> str:
        """The representation metrics, next to the score."""
        lines = {}
        for a, b in self.main.raw.cells:
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


def at_one_k(
    extractions: Sequence[Extraction], pairs: PairSet, true_match: np.ndarray, groups: Sequence[str], seed: int
) -> AtK:
    """All scores of n models at one k.

    Args:
        true_match: see `extraction.truth`.
        groups: the group of each model.
        seed: of the bootstrap and the permutation test.
    """
    k, grid, found = extractions[0].k, extractions[0].grid, compare_cells(extractions, pairs)
    raw = np.stack([agreement(a.raw, b.raw, a.k) for a, b in combinations(extractions, 2)], axis=1)

    def raw_scores(weights: Sequence[np.ndarray]) -> Sequence[Score]:
        chances = [float(found.chances @ each) for each in weights]
        return scores([_weighted(raw, each) for each in weights], chances, seed)

    nearest = position_sets(grid, k)
    on_positions = scores(
        [agreement(each.raw, nearest, k) for each in extractions], list(map(chance, extractions)), seed
    )
    readings = [
        ModelReading(
            position,
            tuple(np.flatnonzero(each.sinks).tolist()),
            each.sink_share,
            truth(each, true_match, "raw"),
            truth(each, true_match, "centred"),
        )
        for each, position in zip(extractions, on_positions, strict=True)
    ]
    return AtK(
        k,
        tuple(readings),
        centred=matrix_of(groups, seed, lambda weights: [centred_score(found, each) for each in weights]),
        raw=matrix_of(groups, seed, raw_scores),
        per_pair={"raw": raw, "centred": found.matched[np.argsort(pairs.order)]},
    )


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of the cells of each pair (P,); cells without weight may be NaN."""
    used = np.flatnonzero(weights)
    return values[:, used[0]] if len(used) == 1 else values[:, used] @ weights[used]
