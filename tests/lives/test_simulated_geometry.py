"""A Doom map's geometry: read from a wad, and seen by rays. Mostly on a small map drawn here."""

from pathlib import Path

import numpy as np
import pytest
import vizdoom as vzd

from singlelife.lives.simulation.doom_map import OUTSIDE, DoomMap, exact_depth

FREEDOOM2 = Path(vzd.__file__).parent / "freedoom2.wad"
INTRINSICS = np.array([32.0, 32.0, 32.0, 32.0])


def corridor(sky: int | None = None) -> DoomMap:
    """Rooms of 512 x 512 in a row along x, from the west: 0, 1, 2."""
    lines = [(0, 0, 0, 512, 0, OUTSIDE), (1536, 512, 1536, 0, 2, OUTSIDE)]
    for room in range(3):
        x = 512 * room
        lines += [(x, 512, x + 512, 512, room, OUTSIDE), (x + 512, 0, x, 0, room, OUTSIDE)]
    lines += [(512, 512, 512, 0, 0, 1), (1024, 512, 1024, 0, 1, 2)]
    table = np.array(lines)
    return DoomMap(
        start=table[:, :2].astype(float),
        direction=(table[:, 2:4] - table[:, :2]).astype(float),
        right=table[:, 4],
        left=table[:, 5],
        impassable=table[:, 5] == OUTSIDE,
        special=np.zeros(len(table), dtype=np.int64),
        tag=np.zeros(len(table), dtype=np.int64),
        sector_tag=np.zeros(3, dtype=np.int64),
        sky=np.arange(3) == sky,
    )


def heights(*rooms: tuple[float, float]) -> np.ndarray:
    """Floors, and ceilings."""
    return np.array(rooms, dtype=float).T


def depth_eastwards(doom_map: DoomMap, rooms: np.ndarray) -> np.ndarray:
    """Seen from the middle of room 0, eye 41 above its floor."""
    return exact_depth(doom_map, *rooms, np.array([256.0, 256.0, 41.0]), 0.0, INTRINSICS, 64)


def test_depth_of_walls_floors_and_ceilings():
    depth = depth_eastwards(corridor(), heights((0, 128), (0, 128), (0, 128)))
    assert depth.dtype == np.float32
    # Looking down by (63.5 - 32) / 32 per unit of depth, the floor 41 below is met at 41 / 0.984 = 41.65.
    assert depth[63, 32] == pytest.approx(41 / (31.5 / 32), rel=1e-6)
    assert depth[0, 32] == pytest.approx((128 - 41) / (31.5 / 32), rel=1e-6)
    assert depth[31, 32] == depth[32, 32] == 1536 - 256  # the eastern wall, through both openings
    # The southern wall is 256 to the right: met at 256 / 0.984 by the last column.
    assert depth[32, 63] == pytest.approx(256 / (31.5 / 32), rel=1e-6)
    np.testing.assert_allclose(depth, depth[:, ::-1], rtol=1e-6)  # the camera is in the middle of the corridor


def test_depth_meets_steps_and_lintels_between_rooms():
    depth = depth_eastwards(corridor(), heights((0, 128), (24, 100), (-1000, 1000)))
    per_unit = (np.arange(64) + 0.5 - 32) / 32
    at_256 = 41 - per_unit * 256  # height of the rays where room 1 begins
    step, lintel = (at_256 > 0) & (at_256 < 24), (at_256 > 100) & (at_256 < 128)
    assert step.sum() > 1 and lintel.sum() > 1
    assert (depth[step, 32] == 256).all() and (depth[lintel, 32] == 256).all()
    assert (depth[(at_256 > 24) & (at_256 < 100), 32] > 256).all()


def test_sky_has_no_depth():
    depth = depth_eastwards(corridor(sky=0), heights((0, 128), (0, 128), (0, 128)))
    assert np.isinf(depth[0, 32]) and np.isfinite(depth[63, 32])


def test_a_map_of_the_wad_is_that_of_the_game(tmp_path):
    doom_map = DoomMap.read(FREEDOOM2, "MAP01")
    game = vzd.DoomGame()
    game.set_doom_config_path(str(tmp_path / "vizdoom.ini"))
    game.set_doom_game_path(str(FREEDOOM2))
    game.set_doom_map("MAP01")
    game.set_window_visible(False)
    game.set_sectors_info_enabled(True)
    game.init()
    try:
        sectors = game.get_state().sectors
    finally:
        game.close()
    assert len(sectors) == len(doom_map.sky)
    end = doom_map.start + doom_map.direction
    for number, sector in enumerate(sectors):
        mine = (doom_map.right == number) | (doom_map.left == number)
        here = {frozenset([tuple(a), tuple(b)]) for a, b in zip(doom_map.start[mine], end[mine], strict=True)}
        assert here == {frozenset([(line.x1, line.y1), (line.x2, line.y2)]) for line in sector.lines}
