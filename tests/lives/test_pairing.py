"""Pairs of every kind: a pure function of (seed, i), of usable frames, within the ranges that were asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singlelife.errors import LifeError
from singlelife.lives.pairs.overlap import PairTable, find_overlaps
from singlelife.lives.pairs.pairing import (
    PAIRINGS,
    PairingContext,
    PairSettings,
    RandomPairing,
    SpatialPairing,
    TemporalPairing,
    bin_of,
    make_pairing,
    pair_generators,
)
from singlelife.lives.pairs.segments import first_hours, hold_out, recording_time, segment_starts
from singlelife.lives.scene.geometry import VisiblePoints

from ..micro import pair_generator


def recording(*videos: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Timestamps and video index of a life of several videos."""
    timestamps = np.concatenate([np.asarray(video, dtype=np.float64) for video in videos])
    return timestamps, np.repeat(np.arange(len(videos)), [len(video) for video in videos])


@st.composite
def recordings(draw):
    """A few videos at various rates, with cuts."""
    videos = []
    for _ in range(draw(st.integers(1, 3))):
        step = draw(st.sampled_from([0.04, 0.1, 0.5]))
        cuts = draw(st.lists(st.booleans(), min_size=8, max_size=60))
        videos.append(np.cumsum([step + (20.0 if cut and i % 5 == 0 else 0.0) for i, cut in enumerate(cuts)]).tolist())
    return recording(*videos)


@settings(max_examples=60)
@given(recordings(), st.integers(0, 2**63 - 1), st.floats(0.04, 0.6), st.floats(0, 2))
def test_temporal_pairs_are_those_of_brute_force(life, seed, min_gap, extra):
    """Of one stretch, and within the gap; in number and as drawn."""
    timestamps, video_index = life
    segment = np.searchsorted(segment_starts(timestamps, video_index), np.arange(len(timestamps)), side="right")
    gap = np.abs(timestamps[:, None] - timestamps[None])
    valid = (gap >= min_gap - 1e-6) & (gap <= min_gap + extra + 1e-6) & (segment[:, None] == segment[None])
    if not valid.any():
        with pytest.raises(LifeError, match="No two frames"):
            TemporalPairing(timestamps, video_index, min_gap, min_gap + extra)
        return
    pairing = TemporalPairing(timestamps, video_index, min_gap, min_gap + extra)
    assert len(pairing) == valid.sum()
    target, source = pairing.pairs(seed, np.arange(50)).T
    assert valid[target, source].all()


@given(st.integers(0, 2**64 - 1), st.integers(0, 3), st.lists(st.integers(0, 2**63 - 1), max_size=5))
def test_several_generators_draw_what_each_draws_alone(seed, stream, indices):
    for index, generator in zip(indices, pair_generators(seed, stream, np.array(indices)), strict=True):
        alone = pair_generator(seed, stream, index)
        assert generator.integers(0, 100) == alone.integers(0, 100)  # half of a word: the other must not be left over
        assert generator.random() == alone.random()
        assert generator.permutation(9).tolist() == alone.permutation(9).tolist()


def test_rows_left_out_are_not_bridged():
    timestamps, video_index = recording(np.arange(0, 10, 0.1).tolist())
    rows = np.concatenate([np.arange(0, 40), np.arange(45, 100)])
    pairs = TemporalPairing(timestamps, video_index, 0.1, 3.0, rows=rows).pairs(0, np.arange(2000))
    assert set(pairs.reshape(-1).tolist()) <= set(rows.tolist())
    assert ((pairs < 40).all(axis=1) | (pairs >= 45).all(axis=1)).all()


def test_a_gap_on_an_edge_is_in_the_bin_above_it_but_for_the_last_and_none_is_lost():
    edges = [0.1, 0.3, 1.0]
    values = [0.05, 0.099998, 0.0999999, 0.1, 0.2999999, np.float32(0.3), 1.0, 1.0000005, 1.1, np.nan]
    assert bin_of(np.array(values), edges).tolist() == [-1, -1, 0, 0, 1, 1, 1, 1, -1, -1]
    steps = np.arange(40) * 0.0999999
    pairs = TemporalPairing(*recording(steps.tolist()), 0.1, 1.0).pairs(0, np.arange(500))
    assert (bin_of(np.abs(np.diff(steps[pairs], axis=1)[:, 0]), edges) >= 0).all()


def test_impossible_gaps_are_refused():
    for timestamps, message in (([0.0, 0.1, 0.2], "0.20 s"), ([], "No two")):
        with pytest.raises(LifeError, match=message):
            TemporalPairing(*recording(timestamps), 0.5, 1.0)


