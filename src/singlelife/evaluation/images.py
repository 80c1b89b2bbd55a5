"""Images: files, and data sets of them as `datasets` has them, local or on the Hub."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from singlelife.errors import EvaluationError

_SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "validation", "val")}


def load_split(word: str, role: str, split: str | None) -> tuple[str, Any]:
    """A split of a `datasets` data set: a folder that it was saved in, of files, or ORG/NAME[@REVISION] on the Hub.

    Args:
        word: which data set.
        role: `"train"` or `"test"`.
        split: the split's name; by default that of the role, and of a test also a validation split.

    Returns:
        The split's name, and the split.

    Raises:
        EvaluationError: there is no such split, or the data set cannot be loaded.
    """
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    folder = Path(word).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            content = load_from_disk(str(folder))
        else:
            name, _, revision = (word, "", "") if folder.is_dir() else word.partition("@")
            content = load_dataset(str(folder) if folder.is_dir() else name, revision=revision or None)
    except Exception as error:  # several libraries raise here, each what it likes
        raise EvaluationError(
            f"{word} cannot be loaded as a data set: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    splits = DatasetDict({"all": content}) if isinstance(content, Dataset) else content
    names = (split,) if split else (*_SPLIT_NAMES[role], "all")
    found = next((name for name in names if name in splits), None)
    if found is None:
        raise EvaluationError(
            f"{word} has the splits {', '.join(splits)}, and no {' or '.join(names)}. Name one with --{role}-split."
        )
    return found, splits[found]


def data_identity(data: Any) -> str:
    """A string that differs where the rows of a `datasets` data set do, without reading them."""
    files = [Path(file["filename"]) for file in data.cache_files]
    stats = " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    chosen = "" if data._indices is None else data._fingerprint  # where only some rows are chosen
    return f"{len(data)} {stats or data._fingerprint} {chosen}"


def rgb(picture: Any) -> torch.Tensor:
    """A PIL image, or its encoded bytes in a mapping, as uint8 (3, height, width).

    Raises:
        ValueError: there is none.
        OSError: it is damaged.
    """
    if picture is None:
        raise ValueError("there is none")
    if isinstance(picture, dict):
        picture = Image.open(io.BytesIO(picture["bytes"]))
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def read_image(path: Path) -> torch.Tensor:
    """An image file as uint8 (3, height, width), turned upright as its camera says.

    Raises:
        EvaluationError: it is missing, damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise EvaluationError(f"{path}: not an image of 8 bits a channel, but of the mode {picture.mode}.")
            return rgb(ImageOps.exif_transpose(picture))
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{path}: not an image that can be read ({error})") from error
