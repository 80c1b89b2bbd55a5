"""Options that several commands have."""

import argparse
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive(word: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, not {number}")
    return number


def add_cache_dir(command: argparse.ArgumentParser) -> None:
    """Add `--cache-dir`."""
    command.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)",
    )
