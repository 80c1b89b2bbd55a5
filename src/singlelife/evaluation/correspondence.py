"""Zero-shot correspondence: how far from the truth a model's matches are, in pixels.

The protocol is that of ZeroCo (arXiv 2412.09072) on HPatches as dense matching uses it (DGC-Net, arXiv 1810.08393):
images stretched to the model's size; the model's map as cost volume (see `flow.py`); flow, bilinear between patches,
to every pixel of the target; the end-point error, averaged over the pixels of the target whose true place lies in the
source; that averaged over pairs. Errors are in pixels of the source: of its original size, and of both images resized
to 240x240.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from singlelife.alignment.models import AttentionMapProvider
from singlelife.alignment.score import bootstrap
from singlelife.errors import EvaluationError
from singlelife.evaluation.flow import Matching, cost_volume, flow_at, flow_of, usual_matching
from singlelife.evaluation.image_pairs import ImagePair, PairData, PairEntry, Truth
from singlelife.machine import peak_resident

PROTOCOL = {"name": "zero-shot-correspondence", "version": 1}
RESOLUTIONS: dict[str, int | None] = {"original": None, "240": 240}  # side in pixels
THRESHOLDS = (1, 3, 5)  # px, of the percentage of correct keypoints (PCK)

_BAND = 1 << 19  # pixels of a target that are measured at once
_BORDER = 1e-6  # px: rounding, for places on the very border of the source


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


@dataclass(frozen=True)
class PairResult:
    """One pair: its name, its level, and its errors by resolution."""

    pair: str
    level: str
    errors: dict[str, Errors]


@dataclass(frozen=True)
class Summary:
    """Means over pairs at one resolution.

    Attributes:
        levels: AEPE of each level; None of one without pairs.
        aepe: AEPE of all.
        low, high: 95% bootstrap interval of it over pairs.
        pck: at each of `THRESHOLDS`.
    """

    levels: dict[str, float | None]
    aepe: float
    low: float
    high: float
    pck: tuple[float, ...]


@dataclass(frozen=True)
class ModelResult:
    """What one model does.

    Attributes:
        model, revision: what the user called it, and what its weights are; None of the identity flow.
        method, layers, grid, image_size: where its maps come from.
        matching: how matches are read from them.
        data_hash: SHA-256 of the pairs that were measured, pixels and truth.
        summary: by resolution.
        pairs: each pair that could be measured.
        failures: name of each other, and why.
        images_per_second: of the whole evaluation, reading and measuring included.
        peak_memory: bytes: of the accelerator that it ran on, else of this process since it began; None where the
            system does not tell.
    """

    model: str
    revision: str | None
    method: str
    layers: tuple[int, ...]
    grid: tuple[int, int] | None
    image_size: int | None
    matching: Matching | None
    data_hash: str
    summary: dict[str, Summary]
    pairs: tuple[PairResult, ...]
    failures: dict[str, str]
    images_per_second: float
    peak_memory: int | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return asdict(self)


IDENTITY = "identity flow"


def evaluate_correspondence(
    model: AttentionMapProvider | None,
    data: PairData,
    *,
    matching: Matching | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> ModelResult:
    """Measure one model on pairs with known correspondences. Memory holds one batch, however many pairs there are.

    Args:
        model: a provider of `load_model`; None for the identity flow, the baseline that looks straight ahead.
        data: see `image_pairs.py`.
        matching: how matches are read; `usual_matching` by default.
        batch_size: pairs at once.
        device: that the model runs on, for its peak memory.
        seed: of the bootstrap.
        progress: show a progress bar on stderr.

    Returns:
        The result. A pair that cannot be read, or shows nothing of its source, is a failure in it; the others count.

    Raises:
        EvaluationError: no pair could be measured.
        CheckpointError: the model's maps are not finite.
    """
    if model is not None and matching is None:
        matching = usual_matching(model.method)
    name = IDENTITY if model is None else model.name
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    results: list[PairResult] = []
    failures: dict[str, str] = {}
    digest = hashlib.sha256()
    start = time.perf_counter()
    with tqdm(total=len(data), desc=name, unit=" pairs", disable=None if progress else True) as bar:
        for first in range(0, len(data), batch_size):
            entries = data.pairs[first : first + batch_size]
            batch = list(_readable(entries, failures, model))
            flows = _flows(model, [views for _, _, views in batch], matching)
            for (entry, pair, _), flow in zip(batch, flows, strict=True):
                try:
                    errors = {name: measure(flow, pair, side) for name, side in RESOLUTIONS.items()}
                except EvaluationError as error:
                    failures[entry.name] = str(error)
                    continue
                digest.update(f"{entry.name} {pair.hash}\n".encode())
                results.append(PairResult(entry.name, entry.level, errors))
            bar.update(len(entries))
    seconds = time.perf_counter() - start
    if not results:
        first_pair, why = next(iter(failures.items()))
        raise EvaluationError(f"None of the {len(data)} pairs of {data.name} could be measured. {first_pair}: {why}")
    return ModelResult(
        model=name,
        revision=None if model is None else model.revision,
        method="identity" if model is None else model.method,
        layers=() if model is None else model.layers,
        grid=None if model is None else model.grid,
        image_size=None if model is None else model.image_size,
        matching=None if model is None else matching,
        data_hash=digest.hexdigest(),
        summary={name: _summary(results, name, data.levels, seed) for name in RESOLUTIONS},
        pairs=tuple(results),
        failures=failures,
        images_per_second=2 * len(results) / seconds,
        peak_memory=torch.cuda.max_memory_allocated(device) if on_cuda else peak_resident(),
    )


def match(model: AttentionMapProvider, pair: ImagePair, matching: Matching | None = None) -> torch.Tensor:
    """The flow of one pair, float64 (rows, columns, 2), see `flow_of`."""
    return next(_flows(model, [_model_views(model, pair)], matching or usual_matching(model.method)))


def measure(flow: torch.Tensor, pair: ImagePair, side: int | None = None) -> Errors:
    """The errors of a flow at every pixel of the target.

    Args:
        flow: float64 (rows, columns, 2), of any grid.
        side: of the square that both images are taken to be resized to, in pixels; None for their own sizes.

    Raises:
        EvaluationError: of no pixel of the target the true place is known and lies in the source.
    """
    target, source = (
        (image.shape[1], image.shape[2]) if side is None else (side, side) for image in (pair.target, pair.source)
    )
    total, correct, count = 0.0, np.zeros(len(THRESHOLDS)), 0
    for points, found in true_places(pair.truth, target, source):
        there = points + flow_at(flow, torch.from_numpy(points)).numpy()
        error = np.hypot(*((there - found) * source[::-1]).T)
        total += float(error.sum())
        correct += [(error <= threshold).sum() for threshold in THRESHOLDS]
        count += len(error)
    if not count:
        raise EvaluationError(
            "the images have no overlap: of no pixel of the target the true place is known and lies in the source. "
            "Is the ground truth of these images, and in this direction?"
        )
    return Errors(total / count, tuple((correct / count).tolist()), count)


def true_places(
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


Views = tuple[torch.Tensor, torch.Tensor] | None


def _readable(
    entries: Sequence[PairEntry], failures: dict[str, str], model: AttentionMapProvider | None
) -> Iterator[tuple[PairEntry, ImagePair, Views]]:
    """The pairs of a batch that can be read, with the views that the model takes."""
    for entry in entries:
        try:
            pair = entry.load()
        except EvaluationError as error:
            failures[entry.name] = str(error)
            continue
        yield entry, pair, None if model is None else _model_views(model, pair)


def _model_views(model: AttentionMapProvider, pair: ImagePair) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole target and source, stretched to what the model takes."""
    size = [model.image_size * count // max(model.grid) for count in model.grid]
    target, source = (
        torch.nn.functional.interpolate(image.unsqueeze(0), size, mode="bicubic", antialias=True)[0]
        for image in (pair.target, pair.source)
    )
    return target, source


def _flows(
    model: AttentionMapProvider | None, views: Sequence[Views], matching: Matching | None
) -> Iterator[torch.Tensor]:
    if model is None or not views:
        yield from (torch.zeros(1, 1, 2, dtype=torch.float64) for _ in views)
        return
    assert matching is not None
    target, source = (torch.stack([each[side] for each in views if each is not None]) for side in (0, 1))
    yield from flow_of(cost_volume(model, target, source, matching), model.grid, matching.temperature)


def _summary(results: Sequence[PairResult], resolution: str, levels: Sequence[str], seed: int) -> Summary:
    errors = [(result.level, result.errors[resolution]) for result in results]
    by_level = {level: [each.aepe for its_level, each in errors if its_level == level] for level in levels}
    aepe = [each.aepe for _, each in errors]
    low, high = bootstrap(np.array(aepe)[:, None], seed)[:, 0].tolist()
    return Summary(
        levels={level: float(np.mean(values)) if values else None for level, values in by_level.items()},
        aepe=float(np.mean(aepe)),
        low=low,
        high=high,
        pck=tuple(np.mean([each.pck for _, each in errors], axis=0).tolist()),
    )
