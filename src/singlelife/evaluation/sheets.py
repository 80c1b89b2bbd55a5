"""Pictures of models' depth maps and matches for some test items."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from singlelife.alignment.plots import short_names
from singlelife.errors import EvaluationError
from singlelife.evaluation.correspondence import Matcher, flow_at, patch_centres
from singlelife.evaluation.depth import ProbedModel, at_size
from singlelife.evaluation.depth_data import DepthFrames, depth_metrics
from singlelife.evaluation.image_pairs import ImagePair, PairData
from singlelife.files import atomic_write

_INK, _UNKNOWN, _CELL = "#222222", "#d0d0d0", 2.0  # text; unknown depth; inches per image
_DEPTH_COLORS = "magma_r"  # near is bright
_POINTS = 5  # rows and columns of points whose matches are marked


def depth_maps(probed: ProbedModel, count: int = 6) -> dict[int, np.ndarray]:
    """Depth of some test frames, evenly spread, by the probe of the first seed.

    Returns:
        By number of the frame, its depth in metres at the truth's size, float32 (height, width).
    """
    test, frames = probed.features.test, probed.frames
    count = min(count, len(test))
    indices = ((np.arange(count) + 0.5) * len(test) / count).astype(np.int64)
    rows = [test.rows[index] for index in indices]
    return {
        row: at_size(depth, frames.depth(row).shape, frames)
        for row, depth in zip(rows, probed.predict(indices)[0], strict=True)
    }


def draw_depth(path: Path, frames: DepthFrames, models: Mapping[str, Mapping[int, np.ndarray]]) -> None:
    """Draw frames as a PNG, a row each: the image, the true depth, and the depth and δ1 of each model.

    Args:
        path: the file to write.
        frames: the test frames.
        models: what `depth_maps` gives, by model; at least one, all of the same frames.
    """
    rows = list(next(iter(models.values())))
    truths = [np.where(frames.protocol.known(depth), depth, np.nan) for depth in map(frames.depth, rows)]
    values = np.concatenate([truth[np.isfinite(truth)] for truth in truths])
    nearest, farthest = float(np.quantile(values, 0.01)), float(values.max())
    norm = LogNorm(nearest, farthest)
    figure, axes = _figure(f"Depth on {frames.name}", ["image", "true depth", *short_names(list(models))], len(rows))
    for cells, row, truth in zip(axes, rows, truths, strict=True):
        _show(cells[0], frames.image(int(frames.rows[row])))
        for cell, depth in zip(cells[1:], [truth, *(maps[row] for maps in models.values())], strict=True):
            cell.set_facecolor(_UNKNOWN)
            cell.imshow(depth, cmap=_DEPTH_COLORS, norm=norm, interpolation="nearest")
            if depth is not truth:
                known = np.isfinite(truth)
                delta1 = depth_metrics(depth[known], truth[known])[0]
                cell.set_xlabel(f"δ1 {delta1:.2f}", fontsize=8, color=_INK, labelpad=2)
    bar = figure.colorbar(ScalarMappable(norm, _DEPTH_COLORS), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("depth in metres", color=_INK, fontsize=9)
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 40, 80) if nearest <= tick <= farthest]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], fontsize=8)
    bar.minorticks_off()
    _save(figure, path)


def shown_pairs(data: PairData, count: int = 4) -> dict[str, ImagePair]:
    """Some readable pairs from all over the data, by name."""
    found: dict[str, ImagePair] = {}
    spread = [index * len(data.pairs) // count for index in range(count)]
    for index in [*spread, *range(len(data.pairs))]:
        try:
            found.setdefault(data.pairs[index].name, data.pairs[index].load())
        except EvaluationError:
            continue
        if len(found) == count:
            break
    return found


def matches(matcher: Matcher, data: PairData) -> list[torch.Tensor]:
    """A model's flow for each of `shown_pairs`, float64 (rows, columns, 2)."""
    return list(matcher.flows(list(shown_pairs(data).values())))


def draw_matches(path: Path, data: PairData, models: Mapping[str, Sequence[torch.Tensor]]) -> None:
    """Draw pairs as a PNG, a row each: the target with points, the source with their true places, and for each model
    the source with the places that it finds, each with a line from the true place.

    Args:
        path: the file to write.
        data: the data that the pairs come from.
        models: what `matches` gives, by model.
    """
    pairs = shown_pairs(data)
    titles = ["target", "source: true places", *(f"matches of {name}" for name in short_names(list(models)))]
    tallest = max(image.shape[1] / image.shape[2] for pair in pairs.values() for image in (pair.target, pair.source))
    figure, axes = _figure(f"Matches on {data.name}", titles, len(pairs), tallest)
    for number, (cells, (name, pair)) in enumerate(zip(axes, pairs.items(), strict=True)):
        cells[0].set_ylabel(name, fontsize=7, color=_INK)
        points = patch_centres((_POINTS, _POINTS)).numpy()
        true, known = pair.truth(points)
        seen = known & ((true >= 0) & (true <= 1)).all(axis=1)
        points, true = points[seen], true[seen]
        hue = points @ [0.7, 0.3]
        colors = colormaps["turbo"](hue)[:, :3]  # neighbours look alike
        _show(cells[0], pair.target, points, colors)
        _show(cells[1], pair.source, true, colors)
        for axis, flows in zip(cells[2:], models.values(), strict=True):
            found = points + flow_at(flows[number], torch.from_numpy(points)).numpy()
            _show(axis, pair.source, found, colors)
            for ends, color in zip(np.stack([true, found], axis=1), colors, strict=True):
                axis.plot(*(ends * pair.source.shape[:0:-1] - 0.5).T, color=color, linewidth=0.8)
    _save(figure, path)


def _figure(title: str, titles: Sequence[str], num_rows: int, tallest: float = 1.0) -> tuple[Figure, np.ndarray]:
    size = (len(titles) * _CELL + 0.6, num_rows * _CELL * tallest + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, color=_INK)
    axes = figure.subplots(num_rows, len(titles), squeeze=False)
    for axis, words in zip(axes[0], titles, strict=True):
        axis.set_title(words, fontsize=8, color=_INK, pad=4)
    for axis in axes.flat:
        axis.spines[:].set_visible(False)
        axis.set(xticks=[], yticks=[])
    return figure, axes


def _show(axis: Axes, image: torch.Tensor, points: np.ndarray | None = None, colors: np.ndarray | None = None) -> None:
    """An image, uint8 (3, H, W), with points, (n, 2) as fractions."""
    _, height, width = image.shape
    axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest" if width < 200 else "antialiased")
    if points is not None:
        x, y = (points * [width, height] - 0.5).T
        axis.scatter(x, y, s=16, c=colors, edgecolors="white", linewidths=0.7)
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=140, format="png")
