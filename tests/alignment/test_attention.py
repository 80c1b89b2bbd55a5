"""Which models can be compared, and what is said of those that cannot."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from singlelife.alignment.models import load_model
from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor, CroCoModel
from singlelife.errors import CheckpointError

MICRO = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(42)
    CroCoForPreTraining(CroCoConfig(**MICRO)).save_pretrained(tmp_path / "model")
    CroCoImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def views(seed: int, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (3, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_logits_are_the_models_cross_attention_on_normalised_views(checkpoint):
    provider = load_model(str(checkpoint))
    assert provider.grid == (4, 4) and provider.image_size == 32 and provider.name == str(checkpoint)
    model = CroCoModel.from_pretrained(checkpoint).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    target, source = (
        (v / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1) for v in (views(0), views(1))
    )  # what ImageNet models are given
    with torch.no_grad():
        expected = model.cross_attention_logits(target, source)
    torch.testing.assert_close(provider.logits(views(0), views(1)), expected, atol=1e-5, rtol=1e-5)


def test_views_of_another_size_are_resized(checkpoint):
    provider = load_model(str(checkpoint))
    assert provider.logits(views(0, 48), views(1, 48)).shape == (3, 16, 16)


def test_untrained_models_are_those_of_their_seed(checkpoint):
    first, again, other = (load_model(f"untrained:{checkpoint}{seed}") for seed in ("", "@0", "@1"))
    pair = views(0), views(1)
    torch.testing.assert_close(first.logits(*pair), again.logits(*pair))
    assert not torch.allclose(first.logits(*pair), other.logits(*pair))
    assert not torch.allclose(first.logits(*pair), load_model(str(checkpoint)).logits(*pair))
    assert load_model("untrained:tiny").grid == (8, 8)


def test_making_an_untrained_model_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model("untrained:tiny@5")
    assert torch.equal(torch.rand(3), expected)


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def drop_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def truncate_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "cross" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def widen_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}), encoding="utf-8")


def poison_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if "cross" in name)].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def unfinish(folder: Path) -> None:
    shutil.copytree(folder, folder / "checkpoint-20")
    drop_config(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_config, r"The config.json of \S+ cannot be read"),
        (drop_config, "holds no model: it has no config.json"),
        (drop_processor, "no image processor"),
        (truncate_weights, "cannot be loaded as safetensors"),
        (pickle_weights, "only pickled weights"),
        (drop_a_weight, "do not fit its config.json: 1 missing"),
        (widen_config, "do not fit its config.json|cannot be loaded"),
        (poison_weights, "not finite"),
        (unfinish, "unfinished run; its last checkpoint is .*checkpoint-20"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_what_is_wrong(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(str(checkpoint))
    assert str(checkpoint) in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("runs/none", "cannot be found"),
        ("./none", "no such folder, and not a Hub id"),
        ("none", "no such folder, and not a Hub id"),
        ("untrained:none", "there is no folder none, and no such preset; there are base"),
        ("untrained:tiny@x", "the seed after '@' should be a whole number, not 'x'"),
    ],
)
def test_what_is_no_model_is_said(spec, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(spec)


def test_weights_that_overflow_are_named_not_scored(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if "cross" in name and "q" in name and name.endswith("weight"))
    weights[name] *= 1e38
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="gives attention logits that are not finite"):
        load_model(str(checkpoint)).logits(views(0), views(1))
