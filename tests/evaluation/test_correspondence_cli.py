"""`singlelife evaluate correspondence` as a user types it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from singlelife.cli import main

from .conftest import SHIFT
from .test_image_pairs import stereo

EVALUATE = ("evaluate", "correspondence")


def run(*words: object) -> int:
    return main([*EVALUATE, *map(str, words), "--no-progress"])


def test_hpatches_is_a_table_a_file_and_a_sheet(checkpoint, sequences, tmp_path, capsys):
    files = "--json", tmp_path / "out.json", "--sheet", tmp_path / "out.png"
    assert run(checkpoint, "--data", sequences, *files) == 0
    out = capsys.readouterr().out
    assert "HPatches viewpoint (2 sequences), 10 pairs" in out
    assert "cross-attention, both directions, first patch masked, temperature 0.0001" in out
    rows = {" ".join(line.split()[:-12]): line.split() for line in out.splitlines() if line.endswith("%")}
    assert set(rows) == {str(checkpoint), f"untrained:{checkpoint}@0", "identity flow"}
    assert "images/s" in out and "of memory at the peak" in out
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["protocol"] == {"name": "zero-shot-correspondence", "version": 1}
    assert content["data"]["num_pairs"] == 10 and len(content["data"]["hash"]) == 64
    assert [model["model"] for model in content["models"]] == [*rows]
    assert len(content["models"][0]["revision"]) == 64 and len(content["models"][0]["pairs"]) == 10
    assert content["models"][0]["matching"] == {"reciprocal": True, "sinks": "first", "temperature": 1e-4}
    assert content["models"][0]["failures"] == {}
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"
    assert not list(tmp_path.glob("*.tmp"))


def test_settings_are_those_that_were_asked_for(checkpoint, sequences, capsys):
    words = ("--no-reciprocal", "--sinks", "keep", "--temperature", "0.1", "--split", "illumination", "--json", "-")
    assert run(checkpoint, "--data", sequences, *words, "--no-baselines") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["data"]["kind"] == "hpatches-illumination" and len(content["models"]) == 1
    assert content["models"][0]["matching"] == {"reciprocal": False, "sinks": "keep", "temperature": 0.1}


def test_every_way_of_matching(checkpoint, sequences, capsys):
    aepe = []
    for method in ("cross-attention", "feature-correlation", "decoder-correlation"):
        assert run(checkpoint, "--data", sequences / "v_one", "--method", method, "--json", "-") == 0
        models = json.loads(capsys.readouterr().out)["models"]
        assert models[0]["method"].replace(" ", "-") == method
        assert models[0]["matching"]["sinks"] == ("first" if method == "cross-attention" else "keep")
        aepe.append(models[0]["summary"]["240"]["aepe"])
    assert len(set(aepe)) == 3


def test_a_bad_pair_is_exit_code_1(checkpoint, sequences, capsys):
    (sequences / "v_two/4.ppm").unlink()
    assert run(checkpoint, "--data", sequences, "--no-baselines") == 1
    captured = capsys.readouterr()
    assert "9 pairs" in captured.out
    assert "1 of 10 pairs could not be measured" in captured.err and "v_two 1-4" in captured.err
    assert "4.ppm: no such file" in captured.err


def test_a_model_that_diverged_is_named_and_the_others_are_kept(checkpoint, sequences, tmp_path, capsys):
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    for name in weights:
        if "decoder.layers.0.cross_attention.q_proj" in name:
            weights[name].fill_(1e38)  # finite, but what it computes is not
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    words = ("--data", sequences, "--json", tmp_path / "out.json", "--sheet", tmp_path / "out.png")
    assert run(broken, checkpoint, *words) == 1
    captured = capsys.readouterr()
    assert f"{broken} gives attention logits that are not finite" in captured.err
    content = json.loads((tmp_path / "out.json").read_text())
    assert list(content["failed_models"]) == [str(broken)] and content["models"][0]["model"] == str(checkpoint)
    assert (tmp_path / "out.png").is_file()
    assert run(broken, "--data", sequences, "--no-baselines") == 2


def test_two_images_with_a_homography(checkpoint, sequences, tmp_path, capsys):
    np.save(tmp_path / "h.npy", SHIFT)
    images = sequences / "v_one/1.ppm", sequences / "v_one/2.ppm"
    assert run(checkpoint, "--data", *images, "--homography", tmp_path / "h.npy") == 0
    out = capsys.readouterr().out
    assert "1 pair (" in out and "one pair" in out
    assert f"{np.hypot(6, 4):.2f}" in next(line for line in out.splitlines() if line.startswith("identity"))


def test_a_stereo_pair(checkpoint, tmp_path, capsys):
    left, right, disparity = stereo(tmp_path)
    assert run("untrained:tiny", "--data", left, right, "--disparity", disparity) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("untrained:tiny ")]) == 2


def test_pairs_of_a_life(checkpoint, sim_test, capsys):
    words = ("--data", sim_test.path, "--num-pairs", 6, "--views", "shifted")
    assert run(checkpoint, "untrained:tiny", *words) == 0
    out = capsys.readouterr().out
    assert "sim_test/shifted, 6 pairs" in out and out.count("untrained:") == 4  # of either model one, at two sizes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "a.png", "b.png"], "takes their ground truth"),
        (["--data", "a.png", "b.png", "--homography", "h", "--disparity", "d"], "takes their ground truth"),
        (["--data", "sim_test", "--homography", "h"], "--data takes both"),
        (["--data", "a", "b", "c"], "takes one folder or life, or two images"),
        (["--data", "a.png", "b.png", "--homography", "h", "--disparity-scale", "2"], "--disparity-scale says"),
        (["--data", "a.png", "b.png", "--disparity", "d", "--disparity-scale", "-1"], "--disparity-scale says"),
        (["--data", "nothing_here/at/all"], "There is nothing to evaluate correspondence on at nothing_here/at/all"),
        (["--data", __file__], "is a file. --data takes two images"),
        (["--data", "sim_test", "--device", "nowhere"], "--device nowhere cannot be used"),
        (["--data", "sim_test", "--json", "no/such/folder/out.json"], "no such folder"),
        (["--data", "sim_test", "--sheet", "no/such/folder/out.png"], "no such folder"),
    ],
)
def test_wrong_usage_is_said_and_is_exit_code_2(words, message, capsys):
    assert run("untrained:tiny", *words) == 2
    assert message in capsys.readouterr().err


def test_a_pair_that_cannot_be_read_is_said(sequences, tmp_path, capsys):
    images = sequences / "v_one/1.ppm", sequences / "v_one/7.ppm"
    assert run("untrained:tiny", "--data", *images, "--homography", sequences / "v_one/H_1_2") == 2
    assert "7.ppm: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_a_temperature_is_over_zero(value, capsys):
    with pytest.raises(SystemExit) as stop:
        run("untrained:tiny", "--data", "sim_test", "--temperature", value)
    assert stop.value.code == 2
