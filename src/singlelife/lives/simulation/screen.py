"""Screens: slides of a talk, and a recording of a desktop. Controls that are no life, since no camera moves in them.

They are drawn with Pillow's own font, so that they look the same everywhere that Pillow draws text (FreeType).
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from singlelife.lives.simulation import ScreenSource

SCREEN_VERSION = 1  # part of the fingerprint of a life: raise it when the same source gives other frames

_SIDE = 240  # px: drawn at this size, and scaled to that of the frames
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
    else:  # boxes and what joins them
        centres = [(int(x), int(y)) for x, y in generator.uniform((30, top + 20), (_SIDE - 30, _SIDE - 24), (4, 2))]
        draw.line(centres, fill=ink, width=2)
        for (x, y), fill in zip(centres, _ACCENTS, strict=False):
            draw.rectangle((x - 24, y - 12, x + 24, y + 12), fill=fill, outline=ink)
            draw.text((x - 20, y - 6), _words(generator, 1), fill=(255, 255, 255), font=_FONTS[11])
    return image


class _Window:
    """A window: a page of text, taller than it, that scrolls by."""

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
    often = 1 / source.frames_per_second  # the chance, in a frame, of what happens once a second
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
