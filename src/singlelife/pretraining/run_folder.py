"""A run's folder: what it holds, and how it is written so that nothing in it is ever half made.

config.yaml              every setting; another run can start from it with --config
life.json                the life that it learnt from: its name, length, licence
metrics.jsonl            one line per logging step and per validation
checkpoint-<step>/       the model after <step> optimiser steps, and what it takes to go on
model.safetensors, ...   the finished model, as `AutoModel.from_pretrained(folder)` takes it
reconstruction.png, cross_attention.png
results/                 scores that `singlelife push --results` was given
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from singlelife.errors import RunError

_ASIDE = ".tmp"  # ends the name of what is still being written
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
RESULTS = "results"  # the folder of scores that are kept for the model's card
MODEL_FILES = ("model*.safetensors*", "config.json", "preprocessor_config.json", "*_croco.py")


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.life = path / "life.json"

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

    def remove_run(self) -> None:
        """Delete the run's files, and no others that the folder may hold."""
        for path in self.checkpoints().values():
            shutil.rmtree(path)
        described = ("config.yaml", "life.json", "metrics.jsonl", "reconstruction.png", "cross_attention.png")
        for pattern in (*described, *MODEL_FILES, f"{RESULTS}/*.json"):
            for path in self.path.glob(pattern):
                path.unlink()

    def rewind(self, step: int) -> None:
        """Make the folder what it was after `step`: drop later checkpoints and metrics, and what was half written."""
        for leftover in self.path.glob(f"*{_ASIDE}"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for later, path in self.checkpoints().items():
            if later > step:
                shutil.rmtree(path)
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def keep_latest(self, limit: int | None) -> None:
        """Delete all but the latest `limit` checkpoints."""
        if limit is not None:
            for path in list(self.checkpoints().values())[:-limit]:
                shutil.rmtree(path)

    def write_config(self, settings: dict[str, Any], versions: dict[str, str]) -> None:
        about = ", ".join(f"{name} {version}" for name, version in versions.items())
        body = yaml.safe_dump(settings, sort_keys=False)
        write_text(
            self.config, f"# Written by a run with {about}.\n# Start another with: --config {self.config.name}\n{body}"
        )

    def write_life(self, facts: dict[str, Any]) -> None:
        write_text(self.life, json.dumps(facts, indent=2) + "\n")

    def log(self, values: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
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


@contextlib.contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `folder` once all of it is on disk, or never.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    aside = folder.with_name(folder.name + _ASIDE)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in [*aside.rglob("*"), aside]:
            _sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(f"Cannot write {folder}: {error}. What was saved before is intact.") from error


def publish(aside: Path, folder: Path) -> None:
    """Move the files of `aside`, all complete, into `folder`, each in one step."""
    for path in aside.iterdir():
        path.replace(folder / path.name)
    aside.rmdir()


def write_text(path: Path, text: str) -> None:
    """Replace a file's text in one step."""
    aside = path.with_name(path.name + _ASIDE)
    aside.write_text(text, encoding="utf-8")
    _sync(aside)
    aside.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
