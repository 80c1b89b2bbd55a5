"""Image processor of CroCo."""

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .configuration_croco import CroCoConfig


class CroCoImageProcessor(TorchvisionBackend):
    r"""Images to the `pixel_values` of [`CroCoModel`]: resized (antialiased), rescaled to [0, 1] and normalised.

    Takes what every transformers image processor takes: PIL images, arrays or tensors, one or a list. An image that is
    not of the model's aspect ratio is resized so that its shorter side fits and cut around its centre.

    Args:
        size (`dict`): `{"height", "width"}` of `pixel_values`, in pixels; the model's `image_size`.

    Raises:
        ValueError: an image holds NaN or infinite values, or is not of three channels.
    """

    config_class = CroCoConfig
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True

    def _preprocess(self, images: list[torch.Tensor], *args: Any, **kwargs: Any):
        for index, image in enumerate(images):
            if image.shape[0] != 3:
                raise ValueError(f"Image {index} has {image.shape[0]} channels; CroCo takes three (RGB).")
            if image.is_floating_point() and not torch.isfinite(image).all():
                raise ValueError(f"Image {index} holds NaN or infinite values.")
        size = kwargs["size"]
        if kwargs["do_resize"]:
            images = [center_crop_to_aspect(image, size.height, size.width) for image in images]
        return super()._preprocess(images, *args, **kwargs)


def center_crop_to_aspect(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The largest centred part of an image `(C, H, W)` that has the aspect ratio of `height` to `width`."""
    scale = min(image.shape[-2] / height, image.shape[-1] / width)
    crop_height, crop_width = round(height * scale), round(width * scale)
    top, left = (image.shape[-2] - crop_height) // 2, (image.shape[-1] - crop_width) // 2
    return image[..., top : top + crop_height, left : left + crop_width]


CroCoImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["CroCoImageProcessor"]
