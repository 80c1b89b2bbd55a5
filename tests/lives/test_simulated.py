"""A simulated life: the same every time, varied, with pose and depth that explain how its frames move."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import psutil
import pytest
import torch

from singlelife.errors import LifeError
from singlelife.lives.prepare import life_fingerprint, prepare_life
from singlelife.lives.registry import get_life
from singlelife.lives.simulation import SCREENS, ScreenSource, SimulatedSource
from singlelife.lives.simulation.simulated import SimulatedFrame, draw_screen, render

pytestmark = pytest.mark.integration

SIZE = 96


@pytest.fixture(scope="module")
def walk() -> list[SimulatedFrame]:
    """The beginning of the life that alignment is measured on, with exact depth."""
    source = get_life("sim_test").simulation
    return list(render(replace(source, num_frames=400), SIZE))


@pytest.fixture(scope="module")
def buffer_walk() -> list[SimulatedFrame]:
    """The same walk with the depth of the game's buffer."""
    source = get_life("sim_test").simulation
    return list(render(replace(source, num_frames=100, depth="buffer"), SIZE))


def positions(frames: list[SimulatedFrame]) -> np.ndarray:
    return np.stack([frame.pose[:3, 3] for frame in frames])


def digest(frames: list[SimulatedFrame]) -> str:
    sha = hashlib.sha256()
    for frame in frames:
        sha.update(frame.image.tobytes() + frame.pose.tobytes() + frame.depth.tobytes())
        sha.update(repr((frame.timestamp, frame.frame_index)).encode())
    return sha.hexdigest()


def test_frames_have_the_promised_form(walk):
    images, depth = np.stack([frame.image for frame in walk]), np.stack([frame.depth for frame in walk])
    assert (images.shape, images.dtype) == ((400, SIZE, SIZE, 3), np.uint8)
    assert (depth.shape, depth.dtype) == ((400, SIZE, SIZE), np.float32)
    assert np.isfinite(depth).all() and (depth >= 0).all()
    assert [frame.frame_index for frame in walk] == list(range(400))
    np.testing.assert_allclose([frame.timestamp for frame in walk], np.arange(400) * 2 / 35)
    np.testing.assert_allclose([frame.intrinsics for frame in walk], [[64, 76.8, 48, 48]] * 400)


def test_a_source_gives_the_same_life_in_every_process(buffer_walk):
    script = f"""
import sys; sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
from dataclasses import replace
from singlelife.lives.registry import get_life
from singlelife.lives.simulation.simulated import render
from test_simulated import digest
print(digest(list(render(replace(get_life("sim_test").simulation, num_frames=100, depth="buffer"), {SIZE}))))
"""
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(buffer_walk)


@pytest.mark.skipif(
    version("vizdoom") != "1.3.2", reason="another game walks elsewhere; fingerprints count its version"
)
@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("sim_1", [[56.109, -183.275, 25], [696.611, -167.876, -23], [1232.431, -255.327, -23]]),
        ("sim_2", [[-152.94, 272.077, 41], [374.745, 304, -87], [797.352, 452.066, -87]]),
    ],
)
def test_the_walks_never_change(name, places):
    frames = list(render(replace(get_life(name).simulation, num_frames=100), 16))
    np.testing.assert_allclose(positions(frames)[[20, 60, 99]], places, atol=1e-3)


def test_a_killed_process_leaves_no_game_and_no_files(tmp_path):
    script = """
import os, signal, psutil
from singlelife.lives.simulation.simulated import SimulatedSource, render
next(frames := render(SimulatedSource("freedoom1", "E1M1"), 16))
print(psutil.Process().children()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert killed.returncode == -9
    psutil.wait_procs([psutil.Process(pid) for pid in [int(killed.stdout)] if psutil.pid_exists(pid)], timeout=20)
    assert not psutil.pid_exists(int(killed.stdout))
    assert not list(tmp_path.iterdir())


def test_exact_depth_agrees_with_the_game(walk, buffer_walk):
    """Exact depth is left out where the game's own depth buffer says something else: that must be little."""
    exact = np.stack([frame.depth for frame in walk[: len(buffer_walk)]])
    buffer = np.stack([frame.depth for frame in buffer_walk])
    not_sky = (buffer > 0) & (buffer < 1200)
    assert not_sky.mean() > 0.5
    assert (exact[not_sky] > 0).mean() > 0.93
    error = np.abs(exact - buffer)[not_sky & (exact > 0)]
    assert np.median(error) < 3.55  # half a level
    assert (error < 8).mean() > 0.97


