"""Zero-shot correspondence: how far from the truth a model's matches are, in pixels.

The protocol is ZeroCo's (arXiv 2412.09072) on HPatches as dense matching uses it (DGC-Net, arXiv 1810.08393). Images
are stretched to the model's size. The model's map is the cost volume. The flow goes from every pixel of the target,
bilinear between patches. The end-point error is averaged over the pixels of the target whose true place lies in the
source, then over pairs. It is in pixels of the source, at its original size and with both images resized to 240x240.

Places in a view are fractions of its width and height: its top left corner is (0, 0), its bottom right corner (1, 1),
the centre of patch (row, column) of a grid ((column + 0.5) / columns, (row + 0.5) / rows). So a place means the same
at every resolution, and no half pixel is lost between them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm.auto import tqdm

from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.errors import EvaluationError
from singlelife.evaluation.features import view_size
from singlelife.evaluation.image_pairs import LEVELS, ImagePair, PairData, open_pairs
from singlelife.evaluation.results import Evaluation, Measure, ModelResult, measure_models
from singlelife.evaluation.settings import CorrespondenceConfig
from singlelife.machine import choose_device

PROTOCOL = "correspondence/1"
RESOLUTIONS: dict[str, int | None] = {"": None, "_240": 240}  # suffix of the metrics, and side in pixels
THRESHOLDS = (1, 3, 5)  # px, of the percentage of correct keypoints (PCK)

_BAND = 1 << 19  # pixels of a target to measure at once
_BORDER = 1e-6  # px: rounding, for places on the very border of the source


@dataclass(frozen=True)
class Matcher:
    """A model whose matches are measured. Without a model, the flow is the identity: every place matches itself.

    Attributes:
        model: a provider of `load_model`, or None.
        config: how matches are read from its map.
    """

    model: AttentionMapProvider | None
    config: CorrespondenceConfig

    @property
    def mask_sinks(self) -> bool:
        """Whether the first patch is masked: for cross-attention by default; correlated features have no sinks."""
        crosses = self.model is not None and self.model.method == "cross-attention"
        return crosses if self.config.sinks is None else self.config.sinks == "mask"

    def flows(self, pairs: Sequence[ImagePair]) -> Iterator[torch.Tensor]:
        """The flow of each pair, float64 (rows, columns, 2), see `flow_of`.

        Raises:
            CheckpointError: the model's maps are not finite.
        """
        if self.model is None or not pairs:
            yield from (torch.zeros(1, 1, 2, dtype=torch.float64) for _ in pairs)
            return
        target, source = (
            torch.cat([
                torch.nn.functional.interpolate(image[None], view_size(self.model), mode="bicubic", antialias=True)
                for image in images
            ])
            for images in ([pair.target for pair in pairs], [pair.source for pair in pairs])
        )  # fmt: skip
        costs = cost_volume(self.model, target, source, reciprocal=self.config.reciprocal, mask_sinks=self.mask_sinks)
        yield from flow_of(costs, self.model.grid, self.config.temperature)


def cost_volume(
    model: AttentionMapProvider, target: torch.Tensor, source: torch.Tensor, *, reciprocal: bool, mask_sinks: bool
) -> torch.Tensor:
    """How well each patch of the target (row) matches each of the source, float32 (B, N, N), larger is better.

    Args:
        target, source: uint8 views (B, 3, H, W), whole images resized to the model's size.
        reciprocal: the mean of the map and the transposed map of the two views swapped.
        mask_sinks: set the column of the first patch, where trained CroCo models look if they have no match, to the
            smallest logit of its map.

    Raises:
        CheckpointError: the model's maps are not finite.
    """

    def logits(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        found = model.logits(one, other)
        if mask_sinks:
            found = found.clone()
            found[:, :, 0] = found.amin(dim=(1, 2)).unsqueeze(1)
        return found

    forward = logits(target, source)
    return (forward + logits(source, target).mT) / 2 if reciprocal else forward


def flow_of(costs: torch.Tensor, grid: tuple[int, int], temperature: float) -> torch.Tensor:
    """The flow from the centre of each target patch to its match in the source, by the soft-argmax of its row.

    Args:
        costs: (B, N, N), rows target patches; N is rows * columns of `grid`.
        grid: rows and columns of patches of either view.
        temperature: of the softmax whose mean place is the match, above 0. At ZeroCo's 1e-4, the match is almost
            always the patch of the largest logit.

    Returns:
        float64 (B, rows, columns, 2), x and y as fractions of the width and height.
    """
    centres = patch_centres(grid)
    # In float64, with the largest subtracted: divided by 1e-4, logits would overflow float32's exponential.
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


def measure(flow: torch.Tensor, pair: ImagePair, side: int | None = None) -> dict[str, float]:
    """The errors of a flow at every pixel of the target.

    Args:
        flow: float64 (rows, columns, 2), of any grid.
        pair: the images, with their true matches.
        side: measure as if both images were resized to a square of this side, in pixels; None for their own sizes.

    Returns:
        `aepe`, the average end-point error in pixels; `pck1`, `pck3`, `pck5`, the share of pixels that are off by at
        most 1, 3 or 5 pixels; and `pixels`, the number of pixels measured: those of the target whose true place is
        known and lies between the centres of the source's outermost pixels.

    Raises:
        EvaluationError: no pixel of the target has a known place in the source.
    """
    (height, width), source = (
        tuple(image.shape[1:]) if side is None else (side, side) for image in (pair.target, pair.source)
    )
    total, correct, count = 0.0, np.zeros(len(THRESHOLDS)), 0
    x = (np.arange(width) + 0.5) / width
    rows_at_once = max(1, _BAND // width)
    for top in range(0, height, rows_at_once):
        y = (np.arange(top, min(top + rows_at_once, height)) + 0.5) / height
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        true, known = pair.truth(points)
        for axis, length in enumerate(source[::-1]):
            known = known & (np.abs(true[:, axis] * length - length / 2) <= (length - 1) / 2 + _BORDER)
        points, true = points[known], true[known]
        found = points + flow_at(flow, torch.from_numpy(points)).numpy()
        error = np.hypot(*((true - found) * source[::-1]).T)
        total += float(error.sum())
        correct += [(error <= threshold).sum() for threshold in THRESHOLDS]
        count += len(error)
    if not count:
        raise EvaluationError(
            "the images have no overlap: no pixel of the target has a known place in the source. Does the ground "
            "truth belong to these images, and in this direction?"
        )
    shares = {f"pck{threshold}": share for threshold, share in zip(THRESHOLDS, correct / count, strict=True)}
    return {"aepe": total / count, **shares, "pixels": float(count)}


def evaluate_correspondence(
    models: Sequence[str],
    config: CorrespondenceConfig,
    *,
    on_model: Callable[[Matcher, PairData], None] | None = None,
) -> Evaluation:
    """Measure the matches of models, one after the other. Memory holds one batch, however many pairs there are.

    The metrics are `aepe` and `pck1` to `pck5`, see `measure`; with `_240` both images count as resized to 240x240.
    HPatches has the AEPE of each level too (`aepe_I` to `aepe_V`). `details` has each pair. The baselines are an
    untrained model of each architecture and the identity flow.

    Args:
        models: as `load_model` takes them.
        config: data, matching and machine.
        on_model: called with each model as soon as it is measured, to draw its matches.

    Returns:
        The evaluation. It leaves out and names pairs that cannot be read or whose views have nothing in common.

    Raises:
        EvaluationError: no pair or no model could be measured.
        LifeError, PairSetError: there are no such pairs.
    """
    data = open_pairs(config)
    load = partial(load_model, device=choose_device(config.device), method=config.method, layers=config.layers)
    hashes: set[str] = set()
    left_out: dict[str, str] = {}

    def measured(model: AttentionMapProvider | None) -> ModelResult:
        matcher = Matcher(model, config)
        result, data_hash, failures = measure_matches(matcher, data)
        hashes.add(data_hash)
        left_out.update(failures)
        if on_model and model is not None:
            on_model(matcher, data)
        return result

    results, failed = measure_models(models, load, measured, baselines=config.baselines)
    if config.baselines:
        results.append(measured(None))
    return Evaluation(
        task="correspondence",
        protocol=PROTOCOL,
        data=data.name,
        data_hash=hashes.pop(),
        num_items=len(results[0].details),
        settings=config.settings("batch_size"),
        seeds=(config.seed,),
        models=tuple(results),
        failed=failed,
        left_out=left_out,
        notes=(f"{data.left_out} more pairs show nothing in common",) if data.left_out else (),
    )


def measure_matches(matcher: Matcher, data: PairData) -> tuple[ModelResult, str, dict[str, str]]:
    """Measure one model on pairs with known correspondences.

    Returns:
        Its result; the SHA-256 of the pairs that were measured, pixels and truth; and the errors of the other pairs,
        by name.

    Raises:
        EvaluationError: no pair could be measured.
        CheckpointError: the model's maps are not finite.
    """
    config, model = matcher.config, matcher.model
    name, revision = ("identity flow", "") if model is None else (model.name, model.revision)
    details: dict[str, dict[str, float]] = {}
    levels: list[str] = []
    failures: dict[str, str] = {}
    digest = hashlib.sha256()
    with tqdm(total=len(data.pairs), desc=name, unit=" pairs", disable=not config.progress or None) as bar:
        for first in range(0, len(data.pairs), config.batch_size):
            entries = data.pairs[first : first + config.batch_size]
            batch = []
            for entry in entries:
                try:
                    batch.append((entry, entry.load()))
                except EvaluationError as error:
                    failures[entry.name] = str(error)
            for (entry, pair), flow in zip(batch, matcher.flows([pair for _, pair in batch]), strict=True):
                try:
                    errors = {end: measure(flow, pair, side) for end, side in RESOLUTIONS.items()}
                except EvaluationError as error:
                    failures[entry.name] = str(error)
                    continue
                digest.update(f"{entry.name} {pair.hash}\n".encode())
                levels.append(entry.level)
                details[entry.name] = {
                    f"{metric}{end}": value for end, found in errors.items() for metric, value in found.items()
                }
            bar.update(len(entries))
    if not details:
        first_pair, why = next(iter(failures.items()))
        raise EvaluationError(
            f"None of the {len(data.pairs)} pairs of {data.name} could be measured. {first_pair}: {why}"
        )
    measures: dict[str, Measure] = {}
    for end in RESOLUTIONS:
        metrics = ["aepe", *(f"pck{threshold}" for threshold in THRESHOLDS)]
        values = {metric: np.array([pair[f"{metric}{end}"] for pair in details.values()]) for metric in metrics}
        values |= {f"aepe_{level}": values["aepe"][np.array(levels) == level] for level in LEVELS if level in levels}
        measures |= {f"{metric}{end}": Measure.of(each[None], config.seed) for metric, each in values.items()}
    own = {} if model is None else {
        "method": model.method, "layers": list(model.layers), "sinks": "mask" if matcher.mask_sinks else "keep",
    }  # fmt: skip
    return ModelResult(name, revision, measures, own, details), digest.hexdigest(), failures
