"""The models of an experiment: the config combines lists of settings, and globs select models by name."""

import fnmatch
import itertools
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def all_models(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The models to train, by name, with their settings: flags of `singlelife train`.

    Each entry in `models` gives one model for each combination of its lists; `train` has the settings that all share.
    A name has the life, then the pairing, hours, model and `tag` (which is not a flag) if they are not the usual ones,
    then the seed: `sim_1_0.003h_s2`.

    Raises:
        ValueError: an entry has no life, or two models with the same name differ in their settings.
    """
    models: dict[str, dict[str, Any]] = {}
    for entry in config["models"]:
        settings = {**config.get("train", {}), "seed": 0, **entry}
        if not settings.get("life"):
            raise ValueError(f"The entry {entry} of `models` has no life.")
        choices = [value if isinstance(value, list) else [value] for value in settings.values()]
        for values in itertools.product(*choices):
            model = {key: value for key, value in zip(settings, values, strict=True) if value is not None}
            name = _name(model, config.get("train", {}))
            model.pop("tag", None)
            if models.setdefault(name, model) != model:
                raise ValueError(f"Two models are called {name} but have different settings.")
    return models


def _name(model: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    parts = [Path(str(model["life"])).name]
    if model.get("pairing", "temporal") != "temporal":
        parts.append(model["pairing"])
    if "hours" in model:
        parts.append(f"{model['hours']:g}h")
    if model.get("model") != usual.get("model"):
        parts.append(Path(str(model["model"])).stem)
    if "tag" in model:
        parts.append(model["tag"])
    return "_".join([*parts, f"s{model['seed']}"])


def select(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """The models that globs such as `sim_[1-8]_s0` match, each once, except those that match `!sim_1_s?` and the like.

    A word with a colon or a slash is any other model that commands take, such as `untrained:tiny@1`.

    Raises:
        ValueError: a glob matches no model.
    """
    names, found = list(names), []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        glob = pattern.removeprefix("!")
        matching = [pattern] if ":" in pattern or "/" in pattern else fnmatch.filter(names, glob)
        if not matching:
            raise ValueError(f"No model matches {glob}; there are {', '.join(names)}.")
        if glob == pattern:
            found += matching
        else:
            found = [name for name in found if name not in matching]
    return list(dict.fromkeys(found))


def as_flags(settings: Mapping[str, Any]) -> str:
    """Settings as command-line flags: `{"k": [5, 1], "baselines": False}` becomes `--k 5 1 --no-baselines`."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [] if isinstance(value, bool) else [value]
        words += [f"--{'no-' if value is False else ''}{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
