"""Features are computed once and are those that the encoder gives; probes learn from them, the same way for a seed."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from singlelife.errors import CheckpointError, LifeError, RunError
from singlelife.evaluation.depth import FrozenFeatures
from singlelife.evaluation.features import Item, ItemError, extract, load_split, resized, rgb, view_size
from singlelife.evaluation.settings import ProbeConfig


class Noise:
    """Images of noise, the target their number. Item `stop_at` interrupts."""

    target_dtype = np.dtype(np.int64)

    def __init__(self, count: int, bad: tuple[int, ...] = (), stop_at: int | None = None):
        self.name, self.identity = "noise", f"noise {count} {bad}"
        self._count, self._bad, self._stop_at = count, bad, stop_at

    def __len__(self) -> int:
        return self._count

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return (2,)

    def item(self, index: int, size: tuple[int, int]) -> Item:
        if index == self._stop_at:
            raise KeyboardInterrupt
        if index in self._bad:
            raise ItemError(f"row {index}: bad")
        image = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        return Item(image, np.array([index, -index]), hashlib.sha256(image.numpy().tobytes()).digest())


class Counting:
    """An encoder that says how many images it was asked for."""

    def __init__(self, encoder, factor: float = 1.0):
        self.name, self.revision, self.grid = encoder.name, f"{encoder.revision} {factor}", encoder.grid
        self.image_size, self.asked = encoder.image_size, 0
        self._encoder, self._factor = encoder, factor

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += len(images)
        return self._encoder.features(images) * self._factor


def test_features_are_the_encoders_and_are_computed_once(encoder, tmp_path):
    data, counting = Noise(11, bad=(3,)), Counting(encoder)
    first = extract(counting, data, cache_dir=tmp_path, batch_size=4, progress=False)
    assert counting.asked == 1 + 10  # one to see the shape
    assert first.rows == [0, 1, 2, *range(4, 11)] and first.left_out == {"3": "row 3: bad"}
    again = extract(counting, Noise(11, bad=(3,)), cache_dir=tmp_path, progress=False)
    assert counting.asked == 11 and again.path == first.path
    for position, row in ((0, 0), (3, 4), (9, 10)):
        item = data.item(row, (64, 64))
        expected = encoder.features(resized(item.image, view_size(encoder))[None])
        torch.testing.assert_close(again.features([position]), expected, atol=2e-3, rtol=2e-3)
        assert again.targets([position]).tolist() == [[row, -row]]
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        first.path.name, f"{first.path.name}.lock"
    ]  # fmt: skip


def test_what_is_interrupted_leaves_nothing_half_made(encoder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, Noise(7, stop_at=5), cache_dir=tmp_path, batch_size=2, progress=False)
    assert not [path for path in (tmp_path / "features").iterdir() if path.is_dir()]
    found = extract(encoder, Noise(7), cache_dir=tmp_path, batch_size=3, progress=False)
    whole = extract(encoder, Noise(7), cache_dir=tmp_path / "whole", progress=False)
    assert found.rows == list(range(7)) and found.data_hash == whole.data_hash
    torch.testing.assert_close(found.features(range(7)), whole.features(range(7)), atol=2e-3, rtol=2e-3)


def test_pictures_of_16_bits_are_their_upper_8(tmp_path):
    """From a file, from encoded bytes, and from a data set of files."""
    levels = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    file = tmp_path / "pictures" / "grey.png"
    file.parent.mkdir()
    Image.fromarray(levels).save(file)
    name, rows = load_split(str(file.parent), "train", None)
    for picture in (file, {"bytes": file.read_bytes()}, rows[0]["image"]):
        assert (rgb(picture).numpy() == (levels >> 8)).all(), name


def test_what_does_not_fit_is_refused_and_leaves_nothing(encoder, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"above 65,504"):
        extract(Counting(encoder, 1e6), Noise(2), cache_dir=tmp_path, progress=False)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(LifeError, match=r"untrained:tiny on noise.*--cache-dir"):
        extract(encoder, Noise(2), cache_dir=tmp_path, progress=False)
    assert not [path for path in (tmp_path / "features").iterdir() if path.is_dir()]


class InMemory:
    """Features whose first channel is the target."""

    def __init__(self, count: int = 64):
        self._features = torch.randn(count, 2, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._features)

    def features(self, indices: np.ndarray) -> torch.Tensor:
        return self._features[indices]

    def targets(self, indices: np.ndarray) -> torch.Tensor:
        return self._features[indices][..., 0]


def squared(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output[..., 0] - target).square().mean()


def trained(seed: int, loss=squared, **settings) -> nn.Module:
    chosen = {"epochs": 30, "batch_size": 16, "learning_rate": 0.1} | settings
    config = ProbeConfig(probe="linear", progress=False, **chosen)
    features = FrozenFeatures(None, InMemory(), None, config, "cpu")
    return features.train_probe(lambda: nn.Linear(4, 1), loss, seed)


def test_a_probe_learns_and_the_seed_says_which():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (trained(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before) and not first.training
    assert squared(first(InMemory().features(np.arange(64))), InMemory().targets(np.arange(64))) < 1e-2
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)


def test_a_loss_that_is_not_finite_stops():
    with pytest.raises(RunError, match=r"after 0 steps.*--learning-rate"):
        trained(0, lambda output, _: output.sum() / 0, epochs=1)
