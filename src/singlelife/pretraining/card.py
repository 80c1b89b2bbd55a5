"""What others may know of a run: its settings, its life and its scores, and the model card that says so."""

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from safetensors import safe_open

from singlelife._version import __version__
from singlelife.errors import RunError
from singlelife.files import read_yaml
from singlelife.hub.cards import TAG, fill_card, license_fields, stated
from singlelife.hub.errors import is_repo_id
from singlelife.lives.registry import SHUFFLED, Life, life_names, registered_life
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.arguments import BATCH_OF_BASE_RATE
from singlelife.pretraining.run_folder import MODEL_FILES, RunFolder, read_metrics
from singlelife.results import read_results
from singlelife.text import duration

_OF_THIS_MACHINE = ("video", "cache_dir", "output_dir")
_OF_EVERY_RUN = {
    *("life", "model", "pairing", "min_gap", "max_gap", "crop_area_min", "crop_area_max", "seed", "mixed_precision"),
    *("max_steps", "train_batch_size", "learning_rate", "base_learning_rate", "warmup_steps", "weight_decay"),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", re.ASCII)
_PICTURES = {
    "reconstruction.png": "The target view, masked, as it was, and as the model completes it from the source view",
    "cross_attention.png": "Where patches of the target view look in the source view",
    "alignment.png": "How far it came to agree with another model as it learnt",
}
_TITLES = {"raw": "CAS", "position_free": "Position-free CAS"}
_TYPES = {("cas", "raw"): "cas", ("cas", "position_free"): "cas_position_free"}
# By the task of a result: the Hub's name of the task, and one for people.
_TASKS = {
    "cas": ("image-feature-extraction", "Agreement on correspondences"),
    "depth": ("depth-estimation", "Depth by a probe on the frozen encoder"),
    "correspondence": ("image-feature-extraction", "Zero-shot correspondence"),
    "classification": ("image-classification", "Classification by a probe on the frozen encoder"),
}


@dataclass(frozen=True)
class Run:
    """A run as others may see it.

    Attributes:
        folder: the run folder.
        model: the folder of the model: the run folder itself once the run is finished, else its latest checkpoint.
        checkpoint: the checkpoint that the run can go on from, if there is one.
        step: optimiser steps that the model has made.
        settings: of the run, without places on this machine.
        metrics: lines of metrics.jsonl up to `step`.
        facts: of the life that it learnt from, as `life.json` has them; empty in runs that did not write it.
        life: its entry in the registry, or one of a recording of one's own.
    """

    folder: RunFolder
    model: Path
    checkpoint: Path | None
    step: int
    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    facts: dict[str, Any]
    life: Life

    @property
    def finished(self) -> bool:
        """Whether the model has made all its steps."""
        return self.model == self.folder.path

    def last(self) -> dict[str, Any]:
        """The last value of each metric."""
        return {name: value for line in self.metrics for name, value in line.items()}


def read_run(path: Path) -> Run:
    """A run folder, finished or not.

    Raises:
        RunError: it is none, or has no model yet.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise RunError(f"{path} is no run folder: it has no {folder.config.name}. Name the folder that a run wrote.")
    settings = read_yaml(folder.config)
    if missing := sorted(_OF_EVERY_RUN - settings.keys()):
        raise RunError(f"{folder.config} is not what a run writes: it does not say {', '.join(missing)}.")
    step, checkpoint = next(reversed(folder.checkpoints().items()), (0, None))
    if {"config.json", "preprocessor_config.json"} <= {file.name for file in model_files(path)}:
        model, step = path, settings["max_steps"]
    elif checkpoint is not None:
        model = checkpoint
    else:
        raise RunError(f"The run in {path} has no checkpoint yet: there is nothing to push. See --save-steps.")
    metrics = read_metrics(folder.metrics) if folder.metrics.is_file() else []
    facts = _read_facts(folder.life)
    name = facts.get("name") or life_reference(str(settings["life"])).name
    known = registered_life(name) if name in life_names() or name.startswith(SHUFFLED) else Life(name, "video")
    return Run(
        folder,
        model,
        checkpoint,
        step,
        public_settings(settings | {"life": settings["life"] if facts.get("hub") else name}),
        [{name: without_folders(value) for name, value in line.items()} for line in metrics if line["step"] <= step],
        facts,
        known,
    )


def model_files(folder: Path) -> list[Path]:
    """The files of the model in a folder: weights, configs and code."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without places on this machine: only the last part of a path stays."""
    return {name: without_folders(value) for name, value in settings.items() if name not in _OF_THIS_MACHINE}


def without_folders(value: Any) -> Any:
    """A value as others may know it: only the last part of each path in it, or in a list, stays. ORG/NAME is no path,
    unless there is such a folder; runs are in `runs` unless one says otherwise."""
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return " ".join(map(_without_folder, value.split(" "))) if isinstance(value, str) else value


def _without_folder(word: str) -> str:
    on_the_hub = _HUB_ID.fullmatch(word) and not word.startswith((".", "runs/")) and not Path(word).exists()
    return word if on_the_hub or not re.search(r"[/\\]", word) else PurePath(word.replace("\\", "/")).name


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}); repair or remove it.") from error
    if not isinstance(facts, dict):
        raise RunError(f"{path} should hold a mapping, not {type(facts).__name__}; repair or remove it.")
    return facts


