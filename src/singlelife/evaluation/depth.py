"""Depth from frozen encoders: a probe learns it from features of some places and is tested on other places."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers.image_utils import SizeDict

from singlelife.alignment.models import AttentionMapProvider
from singlelife.croco import CroCoDepthConfig, CroCoForDepthEstimation, CroCoImageProcessor, CroCoModel
from singlelife.croco.depth_croco import (
    SCALE_INVARIANCE,
    depth_probe,
    init_probe_weights,
    log_depth_map,
    scale_invariant_log_loss,
)
from singlelife.errors import CheckpointError, EvaluationError
from singlelife.evaluation.depth_data import METRICS, DepthFrames, depth_metrics, open_depth
from singlelife.evaluation.features import patch_size, view_size
from singlelife.evaluation.probes import FrozenFeatures, evaluate_by_probes
from singlelife.evaluation.results import Evaluation, Measure, ModelResult
from singlelife.evaluation.settings import DepthConfig
from singlelife.files import atomic_dir

VERSION = 1  # of all protocols, raised when their numbers would change
_LOSS = f"scale-invariant log, lambda {SCALE_INVARIANCE}, at the model's resolution"
_WIDE_OUTPUT = 8  # pixels
_SAMPLED = 512  # training frames that the first bias is taken from


@dataclass(frozen=True)
class ProbedModel:
    """An encoder with the probe of each seed.

    Attributes:
        features: its encoder and features.
        probes: one for each seed.
        frames: the test frames.
    """

    features: FrozenFeatures
    probes: list[nn.Module]
    frames: DepthFrames

    @torch.inference_mode()
    def predict(self, indices: np.ndarray) -> list[torch.Tensor]:
        """Depth of test items by each probe, float32 (k, height, width) in metres, at the model's size."""
        features = self.features.test.features(indices).to(self.features.device)
        grid_and_side = queries(self.features)
        return [log_depth_map(probe(features), *grid_and_side).exp().float().cpu() for probe in self.probes]


def evaluate_depth(
    models: Sequence[str], config: DepthConfig, *, on_model: Callable[[ProbedModel], None] | None = None
) -> Evaluation:
    """Probe models one after the other for depth.

    The baselines are an untrained model of each architecture, the (geometric) mean depth of the training frames, and
    the same at each place of the image. The metrics are δ1, δ2, δ3, AbsRel, RMSE and log10, see `depth_metrics`.

    Args:
        models: as `load_model` takes them.
        config: data, probe and machine.
        on_model: called with each model as soon as it is measured, to draw or save it.

    Raises:
        EvaluationError: the data cannot be used, the protocols differ, test frames are among the training ones, or no
            model could be measured.
        LifeError: a life cannot be found or prepared.
    """
    train, test = open_depth(config, "train"), open_depth(config, "test")
    protocol = test.protocol
    if train.protocol != protocol:
        raise EvaluationError(
            f"{train.name} and {test.name} have different protocols ({train.protocol.name} and {protocol.name}). "
            "Choose one for both with --protocol."
        )

    def measure(features: FrozenFeatures) -> ModelResult:
        probed = ProbedModel(features, _train(features), test)
        values = _compare(probed.predict, config.seeds, features, test)
        if on_model:
            on_model(probed)
        return features.result(_measures(values))

    return evaluate_by_probes(
        models, train, test, config, measure, lambda features: _mean_depths(features, test),
        task="depth",
        protocol=f"depth-{protocol.name}/{VERSION}",
        settings={"min_depth": protocol.min_depth, "max_depth": protocol.max_depth, "crop": protocol.crop,
                  "protocol": protocol.name, "loss": _LOSS},
        notes=[f"{frames.name}: {frames.note}" for frames in (train, test) if frames.note],
    )  # fmt: skip


