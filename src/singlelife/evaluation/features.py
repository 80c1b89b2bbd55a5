"""Image data sets, and the features of a frozen encoder, computed once for a data set and kept on disk.

A folder holds the features of one model's weights on one data set, with the target of each item. It appears complete
or not at all. Writing and reading it takes memory for only a few batches.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from singlelife.alignment.models import AttentionMapProvider
from singlelife.errors import CheckpointError, EvaluationError
from singlelife.files import atomic_dir, check_room
from singlelife.lives.registry import default_cache_dir
from singlelife.pictures import read_picture

FORMAT_VERSION = 2
FEATURES, TARGETS, METADATA = "features.npy", "targets.npy", "metadata.json"

_SPLIT_NAMES = {"train": ("train", "training", "all"), "test": ("test", "validation", "val", "all")}


class Item(NamedTuple):
    """One example.

    Attributes:
        image: uint8 (3, height, width), of any size.
        target: the truth to predict, of the data set's `target_shape` and `target_dtype`.
        digest: SHA-256 of the image and the whole truth, before anything was resized.
    """

    image: torch.Tensor
    target: np.ndarray
    digest: bytes


class ItemError(EvaluationError):
    """One example cannot be used; the others can."""


class Examples(Protocol):
    """A data set to probe on, called `name` by the user.

    `identity` is a string that differs if the data differ, found without reading all of them. `item` gives an example,
    with a target for views of a size (height and width in pixels), or raises an `ItemError`.
    """

    name: str
    target_dtype: np.dtype

    @property
    def identity(self) -> str: ...
    def __len__(self) -> int: ...
    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]: ...
    def item(self, index: int, size: tuple[int, int]) -> Item: ...


def view_size(encoder: AttentionMapProvider) -> tuple[int, int]:
    """Height and width in pixels of the area that the encoder's patches cover."""
    patch = patch_size(encoder)
    return encoder.grid[0] * patch, encoder.grid[1] * patch


def patch_size(encoder: AttentionMapProvider) -> int:
    """Side of a patch in pixels."""
    return encoder.image_size // max(encoder.grid)


