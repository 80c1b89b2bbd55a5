"""COLMAP: models written here, whole and damaged, and a real reconstruction against the poses of a simulated life."""

import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life
from singlelife.lives.scene.colmap import colmap_geometry, is_model, reconstruct
from singlelife.lives.scene.geometry import frames_at_rate
from singlelife.lives.scene.store import life_geometry
from singlelife.lives.simulation.simulated import render

from ..micro import write_clip

# number, model's number, width, height, parameters; and the second focal length in frames half as large
PINHOLE = (1, 1, 128, 96, (100.0, 90.0, 64.0, 48.0))
CAMERAS = [
    ((1, 0, 128, 96, (100.0, 64.0, 48.0)), 50),
    (PINHOLE, 45),
    ((1, 2, 128, 96, (100.0, 64.0, 48.0, 0.1)), 50),
    ((1, 3, 128, 96, (100.0, 64.0, 48.0, 0.1, 0.2)), 50),
    ((1, 4, 128, 96, (100.0, 90.0, 64.0, 48.0, 0.1, 0.2, 0.3, 0.4)), 45),
    ((1, 6, 128, 96, (100.0, 90.0, 64.0, 48.0, *8 * (0.1,))), 45),
]
# A quarter turn about the camera's y axis, so that it looks along the world's x, from (1, 2, 3).
QUATERNION, CENTRE = (np.sqrt(0.5), 0.0, -np.sqrt(0.5), 0.0), (1.0, 2.0, 3.0)
SHIFT = (3.0, -2.0, -1.0)


def image(number: int, name: str, points: list[int]) -> tuple:
    return number, (*QUATERNION, *SHIFT), 1, name, points


IMAGES = [image(1, "small.mp4/0.jpg", [7, -1, 5, 7]), image(2, "small.mp4/0020.png", []), image(3, "x/1.jpg", [1])]


def write_model(folder: Path, camera: tuple = PINHOLE, images: list[tuple] = IMAGES) -> Path:
    folder.mkdir(parents=True)
    number, model, width, height, parameters = camera
    content = struct.pack(f"<QIiQQ{len(parameters)}d", 1, number, model, width, height, *parameters)
    (folder / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(images))
    for number, pose, camera_number, name, points in images:
        content += struct.pack("<I7dI", number, *pose, camera_number) + name.encode() + b"\0"
        content += struct.pack("<Q", len(points)) + b"".join(struct.pack("<ddq", 1.0, 2.0, point) for point in points)
    (folder / "images.bin").write_bytes(content)
    return folder


def test_poses_intrinsics_and_points_are_those_of_the_model(small_life, tmp_path):
    model = write_model(tmp_path / "model")
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


@pytest.mark.parametrize(("camera", "second"), CAMERAS)
def test_camera_models(camera, second, small_life, tmp_path):
    models = [write_model(tmp_path / "model", camera, [*IMAGES, image(4, "small.mp4/2.jpg", [])])]
    geometry = colmap_geometry(small_life, models)
    np.testing.assert_allclose(geometry.intrinsics[[0, 1]], [[50, second, 32, 24]] * 2)


def test_models_are_components_and_a_frame_belongs_to_the_largest(small_life, tmp_path):
    names = [f"small.mp4/{2 * number}.jpg" for number in range(5)]
    few = write_model(tmp_path / "0", images=[image(1, names[0], [1]), image(2, names[4], [1])])
    many = write_model(tmp_path / "1", images=[image(number, name, [2]) for number, name in enumerate(names[:4])])
    geometry = colmap_geometry(small_life, [few, many])
    assert geometry.component[:6].tolist() == [1, 1, 1, 1, 0, -1]
    assert [geometry.points[row].tolist() for row in range(5)] == [[2], [2], [2], [2], [1]]


def test_a_model_that_is_cut_counts_too_far_or_is_text_is_refused(small_life, tmp_path):
    model = write_model(tmp_path / "model")
    wholes = {name: (model / name).read_bytes() for name in ("cameras.bin", "images.bin")}
    for name, whole in wholes.items():
        points = whole.find(b"0.jpg\0") + 6
        counts = [(0, 2**62), *([(points, 2**60)] if name == "images.bin" else [])]  # nothing is allocated for them
        damaged = [whole[:place] + struct.pack("<Q", count) + whole[place + 8 :] for place, count in counts]
        for content in [*damaged, *(whole[:size] for size in range(0, len(whole), 5))]:
            (model / name).write_bytes(content)
            with pytest.raises(LifeError, match=f"{name} is damaged or cut off"):
                colmap_geometry(small_life, [model])
        (model / name).write_bytes(whole)
    (model / "images.bin").rename(model / "images.txt")
    with pytest.raises(LifeError, match=r"colmap model_converter --output_type BIN"):
        colmap_geometry(small_life, [model])
    (model / "images.txt").unlink()
    with pytest.raises(LifeError, match=r"images.bin is missing"):
        colmap_geometry(small_life, [model])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"camera": (1, 5, 128, 96, (1.0,) * 8)}, r"model 5.*OPENCV \(4\).*image_undistorter"),
        ({"camera": (1, 77, 128, 96, (1.0,) * 8)}, "model 77"),
        ({"camera": (9, *PINHOLE[1:])}, "'small.mp4/0.jpg' .* camera 1"),
        ({"images": [image(1, "frame_000001.jpg", [1])]}, "'frame_000001.jpg'.* 'small.mp4/0.jpg', 'small.mp4/2.jpg'"),
    ],
)
def test_what_does_not_fit_is_named(model, message, small_life, tmp_path):
    with pytest.raises(LifeError, match=message):
        colmap_geometry(small_life, [write_model(tmp_path / "model", **model)])


