"""On what the score depends: k, the layer, the overlap and the gap of the two frames."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from singlelife.alignment.cas import Score
from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.matrix import CasMatrix, Matrix, Part
from singlelife.alignment.plots.style import (
    INK,
    KIND_COLOURS,
    VARIANT_NAMES,
    bare,
    draw_curve,
    new_figure,
)

_NAMES = {"within": "within groups", "across": "across groups", "mean": "all two models"}
_AXES = {
    "k": "k, of the top k",
    "layer": "layer",
    "overlap": "overlap of the two frames",
    "gap": "gap of the two frames, s",
}

# The scores at one place of an axis, by "within", "across" and "mean".
_Point = tuple[str, dict[str, Score]]


def draw_breakdown(result: CasMatrix) -> Figure | None:
    """A column for each of k, layer, overlap and gap of which there is more than one value, with 95% intervals over
    pairs; raw above, position-free below. None if there is no such column."""
    columns = {of: {variant: _points(result, of, variant) for variant in VARIANTS} for of in _AXES}
    columns = {of: points for of, points in columns.items() if len(points["raw"]) > 1}
    if not columns:
        return None
    figure = new_figure(3.1 * len(columns) + 1.6, 6.2)
    rows = figure.subplots(2, len(columns), sharex="col", squeeze=False)
    figure.suptitle(
        f"CAS of two models on {result.num_pairs} pairs of {result.pairs}, by what the pair or the setting is",
        fontsize=11,
        color=INK,
    )
    for row, variant in zip(rows, VARIANTS, strict=True):
        for axes, points in zip(row, columns.values(), strict=True):
            _lines(axes, points[variant])
        _same_height([axes for axes, of in zip(row, columns, strict=True) if of != "k"])
        row[0].set_ylabel(f"CAS, {VARIANT_NAMES[variant]}", fontsize=9)
    for axes, of in zip(rows[-1], columns, strict=True):
        axes.set_xlabel(_AXES[of] + ("" if of == "k" else f" (k = {result.k})"), fontsize=9)
    rows[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _same_height(panels: Sequence[Axes]) -> None:
    """One scale for all of a row but that over k, which climbs to 1."""
    highest = max((axes.get_ylim()[1] for axes in panels), default=1.0)
    for axes in panels:
        axes.set_ylim(0, highest)


def _points(result: CasMatrix, of: str, variant: str) -> list[_Point]:
    if of == "k":
        return [(str(k), _kinds(getattr(found, variant))) for k, found in result.at_k.items()]
    parts = result.by_layer if of == "layer" else [part for part in result.main.parts if part.of == of]
    return [(_range(part), _without_double(getattr(part, variant))) for part in parts]


def _kinds(matrix: Matrix) -> dict[str, Score]:
    named = {"mean": matrix.mean, "within": matrix.within, "across": matrix.across}
    return _without_double({name: each for name, each in named.items() if each})


def _without_double(scores: dict[str, Score]) -> dict[str, Score]:
    """Within and across, or the mean where there are not both: it is then one of these."""
    both: dict[str, Score] = {name: scores[name] for name in ("within", "across") if name in scores}
    return both if len(both) == 2 else {"mean": scores["mean"]}


def _lines(axes: Axes, points: Sequence[_Point]) -> None:
    places = range(len(points))
    for kind in points[0][1]:
        scores = [each[kind] for _, each in points]
        draw_curve(axes, places, scores, colour=KIND_COLOURS[kind], label=_NAMES[kind])
    chances = [next(iter(each.values())).chance for _, each in points]
    axes.plot(places, chances, color=INK, ls=":", lw=1, label="chance")
    axes.set_xticks(places, [name for name, _ in points])
    axes.set_ylim(bottom=0)
    bare(axes)
    axes.tick_params(axis="x", labelsize=7.5)


def _range(part: Part) -> str:
    low, high = f"{part.low:.2g}", f"{part.high:.2g}"
    return low if low == high else f"{low}–{high}"
