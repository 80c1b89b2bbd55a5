"""Where a model looks: from pairs of views to logits over source patches."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from singlelife.alignment.models.backbones import (
    ARCHITECTURES,
    Backbone,
    FeatureCorrelation,
    supported,
    vision_config,
)
from singlelife.alignment.models.checkpoints import Checkpoint, find_checkpoint
from singlelife.alignment.models.croco_maps import CrossAttention, DecoderCorrelation
from singlelife.croco import CroCoConfig, CroCoImageProcessor, CroCoModel
from singlelife.errors import CheckpointError
from singlelife.files import config_names, hub_configs, read_yaml

_OF_CROCO = {each.method: each for each in (CrossAttention, DecoderCorrelation)}
# By the word for it on the command line.
METHODS = {
    method.replace(" ", "-"): method
    for method in (CrossAttention.method, FeatureCorrelation.method, DecoderCorrelation.method)
}

UNTRAINED = "untrained:"  # begins the name of a model with fresh weights
_NO_ARCHITECTURE = (
    "transformers_version",
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
)  # fields of a config


class AttentionMapProvider(Protocol):
    """A model that tells where in the source it looks for each patch of the target.

    Views are uint8 (B, 3, S, S) of any size S, and are resized where the model takes another. Patches are in raster
    order. All that is returned is on the CPU.

    Attributes:
        name: what the user called it.
        revision: what its weights are: the commit on the Hub, or the SHA-256 of a folder's files; for an untrained
            model, a string that its config and seed determine.
        method: how the maps come about, `"cross-attention"`, `"feature correlation"` or `"decoder correlation"`.
        layers: which blocks they are of, from 0: of features the backbone's, else the decoder's.
        num_heads: how many maps `logits_by_head` gives of a pair.
        grid: rows and columns of patches of a view; N is their product.
        image_size: longer side of the views that it takes, in pixels.
    """

    name: str
    revision: str
    method: str
    layers: tuple[int, ...]
    num_heads: int
    grid: tuple[int, int]
    image_size: int

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """The mean map over the layers and their heads, float32 (B, N, N): rows are target patches.

        Raises:
            CheckpointError: they are not finite.
        """
        ...

    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """The map of each head of each layer, float32 (B, num_heads, N, N), layer by layer.

        Cross-attention has heads, and the mean of their maps is `logits`. Correlated features have none: their one map
        is that of `logits`.

        Raises:
            CheckpointError: they are not finite.
        """
        ...

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The patch tokens of single views, float32 (B, N, D): a CroCo's encoder's normed output where the maps are
        its cross-attention, else those of the last of the layers.

        Raises:
            CheckpointError: they are not finite.
        """
        ...


def load_model(
    spec: str, device: str = "cpu", *, method: str | None = None, layers: Sequence[int] | None = None
) -> AttentionMapProvider:
    """A model to compare.

    Args:
        spec: a run folder or any folder with a checkpoint; a Hub id, ORG/NAME or ORG/NAME@REVISION; or
            `untrained:MODEL`, a model with fresh weights of an architecture (a preset of `hub_configs/models`, or any
            of the former), optionally `untrained:MODEL@SEED`.
        device: where it is to run.
        method: `"cross-attention"`, `"feature-correlation"` or, of the decoder's features,
            `"decoder-correlation"`. By default the cross-attention of a CroCo, and of any other vision transformer the
            correlation of its features. An architecture that is not known is refused, unless feature correlation is
            asked for: then the tokens before those of the patches are dropped, however many they are.
        layers: which blocks to take the maps of, from 0, or from -1 backwards. By default all of the decoder's for
            cross-attention, and the last for features.

    Raises:
        CheckpointError: there is no such model, it is not one that can be compared, is too large for the memory, or
            its weights cannot be used. No weights but safetensors are read, and no code from elsewhere is run.
        HubError: it is on the Hub, but not for you, or the Hub cannot be asked.
    """
    if spec.startswith(UNTRAINED):
        return _untrained(spec, device, method, layers)
    return load_checkpoint(find_checkpoint(spec), device, method=method, layers=layers)


