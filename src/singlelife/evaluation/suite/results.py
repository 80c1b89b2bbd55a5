"""The results file of a model, DIR/MODEL.json, and DIR/MODEL.safetensors, which its pictures are drawn from.

A file is written anew, whole, after each task, so that a run that was killed loses one task at most. A result is good
for as long as its task, protocol, settings and data and the model's weights are the same; then it is kept. Files hold
results and no failures: what fails leaves what was found before as it is.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as saved

from singlelife._version import __version__
from singlelife.alignment.models import UNTRAINED
from singlelife.errors import EvaluationError
from singlelife.evaluation.probing import Measure
from singlelife.evaluation.suite.metrics import FIRST, METRICS_OF
from singlelife.files import atomic_write

KIND, FORMAT_VERSION = "singlelife-evaluation", 1


@dataclass(frozen=True)
class Done:
    """What a task found of one model.

    Attributes:
        metrics: by name, see `metrics.py`.
        data: `name`, `hash` (SHA-256 of what was measured on), and what else there is to say of the data.
        seeds: of the probes; of the bootstrap where nothing is trained.
        failures: name and reason of each item that could not be used.
        images_per_second: of the model on the test data.
        peak_memory_bytes: of the process or accelerator, up to then.
        pictures: what the sheet is drawn from, by name; not in the JSON file.
    """

    metrics: dict[str, Measure]
    data: dict[str, Any]
    seeds: list[int]
    failures: dict[str, str] = field(default_factory=dict)
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    pictures: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


@dataclass
class ModelResults:
    """The results of one model, and their file.

    Attributes:
        path: of the file; it may not be there yet.
        model: what the user called it.
        revision: of its weights; None of a baseline without a model.
        tasks: what each task found, by its name, as the file has it.
    """

    path: Path
    model: str
    revision: str | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "ModelResults":
        """Those of a file.

        Raises:
            EvaluationError: it cannot be read, or holds something else.
        """
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EvaluationError(f"The results {path} cannot be read ({error}). Remove the file.") from error
        if not is_results(said):
            raise EvaluationError(f"{path} is no results file of `singlelife evaluate all`. Choose another folder.")
        if said["format_version"] != FORMAT_VERSION:
            raise EvaluationError(
                f"{path} has the format {said['format_version']}, and this version of singlelife reads "
                f"{FORMAT_VERSION}. Choose another folder, or remove the file."
            )
        return cls(path, said["model"], said["revision"], said["tasks"])

    def kept(self, task: str, about: Mapping[str, Any]) -> bool:
        """Whether the result of a task is there and is of the same protocol, settings, data and weights."""
        there = self.tasks.get(task)
        return there is not None and all(there.get(k) == v for k, v in _plain(about).items())

    def put(self, task: str, about: Mapping[str, Any], done: Done) -> None:
        """Take in the result of a task, and write the files."""
        fields = {name: value for name, value in asdict(done).items() if name != "pictures"}
        known = METRICS_OF[about["task"]]
        for name, measure in fields["metrics"].items():
            if name in known:  # so that a reader, such as the one for model cards, need not know
                measure |= {"title": known[name].title, "higher_is_better": known[name].higher_is_better}
        fields["first_metrics"] = FIRST[about["task"]]
        self.tasks[task] = _plain(dict(about) | fields | {"version": __version__})
        self._put_pictures(task, done.pictures)
        self._write()

    def of_revision(self, revision: str | None) -> None:
        """Forget what was found of other weights."""
        if revision != self.revision:
            self.tasks, self.revision = {}, revision
            self.pictures_path.unlink(missing_ok=True)

    @property
    def pictures_path(self) -> Path:
        return self.path.with_suffix(".safetensors")

    def pictures(self, task: str) -> dict[str, torch.Tensor]:
        """What the sheet of a task is drawn from, by name; nothing where there is none."""
        return {
            name.partition("/")[2]: value for name, value in self._pictures().items() if name.startswith(f"{task}/")
        }

    def _pictures(self) -> dict[str, torch.Tensor]:
        try:
            return load_file(self.pictures_path)
        except (OSError, SafetensorError):  # the numbers do without
            return {}

    def _put_pictures(self, task: str, pictures: Mapping[str, torch.Tensor]) -> None:
        others = {name: value for name, value in self._pictures().items() if not name.startswith(f"{task}/")}
        content = others | {f"{task}/{name}": value.contiguous() for name, value in pictures.items()}
        if content:
            with atomic_write(self.pictures_path) as aside:
                aside.write_bytes(saved(content))

    def _write(self) -> None:
        content = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "revision": self.revision,
            "tasks": self.tasks,
        }
        with atomic_write(self.path) as aside:
            aside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def is_results(said: Any) -> bool:
    """Whether the content of a JSON file is that of a results file."""
    return (
        isinstance(said, dict)
        and said.get("kind") == KIND
        and {"format_version", "model", "revision", "tasks"} <= set(said)
    )


def results_of(folder: Path, model: str) -> ModelResults:
    """The results of a model in a folder, or a new file for them: `sim_1.json` of `runs/sim_1`, `ORG--NAME.json` of a
    model on the Hub. Where another model has that file, some letters more tell them apart.

    Raises:
        EvaluationError: what is there is something else, or cannot be read.
    """
    stem = _stem(model)
    for name in (stem, f"{stem}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"):
        path = folder / f"{name}.json"
        if not path.exists():
            return ModelResults(path, model)
        there = ModelResults.read(path)
        if there.model == model:
            return there
    raise EvaluationError(f"{path} is the results file of {there.model}, and should be that of {model}. Remove it.")


def all_results(folder: Path) -> list[ModelResults]:
    """Those of a folder, by name.

    Raises:
        EvaluationError: one cannot be read.
    """
    return [ModelResults.read(path) for path in sorted(folder.glob("*.json"))]


def _stem(model: str) -> str:
    words, prefix = model, ""
    if model.startswith(UNTRAINED):
        words, prefix = model.removeprefix(UNTRAINED), "untrained-"
    path = PurePath(words)
    is_hub = len(path.parts) == 2 and not words.startswith((".", "~", "runs/")) and not Path(words).exists()
    name = "--".join(path.parts) if is_hub else (path.name or words)
    return prefix + (re.sub(r"[^\w.@-]+", "-", name).strip(".-") or "model")


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(value))
