"""A walker who strolls through a Doom map, to see all of it, with eyes of their own.

The walker knows the map, as people know the place they live in: it picks a part of it that it has seen least, and goes
there on a path that keeps away from walls. What makes the camera's motion that of a person is that the eyes do not
point where the feet go: they follow the way with some delay, wander, now and then look aside or back, and sometimes
the walker stops to look around.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import vizdoom as vzd

from singlelife.lives.simulation.doom_map import DoomMap
from singlelife.lives.simulation.doom_walkways import PLACE, Walkways

_CELL = 128  # map units; places are visited by cells of this size
_PUSH = 1.9  # on the buttons, for a map unit per frame
_NEAR = 4  # levels of the depth buffer, about 40 map units
_LOST = 96  # map units from the path
_TRIED = 25  # frames after which one tries a door again


class Walker:
    """Decides each step.

    Args:
        doom_map: where to walk.
        random: what chance is drawn from.
        tics_per_frame: game tics between two steps; it strolls as it should with 2.
    """

    BUTTONS = (
        vzd.Button.MOVE_FORWARD_BACKWARD_DELTA,
        vzd.Button.MOVE_LEFT_RIGHT_DELTA,
        vzd.Button.TURN_LEFT_RIGHT_DELTA,
        vzd.Button.USE,
    )
    VARIABLES = (
        vzd.GameVariable.CAMERA_POSITION_X,
        vzd.GameVariable.CAMERA_POSITION_Y,
        vzd.GameVariable.CAMERA_POSITION_Z,
        vzd.GameVariable.CAMERA_ANGLE,
    )

    def __init__(self, doom_map: DoomMap, random: np.random.Generator, tics_per_frame: int = 2):
        self._tics = tics_per_frame
        self._ways = Walkways(doom_map)
        self._random = random
        self._visits: Counter[tuple[int, int]] = Counter()
        self._track: list[np.ndarray] = []  # positions of the last frames of walking
        self._path = np.zeros((0, 2))
        self._speed, self._turn = 0.0, 0.0  # map units and degrees per frame
        self._last = np.zeros(3)
        self._used = -100  # the step at which a door was tried
        self._gaze, self._wander, self._glance = 0.0, 0.0, 0  # degrees aside, and frames left to look there
        self._pause = 0  # frames left to stand
        self._step = 0

    def step(self, state: vzd.GameState) -> list[float]:
        """Values of `BUTTONS` until the next frame.

        Args:
            state: of a game with depth buffer, sectors, and `VARIABLES` as its game variables.
        """
        assert state.game_variables is not None and state.depth_buffer is not None  # as set
        position, angle = state.game_variables[:3], float(state.game_variables[3])
        self._step += 1
        self._visits[_cell(position)] += 1
        if len(self._path) <= 2 or np.abs(self._path[0] - position[:2]).max() > _LOST:
            self._choose_path(position, state.sectors)
        way, bend = self._way(position)
        heading = math.degrees(math.atan2(way[1], way[0]))

        velocity = (position - self._last)[:2]
        self._last = position
        pace = float(np.hypot(*velocity))
        door = not self._pause and self._ways.next_to_door(position[:2] + 32 * way)
        at_door = door and pace < 6
        facing_wall = float((state.depth_buffer[::4, ::4] < _NEAR).mean()) > 0.25
        self._choose_gaze(facing_wall or at_door)
        error = _wrapped(heading + (0.0 if at_door else self._gaze + self._wander) - angle)
        self._turn = 0.8 * self._turn + 0.2 * min(max(0.12 * error, -5.0), 5.0)
        # One slows down in bends, and for what lies aside of where one looks, but for a glance.
        ease = max(0.5, min(bend, math.cos(math.radians(0.0 if self._gaze else heading - angle))))
        wish = 0.0 if self._pause else (16 + 2 * self._random.normal()) * ease
        self._speed = 0.8 * self._speed + 0.2 * wish
        # Feet correct what momentum does, so that one gets around corners: the game's floors are slippery.
        push = _PUSH * (self._speed * way + 1.5 * (self._speed * way - velocity))
        push *= min(1.0, 50 / max(1.0, float(np.hypot(*push))))
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        facing_way = abs(_wrapped(heading - angle)) < 25
        use = door and facing_way and self._step - self._used > _TRIED  # again too soon would close it
        self._used = self._step if use else self._used
        self._track = [] if self._pause else [*self._track[-24:], position]
        if pace < 4 and self._stuck(position, way, state):
            self._path = self._path[:0]
        # Rounded, so that the last bit of a machine's cosine does not lead to another life.
        forward, right = push[0] * cos + push[1] * sin, push[0] * sin - push[1] * cos
        turn = -self._turn / self._tics  # the game turns in every tic
        return [round(forward, 3), round(right, 3), round(turn, 3), float(use)]

    def _choose_gaze(self, facing_wall: bool) -> None:
        """Where to look, in degrees to the left of where to walk; and whether to stand still for it."""
        random = self._random
        if self._pause:
            self._pause -= 1
        elif random.random() < 1 / 500 and not facing_wall:
            self._pause, self._glance = int(random.integers(30, 70)), 0
        if self._glance and not facing_wall:
            self._glance -= 1
        elif random.random() < (1 / 20 if self._pause else 1 / 150):
            widest = 150 if self._pause else 80
            self._gaze, self._glance = random.uniform(-widest, widest), int(random.integers(15, 35))
        else:
            self._gaze, self._glance = 0.0, 0
        self._wander = 0.98 * self._wander + 1.5 * random.normal()

    def _stuck(self, position: np.ndarray, way: np.ndarray, state: vzd.GameState) -> bool:
        """Whether there is no getting on; what is in the way is then kept in mind."""
        if len(self._track) < 12 or np.linalg.norm(position - self._track[-12]) > 36:
            return False
        ahead = position[:2] + 32 * way
        if self._ways.next_to_door(ahead):
            since = self._step - self._used
            opening = self._ways.door_moves(ahead, *_heights(state.sectors))
            if since < (_TRIED + 15 if opening else 6) or (since > _TRIED and len(self._track) < 25):
                return False
            self._ways.give_up_door(ahead)
        else:
            self._ways.block(ahead, 20)
        self._track = []
        return True

    def _choose_path(self, position: np.ndarray, sectors: Sequence[vzd.Sector]) -> None:
        """A path to the nearest of a few places among those least visited."""
        floor, ceiling = _heights(sectors)
        self._ways.update_heights(floor, ceiling)
        nodes = self._ways.haunts(position)
        if len(nodes) < PLACE:  # cut off by what was in the way
            self._ways.unblock()
            self._ways.update_heights(floor, ceiling)
            nodes = self._ways.haunts(position)
        places = self._ways.positions(nodes)
        cells = np.floor(places / _CELL).astype(int)
        visits = np.array([self._visits[x, y] for x, y in cells.tolist()])
        few = self._random.choice(np.flatnonzero(visits <= np.quantile(visits, 0.02)), 4)
        goal = few[np.linalg.norm(places[few] - position[:2], axis=1).argmin()]
        self._path = self._ways.path(position, int(nodes[goal]))

    def _way(self, position: np.ndarray) -> tuple[np.ndarray, float]:
        """Where the path leads, (2,) of length 1, and how straight it goes on, as a cosine. Drops what lies behind."""
        nearest = int(np.linalg.norm(self._path[:12] - position[:2], axis=1).argmin())
        self._path = self._path[nearest:]
        near, far = (self._path[min(ahead, len(self._path) - 1)] for ahead in (3, 9))
        now, then = near - position[:2], far - near
        now, then = now / max(1.0, float(np.hypot(*now))), then / max(1.0, float(np.hypot(*then)))
        return now, float(now @ then) if then.any() else 1.0


def _heights(sectors: Sequence[vzd.Sector]) -> tuple[np.ndarray, np.ndarray]:
    floor = np.array([sector.floor_height for sector in sectors])
    return floor, np.array([sector.ceiling_height for sector in sectors])


def _cell(position: np.ndarray) -> tuple[int, int]:
    return int(position[0] // _CELL), int(position[1] // _CELL)


def _wrapped(degrees: float) -> float:
    return float((degrees + 180) % 360 - 180)
