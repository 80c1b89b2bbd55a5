"""Simulated lives: a walker in a game's map, with exact pose and depth; and screens, a control without any camera.

ViZDoom renders the free game data in its wheel (freedoom1 and freedoom2, BSD licence) in software, without a screen,
at several hundred frames per second and core. A simulated life is never a substitute for a real one.

Frames show the view without head-up display, weapon and messages. There are no monsters and the walker cannot die.
"""

import itertools
import shlex
import sys
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import vizdoom as vzd
from PIL import Image, ImageDraw, ImageFont

from singlelife.errors import LifeError
from singlelife.lives.simulation import ScreenSource, SimulatedSource
from singlelife.lives.simulation.doom_map import DoomMap, depth_of_buffer, exact_depth
from singlelife.lives.simulation.doom_walker import Heights, Walker

# Parts of a life's fingerprint: raise them when the same source gives other frames.
RENDERER_VERSION, SCREEN_VERSION = 4, 1

_TICS_PER_SECOND = 35
_WIDTH, _HEIGHT = 320, 240  # rendered; the middle square is kept
_FOCAL = (
    _WIDTH / 2,
    1.2 * _WIDTH / 2,
)  # px: the view is 90 degrees wide, and pixels are 1.2 times as high
_CUT_SECONDS = 60.0  # added to the time after a jump to another place, so that no pair crosses it
_MAX_STEP = 80.0  # map units in one frame; a longer step is a teleport
_WARM_UP_TICS = 20  # until the view has settled at its height
# The game is dark, with a mean level of 0.16. Make it up to 2.5 times brighter, as a camera would open its aperture.
_EXPOSURE = np.round(255 * (1 - (1 - np.arange(256) / 255) ** 2.5)).astype(np.uint8)
_BATCH = 16  # views of the game that are made into frames at once
_STAND = [0.0] * len(Walker.BUTTONS)
_START_ENGINE = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent
os.chdir(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class SimulatedFrame:
    """One frame of a simulated life.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        timestamp: in seconds; a step of a minute marks a jump to another place.
        frame_index: from 0.
        pose: camera to world, float64 (4, 4); camera axes x right, y down, z forward; the world's z is up, its unit
            the map's (the eye is 41 units above the floor).
        intrinsics: fx, fy, cx, cy in pixels, float64 (4,); the image's top left corner is (0, 0).
        depth: along the camera's z axis in map units, float32 (size, size), 0 where unknown; None if not requested.
    """

    image: np.ndarray
    timestamp: float
    frame_index: int
    pose: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray | None


def render(source: SimulatedSource, frame_size: int) -> Iterator[SimulatedFrame]:
    """Render a life. The same source and size give the same frames in every process.

    Raises:
        LifeError: the wad has no such map, or `frame_size` is not from 16 to 240 px.
    """
    if not 16 <= frame_size <= _HEIGHT:
        raise LifeError(f"Simulated frames can have 16 to {_HEIGHT} px, not {frame_size}.")
    doom_map = DoomMap.read(_wad(source), source.map)  # the game itself would hang on a missing map
    scale = frame_size / _HEIGHT
    camera = np.array([_FOCAL[0] * scale, _FOCAL[1] * scale, frame_size / 2, frame_size / 2])
    with ThreadPoolExecutor(1) as thread, closing(_walk(source, doom_map)) as views:
        developing: Future[list[SimulatedFrame]] | None = None
        while batch := list(itertools.islice(views, _BATCH)):
            ready = developing.result() if developing else ()
            developing = thread.submit(_develop, batch, source, doom_map, camera, frame_size)
            yield from ready
        yield from developing.result() if developing else ()


class _View(NamedTuple):
    """The game's output for one frame: number, time, place, and the middle squares of screen and depth buffer."""

    number: int
    timestamp: float
    position: np.ndarray
    angle: float
    screen: np.ndarray
    buffer: np.ndarray
    heights: tuple[np.ndarray, np.ndarray] | None  # of floors and ceilings, for exact depth


def _walk(source: SimulatedSource, doom_map: DoomMap) -> Generator[_View]:
    walker = Walker(doom_map, np.random.default_rng(source.seed), source.tics_per_frame)
    timestamp, last_position = 0.0, None
    with _started(source) as game, closing(_Twin(source)) as twin:
        for index in range(source.num_frames):
            if game.is_episode_finished():  # the walker has found the exit
                _enter_map(game)
                twin.follow(None)
                last_position = None
            state = game.get_state()
            variables, buffer = state.game_variables, state.depth_buffer
            assert variables is not None and buffer is not None  # _set_up enables both
            position, angle = variables[:3], float(variables[3])
            if index:
                jumped = last_position is None or np.linalg.norm(position - last_position) > _MAX_STEP
                timestamp += source.tics_per_frame / _TICS_PER_SECOND + _CUT_SECONDS * jumped
            last_position = position
            squares = _middle_square(state.screen_buffer), _middle_square(buffer)
            exact = _heights(state) if source.depth == "exact" else None
            yield _View(index, timestamp, position, angle, *squares, exact)
            heights: Heights = twin.heights if exact is None else partial(_heights, state)
            action = _STAND if source.still else walker.step(position, angle, buffer, heights)
            game.make_action(action, source.tics_per_frame)
            twin.follow(action)


def _develop(
    views: list[_View], source: SimulatedSource, doom_map: DoomMap, camera: np.ndarray, size: int
) -> list[SimulatedFrame]:
    """Make frames from the game's views: many at once, which takes a third of the time of one by one."""
    images = _EXPOSURE.take(_resize(np.stack([view.screen for view in views]), size))
    frames = []
    for view, image in zip(views, images, strict=True):
        depth = None
        if source.depth != "none":
            depth = depth_of_buffer(_resize_nearest(view.buffer, size))
        if view.heights is not None and depth is not None:
            exact = exact_depth(doom_map, *view.heights, view.position, view.angle, camera, size)
            known = np.isfinite(exact)  # infinite is the sky
            # Allow for the buffer's own error, and for half a pixel on a slanted surface.
            known[known] = np.abs(exact[known] - depth[known]) <= 8 + 0.04 * exact[known]
            depth = np.where(known, exact, np.float32(0))
        pose = _pose(view.position, view.angle)
        frames.append(SimulatedFrame(image, view.timestamp, view.number, pose, camera, depth))
    return frames


class _Twin:
    """A second game that repeats the first one's actions without rendering, for the heights of floors and ceilings.

    ViZDoom gives all sectors with every frame or never, and that takes twice as long as rendering. The twin catches up
    only when heights are asked for, by many steps at once.
    """

    def __init__(self, source: SimulatedSource):
        self._source, self._running = source, ExitStack()
        self._game: vzd.DoomGame | None = None
        self._behind: list[list[float] | None] = []

    def follow(self, action: list[float] | None) -> None:
        """Note that the first game has taken this action or, if None, entered the map again."""
        self._behind.append(action)

    def heights(self) -> tuple[np.ndarray, np.ndarray]:
        """See `_heights`."""
        if self._game is None:
            self._game = self._running.enter_context(_started(self._source, twin=True))
        for number, action in enumerate(self._behind, start=1):
            if action is None:
                _enter_map(self._game)
            else:
                self._game.set_action(action)
                self._game.advance_action(self._source.tics_per_frame, number == len(self._behind))
        self._behind.clear()
        return _heights(self._game.get_state())

    def close(self) -> None:
        self._running.close()


def _heights(state: vzd.GameState) -> tuple[np.ndarray, np.ndarray]:
    """Floor and ceiling of each sector, in map units."""
    floors = np.array([sector.floor_height for sector in state.sectors])
    return floors, np.array([sector.ceiling_height for sector in state.sectors])


def _wad(source: SimulatedSource) -> Path:
    return Path(vzd.__file__).parent / f"{source.wad}.wad"


@contextmanager
def _started(source: SimulatedSource, twin: bool = False) -> Iterator[vzd.DoomGame]:
    """A game at the start of the map, with a depth buffer (and sectors for exact depth); or a twin with sectors."""
    with tempfile.TemporaryDirectory() as scratch, closing(vzd.DoomGame()) as game:
        _set_up(game, source, Path(scratch), twin)
        try:
            game.init()
            _enter_map(game)
        except (vzd.ViZDoomErrorException, vzd.ViZDoomUnexpectedExitException) as error:
            raise LifeError(f"ViZDoom cannot start {source.wad} {source.map}: {error}") from error
        yield game


def _set_up(game: vzd.DoomGame, source: SimulatedSource, scratch: Path, twin: bool) -> None:
    game.set_vizdoom_path(_engine(scratch))
    game.set_doom_config_path(str(scratch / "vizdoom.ini"))
    game.set_doom_game_path(str(_wad(source)))
    game.set_doom_map(source.map)
    game.set_screen_resolution(vzd.ScreenResolution.RES_160X120 if twin else vzd.ScreenResolution.RES_320X240)
    game.set_screen_format(vzd.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(not twin)
    game.set_sectors_info_enabled(twin or source.depth == "exact")
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vzd.Mode.PLAYER)
    game.set_seed(source.seed)
    game.set_episode_timeout(0)
    for what in ("hud", "weapon", "crosshair", "decals", "particles", "effects_sprites", "messages", "corpses",
                 "screen_flashes"):  # fmt: skip
        getattr(game, f"set_render_{what}")(False)
    # Turn off the game's other overlays, and head bobbing, which would move the eye without changing the pose.
    game.add_game_args("-nomonsters +con_midtime 0 +con_notifytime 0 +cl_showsecretmessage 0 +sv_cheats 1 +movebob 0")
    game.set_available_buttons(list(Walker.BUTTONS))
    game.set_available_game_variables(list(Walker.VARIABLES))


def _engine(scratch: Path) -> str:
    """The program to run as the game: it works in `scratch`, where the game writes files, and ends with its parent."""
    engine = Path(vzd.__file__).parent / "vizdoom"
    if sys.platform == "win32":
        return str(engine.with_suffix(".exe"))
    start = scratch / "start"
    command = [sys.executable, "-I", "-S", "-c", _START_ENGINE, str(scratch), str(engine)]
    start.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    start.chmod(0o700)
    return str(start)


def _enter_map(game: vzd.DoomGame) -> None:
    game.new_episode()
    game.send_game_command("god")
    game.send_game_command("give keys")  # for the locked doors
    game.advance_action(_WARM_UP_TICS)


def _pose(position: np.ndarray, angle: float) -> np.ndarray:
    heading = np.deg2rad(angle)
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    right = np.array([np.sin(heading), -np.cos(heading), 0.0])
    pose = np.eye(4)
    pose[:3] = np.stack([right, [0.0, 0.0, -1.0], forward, position], axis=1)
    return pose


def _middle_square(image: np.ndarray) -> np.ndarray:
    left = (_WIDTH - _HEIGHT) // 2
    return image[:, left : left + _HEIGHT]


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    import torch  # here, so that listing lives and preparing videos need no torch

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()


def _resize_nearest(image: np.ndarray, size: int) -> np.ndarray:
    """Take the value at each pixel's centre, because depths must not be averaged over edges."""
    rows = ((np.arange(size) + 0.5) * len(image) / size).astype(np.int64)
    return image[np.ix_(rows, rows)]


# Screens: slides of a talk, and a recording of a desktop. They are controls, since no camera moves in them.
# They are drawn with Pillow's own font, so that they look the same wherever Pillow draws text with FreeType.

_SIDE = 240  # px: drawn at this size, and then scaled to the frames' size
_INK = (34, 34, 40)
_PAPERS = ((250, 250, 248), (236, 242, 250), (28, 34, 52), (252, 244, 228), (226, 240, 230))
_ACCENTS = ((196, 60, 60), (40, 100, 180), (40, 150, 90), (210, 140, 30), (120, 70, 160))
_SYLLABLES = "ba co du el fi gra ho in ju ka lor mi nu o pra qui ro sta ti um ver wa xe yo zi"
_FONTS = {size: ImageFont.load_default(size) for size in (9, 11, 13, 18)}


def draw_screen(source: ScreenSource, frame_size: int) -> Iterator[np.ndarray]:
    """The frames one by one, each uint8 (frame_size, frame_size, 3), RGB. The same source gives the same frames."""
    generator = np.random.default_rng(source.seed)
    frames = _slides(source, generator) if source.screen == "slides" else _desktop(source, generator)
    last, scaled = None, np.empty(0)
    for frame in frames:
        if frame is not last:  # a slide is scaled once
            last = frame
            scaled = np.asarray(frame.resize((frame_size, frame_size), Image.Resampling.BOX))
        yield scaled


def _words(generator: np.random.Generator, count: int) -> str:
    return " ".join("".join(generator.choice(_SYLLABLES.split(), generator.integers(1, 4))) for _ in range(count))


def _slides(source: ScreenSource, generator: np.random.Generator) -> Iterator[Image.Image]:
    left = source.num_frames
    while left > 0:
        shown = min(left, round(source.frames_per_second * generator.uniform(4, 15)))
        slide = _slide(generator)
        yield from (slide for _ in range(shown))
        left -= shown


def _slide(generator: np.random.Generator) -> Image.Image:
    paper = _PAPERS[generator.integers(len(_PAPERS))]
    ink = _INK if sum(paper) > 380 else (235, 235, 235)
    accent = _ACCENTS[generator.integers(len(_ACCENTS))]
    image = Image.new("RGB", (_SIDE, _SIDE), paper)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, _SIDE, 34), fill=accent)
    draw.text((10, 6), _words(generator, 3).title(), fill=(255, 255, 255), font=_FONTS[18])
    lines = int(generator.integers(2, 6))
    for line in range(lines):
        draw.ellipse((12, 50 + 18 * line, 17, 55 + 18 * line), fill=accent)
        draw.text((24, 45 + 18 * line), _words(generator, 5), fill=ink, font=_FONTS[13])
    top = 56 + 18 * lines
    if generator.random() < 0.5:  # a chart of columns
        for column in range(int(generator.integers(4, 8))):
            height = int(generator.integers(10, _SIDE - top - 20))
            left = 20 + 28 * column
            fill = _ACCENTS[column % len(_ACCENTS)]
            draw.rectangle((left, _SIDE - 14 - height, left + 18, _SIDE - 14), fill=fill)
    else:  # boxes joined by lines
        centres = [(int(x), int(y)) for x, y in generator.uniform((30, top + 20), (_SIDE - 30, _SIDE - 24), (4, 2))]
        draw.line(centres, fill=ink, width=2)
        for (x, y), fill in zip(centres, _ACCENTS, strict=False):
            draw.rectangle((x - 24, y - 12, x + 24, y + 12), fill=fill, outline=ink)
            draw.text((x - 20, y - 6), _words(generator, 1), fill=(255, 255, 255), font=_FONTS[11])
    return image


