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
    VARIANTS,
    Extraction,
    agreement,
    chance,
    check_ks,
    extract,
    extract_heads,
    position_agreement,
    truth,
)
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.pair_sets import PairSet, resolve_pair_set
from singlelife.alignment.score import Score, Truth, score, scores
from singlelife.alignment.settings import CasConfig
from singlelife.files import atomic_write
from singlelife.machine import choose_device
from singlelife.results import ResultRow, to_frame

if TYPE_CHECKING:
    import pandas

Model = str | Path | AttentionMapProvider

PROTOCOL = "cas/1"
_BEST_HEADS = 5  # pairs of heads that the table names
_NOT_IN_JSON = ("per_pair", "mean_maps")


@dataclass(frozen=True)
class ModelReading:
    """What one model does on the pair set, at one k.

    Attributes:
        position: its raw score against the position map.
        sinks: the source patches that it looks at whatever the views show.
        sink_share: the share of all its raw matches, before any are left out, that lie on them; 0 to 1.
        truth, position_free_truth: how often its top k holds the true match; None where no match is known.
    """

    position: Score
    sinks: tuple[int, ...]
    sink_share: float
    truth: Truth | None
    position_free_truth: Truth | None


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
            truth(each, true_match, "position_free"),
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
        direction, sinks: see `CasConfig`.
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
    sinks: str
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
        direction = "" if self.direction == "target-source" else f", {self.direction}"
        return (
            f"{self.num_pairs} pairs of {self.pairs} ({self.pairs_hash[:12]}), top {self.k} of {self.num_patches} "
            f"patches{direction}{'' if self.sinks == 'keep' else ', sinks masked'}"
        )

    def _score_rows(self, k: int, model: int, reference: int, raw: Score, free: Score) -> list[ResultRow]:
        return [
            self._row(variant, score.cas, model, reference, score.low, score.high, k=k, chance=score.chance)
            for variant, score in zip(VARIANTS, (raw, free), strict=True)
        ]

    def _reading_rows(self, k: int, model: int, reading: ModelReading) -> list[ResultRow]:
        """What a model does by itself."""
        at = reading.position
        rows = [self._row("position_raw", at.cas, model, None, at.low, at.high, k=k, chance=at.chance)]
        for variant, found in zip(VARIANTS, (reading.truth, reading.position_free_truth), strict=True):
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
            low=low,
            high=high,
            seed=self.seed,
            reference="" if reference is None else self.models[reference],
            settings=settings,
            version=self.version,
        )


def facts_of(extractions: Sequence[Extraction], pairs: PairSet, seed: int) -> dict[str, Any]:
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
        "sinks": "mask" if first.masked else "keep",
        "seed": seed,
    }


def score_table(rows: Mapping[str, tuple[Score, Score]]) -> str:
    """A line for each raw and position-free score, by its name."""
    columns, lines = ["chance"], dict[str, list[Any]]()
    for name in ("raw", "position-free"):
        columns += [name, "95% interval", "chance-corrected"]
    for name, both in rows.items():
        lines[name] = [both[0].chance]
        for each in both:
            lines[name] += [each.cas, f"{each.low:.3f} to {each.high:.3f}", each.chance_corrected]
    return text_table(lines, columns)


def model_table(readings: Mapping[str, ModelReading]) -> str:
    """A line for each model and what it does by itself, with true matches where any are known."""
    columns = ["position map", "sinks", "on sinks"]
    lines: dict[str, list[Any]] = {
        name: [each.position.cas, str(len(each.sinks)), each.sink_share] for name, each in readings.items()
    }
    if any(each.truth for each in readings.values()):
        columns += ["true match", "(free)", "large shifts", "(free)"]
        for name, each in readings.items():
            truths = (each.truth, each.position_free_truth)
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
        return {name: _plain(getattr(value, name)) for name in names}
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
    raw: Score
    position_free: Score


@dataclass(frozen=True)
class HeadScores:
    """Each head of A with each head of B.

    Attributes:
        names: of the heads of A and of B, `layer.head`.
        raw, position_free: the CAS, float64 (heads of A, heads of B).
    """

    names: tuple[tuple[str, ...], tuple[str, ...]]
    raw: np.ndarray
    position_free: np.ndarray