def load_checkpoint(
    checkpoint: Checkpoint, device: str = "cpu", *, method: str | None = None, layers: Sequence[int] | None = None
) -> AttentionMapProvider:
    """A model to compare, of a checkpoint that has been found. See [`load_model`]."""
    plan = plan_of(checkpoint, method)
    model = checkpoint.load(plan.config, device)
    return _provider(checkpoint.name, model, plan, device, layers, checkpoint.revision)


@dataclass(frozen=True)
class Plan:
    """How a checkpoint is to be compared, by its small files alone.

    Attributes:
        config: of the part that is loaded.
        processor: its image or video processor.
        method: how its maps come about.
    """

    config: PretrainedConfig
    processor: Any
    method: str


def plan_of(checkpoint: Checkpoint, method: str | None = None) -> Plan:
    """Look at a checkpoint without its weights.

    Args:
        method: see [`load_model`].

    Raises:
        CheckpointError: it is not one that can be compared.
    """
    config = vision_config(checkpoint.config())
    chosen = _method(checkpoint.name, config, method)
    return Plan(config, checkpoint.processor(video=_is_video(config)), chosen)


def _untrained(spec: str, device: str, method: str | None, layers: Sequence[int] | None) -> AttentionMapProvider:
    where, _, seed = spec.removeprefix(UNTRAINED).rpartition("@")
    if not where:
        where, seed = seed, "0"
    elif not seed.isdigit():
        raise CheckpointError(f"{spec}: the seed after '@' should be a whole number, not {seed!r}.")
    if where in config_names("models"):
        config: PretrainedConfig = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{where}.yaml"))
        rows, columns = config.grid_size
        size = {"height": rows * config.patch_size, "width": columns * config.patch_size}
        plan = Plan(config, CroCoImageProcessor(size=size), _method(spec, config, method))
    else:
        if "/" not in where and not Path(where).exists():
            presets = ", ".join(config_names("models"))
            raise CheckpointError(f"{spec}: there is no folder {where}, and no such preset; there are {presets}.")
        plan = plan_of(find_checkpoint(where), method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        model = AutoModel.from_config(plan.config, dtype=torch.float32)
    described = {name: value for name, value in plan.config.to_dict().items() if name not in _NO_ARCHITECTURE}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
    return _provider(spec, model, plan, device, layers, f"untrained {digest} seed {int(seed)}")


def _is_video(config: PretrainedConfig) -> bool:
    return config.model_type in ARCHITECTURES and ARCHITECTURES[config.model_type].video


def _method(spec: str, config: PretrainedConfig, name: str | None) -> str:
    """The method for an architecture, before any weights are loaded."""
    if name is not None and name not in METHODS:
        raise CheckpointError(f"The methods are {', '.join(METHODS)}, not {name!r}.")
    method, crosses = None if name is None else METHODS[name], isinstance(config, CroCoConfig)
    if method in _OF_CROCO and not crosses:
        raise CheckpointError(
            f"{spec} is of the architecture {config.model_type!r}, which has no cross-attention between two views; "
            f"compare its {FeatureCorrelation.method}."
        )
    if method is None and config.model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{spec} is of the architecture {config.model_type!r}, which is not known to give a token for each patch. "
            f"Supported are {supported()}. Where a model does, --method feature-correlation tries it."
        )
    return method or (CrossAttention.method if crosses else FeatureCorrelation.method)


def _provider(
    spec: str, model: PreTrainedModel, plan: Plan, device: str, layers: Sequence[int] | None, revision: str
) -> AttentionMapProvider:
    if plan.method in _OF_CROCO:
        assert isinstance(model, CroCoModel)
        return _OF_CROCO[plan.method](spec, revision, model, plan.processor, device, layers)
    return FeatureCorrelation(spec, revision, Backbone(spec, model, plan.processor, device), layers)
