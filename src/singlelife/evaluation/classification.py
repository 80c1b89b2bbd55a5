"""What a frozen encoder knows of things: a probe classifies images by its features."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from singlelife.croco.depth_croco import CroCoAttentiveProbe, CroCoLinearProbe, init_probe_weights
from singlelife.errors import EvaluationError
from singlelife.evaluation.features import Item, ItemError, data_identity, load_split, rgb
from singlelife.evaluation.probes import FrozenFeatures, evaluate_by_probes
from singlelife.evaluation.results import Evaluation, Measure, ModelResult
from singlelife.evaluation.settings import ClassificationConfig

PROTOCOL = "classification/1"


class LabelledImages:
    """Images with the number of their class, of the names `classes`: `Examples` to extract features of."""

    target_dtype = np.dtype(np.int64)

    def __init__(self, name: str, data: Any, label_column: str, classes: list[str]):
        self.name, self.classes = name, classes
        self.identity = f"{name} {data_identity(data)} {label_column}"
        self._images, self._labels = data, data[label_column]

    def __len__(self) -> int:
        return len(self._labels)

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return ()

    def item(self, index: int, size: tuple[int, int]) -> Item:
        label = self._labels[index]
        if label is None or not 0 <= label < len(self.classes):
            raise ItemError(f"row {index}: it has no label")
        try:
            image = rgb(self._images[index]["image"])
        except (OSError, ValueError) as error:
            raise ItemError(f"row {index}: the image cannot be read ({error})") from error
        digest = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
        return Item(image, np.array(label, dtype=np.int64), digest)


def open_labelled(config: ClassificationConfig) -> tuple[LabelledImages, LabelledImages]:
    """The images to train on and to test on.

    Raises:
        EvaluationError: the data set cannot be loaded, or has no images or classes.
    """
    from datasets import ClassLabel

    (train_name, train), (test_name, test) = (
        load_split(config.data, role, split)
        for role, split in (("train", config.train_split), ("test", config.test_split))
    )
    with_classes = [name for name, feature in train.features.items() if isinstance(feature, ClassLabel)]
    column = config.label_column or (with_classes[0] if len(with_classes) == 1 else "")
    if column not in with_classes:
        raise EvaluationError(
            f"{config.data} should have a column of the type ClassLabel, which a folder for each class makes. It has "
            f"{', '.join(with_classes) or 'none'}. Choose one with --label-column."
        )
    classes = list(train.features[column].names)
    if test.features.get(column) != train.features[column]:
        raise EvaluationError(f"The splits {train_name} and {test_name} of {config.data} have different classes.")
    return (
        LabelledImages(f"{config.data} ({train_name})", train, column, classes),
        LabelledImages(f"{config.data} ({test_name})", test, column, classes),
    )


def evaluate_classification(models: Sequence[str], config: ClassificationConfig) -> Evaluation:
    """Probe models one after the other for the classes of images.

    The metric is top-1, the share of test images whose class is found. The baselines are an untrained model of each
    architecture, and the most frequent class of the training images.

    Args:
        models: as `load_model` takes them.
        config: data, probe and machine.

    Raises:
        EvaluationError: the data cannot be used, test images are among the training ones, or no model could be
            measured.
    """
    train, test = open_labelled(config)

    def baseline(features: FrozenFeatures) -> list[ModelResult]:
        learned, asked = (data.targets(range(len(data))).numpy() for data in (features.train, features.test))
        right = (asked == np.bincount(learned).argmax())[None].astype(float)
        return [ModelResult("most frequent class", "", {"top1": Measure.of(right)})]

    return evaluate_by_probes(
        models, train, test, config, lambda features: _measured(features, train.classes), baseline,
        task="classification", protocol=PROTOCOL, settings={"loss": "cross-entropy"},
    )  # fmt: skip


def _measured(features: FrozenFeatures, classes: list[str]) -> ModelResult:
    test = features.test

    def make() -> nn.Module:
        shape = features.hidden_size, features.encoder.grid, len(classes)
        if features.probe == "linear":
            return CroCoLinearProbe(*shape, dense=False).apply(init_probe_weights)
        return CroCoAttentiveProbe(*shape, dense=False, **features.probe_size).apply(init_probe_weights)

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output[:, 0], labels)

    labels = test.targets(range(len(test))).numpy()
    right = np.empty((features.config.seeds, len(labels)))
    for seed in range(features.config.seeds):
        probe = features.train_probe(make, loss, seed)
        with torch.inference_mode():
            for indices in np.array_split(np.arange(len(labels)), -(-len(labels) // 64)):
                output = probe(test.features(indices).to(features.device))
                right[seed, indices] = output[:, 0].argmax(dim=1).cpu().numpy() == labels[indices]
    return features.result({"top1": Measure.of(right)})
