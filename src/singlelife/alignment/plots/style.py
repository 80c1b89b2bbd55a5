"""What the pictures have in common: ink, colours, names that fit, files that are whole."""

import io
from collections.abc import Sequence
from pathlib import Path, PurePath

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from singlelife.alignment.score import Score
from singlelife.files import atomic_write

INK, FAINT = "#222222", "#8a8a8a"
RAW, FREE = "#9a9a9a", "#3fa7ff"  # the two scores, wherever they stand side by side
VARIANT_NAMES = {"raw": "raw", "position_free": "position-free"}
VARIANT_COLOURS = {"raw": RAW, "position_free": FREE}
KIND_COLOURS = {"within": "#d1495b", "across": "#2e6f95", "mean": "#555555"}

# Colour-blind people can tell these apart. Where there are more groups than colours, groups share one.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#5f5f5f")
_DPI = 150
_LONGEST = 28  # letters of a name


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches, that needs no screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: Path) -> Path:
    """Save it as a PNG, whole or not at all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    with atomic_write(path) as aside:
        aside.write_bytes(drawn.getvalue())
    return path


def bare(axes: Axes) -> None:
    """Without a frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=3)


def draw_curve(axes: Axes, at: Sequence[float], scores: Sequence[Score], *, colour: str, label: str) -> None:
    """Scores with the band of their intervals."""
    axes.fill_between(at, [each.low for each in scores], [each.high for each in scores], color=colour, alpha=0.2, lw=0)
    axes.plot(at, [each.cas for each in scores], color=colour, marker="o", ms=3.5, label=label)


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour of each group, in the order in which they come."""
    return {group: COLOURS[index % len(COLOURS)] for index, group in enumerate(dict.fromkeys(groups))}


def by_group(groups: Sequence[str]) -> list[int]:
    """The indices of models such that those of one group stand together; groups and models in the order they came."""
    first = {group: index for index, group in reversed(list(enumerate(groups)))}
    return sorted(range(len(groups)), key=lambda index: (first[groups[index]], index))


def short_names(names: Sequence[str]) -> list[str]:
    """Names that fit beside a row: the folders that all of them are in are left out, and what is long is cut in the
    middle. No two become the same by losing their folders."""
    paths = [PurePath(name) for name in names]
    parents = {path.parent for path in paths if len(path.parts) > 1}
    shortened = [path.name if len(parents) == 1 else name for path, name in zip(paths, names, strict=True)]
    if len(set(shortened)) < len(set(names)):
        shortened = list(names)
    return [
        name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}…{name[-_LONGEST // 2 :]}"
        for name in shortened
    ]
