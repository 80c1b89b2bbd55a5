"""Read any still picture that Pillow opens as upright 8-bit RGB."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

MOST_PIXELS = 80_000_000  # below Pillow's own warning; decoded, such a picture takes 240 MB
LONGEST_SIDE = 32_768
_WHOLE_RANGE = ("PNG", "PPM", "JPEG2000")  # formats whose deep grey Pillow stretches over all 16 bits
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


def read_picture(
    source: str | Path | BinaryIO | Image.Image,
    *,
    formats: tuple[str, ...] | None = None,
    max_pixels: int = MOST_PIXELS,
) -> Image.Image:
    """A picture as it is meant to be seen: 8-bit RGB, upright, transparent parts on white.

    Of 16 bits the upper 8 are kept. The camera's orientation (EXIF, all eight values) is applied. An animation gives
    its first frame.

    Args:
        source: a path, a file, or a picture that is already open.
        formats: the formats to accept, by Pillow's names; all by default.
        max_pixels: a larger picture is not decoded.

    Raises:
        ValueError: the file is missing, not a picture, damaged or too large, or its pixel type does not define white
            (floating point, 32 bits). The message says which, and begins with the path if there is one.
    """
    name = f"{source}: " if isinstance(source, str | Path) else ""
    try:
        if isinstance(source, Image.Image):
            return _plain(source, max_pixels)
        with Image.open(source, formats=formats) as picture:
            return _plain(picture, max_pixels)
    except FileNotFoundError as error:
        raise ValueError(f"{name}no such file") from error
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise ValueError(f"{name}not a picture that can be read ({error})") from error


def _plain(picture: Image.Image, max_pixels: int) -> Image.Image:
    if picture.width * picture.height > max_pixels or max(picture.size) > LONGEST_SIDE:
        raise ValueError(
            f"{picture.width} x {picture.height} pixels; the maximum is {max_pixels / 1e6:.0f} million in all and "
            f"{LONGEST_SIDE:,} on a side"
        )
    tags: Any = dict(getattr(picture, "tag_v2", {}))  # before loading, which may turn a TIFF upright
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        deep = upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format in _WHOLE_RANGE)
        if not deep:
            raise ValueError(f"its pixels have mode {upright.mode}, which does not define white")
        bits = max(8, np.ravel(tags.get(_BITS, 16))[0])
        levels = (np.asarray(upright).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow corrects this for 8 bits only
            levels = 255 - levels
        return Image.fromarray(levels).convert("RGB")
    if upright.has_transparency_data:
        whole = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return upright.convert("RGB")
