"""Checkpoints open with the Auto classes, with the package and, as remote code, without it."""

import os
import pty
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForPreTraining

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor, CroCoModel
from singlelife.files import config_names, hub_configs, read_yaml

from ..micro import save_micro_model
from .shared import run_without_the_package

WITHOUT_THE_PACKAGE = """
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(model).__name__ == "CroCoModel"
output = model(expected["target"], expected["source"])
assert (output.decoder_last_hidden_state - expected["decoded"]).abs().max() == 0
whole = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
assert type(whole).__name__ == "CroCoForPreTraining"
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
assert processor.size["height"] == 32
whole.save_pretrained(f"{folder}/again")  # what was loaded as remote code can be loaded as such once more
again = AutoModelForPreTraining.from_pretrained(f"{folder}/again", trust_remote_code=True)
assert all((weight == again.state_dict()[name]).all() for name, weight in whole.state_dict().items())
"""


@pytest.fixture
def checkpoint(tmp_path):
    save_micro_model(tmp_path)
    model = CroCoForPreTraining.from_pretrained(tmp_path).eval()
    return tmp_path, model


def test_auto_classes_know_croco(checkpoint):
    folder, _ = checkpoint
    assert type(AutoConfig.from_pretrained(folder)) is CroCoConfig
    assert type(AutoModel.from_pretrained(folder)) is CroCoModel
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is CroCoForPreTraining
    assert type(AutoImageProcessor.from_pretrained(folder)) is CroCoImageProcessor


@pytest.mark.integration
@pytest.mark.parametrize(
    "first", ["transformers", pytest.param("singlelife.croco.depth_croco", marks=pytest.mark.slow)]
)
def test_the_order_of_imports_does_not_matter(checkpoint, first):
    folder, _ = checkpoint
    code = f"""
import {first}
import singlelife
from transformers import AutoImageProcessor, AutoModel, AutoModelForDepthEstimation, AutoModelForPreTraining
AutoModel.from_pretrained({str(folder)!r})
AutoImageProcessor.from_pretrained({str(folder)!r})
from singlelife.croco import CroCoConfig
assert AutoModelForDepthEstimation._model_mapping[CroCoConfig].__name__ == "CroCoForDepthEstimation"
assert AutoModelForPreTraining._model_mapping[CroCoConfig].__name__ == "CroCoForPreTraining"
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "backend" not in done.stderr  # the image processor is found as what it is, not as a makeshift


@pytest.mark.slow  # tests/hub/test_models.py does the same with a checkpoint of the Hub
def test_a_checkpoint_loads_as_remote_code_without_the_package(checkpoint, tmp_path_factory):
    from safetensors.torch import save_file

    folder, model = checkpoint
    target, source = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = model.croco(target, source).decoder_last_hidden_state
    tensors = {"target": target.clone(), "source": source.clone(), "decoded": decoded}
    save_file(tensors, folder / "expected.safetensors")
    run_without_the_package(WITHOUT_THE_PACKAGE, folder, tmp_path_factory.mktemp("modules"))


@pytest.mark.parametrize("name", config_names("models"))
def test_shipped_sizes_are_valid(name):
    config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{name}.yaml"))
    with torch.device("meta"):
        parameters = CroCoForPreTraining(config).num_parameters()
    expected = {"tiny": 1.2e6, "tiny_sincos": 1.2e6, "small": 30e6, "base": 120e6, "large": 400e6}[name]
    assert 0.75 * expected < parameters < 1.3 * expected


def test_processor_normalises_and_keeps_the_aspect_ratio():
    processor = CroCoImageProcessor(size={"height": 32, "width": 32})
    image = Image.fromarray(np.full((40, 80, 3), 255, dtype=np.uint8))
    pixels = processor(image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 32, 32)
    expected = (1 - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    torch.testing.assert_close(pixels[0].mean(dim=(1, 2)), expected, atol=1e-4, rtol=0)

    half = np.zeros((40, 80, 3), dtype=np.uint8)
    half[:, :20] = half[:, 60:] = 255  # outside of the centred square
    assert processor(half, return_tensors="pt").pixel_values[0, :, :, 3:-3].max() < 0
    stretched = processor(half, crop_to_aspect=False, return_tensors="pt").pixel_values
    assert stretched.shape == (1, 3, 32, 32)
    assert stretched[0, :, :, :6].min() > 1

    grey = processor(image.convert("L"), size={"height": 16, "width": 48}, return_tensors="pt").pixel_values
    assert grey.shape == (1, 3, 16, 48)


def test_a_pair_of_views_is_one_call():
    processor = CroCoImageProcessor(size={"height": 32, "width": 32})
    target, source = (np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in (0, 1))
    both = processor(target, source, return_tensors="pt")
    assert torch.equal(both.pixel_values, processor(target, return_tensors="pt").pixel_values)
    assert torch.equal(both.source_pixel_values, processor(source, return_tensors="pt").pixel_values)
    with pytest.raises(ValueError, match="1 target images but 2 source images"):
        processor(target, [source, source], return_tensors="pt")


@pytest.mark.parametrize("form", ["picture", "file", "array"])
def test_of_16_bits_the_upper_8_are_taken_and_pictures_are_upright(form, tmp_path):
    grey = np.repeat(np.uint16([[0, 20_000], [40_000, 65_535]]), 16, axis=0).repeat(16, axis=1)
    picture, exif = Image.fromarray(grey), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    image = {
        "array": np.stack([grey] * 3, axis=-1),
        "file": str(tmp_path / "a.png"),
        "picture": Image.open(tmp_path / "a.png"),
    }[form]
    processor = CroCoImageProcessor(size={"height": 32, "width": 32}, do_normalize=False, do_rescale=False)
    pixels = processor(image, return_tensors="pt").pixel_values[0, 0, 8::16, 8::16]
    assert pixels.tolist() == ([[0, 78], [156, 255]] if form == "array" else [[156, 0], [255, 78]])
    with pytest.raises(ValueError, match="mode F"):
        processor(picture.convert("F"), return_tensors="pt")


@pytest.mark.integration
def test_the_package_imports_no_torch_has_every_public_name_and_a_pipeline_in_a_terminal_asks_nothing(checkpoint):
    folder, _ = checkpoint
    CroCoImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    code = f"""
import sys
import singlelife
assert not {{'torch', 'transformers'}} & set(sys.modules)
assert all(getattr(singlelife, name) for name in singlelife.__all__)
from PIL import Image
from transformers import pipeline
print(pipeline('image-feature-extraction', {str(folder)!r})(Image.new('RGB', (40, 40)))[0][0][:1])
"""
    terminal, inside = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdin=inside, capture_output=True, text=True, timeout=300)
    os.close(terminal)
    assert done.returncode == 0 and "[y/N]" not in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize(
    ("image", "facts"),
    [
        (torch.full((3, 32, 32), float("nan")), "Image 0 holds NaN"),
        (torch.full((3, 32, 32), float("inf")), "infinite"),
        (torch.zeros(5, 32, 32), "channel"),
    ],
)
def test_processor_refuses_bad_pixels(image, facts):
    with pytest.raises(ValueError, match=facts):
        CroCoImageProcessor(size={"height": 32, "width": 32}, do_rescale=False)(image, return_tensors="pt")
