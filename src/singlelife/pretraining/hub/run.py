"""What of a run goes to its repository: the model, and what is said of how it came to be."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from singlelife.errors import RunError
from singlelife.files import read_yaml
from singlelife.lives.pairs.segments import recording_time
from singlelife.lives.registry import Life, life_names, registered_life
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.run_folder import MODEL_FILES, RunFolder, read_metrics

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife  # and with it torch, which a push need not wait for

_OF_THIS_MACHINE = ("video", "cache_dir", "output_dir")
_OF_EVERY_RUN = {
    *("life", "model", "pairing", "min_gap", "max_gap", "crop_area_min", "crop_area_max", "seed", "mixed_precision"),
    *("max_steps", "train_batch_size", "learning_rate", "base_learning_rate", "warmup_steps", "weight_decay"),
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
        facts: of the life that it learnt from, see `life_facts`; empty in runs that did not write them.
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
        return self.model == self.folder.path

    def files(self) -> dict[str, Path | bytes]:
        """What goes to the repository beside the card, by its name there."""
        about: dict[str, Any] = {"config.yaml": _yaml(self.settings)}
        if self.facts:
            about["life.json"] = _json(self.facts)
        if self.metrics:
            about["metrics.jsonl"] = "".join(json.dumps(line) + "\n" for line in self.metrics).encode()
        pictures = {path.name: path for path in sorted(self.folder.path.glob("*.png"))}
        return {path.name: path for path in _model_files(self.model)} | about | pictures

    def state_files(self) -> dict[str, Path | bytes]:
        """What it takes to go on with the run elsewhere: a run folder with one checkpoint.

        Raises:
            RunError: there is no checkpoint.
        """
        if self.checkpoint is None:
            raise RunError(f"{self.folder.path} has no checkpoint that a run could go on from.")
        inside = {f"{self.checkpoint.name}/{path.name}": path for path in sorted(self.checkpoint.iterdir())}
        about = {name: data for name, data in self.files().items() if name in ("config.yaml", "metrics.jsonl")}
        return inside | about


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
    checkpoints = folder.checkpoints()
    step, checkpoint = next(reversed(checkpoints.items()), (0, None))
    model = path if {"config.json", "preprocessor_config.json"} <= {file.name for file in _model_files(path)} else None
    if model is not None:
        step = settings["max_steps"]
    elif checkpoint is not None:
        model = checkpoint
    else:
        raise RunError(
            f"The run in {path} has no checkpoint yet: there is nothing to push. It saves --save-steps apart."
        )
    metrics = read_metrics(folder.metrics) if folder.metrics.is_file() else []
    facts = _read_facts(folder.life)
    name = facts.get("name") or life_reference(str(settings["life"])).name
    known = registered_life(name) if name in life_names() or name.startswith("shuffled-") else Life(name, "video")
    return Run(
        folder,
        model,
        checkpoint,
        step,
        public_settings(settings | {"life": settings["life"] if facts.get("hub") else name}),
        [_without_home(line) for line in metrics if line["step"] <= step],
        facts,
        known,
    )


def life_facts(life: "PreparedLife") -> dict[str, Any]:
    """What a run notes of its life, for whoever gets the model: no frame, no place on this machine."""
    seconds = float(recording_time(life.timestamps, life.video_index)[-1])
    kept = ("dataset", "license", "frame_rate", "frame_size", "fingerprint")
    return {
        "name": life.name,
        "frames": len(life),
        "hours": round(seconds / 3600, 4),
        "videos": len(life.metadata["videos"]),
        **{name: life.metadata[name] for name in kept},
        "simulated": life.metadata["simulation"] is not None,
        "hub": life.metadata.get("hub"),
    }


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without places on this machine: of a path, its last part stays."""
    return {name: _without_folder(value) for name, value in settings.items() if name not in _OF_THIS_MACHINE}


def _without_folder(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folder(each) for each in value]
    if not isinstance(value, str) or not re.search(r"[/\\]", value):
        return value
    on_the_hub = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", value, re.ASCII) and not value.startswith(".")
    return value if on_the_hub and not Path(value).exists() else PurePath(value.replace("\\", "/")).name


def _without_home(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics, with the last part of what is an absolute path, such as that of a reference."""
    return {
        name: _without_folder(value) if isinstance(value, str) and value.startswith(("/", "~")) else value
        for name, value in line.items()
    }


def _model_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


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


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _yaml(settings: dict[str, Any]) -> bytes:
    return yaml.safe_dump(settings, sort_keys=False).encode()
