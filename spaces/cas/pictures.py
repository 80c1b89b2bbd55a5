"""What is drawn: values for the page's own elements (`page/*.js` draw them), and the card to share."""

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from reading import verdict
from scoring import Result

from singlelife.alignment.score import common_per_patch, unpack

A_COLOUR, B_COLOUR, BOTH_COLOUR = "#3b82f6", "#f97316", "#22c55e"  # told apart by shape too: see look.js

_THUMBNAIL = 56  # pixels
_CARD_SIZE = (1200, 630)
_VIEW_ON_CARD = 250


def look(
    result: Result, pair: int, query: str, patch: int | None = None, position_free: bool = False
) -> dict[str, Any]:
    """Where both models look in one pair, for the element `look`.

    Args:
        pair: from 0.
        query: that of a link to this result, empty where there can be none.
        patch: of the target, to begin with; one that shows much by default.
        position_free: begin without the models' habits of place.
    """
    rows, columns = result.comparison.grid
    maps = {}
    for name, free in (("raw", False), ("free", True)):
        logits, sets = result.look(pair, free)
        heat = _heat(logits)
        chosen = unpack(sets, rows * columns)
        top = np.nonzero(chosen)[2].reshape(2, rows * columns, result.comparison.k).astype("<u2")
        maps[name] = {"heat": [_base64(each) for each in heat], "top": [_base64(each) for each in top]}
    return {
        "pair": pair,
        "names": [str(model) for model in result.models],
        "rows": rows,
        "columns": columns,
        "k": result.comparison.k,
        "views": [_uri(result.pairs.target[pair]), _uri(result.pairs.source[pair])],
        "maps": maps,
        "truth": result.true_match[pair].tolist(),
        "patch": telling_patch(result, pair)[0] if patch is None else patch,
        "free": position_free,
        "query": query,
        "colours": [A_COLOUR, B_COLOUR, BOTH_COLOUR],
    }


def _heat(logits: np.ndarray) -> np.ndarray:
    """Logits (..., N) as levels, uint8: 0 for the least of each row, 255 for the largest."""
    least, most = logits.min(axis=-1, keepdims=True), logits.max(axis=-1, keepdims=True)
    return np.rint(255 * (logits - least) / np.maximum(most - least, 1e-9)).astype(np.uint8)


def telling_pair(result: Result) -> int:
    """A pair that shows much: its most telling patch is, and there is something to see in it."""
    views = result.pairs.target[: result.num_looks].float()
    contrast = views.std(dim=(1, 2, 3)).numpy()
    return int(np.argmax([telling_patch(result, pair)[1] + contrast[pair] / 10 for pair in range(len(views))]))


