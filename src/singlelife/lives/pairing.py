"""Which two frames of a life make a training pair.

A pairing is a rule that turns a pair's index into two frames. Pair `i` of a run is a pure function of `(seed, i)`,
drawn with a counter-based generator, so the sequence of pairs is the same for any number of loader workers,
processes and machines, and a run resumes at pair 10 000 000 as fast as at pair 0.

To add a pairing, write a class with `pairs(seed, indices)`, use `pair_generators` for every random choice, and name it
in `make_pairing`.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from singlelife.errors import LifeError

# Independent streams of random numbers for one pair: what is drawn in one never shifts what is drawn in another.
PAIR_STREAM, CROP_STREAM, MASK_STREAM, COLOR_STREAM = range(4)

_CUT_FACTOR = 4.0  # a step this many times the usual one is a cut: the recording stopped or frames were lost


def pair_generator(seed: int, stream: int, index: int) -> np.random.Generator:
    """The random generator that belongs to one pair.

    Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the key is the
    run's seed and the counter's high words are the stream and the pair's index, so any pair is reached at once.

    Args:
        seed: of the run, 0 to 2**64 - 1.
        stream: which of the pair's independent streams, for example `CROP_STREAM`.
        index: of the pair, 0 to 2**63 - 1.
    """
    return np.random.Generator(np.random.Philox(key=np.uint64(seed), counter=[0, 0, stream, index]))


def pair_generators(seed: int, stream: int, indices: np.ndarray) -> Iterator[np.random.Generator]:
    """`pair_generator` of each of several pairs, int64 (n,), at an eighth of the time.

    It is one generator that is set to the next pair's counter each time, so draw from it before taking the next.
    """
    philox = np.random.Philox(key=np.uint64(seed), counter=[0, 0, stream, 0])
    generator, state = np.random.Generator(philox), philox.state
    counter = state["state"]["counter"]
    for index in indices:
        counter[3] = index
        philox.state = state
        yield generator


class Pairing(Protocol):
    """A rule that turns pair indices into frames of a life."""

    def pairs(self, seed: int, indices: np.ndarray) -> np.ndarray:
        """Rows of the target and the source frame, int64 of shape (len(indices), 2), for each pair index."""
        ...


def segment_starts(timestamps: np.ndarray, video_index: np.ndarray) -> np.ndarray:
    """First row of each stretch of a life that was recorded without interruption.

    A stretch ends with its video, where time runs backwards, and at a cut: a step of over four times the video's
    median step between stored frames.

    Args:
        timestamps: seconds, float64 of shape (n,), ordered within each video.
        video_index: which video each frame is of, int64 of shape (n,).

    Returns:
        Sorted int64 rows; the first is 0.
    """
    if len(timestamps) == 0:
        return np.zeros(0, dtype=np.int64)
    steps = np.diff(timestamps)
    new_video = np.diff(video_index) != 0
    usual = np.full(len(steps), np.inf)
    for video in np.unique(video_index):
        inside = ~new_video & (video_index[1:] == video)
        if inside.any():
            usual[inside] = np.median(steps[inside])
    return np.concatenate([[0], 1 + np.flatnonzero(new_video | (steps <= 0) | (steps > _CUT_FACTOR * usual))])


class TemporalPairing:
    """Two frames of one uninterrupted stretch of video, `min_gap` to `max_gap` seconds apart.

    The target is uniform over the frames that have a partner, the source uniform over that target's partners, before
    and after it alike.

    Args:
        timestamps: seconds since the start of the frame's video, float64 of shape (n,).
        video_index: which video each frame is of, int64 of shape (n,).
        min_gap: the shortest time between the two frames, in seconds, over 0.
        max_gap: the longest, in seconds, at least `min_gap`.
        rows: the rows of the life that may be used (for example without the held-out stretches), sorted int64. Rows
            that are not next to each other are never paired across the hole. All rows by default.

    Raises:
        LifeError: the gaps are not a range, or no two frames are that far apart.
    """

    def __init__(
        self,
        timestamps: np.ndarray,
        video_index: np.ndarray,
        min_gap: float,
        max_gap: float,
        rows: np.ndarray | None = None,
    ):
        if not 0 < min_gap <= max_gap:
            raise LifeError(
                f"The gap of temporal pairs should be 0 < min_gap <= max_gap seconds, not {min_gap} to {max_gap}."
            )
        self.min_gap, self.max_gap = min_gap, max_gap
        rows = np.arange(len(timestamps)) if rows is None else np.asarray(rows, dtype=np.int64)

        is_start = np.zeros(len(timestamps) + 1, dtype=bool)
        is_start[segment_starts(timestamps, video_index)] = True
        new_segment = (
            np.concatenate([[True], is_start[rows[1:]] | (np.diff(rows) > 1)]) if len(rows) else np.zeros(0, bool)
        )
        segment = np.cumsum(new_segment)

        # One sorted key for segment and time makes the partners of every frame two slices found by binary search.
        time = timestamps[rows] - (timestamps[rows].min() if len(rows) else 0.0)
        stride = (time.max() if len(rows) else 0.0) + 2 * max_gap + 1.0
        key = segment * stride + time
        tolerance = 1e-6  # timestamps are exact to the microsecond at best
        before = np.searchsorted(key, [key - max_gap - tolerance, key - min_gap + tolerance])
        after = np.searchsorted(key, [key + min_gap - tolerance, key + max_gap + tolerance])
        self._first_before, self._first_after = before[0], after[0]
        self._num_before = before[1] - before[0]
        self._num_partners = self._num_before + after[1] - after[0]
        self._targets = np.flatnonzero(self._num_partners)
        self._rows = rows
        if len(self._targets) == 0:
            stretches = np.split(time, np.flatnonzero(new_segment)[1:])
            longest = max(np.ptp(stretch) for stretch in stretches) if len(rows) else 0.0
            raise LifeError(
                f"No two frames are {min_gap:g} to {max_gap:g} s apart: the longest uninterrupted stretch of the "
                f"{len(rows)} usable frames lasts {longest:.2f} s. Use a longer video or smaller gaps "
                "(--min-gap, --max-gap)."
            )

    def __len__(self) -> int:
        """How many different (target, source) pairs there are."""
        return int(self._num_partners.sum())

    def pairs(self, seed: int, indices: np.ndarray) -> np.ndarray:
        """Rows of the target and the source frame, int64 of shape (len(indices), 2), for each pair index."""
        uniform = np.stack([generator.random(2) for generator in pair_generators(seed, PAIR_STREAM, indices)])
        target = self._targets[(uniform[:, 0] * len(self._targets)).astype(np.int64)]
        choice = (uniform[:, 1] * self._num_partners[target]).astype(np.int64)
        num_before = self._num_before[target]
        source = np.where(
            choice < num_before,
            self._first_before[target] + choice,
            self._first_after[target] + choice - num_before,
        )
        return self._rows[np.stack([target, source], axis=1)]


class RandomPairing:
    """Any two different frames of the life: a baseline, since most such pairs show nothing in common.

    Args:
        rows: the rows of the life that may be used, int64.

    Raises:
        LifeError: there are not two.
    """

    def __init__(self, rows: np.ndarray):
        if len(rows) < 2:
            raise LifeError(f"Random pairs need two frames, and {len(rows)} can be used. Use a longer video.")
        self._rows = rows

    def pairs(self, seed: int, indices: np.ndarray) -> np.ndarray:
        """Rows of the target and the source frame, int64 of shape (len(indices), 2), for each pair index."""
        uniform = np.stack([generator.random(2) for generator in pair_generators(seed, PAIR_STREAM, indices)])
        target = (uniform[:, 0] * len(self._rows)).astype(np.int64)
        step = 1 + (uniform[:, 1] * (len(self._rows) - 1)).astype(np.int64)
        return self._rows[np.stack([target, (target + step) % len(self._rows)], axis=1)]


class AugmentedPairing:
    """One frame as both views, told apart by their crops alone: a baseline without any motion of the camera.

    Args:
        rows: the rows of the life that may be used, int64.

    Raises:
        LifeError: there is none.
    """

    def __init__(self, rows: np.ndarray):
        if len(rows) == 0:
            raise LifeError("Augmented pairs need a frame, and none can be used. Use a longer video.")
        self._rows = rows

    def pairs(self, seed: int, indices: np.ndarray) -> np.ndarray:
        """The row of the frame, twice, int64 of shape (len(indices), 2), for each pair index."""
        uniform = np.array([generator.random() for generator in pair_generators(seed, PAIR_STREAM, indices)])
        return np.repeat(self._rows[(uniform * len(self._rows)).astype(np.int64)][:, None], 2, axis=1)


def make_pairing(
    name: str, timestamps: np.ndarray, video_index: np.ndarray, rows: np.ndarray, *, min_gap: float, max_gap: float
) -> Pairing:
    """The pairing of a name: `"temporal"`, `"random"` or `"augmented"`.

    Args:
        timestamps: seconds since the start of the frame's video, float64 of shape (n,).
        video_index: which video each frame is of, int64 of shape (n,).
        rows: the rows of the life that may be used, sorted int64.
        min_gap, max_gap: seconds between the frames of a temporal pair; the others have no use for them.

    Raises:
        LifeError: the name is not known, or no such pair can be drawn.
    """
    if name == "temporal":
        return TemporalPairing(timestamps, video_index, min_gap, max_gap, rows)
    if name == "random":
        return RandomPairing(rows)
    if name == "augmented":
        return AugmentedPairing(rows)
    raise LifeError(f"There is no pairing {name!r}; there are temporal, random and augmented.")


def hold_out(
    timestamps: np.ndarray, video_index: np.ndarray, fraction: float, max_gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split a life into rows to train on and held-out stretches.

    The stretches are contiguous, evenly spread over the life and away from its ends: up to eight, fewer where they
    would be shorter than four times `max_gap`. Frames within `max_gap` of a stretch, in its own video, belong to
    neither part, so that no validation frame has a near twin in training.

    Args:
        timestamps: seconds since the start of the frame's video, float64 of shape (n,).
        video_index: which video each frame is of, int64 of shape (n,).
        fraction: the share of the frames to hold out, 0 (none) to 0.5.
        max_gap: the largest gap of a pair, in seconds.

    Returns:
        Sorted int64 rows to train on, and to validate on.

    Raises:
        LifeError: the fraction is out of its range.
    """
    if not 0 <= fraction <= 0.5:
        raise LifeError(f"The share of frames to hold out should be 0 to 0.5, not {fraction}.")
    num_frames = len(timestamps)
    num_held_out = round(fraction * num_frames)
    held_out = np.zeros(num_frames, dtype=bool)
    if num_held_out == 0:
        return np.arange(num_frames), np.flatnonzero(held_out)

    steps = np.diff(timestamps)
    seconds = num_held_out * float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    num_stretches = int(np.clip(seconds / (4 * max_gap), 1, min(8, num_held_out)))
    length = num_held_out // num_stretches
    near = np.zeros(num_frames, dtype=bool)
    for stretch in range(num_stretches):
        first = int((stretch + 0.5) * num_frames / num_stretches) - length // 2
        held_out[first : first + length] = True
        for edge in (first, first + length - 1):
            near |= (np.abs(timestamps - timestamps[edge]) <= max_gap) & (video_index == video_index[edge])
    return np.flatnonzero(~held_out & ~near), np.flatnonzero(held_out)
