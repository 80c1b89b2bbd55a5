"""From frames to crops, in the loader's workers, and from a batch of crops to what the model takes, on the device."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from singlelife.lives.pairs.pairing import COLOR_STREAM, pair_generators

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def random_crop_box(
    generator: np.random.Generator, height: int, width: int, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) in pixels, inside an image.

    The box's area is a share of the largest centred square's, uniform in `area`, its aspect ratio (width over height)
    log-uniform in `aspect`; a side too long for the image is shortened to fit.
    """
    side = min(height, width)
    wanted = side * side * generator.uniform(*area)
    ratio = math.exp(generator.uniform(math.log(aspect[0]), math.log(aspect[1])))
    box_height = min(max(round(math.sqrt(wanted / ratio)), 1), height)
    box_width = min(max(round(math.sqrt(wanted * ratio)), 1), width)
    top = int(generator.integers(0, height - box_height + 1))
    left = int(generator.integers(0, width - box_width + 1))
    return top, left, box_height, box_width


def center_crop_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest centred square of an image, as (top, left, height, width)."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def crop_and_resize(image: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    """Cut `box` (top, left, height, width) out of a uint8 image (3, H, W) and resize it to (3, size, size).

    Antialiased bilinear, on uint8 throughout: the result is within one level of the same in float.
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return crop
    return torch.nn.functional.interpolate(
        crop.unsqueeze(0), size=(size, size), mode="bilinear", antialias=True, align_corners=False
    ).squeeze(0)


def color_factors(strength: float, seed: int, pair_index: np.ndarray, views: int = 1) -> torch.Tensor:
    """How much each pair changes brightness, contrast and saturation of so many views, float32 (B, 3 × views).

    Each is a factor, uniform in [1 - strength, 1 + strength], that belongs to the pair of that seed and index.
    """
    amounts = [generator.uniform(-1, 1, 3 * views) for generator in pair_generators(seed, COLOR_STREAM, pair_index)]
    return torch.from_numpy(1 + strength * np.stack(amounts)).float()


def to_pixel_values(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], factors: torch.Tensor | None = None
) -> torch.Tensor:
    """Change colours and normalise to `pixel_values`: (value / 255 - mean) / std per channel.

    In this order: brightness b scales an image; contrast c scales its distance from the mean of its luma; saturation
    s scales each pixel's distance from its own luma. With luma(p) = 0.299 r + 0.587 g + 0.114 b (ITU-R BT.601), all of
    it is one affine function of the pixels:

        p → b·c·s·p + b·c·(1 - s)·luma(p) + b·(1 - c)·mean(luma)

    It is taken as such, with the normalisation, in float32. So unlike torchvision's `ColorJitter` on uint8 it neither
    rounds in between nor clips: the texture of a bright wall is not lost.

    Args:
        images: uint8 (B, 3, H, W), in any memory format.
        mean, std: of each channel, for values from 0 to 1.
        factors: of brightness, contrast and saturation, float32 (B, 3), of `color_factors`; none by default.

    Returns:
        float32 (B, 3, H, W), contiguous.
    """
    values = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    scale = 1 / (255 * values.new_tensor(std).view(1, 3, 1, 1))
    shift = -(255 * scale) * values.new_tensor(mean).view(1, 3, 1, 1)
    if factors is None:
        return values.mul_(scale).add_(shift)
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(1))
    red, green, blue = values.split(1, dim=1)
    luma = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    middle = luma.mean(dim=(2, 3), keepdim=True)
    values.mul_(brightness * contrast * saturation * scale)
    values.addcmul_(luma, brightness * contrast * (1 - saturation) * scale)
    return values.add_(brightness * (1 - contrast) * middle * scale + shift)