@dataclass(frozen=True)
class Measure:
    """A number for the card: the mean over the seeds of one measurement.

    Attributes:
        title: for people, such as "CAS with sim_1, top 5 of 64".
        value: the mean.
        text: the value with its spread over the seeds and its 95% interval, where they are known.
        data, protocol: what it was measured on and how.
        chance: what chance gives, as text; empty where that is not known.
        result: the same for the header of a model card.
    """

    title: str
    value: float
    text: str
    data: str
    protocol: str
    chance: str
    result: EvalResult


def rows_about(files: Sequence[Path], run: Path, repo_id: str) -> list[dict[str, Any]]:
    """The rows of `results.jsonl` files that are about a run; of scores between two models, the run comes first.

    Raises:
        SingleLifeError: a file cannot be read.
    """
    found = []
    for row in read_results(*files).to_dict("records"):
        if _is_of(row["model"], run, repo_id):
            found.append(row)
        elif row["reference"] and _is_of(row["reference"], run, repo_id):
            found.append(row | {"model": row["reference"], "reference": row["model"]})
    return found


def _is_of(model: str, run: Path, repo_id: str) -> bool:
    """Whether a model as it was named is the run, or one of its checkpoints."""
    path = Path(model)
    return model.split("@")[0] == repo_id or run.resolve() in (path.resolve(), path.resolve().parent) or (
        path.name == run.name and not is_repo_id(model.split("@")[0])
    )  # fmt: skip


