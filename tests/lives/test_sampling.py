"""Samples of clips: long enough, and the same whatever the folders, suffixes and order that the clips come in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import LifeError
from singlelife.lives.sampling import draw_sample, seeded_order

CLIPS = [Path(f"clip_{number:02d}.mp4") for number in range(20)]


def ten_seconds(_: Path) -> float:
    return 10.0


@given(st.permutations(CLIPS), st.sampled_from([".mp4", ".mkv"]), st.sampled_from(["", "train/juggling"]))
def test_it_depends_on_the_names_alone(clips, suffix, folder):
    moved = [Path(folder) / clip.with_suffix(suffix) for clip in clips]
    drawn = draw_sample(moved, 60, 3, ten_seconds)
    assert [clip.stem for clip in drawn.clips] == [clip.stem for clip in draw_sample(CLIPS, 60, 3, ten_seconds).clips]
    assert drawn.seconds == 60


def test_it_is_this_one_for_ever():
    names = [clip.stem for clip in draw_sample(CLIPS, 35, 0, ten_seconds).clips]
    assert names == ["clip_00", "clip_02", "clip_11", "clip_17"]


@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=30), st.floats(0, 300), st.integers(0, 1000))
def test_it_is_just_long_enough(durations, seconds, seed):
    length = {Path(f"{number:02d}.mp4"): duration for number, duration in enumerate(durations)}
    drawn = draw_sample(list(length), seconds, seed, length.__getitem__)
    assert len(set(drawn.clips)) == len(drawn.clips)
    assert drawn.seconds == pytest.approx(sum(length[clip] for clip in drawn.clips))
    if sum(durations) < seconds:
        assert len(drawn.clips) == len(length)
    elif drawn.clips:
        assert drawn.seconds >= seconds > drawn.seconds - length[drawn.clips[-1]]


def test_only_the_clips_that_are_taken_are_opened_and_bad_ones_are_left_out():
    opened = []

    def seconds_of(clip: Path) -> float:
        opened.append(clip)
        if clip.stem.endswith("2"):
            raise LifeError("cut off")
        return 0.0 if clip.stem.endswith("5") else 10.0

    drawn = draw_sample(CLIPS, 150, 1, seconds_of)
    assert len(drawn.clips) == 15 and drawn.seconds == 150
    assert {clip.stem[-1] for clip in drawn.unreadable} <= {"2", "5"} and drawn.unreadable
    assert sorted(opened) == sorted(drawn.clips + drawn.unreadable)


def test_other_seeds_draw_others():
    samples = {tuple(draw_sample(CLIPS, 50, seed, ten_seconds).clips) for seed in range(10)}
    assert len(samples) == 10


def test_two_clips_of_one_name_are_named():
    with pytest.raises(LifeError, match=r"one name: a.clip.mp4 and b.clip.mp4"):
        draw_sample([Path("a/clip.mp4"), Path("b/clip.mp4")], 5, 0, ten_seconds)


@given(st.integers(0, 200), st.integers(0, 2**64 - 1))
def test_a_seeded_order_has_each_place_once(length, seed):
    order = seeded_order(length, seed)
    assert sorted(order.tolist()) == list(range(length))
    assert order.tolist() == seeded_order(length, seed).tolist()


def test_a_seeded_order_never_changes():
    """Samples and controls of other machines and versions are drawn with it."""
    assert seeded_order(10, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
