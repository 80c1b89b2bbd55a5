"""Pairs that are balanced over lives and over bins of overlap or time."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from singlelife.alignment.pair_sets import make_balanced_pair_set, make_pair_set
from singlelife.errors import PairSetError
from singlelife.lives.pairs.overlap import overlaps_of
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life
from singlelife.lives.scene.store import life_geometry

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def life_here(sim_test, tmp_path_factory) -> PreparedLife:
    """A copy, since making its geometry changes its folder."""
    return PreparedLife.load(shutil.copytree(sim_test.path, tmp_path_factory.mktemp("lives") / "sim_test"))


@pytest.fixture(scope="module")
def other_life(tmp_path_factory) -> PreparedLife:
    life = get_life("sim_1")
    short = replace(life, simulation=replace(life.simulation, num_frames=400))
    return prepare_life(short, cache_dir=tmp_path_factory.mktemp("sim_1"), progress=False)


def moved(life: PreparedLife, frames: np.ndarray) -> np.ndarray:
    poses = life.poses(frames.reshape(-1)).reshape(-1, 2, 4, 4)
    distance = np.linalg.norm(poses[:, 0, :3, 3] - poses[:, 1, :3, 3], axis=1)
    cosine = np.einsum("pi,pi->p", poses[:, 0, :3, 2], poses[:, 1, :3, 2])
    depth = np.array([np.median(each[each > 0]) for each in life.depth(frames[:, 0])])
    return (distance >= 0.99 * depth / 16) | (cosine <= np.cos(np.deg2rad(4)))


def unordered(pairs) -> list[tuple[int, ...]]:
    which, frames = pairs.provenance["life"], pairs.provenance["frames"]
    return [(life, *sorted(pair)) for life, pair in zip(which, frames, strict=True)]


def test_overlaps_are_balanced_over_lives_and_bins(life_here, other_life):
    lives, bins = [life_here, other_life], [0.1, 0.3, 0.6]
    pairs = make_balanced_pair_set(lives, bins=bins, num_pairs=41, image_size=32, seed=1)
    assert pairs.provenance["by"] == "overlap" and pairs.provenance["bins"] == bins
    which, frames = np.array(pairs.provenance["life"]), np.array(pairs.provenance["frames"])
    counts = []
    for number, life in enumerate(lives):
        of_life = which == number
        geometry = life_geometry(life)
        overlaps = overlaps_of(geometry.points, geometry.component, frames[of_life])
        np.testing.assert_array_equal(pairs.overlap[of_life], overlaps)
        assert moved(life, frames[of_life]).all()
        counts += np.histogram(overlaps, np.float32(bins))[0].tolist()
    assert counts == [11, 10, 10, 10]
    assert len(set(unordered(pairs))) == 41
    assert [life["name"] for life in pairs.provenance["lives"]] == ["sim_test", "sim_1"]
    assert (pairs.true_match((4, 4)) >= 0).any(dim=1).float().mean() > 0.9

    again = make_balanced_pair_set(lives, bins=bins, num_pairs=41, image_size=32, seed=1)
    assert again.hash == pairs.hash and again.provenance == pairs.provenance
    assert make_balanced_pair_set(lives, bins=bins, num_pairs=41, image_size=32, seed=2).hash != pairs.hash


def test_gaps_are_balanced_and_no_pair_is_in_two_bins(life_here):
    step = 1 / 17.5
    bins = [2 * step, 4 * step, 8 * step]  # gaps fall on the edges
    pairs = make_balanced_pair_set([life_here], by="gap", bins=bins, num_pairs=60, image_size=32)
    frames = np.array(pairs.provenance["frames"])
    gaps = np.abs(frames[:, 0] - frames[:, 1])
    assert ((gaps[:30] >= 2) & (gaps[:30] <= 3)).all() and ((gaps[30:] >= 4) & (gaps[30:] <= 8)).all()
    np.testing.assert_allclose(pairs.gap, gaps * step, atol=1e-6)
    assert ": 30, " in str(pairs) and str(pairs).count(": 30") == 2  # the table counts them all
    assert moved(life_here, frames).all() and len(set(unordered(pairs))) == 60


class InMetres(PreparedLife):
    """A life of game units, told in metres."""

    def poses(self, indices):
        poses = super().poses(indices).copy()
        poses[:, :3, 3] /= 32
        return poses


def test_motion_means_the_same_in_metres_and_in_game_units(life_here):
    metadata = life_here.metadata | {"depth_scale": life_here.metadata["depth_scale"] / 32}
    metric = InMetres(life_here.path, metadata, life_here.dataset)
    for settings in ({}, {"min_baseline": 0.5}):
        drawn = [
            make_balanced_pair_set([life], by="none", num_pairs=40, image_size=32, **settings).provenance["frames"]
            for life in (life_here, metric)
        ]
        assert drawn[0] == drawn[1]
    every = make_balanced_pair_set([life_here], by="none", num_pairs=40, image_size=32, min_baseline=0)
    assert every.provenance["frames"] != drawn[0] and not moved(life_here, np.array(every.provenance["frames"])).all()


def test_without_bins_pairs_are_those_that_a_life_gives(life_here):
    balanced = make_balanced_pair_set([life_here], by="none", num_pairs=12, image_size=64, seed=5)
    assert balanced.hash == make_pair_set(life_here, num_pairs=12, image_size=64, seed=5).hash
    shifted = make_balanced_pair_set([life_here], views="shifted", num_pairs=12, image_size=64)
    assert shifted.provenance["by"] == "none" and (shifted.gap == 0).all()


@pytest.mark.parametrize("views", ["zoomed", "shifted", "even"])
def test_both_cuts_of_a_wide_frame_lie_in_one_square_anywhere_in_it(views, clip, tmp_path):
    life = prepare_life(get_life("pan", [clip]), cache_dir=tmp_path, num_workers=1, progress=False)
    pairs = make_balanced_pair_set([life], by="none", views=views, num_pairs=100, image_size=32)
    top, left, height, width = pairs._boxes.transpose(2, 0, 1)
    for start, side, length in ((top, height, 48), (left, width, 64)):
        assert ((start + side).max(axis=1) - start.min(axis=1) <= 48).all()
        assert start.min() < 8 and (start + side).max() > length - 8
    assert (np.ptp(left, axis=1) > 0).mean() > 0.8


def test_what_describes_a_set_is_no_part_of_its_hash(life_here, tmp_path):
    """The overlaps are known only where points are kept beside the life, and two people's scores compare still."""
    life_geometry(life_here)
    bare = shutil.copytree(life_here.path, tmp_path / "sim_test", ignore=shutil.ignore_patterns("geometry"))
    known, unknown = (make_pair_set(life, num_pairs=8) for life in (life_here, PreparedLife.load(bare)))
    assert known.overlap is not None and unknown.overlap is None
    assert known.hash == unknown.hash


