"""The pairs of a step do not depend on who reads them, come as the model takes them, and stay what they were."""

import os
from dataclasses import replace
from itertools import chain
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singlelife.croco import CroCoConfig
from singlelife.errors import LifeError
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.pairing import PAIRINGS, AugmentedPairing, SpatialPairing, TemporalPairing, UnionPairing
from singlelife.lives.pairs.segments import hold_out, recording_time
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life
from singlelife.pretraining.arguments import PairConfig, TrainConfig
from singlelife.pretraining.batches import StepSampler, ToModel, pair_datasets, pairings, read_batches, train_loader

from ..micro import MICRO

CPU = torch.device("cpu")


@pytest.fixture
def life(clip: Path, tmp_path: Path) -> PreparedLife:
    """One of its own, for a test to damage."""
    return prepare_life(get_life("my_pan", [clip]), cache_dir=tmp_path, progress=False)


def pair_dataset(life: PreparedLife) -> PairDataset:
    pairing = AugmentedPairing(np.arange(len(life)))
    return PairDataset(life, pairing, seed=0, num_pairs=10**6, image_size=32, patch_size=8, mask_ratio=0.75)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**15))
def test_processes_and_accumulated_batches_share_out_the_same_pairs(processes, accumulation, local, first_step):
    size = processes * accumulation * local
    shares = [
        list(StepSampler(range(first_step, first_step + 3), size, accumulation, processes, p))
        for p in range(processes)
    ]
    for step in range(3):
        of_step = [share[step * accumulation : (step + 1) * accumulation] for share in shares]
        start = (first_step + step) * size
        assert sorted(chain.from_iterable(chain.from_iterable(of_step))) == list(range(start, start + size))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_damaged_frame_is_named_however_it_is_read(life, num_workers):
    """Not by a worker's traceback. The batches before it are whole."""
    dataset = pair_dataset(life)
    damaged = int(dataset.__getitems__([9])["frames"][0, 0])  # of the third batch
    for file in life.path.glob("*.arrow"):
        table = pa.ipc.open_stream(file).read_all()
        rows = table.to_pylist()
        rows[damaged]["image"]["bytes"] = rows[damaged]["image"]["bytes"][:200]
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    loader = train_loader(pair_dataset(PreparedLife.load(life.path)), StepSampler(range(100), 4), num_workers, CPU)
    received = []
    with pytest.raises(LifeError) as raised:
        for batch in read_batches(loader):
            received.append(batch["pair_index"].tolist())
    assert str(raised.value).startswith(f"The image in row {damaged} of {life.path} is damaged.")
    assert "Traceback" not in str(raised.value)
    assert not active_children()  # though the error is still here; they ignore SIGTERM, and Python waits for them
    assert received[:1] == [[0, 1, 2, 3]] and len(received) <= 2


class Niceness(PairDataset):
    """A dataset that tells how its process is scheduled."""

    def __getitems__(self, indices, views=None):
        return super().__getitems__(indices, views) | {"niceness": torch.tensor(os.nice(0))}


def test_workers_read_what_one_process_reads_and_give_way_to_the_training(life):
    dataset, before = pair_dataset(life), os.nice(0)
    dataset.__class__ = Niceness
    for step, batch in enumerate(train_loader(dataset, StepSampler(range(20), 4), 2, CPU)):
        assert batch.pop("niceness") == min(before + 10, 19)
        expected = pair_dataset(life).__getitems__(list(range(4 * step, 4 * step + 4)))
        assert all(torch.equal(values, expected[name]) for name, values in batch.items())
    assert os.nice(0) == before