def measures_of(rows: Sequence[dict[str, Any]]) -> list[Measure]:
    """The rows of one run, of which those that differ in the seed alone make one number."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if math.isfinite(row["value"]):
            same = [row[name] for name in ("task", "protocol", "data", "data_hash", "metric", "reference", "settings")]
            groups.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(row)
    return [_measure(group) for group in groups.values()]


def _measure(rows: list[dict[str, Any]]) -> Measure:
    """The number of rows that differ in the seed alone."""
    row, settings = rows[0], rows[0]["settings"] or {}
    data, other = without_folders(row["data"]), without_folders(row["reference"])
    values = [float(each["value"]) for each in rows]
    numbers = {"std": statistics.stdev(values)} if len(values) > 1 else {}
    for name in ("low", "high"):
        if all(each[name] is not None and math.isfinite(each[name]) for each in rows):
            numbers[name] = statistics.fmean(each[name] for each in rows)
    value, chance = statistics.fmean(values), settings.get("chance")
    numbers |= {"chance": chance} if isinstance(chance, float) else {}
    title = _TITLES.get(row["metric"], row["metric"]) + (f" with {other}" if other else "")
    if settings.get("k") and settings.get("num_patches"):
        title += f", top {settings['k']} of {settings['num_patches']}"
    text = f"{value:.3f}" + (f" ± {numbers['std']:.3f}" if "std" in numbers else "")
    task_type, task_name = _TASKS.get(row["task"], ("image-feature-extraction", row["task"]))
    return Measure(
        title,
        value,
        text + (f" ({numbers['low']:.3f} to {numbers['high']:.3f})" if {"low", "high"} <= numbers.keys() else ""),
        data,
        row["protocol"],
        f"{chance:.3f}" if "chance" in numbers else "",
        EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=data.split(" ")[0],
            dataset_name=data,
            dataset_revision=row["data_hash"],
            metric_type=_TYPES.get((row["task"], row["metric"]), row["metric"]),
            metric_name=f"{title} ({row['protocol']})",
            metric_value=round(value, 4),
            metric_args={name: round(number, 4) for name, number in numbers.items()},
        ),
    )


def model_card(run: Run, repo_id: str, license: str | None, measures: Sequence[Measure] = ()) -> str:
    """The text of README.md.

    Args:
        run: what is pushed.
        repo_id: where to.
        license: of the weights; by default that of the frames that they were made of.
        measures: scores of the model.
    """
    life, facts, settings, last = run.life, run.facts, run.settings, run.last()
    frames_license = stated(facts.get("license") or life.license)
    simulated, name = life.kind == "simulated", repo_id.split("/")[1]
    results = [measure.result for measure in measures]
    if "val_loss" in last:
        results.append(_loss_result(life.name, last["val_loss"]))
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[TAG, "croco", "egocentric", "self-supervised", *(["simulated"] if simulated else [])],
        datasets=[facts["hub"]["repo_id"]] if facts.get("hub") else None,
        model_name=name,
        eval_results=results or None,
        **license_fields(license if license is not None else frames_license),
        singlelife={
            "life": life.name,
            "hours": facts.get("hours", life.hours),
            "steps": run.step,
            "finished": run.finished,
        },
    )
    rate = settings["learning_rate"]
    own_recording = life.kind == "video" and not facts.get("hub")
    by_name = f"--life {life.name} --video PATH" if own_recording else f"--life {settings['life']}"
    fields = {
        "name": name,
        "repo_id": repo_id,
        "life": life,
        "facts": facts,
        "hours": _hours(run),
        "settings": settings,
        "step": run.step,
        "unfinished": "" if run.finished else f"{run.step:,} of {settings['max_steps']:,} steps",
        "learning_rate": settings["base_learning_rate"] * settings["train_batch_size"] / BATCH_OF_BASE_RATE
        if rate is None
        else rate,
        "config": json.loads((run.model / "config.json").read_text(encoding="utf-8")),
        "parameters": _parameters(run.model),
        "version": __version__,
        "pictures": [(file, title) for file, title in _PICTURES.items() if (run.folder.path / file).is_file()],
        "again": f"accelerate launch train.py {by_name} --config config.yaml",
        "last": last,
        "measures": measures,
        "traces": not simulated,
        "license": license,
        "frames_license": frames_license,
    }
    return fill_card("model", header, fields)


def _loss_result(life: str, loss: float) -> EvalResult:
    return EvalResult(
        task_type="image-feature-extraction",
        task_name="Cross-view completion",
        dataset_type=life,
        dataset_name=f"held-out stretches of {life}",
        metric_type="loss",
        metric_name="Validation loss",
        metric_value=round(loss, 4),
    )


def _hours(run: Run) -> str:
    """How long the life is, or the part of it that the model learnt from, in words."""
    whole = duration(3600 * run.facts["hours"]) if "hours" in run.facts else f"about {run.life.hours:g} h"
    part = run.settings.get("hours")
    return f"the first {part:g} h of {whole}" if part else whole


def _parameters(folder: Path) -> int:
    """Of the weights in a folder, from the headers of their files."""
    count = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count
