"""Alignment as it emerges, over steps or hours of life."""

from pathlib import PurePath

from matplotlib.figure import Figure

from singlelife.alignment.extraction import VARIANTS
from singlelife.alignment.plots.style import (
    FAINT,
    INK,
    VARIANT_COLOURS,
    VARIANT_NAMES,
    bare,
    draw_curve,
    new_figure,
    short_names,
)
from singlelife.alignment.trajectory import UNITS, CasCurve

_CONTROLS = ("#c0392b", "#b7791f", "#7a5195", "#5f5f5f")
_WIDE = 8.0  # times the least duration: from here on, durations are drawn on a logarithmic axis


def draw_trajectory(result: CasCurve) -> Figure:
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
            score, colour = getattr(control, variant), _CONTROLS[index % len(_CONTROLS)]
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
