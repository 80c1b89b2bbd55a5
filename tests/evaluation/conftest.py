"""Small data in the real formats, with real texture, so that matching means something."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor

SIZE = (64, 80)  # height and width of images 1
SHIFT = np.array([[1.0, 0, 6], [0, 1, -4], [0, 0, 1]])


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    torch.manual_seed(3)
    config = CroCoConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
    )  # fmt: skip
    CroCoForPreTraining(config).save_pretrained(folder)
    CroCoImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def sequences(tmp_path) -> Path:
    """Two viewpoint sequences and one of illumination, as HPatches lays them out; image k is image 1 shifted k - 1
    times, so H_1_k is that translation."""
    folder = tmp_path / "hpatches-sequences-release"
    for seed, name in enumerate(("v_one", "v_two", "i_three")):
        (folder / name).mkdir(parents=True)
        wide = texture(SIZE[0] + 80, SIZE[1] + 80, seed)
        for number in range(1, 7):
            times = 0 if name.startswith("i_") else number - 1
            matrix = np.linalg.matrix_power(SHIFT, times)
            left, top = 40 - int(matrix[0, 2]), 40 - int(matrix[1, 2])
            save(folder / name / f"{number}.ppm", wide[top : top + SIZE[0], left : left + SIZE[1]])
            if number > 1:
                np.savetxt(folder / name / f"H_1_{number}", matrix)
    return folder
