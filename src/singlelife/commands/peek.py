"""`singlelife peek`: a first look at a life on the Hub, without downloading it."""

import argparse
from pathlib import Path

from singlelife.commands.options import Commands, check_output, positive
from singlelife.errors import SingleLifeError


def add_command(commands: Commands) -> None:
    """Describe `singlelife peek`."""
    command = commands.add_parser(
        "peek",
        help="look at a life on the Hub without downloading it",
        description="Stream some frames of a data set on the Hub, say what it is, how large and under which licence, "
        "and draw the frames as a contact sheet. Training needs all of it, and downloads it.",
        epilog="example: singlelife peek my-name/my-day --output my-day.png",
    )
    command.add_argument("repo", metavar="ORG/NAME", help="the data set, or ORG/NAME@REVISION")
    command.add_argument("--frames", type=positive, default=24, metavar="N", help="to draw (default: %(default)s)")
    command.add_argument("--output", type=Path, metavar="FILE", help="the picture (default: NAME.png)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.lives.hub.peek import peek
    from singlelife.lives.resolve import life_reference

    reference = life_reference(arguments.repo)
    if reference.kind != "hub":
        raise SingleLifeError(
            f"{arguments.repo} is not the name of a data set on the Hub; it should look like ORG/NAME."
        )
    output = arguments.output or Path(f"{reference.name}.png")
    check_output("--output", output)
    print(peek(reference.where, output, revision=reference.revision, num_frames=arguments.frames))
    return 0
