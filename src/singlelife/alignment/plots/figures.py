"""The pictures of alignment results: two models, a matrix, a curve."""

from pathlib import Path, PurePath

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from singlelife.alignment.comparison import CasResult
from singlelife.alignment.curve import UNITS, CasCurve
from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.groups import Matrix, of_one_group
from singlelife.alignment.matrix import CasMatrix
from singlelife.alignment.plots.style import (
    FAINT,
    INK,
    KIND_COLOURS,
    VARIANT_COLOURS,
    VARIANT_NAMES,
    bare,
    by_group,
    draw_curve,
    group_colours,
    new_figure,
    short_names,
    write,
)
from singlelife.alignment.representation import MEASURES, RepresentationMetrics

_MOST_VALUES = 16  # models, up to which each cell bears its value
_MEASURE_NAMES = {"cka": "linear CKA", "mutual_knn": "mutual nearest neighbours", "rsa": "RSA"}
_CONTROL_COLOURS = ("#c0392b", "#b7791f", "#7a5195", "#5f5f5f")
_WIDE = 8.0  # times the least duration: from here on, durations are drawn on a logarithmic axis


def save_pictures(result: CasResult | CasMatrix | CasCurve, folder: Path) -> list[Path]:
    """Draw a result as PNG files into a folder.

    Of two models: `scores.png`. Of a curve: `curve.png`. Of a matrix: `matrix.png` (two models and more),
    `dendrogram.png` (three and more) and `representation.png` (where that was asked for). A picture of an earlier
    result that this one does not have is deleted.

    Returns:
        The files.
    """
    figures: dict[str, Figure | None] = dict.fromkeys(
        ("scores.png", "curve.png", "matrix.png", "dendrogram.png", "representation.png")
    )
    if isinstance(result, CasResult):
        figures["scores.png"] = draw_scores(result)
    elif isinstance(result, CasCurve):
        figures["curve.png"] = draw_emergence(result)
    else:
        n, metrics = len(result.models), result.representation
        figures["matrix.png"] = draw_matrix(result) if n > 1 else None
        figures["dendrogram.png"] = draw_dendrogram(result) if n > 2 else None
        figures["representation.png"] = draw_representation(result, metrics) if n > 1 and metrics else None
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
    return [write(figure, folder / name) for name, figure in figures.items() if figure is not None]


def draw_scores(result: CasResult) -> Figure:
    """Two models: the scores with their intervals, and chance; against k if there are several."""
    figure = new_figure(6, 3.6)
    axes = figure.subplots()
    if len(result.curve) > 1:
        ks = [each.k for each in result.curve]
        for variant in VARIANTS:
            found = [getattr(each, variant) for each in result.curve]
            draw_curve(axes, ks, found, colour=VARIANT_COLOURS[variant], label=VARIANT_NAMES[variant])
        axes.plot(ks, [each.raw.chance for each in result.curve], color=INK, ls=":", lw=1, label="chance")
        axes.set(xlabel="k", xscale="log", xticks=ks, xticklabels=list(map(str, ks)))
        axes.minorticks_off()
    else:
        named = {"raw": result.raw, "position-free": result.position_free}
        named |= {f"{letter}, position": each.position for letter, each in zip("AB", result.readings, strict=True)}
        for name, each in named.items():
            error = [[max(each.cas - each.low, 0)], [max(each.high - each.cas, 0)]]
            axes.bar(name, each.cas, yerr=error, capsize=4, color=VARIANT_COLOURS["position_free"])
        axes.axhline(result.raw.chance, color=INK, linestyle=":", label="chance")
    axes.set(ylabel="CAS", ylim=(0, 1))
    axes.set_title(" and ".join(short_names(result.models)), fontsize=10, color=INK)
    axes.legend(frameon=False, fontsize=8)
    bare(axes)
    return figure


