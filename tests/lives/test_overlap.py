"""The search for overlapping frames against brute force, exact and fair; and the tables that are kept of it."""

import warnings
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from singlelife.lives.pairs import PairSettings
from singlelife.lives.pairs import overlap as overlap_module
from singlelife.lives.pairs.overlap import PairTable, find_overlaps, overlaps_of, pair_table_key, stored_pair_table
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry, VisiblePoints

ALL = PairSettings(min_overlap=1e-6, max_overlap=1.0, max_neighbours=10_000)


def jaccard(first: np.ndarray, second: np.ndarray) -> np.float32:
    first, second = set(first.tolist()), set(second.tolist())
    return np.float32(len(first & second)) / np.float32(max(1, len(first | second)))


def brute_force(points: VisiblePoints, component: np.ndarray, least: float, most: float) -> dict:
    pairs = [(a, b) for a in range(len(points)) for b in range(len(points)) if a != b]
    overlaps = {
        (a, b): jaccard(points[a], points[b]) for a, b in pairs if component[a] == component[b] and component[a] >= 0
    }
    return {pair: value for pair, value in overlaps.items() if np.float32(least) <= value <= np.float32(most)}


def as_dict(table: PairTable) -> dict:
    return dict(zip(zip(table.target.tolist(), table.source.tolist(), strict=True), table.overlap, strict=True))


@st.composite
def lives(draw):
    """A few frames that see few points, so that many are empty, the same, or share some."""
    ids = st.sets(st.integers(-3, 12) | st.just(2**62), max_size=10)
    frames = draw(st.lists(ids, max_size=24))
    component = draw(st.lists(st.integers(-1, 2), min_size=len(frames), max_size=len(frames)))
    return VisiblePoints.from_frames([list(frame) for frame in frames]), np.array(component, dtype=np.int64)


@settings(max_examples=150)
@given(
    lives(), st.sampled_from([0.01, 0.2, 1 / 3, 0.5, 1.0]), st.floats(0, 1), st.integers(1, 128),
    st.sampled_from([3, 37, 1 << 25]),
)  # fmt: skip
@example((VisiblePoints.from_frames([]), np.zeros(0, dtype=np.int64)), 0.2, 1.0, 1, 1 << 25)
@example((VisiblePoints.from_frames([[], []]), np.zeros(2, dtype=np.int64)), 0.2, 1.0, 1, 1 << 25)
@example((VisiblePoints.from_frames([[7, 1]] * 3), np.zeros(3, dtype=np.int64)), 1.0, 1.0, 2, 1 << 25)
def test_all_pairs_in_range_are_found_and_no_others(life, least, share, block_frames, common_at_once):
    points, component = life
    most = least + share * (1 - least)
    asked = PairSettings(min_overlap=least, max_overlap=most, max_neighbours=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap_module, "_BLOCK_FRAMES", block_frames)
        patch.setattr(overlap_module, "_COMMON_AT_ONCE", common_at_once)
        table = find_overlaps(points, component, asked)
    assert as_dict(table) == brute_force(points, component, least, most)  # to the last bit of each overlap
    assert table.num_in_range == len(table)
    assert table.num_above == len(brute_force(points, component, least, 1)) - len(table)
    order = np.lexsort((table.source, table.target))
    assert (order == np.arange(len(table))).all()
    assert (table.target.dtype, table.source.dtype, table.overlap.dtype) == (np.int32, np.int32, np.float32)


@given(lives(), st.integers(1, 4), st.integers(1, 128))
def test_a_cap_keeps_so_many_sources_of_each_target_whatever_the_blocks(life, most, block_frames):
    points, component = life
    everything = brute_force(points, component, 0.1, 0.9)
    capped = PairSettings(min_overlap=0.1, max_overlap=0.9, max_neighbours=most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap_module, "_BLOCK_FRAMES", block_frames)
        table = find_overlaps(points, component, capped)
    kept = as_dict(table)
    assert kept.items() <= everything.items() and table.num_in_range == len(everything)
    for target in range(len(points)):
        partners = sum(pair[0] == target for pair in everything)
        assert sum(pair[0] == target for pair in kept) == min(most, partners)
    assert as_dict(find_overlaps(points, component, capped)) == kept