@dataclass(frozen=True, kw_only=True)
class CasResult(AlignmentResult):
    """The alignment of two models, A and B.

    Attributes:
        raw, position_free: the scores at the primary k.
        readings: what A and B do by themselves.
        curve: the scores at every k, ascending.
        heads: of each pair of heads, if that was asked for.
        mean_maps: of each model's logits over the pair set, float32 (N, N).
    """

    raw: Score
    position_free: Score
    readings: tuple[ModelReading, ...]
    curve: tuple[ScoresAtK, ...]
    heads: HeadScores | None = field(default=None, compare=False)
    mean_maps: tuple[np.ndarray, ...] = field(repr=False, compare=False)

    def rows(self) -> list[ResultRow]:
        """Raw and position-free at every k, with A as the model and B as the reference; then each model by itself."""
        found = [row for at in self.curve for row in self._score_rows(at.k, 0, 1, at.raw, at.position_free)]
        for model, reading in enumerate(self.readings):
            found += self._reading_rows(self.k, model, reading)
        return found

    def __str__(self) -> str:
        scores = {"CAS of A and B": (self.raw, self.position_free)}
        if len(self.curve) > 1:
            scores = {f"CAS at k = {at.k}": (at.raw, at.position_free) for at in self.curve}
        parts = [
            f"A  {self.models[0]}\nB  {self.models[1]}\non {self._title()}",
            score_table(scores),
            model_table(dict(zip("AB", self.readings, strict=True))),
        ]
        if self.heads:
            parts.append(_head_table(self.heads))
        position = min(reading.position.cas for reading in self.readings)
        parts.append(
            f"A and B agree on {self.raw.cas:.0%} of matches; chance is {self.raw.chance:.0%}. The model that depends "
            f"less on position agrees with the position map on {position:.0%}. Without each model's position habits "
            f"they agree on {self.position_free.cas:.0%}."
        )
        return "\n\n".join(parts)


def _head_table(heads: HeadScores) -> str:
    """The pairs of heads that agree most by the position-free score."""
    lines = {}
    for index in np.argsort(-heads.position_free, axis=None, kind="stable")[:_BEST_HEADS]:
        a, b = np.unravel_index(index, heads.raw.shape)
        lines[f"{heads.names[0][a]} and {heads.names[1][b]}"] = [heads.raw[a, b], heads.position_free[a, b]]
    return f"Heads of A and B that agree most (layer.head)\n{text_table(lines, ['raw', 'position-free'])}"


def cas(
    a: Model,
    b: Model,
    config: CasConfig | None = None,
    *,
    pairs: str | Path | PairSet | None = None,
    **overrides: Any,
) -> CasResult:
    """The Correspondence Alignment Score of two models, raw and position-free, with what is needed to read it:

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
    heads = _score_heads(models, on, config, grid) if config.heads == "each" else None
    return compare_extractions(by_k[0], by_k[1], on, ks=config.k, heads=heads, seed=config.seed)


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
    *,
    ks: Sequence[int],
    heads: HeadScores | None = None,
    seed: int = 0,
) -> CasResult:
    """`cas` of two models that were run on the pairs before.

    Args:
        a, b: by k, of one grid and one setting.
        ks: the first is the primary k.
        heads: of the two models, if they were scored.
        seed: of the bootstrap.
    """

    def at(k: int) -> ScoresAtK:
        raw, free = (score(agreement(a[k], b[k], variant), chance(a[k], b[k]), seed) for variant in VARIANTS)
        return ScoresAtK(k, raw, free)

    main, both = at(ks[0]), [a[ks[0]], b[ks[0]]]
    return CasResult(
        **facts_of(both, pairs, seed),
        raw=main.raw,
        position_free=main.position_free,
        readings=model_readings(both, pairs.true_match(both[0].grid).numpy(), seed),
        curve=tuple(main if k == main.k else at(k) for k in sorted(set(ks))),
        heads=heads,
        mean_maps=tuple(each.mean_map for each in both),
    )


def _score_heads(
    models: Sequence[AttentionMapProvider], pairs: PairSet, config: CasConfig, grid: tuple[int, int]
) -> HeadScores:
    first, second = (extract_heads(model, pairs, config, grid) for model in models)
    names = [
        tuple(f"{layer}.{head}" for layer in model.layers for head in range(model.num_heads // len(model.layers)))
        for model in models
    ]
    raw, free = (np.array([[agreement(a, b, variant).mean() for b in second] for a in first]) for variant in VARIANTS)
    return HeadScores((names[0], names[1]), raw, free)
