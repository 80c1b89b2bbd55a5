"""Image processor of CroCo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs

from .configuration_croco import CroCoConfig


class CroCoImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    crop_to_aspect (`bool`):
        Whether to crop an image to its largest centred part with the aspect ratio of `size` before resizing it;
        otherwise the image is stretched.
    """

    crop_to_aspect: bool


class CroCoImageProcessor(TorchvisionBackend):
    r"""Turns images into [`CroCoModel`]'s `pixel_values`: crops, resizes (antialiased), scales to [0, 1], normalises.

    Takes the same inputs as every transformers image processor: PIL images, files, arrays or tensors, one or a list.
    Pictures are turned upright by their EXIF; grey, 16-bit and transparent ones are made 8-bit RGB. For a pair of
    views, call `processor(target, source, return_tensors="pt")`. A call can override each setting.

    Args:
        size (`dict`): `{"height", "width"}` of `pixel_values`, in pixels; the model's `image_size`.
        crop_to_aspect (`bool`, defaults to `True`): crop an image to its largest centred part with this aspect ratio
            before resizing it; otherwise the image is stretched.
        resample, do_resize, do_rescale, rescale_factor, do_normalize, image_mean, image_std: as in transformers.

    Raises:
        ValueError: an image holds NaN or infinite values, cannot be made RGB, or does not define white.
    """

    config_class = CroCoConfig
    valid_kwargs = CroCoImageProcessorKwargs
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    crop_to_aspect = True
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True

    def __call__(  # type: ignore[override]
        self, images: Any, source_images: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """`pixel_values` from images and, with source images, `source_pixel_values`: the inputs of [`CroCoModel`].

        Args:
            images: one or a list; for pairs, the target views.
            source_images: the source views of the same pairs, one or a list.
            kwargs: the settings above, and `return_tensors`.

        Returns:
            `pixel_values`, and with source images `source_pixel_values`, each `(B, 3, height, width)`, float32.

        Raises:
            ValueError: the numbers of target and source images differ, or see above.
        """
        features = super().__call__(images, **kwargs)
        if source_images is None:
            return features
        source = super().__call__(source_images, **kwargs)["pixel_values"]
        if len(source) != len(features["pixel_values"]):
            raise ValueError(
                f"There are {len(features['pixel_values'])} target images but {len(source)} source images."
            )
        features["source_pixel_values"] = source
        return features

    def fetch_images(self, images: Any) -> Any:
        """As in transformers, but a local file is opened unchanged, since transformers would clip 16 bits."""
        if isinstance(images, str) and Path(images).is_file():
            with Image.open(images) as picture:
                picture.load()
                return picture
        return super().fetch_images(images)

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if isinstance(image, Image.Image):
            image = _upright_in_8_bits(image)
        elif getattr(image, "dtype", None) in (np.uint16, torch.uint16):
            image = (np.asarray(image) >> 8).astype(np.uint8)
        return super().process_image(image, *args, **kwargs)

    def _preprocess(self, images: list[torch.Tensor], *args: Any, crop_to_aspect: bool = True, **kwargs: Any):
        for index, image in enumerate(images):
            if image.shape[0] != 3:
                raise ValueError(f"Image {index} has {image.shape[0]} channels; CroCo takes three (RGB).")
            if image.is_floating_point() and not torch.isfinite(image).all():
                raise ValueError(f"Image {index} holds NaN or infinite values.")
        size = kwargs["size"]
        if kwargs["do_resize"] and crop_to_aspect:
            images = [center_crop_to_aspect(image, size.height, size.width) for image in images]
        return super()._preprocess(images, *args, **kwargs)

    def post_process_depth_estimation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """Depth maps of [`CroCoForDepthEstimation`], resized to their images.

        A map covers the part that the model has seen: with `crop_to_aspect`, the middle of the image.

        Args:
            outputs: the model's outputs.
            target_sizes: height and width of each image in pixels; without it, the maps keep their size.

        Returns:
            For each image `{"predicted_depth": (height, width)}`, resized bilinearly.

        Raises:
            ValueError: the numbers of sizes and maps differ.
        """
        depths = outputs.predicted_depth
        sizes = [depth.shape for depth in depths] if target_sizes is None else target_sizes
        if len(sizes) != len(depths):
            raise ValueError(f"There are {len(depths)} depth maps, but {len(sizes)} target_sizes.")
        resized = (
            torch.nn.functional.interpolate(depth[None, None], tuple(size), mode="bilinear", align_corners=False)
            for depth, size in zip(depths, sizes, strict=True)
        )
        return [{"predicted_depth": depth[0, 0]} for depth in resized]


def _upright_in_8_bits(picture: Image.Image) -> Image.Image:
    """A picture turned upright by its EXIF, with the upper 8 of 16 bits, which Pillow would clip."""
    deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")
    if picture.mode[0] in "IF" and not deep:
        raise ValueError(f"An image with Pillow's mode {picture.mode} does not define white; make it 8-bit RGB.")
    upright = ImageOps.exif_transpose(picture)
    return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)) if deep else upright


def center_crop_to_aspect(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The largest centred part of an image `(C, H, W)` with the aspect ratio of `height` to `width`."""
    scale = min(image.shape[-2] / height, image.shape[-1] / width)
    crop_height, crop_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image.shape[-2] - crop_height) // 2, (image.shape[-1] - crop_width) // 2
    return image[..., top : top + crop_height, left : left + crop_width]


CroCoImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["CroCoImageProcessor"]
