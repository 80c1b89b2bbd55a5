"""The figures of a study's answers."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from singlelife.alignment.plots.style import (
    COLOURS,
    FAINT,
    INK,
    KIND_COLOURS,
    VARIANT_COLOURS,
    VARIANT_NAMES,
    bare,
    group_colours,
    new_figure,
)
from singlelife.study.results import Agreement, mean


def draw_curves(
    curves: Mapping[str, Mapping[float, list[Agreement]]], controls: Mapping[str, list[Agreement]]
) -> Figure:
    """Agreement and true matches against hours of life, with the range of each control."""
    figure = new_figure(11, 4.4)
    panels = {"raw": "raw CAS", "position_free": "position-free CAS", "truth": "true match at large shifts"}
    for axes, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for (label, points), colour in zip(curves.items(), group_colours(list(curves)).values(), strict=True):
            hours = [each for each, found in points.items() for _ in found]
            values = [getattr(one, name) for found in points.values() for one in found]
            axes.plot(hours, values, ".", color=colour, alpha=0.5, ms=5)
            means = [mean([getattr(one, name) for one in found]) for found in points.values()]
            axes.plot(list(points), means, "-", color=colour, lw=1.8, label=label)
        for (label, found), colour in zip(controls.items(), itertools.cycle(COLOURS[::-1]), strict=False):
            values = [getattr(one, name) for one in found if getattr(one, name) is not None]
            if values:
                axes.axhspan(min(values), max(values), color=colour, alpha=0.2, lw=0)
                axes.axhline(mean(values), color=colour, ls="--", lw=1, label=label)
        ticks = sorted({hours for points in curves.values() for hours in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{hours:.2g}" for hours in ticks], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel("hours of life", fontsize=9)
        axes.set_title(title + (", adjusted" if name != "truth" else ""), fontsize=10, color=INK)
        _finish(axes)
    return figure


def draw_bars(groups: Mapping[str, list[Agreement]]) -> Figure:
    """The agreement of groups of models with a reference."""
    figure = new_figure(9, 4)
    axes = figure.subplots()
    for offset, (name, colour) in zip((-0.2, 0.2), VARIANT_COLOURS.items(), strict=True):
        for place, found in enumerate(groups.values()):
            values = [getattr(each, name) for each in found]
            label = VARIANT_NAMES[name] if place == 0 else None
            axes.bar(place + offset, mean(values) if values else 0, 0.38, color=colour, label=label)
            axes.plot([place + offset] * len(values), values, ".", color=INK, ms=4)
    axes.set_xticks(range(len(groups)), list(groups), fontsize=8)
    axes.set_ylabel("agreement with the reference, adjusted", fontsize=9)
    _finish(axes)
    return figure


def draw_pairs(drawn: Mapping[str, Mapping[str, float]]) -> Figure:
    """Scores within and across groups."""
    figure = new_figure(8, 3.6)
    axes = figure.subplots()
    for place, values in enumerate(drawn.values()):
        for offset, kind in ((-0.2, "within"), (0.2, "across")):
            label = kind if place == 0 else None
            axes.bar(place + offset, values[kind], 0.38, color=KIND_COLOURS[kind], label=label)
    axes.set_xticks(range(len(drawn)), [name.replace(", ", "\n") for name in drawn], fontsize=8)
    axes.set_ylabel("CAS", fontsize=9)
    _finish(axes)
    return figure


def draw_panels(found: Mapping[str, Mapping[str, list[float]]]) -> Figure:
    """A panel for each measure, with the models of each set."""
    figure = new_figure(3.4 * len(found), 3.8)
    for axes, (name, sides) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        for place, (values, colour) in enumerate(
            zip(sides.values(), group_colours(list(sides)).values(), strict=True)
        ):
            axes.plot([place] * len(values), values, "o", color=colour, ms=5, alpha=0.6)
            if values:
                axes.plot([place - 0.25, place + 0.25], [mean(values)] * 2, color=colour, lw=2)
        axes.set_xticks(range(len(sides)), list(sides), fontsize=8, rotation=25)
        axes.set_xlim(-0.6, len(sides) - 0.4)
        axes.set_title(name + (" (lower is better)" if name.startswith("AEPE") else ""), fontsize=10, color=INK)
        _finish(axes, legend=False)
    return figure


@dataclass(frozen=True)
class Scatter:
    """A panel of dots, one for each model: the label of its set, and its two values."""

    title: str
    x: str
    y: str
    points: Sequence[tuple[str, float, float]]


def draw_scatter(panels: Sequence[Scatter], labels: Sequence[str]) -> Figure:
    """A row of panels for each x, with a dot for each model in the colour of its set."""
    xs, ys = (list(dict.fromkeys(names)) for names in ([each.x for each in panels], [each.y for each in panels]))
    figure = new_figure(4 * len(ys), 3.5 * len(xs))
    grid = figure.subplots(len(xs), len(ys), squeeze=False)
    for panel in panels:
        place = grid[xs.index(panel.x), ys.index(panel.y)]
        for label, colour in group_colours(labels).items():
            dots = [(x, y) for kind, x, y in panel.points if kind == label]
            if dots:
                place.plot(*zip(*dots, strict=True), "o", color=colour, ms=4.5, alpha=0.75, label=label)
        place.set_title(panel.title, fontsize=9.5, color=INK)
        place.set_xlabel(f"{panel.x}, with the reference", fontsize=9)
        place.set_ylabel(panel.y, fontsize=9)
        _finish(place, legend=len(labels) > 1 and place is grid[0, 0])
    return figure


def draw_ks(curves: Mapping[str, Mapping[int, Mapping[str, float]]], chance: Mapping[int, float]) -> Figure:
    """Scores and true matches against k; position-free ones dashed, and the true matches of chance dotted."""
    figure = new_figure(10, 4)
    panels = {"agreement, adjusted": ("raw", "position_free"),
              "true match in the top k, at large shifts": ("truth", "position_free_truth")}  # fmt: skip
    for axes, (title, names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for (label, curve), colour in zip(curves.items(), group_colours(list(curves)).values(), strict=True):
            for name, style in zip(names, ("-", "--"), strict=True):
                values = [means[name] for means in curve.values()]
                axes.plot(
                    list(curve), values, f"o{style}", ms=3.5, color=colour, label=label if style == "-" else None
                )
        axes.plot([], [], "--", color=INK, label="position-free")
        if "truth" in names:
            axes.plot(list(chance), list(chance.values()), ":", color=INK, lw=1, label="chance")
        axes.set_xlabel("k", fontsize=9)
        axes.set_title(title, fontsize=10, color=INK)
        _finish(axes)
    return figure


def _finish(axes, legend: bool = True) -> None:
    bare(axes)
    axes.grid(axis="y", color=FAINT, alpha=0.2, lw=0.6)
    if legend:
        axes.legend(frameon=False, fontsize=8)
