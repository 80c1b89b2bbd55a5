"""Which models are near to which: a dendrogram and an embedding in the plane."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.matrix import CasMatrix, Matrix
from singlelife.alignment.plots.style import (
    FAINT,
    INK,
    VARIANT_NAMES,
    bare,
    group_colours,
    new_figure,
    short_names,
)


def draw_kinship(result: CasMatrix) -> Figure:
    """For raw and position-free scores, models joined by average linkage of the distance 1 - CAS, and placed in the
    plane by classical scaling of it. Takes three models at least."""
    n = len(result.models)
    figure = new_figure(11.5, 2 * (0.24 * n + 2.2))
    rows = figure.subplots(2, 2, width_ratios=[1.25, 1], squeeze=False)
    figure.suptitle(
        f"Which models are near, by 1 − CAS on {result.num_pairs} pairs of {result.pairs}", fontsize=11, color=INK
    )
    colours = [group_colours(result.groups)[group] for group in result.groups]
    for (tree, plane), variant in zip(rows, VARIANTS, strict=True):
        matrix: Matrix = getattr(result.main, variant)
        distances = 1 - matrix.cas
        _tree(tree, distances, short_names(result.models), colours, matrix)
        tree.set_title(f"{VARIANT_NAMES[variant]}: joined by average linkage", fontsize=9.5, color=INK)
        places, kept = classical_scaling(distances)
        _plane(plane, places, colours, list(result.groups))
        plane.set_title(
            f"{VARIANT_NAMES[variant]}: in the plane, which shows {kept:.0%} of the variance",
            fontsize=9.5,
            color=INK,
        )
    return figure


def classical_scaling(distances: np.ndarray) -> tuple[np.ndarray, float]:
    """Points in the plane whose distances are near those given (Torgerson's classical multidimensional scaling).

    Args:
        distances: symmetric (n, n) with zeros on the diagonal, n of 3 or more.

    Returns:
        float64 (n, 2), of which the axis of greater variance is first and the signs are such that the farthest point
        on each axis is on its positive side; and the share of the variance, of all dimensions that are real, in these.
    """
    centring = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-0.5 * centring @ distances**2 @ centring)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    places = vectors[:, :2] * np.sqrt(values[:2])
    places *= np.sign(places[np.abs(places).argmax(axis=0), [0, 1]] + 1e-300)
    total = values.sum()
    return places, float(values[:2].sum() / total) if total > 0 else 1.0


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


def _plane(axes: Axes, places: np.ndarray, colours: list[str], groups: list[str]) -> None:
    for group in dict.fromkeys(groups):
        members = [index for index, each in enumerate(groups) if each == group]
        axes.scatter(
            places[members, 0], places[members, 1], s=130, color=colours[members[0]], alpha=0.85, lw=0, label=group
        )
    for index, (x, y) in enumerate(places, start=1):
        axes.text(x, y, str(index), ha="center", va="center", fontsize=7, color="white", weight="bold")
    bare(axes)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)
    if len(set(groups)) < len(groups):
        axes.legend(frameon=False, fontsize=7.5, markerscale=0.5, loc="center left", bbox_to_anchor=(1, 0.5))
