"""Overlaps are found once and kept beside the life; what is damaged or of something else is found again."""

import warnings
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from singlelife.lives.pairs.overlap import PairTable, pair_table_key, stored_pair_table
from singlelife.lives.pairs.pairing import PairSettings
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry, VisiblePoints

SETTINGS = PairSettings(min_overlap=0.2, max_overlap=0.8, max_neighbours=20)


def some_geometry(num_frames: int, seed: int = 0) -> Geometry:
    rng = np.random.default_rng(seed)
    points = VisiblePoints.from_frames([rng.integers(0, 40, 20) for _ in range(num_frames)])
    nothing = np.full((num_frames, 4), np.nan)
    return Geometry(points, np.zeros(num_frames, dtype=np.int64), np.full((num_frames, 4, 4), np.nan), nothing)


@pytest.fixture
def life(small_life, tmp_path) -> PreparedLife:
    """The small life, with a folder of its own to keep pairs in."""
    folder = tmp_path / small_life.path.name
    folder.mkdir()
    return PreparedLife(folder, small_life.metadata, small_life.dataset)


def same(one: PairTable, other: PairTable) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("target", "source", "overlap"))


def stored(life: PreparedLife) -> list:
    return sorted(path.name for path in life.path.iterdir())


def test_a_table_is_made_once_and_then_read(life, capsys):
    geometry = some_geometry(len(life))
    made = stored_pair_table(life, geometry, SETTINGS)
    assert "Finding overlaps" in capsys.readouterr().err
    assert len(made) > len(life) and made.num_in_range >= len(made)
    (name,) = stored(life)
    assert name == f"pairs-{pair_table_key(geometry, SETTINGS)[:12]}.parquet"
    written = (life.path / name).stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = stored_pair_table(life, geometry, SETTINGS)
    assert same(made, read) and (read.num_in_range, read.num_above) == (made.num_in_range, made.num_above)
    assert (life.path / name).stat().st_mtime_ns == written and not capsys.readouterr().err
    columns = pq.read_table(life.path / name)
    assert columns.schema.names == ["target", "source", "overlap"]


def test_other_poses_or_settings_are_another_table(life):
    geometry = some_geometry(len(life))
    first = stored_pair_table(life, geometry, SETTINGS, progress=False)
    second = stored_pair_table(life, some_geometry(len(life), seed=1), SETTINGS, progress=False)
    third = stored_pair_table(life, geometry, replace(SETTINGS, min_overlap=0.3), progress=False)
    assert len(stored(life)) == len({first.key, second.key, third.key}) == 3
    assert not same(first, second) and (third.overlap >= np.float32(0.3)).all()
    of_no_consequence = replace(SETTINGS, min_gap=0.5, spatial_weight=0.1)
    assert stored_pair_table(life, geometry, of_no_consequence).key == first.key


def test_neighbours_are_drawn_as_if_the_life_ended_where_it_is_cut(life):
    """A whole life's table holds 3 neighbours of each frame, of which few would be left within a cut."""
    few, half = replace(SETTINGS, max_neighbours=3), len(life) // 2
    whole = stored_pair_table(life, some_geometry(len(life)), few, progress=False)
    cut = stored_pair_table(life, some_geometry(len(life)), few, num_frames=half, progress=False)
    assert max(cut.target.max(), cut.source.max()) < half and cut.key != whole.key
    assert (np.bincount(cut.target, minlength=half)[:half] == 3).all()
    uncut = stored_pair_table(life, some_geometry(len(life)), few, num_frames=len(life), progress=False)
    assert uncut.key == whole.key and same(uncut, whole)


def test_a_rate_leaves_frames_out_by_time(life):
    """The small life has ten frames a second."""
    every = stored_pair_table(life, some_geometry(len(life)), SETTINGS, progress=False)
    assert set(every.target) == set(range(len(life)))
    some = stored_pair_table(life, some_geometry(len(life)), replace(SETTINGS, spatial_rate=2.0), progress=False)
    assert set(some.target) | set(some.source) == set(range(0, len(life), 5)) and some.key != every.key
    same_frames = stored_pair_table(
        life, some_geometry(len(life)), replace(SETTINGS, spatial_rate=500), progress=False
    )
    assert same(same_frames, every)


def cut_short(path, table):
    path.write_bytes(path.read_bytes()[:-50])


def of_another_life(path, table):
    metadata = {key: value.replace(b'"key": "', b'"key": "0') for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize("damage", [cut_short, of_another_life])
def test_a_table_that_cannot_be_used_is_named_and_made_again(life, damage):
    geometry = some_geometry(len(life))
    made = stored_pair_table(life, geometry, SETTINGS, progress=False)
    path = life.path / stored(life)[0]
    whole = path.read_bytes()
    damage(path, pq.read_table(path))
    with pytest.warns(UserWarning, match=rf"{path.name} cannot be used \(.*made again"):
        again = stored_pair_table(life, geometry, SETTINGS, progress=False)
    assert same(made, again) and path.read_bytes() == whole and stored(life) == [path.name]
