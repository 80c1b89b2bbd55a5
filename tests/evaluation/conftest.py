"""What the evaluation tests share: small models, and files in the formats of the real data sets."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as Pictures
from scipy.io import savemat
from tests.micro import save_micro_model

SIZE = (64, 80)  # height and width of images 1
SHIFT = np.array([[1.0, 0, 6], [0, 1, -4], [0, 0, 1]])


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = Pictures.fromarray(generator.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Pictures.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray) -> Path:
    Pictures.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A micro-model with two decoder blocks, which layers are chosen of."""
    return save_micro_model(tmp_path_factory.mktemp("checkpoint") / "model", seed=3, decoder_num_hidden_layers=2)


@pytest.fixture
def sequences(tmp_path) -> Path:
    """Two viewpoint sequences and one of illumination, as HPatches lays them out; image k is image 1 shifted k - 1
    times, so H_1_k is that translation."""
    folder = tmp_path / "data" / "hpatches" / "hpatches-sequences-release"
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


@pytest.fixture(scope="session")
def encoder():
    """The tiny preset, untrained: 8x8 patches of 8 px."""
    from singlelife.alignment.models import load_model

    return load_model("untrained:tiny")


@pytest.fixture
def nyu(tmp_path) -> Path:
    """The owners' two files with four frames: the last axis first, numbers from 1; holes in the raw depth."""
    random = np.random.default_rng(0)
    folder = tmp_path / "nyu"
    folder.mkdir()
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as content:
        content["images"] = random.integers(0, 256, (4, 3, 640, 480), dtype=np.uint8)
        content["depths"] = random.uniform(0.7, 9.9, (4, 640, 480)).astype(np.float32)
        content["rawDepths"] = content["depths"][:] * (random.random((4, 640, 480)) < 0.8)
    savemat(folder / "splits.mat", {"testNdxs": np.array([[2]]), "trainNdxs": np.array([[1], [3], [4]])})
    return folder


@pytest.fixture
def scannet(tmp_path) -> Path:
    """Two scenes as the owners' SensReader exports them: depth in millimetres, smaller than the image."""
    random = np.random.default_rng(0)
    folder = tmp_path / "scans"
    for number, scene in enumerate(("scene0000_00", "scene0707_01")):
        for kind in ("color", "depth"):
            (folder / scene / kind).mkdir(parents=True)
        for frame in (0, 2, 10):
            image = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Pictures.fromarray(image).save(folder / scene / "color" / f"{frame}.jpg")
            depth = np.full((12, 16), 1000 * (number + 1) + frame, np.uint16)
            depth[0] = 0
            Pictures.fromarray(depth).save(folder / scene / "depth" / f"{frame}.png")
    return folder


def bright_is_far(count: int, side: int = 32, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Images of smooth grey whose brightness is their depth, from 1 to 9 m."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 1, (count, 4, 4)).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    images = [np.repeat((level * 255).astype(np.uint8)[..., None], 3, axis=2) for level in coarse]
    return images, (1 + 8 * coarse).astype(np.float32)


def depth_dataset(folder: Path, images: list, depths: list, feature: object, column: str = "depth") -> Path:
    """A data set as the Hub has it, of Parquet files: splits train and test, of half of the rows each."""
    features = Features({"image": Image(), column: feature})
    folder.mkdir()
    half = len(images) // 2
    for split, rows in (("train", slice(None, half)), ("test", slice(half, None))):
        pictures = [Pictures.fromarray(image) for image in images[rows]]
        values = [Pictures.fromarray(depth) if depth is not None and isinstance(feature, Image) else depth
                  for depth in depths[rows]]  # fmt: skip
        data = Dataset.from_dict({"image": pictures, column: values}, features=features)
        data.to_parquet(folder / f"{split}.parquet")
    return folder
