"""The two networks that a run can train: CroCo, and ViT-MAE as a baseline.

ViT-MAE (He et al., 2022) has the same encoder and learns from the same target views with the same masks, but has no
source view to complete them from. So it shows what the second view adds. The training loop treats both alike: it calls
`model(**inputs).loss`.
"""

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ViTImageProcessor, ViTMAEConfig, ViTMAEForPreTraining

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor, training_flops_per_pair
from singlelife.croco.modeling_croco import patch_positions, sincos_embedding
from singlelife.pretraining.batches import ToModel


def network_config(config: CroCoConfig, model_type: str) -> PreTrainedConfig:
    """The config of a network of type `model_type` with the sizes of a CroCo config.

    ViT-MAE keeps `int(N * (1 - mask_ratio))` of N patches visible. Its `mask_ratio` is half a patch less than CroCo's,
    so that rounding errors cannot change that number.
    """
    if model_type == "croco":
        return config
    shared = ViTMAEConfig().to_dict().keys() & CroCoConfig().to_dict().keys() - PreTrainedConfig().to_dict().keys()
    sizes = {name: getattr(config, name) for name in shared - {"mask_ratio"}}
    num_masked = round(config.mask_ratio * config.num_patches)
    return ViTMAEConfig(**sizes, mask_ratio=(num_masked - 0.5) / config.num_patches)


def network_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of the network with this config."""
    return CroCoForPreTraining if isinstance(config, CroCoConfig) else ViTMAEForPreTraining


def new_network(config: PreTrainedConfig) -> PreTrainedModel:
    """The network with new weights from the global random generator."""
    model: Any = network_class(config)(config)
    if not isinstance(config, CroCoConfig):  # transformers 5.23 leaves the positions of a new ViT-MAE at zero
        rows = config.image_size // config.patch_size
        positions = patch_positions(rows, rows, (rows, rows), torch.device("cpu"))
        for embedding in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
            embedding.data[0, 1:] = sincos_embedding(positions, embedding.shape[-1])  # the class token has none
    return model


def freeze_positions(model: Any) -> None:
    """Keep the positions of a ViT-MAE fixed. `from_pretrained` makes every parameter trainable."""
    if isinstance(model, ViTMAEForPreTraining):
        model.vit.embeddings.position_embeddings.requires_grad_(False)
        model.decoder.decoder_pos_embed.requires_grad_(False)


def image_processor(config: PreTrainedConfig) -> CroCoImageProcessor | ViTImageProcessor:
    """The image processor that goes with the network. Both normalise alike."""
    size = {"height": config.image_size, "width": config.image_size}
    croco = CroCoImageProcessor(size=size)
    if isinstance(config, CroCoConfig):
        return croco
    return ViTImageProcessor(size=size, image_mean=croco.image_mean, image_std=croco.image_std)


def random_inputs(config: PreTrainedConfig, batch_size: int) -> tuple[torch.Tensor, ...]:
    """Views of noise as inputs: target and source for CroCo, only the target for ViT-MAE."""
    number = 2 if isinstance(config, CroCoConfig) else 1
    return tuple(torch.randn(number, batch_size, config.num_channels, config.image_size, config.image_size))


def inputs_of(config: PreTrainedConfig) -> type[ToModel]:
    """The class that turns a batch of the dataset into the network's inputs."""
    return ToModel if isinstance(config, CroCoConfig) else ToTargetAlone


class ToTargetAlone(ToModel):
    """Turns a batch of the dataset into the inputs of ViT-MAE."""

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`pixel_values`, float32 (B, 3, S, S), and `noise`, int64 (B, N): ViT-MAE masks the highest."""
        inputs = super().__call__(batch)
        masked = inputs["bool_masked_pos"]
        order = torch.arange(masked.shape[1], device=masked.device)
        return {"pixel_values": inputs["pixel_values"], "noise": order + masked.shape[1] * masked}


def training_flops(config: PreTrainedConfig) -> int:
    """Operations of a training step on one pair; ViT-MAE's are counted by the rules of `training_flops_per_pair`."""
    if isinstance(config, CroCoConfig):
        return training_flops_per_pair(config)
    num_patches, patch_values = (config.image_size // config.patch_size) ** 2, config.patch_size**2 * 3
    num_visible = int(num_patches * (1 - config.mask_ratio))
    width, decoder_width = config.hidden_size, config.decoder_hidden_size

    def blocks(tokens: int, number: int, width: int, mlp_width: int) -> int:
        return number * (8 * tokens * width**2 + 4 * tokens * width * mlp_width + 4 * tokens**2 * width)

    embed = 2 * num_visible * patch_values * width
    encode = blocks(1 + num_visible, config.num_hidden_layers, width, config.intermediate_size)
    decoder = config.decoder_num_hidden_layers, decoder_width, config.decoder_intermediate_size
    decode = 2 * (1 + num_visible) * width * decoder_width + blocks(1 + num_patches, *decoder)
    predict = 2 * (num_patches - num_visible) * decoder_width * patch_values
    return 3 * (encode + decode + predict) + 2 * embed
