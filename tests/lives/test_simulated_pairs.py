"""Spatial pairs of a simulated life by its exact geometry: they see the same place, many of them much later."""

import numpy as np
import pytest

from singlelife.lives.pairs.overlap import find_overlaps
from singlelife.lives.pairs.pairing import PairSettings, RandomPairing, SpatialPairing
from singlelife.lives.scene.geometry import VisiblePoints

VOXEL = 32.0  # map units; the eye is 41 above the floor
SETTINGS = PairSettings(min_overlap=0.2, max_overlap=0.7, max_neighbours=1000)


class Views:
    """Depth and cameras of all frames, and what follows from them."""

    def __init__(self, life):
        rows = np.arange(len(life))
        self.depth, self.poses, self.intrinsics = life.depth(rows), life.poses(rows), life.intrinsics(rows)

    def world_points(self, row: int) -> np.ndarray:
        """Where the pixels of a frame are, every second of each row and column, float64 (k, 3)."""
        z = self.depth[row][::2, ::2]
        y, x = np.mgrid[: z.shape[0], : z.shape[1]] * 2 + 0.5
        fx, fy, cx, cy = self.intrinsics[row]
        camera = np.stack([(x - cx) / fx * z, (y - cy) / fy * z, z], axis=-1)[z > 0]
        return camera @ self.poses[row, :3, :3].T + self.poses[row, :3, 3]

    def share_seen(self, target: int, source: int) -> float:
        """The share of the target's points that the source sees: inside its view, and not behind something."""
        camera = (self.world_points(target) - self.poses[source, :3, 3]) @ self.poses[source, :3, :3]
        fx, fy, cx, cy = self.intrinsics[source]
        z = np.maximum(camera[:, 2], 1.0)
        column = np.floor(fx * camera[:, 0] / z + cx).astype(int)
        row = np.floor(fy * camera[:, 1] / z + cy).astype(int)
        size = self.depth.shape[1]
        inside = (camera[:, 2] > 1) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
        surface = self.depth[source][row.clip(0, size - 1), column.clip(0, size - 1)]
        return float((inside & (np.abs(surface - z) <= 0.05 * z)).mean())

    def covisible(self, pairs: np.ndarray) -> np.ndarray:
        """For each pair the smaller of the two shares."""
        return np.array([min(self.share_seen(a, b), self.share_seen(b, a)) for a, b in pairs])


@pytest.fixture(scope="module")
def views(sim_test) -> Views:
    return Views(sim_test)


@pytest.fixture(scope="module")
def table(views):
    cells = [np.floor(views.world_points(row) / VOXEL).astype(np.int64) + (1 << 20) for row in range(len(views.depth))]
    points = VisiblePoints.from_frames([cell @ [1 << 42, 1 << 21, 1] for cell in cells])
    overlaps = {name: getattr(SETTINGS, name) for name in ("min_overlap", "max_overlap", "max_neighbours")}
    return find_overlaps(points, np.zeros(len(points), dtype=np.int64), **overlaps)


def test_spatial_pairs_see_the_same_surfaces(views, table):
    rows = np.arange(len(views.depth))
    spatial = views.covisible(SpatialPairing(table, rows, SETTINGS).pairs(0, np.arange(200)))
    by_chance = views.covisible(RandomPairing(rows).pairs(0, np.arange(200)))
    assert np.median(by_chance) == 0
    assert np.median(spatial) > 0.3 and np.quantile(spatial, 0.1) > 0.08


def test_the_more_they_overlap_the_more_of_each_other_they_see(views, table):
    order = np.argsort(table.overlap, kind="stable")
    little, much = (
        views.covisible(np.stack([table.target[part], table.source[part]], axis=1))
        for part in (order[: len(order) // 4][::40], order[-len(order) // 4 :][::40])
    )
    assert np.median(much) > 2 * np.median(little)


def test_many_spatial_pairs_are_far_apart_in_time(sim_test, table):
    gaps = np.abs(sim_test.timestamps[table.target] - sim_test.timestamps[table.source])
    assert (gaps > 5 * PairSettings.max_gap).sum() > 1000
