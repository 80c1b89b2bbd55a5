"""Features are computed once, go on after a break, and are those that the encoder gives."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from singlelife.errors import CheckpointError, EvaluationError, LifeError
from singlelife.evaluation import features
from singlelife.evaluation.features import Item, ItemError, extract, resized, view_size


class Noise:
    """Images of noise, the target their number."""

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


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != features.METADATA}


def test_features_are_the_encoders_and_are_computed_once(encoder, tmp_path):
    data, counting = Noise(11, bad=(3,)), Counting(encoder)
    first = extract(counting, data, cache_dir=tmp_path, batch_size=4, progress=False)
    assert counting.asked == 1 + 10  # one to see the shape
    assert first.rows.tolist() == [0, 1, 2, *range(4, 11)] and first.left_out == [(3, "row 3: bad")]
    again = extract(counting, Noise(11, bad=(3,)), cache_dir=tmp_path, progress=False)
    assert counting.asked == 11 and again.path == first.path
    for position, row in ((0, 0), (3, 4), (9, 10)):
        item = data.item(row, (64, 64))
        expected = encoder.features(resized(item.image, view_size(encoder))[None])
        torch.testing.assert_close(again.features([position]), expected, atol=2e-3, rtol=2e-3)
        assert again.targets([position]).tolist() == [[row, -row]]
    assert again.features(np.array([9, 0])).shape == (2, 64, 128)
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        first.path.name, f"{first.path.name}.lock"
    ]  # fmt: skip


@pytest.mark.parametrize("batch_size", [3, 5])
def test_a_broken_run_goes_on_and_ends_in_the_same(encoder, tmp_path, batch_size):
    whole = extract(encoder, Noise(13, bad=(1,)), cache_dir=tmp_path / "whole", batch_size=4, progress=False)
    with pytest.raises(KeyboardInterrupt):
        stopping = Noise(13, bad=(1,), stop_at=9)
        extract(encoder, stopping, cache_dir=tmp_path / "broken", batch_size=batch_size, progress=False)
    (partial,) = (tmp_path / "broken" / "features").glob("*.partial")
    with (partial / features.ROWS).open("a") as file:  # what a killed process may leave: half a line
        file.write('{"row": 99, "dig')
    with (partial / features.FEATURES).open("ab") as file:
        file.write(b"half a batch")
    done = len((partial / features.ROWS).read_text().splitlines()) - 1
    counting = Counting(encoder)
    counting.revision = encoder.revision
    gone_on = extract(counting, Noise(13, bad=(1,)), cache_dir=tmp_path / "broken", progress=False)
    assert 0 < done < 13 and counting.asked == 1 + 13 - done
    assert contents(gone_on.path) == contents(whole.path)
    assert gone_on.metadata["data_hash"] == whole.metadata["data_hash"]
    assert not partial.exists()


class Deadly(Noise):
    """Kills its process at item 5."""

    def item(self, index: int, size: tuple[int, int]) -> Item:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().item(index, size)


@pytest.mark.integration
def test_a_killed_process_loses_only_its_last_batch(encoder, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_features import Deadly
from singlelife.alignment.models import load_model
from singlelife.evaluation.features import extract
extract(load_model("untrained:tiny"), Deadly(7), cache_dir={str(tmp_path)!r}, batch_size=2, progress=False)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    counting = Counting(encoder)
    counting.revision = encoder.revision
    gone_on = extract(counting, Noise(7), cache_dir=tmp_path, progress=False)
    whole = extract(encoder, Noise(7), cache_dir=tmp_path / "whole", progress=False)
    assert counting.asked < 1 + 7 and gone_on.rows.tolist() == list(range(7))
    torch.testing.assert_close(gone_on.features(range(7)), whole.features(range(7)), atol=2e-3, rtol=2e-3)


def test_a_run_whose_data_were_lost_starts_anew(encoder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, Noise(6, stop_at=4), cache_dir=tmp_path, batch_size=2, progress=False)
    (partial,) = (tmp_path / "features").glob("*.partial")
    (partial / features.FEATURES).write_bytes(b"")
    gone_on = extract(encoder, Noise(6), cache_dir=tmp_path, progress=False)
    assert gone_on.rows.tolist() == list(range(6))


def test_data_of_which_nothing_can_be_used_leave_nothing(encoder, tmp_path):
    with pytest.raises(EvaluationError, match=r"noise.*row 0: bad"):
        extract(encoder, Noise(2, bad=(0, 1)), cache_dir=tmp_path, progress=False)
    assert not [path for path in (tmp_path / "features").iterdir() if path.is_dir()]


def test_features_too_large_for_the_format_are_refused(encoder, tmp_path):
    with pytest.raises(CheckpointError, match=r"above 65,504"):
        extract(Counting(encoder, 1e6), Noise(2), cache_dir=tmp_path, progress=False)


def test_a_full_disk_is_an_error_before_the_work(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(LifeError, match=r"untrained:tiny on noise.*--cache-dir"):
        extract(encoder, Noise(2), cache_dir=tmp_path, progress=False)