def draw_matrix(result: CasMatrix) -> Figure:
    """Raw and position-free side by side, models ordered by group, with the means within and across groups. Colours
    run from chance to the strongest agreement of two models."""
    n, order = len(result.models), by_group(result.groups)
    groups = [result.groups[index] for index in order]
    side = (0.5 if n <= _MOST_VALUES else 0.27) * n + 0.8
    figure = new_figure(2 * side + 3.4, side + 1.9)
    figure.suptitle(
        f"CAS of {n} models on {result.num_pairs} pairs of {result.pairs}, top {result.k} of {result.num_patches} "
        "patches",
        fontsize=11,
        color=INK,
    )
    names = short_names(result.models)
    labels = [f"{names[index]}  {index + 1}" for index in order]
    colours = group_colours(result.groups)
    for axes, variant in zip(figure.subplots(1, 2), VARIANTS, strict=True):
        matrix: Matrix = getattr(result.main, variant)
        _heat(axes, matrix, order, values=n <= _MOST_VALUES)
        axes.set_title(f"{VARIANT_NAMES[variant]}{_of_groups(matrix)}", fontsize=9, color=INK)
        axes.set_xticks(range(n), [str(index + 1) for index in order])
        axes.set_yticks(range(n), labels)
        for axis in (axes.xaxis, axes.yaxis):
            for text, group in zip(axis.get_ticklabels(), groups, strict=True):
                text.set_color(colours[group])
        for edge in (index - 0.5 for index in range(1, n) if groups[index] != groups[index - 1]):
            axes.axhline(edge, color="white", lw=3)
            axes.axvline(edge, color="white", lw=3)
    return figure


def _of_groups(matrix: Matrix) -> str:
    if not (matrix.within and matrix.across and matrix.difference and matrix.permutation):
        return ""
    difference = matrix.difference
    return (
        f"\nwithin groups {matrix.within.cas:.3f}, across {matrix.across.cas:.3f}"
        f"\ndifference {difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}], "
        f"p = {matrix.permutation.p_value:.2g}"
    )


def _heat(axes: Axes, matrix: Matrix, order: list[int], *, values: bool) -> None:
    off_diagonal = ~np.eye(len(order), dtype=bool)
    chance, highest = float(matrix.chance[off_diagonal].min()), float(matrix.cas[off_diagonal].max())
    highest = max(highest, chance + 0.02)  # so that noise about chance does not look like a difference
    shown = matrix.cas[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    image = axes.imshow(shown, cmap="YlGnBu", vmin=chance, vmax=highest)
    axes.set_facecolor("#e4e4e4")  # where there is no cell: a model with itself
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    if values:
        for (row, column), value in np.ndenumerate(shown):
            if not np.isnan(value):
                colour = "white" if value > chance + 0.55 * (highest - chance) else INK
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.02)
    ticks = [tick for tick in bar.get_ticks() if chance + 0.12 * (highest - chance) < tick <= highest]
    bar.set_ticks([chance, *ticks], labels=[f"chance\n{chance:.3f}", *(f"{tick:g}" for tick in ticks)])
    bar.ax.tick_params(labelsize=7.5, length=2, colors=INK)
    bar.outline.set_edgecolor(FAINT)
    bar.outline.set_linewidth(0.5)


def draw_dendrogram(result: CasMatrix) -> Figure:
    """For raw and position-free scores, models joined by average linkage of the distance 1 - CAS. Takes three models
    at least."""
    figure = new_figure(11.5, 0.24 * len(result.models) + 2.2)
    figure.suptitle(
        f"Which models are near, by 1 − CAS on {result.num_pairs} pairs of {result.pairs}", fontsize=11, color=INK
    )
    colours = [group_colours(result.groups)[group] for group in result.groups]
    for axes, variant in zip(figure.subplots(1, 2), VARIANTS, strict=True):
        matrix: Matrix = getattr(result.main, variant)
        _tree(axes, 1 - matrix.cas, short_names(result.models), colours, matrix)
        axes.set_title(f"{VARIANT_NAMES[variant]}: joined by average linkage", fontsize=9.5, color=INK)
    return figure


