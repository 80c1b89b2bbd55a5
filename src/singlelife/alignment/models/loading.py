"""From what a user calls a model to a model that can be compared."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PretrainedConfig

from singlelife.alignment.models.backbones import ARCHITECTURES, DUAL_TOWERS, vision_config
from singlelife.alignment.models.checkpoints import Checkpoint, find_checkpoint
from singlelife.alignment.models.maps import (
    AttentionMapProvider,
    CrossAttention,
    DecoderCorrelation,
    FeatureCorrelation,
)
from singlelife.alignment.settings import UNTRAINED
from singlelife.croco import CroCoConfig, CroCoImageProcessor
from singlelife.errors import CheckpointError
from singlelife.files import config_names, hub_configs, read_yaml

METHODS: dict[str, type[FeatureCorrelation]] = {  # by the word for it on the command line
    "cross-attention": CrossAttention,
    "feature-correlation": FeatureCorrelation,
    "decoder-correlation": DecoderCorrelation,
}

# Fields of a config that say nothing of the architecture.
_NO_ARCHITECTURE = ("transformers_version", "_name_or_path", "architectures", "auto_map", "dtype")


@dataclass(frozen=True)
class Plan:
    """How a checkpoint is compared, known from its small files alone.

    Attributes:
        config: of the part that is loaded.
        processor: its image processor.
        method: how its maps are made, a key of `METHODS`.
    """

    config: PretrainedConfig
    processor: Any
    method: str


def load_model(
    spec: str, device: str = "cpu", *, method: str | None = None, layers: Sequence[int] | None = None
) -> AttentionMapProvider:
    """A model to compare.

    Args:
        spec: a run folder or any folder with a checkpoint; a Hub id, ORG/NAME or ORG/NAME@REVISION; or
            `untrained:MODEL`, a model with fresh weights of an architecture (a preset of `hub_configs/models`, or any
            of the former), optionally `untrained:MODEL@SEED`.
        device: where it runs.
        method: a key of `METHODS`. By default the cross-attention of a CroCo, and the feature correlation of any other
            vision transformer. An unknown architecture is refused unless feature correlation is asked for: then all
            tokens before those of the patches are dropped, however many they are.
        layers: which blocks to take the maps of, from 0, or from -1 backwards. By default all of the decoder's for
            cross-attention, and the last for features.

    Raises:
        CheckpointError: there is no such model, it cannot be compared, it is too large for the memory, or its weights
            cannot be used. No weights but safetensors are read, and no code from elsewhere is run.
        HubError: it is on the Hub, but not for you, or the Hub cannot be asked.
    """
    if not spec.startswith(UNTRAINED):
        return load_checkpoint(find_checkpoint(spec), device, method=method, layers=layers)
    where, _, seed = spec.removeprefix(UNTRAINED).rpartition("@")
    if not where:
        where, seed = seed, "0"
    elif not seed.isdigit():
        raise CheckpointError(f"{spec}: the seed after '@' should be a whole number, not {seed!r}.")
    plan = _plan_of_fresh(spec, where, method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        model = AutoModel.from_config(plan.config, dtype=torch.float32)
    described = {name: value for name, value in plan.config.to_dict().items() if name not in _NO_ARCHITECTURE}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
    revision = f"untrained {digest} seed {int(seed)}"
    return METHODS[plan.method](spec, revision, model, plan.processor, device, layers)


def load_checkpoint(
    checkpoint: Checkpoint, device: str = "cpu", *, method: str | None = None, layers: Sequence[int] | None = None
) -> AttentionMapProvider:
    """The model of a checkpoint that has been found. See [`load_model`]."""
    plan = plan_of(checkpoint, method)
    model = checkpoint.load(plan.config, device)
    return METHODS[plan.method](checkpoint.name, checkpoint.revision, model, plan.processor, device, layers)


def plan_of(checkpoint: Checkpoint, method: str | None = None) -> Plan:
    """Look at a checkpoint without its weights.

    Args:
        method: see [`load_model`].

    Raises:
        CheckpointError: it cannot be compared.
    """
    config = vision_config(checkpoint.config())
    chosen = _method(checkpoint.name, config, method)
    return Plan(config, checkpoint.processor(), chosen)


def _plan_of_fresh(spec: str, where: str, method: str | None) -> Plan:
    if where in config_names("models"):
        config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{where}.yaml"))
        rows, columns = config.grid_size
        size = {"height": rows * config.patch_size, "width": columns * config.patch_size}
        return Plan(config, CroCoImageProcessor(size=size), _method(spec, config, method))
    if "/" not in where and not Path(where).exists():
        presets = ", ".join(config_names("models"))
        raise CheckpointError(f"{spec}: there is no folder {where}, and no such preset; there are {presets}.")
    return plan_of(find_checkpoint(where), method)


def _method(spec: str, config: PretrainedConfig, method: str | None) -> str:
    """The method for an architecture, before any weights are loaded."""
    is_croco, kind = isinstance(config, CroCoConfig), config.model_type
    if method is None:
        if kind not in ARCHITECTURES:
            raise CheckpointError(
                f"{spec} is of the architecture {kind!r}, which is not known to give a token for each patch. Supported"
                f" are {', '.join(sorted({*ARCHITECTURES, *DUAL_TOWERS}))}. Try --method feature-correlation."
            )
        return "cross-attention" if is_croco else "feature-correlation"
    if method not in METHODS:
        raise CheckpointError(f"The methods are {', '.join(METHODS)}, not {method!r}.")
    if method != "feature-correlation" and not is_croco:
        raise CheckpointError(
            f"{spec} is of the architecture {kind!r}, which has no cross-attention between two views. Compare its "
            "features: --method feature-correlation."
        )
    return method
