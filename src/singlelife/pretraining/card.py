"""The public facts of a run: its settings, its life, its scores, and its model card."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from singlelife._version import __version__
from singlelife.errors import RunError
from singlelife.files import read_yaml
from singlelife.hub.cards import TAG, fill_card, license_fields, stated
from singlelife.hub.errors import is_repo_id
from singlelife.lives.registry import SHUFFLED, Life, life_names, registered_life
from singlelife.lives.resolve import life_reference
from singlelife.optimization import learning_rate
from singlelife.pretraining.arguments import TrainConfig
from singlelife.pretraining.run_folder import MODEL_FILES, RunFolder, read_metrics
from singlelife.results import read_results
from singlelife.text import duration

_OF_THIS_MACHINE = ("video", "cache_dir", "output_dir")
_OF_EVERY_RUN = {"life", "model", "max_steps", "train_batch_size"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", re.ASCII)
_TITLES = {
    "centred_excess": "Centred CAS above its null",
    "centred": "Centred CAS",
    "centred_null": "Null of the centred CAS",
    "centred_p": "p-value of the centred CAS",
    "raw": "Raw CAS",
}


@dataclass(frozen=True)
class Run:
    """A run as others may see it.

    Attributes:
        model: the model's folder: the run folder if the run is finished, otherwise its latest checkpoint.
        checkpoint: the checkpoint that the run can continue from, if there is one.
        step: optimiser steps that the model has made.
        settings: the run's settings, without folders of this machine.
        metrics: lines of metrics.jsonl up to `step`.
        facts: `life.json`; empty in runs that did not write it.
        life: its entry in the registry, or one made for the user's own recording.
    """

    folder: RunFolder
    model: Path
    checkpoint: Path | None
    step: int
    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    facts: dict[str, Any]
    life: Life


def read_run(path: Path) -> Run:
    """A run folder, finished or not.

    Raises:
        RunError: it is not a run folder, or has no model yet.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise RunError(f"{path} is not a run folder: it has no {folder.config.name}. Name the folder of a run.")
    settings = read_yaml(folder.config)
    if missing := sorted(_OF_EVERY_RUN - settings.keys()):
        raise RunError(f"{folder.config} is not a run's config: it lacks {', '.join(missing)}.")
    step, checkpoint = next(reversed(folder.checkpoints().items()), (0, None))
    model = checkpoint
    if {"config.json", "preprocessor_config.json"} <= {file.name for file in model_files(path)}:
        model, step = path, settings["max_steps"]
    if model is None:
        raise RunError(f"The run in {path} has no checkpoint yet: there is nothing to push. See --save-steps.")
    metrics = read_metrics(folder.metrics)
    facts = json.loads(folder.life.read_text(encoding="utf-8")) if folder.life.is_file() else {}
    name = facts.get("name") or life_reference(str(settings["life"])).name
    known = registered_life(name) if name in life_names() or name.startswith(SHUFFLED) else Life(name)
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
    """A run's settings without folders of this machine: only the last part of a path stays."""
    return {name: without_folders(value) for name, value in settings.items() if name not in _OF_THIS_MACHINE}


def without_folders(value: Any) -> Any:
    """A value with only the last part of each path in it, or in its list. ORG/NAME counts as a name on the Hub, unless
    ORG is `runs` or there is such a folder."""
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return " ".join(map(_without_folder, value.split(" "))) if isinstance(value, str) else value


def _without_folder(word: str) -> str:
    on_the_hub = _HUB_ID.fullmatch(word) and not word.startswith((".", "runs/")) and not Path(word).exists()
    return word if on_the_hub or not re.search(r"[/\\]", word) else PurePath(word.replace("\\", "/")).name


