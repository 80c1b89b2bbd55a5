"""Format text for people: sizes, durations, tables, suggestions for mistyped names."""

import difflib
from collections.abc import Iterable, Sequence


def in_bytes(number: float) -> str:
    """A size in bytes, kB, MB or GB: `in_bytes(2_830_000)` is `"2.8 MB"`."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def duration(seconds: float) -> str:
    """A time span: "45 s", "9 min 20 s", "3 h 05 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table with each column as wide as its longest cell."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A sentence, after a space, with the names closest to a mistyped word, or some of the names if none is close."""
    names = list(names)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    others = f" There are {', '.join(names[:12])}{', …' if len(names) > 12 else '.'}" if names else ""
    return f" Did you mean {' or '.join(near)}?" if near else others