def queries(features: FrozenFeatures) -> tuple[tuple[int, int], int]:
    """Rows and columns of a probe's outputs, and the side of each in pixels: of the wide one 8, or the nearest size
    that divides the view, of others the encoder's patches."""
    if features.probe != "wide":
        return features.encoder.grid, patch_size(features.encoder)
    height, width = view_size(features.encoder)
    both = math.gcd(height, width)
    side = min((size for size in range(1, both + 1) if both % size == 0), key=lambda size: abs(size - _WIDE_OUTPUT))
    return (height // side, width // side), side


def _train(features: FrozenFeatures) -> list[nn.Module]:
    data, (grid, side) = features.train, queries(features)
    some = data.targets(np.linspace(0, len(data) - 1, min(len(data), _SAMPLED)).round().astype(int)).float()
    bias = float(some[some > 0].log().mean())

    def make() -> nn.Module:
        tokens = features.hidden_size, features.encoder.grid
        probe = depth_probe(features.probe, *tokens, side, query_grid=grid, **features.probe_size)
        probe.apply(init_probe_weights)
        nn.init.constant_(probe.head.bias, bias)
        return probe

    def loss(output: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return scale_invariant_log_loss(log_depth_map(output, grid, side), depth.float())

    return [features.train_probe(make, loss, seed) for seed in range(features.config.seeds)]


def _mean_depths(features: FrozenFeatures, frames: DepthFrames) -> list[ModelResult]:
    """The baselines that ignore the image."""
    train = features.train
    total = torch.zeros(train.targets([0]).shape[1:], dtype=torch.float64)
    count = torch.zeros_like(total)
    for rows in np.array_split(np.arange(len(train)), -(-len(train) // 64)):
        depth = train.targets(rows).double()
        total += torch.where(depth > 0, depth.clamp_min(1e-6).log(), 0).sum(dim=0)
        count += (depth > 0).sum(dim=0)
    mean = (total.sum() / count.sum()).exp()
    everywhere = {
        "mean depth": mean.expand_as(total).float(),
        "mean depth at each place": torch.where(count > 0, (total / count.clamp_min(1)).exp(), mean).float(),
    }
    values = _compare(
        lambda indices: [each.expand(len(indices), -1, -1) for each in everywhere.values()], 2, features, frames
    )
    return [ModelResult(name, "", _measures(each[None])) for name, each in zip(everywhere, values, strict=True)]


def _measures(values: np.ndarray) -> dict[str, Measure]:
    """From (seeds, images, metrics)."""
    return {name: Measure.of(values[:, :, number]) for number, name in enumerate(METRICS)}


def _compare(
    predictions: Callable[[np.ndarray], list[torch.Tensor]], count: int, features: FrozenFeatures, frames: DepthFrames
) -> np.ndarray:
    """The metrics of `count` predictions of each test frame, float64 (count, images, metrics). True depth is read once
    for all of them, at its own size."""
    data, quiet = features.test, not features.config.progress or None
    values = np.empty((count, len(data), len(METRICS)))
    with tqdm(total=len(data), desc="Measuring depth", unit=" images", disable=quiet, leave=False) as bar:
        for indices in np.array_split(np.arange(len(data)), -(-len(data) // 16)):
            maps = predictions(indices)
            for position, index in enumerate(indices):
                true = frames.depth(data.rows[index])
                known = frames.protocol.known(true)
                for number in range(count):
                    depth = at_size(maps[number][position], true.shape, frames)
                    values[number, index] = depth_metrics(depth[known], true[known])
            bar.update(len(indices))
    return values


def at_size(depth: torch.Tensor, shape: tuple[int, ...], frames: DepthFrames) -> np.ndarray:
    """A predicted depth map, resized to the truth's size and clamped to the protocol's range."""
    resized = nn.functional.interpolate(depth[None, None], tuple(shape), mode="bilinear", align_corners=False)[0, 0]
    return resized.clamp(frames.protocol.min_depth, frames.protocol.max_depth).numpy()


def save_depth_model(probed: ProbedModel, folder: Path) -> None:
    """Save the encoder with its first probe as a `CroCoForDepthEstimation`, which the depth pipeline loads.

    Its processor stretches an image over the model's view, so that depth is given for all of it.

    Raises:
        CheckpointError: the model is no CroCo.
    """
    encoder, protocol = probed.features.encoder, probed.frames.protocol
    model = croco_of(encoder)
    size = probed.features.probe_size
    config = CroCoDepthConfig.of(
        model.config,
        probe_type="linear" if probed.features.probe == "linear" else "attentive",
        probe_patch_size=queries(probed.features)[1],
        probe_hidden_size=size.get("width"),
        probe_num_attention_heads=size.get("num_heads"),
        probe_mlp_ratio=size.get("mlp_ratio", 2),
        min_depth=protocol.min_depth,
        max_depth=protocol.max_depth,
        architectures=None,
    )
    depth_model = CroCoForDepthEstimation(config)
    depth_model.croco.encoder.load_state_dict(model.encoder.state_dict())
    depth_model.probe.load_state_dict(probed.probes[0].state_dict())
    processor = CroCoImageProcessor.from_dict(encoder.processor.to_dict())  # type: ignore[attr-defined]
    height, width = view_size(encoder)
    processor.size, processor.crop_to_aspect = SizeDict(height=height, width=width), False
    with atomic_dir(folder) as aside:
        depth_model.eval().save_pretrained(aside)
        processor.save_pretrained(aside)


def croco_of(encoder: AttentionMapProvider) -> CroCoModel:
    """The CroCo of an encoder that `load_model` gave.

    Raises:
        CheckpointError: it is another model.
    """
    model = getattr(encoder, "model", None)
    if not isinstance(model, CroCoModel):
        raise CheckpointError(f"{encoder.name} is no CroCo, so it cannot be saved as a CroCoForDepthEstimation.")
    return model
