"""The result of `singlelife align --checkpoints` as text for the terminal."""

from singlelife.alignment.cas import Truth
from singlelife.alignment.matrix_text import score_columns
from singlelife.alignment.trajectory import UNITS, Against, CasCurve
from singlelife.text import aligned


def text(result: CasCurve) -> str:
    """All of it, in a table and two sentences."""
    title = (
        f"against {result.reference} on {result.num_pairs} pairs of {result.pairs} ({result.pairs_hash[:12]}), "
        f"top {result.k} of {result.grid[0] * result.grid[1]} patches, chance {result.points[0].raw.chance:.3f}"
    )
    rows = [[UNITS[result.by], "CAS, raw", "95%", "adjusted", "CAS, free", "95%", "adjusted", "position map",
             "far truth (free)"]]  # fmt: skip
    for point in result.points:
        rows.append([f"{point.at:,.4g}" if result.by == "hours" else f"{point.at:,.0f}", *_columns(point)])
    rows += [[f"control {control.model}", *_columns(control)] for control in result.controls]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    parts = [
        title,
        aligned(rows),
        f"raw            {result.sentence('raw')}\nposition-free  {result.sentence('position_free')}",
    ]
    if result.failed:
        failed = (f"  {each.model}: {each.error}" for each in result.failed)
        parts.append("\n".join(["could not be compared", *failed]))
    return "\n\n".join(parts)


def _columns(model: Against) -> list[str]:
    truth = model.reading.position_free_truth
    return [
        *score_columns(model.raw),
        *score_columns(model.position_free),
        f"{model.reading.position.cas:.3f}",
        _large_shifts(truth),
    ]


def _large_shifts(truth: Truth | None) -> str:
    return "" if truth is None or truth.large_shifts is None else f"{truth.large_shifts:.3f}"
