"""The heat map: who agrees with whom, and groups with groups."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.matrix import CasMatrix, Matrix
from singlelife.alignment.plots.style import (
    FAINT,
    INK,
    VARIANT_NAMES,
    by_group,
    group_colours,
    new_figure,
    short_names,
)

_MOST_VALUES = 16  # models, up to which each cell bears its value
_MOST_GROUPS = 10  # up to which each block does


def draw_matrix(result: CasMatrix) -> Figure:
    """Raw and position-free side by side, models ordered by group; where any group has two models, the block means
    below. Colours run from chance to the strongest agreement of two models."""
    n, order = len(result.models), by_group(result.groups)
    groups = [result.groups[index] for index in order]
    has_blocks = 1 < len(set(groups)) < n
    side = (0.5 if n <= _MOST_VALUES else 0.27) * n + 0.8
    num_groups = len(set(groups))
    block_side = min(0.5 * num_groups, 5) + 1.1
    heights = [side, block_side] if has_blocks else [side]
    figure = new_figure(2 * side + 3.4, sum(heights) + 1.6)
    rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(
        f"CAS of {n} models on {result.num_pairs} pairs of {result.pairs}, top {result.k} of "
        f"{result.grid[0] * result.grid[1]} patches",
        fontsize=11,
        color=INK,
    )
    names = short_names(result.models)
    labels = [f"{names[index]}  {index + 1}" for index in order]
    colours = group_colours(result.groups)
    for axes, variant in zip(rows[0].subplots(1, 2), VARIANTS, strict=True):
        matrix: Matrix = getattr(result.main, variant)
        chance, highest = _range(matrix)
        cas = matrix.cas[np.ix_(order, order)].copy()
        np.fill_diagonal(cas, np.nan)
        _heat(axes, cas, chance, highest, values=n <= _MOST_VALUES)
        axes.set_title(VARIANT_NAMES[variant], fontsize=10, color=INK)
        axes.set_xticks(range(n), [str(index + 1) for index in order])
        axes.set_yticks(range(n), labels)
        for axis in (axes.xaxis, axes.yaxis):
            for text, group in zip(axis.get_ticklabels(), groups, strict=True):
                text.set_color(colours[group])
        for edge in (index - 0.5 for index in range(1, n) if groups[index] != groups[index - 1]):
            axes.axhline(edge, color="white", lw=3)
            axes.axvline(edge, color="white", lw=3)
    if has_blocks:
        for axes, variant in zip(rows[1].subplots(1, 2), VARIANTS, strict=True):
            matrix = getattr(result.main, variant)
            _blocks(axes, matrix, list(dict.fromkeys(groups)), colours)
    return figure


def _blocks(axes: Axes, matrix: Matrix, groups: list[str], colours: dict[str, str]) -> None:
    """Groups by groups: the mean of each block, of which the diagonal is within."""
    means = np.full((len(groups), len(groups)), np.nan)
    for block in matrix.blocks:
        a, b = (groups.index(name) for name in block.groups)
        means[a, b] = means[b, a] = block.score.cas
    _heat(axes, means, *_range(matrix), values=len(groups) <= _MOST_GROUPS)
    title = "mean of each two groups; diagonal: within one"  # lines are short, as a map of few groups is narrow
    if matrix.within and matrix.across and matrix.difference:
        difference = matrix.difference
        title += (
            f"\nwithin {matrix.within.cas:.3f}, across {matrix.across.cas:.3f}"
            f"\ndifference {difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        )
    if matrix.permutation:
        title += f", p = {matrix.permutation.p_value:.2g}"
    axes.set_title(title, fontsize=8.5, color=INK)
    names = short_names(groups)
    axes.set_xticks([])
    axes.set_yticks(range(len(groups)), names)
    for text, group in zip(axes.get_yticklabels(), groups, strict=True):
        text.set_color(colours[group])


def _range(matrix: Matrix) -> tuple[float, float]:
    """What the palest and the darkest colour stand for."""
    off_diagonal = ~np.eye(len(matrix.cas), dtype=bool)
    chance, highest = float(matrix.chance[off_diagonal].min()), float(matrix.cas[off_diagonal].max())
    return chance, max(highest, chance + 0.02)  # so that noise about chance is not drawn as a contrast


def _heat(axes: Axes, values_of: np.ndarray, chance: float, highest: float, *, values: bool) -> None:
    image = axes.imshow(values_of, cmap="YlGnBu", vmin=chance, vmax=highest)
    axes.set_facecolor("#e4e4e4")  # where there is no cell: a model with itself
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if values:
        for (row, column), value in np.ndenumerate(values_of):
            if not np.isnan(value):
                dark = value > chance + 0.55 * (highest - chance)
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5,
                          color="white" if dark else INK)  # fmt: skip
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.02)
    ticks = [tick for tick in bar.get_ticks() if chance + 0.12 * (highest - chance) < tick <= highest]
    bar.set_ticks([chance, *ticks], labels=[f"chance\n{chance:.3f}", *(f"{tick:g}" for tick in ticks)])
    bar.ax.tick_params(labelsize=7.5, length=2, colors=INK)
    bar.outline.set_edgecolor(FAINT)
    bar.outline.set_linewidth(0.5)