def _tree(axes: Axes, distances: np.ndarray, names: list[str], colours: list[str], matrix: Matrix) -> None:
    joined = linkage(squareform(distances, checks=False), method="average")
    labels = [f"{name}  {index}" for index, name in enumerate(names, start=1)]
    shown = dendrogram(joined, ax=axes, orientation="left", labels=labels, color_threshold=0,
                       above_threshold_color=FAINT)  # fmt: skip
    for text, leaf in zip(axes.get_yticklabels(), shown["leaves"], strict=True):
        text.set_color(colours[leaf])
        text.set_fontsize(8)
    off_diagonal = ~np.eye(len(distances), dtype=bool)
    by_chance = 1 - float(matrix.chance[off_diagonal].mean())
    lowest, highest = distances[off_diagonal].min(), max(float(joined[:, 2].max()), by_chance)
    margin = 0.08 * (highest - lowest) + 0.005
    axes.set_xlim(highest + margin, max(lowest - margin, 0))  # not from 0, where no two models are
    axes.axvline(by_chance, color=INK, ls=":", lw=1)
    axes.text(by_chance, 1.0, " chance", transform=axes.get_xaxis_transform(), fontsize=7.5, va="top", color=INK)
    axes.set_xlabel("distance at which they join: 1 − mean CAS", fontsize=8)
    axes.tick_params(axis="x", labelsize=8, colors=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def draw_representation(result: CasMatrix, metrics: RepresentationMetrics) -> Figure:
    """A panel for each measure: what it says of two models, against their position-free CAS. Where points stand far
    right and low, models find the same images alike and still look at other patches."""
    first, second = np.triu_indices(len(result.models), 1)
    same = of_one_group(result.groups)
    score = result.main.position_free
    chances = {"cka": 0.0, "mutual_knn": metrics.mutual_knn_chance, "rsa": 0.0}
    figure = new_figure(10.5, 4)
    figure.suptitle(
        f"Position-free CAS of two models, and what one vector for each of {metrics.num_images} views says of them",
        fontsize=11,
        color=INK,
    )
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        values = getattr(metrics, measure)[first, second]
        for kind, chosen in (("across", ~same), ("within", same)):
            if chosen.any():
                half = metrics.spread[measure][first, second][chosen]
                if np.isfinite(half).all():
                    axes.errorbar(values[chosen], score.cas[first, second][chosen], xerr=half, fmt="none",
                                  color=KIND_COLOURS[kind], alpha=0.35, lw=1)  # fmt: skip
                axes.scatter(values[chosen], score.cas[first, second][chosen], s=34, color=KIND_COLOURS[kind],
                             alpha=0.8, lw=0, label=f"two models {kind} groups")  # fmt: skip
        axes.axvline(chances[measure], color=INK, ls=":", lw=1)
        axes.axhline(score.chance[first, second].mean(), color=INK, ls=":", lw=1, label="chance, of either")
        axes.set_xlabel(_MEASURE_NAMES[measure], fontsize=9)
        axes.set_xlim(min(-0.03, np.nanmin(values, initial=0) - 0.03), 1.03)
        bare(axes)
        axes.grid(color=FAINT, alpha=0.2, lw=0.6)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("CAS, position-free", fontsize=9)
    panels[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_emergence(result: CasCurve) -> Figure:
    """Raw and position-free side by side: the curve with its interval, chance, each control's score as a level with
    the band of its interval, and a mark at the first point that clears them."""
    figure = new_figure(11, 5)
    figure.suptitle(
        f"Alignment with {_short(result.reference)} on {result.num_pairs} pairs of {result.pairs}, top {result.k} of "
        f"{result.grid[0] * result.grid[1]} patches",
        fontsize=11,
        color=INK,
    )
    at = [point.at for point in result.points if point.at is not None]
    controls = short_names([control.model for control in result.controls])
    for axes, variant in zip(figure.subplots(1, 2), VARIANTS, strict=True):
        scores = [getattr(point, variant) for point in result.points]
        for index, (name, control) in enumerate(zip(controls, result.controls, strict=True)):
            score, colour = getattr(control, variant), _CONTROL_COLOURS[index % len(_CONTROL_COLOURS)]
            axes.axhspan(score.low, score.high, color=colour, alpha=0.15, lw=0)
            axes.axhline(score.cas, color=colour, lw=1, ls="--", label=f"control: {name}")
        label = f"{VARIANT_NAMES[variant]}, with 95% interval"
        draw_curve(axes, at, scores, colour=VARIANT_COLOURS[variant], label=label)
        axes.axhline(scores[0].chance, color=INK, ls=":", lw=1, label="chance")
        axes.set_title(f"{VARIANT_NAMES[variant]}: {result.sentence(variant)}", fontsize=9.5, color=INK)
        first = result.emerged[variant]
        if first is not None:
            score = scores[at.index(first.at)]
            axes.plot(first.at, score.cas, marker="o", ms=11, mfc="none", mec=INK, mew=1.4, ls="none",
                      label="the first that clears")  # fmt: skip
        if result.by == "hours" and max(at) > _WIDE * min(at):
            axes.set_xscale("log")
            axes.set_xticks(at, [f"{each:.3g}" for each in at])
            axes.minorticks_off()
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter("{x:,.6g}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(UNITS[result.by], fontsize=9)
        axes.set_ylabel("CAS with the reference", fontsize=9)
        bare(axes)
        axes.grid(axis="y", color=FAINT, alpha=0.2, lw=0.6)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


def _short(model: str) -> str:
    """Of a folder, no more than its own name, and that of its run if it is a checkpoint."""
    path = PurePath(model)
    return "/".join(path.parts[-2:]) if path.name.startswith("checkpoint-") else path.name
