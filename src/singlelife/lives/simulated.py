"""Simulated lives: a walker's life in a map of a game, with exact pose and depth.

ViZDoom renders the free game data that its wheel carries (freedoom1 and freedoom2, BSD licence) in software, without a
screen, several hundred frames per second and core. So everything that this package does can be tried, and checked
against exact geometry, on a laptop without a network. A simulated life is never a substitute for a real one.

Frames show the view without head-up display, weapon and messages. There are no monsters and the walker cannot die.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import vizdoom as vzd

from singlelife.errors import LifeError
from singlelife.lives.doom_geometry import MapGeometry, depth_of_buffer

RENDERER_VERSION = 1  # part of the fingerprint of a life: raise it when the same source gives other frames
DEPTH_SCALE = 1 / 16  # map units per stored level
WADS = ("freedoom1", "freedoom2")
DEPTHS = ("none", "buffer", "exact")

_TICS_PER_SECOND = 35
_WIDTH, _HEIGHT = 320, 240  # rendered; the middle square is kept
_FOCAL = (_WIDTH / 2, 1.2 * _WIDTH / 2)  # px: the view is 90 degrees wide, and a pixel of this game 1.2 times as high
_CUT_SECONDS = 60.0  # added to the time after a jump to another place, so that no pair crosses it
_MAX_STEP = 80.0  # map units in one frame; more than that is a teleport
_WARM_UP_TICS = 20  # until the view has settled at its height


@dataclass(frozen=True)
class SimulatedSource:
    """What to render.

    Attributes:
        wad: `"freedoom1"` or `"freedoom2"`.
        map: its name in the wad, such as `"E1M1"` (freedoom1) or `"MAP01"` (freedoom2).
        seed: of the walker and of the game.
        num_frames: length of the life in frames.
        tics_per_frame: game tics of 1/35 s between two frames.
        still: the camera stays where the map begins: the control that is no life.
        depth: `"none"`; `"buffer"`, the game's 8-bit depth buffer, right within 5 map units up to where it ends at
            about 1 350; or `"exact"`, cast rays, exact for walls, floors and ceilings, and 0 (unknown) where the
            buffer shows something else: sky, and things that stand in the map.
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
                f"A simulated life has a wad of {WADS} and depth of {DEPTHS}, not {self.wad}, {self.depth}."
            )
        if self.num_frames < 1 or self.tics_per_frame < 1:
            raise LifeError("A simulated life has at least one frame, and at least one tic per frame.")


@dataclass
class SimulatedFrame:
    """One frame of a simulated life.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        timestamp: seconds; a step of a minute marks a jump to another place.
        frame_index: from 0.
        pose: camera to world, float64 (4, 4); camera axes x right, y down, z forward; the world's z is up, its unit
            the map's (the eye is 41 units above the floor).
        intrinsics: fx, fy, cx, cy in pixels, float64 (4,); the image's top left corner is (0, 0).
        depth: along the camera's z axis in map units, float32 (size, size), 0 where unknown; None if not asked for.
    """

    image: np.ndarray
    timestamp: float
    frame_index: int
    pose: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray | None


def intrinsics(frame_size: int) -> np.ndarray:
    """fx, fy, cx, cy of frames of `frame_size` px, float64 (4,)."""
    scale = frame_size / _HEIGHT
    return np.array([_FOCAL[0] * scale, _FOCAL[1] * scale, frame_size / 2, frame_size / 2])


