"""A contact sheet of some pairs of a pair set."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.files import atomic_write

_IN_A_LINE = 3  # pairs
_SIDE = 6  # of the grid of points whose true matches are marked


def draw_pairs(pairs: PairSet, path: Path, num_pairs: int = 12) -> int:
    """Draw pairs from all over the set into a PNG, target left, true matches as dots of one colour in both views.

    Returns:
        How many were drawn.
    """
    count, width = min(num_pairs, len(pairs)), pairs.target.shape[-1]
    columns, lines = min(_IN_A_LINE, count), -(-count // _IN_A_LINE)
    matches = pairs.true_match((_SIDE, _SIDE)).numpy()
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
            row, column = np.divmod(patches, _SIDE)
            x, y = ((place + 0.5) * width / _SIDE for place in (column, row))
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
