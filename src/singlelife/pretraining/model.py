"""The model of a run: how it starts, what its backward pass computes again, and the whole of one in shards."""

import difflib
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.errors import CheckpointError, RunError
from singlelife.files import read_yaml
from singlelife.pretraining.arguments import ModelConfig, config_path

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # in the main process; others get nothing


def starting_config(settings: ModelConfig) -> CroCoConfig:
    """The model's config, with `--image-size` and `--mask-ratio` in place.

    Raises:
        RunError: no such preset or file, an unknown field, or sizes that do not go together.
        CheckpointError: a checkpoint of another architecture.
    """
    folder = Path(settings.model)
    if folder.is_dir():
        where, values = folder / "config.json", _checkpoint_config(folder)
    else:
        where = config_path("models", settings.model)
        values = read_yaml(where)
        known = CroCoConfig().to_dict()
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else "."
                raise RunError(f"{where} sets {key!r}, which is not a field of CroCoConfig{hint}")
    if settings.image_size is not None:
        values["image_size"] = settings.image_size
    if settings.mask_ratio is not None:
        values["mask_ratio"] = settings.mask_ratio
    try:
        config = CroCoConfig(**values)
    except StrictDataclassError as error:
        raise RunError(f"The model of {where} cannot be built: {error.__cause__ or error}") from error
    if not isinstance(config.image_size, int):
        raise RunError(f"The views of a pair are square, so image_size should be one number, not {config.image_size}.")
    return config


def starting_model(settings: ModelConfig, config: CroCoConfig) -> CroCoForPreTraining:
    """The model itself; new weights come from torch's global seed.

    Raises:
        CheckpointError: the checkpoint's weights are missing, broken or not all there.
    """
    folder = Path(settings.model)
    return load_weights(folder, config) if folder.is_dir() else CroCoForPreTraining(config)


def load_weights(folder: Path, config: CroCoConfig) -> CroCoForPreTraining:
    """A pretraining model with every weight from a checkpoint folder, in fp32.

    Raises:
        CheckpointError: the weights are missing, broken or not all there.
    """
    try:
        loaded: Any = CroCoForPreTraining.from_pretrained(
            folder, config=config, dtype="float32", use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise OSError, RuntimeError and their own
        raise CheckpointError(f"Cannot load the weights in {folder}: {error}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"The checkpoint {folder} lacks {len(missing)} weights that pretraining needs, such as {missing[0]}: it "
            "is not one of a CroCo pretraining model. Pass --model a run's checkpoint, or a preset for new weights."
        )
    return model


def _checkpoint_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"--model {folder} is a folder, but no checkpoint: cannot read its config.json ({error})."
        ) from error
    architecture = values.get("model_type") if isinstance(values, dict) else None
    if architecture != CroCoConfig.model_type:
        raise CheckpointError(
            f"The checkpoint {folder} is of another architecture: {architecture!r}, and pretraining takes "
            f"{CroCoConfig.model_type!r}. Pass --model a CroCo checkpoint, or a preset for new weights."
        )
    return values


def recompute(model: CroCoForPreTraining, blocks: str) -> None:
    """Let a part of a model's blocks keep only their inputs for the backward pass (Chen et al., 2016), which then runs
    them forward once more.

    Args:
        blocks: `none`, `encoder` (its blocks see both views), `decoder` or `all`.
    """
    parts = {"encoder": (model.croco.encoder,), "decoder": (model.croco.decoder,), "all": (model,)}
    for part in parts.get(blocks, ()):
        # By the name that transformers 5.23 gave it where there is one; the older name warns there.
        enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def whole_model(model: torch.nn.Module, accelerator: Accelerator) -> CroCoForPreTraining | None:
    """The model to save, draw or measure; called by every process, since all hold a part of a sharded one (FSDP2).

    Returns:
        The model itself where every process has all of it. Of a sharded one, a copy with all parameters on the CPU in
        the main process, and None in the others.
    """
    if not accelerator.is_fsdp2:
        return accelerator.unwrap_model(model)
    parameters = get_model_state_dict(model, options=WHOLE)
    if not accelerator.is_main_process:
        return None
    with torch.device("meta"):  # takes no memory and no random numbers: all of it is replaced
        whole = CroCoForPreTraining(accelerator.unwrap_model(model).config)
    whole.load_state_dict(parameters, assign=True)
    return whole
