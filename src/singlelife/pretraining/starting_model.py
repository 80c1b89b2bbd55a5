"""The model that a run starts from: a preset or YAML with new weights, or a checkpoint's weights."""

import difflib
import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.errors import CheckpointError, RunError
from singlelife.files import read_yaml
from singlelife.pretraining.arguments import ModelArguments, config_path


def starting_config(arguments: ModelArguments) -> CroCoConfig:
    """The model's config, with `--image-size` and `--mask-ratio` in place.

    Raises:
        RunError: no such preset or file, an unknown field, or sizes that do not go together.
        CheckpointError: a checkpoint of another architecture.
    """
    folder = Path(arguments.model)
    if folder.is_dir():
        where, values = folder / "config.json", _checkpoint_config(folder)
    else:
        where = config_path("models", arguments.model)
        values = read_yaml(where)
        known = CroCoConfig().to_dict()
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else "."
                raise RunError(f"{where} sets {key!r}, which is not a field of CroCoConfig{hint}")
    if arguments.image_size is not None:
        values["image_size"] = arguments.image_size
    if arguments.mask_ratio is not None:
        values["mask_ratio"] = arguments.mask_ratio
    try:
        config = CroCoConfig(**values)
    except StrictDataclassError as error:
        raise RunError(f"The model of {where} cannot be built: {error.__cause__ or error}") from error
    if not isinstance(config.image_size, int):
        raise RunError(f"The views of a pair are square, so image_size should be one number, not {config.image_size}.")
    return config


def starting_model(arguments: ModelArguments, config: CroCoConfig) -> CroCoForPreTraining:
    """The model itself; new weights come from torch's global seed.

    Raises:
        CheckpointError: the checkpoint's weights are missing, broken or not all there.
    """
    return (
        load_weights(Path(arguments.model), config) if Path(arguments.model).is_dir() else CroCoForPreTraining(config)
    )


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
