"""Aria MPS: a real trajectory, cut down, with observations made here, and small recordings written whole."""

import csv
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from singlelife.errors import LifeError
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life
from singlelife.lives.scene import aria
from singlelife.lives.scene.aria import RgbCamera, aria_geometry
from singlelife.lives.scene.geometry import Geometry, voxel_ids

from ..micro import write_clip

REAL = Path(__file__).parents[1] / "data" / "aria_mps"
START = 5_000_000  # microseconds on the device's clock at the first frame


def read(life: PreparedLife, folder: Path) -> Geometry:
    return aria_geometry(life, [folder], [folder], progress=False)


def write_gz(path: Path, lines: list[str]) -> None:
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


def write_trajectory(folder: Path, times: np.ndarray, graphs: list[str], place=lambda time: (time, 0.0, 0.0)) -> None:
    """Of a device that does not turn."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = [f"{name}_world_device" for name in ("tx", "ty", "tz", "qx", "qy", "qz", "qw")]
    lines = [",".join(["graph_uid", "tracking_timestamp_us", "utc_timestamp_ns", *columns, "quality_score"])]
    for time, graph in zip(times, graphs, strict=True):
        shift = ",".join(f"{value:.6f}" for value in place((time - START) / 1e6))
        lines.append(f"{graph},{time},-1,{shift},0,0,0,1,1.0")
    (folder / aria.TRAJECTORY).write_text("\n".join(lines) + "\n")


def write_points(folder: Path, points: list[tuple]) -> None:
    """uid, graph, x, y, z, inv_dist_std, dist_std."""
    header = "uid,graph_uid,px_world,py_world,pz_world,inv_dist_std,dist_std"
    write_gz(folder / aria.POINTS, [header, *(",".join(map(str, point)) for point in points)])


def write_observations(folder: Path, observations: list[tuple[int, int]]) -> None:
    """uid, time; each by the left SLAM camera."""
    header = "uid,frame_tracking_timestamp_us,camera_serial,u,v"
    lines = (f"{uid},{time},0072510f1b21,101.5,99.25" for uid, time in observations)
    write_gz(folder / aria.OBSERVATIONS, [header, *lines])


def write_times(folder: Path, name: str, start: int, seconds: float = 1.0, pace: int = 10) -> None:
    """As Aria's VRS to MP4 tool does; the device's clock runs `pace` tenths as fast."""
    shown = range(0, int(seconds * 1e9), 50_000_000)
    rows = [f"{float(time)},{start * 1000 + time * pace // 10}" for time in shown]
    (folder / f"{name}{aria.TIMES}").write_text("\n".join(["mp4_time_ns,vrs_device_time_ns", *rows]) + "\n")


def good(uid: int, graph: str = "a", place: tuple = (0.0, 0.0, 3.0)) -> tuple:
    return uid, graph, *place, 0.001, 0.005


@pytest.fixture
def mps(tmp_path) -> Path:
    """Four seconds: pose every 20 ms, one point every 100 ms, each observed once, 10 ms after a frame."""
    folder = tmp_path / "mps"
    times = START + 20_000 * np.arange(201)
    write_trajectory(folder, times, ["a"] * len(times))
    write_points(folder, [good(uid, place=(uid, 0.05, 3.05)) for uid in range(40)])
    write_observations(folder, [(uid, START + 100_000 * uid + 10_000) for uid in range(40)])
    write_times(folder, "small", START, seconds=4)
    return folder


def names_of(*places: tuple) -> list[int]:
    return sorted(voxel_ids(np.array(places, dtype=np.float32), 0.1).tolist())


def test_frames_see_what_was_observed_at_their_time(small_life, mps):
    geometry = read(small_life, mps)
    assert (geometry.component == 0).all()
    np.testing.assert_allclose(geometry.poses[:, 0, 3], small_life.timestamps, atol=0.0101)
    np.testing.assert_allclose(geometry.poses[7, :3, :3], np.eye(3))
    assert [geometry.points[row].tolist() for row in range(40)] == [names_of((row, 0.05, 3.05)) for row in range(40)]
    assert np.isnan(geometry.intrinsics).all()  # no calibration


def test_frames_without_a_pose_near_in_time_know_nothing(small_life, mps):
    times = START + np.array([0, 40_000, 1_000_000])
    write_trajectory(mps, times, ["a"] * 3)
    geometry = read(small_life, mps)
    assert np.flatnonzero(geometry.component == 0).tolist() == [0, 10]  # at 0 and at 1 s; 0.1 s is 60 ms from 0.04
    assert np.isnan(geometry.poses[1:10]).all()
    assert geometry.points.counts[:11].tolist() == [1, *[0] * 9, 1]


def test_uncertain_points_are_left_out_and_tracks_of_one_place_are_one_point(small_life, mps):
    """Semi-dense tracks are made anew whenever a place is seen again."""
    points = [good(uid, place=(1.01 + 0.001 * uid, 0.05, 3.05)) for uid in range(40)]
    points[3], points[4] = (*points[3][:5], 0.0051, 0.005), (*points[4][:5], 0.001, 0.0101)
    write_points(mps, points)
    seen = [read(small_life, mps).points[row].tolist() for row in range(40)]
    assert seen == [[] if row in (3, 4) else names_of((1.01, 0.05, 3.05)) for row in range(40)]


def test_graphs_are_components_and_share_no_points(small_life, mps):
    times = START + 20_000 * np.arange(201)
    write_trajectory(mps, times, ["a" if number <= 100 else "b" for number in range(201)])
    points = [good(uid, "a" if uid < 30 else "b", place=(uid, 0.05, 3.05)) for uid in range(40)]
    write_points(mps, points)
    geometry = read(small_life, mps)
    assert geometry.component.tolist() == [0] * 21 + [1] * 19
    # Points 21 to 29 are of the first world, in which the frames that observed them are not.
    assert np.flatnonzero(geometry.points.counts == 0).tolist() == list(range(21, 30))


def test_small_blocks_and_much_tidying_give_the_same(small_life, mps, monkeypatch):
    generator = np.random.default_rng(0)
    times = START + generator.integers(0, 4_000_000, 5000)
    write_points(mps, [good(uid, place=(*generator.uniform(-1, 1, 2), 3)) for uid in range(500)])
    write_observations(mps, list(zip(generator.integers(0, 600, 5000).tolist(), times.tolist(), strict=True)))
    whole = read(small_life, mps)
    monkeypatch.setattr(aria, "_BLOCK", 700)
    monkeypatch.setattr(aria, "_ROWS_IN_MEMORY", 50)
    blocks = read(small_life, mps)
    assert whole.points.counts.min() > 20
    np.testing.assert_array_equal(whole.points.offsets, blocks.points.offsets)
    np.testing.assert_array_equal(whole.points.ids, blocks.points.ids)
    np.testing.assert_array_equal(whole.poses, blocks.poses)


# A real recording.


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> PreparedLife:
    """A video as long as the real trajectory."""
    folder = tmp_path_factory.mktemp("walk")
    clip = write_clip(folder / "P01-20230614-202000.mp4", seconds=11, height=64, width=64)
    return prepare_life(get_life("walk", [clip]), cache_dir=folder / "cache", progress=False)


def test_a_real_trajectory_gives_upright_cameras_that_see_what_is_before_them(walk, tmp_path):
    """Every point, observed all the time: what a frame sees is what the calibration puts into its image."""
    mps = Path(shutil.copytree(REAL, tmp_path / "mps"))
    write_times(mps, "P01-20230614-202000", 149_202_610, seconds=11)
    with gzip.open(mps / aria.POINTS, "rt") as file:
        points = [row for row in csv.DictReader(file) if float(row["inv_dist_std"]) <= 0.005]
    points = [row for row in points if float(row["dist_std"]) <= 0.01]
    write_observations(mps, [(row["uid"], 149_202_610 + 100_000 * step) for step in range(110) for row in points])
    geometry = read(walk, mps)
    assert (geometry.component == 0).all()
    assert (geometry.poses[:, 2, 1] < -0.8).all()  # the image's down is the world's: gravity is along -z
    np.testing.assert_allclose(np.linalg.det(geometry.poses[:, :3, :3]), 1, atol=1e-6)
    fx, fy, cx, cy = geometry.intrinsics[0]
    # The video shows 2816 of the sensor's pixels in 64; turned upright, x comes from the sensor's rows.
    np.testing.assert_allclose([fx, fy], 1220.0194 * 64 / 2816, rtol=1e-6)
    np.testing.assert_allclose([cx, cy], np.array([2880 - 1447.5872 - 32, 1461.5912 - 32]) * 64 / 2816, atol=0.01)
    world = np.array([[float(row[f"p{axis}_world"]) for axis in "xyz"] for row in points], dtype=np.float32)
    names = voxel_ids(world, aria.DEFAULT_VOXEL_SIZE)
    for row in range(0, len(walk), 10):
        x, y, z = ((world - geometry.poses[row, :3, 3]) @ geometry.poses[row, :3, :3]).T
        angle = np.degrees(np.arctan2(np.hypot(x, y), z))
        assert np.isin(names[angle < 25], geometry.points[row]).all()
        assert np.isin(geometry.points[row], names[angle < 66]).all()  # the farthest corner of the image


def test_the_lens_is_that_of_its_definition():
    camera = RgbCamera.read(REAL / aria.CALIBRATION)
    assert camera is not None
    f, cx, cy = camera.parameters[:3]
    u, v = camera.project(np.array([[0, 0, 2.0], [0.002, 0, 2], [0, -0.002, 2], [0, 0, -1]]))
    np.testing.assert_allclose([u[0], v[0]], [cx, cy])
    np.testing.assert_allclose([u[1], v[2]], [cx + f * 0.001, cy - f * 0.001], rtol=1e-6)  # a pinhole in the middle
    assert np.isnan(u[3])
    # Written out for one point, term by term.
    k, (p0, p1), s = camera.parameters[3:9], camera.parameters[9:11], camera.parameters[11:]
    theta = np.arctan(0.5)
    r = theta + sum(k[n] * theta ** (2 * n + 3) for n in range(6))
    a, b = r * 0.6, r * 0.8
    square = a * a + b * b
    expected_u = a + 2 * a * (a * p0 + b * p1) + square * p0 + s[0] * square + s[1] * square**2
    expected_v = b + 2 * b * (a * p0 + b * p1) + square * p1 + s[2] * square + s[3] * square**2
    u, v = camera.project(np.array([0.6, 0.8, 2.0]))
    np.testing.assert_allclose([u, v], [cx + f * expected_u, cy + f * expected_v], rtol=1e-12)


# Which folder and when.


@pytest.fixture(scope="module")
def two_videos(tmp_path_factory) -> PreparedLife:
    folder = tmp_path_factory.mktemp("two")
    clips = [write_clip(folder / f"{name}.mp4", seconds=1) for name in ("P01-1", "P01-2")]
    return prepare_life(get_life("two_clips", clips), cache_dir=folder / "cache", num_workers=1, progress=False)


def test_videos_share_one_folder_by_their_times(two_videos, mps):
    write_times(mps, "P01-1", START, pace=11)
    write_times(mps, "P01-2", START + 2_000_000, pace=11)
    geometry = read(two_videos, mps)
    expected = np.concatenate([1.1 * two_videos.timestamps[:10], 2 + 1.1 * two_videos.timestamps[10:]])
    np.testing.assert_allclose(geometry.poses[:, 0, 3], expected, atol=0.0101)


def test_folders_are_found_by_name_and_by_the_file_that_maps_them(two_videos, mps, tmp_path):
    root = tmp_path / "root"
    for number, start in ((0, START), (1, START + 2_000_000)):
        folder = root / str(number) / "slam"
        shutil.copytree(mps, folder)
        write_times(root, f"P01-{2 - number}", start)
    folders = [root / "0" / "slam", root / "1" / "slam"]
    with pytest.raises(LifeError, match=r"None of the 2 MPS folders.* belongs to a video .*slam/P01-1/"):
        aria_geometry(two_videos, folders, [root], progress=False)
    mapping = {"/data/P01-1.vrs": "1", "/data/P01-2_anonymized.vrs": "0"}
    (root / aria.FOLDERS).write_text(json.dumps(mapping))
    mapped = aria_geometry(two_videos, folders, [root], progress=False)
    np.testing.assert_allclose(mapped.poses[[0, 10], 0, 3], [2, 0], atol=1e-6)
    assert (mapped.component == 0).all()  # two recordings of one world
    (root / aria.FOLDERS).unlink()
    for number in (0, 1):
        (root / str(number)).rename(root / f"P01-{2 - number}")
    named = [root / "P01-1" / "slam", root / "P01-2" / "slam"]
    by_name = aria_geometry(two_videos, named, [root], progress=False)
    np.testing.assert_array_equal(by_name.poses, mapped.poses)


# Bad input.


def without(name: str):
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def calibrated(content: str):
    return lambda folder: (folder / aria.CALIBRATION).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without(aria.TRAJECTORY), f"{aria.TRAJECTORY} is missing"),
        (without(aria.OBSERVATIONS), f"{aria.OBSERVATIONS} is missing"),
        (cut(aria.TRAJECTORY, -20), f"{aria.TRAJECTORY} is damaged or cut off"),  # within a line
        *[(cut(aria.OBSERVATIONS, size), f"{aria.OBSERVATIONS} is damaged or cut off") for size in (0, 5, 100, -9)],
        (cut(aria.POINTS, 100), f"{aria.POINTS} is damaged or cut off"),
        *[
            (calibrated(content), "its first line is not a calibration with a camera-rgb")
            for content in ("", "[1]", '{"CameraCalibrations": [{"Label": "camera-slam-left"}]}')
        ],
        (lambda mps: write_gz(mps / aria.OBSERVATIONS, ["uid,time", "1,2"]), f"{aria.OBSERVATIONS}.*frame_tracking"),
        (without(f"small{aria.TIMES}"), "small_mp4_to_vrs_time_ns.csv"),
        (lambda mps: write_times(mps, "small", 900_000_000, 4), "from 900.000 to 903.900 s, poses from 5.000 to 9.0"),
        (lambda mps: write_times(mps, "small", START, 1), "times for 0.9 s, but the video small.mp4 lasts 3.9 s"),
        (lambda mps: write_points(mps, [(*good(1)[:5], 1, 1)]), "No point .*is certain enough"),
    ],
)
def test_what_cannot_be_used_is_named(small_life, mps, damage, message):
    damage(mps)
    with pytest.raises(LifeError, match=message):
        read(small_life, mps)
