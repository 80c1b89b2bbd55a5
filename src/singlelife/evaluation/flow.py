"""From a cost volume to flow, and flow to the source's pixels, after ZeroCo (arXiv 2412.09072).

Places in a view are fractions of its width and height: its top left corner is (0, 0), its bottom right corner (1, 1),
the centre of patch (row, column) of a grid ((column + 0.5) / columns, (row + 0.5) / rows). So a place means the same
at every resolution, and no half pixel is lost between them.
"""

from dataclasses import dataclass

import torch

from singlelife.alignment.models import AttentionMapProvider

SINKS = ("first", "keep")


@dataclass(frozen=True)
class Matching:
    """How matches are read from a model's maps.

    Attributes:
        reciprocal: the mean of the map and the transposed map of the two views swapped, so that a match has to hold
            in both directions.
        sinks: `"first"`: no patch matches the first patch of the other view, since trained CroCo models leave there
            what they have no match for: its column is set to the least logit of its map, as in ZeroCo. `"keep"`: it is
            a patch like any other.
        temperature: of the softmax whose mean place is the match, over 0. At ZeroCo's 1e-4 it is nearly the largest
            logit alone.
    """

    reciprocal: bool = True
    sinks: str = "first"
    temperature: float = 1e-4

    def __post_init__(self) -> None:
        if self.sinks not in SINKS or not self.temperature > 0:
            raise ValueError(
                f"Sinks are {' or '.join(SINKS)} and the temperature is over 0; not {self.sinks!r} and "
                f"{self.temperature}."
            )


def usual_matching(method: str) -> Matching:
    """That of ZeroCo for a provider's `method`; correlated features have no sinks to mask."""
    return Matching(sinks="first" if method == "cross-attention" else "keep")


def cost_volume(
    model: AttentionMapProvider, target: torch.Tensor, source: torch.Tensor, matching: Matching
) -> torch.Tensor:
    """How well each patch of the target (row) matches each of the source, float32 (B, N, N), larger is better.

    Args:
        target, source: uint8 views (B, 3, H, W), whole images resized to the model's size.

    Raises:
        CheckpointError: the model's maps are not finite.
    """
    forward = _without_sinks(model.logits(target, source), matching.sinks)
    if not matching.reciprocal:
        return forward
    backward = _without_sinks(model.logits(source, target), matching.sinks)
    return (forward + backward.mT) / 2


def flow_of(costs: torch.Tensor, grid: tuple[int, int], temperature: float) -> torch.Tensor:
    """From each target patch's centre to its match in the source, by the soft-argmax of its row.

    Args:
        costs: (B, N, N), rows target patches; N is rows * columns of `grid`.
        grid: rows and columns of patches of either view.
        temperature: over 0.

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


def _without_sinks(logits: torch.Tensor, sinks: str) -> torch.Tensor:
    if sinks == "keep":
        return logits
    logits = logits.clone()
    logits[:, :, 0] = logits.amin(dim=(1, 2)).unsqueeze(1)
    return logits
