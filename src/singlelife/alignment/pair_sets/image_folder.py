"""Pairs of images: in a folder, or from anywhere."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.alignment.pair_sets.storage import VIEW_NAMES
from singlelife.errors import PairSetError
from singlelife.lives.pairs.transforms import center_crop_box, crop_and_resize

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds image files that may be pairs."""
    return (path / "target").is_dir() or (path / "source").is_dir() or any(_images(path))


def load_image_pairs(path: Path, image_size: int) -> PairSet:
    """The pairs of image files in a folder: `NAME_target.png` and `NAME_source.png`, or files of equal names in the
    folders `target` and `source`. PNG, JPEG, WebP, BMP, PPM or TIFF.

    Args:
        path: the folder.
        image_size: side of the views in pixels; of each image the middle square is resized to it.

    Raises:
        PairSetError: there are none, one lacks its partner, or one cannot be read; it is named.
    """
    files = _pairs_of_files(path)
    names = [[str(file.relative_to(path)) for file in pair] for pair in files]
    images = ((_read_image(target), _read_image(source)) for target, source in files)
    return pair_set_of_images(path.name, images, len(files), image_size, {"folder": path.name, "files": names})


def pair_set_of_images(
    name: str,
    images: Iterable[tuple[torch.Tensor, torch.Tensor]],
    count: int,
    image_size: int,
    provenance: dict[str, Any] | None = None,
) -> PairSet:
    """Pairs of images, of each its middle square.

    Args:
        name: for people.
        images: target and source of each pair, uint8 (3, H, W) of any sizes; taken one by one.
        count: how many pairs that is.
        image_size: side of the views in pixels, to which the squares are resized.
        provenance: where they are from.
    """
    views = torch.empty((2, count, 3, image_size, image_size), dtype=torch.uint8)
    boxes = np.zeros((count, 2, 4), dtype=np.int64)
    for index, pair in enumerate(images):
        for number, image in enumerate(pair):
            boxes[index, number] = box = center_crop_box(*image.shape[-2:])
            views[number, index] = crop_and_resize(image, box, image_size)
    return PairSet(name, views[0], views[1], provenance or {}, boxes)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in _IMAGES and not file.name.startswith(".")
    )


def _pairs_of_files(path: Path) -> list[tuple[Path, Path]]:
    if (path / "target").is_dir() or (path / "source").is_dir():
        found = {view: {file.stem: file for file in _images(path / view)} for view in VIEW_NAMES}
        twice = [file for view in VIEW_NAMES for file in _images(path / view) if found[view][file.stem] != file]
        where = {view: f"the folder {path / view}" for view in VIEW_NAMES}
    else:
        found, twice, where = {view: {} for view in VIEW_NAMES}, [], dict.fromkeys(VIEW_NAMES, f"the folder {path}")
        for file in _images(path):
            match = re.fullmatch(r"(.+)_(target|source)", file.stem)
            if not match:
                raise PairSetError(
                    f"{file} is of no pair: the images of a pair are NAME_target.png and NAME_source.png, or have the "
                    "same name in the folders target and source."
                )
            if match[1] in found[match[2]]:
                twice.append(file)
            found[match[2]][match[1]] = file
    if twice:
        raise PairSetError(f"{twice[0]} is there twice, with another ending: which of the two is meant?")
    for view, other in (VIEW_NAMES, VIEW_NAMES[::-1]):
        if alone := sorted(set(found[view]) - set(found[other])):
            raise PairSetError(f"{found[view][alone[0]]} has no partner: its {other} is missing in {where[other]}.")
    if not found["target"]:
        raise PairSetError(f"The folder {path} holds no pairs of images.")
    return [(found["target"][name], found["source"][name]) for name in sorted(found["target"])]


def _read_image(file: Path) -> torch.Tensor:
    """The pixels of an image file as it is meant to be seen, uint8 (3, height, width)."""
    try:
        with Image.open(file) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise PairSetError(f"The image {file} cannot be read: {error}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
