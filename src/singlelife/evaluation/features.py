"""Features of a frozen encoder, computed once for a data set and kept on disk.

A folder holds the features of one model's weights on one data set, each item's target beside them. It appears whole or
not at all: work goes on in a folder beside it whose name ends in `.partial`, to which batches are appended, so that a
run that was killed goes on with the items not yet done. Neither to write nor to read takes memory for more than a few
batches.
"""

import hashlib
import json
import mmap
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from singlelife.errors import CheckpointError, EvaluationError
from singlelife.files import check_room
from singlelife.lives.prepare import default_cache_dir
from singlelife.machine import peak_resident

FORMAT_VERSION = 1
FEATURES, TARGETS, ROWS, METADATA = "features.f16", "targets.bin", "rows.jsonl", "metadata.json"

_READERS = 2  # threads that read images while the encoder runs
_MOST_MAPPED = 256 << 20  # bytes of the file that may stay in memory once read


class Encoder(Protocol):
    """What is asked of a model here; `singlelife.alignment.models.load_model` gives such."""

    name: str
    revision: str
    grid: tuple[int, int]
    image_size: int

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (B, N, D) of uint8 views (B, 3, H, W)."""
        ...


class Item(NamedTuple):
    """One example.

    Attributes:
        image: uint8 (3, height, width), of any size.
        target: what is to be predicted, of the data set's `target_shape` and `target_dtype`.
        digest: SHA-256 of the image and the whole truth, before anything was resized.
    """

    image: torch.Tensor
    target: np.ndarray
    digest: bytes


class ItemError(EvaluationError):
    """One example cannot be used; the others can."""


class Examples(Protocol):
    """A data set to probe on.

    Attributes:
        name: what the user called it.
        identity: a string that differs where the data differ, and takes no reading of all of it.
        target_dtype: of an item's target.
    """

    name: str
    target_dtype: np.dtype

    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of a target for views of `size`, height and width in pixels."""
        ...

    def item(self, index: int, size: tuple[int, int]) -> Item:
        """An example, its target made for views of `size`.

        Raises:
            ItemError: it cannot be used.
        """
        ...


def view_size(encoder: Encoder) -> tuple[int, int]:
    """Height and width in pixels of what the encoder's patches cover."""
    patch = patch_size(encoder)
    return encoder.grid[0] * patch, encoder.grid[1] * patch


def patch_size(encoder: Encoder) -> int:
    """Side of a patch in pixels."""
    return encoder.image_size // max(encoder.grid)


