"""Batches of pairs: the same for any number of workers and processes; their crops, colours and normalisation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from singlelife.errors import LifeError
from singlelife.lives.pairs.dataset import PairDataset, color_factors, random_crop_box, to_pixel_values
from singlelife.lives.pairs.pairing import (
    CROP_STREAM,
    MASK_STREAM,
    AugmentedPairing,
    PairingContext,
    PairSettings,
    TemporalPairing,
    make_pairing,
)

from ..micro import pair_generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pair_dataset(life, **overrides) -> PairDataset:
    settings = {"seed": 3, "num_pairs": 64, "image_size": 32, "patch_size": 8, "mask_ratio": 0.75}
    pairing = overrides.pop("pairing", None) or TemporalPairing(life.timestamps, life.video_index, 0.05, 0.5)
    return PairDataset(life, pairing, **(settings | overrides))


def loaded(dataset: PairDataset, num_workers: int) -> dict[str, torch.Tensor]:
    loader = DataLoader(dataset, batch_size=16, num_workers=num_workers, collate_fn=lambda batch: batch)
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.integration
def test_pairs_are_the_same_for_any_workers_and_in_another_process(sim_test):
    settings = {"seed": 3, "num_pairs": 10_064, "image_size": 32, "patch_size": 8, "mask_ratio": 0.75}
    pairing = make_pairing("union", PairingContext.of_life(sim_test, PairSettings(), progress=False))
    dataset = torch.utils.data.Subset(PairDataset(sim_test, pairing, **settings), range(10_000, 10_064))
    alone = loaded(dataset, num_workers=0)
    together = loaded(dataset, num_workers=3)
    assert all(torch.equal(together[key], values) for key, values in alone.items())
    code = f"""
import numpy as np
from singlelife.lives.pairs.pairing import PairingContext, PairSettings, make_pairing
from singlelife.lives.prepared import PreparedLife
life = PreparedLife.load({str(sim_test.path)!r})
pairing = make_pairing("union", PairingContext.of_life(life, PairSettings(), progress=False))
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
        place = generator.random()  # of the square that both crops lie in: the frames are wide
        for name, frame in zip(("target", "source"), batch["frames"][row].tolist(), strict=True):
            image = torch.from_numpy(np.array(small_life.dataset[frame]["image"])).permute(2, 0, 1)
            top, left, height, width = random_crop_box(generator, *image.shape[1:], (0.3, 1.0), (3 / 4, 4 / 3), place)
            crop = image[None, :, top : top + height, left : left + width].float()
            view = torch.nn.functional.interpolate(crop, (32, 32), mode="bilinear", antialias=True)[0]
            view = view.flip(-1) if flip else view
            assert (batch[name][row].float() - view).abs().max() <= 1.001
        masked = pair_generator(3, MASK_STREAM, pair).permutation(16)[:12]
        assert set(batch["bool_masked_pos"][row].nonzero().flatten().tolist()) == set(masked.tolist())
    assert 0 < mirrored < len(index)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 33}, "33 px cannot be cut into patches of 8 px"),
        ({"mask_ratio": 1.5}, "mask ratio"),
        ({"mask_ratio": 0.99}, "masks 16 of 16 patches"),
        ({"crop_area": (0.5, 1.2)}, "crop's area"),
    ],
)
def test_settings_that_cannot_work_are_refused(small_life, overrides, message):
    with pytest.raises(LifeError, match=message):
        pair_dataset(small_life, **overrides)


# Crops and colours.


def noise_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@given(
    st.integers(0, 1000),
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.none() | st.floats(0, 1),
)
def test_random_crops_lie_inside_the_image(seed, height, width, low, extra, place):
    generator = np.random.default_rng(seed)
    areas = (low, min(1.0, low + extra))
    boxes = [random_crop_box(generator, height, width, areas, (3 / 4, 4 / 3), place) for _ in range(2)]
    for top, left, box_height, box_width in boxes:
        assert 0 <= top and top + box_height <= height and box_height >= 1
        assert 0 <= left and left + box_width <= width and box_width >= 1
    if place is not None:
        lefts = [box[1] for box in boxes] + [box[1] + box[3] for box in boxes]
        tops = [box[0] for box in boxes] + [box[0] + box[2] for box in boxes]
        assert max(np.ptp(lefts), np.ptp(tops)) <= min(height, width), "both lie in one square"


def test_random_crops_have_the_area_and_aspect_asked_for():
    generator = np.random.default_rng(0)
    boxes = np.array([random_crop_box(generator, 200, 320, (0.3, 0.6), (0.8, 1.25)) for _ in range(2000)])
    area, aspect = boxes[:, 2] * boxes[:, 3] / 200**2, boxes[:, 3] / boxes[:, 2]
    assert 0.29 <= area.min() < 0.32 and 0.58 < area.max() <= 0.61
    assert 0.78 <= aspect.min() < 0.83 and 1.2 < aspect.max() <= 1.28
    assert boxes[:, 1].max() > 150, "the whole width is used"


def luma(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_colours_are_those_of_the_definition_step_by_step():
    images = noise_images(3, 24, 20)
    factors = torch.tensor([[1.4, 0.7, 1.2], [0.6, 1.3, 0.0], [1.0, 1.0, 1.0]])
    changed = images.double() / 255
    brightness, contrast, saturation = (factor.double().view(-1, 1, 1, 1) for factor in factors.unbind(1))
    changed = changed * brightness
    middle = luma(changed).mean(dim=(2, 3), keepdim=True)
    changed = middle + contrast * (changed - middle)
    changed = luma(changed) + saturation * (changed - luma(changed))
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in (MEAN, STD))
    pixel_values = to_pixel_values(images, MEAN, STD, factors)
    assert pixel_values.dtype == torch.float32 and pixel_values.is_contiguous()
    torch.testing.assert_close(pixel_values.double(), (changed - mean) / std, atol=1e-5, rtol=0)
    plain = (images.double() / 255 - mean) / std
    torch.testing.assert_close(to_pixel_values(images, MEAN, STD).double(), plain, atol=1e-5, rtol=0)


def test_colour_factors_belong_to_the_pair():
    many = color_factors(0.4, 11, np.arange(500))
    assert torch.equal(color_factors(0.4, 11, np.array([10**12, 5]))[1], many[5]) and len(many.unique()) > 1400
    assert 0.6 <= many.min() < 0.62 and 1.38 < many.max() <= 1.4
