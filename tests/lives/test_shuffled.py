"""The control of shuffled frames: every frame of its base once, out of order, and nothing decoded again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import LifeError
from singlelife.lives.prepare import SHUFFLE_SEED, life_fingerprint, plan_preparation, prepare_life, seeded_order
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life
from singlelife.lives.shards import Shard

from .conftest import write_clip

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("walk")
    return [
        write_clip(folder / "1.mp4", seconds=6),
        write_clip(folder / "2.mp4", seconds=3, height=64, width=48),
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def prepare(name: str, videos: list[Path] | None, cache: Path) -> PreparedLife:
    return prepare_life(get_life(name, videos), cache_dir=cache, num_workers=1, progress=False)


def images(life: PreparedLife) -> list[bytes]:
    return [image["bytes"] for image in life.dataset.data.column("image").to_pylist()]


def test_it_has_the_moments_of_its_base_and_the_frames_of_others(clips, cache):
    base, shuffled = prepare("walk", clips, cache), prepare("shuffled-walk", clips, cache)
    order = seeded_order(len(base), SHUFFLE_SEED)
    assert len(base) == 90 and (order != np.arange(90)).sum() > 80
    assert images(shuffled) == [images(base)[row] for row in order]
    assert shuffled.timestamps.tolist() == base.timestamps.tolist()
    assert shuffled.videos == base.videos == ["1.mp4", "2.mp4"]
    assert shuffled.video_index.tolist() == base.video_index.tolist()
    assert shuffled.frame_index.tolist() == base.frame_index.tolist()
    pixels = shuffled.decode(range(90))
    assert [image.shape for image in pixels] == [base.decode([row])[0].shape for row in order]


def test_pose_and_depth_stay_with_their_frame(tmp_path):
    life = get_life("shuffled-sim_test")
    assert life.base is not None and life.base.simulation is not None
    short = replace(life, base=replace(life.base, simulation=replace(life.base.simulation, num_frames=40)))
    shuffled = prepare_life(short, cache_dir=tmp_path, progress=False)
    base = prepare_life(short.base, cache_dir=tmp_path, progress=False)
    order = seeded_order(40, SHUFFLE_SEED)
    assert np.array_equal(shuffled.poses(range(40)), base.poses(order))
    assert np.array_equal(shuffled.intrinsics(range(40)), base.intrinsics(order))
    assert np.array_equal(shuffled.depth([3, 7]), base.depth(order[[3, 7]]))
    assert shuffled.metadata["depth_scale"] == base.metadata["depth_scale"]


def test_nothing_is_decoded_again_and_it_is_made_once(clips, tmp_path, monkeypatch):
    base = prepare("walk", clips, tmp_path)
    monkeypatch.setattr(Shard, "write", lambda *_: pytest.fail("decoded"))
    shuffled = prepare("shuffled-walk", clips, tmp_path)
    inode = (shuffled.path / "metadata.json").stat().st_ino
    assert prepare("shuffled-walk", clips, tmp_path).path == shuffled.path
    assert (shuffled.path / "metadata.json").stat().st_ino == inode
    assert shuffled.path.name == f"shuffled-walk-{life_fingerprint(get_life('shuffled-walk', clips))[:12]}"
    assert shuffled.metadata["shuffled"] == {
        "life": "walk", "fingerprint": base.metadata["fingerprint"], "seed": SHUFFLE_SEED
    }  # fmt: skip


def test_any_life_can_be_shuffled_and_the_registered_ones_are(clips):
    assert get_life("sim_shuffled").base == get_life("sim_1")
    control = get_life("control_shuffled", clips)
    assert control.base == get_life("wt_1", clips)
    assert get_life("shuffled-wt_3", clips).train == "base"
    assert control.frame_rate == control.base.frame_rate and control.license == control.base.license
    assert life_fingerprint(control) != life_fingerprint(get_life("control_shuffled", clips[:1]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("control_shuffled", "'wt_1' has no video here"),
        ("shuffled-wt_2", "'wt_2' has no video here"),
        ("shuffled-sim_l", "no life 'sim_l'. Did you mean sim_1"),
        ("shuffled-", "cannot be the name of a life"),
    ],
)
def test_a_base_that_is_not_here_is_named(name, message):
    with pytest.raises(LifeError, match=message):
        get_life(name)


def test_what_it_will_take_is_said_with_and_without_its_base(clips, tmp_path):
    life = get_life("shuffled-walk", clips)
    both = plan_preparation(life, cache_dir=tmp_path, progress=False)
    base = prepare("walk", clips, tmp_path)
    copy = plan_preparation(life, cache_dir=tmp_path, progress=False)
    assert both.num_frames == copy.num_frames == 90 and copy.num_frames_done == 0 and not copy.is_done
    assert copy.num_bytes == sum(file.stat().st_size for file in base.path.glob("*.arrow")) < both.num_bytes
    assert copy.folder == both.folder == prepare("shuffled-walk", clips, tmp_path).path
    assert plan_preparation(life, cache_dir=tmp_path, progress=False).is_done


@given(st.integers(0, 200), st.integers(0, 2**64 - 1))
def test_a_seeded_order_has_each_place_once(length, seed):
    assert sorted(seeded_order(length, seed).tolist()) == list(range(length))


def test_a_seeded_order_never_changes():
    """Samples and controls of other machines and versions are drawn with it."""
    assert seeded_order(10, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
