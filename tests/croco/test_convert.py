"""Reference checkpoints as the command line converts them: exact, safe to open, and honest about what they are."""

import argparse
import io
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

from singlelife.alignment.models import load_model
from singlelife.cli import main
from singlelife.croco.convert import convert_checkpoint
from singlelife.errors import CheckpointError

from .shared import close, golden


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
    assert load_model(str(tmp_path / "out")).grid == (4, 4)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n") and "non-commercial" in card
    about = json.loads((tmp_path / "out/conversion.json").read_text())
    assert about["source"] == "CroCo.pth" and about["kind"] == "pretraining" and about["arguments"] == kwargs
    assert about["sha256"] in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CroCo.pth", "out"]


def test_a_checkpoint_of_a_training_run_has_its_arguments_as_text(tmp_path):
    _, state, kwargs = golden("rope100")
    arguments = argparse.Namespace(model=call("CroCoNet", kwargs), lr=1e-4)
    torch.save({"model": state, "args": arguments, "epoch": 3, "optimizer": {}}, tmp_path / "c.pth")
    assert convert_checkpoint(tmp_path / "c.pth", tmp_path / "out").config.rope_theta == 100


def test_weights_without_arguments_are_of_the_first_version(tmp_path):
    """Which has the defaults: a base model of 224 px, so these weights do not fit."""
    torch.save(golden("cosine")[1], tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"enc_pos_embed should have shape \(196, 768\)"):
        convert_checkpoint(tmp_path / "c.pth", tmp_path / "out")


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_of_two_decoders_the_encoder_is_exact_and_the_first_is_taken(form, tmp_path, capsys):
    tensors, state, kwargs = golden("rope100")
    file = tmp_path / f"dust3r.{form}"
    if form == "pth":
        text = call("AsymmetricCroCo3DStereo", kwargs, ", head_type='dpt', depth_mode=('exp', -inf, inf)")
        torch.save({"model": two_decoders(state), "args": argparse.Namespace(model=text)}, file)
    else:
        save_file({name: tensor.contiguous() for name, tensor in two_decoders(state).items()}, file)
        (tmp_path / "config.json").write_text(json.dumps(kwargs | {"head_type": "dpt", "freeze": "none"}))
    assert main(["convert", str(file), str(tmp_path / "out")]) == 0
    assert "--method feature-correlation" in capsys.readouterr().err
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        close(model(tensors["source"]).last_hidden_state, tensors["encoder_source"])
        close(  # with CroCo's memory, the first decoder's weights do what they did in CroCo
            model.cross_attention_logits(tensors["target"], tensors["source"]),
            tensors["cross_attention_logits"].mean(dim=(1, 2)),
        )
    assert tuple(AutoImageProcessor.from_pretrained(tmp_path / "out").image_mean) == (0.5, 0.5, 0.5)
    assert "differs from the original's" in (tmp_path / "out/README.md").read_text()


def test_a_fine_tuned_model_loses_its_head_alone(tmp_path, capsys):
    tensors, state, kwargs = golden("rope100")
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


def saved(**changes: object) -> bytes:
    """A checkpoint of which some things are other than usual."""
    _, state, kwargs = golden("rope100")
    buffer = io.BytesIO()
    torch.save({"model": state, "croco_kwargs": kwargs} | changes, buffer)
    return buffer.getvalue()


PARTNER = "dec_blocks.1.cross_attn.projv.bias"


def lacking(name: str) -> dict[str, torch.Tensor]:
    return {other: tensor for other, tensor in golden("rope100")[1].items() if other != name}


def trained(call: str) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": golden("rope100")[1], "args": argparse.Namespace(model=call)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (lambda: saved(more=Payload()), "more than tensors and plain values"),
        (lambda: pickle.dumps({"model": Payload()}), "more than tensors and plain values"),
        (lambda: saved()[:5000], "cannot be read|can be read"),
        (lambda: b"# A note", "is not a checkpoint"),
        (lambda: saved(model={}), "croco_kwargs"),
        (lambda: saved(model={"patch_embed.proj.weight": 3}), "is not a checkpoint of CroCo"),
        (lambda: saved(croco_kwargs=[1]), "croco_kwargs are not a dict"),
        *(
            (lambda wrong=wrong: saved(croco_kwargs=golden("rope100")[2] | wrong), next(iter(wrong)))
            for wrong in (
                {"enc_embed_dim": "wide"},
                {"img_size": None},
                {"patch_size": 0},
                {"mlp_ratio": float("inf")},
                {"dec_depth": 10**9},
                {"depth": 3},
                {"norm_im2_in_dec": False},
                {"pos_embed": "learned"},
            )
        ),
        (lambda: saved(model=golden("rope100")[1] | {"enc_blocks.0.extra": torch.zeros(1)}), "enc_blocks.0.extra"),
        (lambda: saved(model=golden("rope100")[1] | {"enc_norm.bias": torch.zeros(3)}), "croco.encoder.norm.bias"),
        (lambda: saved(model=lacking("enc_norm.bias")), 'Missing .*"croco.encoder.norm.bias"'),
        (lambda: saved(model=lacking(PARTNER)), f"has no partner {PARTNER}"),
        (lambda: saved(model=golden("rope100")[1] | {"mask_token": torch.full((1, 1, 32), torch.nan)}), "not finite"),
        (lambda: trained("CroCoNet(enc_depth=open('x'))"), "from its settings"),
        (lambda: trained("exec(mask_ratio=1)"), "from its settings"),
    ],
)
def test_what_cannot_be_converted_is_said_and_nothing_is_made(content, facts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.pth").write_bytes(content())
    assert main(["convert", "c.pth", "out"]) == 2
    error = capsys.readouterr().err
    assert re.search(facts, error) and "Traceback" not in error and "weights_only" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


def test_what_is_no_file_is_said_and_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for file, out, fact in (
        ("none.pth", "out", "There is no file"),
        (".", "out", "It is a folder"),
        ("c.pth", "there", "exists already"),
        ("c.pth", "no/such/out", "no such folder"),
    ):
        assert main(["convert", str(tmp_path / file), str(tmp_path / out)]) == 2
        assert fact in capsys.readouterr().err
