"""Convert released checkpoints of the reference CroCo, and of models fine-tuned from it, into models of this package.

Only this file of `croco` uses the rest of the package: it is not saved with a checkpoint.
"""

import argparse
import ast
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file

from singlelife._version import __version__
from singlelife.croco.configuration_croco import CroCoConfig
from singlelife.croco.image_processing_croco import CroCoImageProcessor
from singlelife.croco.modeling_croco import CroCoForPreTraining, CroCoModel, patch_positions, sincos_embedding
from singlelife.errors import CheckpointError
from singlelife.files import atomic_dir, check_room

LICENSE = "cc-by-nc-sa-4.0"  # of the released weights of CroCo, DUSt3R and MASt3R
CONVERSION = "conversion.json"

_PATCHES = "patch_embed.proj.weight"
_CARD = Path(__file__).with_name("converted_card.md")
_CLASSES = ("CroCoNet", "AsymmetricCroCo3DStereo", "AsymmetricMASt3R")

_WHAT = {  # the description of each kind of model, for its card
    "pretraining": "The whole model: encoder, decoder and pixel head compute the same as the reference.",
    "fine-tuned": "A model fine-tuned from CroCo, without its head. Encoder and decoder compute the same as before.",
    "two decoders": (
        "The encoder, which computes the same as in the original, and the first of its two decoders. In the original, "
        "the decoders exchange their tokens in every block; CroCo's decoder sees the encoder's tokens of the other "
        "view instead. **So the cross-attention here differs from the original's**: use the encoder (`--method "
        "feature-correlation`, depth probes). The second decoder and the heads were dropped."
    ),
}

# Reference name → ours. Each pattern replaces the part of a name before "weight" or "bias".
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


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        kind: `"pretraining"`: a whole CroCo. `"fine-tuned"`: one without its pixel head. `"two decoders"`: DUSt3R's
            or its successors' encoder, exact, and first decoder, which is used differently here.
        config: the model's config.
        parameters: the number of its parameters.
        sha256: the original checkpoint's hash.
    """

    kind: str
    config: CroCoConfig
    parameters: int
    sha256: str


def convert_checkpoint(checkpoint: Path, out: Path) -> Conversion:
    """Turn a reference checkpoint into a folder that `AutoModel.from_pretrained` and every command here opens.

    Args:
        checkpoint: a `.pth` with the key `model`, from which only tensors and plain values are unpickled, or a
            `.safetensors` with its model's arguments in a `config.json` beside it.
        out: the folder to make, written atomically: the config, weights as safetensors in float32, the image
            processor, a card with the licence, and a `conversion.json` about the original.

    Raises:
        CheckpointError: `out` exists already, or the checkpoint cannot be read or is not one of these models.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists already. Choose another folder, or delete it.")
    if not out.absolute().parent.is_dir():
        raise CheckpointError(f"{out}: there is no such folder to write into.")
    state, arguments = _read(checkpoint)
    kind = "pretraining" if "prediction_head.weight" in state else "fine-tuned"
    if any(name.startswith("dec_blocks2.") for name in state):
        kind = "two decoders"
    try:
        config, weights = convert_croco(state, arguments, head=kind == "pretraining")
    except ValueError as error:
        raise CheckpointError(f"{checkpoint} cannot be converted. {error}") from error
    weights = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    if broken := [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{checkpoint} has weights that are not finite, such as {broken[0]}.")
    with checkpoint.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    made = Conversion(kind, config, sum(tensor.numel() for tensor in weights.values()), digest)
    check_room(4 * made.parameters, out.absolute().parent, f"The model {out}", "choose another place for it")
    with atomic_dir(out) as aside:
        with torch.device("meta"):
            model = (CroCoForPreTraining if made.kind == "pretraining" else CroCoModel)(made.config)
        model.load_state_dict(weights, assign=True)
        model.save_pretrained(aside)
        rows, columns = made.config.grid_size
        size = {"height": rows * made.config.patch_size, "width": columns * made.config.patch_size}
        processor = CroCoImageProcessor(size=size)
        if made.kind == "two decoders":  # DUSt3R's images lie between -1 and 1; CroCo's are normalised as ImageNet's
            processor.image_mean = processor.image_std = [0.5, 0.5, 0.5]
        processor.save_pretrained(aside)
        auto = "AutoModelForPreTraining" if made.kind == "pretraining" else "AutoModel"
        about_it = {"source": checkpoint.name, "what": _WHAT[kind], "version": __version__, "auto": auto}
        card = _CARD.read_text(encoding="utf-8").format(**about_it, made=made, license=LICENSE)
        (aside / "README.md").write_text(card, encoding="utf-8")
        about = {"source": checkpoint.name, "sha256": made.sha256, "kind": made.kind, "arguments": arguments}
        about |= {"license": LICENSE, "singlelife": __version__}
        (aside / CONVERSION).write_text(json.dumps(about, indent=2, default=str) + "\n", encoding="utf-8")
    return made


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A checkpoint's weights, and the arguments that its model was built with."""
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}." + (" It is a folder." if path.is_dir() else ""))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        # The training's settings are a plain namespace, which runs no code; all other classes are refused.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the kind depends on the damage
        reason = " ".join(str(error).split())
        if "weights_only" in reason.lower():  # the rest of the message says how to run the code
            what = reason.partition("GLOBAL ")[2].split(" ")[0] or "something"
            raise CheckpointError(
                f"{path} is not a checkpoint, or holds more than tensors and plain values ({what}). Loading it could "
                "run code, so it is not opened. Save only its weights: torch.save({'model': …, 'croco_kwargs': …})."
            ) from error
        raise CheckpointError(f"{path} is not a checkpoint that can be read, or is cut off: {reason[:200]}") from error
    if not isinstance(content, Mapping):
        content = {}
    elif _PATCHES in content:
        content = {"model": content}
    if not _is_state(state := content.get("model")):
        raise CheckpointError(
            f"{path} is not a checkpoint of CroCo: it should be a dict with the weights as 'model', including "
            f"{_PATCHES}; it has {', '.join(map(str, list(content)[:8])) or 'nothing'}."
        )
    return dict(state), _arguments(path, content)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        state = load_file(path)
        beside = path.with_name("config.json")
        given = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except Exception as error:  # safetensors' own, OSError, ValueError
        raise CheckpointError(f"{path} is not a checkpoint that can be read: {error}") from error
    if not _is_state(state) or not isinstance(given, dict):
        raise CheckpointError(f"{path} is not a checkpoint of CroCo: it has no {_PATCHES}.")
    return state, {name: value for name, value in given.items() if name in _DEFAULTS}


