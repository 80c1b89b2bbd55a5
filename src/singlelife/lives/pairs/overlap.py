"""Which frames of a life see the same place: the overlap of their sets of visible points, for a whole life.

The overlap of two frames is the Jaccard index |A ∩ B| / |A ∪ B| of the sets of 3D points that they see, as in "Unique
Lives, Shared World" (arXiv 2512.04085). Its neighbour search is exact and never compares all frames with all:

1. An inverted index gives, for a block of frames, how many of the block's points every other frame sees. A frame B can
   overlap one of the block by `min_overlap` only if it sees at least min_overlap · |B| of them, since |A ∪ B| ≥ |B|.
   Few frames pass, because a person stays in a room for minutes: the frames of a block see much the same.
2. The numbers of common points of the block with those that pass are sums of rows of a small table of zeros and ones
   (points × frames of the block), which `embedding_bag` adds up in vector registers.

The work is at most (frames × points seen) additions, 16 to an instruction, where nothing is pruned. A sparse matrix
product, which goes from pair to pair through every point in common, was measured at 1.6 times the time on a week in
ten rooms, and the more the same things are in view the worse: 5.2 times on a camera that stands still. Memory beyond
the index is bounded by the sizes below.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.scene.geometry import VisiblePoints

_BLOCK_FRAMES = 128  # a row of the table is then 512 bytes: eight cache lines
_BLOCK_POINTS = 1 << 18  # bounds the table of one block, to 128 MiB
_POINTS_AT_ONCE = 1 << 22  # of the frames that are compared with a block, at a time
_TARGET_BITS = 7  # of the sort key of a pair: the place of the target in its block


@dataclass(frozen=True)
class PairTable:
    """Pairs of frames that overlap, sorted by target, then source. Both orders of a pair are rows of their own.

    Attributes:
        target, source: rows of the life, int32 (m,).
        overlap: Jaccard index of their visible points, float32 (m,).
        num_frames: of the life.
        num_in_range: ordered pairs within the range of overlaps; more than m where `max_neighbours` left some out.
        num_above: ordered pairs that overlap more than the range allows.
        key: of the geometry and settings that a stored table was made from; empty where it is not stored.
    """

    target: np.ndarray
    source: np.ndarray
    overlap: np.ndarray
    num_frames: int
    num_in_range: int
    num_above: int
    key: str = ""

    def __len__(self) -> int:
        return len(self.target)


def find_overlaps(
    points: VisiblePoints,
    component: np.ndarray,
    *,
    min_overlap: float,
    max_overlap: float,
    max_neighbours: int,
    seed: int = 0,
    block_frames: int = _BLOCK_FRAMES,
    progress: bool = False,
) -> PairTable:
    """All pairs of frames whose overlap is in a range, but for each frame at most `max_neighbours`.

    Of a target with more partners, those are kept whose pairs have the smallest hash. The hash is of the seed and the
    two rows, whatever their order, so the choice is fair (it knows neither time nor overlap), the same in every run,
    and does not depend on the size of blocks. The cap is on each target's sources: where it bites, (a, b) may be kept
    and (b, a) not.

    Args:
        points: the points that each of n frames sees.
        component: int64 (n,), as of a `Geometry`: only frames of the same one are compared, and none of -1.
        min_overlap: the least overlap, over 0.
        max_overlap: the largest, at least `min_overlap` and at most 1.
        max_neighbours: sources to keep of each target, at least 1.
        seed: of the choice among more, 0 to 2**64 - 1.
        block_frames: frames compared with the others at a time, 1 to 128; the result does not depend on it.
        progress: show a progress bar on stderr.

    Raises:
        LifeError: an argument is out of its range, or `points` and `component` are not of the same frames.
    """
    check_overlap_range(min_overlap, max_overlap, max_neighbours)
    if len(points) != len(component) or not 1 <= block_frames <= 1 << _TARGET_BITS:
        raise LifeError(
            f"The search for overlaps takes a component for each frame and blocks of 1 to {1 << _TARGET_BITS} frames, "
            f"not {len(component)} components of {len(points)} frames and blocks of {block_frames}."
        )
    found, in_range, above = [], 0, 0
    with tqdm(desc="Finding overlaps", total=int((component >= 0).sum()), unit=" frames", disable=not progress) as bar:
        for rows in _rows_of_components(component):
            index = _Index.of_frames(points, rows)
            for start, stop in index.blocks(block_frames):
                target, source, overlap, more = index.overlaps(start, stop, min_overlap, max_overlap)
                in_range, above = in_range + len(target), above + more
                kept = _smallest_hashes(target - start, rows[target], rows[source], max_neighbours, seed)
                found.append((rows[target[kept]], rows[source[kept]], overlap[kept]))
                bar.update(stop - start)
    # Components interleave in time, so the whole is sorted once more; within one it is sorted already.
    target, source, overlap = (
        np.concatenate([part[column] for part in found]).astype(dtype) if found else np.zeros(0, dtype)
        for column, dtype in enumerate((np.int32, np.int32, np.float32))
    )
    order = np.argsort(target, kind="stable")
    return PairTable(target[order], source[order], overlap[order], len(points), in_range, above)


def check_overlap_range(min_overlap: float, max_overlap: float, max_neighbours: int) -> None:
    """Make sure that the settings of a search make sense.

    Raises:
        LifeError: they do not.
    """
    if not 0 < min_overlap <= max_overlap <= 1 or max_neighbours < 1:
        raise LifeError(
            "The overlap of spatial pairs should be 0 < min_overlap <= max_overlap <= 1, and max_neighbours at least "
            f"1, not {min_overlap:g} to {max_overlap:g} and {max_neighbours}."
        )


def overlaps_of(points: VisiblePoints, component: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The overlap of given pairs of rows, int64 (m, 2), as float32 (m,); NaN where the two cannot be compared.

    They cannot if a pose is unknown, if they are of two components, or if neither sees a point.
    """
    overlap = np.full(len(pairs), np.nan, dtype=np.float32)
    for pair, (first, second) in enumerate(pairs):
        union = len(points[first]) + len(points[second])
        if union and component[first] == component[second] >= 0:
            common = len(np.intersect1d(points[first], points[second], assume_unique=first != second))
            overlap[pair] = np.float32(common) / np.float32(union - common)
    return overlap


