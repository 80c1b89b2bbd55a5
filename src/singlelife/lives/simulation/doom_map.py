"""A Doom map as its wad stores it: straight lines that cut a plane into sectors of one floor and one ceiling height.

The format is described in the Unofficial Doom Specs, https://www.gamers.org/dhs/helpdocs/dmsp1666.html.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from singlelife.errors import LifeError

OUTSIDE = -1  # the sector behind a one-sided line

_DIRECTORY = np.dtype([("offset", "<i4"), ("size", "<i4"), ("name", "S8")])
_VERTEX = np.dtype([("x", "<i2"), ("y", "<i2")])
_LINE = np.dtype(
    [(name, "<u2") for name in ("start", "end", "flags", "special", "tag")] + [("right", "<i2"), ("left", "<i2")]
)
_SIDE = np.dtype([("x", "<i2"), ("y", "<i2"), ("upper", "S8"), ("lower", "S8"), ("middle", "S8"), ("sector", "<i2")])
_SECTOR = np.dtype(
    [("floor", "<i2"), ("ceiling", "<i2"), ("floor_picture", "S8"), ("ceiling_picture", "S8")]
    + [(name, "<i2") for name in ("light", "special", "tag")]
)
_LUMPS_OF_A_MAP = 10  # follow the lump that names it
_IMPASSABLE = 0x1  # flag of a line
_NO_SIDE = -1


@dataclass(frozen=True)
class DoomMap:
    """Lines and sectors of a map, in map units. Sectors are numbered as in ViZDoom's `state.sectors`.

    Attributes:
        start: (lines, 2) float64, where a line starts.
        direction: (lines, 2) float64, from there to where it ends.
        right, left: (lines,) int64, the sector on either side, looking along the line; `OUTSIDE` if none.
        impassable: (lines,) bool, whether it stops a walker whatever the heights are.
        special: (lines,) int64, the action it triggers; 0 for none.
        tag: (lines,) int64, the tag of the sectors that the action is about; 0 for the one behind the line.
        sector_tag: (sectors,) int64.
        sky: (sectors,) bool, whether the ceiling is the sky.
    """

    start: np.ndarray
    direction: np.ndarray
    right: np.ndarray
    left: np.ndarray
    impassable: np.ndarray
    special: np.ndarray
    tag: np.ndarray
    sector_tag: np.ndarray
    sky: np.ndarray

    @classmethod
    def read(cls, wad: Path, name: str) -> "DoomMap":
        """Read one map.

        Raises:
            LifeError: the wad has no map of that name.
        """
        content = wad.read_bytes()
        count, offset = np.frombuffer(content, "<i4", 2, 4)
        directory = np.frombuffer(content, _DIRECTORY, count, offset)
        names = [lump.decode("latin1") for lump in directory["name"].tolist()]
        maps = [lump for lump in names if re.fullmatch(r"E\dM\d|MAP\d\d", lump)]
        if name not in maps:
            raise LifeError(f"{wad.name} has no map {name!r}. It has {', '.join(maps)}.")
        first = names.index(name) + 1
        lumps = dict(zip(names[first : first + _LUMPS_OF_A_MAP], directory[first:], strict=False))

        def records(lump: str, dtype: np.dtype) -> np.ndarray:
            return np.frombuffer(content, dtype, lumps[lump]["size"] // dtype.itemsize, lumps[lump]["offset"])

        vertices = records("VERTEXES", _VERTEX)
        points = np.stack([vertices["x"], vertices["y"]], axis=1).astype(np.float64)
        lines, sectors = records("LINEDEFS", _LINE), records("SECTORS", _SECTOR)
        sector_of_side = np.append(records("SIDEDEFS", _SIDE)["sector"].astype(np.int64), OUTSIDE)  # [_NO_SIDE]
        return cls(
            start=points[lines["start"]],
            direction=points[lines["end"]] - points[lines["start"]],
            right=sector_of_side[lines["right"]],
            left=sector_of_side[lines["left"]],
            impassable=((lines["flags"] & _IMPASSABLE) > 0) | (lines["left"] == _NO_SIDE),
            special=lines["special"].astype(np.int64),
            tag=lines["tag"].astype(np.int64),
            sector_tag=sectors["tag"].astype(np.int64),
            sky=sectors["ceiling_picture"] == b"F_SKY1",
        )

    def sectors_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Sectors at the points of a grid, (len(y), len(x)) int64: by the side of the next line to the west."""
        end = self.start + self.direction
        found = np.full((len(y), len(x)), OUTSIDE)
        for row, level in enumerate(y):
            crossing = (self.start[:, 1] > level) != (end[:, 1] > level)
            start, direction = self.start[crossing], self.direction[crossing]
            where = start[:, 0] + (level - start[:, 1]) / direction[:, 1] * direction[:, 0]
            east = np.where(direction[:, 1] > 0, self.right[crossing], self.left[crossing])
            order = np.argsort(where)
            found[row] = np.append(east[order], OUTSIDE)[np.searchsorted(where[order], x) - 1]
        return found