def scores_of(files: Sequence[Path], run: Path, repo_id: str) -> list[dict[str, Any]]:
    """The numbers about a run in `results.jsonl` files, for the table and the header of its card.

    In a score between two models, the run may be either. Rows that differ only in the seed make one number.

    Raises:
        SingleLifeError: a file cannot be read.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in read_results(*files).to_dict("records"):
        if not _is_of(row["model"], run, repo_id):
            row |= {"model": row["reference"], "reference": row["model"]}
        if row["model"] and _is_of(row["model"], run, repo_id) and math.isfinite(row["value"]):
            same = [row[name] for name in ("task", "protocol", "data", "data_hash", "metric", "reference", "settings")]
            groups.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(row)
    rank = {metric: index for index, metric in enumerate(_TITLES)}  # the most important come first
    ordered = sorted(groups.values(), key=lambda group: rank.get(group[0]["metric"], len(rank)))
    return [_score(group) for group in ordered]


def _is_of(model: str, run: Path, repo_id: str) -> bool:
    """Whether a model, as the user named it, is the run or one of its checkpoints."""
    path, name = Path(model), model.split("@")[0]
    is_here = run.resolve() in (path.resolve(), path.resolve().parent)
    return name == repo_id or is_here or (path.name == run.name and not is_repo_id(name))


def _score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import pandas

    row, frame = rows[0], pandas.DataFrame(rows)
    settings, other, spread = row["settings"] or {}, without_folders(row["reference"]), frame.value.std()
    value, low, high = frame[["value", "low", "high"]].astype(float).mean(skipna=False)
    title = _TITLES.get(row["metric"], row["metric"]) + (f" with {other}" if other else "")
    if settings.get("k") and settings.get("num_patches"):
        title += f", top {settings['k']} of {settings['num_patches']}"
    return {
        "metric": row["metric"],
        "value": value,
        "data_hash": row["data_hash"],
        "title": title,
        "text": f"{value:.3f}"
        + (f" ± {spread:.3f}" if math.isfinite(spread) else "")
        + (f" ({low:.3f} to {high:.3f})" if math.isfinite(low + high) else ""),
        "data": without_folders(row["data"]),
        "protocol": row["protocol"],
        "chance": f"{settings['chance']:.3f}" if isinstance(settings.get("chance"), float) else "",
    }


def _eval_result(score: dict[str, Any]) -> EvalResult:
    """A score in the form in which the Hub lists results."""
    return EvalResult(
        task_type="image-feature-extraction",
        dataset_type=score["data"].split(" ")[0],
        dataset_name=score["data"],
        dataset_revision=score["data_hash"],
        metric_type=score["metric"],
        metric_name=f"{score['title']} ({score['protocol']})",
        metric_value=round(score["value"], 4),
    )


def _schedule(run: Run) -> str:
    """The learning rates of the training, in words."""
    known = {field.name for field in fields(TrainConfig)}
    train = TrainConfig(**{name: value for name, value in run.settings.items() if name in known})
    peak, warmup = train.peak_learning_rate, train.warmup

    def rate(step: int) -> str:
        at = learning_rate(step, peak=peak, warmup_steps=warmup, max_steps=train.max_steps, min_rate=train.min_lr_rate)
        return f"{at:.2g}"

    if run.step < warmup:
        return f"rising to {rate(run.step - 1)} in {run.step:,} steps, still in the warm-up to {peak:g}"
    return f"{peak:g} after {warmup:,} steps of warm-up, then a cosine down to {rate(run.step - 1)}"


def model_card(run: Run, repo_id: str, license: str | None, scores: Sequence[dict[str, Any]] = ()) -> str:
    """The text of README.md.

    Args:
        run: the run to push.
        repo_id: the repository, ORG/NAME.
        license: the weights' licence; by default that of the frames that they were trained on.
        scores: the model's scores, from `scores_of`.
    """
    life, facts = run.life, run.facts
    last = {name: value for line in run.metrics for name, value in line.items()}
    frames_license = stated(facts.get("license") or life.license)
    name, finished, simulated = repo_id.split("/")[1], run.model == run.folder.path, life.kind == "simulated"
    hours = facts.get("hours", life.hours)
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[TAG, "croco", "egocentric", "self-supervised", *(["simulated"] if simulated else [])],
        datasets=[facts["hub"]["repo_id"]] if facts.get("hub") else None,
        model_name=name,
        eval_results=[_eval_result(score) for score in scores] or None,
        **license_fields(license if license is not None else frames_license),
        singlelife={"life": life.name, "hours": hours, "steps": run.step, "finished": finished},
    )
    fields = {
        "name": name, "repo_id": repo_id, "run": run, "finished": finished, "simulated": simulated,
        "config": json.loads((run.model / "config.json").read_text(encoding="utf-8")), "schedule": _schedule(run),
        "version": __version__, "pictures": [path.name for path in run.folder.path.glob("*.png")], "last": last,
        "scores": scores, "license": license, "frames_license": frames_license, "duration": duration,
    }  # fmt: skip
    return fill_card("model", header, fields)
