"""The stretches of a life: uninterrupted recordings, the first hours, and stretches held out of training."""

import numpy as np

from singlelife.errors import LifeError
from singlelife.text import duration

HELD_OUT = 0.05  # the share of a life's frames that training holds out by default

_CUT_FACTOR = 4.0  # a step longer than this times the median is a cut: the recording stopped or frames were lost
_ROUNDED = 0.01  # a life may be shorter than asked for by this share


def segment_starts(timestamps: np.ndarray, video_index: np.ndarray) -> np.ndarray:
    """First row of each uninterrupted stretch of a life: sorted int64, the first is 0.

    A stretch ends with its video, if time runs backwards, and at a step of over four times the video's median step.

    Args:
        timestamps: seconds since the start of the frame's video, float64 (n,), ordered within each video.
        video_index: the index of each frame's video, int64 (n,).
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


def recording_time(timestamps: np.ndarray, video_index: np.ndarray) -> np.ndarray:
    """Seconds of recording before each frame and before the end of the last one, float64 (n + 1,), ascending from 0.

    A frame lasts until the next one in its uninterrupted stretch; the last one of a stretch lasts the median time.
    Time between stretches does not count.
    """
    if len(timestamps) == 0:
        return np.zeros(1)
    steps = np.diff(timestamps)
    within = np.ones(len(steps), dtype=bool)
    within[segment_starts(timestamps, video_index)[1:] - 1] = False
    usual = float(np.median(steps[within])) if within.any() else 0.0
    lasts = np.append(np.where(within, steps, usual), usual)
    return np.concatenate([[0.0], np.cumsum(lasts)])


def first_hours(timestamps: np.ndarray, video_index: np.ndarray, hours: float) -> int:
    """The number of frames recorded in the first `hours` (over 0) of a life; see `recording_time`.

    Raises:
        LifeError: the life is more than 1% shorter, so its result would pass for that of more hours.
    """
    time = recording_time(timestamps, video_index)
    if hours * 3600 * (1 - _ROUNDED) > time[-1]:
        raise LifeError(
            f"--hours {hours:g} is {duration(hours * 3600)}, but this life lasts only {duration(time[-1])}, which is "
            f"--hours {time[-1] / 3600:.3g}. Leave --hours out to train on all of it."
        )
    # Sums of steps are not exact: rounding must not decide whether a frame that begins at the very end is included.
    return int(np.searchsorted(time[:-1], hours * 3600 - 1e-6))


def hold_out(
    timestamps: np.ndarray, video_index: np.ndarray, fraction: float, max_gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split a life into the rows to train on and the rows of held-out stretches, both sorted int64.

    The stretches are evenly spread over the life and away from its ends. There are up to eight, fewer if they would be
    shorter than four times `max_gap`. Frames within `max_gap` of a stretch in the same video belong to neither part.

    Args:
        timestamps, video_index: see `segment_starts`.
        fraction: the share of the frames to hold out, 0 (none) to 0.5; LifeError if it is out of range.
        max_gap: the largest gap of a pair, in seconds.
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
