"""Scores of a model for its card, as `singlelife cas --json` and `singlelife evaluate all` write them."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult

from singlelife.errors import RunError
from singlelife.hub.errors import is_repo_id
from singlelife.pretraining.run_folder import RESULTS


@dataclass(frozen=True)
class Alignment:
    """How far the model agrees with another one.

    Attributes:
        other: the other model: an id on the Hub, or the last part of its folder's name.
        pairs, pairs_hash, num_pairs: what they were compared on.
        k, patches: the top k of so many.
        raw, position_free: the scores, with their interval and chance.
    """

    other: str
    pairs: str
    pairs_hash: str
    num_pairs: int
    k: int
    patches: int
    raw: dict[str, float]
    position_free: dict[str, float]

    def eval_results(self) -> list[EvalResult]:
        """As the header of a model card has them."""
        chance = self.raw["chance"]
        return [
            EvalResult(
                task_type="image-feature-extraction",
                task_name="Agreement on correspondences",
                dataset_type=self.pairs,
                dataset_name=f"{self.num_pairs} pairs of {self.pairs}",
                dataset_revision=self.pairs_hash,
                metric_type=kind,
                metric_name=f"{name} with {self.other} (top {self.k} of {self.patches}, chance {chance:.3f})",
                metric_value=round(score["cas"], 4),
                metric_args={key: round(score[key], 4) for key in ("low", "high", "adjusted")},
            )
            for kind, name, score in (
                ("cas", "CAS", self.raw),
                ("cas_position_free", "Position-free CAS", self.position_free),
            )
        ]


@dataclass(frozen=True)
class Number:
    """One number of a task: its name, title for people and value; its spread over the seeds of the probe, if there are
    several; its 95% interval over test items."""

    name: str
    title: str
    mean: float
    std: float | None
    low: float
    high: float

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.3f}"
        return f"{self.title} {self.mean:.3f}{spread}"


@dataclass(frozen=True)
class TransferTask:
    """What the frozen model does in one task of a suite.

    Attributes:
        name: of the task in its suite.
        kind: `"depth"`, `"correspondence"` or `"classification"`.
        protocol: name and version.
        data, data_hash, num_items: what it was measured on.
        numbers: those that come first.
    """

    name: str
    kind: str
    protocol: str
    data: str
    data_hash: str
    num_items: int
    numbers: tuple[Number, ...]

    def eval_results(self) -> list[EvalResult]:
        """As the header of a model card has them."""
        task_type, task_name = _TASKS[self.kind]
        return [
            EvalResult(
                task_type=task_type,
                task_name=task_name,
                dataset_type=self.data.split(" ")[0],
                dataset_name=f"{self.num_items} of {self.data}",
                dataset_revision=self.data_hash,
                metric_type=number.name,
                metric_name=f"{number.title} ({self.name}, protocol {self.protocol})",
                metric_value=round(number.mean, 4),
                metric_args={
                    key: round(value, 4)
                    for key in ("std", "low", "high")
                    if (value := getattr(number, key)) is not None
                },
            )
            for number in self.numbers
        ]


@dataclass(frozen=True)
class Transfer:
    """What the frozen model is worth for tasks that it was not trained for."""

    tasks: tuple[TransferTask, ...]


# By the kind of a task: the Hub's name of the task, and one for people.
_TASKS = {
    "depth": ("depth-estimation", "Depth by a probe on the frozen encoder"),
    "correspondence": ("image-feature-extraction", "Zero-shot correspondence"),
    "classification": ("image-classification", "Classification by a probe on the frozen encoder"),
}


def read_results(path: Path, run: Path, repo_id: str) -> Alignment | Transfer:
    """A file of `singlelife cas A B --json FILE`, where A or B is the run, or of `singlelife evaluate all` about it.

    Raises:
        RunError: it cannot be read, is something else, or is about other models.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"The results {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise RunError(f"{path} is not what `singlelife cas A B --json FILE` writes ({error!r}).") from error
    if isinstance(said, dict) and said.get("kind") == "singlelife-evaluation":
        return _transfer(path, said, run, repo_id)
    return _alignment(path, said, run, repo_id)


