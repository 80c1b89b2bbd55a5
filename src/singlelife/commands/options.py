"""Options that several commands have."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from singlelife.errors import SingleLifeError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive(word: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, not {number}")
    return number


def check_output(flag: str, path: Path) -> None:
    """Make sure, before any work, that a file can be written where a flag says.

    Raises:
        SingleLifeError: its folder is not there.
    """
    if not path.absolute().parent.is_dir():
        raise SingleLifeError(f"{flag} {path}: there is no such folder to write into.")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows of a table, its columns as wide as their longest cell."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def add_cache_dir(command: argparse.ArgumentParser) -> None:
    """Add `--cache-dir`."""
    command.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)",
    )
