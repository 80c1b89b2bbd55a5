"""Models in folders and on the Hub: found by revision, looked at before they are loaded, and refused with reasons."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from transformers import AutoModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from singlelife.alignment.models import checkpoints, load_model
from singlelife.croco import CroCoModel
from singlelife.errors import CheckpointError

from ..hub_server import Fault
from .test_backbones import MODELS, saved, views

LOAD = """
from singlelife.alignment.models import load_model
model = load_model(spec)
import torch
images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(251).to(torch.uint8)
result = [model.name, model.revision, model.logits(images[:1], images[1:]).tolist()]
"""


Files = dict[str, bytes]
Change = Callable[[Files], Files]


@pytest.fixture
def vit(tmp_path) -> Path:
    config, processor, _ = MODELS["vit"]
    return saved(tmp_path / "vit", config, processor)


# What may be wrong with a model: from the files of a good one to those of a bad one.


def content(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, files: Files) -> None:
    """Make a folder hold these files, and no others."""
    shutil.rmtree(folder)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def file_with(name: str, change: Callable[[bytes], bytes]) -> Change:
    return lambda files: {**files, name: change(files[name])}


def config_with(**fields: object) -> Change:
    return file_with("config.json", lambda data: json.dumps(json.loads(data) | fields).encode())


def weights_with(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def changed(data: bytes) -> bytes:
        weights = load(data)
        change(weights)
        return save(weights, {"format": "pt"})

    return file_with("model.safetensors", changed)


def without(name: str) -> Change:
    return lambda files: {other: data for other, data in files.items() if other != name}


def pickled(files: Files) -> Files:
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    return files


def weights_elsewhere(files: Files) -> Files:
    index = {"metadata": {}, "weight_map": dict.fromkeys(load(files["model.safetensors"]), "../other/x.safetensors")}
    files["model-00001-of-00001.safetensors"] = files.pop("model.safetensors")
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


def reference(files: Files) -> Files:
    files["CroCo.pth"] = files.pop("config.json")
    return files


def unfinished(files: Files) -> Files:
    return {f"checkpoint-20/{name}": data for name, data in files.items()} | without("config.json")(files)


def logits_of(spec: str) -> torch.Tensor:
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(251).to(torch.uint8)
    return load_model(spec).logits(images[:1], images[1:])


def huge_header() -> bytes:
    """The beginning of a safetensors file of four terabytes."""
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header


# The Hub.


@pytest.mark.integration
def test_a_model_of_the_hub_is_that_of_its_revision(hub, hub_client, vit):
    repository = hub.create("lives/vit", "model")
    first = hub.put(repository, content(vit))
    expected = logits_of(str(vit))
    weights = load_file(vit / "model.safetensors")
    weights["layernorm.bias"] += 1
    second = hub.put(repository, {"model.safetensors": save(weights, {"format": "pt"})})

    for spec, commit in (("lives/vit", second), (f"lives/vit@{first}", first), ("lives/vit@main", second)):
        name, revision, logits = hub_client(LOAD, spec=spec)
        assert (name, revision) == (spec, commit)
        assert torch.allclose(torch.tensor(logits), expected, atol=1e-5) == (commit == first)

    count = len(hub.requests)
    hub.faults.append(Fault("GET", "lives/vit", after=0, times=10**6))  # the Hub is away
    answer = hub_client.ask(LOAD, spec="lives/vit")
    assert answer.error is None and answer.result[1] == second
    assert f"earlier download of lives/vit, commit {second[:12]}" in answer.said
    assert len(hub.requests) > count


@pytest.mark.integration
def test_weights_in_parts_are_put_together(hub, hub_client, tmp_path, vit):
    model = AutoModel.from_pretrained(vit)
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    (tmp_path / "parts" / "preprocessor_config.json").write_bytes((vit / "preprocessor_config.json").read_bytes())
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    hub.put(hub.create("lives/parts", "model"), content(tmp_path / "parts"))
    expected = logits_of(str(vit))
    torch.testing.assert_close(torch.tensor(hub_client(LOAD, spec="lives/parts")[2]), expected)
    torch.testing.assert_close(logits_of(str(tmp_path / "parts")), expected)


@pytest.mark.integration
def test_only_what_is_needed_is_downloaded(hub, hub_client, vit):
    others = {"pytorch_model.bin": b"x" * 999, "model.fp16.safetensors": b"x" * 999, "tokenizer.json": b"{}"}
    hub.put(hub.create("lives/vit", "model"), content(vit) | others)
    hub_client(LOAD, spec="lives/vit")
    asked = {path.rsplit("/", 1)[-1] for method, path, _ in hub.requests if "/resolve/" in path}
    assert asked == {"config.json", "preprocessor_config.json", "model.safetensors"}


@pytest.mark.integration
def test_pickled_weights_of_the_hub_are_refused_unread(hub, hub_client, vit):
    hub.put(hub.create("lives/vit", "model"), pickled(content(vit)))
    answer = hub_client.ask(LOAD, spec="lives/vit")
    assert answer.error[0] == "CheckpointError" and "only pickled weights (pytorch_model.bin)" in answer.error[1]
    assert not any("pytorch_model.bin" in path for _, path, _ in hub.requests)


@pytest.mark.integration
def test_a_model_that_is_too_large_is_refused_before_it_is_downloaded(hub, hub_client, vit):
    hub.put(hub.create("lives/vit", "model"), content(vit) | {"model.safetensors": huge_header() + b"x" * 500_000})
    answer = hub_client.ask(LOAD, spec="lives/vit")
    assert answer.error[0] == "CheckpointError"
    assert "lives/vit is too large for the memory: its weights take 4398.0 GB as float32" in answer.error[1]
    assert hub.sent < 400_000  # the header, and not the file


@pytest.mark.integration
def test_code_in_a_repository_is_never_run(hub, hub_client, vit, tmp_path):
    marker = tmp_path / "ran"
    own = config_with(model_type="own", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"})(content(vit))
    own["own.py"] = f"open({str(marker)!r}, 'w')".encode()
    hub.put(hub.create("lives/own", "model"), own)
    answer = hub_client.ask(LOAD, spec="lives/own")
    assert answer.error[0] == "CheckpointError" and "of the architecture 'own', cannot be used" in answer.error[1]
    assert not marker.exists()


# Folders.


def test_logits_are_the_models_cross_attention_on_normalised_views(micro_checkpoint):
    provider = load_model(str(micro_checkpoint))
    assert provider.grid == (4, 4) and provider.image_size == 32 and provider.name == str(micro_checkpoint)
    model = CroCoModel.from_pretrained(micro_checkpoint).eval()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    with torch.no_grad():
        expected = model.cross_attention_logits(*((views(seed) / 255 - mean) / std for seed in (0, 1)))
    torch.testing.assert_close(provider.logits(views(0), views(1)), expected, atol=1e-5, rtol=1e-5)


def test_the_revision_of_a_folder_changes_with_what_decides_its_maps(vit, tmp_path):
    revisions = [load_model(str(vit)).revision]
    moved = vit.rename(tmp_path / "elsewhere")
    (moved / "notes.txt").write_text("nothing that matters")
    assert load_model(str(moved)).revision == revisions[0] and len(revisions[0]) == 64
    write(moved, weights_with(lambda weights: weights["layernorm.bias"].add_(1))(content(moved)))
    revisions.append(load_model(str(moved)).revision)
    write(moved, file_with("preprocessor_config.json", lambda data: data.replace(b"0.5", b"0.4", 1))(content(moved)))
    revisions.append(load_model(str(moved)).revision)
    assert len(set(revisions)) == 3


def test_untrained_models_of_any_architecture_have_revisions_of_their_seed(vit):
    first, again, other = (load_model(f"untrained:{vit}{seed}") for seed in ("", "@0", "@1"))
    assert first.revision == again.revision != other.revision
    torch.testing.assert_close(first.logits(views(0), views(1)), again.logits(views(0), views(1)))
    assert not torch.allclose(first.logits(views(0), views(1)), other.logits(views(0), views(1)))
    assert load_model("untrained:tiny@1").revision != load_model("untrained:tiny@2").revision


def test_a_folder_whose_weights_exceed_the_memory_is_refused_by_their_header(vit, monkeypatch):
    monkeypatch.setattr(checkpoints, "free_memory", lambda device: {"": 1000})
    with pytest.raises(
        CheckpointError, match=r"vit is too large for the memory: .* kB as float32, and 1.0 kB are free"
    ):
        load_model(str(vit))


def test_weights_in_half_precision_are_read_as_float32(vit):
    expected = logits_of(str(vit))
    weights = {name: tensor.bfloat16() for name, tensor in load_file(vit / "model.safetensors").items()}
    save_file(weights, vit / "model.safetensors", metadata={"format": "pt"})
    write(vit, config_with(dtype="bfloat16")(content(vit)))
    assert load_model(str(vit)).model.dtype == torch.float32
    torch.testing.assert_close(logits_of(str(vit)), expected, atol=0.05, rtol=0)


def query(weights: dict[str, torch.Tensor]) -> str:
    return next(name for name in weights if "query.weight" in name)


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (config_with(attn_implementation="someone/kernels"), "attn_implementation"),
        (config_with(vision_config={"_attn_implementation": {"": "a/b"}}), "_attn_implementation"),
        (config_with(quantization_config={"quant_method": "gptq"}), "quantization_config"),
        (config_with(transformers_weights="../x.safetensors"), "transformers_weights"),
        (config_with(num_attention_heads="many"), "architecture 'vit'"),
        (config_with(model_type=None), "singlelife convert"),
        (config_with(hidden_size=64), "another shape"),
        (weights_elsewhere, r"\.\./other/x.safetensors"),
        (weights_with(lambda weights: weights.pop(query(weights))), "1 missing"),
        (weights_with(lambda weights: weights[query(weights)].fill_(torch.nan)), "not finite"),
        (file_with("model.safetensors", lambda data: b"\xff" * 100), "model.safetensors is damaged"),
        (without("model.safetensors"), "no model.safetensors"),
        (file_with("config.json", lambda data: b"{"), "config.json"),
        (without("preprocessor_config.json"), "no image processor"),
        (reference, "singlelife convert"),
        (pickled, r"pickled weights \(pytorch_model.bin\)"),
        (unfinished, "checkpoint-20"),
    ],
)
def test_a_damaged_folder_is_named_and_what_is_wrong(damage, facts, vit):
    write(vit, damage(content(vit)))
    with pytest.raises(CheckpointError, match=facts) as error:
        load_model(str(vit))
    assert str(vit) in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("runs/none", "cannot be found"),
        ("./none", "no such folder, and not a Hub id"),
        ("untrained:none", "there is no folder none, and no such preset; the presets are base"),
        ("untrained:tiny@x", "the seed after '@' should be a whole number, not 'x'"),
    ],
)
def test_what_is_no_model_is_said(spec, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(spec)
