"""Suites of tasks, read from YAML: which tasks, on which data, with which settings.

A suite is a name, a version that is raised when its numbers would change, and tasks by name. Shipped ones are in
`hub_configs/evaluations`. `{NAME}` in what a task reads is a folder that the user gives; a task whose folder is not
given is left out.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from singlelife.errors import EvaluationError
from singlelife.files import config_names, hub_configs, read_yaml

TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_PLACE = re.compile(r"\{(\w+)\}")


def _words(value: Any) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError("text, or a list of texts")
    return tuple(words)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("text")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a whole number from 1")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a whole number from 0")
    return value


def _above_zero(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError("a number above 0")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _layers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(each) is int for each in value):
        raise ValueError("a list of whole numbers")
    return tuple(value)


def _one_of(*names: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(" or ".join(names))
        return value

    return read


def _setting(read: Callable[[Any], Any], default: Any = MISSING, *, where: bool = False) -> Any:
    """A field: how its value is read, and whether it says where data are. The hash of the data speaks for those."""
    return field(default=default, metadata={"read": read, "where": where})


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What all tasks have in common."""

    kind: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """All that its numbers depend on but for the data, as JSON has it."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata["where"]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


@dataclass(frozen=True, kw_only=True)
class _ProbeTask(_Task):
    """A probe, as `probing.ProbeSettings` describes it, and how many are trained."""

    probe: str = _setting(_one_of("attentive", "linear"), "attentive")
    seeds: int = _setting(_count, 3)
    epochs: int = _setting(_count, 20)
    learning_rate: float = _setting(_above_zero, 1e-3)
    batch_size: int = _setting(_count, 32)


@dataclass(frozen=True, kw_only=True)
class DepthTask(_ProbeTask):
    """`singlelife evaluate depth`, whose options are described there."""

    kind = "depth"
    train: tuple[str, ...] = _setting(_words, where=True)
    test: tuple[str, ...] = _setting(_words, where=True)
    train_split: str | None = _setting(_text, None, where=True)
    test_split: str | None = _setting(_text, None, where=True)
    num_train: int | None = _setting(_count, None)
    num_test: int | None = _setting(_count, None)
    depth_scale: float | None = _setting(_above_zero, None)
    depth_column: str | None = _setting(_text, None)
    protocol: str | None = _setting(_one_of("nyu", "scannet", "metric", "simulated"), None)
    max_depth: float | None = _setting(_above_zero, None)


@dataclass(frozen=True, kw_only=True)
class CorrespondenceTask(_Task):
    """`singlelife evaluate correspondence`, whose options are described there."""

    kind = "correspondence"
    data: tuple[str, ...] = _setting(_words, where=True)
    homography: str | None = _setting(_text, None, where=True)
    disparity: str | None = _setting(_text, None, where=True)
    disparity_scale: float | None = _setting(_above_zero, None)
    split: str = _setting(_one_of("viewpoint", "illumination"), "viewpoint")
    views: str = _setting(_one_of("plain", "zoomed", "shifted"), "plain")
    num_pairs: int = _setting(_count, 384)
    method: str | None = _setting(_one_of("cross-attention", "feature-correlation", "decoder-correlation"), None)
    layers: tuple[int, ...] | None = _setting(_layers, None)
    reciprocal: bool = _setting(_flag, True)
    sinks: str | None = _setting(_one_of("first", "keep"), None)
    temperature: float = _setting(_above_zero, 1e-4)
    seed: int = _setting(_whole, 0)


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(_ProbeTask):
    """`singlelife evaluate classify`, whose options are described there."""

    kind = "classification"
    data: str = _setting(_text, where=True)
    train_split: str | None = _setting(_text, None)
    test_split: str | None = _setting(_text, None)
    label_column: str | None = _setting(_text, None)


Task: TypeAlias = DepthTask | CorrespondenceTask | ClassificationTask
TASKS: dict[str, type[Task]] = {each.kind: each for each in (DepthTask, CorrespondenceTask, ClassificationTask)}


@dataclass(frozen=True)
class Suite:
    """Tasks to evaluate models on.

    Attributes:
        name, version, description: of the suite.
        tasks: by name, in order.
        left_out: the name of the folder that a task lacks, by the task's.
    """

    name: str
    version: int
    description: str
    tasks: dict[str, Task]
    left_out: dict[str, str]

    def only(self, names: list[str]) -> "Suite":
        """The suite with some of its tasks.

        Raises:
            EvaluationError: it has no such task, or the folder of one is not given.
        """
        for name in names:
            if name in self.left_out:
                raise EvaluationError(f"The task {name} needs a folder: --data {self.left_out[name]}=FOLDER.")
            if name not in self.tasks:
                raise EvaluationError(
                    f"The suite {self.name} has no task {name!r}; it has {', '.join([*self.tasks, *self.left_out])}."
                )
        return replace(self, tasks={name: self.tasks[name] for name in names}, left_out={})

    def with_probe_seeds(self, seeds: int) -> "Suite":
        """The suite with another number of probes for each model."""
        tasks = {
            name: task if isinstance(task, CorrespondenceTask) else replace(task, seeds=seeds)
            for name, task in self.tasks.items()
        }
        return replace(self, tasks=tasks)


def read_suite(word: str, folders: Mapping[str, str] | None = None) -> Suite:
    """A suite.

    Args:
        word: the name of a shipped one, or a YAML file of one's own.
        folders: what stands for `{NAME}`, by name.

    Raises:
        SingleLifeError: there is none, something in it is not as it should be, no folder of `folders` occurs in it, or
            without the folders that are missing nothing is left.
    """
    shipped = config_names("evaluations")
    path = hub_configs() / "evaluations" / f"{word}.yaml" if word in shipped else Path(word).expanduser()
    if not path.is_file():
        raise EvaluationError(
            f"There is no suite {word!r}: shipped are {', '.join(shipped)}; a suite of your own is a YAML file like "
            "those in hub_configs/evaluations."
        )
    content = read_yaml(path)
    given = dict(folders or {})
    if unknown := sorted(content.keys() - {"name", "version", "description", "tasks"}):
        raise EvaluationError(f"{path}: a suite has name, version, description and tasks, and no {unknown[0]}.")
    name, version, tasks = content.get("name", path.stem), content.get("version", 1), content.get("tasks")
    if not isinstance(name, str) or type(version) is not int or not isinstance(tasks, dict) or not tasks:
        raise EvaluationError(
            f"{path}: a suite has a name, a version, which is a whole number, and at least one task."
        )
    used = {place for places in map(_places, tasks.values()) for place in places}
    if surplus := sorted(given.keys() - used):
        known = f"it takes {', '.join(sorted(used))}" if used else "it takes none"
        raise EvaluationError(f"The suite {name} has no folder {surplus[0]}: {known}.")
    read: dict[str, Task] = {}
    left_out = {}
    for task_name, fields_of_task in tasks.items():
        if not isinstance(task_name, str) or not TASK_NAME.fullmatch(task_name):
            raise EvaluationError(f"{path}: {task_name!r} cannot be the name of a task: letters, digits, . _ and -.")
        missing = [place for place in _places(fields_of_task) if place not in given]
        if missing:
            left_out[task_name] = missing[0]
        else:
            read[task_name] = _task(f"{path}, task {task_name}", _filled(fields_of_task, given))
    if not read:
        wanted = " ".join(f"--data {place}=FOLDER" for place in dict.fromkeys(left_out.values()))
        raise EvaluationError(f"The suite {name} needs folders, at least one of: {wanted}.")
    return Suite(name, version, str(content.get("description", "")), read, left_out)


def _task(where: str, content: Any) -> Task:
    if not isinstance(content, dict) or content.get("task") not in TASKS:
        raise EvaluationError(f"{where}: it should have `task: {' or '.join(TASKS)}`.")
    kind = TASKS[content["task"]]
    known = {each.name: each for each in fields(kind)}
    values = {}
    for name, value in content.items():
        if name == "task":
            continue
        if name not in known:
            raise EvaluationError(f"{where}: {kind.kind} has no setting {name!r}; it has {', '.join(known)}.")
        try:
            values[name] = known[name].metadata["read"](value)
        except ValueError as error:
            raise EvaluationError(f"{where}: {name} should be {error}, not {value!r}.") from error
    if missing := [each.name for each in known.values() if each.default is MISSING and each.name not in values]:
        raise EvaluationError(f"{where}: {missing[0]} is missing.")
    return kind(**values)


def _places(content: Any) -> list[str]:
    """The names of the folders in a task, each once."""
    if isinstance(content, dict | list):
        inside = content.values() if isinstance(content, dict) else content
        return list(dict.fromkeys(place for each in inside for place in _places(each)))
    return _PLACE.findall(content) if isinstance(content, str) else []


def _filled(content: Any, folders: Mapping[str, str]) -> Any:
    """A task with the folders in their places."""
    if isinstance(content, dict):
        return {name: _filled(value, folders) for name, value in content.items()}
    if isinstance(content, list):
        return [_filled(each, folders) for each in content]
    return _PLACE.sub(lambda match: folders[match[1]], content) if isinstance(content, str) else content
