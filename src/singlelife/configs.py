"""Where the configs-as-data of `hub_configs/` are, in a checkout and in an installed wheel alike."""

from pathlib import Path
from typing import Any

import yaml

from singlelife.errors import SingleLifeError

_PACKAGE = Path(__file__).resolve().parent


def hub_configs() -> Path:
    """Folder of the shipped configs: inside the installed package, or at the top of a checkout."""
    for folder in (_PACKAGE / "hub_configs", _PACKAGE.parents[1] / "hub_configs"):
        if folder.is_dir():
            return folder
    raise SingleLifeError(f"hub_configs is missing beside {_PACKAGE}: the installation is incomplete; reinstall it.")


def config_names(kind: str) -> list[str]:
    """Names of the shipped configs of one kind (`lives`, `models`, `train`), sorted."""
    return sorted(path.stem for path in (hub_configs() / kind).glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SingleLifeError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SingleLifeError(f"Cannot read the config {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise SingleLifeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SingleLifeError(f"{path} should hold a mapping of names to values, not {type(content).__name__}.")
    return content