def _is_state(state: Any) -> bool:
    return (
        isinstance(state, Mapping)
        and _PATCHES in state
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items())
    )


def _arguments(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the model was built with: stored in CroCo v2; in the settings of a training as the text of a
    call; the defaults for CroCo v1."""
    if "croco_kwargs" in content:
        if not isinstance(content["croco_kwargs"], Mapping):
            raise CheckpointError(f"{path}: its croco_kwargs are not a dict of arguments.")
        return dict(content["croco_kwargs"])
    call = getattr(content.get("args"), "model", None)
    if not isinstance(call, str):
        return {}
    try:
        parsed: Any = ast.parse(call, mode="eval").body
        if not isinstance(parsed, ast.Call) or getattr(parsed.func, "id", None) not in _CLASSES:
            raise ValueError("it is not one of " + ", ".join(_CLASSES))
        # Read as literals, never evaluated. Other arguments, such as depth_mode=('exp', -inf, inf), are for the heads.
        return {
            word.arg: ast.literal_eval(word.value) for word in parsed.keywords if word.arg and word.arg in _DEFAULTS
        }
    except (SyntaxError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot read the kind of model from its settings, {call[:80]!r}.") from error


def convert_croco(
    state_dict: Mapping[str, torch.Tensor], croco_kwargs: Mapping[str, Any], *, head: bool = True
) -> tuple[CroCoConfig, dict[str, torch.Tensor]]:
    """Rename a reference CroCo's weights, with none left over and none missing.

    Args:
        state_dict: the reference model's weights, under the names in its released checkpoints (their key `model`).
        croco_kwargs: the arguments that it was built with (their key `croco_kwargs`); others have their defaults.
        head: True for [`CroCoForPreTraining`]; False for a [`CroCoModel`], from a fine-tuned model: its heads
            (`downstream_head*`, `head.*`) and second decoder are dropped, and a missing `mask_token` is 0.

    Returns:
        The configuration and the state dict. The loss on normalised pixels is assumed, as in the reference recipe.

    Raises:
        ValueError: an argument or a weight is unknown, missing or has the wrong shape, or belongs to a variant that
            this CroCo does not have.
    """
    config, remaining = _convert_config(croco_kwargs), dict(state_dict)
    if config.num_hidden_layers + config.decoder_num_hidden_layers > len(remaining):
        raise ValueError(f"It has {len(remaining)} weights, too few for the blocks of its enc_depth and dec_depth.")
    if not head:
        remaining = {name: each for name, each in remaining.items() if not name.startswith(_NOT_OF_THE_BACKBONE)}
        remaining.setdefault("mask_token", torch.zeros(1, 1, config.decoder_hidden_size))
    _check_position_tables(remaining, config)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in remaining.items():
        if match := _KEY_AND_VALUE.fullmatch(name):
            key, value = (f"dec_blocks.{match[1]}.cross_attn.proj{each}.{match[3]}" for each in "kv")
            if not {key, value} <= remaining.keys():
                raise ValueError(f"{name} has no partner {key if name == value else value} in this state dict.")
            name = f"croco.decoder.layers.{match[1]}.cross_attention.kv_proj.{match[3]}"
            tensor = torch.cat([remaining[key], remaining[value]])
        for pattern, new in _RENAMES:
            name = re.sub(f"^{pattern}", new, name)
        weights[name if head else name.removeprefix("croco.")] = tensor
    prefix = "croco." if head else ""
    token, embedding = f"{prefix}decoder.mask_token", f"{prefix}encoder.patch_embedding.weight"
    if token in weights:
        weights[token] = weights[token].flatten()
    if embedding in weights and weights[embedding].ndim == 4:  # a convolution's (out, channel, row, column)
        weights[embedding] = weights[embedding].permute(0, 2, 3, 1).flatten(1).contiguous()
    try:
        with torch.device("meta"):
            (CroCoForPreTraining if head else CroCoModel)(config).load_state_dict(weights, assign=True)
    except RuntimeError as error:  # names weights that are missing, unknown or have another shape
        reason = " ".join(str(error).split())[:800]
        raise ValueError(f"This is not a reference CroCo with these arguments. {reason}") from error
    return config, weights


def _convert_config(croco_kwargs: Mapping[str, Any]) -> CroCoConfig:
    if unknown := sorted(map(str, set(croco_kwargs) - set(_DEFAULTS))):
        raise ValueError(f"These arguments of the reference CroCo are unknown: {', '.join(unknown)}.")
    given = _DEFAULTS | dict(croco_kwargs)
    if not given["norm_im2_in_dec"]:
        raise ValueError("A decoder that does not norm the source (norm_im2_in_dec=False) is not supported here.")
    rotary = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", str(given["pos_embed"]))
    if not rotary and given["pos_embed"] != "cosine":
        raise ValueError(f"pos_embed should be 'cosine' or 'RoPE' with its base, not {given['pos_embed']!r}.")
    size = given["img_size"]
    try:
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
    except (TypeError, ValueError, OverflowError, ZeroDivisionError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"Its arguments do not describe a CroCo, {dict(croco_kwargs)}: {reason}") from error


def _check_position_tables(state_dict: dict[str, torch.Tensor], config: CroCoConfig) -> None:
    """Remove the fixed sin-cos tables from `state_dict`, after checking that they equal the ones computed here."""
    if config.position_embedding_type != "sincos":
        return
    for name, width in (("enc_pos_embed", config.hidden_size), ("dec_pos_embed", config.decoder_hidden_size)):
        table = state_dict.pop(name, None)
        if table is None:
            raise ValueError(f"{name} is missing, but a CroCo with sin-cos positions should have it.")
        if table.shape != (config.num_patches, width):
            raise ValueError(f"{name} should have shape {(config.num_patches, width)}, not {tuple(table.shape)}.")
        positions = patch_positions(*config.grid_size, config.grid_size, torch.device("cpu"))
        if not torch.allclose(table.float(), sincos_embedding(positions, width), atol=1e-5, rtol=0):
            raise ValueError(f"{name} is not the fixed sin-cos table; learned positions are not supported here.")
