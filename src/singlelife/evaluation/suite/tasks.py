"""The tasks of a suite with their data open: each measures a model, or one of its own baselines."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from singlelife.alignment.models import load_model
from singlelife.errors import EvaluationError
from singlelife.evaluation.classification import PROTOCOL as CLASSIFICATION
from singlelife.evaluation.classification import evaluate_classification, most_frequent, open_labelled
from singlelife.evaluation.correspondence import IDENTITY, ModelResult, evaluate_correspondence
from singlelife.evaluation.correspondence import PROTOCOL as CORRESPONDENCE
from singlelife.evaluation.correspondence_data import open_pairs
from singlelife.evaluation.correspondence_sheet import Matches, draw_correspondence, matches_of, sheet_pairs
from singlelife.evaluation.depth import LOSS, ProbedModel, evaluate_depth, mean_rows
from singlelife.evaluation.depth_data import open_depth
from singlelife.evaluation.depth_frames import DepthOptions
from singlelife.evaluation.depth_sheet import Maps, draw_sheet, maps_of, sheet_rows
from singlelife.evaluation.features import FeatureSet, extract
from singlelife.evaluation.flow import usual_matching
from singlelife.evaluation.probing import Measure, ProbeSettings
from singlelife.evaluation.suite.metrics import of_pairs
from singlelife.evaluation.suite.results import Done
from singlelife.evaluation.suite.settings import ClassificationTask, CorrespondenceTask, DepthTask, Task


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how models run.

    Attributes:
        device: as torch names it.
        batch_size: pairs at once, which changes no result. (Probes have theirs in their settings.)
        cache_dir: where prepared lives and features are kept; the usual place with None.
        progress: whether to show bars.
    """

    device: str = "cpu"
    batch_size: int = 8
    cache_dir: Path | None = None
    progress: bool = True


class OpenTask(Protocol):
    """A task with its data.

    Attributes:
        about: `task`, `protocol`, `settings` and `data_key`: what a result depends on beside the model's weights. The
            key differs where the data differ.
    """

    about: dict[str, Any]

    def measure(self, model: str) -> Done:
        """What a model does, as `load_model` takes it.

        Raises:
            SingleLifeError: it cannot be measured.
        """
        ...

    def baselines(self) -> dict[str, Callable[[Sequence[str]], Done]]:
        """What stands beside the models and is none, by name; it is given the models, one of which may tell of the
        size of the views."""
        ...

    def draw(self, path: Path, pictures: Sequence[tuple[str, dict[str, torch.Tensor]]]) -> None:
        """Draw the sheet of what models, by name, make of some of the data: `Done.pictures`, at least one model's."""
        ...


def open_task(task: Task, machine: Machine) -> OpenTask:
    """A task with its data.

    Raises:
        SingleLifeError: the data are not there, or cannot be used.
    """
    if isinstance(task, DepthTask):
        return _Depth(task, machine)
    if isinstance(task, CorrespondenceTask):
        return _Correspondence(task, machine)
    return _Classification(task, machine)


