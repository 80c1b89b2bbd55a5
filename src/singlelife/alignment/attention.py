"""Where a model looks: from pairs of views to logits over source patches."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from singlelife.configs import config_names, hub_configs, read_yaml
from singlelife.croco import CroCoConfig, CroCoImageProcessor, CroCoModel
from singlelife.errors import CheckpointError

_UNTRAINED = "untrained:"


class AttentionMapProvider(Protocol):
    """A model that tells where in the source it looks for each patch of the target.

    Attributes:
        name: what the user called it.
        revision: what its weights are: a SHA-256 of them and of the config.
        method: how the maps come about.
        layers: which decoder blocks they are of, from 0.
        num_heads: how many maps `logits_by_head` gives of a pair.
        grid: rows and columns of patches of a view.
        image_size: side of the views that it takes, in pixels; others are resized.
    """

    name: str
    revision: str
    method: str
    layers: tuple[int, ...]
    num_heads: int
    grid: tuple[int, int]
    image_size: int

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """float32 (B, N, N), rows target patches, of uint8 views (B, 3, S, S)."""
        ...

    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """The map of each head of each layer, float32 (B, num_heads, N, N), layer by layer."""
        ...


class CroCoAttention:
    """Cross-attention before the softmax, averaged over heads and decoder blocks, of unmasked views."""

    method = "cross-attention"

    def __init__(
        self,
        name: str,
        model: CroCoModel,
        processor: CroCoImageProcessor,
        device: str = "cpu",
        layers: Sequence[int] | None = None,
    ):
        depth = model.config.decoder_num_hidden_layers
        for layer in layers or ():
            if not -depth <= layer < depth:
                raise CheckpointError(
                    f"{name} has the layers 0 to {depth - 1} (or {-depth} to -1), but no layer {layer}."
                )
        self.layers = tuple(range(depth)) if layers is None else tuple(sorted({layer % depth for layer in layers}))
        self.num_heads = len(self.layers) * model.config.decoder_num_attention_heads
        digest = hashlib.sha256(model.config.to_json_string().encode())
        for weight in model.state_dict().values():
            digest.update(weight.cpu().numpy())
        self.revision = digest.hexdigest()
        self.name = name
        self.grid = model.config.grid_size
        self.image_size = max(self.grid) * model.config.patch_size
        self._model, self._processor, self._device = model.eval(), processor, device
        self._model.to(torch.device(device))

    @torch.inference_mode()
    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """See [`AttentionMapProvider`].

        Raises:
            CheckpointError: the logits are not finite.
        """
        if len(self.layers) < self._model.config.decoder_num_hidden_layers:
            return self.logits_by_head(target, source).mean(dim=1)
        return self._finite(self._model.cross_attention_logits(*self._pixels(target, source)).cpu())

    @torch.inference_mode()
    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """See [`AttentionMapProvider`]."""
        blocks = enumerate(self._model.iter_cross_attention_logits(*self._pixels(target, source)))
        return self._finite(torch.cat([maps.cpu() for layer, maps in blocks if layer in self.layers], dim=1))

    def _pixels(self, *views: torch.Tensor) -> list[torch.Tensor]:
        return [self._processor(list(each), return_tensors="pt").pixel_values.to(self._device) for each in views]

    def _finite(self, logits: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(logits).all():
            raise CheckpointError(f"{self.name} gives attention that is not finite; its training may have diverged.")
        return logits


def load_model(spec: str, device: str = "cpu", *, layers: Sequence[int] | None = None) -> AttentionMapProvider:
    """A model to compare.

    Args:
        spec: a run folder or any folder with a checkpoint; a Hub id; or `untrained:NAME`, a model with fresh weights
            of an architecture (a preset of `hub_configs/models`, or any of the former), optionally `@SEED`.
        device: where it is to run.
        layers: which decoder blocks to take the maps of, from 0, or from -1 backwards; all by default.

    Raises:
        CheckpointError: there is no such model, or it is not one that can be compared; no weights but safetensors are
            read, and no code from elsewhere is run.
    """
    if spec.startswith(_UNTRAINED):
        where, _, seed = spec.removeprefix(_UNTRAINED).partition("@")
        if seed and not seed.isdigit():
            raise CheckpointError(f"{spec}: the seed after '@' should be a whole number, not {seed!r}.")
        config = _preset(where) or _config(where)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed or 0))
            model = CroCoModel(config)
        return CroCoAttention(spec, model, _processor(config), device, layers)
    config = _config(spec)
    try:
        model, info = AutoModel.from_pretrained(
            spec, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        pickled = Path(spec).is_dir() and any(Path(spec).glob("*.bin")) and not any(Path(spec).glob("*.safetensors"))
        why = "it has only pickled weights, which can run code when they are loaded" if pickled else str(error)
        raise CheckpointError(f"The weights of {spec} cannot be loaded as safetensors: {why}.") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise CheckpointError(
            f"The weights of {spec} do not fit its config.json: {len(missing)} missing, such as {missing[0]}."
        )
    broken = [name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()]
    if broken:
        raise CheckpointError(f"The weights of {spec} are not finite ({broken[0]} and {len(broken) - 1} more).")
    try:
        processor = AutoImageProcessor.from_pretrained(spec, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{spec} has no image processor (preprocessor_config.json) that can be read.") from error
    return CroCoAttention(spec, model, processor, device, layers)


def _preset(name: str) -> CroCoConfig | None:
    if name not in config_names("models"):
        return None
    return CroCoConfig(**read_yaml(hub_configs() / "models" / f"{name}.yaml"))


def _config(spec: str) -> CroCoConfig:
    path = Path(spec)
    if path.is_dir() and not (path / "config.json").is_file():
        checkpoints = sorted(path.glob("checkpoint-*/config.json"))
        hint = f" It is an unfinished run; its last checkpoint is {checkpoints[-1].parent}." if checkpoints else ""
        raise CheckpointError(f"The folder {spec} holds no model: it has no config.json.{hint}")
    if not path.exists() and (spec.count("/") != 1 or spec.startswith((".", "/", "~"))):
        raise CheckpointError(f"There is no model {spec}: no such folder, and not a Hub id (ORGANISATION/NAME).")
    if path.is_dir():
        try:
            model_type = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path / 'config.json'} cannot be read: {error}.") from error
        _check_type(spec, model_type)
    try:
        config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CheckpointError(f"The model {spec} cannot be found or its config cannot be read: {error}") from error
    _check_type(spec, config.model_type)
    return config


def _check_type(spec: str, model_type: str | None) -> None:
    if model_type != CroCoConfig.model_type:
        raise CheckpointError(
            f"{spec} is of the architecture {model_type!r}, which has no cross-attention to compare; "
            f"supported is {CroCoConfig.model_type!r}."
        )


def _processor(config: CroCoConfig) -> CroCoImageProcessor:
    rows, columns = config.grid_size
    return CroCoImageProcessor(size={"height": rows * config.patch_size, "width": columns * config.patch_size})
