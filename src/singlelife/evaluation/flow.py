"""From a model's map to flow, and from flow to its errors, after ZeroCo (arXiv 2412.09072).

Places in a view are fractions of its width and height: its top left corner is (0, 0), its bottom right corner (1, 1),
the centre of patch (row, column) of a grid ((column + 0.5) / columns, (row + 0.5) / rows). So a place means the same
at every resolution, and no half pixel is lost between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from singlelife.alignment.models import AttentionMapProvider
from singlelife.errors import EvaluationError
from singlelife.evaluation.image_pairs import ImagePair, Truth

THRESHOLDS = (1, 3, 5)  # px, of the percentage of correct keypoints (PCK)

_BAND = 1 << 19  # pixels of a target that are measured at once
_BORDER = 1e-6  # px: rounding, for places on the very border of the source


def cost_volume(
    model: AttentionMapProvider, target: torch.Tensor, source: torch.Tensor, *, reciprocal: bool, mask_sinks: bool
) -> torch.Tensor:
    """How well each patch of the target (row) matches each of the source, float32 (B, N, N), larger is better.

    Args:
        model: gives the maps.
        target, source: uint8 views (B, 3, H, W), whole images resized to the model's size.
        reciprocal: the mean of the map and the transposed map of the two views swapped, so that a match has to hold
            in both directions.
        mask_sinks: no patch matches the first patch of the other view, since trained CroCo models leave there what
            they have no match for: its column is set to the least logit of its map.

    Raises:
        CheckpointError: the model's maps are not finite.
    """
    forward = _logits(model, target, source, mask_sinks)
    return (forward + _logits(model, source, target, mask_sinks).mT) / 2 if reciprocal else forward


def _logits(model: AttentionMapProvider, target: torch.Tensor, source: torch.Tensor, mask_sinks: bool) -> torch.Tensor:
    logits = model.logits(target, source)
    if mask_sinks:
        logits = logits.clone()
        logits[:, :, 0] = logits.amin(dim=(1, 2)).unsqueeze(1)
    return logits


def flow_of(costs: torch.Tensor, grid: tuple[int, int], temperature: float) -> torch.Tensor:
    """From each target patch's centre to its match in the source, by the soft-argmax of its row.

    Args:
        costs: (B, N, N), rows target patches; N is rows * columns of `grid`.
        grid: rows and columns of patches of either view.
        temperature: of the softmax whose mean place is the match, above 0. At ZeroCo's 1e-4 it is nearly the largest
            logit alone.

    Returns:
        float64 (B, rows, columns, 2), x and y as fractions of the width and height.
    """
    centres = patch_centres(grid)
    # In float64 and less the largest: divided by 1e-4, logits would overflow float32's exponential.
    costs = costs.double()
    weights = ((costs - costs.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)
    return (weights @ centres - centres).unflatten(1, grid)


def patch_centres(grid: tuple[int, int]) -> torch.Tensor:
    """The centres of the patches in raster order, float64 (rows * columns, 2), x and y as fractions."""
    y, x = ((torch.arange(count, dtype=torch.float64) + 0.5) / count for count in grid)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def flow_at(flow: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Flow at any points of the target, bilinear between the centres of patches and constant beyond the outermost.

    At the centres of an image's pixels this is what resizing the flow to the image's size gives.

    Args:
        flow: float64 (rows, columns, 2).
        points: float64 (n, 2), x and y as fractions.

    Returns:
        float64 (n, 2).
    """
    where = (2 * points - 1).view(1, 1, -1, 2)  # from -1 to 1 between the outer edges
    planes = flow.permute(2, 0, 1).unsqueeze(0)
    found = torch.nn.functional.grid_sample(planes, where, mode="bilinear", padding_mode="border", align_corners=False)
    return found[0, :, 0].T


@dataclass(frozen=True)
class Errors:
    """The errors of one pair at one resolution.

    Attributes:
        aepe: average end-point error in pixels.
        pck: share of pixels that are off by at most 1, 3 and 5 pixels.
        pixels: how many were measured: those of the target whose true place is known and lies in the source.
    """

    aepe: float
    pck: tuple[float, ...]
    pixels: int


def measure(flow: torch.Tensor, pair: ImagePair, side: int | None = None) -> Errors:
    """The errors of a flow at every pixel of the target.

    Args:
        flow: float64 (rows, columns, 2), of any grid.
        pair: whose target it starts from.
        side: of the square that both images are taken to be resized to, in pixels; None for their own sizes.

    Raises:
        EvaluationError: no pixel of the target has a known place in the source.
    """
    target, source = (
        (image.shape[1], image.shape[2]) if side is None else (side, side) for image in (pair.target, pair.source)
    )
    total, correct, count = 0.0, np.zeros(len(THRESHOLDS)), 0
    for points, found in _true_places(pair.truth, target, source):
        there = points + flow_at(flow, torch.from_numpy(points)).numpy()
        error = np.hypot(*((there - found) * source[::-1]).T)
        total += float(error.sum())
        correct += [(error <= threshold).sum() for threshold in THRESHOLDS]
        count += len(error)
    if not count:
        raise EvaluationError(
            "the images have no overlap: no pixel of the target has a known place in the source. Does the ground "
            "truth belong to these images, and in this direction?"
        )
    return Errors(total / count, tuple((correct / count).tolist()), count)


def _true_places(
    truth: Truth, target: tuple[int, int], source: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The centres of a target's pixels whose true places are known and lie between the centres of the source's
    outermost pixels, and those places; both float64 (n, 2), as fractions, a band of rows at a time.

    Args:
        target, source: height and width in pixels.
    """
    height, width = target
    rows_at_once = max(1, _BAND // width)
    x = (np.arange(width) + 0.5) / width
    for top in range(0, height, rows_at_once):
        y = (np.arange(top, min(top + rows_at_once, height)) + 0.5) / height
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        found, known = truth(points)
        for axis, length in enumerate(source[::-1]):
            known = known & (np.abs(found[:, axis] * length - length / 2) <= (length - 1) / 2 + _BORDER)
        yield points[known], found[known]