class _Window:
    """A window with a longer page of text, which scrolls."""

    def __init__(self, generator: np.random.Generator):
        self.width, self.height = (int(side) for side in generator.integers(90, 190, 2))
        self.x, self.y = (float(place) for place in generator.uniform(-20, 120, 2))
        self.accent = _ACCENTS[generator.integers(len(_ACCENTS))]
        dark = generator.random() < 0.4
        paper, ink = ((30, 32, 40), (210, 214, 220)) if dark else ((250, 250, 250), _INK)
        self.page = Image.new("RGB", (self.width, 900), paper)
        draw = ImageDraw.Draw(self.page)
        y = 6
        while y < 880:
            indent = 6 + 10 * int(generator.integers(0, 4))
            if generator.random() < 0.12:  # a picture among the lines
                box = (indent, y, self.width - 8, y + 40)
                draw.rectangle(box, fill=_ACCENTS[generator.integers(len(_ACCENTS))])
                y += 46
            else:
                draw.text((indent, y), _words(generator, int(generator.integers(2, 8))), fill=ink, font=_FONTS[9])
                y += 12
        self.scrolled, self.scrolling, self.moving = 0.0, 0.0, np.zeros(2)

    def paste_on(self, screen: Image.Image) -> None:
        x, y = round(self.x), round(self.y)
        draw = ImageDraw.Draw(screen)
        draw.rectangle((x - 1, y - 1, x + self.width, y + self.height + 14), fill=self.accent)
        top = round(self.scrolled)
        screen.paste(self.page.crop((0, top, self.width, top + self.height)), (x, y + 13))


