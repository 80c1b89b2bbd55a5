"""`singlelife evaluate depth` from end to end."""

import json

import numpy as np
import pytest
import torch
from datasets import Array2D
from PIL import Image as Pictures
from transformers import pipeline

from singlelife.cli import main
from singlelife.croco import CroCoForDepthEstimation
from singlelife.evaluation.depth_data import METRICS
from singlelife.results import read_results

from .conftest import bright_is_far, depth_dataset

pytestmark = pytest.mark.integration


@pytest.fixture
def data(tmp_path):
    images, depths = bright_is_far(96)
    return str(depth_dataset(tmp_path / "grey", images, list(depths), Array2D((32, 32), "float32")))


def run(tmp_path, *words: str) -> int:
    return main(["evaluate", "depth", *words, "--device", "cpu", "--cache-dir", str(tmp_path / "cache")])


@pytest.mark.parametrize("probe", ["attentive", "linear"])
def test_what_a_frozen_encoder_knows_is_found_and_can_be_used_again(tmp_path, data, probe, capsys):
    """Depth is brightness here, which even an untrained encoder lets through."""
    saved, sheet, result, table = (tmp_path / name for name in ("saved", "sheet.png", "result.json", "all.jsonl"))
    words = ["untrained:tiny", "--train", data, "--test", data, "--probe", probe, "--seeds", "2", "--epochs", "40"]
    words += ["--batch-size", "16", "--learning-rate", "0.01", "--save", str(saved), "--sheet", str(sheet)]
    assert run(tmp_path, *words, "--json", str(result), "--results", str(table)) == 0
    found = json.loads(result.read_text())
    assert found["task"] == "depth" and found["protocol"] == "depth-metric/1" and found["num_items"] == 48
    assert found["data_hash"] != found["settings"]["train_hash"] and found["settings"]["probe"] == probe
    models = {model["model"]: model["measures"] for model in found["models"]}
    assert list(models) == ["untrained:tiny", "mean depth", "mean depth at each place"]
    measures = models["untrained:tiny"]
    assert set(measures) == set(METRICS) and len(measures["delta1"]["per_seed"]) == 2
    assert measures["delta1"]["low"] <= measures["delta1"]["mean"] <= measures["delta1"]["high"]
    assert measures["delta1"]["mean"] > 0.7 > 0.45 > models["mean depth"]["delta1"]["mean"]
    assert f"{measures['delta1']['mean']:.3f} ± {measures['delta1']['std']:.3f}" in capsys.readouterr().out
    frame = read_results(table)
    delta1 = frame[(frame.model == "untrained:tiny") & (frame.metric == "delta1")]
    assert delta1.seed.tolist() == [0, 1] and delta1.value.mean() == pytest.approx(measures["delta1"]["mean"])
    with Pictures.open(sheet) as picture:
        assert picture.format == "PNG" and picture.size[0] > 300

    estimate = pipeline("depth-estimation", model=str(saved), device="cpu", trust_remote_code=False)
    assert type(estimate.model) is CroCoForDepthEstimation
    images, depths = bright_is_far(96)
    predicted = estimate(Pictures.fromarray(images[60]))["predicted_depth"].numpy()
    ratio = np.maximum(predicted / depths[60], depths[60] / predicted)
    assert (ratio < 1.25).mean() > 0.6
    assert not list(tmp_path.glob("*.partial"))


def test_simulated_lives_and_a_model_that_cannot_be_loaded(tmp_path, sim_test, sim_still, capsys):
    lives = ["--train", str(sim_still.path), "--num-train", "12", "--test", str(sim_test.path), "--num-test", "8"]
    words = ["untrained:tiny", str(tmp_path / "nowhere"), "--seeds", "1", "--epochs", "1", "--json", "-"]
    assert run(tmp_path, *words, *lives) == 1
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert "nowhere" in output.err and list(found["failed"]) == [str(tmp_path / "nowhere")]
    assert found["protocol"] == "depth-simulated/1" and len(found["models"]) == 3
    assert found["models"][0]["measures"]["delta1"]["std"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train-split", "test"], "48 of the 48 items"),
        (["--save", "{tmp}"], "--save {tmp}"),
        (["--json", "{tmp}/no/such/file"], "--json {tmp}/no/such/file"),
        (["--depth-scale", "1000"], "--depth-scale"),
        (["--epochs", "0"], "--epochs 0"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_the_work(tmp_path, data, words, message, capsys):
    words = [word.format(tmp=tmp_path) for word in words]
    given = ["--train", data, "--test", data, "--seeds", "1", "--num-test", "48"]
    assert main(["evaluate", "depth", "untrained:tiny", *given, *words, "--cache-dir", str(tmp_path / "cache")]) == 2
    assert message.format(tmp=tmp_path) in capsys.readouterr().err
    assert run(tmp_path, "untrained:tiny", "untrained:tiny@1", *given, "--save", str(tmp_path / "new")) == 2


def test_a_model_that_is_no_croco_is_probed_but_not_saved(tmp_path, data, capsys):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    small = ViTConfig(image_size=32, patch_size=8, hidden_size=36, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=32)  # fmt: skip
    ViTModel(small).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    words = [str(tmp_path / "vit"), "--train", data, "--test", data, "--seeds", "1", "--epochs", "1"]
    words += ["--no-baselines", "--num-test", "4"]
    assert run(tmp_path, *words, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["measures"]
    assert run(tmp_path, *words, "--save", str(tmp_path / "saved")) == 2
    assert str(tmp_path / "vit") in capsys.readouterr().err and not (tmp_path / "saved").exists()
