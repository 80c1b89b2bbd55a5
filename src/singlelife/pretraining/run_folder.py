"""A run's folder: its files, and how to write them so that none is ever half-written.

config.yaml              every setting; another run can start from it with --config
life.json                the life that the model learnt from: its name, length, licence
metrics.jsonl            one line per logging step and per validation
checkpoint-<step>/       the model after <step> optimiser steps, and what a resumed run needs
model.safetensors, ...   the finished model, for `AutoModel.from_pretrained(folder)`
reconstruction.png, cross_attention.png
pictures/step-<step>/    the same pictures during training
progress.gif             all these pictures as an animation
singlelife/              logs for TensorBoard, with --report-to tensorboard
results.jsonl            scores for the model's card, if `singlelife cas --results` wrote some here
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from singlelife.errors import RunError
from singlelife.files import atomic_dir, atomic_write, remove_dir, sync
from singlelife.lives.pairs.segments import recording_time
from singlelife.pretraining.arguments import RunConfig, config_path

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife

RESULTS = "results.jsonl"  # scores for the model's card
MODEL_FILES = ("model*.safetensors*", "config.json", "preprocessor_config.json", "*_croco.py")


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.life = path / "life.json"
        self.pictures = path / "pictures"
        self.progress = path / "progress.gif"

    def checkpoints(self) -> dict[int, Path]:
        """Complete checkpoints by step, ascending."""
        return _by_step(self.path, "checkpoint")

    def picture_folders(self) -> dict[int, Path]:
        """The folders of pictures by step, ascending."""
        return _by_step(self.pictures, "step")

    def latest_checkpoint(self) -> Path | None:
        """The complete checkpoint of the last step, or None."""
        return next(reversed(self.checkpoints().values()), None)

    def checkpoint_path(self, step: int) -> Path:
        """The path of a step's checkpoint, whether it exists or not."""
        return self.path / f"checkpoint-{step}"

    def rewind(self, step: int) -> None:
        """Restore the folder as it was after `step`: delete later checkpoints, pictures and metrics, and half-written
        files."""
        for leftover in (*self.path.glob("*.tmp"), *self.pictures.glob("*.tmp")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for later, path in (*self.checkpoints().items(), *self.picture_folders().items()):
            if later > step:
                remove_dir(path)
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def keep_latest(self, limit: int | None) -> None:
        """Delete all but the latest `limit` checkpoints (0 or None: keep all)."""
        for path in list(self.checkpoints().values())[: -limit if limit else 0]:
            remove_dir(path)

    def log(self, values: dict[str, Any]) -> None:
        """Append one line to the metrics.

        Raises:
            RunError: the disk is full, or the file cannot be written.
        """
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def check_start(config: RunConfig) -> None:
    """Check the names and folders of a run without PyTorch, which takes seconds to import. Raises a RunError if the
    folder holds another run, the model or checkpoint does not exist, or the model cannot be pushed."""
    folder, start = RunFolder(config.output_dir), config.start
    given = Path(start.resume_from) if start.resume_from else None
    if given and not given.is_dir():
        raise RunError(f"There is no checkpoint folder {given} to continue from.")
    is_of_this_run = given is not None and given.resolve().parent == folder.path.resolve()
    holds_a_run = folder.config.exists() or folder.metrics.exists() or folder.checkpoints()
    if holds_a_run and not start.resume and not is_of_this_run:
        raise RunError(
            f"{folder.path} already holds a run. Continue it (--resume), delete the folder, or write elsewhere "
            "(--output-dir)."
        )
    if config.hub.push_to_hub and config.model.model_type != "croco":
        raise RunError(f"--push-to-hub is for CroCo models: there is no card for a {config.model.model_type}.")
    if not Path(config.model.model).is_dir():
        config_path("models", config.model.model)


def _by_step(folder: Path, name: str) -> dict[int, Path]:
    """The folders `<name>-<step>`, by step, ascending."""
    matches = [(re.fullmatch(rf"{name}-(\d+)", path.name), path) for path in folder.glob(f"{name}-*")]
    return dict(sorted((int(match[1]), path) for match, path in matches if match and path.is_dir()))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, except a last one that a kill cut short; none if there is no file yet.

    Raises:
        RunError: a line other than the last is not JSON.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    values = []
    for number, line in enumerate(lines[:-1], start=1):  # the last is empty or cut short
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise RunError(f"Line {number} of {path} is not JSON ({error}); repair or remove the file.") from error
    return values


def life_facts(life: "PreparedLife") -> dict[str, Any]:
    """The content of `life.json`, which goes with the model. It names no folder of this machine."""
    seconds = float(recording_time(life.timestamps, life.video_index)[-1])
    kept = ("dataset", "license", "frame_rate", "frame_size", "fingerprint")
    return {
        "name": life.name,
        "frames": len(life),
        "hours": round(seconds / 3600, 4),
        "videos": len(life.metadata["videos"]),
        **{name: life.metadata[name] for name in kept},
        **{name: life.metadata.get(name) for name in ("order", "blank_seconds", "frozen_seconds")},
        "simulated": life.metadata["simulation"] is not None,
        "hub": life.metadata.get("hub"),
    }


@contextlib.contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """`atomic_dir` for a folder of a run; raises the same errors as `writing`."""
    with writing(folder), atomic_dir(folder) as aside:
        yield aside


def write_text(path: Path, text: str) -> None:
    """Replace a file's text in one step; raises the same errors as `writing`."""
    with writing(path), atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")
        sync(aside)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of writing into one that says how to continue.

    Raises:
        RunError: the disk is full, or the file cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"Cannot write {path}: {error}. Files saved before are intact. Make room, and continue with the same "
            "command and --resume."
        ) from error
