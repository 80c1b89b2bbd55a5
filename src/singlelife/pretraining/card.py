"""What others may know of a run: its settings, its life and its scores, and the model card that says so."""

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from safetensors import safe_open

from singlelife._version import __version__
from singlelife.errors import RunError
from singlelife.files import read_yaml
from singlelife.hub.cards import TAG, fill_card, license_fields, stated, table
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
_PICTURES = {
    "reconstruction.png": "The target view, masked, as it was, and as the model completes it from the source view",
    "cross_attention.png": "Where patches of the target view look in the source view",
    "alignment.png": "How far it came to agree with another model as it learnt",
}
_TITLES = {"raw": "CAS", "position_free": "Position-free CAS"}
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
        [_without_folders_in(line) for line in metrics if line["step"] <= step],
        facts,
        known,
    )


def model_files(folder: Path) -> list[Path]:
    """The files of the model in a folder: weights, configs and code."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without places on this machine: only the last part of a path stays."""
    return {name: _without_folder(value) for name, value in settings.items() if name not in _OF_THIS_MACHINE}


def _without_folder(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folder(each) for each in value]
    if not isinstance(value, str) or not re.search(r"[/\\]", value):
        return value
    on_the_hub = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", value, re.ASCII) and not value.startswith(".")
    return value if on_the_hub and not Path(value).exists() else PurePath(value.replace("\\", "/")).name