def render(source: SimulatedSource, frame_size: int) -> Iterator[SimulatedFrame]:
    """Render a life. The same source and size give the same frames in every process.

    Raises:
        LifeError: the wad has no such map.
    """
    game = _start_game(source)
    try:
        walker = _Walker(source.seed)
        geometry: MapGeometry | None = None
        camera = intrinsics(frame_size)
        timestamp, last_position = 0.0, None
        for index in range(source.num_frames):
            if game.is_episode_finished():  # the walker has found the exit
                _enter_map(game)
                last_position = None
            state = game.get_state()
            variables, buffer = state.game_variables, state.depth_buffer
            assert variables is not None and buffer is not None  # asked for in _start_game
            position, angle = variables[:3], float(variables[3])
            if index:
                jumped = last_position is None or np.linalg.norm(position - last_position) > _MAX_STEP
                timestamp += source.tics_per_frame / _TICS_PER_SECOND + _CUT_SECONDS * jumped
            last_position = position

            depth = None
            if source.depth != "none":
                depth = depth_of_buffer(_resize_nearest(_middle_square(buffer), frame_size))
            if source.depth == "exact":
                assert depth is not None
                if geometry is None:
                    geometry = MapGeometry(state.sectors)
                geometry.update_heights(state.sectors)
                exact = geometry.depth(position, angle, camera, frame_size)
                depth = np.where(np.abs(exact - depth) <= _tolerance(exact), exact, 0).astype(np.float32)
            yield SimulatedFrame(
                image=_resize(_middle_square(state.screen_buffer), frame_size),
                timestamp=timestamp,
                frame_index=index,
                pose=_pose(position, angle),
                intrinsics=camera,
                depth=depth,
            )
            if source.still:
                game.advance_action(source.tics_per_frame)
            else:
                game.make_action(walker.step(buffer, position, angle), source.tics_per_frame)
    finally:
        game.close()


def _start_game(source: SimulatedSource) -> vzd.DoomGame:
    game = vzd.DoomGame()
    game.set_doom_game_path(str(Path(vzd.__file__).parent / f"{source.wad}.wad"))
    game.set_doom_map(source.map)
    game.set_screen_resolution(vzd.ScreenResolution.RES_320X240)
    game.set_screen_format(vzd.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    game.set_sectors_info_enabled(source.depth == "exact")
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vzd.Mode.PLAYER)
    game.set_seed(source.seed)
    game.set_episode_timeout(0)
    for switch_off in (
        game.set_render_hud,
        game.set_render_weapon,
        game.set_render_crosshair,
        game.set_render_decals,
        game.set_render_particles,
        game.set_render_effects_sprites,
        game.set_render_messages,
        game.set_render_corpses,
        game.set_render_screen_flashes,
    ):
        switch_off(False)
    # Overlays of the game's own that the switches above leave on; head bobbing would move the eye unseen.
    game.add_game_args("-nomonsters +con_midtime 0 +con_notifytime 0 +cl_showsecretmessage 0 +sv_cheats 1 +movebob 0")
    game.set_available_buttons(list(_BUTTONS))
    game.set_available_game_variables(
        [
            vzd.GameVariable.CAMERA_POSITION_X,
            vzd.GameVariable.CAMERA_POSITION_Y,
            vzd.GameVariable.CAMERA_POSITION_Z,
            vzd.GameVariable.CAMERA_ANGLE,
        ]
    )
    try:
        game.init()
        _enter_map(game)
    except (vzd.ViZDoomErrorException, vzd.ViZDoomUnexpectedExitException, vzd.FileDoesNotExistException) as error:
        game.close()
        raise LifeError(f"{source.wad} has no map {source.map!r}, or it cannot be started ({error}).") from error
    return game


def _enter_map(game: vzd.DoomGame) -> None:
    game.new_episode()
    game.send_game_command("god")
    game.advance_action(_WARM_UP_TICS)


_BUTTONS = (
    vzd.Button.MOVE_FORWARD_BACKWARD_DELTA,
    vzd.Button.MOVE_LEFT_RIGHT_DELTA,
    vzd.Button.TURN_LEFT_RIGHT_DELTA,
    vzd.Button.USE,
)