def telling_patch(result: Result, pair: int) -> tuple[int, float]:
    """A patch of the target that shows much, and how much: both models agree about it, are right where that is known,
    and its match is far from the same place."""
    rows, columns = result.comparison.grid
    sets = np.stack([run.extraction.raw[pair] for run in result.runs])
    common = common_per_patch(sets[0], sets[1])
    truth, index = result.true_match[pair], np.arange(rows * columns)
    chosen = unpack(sets, rows * columns)
    right = (truth >= 0) & chosen[0, index, truth] & chosen[1, index, truth]
    shift = np.hypot(truth // columns - index // columns, truth % columns - index % columns)
    at_edge = (index // columns % max(rows - 1, 1) == 0) | (index % columns % max(columns - 1, 1) == 0)
    heat = _heat(result.look(pair, False)[0]).astype(np.float32) / 255
    sharp = 1 - (heat**2).mean(axis=(0, 2))  # few places are looked at
    shows = common + np.where(right, 2 * np.minimum(shift, 4), 0) + 15 * sharp - 2 * at_edge
    shows += _contrast(result, pair) / 10
    return int(np.argmax(shows)), float(shows.max())


def _contrast(result: Result, pair: int) -> np.ndarray:
    """The standard deviation of each patch of the target, in levels, (N,)."""
    rows, columns = result.comparison.grid
    grey = result.pairs.target[pair].float().mean(dim=0)
    blocks = [block for band in grey.tensor_split(rows) for block in band.tensor_split(columns, dim=1)]
    return np.array([float(block.std(correction=0)) if block.numel() else 0.0 for block in blocks])


def strip(result: Result, chosen: int) -> dict[str, Any]:
    """Small pictures of all pairs, to choose one by, for the element `strip`."""
    pairs = [
        {"cas": f"{cas:.0%}", "thumbnail": _thumbnail(result.pairs.target[index], result.pairs.source[index])}
        for index, cas in enumerate(result.per_pair[: result.num_looks])
    ]
    return {"pairs": pairs, "chosen": chosen}


def link_query(result: Result, pairs: str | None) -> str:
    """The query parameters that restore a choice; without the pairs where they are a visitor's own."""
    a, b = result.models
    words = {"a": a.name, "ra": a.revision, "b": b.name, "rb": b.revision}
    words |= {"pairs": pairs or "", "k": str(result.comparison.k)}
    return urlencode({name: word for name, word in words.items() if word})


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def card(result: Result, pair: int = 0) -> bytes:
    """A picture of the result to share, PNG, 1200 × 630 pixels: the size that links are shown at."""
    ink, faint, paper = "#0f172a", "#64748b", "#ffffff"
    image = Image.new("RGB", _CARD_SIZE, paper)
    draw = ImageDraw.Draw(image)
    comparison, free = result.comparison, result.reference.position_free
    draw.rectangle((0, 0, _CARD_SIZE[0], 10), fill="#0d9488")
    draw.text((60, 46), "Do two vision models agree about where things are?", font=_font(30), fill=faint)
    for row, (letter, named, colour) in enumerate(zip("AB", result.models, (A_COLOUR, B_COLOUR), strict=True)):
        top = 104 + 46 * row
        draw.rounded_rectangle((60, top, 94, top + 34), 8, fill=colour)
        draw.text((77, top + 17), letter, font=_font(22), fill=paper, anchor="mm")
        draw.text((110, top + 17), _shortened(str(named), 60), font=_font(28), fill=ink, anchor="lm")
    draw.text((60, 216), f"{comparison.raw.cas:.0%}", font=_font(120), fill=ink)
    draw.text((60, 352), f"of matches shared (CAS); chance {comparison.raw.chance:.0%}", font=_font(26), fill=faint)
    draw.text((60, 392), f"{free.cas:.0%} without habits of place", font=_font(26), fill=faint)
    draw.multiline_text((60, 446), _wrapped(verdict(result), 44), font=_font(30), fill=ink, spacing=8)
    draw.text(
        (60, 584),
        f"{comparison.num_pairs} pairs of {comparison.pairs} ({comparison.pairs_hash[:8]}), top {comparison.k} of "
        f"{comparison.grid[0] * comparison.grid[1]} patches  ·  singlelife {comparison.version}",
        font=_font(19), fill=faint,
    )  # fmt: skip
    _draw_matches(image, result, pair)
    content = io.BytesIO()
    image.quantize(128).save(content, "PNG")
    return content.getvalue()


def _draw_matches(image: Image.Image, result: Result, pair: int) -> None:
    """The target with a patch marked, and the source with what A, B and both see there."""
    draw = ImageDraw.Draw(image)
    rows, columns = result.comparison.grid
    patch, _ = telling_patch(result, pair)
    sets = unpack(np.stack([run.extraction.raw[pair] for run in result.runs]), rows * columns)[:, patch]
    left, tops = _CARD_SIZE[0] - 60 - _VIEW_ON_CARD, (40, 318)
    for view, top in zip((result.pairs.target[pair], result.pairs.source[pair]), tops, strict=True):
        picture = Image.fromarray(view.permute(1, 2, 0).numpy())
        image.paste(picture.resize((_VIEW_ON_CARD, _VIEW_ON_CARD), Image.Resampling.BICUBIC), (left, top))

    def outline(index: int, top: int, colour: str) -> None:
        height, width = _VIEW_ON_CARD / rows, _VIEW_ON_CARD / columns
        x, y = left + index % columns * width, top + index // columns * height
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline="white", width=5)
        draw.rectangle((x + 1, y + 1, x + width - 2, y + height - 2), outline=colour, width=3)

    outline(patch, tops[0], "#0f172a")
    for index in range(rows * columns):
        in_a, in_b = sets[0, index], sets[1, index]
        if in_a or in_b:
            outline(index, tops[1], BOTH_COLOUR if in_a and in_b else A_COLOUR if in_a else B_COLOUR)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _uri(view: torch.Tensor) -> str:
    content = io.BytesIO()
    image = Image.fromarray(view.permute(1, 2, 0).numpy())
    small = max(image.size) <= 128
    image.save(content, "PNG" if small else "JPEG", quality=90)
    return data_uri(content.getvalue(), "image/png" if small else "image/jpeg")


def _thumbnail(target: torch.Tensor, source: torch.Tensor) -> str:
    both = Image.new("RGB", (2 * _THUMBNAIL + 2, _THUMBNAIL), "#888888")
    for number, view in enumerate((target, source)):
        image = Image.fromarray(view.permute(1, 2, 0).numpy()).resize((_THUMBNAIL, _THUMBNAIL))
        both.paste(image, (number * (_THUMBNAIL + 2), 0))
    content = io.BytesIO()
    both.save(content, "JPEG", quality=80)
    return data_uri(content.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds it: so that nothing has to be kept on the disk to be downloaded."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def page_file(name: str) -> str:
    """A file of the folder `page`: the scripts, styles and drawings of the page."""
    return (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")
