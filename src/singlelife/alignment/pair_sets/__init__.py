"""Pairs of views to measure alignment on: drawn from lives, stored with a hash, shared on the Hub."""

from singlelife.alignment.pair_sets.drawing import make_balanced_pair_set, make_pair_set
from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.alignment.pair_sets.resolve import pair_set_of_images, resolve_pair_set

__all__ = ["PairSet", "make_balanced_pair_set", "make_pair_set", "pair_set_of_images", "resolve_pair_set"]
