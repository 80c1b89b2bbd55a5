"""What a frozen encoder knows of things: a probe classifies images by its features."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from singlelife._version import __version__
from singlelife.croco.depth_croco import CroCoAttentiveProbe, CroCoLinearProbe, init_probe_weights
from singlelife.errors import EvaluationError
from singlelife.evaluation.features import Encoder, FeatureSet, Item, ItemError, peak_memory
from singlelife.evaluation.image_sets import data_identity, load_split, rgb
from singlelife.evaluation.probing import Measure, ProbeSettings, probe_each, train_probe

PROTOCOL = {"name": "top-1 of a probe on a frozen encoder", "version": 1}
TEST_SHARE = 0.2  # held out where the data set has one split


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


def open_labelled(
    words: str,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
) -> tuple[LabelledImages, LabelledImages]:
    """The images to train on and to test on of a data set.

    A set with one split is divided: `TEST_SHARE` of its rows, drawn by `seed`, are tested on.

    Args:
        words: a folder that `datasets` opens (saved, of Parquet files, or with a folder of images for each class), or
            ORG/NAME[@REVISION] on the Hub.
        train_split, test_split: names of its splits; by default train, and test or validation.
        label_column: with the classes; by default the only column that has any.
        seed: of the division.

    Raises:
        EvaluationError: it cannot be loaded, or has no images or classes.
    """
    train_name, train = load_split(words, "train", train_split)
    try:
        test_name, test = load_split(words, "test", test_split)
    except EvaluationError:
        if test_split is not None:
            raise
        test_name, test = train_name, None
    if test is None or test_name == train_name:
        divided = train.train_test_split(test_size=TEST_SHARE, seed=seed)
        share = f"{TEST_SHARE:.0%} of {train_name} drawn by seed {seed}"
        train, test, test_name, train_name = divided["train"], divided["test"], share, f"{train_name} without {share}"
    column = _label_column(words, train, label_column)
    classes = list(train.features[column].names)
    if test.features.get(column) != train.features[column]:
        raise EvaluationError(f"The splits {train_name} and {test_name} of {words} have different classes.")
    return (
        LabelledImages(f"{words} ({train_name})", train, column, classes),
        LabelledImages(f"{words} ({test_name})", test, column, classes),
    )


def _label_column(words: str, data: Any, asked: str | None) -> str:
    from datasets import ClassLabel

    if "image" not in data.column_names:
        raise EvaluationError(f"{words} has no column image; it has {', '.join(data.column_names)}.")
    with_classes = [name for name, feature in data.features.items() if isinstance(feature, ClassLabel)]
    if asked is not None and asked not in with_classes:
        raise EvaluationError(f"--label-column {asked}: the columns of {words} with classes are {with_classes}.")
    if asked is None and len(with_classes) != 1:
        raise EvaluationError(
            f"{words} should have one column of the type ClassLabel; it has {with_classes or 'none'}. "
            + ("Choose one with --label-column." if with_classes else "A folder for each class makes one.")
        )
    return asked or with_classes[0]


@dataclass(frozen=True)
class ClassificationRow:
    """What one model does.

    Attributes:
        model, revision: of the model.
        top1: share of test images whose class is found; None where there was an error.
        per_class: the same over the images of each class, the mean over seeds; None for one without test images.
        images_per_second, peak_memory_bytes: of encoding the test images, and of the process so far.
        error: why there is nothing.
    """

    model: str
    revision: str
    top1: Measure | None = None
    per_class: dict[str, float | None] = field(default_factory=dict)
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class ClassificationEvaluation:
    """All that a run of `singlelife evaluate classify` finds; fields as those of `DepthEvaluation`.

    Attributes:
        chance: the share of the most frequent class of the training images among the test images.
    """

    protocol: dict[str, Any]
    train: dict[str, Any]
    test: dict[str, Any]
    settings: dict[str, Any]
    seeds: list[int]
    rows: list[ClassificationRow]
    chance: float | None = None
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return {"task": "classification"} | asdict(self)


def evaluate_classification(
    models: Sequence[str],
    train: LabelledImages,
    test: LabelledImages,
    settings: ProbeSettings,
    seeds: Sequence[int],
    *,
    baselines: bool = True,
    device: str = "cpu",
    batch_size: int = 32,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> ClassificationEvaluation:
    """Probe models one after the other; arguments as those of `evaluate_depth`.

    Raises:
        EvaluationError: the data cannot be used, or test images are among the training ones.
    """
    rows: list[ClassificationRow] = []
    about: dict[str, Any] = {}

    def probe(encoder: Any, train_set: FeatureSet, test_set: FeatureSet, in_both: int) -> ClassificationRow:
        about.update(about or _about(train, test, train_set, test_set, in_both))
        return _row(encoder, train_set, test_set, train.classes, settings, seeds, device, progress)

    def failed(model: str, error: str) -> None:
        rows.append(ClassificationRow(model, "", error=error))

    for row in probe_each(
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
        rows.append(row)  # those that failed come in between
    usual = {"train": {"name": train.name}, "test": {"name": test.name}}
    settings_used = settings.to_dict() | {"loss": "cross-entropy"}
    return ClassificationEvaluation(
        protocol=dict(PROTOCOL), settings=settings_used, seeds=list(seeds), rows=rows, **(usual | about)
    )


def _about(
    train: LabelledImages, test: LabelledImages, train_set: FeatureSet, test_set: FeatureSet, in_both: int
) -> dict[str, Any]:
    return {
        "train": {"name": train.name} | train_set.summary(),
        "test": {"name": test.name} | test_set.summary() | {"also_trained_on": in_both},
        "chance": float(most_frequent(train_set, test_set, len(train.classes)).mean()),
    }


def most_frequent(train_set: FeatureSet, test_set: FeatureSet, num_classes: int) -> np.ndarray:
    """Which test images are of the class that is the most frequent in training, bool (n,)."""
    frequent = int(np.bincount(_labels(train_set), minlength=num_classes).argmax())
    return _labels(test_set) == frequent


def _labels(data: FeatureSet) -> np.ndarray:
    return data.targets(np.arange(len(data))).numpy()


def _row(
    encoder: Encoder,
    train_set: FeatureSet,
    test_set: FeatureSet,
    classes: list[str],
    settings: ProbeSettings,
    seeds: Sequence[int],
    device: str,
    progress: bool,
) -> ClassificationRow:
    def make() -> nn.Module:
        width = train_set.metadata["tokens"][1]
        probe: nn.Module = (
            CroCoLinearProbe(width, encoder.grid, len(classes), dense=False)
            if settings.probe == "linear"
            else CroCoAttentiveProbe(width, encoder.grid, len(classes), dense=False)
        )
        return probe.apply(init_probe_weights)

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output[:, 0], labels)

    labels = _labels(test_set)
    right = np.empty((len(seeds), len(labels)))
    for number, seed in enumerate(seeds):
        title = f"Probe of {encoder.name}, seed {seed}"
        probe = train_probe(make, train_set, loss, settings, seed, device=device, title=title, progress=progress)
        with torch.inference_mode():
            for indices in np.array_split(np.arange(len(labels)), -(-len(labels) // 64)):
                found = probe(test_set.features(indices).to(device))[:, 0].argmax(dim=1).cpu().numpy()
                right[number, indices] = found == labels[indices]
    each = right.mean(axis=0)
    return ClassificationRow(
        model=encoder.name,
        revision=encoder.revision,
        top1=Measure.of(right),
        per_class={
            name: float(each[labels == number].mean()) if (labels == number).any() else None
            for number, name in enumerate(classes)
        },
        images_per_second=test_set.metadata["images_per_second"],
        peak_memory_bytes=max(peak_memory(), test_set.metadata["peak_memory_bytes"]),
    )
