"""Probes: small heads trained on the cached features of frozen encoders, and the protocol that all of them share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.errors import EvaluationError, RunError
from singlelife.evaluation.features import Examples, FeatureSet, extract
from singlelife.evaluation.results import Evaluation, Measure, ModelResult, measure_models
from singlelife.evaluation.settings import ProbeConfig
from singlelife.machine import choose_device
from singlelife.optimization import learning_rate, parameter_groups

# Of the readout that DeepMind publishes with its video models (github.com/google-deepmind/representations4d).
_WIDE = {"width": 1024, "num_heads": 16, "mlp_ratio": 4}
_WIDE_FROM = 768  # channels of an encoder, for which it is the default

_WEIGHT_DECAY = 0.05  # of matrices; biases, norms and learned tokens have none
_MOST_IN_BOTH = 0.05  # of the test items; public data sets have a few


@dataclass(frozen=True)
class FrozenFeatures:
    """A frozen encoder with its features.

    Attributes:
        encoder: the model, as `load_model` gives it.
        train, test: its features of the two data sets.
        config: of the probes.
        device: where probes are trained.
    """

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

    def result(self, measures: dict[str, Measure]) -> ModelResult:
        """The result of this model."""
        return ModelResult(self.encoder.name, self.encoder.revision, measures, {"probe": self.probe})

    def train_probe(
        self, make: Callable[[], nn.Module], loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], seed: int
    ) -> nn.Module:
        """A probe trained on the features, in evaluation mode.

        Args:
            make: gives the probe with its first weights, which torch's global generator draws.
            loss: of the probe's output and the targets of a batch, both on the device.
            seed: of the first weights and the order of the data.

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


def evaluate_by_probes(
    models: Sequence[str],
    train: Examples,
    test: Examples,
    config: ProbeConfig,
    measure: Callable[[FrozenFeatures], ModelResult],
    baseline: Callable[[FrozenFeatures], list[ModelResult]],
    *,
    task: str,
    protocol: str,
    settings: dict[str, Any],
    notes: Sequence[str] = (),
) -> Evaluation:
    """Probe models one after the other.

    `measure` gives the result of a model, and `baseline` those that need no model, from the items of the first model's
    features. `settings` are added to those of `config`.

    Raises:
        EvaluationError: the data cannot be used, more than a twentieth of the test items are among the training
            items, or no model could be measured.
    """
    device = choose_device(config.device)
    first: list[FrozenFeatures] = []
    means: list[ModelResult] = []
    all_notes = list(notes)

    def measured(encoder: AttentionMapProvider) -> ModelResult:
        train_set, test_set = (
            extract(encoder, examples, cache_dir=config.cache_dir, batch_size=config.batch_size,
                    progress=config.progress)
            for examples in (train, test)
        )  # fmt: skip
        features = FrozenFeatures(encoder, train_set, test_set, config, device)
        if not first:
            known = set(train_set.digests)
            both = len([digest for digest in test_set.digests if digest in known])
            if both > _MOST_IN_BOTH * len(test_set):
                raise EvaluationError(
                    f"{both} of the {len(test_set)} items to test on ({test.name}) are among those to train on "
                    f"({train.name}). Choose other data or another split for one of them."
                )
            if both:
                all_notes.append(f"{both:,} of the test items are among the training items too")
            if train_set.left_out:
                why = next(iter(train_set.left_out.values()))
                all_notes.append(f"{len(train_set.left_out):,} training items are left out; the first: {why}")
            first.append(features)
            means.extend(baseline(features) if config.baselines else [])
        return measure(features)

    results, failed = measure_models(models, partial(load_model, device=device), measured, baselines=config.baselines)
    data = first[0].test
    if config.probe == "attentive":
        kinds = {result.settings["probe"] for result in results}
        all_notes.append(f"attentive probes: {' and '.join(sorted(kinds))}")
    return Evaluation(
        task=task,
        protocol=protocol,
        data=test.name,
        data_hash=data.data_hash,
        num_items=len(data),
        settings=config.settings() | settings | {"train": train.name, "train_hash": first[0].train.data_hash},
        seeds=tuple(range(config.seeds)),
        models=(*results, *means),
        failed=failed,
        left_out=data.left_out,
        notes=tuple(all_notes),
    )
