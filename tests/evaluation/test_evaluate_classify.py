"""`singlelife evaluate classify` from end to end, on a folder of images for each class."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures

from singlelife.cli import main
from singlelife.errors import EvaluationError
from singlelife.evaluation.classification import open_labelled

COLOURS = {"blue": (20, 20, 220), "green": (20, 200, 20), "red": (220, 20, 20)}


@pytest.fixture
def pictures(tmp_path):
    """Splits train and test; a class is a colour, with noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = np.clip(np.array(colour) + random.normal(0, 20, (24, 30, 3)), 0, 255).astype(np.uint8)
                Pictures.fromarray(image).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def run(tmp_path, *words: str) -> int:
    return main(["evaluate", "classify", *words, "--cache-dir", str(tmp_path / "cache")])


@pytest.mark.parametrize("probe", ["attentive", "linear"])
def test_classes_are_found(tmp_path, pictures, probe, capsys):
    words = ["untrained:tiny", "--data", str(pictures), "--probe", probe, "--seeds", "2", "--epochs", "20"]
    assert run(tmp_path, *words, "--learning-rate", "0.01", "--json", str(tmp_path / "result.json")) == 0
    said = json.loads((tmp_path / "result.json").read_text())
    (row,) = said["rows"]
    assert said["task"] == "classification" and said["chance"] == pytest.approx(1 / 3)
    assert said["train"]["num_items"] == 36 and said["test"]["num_items"] == 12
    assert row["top1"]["mean"] > 0.9 and len(row["top1"]["per_seed"]) == 2
    assert set(row["per_class"]) == set(COLOURS)
    assert np.mean(list(row["per_class"].values())) == pytest.approx(row["top1"]["mean"])
    assert "always the most frequent class: 0.333" in capsys.readouterr().out


def test_a_set_with_one_split_is_divided(tmp_path, pictures):
    train, test = open_labelled(str(pictures / "train"))
    assert (len(train), len(test)) == (28, 8) and train.classes == sorted(COLOURS)
    digests = [{data.item(index, (8, 8)).digest for index in range(len(data))} for data in (train, test)]
    assert len(digests[0] | digests[1]) == 36
    again = open_labelled(str(pictures / "train"))[1]
    assert again.item(0, (8, 8)).digest == test.item(0, (8, 8)).digest
    other = open_labelled(str(pictures / "train"), seed=1)
    assert other[1].identity != test.identity


def test_a_damaged_image_is_left_out(tmp_path, pictures, capsys):
    (pictures / "test" / "red" / "2.png").write_bytes(b"no picture")
    words = ["untrained:tiny", "--data", str(pictures), "--seeds", "1", "--epochs", "1", "--json", "-"]
    assert run(tmp_path, *words) == 0
    said = json.loads(capsys.readouterr().out)["test"]
    assert said["num_items"] == 11 and "the image cannot be read" in said["left_out"][0]


def test_data_without_classes_are_refused(tmp_path, capsys):
    rows = {"image": [Pictures.new("RGB", (8, 8))] * 4, "label": [0, 1, 0, 1], "other": [0, 0, 1, 1]}
    for name, kind in (("numbers", Value("int64")), ("classes", ClassLabel(names=["a", "b"]))):
        features = Features({"image": Image(), "label": kind, "other": kind})
        Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / name))
    with pytest.raises(EvaluationError, match="should have one column of the type ClassLabel; it has none"):
        open_labelled(str(tmp_path / "numbers"))
    with pytest.raises(EvaluationError, match=r"\['label', 'other'\]. Choose one with --label-column"):
        open_labelled(str(tmp_path / "classes"))
    assert open_labelled(str(tmp_path / "classes"), label_column="other")[0].classes == ["a", "b"]
    with pytest.raises(EvaluationError, match="--label-column image"):
        open_labelled(str(tmp_path / "classes"), label_column="image")
    assert run(tmp_path, "untrained:tiny", "--data", str(tmp_path / "nowhere")) == 2
    assert "cannot be loaded as a data set" in capsys.readouterr().err
