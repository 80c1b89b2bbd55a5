"""A walker who strolls through a Doom map, to see all of it, with eyes of their own.

The walker knows the map, as people know the place they live in: it picks a part of it that it has seen least, and goes
there on a path that keeps away from walls. What makes the camera's motion that of a person is that the eyes do not
point where the feet go: they follow the way with some delay, wander, now and then look aside or back, and sometimes
the walker stops to look around.
"""

import heapq
from collections import Counter
from collections.abc import Sequence

import numpy as np
import vizdoom as vzd

from singlelife.lives.doom_map import OUTSIDE, DoomMap

_GRID = 16  # map units between nodes
_RADIUS, _HEIGHT, _STEP = 16, 56, 24  # of the game's player; _STEP is the highest it can step up
_PLACE = 512  # nodes; fewer are hardly a place
_CELL = 128  # map units; places are visited by cells of this size
_EXITS = (11, 51, 52, 124, 197, 198)  # actions of lines that end the level
_NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))


class Walkways:
    """Where a player can stand in a map and walk from there: nodes of a grid, and paths over them.

    The game moves a square of side 32: its floor is the highest below the square, its ceiling the lowest above, and it
    can step 24 units up, and down as far as one likes. Doors that are closed count as open.
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
        self._blocked = self._walls.copy()  # and what has turned out to be in the way

        two_sided = ~solid
        node = np.concatenate([np.flatnonzero(sectors != OUTSIDE), *[touched[two_sided]] * 2])
        sector = np.concatenate(
            [sectors[sectors != OUTSIDE], doom_map.right[line_of[two_sided]], doom_map.left[line_of[two_sided]]]
        )
        pairs = np.unique(np.stack([node, sector], axis=1), axis=0)
        self._node, self._sector = pairs.T
        self._first = np.flatnonzero(np.diff(self._node, prepend=-1))
        self._doors = _doors(doom_map)
        self._next_to_door = np.zeros(len(sectors), dtype=bool)
        self._next_to_door[self._node[np.isin(self._sector, np.flatnonzero(self._doors))]] = True

    def update_heights(self, floor: np.ndarray, ceiling: np.ndarray) -> None:
        """Take the sectors' heights as they are now, and find again where one can walk."""
        ceiling = np.where(self._doors, np.maximum(ceiling, floor + 2 * _HEIGHT), ceiling)
        nodes = self._node[self._first]
        bottom, top = np.full(len(self._blocked), np.inf), np.full(len(self._blocked), -np.inf)
        bottom[nodes] = np.maximum.reduceat(floor[self._sector], self._first)
        top[nodes] = np.minimum.reduceat(ceiling[self._sector], self._first)
        self._standable = (~self._blocked & (top - bottom >= _HEIGHT)).reshape(self._shape)
        bottom, top = bottom.reshape(self._shape), top.reshape(self._shape)
        ways = np.zeros((len(self._blocked), len(_NEIGHBOURS)), dtype=bool)
        for number, (dx, dy) in enumerate(_NEIGHBOURS):
            there_bottom, there_top = _shifted(bottom, dx, dy, np.inf), _shifted(top, dx, dy, -np.inf)
            with np.errstate(invalid="ignore"):
                fits = (there_bottom - bottom <= _STEP) & (there_top - np.maximum(bottom, there_bottom) >= _HEIGHT)
            ways[:, number] = (fits & self._standable & _shifted(self._standable, dx, dy, False)).reshape(-1)
        node, number = np.nonzero(ways)
        there = node + np.array([dx * self._shape[1] + dy for dx, dy in _NEIGHBOURS])[number]
        length = np.array([np.hypot(dx, dy) for dx, dy in _NEIGHBOURS])[number] * self._discomfort()[there]
        self._graph = _neighbour_lists(node, there, length, len(ways))
        self._reversed_graph = _neighbour_lists(there, node, length, len(ways))

    def _discomfort(self) -> np.ndarray:
        """What it costs to go over each node: more beside walls."""
        wall = ~self._standable
        cost = np.ones(self._shape)
        for extra in (3.0, 1.0, 0.5):
            wall = wall | np.any([_shifted(wall, dx, dy, True) for dx, dy in _NEIGHBOURS], axis=0)
            cost += extra * wall
        return cost.reshape(-1)

    def block(self, position: np.ndarray, reach: float) -> None:
        """Take the nodes within `reach` map units from now on as impassable."""
        away = np.abs(self.positions(np.arange(len(self._blocked))) - position[:2]).max(axis=1)
        self._blocked |= away < reach

    def unblock(self) -> None:
        """Forget what was blocked."""
        self._blocked = self._walls.copy()

    def positions(self, nodes: np.ndarray) -> np.ndarray:
        """Map coordinates of nodes, (..., 2) float64."""
        return self._origin + _GRID * np.stack(np.unravel_index(nodes, self._shape), axis=-1)

    def next_to_door(self, position: np.ndarray) -> bool:
        """Whether a door is within the square of a player at `position`."""
        return bool(self._next_to_door[self._node_at(position)])

    def _node_at(self, position: np.ndarray) -> int:
        x, y = np.clip(np.rint((position[:2] - self._origin) / _GRID), 0, np.array(self._shape) - 1).astype(int)
        return int(x * self._shape[1] + y)

    def _start_near(self, position: np.ndarray) -> int:
        """The node to start from: the nearest that can be stood on."""
        standable = np.flatnonzero(self._standable)
        away = np.abs(self.positions(standable) - position[:2]).max(axis=1)
        return int(standable[away.argmin()])

    def paths_from(self, position: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Nodes to go to, nearest first, and for each node the one before it on the best path from `position`.

        These are the nodes from which one can come back, so that nobody ends up in a pit; all that can be reached if
        the place to come back to is hardly a place, a ledge for instance.
        """
        start = self._start_near(position)
        before = _cheapest_paths(start, *self._graph)
        there, back = np.array(list(before)), _cheapest_paths(start, *self._reversed_graph)
        returning = there[[node in back for node in before]]
        return (returning if len(returning) >= _PLACE else there), before

    def _nodes_touching(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nodes whose player would touch a sample point of a line, and the numbers of those points."""
        corner = np.floor((samples - self._origin) / _GRID).astype(int)
        nodes, points = [], []
        for dx in (-1, 0, 1, 2):
            for dy in (-1, 0, 1, 2):
                place = corner + (dx, dy)
                away = np.abs(self._origin + _GRID * place - samples).max(axis=1)
                near = (away < _RADIUS) & (place >= 0).all(axis=1) & (place < self._shape).all(axis=1)
                nodes.append(place[near, 0] * self._shape[1] + place[near, 1])
                points.append(np.flatnonzero(near))
        return np.concatenate(nodes), np.concatenate(points)


_Graph = tuple[list[int], list[int], list[float]]


def _neighbour_lists(node: np.ndarray, there: np.ndarray, length: np.ndarray, num_nodes: int) -> _Graph:
    """A graph by rows: where the neighbours of each node begin, the neighbours, and how far they are."""
    order = np.argsort(node, kind="stable")
    first = np.searchsorted(node[order], np.arange(num_nodes + 1))
    return first.tolist(), there[order].tolist(), length[order].tolist()


def _cheapest_paths(start: int, first: list[int], there: list[int], length: list[float]) -> dict[int, int]:
    """The node before each on the cheapest path from `start`, nearest first (Dijkstra's algorithm)."""
    before: dict[int, int] = {}
    cost = {start: 0.0}
    queue = [(0.0, start, start)]
    while queue:
        so_far, node, previous = heapq.heappop(queue)
        if node in before:
            continue
        before[node] = previous
        for edge in range(first[node], first[node + 1]):
            neighbour, total = there[edge], so_far + length[edge]
            if neighbour not in before and total < cost.get(neighbour, np.inf):
                cost[neighbour] = total
                heapq.heappush(queue, (total, neighbour, node))
    return before


def _samples(doom_map: DoomMap) -> tuple[np.ndarray, np.ndarray]:
    """Points along all lines, 4 map units apart at most, and the line of each."""
    count = np.ceil(np.linalg.norm(doom_map.direction, axis=1) / 4).astype(int) + 1
    line = np.repeat(np.arange(len(count)), count)
    along = (np.arange(len(line)) - np.repeat(np.cumsum(count) - count, count)) / (count[line] - 1)
    return doom_map.start[line] + along[:, None] * doom_map.direction[line], line


def _doors(doom_map: DoomMap) -> np.ndarray:
    """Sectors that some line can open by its action, bool: any that a line acts upon."""
    doors = np.isin(doom_map.sector_tag, doom_map.tag[doom_map.special > 0]) & (doom_map.sector_tag != 0)
    manual = (doom_map.special > 0) & (doom_map.tag == 0) & (doom_map.left != OUTSIDE)
    doors[doom_map.left[manual]] = True
    return doors


def _shifted(array: np.ndarray, dx: int, dy: int, fill: float) -> np.ndarray:
    """The array whose [x, y] is `array[x + dx, y + dy]`."""
    padded = np.pad(array, 1, constant_values=fill)
    return padded[1 + dx : 1 + dx + array.shape[0], 1 + dy : 1 + dy + array.shape[1]]


class Walker:
    """Decides each step.

    Args:
        doom_map: where to walk.
        random: what chance is drawn from.
    """

    BUTTONS = (
        vzd.Button.MOVE_FORWARD_BACKWARD_DELTA,
        vzd.Button.MOVE_LEFT_RIGHT_DELTA,
        vzd.Button.TURN_LEFT_RIGHT_DELTA,
        vzd.Button.USE,
    )

    def __init__(self, doom_map: DoomMap, random: np.random.Generator):
        self._ways = Walkways(doom_map)
        self._random = random
        self._visits: Counter[tuple[int, int]] = Counter()
        self._track: list[np.ndarray] = []  # positions of the last frames of walking
        self._path = np.zeros((0, 2))
        self._speed, self._turn = 0.0, 0.0
        self._gaze, self._wander, self._glance = 0.0, 0.0, 0  # degrees aside, and frames left to look there
        self._pause = 0  # frames left to stand
        self._step = 0

    def step(self, position: np.ndarray, angle: float, sectors: Sequence[vzd.Sector]) -> list[float]:
        """Values of `BUTTONS` for the next frame.

        Args:
            position: of the eye, (3,), in map units.
            angle: where the camera looks, in degrees, 0 along x, counter-clockwise.
            sectors: `state.sectors`.
        """
        random = self._random
        self._step += 1
        self._visits[_cell(position)] += 1
        if not len(self._path) or self._stuck(position):
            self._choose_path(position, sectors)
        point = self._point_to_walk_to(position)
        heading = np.degrees(np.arctan2(point[1] - position[1], point[0] - position[0]))

        if self._pause:
            self._pause -= 1
        elif random.random() < 1 / 500:
            self._pause, self._glance = int(random.integers(20, 45)), 0
        if self._glance:
            self._glance -= 1
        elif random.random() < (1 / 12 if self._pause else 1 / 90):
            widest = 150 if self._pause else 80
            self._gaze, self._glance = random.uniform(-widest, widest), int(random.integers(10, 25))
        else:
            self._gaze = 0.0
        self._wander = 0.97 * self._wander + 4 * random.normal()
        error = _wrapped(heading + self._gaze + self._wander - angle)
        self._turn = 0.75 * self._turn + 0.25 * float(np.clip(0.2 * error, -9, 9))

        wish = 0.0 if self._pause else 30 + 4 * random.normal()
        self._speed = 0.8 * self._speed + 0.2 * wish
        aside = np.radians(_wrapped(heading - angle))
        use = self._step % 8 == 0 and self._ways.next_to_door(position + 32 * _towards(heading))
        return [
            self._speed * float(np.cos(aside)),
            -self._speed * float(np.sin(aside)),
            -self._turn / 2,  # which the game applies in every tic
            float(use),
        ]

    def _stuck(self, position: np.ndarray) -> bool:
        if self._pause:
            self._track = []
            return False
        self._track = [*self._track[-39:], position]
        patience = 40 if self._ways.next_to_door(position) else 12
        if len(self._track) < patience or np.linalg.norm(position - self._track[-patience]) > 24:
            return False
        point = self._point_to_walk_to(position)
        away = (point - position[:2]) / max(1.0, float(np.linalg.norm(point - position[:2])))
        self._ways.block(position[:2] + 32 * away, 20)
        self._track = []
        return True

    def _choose_path(self, position: np.ndarray, sectors: Sequence[vzd.Sector]) -> None:
        """A path to the nearest of a few places among those least visited."""
        floor = np.array([sector.floor_height for sector in sectors])
        ceiling = np.array([sector.ceiling_height for sector in sectors])
        self._ways.update_heights(floor, ceiling)
        nodes, before = self._ways.paths_from(position)
        if len(nodes) < _PLACE:
            self._ways.unblock()
            self._ways.update_heights(floor, ceiling)
            nodes, before = self._ways.paths_from(position)
        cells = np.floor(self._ways.positions(nodes) / _CELL).astype(int)
        visits = np.array([self._visits[x, y] for x, y in cells.tolist()])
        least = nodes[visits <= np.quantile(visits, 0.02)]
        goal = int(least[self._random.integers(0, len(least), 4).min()])
        path = [goal]
        while before[path[-1]] != path[-1]:
            path.append(before[path[-1]])
        self._path = self._ways.positions(np.array(path[::-1]))

    def _point_to_walk_to(self, position: np.ndarray) -> np.ndarray:
        """The point of the path some steps ahead of the nearest; what lies behind is dropped."""
        away = np.linalg.norm(self._path[:12] - position[:2], axis=1)
        nearest = int(away.argmin())
        self._path = self._path[nearest:]
        point = self._path[min(3, len(self._path) - 1)]
        if len(self._path) <= 2:
            self._path = self._path[:0]
        return point


def _cell(position: np.ndarray) -> tuple[int, int]:
    return int(position[0] // _CELL), int(position[1] // _CELL)


def _towards(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0.0])


def _wrapped(degrees: float) -> float:
    return float((degrees + 180) % 360 - 180)
