"""What a frozen encoder knows of things: a probe classifies images by its features."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from singlelife.croco.depth_croco import CroCoAttentiveProbe, CroCoLinearProbe, init_probe_weights
from singlelife.errors import EvaluationError
from singlelife.evaluation.features import FeatureSet, Item, ItemError
from singlelife.evaluation.images import data_identity, load_split, rgb
from singlelife.evaluation.probes import FrozenFeatures, evaluate_by_probes
from singlelife.evaluation.results import Evaluation, Measure, ModelResult
from singlelife.evaluation.settings import ClassificationConfig

PROTOCOL = "classification/1"

_TEST_SHARE, _DIVISION_SEED = 0.2, 0  # how a data set of one split is divided
_AT_ONCE = 64  # test images


class LabelledImages:
    """Images with the number of their class. Examples for [`singlelife.evaluation.features.extract`].

    Attributes:
        name: what the user called them, with their split.
        identity: see `Examples`.
        classes: their names.
    """

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
    """The images to train on and to test on. A set with one split is divided: a fifth of its rows become the test.

    Raises:
        EvaluationError: the data set cannot be loaded, or has no images or classes.
    """
    words = config.data
    train_name, train = load_split(words, "train", config.train_split)
    try:
        test_name, test = load_split(words, "test", config.test_split)
    except EvaluationError:
        if config.test_split is not None:
            raise
        test_name, test = train_name, None
    if test is None or test_name == train_name:
        divided = train.train_test_split(test_size=_TEST_SHARE, seed=_DIVISION_SEED)
        share = f"{_TEST_SHARE:.0%} of {train_name}"
        train, test, test_name, train_name = divided["train"], divided["test"], share, f"{train_name} without {share}"
    column = _label_column(words, train, config.label_column)
    classes = list(train.features[column].names)
    if test.features.get(column) != train.features[column]:
        raise EvaluationError(f"The splits {train_name} and {test_name} of {words} have different classes.")
    return (
        LabelledImages(f"{words} ({train_name})", train, column, classes),
        LabelledImages(f"{words} ({test_name})", test, column, classes),
    )


def _label_column(words: str, data: Any, chosen: str | None) -> str:
    from datasets import ClassLabel

    if "image" not in data.column_names:
        raise EvaluationError(f"{words} has no column image; it has {', '.join(data.column_names)}.")
    with_classes = [name for name, feature in data.features.items() if isinstance(feature, ClassLabel)]
    if chosen is not None and chosen not in with_classes:
        raise EvaluationError(f"--label-column {chosen}: the columns of {words} with classes are {with_classes}.")
    if chosen is None and len(with_classes) != 1:
        raise EvaluationError(
            f"{words} should have one column of the type ClassLabel; it has {with_classes or 'none'}. "
            + ("Choose one with --label-column." if with_classes else "A folder for each class makes one.")
        )
    return chosen or with_classes[0]


def evaluate_classification(models: Sequence[str], config: ClassificationConfig) -> Evaluation:
    """Probe models one after the other for the classes of images.

    The metric is top-1, the share of test images whose class is found; `details` has it for each class, averaged over
    seeds. The baselines are an untrained model of each architecture, and the most frequent class of the training
    images.

    Args:
        models: as `load_model` takes them.
        config: data, probe and machine.

    Raises:
        EvaluationError: the data cannot be used, test images are among the training ones, or no model could be
            measured.
    """
    train, test = open_labelled(config)

    def baseline(features: FrozenFeatures) -> list[ModelResult]:
        frequent = int(np.bincount(_labels(features.train), minlength=len(train.classes)).argmax())
        right = (_labels(features.test) == frequent)[None].astype(float)
        return [ModelResult("most frequent class", "", {"top1": Measure.of(right)})]

    return evaluate_by_probes(
        models, train, test, config, lambda features: _measured(features, train.classes), baseline,
        task="classification", protocol=PROTOCOL, settings={"loss": "cross-entropy"},
    )  # fmt: skip


def _labels(data: FeatureSet) -> np.ndarray:
    return data.targets(np.arange(len(data))).numpy()


def _measured(features: FrozenFeatures, classes: list[str]) -> ModelResult:
    encoder, test = features.encoder, features.test
    kind = CroCoLinearProbe if features.config.probe == "linear" else CroCoAttentiveProbe

    def make() -> nn.Module:
        width = test.metadata["tokens"][1]
        return kind(width, encoder.grid, len(classes), dense=False).apply(init_probe_weights)

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output[:, 0], labels)

    labels = _labels(test)
    right = np.empty((features.config.seeds, len(labels)))
    for seed, probe in enumerate(features.train_probes(make, loss)):
        with torch.inference_mode():
            for indices in np.array_split(np.arange(len(labels)), -(-len(labels) // _AT_ONCE)):
                output = probe(test.features(indices).to(features.device))
                right[seed, indices] = output[:, 0].argmax(dim=1).cpu().numpy() == labels[indices]
    each = right.mean(axis=0)
    per_class = {
        name: {"top1": float(each[labels == number].mean())}
        for number, name in enumerate(classes)
        if (labels == number).any()
    }
    return ModelResult(encoder.name, encoder.revision, {"top1": Measure.of(right)}, details=per_class)
