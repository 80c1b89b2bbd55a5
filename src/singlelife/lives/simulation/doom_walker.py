"""A walker that strolls through a Doom map to see all of it, with a gaze of its own.

The walker knows the map, as people know the place they live in: it picks one of the parts that it has visited least,
and goes there on a path that keeps away from walls. Its camera moves like a person's because the eyes do not point
where the feet go: they follow the path with some delay, wander, and now and then look aside or back. Sometimes the
walker stops to look around.

Paths lead over a grid of nodes that a player can stand on.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import vizdoom as vzd
from scipy.sparse import csgraph, csr_array

from singlelife.lives.simulation.doom_map import OUTSIDE, DoomMap

Heights: TypeAlias = Callable[[], tuple[np.ndarray, np.ndarray]]  # floor and ceiling of each sector, now

_CELL = 128  # map units; visits are counted in cells of this size
_PUSH = 1.9  # value of the buttons for a speed of one map unit per frame
_NEAR = 4  # levels of the depth buffer, about 40 map units
_LOST = 96  # map units from the path
_TRIED = 25  # frames to wait before trying a door again

_PLACE = 512  # nodes; a place with fewer is too small to live in

_GRID = 16  # map units between nodes
_RADIUS, _HEIGHT, _STEP = 16, 56, 24  # of the game's player; _STEP is the highest it can step up
_EXITS = (11, 51, 52, 124, 197, 198)  # actions of lines that end the level
_NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))


class Walker:
    """Decides each step.

    Args:
        doom_map: where to walk.
        random: the source of random numbers.
        tics_per_frame: game tics between two steps; the walk is tuned for 2.
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

    def step(self, position: np.ndarray, angle: float, buffer: np.ndarray, heights: Heights) -> list[float]:
        """The values of `BUTTONS` until the next frame.

        Args:
            position, angle: the values of `VARIABLES`.
            buffer: the depth buffer.
            heights: returns the heights of floors and ceilings.
        """
        self._step += 1
        self._visits[int(position[0] // _CELL), int(position[1] // _CELL)] += 1
        if len(self._path) <= 2 or np.abs(self._path[0] - position[:2]).max() > _LOST:
            self._choose_path(position, heights)
        way, bend = self._way(position)
        heading = math.degrees(math.atan2(way[1], way[0]))

        velocity = (position - self._last)[:2]
        self._last = position
        pace = float(np.hypot(*velocity))
        door = not self._pause and self._ways.next_to_door(position[:2] + 32 * way)
        at_door = door and pace < 6
        near = buffer[::4, ::4] < _NEAR
        facing_wall = bool(np.count_nonzero(near) > near.size / 4)
        self._choose_gaze(facing_wall or at_door)
        error = _wrapped(heading + (0.0 if at_door else self._gaze + self._wander) - angle)
        self._turn = 0.8 * self._turn + 0.2 * min(max(0.12 * error, -5.0), 5.0)
        # Slow down in bends, and when the way is not where the eyes look, except during a glance.
        ease = max(0.5, min(bend, math.cos(math.radians(0.0 if self._gaze else heading - angle))))
        wish = 0.0 if self._pause else (16 + 2 * self._random.normal()) * ease
        self._speed = 0.8 * self._speed + 0.2 * wish
        # The game's floors are slippery: correct the momentum, to get around corners.
        push = _PUSH * (self._speed * way + 1.5 * (self._speed * way - velocity))
        push *= min(1.0, 50 / max(1.0, float(np.hypot(*push))))
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        facing_way = abs(_wrapped(heading - angle)) < 25
        use = door and facing_way and self._step - self._used > _TRIED  # again too soon would close it
        self._used = self._step if use else self._used
        self._track = [] if self._pause else [*self._track[-24:], position]
        if pace < 4 and self._stuck(position, way, heights):
            self._path = self._path[:0]
        # Rounded, so that the last bit of a machine's cosine does not change the whole life.
        forward, right = push[0] * cos + push[1] * sin, push[0] * sin - push[1] * cos
        turn = -self._turn / self._tics  # the game turns in every tic
        return [round(forward, 3), round(right, 3), round(turn, 3), float(use)]

    def _choose_gaze(self, facing_wall: bool) -> None:
        """Choose where to look, in degrees to the left of the way, and whether to stand still for it."""
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

    def _stuck(self, position: np.ndarray, way: np.ndarray, heights: Heights) -> bool:
        """Whether the walker is stuck; if so, remember the obstacle."""
        if len(self._track) < 12 or np.linalg.norm(position - self._track[-12]) > 36:
            return False
        ahead = position[:2] + 32 * way
        if self._ways.next_to_door(ahead):
            since = self._step - self._used
            opening = self._ways.door_moves(ahead, *heights())
            if since < (_TRIED + 15 if opening else 6) or (since > _TRIED and len(self._track) < 25):
                return False
            self._ways.give_up_door(ahead)
        else:
            self._ways.block(ahead, 20)
        self._track = []
        return True

    def _choose_path(self, position: np.ndarray, heights: Heights) -> None:
        """Choose a path to the nearest of a few of the least visited places."""
        floor, ceiling = heights()
        self._ways.update_heights(floor, ceiling)
        nodes = self._ways.haunts(position)
        if len(nodes) < _PLACE:  # obstacles have cut off the rest
            self._ways.unblock()
            self._ways.update_heights(floor, ceiling)
            nodes = self._ways.haunts(position)
        places = self._ways.positions(nodes)
        cells, of_place = np.unique(np.floor(places / _CELL).astype(int), axis=0, return_inverse=True)
        visits = np.array([self._visits[x, y] for x, y in cells.tolist()])[of_place.reshape(-1)]
        few = self._random.choice(np.flatnonzero(visits <= np.quantile(visits, 0.02)), 4)
        goal = few[np.linalg.norm(places[few] - position[:2], axis=1).argmin()]
        self._path = self._ways.path(position, int(nodes[goal]))

    def _way(self, position: np.ndarray) -> tuple[np.ndarray, float]:
        """The path's direction, (2,) of length 1, and how straight it goes on, as a cosine. Drops the part behind."""
        nearest = int(np.linalg.norm(self._path[:12] - position[:2], axis=1).argmin())
        self._path = self._path[nearest:]
        near, far = (self._path[min(ahead, len(self._path) - 1)] for ahead in (3, 9))
        now, then = near - position[:2], far - near
        now, then = now / max(1.0, float(np.hypot(*now))), then / max(1.0, float(np.hypot(*then)))
        return now, float(now @ then) if then.any() else 1.0


def _wrapped(degrees: float) -> float:
    return float((degrees + 180) % 360 - 180)


class Walkways:
    """The nodes and the ways between them, for the current heights of floors and ceilings.

    The player is a square of side 32: its floor is the highest below the square, its ceiling the lowest above. It can
    step 24 units up, and down any height. Closed doors count as open.
    """

    def __init__(self, doom_map: DoomMap):
        low = np.minimum(doom_map.start, doom_map.start + doom_map.direction).min(axis=0)
        high = np.maximum(doom_map.start, doom_map.start + doom_map.direction).max(axis=0)
        self._origin = np.floor(low / _GRID) * _GRID + _GRID / 2
        self._shape = tuple(((high - self._origin) // _GRID + 1).astype(int))
        x, y = (self._origin[axis] + _GRID * np.arange(self._shape[axis]) for axis in (0, 1))
        sectors = doom_map.sectors_at(x, y).T.reshape(-1)

        samples, lines = _samples(doom_map)
        touched, touching = self._nodes_touching(samples)
        line_of = lines[touching]
        solid = doom_map.impassable[line_of] | np.isin(doom_map.special[line_of], _EXITS)
        self._walls = sectors == OUTSIDE
        self._walls[touched[solid]] = True
        self._heights: np.ndarray | None = None
        self._blocked = self._walls.copy()  # plus obstacles found on the way

        two_sided = ~solid
        node = np.concatenate([np.flatnonzero(sectors != OUTSIDE), *[touched[two_sided]] * 2])
        sector = np.concatenate(
            [sectors[sectors != OUTSIDE], doom_map.right[line_of[two_sided]], doom_map.left[line_of[two_sided]]]
        )
        pairs = np.unique(np.stack([node, sector], axis=1), axis=0)
        self._node, self._sector = pairs.T
        self._first = np.flatnonzero(np.diff(self._node, prepend=-1))
        self._all_doors = _doors(doom_map)
        self._doors = self._all_doors.copy()  # except those given up

    def update_heights(self, floor: np.ndarray, ceiling: np.ndarray) -> None:
        """Update the sectors' heights, and find the ways again."""
        self._now = np.stack([floor, ceiling])
        ceiling = np.where(self._doors, np.maximum(ceiling, floor + 2 * _HEIGHT), ceiling)
        heights = np.stack([floor, ceiling])
        if self._heights is not None and np.array_equal(heights, self._heights):
            return
        self._heights = heights
        self._haunts = np.zeros(0, dtype=np.int64)
        nodes = self._node[self._first]
        bottom, top = np.full(len(self._blocked), np.inf), np.full(len(self._blocked), -np.inf)
        bottom[nodes] = np.maximum.reduceat(floor[self._sector], self._first)
        top[nodes] = np.minimum.reduceat(ceiling[self._sector], self._first)
        bottom, top = bottom.reshape(self._shape), top.reshape(self._shape)
        self._standable = ~self._blocked.reshape(self._shape) & (top - bottom >= _HEIGHT)
        ways = np.zeros((len(self._blocked), len(_NEIGHBOURS)), dtype=bool)
        for neighbour, (dx, dy) in enumerate(_NEIGHBOURS):
            there_bottom, there_top = _shifted(bottom, dx, dy, np.inf), _shifted(top, dx, dy, -np.inf)
            with np.errstate(invalid="ignore"):  # infinite on both sides
                fits = (there_bottom - bottom <= _STEP) & (there_top - np.maximum(bottom, there_bottom) >= _HEIGHT)
            ways[:, neighbour] = (fits & self._standable & _shifted(self._standable, dx, dy, False)).reshape(-1)
        node, number = np.nonzero(ways)
        there = node + np.array([dx * self._shape[1] + dy for dx, dy in _NEIGHBOURS])[number]
        length = np.array([np.hypot(dx, dy) for dx, dy in _NEIGHBOURS])[number] * self._discomfort()[there]
        self._graph = csr_array((length, (node, there)), shape=(len(ways), len(ways)))

    def _discomfort(self) -> np.ndarray:
        """The cost of each node on a path: higher near walls."""
        wall = ~self._standable
        cost = np.ones(self._shape)
        for extra in (3.0, 1.0, 0.5):
            wall = wall | np.any([_shifted(wall, dx, dy, True) for dx, dy in _NEIGHBOURS], axis=0)
            cost += extra * wall
        return cost.reshape(-1)

    def block(self, position: np.ndarray, reach: float) -> None:
        """Make the nodes within `reach` map units of `position` impassable."""
        away = np.abs(self.positions(np.arange(len(self._blocked))) - position[:2]).max(axis=1)
        self._blocked |= away < reach
        self._heights = None

    def unblock(self) -> None:
        """Forget what was blocked, and the doors that were given up."""
        self._blocked = self._walls.copy()
        self._doors = self._all_doors.copy()
        self._heights = None

    def positions(self, nodes: np.ndarray) -> np.ndarray:
        """Map coordinates of nodes, (..., 2) float64."""
        return self._origin + _GRID * np.stack(np.unravel_index(nodes, self._shape), axis=-1)

    def next_to_door(self, position: np.ndarray) -> bool:
        """Whether a player at `position` would touch a door."""
        return bool(self._doors[self._sectors_touched(position)].any())

    def door_moves(self, position: np.ndarray, floor: np.ndarray, ceiling: np.ndarray) -> bool:
        """Whether a sector that a player at `position` would touch has moved since the heights were last updated."""
        touched = self._sectors_touched(position)
        return not np.array_equal(self._now[:, touched], np.stack([floor, ceiling])[:, touched])

    def give_up_door(self, position: np.ndarray) -> None:
        """Stop counting closed doors that a player at `position` would touch as open."""
        self._doors[self._sectors_touched(position)] = False
        self._heights = None

    def _sectors_touched(self, position: np.ndarray) -> np.ndarray:
        x, y = (round(place) for place in ((position[:2] - self._origin) / _GRID).tolist())  # faster than an array
        node = min(max(x, 0), self._shape[0] - 1) * self._shape[1] + min(max(y, 0), self._shape[1] - 1)
        return self._sector[np.searchsorted(self._node, node) : np.searchsorted(self._node, node, "right")]

    def _start_near(self, position: np.ndarray) -> int:
        """The node to start from: the nearest one that a player can stand on."""
        standable = np.flatnonzero(self._standable)
        away = np.abs(self.positions(standable) - position[:2]).max(axis=1)
        return int(standable[away.argmin()])

    def haunts(self, position: np.ndarray) -> np.ndarray:
        """Nodes to walk to: only those with a way back, so that the walker never ends up in a pit.

        If the start is too small a place to come back to, such as a ledge, all nodes that can be reached.
        """
        start = self._start_near(position)
        if start not in self._haunts:
            there, back = (
                csgraph.breadth_first_order(graph, start, return_predecessors=False)
                for graph in (self._graph, self._graph.T.tocsr())
            )
            self._haunts = np.intersect1d(there, back)
            if len(self._haunts) < _PLACE:
                self._haunts = self._haunts[:0]
                return np.sort(there)
        return self._haunts

    def path(self, position: np.ndarray, goal: int) -> np.ndarray:
        """Map coordinates of the cheapest path from `position` to the node `goal`, (steps, 2)."""
        start = self._start_near(position)
        cost, into = csgraph.dijkstra(self._graph, indices=start), self._graph.tocsc()
        nodes = [goal]
        while nodes[-1] != start:
            ways = slice(*into.indptr[nodes[-1] : nodes[-1] + 2])
            before = into.indices[ways]
            # Among equally cheap ways, take the one from the nearer node, then the lower: always the same path.
            before = before[cost[before] + into.data[ways] == cost[nodes[-1]]]
            nodes.append(int(before[cost[before].argmin()]))
        return self.positions(np.array(nodes[::-1]))

    def _nodes_touching(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nodes at which a player would touch a line's sample point, and the indices of those points."""
        corner = np.floor((samples - self._origin) / _GRID).astype(int)
        nodes, points = [], []
        for dx in (-1, 0, 1, 2):
            for dy in (-1, 0, 1, 2):
                place = corner + np.array([dx, dy])
                away = np.abs(self._origin + _GRID * place - samples).max(axis=1)
                near = (away < _RADIUS) & (place >= 0).all(axis=1) & (place < self._shape).all(axis=1)
                nodes.append(place[near, 0] * self._shape[1] + place[near, 1])
                points.append(np.flatnonzero(near))
        return np.concatenate(nodes), np.concatenate(points)


def _samples(doom_map: DoomMap) -> tuple[np.ndarray, np.ndarray]:
    """Points along all lines, at most 4 map units apart, and the line of each."""
    count = np.ceil(np.linalg.norm(doom_map.direction, axis=1) / 4).astype(int) + 1
    line = np.repeat(np.arange(len(count)), count)
    along = (np.arange(len(line)) - np.repeat(np.cumsum(count) - count, count)) / (count[line] - 1)
    return doom_map.start[line] + along[:, None] * doom_map.direction[line], line


def _doors(doom_map: DoomMap) -> np.ndarray:
    """Sectors that may be doors, bool: those that some line acts on, by its tag or because they lie behind it."""
    acts = doom_map.special > 0
    doors = np.isin(doom_map.sector_tag, doom_map.tag[acts]) & (doom_map.sector_tag != 0)
    doors[doom_map.left[acts & (doom_map.left != OUTSIDE)]] = True
    return doors


def _shifted(array: np.ndarray, dx: int, dy: int, fill: float) -> np.ndarray:
    """The array whose [x, y] is `array[x + dx, y + dy]`."""
    padded = np.pad(array, 1, constant_values=fill)
    return padded[1 + dx : 1 + dx + array.shape[0], 1 + dy : 1 + dy + array.shape[1]]
