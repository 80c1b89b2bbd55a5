"""Two models on one pair set: `singlelife.cas`, what `singlelife cas A B` prints, and what all results share."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from singlelife._version import __version__
from singlelife.alignment.extraction import (
    Extraction,
    chance,
    check_ks,
    co_visible,
    extract,
    extract_each,
    position_agreement,
    truth,
)
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.null import CentredScore, centred_score, compare_cells, notes_of, search_null
from singlelife.alignment.pair_sets import PairSet, resolve_pair_set
from singlelife.alignment.score import Score, Truth, agreement, mean_known, scores
from singlelife.alignment.settings import CasConfig
from singlelife.files import atomic_write
from singlelife.machine import choose_device
from singlelife.results import ResultRow, to_frame

if TYPE_CHECKING:
    import pandas

Model = str | Path | AttentionMapProvider

PROTOCOL = "cas/2"
_BEST = 5  # pairs of blocks or heads that the table names
_NOT_IN_JSON = ("per_pair", "centring", "cells")


@dataclass(frozen=True)
class ModelReading:
    """What one model does on the pair set, at one k.

    Attributes:
        position: its raw score against the position map.
        sinks: the source patches that it looks at whatever the views show.
        sink_share: the share of all its raw matches, before any are left out, that lie on them; 0 to 1.
        truth, centred_truth: how often its top k holds the true match, raw and centred; None where no match is known.
    """

    position: Score
    sinks: tuple[int, ...]
    sink_share: float
    truth: Truth | None
    centred_truth: Truth | None


def model_readings(extractions: Sequence[Extraction], true_match: np.ndarray, seed: int) -> tuple[ModelReading, ...]:
    """What each model does by itself.

    Args:
        extractions: at one k.
        true_match: see `extraction.truth`.
        seed: of the bootstrap.
    """
    positions = scores(list(map(position_agreement, extractions)), list(map(chance, extractions)), seed)
    return tuple(
        ModelReading(
            position,
            tuple(np.flatnonzero(each.sinks).tolist()),
            each.sink_share,
            truth(each, true_match, "raw"),
            truth(each, true_match, "centred"),
        )
        for each, position in zip(extractions, positions, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class AlignmentResult:
    """The facts of a measurement.

    Attributes:
        models: what the user called them.
        revisions, methods, layers: what their weights are, how their maps come about, and of which blocks.
        pairs, pairs_hash, num_pairs: the pair set, the SHA-256 of its pixels, its size.
        views: how the views were cut, where that is known.
        k: the primary one.
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
        """How many patches a view has on the grid that was compared."""
        return self.grid[0] * self.grid[1]

    def rows(self) -> list[ResultRow]:
        """A row of the results table for each number."""
        raise NotImplementedError

    def to_frame(self) -> "pandas.DataFrame":
        """`rows` as a frame with the columns of `ResultRow`."""
        return to_frame(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """All fields but long arrays, as JSON has them: NaN is null."""
        return _plain(self)

    def save_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON."""
        with atomic_write(Path(path)) as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def _title(self) -> str:
        """The pair set and the settings, in a line."""
        facts = {"direction": "target-source", "maps": "logits", "sinks": "keep", "patches": "all"}
        other = [f", {name} {getattr(self, name)}" for name, usual in facts.items() if getattr(self, name) != usual]
        return (
            f"{self.num_pairs} pairs of {self.pairs} ({self.pairs_hash[:12]}), top {self.k} of {self.num_patches} "
            f"patches{''.join(other)}"
        )

    def _notes(self) -> list[str]:
        """The notes as a part of the text, if there are any."""
        return ["\n".join(f"Note: {each}" for each in self.notes)] if self.notes else []

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
        """What a model does by itself."""
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
    """The fields of `AlignmentResult` of models that were run on the pairs, at the primary k."""
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
        "patches": config.patches,
        "notes": notes_of(extractions, pairs, config),
        "seed": config.seed,
    }


def score_table(rows: Mapping[str, tuple[Score, CentredScore]]) -> str:
    """A line for each raw and centred score, by its name."""
    columns = ["centred", "by accident", "excess", "95% interval", "p", "raw", "95% interval", "chance"]
    lines = {
        name: [
            centred.cas, centred.null, centred.excess, interval(centred.excess_low, centred.excess_high),
            centred.p_value, raw.cas, interval(raw.low, raw.high), raw.chance,
        ]
        for name, (raw, centred) in rows.items()
    }  # fmt: skip
    return text_table(lines, columns)


def interval(low: float, high: float) -> str:
    """An interval in words; nothing where there is none."""
    return "" if np.isnan(low) or np.isnan(high) else f"{low:.3f} to {high:.3f}"


def model_table(readings: Mapping[str, ModelReading]) -> str:
    """A line for each model and what it does by itself, with true matches where any are known."""
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
    """A table of words and numbers; nothing stands where a number is None or NaN."""
    import pandas

    frame = pandas.DataFrame(list(lines.values()), list(lines), list(columns), dtype=object)
    return frame.where(frame.notna(), "").to_string(float_format="{:.3f}".format)


def failure_lines(failed: Mapping[str, str]) -> str:
    """The models that could not be compared, each with its error."""
    return "\n".join(["could not be compared", *(f"  {model}: {error}" for model, error in failed.items())])


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and NaN as JSON has them; without what is too long for it."""
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
        names: of those of A and of B, `layer` or `layer.head`.
        raw, centred, excess: the CAS, and what is above its null, float64 (of A, of B).
        tried: how many combinations there are.
        p_value: of the largest excess, corrected for all that were tried: the share of mismatches whose largest excess
            of any combination is as large.
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
        readings: what A and B do by themselves.
        curve: the scores at every k, ascending.
        search: of each two blocks or heads, if that was asked for.
        centring: of each model, the mean map of its logits over the pair set and the spread, float32 (2, N, N): see
            `score.centre`.
    """

    centred: CentredScore
    raw: Score
    readings: tuple[ModelReading, ...]
    curve: tuple[ScoresAtK, ...]
    search: SearchScores | None = field(default=None, compare=False)
    centring: tuple[np.ndarray, ...] = field(repr=False, compare=False)

    def rows(self) -> list[ResultRow]:
        """Both scores at every k, with A as the model and B as the reference; then each model by itself."""
        found = [row for at in self.curve for row in self._score_rows(at.k, 0, 1, at.raw, at.centred)]
        for model, reading in enumerate(self.readings):
            found += self._reading_rows(self.k, model, reading)
        return found

    def __str__(self) -> str:
        scores = {"A and B": (self.raw, self.centred)}
        if len(self.curve) > 1:
            scores = {f"k = {at.k}": (at.raw, at.centred) for at in self.curve}
        parts = [
            f"A  {self.models[0]}\nB  {self.models[1]}\non {self._title()}",
            score_table(scores),
            model_table(dict(zip("AB", self.readings, strict=True))),
            *([str(self.search)] if self.search else []),
            self.summary(),
        ]
        return "\n\n".join([*parts, *self._notes()])

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
    """The Correspondence Alignment Score of two models, centred and raw, with what is needed to read it:

        cas("runs/sim_1", "runs/sim_2", pairs="sim_test", k=5)

    Models of different grids are compared on the coarser one.

    Args:
        a, b: run folders, local checkpoints, Hub ids, `"untrained:PRESET@SEED"`, or models that are loaded already.
        config: the settings; the defaults of `CasConfig` if not given.
        pairs: instead of the setting: what `--pairs` takes, or a pair set.
        overrides: settings of `CasConfig` by name.

    Raises:
        SingleLifeError: a setting is not allowed, there is no such model or life, or they cannot be compared.
    """
    config = replace(config or CasConfig(), **overrides)
    device = choose_device(config.device)
    models = [open_model(each, device, config) for each in (a, b)]
    grid = coarser([model.grid for model in models])
    check_ks(config.k, grid)
    on = pair_set_of(config, pairs, max(model.image_size for model in models))
    by_k = [extract(model, on, sorted(set(config.k)), config, grid=grid) for model in models]
    search = None if config.search == "none" else _search(models, on, config, grid)
    return compare_extractions(by_k[0], by_k[1], on, config, search=search)


def open_model(model: Model, device: str, config: CasConfig) -> AttentionMapProvider:
    """A model by its name, or one that is loaded already."""
    if isinstance(model, str | Path):
        return load_model(str(model), device, method=config.method, layers=config.layers)
    return model


def coarser(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The grid that models of these grids are compared on."""
    return min(grids, key=lambda grid: grid[0] * grid[1])


def pair_set_of(config: CasConfig, pairs: str | Path | PairSet | None, image_size: int) -> PairSet:
    """The pair set to measure on: `pairs`, or that of the settings, with views of `image_size` pixels unless the
    settings give a size."""
    if isinstance(pairs, PairSet):
        return pairs
    return resolve_pair_set(
        config.pairs if pairs is None else str(pairs),
        views=config.views,
        num_pairs=config.num_pairs,
        seed=config.seed,
        image_size=config.image_size or image_size,
        cache_dir=config.cache_dir,
    )


def compare_extractions(
    a: Mapping[int, Extraction],
    b: Mapping[int, Extraction],
    pairs: PairSet,
    config: CasConfig,
    *,
    search: SearchScores | None = None,
) -> CasResult:
    """`cas` of two models that were run on the pairs before.

    Args:
        a, b: by k, of one grid and one setting.
        config: the settings; the first k is the primary one.
        search: of the two models, if their blocks or heads were scored.
    """
    true_match = pairs.true_match(a[config.k[0]].grid).numpy()

    def both(k: int) -> list[Extraction]:
        return [co_visible(each[k], pairs, true_match) if config.patches != "all" else each[k] for each in (a, b)]

    def at(k: int) -> ScoresAtK:
        found = compare_cells(both(k), pairs)
        (raw,) = scores(list(found.raw.T), found.chances.tolist(), config.seed)
        return ScoresAtK(k, centred_score(found.centred, np.ones(1)), raw)

    main, shown = at(config.k[0]), both(config.k[0])
    return CasResult(
        **facts_of(shown, pairs, config),
        raw=main.raw,
        centred=main.centred,
        readings=model_readings(shown, true_match, config.seed),
        curve=tuple(main if k == main.k else at(k) for k in sorted(set(config.k))),
        search=search,
        centring=tuple(np.stack([each.mean_map, each.spread]) for each in shown),
    )


def _search(
    models: Sequence[AttentionMapProvider], pairs: PairSet, config: CasConfig, grid: tuple[int, int]
) -> SearchScores:
    first, second = (extract_each(model, pairs, config, grid) for model in models)
    if config.patches != "all":
        match = pairs.true_match(grid).numpy()
        first, second = ([co_visible(each, pairs, match) for each in found] for found in (first, second))
    names = []
    for model in models:
        heads = range(model.num_heads // len(model.layers))
        of_heads = [f"{layer}.{head}" for layer in model.layers for head in heads]
        names.append(tuple(map(str, model.layers) if config.search == "blocks" else of_heads))
    raw = np.array([[mean_known(agreement(a.raw, b.raw, a.k)) for b in second] for a in first])
    of_first, of_second = ([each.centred[pairs.order] for each in found] for found in (first, second))
    centred, excess, p_value = search_null(of_first, of_second, config.k[0])
    return SearchScores(config.search, (names[0], names[1]), raw, centred, excess, raw.size, p_value)
