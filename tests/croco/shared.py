"""Golden numbers of the reference, which several tests compare with."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

GOLDEN = Path(__file__).parents[1] / "data" / "croco_reference"


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict]:
    """Tensors, the state dict and the arguments of a model of the reference code: `"cosine"` or `"rope100"`."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, not a dict)
        kwargs = json.loads(file.metadata()["croco_kwargs"])
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    return tensors, state, kwargs


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
