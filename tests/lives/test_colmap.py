"""COLMAP models, written here in both of their formats, and what is said of damaged ones."""

import struct
from pathlib import Path

import numpy as np
import pytest

from singlelife.errors import LifeError
from singlelife.lives.scene.colmap import colmap_geometry, is_model

# number, model's number and name, width, height, parameters
PINHOLE = (1, 1, "PINHOLE", 128, 96, (100.0, 90.0, 64.0, 48.0))
CAMERAS = {
    "SIMPLE_PINHOLE": (1, 0, "SIMPLE_PINHOLE", 128, 96, (100.0, 64.0, 48.0)),
    "PINHOLE": PINHOLE,
    "SIMPLE_RADIAL": (1, 2, "SIMPLE_RADIAL", 128, 96, (100.0, 64.0, 48.0, 0.1)),
    "RADIAL": (1, 3, "RADIAL", 128, 96, (100.0, 64.0, 48.0, 0.1, 0.2)),
    "OPENCV": (1, 4, "OPENCV", 128, 96, (100.0, 90.0, 64.0, 48.0, 0.1, 0.2, 0.3, 0.4)),
}
# A quarter turn about the camera's y axis, so that it looks along the world's x, from (1, 2, 3).
QUATERNION, CENTRE = (np.sqrt(0.5), 0.0, -np.sqrt(0.5), 0.0), (1.0, 2.0, 3.0)
SHIFT = (3.0, -2.0, -1.0)


def image(number: int, name: str, points: list[int]) -> tuple:
    return number, (*QUATERNION, *SHIFT), 1, name, points


IMAGES = [image(1, "small.mp4/0.jpg", [7, -1, 5, 7]), image(2, "small.mp4/0020.png", []), image(3, "x/1.jpg", [1])]