class _Correspondence:
    def __init__(self, task: CorrespondenceTask, machine: Machine):
        self._task, self._machine = task, machine
        self._data = open_pairs(
            task.data,
            homography=task.homography,
            disparity=task.disparity,
            disparity_scale=task.disparity_scale,
            split=task.split,
            views=task.views,
            num_pairs=task.num_pairs,
            seed=task.seed,
            cache_dir=machine.cache_dir,
        )
        # The identity flow needs no model; it is measured always, and so reads the data, whose hash it gives.
        self._identity = self._evaluated(None)
        self.about = {
            "task": task.kind,
            "protocol": CORRESPONDENCE,
            "settings": task.settings(),
            "data_key": self._identity.data_hash,
        }
        self._shown = sheet_pairs(self._data)

    def measure(self, model: str) -> Done:
        loaded = load_model(model, self._machine.device, method=self._task.method, layers=self._task.layers)
        matching = dataclasses.replace(
            usual_matching(loaded.method), reciprocal=self._task.reciprocal, temperature=self._task.temperature
        )
        if self._task.sinks:
            matching = dataclasses.replace(matching, sinks=self._task.sinks)
        result = self._evaluated(loaded, matching)
        flows = matches_of(loaded, self._shown, matching).flows
        about_model = {
            "method": result.method,
            "layers": list(result.layers),
            "grid": list(loaded.grid),
            "matching": dataclasses.asdict(matching),
        }
        return self._done(result, {"model": about_model}, {str(row): flow for row, flow in enumerate(flows)})

    def baselines(self) -> dict[str, Callable[[Sequence[str]], Done]]:
        return {IDENTITY: lambda _: self._done(self._identity, {}, {})}

    def draw(self, path: Path, pictures: Sequence[tuple[str, dict[str, torch.Tensor]]]) -> None:
        models = [Matches(name, [flows[str(row)] for row in range(len(self._shown))]) for name, flows in pictures]
        draw_correspondence(path, self._data.name, self._shown, models)

    def _evaluated(self, model: Any, matching: Any = None) -> ModelResult:
        return evaluate_correspondence(
            model,
            self._data,
            matching=matching,
            batch_size=self._machine.batch_size,
            device=self._machine.device,
            seed=self._task.seed,
            progress=self._machine.progress,
        )

    def _done(self, result: ModelResult, about_model: dict[str, Any], pictures: dict[str, torch.Tensor]) -> Done:
        return Done(
            metrics=of_pairs(result.pairs, self._task.seed),
            data={
                "name": self._data.name,
                "hash": result.data_hash,
                "num_items": len(result.pairs),
                "left_out": list(self._data.left_out),
                **about_model,
            },
            seeds=[self._task.seed],
            failures=result.failures,
            images_per_second=result.images_per_second,
            peak_memory_bytes=result.peak_memory,
            pictures=pictures,
        )


class _Probe:
    """What probes of depth and of classes share."""

    _task: DepthTask | ClassificationTask
    _machine: Machine
    _train: Any
    _test: Any
    _probes: ProbeSettings

    def _evaluated(self, evaluate: Callable[..., Any], model: str, **more: Any) -> tuple[Any, Any]:
        """The evaluation of one model, and its row."""
        evaluation = evaluate(
            [model],
            self._train,
            self._test,
            self._probes,
            range(self._task.seeds),
            baselines=False,
            device=self._machine.device,
            batch_size=self._task.batch_size,
            cache_dir=self._machine.cache_dir,
            progress=self._machine.progress,
            **more,
        )
        (row,) = evaluation.rows
        if row.error:
            raise EvaluationError(row.error)
        return evaluation, row

    def _features(self, model: str) -> tuple[Any, FeatureSet, FeatureSet]:
        """An encoder, and its features of the data, which are there already as a rule."""
        machine = self._machine
        encoder = load_model(model, machine.device)
        train, test = (
            extract(encoder, examples, cache_dir=machine.cache_dir, batch_size=32, progress=machine.progress)
            for examples in (self._train, self._test)
        )
        return encoder, train, test

    def _baseline(self, metrics: dict[str, Measure], train: FeatureSet, test: FeatureSet) -> Done:
        about = {"name": self._train.name} | train.summary(), {"name": self._test.name} | test.summary()
        return Done(metrics=metrics, data=_probe_data(*about), seeds=[], failures=_left_out(*about))


