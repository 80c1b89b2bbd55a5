"""Alignment as it emerges: `singlelife.cas_curve`, and what `singlelife cas --curve` prints.

The scores of one run's checkpoints, or of runs on more and more hours of life, against a reference, beside those of
controls.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.matrix import CasMatrix, Failure, cas_matrix
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import Score
from singlelife.alignment.settings import CasConfig
from singlelife.alignment.tables import AlignmentResult, ModelReading, failures, number, score_columns
from singlelife.errors import CheckpointError, RunError
from singlelife.files import read_yaml
from singlelife.results import ResultRow
from singlelife.text import aligned

UNITS = {"step": "optimiser steps", "hours": "hours of life"}
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Against:
    """One model against the reference.

    Attributes:
        at: its step, or its hours of life; None for a control.
        raw, position_free: the scores.
        reading: what it does by itself.
    """

    model: str
    at: float | None
    raw: Score
    position_free: Score
    reading: ModelReading


@dataclass(frozen=True)
class Emerged:
    """Where a score first clears the controls.

    Attributes:
        at: the first step, or hours, at which the interval lies above chance and above all intervals of the controls.
        lasting: at all later ones it does too.
    """

    at: float
    lasting: bool


@dataclass(frozen=True, kw_only=True)
class CasCurve(AlignmentResult):
    """How the alignment with a reference grows. `models` are the reference, the controls and the points.

    Attributes:
        by: what the points differ in.
        points: ascending.
        controls: models that should not align.
        emerged: for `"raw"` and `"position_free"`; None where it does not.
        failed: those that could not be compared.
    """

    by: Literal["step", "hours"]
    points: tuple[Against, ...]
    controls: tuple[Against, ...]
    emerged: dict[str, Emerged | None]
    failed: tuple[Failure, ...] = ()

    @property
    def reference(self) -> str:
        """What all others are compared with."""
        return self.models[0]

    def rows(self) -> list[ResultRow]:
        """For each point and control: raw and position-free against the reference, then the model by itself."""
        found = []
        for each in (*self.controls, *self.points):
            model = self.models.index(each.model)
            found += [self._score_row(variant, getattr(each, variant), self.k, model, 0) for variant in VARIANTS]
            found += self._reading_rows(each.reading, self.k, model)
        return found

    def sentence(self, variant: str) -> str:
        """Where a score emerges, in words."""
        over = "chance and the controls" if self.controls else "chance"
        found = self.emerged[variant]
        if found is None:
            return f"does not clear {over}"
        at = f"step {found.at:,.0f}" if self.by == "step" else f"{found.at:,.4g} {UNITS[self.by]}"
        return f"clears {over} from {at} on" if found.lasting else f"first clears {over} at {at}, but not at all later"

    def __str__(self) -> str:
        rows = [[UNITS[self.by], "CAS, raw", "95% interval", "corrected", "CAS, free", "95% interval", "corrected",
                 "position map", "large shifts (free)"]]  # fmt: skip
        for each in (*self.points, *self.controls):
            name = f"control {each.model}" if each.at is None else f"{each.at:,.0f}"
            name = f"{each.at:,.4g}" if each.at is not None and self.by == "hours" else name
            truth = each.reading.position_free_truth
            scores = [*score_columns(each.raw), *score_columns(each.position_free)]
            rows.append([name, *scores, number(each.reading.position.cas), number(truth and truth.large_shifts)])
        if not any(row[-1] for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        parts = [
            f"against {self.reference} on {self._title()}, chance {self.points[0].raw.chance:.3f}",
            aligned(rows),
            f"raw            {self.sentence('raw')}\nposition-free  {self.sentence('position_free')}",
        ]
        if self.failed:
            parts.append(failures([(each.model, each.error) for each in self.failed]))
        return "\n\n".join(parts)


def cas_curve(
    runs: str | Path | Sequence[str | Path],
    reference: str | Path,
    config: CasConfig | None = None,
    *,
    controls: Sequence[str | Path] = (),
    pairs: str | Path | PairSet | None = None,
    **overrides: Any,
) -> CasCurve:
    """How alignment with a reference grows: over the checkpoints of one run, or over runs on more and more hours:

        cas_curve("runs/sim_1", "runs/sim_2", controls=["runs/sim_still"], pairs="sim_test")

    Args:
        runs: the folder of one, whose every saved checkpoint is scored, or of several that were trained on different
            `--hours`, whose finished models are.
        reference: what they are compared with, such as a model of another life.
        config: the settings; the defaults of `CasConfig` if not given.
        controls: models that should not align, such as an untrained one and one of a still camera: what their scores
            reach is the level to clear.
        pairs: instead of the setting: what `--pairs` takes, or a pair set.
        overrides: settings of `CasConfig` by name.

    Raises:
        SingleLifeError: a folder is no run, the runs do not differ in hours, or the reference cannot be compared.
    """
    config = CasConfig.of(config, **overrides)
    by, models = models_of_runs([runs] if isinstance(runs, str | Path) else runs)
    names = [str(control) for control in controls]
    return curve_of(lambda all_of: cas_matrix(all_of, config, pairs=pairs), by, models, str(reference), names)


def curve_of(
    align: Callable[[Sequence[str]], CasMatrix],
    by: Literal["step", "hours"],
    models: Mapping[str, float],
    reference: str,
    controls: Sequence[str] = (),
) -> CasCurve:
    """Compare models with a reference.

    Args:
        align: compares models of these names.
        by: what the models differ in.
        models: where each stands.
        reference: what they are compared with.
        controls: models that should not align with it.

    Raises:
        CheckpointError: the reference cannot be used, is among the others, or none of the models can be compared.
    """
    named = [reference, *controls, *models]
    if len(set(named)) < len(named):
        raise CheckpointError("The reference, the controls and the models of the curve should be different ones.")
    found = align(named)
    errors = {each.model: each.error for each in found.failed}
    if reference in errors:
        raise CheckpointError(f"The reference {reference} cannot be used: {errors[reference]}")
    of_reference = found.models.index(reference)

    def against(model: str, at: float | None) -> Against:
        index = found.models.index(model)
        raw, free = (getattr(found.main, variant).cell(index, of_reference) for variant in VARIANTS)
        return Against(model, at, raw, free, found.main.readings[index])

    points = tuple(against(model, at) for model, at in models.items() if model not in errors)
    if not points:
        reasons = "\n".join(f"  {model}: {error}" for model, error in errors.items())
        raise CheckpointError(f"None of the models of the curve can be compared:\n{reasons}")
    against_controls = tuple(against(model, None) for model in controls if model not in errors)
    return CasCurve(
        models=found.models,
        revisions=found.revisions,
        methods=found.methods,
        layers=found.layers,
        pairs=found.pairs,
        pairs_hash=found.pairs_hash,
        num_pairs=found.num_pairs,
        views=found.views,
        k=found.k,
        grid=found.grid,
        direction=found.direction,
        sinks=found.sinks,
        seed=found.seed,
        by=by,
        points=points,
        controls=against_controls,
        emerged={variant: emerged(points, against_controls, variant) for variant in VARIANTS},
        failed=found.failed,
    )


def emerged(points: Sequence[Against], controls: Sequence[Against], variant: str) -> Emerged | None:
    """The first point whose interval lies above chance and above those of all controls."""
    level = max([getattr(control, variant).high for control in controls], default=0.0)
    scores = [getattr(point, variant) for point in points]
    clear = [score.low > max(level, score.chance) for score in scores]
    if not any(clear):
        return None
    first = clear.index(True)
    at = points[first].at
    assert at is not None
    return Emerged(at, all(clear[first:]))


def models_of_runs(runs: Sequence[str | Path]) -> tuple[Literal["step", "hours"], dict[str, float]]:
    """The checkpoints of one run by their step, or the finished models of several runs by the hours of life that each
    learnt from.

    Returns:
        `"step"` or `"hours"`, and where each model stands, ascending, by its folder.

    Raises:
        RunError: a folder is no run, has no model, or the runs do not differ in `--hours`.
    """
    folders = [Path(run) for run in runs]
    if len(folders) == 1:
        return "step", {str(path): float(step) for step, path in sorted(_checkpoints(folders[0]).items())}
    hours = {folder: _hours(folder) for folder in folders}
    if len(set(hours.values())) < len(folders):
        given = ", ".join(f"{folder}: {each:g}" for folder, each in hours.items())
        raise RunError(
            f"A curve over several runs is a curve over hours of life, and these runs do not all differ in hours "
            f"({given}). Train with --hours; for a curve over the steps of one run, give that run alone."
        )
    finished = {folder: sorted(_checkpoints(folder).items())[-1][1] for folder in folders}
    return "hours", {str(finished[folder]): hours[folder] for folder in sorted(folders, key=hours.__getitem__)}


def _checkpoints(run: Path) -> dict[int, Path]:
    """By step; the finished model, in the run's folder, is the last of them."""
    settings = _settings(run)
    found = {int(match[1]): path for path in run.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}
    if (run / "model.safetensors").is_file() or (run / "model.safetensors.index.json").is_file():
        found[int(settings["max_steps"])] = run
    if not found:
        raise RunError(f"{run} holds no checkpoint yet; its training saves one every --save-steps.")
    return found


def _hours(run: Path) -> float:
    """How many hours of its life a run learnt from; of all of it, as life.json has them."""
    hours = _settings(run).get("hours")
    if hours is None:
        try:
            hours = json.loads((run / "life.json").read_text(encoding="utf-8"))["hours"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{run} learnt from all of its life, and has no life.json that says how long that is. "
                "Leave it out, or train it with --hours."
            ) from error
    return float(hours)


def _settings(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise RunError(f"{run} is not the folder of a run: it has no config.yaml.")
    settings = read_yaml(path)
    if not isinstance(settings.get("max_steps"), int):
        raise RunError(f"{path} does not belong to a training run: it has no max_steps.")
    return settings