def _transfer(path: Path, said: dict[str, Any], run: Path, repo_id: str) -> Transfer:
    try:
        model = str(said["model"])
        tasks = tuple(_task(name, task) for name, task in said["tasks"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not what `singlelife evaluate all` writes ({error!r}).") from error
    if not _is_of(model, run, repo_id):
        raise RunError(f"{path} is about {model}, which is neither {run} nor {repo_id}.")
    return Transfer(tasks)


def _task(name: str, said: dict[str, Any]) -> TransferTask:
    if said["task"] not in _TASKS:
        raise ValueError(f"there is no task {said['task']}")
    protocol, data = said["protocol"], said["data"]
    numbers = []
    for metric in said["first_metrics"]:
        measure = said["metrics"][metric]
        mean, std, low, high = (float(measure[key]) for key in ("mean", "std", "low", "high"))
        spread = std if len(measure["per_seed"]) > 1 else None
        numbers.append(Number(str(metric), str(measure["title"]), mean, spread, low, high))
    return TransferTask(
        name=str(name),
        kind=said["task"],
        protocol=f"{protocol['name']} {protocol['version']}",
        data=_without_folders(str(data["name"])),
        data_hash=str(data["hash"]),
        num_items=int(data["num_items"]),
        numbers=tuple(numbers),
    )


def _without_folders(words: str) -> str:
    """The name of data as others may know it: of the paths in it, the last parts."""
    return " ".join(
        PurePath(word).name if word.startswith(("/", ".", "~")) or ("/" in word and Path(word).exists()) else word
        for word in words.split(" ")
    )


def _alignment(path: Path, said: Any, run: Path, repo_id: str) -> Alignment:
    try:
        models = [str(model) for model in said["models"]]
        rows, columns = said["grid"]
        scores = [{key: float(said[kind][key]) for key in _SCORE} for kind in ("raw", "position_free")]
        about = str(said["pairs"]), str(said["pairs_hash"]), int(said["num_pairs"]), int(said["k"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not what `singlelife cas A B --json FILE` writes ({error!r}).") from error
    ours = [_is_of(model, run, repo_id) for model in models]
    if len(models) != 2 or not any(ours):
        raise RunError(f"{path} compares {' and '.join(models)}, none of which is {run} or {repo_id}.")
    other = models[1] if ours[0] else models[0]
    if "/" in about[0] and Path(about[0]).exists():  # the folder of a prepared life
        about = PurePath(about[0]).name, *about[1:]
    return Alignment(name_of(other), *about, rows * columns, *scores)


_SCORE = ("cas", "low", "high", "chance", "adjusted")


def _is_of(model: str, run: Path, repo_id: str) -> bool:
    """Whether a model as it was named is the run, or one of its checkpoints."""
    path = Path(model)
    return model == repo_id or run.resolve() in (path.resolve(), path.resolve().parent) or path.name == run.name


def name_of(model: str) -> str:
    """A model as others may know it: of a folder, its last part. Runs are in `runs` unless one says otherwise."""
    on_the_hub = is_repo_id(model) and not model.startswith(("runs/", ".")) and not Path(model).exists()
    return model if on_the_hub else PurePath(model).name


def own_results(run: Path) -> list[Path]:
    """The files that lie in a run's own folder of results."""
    return sorted((run / RESULTS).glob("*.json"))


def header_scores(alignments: list[Alignment]) -> dict[str, Any]:
    """What a list of models shows of them: the mean position-free score, adjusted for chance."""
    if not alignments:
        return {}
    scores = [alignment.position_free["adjusted"] for alignment in alignments]
    return {"cas": round(sum(scores) / len(scores), 4), "cas_with": [each.other for each in alignments]}
