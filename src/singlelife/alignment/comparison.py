"""Two models on one pair set: `singlelife.cas`, and what `singlelife cas A B` prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
from singlelife.alignment.score import Score, score, scores
from singlelife.alignment.settings import CasConfig
from singlelife.alignment.tables import AlignmentResult, ModelReading, interval, number
from singlelife.machine import choose_device
from singlelife.results import ResultRow

Model = str | Path | AttentionMapProvider

_BEST_HEADS = 5  # pairs of heads that the table names


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
        raw, position_free: the CAS, a row for each head of A.
    """

    names: tuple[tuple[str, ...], tuple[str, ...]]
    raw: tuple[tuple[float, ...], ...]
    position_free: tuple[tuple[float, ...], ...]


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
    readings: tuple[ModelReading, ModelReading]
    curve: tuple[ScoresAtK, ...]
    heads: HeadScores | None = None
    mean_maps: tuple[np.ndarray, np.ndarray] = field(repr=False, compare=False)

    def rows(self) -> list[ResultRow]:
        """Raw and position-free at every k, with A as the model and B as the reference; then each model by itself."""
        found = [
            self._score_row(variant, getattr(at, variant), at.k, 0, 1) for at in self.curve for variant in VARIANTS
        ]
        for model, reading in enumerate(self.readings):
            found += self._reading_rows(reading, self.k, model)
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """The mean maps, `mean_map/a` and `mean_map/b`."""
        return {f"mean_map/{letter}": each for letter, each in zip("ab", self.mean_maps, strict=True)}

    def __str__(self) -> str:
        lines = [
            f"A  {self.models[0]}",
            f"B  {self.models[1]}",
            f"on {self._title()}, chance {self.raw.chance:.3f}",
            "",
            _line("", "raw", "position-free"),
            _line("CAS of A and B", self.raw.cas, self.position_free.cas),
            _line("  95% interval", interval(self.raw), interval(self.position_free)),
            _line("  chance-corrected", self.raw.chance_corrected, self.position_free.chance_corrected),
        ]
        for letter, reading in zip("AB", self.readings, strict=True):
            lines.append(_line(f"{letter} against the position map", reading.position.cas, None))
        for letter, reading in zip("AB", self.readings, strict=True):
            if reading.sinks:
                lines.append(_line(f"{letter}: matches on {len(reading.sinks)} sinks", reading.sink_share, None))
        for letter, reading in zip("AB", self.readings, strict=True):
            raw, free = reading.truth, reading.position_free_truth
            if raw and free:
                lines.append(_line(f"{letter}: true match in the top {self.k}", raw.matches, free.matches))
                lines.append(_line("  at large shifts", raw.large_shifts, free.large_shifts))
        if len(self.curve) > 1:
            lines += ["", "CAS against k"]
            for at in self.curve:
                lines.append(_line(f"k = {at.k}, chance {at.raw.chance:.3f}", at.raw.cas, at.position_free.cas))
        return "\n".join([*lines, *self._head_lines(), "", self.reading()])

    def reading(self) -> str:
        """The scores in a few sentences."""
        position = min(reading.position.cas for reading in self.readings)
        sentences = (
            f"A and B agree on {self.raw.cas:.0%} of matches; chance is {self.raw.chance:.0%}. The model that depends "
            f"less on position agrees with the position map on {position:.0%}. Without each model's position habits "
            f"they agree on {self.position_free.cas:.0%}."
        )
        truths = [reading.position_free_truth for reading in self.readings]
        shares = [f"{truth.large_shifts:.0%}" for truth in truths if truth and truth.large_shifts is not None]
        if len(shares) < 2:
            return sentences
        return (
            f"{sentences} At large shifts, the position-free top {self.k} of A holds the true match of {shares[0]} of "
            f"patches, that of B {shares[1]}."
        )

    def _head_lines(self) -> list[str]:
        if not self.heads:
            return []
        raw, free = np.array(self.heads.raw), np.array(self.heads.position_free)
        best = np.dstack(np.unravel_index(np.argsort(-free, axis=None, kind="stable"), free.shape))[0][:_BEST_HEADS]
        names = self.heads.names
        return [
            "",
            "Each head of A with each of B (layer.head)",
            _line("mean over pairs of heads", raw.mean(), free.mean()),
            _line("mean over A, of its best in B", raw.max(axis=1).mean(), free.max(axis=1).mean()),
            *(_line(f"  {names[0][a]} and {names[1][b]}", raw[a, b], free[a, b]) for a, b in best),
        ]