def reprojection_error(first: SimulatedFrame, second: SimulatedFrame, pose: np.ndarray) -> tuple[float, float, float]:
    """Mean absolute difference of `first` to `second` as seen from there, and to `second` as it is; share of pixels.

    Where a point of the first image lies in the second is found from its depth and `pose`, the second's; points hidden
    there are left out by the second's depth.
    """
    fx, fy, cx, cy = first.intrinsics
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    z = first.depth.astype(np.float64)
    points = np.stack([(x - cx) / fx * z, (y - cy) / fy * z, z, np.ones_like(z)]).reshape(4, -1)
    there = np.linalg.inv(pose) @ first.pose @ points
    before = np.maximum(there[2], 1)  # points behind the camera are left out below
    u, v = there[0] / before * fx + cx, there[1] / before * fy + cy
    seen = (z.reshape(-1) > 0) & (there[2] > 8) & (u > 1) & (u < SIZE - 1) & (v > 1) & (v < SIZE - 1)
    at = np.where(seen, v, 0).astype(int), np.where(seen, u, 0).astype(int)
    seen &= np.abs(second.depth[at] - there[2]) < 4 + 0.03 * there[2]
    grid = np.where(seen, np.stack([u, v]) / SIZE * 2 - 1, 0).T.reshape(1, 1, -1, 2)
    picture = torch.from_numpy(second.image).permute(2, 0, 1).unsqueeze(0).double()
    warped = torch.nn.functional.grid_sample(picture, torch.from_numpy(grid), align_corners=False)[0, :, 0].T.numpy()
    target = first.image.reshape(-1, 3).astype(float)
    same_place = second.image.reshape(-1, 3).astype(float)
    if not seen.any():
        return np.nan, np.nan, 0.0
    return np.abs(target - warped)[seen].mean(), np.abs(target - same_place)[seen].mean(), seen.mean()


def test_depth_and_pose_explain_the_motion_between_frames(walk):
    """Frames four apart: better than no motion, and than the pose of the frame before or after."""
    results = []
    for index in range(20, 390, 10):
        first, second = walk[index], walk[index + 4]
        error, same_place, seen = reprojection_error(first, second, second.pose)
        moved = np.linalg.norm(second.pose[:3, 3] - first.pose[:3, 3]) > 20
        if moved and seen > 0.2:
            early, late = (reprojection_error(first, second, walk[index + gap].pose)[0] for gap in (3, 5))
            results.append((error, same_place, early, late))
    assert len(results) > 15
    error, same_place, early, late = np.nanmean(results, axis=0)  # nan where a wrong pose leaves nothing in view
    assert error < 0.5 * same_place
    assert error < 0.8 * early
    assert error < 0.8 * late


def test_a_still_camera_does_not_move():
    source = SimulatedSource("freedoom2", "MAP01", num_frames=120, still=True, depth="buffer")
    frames = list(render(source, 48))
    assert all((frame.pose == frames[0].pose).all() for frame in frames)
    assert len({frame.timestamp for frame in frames}) == 120
    images = np.stack([frame.image for frame in frames]).astype(np.float32)
    assert np.abs(images - images[0]).mean() < 4


def test_a_jump_to_another_place_is_a_cut_in_time():
    """This walker steps into a teleporter within its first seconds."""
    frames = list(render(SimulatedSource("freedoom1", "E3M7", seed=1, num_frames=60), 16))
    gaps = np.diff([frame.timestamp for frame in frames])
    jumps = np.linalg.norm(np.diff(positions(frames), axis=0), axis=1) > 100
    assert jumps.any()
    np.testing.assert_array_equal(gaps > 10, jumps)
    np.testing.assert_allclose(gaps[~jumps], 2 / 35)


@pytest.mark.parametrize(
    ("source", "size", "message"),
    [
        (SimulatedSource("freedoom2", "E1M1"), 96, "freedoom2.wad has no map 'E1M1'"),
        (SimulatedSource("freedoom1", "E1M1"), 15, "16 to 240 px, not 15"),
        (SimulatedSource("freedoom1", "E1M1"), 241, "16 to 240 px, not 241"),
    ],
)
def test_what_cannot_be_rendered_is_said(source, size, message):
    with pytest.raises(LifeError, match=message):
        next(render(source, size))


# Screens.


def drawn(screen: str, count: int, seed: int = 1) -> np.ndarray:
    return np.stack(list(draw_screen(ScreenSource(screen, seed, count), 64)))


@pytest.mark.parametrize("screen", SCREENS)
def test_the_same_screen_gives_the_same_frames(screen):
    first = drawn(screen, 40)
    assert first.shape == (40, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, drawn(screen, 40)) and np.array_equal(first[:25], drawn(screen, 25))
    assert not np.array_equal(first, drawn(screen, 40, seed=2))
    assert first.std() > 20  # something is on it


def test_slides_stand_still_and_then_change_at_once():
    shown = drawn("slides", 1000)
    changes = np.flatnonzero((shown[1:] != shown[:-1]).any((1, 2, 3)))
    assert 3 <= len(changes) <= 15  # 57 s, 4 to 15 s each
    assert (np.diff(changes) >= 70).all()


def test_a_desktop_moves_in_parts():
    shown = drawn("desktop", 400).astype(int)
    changed = (np.abs(np.diff(shown, axis=0)).max(-1) > 8).mean((1, 2))
    assert (changed > 0).mean() > 0.2 and np.median(changed[changed > 0]) < 0.5


def test_a_screen_is_prepared_as_any_life(tmp_path):
    life = get_life("sim_desktop")
    short = replace(life, simulation=replace(life.simulation, num_frames=30))
    prepared = prepare_life(short, cache_dir=tmp_path, progress=False)
    assert len(prepared) == 30 and prepared.poses([0]) is None and prepared.depth([0]) is None
    assert prepared.timestamps[-1] == pytest.approx(29 / 17.5)
    assert life_fingerprint(short) != life_fingerprint(life)
