"""Reference CroCo checkpoints in our format."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .configuration_croco import CroCoConfig
from .positions_croco import patch_positions, sincos_embedding

# Reference name → ours. What each pattern catches is kept as a prefix of "weight" or "bias".
_RENAMES = (
    (r"mask_token", r"croco.decoder.mask_token"),
    (r"patch_embed\.proj\.", r"croco.encoder.patch_embedding."),
    (r"enc_norm\.", r"croco.encoder.norm."),
    (r"enc_blocks\.(\d+)\.attn\.qkv\.", r"croco.encoder.layers.\1.attention.qkv_proj."),
    (r"enc_blocks\.(\d+)\.attn\.proj\.", r"croco.encoder.layers.\1.attention.o_proj."),
    (r"enc_blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.", r"croco.encoder.layers.\1.\2."),
    (r"decoder_embed\.", r"croco.decoder.embedding."),
    (r"dec_norm\.", r"croco.decoder.norm."),
    (r"dec_blocks\.(\d+)\.attn\.qkv\.", r"croco.decoder.layers.\1.attention.qkv_proj."),
    (r"dec_blocks\.(\d+)\.attn\.proj\.", r"croco.decoder.layers.\1.attention.o_proj."),
    (r"dec_blocks\.(\d+)\.cross_attn\.projq\.", r"croco.decoder.layers.\1.cross_attention.q_proj."),
    (r"dec_blocks\.(\d+)\.cross_attn\.proj\.", r"croco.decoder.layers.\1.cross_attention.o_proj."),
    (r"dec_blocks\.(\d+)\.norm_y\.", r"croco.decoder.layers.\1.norm_source."),
    (r"dec_blocks\.(\d+)\.(norm[123]|mlp\.fc[12])\.", r"croco.decoder.layers.\1.\2."),
    (r"prediction_head\.", r"prediction_head."),
)
_NOT_OF_THE_BACKBONE = ("downstream_head", "head.", "dec_blocks2.")
_KEY_AND_VALUE = re.compile(r"dec_blocks\.(\d+)\.cross_attn\.proj([kv])\.(weight|bias)")

_DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "mask_ratio": 0.9,
    "enc_embed_dim": 768,
    "enc_depth": 12,
    "enc_num_heads": 12,
    "dec_embed_dim": 512,
    "dec_depth": 8,
    "dec_num_heads": 16,
    "mlp_ratio": 4,
    "norm_im2_in_dec": True,
    "pos_embed": "cosine",
}


def convert_croco(
    state_dict: Mapping[str, torch.Tensor], croco_kwargs: Mapping[str, Any]
) -> tuple[CroCoConfig, dict[str, torch.Tensor]]:
    """Rename a reference CroCo's weights for [`CroCoForPreTraining`], leaving none over and none missing.

    Args:
        state_dict: the reference model's weights, under the names of its released checkpoints (`model` in those).
        croco_kwargs: the arguments that it was built with (`croco_kwargs` in those); defaults for those left out.

    Returns:
        The configuration and the state dict. The loss on normalised pixels is assumed, as in the reference recipe.

    Raises:
        ValueError: an argument or a weight is unknown, missing, of the wrong shape, or belongs to a variant that
            CroCo here does not have.
    """
    from .modeling_croco import CroCoForPreTraining

    config = _convert_config(croco_kwargs)
    return config, _convert_weights(dict(state_dict), config, CroCoForPreTraining)


def convert_croco_backbone(
    state_dict: Mapping[str, torch.Tensor], croco_kwargs: Mapping[str, Any]
) -> tuple[CroCoConfig, dict[str, torch.Tensor]]:
    """Rename the weights of a model fine-tuned from the reference CroCo for [`CroCoModel`], without its heads.

    Of a model with two decoders, such as DUSt3R, the first is taken. There the decoders exchange their tokens in every
    block, while CroCo's decoder sees the encoder's tokens of the other view in all of them: so its encoder is exact
    here, and what its decoder gives is not what it gave there. A model with one decoder is exact throughout.

    Args:
        state_dict: its weights, under the reference's names. Those of heads (`downstream_head*`, `head.*`) and of a
            second decoder (`dec_blocks2.*`) are dropped; without `mask_token`, which such models do not use, it is 0.
        croco_kwargs: as in [`convert_croco`].

    Returns, Raises:
        As [`convert_croco`].
    """
    from .modeling_croco import CroCoModel

    config = _convert_config(croco_kwargs)
    kept = {name: tensor for name, tensor in state_dict.items() if not name.startswith(_NOT_OF_THE_BACKBONE)}
    kept.setdefault("mask_token", torch.zeros(1, 1, config.decoder_hidden_size))
    return config, _convert_weights(kept, config, CroCoModel)


def _convert_weights(
    remaining: dict[str, torch.Tensor], config: CroCoConfig, model_class: type[nn.Module]
) -> dict[str, torch.Tensor]:
    _check_position_tables(remaining, config)
    weights: dict[str, torch.Tensor] = {}
    unused = []
    for name, tensor in remaining.items():
        if _KEY_AND_VALUE.fullmatch(name):
            continue
        renames = [(re.match(pattern, name), new) for pattern, new in _RENAMES]
        found = [match.expand(new) + name[match.end() :] for match, new in renames if match]
        if found:
            weights[found[0]] = tensor
        else:
            unused.append(name)
    for name, tensor in remaining.items():
        match = _KEY_AND_VALUE.fullmatch(name)
        if match and match[2] == "k":
            partner = f"dec_blocks.{match[1]}.cross_attn.projv.{match[3]}"
            if partner not in remaining:
                raise ValueError(f"{name} has no partner {partner} in this state dict.")
            joined = torch.cat([tensor, remaining[partner]])
            weights[f"croco.decoder.layers.{match[1]}.cross_attention.kv_proj.{match[3]}"] = joined
    if "croco.decoder.mask_token" in weights:
        weights["croco.decoder.mask_token"] = weights["croco.decoder.mask_token"].flatten()
    embedding = "croco.encoder.patch_embedding.weight"
    if embedding in weights and weights[embedding].ndim == 4:  # a convolution's (out, channel, row, column)
        weights[embedding] = weights[embedding].permute(0, 2, 3, 1).flatten(1).contiguous()
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in model_class(config).state_dict().items()}
    if not any(name.startswith("croco.") for name in expected):
        weights = {name.removeprefix("croco."): tensor for name, tensor in weights.items()}
    _check_complete(weights, unused, expected)
    return weights


def _convert_config(croco_kwargs: Mapping[str, Any]) -> CroCoConfig:
    unknown = sorted(set(croco_kwargs) - set(_DEFAULTS))
    if unknown:
        raise ValueError(f"These arguments of the reference CroCo are not known: {', '.join(unknown)}.")
    given = _DEFAULTS | dict(croco_kwargs)
    if not given["norm_im2_in_dec"]:
        raise ValueError(
            "A CroCo that does not norm the source in its decoder (norm_im2_in_dec=False) has no match here."
        )
    rotary = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", given["pos_embed"])
    if not rotary and given["pos_embed"] != "cosine":
        raise ValueError(f"pos_embed should be 'cosine' or 'RoPE' and its base, not {given['pos_embed']!r}.")
    size = given["img_size"]
    return CroCoConfig(
        image_size=size if isinstance(size, int) else tuple(size),
        patch_size=given["patch_size"],
        mask_ratio=given["mask_ratio"],
        hidden_size=given["enc_embed_dim"],
        num_hidden_layers=given["enc_depth"],
        num_attention_heads=given["enc_num_heads"],
        intermediate_size=int(given["enc_embed_dim"] * given["mlp_ratio"]),
        decoder_hidden_size=given["dec_embed_dim"],
        decoder_num_hidden_layers=given["dec_depth"],
        decoder_num_attention_heads=given["dec_num_heads"],
        decoder_intermediate_size=int(given["dec_embed_dim"] * given["mlp_ratio"]),
        position_embedding_type="rope" if rotary else "sincos",
        rope_theta=float(rotary[1]) if rotary else 100.0,
    )


def _check_position_tables(state_dict: dict[str, torch.Tensor], config: CroCoConfig) -> None:
    """Take the fixed sin-cos tables out of `state_dict`: we compute them, and check here that they are the same."""
    if config.position_embedding_type != "sincos":
        return
    positions = patch_positions(*config.grid_size, config.grid_size, torch.device("cpu"))
    for name, width in (("enc_pos_embed", config.hidden_size), ("dec_pos_embed", config.decoder_hidden_size)):
        table = state_dict.pop(name, None)
        if table is None:
            raise ValueError(f"{name} is missing, which a CroCo with sin-cos positions has.")
        if table.shape != (config.num_patches, width):
            raise ValueError(f"{name} should be of shape {(config.num_patches, width)}, not {tuple(table.shape)}.")
        if not torch.allclose(table.float(), sincos_embedding(positions, width), atol=1e-5, rtol=0):
            raise ValueError(f"{name} is not the fixed sin-cos table; learned positions have no match here.")


def _check_complete(
    weights: Mapping[str, torch.Tensor], unused: list[str], expected: Mapping[str, torch.Size]
) -> None:
    problems = []
    unused = unused + sorted(set(weights) - set(expected))
    missing = sorted(set(expected) - set(weights))
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(expected[name])}"
        for name in sorted(set(expected) & set(weights))
        if weights[name].shape != expected[name]
    ]
    for what, names in (("not known", unused), ("missing", missing), ("of another shape", shapes)):
        if names:
            problems.append(f"{len(names)} {what}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}")
    if problems:
        raise ValueError("This is not a reference CroCo of these arguments. Weights " + "; ".join(problems) + ".")


__all__ = ["convert_croco", "convert_croco_backbone"]
