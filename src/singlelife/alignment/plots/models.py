"""What each model does by itself: how far it looks at mere places, at sinks, at the truth."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from singlelife.alignment.cas import Truth
from singlelife.alignment.matrix import CasMatrix
from singlelife.alignment.plots.style import (
    FAINT,
    FREE,
    INK,
    RAW,
    bare,
    by_group,
    group_colours,
    new_figure,
    short_names,
)


def draw_models(result: CasMatrix) -> Figure:
    """Bars of each model: its agreement with the position map, its matches on sinks, and, where it is known, how often
    its top k holds the true match."""
    order = by_group(result.groups)
    readings = [result.main.readings[index] for index in order]
    patches = result.grid[0] * result.grid[1]
    chance = result.k / patches
    truths = [(reading.truth, reading.position_free_truth) for reading in readings]
    known = any(raw is not None for raw, _ in truths)
    num_panels = 4 if known else 2
    figure = new_figure(2.6 * num_panels + 2.2, 0.34 * len(order) + 1.9)
    panels = list(figure.subplots(1, num_panels, sharey=True))
    figure.suptitle(f"Each model by itself: where its top {result.k} of {patches} lie", fontsize=11, color=INK)

    rows = range(len(order))
    place = panels[0]
    scores = [reading.position for reading in readings]
    errors = [[max(each.cas - each.low, 0) for each in scores], [max(each.high - each.cas, 0) for each in scores]]
    place.barh(rows, [each.cas for each in scores], xerr=errors, color=RAW, height=0.62, error_kw={"lw": 1})
    place.axvline(chance, color=INK, ls=":", lw=1, label="chance")
    place.set_title("at the same place\n(CAS with the position map)", fontsize=9, color=INK)

    sinks = panels[1]
    sinks.barh(rows, [reading.sink_share for reading in readings], color=RAW, height=0.62)
    sinks.set_title("on sinks\n(how many there are)", fontsize=9, color=INK)
    sinks.set_xlim(0, max(0.05, *(1.25 * reading.sink_share for reading in readings)))
    for row, reading in enumerate(readings):
        sinks.text(reading.sink_share, row, f"  {len(reading.sinks)}", va="center", fontsize=8, color=INK)
    if not any(reading.sinks for reading in readings):
        sinks.text(0.5, 0.5, "no model has any", transform=sinks.transAxes, ha="center", fontsize=9, color=FAINT)

    if known:
        _truth(panels[2], truths, chance, large_shifts=False)
        panels[2].set_title("at the true match\n(all patches)", fontsize=9, color=INK)
        _truth(panels[3], truths, chance, large_shifts=True)
        panels[3].set_title("at the true match\n(large shifts; position scores 0)", fontsize=9, color=INK)
    handles = panels[-1 if known else 0].get_legend_handles_labels()
    panels[-1].legend(*handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))

    names, colours = short_names(result.models), group_colours(result.groups)
    place.set_yticks(rows, [f"{names[index]}  {index + 1}" for index in order])
    place.set_ylim(len(order) - 0.4, -0.6)
    for axes in panels:
        bare(axes)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:.0%}")
    for text, index in zip(place.get_yticklabels(), order, strict=True):
        text.set_color(colours[result.groups[index]])
    return figure


def _truth(
    axes: Axes, truths: Sequence[tuple[Truth | None, Truth | None]], chance: float, *, large_shifts: bool
) -> None:
    for offset, which, colour, name in ((-0.17, 0, RAW, "raw"), (0.17, 1, FREE, "position-free")):
        for row, pair in enumerate(truths):
            each = pair[which]
            share = None if each is None else each.large_shifts if large_shifts else each.matches
            if share is not None:
                axes.barh(row + offset, share, color=colour, height=0.32, label=name if row == 0 else None)
    axes.axvline(chance, color=INK, ls=":", lw=1, label="chance")
