"""Visible points from depth: that the overlap of two frames is the overlap of what they see."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from singlelife.cli import main
from singlelife.errors import LifeError
from singlelife.lives.pairs.overlap import find_overlaps
from singlelife.lives.pairs.pairing import (
    PAIRINGS,
    PairingContext,
    PairSettings,
    RandomPairing,
    SpatialPairing,
    make_pairing,
)
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import back_project, default_voxel_size, depth_geometry, median_depths

pytestmark = pytest.mark.integration


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    common = len(np.intersect1d(a, b))
    return common / (len(a) + len(b) - common)


def seen_in(life: PreparedLife, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The share of what each first frame sees that its second one sees too, by warping with the exact depth."""
    share = []
    depth, poses, camera = (read(np.arange(len(life))) for read in (life.depth, life.poses, life.intrinsics))
    size = depth.shape[1]
    row, column = np.mgrid[2:size:4, 2:size:4].reshape(2, -1)
    for i, j in zip(first, second, strict=True):
        fx, fy, cx, cy = camera[i]
        z = depth[i, row, column].astype(np.float64)
        points = np.stack([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z, np.ones_like(z)])
        x, y, far, _ = np.linalg.inv(poses[j]) @ poses[i] @ points
        known = z > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = np.floor(fx * x / far + cx), np.floor(fy * y / far + cy)
        inside = known & (far > 0) & (u >= 0) & (u < size) & (v >= 0) & (v < size)
        surface = depth[j, np.where(inside, v, 0).astype(int), np.where(inside, u, 0).astype(int)]
        seen = inside & (np.abs(surface - far) <= 0.05 * far)
        share.append(seen.sum() / max(1, known.sum()))
    return np.array(share)


def test_the_overlap_of_voxels_is_that_of_what_is_seen(sim_test):
    """Against the same depth warped from frame to frame, which no voxel has a part in."""
    geometry = depth_geometry(sim_test, voxel_size=default_voxel_size(sim_test), progress=False)
    generator = np.random.default_rng(0)
    first = generator.integers(0, len(sim_test), 400)
    second = (first + generator.integers(1, 200, 400)) % len(sim_test)
    a, b = seen_in(sim_test, first, second), seen_in(sim_test, second, first)
    warped = a * b / np.maximum(a + b - a * b, 1e-9)  # the Jaccard index, if both frames see equally much
    voxels = np.array([overlap(geometry.points[i], geometry.points[j]) for i, j in zip(first, second, strict=True)])
    assert np.std(warped) > 0.1  # from disjoint to nearly the same
    assert np.corrcoef(warped, voxels)[0, 1] > 0.9
    assert np.abs(warped - voxels).mean() < 0.1
    assert voxels[warped == 0].max() < 0.05
    assert (geometry.component == 0).all()
    np.testing.assert_array_equal(geometry.poses, sim_test.poses(np.arange(len(sim_test))))


def test_spatial_pairs_see_the_same_surfaces_and_many_are_far_apart_in_time(sim_test):
    rows, settings = np.arange(len(sim_test)), PairSettings(max_neighbours=1000)
    geometry = depth_geometry(sim_test, voxel_size=default_voxel_size(sim_test), progress=False)
    table = find_overlaps(geometry.points, geometry.component, settings)
    covisible = []
    for pairing in (SpatialPairing(table, rows, settings), RandomPairing(rows)):
        first, second = pairing.pairs(0, np.arange(200)).T
        covisible.append(np.minimum(seen_in(sim_test, first, second), seen_in(sim_test, second, first)))
    spatial, by_chance = covisible
    assert np.median(by_chance) == 0
    assert np.median(spatial) > 0.3 and np.quantile(spatial, 0.1) > 0.08
    gaps = np.abs(sim_test.timestamps[table.target] - sim_test.timestamps[table.source])
    assert (gaps > 5).sum() > 1000


def test_pixels_come_back_to_where_they_were_seen():
    """A wall 4 in front of a camera that stands at (1, 2, 3) and looks along the world's x."""
    pose = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]])
    depth = np.full((1, 8, 12), 4.0, dtype=np.float32)
    depth[0, 0, 0] = 0
    points = back_project(depth, pose[None], np.array([[6.0, 6, 6, 4]])).reshape(8, 12, 3)
    assert np.isnan(points[0, 0]).all()
    np.testing.assert_allclose(points[7, 11], [1 + 4, 2 - 4 * 5.5 / 6, 3 - 4 * 3.5 / 6])
    np.testing.assert_allclose(points[1, 0], [1 + 4, 2 + 4 * 5.5 / 6, 3 + 4 * 2.5 / 6])


def test_the_depth_of_what_is_seen_is_known_from_maps_and_from_voxels(sim_test):
    rows = np.arange(0, len(sim_test), 25)
    geometry = depth_geometry(sim_test, voxel_size=default_voxel_size(sim_test), progress=False)
    own, voxels = median_depths(sim_test, rows), median_depths(sim_test, rows, geometry)
    assert own[0] == pytest.approx(np.median(sim_test.depth(rows[:1])[sim_test.depth(rows[:1]) > 0]), rel=0.01)
    assert np.median(np.abs(voxels / own - 1)) < 0.25 and np.corrcoef(own, voxels)[0, 1] > 0.8
    assert np.isnan(median_depths(sim_test, rows, replace(geometry, voxel_size=0.0))).all()


def test_the_example_of_a_pairing_draws_cameras_a_distance_apart(sim_test, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PAIRINGS, "baseline", None)  # which the example sets, and the test's end takes out
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "new_pairing.py"))
    rows = np.arange(100, 400)
    context = replace(PairingContext.of_life(sim_test, PairSettings(), progress=False), rows=rows)
    pairing = make_pairing("baseline", context)
    place = sim_test.poses(np.arange(len(sim_test)))[:, :3, 3]
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    within = (distance >= pairing.least) & (distance <= pairing.most)
    assert len(pairing) == within[np.ix_(rows, rows)].sum()
    pairs = pairing.pairs(3, np.arange(200))
    assert within[tuple(pairs.T)].all() and np.isin(pairs, rows).all() and len(np.unique(pairs, axis=0)) > 150
    np.testing.assert_array_equal(pairing.pairs(3, np.arange(150, 160)), pairs[150:160])
    words = ["pairs", "show", str(sim_test.path), "--pairing", "baseline", "--output", str(tmp_path / "sheet.png")]
    assert main(words) == 0 and "baseline" in capsys.readouterr().out


def test_a_life_without_depth_is_refused(small_life):
    with pytest.raises(LifeError, match="has no poses and intrinsics"):
        depth_geometry(small_life, voxel_size=1.0, progress=False)
    with pytest.raises(LifeError, match="has no depth"):
        default_voxel_size(small_life)