def test_a_life_without_poses_is_balanced_by_time(life_here):
    blind = PreparedLife(
        life_here.path / "nowhere",
        life_here.metadata | {"depth_scale": None},
        life_here.dataset.remove_columns(["pose", "intrinsics", "depth"]),
    )
    pairs = make_balanced_pair_set([blind], bins=[0.1, 0.5], num_pairs=8, image_size=32)
    assert pairs.provenance["by"] == "gap" and pairs.overlap is None
    assert not pairs.matches_known and (pairs.true_match((4, 4)) == -1).all()
    with pytest.raises(PairSetError, match="cannot be balanced by overlap"):
        make_balanced_pair_set([blind], by="overlap", num_pairs=8)

    mixed = make_balanced_pair_set(
        [replace_fingerprint(blind), life_here], by="gap", bins=[0.1, 0.5], num_pairs=8, image_size=32
    )
    known = (mixed.true_match((4, 4)) >= 0).any(dim=1)
    assert not known[:4].any() and known[4:].any()


def replace_fingerprint(life: PreparedLife) -> PreparedLife:
    return PreparedLife(life.path, life.metadata | {"fingerprint": "another", "name": "blind"}, life.dataset)


def test_only_the_rows_that_may_be_used_are(life_here):
    rows = np.arange(100, 260)
    for by, bins in (("overlap", [0.1, 0.7]), ("gap", [0.1, 0.5]), ("none", None)):
        pairs = make_balanced_pair_set([life_here], by=by, bins=bins, num_pairs=10, image_size=32, rows=[rows])
        frames = np.array(pairs.provenance["frames"])
        assert frames.min() >= 100 and frames.max() < 260
        assert pairs.provenance["lives"][0]["frames_used"] == 160


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"by": "overlap", "bins": [0.9, 1.0]}, "sim_test has too few pairs with overlap 0.9 to 1"),
        ({"by": "gap", "bins": [500, 900]}, "gap 500 to 900 .* 8 are needed and 0"),
        ({"by": "overlap", "bins": [0.5, 0.1]}, "--bins 0.5 0.1"),
        ({"by": "overlap", "bins": [0.1, 1.1]}, "at most 1"),
        ({"by": "gap", "bins": [0.5]}, "two or more"),
        ({"by": "none", "bins": [0.1, 1]}, "--bins"),
        ({"by": "gap", "views": "shifted"}, "--by gap: .*shifted"),
        ({"views": "sharp"}, "--views sharp: .* plain, zoomed, shifted"),
        ({"num_pairs": 0}, "--num-pairs 0"),
        ({"seed": -1}, "--seed -1"),
        ({"min_baseline": -0.1}, "--min-baseline -0.1"),
        ({"by": "none", "rows": [np.arange(1)]}, "sim_test"),
    ],
)
def test_what_cannot_be_balanced_is_said(options, facts, life_here):
    with pytest.raises(PairSetError, match=facts):
        make_balanced_pair_set([life_here], **{"num_pairs": 8, "image_size": 32} | options)
