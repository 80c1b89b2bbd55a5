"""A pair set for people: what it is in words, and a contact sheet of some of its pairs."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.files import atomic_write

_SIDE, _CAPTION, _GAP, _IN_A_LINE = 160, 16, 10, 3  # in pixels; pairs
_GRID = (6, 6)  # of the points whose true matches are marked


def describe(pairs: PairSet) -> str:
    """A table: size, hash, lives, and how many pairs there are in each bin."""
    about = pairs.provenance
    lives = ", ".join(f"{life['name']} ({life['fingerprint'][:12]})" for life in about.get("lives", []))
    lines = {
        "pairs": f"{len(pairs):,} of {pairs.target.shape[-1]} x {pairs.target.shape[-1]} px",
        "hash": pairs.hash,
        "from": lives or f"the folder {about.get('folder', '')}",
    }
    if "views" in about:
        lines["views"] = about["views"]
    for name, values, unit in (("gap", pairs.gap, " s"), ("overlap", pairs.overlap, "")):
        if values is not None and not np.isnan(values).all():
            least, median, most = np.nanquantile(values, [0, 0.5, 1])
            lines[name] = f"{least:.2f} to {most:.2f}{unit}, median {median:.2f}{unit}"
    values = pairs.overlap if about.get("by") == "overlap" else pairs.gap
    if (bins := about.get("bins")) and values is not None:
        counts = np.histogram(values, np.float32(bins) if about["by"] == "overlap" else np.array(bins))[0]
        edges = [f"{low:g}-{high:g}: {count}" for low, high, count in zip(bins, bins[1:], counts, strict=False)]
        lines["bins"] = f"of {about['by']}, {', '.join(edges)}"
    known = (pairs.true_match((14, 14)) >= 0).float().mean().item() if pairs.matches_known else 0.0
    lines["matches"] = f"known of {known:.0%} of the patches" if known else "not known"
    return "\n".join([pairs.name, *(f"  {name + ':':<9} {text}" for name, text in lines.items())])


def draw_pairs(pairs: PairSet, path: Path, num_pairs: int = 12) -> int:
    """Draw pairs from all over the set into a PNG, target left, true matches as dots of one colour in both views.

    Returns:
        How many were drawn.
    """
    count = min(num_pairs, len(pairs))
    chosen = [index * len(pairs) // count for index in range(count)]
    matches = pairs.true_match(_GRID)
    columns = min(_IN_A_LINE, count)
    width, height = 2 * _SIDE + 2 + _GAP, _SIDE + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(chosen):
        left, top = place % columns * width, place // columns * height
        draw.text((left + 2, top + 2), _caption(pairs, index), fill="black")
        for number, views in enumerate((pairs.target, pairs.source)):
            view = Image.fromarray(views[index].permute(1, 2, 0).numpy()).resize((_SIDE, _SIDE))
            sheet.paste(view, (left + number * (_SIDE + 2), top + _CAPTION))
        for patch, match in enumerate(matches[index].tolist()):
            if match >= 0:
                for number, where in enumerate((patch, match)):
                    _dot(draw, left + number * (_SIDE + 2), top + _CAPTION, where, patch)
    with atomic_write(path) as aside:
        sheet.save(aside, "PNG")
    return count


def _caption(pairs: PairSet, index: int) -> str:
    parts = [f"#{index}"]
    if pairs.gap is not None:
        gap = pairs.gap[index]
        parts.append("two videos" if np.isnan(gap) else f"{gap:.2f} s")
    if pairs.overlap is not None and not np.isnan(pairs.overlap[index]):
        parts.append(f"overlap {pairs.overlap[index]:.2f}")
    return "   ".join(parts)


def _dot(draw: ImageDraw.ImageDraw, left: int, top: int, patch: int, color: int) -> None:
    row, column = divmod(patch, _GRID[1])
    x, y = left + (column + 0.5) * _SIDE / _GRID[1], top + (row + 0.5) * _SIDE / _GRID[0]
    rgb = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(color * 0.618 % 1, 0.9, 1.0))
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=rgb, outline="black")