def write_text(folder: Path, camera: tuple = PINHOLE, images: list[tuple] = IMAGES) -> Path:
    folder.mkdir(parents=True)
    number, _, model, width, height, parameters = camera
    (folder / "cameras.txt").write_text(
        f"# Camera list\n{number} {model} {width} {height} {' '.join(map(str, parameters))}\n"
    )
    lines = ["# Image list with two lines of data per image:"]
    for number, pose, camera_number, name, points in images:
        lines.append(f"{number} {' '.join(map(repr, map(float, pose)))} {camera_number} {name}")
        lines.append(" ".join(f"{10.5 * place} 3.25 {point}" for place, point in enumerate(points)))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_binary(folder: Path, camera: tuple = PINHOLE, images: list[tuple] = IMAGES) -> Path:
    folder.mkdir(parents=True)
    number, model, _, width, height, parameters = camera
    content = struct.pack(f"<QIiQQ{len(parameters)}d", 1, number, model, width, height, *parameters)
    (folder / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(images))
    for number, pose, camera_number, name, points in images:
        content += struct.pack("<I7dI", number, *pose, camera_number) + name.encode() + b"\0"
        content += struct.pack("<Q", len(points)) + b"".join(struct.pack("<ddq", 1.0, 2.0, point) for point in points)
    (folder / "images.bin").write_bytes(content)
    return folder


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_poses_intrinsics_and_points_are_those_of_the_model(write, small_life, tmp_path):
    model = write(tmp_path / "model")
    assert is_model(model) and not is_model(tmp_path)
    geometry = colmap_geometry(small_life, [model])
    rows = np.flatnonzero(geometry.component >= 0)
    assert small_life.frame_index[rows].tolist() == [0, 20]
    np.testing.assert_allclose(geometry.poses[rows[0]][:3, 3], CENTRE, atol=1e-12)
    np.testing.assert_allclose(geometry.poses[rows[0]][:3, 2], [1, 0, 0], atol=1e-12)  # it looks along x
    np.testing.assert_allclose(geometry.poses[rows[0]][:3, 1], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(geometry.intrinsics[rows[0]], [50, 45, 32, 24])  # frames are half as large
    assert geometry.points[rows[0]].tolist() == [5, 7]
    assert geometry.points.counts.sum() == 2
    unknown = np.setdiff1d(np.arange(len(small_life)), rows)
    assert np.isnan(geometry.poses[unknown]).all() and np.isnan(geometry.intrinsics[unknown]).all()


@pytest.mark.parametrize("write", [write_text, write_binary])
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_camera_models(write, camera, small_life, tmp_path):
    geometry = colmap_geometry(small_life, [write(tmp_path / "model", camera)])
    second = 45 if len({"PINHOLE", "OPENCV"} & {camera[2]}) else 50
    np.testing.assert_allclose(geometry.intrinsics[0], [50, second, 32, 24])


def test_models_are_components_and_a_frame_belongs_to_the_largest(small_life, tmp_path):
    names = [f"small.mp4/{2 * number}.jpg" for number in range(5)]
    few = write_binary(tmp_path / "0", images=[image(1, names[0], [1]), image(2, names[4], [1])])
    many = write_text(tmp_path / "1", images=[image(number, name, [2]) for number, name in enumerate(names[:4])])
    geometry = colmap_geometry(small_life, [few, many])
    assert geometry.component[:6].tolist() == [1, 1, 1, 1, 0, -1]
    assert [geometry.points[row].tolist() for row in range(5)] == [[2], [2], [2], [2], [1]]


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_a_binary_model_cut_anywhere_is_refused(small_life, tmp_path, name):
    model = write_binary(tmp_path / "model")
    content = (model / name).read_bytes()
    for size in range(0, len(content), 5):
        (model / name).write_bytes(content[:size])
        with pytest.raises(LifeError, match=f"{name} is damaged or cut off"):
            colmap_geometry(small_life, [model])


def test_a_count_beyond_the_file_allocates_nothing(small_life, tmp_path):
    model = write_binary(tmp_path / "model")
    content = bytearray((model / "images.bin").read_bytes())
    content[:8] = struct.pack("<Q", 2**62)
    (model / "images.bin").write_bytes(content)
    with pytest.raises(LifeError, match="cut off: it ends after"):
        colmap_geometry(small_life, [model])
    place = content.index(b"0.jpg\0") + 6
    content[place : place + 8] = struct.pack("<Q", 2**60)
    (model / "images.bin").write_bytes(content)
    with pytest.raises(LifeError, match="cut off: it ends after"):
        colmap_geometry(small_life, [model])


def test_a_text_model_that_is_not_whole_is_refused(small_life, tmp_path):
    model = write_text(tmp_path / "model")
    whole = (model / "images.txt").read_text()
    lines = whole.splitlines()
    for damaged in ("\n".join(lines[:-1]), whole.replace("3.25 7", "3.25", 1), whole.replace("-2.0", "two", 1)):
        (model / "images.txt").write_text(damaged)
        with pytest.raises(LifeError, match=r"images.txt is damaged or cut off: .*"):
            colmap_geometry(small_life, [model])
    (model / "images.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LifeError, match="it is no text"):
        colmap_geometry(small_life, [model])
    (model / "images.txt").unlink()
    with pytest.raises(LifeError, match=r"not whole: images.txt is missing"):
        colmap_geometry(small_life, [model])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"camera": (1, 5, "OPENCV_FISHEYE", 128, 96, (1.0,) * 8)}, "OPENCV_FISHEYE.*image_undistorter"),
        ({"camera": (9, *PINHOLE[1:])}, "'small.mp4/0.jpg' .* camera 1"),
        ({"images": [image(1, "frame_000001.jpg", [1])]}, "'frame_000001.jpg'.* 'small.mp4/0.jpg', 'small.mp4/2.jpg'"),
    ],
)
@pytest.mark.parametrize("write", [write_text, write_binary])
def test_what_does_not_fit_is_named(write, model, message, small_life, tmp_path):
    with pytest.raises(LifeError, match=message):
        colmap_geometry(small_life, [write(tmp_path / "model", **model)])
