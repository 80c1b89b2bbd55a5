"""A sheet of pictures: where models find points of the target, and the source as their flow carries it there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from singlelife.alignment.models import AttentionMapProvider
from singlelife.errors import EvaluationError
from singlelife.evaluation.correspondence import match
from singlelife.evaluation.flow import Matching, flow_at
from singlelife.evaluation.image_pairs import ImagePair, PairData, Truth
from singlelife.files import atomic_write

_INK, _FAINT, _CELL = "#222222", "#8a8a8a", 2.1  # of the text; inches per image
_POINTS = (4, 4)  # rows and columns of the points whose matches are marked
_SHOWN = 640  # px: the longer side of an image in the sheet


@dataclass(frozen=True)
class Matches:
    """What one model makes of the sheet's pairs: its name, and its flow of each, see `flow.flow_of`."""

    name: str
    flows: Sequence[torch.Tensor]


def matches_of(
    model: AttentionMapProvider, pairs: Sequence[tuple[str, ImagePair]], matching: Matching | None
) -> Matches:
    """The model's flows of the pairs of a sheet."""
    return Matches(model.name, [match(model, pair, matching) for _, pair in pairs])


def sheet_pairs(data: PairData, num_rows: int = 4) -> list[tuple[str, ImagePair]]:
    """Up to `num_rows` pairs from all over the data, with their names. Pairs that cannot be read are left out.

    Raises:
        EvaluationError: none can be read.
    """
    found: list[tuple[str, ImagePair]] = []
    order = [index * len(data) // num_rows for index in range(num_rows)] + list(range(len(data)))
    problem = ""
    for index in dict.fromkeys(order):
        if len(found) == num_rows:
            break
        entry = data.pairs[index]
        try:
            found.append((entry.name, entry.load()))
        except EvaluationError as error:
            problem = str(error)
    if not found:
        raise EvaluationError(f"No pair of {data.name} can be drawn. {problem}")
    return found


def draw_correspondence(
    path: Path, title: str, pairs: Sequence[tuple[str, ImagePair]], models: Sequence[Matches]
) -> None:
    """Draw pairs as a PNG: target with points, source with their true places, and for each model where it finds them
    and the source warped to the target by its flow.

    Args:
        path: where to.
        title: what the pairs are of.
        pairs: those of `sheet_pairs`, a line of the picture each.
        models: two columns each.
    """
    columns = 3 + 2 * len(models)
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.02, hspace=0.02)
    tallest = max(image.shape[1] / image.shape[2] for _, pair in pairs for image in (pair.target, pair.source))
    figure = Figure(figsize=(columns * _CELL + 0.3, len(pairs) * _CELL * tallest + 0.8), layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: matches, and the source as they carry it to the target", fontsize=11, color=_INK)
    axes = figure.subplots(len(pairs), columns, squeeze=False)
    titles = ["target", "source: true places", "source warped by the truth"]
    for model in models:
        titles += [f"matches of {_short(model.name)}", "source warped by it"]
    for axis, words in zip(axes[0], titles, strict=True):
        axis.set_title(words, fontsize=8, color=_INK, pad=4)
    for number, (row, (name, pair)) in enumerate(zip(axes, pairs, strict=True)):
        row[0].set_ylabel(name, fontsize=7, color=_INK)
        marked = _marked_points(pair.truth)
        found, known = pair.truth(marked)
        known &= ((found >= 0) & (found <= 1)).all(axis=1)
        colors = _colors(marked)
        _show(row[0], pair.target, marked, colors, known)
        _show(row[1], pair.source, found, colors, known)
        _show(row[2], _warp(pair, pair.truth))
        height, width = _picture(pair.source).shape[:2]
        for column, model in enumerate(models):
            flow = model.flows[number]
            there = marked + flow_at(flow, torch.from_numpy(marked)).numpy()
            axis = row[3 + 2 * column]
            _show(axis, pair.source, there, colors, known)
            for start, end, color in zip(found[known], there[known], colors[known], strict=True):
                axis.plot(*(np.array([start, end]) * [width, height] - 0.5).T, color=color, linewidth=0.8)
            _show(row[4 + 2 * column], _warp(pair, _as_truth(flow)))
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


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


def _colors(points: np.ndarray) -> np.ndarray:
    """A colour for each point by its place, so that neighbours look alike: RGB from 0 to 1, (n, 3)."""
    hue = (np.argsort(np.argsort(points[:, 0] + 0.37 * points[:, 1])) + 0.5) / len(points)
    return colormaps["turbo"](hue)[:, :3]


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


def _show(
    axis: Axes,
    image: torch.Tensor,
    points: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> None:
    picture = _picture(image)
    axis.imshow(picture, interpolation="nearest" if max(picture.shape) < 200 else "antialiased")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if points is not None and colors is not None and known is not None:
        places = points[known] * picture.shape[1::-1] - 0.5
        axis.scatter(places[:, 0], places[:, 1], s=16, c=colors[known], edgecolors="white", linewidths=0.7)
        axis.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