def resized(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """An image, uint8 (3, H, W), stretched to a size (bicubic, antialiased): nothing of it is cut off."""
    if tuple(image.shape[1:]) == size:
        return image
    resized = torch.nn.functional.interpolate(image[None].float(), size, mode="bicubic", antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class FeatureSet:
    """The features of one model on one data set.

    Attributes:
        path: their folder.
        metadata: `tokens` (N and D), `target_shape`, `target_dtype`, `data_hash` (SHA-256 over the items' digests),
            `images_per_second` and `peak_memory_bytes` of when they were computed.
        rows: number in the data set of each item that is kept, int64 (n,).
        digests: of these, as hexadecimal.
        left_out: number and reason of each item that cannot be used.
    """

    path: Path
    metadata: dict[str, Any]
    rows: np.ndarray
    digests: list[str]
    left_out: list[tuple[int, str]]

    @classmethod
    def load(cls, path: Path) -> "FeatureSet":
        """Open a folder."""
        metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (path / ROWS).read_text(encoding="utf-8").splitlines()]
        kept = [line for line in lines if "digest" in line]
        left_out = [(line["row"], line["left_out"]) for line in lines if "left_out" in line]
        rows = np.array([line["row"] for line in kept], dtype=np.int64)
        return cls(path, metadata, rows, [line["digest"] for line in kept], left_out)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _features(self) -> "_Mapped":
        return _Mapped(self.path / FEATURES, np.dtype(np.float16), tuple(self.metadata["tokens"]))

    @cached_property
    def _targets(self) -> "_Mapped":
        shape = tuple(self.metadata["target_shape"])
        return _Mapped(self.path / TARGETS, np.dtype(self.metadata["target_dtype"]), shape)

    def summary(self) -> dict[str, Any]:
        """What results say of the data: its hash, how many items there are, and why others are left out."""
        left_out = [why for _, why in self.left_out]
        return {"data_hash": self.metadata["data_hash"], "num_items": len(self), "left_out": left_out}

    def features(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """float32 (k, N, D), of the items `indices`, numbers among those that are kept."""
        return torch.from_numpy(self._features[indices]).float()

    def targets(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """(k, *target_shape), of the type they are stored in."""
        return torch.from_numpy(self._targets[indices])


class _Mapped:
    """Rows of a file that is mapped into memory."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]):
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._values = np.frombuffer(self._map, dtype=dtype).reshape(-1, *shape)
        self._read = 0

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = self._values[np.asarray(indices)]
        self._read += rows.nbytes
        if self._read > _MOST_MAPPED and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)  # the system may still keep them, but they are no longer ours
            self._read = 0
        return rows


def extract(
    encoder: Encoder,
    examples: Examples,
    *,
    cache_dir: str | Path | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> FeatureSet:
    """The features of a data set, computed now if they have not been before.

    Args:
        encoder: the frozen model.
        examples: the data set.
        cache_dir: of the package, `$SINGLELIFE_CACHE` or `~/.cache/singlelife` by default; they are kept in its folder
            `features`.
        batch_size: images at once.
        progress: whether to show a bar.

    Raises:
        EvaluationError: not one item can be used.
        CheckpointError: the features are not finite, or above 65,504, as large as float16 goes.
        LifeError: there is no room for them.
    """
    size = view_size(encoder)
    key = [FORMAT_VERSION, encoder.revision, encoder.grid, size, examples.identity, len(examples)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    folder = Path(cache_dir or default_cache_dir()).expanduser() / "features" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _compute(encoder, examples, size, folder, batch_size, progress)
    return FeatureSet.load(folder)


@contextmanager
def _alone(lock_file: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Waiting for another process, which computes the same features.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _compute(
    encoder: Encoder, examples: Examples, size: tuple[int, int], folder: Path, batch_size: int, progress: bool
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    tokens = tuple(encoder.features(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape[1:])
    shape, dtype = examples.target_shape(size), examples.target_dtype
    row_bytes = {FEATURES: 2 * int(np.prod(tokens)), TARGETS: dtype.itemsize * int(np.prod(shape))}
    lines = _resume(partial, row_bytes)
    done = len(lines)
    check_room(
        (len(examples) - done) * sum(row_bytes.values()),
        folder.parent,
        f"The features of {encoder.name} on {examples.name}",
        "choose another place with --cache-dir or the variable SINGLELIFE_CACHE",
    )
    start = time.perf_counter()
    with (
        (partial / FEATURES).open("ab") as features,
        (partial / TARGETS).open("ab") as targets,
        (partial / ROWS).open("a", encoding="utf-8") as rows,
        tqdm(
            total=len(examples),
            initial=done,
            desc=f"Features of {encoder.name} on {examples.name}",
            unit=" images",
            disable=None if progress else True,
        ) as bar,
    ):
        for batch in _batches(examples, size, range(done, len(examples)), batch_size):
            items = [item for _, item in batch if isinstance(item, Item)]
            if items:
                values = encoder.features(torch.stack([item.image for item in items])).to(torch.float16)
                if not torch.isfinite(values).all():
                    raise CheckpointError(
                        f"{encoder.name} gives features above 65,504 (or that are not finite), too large for float16."
                    )
                features.write(values.contiguous().numpy().tobytes())
                targets.write(np.stack([item.target for item in items]).astype(dtype).tobytes())
                features.flush()
                targets.flush()
            for row, item in batch:
                line = {"row": row} | (
                    {"digest": item.digest.hex()} if isinstance(item, Item) else {"left_out": str(item)}
                )
                lines.append(line)
                rows.write(json.dumps(line) + "\n")
            rows.flush()
            bar.update(len(batch))
    digests = [line["digest"] for line in lines if "digest" in line]
    if not digests:
        shutil.rmtree(partial)
        raise EvaluationError(f"Nothing of {examples.name} can be used; the first: {lines[0]['left_out']}")
    metadata = {
        "model": encoder.name,
        "revision": encoder.revision,
        "data": examples.name,
        "tokens": tokens,
        "target_shape": shape,
        "target_dtype": dtype.name,
        "data_hash": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        "images_per_second": (len(lines) - done) / (time.perf_counter() - start),
        "peak_memory_bytes": peak_memory(),
    }
    (partial / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    partial.rename(folder)


def _resume(partial: Path, row_bytes: dict[str, int]) -> list[dict[str, Any]]:
    """The lines of the items that an earlier run has done; what it wrote beyond them is cut off."""
    path = partial / ROWS
    written = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []  # the last may be cut short
    lines = [json.loads(line) for line in written]
    kept = sum("digest" in line for line in lines)
    files = {partial / name: kept * size for name, size in row_bytes.items()}
    if any((file.stat().st_size if file.is_file() else 0) < size for file, size in files.items()):
        lines, files = [], dict.fromkeys(files, 0)  # the machine lost power: a line is there, but not its data
    for file, size in files.items():
        file.touch()
        with file.open("r+b") as content:
            content.truncate(size)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return lines


def _batches(
    examples: Examples, size: tuple[int, int], rows: range, batch_size: int
) -> Iterator[list[tuple[int, Item | ItemError]]]:
    """Rows with their items, read one batch ahead."""

    def read(row: int) -> tuple[int, Item | ItemError]:
        try:
            item = examples.item(row, size)
            return row, item._replace(image=resized(item.image, size))
        except ItemError as error:
            return row, error

    with ThreadPoolExecutor(_READERS) as pool:
        ahead = None
        for start in range(0, len(rows), batch_size):
            batch = [pool.submit(read, row) for row in rows[start : start + batch_size]]
            if ahead is not None:
                yield [future.result() for future in ahead]
            ahead = batch
        if ahead is not None:
            yield [future.result() for future in ahead]


def peak_memory() -> int:
    """The most memory that this process has had so far, in bytes; of the GPU if it has used one; 0 where not known."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return peak_resident() or 0
