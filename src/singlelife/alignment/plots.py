"""Pictures of alignment results (a matrix of models, or a curve) and of pairs of views."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from singlelife.alignment.curve import UNITS, CasCurve
from singlelife.alignment.matrix import AlignmentResult, CasMatrix, Matrix
from singlelife.alignment.null import CentredScore
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import Score
from singlelife.files import atomic_write

_INK, _SCORE = "#222222", "#3fa7ff"
_NAMES = {"centred": "centred, above its null", "raw": "raw"}
# Colour-blind people can tell these apart. With more groups than colours, some groups share one.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#5f5f5f")
_PAIRS_IN_A_LINE = 3
_POINTS = 6  # with marked true matches, along a side of a view
_MOST_VALUES = 16  # models; above that, cells do not show their values


def save_pictures(result: AlignmentResult, folder: Path) -> list[Path]:
    """Draw a result into a folder: a curve as `curve.png`, a matrix as `matrix.png`. A result of `cas` has no picture.
    Pictures of an earlier result are deleted.

    Returns:
        The files.
    """
    figures = {}
    if isinstance(result, CasCurve):
        figures["curve.png"] = draw_curve(result)
    elif isinstance(result, CasMatrix):
        figures["matrix.png"] = draw_matrix(result)
    folder.mkdir(parents=True, exist_ok=True)
    for name in {"curve.png", "matrix.png"} - figures.keys():
        (folder / name).unlink(missing_ok=True)
    for name, figure in figures.items():
        with atomic_write(folder / name) as aside:
            figure.savefig(aside, format="png", dpi=150)
    return [folder / name for name in figures]


def draw_matrix(result: CasMatrix) -> Figure:
    """The centred score above its null and the raw score side by side, models ordered by group, with the means within
    and across groups. Colours run from the null, or chance, to the strongest agreement of two models."""
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
    kinds = list(dict.fromkeys(result.groups))
    for axes, (variant, title) in zip(figure.subplots(1, 2), _NAMES.items(), strict=True):
        matrix: Matrix = getattr(result.main, variant)
        _heat(axes, *((matrix.excess, 0.0) if variant == "centred" else (matrix.cas, matrix.mean.chance)), order)
        if matrix.within and matrix.across and matrix.difference and matrix.permutation:
            within, across, gain = (_bounds(each) for each in (matrix.within, matrix.across, matrix.difference))
            title += (
                f"\nwithin groups {within[0]:.3f}, across {across[0]:.3f}\ndifference {gain[0]:+.3f} "
                f"[{gain[1]:+.3f}, {gain[2]:+.3f}]\n{matrix.permutation}"
            )
        axes.set_title(title, fontsize=9, color=_INK)
        axes.set_xticks(range(n), [str(index + 1) for index in order])
        axes.set_yticks(range(n), [f"{names[index]}  {index + 1}" for index in order])
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for text, index in zip(labels, order, strict=True):
                text.set_color(_COLOURS[kinds.index(result.groups[index]) % len(_COLOURS)])
        for edge in (index - 0.5 for index in range(1, n) if groups[index] != groups[index - 1]):
            axes.axhline(edge, color="white", lw=3)
            axes.axvline(edge, color="white", lw=3)
    return figure


def _bounds(score: Score) -> tuple[float, float, float]:
    """A score and its interval; for a centred score, the excess and its interval."""
    if isinstance(score, CentredScore):
        return score.excess, score.excess_low, score.excess_high
    return score.cas, score.low, score.high


def _heat(axes: Axes, values: np.ndarray, chance: float, order: list[int]) -> None:
    shown = values[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    highest = max([chance + 0.02, *shown[~np.isnan(shown)]])  # so that noise does not look like a difference
    image = axes.imshow(shown, cmap="YlGnBu", vmin=chance, vmax=highest)
    axes.set_facecolor("#e4e4e4")  # the diagonal: a model with itself has no score
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(shown):
        if len(order) <= _MOST_VALUES and row != column:
            colour = "white" if value > chance + 0.55 * (highest - chance) else _INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.02, label=f"from chance, {chance:.3f}")


def draw_curve(result: CasCurve) -> Figure:
    """The centred score above its null and the raw score side by side: the curve with its interval, chance, each
    control's score as a line with a band for its interval, and a mark at the first point from which it clears them."""
    title = f"Alignment with {result.reference} on {result.num_pairs} pairs of {result.pairs}, top {result.k} of " \
            f"{result.num_patches} patches"  # fmt: skip
    figure = _figure(11, 5, title)
    at = [point.at for point in result.points if point.at is not None]
    controls = short_names([control.model for control in result.controls])
    for axes, (variant, label) in zip(figure.subplots(1, 2), _NAMES.items(), strict=True):
        for index, (name, control) in enumerate(zip(controls, result.controls, strict=True)):
            value, low, high = _bounds(getattr(control, variant))
            colour = _COLOURS[(index + 1) % len(_COLOURS)]
            axes.axhspan(low, high, color=colour, alpha=0.15, lw=0)
            axes.axhline(value, color=colour, lw=1, ls="--", label=f"control: {name}")
        bounds = np.array([_bounds(getattr(point, variant)) for point in result.points])
        cas, lows, highs = bounds.T.tolist()
        axes.fill_between(at, lows, highs, color=_SCORE, alpha=0.2, lw=0)
        axes.plot(at, cas, color=_SCORE, marker="o", ms=3.5, label=f"{label}, with 95% interval")
        axes.axhline(
            0.0 if variant == "centred" else result.points[0].raw.chance, color=_INK, ls=":", lw=1, label="chance"
        )
        axes.set_title(f"{label}: {result.sentence(variant)}", fontsize=9.5, color=_INK)
        if (first := result.emerged[variant]) is not None:
            axes.plot(first, cas[at.index(first)], marker="o", ms=11, mfc="none", mec=_INK, mew=1.4, ls="none",
                      label="clears from here on")  # fmt: skip
        if result.by == "hours":
            axes.set_xscale("log")
            axes.set_xticks(at, [f"{each:.3g}" for each in at])
            axes.minorticks_off()
        axes.set_ylim(bottom=min(0.0, *lows))
        axes.set_xlabel(UNITS[result.by], fontsize=9)
        axes.set_ylabel("CAS with the reference", fontsize=9)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        _bare(axes)
    return figure


