"""A pairing of your own: two frames whose cameras stand a given distance apart, whatever the time between them.

It needs a life with camera poses, and adds a value of `--pairing` to the commands that this script runs:

    python examples/new_pairing.py pairs show sim_1 --pairing baseline
    python examples/new_pairing.py train --life sim_1 --pairing baseline
"""

import sys

import numpy as np
from scipy.spatial import KDTree

from singlelife.cli import main
from singlelife.errors import LifeError
from singlelife.lives.pairs.pairing import PAIRINGS, PairingContext, PartnerPairing


class BaselinePairing(PartnerPairing):
    """Two frames whose cameras are `least` to `most` apart, in the unit of the poses."""

    summary = "two frames whose cameras stand a given distance apart (needs poses)"
    least, most = 20.0, 100.0  # for a simulated life, whose eye is 41 above the floor; Aria's poses are in metres

    @classmethod
    def of(cls, context: PairingContext) -> "BaselinePairing":
        return cls(context)

    def __init__(self, context: PairingContext):
        geometry = context.geometry()  # without poses, its error says how to get them
        rows = context.rows[geometry.component[context.rows] >= 0]
        # Two more coordinates separate frames that must not be paired: from different worlds or different videos.
        worlds, videos = geometry.component[rows], context.video_index[rows] * context.within_video
        place = np.column_stack([geometry.poses[rows, :3, 3], 3 * self.most * worlds, 3 * self.most * videos])
        self._rows, self._place, self._tree = rows, place, KDTree(place)
        within, closer = (self._tree.query_ball_point(place, r, return_length=True) for r in self._radii())
        has_partner = within > closer
        self._place, self.targets = place[has_partner], rows[has_partner]
        self.num_partners = (within - closer)[has_partner].astype(np.int64)
        if not len(self.targets):
            raise LifeError(f"No two cameras of this life are {self.least:g} to {self.most:g} apart.")

    def partner(self, target: np.ndarray, choice: np.ndarray) -> np.ndarray:
        within, closer = (self._tree.query_ball_point(self._place[target], radius) for radius in self._radii())
        sources = [np.setdiff1d(one, other)[n] for one, other, n in zip(within, closer, choice, strict=True)]
        return self._rows[np.array(sources, dtype=np.int64)]

    def _radii(self) -> tuple[float, float]:
        return self.most, float(np.nextafter(self.least, 0))

    def __str__(self) -> str:
        return f"baseline, cameras {self.least:g} to {self.most:g} apart"


PAIRINGS["baseline"] = BaselinePairing

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
