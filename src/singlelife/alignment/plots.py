"""The pictures of alignment results: a matrix of models, and a curve."""

import io
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from singlelife.alignment.comparison import AlignmentResult
from singlelife.alignment.curve import UNITS, CasCurve
from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.matrix import CasMatrix, Matrix
from singlelife.files import atomic_write

_INK, _FAINT, _SCORE = "#222222", "#8a8a8a", "#3fa7ff"
_NAMES = {"raw": "raw", "centred": "centred"}
# Colour-blind people can tell these apart. Where there are more groups than colours, groups share one.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#5f5f5f")
_MOST_VALUES = 16  # models, up to which each cell bears its value


def save_pictures(result: AlignmentResult, folder: Path) -> list[Path]:
    """Draw a result as PNG files into a folder: of a curve, `curve.png`; of a matrix, `matrix.png` and, of three
    models and more, `dendrogram.png`; of two models by `cas`, none. Pictures of an earlier result are deleted.

    Returns:
        The files.
    """
    figures = {}
    if isinstance(result, CasCurve):
        figures["curve.png"] = draw_curve(result)
    elif isinstance(result, CasMatrix):
        figures["matrix.png"] = draw_matrix(result)
        if len(result.models) > 2:
            figures["dendrogram.png"] = draw_dendrogram(result)
    folder.mkdir(parents=True, exist_ok=True)
    for name in {"curve.png", "matrix.png", "dendrogram.png"} - figures.keys():
        (folder / name).unlink(missing_ok=True)
    for name, figure in figures.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        with atomic_write(folder / name) as aside:
            aside.write_bytes(drawn.getvalue())
    return [folder / name for name in figures]


def draw_matrix(result: CasMatrix) -> Figure:
    """Raw and position-free side by side, models ordered by group, with the means within and across groups. Colours
    run from chance to the strongest agreement of two models."""
    n = len(result.models)
    order = sorted(range(n), key=lambda index: (result.groups.index(result.groups[index]), index))
    groups, names = [result.groups[index] for index in order], short_names(result.models)
    side = (0.5 if n <= _MOST_VALUES else 0.27) * n + 0.8
    figure = _figure(
        2 * side + 3.4,
        side + 1.9,
        f"CAS of {n} models on {result.num_pairs} pairs of {result.pairs}, top {result.k} of {result.num_patches} "
        "patches",
    )
    colours = _group_colours(result)
    for axes, variant in zip(figure.subplots(1, 2), VARIANTS, strict=True):
        matrix: Matrix = getattr(result.main, variant)
        _heat(axes, matrix, order)
        title = _NAMES[variant]
        if matrix.within and matrix.across and matrix.difference and matrix.permutation:
            gain = matrix.difference
            title += (
                f"\nwithin groups {matrix.within.cas:.3f}, across {matrix.across.cas:.3f}\ndifference {gain.cas:+.3f} "
                f"[{gain.low:+.3f}, {gain.high:+.3f}]\np = {matrix.permutation.p_value:.2g}"
            )
        axes.set_title(title, fontsize=9, color=_INK)
        axes.set_xticks(range(n), [str(index + 1) for index in order])
        axes.set_yticks(range(n), [f"{names[index]}  {index + 1}" for index in order])
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for text, index in zip(labels, order, strict=True):
                text.set_color(colours[index])
        for edge in (index - 0.5 for index in range(1, n) if groups[index] != groups[index - 1]):
            axes.axhline(edge, color="white", lw=3)
            axes.axvline(edge, color="white", lw=3)
    return figure


def _heat(axes: Axes, matrix: Matrix, order: list[int]) -> None:
    chance, highest = float(np.nanmin(matrix.chance)), float(matrix.cas[~np.eye(len(order), dtype=bool)].max())
    highest = max(highest, chance + 0.02)  # so that noise about chance does not look like a difference
    shown = matrix.cas[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    image = axes.imshow(shown, cmap="YlGnBu", vmin=chance, vmax=highest)
    axes.set_facecolor("#e4e4e4")  # where there is no cell: a model with itself
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(shown):
        if len(order) <= _MOST_VALUES and row != column:
            colour = "white" if value > chance + 0.55 * (highest - chance) else _INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.02, label=f"from chance, {chance:.3f}")


