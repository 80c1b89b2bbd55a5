"""Reference checkpoints as the command line converts them: exact, safe to open, and honest about what they are."""

import argparse
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

from singlelife.alignment.models import load_model
from singlelife.cli import main
from singlelife.croco.convert import convert_checkpoint
from singlelife.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "data" / "croco_reference"


def golden(name: str = "rope100") -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, not a dict)
        kwargs = json.loads(file.metadata()["croco_kwargs"])
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    return tensors, state, kwargs


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def call(name: str, arguments: dict, more: str = "") -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())}{more})"


def two_decoders(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of DUSt3R's weights, with a second decoder of its own."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("prediction_head")}
    second = {name.replace("dec_blocks.", "dec_blocks2."): -tensor for name, tensor in kept.items()}
    return kept | {k: v for k, v in second.items() if k.startswith("dec_blocks2.")} | {
        "downstream_head1.proj.weight": torch.zeros(4, 4), "downstream_head2.proj.weight": torch.zeros(4, 4)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["cosine", "rope100"])
def test_a_released_checkpoint_gives_the_references_numbers(name, tmp_path, capsys):
    tensors, state, kwargs = golden(name)
    torch.save({"model": state, "croco_kwargs": kwargs}, tmp_path / "CroCo.pth")
    assert main(["convert", str(tmp_path / "CroCo.pth"), str(tmp_path / "out")]) == 0
    assert "108,016 parameters, 4x4 patches of 8 px" in capsys.readouterr().out
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        outputs = model(tensors["target"], tensors["source"], bool_masked_pos=tensors["mask"])
        close(outputs.logits, tensors["prediction"])
        close(outputs.loss, tensors["loss_norm"].squeeze())
        close(
            model.croco.cross_attention_logits(tensors["target"], tensors["source"]),
            tensors["cross_attention_logits"].mean(dim=(1, 2)),
        )
    assert load_model(str(tmp_path / "out")).grid == (4, 4)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n") and "non-commercial" in card
    about = json.loads((tmp_path / "out/conversion.json").read_text())
    assert about["source"] == "CroCo.pth" and about["kind"] == "pretraining" and about["arguments"] == kwargs
    assert about["sha256"] in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CroCo.pth", "out"]


def test_a_checkpoint_of_a_training_run_has_its_arguments_as_text(tmp_path):
    _, state, kwargs = golden()
    arguments = argparse.Namespace(model=call("CroCoNet", kwargs), lr=1e-4)
    torch.save({"model": state, "args": arguments, "epoch": 3, "optimizer": {}}, tmp_path / "c.pth")
    assert convert_checkpoint(tmp_path / "c.pth", tmp_path / "out").config.rope_theta == 100


def test_weights_without_arguments_are_of_the_first_version(tmp_path):
    """Which has the defaults: a base model of 224 px, so these weights do not fit."""
    torch.save(golden("cosine")[1], tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"enc_pos_embed should be of shape \(196, 768\)"):
        convert_checkpoint(tmp_path / "c.pth", tmp_path / "out")


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_of_two_decoders_the_encoder_is_exact_and_the_first_is_taken(form, tmp_path, capsys):
    tensors, state, kwargs = golden()
    file = tmp_path / f"dust3r.{form}"
    if form == "pth":
        text = call("AsymmetricCroCo3DStereo", kwargs, ", head_type='dpt', depth_mode=('exp', -inf, inf)")
        torch.save({"model": two_decoders(state), "args": argparse.Namespace(model=text)}, file)
    else:
        save_file({name: tensor.contiguous() for name, tensor in two_decoders(state).items()}, file)
        (tmp_path / "config.json").write_text(json.dumps(kwargs | {"head_type": "dpt", "freeze": "none"}))
    assert main(["convert", str(file), str(tmp_path / "out")]) == 0
    assert "cross-attention is not the original's" in capsys.readouterr().err
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        close(model(tensors["source"]).last_hidden_state, tensors["encoder_source"])
        close(  # with CroCo's memory, the first decoder's weights do what they did in CroCo
            model.cross_attention_logits(tensors["target"], tensors["source"]),
            tensors["cross_attention_logits"].mean(dim=(1, 2)),
        )
    assert tuple(AutoImageProcessor.from_pretrained(tmp_path / "out").image_mean) == (0.5, 0.5, 0.5)
    assert "not the original's" in (tmp_path / "out/README.md").read_text()


def test_a_fine_tuned_model_loses_its_head_alone(tmp_path, capsys):
    tensors, state, kwargs = golden()
    kept = {n: t for n, t in state.items() if not n.startswith("prediction_head") and n != "mask_token"}
    torch.save({"model": kept | {"head.weight": torch.zeros(2)}, "croco_kwargs": kwargs}, tmp_path / "flow.pth")
    assert main(["convert", str(tmp_path / "flow.pth"), str(tmp_path / "out")]) == 0
    assert "no pixel head" in capsys.readouterr().err
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        close(model(tensors["target"], tensors["source"]).decoder_last_hidden_state, tensors["decoder_unmasked"])
    assert not model.decoder.mask_token.any()


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def poisoned(folder: Path) -> Path:
    torch.save({"model": golden()[1], "croco_kwargs": golden()[2], "more": Payload()}, folder / "c.pth")
    return folder / "c.pth"


def old_poisoned(folder: Path) -> Path:
    (folder / "c.pth").write_bytes(pickle.dumps({"model": Payload()}))
    return folder / "c.pth"


def cut_off(folder: Path) -> Path:
    torch.save({"model": golden()[1]}, folder / "c.pth")
    (folder / "c.pth").write_bytes((folder / "c.pth").read_bytes()[:5000])
    return folder / "c.pth"


def saved(content: object):
    def make(folder: Path) -> Path:
        torch.save(content() if callable(content) else content, folder / "c.pth")
        return folder / "c.pth"

    return make


def written(content: bytes):
    def make(folder: Path) -> Path:
        (folder / "c.pth").write_bytes(content)
        return folder / "c.pth"

    return make


def changed(weights: dict[str, torch.Tensor] | None = None, **changes: object):
    return lambda: {"model": golden()[1] | (weights or {}), "croco_kwargs": golden()[2]} | changes


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "c.pth", "w") as archive:
        archive.writestr("a", "b")
    return folder / "c.pth"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (poisoned, "holds more than tensors and plain values"),
        (old_poisoned, "holds more than tensors and plain values"),
        (cut_off, "is not a checkpoint that can be read"),
        (zipped, "is not a checkpoint that can be read"),
        (written(b"# A note"), "this begins with b'# '"),
        (written(b""), "this is empty"),
        (lambda folder: folder / "none.pth", "There is no file"),
        (lambda folder: folder, "It is a folder"),
        (saved({"state_dict": {}}), "it has state_dict"),
        (saved([1, 2]), "it has list"),
        (saved({"model": {"patch_embed.proj.weight": 3}}), "is not a checkpoint of CroCo"),
        (saved(changed(croco_kwargs=[1])), "croco_kwargs are no dict"),
        (saved(changed(croco_kwargs={"depth": 3})), "arguments of the reference CroCo are not known: depth"),
        (saved(changed(weights={"extra": torch.zeros(1)})), "1 not known: extra"),
        (saved(changed(weights={"mask_token": torch.full((1, 1, 32), torch.nan)})), "weights that are not finite"),
        (
            saved(lambda: {"model": golden()[1], "args": argparse.Namespace(model="CroCoNet(enc_depth=open('x'))")}),
            "cannot be read from its settings",
        ),
        (
            saved(lambda: {"model": golden()[1], "args": argparse.Namespace(model="exec(mask_ratio=1)")}),
            "cannot be read from its settings",
        ),
    ],
)
def test_what_cannot_be_converted_is_said_and_nothing_is_made(make, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = make(tmp_path)
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not {path.name for path in tmp_path.iterdir()} - {"c.pth"}


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main(["convert", str(tmp_path / "c.pth"), str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "c.pth"), str(tmp_path / "no/such/out")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_what_a_killed_conversion_left_is_no_hindrance(tmp_path):
    _, state, kwargs = golden()
    torch.save({"model": state, "croco_kwargs": kwargs}, tmp_path / "c.pth")
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp/model.safetensors").write_bytes(b"half")
    convert_checkpoint(tmp_path / "c.pth", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "out"]