def test_colours_belong_to_the_pair_and_are_the_same_in_both_views(life):
    batch = pair_dataset(life).__getitems__([3, 10**5, 5, 3])
    batch["source"] = batch["target"]
    to_model = ToModel(CPU, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), color_jitter=0.4, seed=11)
    inputs = to_model(batch)
    assert inputs["pixel_values"].shape == (4, 3, 32, 32) and inputs["pixel_values"].dtype == torch.float32
    torch.testing.assert_close(inputs["pixel_values"], inputs["source_pixel_values"], rtol=0, atol=0)
    torch.testing.assert_close(inputs["pixel_values"][0], inputs["pixel_values"][3], rtol=0, atol=0)
    alone = to_model({name: values[1:2] for name, values in batch.items()})
    torch.testing.assert_close(alone["pixel_values"][0], inputs["pixel_values"][1], rtol=0, atol=1e-6)
    apart = replace(to_model, shared_color=False)(batch)
    torch.testing.assert_close(apart["pixel_values"], inputs["pixel_values"], rtol=0, atol=0)
    assert not torch.isclose(apart["pixel_values"], apart["source_pixel_values"]).all(dim=(1, 2, 3)).any()
    plain = ToModel(CPU, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(batch)
    assert not torch.allclose(plain["pixel_values"], inputs["pixel_values"], atol=0.05)


@pytest.mark.parametrize("name", PAIRINGS)
def test_training_and_validation_never_share_a_frame(sim_test, name):
    settings = PairConfig(pairing=name, validation_fraction=0.3, min_gap=0.1, max_gap=1.0)
    train_rows, held_out = hold_out(sim_test.timestamps, sim_test.video_index, 0.3, settings.max_gap)
    train, validation = pairings(sim_test, settings, progress=False)
    assert type(train) is type(validation) is PAIRINGS[name]
    assert set(train.pairs(0, np.arange(2000)).reshape(-1)) <= set(train_rows.tolist())
    assert set(validation.pairs(0, np.arange(2000)).reshape(-1)) <= set(held_out.tolist())


@pytest.mark.parametrize("name", PAIRINGS)
@given(st.floats(0.2, 1.0), st.integers(0, 2**63 - 1))
@settings(max_examples=8)
def test_no_pair_to_train_on_has_a_frame_after_the_first_hours(sim_test, name, share, seed):
    time = recording_time(sim_test.timestamps, sim_test.video_index)
    every = PairConfig(pairing=name, validation_fraction=0.2)
    cut = replace(every, hours=share * time[-1] / 3600)
    train, validation = pairings(sim_test, cut, progress=False)
    pairs = train.pairs(seed, np.arange(500))
    assert (time[:-1][pairs] < share * time[-1]).all()
    of_the_whole = pairings(sim_test, every, progress=False)
    assert np.array_equal(validation.pairs(7, np.arange(100)), of_the_whole[1].pairs(7, np.arange(100)))


@pytest.mark.parametrize("name", ["spatial", "union"])
def test_validation_is_on_temporal_pairs_where_the_held_out_stretch_never_sees_a_place_twice(sim_test, name):
    few = PairConfig(pairing=name, validation_fraction=0.02, max_gap=0.2, max_overlap=0.21)
    train, validation = pairings(sim_test, few, progress=False)
    assert isinstance(train, SpatialPairing | UnionPairing) and isinstance(validation, TemporalPairing)


def test_a_life_with_fewer_pairs_than_a_batch_is_refused(sim_test):
    few = PairConfig(pairing="spatial", max_overlap=0.21, max_neighbours=1, validation_fraction=0)
    (train, _), model = pairings(sim_test, few, progress=False), CroCoConfig(**MICRO)
    pair_datasets(sim_test, few, TrainConfig(train_batch_size=len(train)), model)
    with pytest.raises(LifeError, match=rf"only {len(train)} different pairs \(spatial, .*smaller --train-batch-size"):
        pair_datasets(sim_test, few, TrainConfig(train_batch_size=len(train) + 1), model)


def test_a_life_without_poses_says_how_to_make_them(sim_still, tmp_path):
    blind = PreparedLife(tmp_path, sim_still.metadata, sim_still.dataset.remove_columns("pose"))
    with pytest.raises(LifeError, match="singlelife poses sim_still"):
        pairings(blind, PairConfig(pairing="spatial"))
    pairings(blind, replace(PairConfig(), pairing="temporal"))


def test_a_life_of_clips_keeps_its_pairs_within_them(sim_test):
    clips = sim_test.dataset.remove_columns("video").add_column("video", [f"clip {i // 50}" for i in range(500)])
    life = PreparedLife(sim_test.path, sim_test.metadata | {"pairs_within_video": True}, clips.with_format("arrow"))
    for name in ("spatial", "union", "random"):
        train, _ = pairings(life, PairConfig(pairing=name, validation_fraction=0), progress=False)
        pairs = train.pairs(0, np.arange(500))
        assert (pairs[:, 0] // 50 == pairs[:, 1] // 50).all()
