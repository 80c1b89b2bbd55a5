"""Depth from a frozen encoder: the loss by hand, checkpoints in and out, the pipeline, remote code."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForDepthEstimation, pipeline

from singlelife.croco import (
    CroCoConfig,
    CroCoDepthConfig,
    CroCoForDepthEstimation,
    CroCoForPreTraining,
    CroCoImageProcessor,
)
from singlelife.croco.depth_croco import CroCoAttentiveProbe, log_depth_map, scale_invariant_log_loss

from ..micro import MICRO, save_micro_model

SIZE = {"height": 32, "width": 32}

WITHOUT_THE_PACKAGE = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "singlelife":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForDepthEstimation, pipeline

folder = sys.argv[1]
expected = load_file(f"{folder}/expected.safetensors")
model = AutoModelForDepthEstimation.from_pretrained(folder, trust_remote_code=True)
assert (model(expected["pixels"]).predicted_depth - expected["depth"]).abs().max() == 0
estimate = pipeline("depth-estimation", model=folder, trust_remote_code=True)
assert estimate(Image.new("RGB", (40, 30)))["depth"].size == (40, 30)
model.save_pretrained(f"{folder}/again")  # what was loaded as remote code can be loaded as such once more
again = AutoModelForDepthEstimation.from_pretrained(f"{folder}/again", trust_remote_code=True)
assert all((weight == again.state_dict()[name]).all() for name, weight in model.state_dict().items())
"""


def config(**fields) -> CroCoDepthConfig:
    return CroCoDepthConfig(**MICRO | {"num_hidden_layers": 1} | fields)


def model(**fields) -> CroCoForDepthEstimation:
    """With a probe that is not as new ones are."""
    torch.manual_seed(0)
    made = CroCoForDepthEstimation(config(**fields)).eval()
    torch.nn.init.normal_(made.probe.head.weight, std=0.02)
    return made


@pytest.mark.integration
def test_without_a_trained_probe_there_is_no_depth_but_the_command_that_makes_one(tmp_path):
    estimate = pipeline("depth-estimation", str(save_micro_model(tmp_path)), device="cpu")
    with pytest.raises(ValueError, match=r"singlelife evaluate depth .*--train .*--save"):
        estimate(Image.new("RGB", (40, 30)))


@pytest.mark.parametrize("probe_type", ["attentive", "linear"])
def test_depth_is_a_map_within_its_range_and_only_the_probe_learns(probe_type):
    depth_model = model(probe_type=probe_type, min_depth=0.9, max_depth=1.1)
    labels = torch.rand(2, 32, 32) + 0.5
    outputs = depth_model(torch.randn(2, 3, 32, 32), labels=labels)
    assert outputs.predicted_depth.shape == (2, 32, 32)
    assert outputs.predicted_depth.min() >= 0.9 and outputs.predicted_depth.max() <= 1.1
    outputs.loss.backward()
    learns = {name for name, parameter in depth_model.named_parameters() if parameter.grad is not None}
    assert learns == {name for name, _ in depth_model.named_parameters() if name.startswith("probe.")}


def test_pixels_of_the_map_are_where_the_patches_are():
    """Patch 1 of a 2x3 grid covers rows 0 to 1, columns 2 to 3."""
    predicted = torch.zeros(1, 6, 4)
    predicted[0, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    maps = log_depth_map(predicted, (2, 3), 2)
    assert maps.shape == (1, 4, 6)
    assert maps[0, :2, 2:4].tolist() == [[1, 2], [3, 4]]
    assert maps.sum() == 10


def test_the_loss_is_that_of_the_paper_over_known_pixels():
    depth = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])
    error = torch.tensor([0.1, -0.2, 0.4])
    log_depth = torch.tensor([[[0.0, np.log(2.0)], [9.0, np.log(4.0)]]])
    log_depth.view(-1)[[0, 1, 3]] += error
    expected = error.square().mean() - 0.5 * error.mean().square()
    torch.testing.assert_close(scale_invariant_log_loss(log_depth, depth), expected)
    # Half of a common factor is forgiven, and an unknown pixel has no say.
    torch.testing.assert_close(scale_invariant_log_loss(depth.clamp_min(1).log() + 1, depth), torch.tensor(0.5))
    with pytest.raises(ValueError, match="no pixel with known depth"):
        scale_invariant_log_loss(torch.zeros(2, 2, 2), torch.stack([depth[0], torch.zeros(2, 2)]))
    with pytest.raises(ValueError, match="labels should have shape"):
        scale_invariant_log_loss(torch.zeros(1, 2, 2), torch.ones(1, 4, 4))


