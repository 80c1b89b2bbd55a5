"""Pairs of frames: choosing them, and the batches that training reads."""

import math
from dataclasses import dataclass

from singlelife.errors import LifeError


@dataclass(frozen=True)
class PairSettings:
    """The settings of all pairings; each reads its own. Only this class declares their flags, help and ranges.

    Raises:
        LifeError: a value is out of range; the message names its flag.
    """

    min_gap: float = 0.0
    """shortest time between the frames of a temporal pair, in seconds; 0 measures the life's image motion and uses
    the time in which the image moves by a twentieth of its side"""
    max_gap: float = 0.0
    """longest time between the frames of a temporal pair, in seconds; 0 uses the time for three tenths of the side"""
    min_overlap: float = 0.2
    """smallest overlap (Jaccard index of the visible points) between the frames of a spatial pair, over 0"""
    max_overlap: float = 0.7
    """largest overlap between the frames of a spatial pair, from --min-overlap to 1"""
    max_neighbours: int = 100
    """sources to keep for each target of spatial pairs, at least 1"""
    spatial_rate: float = 0.0
    """search for spatial pairs among this many frames per second; 0 searches all. The work grows with the square of
    the number of frames: for a life of days 1 Hz takes minutes, and 10 Hz hours"""
    spatial_weight: float = 0.5
    """share of spatial pairs when --pairing is union, 0 to 1"""

    def __post_init__(self) -> None:
        ranges = {
            "min_gap": (0 <= self.min_gap < math.inf, "0 (measured) or more"),
            "max_gap": (
                self.max_gap == 0 or self.min_gap <= self.max_gap < math.inf,
                f"0 (measured) or at least --min-gap ({self.min_gap:g})",
            ),
            "min_overlap": (0 < self.min_overlap <= 1, "over 0 and at most 1"),
            "max_overlap": (
                self.min_overlap <= self.max_overlap <= 1,
                f"from --min-overlap ({self.min_overlap:g}) to 1",
            ),
            "max_neighbours": (self.max_neighbours >= 1, "at least 1"),
            "spatial_rate": (0 <= self.spatial_rate <= 1000, "from 0 (all frames) to 1000"),
            "spatial_weight": (0 <= self.spatial_weight <= 1, "from 0 to 1"),
        }
        for name, (holds, allowed) in ranges.items():
            if not holds:
                raise LifeError(f"--{name.replace('_', '-')} should be {allowed}, not {getattr(self, name)}.")