# Reconstruction.


def test_frames_are_thinned_evenly_and_in_each_video(small_life, tmp_path):
    np.testing.assert_allclose(small_life.timestamps[frames_at_rate(small_life, 2.0)], np.arange(0, 4, 0.5), atol=1e-6)
    assert len(frames_at_rate(small_life, 100.0)) == len(small_life)
    clips = [write_clip(tmp_path / f"{number}.mp4", seconds=0.7) for number in range(3)]
    life = prepare_life(get_life("three", clips), cache_dir=tmp_path, num_workers=1, progress=False)
    assert life.frame_index[frames_at_rate(life, 1.0)].tolist() == [0, 0, 0]


@pytest.mark.integration
def test_a_video_without_texture_gives_nothing_and_says_why(tmp_path):
    pytest.importorskip("pycolmap", reason="the extra singlelife[poses] is not installed")
    grey = np.full((48, 64, 3), 90, np.uint8)
    clip = write_clip(tmp_path / "grey wall.mp4", picture=lambda *_: grey)
    life = prepare_life(get_life("wall", [clip]), cache_dir=tmp_path, progress=False)
    for _ in range(2):
        with pytest.raises(LifeError, match=r"anything from 8 frames of the life wall\. It needs texture"):
            reconstruct(life, progress=False)


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> tuple[PreparedLife, np.ndarray]:
    """A corner of a simulated life at 288 x 240 px, as a video, and its true poses: (frames of the video, 4, 4)."""
    folder = tmp_path_factory.mktemp("walk")
    source = replace(get_life("sim_1").simulation, num_frames=420)
    frames = [frame for frame in render(source, 240) if frame.frame_index >= 320]
    # The game's pixels are 1.2 times as high as wide; a camera's are square.
    pictures = [np.asarray(Image.fromarray(frame.image).resize((288, 240))) for frame in frames]
    clip = write_clip(
        folder / "a walk.mp4",
        times=[index * 2 / 35 for index in range(len(frames))],
        rate=35,
        height=240,
        width=288,
        picture=lambda index, *_: pictures[index],
    )
    life = prepare_life(get_life("walk", [clip]), cache_dir=folder, progress=False)
    return life, np.stack([frame.pose for frame in frames])


def turns(poses: np.ndarray) -> np.ndarray:
    """Rotation from each frame to the next, (n - 1, 3, 3)."""
    return np.einsum("nji,njk->nik", poses[:-1, :3, :3], poses[1:, :3, :3])


@pytest.mark.slow
@pytest.mark.integration
def test_a_reconstruction_that_is_killed_goes_on_and_finds_the_true_poses(walk):
    pycolmap = pytest.importorskip("pycolmap", reason="the extra singlelife[poses] is not installed")
    life, true_poses = walk
    work = life.path / "reconstruction"
    script = (
        "import sys\n"
        "from singlelife.lives.prepared import PreparedLife\n"
        "from singlelife.lives.scene.colmap import reconstruct\n"
        "reconstruct(PreparedLife.load(sys.argv[1]), rate=5)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(life.path)], stderr=subprocess.PIPE)
    while process.poll() is None and not (work / "pairs.txt").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (work / "models").exists()
    with pycolmap.Database.open(work / "database.db") as database:
        features = database.num_descriptors()
    assert features > 0

    models = reconstruct(life, rate=5, progress=False)
    with pycolmap.Database.open(work / "database.db") as database:
        assert (database.num_descriptors(), database.num_cameras()) == (features, 1)  # none was made again
    geometry = life_geometry(life, source=models, progress=False)

    largest = np.bincount(geometry.component[geometry.component >= 0]).argmax()  # COLMAP begins where it likes
    rows = np.flatnonzero(geometry.component == largest)
    assert len(rows) >= 12
    expected, found = turns(true_poses[life.frame_index[rows]]), turns(geometry.poses[rows])
    angles = np.degrees(np.arccos(np.clip((np.einsum("nij,nij->n", expected, found) - 1) / 2, -1, 1)))
    turned = np.degrees(np.arccos(np.clip((np.trace(expected, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert np.median(angles) < 2 < np.median(turned)
    assert geometry.intrinsics[rows[0], 0] == pytest.approx(192, rel=0.15)

    for image in pycolmap.Reconstruction(models / str(largest)).images.values():  # read as pycolmap reads it
        [row] = np.flatnonzero(life.frame_index == int(Path(image.name).stem))
        if geometry.component[row] == largest:
            np.testing.assert_allclose(geometry.poses[row][:3], image.cam_from_world().inverse().matrix(), atol=1e-9)
            seen = {point.point3D_id for point in image.points2D if point.has_point3D()}
            assert geometry.points[row].tolist() == sorted(seen)