def test_the_cap_is_fair():
    """Among a hundred equal partners each is kept as often as any other, near or far in time."""
    kept = np.zeros((100, 100), dtype=int)
    capped = PairSettings(min_overlap=0.1, max_overlap=0.9, max_neighbours=10)
    for place in range(40):  # a hundred frames after others that see nothing
        frames = [[]] * 100 * place + [[0, 1, 100 + frame] for frame in range(100)]
        table = find_overlaps(VisiblePoints.from_frames(frames), np.zeros(len(frames), dtype=np.int64), capped)
        kept[table.target - 100 * place, table.source - 100 * place] += 1
    np.testing.assert_array_equal(kept.sum(axis=1), 400)
    mean, spread = 400 / 99, np.sqrt(400 / 99 * (1 - 10 / 99))
    off_diagonal = kept[~np.eye(100, dtype=bool)]
    assert abs(off_diagonal.std() / spread - 1) < 0.05  # as of independent draws
    distance = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    for near in (distance == 1, distance == 50, distance > 90):
        assert kept[near].mean() == pytest.approx(mean, abs=5 * spread / np.sqrt(near.sum()))


def test_overlaps_of_given_pairs_are_those_of_the_search():
    rng = np.random.default_rng(1)
    points = VisiblePoints.from_frames([rng.integers(0, 40, 30) for _ in range(12)] + [[], [], [1, 2]])
    component = np.array([0] * 6 + [1] * 6 + [0, 0, -1])
    table = find_overlaps(points, component, ALL)
    pairs = np.stack([table.target, table.source], axis=1).astype(np.int64)
    np.testing.assert_array_equal(overlaps_of(points, component, pairs), table.overlap)
    assert overlaps_of(points, component, np.array([[3, 3]])) == 1
    assert np.isnan(overlaps_of(points, component, np.array([[0, 6], [12, 13], [14, 14], [0, 14]]))).all()


# Tables beside a life.

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
    assert len(stored(life)) == len({first.key, second.key, third.key}) == 3 and set(first.target) == set(range(40))
    assert not same(first, second) and (third.overlap >= np.float32(0.3)).all()
    thinned = stored_pair_table(life, geometry, replace(SETTINGS, spatial_rate=2.0), progress=False)  # of 10 Hz
    assert set(thinned.target) | set(thinned.source) == set(range(0, len(life), 5)) and thinned.key != first.key
    for of_no_consequence in ({"min_gap": 0.5, "spatial_weight": 0.1}, {"spatial_rate": 500.0}):
        again = stored_pair_table(life, geometry, replace(SETTINGS, **of_no_consequence), progress=False)
        assert again.key == first.key and same(again, first)


def test_neighbours_are_drawn_as_if_the_life_ended_where_it_is_cut(life):
    """A whole life's table holds 3 neighbours of each frame, of which few would be left within a cut."""
    few, half = replace(SETTINGS, max_neighbours=3), len(life) // 2
    whole = stored_pair_table(life, some_geometry(len(life)), few, progress=False)
    cut = stored_pair_table(life, some_geometry(len(life)), few, num_frames=half, progress=False)
    assert max(cut.target.max(), cut.source.max()) < half and cut.key != whole.key
    assert (np.bincount(cut.target, minlength=half)[:half] == 3).all()
    uncut = stored_pair_table(life, some_geometry(len(life)), few, num_frames=len(life), progress=False)
    assert uncut.key == whole.key and same(uncut, whole)


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
    with pytest.warns(UserWarning, match=rf"{path.name} cannot be used \(.*again"):
        again = stored_pair_table(life, geometry, SETTINGS, progress=False)
    assert same(made, again) and path.read_bytes() == whole and stored(life) == [path.name]
