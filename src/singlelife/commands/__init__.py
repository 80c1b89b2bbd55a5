"""The subcommands of `singlelife`, a file each. A command imports what it needs when it runs, so that `--help` and a
mistyped name are quick. Here is what several of them share."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from singlelife.alignment.settings import UNTRAINED, untrained_model
from singlelife.errors import CheckpointError
from singlelife.files import config_names
from singlelife.text import did_you_mean

EXTRAS = {  # packages that not everybody needs: which extra brings each, and what it is for
    "vizdoom": ("sim", "simulated lives"),
    "matplotlib": ("plots", "pictures of runs, pairs and scores"),
    "pycolmap": ("poses", "reconstructing camera poses"),
    "h5py": ("evaluation", "NYU Depth V2"),
    "gradio": ("spaces", "the page that compares models"),
}
_RUNS = Path("runs")  # where runs go by default; no name there is taken for one on the Hub


def runs_here() -> list[str]:
    """The run folders in `runs/` of the working directory."""
    found = sorted(path for path in _RUNS.glob("*/") if (path / "config.json").is_file() or any(path.glob("checkp*/")))
    return list(map(str, found))


def check_models(models: Iterable[str]) -> None:
    """Refuse a name that can be no model, before torch is imported or the Hub is asked.

    Raises:
        CheckpointError: it is no folder here, no preset after `untrained:`, and no ORG/NAME; the nearest names follow.
    """
    for model in models:
        fresh = untrained_model(model)
        name = fresh[0] if fresh else model
        path, presets = Path(name).expanduser(), config_names("models")
        namespace, slash, rest = name.partition("@")[0].partition("/")
        on_the_hub = slash and rest and "/" not in rest and namespace.strip(".~") and namespace != str(_RUNS)
        if path.exists() or on_the_hub or (fresh and name in presets):
            continue
        known = presets if fresh else [*runs_here(), *(f"{UNTRAINED}{preset}" for preset in presets)]
        raise CheckpointError(f"There is no model {model}: no such folder.{_nearest(name, path, known)}")


def _nearest(name: str, path: Path, known: list[str]) -> str:
    last = {model.replace(":", "/").rpartition("/")[2]: model for model in known}  # sim_1 means runs/sim_1
    if path.name in last:
        return f" Did you mean {last[path.name]}?"
    beside = sorted(map(str, path.parent.glob("[!.]*/"))) if "/" in name else []
    return did_you_mean(name, dict.fromkeys([*known, *beside]))


def no_folder(name: str) -> str:
    """Why what a user named as a folder cannot be used; the nearest names follow."""
    return f"There is no {name}.{_nearest(name, Path(name), runs_here())}"


def report_written(*paths: Path | str | None, following: str = "") -> None:
    """Say on stderr which files were written, a line each (those of a folder that is one of them), and what may come
    next. None is no file, and `-` is the screen."""
    written = [Path(path) for path in paths if path and path != "-"]
    for path in written:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            print(f"wrote {file}", file=sys.stderr)
    if written and following:
        print(f"next: {following}", file=sys.stderr)


def push_with(results: Path | None, models: Sequence[str]) -> str:
    """The command that publishes a run of these with its new results; empty where there is none."""
    runs = [model for model in models if results and Path(model).is_dir()]
    return f"singlelife push {runs[0]} --results {results}" if runs else ""