def _desktop(source: ScreenSource, generator: np.random.Generator) -> Iterator[Image.Image]:
    ramp = np.linspace(0, 1, _SIDE)[:, None, None]
    colours = np.array(_ACCENTS)[generator.permutation(len(_ACCENTS))[:2]]
    background = np.broadcast_to(0.5 * colours[0] * (1 - ramp) + 0.5 * colours[1] * ramp, (_SIDE, _SIDE, 3))
    wallpaper = Image.fromarray(background.astype(np.uint8))
    windows = [_Window(generator) for _ in range(3)]
    pointer = np.array([120.0, 120.0])
    goal = pointer
    often = 1 / source.frames_per_second  # the probability per frame of an event that happens once a second
    for _ in range(source.num_frames):
        top = windows[-1]
        if generator.random() < 0.6 * often:
            top.scrolling = float(generator.normal(0, 5)) if top.scrolling == 0 else 0.0
        if generator.random() < 0.2 * often:
            top.moving = generator.normal(0, 3, 2) if not top.moving.any() else np.zeros(2)
        if generator.random() < 0.15 * often:  # another window comes to the front, or a new one in place of the last
            windows = [*windows[1:], windows[0]] if generator.random() < 0.6 else [*windows[1:], _Window(generator)]
        if generator.random() < 0.7 * often:
            goal = generator.uniform(10, _SIDE - 10, 2)
        top.scrolled = float(np.clip(top.scrolled + top.scrolling, 0, 900 - top.height))
        top.x = float(np.clip(top.x + top.moving[0], -40, _SIDE - 60))
        top.y = float(np.clip(top.y + top.moving[1], -10, _SIDE - 60))
        pointer = pointer + 0.15 * (goal - pointer)
        screen = wallpaper.copy()
        for window in windows:
            window.paste_on(screen)
        draw = ImageDraw.Draw(screen)
        draw.rectangle((0, _SIDE - 14, _SIDE, _SIDE), fill=(20, 22, 28))
        x, y = pointer.tolist()
        draw.polygon([(x, y), (x, y + 13), (x + 9, y + 9)], fill=(255, 255, 255), outline=(0, 0, 0))
        yield screen
