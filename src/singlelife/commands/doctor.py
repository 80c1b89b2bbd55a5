"""`singlelife doctor`: versions, device, cache, models on this machine, and missing packages."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from singlelife.commands import EXTRAS, runs_here
from singlelife.files import config_names, free_bytes
from singlelife.lives.registry import default_cache_dir
from singlelife.machine import choose_device, free_memory
from singlelife.text import in_bytes

_PACKAGES = ("singlelife", "torch", "torchvision", "transformers", "accelerate", "datasets", "huggingface-hub", "av")


@dataclass(frozen=True)
class Doctor:
    """Show versions, the device and its free memory, the size of the cache, the models that you can use here, and the
    packages that are missing, with the feature that needs each. Add the output to a bug report.
    """

    def run(self) -> int:
        from huggingface_hub import constants, get_token

        from singlelife.hub.spaces import space_folder

        token = "a token is set" if get_token() else "no token, which pushing needs (`hf auth login` or HF_TOKEN)"
        facts = {
            "system": f"{platform.platform()}, Python {platform.python_version()}",
            "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
            "device": _device(),
            "cache": _cache(default_cache_dir()),
            "Hub": token + ", and HF_HUB_OFFLINE is set" * constants.HF_HUB_OFFLINE,
            "runs here": " ".join(runs_here()) or "none; `singlelife train --life sim_1` makes one",
            "new models": " ".join(f"untrained:{preset}" for preset in config_names("models")),
            "shipped models": " ".join(map(str, sorted((space_folder() / "models").glob("*/")))),
        }
        missing = [(package, *about) for package, about in EXTRAS.items() if find_spec(package) is None]
        print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
        for package, extra, feature in missing:
            print(f"missing: {package}, for {feature}: pip install 'singlelife[{extra}]'")
        return 0


def _device() -> str:
    """The device that `--device auto` chooses, and its free memory."""
    import torch  # seconds

    device = choose_device()
    memory = ", ".join(f"{in_bytes(free)} free{where}" for where, free in free_memory(device).items())
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()}), {memory}"
    large = torch.version.cuda and device == "cpu"
    advice = ". PyTorch is built for GPUs here, and there is none: docs/index.md says how to save gigabytes"
    return f"{device} ({torch.get_num_threads()} threads), {memory}{advice if large else ''}"


def _cache(folder: Path) -> str:
    """The size of each part of the cache, and the room left."""
    sizes = {
        part.name: sum(file.stat().st_size for file in part.rglob("*") if file.is_file() and not file.is_symlink())
        for part in sorted(folder.glob("*/"))
    }
    held = ", ".join(f"{name} {in_bytes(size)}" for name, size in sizes.items() if size) or "nothing"
    return f"{folder} holds {held}; {in_bytes(free_bytes(folder))} are free"


COMMAND = Doctor
