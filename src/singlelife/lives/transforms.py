"""From the uint8 crops of a batch to what the model takes, on the device.

Crops and flips are made by the loader's workers, where the frames are decoded (`pair_dataset.py`). Colour and
normalisation are arithmetic on whole batches and run where the model runs.
"""

from collections.abc import Sequence

import numpy as np
import torch

from singlelife.lives.pairing import COLOR_STREAM, pair_generator

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
    ratio = np.exp(generator.uniform(np.log(aspect[0]), np.log(aspect[1])))
    box_height = int(np.clip(round(np.sqrt(wanted / ratio)), 1, height))
    box_width = int(np.clip(round(np.sqrt(wanted * ratio)), 1, width))
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


def to_pixel_values(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise uint8 images (B, 3, H, W) to float32 `pixel_values`: (value / 255 - mean) / std per channel."""
    scale = images.new_tensor(std, dtype=torch.float32).reciprocal()
    shift = -images.new_tensor(mean, dtype=torch.float32) * scale
    return torch.addcmul(shift.view(1, 3, 1, 1), images.float(), (scale / 255).view(1, 3, 1, 1))


def jitter_colors(
    target: torch.Tensor, source: torch.Tensor, strength: float, seed: int, pair_index: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change brightness, contrast and saturation of both views of each pair, by the same random amounts.

    The same amounts, since the decoder is to paint the target from the source: a different tint in each would have to
    be guessed. Each amount is a factor, uniform in [1 - strength, 1 + strength], that belongs to the pair.

    Args:
        target, source: uint8 (B, 3, H, W).
        strength: 0 (no change) to 1.
        seed: of the run.
        pair_index: int64 (B,).

    Returns:
        The two batches, uint8 (B, 3, H, W).
    """
    if strength == 0:
        return target, source
    amounts = np.stack([pair_generator(seed, COLOR_STREAM, int(index)).uniform(-1, 1, 3) for index in pair_index])
    factors = torch.from_numpy(1 + strength * amounts).float().to(target.device)
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(1))

    def jitter(images: torch.Tensor) -> torch.Tensor:
        images = images.float() * brightness
        luma = torch.einsum("bchw,c->bhw", images, images.new_tensor(_LUMA)).unsqueeze(1)
        images = luma + (images - luma) * saturation
        middle = luma.mean(dim=(2, 3), keepdim=True)
        return (middle + (images - middle) * contrast).round().clamp(0, 255).to(torch.uint8)

    return jitter(target), jitter(source)
