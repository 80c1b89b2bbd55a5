"""A set of pairs of views, with true matches where the depth and cameras of both frames are known."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from singlelife.alignment.pair_sets.storage import (
    CHANGED,
    DESCRIPTION,
    PairGeometry,
    range_of,
    read_pair_set,
    write_pair_set,
)
from singlelife.errors import PairSetError
from singlelife.lives.pairs.pairing import bin_of

_ONE_COLOUR = 2  # levels by which the pixels of a view of one colour may differ


@dataclass(frozen=True)
class PairSet:
    """Pairs of views.

    Attributes:
        name: for people, such as the life and the kind of views.
        target, source: uint8 (P, 3, S, S).
        provenance: where the pairs come from: `lives` (name and fingerprint of each), settings of the draw, and for
            each pair `life` (its index in `lives`), `frames` (rows of target and source), `timestamps` and `videos`;
            or `files`, for pairs of image files.
        gap: seconds between the frames of each pair, float64 (P,), NaN if they are from two videos; None if times are
            not known.
        overlap: Jaccard index of the 3D points that the frames see, float32 (P,), NaN where not known; None if it is
            not known for any pair.
    """

    name: str
    target: torch.Tensor
    source: torch.Tensor
    provenance: dict[str, Any]
    _boxes: np.ndarray = field(repr=False)  # (P, 2, 4) top, left, height, width of each view in its frame
    _geometry: PairGeometry | None = field(repr=False, default=None)
    _same_frame: bool = False
    gap: np.ndarray | None = field(repr=False, default=None)
    overlap: np.ndarray | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.target)

    def __str__(self) -> str:
        """A table for people: size, hash, lives, and the number of pairs in each bin."""
        about, side = self.provenance, self.target.shape[-1]
        lives = ", ".join(f"{life['name']} ({life['fingerprint'][:12]})" for life in about.get("lives", []))
        lines = {"pairs": f"{len(self):,} of {side} x {side} px", "hash": self.hash}
        lines["from"] = lives or f"the folder {about.get('folder', '')}"
        if "views" in about:
            lines["views"] = about["views"]
        ranges = {"gap": range_of(self.gap, " s"), "overlap": range_of(self.overlap)}
        lines |= {name: text for name, text in ranges.items() if text}
        values = self.overlap if about.get("by") == "overlap" else self.gap
        if (bins := about.get("bins")) and values is not None:
            counts = np.bincount(bin_of(values, bins) + 1, minlength=len(bins))[1:]
            edges = [f"{low:g}-{high:g}: {count}" for low, high, count in zip(bins, bins[1:], counts, strict=False)]
            lines["bins"] = f"of {about['by']}, {', '.join(edges)}"
        known = (self.true_match((14, 14)) >= 0).float().mean().item()
        lines["matches"] = f"known for {known:.0%} of the patches" if known else "not known"
        return "\n".join([self.name, *(f"  {name + ':':<9} {text}" for name, text in lines.items())])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the pixels, their frames and places in them, and everything that determines the true matches.

        Scores on pair sets with the same hash can be compared. Storing, pushing and loading a set keeps its hash; so
        does adding facts that only describe it, such as overlaps.
        """
        lives = [life["fingerprint"] for life in self.provenance.get("lives", [])]
        origin = [lives, self.provenance.get("life"), self.provenance.get("frames"), self._same_frame]
        digest = hashlib.sha256(json.dumps([list(self.target.shape), origin]).encode())
        for views in (self.target, self.source):
            digest.update(views.numpy().data)
        digest.update(np.ascontiguousarray(self._boxes, dtype="<i8").data)
        if self._geometry is not None and not self._same_frame:
            for values in (self._geometry.scale, self._geometry.poses, self._geometry.intrinsics):
                digest.update(np.ascontiguousarray(values, dtype="<f8").data)
            for pair in range(len(self)):  # the levels, since encoders of PNG differ
                for levels in self._geometry.levels(pair) or ():
                    digest.update(str(levels.shape).encode() + np.ascontiguousarray(levels, dtype="<u2").tobytes())
        return digest.hexdigest()

    @cached_property
    def order(self) -> np.ndarray:
        """Indices that sort the pairs by life, video and time of the target, int64 (P,); 0 to P - 1 without times."""
        about, first = self.provenance, np.arange(len(self))
        if "timestamps" not in about or "videos" not in about:
            return first
        times, videos = (np.array([each[0] for each in about[name]]) for name in ("timestamps", "videos"))
        return np.lexsort((first, times, videos, about.get("life", first * 0)))

    @cached_property
    def blank(self) -> np.ndarray:
        """Which pairs have a view of one colour, which shows nothing, bool (P,)."""
        views = (self.target.flatten(2), self.source.flatten(2))
        ranges = [(each.amax(dim=2) - each.amin(dim=2)).amax(dim=1) for each in views]  # uint8, and never below 0
        return torch.minimum(*ranges).numpy() <= _ONE_COLOUR

    def true_match(self, grid: tuple[int, int]) -> torch.Tensor:
        """The source patch that shows what is at the centre of each target patch.

        Args:
            grid: rows and columns of patches that the views are cut into.

        Returns:
            int64 (P, rows * columns); -1 where it is outside the source view, hidden in it, or not known. Even views
            have matches only in the middle half, since only there the source view holds the match at every shift.
        """
        rows, columns = grid
        matches = np.full((len(self), rows * columns), -1, dtype=np.int64)
        if not self.matches_known:
            return torch.from_numpy(matches)
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        centres = np.stack([x.ravel(), y.ravel()], axis=-1)
        counted = (np.abs(centres - 0.5) < 0.25).all(axis=1) if self.even else np.ones(len(centres), dtype=bool)
        for pair in range(len(self)):
            found, known = self.find(pair, centres)
            known &= counted
            column, row = found[:, 0] * columns, found[:, 1] * rows
            inside = known & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            match = np.floor(np.where(inside, row, 0)) * columns + np.floor(np.where(inside, column, 0))
            matches[pair] = np.where(inside, match, -1)
        return torch.from_numpy(matches)

    def find(self, pair: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find points of a pair's target view in its source view.

        Args:
            points: float64 (N, 2), x and y as fractions of the view's width and height; its top left corner is (0, 0).

        Returns:
            The points in the source view, or outside it, in the same units, and whether each is known, bool (N,): not
            if it is hidden in the source or its depth is not known.
        """
        target, source = self._boxes[pair]
        points = np.stack([target[1] + points[:, 0] * target[3], target[0] + points[:, 1] * target[2]], axis=-1)
        known = np.full(len(points), self._same_frame)
        if self._geometry is not None and not self._same_frame:
            points, known = self._geometry.project(pair, points)
        return np.stack([(points[:, 0] - source[1]) / source[3], (points[:, 1] - source[0]) / source[2]], -1), known

    @property
    def even(self) -> bool:
        """Whether the views are `even`, which are scored only on the middle half of the target."""
        return self.provenance.get("views") == "even"

    @property
    def matches_known(self) -> bool:
        """Whether true matches are known for any pair."""
        return self._same_frame or (self._geometry is not None and any(self._geometry.depth))

    @classmethod
    def load(cls, path: str | Path, *, progress: bool = False) -> "PairSet":
        """Load a stored pair set and verify its hash.

        Raises:
            PairSetError: there is none, it has another version's format, or a file has changed; the message names it.
        """
        stated, arguments = read_pair_set(Path(path), progress=progress)
        pairs = cls(**arguments)
        if pairs.hash != stated:
            raise PairSetError(
                f"The pairs of {path} have the hash {pairs.hash[:12]}, but {DESCRIPTION} says {stated[:12]}. {CHANGED}"
            )
        return pairs

    def save(self, path: str | Path, *, progress: bool = False) -> None:
        """Store it in a folder, which appears only once it is complete.

        `datasets.load_from_disk` and `load_dataset` open the folder too.

        Raises:
            PairSetError: the folder exists already, or the disk has no room.
        """
        write_pair_set(self, Path(path), progress=progress)
