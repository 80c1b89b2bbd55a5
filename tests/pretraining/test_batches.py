"""The pairs of a step do not depend on who reads them."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import LifeError, RunError
from singlelife.lives.pairing import PAIRINGS, SpatialPairing, TemporalPairing, UnionPairing
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.segments import hold_out
from singlelife.pretraining.arguments import PairArguments
from singlelife.pretraining.batches import StepSampler, pair_datasets, pairings


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 50))
def test_processes_and_accumulated_batches_share_out_the_same_pairs(processes, accumulation, local, first_step):
    size = processes * accumulation * local
    shares = [
        list(StepSampler(first_step, first_step + 3, size, accumulation, processes, p)) for p in range(processes)
    ]
    for step in range(3):
        of_step = [share[step * accumulation : (step + 1) * accumulation] for share in shares]
        start = (first_step + step) * size
        assert sorted(chain.from_iterable(chain.from_iterable(of_step))) == list(range(start, start + size))


def test_any_step_is_reached_at_once():
    assert next(iter(StepSampler(10**15, 10**16, 32))) == list(range(32 * 10**15, 32 * 10**15 + 32))


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(RunError, match=r"--train-batch-size 8 .* 3 processes .* multiple of 3"):
        StepSampler(0, 1, 8, accumulation=1, num_processes=3)


@pytest.mark.parametrize("name", PAIRINGS)
def test_training_and_validation_never_share_a_frame(sim_test, name):
    settings = PairArguments(pairing=name, validation_fraction=0.3)
    train_rows, held_out = hold_out(sim_test.timestamps, sim_test.video_index, 0.3, settings.max_gap)
    train, validation = pairings(sim_test, settings, progress=False)
    assert type(train) is type(validation) is PAIRINGS[name]
    assert set(train.pairs(0, np.arange(2000)).reshape(-1)) <= set(train_rows.tolist())
    assert set(validation.pairs(0, np.arange(2000)).reshape(-1)) <= set(held_out.tolist())


@pytest.mark.parametrize("name", ["spatial", "union"])
def test_validation_is_on_temporal_pairs_where_the_held_out_stretch_never_sees_a_place_twice(sim_test, name):
    few = PairArguments(pairing=name, validation_fraction=0.02, max_gap=0.2, max_overlap=0.21)
    train, validation = pairings(sim_test, few, progress=False)
    assert isinstance(train, SpatialPairing | UnionPairing) and isinstance(validation, TemporalPairing)


def test_a_life_with_fewer_pairs_than_a_batch_is_refused(sim_test):
    settings = {"seed": 0, "num_pairs": 8, "num_validation_pairs": 8, "image_size": 32, "patch_size": 8}
    few = PairArguments(pairing="spatial", max_overlap=0.21, max_neighbours=1, validation_fraction=0)
    (train, _) = pairings(sim_test, few, progress=False)
    pair_datasets(sim_test, few, batch_size=len(train), mask_ratio=0.5, **settings)
    with pytest.raises(LifeError, match=rf"only {len(train)} different pairs \(spatial, .*smaller --train-batch-size"):
        pair_datasets(sim_test, few, batch_size=len(train) + 1, mask_ratio=0.5, **settings)


def test_a_life_without_poses_says_how_to_make_them(sim_still):
    blind = PreparedLife(sim_still.path, sim_still.metadata, sim_still.dataset.remove_columns("pose"))
    with pytest.raises(LifeError, match="singlelife poses sim_still"):
        pairings(blind, PairArguments(pairing="spatial"))
    pairings(blind, replace(PairArguments(), pairing="temporal"))


def test_a_life_of_clips_keeps_its_pairs_within_them(sim_test):
    clips = sim_test.dataset.remove_columns("video").add_column("video", [f"clip {i // 50}" for i in range(500)])
    life = PreparedLife(sim_test.path, sim_test.metadata | {"pairs_within_video": True}, clips.with_format("arrow"))
    for name in ("spatial", "union", "random"):
        train, _ = pairings(life, PairArguments(pairing=name, validation_fraction=0), progress=False)
        pairs = train.pairs(0, np.arange(500))
        assert (pairs[:, 0] // 50 == pairs[:, 1] // 50).all()
    elsewhere = PreparedLife(sim_test.path, sim_test.metadata, clips)
    train, _ = pairings(elsewhere, PairArguments(pairing="spatial", validation_fraction=0), progress=False)
    pairs = train.pairs(0, np.arange(500))
    assert (pairs[:, 0] // 50 != pairs[:, 1] // 50).any()
