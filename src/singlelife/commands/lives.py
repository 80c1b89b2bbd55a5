"""`singlelife lives`: the lives known by name, and what is here of each."""

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from singlelife.commands.options import Commands, add_cache_dir
from singlelife.errors import SingleLifeError

if TYPE_CHECKING:
    from singlelife.lives.registry import Life


def add_command(commands: Commands) -> None:
    """Describe `singlelife lives`."""
    command = commands.add_parser(
        "lives",
        help="list the lives known by name, or explain one",
        description="List the lives known by name, with what is here of each; `singlelife lives show NAME` explains "
        "one: where it comes from, how to get it, where to put it, what will be made of it.",
    )
    command.add_argument("show", nargs="?", choices=("show",), help="explain the life NAME")
    command.add_argument("life", nargs="?", metavar="NAME", help="a name that `singlelife lives` lists")
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.lives.registry import life_names, registered_life
    from singlelife.lives.resolve import life_reference

    if arguments.show and not arguments.life:
        raise SingleLifeError("`singlelife lives show` needs the name of a life; `singlelife lives` lists them.")
    if arguments.show and life_reference(arguments.life).kind == "hub":
        raise SingleLifeError(f"{arguments.life} is on the Hub; `singlelife peek {arguments.life}` looks at it.")
    if arguments.show:
        print(_explained(registered_life(arguments.life), arguments.cache_dir))
        return 0
    columns = ("NAME", "DATA SET", "KIND", "HOURS", "PLACE", "POSES", "ACCESS", "HERE")
    rows = [
        (life.name, life.dataset, life.kind, f"{life.hours:.3g}" if life.hours else "?", life.place, life.poses,
         life.access, _state(life, arguments.cache_dir))
        for life in map(registered_life, life_names())
    ]  # fmt: skip
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\n`singlelife lives show NAME` explains one. A recording of your own is a life too:")
    print("`singlelife train --life NAME --video PATH …`.")
    return 0


def _state(life: "Life", cache_dir: Path | None) -> str:
    from singlelife.lives.prepare import prepared_folders

    if prepared_folders(life, cache_dir):
        return "prepared"
    if life.kind == "simulated":
        return "rendered when needed"
    return "videos" if life.folder.is_dir() else "-"


def _explained(life: "Life", cache_dir: Path | None) -> str:
    from singlelife.lives.prepare import prepared_folders

    frames = round(life.hours * 3600 * life.frame_rate)
    made = f"frames at {life.frame_rate:g} Hz, {life.frame_size} px on the shorter side"
    lines = {
        "data set": f"{life.dataset} ({life.access})",
        "licence": life.license,
        "how to get it": life.source or "It is rendered here when it is needed.",
        "where to put it": "" if life.kind == "simulated" else f"{life.folder} (or name the files with --video)",
        "will be made": made + (f": about {frames:,}" if frames else ""),
        "poses": life.poses or "none",
        "recipe": f"hub_configs/train/{life.train}.yaml",
        "repository": f"ORGANISATION/{life.repository_name}",
        "here": ", ".join(map(str, prepared_folders(life, cache_dir))) or _state(life, cache_dir),
    }
    table = [_filled(f"  {name + ':':<17}", text) for name, text in lines.items() if text]
    return "\n".join(
        [f"{life.name}: {life.description}", *table, "", f"  accelerate launch train.py --life {life.name}"]
    )


def _filled(title: str, text: str) -> str:
    return textwrap.fill(
        title + text, 110, subsequent_indent=" " * len(title), break_long_words=False, break_on_hyphens=False
    )
