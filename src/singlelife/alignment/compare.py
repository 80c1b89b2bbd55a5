"""Two models on one pair set: everything that `singlelife cas` says."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from singlelife._version import __version__
from singlelife.alignment.attention import AttentionMapProvider
from singlelife.alignment.cas import Score, Truth, score
from singlelife.alignment.extraction import (
    VARIANTS,
    Extraction,
    agreement,
    attention_shares,
    chance,
    check_ks,
    extract,
    extract_heads,
    position_agreement,
    salience,
    truth,
)
from singlelife.alignment.pair_sets import PairSet
from singlelife.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEST_HEADS = 5  # pairs of heads that the table names


@dataclass(frozen=True)
class ModelReading:
    """What one model does on the pair set, with its logits as they are or position-free.

    Attributes:
        position: its score against the position map (raw logits only; None for position-free ones).
        truth: how often its top k holds the true match; None where no match is known.
    """

    position: Score | None
    truth: Truth | None


@dataclass(frozen=True)
class Sinks:
    """The source patches that a model looks at whatever the views show.

    Attributes:
        columns: which they are.
        share: of all its raw matches, before any are left out, that lie on them; 0 to 1.
    """

    columns: tuple[int, ...]
    share: float


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


@dataclass(frozen=True)
class CasResult:
    """The alignment of two models.

    Attributes:
        models: what the user called them.
        revisions, methods, layers: what their weights are, how their maps come about, and of which blocks.
        pairs, pairs_hash, num_pairs: the pair set, the SHA-256 of its pixels, its size.
        k: of the top k.
        grid: rows and columns of patches that were compared.
        direction: one of `extraction.DIRECTIONS`.
        sinks: `"keep"` or `"mask"`.
        raw, position_free: the scores.
        raw_salience, position_free_salience: what they would be by salient patches alone, see `extraction.salience`.
        raw_readings, position_free_readings: one for each model.
        model_sinks: one for each model, whether they were masked or not.
        curve: the scores at every k that was asked for, ascending.
        heads: of each pair of heads, if that was asked for.
        mean_maps: of each model's logits over the pair set, float32 (N, N).
        version: of singlelife.
    """

    models: tuple[str, str]
    revisions: tuple[str, str]
    methods: tuple[str, str]
    layers: tuple[tuple[int, ...], tuple[int, ...]]
    pairs: str
    pairs_hash: str
    num_pairs: int
    k: int
    grid: tuple[int, int]
    direction: str
    sinks: str
    raw: Score
    position_free: Score
    raw_salience: Score
    position_free_salience: Score
    raw_readings: tuple[ModelReading, ModelReading]
    position_free_readings: tuple[ModelReading, ModelReading]
    model_sinks: tuple[Sinks, Sinks]
    curve: tuple[ScoresAtK, ...]
    heads: HeadScores | None = None
    mean_maps: tuple[np.ndarray, np.ndarray] = field(repr=False, compare=False, kw_only=True)
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """All fields but the mean maps, as JSON has them."""
        fields = asdict(self)
        del fields["mean_maps"]
        return fields

    def save(self, folder: str | Path) -> None:
        """Write result.json, and the mean maps as mean_maps.safetensors (`a` and `b`), into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        maps = dict(zip("ab", self.mean_maps, strict=True))
        about = {"pairs_hash": self.pairs_hash, "a": self.revisions[0], "b": self.revisions[1]}
        with atomic_write(folder / "mean_maps.safetensors") as aside:
            aside.write_bytes(save(maps, metadata=about))
        with atomic_write(folder / "result.json") as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        names = [f"A  {self.models[0]}", f"B  {self.models[1]}"]
        settings = [] if self.direction == "target-source" else [f"direction {self.direction}"]
        settings += [] if self.sinks == "keep" else [f"sinks masked: {self._sink_counts()}"]
        lines = [
            *names,
            f"on {self.num_pairs} pairs of {self.pairs} ({self.pairs_hash[:12]}), top {self.k} of "
            f"{self.grid[0] * self.grid[1]} patches, chance {self.raw.chance:.3f}",
            *settings,
            "",
            f"{'':<34}{'raw':>22}{'position-free':>22}",
        ]
        lines += [self._row(*row) for row in self._rows()]
        return "\n".join([*lines, *self._curve_lines(), *self._head_lines(), "", self.reading()])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name.strip())}</td>"
            + "".join(f"<td>{_text(value)}</td>" for value in values)
            + "</tr>"
            for name, *values in self._rows()
        )
        a, b, pairs, reading = (html.escape(text) for text in (*self.models, self.pairs, self.reading()))
        return (
            f"<p><b>A</b> {a}<br><b>B</b> {b}<br>on {self.num_pairs} pairs of {pairs} "
            f"(<code>{self.pairs_hash[:12]}</code>), top {self.k} of {self.grid[0] * self.grid[1]} patches, "
            f"chance {self.raw.chance:.3f}</p><table><tr><th></th><th>raw</th><th>position-free</th></tr>{rows}"
            f"</table><p>{reading}</p>"
        )

    def plot(self) -> "Figure":
        """The scores with their intervals, and chance; against k if several were asked for."""
        import matplotlib.pyplot as plt  # takes a second to import, and tells notebooks how to show a figure

        figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
        plt.close(figure)  # else a notebook would show it twice
        if len(self.curve) > 1:
            ks = [each.k for each in self.curve]
            for variant, name in zip(VARIANTS, ("raw", "position-free"), strict=True):
                scores = [getattr(each, variant) for each in self.curve]
                axes.plot(ks, [each.cas for each in scores], marker="o", label=name)
                axes.fill_between(ks, [each.low for each in scores], [each.high for each in scores], alpha=0.2)
            axes.plot(ks, [each.raw.chance for each in self.curve], "k:", label="chance")
            axes.set(xlabel="k", xscale="log", xticks=ks, xticklabels=list(map(str, ks)))
            axes.minorticks_off()
        else:
            positions = [reading.position for reading in self.raw_readings]
            named = {"raw": self.raw, "position-free": self.position_free, "A, position": positions[0]}
            named |= {"B, position": positions[1]}
            for name, each in named.items():
                assert each is not None
                error = [[max(each.cas - each.low, 0)], [max(each.high - each.cas, 0)]]
                axes.bar(name, each.cas, yerr=error, capsize=4)
            axes.axhline(self.raw.chance, color="k", linestyle=":", label="chance")
        axes.set(ylabel="CAS", ylim=(0, 1))
        axes.set_title(" and ".join(Path(model).name for model in self.models))
        axes.legend()
        return figure

    def reading(self) -> str:
        """The scores in a sentence."""
        position = min(reading.position.cas for reading in self.raw_readings if reading.position)
        sentence = (
            f"A and B agree on {self.raw.cas:.0%} of matches; {self.raw.chance:.0%} would be chance, and the less "
            f"place-bound of them agrees with mere position on {position:.0%}. Without each model's habits of place "
            f"they agree on {self.position_free.cas:.0%}; looking at the same salient patches, from wherever, "
            f"would give {self.position_free_salience.cas:.0%}."
        )
        truths = [reading.truth for reading in self.position_free_readings]
        large_shifts = [truth.large_shifts for truth in truths if truth and truth.large_shifts is not None]
        if len(large_shifts) < 2:
            return sentence
        shares = " and ".join(f"{share:.0%}" for share in large_shifts)
        return f"{sentence} Where the view shifts far, their top {self.k} hold the true match for {shares} of patches."

    def _rows(self) -> list[tuple[str, Any, Any]]:
        """The table: a name, the raw value, the position-free one."""
        rows: list[tuple[str, Any, Any]] = [
            ("CAS of A and B", self.raw.cas, self.position_free.cas),
            ("  95% interval", _interval(self.raw), _interval(self.position_free)),
            ("  adjusted for chance", self.raw.adjusted, self.position_free.adjusted),
            ("  by salient patches alone", self.raw_salience.cas, self.position_free_salience.cas),
        ]
        for letter, reading in zip("AB", self.raw_readings, strict=True):
            rows.append((f"{letter} against the position map", reading.position and reading.position.cas, None))
        for letter, sinks in zip("AB", self.model_sinks, strict=True):
            if sinks.columns:
                rows.append((f"{letter}: matches on {len(sinks.columns)} sinks", sinks.share, None))
        for index, letter in enumerate("AB"):
            raw, free = self.raw_readings[index].truth, self.position_free_readings[index].truth
            if raw and free:
                rows.append((f"{letter}: true match in the top {self.k}", raw.matches, free.matches))
                rows.append(("  at large shifts", raw.large_shifts, free.large_shifts))
        return rows

    def _curve_lines(self) -> list[str]:
        if len(self.curve) < 2:
            return []
        return ["", "CAS against k"] + [
            self._row(f"k = {each.k}, chance {each.raw.chance:.3f}", each.raw.cas, each.position_free.cas)
            for each in self.curve
        ]

    def _head_lines(self) -> list[str]:
        if not self.heads:
            return []
        raw, free = np.array(self.heads.raw), np.array(self.heads.position_free)
        best = np.dstack(np.unravel_index(np.argsort(-free, axis=None, kind="stable"), free.shape))[0][:_BEST_HEADS]
        return [
            "",
            "Each head of A with each of B (layer.head)",
            self._row("mean over pairs of heads", raw.mean(), free.mean()),
            self._row("mean over A, of its best in B", raw.max(axis=1).mean(), free.max(axis=1).mean()),
            *(self._row(f"  {self.heads.names[0][a]} and {self.heads.names[1][b]}", raw[a, b], free[a, b])
              for a, b in best),
        ]  # fmt: skip

    def _sink_counts(self) -> str:
        return " and ".join(
            f"{len(each.columns)} of {letter}" for letter, each in zip("AB", self.model_sinks, strict=True)
        )

    @staticmethod
    def _row(name: str, raw: Any, free: Any) -> str:
        return f"{name:<34}{_text(raw):>22}{_text(free):>22}"