def _line(name: str, raw: float | str | None, free: float | str | None) -> str:
    return f"{name:<34}{number(raw):>22}{number(free):>22}"


def coarser(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The grid that models of these grids are compared on."""
    return min(grids, key=lambda grid: grid[0] * grid[1])


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
    config = CasConfig.of(config, **overrides)
    device = choose_device(config.device)
    first, second = (
        load_model(str(each), device, method=config.method, layers=config.layers)
        if isinstance(each, str | Path)
        else each
        for each in (a, b)
    )
    grid = coarser([first.grid, second.grid])
    check_ks(config.k, grid)
    on = pair_set_of(config, pairs, max(first.image_size, second.image_size))
    ks = sorted(set(config.k))
    by_k = [extract(model, on, ks, config, grid=grid) for model in (first, second)]
    heads = _heads((first, second), on, config, grid) if config.heads == "each" else None
    return compare_extractions(by_k[0], by_k[1], on, ks=config.k, heads=heads, seed=config.seed)


def pair_set_of(config: CasConfig, pairs: str | Path | PairSet | None, image_size: int) -> PairSet:
    """The pair set to measure on.

    Args:
        config: the settings of the draw.
        pairs: instead of `config.pairs`, if it is given.
        image_size: side of the views in pixels, unless the settings give one.

    Raises:
        SingleLifeError: there is no such pair set or life.
    """
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

    curve = tuple(at(k) for k in sorted(set(ks)))
    (main,) = (each for each in curve if each.k == ks[0])
    first, second = a[ks[0]], b[ks[0]]
    reading_a, reading_b = model_readings([first, second], pairs.true_match(first.grid).numpy(), seed)
    return CasResult(
        models=(first.model, second.model),
        revisions=(first.revision, second.revision),
        methods=(first.method, second.method),
        layers=(first.layers, second.layers),
        pairs=pairs.name,
        pairs_hash=first.pairs_hash,
        num_pairs=len(pairs),
        views=pairs.provenance.get("views", ""),
        k=ks[0],
        grid=first.grid,
        direction=first.direction,
        sinks="mask" if first.masked else "keep",
        seed=seed,
        raw=main.raw,
        position_free=main.position_free,
        readings=(reading_a, reading_b),
        curve=curve,
        heads=heads,
        mean_maps=(first.mean_map, second.mean_map),
    )


def model_readings(extractions: Sequence[Extraction], true_match: np.ndarray, seed: int) -> list[ModelReading]:
    """What each model does by itself.

    Args:
        extractions: at one k.
        true_match: see `extraction.truth_counts`.
        seed: of the bootstrap.
    """
    positions = scores(list(map(position_agreement, extractions)), list(map(chance, extractions)), seed)
    return [
        ModelReading(
            position=position,
            sinks=tuple(np.flatnonzero(extraction.sinks).tolist()),
            sink_share=extraction.sink_share,
            truth=truth(extraction, true_match, "raw"),
            position_free_truth=truth(extraction, true_match, "position_free"),
        )
        for extraction, position in zip(extractions, positions, strict=True)
    ]


def _heads(
    models: tuple[AttentionMapProvider, AttentionMapProvider], pairs: PairSet, config: CasConfig, grid: tuple[int, int]
) -> HeadScores:
    found = [extract_heads(model, pairs, config, grid) for model in models]

    def names(model: AttentionMapProvider) -> tuple[str, ...]:
        per_layer = model.num_heads // len(model.layers)
        return tuple(f"{layer}.{head}" for layer in model.layers for head in range(per_layer))

    def matrix(variant: str) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(agreement(a, b, variant).mean()) for b in found[1]) for a in found[0])

    return HeadScores((names(models[0]), names(models[1])), matrix("raw"), matrix("position_free"))