class _Walker:
    """Decides the next step from what lies ahead, like someone strolling through a place new to them.

    The rule: keep going with momentum, turn a little at random, towards the open side and towards where one has not
    been; sometimes look around, or sidestep; turn away from a wall ahead, and further if that did not help.
    """

    def __init__(self, seed: int):
        self._random = np.random.default_rng(seed)
        self._visited: Counter[tuple[int, int]] = Counter()
        self._positions: list[np.ndarray] = []
        self._turn = self._sidestep = 0.0
        self._manoeuvre: list[tuple[float, float]] = []  # (forward, turn) of the next frames, last first
        self._step = 0

    def step(self, depth_buffer: np.ndarray, position: np.ndarray, angle: float) -> list[float]:
        """Values of the buttons: forward, sidestep to the right, turn to the right in degrees, use."""
        self._step += 1
        self._visited[_cell(position)] += 1
        self._positions = [*self._positions[-11:], position]
        depth = depth_buffer.astype(np.float32)
        left, right = depth[80:160, :140].mean() + 1, depth[80:160, 180:].mean() + 1
        ahead = depth[100:140, 140:180].min()
        if not self._manoeuvre:
            self._manoeuvre = self._begin_manoeuvre(ahead, left, right)
        if self._manoeuvre:
            forward, self._turn = self._manoeuvre.pop()
            self._sidestep = 0.0
        else:
            curiosity = self._curiosity(position, angle)
            noise = self._random.normal()
            self._turn = 0.85 * self._turn + 0.8 * noise + 0.35 * float(np.log(right / left)) + 0.25 * curiosity
            self._sidestep = 0.93 * self._sidestep + 5 * self._random.normal()
            forward = 45 + 5 * self._random.normal()
        return [forward, self._sidestep, self._turn, float(self._step % 9 == 0)]

    def _begin_manoeuvre(self, ahead: float, left: float, right: float) -> list[tuple[float, float]]:
        random = self._random
        stuck = len(self._positions) == 12 and np.linalg.norm(self._positions[-1] - self._positions[0]) < 24
        if stuck:
            self._positions = []
            turn = random.choice([-1.0, 1.0]) * random.uniform(6, 9)
            return [(random.choice([-30.0, 20.0]), turn)] * int(random.integers(10, 20))
        if ahead < 9:
            towards_open = 1.0 if right > left else -1.0
            if random.random() < 1 / 7:  # otherwise one keeps walking in the same circle
                return [(15.0, -towards_open * 6)] * 14
            return [(15.0, towards_open * 6)] * int(random.integers(3, 8))
        if random.random() < 1 / 250:
            frames, turn = int(random.integers(8, 16)), random.choice([-1.0, 1.0]) * random.uniform(3, 6)
            back = [(10.0, -turn)] * frames if random.random() < 0.6 else []
            return back + [(10.0, turn)] * frames
        return []

    def _curiosity(self, position: np.ndarray, angle: float) -> float:
        """Positive if the place ahead on the right has been visited less than that on the left."""
        seen = []
        for side in (-45, 45):
            heading = np.deg2rad(angle - side)
            seen.append(self._visited[_cell(position + 256 * np.array([np.cos(heading), np.sin(heading), 0.0]))])
        return float(np.log((seen[0] + 5) / (seen[1] + 5)))


def _cell(position: np.ndarray) -> tuple[int, int]:
    return int(position[0] // 128), int(position[1] // 128)


def _pose(position: np.ndarray, angle: float) -> np.ndarray:
    heading = np.deg2rad(angle)
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    right = np.array([np.sin(heading), -np.cos(heading), 0.0])
    pose = np.eye(4)
    pose[:3] = np.stack([right, [0.0, 0.0, -1.0], forward, position], axis=1)
    return pose


def _tolerance(depth: np.ndarray) -> np.ndarray:
    """How far the depth buffer may be from the exact depth: its own error, and half a pixel on a slanted surface."""
    return 8 + 0.04 * depth


def _middle_square(image: np.ndarray) -> np.ndarray:
    left = (_WIDTH - _HEIGHT) // 2
    return image[:, left : left + _HEIGHT]


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).unsqueeze(0)
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return resized.squeeze(0).permute(1, 2, 0).contiguous().numpy()


def _resize_nearest(image: np.ndarray, size: int) -> np.ndarray:
    """The value at each pixel's centre: depths must not be averaged over edges."""
    rows = ((np.arange(size) + 0.5) * len(image) / size).astype(np.int64)
    return image[np.ix_(rows, rows)]
