"""Lives that are made of others: their videos one after another, and no pair of two of them."""

import dataclasses

import numpy as np
import pytest

from singlelife.errors import LifeError
from singlelife.lives import registry
from singlelife.lives.pairs.pairing import PairingContext, PairSettings, RandomPairing
from singlelife.lives.prepare import life_fingerprint, plan_preparation, prepare_life
from singlelife.lives.registry import get_life, registered_life

pytestmark = pytest.mark.integration


def joined(**changes):
    """Some seconds each of three walks."""
    life = dataclasses.replace(registered_life("sim_many"), joins="sim_1 sim_2 sim_4", frames_of_each=40, **changes)
    return registry._joined(life)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_life(joined(), cache_dir=tmp_path_factory.mktemp("cache"), num_workers=1, progress=False)


def test_it_has_the_frames_of_its_parts_in_order(prepared, tmp_path):
    assert prepared.videos == ["sim_1", "sim_2", "sim_4"] and len(prepared) == 120
    second = get_life("sim_2")
    alone = dataclasses.replace(second, simulation=dataclasses.replace(second.simulation, num_frames=40))
    alone = prepare_life(alone, cache_dir=tmp_path, progress=False)
    assert [bytes(one) for one in prepared.encoded(range(40, 80))] == [bytes(one) for one in alone.encoded(range(40))]
    assert np.array_equal(prepared.poses(range(40, 80)), alone.poses(range(40)))
    assert prepared.metadata["depth_scale"] == alone.metadata["depth_scale"]


def test_no_pair_is_of_two_of_its_parts(prepared):
    pairs = RandomPairing.of(PairingContext.of_life(prepared, PairSettings())).pairs(0, np.arange(300))
    assert (prepared.video_index[pairs[:, 0]] == prepared.video_index[pairs[:, 1]]).all()
    assert len(np.unique(prepared.video_index[pairs])) == 3


def test_its_fingerprint_is_of_its_parts_and_their_length(tmp_path):
    life = joined()
    longer = dataclasses.replace(registered_life("sim_many"), joins="sim_1 sim_2 sim_4", frames_of_each=41)
    assert life_fingerprint(life) == life_fingerprint(joined())
    assert len({life_fingerprint(each) for each in (life, registry._joined(longer), get_life("sim_many"))}) == 3
    assert plan_preparation(life, cache_dir=tmp_path, progress=False).num_frames == 120


@pytest.mark.parametrize(
    ("joins", "frames", "message"),
    [
        ("sim_1 sim_shuffled", 0, "should all be videos, or all simulated with the same depth"),
        ("sim_1 sim_test", 0, "with the same depth"),
        ("sim_1 sim_slides", 0, "with the same depth"),
        ("sim_1", 0, "the names of two or more other lives"),
        ("sim_1 sim_1", 0, "the names of two or more other lives"),
    ],
)
def test_what_does_not_go_together_is_refused(joins, frames, message):
    with pytest.raises(LifeError, match=message):
        registry._joined(dataclasses.replace(registered_life("sim_many"), joins=joins, frames_of_each=frames))
