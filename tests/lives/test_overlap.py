"""The search for overlapping frames against brute force: exact, whatever the blocks, and fair where it is capped."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from singlelife.lives.pairs import PairSettings
from singlelife.lives.pairs import overlap as overlap_module
from singlelife.lives.pairs.overlap import PairTable, find_overlaps, overlaps_of
from singlelife.lives.scene.geometry import VisiblePoints

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
@given(lives(), st.sampled_from([0.01, 0.2, 1 / 3, 0.5, 1.0]), st.floats(0, 1), st.integers(1, 128))
@example((VisiblePoints.from_frames([]), np.zeros(0, dtype=np.int64)), 0.2, 1.0, 1)
@example((VisiblePoints.from_frames([[], []]), np.zeros(2, dtype=np.int64)), 0.2, 1.0, 1)
@example((VisiblePoints.from_frames([[7, 1]] * 3), np.zeros(3, dtype=np.int64)), 1.0, 1.0, 2)
def test_all_pairs_in_range_are_found_and_no_others(life, least, share, block_frames):
    points, component = life
    most = least + share * (1 - least)
    asked = PairSettings(min_overlap=least, max_overlap=most, max_neighbours=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap_module, "_BLOCK_FRAMES", block_frames)
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


def test_frames_that_share_too_much_for_one_block_are_compared_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    points = VisiblePoints.from_frames([rng.integers(0, 60, rng.integers(0, 50)) for _ in range(60)])
    component = np.zeros(60, dtype=np.int64)
    monkeypatch.setattr(overlap_module, "_COMMON_AT_ONCE", 37)
    assert as_dict(find_overlaps(points, component, ALL)) == brute_force(points, component, 1e-6, 1)
