"""The figures of a report, drawn from the numbers of one question."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

matplotlib.use("Agg")

TITLES = {
    "raw": "raw CAS",
    "position_free": "position-free CAS",
    "position_raw": "raw CAS with mere position",
    "true_match_raw_large_shifts": "true match at large shifts",
    "true_match_position_free_large_shifts": "true match at large shifts, position-free",
    "delta1": "depth δ1",
    "aepe_240": "AEPE, px of 240",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#555555")
DPI = 130


def draw(config: Mapping[str, Any], question: Mapping[str, Any], numbers: pd.DataFrame, path: Path) -> bool:
    """Draw what there is of a question as a PNG.

    Returns:
        False where the numbers hold nothing to draw; `path` stays as it is.
    """
    kinds, means = set(numbers.kind), numbers[numbers.kind == "mean"]
    if "pair" in kinds:
        figure = draw_matrices(numbers[numbers.kind == "pair"])
    elif "correlate" in question:
        if "point" not in kinds:
            return False
        figure = draw_scatter(question, numbers[numbers.kind == "point"])
    elif means.empty or ("matrices" in question and means["at"].isna().all()):
        return False
    elif "matrices" in question:
        figure = draw_by_k(means[means.role == means.role.iloc[0]])
    elif question.get("by_hours"):
        figure = draw_by_hours(question["by_hours"], means)
    else:
        figure = draw_sets(means)
    figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return True


def draw_sets(means: pd.DataFrame) -> Figure:
    """A panel for each metric: the mean of each set, with its standard deviation over models."""
    metrics = list(dict.fromkeys(means.metric))
    figure, panels = _panels(1, len(metrics), 3.6, 3.6)
    for axes, metric in zip(panels[0], metrics, strict=True):
        rows = means[means.metric == metric]
        for place, (row, colour) in enumerate(zip(rows.itertuples(), COLOURS, strict=False)):
            axes.errorbar(place, row.value, None if np.isnan(row.sd) else row.sd, fmt="o", color=colour, capsize=5)
        axes.set_xticks(range(len(rows)), rows.label, rotation=30, ha="right", fontsize=8)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_title(TITLES[metric] + (" (less is better)" if "aepe" in metric else ""), fontsize=10)
    return figure


def draw_by_hours(split: Sequence[str], means: pd.DataFrame) -> Figure:
    """A panel for each metric: sets against hours of life, other sets as bands, with standard deviations."""
    metrics = list(dict.fromkeys(means.metric))
    figure, panels = _panels(1, len(metrics), 3.8, 4)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for (label, rows), colour in zip(
            means[means.metric == metric].groupby("label", sort=False), (*COLOURS[:2], *COLOURS[:3:-1]), strict=False
        ):
            if label in split:
                axes.errorbar(rows["at"], rows.value, rows.sd.fillna(0), fmt="o-", color=colour, capsize=3, ms=4,
                              label=label)  # fmt: skip
            else:
                value, sd = rows.value.iloc[0], rows.sd.fillna(0).iloc[0]
                axes.axhspan(value - sd, value + sd, color=colour, alpha=0.2, lw=0)
                axes.axhline(value, color=colour, ls="--", lw=1, label=label)
        hours = sorted(means["at"].dropna().unique())
        axes.set_xscale("log")
        axes.set_xticks(hours, [f"{each:.2g}" for each in hours], rotation=45, fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("hours of life", fontsize=9)
        axes.set_title(TITLES[metric], fontsize=10)
    panels[0][0].legend(frameon=False, fontsize=8)
    return figure


def draw_by_k(means: pd.DataFrame) -> Figure:
    """Scores, and how often matches are true, against k; what is position-free dashed."""
    figure, panels = _panels(1, 2, 5, 4)
    for axes, true in zip(panels[0], (False, True), strict=True):
        for (label, rows), colour in zip(means.groupby("label", sort=False), COLOURS, strict=False):
            for metric, points in rows.groupby("metric", sort=False):
                if metric.startswith("true_match") == true and metric != "position_raw":
                    free = "position_free" in metric
                    axes.plot(points["at"], points.value, "o--" if free else "o-", color=colour, ms=4,
                              label=None if free else label)  # fmt: skip
        axes.plot([], [], "k--", label="position-free")
        axes.set_xlabel("k", fontsize=9)
        axes.set_title("true match at large shifts" if true else "CAS, chance-corrected", fontsize=10)
    panels[0][0].legend(frameon=False, fontsize=8)
    return figure


def draw_scatter(question: Mapping[str, Any], points: pd.DataFrame) -> Figure:
    """A panel for each score and metric, with a dot for each model in the colour of its set."""
    models = points.pivot_table(index=["label", "role"], columns="metric", values="value", sort=False)
    labels, asked = models.index.get_level_values("label"), question["correlate"]
    figure, panels = _panels(len(asked["with"]), len(asked["metrics"]), 4, 3.6)
    for row, score in zip(panels, asked["with"], strict=True):
        for axes, metric in zip(row, asked["metrics"], strict=True):
            for label, colour in zip(question["sets"], COLOURS, strict=False):
                some = models[labels == label]
                if {score, metric} <= set(some):
                    axes.plot(some[score], some[metric], "o", color=colour, ms=4.5, alpha=0.75, label=label)
            axes.set_xlabel(f"{TITLES[score]} with the reference", fontsize=9)
            axes.set_ylabel(TITLES[metric], fontsize=9)
    panels[0][0].legend(frameon=False, fontsize=8)
    return figure


def draw_matrices(pairs: pd.DataFrame) -> Figure:
    """The CAS of each two models, not chance-corrected: a row of matrices for each metric."""
    metrics, roles = (list(dict.fromkeys(pairs[name])) for name in ("metric", "role"))
    figure, panels = _panels(len(metrics), len(roles), 4, 3.7)
    for row, metric in zip(panels, metrics, strict=True):
        for axes, role in zip(row, roles, strict=True):
            cells = {tuple(each.label.split(" ")): each.value for each in
                     pairs[(pairs.metric == metric) & (pairs.role == role)].itertuples()}  # fmt: skip
            names = list(dict.fromkeys(name for pair in cells for name in pair))
            matrix = [[cells.get((a, b), cells.get((b, a), np.nan)) for b in names] for a in names]
            picture = axes.imshow(matrix, cmap="YlGnBu")
            axes.grid(False)
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_title(f"{TITLES[metric]}, {role}", fontsize=9)
            figure.colorbar(picture, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    return figure


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.2, lw=0.6)
        axes.tick_params(labelsize=8)
    return figure, panels
