"""What workers hand over through shared memory is what they read, for as long as anyone holds on to it."""

import gc

import pytest
import torch

from singlelife.errors import RunError
from singlelife.lives.prepare import prepare_life
from singlelife.lives.registry import get_life
from singlelife.pretraining.batches import StepSampler, train_loader
from singlelife.pretraining.handover import HandedOver, Places

from .test_batches import CPU, pair_dataset


@pytest.fixture(scope="module")
def pairs(clip, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return pair_dataset(prepare_life(get_life("my_pan", [clip]), cache_dir=cache, progress=False))


def assert_same(batch, expected):
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(batch[name], values)
        assert batch[name].dtype == values.dtype and batch[name].stride() == values.stride()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_consumer_may_keep_all_batches(pairs, num_workers):
    """There are more of them than places."""
    kept = list(train_loader(pairs, StepSampler(0, 40, 4), num_workers, CPU))
    for step, batch in enumerate(kept):
        assert_same(batch, pairs.__getitems__(list(range(4 * step, 4 * step + 4))))


def test_a_consumer_may_keep_a_part_of_a_batch(pairs):
    parts = [batch["source"][1:3].flip(0)[..., ::2, :] for batch in train_loader(pairs, StepSampler(0, 40, 4), 2, CPU)]
    for step, part in enumerate(parts):
        expected = pairs.__getitems__(list(range(4 * step, 4 * step + 4)))["source"][1:3].flip(0)[..., ::2, :]
        assert torch.equal(part, expected)


def test_memory_is_used_again(pairs):
    addresses = [batch["target"].data_ptr() for batch in train_loader(pairs, StepSampler(0, 60, 4), 1, CPU)]
    assert len(set(addresses)) <= 6


def test_workers_that_are_spawned_hand_over_the_same(pairs):
    loader = train_loader(pairs, StepSampler(0, 12, 4), 1, CPU)
    loader.multiprocessing_context = "spawn"
    addresses = set()
    for step, batch in enumerate(loader):
        assert_same(batch, pairs.__getitems__(list(range(4 * step, 4 * step + 4))))
        addresses.add(batch["target"].data_ptr())
    assert len(addresses) <= 6


def test_a_place_is_free_once_nothing_refers_to_it():
    places = Places(1, 1, batch_size=2, image_size=8)
    place = places.take(0)
    assert place == 0 and places.take(0) is None
    places.write_to(0, place).fill_(7)
    batch = HandedOver(places.key, 0, place, {}).batch()
    part = batch["target"][0, 0].view(-1)[3:]
    del batch
    gc.collect()
    assert places.take(0) is None
    assert part.eq(7).all()
    del part
    gc.collect()
    assert places.take(0) == 0


def test_too_little_shared_memory_is_said_before_the_workers_start():
    with pytest.raises(RunError, match=r"workers need .* of shared memory.*--shm-size.*--dataloader-num-workers"):
        Places(1000, 1000, batch_size=4096, image_size=1024)