def short_names(names: Sequence[str]) -> list[str]:
    """The names, each with as few of its folders as keep all names distinct."""
    parts = [PurePath(name).parts for name in names]
    for count in range(1, max(map(len, parts), default=0)):
        short = ["/".join(each[-count:]) for each in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _figure(width: float, height: float, title: str) -> Figure:
    """A figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11, color=_INK)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8, length=3)


def draw_pairs(pairs: PairSet, path: Path, num_pairs: int = 12) -> int:
    """Draw pairs from all over the set as a PNG: the target is left, and a true match has one colour in both views.

    Returns:
        How many were drawn.
    """
    count, width = min(num_pairs, len(pairs)), pairs.target.shape[-1]
    columns, lines = min(_PAIRS_IN_A_LINE, count), -(-count // _PAIRS_IN_A_LINE)
    matches = pairs.true_match((_POINTS, _POINTS)).numpy()
    figure = Figure(figsize=(3.32 * columns, 1.86 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for number, axis in enumerate(axes):
        axis.set_axis_off()
        if number >= count:
            continue
        index = number * len(pairs) // count
        axis.imshow(torch.cat([pairs.target[index], pairs.source[index]], dim=2).permute(1, 2, 0).numpy())
        axis.axvline(width - 0.5, color="white")
        axis.set_title(_caption(pairs, index), size=8, pad=2)
        known = np.flatnonzero(matches[index] >= 0)
        for left, patches in ((0, known), (width, matches[index][known])):
            row, column = np.divmod(patches, _POINTS)
            x, y = ((place + 0.5) * width / _POINTS for place in (column, row))
            axis.scatter(left + x, y, 16, known * 0.618 % 1, cmap="hsv", vmin=0, vmax=1, edgecolors="black")
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=100, format="png")
    return count


def _caption(pairs: PairSet, index: int) -> str:
    parts = [f"#{index}"]
    if pairs.gap is not None:
        gap = pairs.gap[index]
        parts.append("two videos" if np.isnan(gap) else f"{gap:.2f} s")
    if pairs.overlap is not None and not np.isnan(pairs.overlap[index]):
        parts.append(f"overlap {pairs.overlap[index]:.2f}")
    return "   ".join(parts)
