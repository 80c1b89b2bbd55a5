"""Features of a frozen encoder, computed once for a data set and kept on disk.

A folder holds the features of one model's weights on one data set, each item's target beside them. It appears whole or
not at all: work goes on in a folder beside it whose name ends in `.partial`, to which batches are appended, so that a
run that was killed goes on with the items not yet done. Neither to write nor to read takes memory for more than a few
batches.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
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
from singlelife.files import check_room
from singlelife.lives.prepare import default_cache_dir

FORMAT_VERSION = 1
FEATURES, TARGETS, ROWS, METADATA = "features.f16", "targets.bin", "rows.jsonl", "metadata.json"

_READERS = 2  # threads that read images while the encoder runs


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


def view_size(encoder: AttentionMapProvider) -> tuple[int, int]:
    """Height and width in pixels of what the encoder's patches cover."""
    patch = patch_size(encoder)
    return encoder.grid[0] * patch, encoder.grid[1] * patch


def patch_size(encoder: AttentionMapProvider) -> int:
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
        metadata: `tokens` (N and D), `target_shape`, `target_dtype`, and `data_hash` (SHA-256 over the items'
            digests).
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

    def features(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """float32 (k, N, D), of the items `indices`, numbers among those that are kept."""
        return self._read(FEATURES, np.dtype(np.float16), self.metadata["tokens"], indices).float()

    def targets(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """(k, *target_shape), of the type they are stored in."""
        dtype = np.dtype(self.metadata["target_dtype"])
        return self._read(TARGETS, dtype, self.metadata["target_shape"], indices)

    def _read(
        self, name: str, dtype: np.dtype, shape: Sequence[int], indices: Sequence[int] | np.ndarray
    ) -> torch.Tensor:
        # Mapped anew each time, so that what was read before does not count as this process's memory.
        rows = np.memmap(self.path / name, dtype, "r", shape=(len(self), *shape))
        return torch.from_numpy(np.asarray(rows[np.asarray(indices)]))


def extract(
    encoder: AttentionMapProvider,
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
    with FileLock(folder.with_suffix(".lock")):  # another process may be computing the same
        if not folder.is_dir():
            _compute(encoder, examples, size, folder, batch_size, progress)
    return FeatureSet.load(folder)


def _compute(
    encoder: AttentionMapProvider,
    examples: Examples,
    size: tuple[int, int],
    folder: Path,
    batch_size: int,
    progress: bool,
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
