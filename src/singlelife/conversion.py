"""Released checkpoints of the reference CroCo, and of models fine-tuned from it, as models of this package."""

import argparse
import ast
import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm

from singlelife._version import __version__
from singlelife.croco import (
    CroCoConfig,
    CroCoForPreTraining,
    CroCoImageProcessor,
    CroCoModel,
    convert_croco,
    convert_croco_backbone,
)
from singlelife.errors import CheckpointError
from singlelife.files import check_room

LICENSE = "cc-by-nc-sa-4.0"  # of the released weights of CroCo, DUSt3R and MASt3R
CONVERSION = "conversion.json"

_ARGUMENTS = {
    "img_size", "patch_size", "mask_ratio", "enc_embed_dim", "enc_depth", "enc_num_heads", "dec_embed_dim",
    "dec_depth", "dec_num_heads", "mlp_ratio", "norm_im2_in_dec", "pos_embed",
}  # fmt: skip
_PATCHES = "patch_embed.proj.weight"
_CLASSES = ("CroCoNet", "AsymmetricCroCo3DStereo", "AsymmetricMASt3R")


@dataclass(frozen=True)
class Conversion:
    """What was made.

    Attributes:
        kind: `"pretraining"`: a whole CroCo. `"fine-tuned"`: one without its pixel head. `"two decoders"`: of DUSt3R
            or its kin the encoder, exact, and the first decoder, which is not used here as it was there.
        config: of the model.
        parameters: how many it has.
        sha256: of the checkpoint that it was made from.
    """

    kind: str
    config: CroCoConfig
    parameters: int
    sha256: str


