"""A decoded copy has the frames' own pixels, is whole or absent, and is made once."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from singlelife.errors import LifeError
from singlelife.lives.decoded import FOLDER, use_decoded_frames
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life

from .conftest import write_clip

MAKE = """
import sys
from singlelife.lives.decoded import use_decoded_frames
from singlelife.lives.prepared import PreparedLife
life = PreparedLife.load(sys.argv[1])
print("begin", flush=True)
use_decoded_frames(life, num_workers=1, progress=False)
"""


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory) -> PreparedLife:
    """A wide and a tall video."""
    cache = tmp_path_factory.mktemp("cache")
    wide = write_clip(cache / "wide.mp4", seconds=2)
    tall = write_clip(cache / "tall.mp4", seconds=1, height=64, width=48)
    return prepare_life(get_life("two", [wide, tall]), cache_dir=cache, num_workers=1, progress=False)


@pytest.fixture
def life(two_sizes: PreparedLife, tmp_path: Path) -> PreparedLife:
    """One of its own, without a copy."""
    return PreparedLife.load(shutil.copytree(two_sizes.path, tmp_path / "life"))


def test_the_pixels_are_those_of_the_frames(life):
    rows = [0, len(life) - 1, 3, 3, 20]
    expected = life.decode(rows)
    use_decoded_frames(life, progress=False)
    for ours, image in zip(life.decode(rows), expected, strict=True):
        assert torch.equal(ours, image)
        assert ours.stride() == image.stride()
    assert {tuple(image.shape) for image in life.iter_decode(range(len(life)))} == {
        tuple(image.shape) for image in expected
    }


def test_the_copy_is_read_and_the_frames_are_not(life):
    use_decoded_frames(life, progress=False)
    pixels = life.path / FOLDER / "pixels.bin"
    pixels.write_bytes(bytes(pixels.stat().st_size))
    again = PreparedLife.load(life.path)
    use_decoded_frames(again, progress=False)
    assert not again.decode([5])[0].any()


def test_what_is_done_to_a_frame_is_not_done_to_the_copy(life):
    use_decoded_frames(life, progress=False)
    before = (life.path / FOLDER / "pixels.bin").read_bytes()
    life.decode([0])[0].zero_()
    assert (life.path / FOLDER / "pixels.bin").read_bytes() == before


def test_a_pickled_life_maps_the_copy_itself(life):
    expected = life.frames([1, 2])
    use_decoded_frames(life, progress=False)
    content = pickle.dumps(life)
    assert len(content) < 50_000
    assert torch.equal(pickle.loads(content).frames([1, 2]), expected)


@pytest.mark.parametrize("damage", ["cut", "no sizes", "other sizes", "half a file"])
def test_a_damaged_copy_is_refused(life, damage):
    use_decoded_frames(life, progress=False)
    pixels, sizes = (life.path / FOLDER / name for name in ("pixels.bin", "sizes.json"))
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "no sizes":
        sizes.unlink()
    elif damage == "other sizes":
        sizes.write_text(json.dumps([[len(life) - 1, 48, 64]]))
    else:
        sizes.write_text(sizes.read_text()[:-3])
    with pytest.raises(LifeError, match=r"decoded frames in .*decoded cannot be used .* Delete the folder"):
        use_decoded_frames(PreparedLife.load(life.path), progress=False)


def test_a_damaged_frame_leaves_no_copy(two_sizes, tmp_path):
    path = shutil.copytree(two_sizes.path, tmp_path / "life")
    content = two_sizes.encoded([7])[0].to_pybytes()
    for file in path.glob("*.arrow"):
        file.write_bytes(file.read_bytes().replace(content, content[:40] + bytes(len(content) - 40)))
    with pytest.raises(LifeError, match="row 7 of"):
        use_decoded_frames(PreparedLife.load(path), progress=False)
    assert not list(path.glob(f"{FOLDER}*/"))


def test_a_life_that_cannot_be_written_to_says_so(life):
    (life.path / f"{FOLDER}.partial").write_text("in the way")
    with pytest.raises(LifeError, match=r"cannot be decoded into .* go without --decoded-frames"):
        use_decoded_frames(life, progress=False)


def test_killed_half_way_it_is_made_anew(tmp_path):
    clip = write_clip(tmp_path / "long.mp4", seconds=60, height=240, width=320)
    life = prepare_life(get_life("long", [clip]), cache_dir=tmp_path, num_workers=1, progress=False)
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(life.path)], stdout=subprocess.PIPE, text=True)
    pixels = life.path / f"{FOLDER}.partial" / "pixels.bin"
    while not pixels.exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (life.path / FOLDER).exists()
    expected = life.frames([0, 200])
    use_decoded_frames(life, progress=False)
    assert torch.equal(life.frames([0, 200]), expected)
    assert not pixels.exists()


def test_two_processes_make_one_copy(life):
    words = [sys.executable, "-c", MAKE, str(life.path)]
    asking = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in asking] == [0, 0]
    expected = life.frames([1, 2])
    use_decoded_frames(life, progress=False)
    assert torch.equal(life.frames([1, 2]), expected)
