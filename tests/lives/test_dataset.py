"""Batches of pairs: the same for any number of workers and processes, and refused when they cannot work."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from singlelife.errors import LifeError
from singlelife.lives.pairs.dataset import PairDataset, random_crop_box
from singlelife.lives.pairs.pairing import (
    CROP_STREAM,
    MASK_STREAM,
    AugmentedPairing,
    PairingContext,
    PairSettings,
    TemporalPairing,
    make_pairing,
)

from .conftest import pair_generator


def pair_dataset(life, **overrides) -> PairDataset:
    settings = {"seed": 3, "num_pairs": 64, "image_size": 32, "patch_size": 8, "mask_ratio": 0.75}
    pairing = overrides.pop("pairing", None) or TemporalPairing(life.timestamps, life.video_index, 0.05, 0.5)
    return PairDataset(life, pairing, **(settings | overrides))


def loaded(dataset: PairDataset, num_workers: int) -> dict[str, torch.Tensor]:
    loader = DataLoader(dataset, batch_size=16, num_workers=num_workers, collate_fn=lambda batch: batch)
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.integration
@pytest.mark.parametrize("name", ["temporal", "union"])
def test_pairs_are_the_same_for_any_workers_and_in_another_process(sim_test, name):
    settings = {"seed": 3, "num_pairs": 10_064, "image_size": 32, "patch_size": 8, "mask_ratio": 0.75}
    pairing = make_pairing(name, PairingContext.of_life(sim_test, PairSettings(), progress=False))
    dataset = torch.utils.data.Subset(PairDataset(sim_test, pairing, **settings), range(10_000, 10_064))
    alone = loaded(dataset, num_workers=0)
    for num_workers in (1, 3):
        together = loaded(dataset, num_workers)
        assert all(torch.equal(together[key], values) for key, values in alone.items())
    code = f"""
import numpy as np
from singlelife.lives.pairs.pairing import PairingContext, PairSettings, make_pairing
from singlelife.lives.prepared import PreparedLife
life = PreparedLife.load({str(sim_test.path)!r})
pairing = make_pairing({name!r}, PairingContext.of_life(life, PairSettings(), progress=False))
print(pairing.pairs(3, np.arange(10_000, 10_064)).tolist())
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(alone["frames"].tolist())


def test_crops_are_independent_unless_shared(small_life):
    """The same frame as target and source shows whether the boxes are the same."""
    same = AugmentedPairing(np.zeros(1, dtype=np.int64))
    shared = pair_dataset(small_life, pairing=same, shared_crop=True).__getitems__(list(range(8)))
    assert torch.equal(shared["target"], shared["source"])
    assert len(shared["target"].flatten(1).unique(dim=0)) == 8
    independent = pair_dataset(small_life, pairing=same).__getitems__(list(range(8)))
    assert not (independent["target"] == independent["source"]).flatten(1).all(dim=1).any()


def test_views_are_those_of_a_slow_reference(small_life):
    """Pillow, float arithmetic, and a generator of its own for each draw."""
    dataset = pair_dataset(small_life, num_pairs=2**40)
    index = [0, 1, 2, 3, 4, 5, 2**39]
    batch = dataset.__getitems__(index)
    assert batch["target"].dtype == batch["source"].dtype == torch.uint8
    mirrored = 0
    for row, pair in enumerate(index):
        generator = pair_generator(3, CROP_STREAM, pair)
        flip = generator.random() < 0.5
        mirrored += flip
        for name, frame in zip(("target", "source"), batch["frames"][row].tolist(), strict=True):
            image = torch.from_numpy(np.array(small_life.dataset[frame]["image"])).permute(2, 0, 1)
            top, left, height, width = random_crop_box(generator, *image.shape[1:], (0.3, 1.0), (3 / 4, 4 / 3))
            crop = image[None, :, top : top + height, left : left + width].float()
            view = torch.nn.functional.interpolate(crop, (32, 32), mode="bilinear", antialias=True)[0]
            view = view.flip(-1) if flip else view
            assert (batch[name][row].float() - view).abs().max() <= 1
        masked = pair_generator(3, MASK_STREAM, pair).permutation(16)[:12]
        assert set(batch["bool_masked_pos"][row].nonzero().flatten().tolist()) == set(masked.tolist())
    assert 0 < mirrored < len(index)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 33}, "33 px cannot be cut into patches of 8 px"),
        ({"mask_ratio": 0.0}, "mask ratio"),
        ({"mask_ratio": 1.5}, "mask ratio"),
        ({"mask_ratio": 0.99}, "masks 16 of 16 patches"),
        ({"crop_area": (0.5, 1.2)}, "crop's area"),
    ],
)
def test_settings_that_cannot_work_are_refused(small_life, overrides, message):
    with pytest.raises(LifeError, match=message):
        pair_dataset(small_life, **overrides)
