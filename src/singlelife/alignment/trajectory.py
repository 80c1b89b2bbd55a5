"""Alignment as it emerges: the scores of one run's checkpoints, or of runs on more and more hours of life, against a
reference, beside those of controls."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singlelife._version import __version__
from singlelife.alignment.cas import Score
from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.matrix import CasMatrix, Failure, ModelReading, plain
from singlelife.errors import CheckpointError
from singlelife.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {"step": "optimiser steps", "hours": "hours of life"}


@dataclass(frozen=True)
class Against:
    """One model against the reference.

    Attributes:
        at: its step, or its hours of life; None for a control.
        raw, position_free: the scores.
        reading: what it does by itself.
    """

    model: str
    revision: str
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


@dataclass(frozen=True)
class CasCurve:
    """How the alignment with a reference grows.

    Attributes:
        by: `"step"` or `"hours"`.
        reference, reference_revision: what all are compared with.
        points: ascending.
        controls: models that should not align.
        emerged: for `"raw"` and `"position_free"`; None where it does not.
        pairs, pairs_hash, num_pairs, k, grid, direction, sinks: see `CasMatrix`.
        failed: those that could not be compared.
    """

    by: str
    reference: str
    reference_revision: str
    points: tuple[Against, ...]
    controls: tuple[Against, ...]
    emerged: dict[str, Emerged | None]
    pairs: str
    pairs_hash: str
    num_pairs: int
    k: int
    grid: tuple[int, int]
    direction: str
    sinks: str
    failed: tuple[Failure, ...] = field(default=())
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return plain(self)

    def plot(self) -> "Figure":
        """The scores with their intervals, chance, the controls, and where it emerges."""
        import matplotlib.pyplot  # noqa: F401  tells notebooks how to show a figure

        from singlelife.alignment.plots.trajectory import draw_trajectory

        return draw_trajectory(self)

    def save(self, folder: str | Path) -> None:
        """Write trajectory.json and trajectory.png into a folder."""
        from singlelife.alignment.plots.style import write
        from singlelife.alignment.plots.trajectory import draw_trajectory

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "trajectory.json") as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write(draw_trajectory(self), folder / "trajectory.png")

    def sentence(self, variant: str) -> str:
        """Where a score emerges, in words."""
        over = "chance and the controls" if self.controls else "chance"
        found = self.emerged[variant]
        if found is None:
            return f"does not clear {over}"
        at = f"step {found.at:,.0f}" if self.by == "step" else f"{found.at:,.4g} {UNITS[self.by]}"
        return f"clears {over} from {at} on" if found.lasting else f"first clears {over} at {at}, but not at all later"

    def __str__(self) -> str:
        from singlelife.alignment.trajectory_text import text

        return text(self)


def trajectory(
    align: Callable[[Sequence[str]], CasMatrix],
    by: str,
    models: Mapping[str, float],
    reference: str,
    controls: Sequence[str] = (),
) -> CasCurve:
    """Compare models with a reference.

    Args:
        align: compares models of these names.
        by: `"step"` or `"hours"`.
        models: where each stands.
        reference: what they are compared with.
        controls: models that should not align with it.

    Raises:
        CheckpointError: the reference cannot be used, is among the others, or none of the models can be compared.
    """
    named = [reference, *controls, *models]
    if len(set(named)) < len(named):
        raise CheckpointError("The reference, the controls and the models to follow should be different ones.")
    found = align(named)
    errors = {each.model: each.error for each in found.failed}
    if reference in errors:
        raise CheckpointError(f"The reference {reference} cannot be used: {errors[reference]}")

    def against(model: str, at: float | None) -> Against:
        index, of_reference = found.models.index(model), found.models.index(reference)

        def score(variant: str) -> Score:
            matrix = getattr(found.main, variant)
            cas, chance, adjusted, low, high = (
                float(getattr(matrix, name)[index, of_reference])
                for name in ("cas", "chance", "adjusted", "low", "high")
            )
            return Score(cas, chance, None if chance >= 1 else adjusted, low, high)

        raw, free = (score(variant) for variant in VARIANTS)
        return Against(model, found.revisions[index], at, raw, free, found.main.readings[index])

    points = tuple(against(model, at) for model, at in models.items() if model not in errors)
    if not points:
        reasons = "\n".join(f"  {model}: {error}" for model, error in errors.items())
        raise CheckpointError(f"None of the models to follow can be compared:\n{reasons}")
    against_controls = tuple(against(model, None) for model in controls if model not in errors)
    return CasCurve(
        by=by,
        reference=reference,
        reference_revision=found.revisions[found.models.index(reference)],
        points=points,
        controls=against_controls,
        emerged={variant: emerged(points, against_controls, variant) for variant in VARIANTS},
        pairs=found.pairs,
        pairs_hash=found.pairs_hash,
        num_pairs=found.num_pairs,
        k=found.k,
        grid=found.grid,
        direction=found.direction,
        sinks=found.sinks,
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
