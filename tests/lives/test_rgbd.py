"""Recordings with poses and depth, small, in the real layouts of the data sets that people have."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from singlelife.alignment.pair_sets.drawing import make_pair_set
from singlelife.errors import LifeError
from singlelife.lives.prepare import plan_preparation, prepare_life
from singlelife.lives.registry import get_life
from singlelife.lives.scene.rgbd import nearest_to_ticks, posed_recording
from singlelife.lives.scene.store import life_geometry

COUNT, SIZE = 5, (64, 48)  # frames; width and height
FOCAL = 60.0
CAMERA = np.array([[FOCAL, 0, 32.0], [0, FOCAL, 24.0], [0, 0, 1]])


def pose(number: int) -> np.ndarray:
    """The camera turns to the right and moves along x."""
    angle = 0.1 * number
    matrix = np.eye(4)
    matrix[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    matrix[0, 3] = 0.5 * number
    return matrix


def picture(number: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), 40 * number, dtype=np.uint8)


def save_depth(path: Path, levels_per_metre: float) -> None:
    """2 m on the left, 3 m on the right, and unknown in the first row."""
    depth = np.full((SIZE[1], SIZE[0]), 2 * levels_per_metre)
    depth[:, SIZE[0] // 2 :] = 3 * levels_per_metre
    depth[0] = 0
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(depth.astype(np.uint16)).save(path)


def save(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(picture(number)).save(path)


def text(path: Path, lines: object) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    np.savetxt(path, np.atleast_2d(np.asarray(lines)))


def scannet(folder: Path) -> None:
    for number in range(COUNT):
        save(folder / "color" / f"{number * 10}.jpg", number)  # the names sort as text in another order
        text(folder / "pose" / f"{number * 10}.txt", pose(number))
        save_depth(folder / "depth" / f"{number * 10}.png", 1000)
    for name in ("color", "depth"):
        text(folder / "intrinsic" / f"intrinsic_{name}.txt", np.pad(CAMERA, (0, 1)))


def seven_scenes(folder: Path) -> None:
    for number in range(COUNT):
        save(folder / f"frame-{number:06d}.color.png", number)
        text(folder / f"frame-{number:06d}.pose.txt", pose(number))
        save_depth(folder / f"frame-{number:06d}.depth.png", 1000)


def tum(folder: Path) -> None:
    folder = folder / "rgbd_dataset_freiburg1_desk"
    times = 1305031102.175304 + np.arange(COUNT) / 10
    for number, time in enumerate(times):
        save(folder / "rgb" / f"{time:.6f}.png", number)
        save_depth(folder / "depth" / f"{time:.6f}.png", 5000)
    for name in ("rgb", "depth"):
        lines = [f"{time + 0.005:.6f} {name}/{time:.6f}.png" for time in times]
        (folder / f"{name}.txt").write_text("\n".join(["# timestamp filename", *lines]))
    halves = 0.05 * np.arange(COUNT)
    quaternions = [(0, np.sin(half), 0, np.cos(half)) for half in halves]
    truth = [(time, 0.5 * n, 0, 0, *quaternions[n]) for n, time in enumerate(times)]
    (folder / "groundtruth.txt").write_text("\n".join(["# a", *(" ".join(map(repr, map(float, t))) for t in truth)]))


def kitti(folder: Path) -> None:
    for number in range(COUNT):
        save(folder / "sequences" / "00" / "image_2" / f"{number:06d}.png", number)
    projection = np.concatenate([CAMERA, [[0], [0], [0]]], axis=1)
    (folder / "sequences" / "00" / "calib.txt").write_text("P2: " + " ".join(map(str, projection.ravel())) + "\n")
    text(folder / "poses" / "00.txt", [pose(number)[:3].ravel() for number in range(COUNT)])
    text(folder / "sequences" / "00" / "times.txt", np.arange(COUNT)[:, None] / 10)


def poses_and_images(folder: Path) -> None:
    for number in range(COUNT):
        save(folder / "images" / f"{number + 3:05d}.jpg", number)
        save_depth(folder / "depth" / f"{number + 3:05d}.png", 1000)
    text(folder / "poses.txt", [pose(number).ravel() for number in range(COUNT)])
    text(folder / "K.txt", CAMERA)


def poses_and_video(folder: Path, rate: int = 30) -> None:
    folder.mkdir(exist_ok=True)
    with av.open(str(folder / "walk.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=rate, width=SIZE[0], height=SIZE[1], pix_fmt="yuv420p")
        for number in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    for number in (0, 4):  # depth of some frames alone
        save_depth(folder / "depth" / f"frame-{number:06d}.png", 1000)
    text(folder / "poses.txt", [pose(number)[:3].ravel() for number in range(COUNT)])
    text(folder / "intrinsics.txt", CAMERA * [[2], [2], [1]])  # of pictures of twice the size


LAYOUTS = {
    "ScanNet": (scannet, "", FOCAL),
    "7-Scenes": (seven_scenes, "", 585 / 10),  # the owners' intrinsics are of 640 × 480
    "TUM RGB-D": (tum, "rgbd_dataset_freiburg1_desk", 517.3 * 64 / (2 * 318.6)),
    "KITTI": (kitti, "sequences/00", FOCAL),
    "poses.txt": (poses_and_images, "", FOCAL),
    "poses.txt with a video": (poses_and_video, "", FOCAL),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_frames_with_their_poses_and_depth_in_metres(layout, tmp_path):
    write, inside, focal = LAYOUTS[layout]
    write(tmp_path)
    recording = posed_recording(tmp_path / inside)
    assert recording is not None and recording.layout == layout.removesuffix(" with a video")
    kept = list(recording.frames(frame_rate=1000, frame_size=24))  # half the size
    assert [frame.frame_index for frame, *_ in kept] == list(range(COUNT))
    rate = 10 if layout in ("TUM RGB-D", "KITTI") else 30
    np.testing.assert_allclose([frame.timestamp for frame, *_ in kept], np.arange(COUNT) / rate, atol=1e-6)
    for number, (frame, matrix, intrinsics, depth) in enumerate(kept):
        assert frame.image.shape == (24, 32, 3) and abs(int(frame.image.mean()) - 40 * number) <= 2
        np.testing.assert_allclose(matrix, pose(number), atol=1e-6)
        assert intrinsics[0] == pytest.approx(focal / 2) and intrinsics[2] == pytest.approx(16, abs=0.05)
        if layout == "KITTI":
            assert depth is None
        elif layout == "poses.txt with a video" and number in (1, 2, 3):
            assert not depth.any()
        else:
            assert depth[4, 4] == pytest.approx(2, abs=1e-3) and depth[4, 28] == pytest.approx(3, abs=1e-3)


def test_a_rate_keeps_the_frame_nearest_to_each_tick():
    times = np.array([0, 0.03, 0.11, 0.19, 0.22, 0.52])
    assert nearest_to_ticks(times, 10).tolist() == [0, 2, 3, 5]
    assert nearest_to_ticks(times, 1000).tolist() == list(range(6))


def test_lost_frames_have_no_pose_and_other_folders_no_layout(tmp_path):
    scannet(tmp_path)
    text(tmp_path / "pose" / "20.txt", np.full((4, 4), -np.inf))  # as ScanNet writes it
    recording = posed_recording(tmp_path)
    assert posed_recording(tmp_path) is recording  # read once
    poses = recording.poses
    assert np.isnan(poses[2]).all() and np.isfinite(np.delete(poses, 2, axis=0)).all()
    assert posed_recording(tmp_path / "color") is None
    text(tmp_path / "pose" / "20.txt", pose(7))
    np.testing.assert_allclose(posed_recording(tmp_path).poses[2], pose(7))  # and again when a file has changed


def spoil_rotation(folder: Path) -> None:
    matrix = pose(1)
    matrix[:3, :3] *= 2
    text(folder / "pose" / "10.txt", matrix)


@pytest.mark.parametrize(
    ("layout", "spoil", "facts"),
    [
        ("ScanNet", spoil_rotation, "frame 1"),
        ("ScanNet", lambda folder: text(folder / "pose" / "10.txt", np.eye(3)), "10.txt"),
        ("ScanNet", lambda folder: save(folder / "color" / "010.jpg", 1), "010.jpg"),
        ("7-Scenes", lambda folder: (folder / "frame-000002.pose.txt").unlink(), "frame-000002.pose.txt"),
        ("TUM RGB-D", lambda folder: text(folder / "groundtruth.txt", np.eye(8)[-1:]), "another recording"),
        ("TUM RGB-D", lambda folder: next((folder / "rgb").iterdir()).unlink(), "rgb.txt"),
        ("KITTI", lambda folder: text(folder / "poses.txt", np.zeros((4, 12))), r"poses \(4\)"),
        ("KITTI", lambda folder: (folder / "calib.txt").write_text("P0: 1 2"), "P2"),
        ("poses.txt", lambda folder: (folder / "poses.txt").write_text("1 2 x"), "line 1"),
    ],
)
def test_what_cannot_belong_together_is_refused(layout, spoil, facts, tmp_path):
    write, inside, _ = LAYOUTS[layout]
    write(tmp_path)
    spoil(tmp_path / inside)
    with pytest.raises(LifeError, match=facts):
        posed_recording(tmp_path / inside)


def test_a_plan_counts_frames_by_the_rate_of_the_video(tmp_path):
    poses_and_video(tmp_path / "walk", rate=10)
    life = get_life("walk", [tmp_path / "walk"])
    [plan] = plan_preparation(life, progress=False)
    assert plan["num_frames"] == len(prepare_life(life, cache_dir=tmp_path, progress=False)) == COUNT


def test_depth_of_8_bits_is_refused(tmp_path):
    poses_and_images(tmp_path)
    Image.new("L", SIZE).save(tmp_path / "depth" / "00004.png")
    with pytest.raises(LifeError, match=r"00004\.png.*16 bits"):
        list(posed_recording(tmp_path).frames(30, 48))


def test_a_recording_with_poses_becomes_a_life_with_poses_depth_and_true_matches(tmp_path):
    poses_and_images(tmp_path / "desk")
    every_frame = replace(get_life("desk", [tmp_path / "desk"]), frame_rate=30.0)
    life = prepare_life(every_frame, cache_dir=tmp_path, progress=False)
    rows = range(len(life))
    np.testing.assert_allclose(life.poses(rows), [pose(number) for number in range(COUNT)], atol=1e-6)
    np.testing.assert_allclose(life.depth(rows)[:, 8, 8], 2.0, atol=1e-3)
    geometry = life_geometry(life, progress=False)
    assert (geometry.component == 0).all() and (geometry.points.counts > 0).all()
    pairs = make_pair_set(life, views="shifted", num_pairs=4, image_size=32)
    assert (pairs.true_match((4, 4)) >= 0).any()
    (tmp_path / "more.mp4").touch()
    with pytest.raises(LifeError, match=r"desk.*share no world"):
        get_life("desk", [tmp_path / "desk", tmp_path / "more.mp4"])
