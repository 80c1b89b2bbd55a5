"""What every alignment result has: the facts of its measurement, its rows of the results table, JSON and text."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from singlelife._version import __version__
from singlelife.alignment.score import Score, Truth
from singlelife.files import atomic_write
from singlelife.results import ResultRow, to_frame

if TYPE_CHECKING:
    import pandas

PROTOCOL = "cas/1"
_NOT_IN_JSON = ("mean_maps", "per_pair", "num_run")


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

    def tensors(self) -> dict[str, np.ndarray]:
        """What is too long for JSON, by name."""
        return {}

    def to_frame(self) -> "pandas.DataFrame":
        """`rows` as a frame with the columns of `ResultRow`."""
        return to_frame(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """All fields but long arrays, as JSON has them: NaN is null."""
        return plain(self)

    def save(self, folder: str | Path) -> None:
        """Write `to_dict` as result.json and `tensors` as result.safetensors into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if tensors := self.tensors():
            with atomic_write(folder / "result.safetensors") as aside:
                aside.write_bytes(save(tensors, metadata={"pairs_hash": self.pairs_hash}))
        with atomic_write(folder / "result.json") as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def _title(self) -> str:
        """The pair set and the settings, in a line."""
        settings = [] if self.direction == "target-source" else [f", {self.direction}"]
        settings += [] if self.sinks == "keep" else [", sinks masked"]
        return (
            f"{self.num_pairs} pairs of {self.pairs} ({self.pairs_hash[:12]}), top {self.k} of {self.num_patches} "
            f"patches{''.join(settings)}"
        )

    def _score_row(self, metric: str, score: Score, k: int, model: int, reference: int | None = None) -> ResultRow:
        settings = {"k": k, "num_patches": self.num_patches, "chance": score.chance, **self._of_model(model)}
        if reference is not None:
            other = self._of_model(reference) | {"revision": self.revisions[reference]}
            settings |= {f"reference_{name}": value for name, value in other.items()}
        return self._row(metric, model, reference, settings, score.cas, score.low, score.high)

    def _reading_rows(self, reading: ModelReading, k: int, model: int) -> list[ResultRow]:
        """What a model does by itself."""
        rows = [self._score_row("position_raw", reading.position, k, model)]
        settings = {"k": k, "num_patches": self.num_patches, "chance": k / self.num_patches, **self._of_model(model)}
        truths = {"true_match_raw": reading.truth, "true_match_position_free": reading.position_free_truth}
        for metric, truth in truths.items():
            if truth:
                rows.append(self._row(metric, model, None, settings, truth.matches))
                if truth.large_shifts is not None:
                    rows.append(self._row(f"{metric}_large_shifts", model, None, settings, truth.large_shifts))
        return rows

    def _of_model(self, model: int) -> dict[str, Any]:
        return {"method": self.methods[model], "layers": list(self.layers[model])}

    def _row(
        self,
        metric: str,
        model: int,
        reference: int | None,
        settings: Mapping[str, Any],
        value: float,
        low: float | None = None,
        high: float | None = None,
    ) -> ResultRow:
        measured = {"direction": self.direction, "sinks": self.sinks, "views": self.views}
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
            settings={**settings, **measured},
            version=self.version,
        )


def number(value: Any) -> str:
    """A number for a table; nothing where there is none."""
    if value is None or isinstance(value, str):
        return value or ""
    return "" if np.isnan(value) else f"{value:.3f}"


def interval(score: Score) -> str:
    """A 95% interval for a table."""
    return f"{score.low:.3f} to {score.high:.3f}"


def score_columns(score: Score) -> list[str]:
    """A score, its interval, and the chance-corrected score."""
    return [number(score.cas), interval(score), number(score.chance_corrected)]


def failures(failed: Sequence[tuple[str, str]]) -> str:
    """The models that could not be compared, each with its error."""
    return "\n".join(["could not be compared", *(f"  {model}: {error}" for model, error in failed)])


def plain(value: Any) -> Any:
    """Dataclasses, arrays and NaN as JSON has them; without what is too long for it."""
    if hasattr(value, "__dataclass_fields__"):
        names = [name for name in value.__dataclass_fields__ if name not in _NOT_IN_JSON]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return None if np.isnan(value) else float(value)
    return value
