"""`singlelife evaluate classify` from end to end, on a folder of images for each class."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures

from singlelife.cli import main
from singlelife.errors import EvaluationError
from singlelife.evaluation.classification import open_labelled
from singlelife.evaluation.settings import ClassificationConfig

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
    return main(["evaluate", "classify", *words, "--device", "cpu", "--cache-dir", str(tmp_path / "cache")])


def opened(data, **settings):
    return open_labelled(ClassificationConfig(data=str(data), **settings))


@pytest.mark.integration
@pytest.mark.parametrize("probe", ["attentive", "linear"])
def test_classes_are_found(tmp_path, pictures, probe, capsys):
    (pictures / "test" / "red" / "2.png").write_bytes(b"no picture")
    words = ["untrained:tiny", "--data", str(pictures), "--probe", probe, "--seeds", "2", "--epochs", "20"]
    assert run(tmp_path, *words, "--learning-rate", "0.01", "--json", str(tmp_path / "result.json")) == 0
    found = json.loads((tmp_path / "result.json").read_text())
    model, baseline = found["models"]
    assert found["task"] == "classification" and found["protocol"] == "classification/1" and found["num_items"] == 11
    assert list(found["left_out"].values()) and "cannot be read" in str(found["left_out"])
    assert model["measures"]["top1"]["mean"] > 0.9 and len(model["measures"]["top1"]["per_seed"]) == 2
    assert baseline["measures"]["top1"]["mean"] in (pytest.approx(3 / 11), pytest.approx(4 / 11))
    assert "most frequent class" in capsys.readouterr().out


def test_data_without_classes_are_refused(tmp_path, capsys):
    rows = {"image": [Pictures.new("RGB", (8, 8))] * 4, "label": [0, 1, 0, 1], "other": [0, 0, 1, 1]}
    for name, kind in (("numbers", Value("int64")), ("classes", ClassLabel(names=["a", "b"]))):
        features = Features({"image": Image(), "label": kind, "other": kind})
        Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / name))
    with pytest.raises(EvaluationError, match=r"ClassLabel.*none"):
        opened(tmp_path / "numbers")
    with pytest.raises(EvaluationError, match=r"label, other.*--label-column"):
        opened(tmp_path / "classes")
    assert opened(tmp_path / "classes", label_column="other")[0].classes == ["a", "b"]
    assert run(tmp_path, "untrained:tiny", "--data", str(tmp_path / "nowhere")) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
