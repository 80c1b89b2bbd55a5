"""Reconstruction with COLMAP: what is given to it, and a real run against the poses that a simulated life has."""

import signal
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
from singlelife.lives.scene.geometry import frames_at_rate
from singlelife.lives.scene.sfm import pairs_to_match, reconstruct
from singlelife.lives.scene.store import life_geometry
from singlelife.lives.simulation.simulated import render

from .conftest import write_clip

pytestmark = pytest.mark.integration


def test_frames_are_thinned_evenly_and_in_each_video(small_life, tmp_path):
    np.testing.assert_allclose(small_life.timestamps[frames_at_rate(small_life, 2.0)], np.arange(0, 4, 0.5), atol=1e-6)
    assert len(frames_at_rate(small_life, 100.0)) == len(small_life)
    clips = [write_clip(tmp_path / f"{number}.mp4", seconds=0.7) for number in range(3)]
    life = prepare_life(get_life("three", clips), cache_dir=tmp_path, num_workers=1, progress=False)
    assert life.frame_index[frames_at_rate(life, 1.0)].tolist() == [0, 0, 0]


def test_pairs_are_along_each_video_and_across_the_life():
    video_index = np.array([0] * 100 + [1] * 900)
    pairs = pairs_to_match(video_index)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    known = set(map(tuple, pairs.tolist()))
    assert {(10, 11), (10, 15), (10, 18), (10, 74), (0, 999)} <= known
    assert (10, 17) not in known and (99, 100) not in known  # not along a video
    assert len(pairs) < 12 * len(video_index) + 150 * 149 / 2  # in proportion to the life, not to its square
    assert pairs_to_match(np.zeros(3, dtype=np.int64)).tolist() == [[0, 1], [0, 2], [1, 2]]


def test_a_video_without_texture_gives_nothing_and_says_why(tmp_path):
    pytest.importorskip("pycolmap", reason="the extra singlelife[poses] is not installed")
    clip = write_clip(
        tmp_path / "grey wall.mp4", picture=lambda _, height, width: np.full((height, width, 3), 90, "u1")
    )
    life = prepare_life(get_life("wall", [clip]), cache_dir=tmp_path, progress=False)
    for _ in range(2):
        with pytest.raises(
            LifeError, match="could reconstruct nothing from 8 frames of the life wall: it needs texture"
        ):
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
def test_a_reconstruction_that_is_killed_goes_on_and_finds_the_true_poses(walk):
    pycolmap = pytest.importorskip("pycolmap", reason="the extra singlelife[poses] is not installed")
    life, true_poses = walk
    work = life.path.with_name(f"{life.path.name}.sfm")
    script = (
        "import sys\n"
        "from singlelife.lives.prepared import PreparedLife\n"
        "from singlelife.lives.scene.sfm import reconstruct\n"
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

    for folder in models.iterdir():  # read as pycolmap reads it
        model = pycolmap.Reconstruction(folder)
        for image in model.images.values():
            [row] = np.flatnonzero(life.frame_index == int(Path(image.name).stem))
            if geometry.component[row] != largest or int(folder.name) != largest:
                continue
            np.testing.assert_allclose(geometry.poses[row][:3], image.cam_from_world().inverse().matrix(), atol=1e-9)
            seen = {point.point3D_id for point in image.points2D if point.has_point3D()}
            assert geometry.points[row].tolist() == sorted(seen)
