"""What a frozen encoder knows of depth: a probe is trained on its features of some places and tested on others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers.image_utils import SizeDict

from singlelife._version import __version__
from singlelife.croco import CroCoDepthConfig, CroCoForDepthEstimation, CroCoImageProcessor, CroCoModel
from singlelife.croco.depth_croco import (
    SCALE_INVARIANCE,
    CroCoAttentiveProbe,
    depth_probe,
    init_probe_weights,
    log_depth_map,
    scale_invariant_log_loss,
)
from singlelife.errors import CheckpointError, EvaluationError
from singlelife.evaluation.depth_frames import DepthFrames
from singlelife.evaluation.depth_protocols import METRICS, depth_metrics
from singlelife.evaluation.features import (
    Encoder,
    FeatureSet,
    patch_size,
    peak_memory,
    view_size,
)
from singlelife.evaluation.probing import Measure, ProbeSettings, probe_each, train_probe

LOSS = f"scale-invariant log, lambda {SCALE_INVARIANCE}, at the model's resolution"

_SAMPLED = 512  # training frames that the first bias is taken from


@dataclass(frozen=True)
class DepthRow:
    """What one model does, or one of the baselines.

    Attributes:
        model: what the user called it, or the baseline's name.
        revision: of its weights; empty for a baseline without a model.
        measures: of each of `METRICS`; empty where there was an error.
        feature_images_per_second: of reading and encoding, when the test features were computed; None for baselines.
        probe_images_per_second: of the probe with all seeds and the measures, from cached features.
        peak_memory_bytes: the most that the process has had when the row was done.
        error: why there are no measures.
    """

    model: str
    revision: str
    measures: dict[str, Measure] = field(default_factory=dict)
    feature_images_per_second: float | None = None
    probe_images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class DepthEvaluation:
    """All that a run of `singlelife evaluate depth` finds.

    Attributes:
        protocol: its name, version, range and crop.
        train, test: `name`, `data_hash`, `num_items`, and why frames were `left_out`; of the test frames also how
            many were `also_trained_on`. Of the first model.
        settings: of the probe; `loss` says which.
        seeds: of the probes.
        rows: models and baselines.
        version: of singlelife.
    """

    protocol: dict[str, Any]
    train: dict[str, Any]
    test: dict[str, Any]
    settings: dict[str, Any]
    seeds: list[int]
    rows: list[DepthRow]
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return {"task": "depth"} | asdict(self)


@dataclass
class ProbedModel:
    """An encoder with the probe of each seed.

    Attributes:
        encoder: itself, as `load_model` gave it.
        probes: one for each seed.
        train, test: its features.
    """

    encoder: Any
    probes: list[nn.Module]
    train: FeatureSet
    test: FeatureSet

    @torch.inference_mode()
    def predict(self, number: int, indices: Sequence[int] | np.ndarray, device: str = "cpu") -> torch.Tensor:
        """Depth of test items by the probe of one seed, float32 (k, height, width), at the model's resolution."""
        output = self.probes[number](self.test.features(indices).to(device))
        return log_depth_map(output, self.encoder.grid, patch_size(self.encoder)).exp().float().cpu()


