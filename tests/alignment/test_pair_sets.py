"""Pair sets: what the views show, and where the truth says that a patch is seen again."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from singlelife.alignment.comparison import cas
from singlelife.alignment.pair_sets import PairSet, make_pair_set, resolve_pair_set
from singlelife.alignment.pair_sets.storage import PairGeometry
from singlelife.commands import check_pairs
from singlelife.errors import LifeError, PairSetError
from singlelife.lives.resolve import check_names

from .providers import Oracle, Random

pytestmark = pytest.mark.integration

GRID = (8, 8)


@pytest.fixture(scope="module", params=["plain", "zoomed", "shifted", "even"])
def pairs(request, sim_test) -> PairSet:
    return make_pair_set(sim_test, views=request.param, num_pairs=48, seed=3)


def test_the_same_arguments_give_the_same_pairs_and_others_do_not(pairs, sim_test):
    views = pairs.provenance["views"]
    again = make_pair_set(sim_test, views=views, num_pairs=48, seed=3)
    assert again.hash == pairs.hash and again.provenance == pairs.provenance
    assert pairs.target.shape == (48, 3, 64, 64) and pairs.target.dtype == torch.uint8
    torch.testing.assert_close(again.true_match(GRID), pairs.true_match(GRID))
    assert make_pair_set(sim_test, views=views, num_pairs=48, seed=4).hash != pairs.hash


def test_frames_of_a_pair_are_a_moment_apart_and_the_camera_moved(pairs, sim_test):
    frames = np.array(pairs.provenance["frames"])
    np.testing.assert_array_equal(pairs.provenance["timestamps"], sim_test.timestamps[frames])
    np.testing.assert_array_equal(pairs.gap, np.abs(np.diff(sim_test.timestamps[frames])[:, 0]))
    if pairs.provenance["views"] in ("shifted", "even"):
        assert (frames[:, 0] == frames[:, 1]).all()
        return
    assert pairs.gap.min() >= 2 / 17.5 - 1e-6 and pairs.gap.max() <= 8 / 17.5 + 1e-6
    poses = sim_test.poses(frames.reshape(-1)).reshape(-1, 2, 4, 4)
    moved = np.linalg.norm(poses[:, 0, :3, 3] - poses[:, 1, :3, 3], axis=1)
    turned = np.degrees(np.arccos(np.einsum("pi,pi->p", poses[:, 0, :3, 2], poses[:, 1, :3, 2]).clip(-1, 1)))
    depth = np.ma.masked_equal(sim_test.depth(frames[:, 0]), 0).reshape(len(frames), -1)
    assert ((moved >= np.ma.median(depth, axis=1) / 16 - 1e-3) | (turned >= 4 - 1e-6)).all()


def patch_colors(views: torch.Tensor) -> torch.Tensor:
    """Mean color of each patch, (P, 64, 3)."""
    return torch.nn.functional.avg_pool2d(views.float(), 8).flatten(2).transpose(1, 2)


def test_a_true_match_looks_like_the_target_patch_and_other_patches_do_not(pairs):
    match = pairs.true_match(GRID)
    known = match >= 0
    assert known.float().mean() > (0.3 if pairs.provenance["views"] == "plain" else 0.1)
    target, source = patch_colors(pairs.target), patch_colors(pairs.source)
    rows = torch.arange(len(pairs)).unsqueeze(1)
    there = (target - source[rows, match.clamp(min=0)]).abs().mean(-1)[known].mean()
    same_place = (target - source).abs().mean(-1)[known].mean()
    elsewhere = (target - source[rows, match.clamp(min=0).roll(1, 0)]).abs().mean(-1)[known].mean()
    assert there < 0.75 * same_place
    assert there < 0.5 * elsewhere


def test_even_views_have_shifts_that_do_not_depend_on_the_place(sim_test):
    """On shifted views a patch at the left edge can only match to its right; on even ones its place says nothing."""
    found = {}
    for views in ("shifted", "even"):
        pairs = make_pair_set(sim_test, views=views, num_pairs=96)
        match = pairs.true_match(GRID).numpy()
        pair, patch = np.nonzero(match >= 0)
        place, shift = np.stack(divmod(patch, 8)), np.stack(divmod(match[pair, patch], 8)) - np.stack(divmod(patch, 8))
        found[views] = [np.corrcoef(*each)[0, 1] for each in zip(place, shift, strict=True)]
        # A map of places alone: in each row, the columns that the first half of the pairs matches most.
        counts = np.zeros((64, 64))
        np.add.at(counts, (patch[pair < 48], match[pair, patch][pair < 48]), 1)
        best, later = np.argsort(-counts, axis=1)[:, :5], pair >= 48
        found[views].append((best[patch] == match[pair, patch][:, None]).any(axis=1)[later].mean())
    assert max(found["shifted"][:2]) < -0.3 and np.abs(found["even"][:2]).max() < 1e-6
    central = [row * 8 + column for row in range(2, 6) for column in range(2, 6)]
    assert sorted({*patch.tolist()}) == central and len(patch) == 96 * 16  # all of them, in every pair
    assert np.abs(shift).max() == 2 and found["even"][2] == pytest.approx(5 / 16, abs=0.1)  # of 4 x 4 patches' room


def test_scores_on_even_views_count_the_middle_half(sim_test, tmp_path):
    pairs = make_pair_set(sim_test, views="even", num_pairs=24)
    pairs.save(tmp_path / "even")
    pairs = PairSet.load(tmp_path / "even")
    other = Random(0)
    models = Oracle(pairs), Oracle(pairs)
    models[1]._logits = torch.where(pairs.true_match(GRID)[..., None] < 0, other.logits(pairs.target, pairs.source),
                                    models[1]._logits)  # fmt: skip
    found = cas(*models, pairs=pairs, progress=False)
    assert found.raw.cas == 1 and found.patches == "co-visible"
    position = cas(Oracle(pairs), Oracle(pairs), pairs=pairs, progress=False).readings[0]
    assert position.truth.matches == 1 and position.truth.num_matches == 24 * 16


def cut(left: int, top: int, side: int) -> list[int]:
    return [top, left, side, side]


def pair_set(boxes: list[list[int]], geometry: PairGeometry | None = None, same_frame: bool = False) -> PairSet:
    views = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    return PairSet("drawn", views, views, {}, np.array([boxes]), geometry, same_frame)


def test_matches_of_two_cuts_of_one_frame():
    """Cuts of 40 px, the source's 10 px further right and 20 px higher: a patch lies one left and two further down."""
    match = pair_set([cut(10, 30, 40), cut(20, 10, 40)], same_frame=True).true_match((4, 4))[0].reshape(4, 4)
    expected = torch.full((4, 4), -1)
    for row in range(4):
        for column in range(4):
            if row + 2 < 4 and column - 1 >= 0:
                expected[row, column] = (row + 2) * 4 + column - 1
    assert match.tolist() == expected.tolist()