def convert_checkpoint(checkpoint: Path, out: Path, *, progress: bool = False) -> Conversion:
    """Turn a reference checkpoint into a folder that `AutoModel.from_pretrained` and every command here takes.

    Args:
        checkpoint: a `.pth` with the key `model`, of which only tensors and plain values are unpickled, or a
            `.safetensors` with the arguments of its model in a `config.json` beside it.
        out: the folder to make; it appears when it is whole, with the config, weights as safetensors in float32, image
            processor, a card with the licence, and a `conversion.json` that says what it was made from.
        progress: show a progress bar on stderr.

    Raises:
        CheckpointError: `out` is there already, or the checkpoint cannot be read or is not one of these models.
    """
    if out.exists():
        raise CheckpointError(f"{out} is there already. Name a folder that is not.")
    if not out.absolute().parent.is_dir():
        raise CheckpointError(f"{out}: there is no such folder to write into.")
    state, arguments = _read(checkpoint)
    kind = _kind(state)
    try:
        config, weights = (convert_croco if kind == "pretraining" else convert_croco_backbone)(state, arguments)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint} cannot be converted. {error}") from error
    weights = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{checkpoint} has weights that are not finite ({broken[0]} and {len(broken) - 1} more)."
        )
    made = Conversion(kind, config, sum(tensor.numel() for tensor in weights.values()), _sha256(checkpoint, progress))
    check_room(4 * made.parameters, out.absolute().parent, f"The model {out}", "choose another place for it")
    _write(out, made, weights, checkpoint.name, arguments)
    return made


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights of a checkpoint and the arguments that its model was built with."""
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}." + (" It is a folder." if path.is_dir() else ""))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":
        raise CheckpointError(
            f"{path} is not a checkpoint: torch.save writes a zip archive or a pickle, and this "
            + (f"begins with {start!r}." if start else "is empty.")
        )
    try:
        # Its training's settings are a plain namespace, which runs nothing; all other classes are refused.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of many kinds, by what is damaged
        reason = " ".join(str(error).split())
        if "Unsupported global" in reason or "weights_only" in reason.lower():
            what = reason.partition("GLOBAL ")[2].split(" ")[0] or "something"
            raise CheckpointError(
                f"{path} holds more than tensors and plain values ({what}), which could run code when it is loaded, "
                "and is not opened. Save its weights alone: torch.save({'model': …, 'croco_kwargs': …})."
            ) from error
        raise CheckpointError(f"{path} is not a checkpoint that can be read, or is cut off: {reason[:200]}") from error
    if isinstance(content, Mapping) and _PATCHES in content:
        content = {"model": content}
    state = content.get("model") if isinstance(content, Mapping) else None
    if not _is_state(state):
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint of CroCo: it should be a dict with the weights as 'model', among them "
            f"{_PATCHES}; it has {keys or 'nothing'}."
        )
    assert isinstance(content, Mapping) and isinstance(state, Mapping)
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
    return state, {name: value for name, value in given.items() if name in _ARGUMENTS}


def _is_state(state: Any) -> bool:
    return (
        isinstance(state, Mapping)
        and _PATCHES in state
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items())
    )


def _arguments(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the model was built with: of CroCo v2 they are stored, of a training they are in its settings as the
    text of a call, and CroCo v1 has the defaults."""
    if "croco_kwargs" in content:
        if not isinstance(content["croco_kwargs"], Mapping):
            raise CheckpointError(f"{path}: its croco_kwargs are no dict of arguments.")
        return dict(content["croco_kwargs"])
    call = getattr(content.get("args"), "model", None)
    if not isinstance(call, str):
        return {}
    try:
        parsed = ast.parse(call, mode="eval").body
        if not (isinstance(parsed, ast.Call) and isinstance(parsed.func, ast.Name) and parsed.func.id in _CLASSES):
            raise ValueError("it is not one of " + ", ".join(_CLASSES))
        # Read as literals, never evaluated. Others, such as depth_mode=('exp', -inf, inf), are of the heads.
        return {
            word.arg: ast.literal_eval(word.value) for word in parsed.keywords if word.arg and word.arg in _ARGUMENTS
        }
    except (SyntaxError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: what its model is cannot be read from its settings, {call[:80]!r}.") from error


def _kind(state: Mapping[str, torch.Tensor]) -> str:
    if any(name.startswith("dec_blocks2.") for name in state):
        return "two decoders"
    return "pretraining" if "prediction_head.weight" in state else "fine-tuned"


def _sha256(path: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with (
        path.open("rb") as content,
        tqdm(total=size, desc="Hashing", unit="B", unit_scale=True, disable=not progress, leave=False) as bar,
    ):
        while block := content.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _write(
    out: Path, made: Conversion, weights: dict[str, torch.Tensor], source: str, arguments: Mapping[str, Any]
) -> None:
    aside = out.with_name(out.name + ".tmp")
    if aside.exists():  # of a conversion that was killed
        shutil.rmtree(aside)
    try:
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
        (aside / "README.md").write_text(_card(made, source), encoding="utf-8")
        about = {
            "source": source,
            "sha256": made.sha256,
            "kind": made.kind,
            "arguments": dict(arguments),
            "license": LICENSE,
            "singlelife": __version__,
        }
        (aside / CONVERSION).write_text(json.dumps(about, indent=2, default=str) + "\n", encoding="utf-8")
        aside.replace(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


_WHAT = {
    "pretraining": "The whole model: encoder, decoder and pixel head compute what the reference computes.",
    "fine-tuned": "A model fine-tuned from CroCo, without its head. Encoder and decoder compute what they did there.",
    "two decoders": (
        "The encoder, which computes what it did there, and the first of its two decoders. There, the decoders "
        "exchange their tokens in every block; CroCo's decoder sees the encoder's tokens of the other view instead. "
        "**So its cross-attention here is not the original's**: use the encoder (`--method feature-correlation`, "
        "depth probes). The second decoder and the heads were dropped."
    ),
}


def _card(made: Conversion, source: str) -> str:
    auto = "AutoModelForPreTraining" if made.kind == "pretraining" else "AutoModel"
    return dedent("""\
        ---
        license: {license}
        library_name: transformers
        tags: [croco]
        ---

        # {source}, converted

        {what}

        Converted by singlelife {version} from `{source}`, SHA-256
        `{sha256}`: {parameters:,} parameters.

        ```python
        import singlelife
        from transformers import AutoImageProcessor, {auto}

        model = {auto}.from_pretrained("FOLDER")
        processor = AutoImageProcessor.from_pretrained("FOLDER")
        ```

        ## Licence: non-commercial

        The released weights of CroCo, DUSt3R and MASt3R are under CC BY-NC-SA 4.0, and so is what is made of them: for
        non-commercial use only, with attribution, shared alike. Conversion does not change that. Should the checkpoint
        be of another owner, its licence is theirs to state.
        """).format(
        license=LICENSE,
        source=source,
        what=_WHAT[made.kind],
        version=__version__,
        sha256=made.sha256,
        parameters=made.parameters,
        auto=auto,
    )