def evaluate_depth(
    models: Sequence[str],
    train: DepthFrames,
    test: DepthFrames,
    settings: ProbeSettings,
    seeds: Sequence[int],
    *,
    baselines: bool = True,
    device: str = "cpu",
    batch_size: int = 32,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    on_model: Callable[[ProbedModel], None] | None = None,
) -> DepthEvaluation:
    """Probe models one after the other.

    Args:
        models: as `load_model` takes them.
        train, test: frames of different places.
        settings: of the probes.
        seeds: of the probes; one is trained for each.
        baselines: whether rows are added for an untrained model of each architecture, for the mean depth, and for the
            mean depth at each place of the image.
        device: where the models run.
        batch_size: images at once for the encoder.
        cache_dir: where features are kept.
        on_model: called with each model as soon as it is measured; it is freed afterwards.

    Returns:
        All that is found. A model that cannot be used gives a row with an error, and the next one is tried.

    Raises:
        EvaluationError: the data cannot be used, the protocols differ, or test frames are among the training ones.
    """
    if train.protocol != test.protocol:
        raise EvaluationError(
            f"{train.name} and {test.name} have different protocols ({train.protocol.name} and {test.protocol.name}). "
            "Choose one for both with --protocol."
        )
    evaluation = DepthEvaluation(
        protocol=asdict(test.protocol),
        train={"name": train.name},
        test={"name": test.name},
        settings=settings.to_dict() | {"loss": LOSS},
        seeds=list(seeds),
        rows=[],
    )
    rows, means = evaluation.rows, list[DepthRow]()

    def probe(encoder: Any, train_set: FeatureSet, test_set: FeatureSet, in_both: int) -> ProbedModel:
        if "data_hash" not in evaluation.train:
            evaluation.train.update(train_set.summary())
            evaluation.test.update(test_set.summary() | {"also_trained_on": in_both})
        probes = _train(encoder, train_set, settings, seeds, device, progress)
        probed = ProbedModel(encoder, probes, train_set, test_set)
        rows.append(_measured(probed, test, device, progress))
        return probed

    def failed(model: str, error: str) -> None:
        rows.append(DepthRow(model, "", error=error))

    for probed in probe_each(
        models,
        train,
        test,
        probe,
        failed,
        baselines=baselines,
        device=device,
        batch_size=batch_size,
        cache_dir=cache_dir,
        progress=progress,
    ):
        if on_model:
            on_model(probed)
        if baselines and not means:
            means = mean_rows(probed, test, progress)
    rows += means
    return evaluation


