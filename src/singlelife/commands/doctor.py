"""`singlelife doctor`: what this machine has for the package, and what is missing for which feature."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from singlelife._version import __version__
from singlelife.commands import EXTRAS, runs_here
from singlelife.errors import SingleLifeError
from singlelife.files import config_names, free_bytes
from singlelife.lives.registry import default_cache_dir
from singlelife.machine import choose_device, free_memory
from singlelife.text import in_bytes

_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "huggingface-hub", "av")
_CPU_BUILD = "This is a build for GPUs on a machine without one; docs/index.md says how to install a smaller one."


@dataclass(frozen=True)
class Doctor:
    """Show versions, the device and its free memory, the size of the cache, the models that commands take here, and
    what is missing for which feature. Put it into a report of a fault.
    """

    def run(self) -> int:
        print(
            f"singlelife {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        )
        print("packages: " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
        print(f"device: {_device()}")
        print(f"cache: {_cache()}")
        print(f"Hub: {_hub()}")
        runs, shipped = runs_here(), _shipped()
        print(f"models, runs here: {' '.join(runs) or 'none (singlelife train --life sim_1 makes one)'}")
        print(f"models, new: {' '.join(f'untrained:{preset}' for preset in config_names('models'))}")
        print(f"models, shipped with the page: {' '.join(shipped) or 'none'}")
        missing = [(package, *about) for package, about in EXTRAS.items() if find_spec(package) is None]
        for package, extra, feature in missing:
            print(f"missing: {package}, for {feature}: pip install 'singlelife[{extra}]'")
        if not missing:
            print("missing: nothing")
        return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "MISSING"


def _device() -> str:
    """What `--device auto` takes, and its free memory."""
    import torch  # seconds

    device = choose_device()
    memory = ", ".join(f"{in_bytes(free)} free{where}" for where, free in free_memory(device).items())
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()}), {memory}"
    advice = f" {_CPU_BUILD}" if device == "cpu" and torch.version.cuda else ""
    return f"{device} ({torch.get_num_threads()} threads), {memory}.{advice}"


def _cache() -> str:
    """Where prepared lives, features and the like are kept, and how much."""
    cache = default_cache_dir()
    parts = {folder.name: _size(folder) for folder in sorted(cache.glob("*/"))}
    held = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items() if size) or "nothing"
    return f"{cache} holds {held}; {in_bytes(free_bytes(cache))} are free"


def _hub() -> str:
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token (`hf auth login` or HF_TOKEN), which pushing needs"
    return token + ", and HF_HUB_OFFLINE forbids to ask it" * constants.HF_HUB_OFFLINE


def _shipped() -> list[str]:
    from singlelife.hub.spaces import space_folder

    try:
        return sorted(str(path) for path in (space_folder() / "models").glob("*/"))
    except SingleLifeError:
        return []


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


COMMAND = Doctor
