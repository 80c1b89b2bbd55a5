"""The models of a training run, or of several: after so many steps, or from so many hours of a life."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from singlelife.errors import RunError
from singlelife.files import read_yaml

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def models_of_runs(runs: Sequence[str | Path]) -> tuple[str, dict[str, float]]:
    """What there is to follow: the checkpoints of one run by their step, or the finished models of several runs by the
    hours of life that each learnt from.

    Returns:
        `"step"` or `"hours"`, and where each model stands, ascending, by its folder.

    Raises:
        RunError: a folder is no run, has no model, or the runs do not differ in `--hours`.
    """
    folders = [Path(run) for run in runs]
    if len(folders) == 1:
        return "step", {str(path): float(step) for step, path in sorted(_checkpoints(folders[0]).items())}
    hours = {folder: _hours(folder) for folder in folders}
    if len(set(hours.values())) < len(folders):
        said = ", ".join(f"{folder}: {each:g}" for folder, each in hours.items())
        raise RunError(
            f"These runs do not all differ in how many hours of life they learnt from ({said}). Several runs are "
            "compared by that (train with --hours); for the steps of one, give that one."
        )
    finished = {folder: sorted(_checkpoints(folder).items())[-1][1] for folder in folders}
    return "hours", {str(finished[folder]): hours[folder] for folder in sorted(folders, key=hours.__getitem__)}


def _checkpoints(run: Path) -> dict[int, Path]:
    """By step; the finished model, in the run's folder, is the last of them."""
    settings = _settings(run)
    found = {int(match[1]): path for path in run.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}
    if (run / "model.safetensors").is_file() or (run / "model.safetensors.index.json").is_file():
        found[int(settings["max_steps"])] = run
    if not found:
        raise RunError(f"{run} holds no checkpoint yet; its training saves one every --save-steps.")
    return found


def _hours(run: Path) -> float:
    """How many hours of its life a run learnt from; of all of it, as life.json has them."""
    hours = _settings(run).get("hours")
    if hours is None:
        try:
            hours = json.loads((run / "life.json").read_text(encoding="utf-8"))["hours"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{run} learnt from all of its life, and has no life.json that says how long that is. "
                "Leave it out, or train it with --hours."
            ) from error
    return float(hours)


def _settings(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise RunError(f"{run} is not the folder of a run: it has no config.yaml.")
    settings = read_yaml(path)
    if not isinstance(settings.get("max_steps"), int):
        raise RunError(f"{path} is not of a training run: it has no max_steps.")
    return settings
