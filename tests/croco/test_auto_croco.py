"""Checkpoints open with the Auto classes in any order of imports, and the processor prepares pictures."""

import os
import pty
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.files import config_names, hub_configs, read_yaml


@pytest.mark.integration
@pytest.mark.parametrize(
    "first", ["transformers", pytest.param("singlelife.croco.depth_croco", marks=pytest.mark.slow)]
)
def test_the_order_of_imports_does_not_matter(micro_checkpoint, first):
    code = f"""
import {first}
import singlelife
from transformers import AutoImageProcessor, AutoModel, AutoModelForDepthEstimation, AutoModelForPreTraining
AutoModel.from_pretrained({str(micro_checkpoint)!r})
AutoImageProcessor.from_pretrained({str(micro_checkpoint)!r})
from singlelife.croco import CroCoConfig
assert AutoModelForDepthEstimation._model_mapping[CroCoConfig].__name__ == "CroCoForDepthEstimation"
assert AutoModelForPreTraining._model_mapping[CroCoConfig].__name__ == "CroCoForPreTraining"
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "backend" not in done.stderr  # the image processor is found as what it is, not as a makeshift


@pytest.mark.parametrize("name", config_names("models"))
def test_shipped_sizes_are_valid(name):
    config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{name}.yaml"))
    with torch.device("meta"):
        parameters = CroCoForPreTraining(config).num_parameters()
    expected = {"tiny": 0.5e6, "tiny_sincos": 0.5e6, "small": 30e6, "base": 120e6, "large": 400e6}[name]
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
def test_the_package_imports_no_torch_has_every_public_name_and_a_pipeline_in_a_terminal_asks_nothing(
    micro_checkpoint,
):
    code = f"""
import sys
import singlelife
assert not {{'torch', 'transformers'}} & set(sys.modules)
assert all(getattr(singlelife, name) for name in singlelife.__all__)
from PIL import Image
from transformers import pipeline
print(pipeline('image-feature-extraction', {str(micro_checkpoint)!r})(Image.new('RGB', (40, 40)))[0][0][:1])
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
