"""`singlelife evaluate depth` from end to end."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Array2D
from PIL import Image as Pictures
from transformers import pipeline

from singlelife.cli import main
from singlelife.croco import CroCoForDepthEstimation
from singlelife.evaluation.depth_protocols import METRICS

from .conftest import bright_is_far, depth_dataset


@pytest.fixture
def data(tmp_path):
    images, depths = bright_is_far(96)
    return str(depth_dataset(tmp_path / "grey", images, list(depths), Array2D((32, 32), "float32")))


def run(tmp_path, *words: str) -> int:
    return main(["evaluate", "depth", *words, "--cache-dir", str(tmp_path / "cache")])


@pytest.mark.parametrize("probe", ["attentive", "linear"])
def test_what_a_frozen_encoder_knows_is_found_and_can_be_used_again(tmp_path, data, probe, capsys):
    """Depth is brightness here, which even an untrained encoder lets through."""
    saved, sheet, result = tmp_path / "saved", tmp_path / "sheet.png", tmp_path / "result.json"
    words = ["untrained:tiny", "--train", data, "--test", data, "--probe", probe, "--seeds", "2", "--epochs", "40"]
    words += ["--batch-size", "16", "--learning-rate", "0.01", "--save", str(saved), "--sheet", str(sheet)]
    assert run(tmp_path, *words, "--json", str(result)) == 0
    said = json.loads(result.read_text())
    assert said["task"] == "depth" and said["protocol"]["name"] == "metric" and said["protocol"]["version"] == 1
    assert said["train"]["num_items"] == said["test"]["num_items"] == 48 and said["seeds"] == [0, 1]
    assert said["train"]["data_hash"] != said["test"]["data_hash"]
    rows = {row["model"]: row for row in said["rows"]}
    assert list(rows) == ["untrained:tiny", "mean depth", "mean depth at each place"]
    assert rows["untrained:tiny"]["revision"].startswith("untrained")
    measures = rows["untrained:tiny"]["measures"]
    assert set(measures) == set(METRICS) and len(measures["delta1"]["per_seed"]) == 2
    assert measures["delta1"]["low"] <= measures["delta1"]["mean"] <= measures["delta1"]["high"]
    assert measures["delta1"]["mean"] > 0.7 > 0.45 > rows["mean depth"]["measures"]["delta1"]["mean"]
    table = capsys.readouterr().out
    assert f"{measures['delta1']['mean']:.3f} ± {measures['delta1']['std']:.3f}" in table
    assert "protocol metric 1: metres from 0.001 to 10, no crop" in table
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
    assert run(tmp_path, *words, *lives) == 2
    said = capsys.readouterr()
    assert "nowhere" in said.err
    rows = json.loads(said.out)["rows"]
    assert [bool(row["measures"]) for row in rows] == [True, False, True, True]
    assert rows[0]["measures"]["delta1"]["std"] == 0 and "no such folder" in rows[1]["error"]
    assert rows[0]["feature_images_per_second"] > 0 and rows[0]["peak_memory_bytes"] > 1e6


def test_a_trained_model_stands_beside_an_untrained_one(tmp_path, data, encoder, capsys):
    encoder.model.save_pretrained(tmp_path / "model")
    encoder.processor.save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    shutil.copytree(model, f"{model}2")  # of the same architecture, of which one untrained model is enough
    words = [model, f"{model}2", "--train", data, "--test", data, "--seeds", "1", "--epochs", "1", "--num-test", "4"]
    assert run(tmp_path, *words, "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    names = [row["model"] for row in rows]
    assert names == [model, f"{model}2", f"untrained:{model}@0", "mean depth", "mean depth at each place"]
    assert run(tmp_path, *words, "--no-baselines", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["measures"] == rows[0]["measures"]  # the same once more


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train-split", "test"], "48 of the 48 items to test on"),
        (["--device", "nowhere"], "--device nowhere cannot be used here"),
        (["--save", "{tmp}"], "it is there already"),
        (["--json", "{tmp}/no/such/file"], "no such folder"),
        (["--sheet", "{tmp}/no/such/file"], "no such folder"),
        (["--depth-scale", "1000"], "has a median of"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_work(tmp_path, data, words, message, capsys):
    words = [word.format(tmp=tmp_path) for word in words]
    given = ["untrained:tiny", "--train", data, "--test", data, "--seeds", "1", "--epochs", "1", "--num-test", "48"]
    assert run(tmp_path, *given, *words) == 2
    assert message in capsys.readouterr().err


def test_two_models_are_not_saved_in_one_folder(tmp_path, data, capsys):
    words = ["untrained:tiny", "untrained:tiny@1", "--train", data, "--test", data, "--save", str(tmp_path / "saved")]
    assert run(tmp_path, *words) == 2
    assert "--save takes one model" in capsys.readouterr().err


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
    assert json.loads(capsys.readouterr().out)["rows"][0]["measures"]
    assert run(tmp_path, *words, "--save", str(tmp_path / "saved")) == 2
    assert "is no CroCo" in capsys.readouterr().err and not (tmp_path / "saved").exists()
