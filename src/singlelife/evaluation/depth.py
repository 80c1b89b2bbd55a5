"""Depth from frozen encoders: a probe learns it from cached features of some places and is tested on other places."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers.image_utils import SizeDict

from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.croco import CroCoDepthConfig, CroCoForDepthEstimation, CroCoImageProcessor, CroCoModel
from singlelife.croco.depth_croco import (
    SCALE_INVARIANCE,
    depth_probe,
    init_probe_weights,
    log_depth_map,
    scale_invariant_log_loss,
)
from singlelife.errors import CheckpointError, EvaluationError, RunError
from singlelife.evaluation.depth_data import METRICS, DepthFrames, depth_metrics, open_depth
from singlelife.evaluation.features import FeatureSet, extract, patch_size, view_size
from singlelife.evaluation.results import Evaluation, Measure, ModelResult, measure_models
from singlelife.evaluation.settings import DepthConfig, ProbeConfig
from singlelife.files import atomic_dir
from singlelife.machine import choose_device
from singlelife.optimization import learning_rate, parameter_groups

VERSION = 1  # of all protocols; raised when a change would alter their numbers
_LOSS = f"scale-invariant log, lambda {SCALE_INVARIANCE}, at the model's resolution"
_SAMPLED = 512  # training frames that give the initial bias

# Of the readout that DeepMind publishes with its video models (github.com/google-deepmind/representations4d).
_WIDE = {"width": 1024, "num_heads": 16, "mlp_ratio": 4}
_WIDE_FROM = 768  # the wide probe is the default for encoders with this many channels or more
_WIDE_OUTPUT = 8  # pixels

_WEIGHT_DECAY = 0.05  # of matrices; biases, norms and learned tokens have none
_MOST_IN_BOTH = 0.05  # share of test items that may be training items; public data sets have a few


@dataclass(frozen=True)
class FrozenFeatures:
    """A frozen encoder of `load_model` with its features of two data sets, and how and where probes are trained."""

    encoder: AttentionMapProvider
    train: FeatureSet
    test: FeatureSet
    config: ProbeConfig
    device: str

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's tokens."""
        return self.train.features([0]).shape[-1]

    @property
    def probe(self) -> str:
        """`"linear"`, `"small"` or `"wide"`."""
        if self.config.probe != "attentive":
            return self.config.probe
        return "wide" if self.hidden_size >= _WIDE_FROM else "small"

    @property
    def probe_size(self) -> dict[str, Any]:
        """Width, heads and MLP of an attentive probe, where they differ from the defaults for its encoder."""
        return _WIDE if self.probe == "wide" else {}

    def train_probe(
        self, make: Callable[[], nn.Module], loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], seed: int
    ) -> nn.Module:
        """A probe trained on the features, in evaluation mode.

        Args:
            make: gives the probe with initial weights, drawn by torch's global generator.
            loss: of the probe's output and the targets of a batch, both on the device.
            seed: of the initial weights and the order of the data.

        Raises:
            RunError: the loss is no longer finite.
        """
        config, data, device = self.config, self.train, self.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            probe = make().to(device).train()
        order = np.random.default_rng(seed)
        groups = parameter_groups(probe, _WEIGHT_DECAY)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=device == "cpu" or None)
        steps_per_epoch = math.ceil(len(data) / config.batch_size)
        max_steps, quiet = config.epochs * steps_per_epoch, not config.progress or None
        batches = (
            rows
            for _ in range(config.epochs)
            for rows in np.array_split(order.permutation(len(data)), steps_per_epoch)
        )
        bar = tqdm(batches, f"Probe, seed {seed}", max_steps, unit=" steps", disable=quiet, leave=False)
        for step, rows in enumerate(bar):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, peak=config.learning_rate, warmup_steps=max(1, max_steps // 20), max_steps=max_steps
                )
            error = loss(probe(data.features(rows).to(device)), data.targets(rows).to(device))
            if not torch.isfinite(error):
                raise RunError(
                    f"The loss of the {self.probe} probe is not finite after {step} steps. Try a lower "
                    f"--learning-rate than {config.learning_rate:g}."
                )
            error.backward()
            optimizer.step()
            optimizer.zero_grad()
        return probe.eval()


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
        EvaluationError: the data cannot be used, the protocols differ, more than a twentieth of the test frames are
            among the training frames, or no model could be measured.
        LifeError: a life cannot be found or prepared.
    """
    train, test = open_depth(config, "train"), open_depth(config, "test")
    protocol, device = test.protocol, choose_device(config.device)
    if train.protocol != protocol:
        raise EvaluationError(
            f"{train.name} and {test.name} have different protocols ({train.protocol.name} and {protocol.name}). "
            "Choose one for both with --protocol."
        )
    first: list[FrozenFeatures] = []
    means: list[ModelResult] = []
    notes = [f"{frames.name}: {frames.note}" for frames in (train, test) if frames.note]

    def measured(encoder: AttentionMapProvider) -> ModelResult:
        of_train, of_test = (
            extract(encoder, frames, cache_dir=config.cache_dir, batch_size=config.batch_size,
                    progress=config.progress)
            for frames in (train, test)
        )  # fmt: skip
        features = FrozenFeatures(encoder, of_train, of_test, config, device)
        if not first:
            notes.extend(_remarks(features, train, test))
            first.append(features)
            means.extend(_mean_depths(features, test) if config.baselines else [])
        probed = ProbedModel(features, _train(features), test)
        values = _compare(probed.predict, config.seeds, features, test)
        if on_model:
            on_model(probed)
        return ModelResult(encoder.name, encoder.revision, _measures(values), {"probe": features.probe})

    results, failed = measure_models(models, partial(load_model, device=device), measured, baselines=config.baselines)
    if config.probe == "attentive":
        kinds = {result.settings["probe"] for result in results}
        notes.append(f"attentive probes: {' and '.join(sorted(kinds))}")
    settings = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth, "crop": protocol.crop,
                "protocol": protocol.name, "loss": _LOSS}  # fmt: skip
    data = first[0].test
    return Evaluation(
        task="depth",
        protocol=f"depth-{protocol.name}/{VERSION}",
        data=test.name,
        data_hash=data.data_hash,
        num_items=len(data),
        settings=config.settings() | settings | {"train": train.name, "train_hash": first[0].train.data_hash},
        seeds=tuple(range(config.seeds)),
        models=(*results, *means),
        failed=failed,
        left_out=data.left_out,
        notes=tuple(notes),
    )


def _remarks(features: FrozenFeatures, train: DepthFrames, test: DepthFrames) -> list[str]:
    """What a reader should know about the data.

    Raises:
        EvaluationError: too many test frames are among the training frames.
    """
    known, remarks = set(features.train.digests), []
    both = len([digest for digest in features.test.digests if digest in known])
    if both > _MOST_IN_BOTH * len(features.test):
        raise EvaluationError(
            f"{both} of the {len(features.test)} items to test on ({test.name}) are among those to train on "
            f"({train.name}). Choose other data or another split for one of them."
        )
    if both:
        remarks.append(f"{both:,} of the test items are among the training items too")
    if left_out := features.train.left_out:
        remarks.append(f"{len(left_out):,} training items are left out; the first: {next(iter(left_out.values()))}")
    return remarks


def queries(features: FrozenFeatures) -> tuple[tuple[int, int], int]:
    """Rows and columns of a probe's outputs, and the side of each in pixels: for the wide probe 8, or the nearest size
    that divides the view; for others the side of the encoder's patches."""
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
    """Measures from values (seeds, images, metrics)."""
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

    Its processor stretches an image over the model's view, so that the whole image gets depth.

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
