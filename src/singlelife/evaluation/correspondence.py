"""Zero-shot correspondence: how far from the truth a model's matches are, in pixels.

The protocol is that of ZeroCo (arXiv 2412.09072) on HPatches as dense matching uses it (DGC-Net, arXiv 1810.08393):
images stretched to the model's size; the model's map as cost volume (see `flow.py`); flow, bilinear between patches,
to every pixel of the target; the end-point error, averaged over the pixels of the target whose true place lies in the
source; that averaged over pairs. Errors are in pixels of the source: of its original size, and of both images resized
to 240x240.
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
from singlelife.evaluation.flow import THRESHOLDS, Errors, cost_volume, flow_of, measure
from singlelife.evaluation.image_pairs import LEVELS, ImagePair, PairData, PairEntry, open_pairs
from singlelife.evaluation.results import Evaluation, Measure, ModelResult, measure_models
from singlelife.evaluation.settings import CorrespondenceConfig
from singlelife.machine import choose_device

PROTOCOL = "correspondence/1"
IDENTITY = "identity flow"
RESOLUTIONS: dict[str, int | None] = {"": None, "_240": 240}  # what metrics end in, and the side in pixels


@dataclass(frozen=True)
class Matcher:
    """A model whose matches are measured. With None for a model, it is the identity flow, which looks straight ahead.

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

    def views(self, pair: ImagePair) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole target and source, uint8 (3, H, W), stretched to what the model takes."""
        assert self.model is not None
        size = view_size(self.model)
        target, source = (
            torch.nn.functional.interpolate(image.unsqueeze(0), size, mode="bicubic", antialias=True)[0]
            for image in (pair.target, pair.source)
        )
        return target, source

    def flows(self, pairs: Sequence[ImagePair]) -> Iterator[torch.Tensor]:
        """The flow of each pair, float64 (rows, columns, 2), see `flow_of`.

        Raises:
            CheckpointError: the model's maps are not finite.
        """
        if self.model is None or not pairs:
            yield from (torch.zeros(1, 1, 2, dtype=torch.float64) for _ in pairs)
            return
        target, source = (torch.stack(views) for views in zip(*map(self.views, pairs), strict=True))
        costs = cost_volume(self.model, target, source, reciprocal=self.config.reciprocal, mask_sinks=self.mask_sinks)
        yield from flow_of(costs, self.model.grid, self.config.temperature)


def evaluate_correspondence(
    models: Sequence[str],
    config: CorrespondenceConfig,
    *,
    on_model: Callable[[Matcher, PairData], None] | None = None,
) -> Evaluation:
    """Measure the matches of models, one after the other. Memory holds one batch, however many pairs there are.

    The metrics are AEPE (`aepe`, average end-point error in pixels) and PCK (`pck1`, `pck3`, `pck5`, the share of
    pixels that are off by at most so many pixels); with `_240` both images count as resized to 240x240. HPatches has
    the AEPE of each level too (`aepe_I` to `aepe_V`). `details` has each pair. The baselines are an untrained model of
    each architecture and the identity flow.

    Args:
        models: as `load_model` takes them.
        config: data, matching and machine.
        on_model: called with each model as soon as it is measured, to draw its matches.

    Returns:
        The evaluation. A pair that cannot be read, or shows nothing of its source, is left out and named.

    Raises:
        EvaluationError: no pair or no model could be measured.
        LifeError, PairSetError: there are no such pairs.
    """
    data = open_pairs(config)
    device = choose_device(config.device)
    load = partial(load_model, device=device, method=config.method, layers=config.layers)
    hashes: dict[str, str] = {}
    left_out: dict[str, str] = {}

    def measured(model: AttentionMapProvider | None) -> ModelResult:
        matcher = Matcher(model, config)
        result, data_hash, failures = measure_matches(matcher, data)
        hashes["data"] = data_hash
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
        data_hash=hashes["data"],
        num_items=len(results[0].details),
        settings=config.settings("homography", "batch_size"),  # the data's hash speaks for the former
        seeds=(config.seed,),
        models=tuple(results),
        failed=failed,
        left_out=left_out,
        notes=(f"{len(data.left_out)} more pairs show nothing in common",) if data.left_out else (),
    )


def measure_matches(matcher: Matcher, data: PairData) -> tuple[ModelResult, str, dict[str, str]]:
    """Measure one model on pairs with known correspondences.

    Returns:
        Its result; the SHA-256 of the pairs that were measured, pixels and truth; and why others could not be, by
        name.

    Raises:
        EvaluationError: no pair could be measured.
        CheckpointError: the model's maps are not finite.
    """
    config, model = matcher.config, matcher.model
    name = IDENTITY if model is None else model.name
    measured: list[tuple[PairEntry, dict[str, Errors]]] = []
    failures: dict[str, str] = {}
    digest = hashlib.sha256()
    with tqdm(total=len(data), desc=name, unit=" pairs", disable=not config.progress or None) as bar:
        for first in range(0, len(data), config.batch_size):
            entries = data.pairs[first : first + config.batch_size]
            batch = list(_readable(entries, failures))
            for (entry, pair), flow in zip(batch, matcher.flows([pair for _, pair in batch]), strict=True):
                try:
                    errors = {end: measure(flow, pair, side) for end, side in RESOLUTIONS.items()}
                except EvaluationError as error:
                    failures[entry.name] = str(error)
                    continue
                digest.update(f"{entry.name} {pair.hash}\n".encode())
                measured.append((entry, errors))
            bar.update(len(entries))
    if not measured:
        first_pair, why = next(iter(failures.items()))
        raise EvaluationError(f"None of the {len(data)} pairs of {data.name} could be measured. {first_pair}: {why}")
    details = {entry.name: _flat(errors) for entry, errors in measured}
    levels = np.array([entry.level for entry, _ in measured])
    measures = {}
    for end in RESOLUTIONS:
        metrics = ["aepe", *(f"pck{threshold}" for threshold in THRESHOLDS)]
        for metric in metrics:
            values = np.array([pair[f"{metric}{end}"] for pair in details.values()])
            measures[f"{metric}{end}"] = Measure.of(values[None], config.seed)
        aepe = np.array([pair[f"aepe{end}"] for pair in details.values()])
        measures |= {
            f"aepe_{level}{end}": Measure.of(aepe[None, levels == level], config.seed)
            for level in LEVELS
            if (levels == level).any()
        }
    settings = {} if model is None else {
        "method": model.method, "layers": list(model.layers), "sinks": "mask" if matcher.mask_sinks else "keep",
    }  # fmt: skip
    return (
        ModelResult(name, model.revision if model else "", measures, settings, details),
        digest.hexdigest(),
        failures,
    )


def _readable(entries: Sequence[PairEntry], failures: dict[str, str]) -> Iterator[tuple[PairEntry, ImagePair]]:
    """The pairs of a batch that can be read."""
    for entry in entries:
        try:
            yield entry, entry.load()
        except EvaluationError as error:
            failures[entry.name] = str(error)


def _flat(errors: dict[str, Errors]) -> dict[str, float]:
    """The errors of a pair by metric."""
    return {
        f"{metric}{end}": value
        for end, each in errors.items()
        for metric, value in [
            ("aepe", each.aepe),
            *((f"pck{threshold}", share) for threshold, share in zip(THRESHOLDS, each.pck, strict=True)),
            ("pixels", float(each.pixels)),
        ]
    }
