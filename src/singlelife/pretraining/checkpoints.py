"""What a run needs to go on exactly where it stopped, without pickle.

Pairs, crops, masks, colours and the learning rate are pure functions of the seed and the step. So beside the model a
checkpoint holds the optimiser's moments by parameter name (`training_state.safetensors`) and the step
(`training_state.json`), and no state of a random generator, loader or scheduler.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from singlelife.errors import RunError
from singlelife.pretraining.model import WHOLE, whole_model
from singlelife.pretraining.run_folder import RunFolder, writing_folder

_STATE, _MOMENTS = "training_state.json", "training_state.safetensors"


@dataclass
class TrainingState:
    """Where a run is.

    Attributes:
        step: optimiser steps made.
        sequence: all that the sequence of losses depends on; a resumed run must have the same.
        pending_losses: losses of the steps since the last line of the metrics.
        skipped_steps: how many of them changed nothing, since something was not finite.
        skipped_in_a_row: how many of these were the last ones.
        grad_scaler: the loss scale of an fp16 run.
    """

    step: int = 0
    sequence: dict[str, Any] = field(default_factory=dict)
    pending_losses: list[float] = field(default_factory=list)
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    grad_scaler: dict[str, Any] | None = None


def save_checkpoint(
    folder: RunFolder,
    state: TrainingState,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    processor: Any,
) -> None:
    """Write `checkpoint-<state.step>` into the run's folder; called by every process, written by the main one.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    whole = whole_model(model, accelerator)
    optimizer_state: Any = get_optimizer_state_dict(model, optimizer, options=WHOLE)
    if accelerator.is_main_process:  # the only one with the whole state
        assert whole is not None
        state.grad_scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        with writing_folder(folder.checkpoint_path(state.step)) as aside:
            whole.save_pretrained(aside)
            processor.save_pretrained(aside)
            moments = optimizer_state["state"].items()
            save_file(
                {f"{name}.{key}": tensor for name, kept in moments for key, tensor in kept.items()}, aside / _MOMENTS
            )
            (aside / _STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
    accelerator.wait_for_everyone()


def read_state(checkpoint: Path) -> TrainingState:
    """Where the run was when it wrote a checkpoint.

    Raises:
        RunError: the folder is no checkpoint of a run.
    """
    try:
        return TrainingState(**json.loads((checkpoint / _STATE).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise RunError(
            f"{checkpoint} is no checkpoint that a run can go on from: {_STATE} is missing or broken ({error}). "
            "Pass a folder checkpoint-<step> of a run to --resume-from; to start a new run from a model, use --model."
        ) from error


def check_same_sequence(state: TrainingState, sequence: dict[str, Any], checkpoint: Path) -> None:
    """Make sure that the run that goes on is the run that stopped.

    Raises:
        RunError: a setting that the sequence of losses depends on has changed.
    """
    before, now = (_compared(each, other) for each, other in ((state.sequence, sequence), (sequence, state.sequence)))
    changes = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise RunError(
            f"The run cannot go on from {checkpoint} with other settings: {'; '.join(changes)}. Resume with the "
            "settings it had (--config with its config.yaml), or start a new run in another --output-dir."
        )


def _compared(sequence: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The part of a sequence to compare with another: of the model's config, the fields that both have, since versions
    of the package may differ in the fields that they know."""
    model, known = sequence.get("model_config", {}), other.get("model_config", {})
    return sequence | {"model_config": {name: value for name, value in model.items() if name in known}}


def load_moments(checkpoint: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser the moments of a checkpoint.

    Raises:
        RunError: the file is missing or broken.
    """
    path = checkpoint / _MOMENTS
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own errors and OSError
        raise RunError(f"Cannot read {path}: {error}. Resume from an earlier checkpoint.") from error
    state: dict[str, Any] = {}
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit(".", 1)
        state.setdefault(name, {})[key] = tensor
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": groups}, options=WHOLE)