def test_weights_of_pretraining_become_the_encoder(tmp_path):
    torch.manual_seed(0)
    whole = CroCoForPreTraining(CroCoConfig(**MICRO))
    for name, trained in (("whole", whole), ("base", whole.croco)):
        trained.save_pretrained(tmp_path / name)
        loaded, info = AutoModelForDepthEstimation.from_pretrained(tmp_path / name, output_loading_info=True)
        assert type(loaded) is CroCoForDepthEstimation
        assert {key.split(".")[0] for key in info["missing_keys"]} == {"probe"} and not info["unexpected_keys"]
        for key, weight in whole.croco.encoder.state_dict().items():
            assert torch.equal(loaded.croco.encoder.state_dict()[key], weight)
        assert all(torch.isfinite(weight).all() for weight in loaded.state_dict().values())
        loaded(torch.zeros(1, 3, 32, 32), labels=torch.ones(1, 32, 32)).loss.backward()
        assert all(weight.grad is None for weight in loaded.croco.parameters())
        assert all(weight.grad is not None for weight in loaded.probe.parameters())


def test_the_probes_fields_are_those_of_depth_checkpoints_alone(tmp_path):
    """Depth checkpoints of before had them in a CroCoConfig, and still open."""
    save_micro_model(tmp_path / "pretraining")
    assert not {"probe_type", "max_depth"} & set(json.loads((tmp_path / "pretraining/config.json").read_text()))
    depth_model = model(probe_type="linear", max_depth=3.0)
    depth_model.save_pretrained(tmp_path / "depth")
    described = json.loads((tmp_path / "depth/config.json").read_text())
    assert described["model_type"] == "croco_depth" and described["probe_type"] == "linear"
    described["model_type"] = "croco"
    del described["auto_map"]
    (tmp_path / "depth/config.json").write_text(json.dumps(described))
    for load in (AutoModelForDepthEstimation.from_pretrained, CroCoForDepthEstimation.from_pretrained):
        old = load(tmp_path / "depth")
        assert type(old) is CroCoForDepthEstimation and old.config.max_depth == 3
        assert all(torch.equal(weight, old.state_dict()[name]) for name, weight in depth_model.state_dict().items())


def test_a_model_without_decoder_takes_one_view():
    encoder = model().croco
    views = torch.zeros(1, 3, 32, 32)
    assert encoder(views).last_hidden_state.shape == (1, 16, 32)
    with pytest.raises(ValueError, match="has no decoder"):
        encoder(views, views)
    with pytest.raises(ValueError, match="has no decoder"):
        encoder.cross_attention_logits(views, views)


@pytest.mark.integration
@pytest.mark.parametrize("probe_type", ["attentive", "linear"])
def test_a_saved_model_is_a_pipeline_that_gives_pictures(tmp_path, probe_type, caplog):
    depth_model = model(probe_type=probe_type)
    depth_model.save_pretrained(tmp_path)
    processor = CroCoImageProcessor(size=SIZE, crop_to_aspect=False)
    processor.save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8))
    estimate = pipeline("depth-estimation", model=str(tmp_path), device="cpu")
    assert type(estimate.model) is CroCoForDepthEstimation
    result = estimate(image)
    assert result["depth"].size == (44, 30) and np.ptp(np.array(result["depth"])) == 255
    with torch.no_grad():
        outputs = depth_model(**processor(image, return_tensors="pt"))
    (expected,) = processor.post_process_depth_estimation(outputs, [(30, 44)])
    torch.testing.assert_close(result["predicted_depth"], expected["predicted_depth"])
    assert [len(one) for one in processor.post_process_depth_estimation(outputs)[0].values()] == [32]
    with pytest.raises(ValueError, match="1 depth maps, but 2 target_sizes"):
        processor.post_process_depth_estimation(outputs, [(30, 44)] * 2)
    assert "is not supported" not in caplog.text
    assert AutoModel.from_pretrained(tmp_path).encoder.layers  # its encoder, for whoever wants features


@pytest.mark.integration
def test_it_loads_as_remote_code_without_the_package(tmp_path):

    depth_model = model()
    depth_model.save_pretrained(tmp_path)
    CroCoImageProcessor(size=SIZE, crop_to_aspect=False).save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        depth = depth_model(pixels).predicted_depth
    save_file({"pixels": pixels, "depth": depth}, tmp_path / "expected.safetensors")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    words = [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({"probe_type": "deep"}, "probe_type should be one of"),
        ({"probe_hidden_size": 0}, "probe_hidden_size should be at least 1"),
        ({"min_depth": 2, "max_depth": 1}, "min_depth 2 and max_depth 1"),
    ],
)
def test_settings_of_no_probe_are_refused(fields, facts):
    with pytest.raises(StrictDataclassError) as raised:
        config(**fields)
    assert facts in str(raised.value.__cause__ or raised.value)
    with pytest.raises(ValueError, match="a quarter of it by its 5 heads"):
        CroCoAttentiveProbe(32, (4, 4), 1, width=32, num_heads=5)
