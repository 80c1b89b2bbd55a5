"""`singlelife evaluate depth` from end to end."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Array2D
from PIL import Image as Pictures
from tests.micro import save_micro_model
from transformers import pipeline

from singlelife.cli import main
from singlelife.croco import CroCoForDepthEstimation
from singlelife.evaluation.depth import FrozenFeatures, queries
from singlelife.evaluation.depth_data import METRICS, depth_metrics
from singlelife.evaluation.settings import ProbeConfig
from singlelife.results import read_results

from .conftest import bright_is_far, depth_dataset

pytestmark = pytest.mark.integration


@pytest.fixture
def data(tmp_path):
    images, depths = bright_is_far(96)
    return str(depth_dataset(tmp_path / "grey", images, list(depths), Array2D((32, 32), "float32")))


def run(tmp_path, *words: str, task: str = "depth") -> int:
    return main(["evaluate", task, *words, "--device", "cpu", "--cache-dir", str(tmp_path / "cache")])


@pytest.mark.parametrize(("probe", "epochs", "least"), [("small", 40, 0.7), ("linear", 40, 0.7), ("wide", 1, 0)])
def test_what_a_frozen_encoder_knows_is_found_and_can_be_used_again(tmp_path, data, probe, epochs, least, capsys):
    """Depth is the brightness of squares of 8 px here, which even an untrained encoder lets through. Patches are of
    8 px, and for the wide probe, which takes minutes to learn on a CPU, of 16 px."""
    model = "untrained:tiny"
    if probe == "wide":
        model = f"untrained:{save_micro_model(tmp_path / 'coarse', patch_size=16, hidden_size=64)}"
    saved, sheet, result, table = (tmp_path / name for name in ("saved", "sheet.png", "result.json", "all.jsonl"))
    words = [model, "--train", data, "--test", data, "--probe", probe, "--seeds", "2", "--epochs", str(epochs)]
    words += ["--batch-size", "16", "--learning-rate", "0.01", "--save", str(saved), "--sheet", str(sheet)]
    assert run(tmp_path, *words, "--json", str(result), "--results", str(table)) == 0
    found = json.loads(result.read_text())
    assert found["task"] == "depth" and found["protocol"] == "depth-metric/1" and found["num_items"] == 48
    assert found["data_hash"] != found["settings"]["train_hash"] and found["settings"]["probe"] == probe
    models = {model["model"]: model["measures"] for model in found["models"]}
    assert list(models) == [model, "mean depth", "mean depth at each place"]
    delta1 = models[model]["delta1"]
    assert delta1["mean"] > least and models["mean depth"]["delta1"]["mean"] < 0.45
    shown = capsys.readouterr()
    assert f"{delta1['mean']:.3f} ± {delta1['std']:.3f}" in shown.out
    assert all(f"wrote {file}" in shown.err for file in (result, table, sheet, saved / "model.safetensors"))
    assert f'model="{saved}"' in shown.err.splitlines()[-1]
    assert len(read_results(table)) == (2 + 1 + 1) * len(METRICS)
    with Pictures.open(sheet) as picture:
        assert picture.format == "PNG" and picture.size[0] > 300

    estimate = pipeline("depth-estimation", model=str(saved), device="cpu", trust_remote_code=False)
    assert type(estimate.model) is CroCoForDepthEstimation
    config = estimate.model.config
    shape = config.probe_hidden_size, config.probe_num_attention_heads, config.probe_mlp_ratio
    assert shape == ((1024, 16, 4) if probe == "wide" else (None, None, 2)) and config.probe_patch_size == 8
    images, depths = bright_is_far(96)
    predicted = [estimate(Pictures.fromarray(image))["predicted_depth"].numpy() for image in images[48:]]
    again = [depth_metrics(*map(np.ravel, maps))[0] for maps in zip(predicted, depths[48:], strict=True)]
    assert np.mean(again) == pytest.approx(delta1["per_seed"][0][0], abs=0.005)  # features are kept as float16


def test_simulated_lives_and_a_model_that_cannot_be_loaded(tmp_path, sim_test, sim_still, capsys):
    lives = ["--train", str(sim_still.path), "--num-train", "12", "--test", str(sim_test.path), "--num-test", "8"]
    (tmp_path / "empty").mkdir()
    words = ["untrained:tiny", str(tmp_path / "empty"), "--seeds", "1", "--epochs", "1", "--json", "-"]
    assert run(tmp_path, *words, *lives) == 1
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert "empty" in output.err and list(found["failed"]) == [str(tmp_path / "empty")]
    assert found["protocol"] == "depth-simulated/1" and len(found["models"]) == 3
    assert found["models"][0]["measures"]["delta1"]["std"] == 0
    assert found["models"][0]["settings"] == {"probe": "small"}  # what attentive is for 128 channels


@pytest.mark.parametrize(
    ("hidden", "patch", "size", "kind", "grid", "side"),
    [(768, 16, 224, "wide", (28, 28), 8), (1024, 14, 518, "wide", (74, 74), 7), (384, 14, 224, "small", (16, 16), 14)],
)
def test_wide_encoders_get_the_wide_readout_with_outputs_of_8_pixels(hidden, patch, size, kind, grid, side):
    encoder = SimpleNamespace(grid=(size // patch, size // patch), image_size=size)
    tokens = SimpleNamespace(features=lambda rows: torch.zeros(1, 1, hidden))
    features = FrozenFeatures(encoder, tokens, tokens, ProbeConfig(), "cpu")
    assert (features.probe, queries(features)) == (kind, (grid, side))
    small = replace(features, config=ProbeConfig(probe="small"))
    assert queries(small) == (encoder.grid, patch) and not small.probe_size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train-split", "test"], "48 of the 48 items"),
        (["--save", "{tmp}"], "--save {tmp}"),
        (["--depth-scale", "1000"], "--depth-scale"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_the_work(tmp_path, data, words, message, capsys):
    words = [word.format(tmp=tmp_path) for word in words]
    given = ["--train", data, "--test", data, "--seeds", "1", "--num-test", "48"]
    assert main(["evaluate", "depth", "untrained:tiny", *given, *words, "--cache-dir", str(tmp_path / "cache")]) == 2
    assert message.format(tmp=tmp_path) in capsys.readouterr().err
    assert run(tmp_path, "untrained:tiny", "untrained:tiny@1", *given, "--save", str(tmp_path / "new")) == 2
