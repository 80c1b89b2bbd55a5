"""A picture of some test frames: the image, the true depth, and what each model makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from singlelife.evaluation.depth import ProbedModel, at_size
from singlelife.evaluation.depth_frames import DepthFrames
from singlelife.evaluation.depth_protocols import METRICS, depth_metrics
from singlelife.files import atomic_write

_INK, _UNKNOWN, _CELL = "#222222", "#d0d0d0", 1.9  # inches per image
_COLORS = "magma_r"  # near is bright


@dataclass(frozen=True)
class Maps:
    """Depth of the sheet's frames by one model, in metres, each of its truth's size, and its δ1 on each."""

    name: str
    depths: list[np.ndarray]
    delta1: list[float]


def sheet_rows(num_frames: int, num_rows: int = 6) -> np.ndarray:
    """Which frames the sheet shows: evenly spread, away from both ends."""
    count = min(num_rows, num_frames)
    return ((np.arange(count) + 0.5) * num_frames / count).astype(np.int64)


def maps_of(probed: ProbedModel, frames: DepthFrames, indices: np.ndarray, device: str = "cpu") -> Maps:
    """The maps of the first seed's probe, of test items `indices`."""
    depths, delta1 = [], []
    predicted = probed.predict(0, indices, device)
    for depth, index in zip(predicted, indices, strict=True):
        true = frames.depth(int(probed.test.rows[index]))
        known = frames.protocol.known(true)
        depths.append(at_size(depth, true.shape, frames))
        delta1.append(float(depth_metrics(depths[-1][known], true[known])[METRICS.index("delta1")]))
    return Maps(probed.encoder.name, depths, delta1)


def draw_sheet(path: Path, frames: DepthFrames, rows: Sequence[int], models: Sequence[Maps]) -> None:
    """Write the picture as a PNG.

    Args:
        path: where to.
        frames: the test frames.
        rows: which of them, a line of the picture each.
        models: a column each.
    """
    truths = [np.where(frames.protocol.known(depth), depth, np.nan) for depth in (frames.depth(row) for row in rows)]
    known = np.concatenate([truth[np.isfinite(truth)] for truth in truths])
    nearest, farthest = float(np.quantile(known, 0.01)), float(known.max())
    norm = LogNorm(nearest, farthest)
    columns = 2 + len(models)
    figure = Figure(figsize=(_CELL * columns + 0.9, _CELL * len(rows) + 0.7), layout=ConstrainedLayoutEngine())
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in enumerate(rows):
        cells = axes[line]
        image = frames.image(int(frames.rows[row])).permute(1, 2, 0).numpy()
        cells[0].imshow(image, interpolation="nearest")
        for cell, depth in zip(cells[1:], [truths[line], *(model.depths[line] for model in models)], strict=True):
            cell.set_facecolor(_UNKNOWN)
            cell.imshow(depth, cmap=_COLORS, norm=norm, interpolation="nearest")
        for cell, model in zip(cells[2:], models, strict=True):
            cell.set_xlabel(f"δ1 {model.delta1[line]:.2f}", fontsize=8, color=_INK, labelpad=2)
        for cell in cells:
            cell.set(xticks=[], yticks=[])
            for spine in cell.spines.values():
                spine.set_visible(False)
    for cell, name in zip(axes[0], ["image", "true depth", *(_short(model.name) for model in models)], strict=True):
        cell.set_title(name, fontsize=9, color=_INK)
    bar = figure.colorbar(ScalarMappable(norm, _COLORS), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("depth in metres", color=_INK, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 40, 80) if nearest <= tick <= farthest]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    figure.suptitle(f"Depth on {frames.name}", fontsize=11, color=_INK)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=130, format="png")


def _short(name: str) -> str:
    """The end of a name, which tells models apart."""
    return name if len(name) <= 24 else "…" + name[-23:]
