"""Patch tokens of any vision transformer.

To support another architecture of transformers whose `last_hidden_state` holds a token for each patch, add a line to
`ARCHITECTURES`. Loading a model checks what the line says against the model itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import interpolate, pad
from transformers import PretrainedConfig, PreTrainedModel

from singlelife.errors import CheckpointError

Grid = tuple[int, int]


@dataclass(frozen=True)
class Architecture:
    """What the config of an architecture does not say.

    Attributes:
        prefix_tokens: the number of class tokens and the like before the patch tokens; registers in the config are
            added to it. None: all tokens are dropped except the last ones, one for each patch.
        any_size: it takes views of any size, and the image processor decides; otherwise the config does.
        shuffles: it shuffles the patches by noise, even if it masks none.
    """

    prefix_tokens: int | None
    any_size: bool = False
    shuffles: bool = False


ARCHITECTURES: dict[str, Architecture] = {  # by the config's model_type
    "beit": Architecture(1),
    "clip_vision_model": Architecture(1),
    "croco": Architecture(0),
    "data2vec-vision": Architecture(1),
    "deit": Architecture(2),
    "dinov2": Architecture(1, any_size=True),
    "dinov2_with_registers": Architecture(1, any_size=True),
    "dinov3_vit": Architecture(1, any_size=True),
    "ijepa": Architecture(0),
    "siglip_vision_model": Architecture(0),
    "vit": Architecture(1),
    "vit_mae": Architecture(1, shuffles=True),
    "vit_msn": Architecture(1),
}
DUAL_TOWERS = ("clip", "siglip")  # only their vision tower is loaded

_UNKNOWN = Architecture(None)


def vision_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the vision model: the vision tower of a dual tower, or the config itself."""
    tower = config.vision_config if config.model_type in DUAL_TOWERS else config
    if tower.model_type == "vit_mae":
        tower.mask_ratio = 0.0
    return tower


