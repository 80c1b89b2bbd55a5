"""Temporal pairs: a pure function of (seed, i), never across videos, cuts or held-out stretches."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singlelife.errors import LifeError
from singlelife.lives.pairing import (
    AugmentedPairing,
    RandomPairing,
    TemporalPairing,
    hold_out,
    make_pairing,
    pair_generator,
    pair_generators,
    segment_starts,
)


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


@settings(deadline=None, max_examples=60)
@given(recordings(), st.integers(0, 2**63 - 1), st.floats(0.04, 0.6), st.floats(0, 2))
def test_pairs_keep_the_gap_and_never_cross_a_video_or_a_cut(life, seed, min_gap, extra):
    timestamps, video_index = life
    try:
        pairing = TemporalPairing(timestamps, video_index, min_gap, min_gap + extra)
    except LifeError:
        return
    pairs = pairing.pairs(seed, np.arange(50))
    target, source = pairs[:, 0], pairs[:, 1]
    gaps = np.abs(timestamps[target] - timestamps[source])
    assert (gaps >= min_gap - 1e-5).all() and (gaps <= min_gap + extra + 1e-5).all()
    segment = np.searchsorted(segment_starts(timestamps, video_index), np.arange(len(timestamps)), side="right")
    assert (segment[target] == segment[source]).all()


@settings(deadline=None, max_examples=40)
@given(recordings(), st.floats(0.04, 0.5), st.floats(0, 1))
def test_number_of_pairs_is_that_of_brute_force(life, min_gap, extra):
    timestamps, video_index = life
    segment = np.searchsorted(segment_starts(timestamps, video_index), np.arange(len(timestamps)), side="right")
    gap = np.abs(timestamps[:, None] - timestamps[None])
    valid = (gap >= min_gap - 1e-6) & (gap <= min_gap + extra + 1e-6) & (segment[:, None] == segment[None])
    if valid.any():
        assert len(TemporalPairing(timestamps, video_index, min_gap, min_gap + extra)) == valid.sum()
    else:
        with pytest.raises(LifeError, match="No two frames"):
            TemporalPairing(timestamps, video_index, min_gap, min_gap + extra)


def test_every_valid_pair_can_be_drawn_in_both_orders():
    pairing = TemporalPairing(*recording([0.0, 0.1, 0.2]), 0.1, 0.2)
    drawn = {tuple(pair) for pair in pairing.pairs(0, np.arange(300)).tolist()}
    assert drawn == {(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)}


def test_pair_is_a_pure_function_of_seed_and_index():
    pairing = TemporalPairing(*recording(np.arange(0, 60, 0.1).tolist()), 0.1, 1.0)
    whole = pairing.pairs(7, np.arange(1000))
    shuffled = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(pairing.pairs(7, shuffled), whole[shuffled])
    assert not np.array_equal(pairing.pairs(8, np.arange(1000)), whole)
    assert len({tuple(pair) for pair in whole.tolist()}) > 500


def test_a_late_pair_costs_what_the_first_costs():
    pairing = TemporalPairing(*recording(np.arange(0, 60, 0.1).tolist()), 0.1, 1.0)

    def seconds(index: int) -> float:
        durations = []
        for _ in range(20):
            start = time.perf_counter()
            pairing.pairs(0, np.arange(index, index + 32))
            durations.append(time.perf_counter() - start)
        return min(durations)

    assert seconds(2**62) < 20 * seconds(0)


def test_streams_of_a_pair_are_independent():
    draws = [pair_generator(0, stream, index).random() for stream in range(4) for index in range(4)]
    assert len(set(draws)) == len(draws)


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


@pytest.mark.parametrize(
    ("timestamps", "min_gap", "max_gap", "message"),
    [
        ([0.0, 0.1, 0.2], 0.5, 1.0, "lasts 0.20 s"),
        ([0.0], 0.1, 1.0, "No two frames"),
        ([], 0.1, 1.0, "No two frames"),
        ([0.0, 0.1], 0.0, 1.0, "0 < min_gap"),
        ([0.0, 0.1], 2.0, 1.0, "0 < min_gap"),
    ],
)
def test_impossible_pairings_are_refused(timestamps, min_gap, max_gap, message):
    with pytest.raises(LifeError, match=message):
        TemporalPairing(*recording(timestamps), min_gap, max_gap)


@settings(deadline=None, max_examples=60)
@given(recordings(), st.floats(0, 0.5), st.floats(0.05, 1.0))
def test_held_out_frames_have_no_near_twin_in_training(life, fraction, max_gap):
    timestamps, video_index = life
    train, held_out = hold_out(timestamps, video_index, fraction, max_gap)
    assert not set(train.tolist()) & set(held_out.tolist())
    assert len(held_out) <= fraction * len(timestamps) + 1
    for row in held_out:
        same_video = train[video_index[train] == video_index[row]]
        inside = np.abs(timestamps[same_video] - timestamps[row])
        assert (inside > max_gap).all()


def test_a_long_life_holds_out_its_share_in_several_stretches():
    timestamps, video_index = recording(np.arange(0, 600, 0.1).tolist())
    train, held_out = hold_out(timestamps, video_index, 0.05, 0.5)
    assert len(held_out) == pytest.approx(0.05 * 6000, abs=8)
    assert (np.diff(held_out) > 1).sum() == 7
    assert len(train) > 0.9 * 6000


@pytest.mark.parametrize("fraction", [-0.1, 0.6])
def test_hold_out_refuses_an_impossible_share(fraction):
    with pytest.raises(LifeError, match=r"0 to 0\.5"):
        hold_out(*recording([0.0, 0.1]), fraction, 0.1)


@settings(deadline=None, max_examples=40)
@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=6), st.integers(0, 2**64 - 1))
def test_random_pairs_are_any_two_different_usable_frames(rows, seed):
    rows = np.array(sorted(rows))
    pairs = RandomPairing(rows).pairs(seed, np.arange(400))
    assert set(map(tuple, pairs.tolist())) == {(a, b) for a in rows for b in rows if a != b}


@settings(deadline=None, max_examples=40)
@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=6), st.integers(0, 2**64 - 1))
def test_augmented_pairs_are_one_frame_twice(rows, seed):
    pairs = AugmentedPairing(np.array(sorted(rows))).pairs(seed, np.arange(100))
    assert (pairs[:, 0] == pairs[:, 1]).all() and set(pairs[:, 0].tolist()) == rows


@pytest.mark.parametrize("name", ["temporal", "random", "augmented"])
def test_every_pairing_is_a_pure_function_of_seed_and_index(name):
    timestamps, video_index = recording(np.arange(0, 20, 0.1).tolist(), np.arange(0, 5, 0.1).tolist())
    pairing = make_pairing(name, timestamps, video_index, np.arange(len(timestamps)), min_gap=0.1, max_gap=1)
    whole = pairing.pairs(3, np.arange(100, 200))
    assert whole.shape == (100, 2) and whole.dtype == np.int64
    np.testing.assert_array_equal(whole[40:50], pairing.pairs(3, np.arange(140, 150)))
    assert (whole != pairing.pairs(4, np.arange(100, 200))).any()


@pytest.mark.parametrize(
    ("name", "num_rows", "message"),
    [("random", 1, "two frames"), ("augmented", 0, "a frame"), ("spatal", 9, "no pairing")],
)
def test_pairings_that_cannot_be_made_are_refused(name, num_rows, message):
    timestamps, video_index = recording([0.1 * i for i in range(10)])
    with pytest.raises(LifeError, match=message):
        make_pairing(name, timestamps, video_index, np.arange(num_rows), min_gap=0.1, max_gap=1)