def _train(
    encoder: Encoder, data: FeatureSet, settings: ProbeSettings, seeds: Sequence[int], device: str, progress: bool
) -> list[nn.Module]:
    patch = patch_size(encoder)
    bias = _mean_log_depth(data)

    def make() -> nn.Module:
        probe = depth_probe(settings.probe, data.metadata["tokens"][1], encoder.grid, patch)
        probe.apply(init_probe_weights)
        nn.init.constant_(probe.head.bias, bias)
        return probe

    def loss(output: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return scale_invariant_log_loss(log_depth_map(output, encoder.grid, patch), depth.float())

    probes = []
    for seed in seeds:
        title = f"Probe of {encoder.name}, seed {seed}"
        probes.append(train_probe(make, data, loss, settings, seed, device=device, title=title, progress=progress))
    return probes


def _mean_log_depth(data: FeatureSet) -> float:
    some = np.linspace(0, len(data) - 1, min(len(data), _SAMPLED)).round().astype(int)
    depth = data.targets(some).float()
    return float(depth[depth > 0].log().mean())


def _measured(probed: ProbedModel, frames: DepthFrames, device: str, progress: bool) -> DepthRow:
    """The measures of all seeds; true depth is read once for all of them, at its own size."""
    start = time.perf_counter()

    def predictions(indices: np.ndarray) -> list[torch.Tensor]:
        return [probed.predict(number, indices, device) for number in range(len(probed.probes))]

    values = _compare(
        predictions, len(probed.probes), probed.test, frames, f"Depth of {probed.encoder.name}", progress
    )
    seconds = time.perf_counter() - start
    return DepthRow(
        model=probed.encoder.name,
        revision=probed.encoder.revision,
        measures=_measures(values),
        feature_images_per_second=probed.test.metadata["images_per_second"],
        probe_images_per_second=len(probed.test) / seconds,
        peak_memory_bytes=max(peak_memory(), probed.test.metadata["peak_memory_bytes"]),
    )


def mean_rows(probed: ProbedModel, frames: DepthFrames, progress: bool = True) -> list[DepthRow]:
    """The baselines that do not look at the image: the (geometric) mean depth of the training frames, and the same at
    each place of the image."""
    total = torch.zeros(tuple(probed.train.metadata["target_shape"]), dtype=torch.float64)
    count = torch.zeros_like(total)
    for rows in np.array_split(np.arange(len(probed.train)), -(-len(probed.train) // 64)):
        depth = probed.train.targets(rows).double()
        total += torch.where(depth > 0, depth.clamp_min(1e-6).log(), 0).sum(dim=0)
        count += (depth > 0).sum(dim=0)
    mean = (total.sum() / count.sum()).exp()
    means = torch.where(count > 0, (total / count.clamp_min(1)).exp(), mean).float()

    def predictions(indices: np.ndarray) -> list[torch.Tensor]:
        return [each.expand(len(indices), *total.shape) for each in (mean.float(), means)]

    values = _compare(predictions, 2, probed.test, frames, "Mean depth", progress)
    names = ("mean depth", "mean depth at each place")
    return [DepthRow(name, "", _measures(values[number : number + 1])) for number, name in enumerate(names)]


def _measures(values: np.ndarray) -> dict[str, Measure]:
    """From (seeds, images, metrics)."""
    return {name: Measure.of(values[:, :, number]) for number, name in enumerate(METRICS)}


def _compare(
    predictions: Any, count: int, features: FeatureSet, frames: DepthFrames, title: str, progress: bool
) -> np.ndarray:
    """The metrics of `count` predictions of each test frame, float64 (count, images, metrics)."""
    values = np.empty((count, len(features), len(METRICS)))
    with tqdm(total=len(features), desc=title, unit=" images", disable=None if progress else True, leave=False) as bar:
        for indices in np.array_split(np.arange(len(features)), -(-len(features) // 16)):
            maps = predictions(indices)
            for position, index in enumerate(indices):
                true = frames.depth(int(features.rows[index]))
                known = frames.protocol.known(true)
                for number in range(count):
                    depth = at_size(maps[number][position], true.shape, frames)
                    values[number, index] = depth_metrics(depth[known], true[known])
            bar.update(len(indices))
    return values


def at_size(depth: torch.Tensor, shape: tuple[int, ...], frames: DepthFrames) -> np.ndarray:
    """A predicted depth map as it is compared: of the truth's size and within the protocol's range."""
    resized = nn.functional.interpolate(depth[None, None], tuple(shape), mode="bilinear", align_corners=False)[0, 0]
    return resized.clamp(frames.protocol.min_depth, frames.protocol.max_depth).numpy()


def save_depth_model(probed: ProbedModel, folder: Path, frames: DepthFrames, number: int = 0) -> None:
    """Save the encoder with the probe of one seed as a `CroCoForDepthEstimation`, which the depth pipeline loads.

    Its processor stretches an image over the model's view, so that depth is given for all of it.

    Raises:
        CheckpointError: the model is no CroCo.
        EvaluationError: the folder is there.
    """
    model = croco_of(probed.encoder)
    if folder.exists():
        raise EvaluationError(f"{folder} is there already. Remove it, or choose another folder.")
    probe = probed.probes[number]
    config = CroCoDepthConfig.of(
        model.config,
        probe_type="attentive" if isinstance(probe, CroCoAttentiveProbe) else "linear",
        min_depth=frames.protocol.min_depth,
        max_depth=frames.protocol.max_depth,
        architectures=None,
    )
    depth_model = CroCoForDepthEstimation(config)
    depth_model.croco.encoder.load_state_dict(model.encoder.state_dict())
    depth_model.probe.load_state_dict(probe.state_dict())
    height, width = view_size(probed.encoder)
    partial = folder.with_name(f"{folder.name}.partial")
    depth_model.eval().save_pretrained(partial)
    processor = CroCoImageProcessor.from_dict(probed.encoder.processor.to_dict())
    processor.size, processor.crop_to_aspect = SizeDict(height=height, width=width), False
    processor.save_pretrained(partial)
    partial.rename(folder)


def croco_of(encoder: Any) -> CroCoModel:
    """The CroCo of an encoder that `load_model` gave.

    Raises:
        CheckpointError: it is another model.
    """
    model = getattr(encoder, "model", None)
    if not isinstance(model, CroCoModel):
        raise CheckpointError(f"{encoder.name} is no CroCo, so it cannot be saved as a CroCoForDepthEstimation.")
    return model