def _without_folders_in(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics, with only the last part of an absolute path, such as that of a reference."""
    return {
        name: _without_folder(value) if isinstance(value, str) and value.startswith(("/", "~")) else value
        for name, value in line.items()
    }


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
        task, protocol, data, data_hash, metric: as in `ResultRow`, the data without folders of this machine.
        other: the other model, of scores between two; empty otherwise.
        value: the mean over the seeds.
        std: over the seeds; None where there is one.
        low, high: the mean bounds of the 95% intervals; None where there are none.
        settings: of the measurement.
    """

    task: str
    protocol: str
    data: str
    data_hash: str
    metric: str
    other: str
    value: float
    std: float | None
    low: float | None
    high: float | None
    settings: dict[str, Any]

    @property
    def title(self) -> str:
        """For people, such as "CAS with sim_1, top 5 of 64"."""
        k, patches = self.settings.get("k"), self.settings.get("num_patches")
        text = _TITLES.get(self.metric, self.metric)
        text = f"{text} with {self.other}" if self.other else text
        return f"{text}, top {k} of {patches}" if k and patches else text

    @property
    def text(self) -> str:
        """The value with its spread and interval."""
        spread = "" if self.std is None else f" ± {self.std:.3f}"
        return f"{self.value:.3f}{spread}" + (
            "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        )

    @property
    def chance_text(self) -> str:
        """What chance gives, where that is known."""
        chance = self.settings.get("chance")
        return f"{chance:.3f}" if isinstance(chance, float) else ""

    def eval_result(self) -> EvalResult:
        """As the header of a model card has it."""
        task_type, task_name = _TASKS.get(self.task, ("image-feature-extraction", self.task))
        args = {name: getattr(self, name) for name in ("std", "low", "high")} | {"chance": self.settings.get("chance")}
        return EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=self.data.split(" ")[0],
            dataset_name=self.data,
            dataset_revision=self.data_hash,
            metric_type=self.metric,
            metric_name=f"{self.title} ({self.protocol})",
            metric_value=round(self.value, 4),
            metric_args={name: round(value, 4) for name, value in args.items() if isinstance(value, float)},
        )


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
    """The rows of one run, those that differ in the seed alone made one."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if math.isfinite(row["value"]):
            names = ("task", "protocol", "data", "data_hash", "metric", "reference")
            settings = json.dumps(row["settings"], sort_keys=True, default=str)
            groups.setdefault((*(str(row[name]) for name in names), settings), []).append(row)
    measures = []
    for (task, protocol, data, data_hash, metric, reference, _), group in groups.items():
        values = [float(row["value"]) for row in group]
        bounds = [[row[name] for row in group if isinstance(row[name], float) and math.isfinite(row[name])]
                  for name in ("low", "high")]  # fmt: skip
        low, high = (statistics.fmean(each) if len(each) == len(group) else None for each in bounds)
        std = statistics.stdev(values) if len(values) > 1 else None
        other = name_of(reference) if reference else ""
        mean, settings = statistics.fmean(values), group[0]["settings"] or {}
        data = _without_folders(data)
        measures.append(Measure(task, protocol, data, data_hash, metric, other, mean, std, low, high, settings))
    return measures


def name_of(model: str) -> str:
    """A model as others may know it: the last part of a folder. Runs are in `runs` unless one says otherwise."""
    on_the_hub = is_repo_id(model) and not model.startswith(("runs/", ".")) and not Path(model).exists()
    return model if on_the_hub else PurePath(model).name


def _without_folders(words: str) -> str:
    """The name of data as others may know it: the last parts of the paths in it."""
    return " ".join(
        PurePath(word).name if word.startswith(("/", ".", "~")) or ("/" in word and Path(word).exists()) else word
        for word in words.split(" ")
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
    simulated = life.kind == "simulated"
    results = [measure.eval_result() for measure in measures]
    if "val_loss" in last:
        results.append(_loss_result(life.name, last["val_loss"]))
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[TAG, "croco", "egocentric", "self-supervised", *(["simulated"] if simulated else [])],
        datasets=[facts["hub"]["repo_id"]] if facts.get("hub") else None,
        model_name=repo_id.split("/")[1],
        eval_results=results or None,
        **license_fields(license if license is not None else frames_license),
        singlelife={
            "life": life.name,
            "hours": facts.get("hours", life.hours),
            "steps": run.step,
            "finished": run.finished,
        },
    )
    by_name = f"--life {settings['life']}" if life.kind != "video" or facts.get("hub") else (
        f"--life {life.name} --video PATH")  # fmt: skip
    pictures = [(name, title) for name, title in _PICTURES.items() if (run.folder.path / name).is_file()]
    hours = _hours(run)
    fields = {
        "name": repo_id.split("/")[1],
        "life": f"`{life.name}`, {life.description or 'a recording'}".rstrip("."),
        "hours": hours,
        "unfinished": "" if run.finished else f"{run.step:,} of {settings['max_steps']:,} steps",
        "pictures": pictures,
        "repo_id": repo_id,
        "data": table(_data(run, hours, frames_license)),
        "recipe": table(_recipe(run)),
        "again": f"accelerate launch train.py {by_name} --config config.yaml",
        "losses": _losses(run),
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


def _losses(run: Run) -> str:
    """The losses, and the agreement with a reference, that the run measured as it went."""
    last = run.last()
    losses = [f"{name} {last[key]:.4f}" for name, key in (("training", "loss"), ("validation", "val_loss")) if key in last]
    text = f"Loss (mean squared error of normalised pixels in masked patches): {', '.join(losses)}." if losses else ""
    if "cas_reference" in last:
        text += (
            f"\n\nAt the end of training, its CAS with {name_of(str(last['cas_reference']))} was {last['cas']:.3f}, "
            f"position-free {last['cas_position_free']:.3f} (chance {last['cas_chance']:.3f})."
        )
    return text.strip()


def _hours(run: Run) -> str:
    """How long the life is, or the part of it that the model learnt from, in words."""
    whole = duration(3600 * run.facts["hours"]) if "hours" in run.facts else f"about {run.life.hours:g} h"
    part = run.settings.get("hours")
    return f"the first {part:g} h of {whole}" if part else whole


def _data(run: Run, hours: str, license: str) -> dict[str, str]:
    life, facts = run.life, run.facts
    frames = f"{facts['frames']:,} at {facts['frame_rate']:g} Hz, shorter side {facts['frame_size']} px" if facts else ""
    return {
        "life": f"`{life.name}`: {life.description or 'a recording'}",
        "data set": (facts.get("dataset") or life.dataset) + (f", {life.url}" if life.url else ""),
        "on the Hub": f"`{facts['hub']['repo_id']}` at {facts['hub']['revision']}" if facts.get("hub") else "",
        "length": hours,
        "frames": frames,
        "fingerprint": f"`{facts['fingerprint']}`" if facts else "",
        "access": life.access,
        "licence of the frames": license or "not stated",
        "consent": life.consent,
    }


def _recipe(run: Run) -> dict[str, str]:
    settings, get = run.settings, run.settings.get
    config = SimpleNamespace(**json.loads((run.model / "config.json").read_text(encoding="utf-8")))
    gaps = f", {get('min_gap'):g} to {get('max_gap'):g} s apart" if get("pairing") in ("temporal", "union") else ""
    rate = settings["learning_rate"]
    if rate is None:
        rate = settings["base_learning_rate"] * settings["train_batch_size"] / BATCH_OF_BASE_RATE
    return {
        "model": f"{get('model')}, {_parameters(run.model) / 1e6:.2f} M parameters; encoder "
        f"{config.hidden_size} × {config.num_hidden_layers}, decoder {config.decoder_hidden_size} × "
        f"{config.decoder_num_hidden_layers}, {config.position_embedding_type} positions",
        "views": f"{config.image_size} px, patches of {config.patch_size} px, {config.mask_ratio:.0%} of the target "
        "masked",
        "pairs": f"{get('pairing')}{gaps}; crops of {get('crop_area_min'):.0%} to {get('crop_area_max'):.0%}",
        "steps": f"{run.step:,} of {settings['max_steps']:,}, {get('train_batch_size')} pairs each",
        "optimiser": f"AdamW, learning rate {rate:g} after {get('warmup_steps'):,} steps of warm-up, cosine, weight decay "
        f"{get('weight_decay'):g}",
        "precision": {"no": "fp32"}.get(str(get("mixed_precision")), str(get("mixed_precision"))),
        "seed": str(get("seed")),
        "made by": f"singlelife {__version__}",
    }


def _parameters(folder: Path) -> int:
    """Of the weights in a folder, from the headers of their files."""
    count = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count
