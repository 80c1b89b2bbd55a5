"""Bars of each task: a row for each model, with intervals, and points where a row has several models."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from singlelife.alignment.plots.style import FAINT, INK, bare, group_colours, new_figure, short_names
from singlelife.evaluation.suite.comparison import BASELINES, Comparison, Row, TaskTold
from singlelife.evaluation.suite.metrics import FIRST


def draw_bars(comparison: Comparison, task: TaskTold) -> Figure:
    """The first metrics of a task, a panel each. The whisker of a single model is its 95% interval over test items;
    that of several the standard deviation over them, each of which is a point."""
    rows = [row for row in comparison.rows if row.cells[task.name]]
    metrics = FIRST[task.kind]
    figure = new_figure(3.4 * len(metrics) + 2.6, 0.34 * len(rows) + 1.3)
    panels = list(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0])
    figure.suptitle(task.name, fontsize=11, color=INK)
    colours = group_colours([group for group in comparison.groups if group != BASELINES]) | {BASELINES: FAINT}
    for axes, name in zip(panels, metrics, strict=True):
        _panel(axes, rows, task, name, colours)
    first = panels[0]
    first.set_yticks(range(len(rows)), short_names([row.name for row in rows]))
    first.set_ylim(len(rows) - 0.4, -0.6)
    for text, row in zip(first.get_yticklabels(), rows, strict=True):
        text.set_color(colours[row.group])
    return figure


def _panel(axes: Axes, rows: Sequence[Row], task: TaskTold, name: str, colours: dict[str, str]) -> None:
    metric = task.metrics[name]
    for place, row in enumerate(rows):
        cell = row.cells[task.name].get(name)
        if cell is None:
            continue
        axes.barh(place, cell.mean, color=colours[row.group], height=0.62, alpha=0.75)
        if cell.low is not None and cell.high is not None:
            below, above = cell.mean - cell.low, cell.high - cell.mean
        else:
            below = above = cell.std or 0.0
        whisker = [[max(below, 0.0)], [max(above, 0.0)]]
        axes.errorbar(cell.mean, place, xerr=whisker, color=INK, elinewidth=1, capsize=2)
        if len(cell.each) > 1:
            axes.scatter(cell.each, [place] * len(cell.each), s=9, color=INK, zorder=3)
    bare(axes)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_title(f"{metric.title} ({'higher' if metric.higher_is_better else 'lower'} is better)", fontsize=9,
                   color=INK)  # fmt: skip
