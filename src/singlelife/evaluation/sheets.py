"""Pictures of what models make of some test items: depth maps, and matches between two views."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from singlelife.errors import EvaluationError
from singlelife.evaluation.correspondence import Matcher
from singlelife.evaluation.depth import ProbedModel, at_size
from singlelife.evaluation.depth_frames import METRICS, DepthFrames, depth_metrics
from singlelife.evaluation.flow import flow_at
from singlelife.evaluation.image_pairs import ImagePair, PairData, Truth
from singlelife.files import atomic_write

_INK, _UNKNOWN, _CELL = "#222222", "#d0d0d0", 2.0  # text; unknown depth; inches per image
_DEPTH_COLORS = "magma_r"  # near is bright
_POINTS = (4, 4)  # rows and columns of the points whose matches are marked
_SHOWN = 640  # px: the longer side of an image in the sheet


@dataclass(frozen=True)
class DepthMaps:
    """Depth of a sheet's frames by one model.

    Attributes:
        name: of the model.
        frames: the test frames.
        rows: which of them are shown.
        depths: in metres, each of its truth's size.
        delta1: of each.
    """

    name: str
    frames: DepthFrames
    rows: list[int]
    depths: list[np.ndarray]
    delta1: list[float]


def depth_maps(probed: ProbedModel, num_rows: int = 6) -> DepthMaps:
    """Maps of some test frames, evenly spread, by the probe of the first seed."""
    test, frames = probed.features.test, probed.frames
    count = min(num_rows, len(test))
    indices = ((np.arange(count) + 0.5) * len(test) / count).astype(np.int64)
    rows, depths, delta1 = test.rows[indices].tolist(), [], []
    for depth, row in zip(probed.predict(0, indices), rows, strict=True):
        true = frames.depth(row)
        known = frames.protocol.known(true)
        depths.append(at_size(depth, true.shape, frames))
        delta1.append(float(depth_metrics(depths[-1][known], true[known])[METRICS.index("delta1")]))
    return DepthMaps(probed.features.encoder.name, frames, rows, depths, delta1)


def draw_depth(path: Path, models: Sequence[DepthMaps]) -> None:
    """Draw frames as a PNG, a line each: the image, the true depth, and the depth and δ1 of each model.

    Args:
        path: where to.
        models: at least one, all of the same frames.
    """
    frames, rows = models[0].frames, models[0].rows
    truths = [np.where(frames.protocol.known(depth), depth, np.nan) for depth in map(frames.depth, rows)]
    known = np.concatenate([truth[np.isfinite(truth)] for truth in truths])
    nearest, farthest = float(np.quantile(known, 0.01)), float(known.max())
    norm = LogNorm(nearest, farthest)
    titles = ["image", "true depth", *(_short(model.name) for model in models)]
    figure, axes = _figure(f"Depth on {frames.name}", titles, len(rows))
    for line, row in enumerate(rows):
        cells = axes[line]
        _show(cells[0], frames.image(int(frames.rows[row])))
        for cell, depth in zip(cells[1:], [truths[line], *(model.depths[line] for model in models)], strict=True):
            cell.set_facecolor(_UNKNOWN)
            cell.imshow(depth, cmap=_DEPTH_COLORS, norm=norm, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
        for cell, model in zip(cells[2:], models, strict=True):
            cell.set_xlabel(f"δ1 {model.delta1[line]:.2f}", fontsize=8, color=_INK, labelpad=2)
    bar = figure.colorbar(ScalarMappable(norm, _DEPTH_COLORS), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("depth in metres", color=_INK, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 40, 80) if nearest <= tick <= farthest]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    _save(figure, path)


@dataclass(frozen=True)
class Matches:
    """What one model makes of a sheet's pairs.

    Attributes:
        name: of the model.
        data: name of the data that the pairs come from.
        pairs: with their names.
        flows: of each pair, see `flow.flow_of`.
    """

    name: str
    data: str
    pairs: list[tuple[str, ImagePair]]
    flows: list[torch.Tensor]


def matches(matcher: Matcher, data: PairData, num_rows: int = 4) -> Matches:
    """A model's flow of some pairs from all over the data. Pairs that cannot be read are left out."""
    assert matcher.model is not None
    found: list[tuple[str, ImagePair]] = []
    spread = [index * len(data) // num_rows for index in range(num_rows)]
    for index in dict.fromkeys([*spread, *range(len(data))]):
        try:
            found.append((data.pairs[index].name, data.pairs[index].load()))
        except EvaluationError:
            continue
        if len(found) == num_rows:
            break
    return Matches(matcher.model.name, data.name, found, list(matcher.flows([pair for _, pair in found])))


def draw_matches(path: Path, models: Sequence[Matches]) -> None:
    """Draw pairs as a PNG, a line each: the target with points; the source with their true places; the source warped
    to the target by the truth; and for each model the points that it finds, and the source warped by its flow.

    Args:
        path: where to.
        models: at least one, all of the same pairs.
    """
    titles = ["target", "source: true places", "source warped by the truth"]
    for model in models:
        titles += [f"matches of {_short(model.name)}", "source warped by it"]
    pairs = models[0].pairs
    tallest = max(image.shape[1] / image.shape[2] for _, pair in pairs for image in (pair.target, pair.source))
    figure, axes = _figure(f"Matches on {models[0].data}", titles, len(pairs), tallest)
    for number, (row, (name, pair)) in enumerate(zip(axes, pairs, strict=True)):
        row[0].set_ylabel(name, fontsize=7, color=_INK)
        marked = _marked_points(pair.truth)
        found, known = pair.truth(marked)
        known &= ((found >= 0) & (found <= 1)).all(axis=1)
        hue = (np.argsort(np.argsort(marked[:, 0] + 0.37 * marked[:, 1])) + 0.5) / len(marked)
        colors = colormaps["turbo"](hue)[:, :3]  # neighbours look alike
        _show(row[0], pair.target, marked[known], colors[known])
        _show(row[1], pair.source, found[known], colors[known])
        _show(row[2], _warp(pair, pair.truth))
        height, width = _picture(pair.source).shape[:2]
        for column, model in enumerate(models):
            flow = model.flows[number]
            there = marked + flow_at(flow, torch.from_numpy(marked)).numpy()
            axis = row[3 + 2 * column]
            _show(axis, pair.source, there[known], colors[known])
            for start, end, color in zip(found[known], there[known], colors[known], strict=True):
                axis.plot(*(np.array([start, end]) * [width, height] - 0.5).T, color=color, linewidth=0.8)
            _show(row[4 + 2 * column], _warp(pair, _as_truth(flow)))
    _save(figure, path)


def _figure(title: str, titles: Sequence[str], num_rows: int, tallest: float = 1.0) -> tuple[Figure, np.ndarray]:
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(len(titles) * _CELL + 0.6, num_rows * _CELL * tallest + 0.8), layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color=_INK)
    axes = figure.subplots(num_rows, len(titles), squeeze=False)
    for axis, words in zip(axes[0], titles, strict=True):
        axis.set_title(words, fontsize=8, color=_INK, pad=4)
    for axis in axes.flat:
        axis.spines[:].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=140, format="png")


