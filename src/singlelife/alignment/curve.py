"""How alignment emerges over steps or hours: `singlelife.cas_curve`, and what `singlelife cas --curve` prints."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from singlelife.alignment.comparison import cas_matrix
from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.matrix import (
    AlignmentResult,
    CasMatrix,
    ModelReading,
    failure_lines,
    model_table,
    score_table,
)
from singlelife.alignment.null import CentredScore
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import Score
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, RunError
from singlelife.files import read_yaml
from singlelife.results import ResultRow

UNITS = {"step": "optimiser steps", "hours": "hours of life"}
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Against:
    """One model against the reference.

    Attributes:
        at: its step, or its hours of life; None for a control.
        centred, raw: the scores.
        reading: the scores of the model alone.
    """

    model: str
    at: float | None
    centred: CentredScore
    raw: Score
    reading: ModelReading


@dataclass(frozen=True, kw_only=True)
class CasCurve(AlignmentResult):
    """How the alignment with a reference grows.

    Attributes:
        reference: the model that all others are compared with.
        by: whether the points differ in steps or hours.
        points: ascending.
        controls: models that should not align.
        emerged: for `"raw"`, the step or hours from which its interval stays above chance and the intervals of the
            controls; for `"centred"`, the same with its excess above 0; None if it never does.
        failed: the errors of models that could not be compared, by model.
    """

    reference: str
    by: Literal["step", "hours"]
    points: tuple[Against, ...]
    controls: tuple[Against, ...]
    emerged: dict[str, float | None]
    failed: dict[str, str]

    def rows(self) -> list[ResultRow]:
        """For each point and control: both scores against the reference, then the scores of the model alone."""
        found = []
        for each in (*self.controls, *self.points):
            model = self.models.index(each.model)
            found += self._score_rows(self.k, model, self.models.index(self.reference), each.raw, each.centred)
            found += self._reading_rows(self.k, model, each.reading)
        return found

    def sentence(self, variant: str) -> str:
        """Where a score emerges, in words."""
        over = {"raw": "chance", "centred": "its null"}[variant] + (" and the controls" if self.controls else "")
        found = self.emerged[variant]
        if found is None:
            return f"does not clear {over}"
        return f"clears {over} from {found:,.6g} {UNITS[self.by]} on"

    def __str__(self) -> str:
        shown = (*self.points, *self.controls)
        named = {f"control {each.model}" if each.at is None else f"{each.at:,.6g}": each for each in shown}
        parts = [
            f"against {self.reference} on {self._title()}, by {UNITS[self.by]}",
            score_table({name: (each.raw, each.centred) for name, each in named.items()}),
            model_table({name: each.reading for name, each in named.items()}),
            f"centred  {self.sentence('centred')}\nraw      {self.sentence('raw')}",
        ]
        return self._text(*parts, failed=self.failed)


def cas_curve(
    runs: str | Path | Sequence[str | Path],
    reference: str | Path,
    config: CasConfig | None = None,
    *,
    controls: Sequence[str | Path] = (),
    pairs: str | Path | PairSet | None = None,
    **overrides: Any,
) -> CasCurve:
    """How alignment with a reference grows over the checkpoints of one run, or over runs on more and more hours:

        cas_curve("runs/sim_1", "runs/sim_2", controls=["runs/sim_still"], pairs="sim_test")

    Args:
        runs: the folder of one run, to score each saved checkpoint; or the folders of runs that were trained on
            different `--hours`, to score their finished models.
        reference: the model to compare them with, such as one of another life.
        config: the settings; the defaults of `CasConfig` if not given.
        controls: models that should not align, such as an untrained one and one of a still camera. The curve should
            clear their scores.
        pairs: replaces the setting: what `--pairs` takes, or a pair set.
        overrides: settings of `CasConfig` by name.

    Raises:
        SingleLifeError: a folder is no run, the runs do not differ in hours, or the reference cannot be compared.
    """
    by, at = models_of_runs([runs] if isinstance(runs, str | Path) else runs)
    found = cas_matrix([reference, *controls, *at], config, pairs=pairs, **overrides)
    return curve_of(found, str(reference), by, at)


def curve_of(matrix: CasMatrix, reference: str, by: Literal["step", "hours"], at: Mapping[str, float]) -> CasCurve:
    """The scores of a matrix with one of its models, the reference.

    Args:
        by: whether the points differ in steps or hours.
        at: the step or hours of each model on the curve, ascending. All other models are controls.

    Raises:
        CheckpointError: the reference failed, or all models of the curve did.
    """
    if reference in matrix.failed:
        raise CheckpointError(f"The reference {reference} cannot be used: {matrix.failed[reference]}")
    column = matrix.models.index(reference)

    def against(model: str) -> Against:
        row = matrix.models.index(model)
        centred, raw = (getattr(matrix.main, variant).cell(row, column) for variant in ("centred", "raw"))
        return Against(model, at.get(model), centred, raw, matrix.main.readings[row])

    points = tuple(against(model) for model in at if model in matrix.models)
    if not points:
        raise CheckpointError(f"No model of the curve can be compared.\n{failure_lines(matrix.failed)}")
    controls = tuple(against(model) for model in matrix.models if model != reference and model not in at)
    return CasCurve(
        **{each.name: getattr(matrix, each.name) for each in fields(AlignmentResult)},
        reference=reference,
        by=by,
        points=points,
        controls=controls,
        emerged={variant: emerged(points, controls, variant) for variant in VARIANTS},
        failed=matrix.failed,
    )


def emerged(points: Sequence[Against], controls: Sequence[Against], variant: str) -> float | None:
    """The step or hours from which all intervals lie above chance (or the null) and the intervals of all controls."""

    def bounds(point: Against) -> tuple[float, float]:
        score: Score = getattr(point, variant)
        if isinstance(score, CentredScore):
            return score.excess_low, score.excess_high
        return score.low - score.chance, score.high - score.chance

    level = max([0.0, *(bounds(control)[1] for control in controls)])
    first = None
    for point in reversed(points):
        if not bounds(point)[0] > level:
            break
        first = point.at
    return first


def models_of_runs(runs: Sequence[str | Path]) -> tuple[Literal["step", "hours"], dict[str, float]]:
    """The checkpoints of one run by their step, or the finished models of several runs by the hours of life that each
    learnt from.

    Returns:
        `"step"` or `"hours"`, and the steps or hours of each model, ascending, by its folder.

    Raises:
        RunError: a folder is no run, has no model, or the runs do not differ in `--hours`.
    """
    found = {Path(run): _read_run(Path(run)) for run in runs}
    if len(found) == 1:
        ((checkpoints, _),) = found.values()
        return "step", {str(path): float(step) for step, path in sorted(checkpoints.items())}
    hours = {folder: each for folder, (_, each) in found.items() if each is not None}
    if len(set(hours.values())) < len(runs):
        given = ", ".join(f"{folder}: {hours.get(folder, 'not known')}" for folder in found)
        raise RunError(f"A curve over several runs needs different, known --hours of life, not {given}.")
    last = {str(max(found[folder][0].items())[1]): each for folder, each in hours.items()}
    return "hours", dict(sorted(last.items(), key=lambda item: item[1]))


def _read_run(run: Path) -> tuple[dict[int, Path], float | None]:
    """The checkpoints of a run by step, the last being the finished model in the run's folder, and the hours of life
    that it learnt from: its setting `hours`, otherwise the life's own by life.json, otherwise None."""
    config, life = run / "config.yaml", run / "life.json"
    settings = read_yaml(config) if config.is_file() else {}
    if not isinstance(settings.get("max_steps"), int):
        raise RunError(f"{run} is not the folder of a run: it has no config.yaml with max_steps.")
    found = {int(match[1]): path for path in run.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}
    if (run / "model.safetensors").is_file() or (run / "model.safetensors.index.json").is_file():
        found[settings["max_steps"]] = run
    if not found:
        raise RunError(f"{run} holds no checkpoint yet; its training saves one every --save-steps.")
    hours = settings.get("hours")
    if hours is None and life.is_file():
        hours = json.loads(life.read_text(encoding="utf-8")).get("hours")
    return found, hours if hours is None else float(hours)
