"""Frames with true depth, whatever they are read from."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from singlelife.errors import EvaluationError, LifeError
from singlelife.evaluation.depth_protocols import DepthProtocol, check_unit
from singlelife.evaluation.features import Item, ItemError

LOOKED_AT = 16  # frames, before any work is done on all


@dataclass(frozen=True)
class DepthOptions:
    """What the user says of the data.

    Attributes:
        split: name of a split, or for ScanNet the file that lists its scenes; None for the usual one.
        depth_scale: metres of one unit of the stored depth, where that is not known.
        depth_column: of a `datasets` data set.
        protocol: a name of `PROTOCOLS`, to take another than the data's own.
        max_depth: in metres, instead of the protocol's.
        limit: how many frames to take.
        cache_dir: where prepared lives are kept.
    """

    split: str | None = None
    depth_scale: float | None = None
    depth_column: str | None = None
    protocol: str | None = None
    max_depth: float | None = None
    limit: int | None = None
    cache_dir: Path | None = None


class DepthFrames(ABC):
    """Images with their true depth. Items for [`singlelife.evaluation.features.extract`] too.

    Attributes:
        name: what the user called it, with its split.
        identity: see `Examples`.
        protocol: how depth is compared here.
        rows: which frames of the source these are, int64 (n,).
        depth_scale: metres of one unit of the stored depth.
        note: what a reader of results should know of this depth, or empty.
    """

    target_dtype = np.dtype(np.float16)  # what a probe learns from; the truth that it is tested on is read anew

    def __init__(self, name: str, identity: str, protocol: DepthProtocol, num_rows: int, depth_scale: float = 1.0):
        if not num_rows:
            raise EvaluationError(f"{name} has no frames.")
        self.name, self.protocol, self.depth_scale, self.note = name, protocol, depth_scale, ""
        self.rows = np.arange(num_rows)
        self._source = identity

    @property
    def identity(self) -> str:
        return f"{self._source} {self.protocol} {self.depth_scale} {hashlib.sha256(self.rows.tobytes()).hexdigest()}"

    def __len__(self) -> int:
        return len(self.rows)

    def thin_out(self, count: int | None) -> None:
        """Keep this many frames, evenly spread; all if there are no more, or with None."""
        if count is not None and count < len(self.rows):
            self.rows = self.rows[np.linspace(0, len(self.rows) - 1, count).round().astype(np.int64)]

    @abstractmethod
    def image(self, row: int) -> torch.Tensor:
        """The image of a row of the source, uint8 (3, height, width)."""

    @abstractmethod
    def stored_depth(self, row: int) -> np.ndarray:
        """The depth of a row of the source as it is stored, (height, width).

        Raises:
            ItemError: there is none.
        """

    def depth(self, index: int) -> np.ndarray:
        """True depth of frame `index` in metres, float32 (height, width), 0 where it is not known.

        Raises:
            ItemError: there is none, or no pixel of it counts.
        """
        row = int(self.rows[index])
        stored = np.squeeze(np.asarray(self.stored_depth(row)))
        if stored.ndim != 2 or stored.dtype.kind not in "uif":
            raise ItemError(f"row {row}: depth should be numbers on two axes, not {stored.dtype} {stored.shape}")
        depth = stored.astype(np.float32) * np.float32(self.depth_scale)
        depth[~np.isfinite(depth) | (depth < 0)] = 0
        if not self.protocol.known(depth).any():
            finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
            found = f"{finite.min():g} to {finite.max():g}" if finite.size else "NaN or infinite"
            raise ItemError(
                f"row {row}: no pixel has a valid depth ({self.protocol.min_depth:g} to {self.protocol.max_depth:g} "
                f"m); the stored values are {found}"
            )
        return depth

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return size

    def item(self, index: int, size: tuple[int, int]) -> Item:
        row = int(self.rows[index])
        depth = self.depth(index)
        try:
            image = self.image(row)
        except (OSError, ValueError, LifeError) as error:
            raise ItemError(f"row {row}: the image cannot be read ({error})") from error
        have, want = image.shape[1:], depth.shape
        if abs(have[0] * want[1] - have[1] * want[0]) > 0.02 * have[0] * want[1]:
            raise ItemError(
                f"row {row}: an image of {have[1]}x{have[0]} and a depth map of {want[1]}x{want[0]} pixels are not of "
                "one frame: their aspect ratios differ"
            )
        digest = hashlib.sha256(image.contiguous().numpy().tobytes())
        digest.update(depth.tobytes())
        known = np.where(self.protocol.known(depth), depth, np.float32(0))
        target = sampled(known, size)
        if not target.any():
            raise ItemError(f"row {row}: no pixel has a valid depth once it is sampled at {size[1]}x{size[0]}")
        return Item(image, target.astype(np.float16), digest.digest())

    def check(self) -> None:
        """Look at some frames, before any work is done on all.

        Raises:
            EvaluationError: there are none, their depth is in another unit, or the protocol's crop is of another size.
        """
        if not len(self):
            raise EvaluationError(f"{self.name} has no frames.")
        medians = []
        for index in np.linspace(0, len(self) - 1, min(LOOKED_AT, len(self))).round().astype(int):
            try:
                stored = np.squeeze(np.asarray(self.stored_depth(int(self.rows[index]))))
            except ItemError:
                continue
            if stored.ndim != 2 or stored.dtype.kind not in "uif":
                continue
            self.protocol.known(np.zeros(stored.shape, np.float32))
            known = stored[np.isfinite(stored) & (stored > 0)] * float(self.depth_scale)
            if known.size:
                medians.append(np.median(known))
        if medians:
            check_unit(np.array(medians), self.name)


def sampled(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A depth map (H, W) at another size: the value at each pixel's centre, as depth is not to be mixed over edges."""
    rows, columns = (
        ((np.arange(count) + 0.5) * have / count).astype(np.int64)
        for count, have in zip(size, depth.shape, strict=True)
    )
    return depth[np.ix_(rows, columns)]
