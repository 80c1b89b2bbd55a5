"""The subcommands of `singlelife`, one file each, and here the helpers that several share. A command imports what it
needs when it runs, so that `--help` and errors about mistyped names are quick."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from singlelife.alignment.settings import UNTRAINED, untrained_model
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.files import atomic_write, config_names, shipped_pair_set
from singlelife.lives.resolve import check_names
from singlelife.results import append_results
from singlelife.text import did_you_mean

EXTRAS = {  # optional packages: the extra that installs each, and what it is for
    "vizdoom": ("sim", "simulated lives"),
    "matplotlib": ("plots", "pictures of runs, pairs and scores"),
    "pycolmap": ("poses", "reconstructing camera poses"),
    "h5py": ("evaluation", "NYU Depth V2"),
    "gradio": ("spaces", "the page that compares models"),
}
_RUNS = Path("runs")  # the default folder of runs; runs/NAME never means a Hub repository


def runs_here() -> list[str]:
    """The run folders in `runs/` of the working directory."""
    found = sorted(path for path in _RUNS.glob("*/") if (path / "config.json").is_file() or any(path.glob("checkp*/")))
    return list(map(str, found))


def check_models(models: Iterable[str]) -> None:
    """Refuse a name that cannot be a model, before torch is imported or the Hub is asked.

    Raises:
        CheckpointError: it is not a folder here, a preset after `untrained:`, or ORG/NAME; the message suggests names.
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


def check_pairs(pairs: str, cache_dir: Path | None) -> None:
    """As `check_names` for one name, which may also be a pair set that comes with the package."""
    if shipped_pair_set(pairs) is None:
        check_names([pairs], cache_dir)


def _nearest(name: str, path: Path, known: list[str]) -> str:
    last = {model.replace(":", "/").rpartition("/")[2]: model for model in known}  # sim_1 means runs/sim_1
    if path.name in last:
        return f" Did you mean {last[path.name]}?"
    beside = sorted(map(str, path.parent.glob("[!.]*/"))) if "/" in name else []
    return did_you_mean(name, dict.fromkeys([*known, *beside]))


def no_folder(name: str) -> str:
    """The error for a folder that does not exist, with the nearest names."""
    return f"There is no {name}.{_nearest(name, Path(name), runs_here())}"


def check_folders(**flags: Path | str | None) -> None:
    """Raise a SingleLifeError if a flag names a file in a folder that does not exist; `-` is the screen."""
    for flag, path in flags.items():
        if path is not None and path != "-" and not Path(path).absolute().parent.is_dir():
            raise SingleLifeError(f"--{flag} {path}: there is no such folder to write into.")


def start(device: str) -> None:
    """Print the device that models will run on, and silence transformers: commands have progress bars of their own."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from singlelife.machine import choose_device

    disable_progress_bar()
    set_verbosity_error()
    print(f"device: {choose_device(device)}", file=sys.stderr)


def report(result: Any, models: Sequence[str], as_json: str | None, results: Path | None, *drawn: Path | None) -> None:
    """Print a result or write it, as `--json` and `--results` say. On stderr, name the files written, including those
    already `drawn`, and the command that publishes a run among these models with its new results."""
    fields = json.dumps(result.to_dict(), indent=2, allow_nan=False) if as_json else ""
    print(fields if as_json == "-" else result)
    written = [Path(as_json)] if as_json and as_json != "-" else []
    for file in written:
        with atomic_write(file) as aside:
            aside.write_text(f"{fields}\n", encoding="utf-8")
    if results:
        append_results(results, result.rows())
    for path in [*written, *([results] if results else []), *(path for path in drawn if path)]:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            print(f"wrote {file}", file=sys.stderr)
    if results and (runs := [model for model in models if Path(model).is_dir()]):
        print(f"next: singlelife push {runs[0]} --results {results}", file=sys.stderr)
