"""The score of patches against measures of whole images: each point is two models."""

import numpy as np
from matplotlib.figure import Figure

from singlelife.alignment.contrast import MEASURES, Contrast
from singlelife.alignment.matrix import CasMatrix, of_one_group
from singlelife.alignment.plots.style import FAINT, INK, KIND_COLOURS, bare, new_figure

_NAMES = {"cka": "linear CKA", "mutual_knn": "mutual nearest neighbours", "rsa": "RSA"}


def draw_contrast(result: CasMatrix, contrast: Contrast) -> Figure:
    """A panel for each measure: what it says of two models, against their position-free CAS. Where points stand far
    right and low, models find the same images alike and still look at other patches."""
    first, second = np.triu_indices(len(result.models), 1)
    same = of_one_group(result.groups)
    score = result.main.position_free
    chances = {"cka": 0.0, "mutual_knn": contrast.mutual_knn_chance, "rsa": 0.0}
    figure = new_figure(10.5, 4)
    figure.suptitle(
        f"Position-free CAS of two models, and what one vector for each of {contrast.num_images} views says of them",
        fontsize=11,
        color=INK,
    )
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        values = getattr(contrast, measure)[first, second]
        for kind, chosen in (("across", ~same), ("within", same)):
            if chosen.any():
                half = contrast.spread[measure][first, second][chosen]
                if np.isfinite(half).all():
                    axes.errorbar(values[chosen], score.cas[first, second][chosen], xerr=half, fmt="none",
                                  color=KIND_COLOURS[kind], alpha=0.35, lw=1)  # fmt: skip
                axes.scatter(values[chosen], score.cas[first, second][chosen], s=34, color=KIND_COLOURS[kind],
                             alpha=0.8, lw=0, label=f"two models {kind} groups")  # fmt: skip
        axes.axvline(chances[measure], color=INK, ls=":", lw=1)
        axes.axhline(score.chance[first, second].mean(), color=INK, ls=":", lw=1, label="chance, of either")
        axes.set_xlabel(_NAMES[measure], fontsize=9)
        axes.set_xlim(min(-0.03, np.nanmin(values, initial=0) - 0.03), 1.03)
        bare(axes)
        axes.grid(color=FAINT, alpha=0.2, lw=0.6)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("CAS, position-free", fontsize=9)
    panels[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
