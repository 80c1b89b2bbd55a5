"""The model that a run starts with, and checkpoints from which it continues exactly, without pickle.

Pairs, crops, masks, colours and the learning rate are pure functions of the seed and the step. So a checkpoint holds
the model, the optimiser's moments by parameter name (`training_state.safetensors`) and the step
(`training_state.json`), but no state of a random generator, loader or scheduler. `digests.json`, written last, has the
SHA-256 of every file, and a run continues only if all of them still match. Older checkpoints have no such file.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from singlelife.croco import CroCoConfig
from singlelife.errors import CheckpointError, RunError, SingleLifeError
from singlelife.files import read_yaml
from singlelife.machine import say
from singlelife.pretraining.arguments import ModelConfig, check_names, config_path
from singlelife.pretraining.networks import freeze_positions, network_class
from singlelife.pretraining.run_folder import RunFolder, writing_folder

_STATE, _MOMENTS, _DIGESTS = "training_state.json", "training_state.safetensors", "digests.json"
_ADDED = {"shared_color": True, "model_type": "croco"}  # values of settings that old checkpoints lack
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # for the main process; the others get nothing


def starting_config(settings: ModelConfig) -> CroCoConfig:
    """The config that `--model` names, changed by `--image-size` and `--mask-ratio`.

    Raises:
        RunError: there is no such preset or file, a field is unknown, or sizes do not fit together.
        CheckpointError: the checkpoint has another architecture.
    """
    folder = Path(settings.model)
    if folder.is_dir():
        where, values = folder / "config.json", _checkpoint_config(folder)
    else:
        where = config_path("models", settings.model)
        values = read_yaml(where)
        check_names(where, values, CroCoConfig().to_dict(), "a field of CroCoConfig")
    changes = {"image_size": settings.image_size, "mask_ratio": settings.mask_ratio}
    try:
        config = CroCoConfig(**values | {name: value for name, value in changes.items() if value is not None})
    except StrictDataclassError as error:
        raise RunError(f"The model of {where} cannot be built: {error.__cause__ or error}") from error
    if not isinstance(config.image_size, int):
        raise RunError(f"The views of a pair are square, so image_size should be one number, not {config.image_size}.")
    return config


def _checkpoint_config(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = values["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint: cannot read its config.json ({error!r}).") from error
    if kind != CroCoConfig.model_type:
        raise CheckpointError(
            f"The checkpoint {folder} has another architecture: {kind!r}, not {CroCoConfig.model_type!r}. Pass a "
            "CroCo checkpoint to --model, or a preset for new weights."
        )
    return values


def load_weights(folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """A network with every weight from a checkpoint folder, in fp32.

    Raises:
        CheckpointError: a weight is missing or broken.
    """
    check_digests(folder)
    try:
        loaded: Any = network_class(config).from_pretrained(
            folder, config=config, dtype="float32", use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise OSError, RuntimeError and their own
        raise CheckpointError(f"Cannot load the weights in {folder}: {error}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"The checkpoint {folder} lacks {len(missing)} weights that pretraining needs, such as {missing[0]}. "
            "Pass a run's checkpoint to --model, or a preset for new weights."
        )
    freeze_positions(model)
    return model


def whole_model(model: torch.nn.Module, accelerator: Accelerator) -> PreTrainedModel | None:
    """The model to save or draw. Every process calls this, since each holds a part of a sharded model (FSDP2).

    Returns:
        The model itself or, if it is sharded, a copy with all parameters on the CPU in the main process, and None in
        the others.
    """
    if not accelerator.is_fsdp2:
        return accelerator.unwrap_model(model)
    parameters = get_model_state_dict(model, options=_WHOLE)
    if not accelerator.is_main_process:
        return None
    with torch.device("meta"):  # uses no memory and no random numbers; all its parameters are replaced
        config = accelerator.unwrap_model(model).config
        whole = network_class(config)(config)
    whole.load_state_dict(parameters, assign=True)
    return whole


@dataclass
class TrainingState:
    """The progress of a run.

    Attributes:
        step: optimiser steps made.
        sequence: everything that the losses depend on; a resumed run must have the same.
        pending_losses: losses of the steps since the last line of the metrics.
        skipped_steps: steps that changed nothing, because the loss or gradient was not finite.
        skipped_in_a_row: how many of the latest steps were skipped.
        grad_scaler: the loss scale of an fp16 run.
    """

    step: int = 0
    sequence: dict[str, Any] = field(default_factory=dict)
    pending_losses: list[float] = field(default_factory=list)
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    grad_scaler: dict[str, Any] | None = None

    def check(self, folder: str) -> None:
        """Raise a RunError if no run can have written this state into a checkpoint folder with that name."""
        kinds = {"step": int, "sequence": dict, "pending_losses": list, "skipped_steps": int, "skipped_in_a_row": int}
        holds = {name: type(getattr(self, name)) is kind for name, kind in kinds.items()}
        in_name = re.fullmatch(r"checkpoint-(\d+)", folder)
        holds["step"] &= self.step == int(in_name[1]) if in_name else self.step >= 0
        holds["pending_losses"] &= all(type(loss) is float and math.isfinite(loss) for loss in self.pending_losses)
        for name in (name for name, held in holds.items() if not held):
            raise RunError(f"{_STATE} is damaged: {name} cannot be {getattr(self, name)!r:.60} in {folder}.")


def save_checkpoint(
    folder: RunFolder,
    state: TrainingState,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    processor: BaseImageProcessor,
) -> None:
    """Write `checkpoint-<state.step>` into the run folder. Every process calls this; the main one writes.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    whole = whole_model(model, accelerator)
    optimizer_state: Any = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    if whole is not None and accelerator.is_main_process:
        state.grad_scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        moments = optimizer_state["state"].items()
        tensors = {f"{name}.{key}": tensor for name, kept in moments for key, tensor in kept.items()}
        with writing_folder(folder.checkpoint_path(state.step)) as aside:
            whole.save_pretrained(aside)
            processor.save_pretrained(aside)
            save_file(tensors, aside / _MOMENTS)
            (aside / _STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
            digests = {file.name: _digest(file) for file in sorted(aside.iterdir())}
            (aside / _DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    accelerator.wait_for_everyone()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_digests(folder: Path) -> None:
    """Check that the files of a checkpoint are those that the run wrote. A folder without digests passes.

    Code files may be missing, since nobody needs them to continue.

    Raises:
        CheckpointError: a file has changed or is missing.
    """
    if not (folder / _DIGESTS).is_file():
        return
    try:
        digests = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
        whole = {_STATE, _MOMENTS, "config.json"} <= digests.keys()
    except (OSError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{folder / _DIGESTS} is damaged.")
    for name, digest in digests.items():
        file = folder / Path(name).name
        if not file.is_file() and file.suffix != ".py":
            raise CheckpointError(f"{file} is missing.")
        if file.is_file() and _digest(file) != digest:
            raise CheckpointError(f"{file} is damaged: it is not what the run wrote (its SHA-256 differs).")


def latest_sound_checkpoint(folder: RunFolder) -> Path | None:
    """The latest undamaged checkpoint of a run; stderr names damaged ones after it. A RunError if all are damaged."""
    checkpoint = None
    for checkpoint in reversed(folder.checkpoints().values()):
        try:
            read_state(checkpoint)
            return checkpoint
        except RunError as error:
            say(f"Warning: {error}")
    if checkpoint:
        raise RunError(f"All checkpoints in {folder.path} are damaged. Start again in another --output-dir.")
    return None


def read_state(checkpoint: Path) -> TrainingState:
    """The run's progress when it wrote a checkpoint. This checks all files of the checkpoint.

    Raises:
        RunError: the folder is not a checkpoint of a run, or a file in it is damaged. The message names the checkpoint
            before it.
    """
    try:
        check_digests(checkpoint)
        state = TrainingState(**json.loads((checkpoint / _STATE).read_text(encoding="utf-8")))
        state.check(checkpoint.name)
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, "pt"):  # fails if the file is cut short
                pass
    except (SingleLifeError, OSError, TypeError, ValueError, SafetensorError) as error:
        steps = RunFolder(checkpoint.parent).checkpoints()
        own = next((step for step, path in steps.items() if path.name == checkpoint.name), 0)
        before = [path for step, path in steps.items() if step < own]
        advice = "Pass --resume-from a folder checkpoint-<step> of a run; --model starts a new run from a model."
        if before:
            advice = f"The checkpoint before it is {before[-1]}: pass that one to --resume-from."
        what = f"its {_STATE} is missing" if isinstance(error, FileNotFoundError) else str(error).rstrip(".")
        raise RunError(f"{checkpoint} is not a checkpoint that a run can continue from: {what}. {advice}") from error
    return state


def check_same_sequence(state: TrainingState, sequence: dict[str, Any], checkpoint: Path) -> None:
    """Check that a resumed run has the settings of the run that stopped.

    Of the model's config, only fields that both runs have are compared, since versions of the package may differ.

    Raises:
        RunError: a setting that the losses depend on has changed.
    """
    old: dict[str, Any] = _ADDED | state.sequence
    models = old.get("model_config", {}), sequence["model_config"]
    common = models[0].keys() & models[1].keys()
    before, now = (
        {name: value for name, value in each.items() if name != "model_config"}
        | {f"the model's {name}": model[name] for name in common}
        for each, model in zip((old, sequence), models, strict=True)
    )
    changes = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise RunError(
            f"The run cannot continue from {checkpoint} with other settings: {'; '.join(changes)}. Resume with its "
            "own settings (--config with its config.yaml), or start a new run in another --output-dir."
        )


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
    fresh: Any = get_optimizer_state_dict(model, optimizer)
    shapes = {f"{name}.{key}": tensor.shape for name, kept in fresh["state"].items() for key, tensor in kept.items()}
    if wrong := sorted(shapes.items() ^ {name: tensor.shape for name, tensor in tensors.items()}.items()):
        raise RunError(f"{path} does not fit this model: {wrong[0][0]} is unexpected. Resume from an earlier one.")
    state: dict[str, Any] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(".")
        state.setdefault(name, {})[key] = tensor
    groups = fresh["param_groups"]
    set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": groups}, options=_WHOLE)
