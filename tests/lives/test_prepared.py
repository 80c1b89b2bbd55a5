"""A prepared life: what it holds, how it is read, and what is said of a damaged one."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Array2D, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from singlelife.errors import LifeError
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import METADATA, PreparedLife, decode_jpeg
from singlelife.lives.registry import get_life
from singlelife.lives.simulation.simulated import render

from ..micro import texture, write_clip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def two_sizes(cache) -> PreparedLife:
    """A wide and a tall video."""
    wide = write_clip(cache / "wide.mp4", seconds=2)
    tall = write_clip(cache / "tall.mp4", seconds=1, height=64, width=48)
    return prepare_life(get_life("two", [wide, tall]), cache_dir=cache, num_workers=1, progress=False)


@pytest.fixture(scope="module")
def simulated(cache) -> PreparedLife:
    life = get_life("sim_test")
    life = replace(life, name="sim_short", simulation=replace(life.simulation, num_frames=40))
    return prepare_life(life, cache_dir=cache, progress=False)


def test_rows_are_ordered_by_video_and_time(two_sizes):
    assert len(two_sizes) == 30
    assert two_sizes.name == "two"
    assert [image.shape for image in two_sizes.decode([0, 29])] == [(3, 48, 64), (3, 64, 48)]
    assert two_sizes.poses([0]) is two_sizes.intrinsics([0]) is two_sizes.depth([0]) is None
    assert two_sizes.videos == ["wide.mp4", "tall.mp4"]
    assert two_sizes.video_index.tolist() == 20 * [0] + 10 * [1]
    assert two_sizes.frame_index.tolist() == [*range(0, 40, 2), *range(0, 20, 2)]
    np.testing.assert_allclose(two_sizes.timestamps, [*np.arange(20) / 10, *np.arange(10) / 10], atol=1e-6)
    assert two_sizes.timestamps.dtype == np.float64
    assert two_sizes.frame_index.dtype == two_sizes.video_index.dtype == np.int64


def test_frames_come_in_the_order_asked_for(two_sizes):
    rows = [17, 3, 3, -11]
    frames = two_sizes.frames(rows)
    assert (frames.dtype, frames.shape) == (torch.uint8, (4, 3, 48, 64))
    expected = [texture(two_sizes.frame_index[row], 48, 64) for row in rows]
    for frame, picture in zip(frames, expected, strict=True):
        assert (frame.permute(1, 2, 0).int() - torch.from_numpy(picture).int()).abs().float().mean() < 6
    assert torch.equal(two_sizes.frames(torch.tensor(rows)), two_sizes.frames(np.array(rows)))


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 100), st.sampled_from(["4:4:4", "4:2:0"]),
    st.sampled_from(["RGB", "L"]),
)  # fmt: skip
def test_pixels_are_those_of_pillow(height, width, quality, subsampling, mode):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    PILImage.fromarray(noise).convert(mode).save(encoded, "JPEG", quality=quality, subsampling=subsampling)
    expected = np.array(PILImage.open(encoded).convert("RGB"))
    np.testing.assert_array_equal(decode_jpeg(encoded.getvalue()).permute(1, 2, 0).numpy(), expected)


@pytest.mark.integration
def test_datasets_opens_it_with_typed_columns(two_sizes, simulated):
    dataset = datasets.load_from_disk(str(two_sizes.path))
    always = {"image": Image(), "timestamp": Value("float64"), "video": Value("string"), "frame_index": Value("int64")}
    assert dataset.features == always and dataset[29]["image"].size == (48, 64)
    dataset = datasets.load_from_disk(str(simulated.path))
    camera = {"pose": Array2D((4, 4), "float64"), "intrinsics": List(Value("float64"), length=4)}
    assert dataset.features == always | camera | {"depth": Image()} and dataset[0]["depth"].mode == "I;16"


@pytest.mark.integration
def test_a_simulated_life_keeps_what_was_rendered(simulated):
    rows = [0, 25, 39]
    frames = list(render(replace(get_life("sim_test").simulation, num_frames=40), 96))
    assert simulated.videos == ["sim_short"]
    np.testing.assert_array_equal(simulated.timestamps, [frame.timestamp for frame in frames])
    np.testing.assert_array_equal(simulated.poses(rows), [frames[row].pose for row in rows])
    np.testing.assert_array_equal(simulated.intrinsics(rows), [frames[row].intrinsics for row in rows])
    depth = simulated.depth(rows)
    assert (depth.dtype, depth.shape) == (np.float32, (3, 96, 96))
    rendered = np.stack([frames[row].depth for row in rows])
    storable = rendered < 65535 * simulated.metadata["depth_scale"]
    assert np.abs(depth - rendered)[storable].max() <= simulated.metadata["depth_error"] == 1 / 32
    assert (depth[~storable] == 0).all()
    assert (depth > 0).mean() > 0.5
    images = simulated.frames(rows).permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(images - [frames[row].image for row in rows]).mean() < 4


@pytest.fixture
def copied(two_sizes, tmp_path) -> Path:
    return Path(shutil.copytree(two_sizes.path, tmp_path / "life"))


def rewrite(file: Path, row: int, content: bytes) -> None:
    """Put other bytes in place of one image."""
    table = pa.ipc.open_stream(file).read_all()
    rows = table.to_pylist()
    rows[row]["image"]["bytes"] = content
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(pa.Table.from_pylist(rows, schema=table.schema))


def jpeg_header_of_a_huge_image() -> bytes:
    encoded = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(encoded, "JPEG")
    content = bytearray(encoded.getvalue())
    size = content.index(b"\xff\xc0") + 5
    content[size : size + 4] = b"\xff\x00\xff\x00"
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"nothing", "half", "scratched", "huge", None], ids=repr)
def test_a_damaged_image_is_named_by_its_row(copied, two_sizes, content):
    whole = two_sizes.encoded([7])[0].to_pybytes()
    made = {"half": whole[: len(whole) // 2], "scratched": whole[:-60] + b"\xff\xd9" + whole[-58:]}
    made["huge"] = jpeg_header_of_a_huge_image()
    rewrite(copied / "data-00000-of-00002.arrow", 7, made.get(content, content))
    life = PreparedLife.load(copied)
    with pytest.raises(LifeError, match=r"The image in row 7 of .*life is damaged. Delete the folder"):
        life.frames([5, 7, 9])
    assert torch.equal(life.frames([5, 9]), two_sizes.frames([5, 9]))


@pytest.mark.parametrize("file", ["data-00001-of-00002.arrow", "state.json", "dataset_info.json", METADATA])
def test_a_missing_or_cut_file_is_refused(copied, file):
    content = (copied / file).read_bytes()
    for damaged in (content[: len(content) // 2], None):
        (copied / file).write_bytes(damaged) if damaged else (copied / file).unlink()
        with pytest.raises(
            LifeError, match="is not a prepared life" if file == METADATA else "prepare the life again"
        ):
            PreparedLife.load(copied)
