"""Pairings: rules that choose the two frames of a training pair.

A pairing turns a pair's index into two frames. Pair `i` of a run is a pure function of `(seed, i)`, drawn with a
counter-based generator, so the sequence of pairs is the same for any number of loader workers, processes and machines,
and a run resumes at pair 10 000 000 as fast as at pair 0.

To add a pairing, write a `Pairing`, draw all its random numbers from `pair_generators`, and name it in `PAIRINGS`.
It then is a value of `--pairing`, a row in `singlelife pairs show`, and part of every message.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from singlelife.errors import LifeError
from singlelife.lives.pairs import PairSettings as PairSettings
from singlelife.lives.pairs.segments import segment_starts

if TYPE_CHECKING:
    from singlelife.lives.pairs.overlap import PairTable
    from singlelife.lives.prepared import PreparedLife
    from singlelife.lives.scene.geometry import Geometry

TOLERANCE = 1e-6  # for gaps in seconds, since timestamps are exact to the microsecond at best; and for overlaps

# Independent streams of random numbers for one pair: drawing from one never changes the numbers in another.
PAIR_STREAM, CROP_STREAM, MASK_STREAM, COLOR_STREAM, UNION_STREAM = range(5)


def pair_generators(seed: int, stream: int, indices: np.ndarray) -> Iterator[np.random.Generator]:
    """The random generator of each pair.

    Philox is counter-based (Salmon et al., SC 2011): the key is the run's seed and the counter's high words are the
    stream and the pair's index, so any pair is reached at once. All are the same generator, set to the next pair's
    counter each time, so draw from it before taking the next.

    Args:
        seed: the run's seed, 0 to 2**64 - 1.
        stream: one of a pair's independent streams, for example `CROP_STREAM`.
        indices: the pairs' indices, int64 (n,), 0 to 2**63 - 1.
    """
    philox = np.random.Philox(key=np.uint64(seed), counter=[0, 0, stream, 0])
    generator, state = np.random.Generator(philox), philox.state
    counter = state["state"]["counter"]
    for index in indices:
        counter[3] = index
        philox.state = state
        yield generator


def _uniform(seed: int, stream: int, indices: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers within [0, 1) for each pair, float64 (count, len(indices))."""
    drawn = [generator.random(count) for generator in pair_generators(seed, stream, indices)]
    return np.array(drawn).reshape(-1, count).T


