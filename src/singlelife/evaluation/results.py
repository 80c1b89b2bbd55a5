"""The results of evaluations: data classes, their rows for `results.jsonl`, and their tables."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from singlelife._version import __version__
from singlelife.alignment.models import UNTRAINED, AttentionMapProvider
from singlelife.alignment.score import bootstrap
from singlelife.errors import EvaluationError, SingleLifeError
from singlelife.results import ResultRow, to_frame
from singlelife.text import aligned

if TYPE_CHECKING:
    import pandas

_TITLES = {"delta1": "δ1", "delta2": "δ2", "delta3": "δ3", "abs_rel": "AbsRel", "rmse": "RMSE m",
           "aepe": "AEPE px", "pck1": "PCK@1", "pck3": "PCK@3", "pck5": "PCK@5"}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """One metric of one model.

    Attributes:
        mean, std: over seeds (the standard deviation of a sample; 0 with one seed).
        low, high: 95% bootstrap interval over test items of the mean over seeds. Frames of one video are not
            independent, so it is too narrow for them.
        per_seed: value and interval (low, high) with each seed.
    """

    mean: float
    std: float
    low: float
    high: float
    per_seed: tuple[tuple[float, float, float], ...]

    @classmethod
    def of(cls, values: np.ndarray, seed: int = 0) -> "Measure":
        """From the values of test items, float (seeds, items); `seed` is the bootstrap's."""
        means = values.mean(axis=1)
        low, high = bootstrap(np.vstack([values.mean(axis=0), values]).T, seed)
        std = float(means.std(ddof=1)) if len(means) > 1 else 0.0
        per_seed = tuple(zip(means.tolist(), low[1:].tolist(), high[1:].tolist(), strict=True))
        return cls(float(values.mean()), std, float(low[0]), float(high[0]), per_seed)


@dataclass(frozen=True)
class ModelResult:
    """The measures of one model or baseline.

    Attributes:
        model: as the user named it, or the baseline's name.
        revision: identifies its weights; empty for a baseline without a model.
        measures: by metric.
        settings: of this model only, such as the blocks that its matches are read from.
        details: for correspondence, the errors of each pair.
    """

    model: str
    revision: str
    measures: dict[str, Measure]
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation, `"depth"` or `"correspondence"`.

    Attributes:
        protocol: its name and version, such as `"depth-nyu/1"`.
        data_hash: SHA-256 over the test items, pixels and truth.
        num_items: number of test items measured.
        settings: whatever else the numbers depend on.
        seeds: of the probes, or of the bootstrap.
        models: models, then baselines.
        failed, left_out: models and test items that could not be measured, and why.
        notes: remarks on the data for the reader.
    """

    task: str
    protocol: str
    data: str
    data_hash: str
    num_items: int
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    models: tuple[ModelResult, ...]
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    version: str = __version__

    def rows(self) -> list[ResultRow]:
        """A row for each model, metric and seed."""
        return [
            ResultRow(
                model=result.model, revision=result.revision, task=self.task, protocol=self.protocol, data=self.data,
                data_hash=self.data_hash, metric=metric, value=value, low=low, high=high, seed=seed,
                settings=self.settings | result.settings, version=self.version,
            )
            for result in self.models
            for metric, measure in result.measures.items()
            for seed, (value, low, high) in zip(self.seeds, measure.per_seed, strict=False)
        ]  # fmt: skip

    def to_frame(self) -> "pandas.DataFrame":
        """The rows as a frame with the columns of `ResultRow`."""
        return to_frame(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Tables for people."""
        settings = (
            f"{name} {value[:12] if name.endswith('hash') else value}" for name, value in self.settings.items()
        )
        lines = [
            f"{self.task} on {self.data}: {self.num_items:,} items ({self.data_hash[:12]}), protocol {self.protocol}",
            ", ".join(settings),
            *self.notes,
        ]
        if self.left_out:
            some = "; ".join(f"{item}: {why}" for item, why in list(self.left_out.items())[:3])
            lines.append(f"left out {len(self.left_out):,}, such as {some}")
        metrics = list(self.models[0].measures)
        small = [metric for metric in metrics if metric.endswith("_240")]
        lines += ["", self._table([metric for metric in metrics if metric not in small])]
        if small:
            lines += ["", "with images resized to 240x240", self._table(small)]
        if len(self.seeds) > 1:
            lines += ["", "± is the standard deviation over seeds of the probe."]
        return "\n".join(lines)

    def _table(self, metrics: Sequence[str]) -> str:
        names = [metric.removesuffix("_240") for metric in metrics]
        first, *others = [_TITLES.get(name, name) for name in names]
        rows = [["", first, "95% interval", *others]]
        for result in self.models:
            cells = []
            for metric in metrics:
                measure = result.measures[metric]
                cells.append(f"{measure.mean:.3f}" + (f" ± {measure.std:.3f}" if len(measure.per_seed) > 1 else ""))
            measure = result.measures[metrics[0]]
            rows.append([result.model, cells[0], f"{measure.low:.3f} to {measure.high:.3f}", *cells[1:]])
        return aligned(rows)


def measure_models(
    models: Sequence[str],
    load: Callable[[str], AttentionMapProvider],
    measure: Callable[[AttentionMapProvider], ModelResult],
    *,
    baselines: bool,
) -> tuple[list[ModelResult], dict[str, str]]:
    """Measure models one after the other, then, with `baselines`, an untrained one of each architecture.

    Returns:
        The results in order, untrained models last, and the errors of models that could not be measured.

    Raises:
        EvaluationError: the data cannot be used, or no model could be measured.
    """
    results: list[ModelResult] = []
    failed: dict[str, str] = {}
    untrained = [f"{UNTRAINED}{model}@0" for model in models if baselines and not model.startswith(UNTRAINED)]
    for spec in [*models, *untrained]:
        if spec.removeprefix(UNTRAINED).removesuffix("@0") in failed:
            continue
        try:
            model = load(spec)
            if spec not in untrained or model.revision not in {result.revision for result in results}:
                results.append(measure(model))
        except EvaluationError:
            raise
        except SingleLifeError as error:
            failed[spec] = str(error)
    if not results:
        raise EvaluationError("\n".join(failed.values()) or "Name at least one MODEL to evaluate.")
    return results, failed
