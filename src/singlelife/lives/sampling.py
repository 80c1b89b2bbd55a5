"""Random orders that are the same everywhere, and a sample of a given length of many video clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from singlelife.errors import LifeError


def seeded_order(length: int, seed: int) -> np.ndarray:
    """A random order of 0 to `length` - 1, int64: the same for a seed on every machine, with every version of NumPy.

    It sorts by the raw numbers of Philox, a counter-based generator whose raw numbers are defined once and for all;
    `Generator.permutation` may change between versions.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(length), kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Sample:
    """Clips that were drawn.

    Attributes:
        clips: in the order in which they were drawn.
        seconds: how long they are together.
        unreadable: clips that were drawn but left out, since their headers cannot be read or give no duration.
    """

    clips: list[Path]
    seconds: float
    unreadable: list[Path]


def draw_sample(clips: Sequence[Path], seconds: float, seed: int, seconds_of: Callable[[Path], float]) -> Sample:
    """Draw clips at random until they last long enough.

    The rule: sort the clips by file name without suffix, by code points; put them into the order of
    `seeded_order(len(clips), seed)`; take them from the front until they last `seconds` or longer, leaving out those
    that cannot be read. It depends on which clips there are, and on nothing else: not on folders, suffixes, dates or
    the machine. Only the clips that are taken are opened.

    Args:
        clips: to draw from. Their file names without suffix differ.
        seconds: how long the sample is to be.
        seed: of the order.
        seconds_of: the duration of a clip; it may raise LifeError.

    Raises:
        LifeError: two clips have one name.
    """
    by_name = {clip.stem: clip for clip in clips}
    if len(by_name) < len(clips):
        twice = next(clip for clip in clips if by_name[clip.stem] != clip)
        raise LifeError(f"Two clips have one name: {twice} and {by_name[twice.stem]}. Remove one.")
    names = sorted(by_name)
    taken: list[Path] = []
    unreadable: list[Path] = []
    total = 0.0
    for index in seeded_order(len(names), seed):
        if total >= seconds:
            break
        clip = by_name[names[index]]
        try:
            duration = seconds_of(clip)
        except LifeError:
            duration = 0.0
        if duration > 0:
            taken.append(clip)
            total += duration
        else:
            unreadable.append(clip)
    return Sample(taken, total, unreadable)