def bin_of(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """The index of the bin between `edges` that each gap or overlap falls into, int64; -1 outside all bins.

    A value at an edge (within the tolerance of temporal pairs) belongs to the bin above it, at the last edge to the
    last bin.
    """
    bins = np.searchsorted(edges, np.asarray(values, dtype=np.float64) + TOLERANCE, side="right") - 1
    bins[(bins == len(edges) - 1) & (values <= edges[-1] + TOLERANCE)] -= 1
    return np.where(bins < len(edges) - 1, bins, -1)


@dataclass(frozen=True)
class PairingContext:
    """What a pairing is made from: a life, its usable rows, and the settings.

    Attributes:
        timestamps: seconds since the start of the frame's video, float64 (n,).
        video_index: the index of each frame's video, int64 (n,).
        rows: the usable rows of the life, sorted int64.
        settings: the settings of all pairings.
        within_video: both frames of a pair must come from the same video.
        pair_table: returns the overlapping frames, which may take minutes the first time.
        geometry: returns the pose and visible points of each frame of the life; LifeError if they are unknown.
    """

    timestamps: np.ndarray
    video_index: np.ndarray
    rows: np.ndarray
    settings: PairSettings
    within_video: bool
    pair_table: "Callable[[], PairTable]"
    geometry: "Callable[[], Geometry]"

    @classmethod
    def of_life(
        cls, life: "PreparedLife", settings: PairSettings, *, num_frames: int | None = None, progress: bool = True
    ) -> "PairingContext":
        """All rows of a life, or the first `num_frames`, as if it ended there. Gaps of 0 are measured."""
        from singlelife.lives.pairs.motion import with_gaps

        settings = with_gaps(settings, life)

        @cache
        def geometry() -> "Geometry":
            from singlelife.lives.scene.store import life_geometry

            return life_geometry(life, progress=progress)

        @cache
        def pair_table() -> "PairTable":
            from singlelife.lives.pairs.overlap import stored_pair_table

            return stored_pair_table(life, geometry(), settings, num_frames=num_frames, progress=progress)

        within_video = life.metadata.get("pairs_within_video", False)
        rows = np.arange(len(life))[:num_frames]
        return cls(life.timestamps, life.video_index, rows, settings, within_video, pair_table, geometry)


class Pairing(ABC):
    """A rule that turns pair indices into frames of a life.

    Its length is the number of different (target, source) pairs; its string describes it and its settings for people.

    Attributes:
        summary: what it does, in a few words for `--help`.
        targets: the rows that can be the target of a pair, sorted int64.
        fingerprint: identifies anything besides the life's frames and the settings that its pairs depend on.
    """

    summary: ClassVar[str]
    targets: np.ndarray
    fingerprint: str | None = None

    @classmethod
    @abstractmethod
    def of(cls, context: PairingContext) -> "Pairing":
        """The pairing for a life. Raises LifeError if no such pair can be drawn."""

    @abstractmethod
    def pairs(self, seed: int, indices: np.ndarray) -> np.ndarray:
        """Rows of the target and the source frame, int64 (len(indices), 2), for each pair index, int64."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __str__(self) -> str: ...


class PartnerPairing(Pairing):
    """A pairing that draws the target uniformly from the frames with a partner, and the source from its partners.

    Attributes:
        num_partners: the number of partners of each of `targets`, int64 (len(targets),).
    """

    num_partners: np.ndarray

    @abstractmethod
    def partner(self, target: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """Rows of the chosen partners, int64 (n,).

        Args:
            target: indices into `targets`, int64 (n,).
            choice: the index of the partner of each, int64 (n,), 0 to its `num_partners` - 1.
        """

    def __len__(self) -> int:
        return int(self.num_partners.sum())

    def pairs(self, seed: int, indices: np.ndarray) -> np.ndarray:
        which_target, which_partner = _uniform(seed, PAIR_STREAM, indices, 2)
        target = (which_target * len(self.targets)).astype(np.int64)
        choice = (which_partner * self.num_partners[target]).astype(np.int64)
        return np.stack([self.targets[target], self.partner(target, choice)], axis=1)


class TemporalPairing(PartnerPairing):
    """Two frames of one uninterrupted stretch of video, `min_gap` to `max_gap` seconds apart, in either order.

    Args:
        timestamps, video_index: see `PairingContext`.
        min_gap, max_gap: the shortest and longest time between the two frames, in seconds, over 0.
        rows: the usable rows, sorted int64; all by default. No pair spans a hole in them.

    Raises:
        LifeError: the gaps are not a range, or no two frames are this far apart.
    """

    summary = "two frames of one video, a moment apart"

    def __init__(
        self,
        timestamps: np.ndarray,
        video_index: np.ndarray,
        min_gap: float,
        max_gap: float,
        rows: np.ndarray | None = None,
    ):
        if not 0 < min_gap <= max_gap:
            raise LifeError(f"Temporal pairs need 0 < min_gap <= max_gap in seconds, not {min_gap} to {max_gap}.")
        self.min_gap, self.max_gap = min_gap, max_gap
        rows = np.arange(len(timestamps)) if rows is None else np.asarray(rows, dtype=np.int64)

        is_start = np.zeros(len(timestamps) + 1, dtype=bool)
        is_start[segment_starts(timestamps, video_index)] = True
        new_segment = is_start[rows] | (np.diff(rows, prepend=-2) > 1)
        # With one sorted key for segment and time, the partners of a frame are two slices; binary search finds them.
        time = timestamps[rows] - timestamps[rows].min(initial=np.inf)
        stride = time.max(initial=0.0) + 2 * max_gap + 1.0
        key = np.cumsum(new_segment) * stride + time
        before = np.searchsorted(key, [key - max_gap - TOLERANCE, key - min_gap + TOLERANCE])
        after = np.searchsorted(key, [key + min_gap - TOLERANCE, key + max_gap + TOLERANCE])
        some = before[1] - before[0] + after[1] - after[0] > 0
        (self._first_before, end_before), (self._first_after, end_after) = before[:, some], after[:, some]
        self._num_before = end_before - self._first_before
        self.num_partners = self._num_before + end_after - self._first_after
        self._rows, self.targets = rows, rows[some]
        if len(self.targets) == 0:
            stretches = np.split(time, np.flatnonzero(new_segment)[1:])
            longest = max((np.ptp(stretch) for stretch in stretches if len(stretch)), default=0.0)
            raise LifeError(
                f"No two frames are {min_gap:g} to {max_gap:g} s apart: the longest uninterrupted stretch of the "
                f"{len(rows)} usable frames lasts {longest:.2f} s. Use a longer video or smaller gaps (--max-gap)."
            )

    @classmethod
    def of(cls, context: PairingContext) -> "TemporalPairing":
        settings = context.settings
        return cls(context.timestamps, context.video_index, settings.min_gap, settings.max_gap, context.rows)

    def __str__(self) -> str:
        return f"temporal, {self.min_gap:g} to {self.max_gap:g} s apart"

    def partner(self, target: np.ndarray, choice: np.ndarray) -> np.ndarray:
        num_before = self._num_before[target]
        before, after = self._first_before[target] + choice, self._first_after[target] + choice - num_before
        return self._rows[np.where(choice < num_before, before, after)]


class SpatialPairing(PartnerPairing):
    """Two frames that see the same place, at whatever times: the overlap of their visible points is within a range.

    Args:
        table: the overlapping frames of the life.
        rows: the usable rows of the life, int64.
        settings: the settings that the table was made with.
        video_index: int64 (n,), given if both frames must come from the same video.

    Raises:
        LifeError: there is no such pair.
    """

    summary = "two frames that see the same place, moments or days apart (needs poses and 3D points)"

    def __init__(
        self, table: "PairTable", rows: np.ndarray, settings: PairSettings, video_index: np.ndarray | None = None
    ):
        self.settings, self.fingerprint = settings, table.key
        usable = np.zeros(table.num_frames, dtype=bool)
        usable[rows] = True
        kept = usable[table.target] & usable[table.source]
        if video_index is not None:
            kept &= video_index[table.target] == video_index[table.source]
        self._source = table.source[kept].astype(np.int64)
        # The table is sorted by target, so each target's sources are a slice.
        target, self._first, self.num_partners = np.unique(table.target[kept], return_index=True, return_counts=True)
        self.targets = target.astype(np.int64)
        if len(target) == 0:
            raise LifeError(_why_no_spatial_pairs(table, len(rows), settings))

    @classmethod
    def of(cls, context: PairingContext) -> "SpatialPairing":
        video_index = context.video_index if context.within_video else None
        return cls(context.pair_table(), context.rows, context.settings, video_index)

    def __str__(self) -> str:
        overlap = f"{self.settings.min_overlap:g} to {self.settings.max_overlap:g}"
        return f"spatial, overlap {overlap}, {len(self):,} pairs of {len(self.targets):,} targets"

    def partner(self, target: np.ndarray, choice: np.ndarray) -> np.ndarray:
        return self._source[self._first[target] + choice]


def _why_no_spatial_pairs(table: "PairTable", num_rows: int, settings: PairSettings) -> str:
    if table.num_in_range:
        return (
            f"None of the life's {table.num_in_range:,} overlapping pairs is among the {num_rows:,} usable frames "
            "(and within one video). Use a longer life, other --min-overlap and --max-overlap, or --pairing temporal."
        )
    if table.num_above:
        return (
            f"Spatial pairs are useless for this life: all {table.num_above:,} pairs of frames that see the same "
            f"place overlap by more than {settings.max_overlap:g} (--max-overlap). The camera hardly moved. Use "
            "--pairing temporal."
        )
    overlap = f"{settings.min_overlap:g} to {settings.max_overlap:g}"
    return f"No two frames of this life overlap by {overlap}. Lower --min-overlap, or use --pairing temporal."


class UnionPairing(Pairing):
    """A mixture of spatial and temporal pairs. Pair i is pair i of one of the two; its random generator decides which.

    Args:
        spatial, temporal: the pairings to choose from.
        spatial_weight: the share of spatial pairs, 0 to 1.
    """

    summary = "a mixture of spatial and temporal pairs (the best for depth in the paper)"

    def __init__(self, spatial: Pairing, temporal: Pairing, spatial_weight: float):
        self.spatial, self.temporal, self.spatial_weight = spatial, temporal, spatial_weight
        self.targets = np.union1d(spatial.targets, temporal.targets)
        self.fingerprint = spatial.fingerprint

    @classmethod
    def of(cls, context: PairingContext) -> "UnionPairing":
        return cls(SpatialPairing.of(context), TemporalPairing.of(context), context.settings.spatial_weight)

    def __len__(self) -> int:
        return len(self.spatial) + len(self.temporal)  # a pair that is both counts twice

    def __str__(self) -> str:
        return f"union of {self.spatial_weight:.0%} {self.spatial}, and {1 - self.spatial_weight:.0%} {self.temporal}"

    def pairs(self, seed: int, indices: np.ndarray) -> np.ndarray:
        is_spatial = _uniform(seed, UNION_STREAM, indices, 1)[0] < self.spatial_weight
        pairs = np.empty((len(indices), 2), dtype=np.int64)
        for pairing, chosen in ((self.spatial, is_spatial), (self.temporal, ~is_spatial)):
            pairs[chosen] = pairing.pairs(seed, indices[chosen])
        return pairs


class RandomPairing(PartnerPairing):
    """Any two different frames of the life: a baseline, since most such pairs show nothing in common.

    Args:
        rows: the usable rows of the life, sorted int64; LifeError if there are fewer than two.
        video_index: int64 (n,), given if both frames must come from the same video.
    """

    summary = "any two frames of the life (a baseline)"

    def __init__(self, rows: np.ndarray, video_index: np.ndarray | None = None):
        video = np.zeros(len(rows), dtype=np.int64) if video_index is None else video_index[rows]
        _, first, which, counts = np.unique(video, return_index=True, return_inverse=True, return_counts=True)
        self._within_video = video_index is not None
        self._rows, self._place = rows, np.flatnonzero(counts[which] > 1)
        self._first, self.num_partners = first[which][self._place], counts[which][self._place] - 1
        self.targets = rows[self._place]
        if len(self.targets) == 0:
            needed = "two frames of one video" if self._within_video else "two frames"
            raise LifeError(f"Random pairs need {needed}, but only {len(rows)} can be used. Use a longer video.")

    @classmethod
    def of(cls, context: PairingContext) -> "RandomPairing":
        return cls(context.rows, context.video_index if context.within_video else None)

    def __str__(self) -> str:
        return "random, two frames of one video" if self._within_video else "random, any two frames"

    def partner(self, target: np.ndarray, choice: np.ndarray) -> np.ndarray:
        first, count = self._first[target], self.num_partners[target] + 1
        return self._rows[first + (self._place[target] - first + 1 + choice) % count]


class AugmentedPairing(PartnerPairing):
    """One frame as both views, which differ only in their crops: a baseline without camera motion."""

    summary = "one frame twice, with different crops (a baseline)"

    def __init__(self, rows: np.ndarray):
        if len(rows) == 0:
            raise LifeError("Augmented pairs need a frame, but none can be used. Use a longer video.")
        self.targets, self.num_partners = rows, np.ones(len(rows), dtype=np.int64)

    @classmethod
    def of(cls, context: PairingContext) -> "AugmentedPairing":
        return cls(context.rows)

    def __str__(self) -> str:
        return "augmented, one frame twice"

    def partner(self, target: np.ndarray, choice: np.ndarray) -> np.ndarray:
        return self.targets[target]


PAIRINGS: dict[str, type[Pairing]] = {
    "temporal": TemporalPairing,
    "spatial": SpatialPairing,
    "union": UnionPairing,
    "random": RandomPairing,
    "augmented": AugmentedPairing,
}


def make_pairing(name: str, context: PairingContext) -> Pairing:
    """The pairing with a name in `PAIRINGS`.

    Raises:
        LifeError: the name is unknown, or no such pair can be drawn.
    """
    if name not in PAIRINGS:
        raise LifeError(f"There is no pairing {name!r}; there are {', '.join(PAIRINGS)}.")
    return PAIRINGS[name].of(context)