def _marked_points(truth: Truth) -> np.ndarray:
    """Points spread over the part of the target that is seen in the source, float64 (n, 2)."""
    side = (np.arange(48) + 0.5) / 48
    everywhere = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    found, known = truth(everywhere)
    seen = everywhere[known & ((found >= 0.02) & (found <= 0.98)).all(axis=1)]
    if not len(seen):
        return everywhere[:: len(everywhere) // 16]
    low, high = seen.min(axis=0), seen.max(axis=0)
    rows, columns = ((np.arange(count) + 0.5) / count for count in _POINTS)
    wanted = low + np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2) * (high - low)
    return seen[np.linalg.norm(wanted[:, None] - seen[None], axis=-1).argmin(axis=1)]


def _picture(image: torch.Tensor) -> np.ndarray:
    """An image as it is shown: uint8 (H, W, 3), not larger than the sheet needs."""
    height, width = image.shape[1:]
    scale = _SHOWN / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = torch.nn.functional.interpolate(image.unsqueeze(0), size, mode="bilinear", antialias=True)[0]
    return image.permute(1, 2, 0).numpy()


def _warp(pair: ImagePair, truth: Truth) -> torch.Tensor:
    """The source seen through the target's pixels, uint8 (3, H, W); grey where a place is not known or outside."""
    height, width = _picture(pair.target).shape[:2]
    x, y = ((np.arange(count) + 0.5) / count for count in (width, height))
    found, known = truth(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    known = known & ((found >= 0) & (found <= 1)).all(axis=1)
    where = torch.from_numpy(2 * found - 1).float().view(1, height, width, 2)
    source = torch.from_numpy(np.ascontiguousarray(_picture(pair.source))).permute(2, 0, 1)
    warped = torch.nn.functional.grid_sample(
        source.float().unsqueeze(0), where, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    warped[:, ~torch.from_numpy(known).view(height, width)] = 225
    return warped.round().clamp(0, 255).to(torch.uint8)


def _as_truth(flow: torch.Tensor) -> Truth:
    def places(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return points + flow_at(flow, torch.from_numpy(points)).numpy(), np.ones(len(points), dtype=bool)

    return places


def _show(axis: Axes, image: torch.Tensor, points: np.ndarray | None = None, colors: np.ndarray | None = None) -> None:
    picture = _picture(image)
    axis.imshow(picture, interpolation="nearest" if max(picture.shape) < 200 else "antialiased")
    axis.set(xticks=[], yticks=[])
    if points is not None:
        places = points * picture.shape[1::-1] - 0.5
        axis.scatter(places[:, 0], places[:, 1], s=16, c=colors, edgecolors="white", linewidths=0.7)
        axis.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