@settings(max_examples=60)
@given(recordings(), st.floats(0, 0.5), st.floats(0.05, 1.0))
def test_held_out_frames_have_no_near_twin_in_training(life, fraction, max_gap):
    timestamps, video_index = life
    train, held_out = hold_out(timestamps, video_index, fraction, max_gap)
    assert not set(train.tolist()) & set(held_out.tolist())
    assert len(held_out) <= fraction * len(timestamps) + 1
    for row in held_out:
        same_video = train[video_index[train] == video_index[row]]
        assert (np.abs(timestamps[same_video] - timestamps[row]) > max_gap).all()


def test_a_long_life_holds_out_its_share_in_several_stretches():
    life = recording(np.arange(0, 600, 0.1).tolist())
    train, held_out = hold_out(*life, 0.05, 0.5)
    assert len(held_out) == pytest.approx(0.05 * 6000, abs=8) and len(train) > 0.9 * 6000
    assert (np.diff(held_out) > 1).sum() == 7
    with pytest.raises(LifeError, match=r"0 to 0\.5, not 0\.6"):
        hold_out(*life, 0.6, 0.1)
    with pytest.raises(LifeError, match=r"--hours 0\.5 .* 10 min 00 s.* 0\.167"):
        first_hours(*life, 0.5)


def test_recording_time_counts_what_was_recorded():
    """Half a second in two stretches of one video, with a minute's interruption, and half a second of another."""
    timestamps, video_index = recording([0.0, 0.1, 0.2, 60.0, 60.1], [5.0, 5.1, 5.2, 5.3, 5.4])
    assert recording_time(timestamps, video_index) == pytest.approx(np.arange(11) / 10)
    assert recording_time(np.zeros(0), np.zeros(0, dtype=np.int64)).tolist() == [0.0]


@given(recordings(), st.floats(0.001, 1))
def test_the_first_hours_are_the_frames_that_began_in_them(life, share):
    time = recording_time(*life)
    assert (np.diff(time) > 0).all()
    seconds = share * time[-1]
    kept = first_hours(*life, seconds / 3600)
    assert (time[:kept] < seconds).all() and (time[kept:] >= seconds - 1e-5).all()
    assert first_hours(*life, time[-1] / 3600) == first_hours(*life, 1.009 * time[-1] / 3600) == len(life[0])


def walk_to_and_fro(num_frames: int) -> VisiblePoints:
    """What is seen on a way of 60 points that is walked to and fro: ten at a time."""
    ahead = np.abs((np.arange(num_frames) + 50) % 100 - 50)
    return VisiblePoints.from_frames([np.arange(place, place + 10) for place in ahead])


def context(rows: np.ndarray | None = None, within_video: bool = False, **changes: float) -> PairingContext:
    """A life of two videos in which a way is walked to and fro, at ten frames a second."""
    timestamps, video_index = recording(np.arange(0, 20, 0.1).tolist(), np.arange(0, 10, 0.1).tolist())
    settings = PairSettings(**{"min_gap": 0.1, "max_gap": 1.0, **changes})

    def pair_table() -> PairTable:
        return find_overlaps(walk_to_and_fro(len(timestamps)), np.zeros(len(timestamps), dtype=np.int64), settings)

    rows = np.arange(len(timestamps)) if rows is None else rows
    return PairingContext(timestamps, video_index, rows, settings, within_video, pair_table, None)


usable_rows = st.sets(st.integers(0, 299), min_size=2, max_size=80).map(lambda rows: np.array(sorted(rows)))


@settings(max_examples=20)
@given(usable_rows, st.integers(0, 2**64 - 1), st.booleans())
def test_spatial_pairs_are_the_overlapping_ones_of_the_usable_rows(rows, seed, within_video):
    given_rows = context(rows, within_video)
    table = given_rows.pair_table()
    video = given_rows.video_index
    expected = {
        (target, source)
        for target, source in zip(table.target.tolist(), table.source.tolist(), strict=True)
        if target in rows and source in rows and (not within_video or video[target] == video[source])
    }
    if not expected:
        with pytest.raises(LifeError, match="None of the life's"):
            SpatialPairing.of(given_rows)
        return
    pairing = SpatialPairing.of(given_rows)
    assert len(pairing) == len(expected)
    assert pairing.targets.tolist() == sorted({target for target, _ in expected})
    assert {tuple(pair) for pair in pairing.pairs(seed, np.arange(100)).tolist()} <= expected


