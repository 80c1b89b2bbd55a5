"""Crops, colour and normalisation of paired views."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singlelife.lives.transforms import (
    center_crop_box,
    crop_and_resize,
    jitter_colors,
    random_crop_box,
    to_pixel_values,
)


def noise_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.floats(0, 1))
def test_random_crops_lie_inside_the_image(seed, height, width, low, extra):
    generator = np.random.default_rng(seed)
    top, left, box_height, box_width = random_crop_box(
        generator, height, width, (low, min(1.0, low + extra)), (3 / 4, 4 / 3)
    )
    assert 0 <= top and top + box_height <= height and box_height >= 1
    assert 0 <= left and left + box_width <= width and box_width >= 1


def test_random_crops_have_the_area_and_aspect_asked_for():
    generator = np.random.default_rng(0)
    boxes = np.array([random_crop_box(generator, 200, 320, (0.3, 0.6), (0.8, 1.25)) for _ in range(2000)])
    area = boxes[:, 2] * boxes[:, 3] / 200**2
    aspect = boxes[:, 3] / boxes[:, 2]
    assert 0.29 <= area.min() < 0.32 and 0.58 < area.max() <= 0.61
    assert 0.78 <= aspect.min() < 0.83 and 1.2 < aspect.max() <= 1.28
    assert boxes[:, 1].max() > 150, "the whole width is used"


def test_center_crop_is_the_largest_centred_square():
    assert center_crop_box(100, 160) == (0, 30, 100, 100)
    assert center_crop_box(161, 100) == (30, 0, 100, 100)


def test_resize_keeps_the_mean_where_plain_sampling_would_alias():
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    small = crop_and_resize(stripes, (0, 0, 64, 64), 16)
    assert small.float()[:, :, 1:-1].sub(127.5).abs().max() < 20


def test_crop_of_the_final_size_is_exact():
    image = noise_images(1, 50, 60)[0]
    torch.testing.assert_close(crop_and_resize(image, (3, 7, 32, 32), 32), image[:, 3:35, 7:39])


def test_pixel_values_are_those_of_the_definition():
    images = noise_images(2, 8, 8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).double().view(
        3, 1, 1
    )
    torch.testing.assert_close(to_pixel_values(images, mean, std).double(), expected, atol=1e-5, rtol=0)


def test_jitter_belongs_to_the_pair_and_is_the_same_in_both_views():
    images = noise_images(4, 16, 16)
    index = np.array([3, 10**12, 5, 3])
    images[3] = images[0]
    target, source = jitter_colors(images, images, 0.4, 11, index)
    torch.testing.assert_close(target, source)
    torch.testing.assert_close(target[0], target[3])
    alone, _ = jitter_colors(images[1:2], images[1:2], 0.4, 11, index[1:2])
    torch.testing.assert_close(alone[0], target[1])
    assert not torch.equal(target, images)


@pytest.mark.parametrize("strength", [0.0, 1e-9])
def test_no_jitter_changes_nothing(strength):
    images = noise_images(2, 16, 16)
    target, source = jitter_colors(images, images.flip(-1), strength, 0, np.array([0, 1]))
    torch.testing.assert_close(target, images)
    torch.testing.assert_close(source, images.flip(-1))