def draw_dendrogram(result: CasMatrix) -> Figure:
    """For raw and position-free scores, models joined by average linkage of the distance 1 - CAS. Takes three models
    at least."""
    title = f"Which models are near, by 1 − CAS on {result.num_pairs} pairs of {result.pairs}"
    figure = _figure(11.5, 0.24 * len(result.models) + 2.2, title)
    colours = _group_colours(result)
    labels = [f"{name}  {index}" for index, name in enumerate(short_names(result.models), start=1)]
    for axes, variant in zip(figure.subplots(1, 2), VARIANTS, strict=True):
        matrix: Matrix = getattr(result.main, variant)
        joined = linkage(squareform(1 - matrix.cas, checks=False), method="average")
        shown = dendrogram(joined, ax=axes, orientation="left", labels=labels, color_threshold=0,
                           above_threshold_color=_FAINT)  # fmt: skip
        chance = 1 - float(np.nanmean(matrix.chance))
        axes.axvline(chance, color=_INK, ls=":", lw=1, label="chance")
        axes.set_xlim(1.02 * max(joined[-1, 2], chance), 0.95 * joined[0, 2])  # not from 0, where no two models are
        axes.set_xlabel("distance at which they join: 1 − mean CAS", fontsize=8)
        axes.set_title(f"{_NAMES[variant]}: joined by average linkage", fontsize=9.5, color=_INK)
        axes.legend(frameon=False, fontsize=8)
        _bare(axes)
        for text, leaf in zip(axes.get_yticklabels(), shown["leaves"], strict=True):
            text.set_color(colours[leaf])
    return figure


def draw_curve(result: CasCurve) -> Figure:
    """Raw and position-free side by side: the curve with its interval, chance, each control's score as a level with
    the band of its interval, and a mark at the point from which on it clears them."""
    title = f"Alignment with {result.reference} on {result.num_pairs} pairs of {result.pairs}, top {result.k} of " \
            f"{result.num_patches} patches"  # fmt: skip
    figure = _figure(11, 5, title)
    at = [point.at for point in result.points if point.at is not None]
    controls = short_names([control.model for control in result.controls])
    for axes, variant in zip(figure.subplots(1, 2), VARIANTS, strict=True):
        for index, (name, control) in enumerate(zip(controls, result.controls, strict=True)):
            score, colour = getattr(control, variant), _COLOURS[(index + 1) % len(_COLOURS)]
            axes.axhspan(score.low, score.high, color=colour, alpha=0.15, lw=0)
            axes.axhline(score.cas, color=colour, lw=1, ls="--", label=f"control: {name}")
        scores = [getattr(point, variant) for point in result.points]
        low, high, cas = ([getattr(score, name) for score in scores] for name in ("low", "high", "cas"))
        axes.fill_between(at, low, high, color=_SCORE, alpha=0.2, lw=0)
        axes.plot(at, cas, color=_SCORE, marker="o", ms=3.5, label=f"{_NAMES[variant]}, with 95% interval")
        axes.axhline(scores[0].chance, color=_INK, ls=":", lw=1, label="chance")
        axes.set_title(f"{_NAMES[variant]}: {result.sentence(variant)}", fontsize=9.5, color=_INK)
        if (first := result.emerged[variant]) is not None:
            axes.plot(first, cas[at.index(first)], marker="o", ms=11, mfc="none", mec=_INK, mew=1.4, ls="none",
                      label="clears from here on")  # fmt: skip
        if result.by == "hours":
            axes.set_xscale("log")
            axes.set_xticks(at, [f"{each:.3g}" for each in at])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel(UNITS[result.by], fontsize=9)
        axes.set_ylabel("CAS with the reference", fontsize=9)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        _bare(axes)
    return figure


def short_names(names: Sequence[str]) -> list[str]:
    """Names without their folders, unless two become the same."""
    short = [PurePath(name).name for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _group_colours(result: CasMatrix) -> list[str]:
    """The colour of each model's group."""
    order = list(dict.fromkeys(result.groups))
    return [_COLOURS[order.index(group) % len(_COLOURS)] for group in result.groups]


def _figure(width: float, height: float, title: str) -> Figure:
    """A figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11, color=_INK)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8, length=3)