class _Depth(_Probe):
    def __init__(self, task: DepthTask, machine: Machine):
        self._task, self._machine = task, machine
        options = DepthOptions(
            depth_scale=task.depth_scale,
            depth_column=task.depth_column,
            protocol=task.protocol,
            max_depth=task.max_depth,
            cache_dir=machine.cache_dir,
        )
        self._train = open_depth(
            task.train, "train", dataclasses.replace(options, split=task.train_split, limit=task.num_train)
        )
        self._test = open_depth(
            task.test, "test", dataclasses.replace(options, split=task.test_split, limit=task.num_test)
        )
        self._probes = ProbeSettings(task.probe, task.epochs, task.batch_size, task.learning_rate)
        self.about = {
            "task": task.kind,
            "protocol": dataclasses.asdict(self._test.protocol) | {"loss": LOSS},
            "settings": task.settings(),
            "data_key": _key(self._train.identity, self._test.identity),
        }

    def measure(self, model: str) -> Done:
        pictures: dict[str, torch.Tensor] = {}

        def keep(probed: ProbedModel) -> None:
            rows = sheet_rows(len(probed.test))
            maps = maps_of(probed, self._test, rows, self._machine.device)
            for number, (row, depth) in enumerate(zip(probed.test.rows[rows], maps.depths, strict=True)):
                pictures[str(number)] = torch.from_numpy(depth).half()
                pictures[f"{number}.row"] = torch.tensor(int(row))
                pictures[f"{number}.delta1"] = torch.tensor(maps.delta1[number])

        evaluation, row = self._evaluated(evaluate_depth, model, on_model=keep)
        return Done(
            metrics=row.measures,
            data=_probe_data(evaluation.train, evaluation.test),
            seeds=evaluation.seeds,
            failures=_left_out(evaluation.train, evaluation.test),
            images_per_second=row.feature_images_per_second,
            peak_memory_bytes=row.peak_memory_bytes,
            pictures=pictures,
        )

    def baselines(self) -> dict[str, Callable[[Sequence[str]], Done]]:
        names = ("mean depth", "mean depth at each place")
        return {name: partial(self._mean, number) for number, name in enumerate(names)}

    def _mean(self, number: int, models: Sequence[str]) -> Done:
        """Of views of the first model's size."""
        encoder, train, test = self._features(models[0])
        row = mean_rows(ProbedModel(encoder, [], train, test), self._test, self._machine.progress)[number]
        return self._baseline(row.measures, train, test)

    def draw(self, path: Path, pictures: Sequence[tuple[str, dict[str, torch.Tensor]]]) -> None:
        count = sum(name.isdecimal() for name in pictures[0][1])
        rows = [int(pictures[0][1][f"{number}.row"]) for number in range(count)]
        maps = [
            Maps(
                name,
                [each[str(number)].float().numpy() for number in range(count)],
                [float(each[f"{number}.delta1"]) for number in range(count)],
            )
            for name, each in pictures
        ]
        draw_sheet(path, self._test, rows, maps)


class _Classification(_Probe):
    def __init__(self, task: ClassificationTask, machine: Machine):
        self._task, self._machine = task, machine
        self._train, self._test = open_labelled(
            task.data, train_split=task.train_split, test_split=task.test_split, label_column=task.label_column
        )
        self._probes = ProbeSettings(task.probe, task.epochs, task.batch_size, task.learning_rate)
        self.about = {
            "task": task.kind,
            "protocol": CLASSIFICATION,
            "settings": task.settings(),
            "data_key": _key(self._train.identity, self._test.identity),
        }

    def measure(self, model: str) -> Done:
        evaluation, row = self._evaluated(evaluate_classification, model)
        if row.top1 is None:
            raise EvaluationError("nothing was measured")
        return Done(
            metrics={"top1": row.top1},
            data=_probe_data(evaluation.train, evaluation.test),
            seeds=evaluation.seeds,
            failures=_left_out(evaluation.train, evaluation.test),
            images_per_second=row.images_per_second,
            peak_memory_bytes=row.peak_memory_bytes,
        )

    def baselines(self) -> dict[str, Callable[[Sequence[str]], Done]]:
        return {"most frequent class": self._chance}

    def _chance(self, models: Sequence[str]) -> Done:
        _, train, test = self._features(models[0])
        right = most_frequent(train, test, len(self._train.classes)).astype(np.float64)
        return self._baseline({"top1": Measure.of(right[None])}, train, test)

    def draw(self, path: Path, pictures: Sequence[tuple[str, dict[str, torch.Tensor]]]) -> None:
        """There are no pictures of classes."""


def _key(*identities: str) -> str:
    return hashlib.sha256("\n".join(identities).encode()).hexdigest()


def _probe_data(train: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    """Of the test data, which the numbers are of, and of what was trained on."""
    return {
        "name": test["name"],
        "hash": test["data_hash"],
        "num_items": test["num_items"],
        "also_trained_on": test.get("also_trained_on", 0),
        "train": {"name": train["name"], "hash": train["data_hash"], "num_items": train["num_items"]},
    }


def _left_out(train: dict[str, Any], test: dict[str, Any]) -> dict[str, str]:
    return {
        f"{data['name']} {number}": why
        for data in (train, test)
        for number, why in enumerate(data.get("left_out", []))
    }