@dataclass(frozen=True)
class _Index:
    """The points that the frames of one component see, and, inverted, the frames that see each point.

    Points are numbered from 0, and those that only one frame sees are left out: they are in no intersection. `sizes`
    counts them all the same.
    """

    sizes: np.ndarray  # int64 (n,)
    offsets: np.ndarray  # int64 (n + 1,), of `points`
    points: np.ndarray  # int32, ascending in each frame
    starts: np.ndarray  # int64 (number of points + 1,), of `frames`
    frames: np.ndarray  # int32, ascending for each point

    @classmethod
    def of_frames(cls, points: VisiblePoints, rows: np.ndarray) -> "_Index":
        sizes = points.counts[rows]
        ids = points.ids[_ranges(points.offsets[rows], sizes)]
        frame = np.repeat(np.arange(len(rows), dtype=np.int32), sizes)
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, np.int64)
        seen_by = np.diff(np.append(first, len(ids)))
        shared = seen_by > 1
        kept = order[np.repeat(shared, seen_by)]
        number = np.full(len(ids), -1, dtype=np.int32)
        number[kept] = np.repeat(np.arange(shared.sum(), dtype=np.int32), seen_by[shared])
        left = number >= 0
        return cls(
            sizes=sizes,
            offsets=_offsets(np.bincount(frame[left], minlength=len(rows))),
            points=number[left],
            starts=_offsets(seen_by[shared]),
            frames=frame[kept],
        )

    def blocks(self, most_frames: int) -> Iterator[tuple[int, int]]:
        """The first frame of each block, and the first after it."""
        start = 0
        while start < len(self.sizes):
            fitting = int(np.searchsorted(self.offsets, self.offsets[start] + _BLOCK_POINTS, side="right")) - 1
            stop = min(max(fitting, start + 1), start + most_frames, len(self.sizes))
            yield start, stop
            start = stop

    def overlaps(
        self, start: int, stop: int, least: float, most: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Target (in the block), source and overlap of all pairs within a range, and how many are above it."""
        import torch  # here, so that to name the pairings takes no torch

        least, most = float(np.float32(least)), float(np.float32(most))
        seen = self.points[self.offsets[start] : self.offsets[stop]]
        in_block = np.unique(seen)
        hits = np.bincount(
            self.frames[_ranges(self.starts[in_block], self.starts[in_block + 1] - self.starts[in_block])],
            minlength=len(self.sizes),
        )
        candidates = np.flatnonzero((hits > 0) & (hits * (1 + 1e-6) >= least * self.sizes))

        # Row p + 1 of the table says which frames of the block see its p-th point; row 0 is for points of others.
        table_row = np.zeros(len(self.starts) - 1, dtype=np.int32)
        table_row[in_block] = np.arange(1, len(in_block) + 1)
        table = np.zeros((len(in_block) + 1, stop - start), dtype=np.float32)
        table[table_row[seen], np.repeat(np.arange(stop - start), np.diff(self.offsets[start : stop + 1]))] = 1
        block_sizes = torch.from_numpy(self.sizes[start:stop].astype(np.float32))

        found, above = [], 0
        counts = self.offsets[candidates + 1] - self.offsets[candidates]
        for part in np.split(candidates, _cuts(counts, _POINTS_AT_ONCE)):
            counts = self.offsets[part + 1] - self.offsets[part]
            rows = table_row[self.points[_ranges(self.offsets[part], counts)]]
            common = torch.nn.functional.embedding_bag(
                torch.from_numpy(rows),
                torch.from_numpy(table),
                torch.from_numpy(_offsets(counts)[:-1].astype(np.int32)),
                mode="sum",
            )
            union = torch.from_numpy(self.sizes[part].astype(np.float32))[:, None] + block_sizes - common
            overlap = common.div_(union)  # of two exact numbers, so it is the nearest to the true one
            own = np.flatnonzero((part >= start) & (part < stop))
            overlap[own, part[own] - start] = 0  # a frame is no partner of its own
            above += int((overlap > most).sum())
            places = torch.nonzero(((overlap >= least) & (overlap <= most)).ravel()).ravel()
            which, column = np.divmod(places.numpy(), stop - start)
            found.append((column + start, part[which], overlap.ravel()[places].numpy()))
        targets, sources, overlaps = (np.concatenate(column) for column in zip(*found, strict=True))
        return targets, sources, overlaps, above


def _smallest_hashes(target: np.ndarray, first: np.ndarray, second: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Which pairs to keep, sorted by target and then by where they stand: for each target at most `most`."""
    hashed = _hash(np.minimum(first, second), np.maximum(first, second), seed)
    key = (target.astype(np.uint64) << np.uint64(64 - _TARGET_BITS)) | (hashed >> np.uint64(_TARGET_BITS))
    order = np.argsort(key)
    counts = np.bincount(target)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[rank < most])
    return kept[np.lexsort((second[kept], target[kept]))]


def _hash(low: np.ndarray, high: np.ndarray, seed: int) -> np.ndarray:
    """A uint64 for each pair of rows: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), once for each part."""
    mixed = np.zeros(1, dtype=np.uint64)
    for part in (np.array([seed], dtype=np.uint64), low, high):
        mixed = mixed ^ part.astype(np.uint64)
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def _rows_of_components(component: np.ndarray) -> list[np.ndarray]:
    """The rows of each component that has two or more, ascending."""
    order = np.argsort(component, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return [rows for rows in groups if len(rows) and component[rows[0]] >= 0]


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, … of each range, one range after the other, int64."""
    places = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    places += np.arange(len(places))
    return places


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Where each of several stretches of these lengths begins, and where the last ends, int64."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _cuts(counts: np.ndarray, most: int) -> np.ndarray:
    """Where to cut stretches into parts that sum up to about `most`, or a single stretch that is longer."""
    return np.flatnonzero(np.diff(np.cumsum(counts) // most)) + 1
