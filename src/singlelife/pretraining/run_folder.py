"""A run's folder: what it holds, and how it is written so that nothing in it is ever half made.

config.yaml              every setting; another run can start from it with --config
life.json                the life that it learnt from: its name, length, licence
metrics.jsonl            one line per logging step and per validation
checkpoint-<step>/       the model after <step> optimiser steps, and what it takes to go on
best.json                which of the checkpoints has the lowest validation loss
model.safetensors, ...   the finished model, as `AutoModel.from_pretrained(folder)` takes it
reconstruction.png, cross_attention.png, alignment.png
pictures/step-<step>/    the first two as they were on the way
singlelife/              what TensorBoard reads, where the run reports to it
results.jsonl            scores that `singlelife push --results` was given, for the model's card
"""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError

from singlelife.errors import RunError
from singlelife.lives.pairs.segments import recording_time

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife

_ASIDE = ".tmp"  # ends the name of what is still being written
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
RESULTS = "results.jsonl"  # scores that are kept for the model's card
MODEL_FILES = ("model*.safetensors*", "config.json", "preprocessor_config.json", "*_croco.py")


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.life = path / "life.json"
        self.best = path / "best.json"
        self.pictures = path / "pictures"

    def holds_a_run(self) -> bool:
        return self.config.exists() or self.metrics.exists() or bool(self.checkpoints())

    def checkpoints(self) -> dict[int, Path]:
        """Complete checkpoints by their step, ascending."""
        if not self.path.is_dir():
            return {}
        matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in self.path.iterdir() if path.is_dir()]
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    def checkpoint_path(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def pictures_path(self, step: int) -> Path:
        return self.pictures / f"step-{step}"

    def _pictures(self) -> dict[int, Path]:
        """Complete folders of pictures by their step."""
        matches = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in self.pictures.glob("step-*")]
        return {int(match[1]): path for match, path in matches if match}

    def remove_run(self) -> None:
        """Delete the run's files, and no others that the folder may hold."""
        for path in [*self.checkpoints().values(), *self._pictures().values()]:
            _remove(path)
        written = (
            "config.yaml",
            "life.json",
            "metrics.jsonl",
            "best.json",
            "reconstruction.png",
            "cross_attention.png",
        )
        tracked = ("singlelife/**/events.out.tfevents.*", "singlelife/**/hparams.yml")
        for pattern in (*written, "alignment.png", RESULTS, *tracked, *MODEL_FILES):
            for path in self.path.glob(pattern):
                path.unlink()

    def rewind(self, step: int) -> None:
        """Make the folder what it was after `step`: drop later checkpoints and metrics, and what was half written."""
        for leftover in (*self.path.glob(f"*{_ASIDE}"), *self.pictures.glob(f"*{_ASIDE}")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for later, path in (*self.checkpoints().items(), *self._pictures().items()):
            if later > step:
                _remove(path)
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        if self.best.exists():
            self.note_best()

    def note_best(self) -> int | None:
        """Find the checkpoint with the lowest validation loss, and name it in `best.json`.

        Only a loss measured at a checkpoint's own step counts for it. A better one that was dropped is forgotten.

        Returns:
            Its step, or None where no checkpoint has a validation loss.
        """
        checkpoints = self.checkpoints()
        losses = {
            line["step"]: line["val_loss"]
            for line in (read_metrics(self.metrics) if self.metrics.exists() else [])
            if line["step"] in checkpoints and math.isfinite(line.get("val_loss", math.nan))
        }
        if not losses:
            self.best.unlink(missing_ok=True)
            return None
        step = min(losses, key=lambda step: (losses[step], step))
        best = {"checkpoint": checkpoints[step].name, "step": step, "val_loss": losses[step]}
        write_text(self.best, json.dumps(best) + "\n")
        return step

    def keep_latest(self, limit: int | None, besides: int | None = None) -> None:
        """Delete all but the latest `limit` checkpoints, and that of the step `besides`."""
        if limit is not None:
            for step, path in list(self.checkpoints().items())[:-limit]:
                if step != besides:
                    _remove(path)

    def write_config(self, settings: dict[str, Any], versions: dict[str, str], notes: Sequence[str] = ()) -> None:
        """Write `config.yaml`; `notes` are lines of comment."""
        about = ", ".join(f"{name} {version}" for name, version in versions.items())
        head = [f"Written by a run with {about}.", f"Start another with: --config {self.config.name}", *notes]
        comment = "".join(f"# {line}\n" for line in head)
        write_text(self.config, comment + yaml.safe_dump(settings, sort_keys=False))

    def write_life(self, facts: dict[str, Any]) -> None:
        write_text(self.life, json.dumps(facts, indent=2) + "\n")

    def log(self, values: dict[str, Any]) -> None:
        """Append one line to the metrics.

        Raises:
            RunError: the disk is full, or the file cannot be written.
        """
        with _writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one that was cut short by a kill is not among them.

    Raises:
        RunError: a line other than the last is not JSON.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    values = []
    for number, line in enumerate(lines[:-1], start=1):  # after the last line feed: nothing, or a line cut short
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise RunError(f"Line {number} of {path} is not JSON ({error}); repair or remove the file.") from error
    return values


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


@contextlib.contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `folder` once all of it is on disk, or never.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    aside = folder.with_name(folder.name + _ASIDE)
    with _writing(folder, aside):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in [*aside.rglob("*"), aside]:
            _sync(path)
        if folder.exists():
            _remove(folder)
        aside.rename(folder)
        _sync(folder.parent)


def publish(aside: Path, folder: Path) -> None:
    """Move the files of `aside`, all complete, into `folder`, each in one step."""
    for path in aside.iterdir():
        path.replace(folder / path.name)
    aside.rmdir()


def write_text(path: Path, text: str) -> None:
    """Replace a file's text in one step.

    Raises:
        RunError: the disk is full, or the file cannot be written.
    """
    aside = path.with_name(path.name + _ASIDE)
    with _writing(path, aside):
        aside.write_text(text, encoding="utf-8")
        _sync(aside)
        aside.replace(path)


@contextlib.contextmanager
def _writing(path: Path, aside: Path | None = None) -> Iterator[None]:
    """Say what could not be written, and leave no half of it behind in `aside`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if aside is not None and aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside is not None:
            aside.unlink(missing_ok=True)
        raise RunError(
            f"Cannot write {path}: {error}. What was saved before is intact; make room, and go on with the same "
            "command and --resume."
        ) from error


def _remove(folder: Path) -> None:
    """Delete a folder whose name is never that of a half deleted one."""
    shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.old{_ASIDE}")))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