def _interval(score: Score) -> str:
    return f"{score.low:.3f} to {score.high:.3f}"


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.3f}"


def coarser(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The grid that models of these grids are compared on."""
    return min(grids, key=lambda grid: grid[0] * grid[1])


def compare(
    model_a: AttentionMapProvider,
    model_b: AttentionMapProvider,
    pairs: PairSet,
    *,
    k: int | Sequence[int] = 5,
    direction: str = "target-source",
    sinks: str = "keep",
    heads: str = "mean",
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> CasResult:
    """Score two models against each other, against the position map, and against the truth where it is known.

    Models of different grids are compared on the coarser one.

    Args:
        k: from 1 to the number of patches compared. Of several, the first is the one that all is said of, and the
            scores at the others are added.
        direction, sinks: see `extraction.extract`.
        heads: `"mean"` over them, or `"each"` of A with each of B too, at the first k.
        seed: of the bootstrap.

    Raises:
        PairSetError: k is out of range.
        CheckpointError: a model's logits are not finite.
    """
    ks = [k] if isinstance(k, int) else list(k)
    models = (model_a, model_b)
    grid = coarser([model.grid for model in models])
    check_ks(ks, grid)
    settings: dict[str, Any] = {
        "grid": grid,
        "direction": direction,
        "sinks": sinks,
        "batch_size": batch_size,
        "progress": progress,
    }
    by_k = [extract(model, pairs, sorted(set(ks)), **settings) for model in models]
    return compare_extractions(
        by_k[0],
        by_k[1],
        pairs,
        ks=ks,
        heads=_heads(models, pairs, ks[0], settings) if heads == "each" else None,
        seed=seed,
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
    """`compare` of two models that were run on the pairs before.

    Args:
        a, b: by k, of one grid and one setting.
        ks: of these, the first is the one that all is said of.
        heads: of the two models, if they were scored.
        seed: of the bootstrap.
    """
    curve = tuple(ScoresAtK(each, *_scores(a[each], b[each], seed)) for each in sorted(set(ks)))
    (main,) = (each for each in curve if each.k == ks[0])
    first, second = a[ks[0]], b[ks[0]]
    true_match = pairs.true_match(first.grid).numpy()

    def readings(variant: str) -> tuple[ModelReading, ModelReading]:
        def reading(extraction: Extraction) -> ModelReading:
            position = score(position_agreement(extraction), chance(extraction), seed) if variant == "raw" else None
            return ModelReading(position, truth(extraction, true_match, variant))

        return reading(first), reading(second)

    by_salience = [
        score(
            salience(attention_shares(first, variant), attention_shares(second, variant), ks[0]),
            main.raw.chance,
            seed,
        )
        for variant in VARIANTS
    ]
    return CasResult(
        models=(first.model, second.model),
        revisions=(first.revision, second.revision),
        methods=(first.method, second.method),
        layers=(first.layers, second.layers),
        pairs=pairs.name,
        pairs_hash=first.pairs_hash,
        num_pairs=len(pairs),
        k=ks[0],
        grid=first.grid,
        direction=first.direction,
        sinks="mask" if first.masked else "keep",
        raw=main.raw,
        position_free=main.position_free,
        raw_salience=by_salience[0],
        position_free_salience=by_salience[1],
        raw_readings=readings("raw"),
        position_free_readings=readings("position_free"),
        model_sinks=(_sinks(first), _sinks(second)),
        curve=curve,
        heads=heads,
        mean_maps=(first.mean_map, second.mean_map),
    )


def _scores(a: Extraction, b: Extraction, seed: int) -> tuple[Score, Score]:
    raw, free = (score(agreement(a, b, variant), chance(a, b), seed) for variant in VARIANTS)
    return raw, free


def _sinks(extraction: Extraction) -> Sinks:
    return Sinks(tuple(np.flatnonzero(extraction.sinks).tolist()), extraction.sink_share)


def _heads(
    models: tuple[AttentionMapProvider, AttentionMapProvider], pairs: PairSet, k: int, settings: dict[str, Any]
) -> HeadScores:
    found = [extract_heads(model, pairs, k, **settings) for model in models]

    def names(model: AttentionMapProvider) -> tuple[str, ...]:
        per_layer = model.num_heads // len(model.layers)
        return tuple(f"{layer}.{head}" for layer in model.layers for head in range(per_layer))

    def matrix(variant: str) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(agreement(a, b, variant).mean()) for b in found[1]) for a in found[0])

    return HeadScores((names(models[0]), names(models[1])), matrix("raw"), matrix("position_free"))