def test_spatial_targets_are_uniform_and_so_are_the_sources_of_each():
    target = np.array([0, 0, 0, 0, 1, 2, 2], dtype=np.int32)
    source = np.array([1, 2, 3, 4, 0, 0, 5], dtype=np.int32)
    table = PairTable(target, source, np.full(7, 0.5, dtype=np.float32), 6, 7, 0)
    pairs = SpatialPairing(table, np.arange(6), PairSettings()).pairs(0, np.arange(6000))
    drawn = np.array([(pairs == pair).all(axis=1).mean() for pair in zip(target, source, strict=True)])
    np.testing.assert_allclose(drawn, [1 / 12] * 4 + [1 / 3] + [1 / 6] * 2, atol=0.02)


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**62), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_pair_of_a_union_is_that_pair_of_one_of_the_two(seed, first, weight):
    whole = context(spatial_weight=weight)
    indices = np.arange(first, first + 200)
    union = make_pairing("union", whole).pairs(seed, indices)
    spatial, temporal = (make_pairing(name, whole).pairs(seed, indices) for name in ("spatial", "temporal"))
    is_spatial, is_temporal = (union == spatial).all(axis=1), (union == temporal).all(axis=1)
    assert (is_spatial | is_temporal).all()
    assert abs(is_spatial.mean() - weight) < 0.2
    assert is_temporal.all() if weight == 0 else True


@pytest.mark.parametrize("name", PAIRINGS)
def test_every_pairing_keeps_to_the_usable_rows_and_within_videos_where_it_must(name):
    rows = np.concatenate([np.arange(20, 80), np.arange(120, 260)])
    given = context(rows, within_video=True)
    pairs = make_pairing(name, given).pairs(0, np.arange(2000))
    assert set(pairs.reshape(-1).tolist()) <= set(rows.tolist())
    assert (given.video_index[pairs[:, 0]] == given.video_index[pairs[:, 1]]).all()
    assert set(given.video_index[pairs[:, 0]]) == {0, 1}
    assert name != "augmented" or (pairs[:, 0] == pairs[:, 1]).all()


def test_random_pairs_within_videos_are_all_of_them():
    video_index = np.array([0, 0, 1, 2, 2, 2])
    pairing = RandomPairing(np.arange(6), video_index)
    pairs = {tuple(pair) for pair in pairing.pairs(0, np.arange(500)).tolist()}
    assert pairs == {(a, b) for a in range(6) for b in range(6) if a != b and video_index[a] == video_index[b]}
    assert (len(pairing), pairing.targets.tolist()) == (8, [0, 1, 3, 4, 5])


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("temporal", [[261, 256], [249, 246], [155, 149]]),
        ("spatial", [[261, 65], [249, 143], [155, 53]]),
        ("union", [[261, 65], [249, 143], [155, 149]]),
        ("random", [[261, 50], [249, 55], [155, 225]]),
        ("augmented", [[261, 261], [249, 249], [155, 155]]),
    ],
)
def test_pairs_never_change(name, pairs):
    """Runs of other machines and versions are repeated and resumed with them."""
    assert make_pairing(name, context()).pairs(7, np.array([0, 1, 2**40])).tolist() == pairs


@pytest.mark.parametrize("name", PAIRINGS)
def test_every_pairing_is_a_pure_function_of_seed_and_index(name):
    pairing = make_pairing(name, context())
    whole = pairing.pairs(3, np.arange(10_000, 10_100))
    assert whole.shape == (100, 2) and whole.dtype == np.int64
    np.testing.assert_array_equal(whole[40:50], pairing.pairs(3, np.arange(10_040, 10_050)))
    assert (whole != pairing.pairs(4, np.arange(10_000, 10_100))).any()
    assert pairing.pairs(3, np.zeros(0, dtype=np.int64)).shape == (0, 2)
    assert len({tuple(pair) for pair in whole.tolist()}) <= len(pairing)
    assert set(whole[:, 0].tolist()) <= set(pairing.targets.tolist()) and name in str(pairing)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1, 2, 3]] * 5, "useless for this life: all 20 pairs .* --pairing temporal"),  # a still camera
        ([[1, 2], [3, 4], [5]], "No two frames of this life overlap by 0.2 to 0.7"),
        ([], "No two frames"),
    ],
)
def test_a_life_without_spatial_pairs_says_why(points, message):
    table = find_overlaps(VisiblePoints.from_frames(points), np.zeros(len(points), dtype=np.int64), PairSettings())
    with pytest.raises(LifeError, match=message):
        SpatialPairing(table, np.arange(len(points)), PairSettings())


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("random", {"rows": np.arange(1)}, "two frames"),
        ("augmented", {"rows": np.arange(0)}, "a frame"),
        ("union", {"spatial_weight": float("nan")}, "--spatial-weight .* 0 to 1"),
        ("spatial", {"min_overlap": 0.0}, "--min-overlap .* not 0"),
        ("spatial", {"min_overlap": 0.9, "max_overlap": 0.5}, "--max-overlap .* not 0.5"),
        ("spatial", {"max_neighbours": 0}, "--max-neighbours .* not 0"),
        ("temporal", {"min_gap": 2.0}, r"--max-gap .* --min-gap \(2\)"),
        ("spatal", {}, "no pairing 'spatal'; there are temporal, spatial, union, random, augmented"),
    ],
)
def test_pairings_that_cannot_be_made_are_refused(name, given, message):
    with pytest.raises(LifeError, match=message):
        make_pairing(name, context(**given))
