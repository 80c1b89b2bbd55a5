"""What tests of CroCo share: golden numbers of the reference, and a process in which the package is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open

GOLDEN = Path(__file__).parents[1] / "data" / "croco_reference"

_BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "singlelife":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
from safetensors.torch import load_file

folder = sys.argv[1]
expected = load_file(f"{folder}/expected.safetensors")
"""


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict]:
    """Tensors, the state dict and the arguments of a model of the reference code: `"cosine"` or `"rope100"`."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, not a dict)
        kwargs = json.loads(file.metadata()["croco_kwargs"])
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    return tensors, state, kwargs


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def run_without_the_package(code: str, folder: Path, modules: Path) -> None:
    """Run code that has `folder` and what is in its `expected.safetensors`, and cannot import singlelife."""
    environment = os.environ | {"HF_MODULES_CACHE": str(modules), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", _BLOCKED + code + "\nprint('loaded')", str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "loaded", done.stderr