def png(levels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def wall(depths: tuple[int, int], source_pose: np.ndarray) -> PairGeometry:
    """Two cameras of 64 px, focal length 32, before a flat wall that is `depths` away from each."""
    target, source = (png(np.full((64, 64), 2 * depth)) for depth in depths)
    intrinsics = np.tile([32.0, 32.0, 32.0, 32.0], (1, 2, 1))
    poses = np.stack([np.eye(4), source_pose])[None]
    return PairGeometry([(target, source)], np.array([0.5]), poses, intrinsics)


def pose(x: float = 0, y: float = 0, z: float = 0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def test_matches_follow_a_camera_that_steps_aside():
    """One unit to the right before a wall 4 away: all moves by 32 * 1 / 4 = 8 px, a patch, to the left."""
    frame = cut(0, 0, 64)
    match = pair_set([frame, frame], wall((4, 4), pose(x=1))).true_match(GRID)[0].reshape(8, 8)
    index = torch.arange(64).reshape(8, 8)
    assert (match[:, 0] == -1).all()
    assert (match[:, 1:] == index[:, :-1]).all()


def test_what_is_hidden_or_of_unknown_depth_has_no_match():
    frame = cut(0, 0, 64)
    assert (pair_set([frame, frame], wall((4, 2), pose(x=1))).true_match(GRID) == -1).all()  # something is in front
    assert (pair_set([frame, frame], wall((0, 4), pose(x=1))).true_match(GRID) == -1).all()
    assert (pair_set([frame, frame], wall((4, 0), pose(x=1))).true_match(GRID) == -1).all()
    assert (pair_set([frame, frame]).true_match(GRID) == -1).all()  # no geometry at all


def test_a_still_life_measures_nothing(sim_still):
    with pytest.raises(PairSetError, match="The camera of the life sim_still hardly moves"):
        make_pair_set(sim_still, num_pairs=8)


def test_damaged_depth_is_named():
    geometry = PairGeometry([(b"no picture", b"")], np.ones(1), np.eye(4)[None, None].repeat(2, 1), np.ones((1, 2, 4)))
    with pytest.raises(PairSetError, match="The depth of pair 0 is damaged"):
        pair_set([cut(0, 0, 64)] * 2, geometry).true_match(GRID)


def test_the_packages_own_pair_set_has_a_name_and_true_matches():
    pairs = resolve_pair_set("real_office", views="plain", num_pairs=384, seed=0, image_size=None)
    assert pairs.hash.startswith("13ee5bb77c55") and len(pairs) == 24
    assert (pairs.true_match(GRID) >= 0).float().mean() > 0.3
    check_pairs("real_office", None)
    with pytest.raises(LifeError, match="real_office"):
        check_names(["real_office"])  # commands that take only lives refuse it at once
