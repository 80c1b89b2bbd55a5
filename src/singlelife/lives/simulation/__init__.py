"""The settings of simulated lives and screens, without the imports that rendering needs."""

from dataclasses import dataclass

from singlelife.errors import LifeError

DEPTH_SCALE = 1 / 16  # map units per stored level
WADS = ("freedoom1", "freedoom2")
DEPTHS = ("none", "buffer", "exact")
SCREENS = ("slides", "desktop")


@dataclass(frozen=True)
class SimulatedSource:
    """A walk to render.

    Attributes:
        wad: `"freedoom1"` or `"freedoom2"`.
        map: its name in the wad, such as `"E1M1"` (freedoom1) or `"MAP01"` (freedoom2).
        seed: the seed of the walker and the game.
        num_frames: length of the life in frames.
        tics_per_frame: game tics of 1/35 s between two frames.
        still: the camera stays where the map begins (a control).
        depth: `"none"`; `"buffer"`, the game's 8-bit depth buffer, off by 2.4 map units in the median and by less than
            8 for 99% of the pixels away from edges; or `"exact"`, rays cast against the map, rounded to `DEPTH_SCALE`.
            0 is unknown: the sky, and with `"exact"` also objects in the map.
    """

    wad: str
    map: str
    seed: int = 0
    num_frames: int = 12_000
    tics_per_frame: int = 2
    still: bool = False
    depth: str = "none"

    def __post_init__(self) -> None:
        if self.wad not in WADS or self.depth not in DEPTHS:
            raise LifeError(
                f"A simulated life should have a wad of {', '.join(WADS)} and a depth of {', '.join(DEPTHS)}; "
                f"not wad {self.wad!r} with depth {self.depth!r}."
            )
        if self.num_frames < 1 or self.tics_per_frame < 1 or not 0 <= self.seed < 2**32:
            raise LifeError(
                "A simulated life should have num_frames and tics_per_frame of at least 1, and a seed from 0 to "
                f"2^32 - 1; not {self.num_frames}, {self.tics_per_frame} and {self.seed}."
            )


@dataclass(frozen=True)
class ScreenSource:
    """A screen to draw.

    Attributes:
        screen: `"slides"`, each shown for 4 to 15 s, or `"desktop"`, with windows that move and text that scrolls.
        seed: the seed of its content.
        num_frames: length in frames.
        frames_per_second: the recording's frame rate.
    """

    screen: str
    seed: int = 0
    num_frames: int = 12_000
    frames_per_second: float = 17.5

    def __post_init__(self) -> None:
        if self.screen not in SCREENS or self.num_frames < 1 or not self.frames_per_second > 0:
            raise LifeError(
                f"A simulated screen should show {' or '.join(SCREENS)}, with num_frames of at least 1 and "
                f"frames_per_second over 0; not {self.screen!r}, {self.num_frames} and {self.frames_per_second:g}."
            )
