"""Pairs of frames: which two make one, and the batches that training reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PairSettings:
    """The settings of all pairings; each reads its own."""

    min_gap: float = 0.1
    """shortest time between the frames of a temporal pair, in seconds, over 0"""
    max_gap: float = 1.0
    """longest time between the frames of a temporal pair, in seconds, at least min_gap"""
    min_overlap: float = 0.2
    """smallest overlap (Jaccard index of the visible points) of the frames of a spatial pair, over 0"""
    max_overlap: float = 0.7
    """largest overlap of the frames of a spatial pair, min_overlap to 1"""
    max_neighbours: int = 100
    """sources to keep of each target of spatial pairs, at least 1"""
    spatial_rate: float = 0.0
    """frames per second among which to look for spatial pairs; 0 takes all. The work grows with the square of the
    frames: for a life of days 1 Hz takes minutes, and 10 Hz hours"""
    spatial_weight: float = 0.5
    """share of spatial pairs in the pairing union, 0 to 1"""