def resized(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """An image, uint8 (3, H, W), stretched to a size (bicubic, antialiased). Nothing is cut off."""
    if tuple(image.shape[1:]) == size:
        return image
    resized = torch.nn.functional.interpolate(image[None].float(), size, mode="bicubic", antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class FeatureSet:
    """The features of one model on one data set, in a folder.

    Attributes:
        data_hash: SHA-256 over the items' digests.
        rows: the number in the data set of each item that is kept.
        digests: the digests of these items, hexadecimal.
        left_out: why an item cannot be used, by its number in the data set.
    """

    path: Path
    data_hash: str
    rows: list[int]
    digests: list[str]
    left_out: dict[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def features(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Features, float32 (k, N, D), of the items `indices`, counted among the kept items."""
        return self._read(FEATURES, indices).float()

    def targets(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Targets, (k, *target_shape), of the same items, in their stored type."""
        return self._read(TARGETS, indices)

    def _read(self, name: str, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        # Mapped anew each time, so that what was read before does not count as this process's memory.
        return torch.from_numpy(np.load(self.path / name, mmap_mode="r")[np.asarray(indices)])


def extract(
    encoder: AttentionMapProvider,
    examples: Examples,
    *,
    cache_dir: str | Path | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> FeatureSet:
    """The features of a data set, computed unless the folder `features` of the package's cache has them.

    Raises:
        EvaluationError: no item can be used.
        CheckpointError: the features are not finite, or above 65,504, the maximum of float16.
        LifeError: there is no room for them.
    """
    size = view_size(encoder)
    key = [FORMAT_VERSION, encoder.revision, encoder.grid, size, examples.identity, len(examples)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    folder = Path(cache_dir or default_cache_dir()).expanduser() / "features" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # another process may be computing the same
        if not folder.is_dir():
            with atomic_dir(folder) as aside:
                metadata = _compute(encoder, examples, aside, batch_size, progress)
                (aside / METADATA).write_text(json.dumps(metadata) + "\n", encoding="utf-8")
    return FeatureSet(folder, **json.loads((folder / METADATA).read_text(encoding="utf-8")))


def _compute(
    encoder: AttentionMapProvider, examples: Examples, folder: Path, batch_size: int, progress: bool
) -> dict[str, Any]:
    """Write the arrays into the folder, and return the fields of `FeatureSet`."""
    size = view_size(encoder)
    tokens = tuple(encoder.features(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape[1:])
    shape, dtype = examples.target_shape(size), examples.target_dtype
    title = f"Features of {encoder.name} on {examples.name}"
    item_bytes = 2 * int(np.prod(tokens)) + dtype.itemsize * int(np.prod(shape))
    elsewhere = "choose another place with --cache-dir or the variable SINGLELIFE_CACHE"
    check_room(len(examples) * item_bytes, folder.parent, title, elsewhere)
    features = np.lib.format.open_memmap(folder / FEATURES, "w+", np.float16, (len(examples), *tokens))
    targets = np.lib.format.open_memmap(folder / TARGETS, "w+", dtype, (len(examples), *shape))
    rows: list[int] = []
    digests: list[str] = []
    left_out: dict[str, str] = {}

    def read(row: int) -> Item | ItemError:
        try:
            item = examples.item(row, size)
            return item._replace(image=resized(item.image, size))
        except ItemError as error:
            return error

    with (
        ThreadPoolExecutor(2) as pool,
        tqdm(total=len(examples), desc=title, unit=" images", disable=None if progress else True) as bar,
    ):
        for start in range(0, len(examples), batch_size):
            batch = range(start, min(start + batch_size, len(examples)))
            items: list[Item] = []
            for row, item in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(item, Item):
                    items.append(item)
                    rows.append(row)
                    digests.append(item.digest.hex())
                else:
                    left_out[str(row)] = str(item)
            if items:
                values = encoder.features(torch.stack([item.image for item in items])).to(torch.float16)
                if not torch.isfinite(values).all():
                    raise CheckpointError(
                        f"{encoder.name} gives features above 65,504 (or that are not finite), too large for float16."
                    )
                features[len(rows) - len(items) : len(rows)] = values.numpy()
                targets[len(rows) - len(items) : len(rows)] = np.stack([item.target for item in items])
            bar.update(len(batch))
    if not rows:
        raise EvaluationError(f"No item of {examples.name} can be used; the first: {next(iter(left_out.values()))}")
    data_hash = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return {"data_hash": data_hash, "rows": rows, "digests": digests, "left_out": left_out}


def load_split(word: str, role: str, split: str | None) -> tuple[str, Any]:
    """A split of a `datasets` data set: saved in a folder, a folder of files, or ORG/NAME[@REVISION] on the Hub.

    Args:
        word: the data set.
        role: `"train"` or `"test"`.
        split: the split's name; by default the usual names for the role, and for a test also a validation split.

    Returns:
        The split's name, and the split, which has a column `image`.

    Raises:
        EvaluationError: there is no such split or column, or the data set cannot be loaded.
    """
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    folder = Path(word).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            content = load_from_disk(str(folder))
        else:
            name, _, revision = (str(folder), "", "") if folder.is_dir() else word.partition("@")
            content = load_dataset(name, revision=revision or None)
    except Exception as error:  # several libraries raise errors of many kinds here
        raise EvaluationError(
            f"{word} cannot be loaded as a data set: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    splits = DatasetDict({"all": content}) if isinstance(content, Dataset) else content
    names = (split,) if split else _SPLIT_NAMES[role]
    found = next((name for name in names if name in splits), None)
    if found is None:
        raise EvaluationError(
            f"{word} has the splits {', '.join(splits)}, but no {' or '.join(names)}. Name one with --{role}-split."
        )
    if "image" not in (columns := splits[found].column_names):
        raise EvaluationError(f"{word} has no column image; it has {', '.join(columns)}.")
    return found, splits[found]


def data_identity(data: Any) -> str:
    """A string that differs if the rows of a `datasets` data set differ, found without reading them."""
    files = [Path(file["filename"]) for file in data.cache_files]
    stats = " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    chosen = "" if data._indices is None else data._fingerprint  # if only some rows are chosen
    return f"{len(data)} {stats or data._fingerprint} {chosen}"


def rgb(picture: Any) -> torch.Tensor:
    """A picture as `read_picture` takes it, or its encoded bytes in a mapping, as uint8 (3, height, width).

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if picture is None:
        raise ValueError("there is none")
    source = io.BytesIO(picture["bytes"]) if isinstance(picture, dict) else picture
    return torch.from_numpy(np.array(read_picture(source))).permute(2, 0, 1)
