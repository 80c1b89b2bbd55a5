"""Lives that are made of others: all frames of one in random order, and the videos of several one after another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from singlelife.errors import LifeError
from singlelife.lives import registry
from singlelife.lives.pairs.pairing import PairingContext, PairSettings, RandomPairing
from singlelife.lives.prepare import SHUFFLE_SEED, life_fingerprint, plan_preparation, prepare_life, seeded_order
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life, registered_life
from singlelife.lives.shards import Shard

from ..micro import write_clip

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("walk")
    return [write_clip(folder / "1.mp4", seconds=6), write_clip(folder / "2.mp4", seconds=3, height=64, width=48)]


def prepare(name: str, videos: list[Path] | None, cache: Path) -> PreparedLife:
    return prepare_life(get_life(name, videos), cache_dir=cache, num_workers=1, progress=False)


def shortened(name: str, num_frames: int):
    life = registered_life(name)
    return replace(life, simulation=replace(life.simulation, num_frames=num_frames))


# Shuffled.


def test_it_has_the_moments_of_its_base_and_the_frames_of_others(clips, tmp_path, monkeypatch):
    base = prepare("walk", clips, tmp_path)
    monkeypatch.setattr(Shard, "write", lambda *_: pytest.fail("decoded"))
    shuffled = prepare("shuffled-walk", clips, tmp_path)
    order = seeded_order(len(base), SHUFFLE_SEED)
    assert len(base) == 90 and (order != np.arange(90)).sum() > 80
    assert shuffled.encoded(range(90)) == [base.encoded([row])[0] for row in order]
    assert shuffled.timestamps.tolist() == base.timestamps.tolist()
    assert shuffled.videos == base.videos == ["1.mp4", "2.mp4"]
    assert shuffled.video_index.tolist() == base.video_index.tolist()
    assert shuffled.frame_index.tolist() == base.frame_index.tolist()
    assert [image.shape for image in shuffled.decode(range(90))] == [image.shape for image in base.decode(order)]
    inode = (shuffled.path / "metadata.json").stat().st_ino
    assert prepare("shuffled-walk", clips, tmp_path).path == shuffled.path
    assert (shuffled.path / "metadata.json").stat().st_ino == inode
    assert shuffled.path.name == f"shuffled-walk-{life_fingerprint(get_life('shuffled-walk', clips))[:12]}"
    made_from = {"life": "walk", "fingerprint": base.metadata["fingerprint"], "seed": SHUFFLE_SEED}
    assert shuffled.metadata["shuffled"] == made_from


def test_pose_and_depth_stay_with_their_frame(tmp_path):
    short = replace(get_life("shuffled-sim_test"), base=shortened("sim_test", 40))
    shuffled = prepare_life(short, cache_dir=tmp_path, progress=False)
    base = prepare_life(short.base, cache_dir=tmp_path, progress=False)
    order = seeded_order(40, SHUFFLE_SEED)
    assert np.array_equal(shuffled.poses(range(40)), base.poses(order))
    assert np.array_equal(shuffled.intrinsics(range(40)), base.intrinsics(order))
    assert np.array_equal(shuffled.depth([3, 7]), base.depth(order[[3, 7]]))
    assert shuffled.metadata["depth_scale"] == base.metadata["depth_scale"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("control_shuffled", "'wt_1' has no video here"),
        ("shuffled-sim_l", "no life 'sim_l'. Did you mean sim_1"),
        ("shuffled-", "cannot be the name of a life"),
    ],
)
def test_a_base_that_is_not_here_is_named(name, message):
    with pytest.raises(LifeError, match=message):
        get_life(name)


def test_a_seeded_order_never_changes():
    """Samples and controls of other machines and versions are drawn with it."""
    assert seeded_order(10, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert seeded_order(0, 2**64 - 1).tolist() == []


# Joined.


def joined(joins: str = "sim_1 sim_2 sim_4", frames_of_each: int = 40):
    return registry._joined(replace(registered_life("sim_many"), joins=joins, frames_of_each=frames_of_each))


def test_it_has_the_frames_of_its_parts_in_order_and_no_pair_is_of_two_of_them(tmp_path):
    life = joined()
    assert sum(video["num_frames"] for video in plan_preparation(life, progress=False)) == 120
    prepared = prepare_life(life, cache_dir=tmp_path, num_workers=1, progress=False)
    assert prepared.videos == ["sim_1", "sim_2", "sim_4"] and len(prepared) == 120
    alone = prepare_life(shortened("sim_2", 40), cache_dir=tmp_path, progress=False)
    assert prepared.encoded(range(40, 80)) == alone.encoded(range(40))
    assert np.array_equal(prepared.poses(range(40, 80)), alone.poses(range(40)))
    assert prepared.metadata["depth_scale"] == alone.metadata["depth_scale"]
    pairs = RandomPairing.of(PairingContext.of_life(prepared, PairSettings())).pairs(0, np.arange(300))
    assert (prepared.video_index[pairs[:, 0]] == prepared.video_index[pairs[:, 1]]).all()
    assert len(np.unique(prepared.video_index[pairs])) == 3
    others = (joined(frames_of_each=41), joined("sim_1 sim_2 sim_3"), get_life("sim_many"))
    assert len({life_fingerprint(each) for each in (life, *others)}) == 4


@pytest.mark.parametrize(
    ("joins", "message"),
    [
        ("sim_1 sim_shuffled", "should all be videos, or all be simulated with the same depth"),
        ("sim_1 sim_test", "with the same depth"),
        ("sim_1", "joins two or more"),
        ("sim_1 sim_1", "joins two or more"),
    ],
)
def test_what_does_not_go_together_is_refused(joins, message):
    with pytest.raises(LifeError, match=message):
        joined(joins, 0)
