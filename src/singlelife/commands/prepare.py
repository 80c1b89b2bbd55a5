"""`singlelife prepare`: make a life's dataset of frames."""

import argparse

from singlelife.commands.options import Commands, add_cache_dir, positive


def add_command(commands: Commands) -> None:
    """Describe `singlelife prepare`."""
    command = commands.add_parser(
        "prepare",
        help="prepare a life without training on it",
        description="Turn a life's video, or its simulation, into a dataset of frames, or download one that is on the "
        "Hub. Training does it by itself.",
    )
    command.add_argument("life", help="a name that `singlelife lives` lists, a new one with --video, or ORG/NAME of "
                         "a life on the Hub")  # fmt: skip
    command.add_argument("--video", nargs="+", metavar="PATH", help="files, folders or globs of your recording")
    command.add_argument("--strict", action="store_true", help="stop at a video that cannot be read")
    command.add_argument(
        "--workers", type=positive, metavar="N", help="processes, one video each (default: all cores)"
    )
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.lives.resolve import resolve_life

    life = resolve_life(
        arguments.life,
        videos=arguments.video,
        cache_dir=arguments.cache_dir,
        num_workers=arguments.workers,
        strict=arguments.strict,
    )
    print(f"{life.name}: {len(life):,} frames of {len(life.videos)} video(s) in {life.path}")
    return 0