def geometry(name: str, config: PretrainedConfig, processor: Any) -> tuple[Grid, Grid, Grid]:
    """The views that a model takes, before it is built: their height and width, the height and width that patches
    cover, both in pixels, and rows and columns of patches.

    Raises:
        CheckpointError: its config and image processor do not say, or no patch fits in.
    """
    architecture = ARCHITECTURES.get(config.model_type, _UNKNOWN)
    patch = _pair(_first_of(config, "patch_size"), name, "patch_size")
    size = _input_size(name, config, processor, architecture.any_size)
    grid = (size[0] // max(1, patch[0]), size[1] // max(1, patch[1]))
    if min(*patch, *size, *grid) < 1:
        raise CheckpointError(
            f"{name} takes images of {size[0]} x {size[1]} px in patches of {patch[0]} x {patch[1]} px: no patch fits."
        )
    covered = (grid[0] * patch[0], grid[1] * patch[1])
    return covered if architecture.any_size else size, covered, grid


class Backbone:
    """Views to patch tokens.

    Attributes:
        grid: rows and columns of patches of a view.
        image_size: longer side of the views that the model takes, in pixels.
        depth: the number of blocks.

    Args:
        name: the user's name for the model.
        model: the vision transformer.
        processor: its image processor. Only its normalisation is used, and its size if the model takes any size, since
            views are already cut.
        device: where it runs.

    Raises:
        CheckpointError: it gives other tokens than its config promises, or does not take three channels.
    """

    def __init__(self, name: str, model: PreTrainedModel, processor: Any, device: str = "cpu"):
        self._name, self._config = name, model.config
        self._architecture = ARCHITECTURES.get(self._config.model_type, _UNKNOWN)
        channels = _first_of(self._config, "num_channels", "in_chans", default=3)
        if channels != 3:
            raise CheckpointError(f"{name} takes images of {channels} channels; only models of three can be compared.")
        self._size, self._covered, self.grid = geometry(name, self._config, processor)
        self.image_size = max(self._size)
        self.depth = int(_first_of(self._config, "num_hidden_layers"))
        self._device = torch.device(device)
        self._scale, self._shift = (values.to(self._device) for values in _normalisation(name, processor))
        self._model = model.eval().to(self._device)
        self._prefix = self._checked_prefix()

    @torch.inference_mode()
    def tokens(self, views: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """The patch tokens after each of some blocks, float32 (B, N, D) each, on the device.

        The tokens after the last block are the model's `last_hidden_state`, with its final norm if it has one; others
        are the input of the next block.

        Args:
            views: uint8 (B, 3, height, width), of any size.
            layers: 0 to `depth` - 1.
        """
        last = self.depth - 1
        needed = any(layer != last for layer in layers)
        output = self._run(self._pixels(views), output_hidden_states=needed)
        states = (output.hidden_states or ()) if needed else ()
        if needed and len(states) != self.depth + 1:
            raise CheckpointError(f"{self._name} gives tokens only after its last block.")
        chosen = (output.last_hidden_state if layer == last else states[layer + 1] for layer in layers)
        return [tokens[:, self._prefix :].float() for tokens in chosen]

    def _pixels(self, views: torch.Tensor) -> torch.Tensor:
        """Views as the model takes them, float32 (B, 3, H, W), normalised."""
        values = views.to(self._device).float()
        if tuple(values.shape[-2:]) != self._covered:
            values = interpolate(values, self._covered, mode="bicubic", antialias=True).clamp_(0, 255)
        values = values * self._scale + self._shift
        below, right = (whole - covered for whole, covered in zip(self._size, self._covered, strict=True))
        return pad(values, (0, right, 0, below))  # which no patch sees

    def _run(self, pixels: torch.Tensor, output_hidden_states: bool = False) -> Any:
        inputs = {"pixel_values": pixels}
        if self._architecture.shuffles:
            inputs["noise"] = torch.arange(math.prod(self.grid), device=pixels.device).expand(len(pixels), -1)
        return self._model(**inputs, output_hidden_states=output_hidden_states)

    @torch.inference_mode()
    def _checked_prefix(self) -> int:
        """The number of tokens before the patch tokens, checked on an image of zeros."""
        try:
            output = self._run(torch.zeros(1, 3, *self._size, device=self._device))
            count = output.last_hidden_state.shape[1]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of many kinds, from the models' own code
            raise CheckpointError(
                f"{self._name} ({self._config.model_type!r}) gives no tokens for an image of {self._size[0]} x "
                f"{self._size[1]} px: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        rows, columns = self.grid
        prefix = self._architecture.prefix_tokens
        if prefix is None:
            prefix = max(0, count - rows * columns)
        else:
            prefix += _first_of(self._config, "num_register_tokens", default=0)
        if count != rows * columns + prefix:
            raise CheckpointError(
                f"{self._name} ({self._config.model_type!r}) gives {count} tokens for an image; its config promises "
                f"{rows * columns} for {rows} x {columns} patches after {prefix} others."
            )
        return prefix


def _input_size(name: str, config: PretrainedConfig, processor: Any, any_size: bool) -> tuple[int, int]:
    """Height and width of the images that the model takes, in pixels."""
    if any_size:
        cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
        size = dict(cropped or getattr(processor, "size", None) or {})
        height, width = (size.get(side) or size.get("shortest_edge") for side in ("height", "width"))
        if height and width:
            return int(height), int(width)
    return _pair(_first_of(config, "image_size"), name, "image_size")


def _normalisation(name: str, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The factor for pixels from 0 to 255, and what to add afterwards; float32 (3, 1, 1) each."""
    factor = processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if getattr(processor, "do_normalize", True):
        mean, std = processor.image_mean, processor.image_std
    if len(mean) != 3 or len(std) != 3:
        raise CheckpointError(f"The image processor of {name} normalises {len(mean)} channels instead of three.")
    scale, shift = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (std, mean))
    return (factor / scale).float(), (-shift / scale).float()


def _pair(value: Any, name: str, what: str) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return value[0], value[1]
    raise CheckpointError(f"The config of {name} has no usable {what}: it is {value!r}.")


def _first_of(config: PretrainedConfig, *names: str, default: Any = None) -> Any:
    """The first of these fields that a config has."""
    return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), default)
