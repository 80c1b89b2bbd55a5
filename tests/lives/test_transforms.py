"""Crops, colour and normalisation of paired views."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singlelife.lives.pairs.dataset import color_factors, crop_and_resize, random_crop_box, to_pixel_values

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


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
    area, aspect = boxes[:, 2] * boxes[:, 3] / 200**2, boxes[:, 3] / boxes[:, 2]
    assert 0.29 <= area.min() < 0.32 and 0.58 < area.max() <= 0.61
    assert 0.78 <= aspect.min() < 0.83 and 1.2 < aspect.max() <= 1.28
    assert boxes[:, 1].max() > 150, "the whole width is used"


def test_resize_keeps_the_mean_where_plain_sampling_would_alias():
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    small = crop_and_resize(stripes, (0, 0, 64, 64), 16)
    assert small.float()[:, :, 1:-1].sub(127.5).abs().max() < 20


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


@pytest.mark.parametrize("factors", [None, torch.tensor([[1.2, 0.9, 0.5], [0.8, 1.1, 1.5]])])
def test_pixel_values_do_not_depend_on_the_memory_format_and_leave_their_input_alone(factors):
    images = noise_images(2, 12, 8)
    before = images.clone()
    expected = to_pixel_values(images, MEAN, STD, factors)
    again = to_pixel_values(images.contiguous(memory_format=torch.channels_last), MEAN, STD, factors)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    assert torch.equal(images, before)


def test_colour_factors_belong_to_the_pair():
    factors = color_factors(0.4, 11, np.array([3, 10**12, 5, 3]))
    assert factors.shape == (4, 3) and factors.dtype == torch.float32
    assert torch.equal(factors[0], factors[3])
    assert torch.equal(color_factors(0.4, 11, np.array([5]))[0], factors[2])
    assert len(factors.unique()) == 9
    many = color_factors(0.4, 11, np.arange(500))
    assert 0.6 <= many.min() < 0.62 and 1.38 < many.max() <= 1.4
    assert torch.equal(color_factors(0.0, 11, np.arange(4)), torch.ones(4, 3))
