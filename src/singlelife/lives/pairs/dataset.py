"""Batches of training pairs from a prepared life, and functions that turn them into a model's inputs on the device.

A whole batch is read at once. Each frame is taken from the memory-mapped Arrow table, decoded, cropped and resized
into its place in the batch. Everything is a pure function of the seed and the pair's index. Colours are changed
afterwards, for a whole batch.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from singlelife.errors import LifeError
from singlelife.lives.pairs.pairing import COLOR_STREAM, CROP_STREAM, MASK_STREAM, Pairing, pair_generators
from singlelife.lives.prepared import PreparedLife

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class PairDataset(Dataset):
    """The pairs of a life, as batches ready for the device.

    Index `i` is the run's i-th pair.

    Args:
        pairing: which two frames make pair `i`.
        seed: the run's seed, 0 to 2**64 - 1.
        num_pairs: the length of the dataset.
        image_size, patch_size: sides of the square views and of a patch, in pixels.
        mask_ratio: the share of the target's patches to mask, strictly between 0 and 1.
        crop_area: range of a random crop's area, as a share of the frame's largest centred square. `None` takes that
            square itself.
        crop_aspect: range of a random crop's width over its height.
        shared_crop: crop both views of a pair with the same box, if their frames have the same size. By default each
            has its own, so that a patch's match may be anywhere and matching by position fails.
        flip: mirror both views in half of the pairs.

    Raises:
        LifeError: a size, ratio or range is impossible.
    """

    def __init__(
        self,
        life: PreparedLife,
        pairing: Pairing,
        *,
        seed: int,
        num_pairs: int,
        image_size: int,
        patch_size: int,
        mask_ratio: float,
        crop_area: tuple[float, float] | None = (0.3, 1.0),
        crop_aspect: tuple[float, float] = (3 / 4, 4 / 3),
        shared_crop: bool = False,
        flip: bool = True,
    ):
        if image_size % patch_size:
            raise LifeError(f"An image of {image_size} px cannot be cut into patches of {patch_size} px.")
        if crop_area is not None and not 0 < crop_area[0] <= crop_area[1] <= 1:
            raise LifeError(f"A crop's area should be a range within (0, 1], not {crop_area}.")
        self.num_patches = (image_size // patch_size) ** 2
        self.num_masked = round(mask_ratio * self.num_patches)
        if not 0 < mask_ratio < 1 or not 0 < self.num_masked < self.num_patches:
            raise LifeError(
                f"A mask ratio of {mask_ratio:g} masks {self.num_masked} of {self.num_patches} patches; "
                "at least one must be masked and one visible."
            )
        self.life, self.pairing, self.seed, self.num_pairs = life, pairing, seed, num_pairs
        self.image_size, self.crop_area, self.crop_aspect = image_size, crop_area, crop_aspect
        self.shared_crop, self.flip = shared_crop, flip

    def __len__(self) -> int:
        return self.num_pairs

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One pair, in the form of a batch without the first dimension."""
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int], views: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """A batch of pairs.

        Args:
            indices: the pairs' indices.
            views: memory for the target and source views, uint8 (2, B, 3, S, S), with the channels last; new memory
                by default.

        Returns:
            `target` and `source`, uint8 (B, 3, S, S); `bool_masked_pos`, bool (B, N), True where the target is masked;
            `pair_index`, int64 (B,); `frames`, int64 (B, 2), the rows of target and source in the life.
        """
        pair_index = np.asarray(indices, dtype=np.int64)
        frames = self.pairing.pairs(self.seed, pair_index)
        size = self.image_size
        if views is None:  # channels last in memory, as in a decoded frame; the device puts them first
            views = torch.empty(2, len(indices), size, size, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
        images = self.life.iter_decode(frames.reshape(-1))
        for row, generator in enumerate(pair_generators(self.seed, CROP_STREAM, pair_index)):
            self._crop_pair(images, generator, out=views[:, row])
        return {
            "target": views[0],
            "source": views[1],
            "bool_masked_pos": torch.from_numpy(self._masks(pair_index)),
            "pair_index": torch.from_numpy(pair_index),
            "frames": torch.from_numpy(frames),
        }

    def _crop_pair(self, images: Iterator[torch.Tensor], generator: np.random.Generator, out: torch.Tensor) -> None:
        """Crop, resize and mirror the next two images into `out`, uint8 (2, 3, S, S).

        Both crops of a wide frame lie in the same square of it. If they could lie anywhere, two crops of a
        416 × 128 px frame would mostly show different things, and the source would show nothing of the target.
        """
        mirrored = self.flip and generator.random() < 0.5
        box, box_of, place = (0, 0, 0, 0), (0, 0), None
        for view in out:
            image = next(images)
            height, width = image.shape[-2:]
            if place is None and height != width:
                place = generator.random()
            if self.crop_area is None:
                box = center_crop_box(height, width)
            elif not self.shared_crop or box_of != (height, width):
                box = random_crop_box(generator, height, width, self.crop_area, self.crop_aspect, place)
            box_of = height, width
            crop = crop_and_resize(image, box, self.image_size)
            view.copy_(crop.flip(-1) if mirrored else crop)

    def _masks(self, pair_index: np.ndarray) -> np.ndarray:
        """The masked patches of each target, bool (B, N)."""
        masked = np.zeros((len(pair_index), self.num_patches), dtype=bool)
        for row, generator in zip(masked, pair_generators(self.seed, MASK_STREAM, pair_index), strict=True):
            row[generator.permutation(self.num_patches)[: self.num_masked]] = True
        return masked


def random_crop_box(
    generator: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    place: float | None = None,
) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) in pixels, inside an image.

    The box's area is a share of the image's largest square, uniform in `area`. Its aspect ratio (width over height) is
    log-uniform in `aspect`; a side too long for the image is shortened to fit.

    Args:
        generator: the source of random numbers.
        height, width: the image's size, in pixels.
        area, aspect: the ranges.
        place: keep the box inside one square of the image: 0 is the leftmost or topmost square, 1 the last one. By
            default the box may lie anywhere.
    """
    side = min(height, width)
    if place is not None:
        top, left, *box = random_crop_box(generator, side, side, area, aspect)
        return top + round(place * (height - side)), left + round(place * (width - side)), box[0], box[1]
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

    Antialiased bilinear, in uint8 throughout: the result is within one level of the result in float.
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return crop
    return torch.nn.functional.interpolate(
        crop.unsqueeze(0), size=(size, size), mode="bilinear", antialias=True, align_corners=False
    ).squeeze(0)


def color_factors(strength: float, seed: int, pair_index: np.ndarray, views: int = 1) -> torch.Tensor:
    """Factors for the brightness, contrast and saturation of each pair's views, float32 (B, 3 × views).

    Each factor is uniform in [1 - strength, 1 + strength], a function of the seed and the pair's index.
    """
    amounts = [generator.uniform(-1, 1, 3 * views) for generator in pair_generators(seed, COLOR_STREAM, pair_index)]
    return torch.from_numpy(1 + strength * np.stack(amounts)).float()


def to_pixel_values(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], factors: torch.Tensor | None = None
) -> torch.Tensor:
    """Change colours and normalise to `pixel_values`: (value / 255 - mean) / std per channel.

    Brightness b scales an image, then contrast c its distance from its mean luma, then saturation s each pixel's
    distance from its luma 0.299 r + 0.587 g + 0.114 b (ITU-R BT.601). Unlike torchvision's `ColorJitter` on uint8, it
    neither rounds nor clips in between:

        p → b·c·s·p + b·c·(1 - s)·luma(p) + b·(1 - c)·mean(luma)

    Args:
        images: uint8 (B, 3, H, W), in any memory format.
        mean, std: each channel's, for values from 0 to 1.
        factors: for brightness, contrast and saturation, float32 (B, 3), from `color_factors`; none by default.

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
