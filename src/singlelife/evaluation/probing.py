"""Probing models one after the other: their features, and the training of a probe on them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from singlelife.alignment.models import UNTRAINED, load_model
from singlelife.alignment.score import bootstrap
from singlelife.errors import EvaluationError, RunError, SingleLifeError
from singlelife.evaluation.features import Examples, FeatureSet, extract
from singlelife.optimization import learning_rate, parameter_groups

Result = TypeVar("Result")

PROBES = ("attentive", "linear")

_MOST_IN_BOTH = 0.05  # of the test items


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe is trained: AdamW (0.9, 0.999), a twentieth of the steps to warm up, then half a cosine to 0.

    Attributes:
        probe: `"attentive"` or `"linear"`.
        epochs: over the training data.
        batch_size: images per step.
        learning_rate: the highest.
        weight_decay: of matrices; biases, norms and learned tokens have none.
    """

    probe: str = "attentive"
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return asdict(self)


def train_probe(
    make: Callable[[], nn.Module],
    data: FeatureSet,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: ProbeSettings,
    seed: int,
    *,
    device: str = "cpu",
    title: str = "Probe",
    progress: bool = True,
) -> nn.Module:
    """A probe trained on cached features, in evaluation mode.

    Args:
        make: gives the probe with its first weights, which torch's global generator draws.
        data: what it learns from.
        loss: of the probe's output and the targets of a batch, both on the device.
        settings: see there.
        seed: of the first weights and the order of the data.
        device: where to train.

    Raises:
        RunError: the loss is no longer finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = make().to(device).train()
    order = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(probe, settings.weight_decay), lr=settings.learning_rate, fused=device == "cpu" or None
    )
    steps_per_epoch = math.ceil(len(data) / settings.batch_size)
    max_steps, step = settings.epochs * steps_per_epoch, 0
    with tqdm(total=max_steps, desc=title, unit=" steps", disable=None if progress else True, leave=False) as bar:
        for _ in range(settings.epochs):
            for rows in np.array_split(order.permutation(len(data)), steps_per_epoch):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(
                        step, peak=settings.learning_rate, warmup_steps=max(1, max_steps // 20), max_steps=max_steps
                    )
                output = probe(data.features(rows).to(device))
                error = loss(output, data.targets(rows).to(device))
                if not torch.isfinite(error):
                    raise RunError(
                        f"The loss of the {settings.probe} probe is not finite after {step} steps. Try a lower "
                        f"--learning-rate than {settings.learning_rate:g}."
                    )
                error.backward()
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                bar.update()
    return probe.eval()


@dataclass(frozen=True)
class Measure:
    """One measure of one model.

    Attributes:
        mean, std: over seeds (the standard deviation that of a sample; 0 with one seed).
        per_seed: its value with each seed, the mean over test images.
        low, high: 95% bootstrap interval over test images of the mean over seeds. Frames of one video are not
            independent of each other, so of such it is too narrow.
    """

    mean: float
    std: float
    per_seed: tuple[float, ...]
    low: float
    high: float

    @classmethod
    def of(cls, per_image: np.ndarray, seed: int = 0) -> "Measure":
        """From its values, float (seeds, images)."""
        values = per_image.mean(axis=0)
        low, high = bootstrap(values[:, None], seed)[:, 0]
        per_seed = per_image.mean(axis=1)
        std = per_seed.std(ddof=1) if len(per_seed) > 1 else 0.0
        return cls(float(values.mean()), float(std), tuple(per_seed.tolist()), float(low), float(high))


def probe_each(
    models: Sequence[str],
    train: Examples,
    test: Examples,
    probe: Callable[[Any, FeatureSet, FeatureSet, int], Result],
    failed: Callable[[str, str], None],
    *,
    baselines: bool,
    device: str,
    batch_size: int,
    cache_dir: str | Path | None,
    progress: bool,
) -> Iterator[Result]:
    """What `probe` makes of each model; of each architecture also of an untrained one, after all others.

    Args:
        models: as `load_model` takes them.
        train, test: what their features are computed of.
        probe: of an encoder, its training and test features, and how many test items are also trained on.
        failed: is told of a model that cannot be used, and why; the next one is tried.
        baselines: whether the untrained ones are wanted.
        device, batch_size, cache_dir, progress: of the encoder, see `load_model` and `extract`.

    Raises:
        EvaluationError: the data cannot be used, or test items are among the training ones.
    """
    queue, untrained = list(models), set()
    while queue:
        spec = queue.pop(0)
        try:
            encoder = load_model(spec, device)
            train_set, test_set = (
                extract(encoder, examples, cache_dir=cache_dir, batch_size=batch_size, progress=progress)
                for examples in (train, test)
            )
            in_both = check_apart(train_set, test_set, train.name, test.name)
            result = probe(encoder, train_set, test_set, in_both)
        except EvaluationError:
            raise
        except SingleLifeError as error:
            failed(spec, str(error))
            continue
        yield result
        if baselines and not spec.startswith(UNTRAINED):
            twin = load_model(f"{UNTRAINED}{spec}@0").revision
            if twin not in untrained:
                untrained.add(twin)
                queue.append(f"{UNTRAINED}{spec}@0")


def check_apart(train: FeatureSet, test: FeatureSet, train_name: str, test_name: str) -> int:
    """How many test items are also trained on. Public data sets have a few such; many are a mistake.

    Raises:
        EvaluationError: they are more than a twentieth of the test items.
    """
    seen = set(train.digests)
    both = sum(digest in seen for digest in test.digests)
    if both > _MOST_IN_BOTH * len(test):
        raise EvaluationError(
            f"{both} of the {len(test)} items to test on ({test_name}) are among those to train on ({train_name}). "
            "Give other data or another split to one of them."
        )
    return both
