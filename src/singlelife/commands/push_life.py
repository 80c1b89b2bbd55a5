"""`singlelife push-life`: publish a prepared life on the Hub."""

import argparse

from singlelife.commands.options import Commands, add_cache_dir


def add_command(commands: Commands) -> None:
    """Describe `singlelife push-life`."""
    command = commands.add_parser(
        "push-life",
        help="push a prepared life to the Hub as a data set",
        description="Push the frames of a life to the Hub, with a dataset card, as a data set that `--life ORG/NAME` "
        "and datasets.load_dataset open. It is private unless you say --public: a life shows people who were not "
        "asked. A push that was interrupted goes on with the same command. Needs `hf auth login`, or HF_TOKEN.",
        epilog="example: singlelife push-life my_day my-name/my-day --license 'CC BY-NC 4.0'",
    )
    command.add_argument(
        "life", help="a name that `singlelife lives` lists, the folder of a prepared life, or any name with --video"
    )
    command.add_argument("repo", metavar="ORG/NAME", help="the data set's name on the Hub; made if it is not there")
    command.add_argument("--public", action="store_true", help="let everybody see it, if you may and those seen agree")
    command.add_argument("--license", metavar="NAME", help="of the frames, such as 'CC BY 4.0' (default: the life's)")
    command.add_argument("--revision", metavar="BRANCH", help="commit to this branch (default: main)")
    command.add_argument("--max-shard-size", default="500MB", metavar="SIZE", help="of a file (default: %(default)s)")
    command.add_argument("--video", nargs="+", metavar="PATH", help="files, folders or globs of your recording")
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.lives.hub.push import check_push, push_life
    from singlelife.lives.resolve import resolve_life

    check_push(arguments.repo)
    life = resolve_life(arguments.life, videos=arguments.video, cache_dir=arguments.cache_dir)
    url = push_life(
        life,
        arguments.repo,
        private=not arguments.public,
        revision=arguments.revision,
        max_shard_size=arguments.max_shard_size,
        license=arguments.license,
    )
    print(f"{life.name}: {len(life):,} frames in {url} ({'public' if arguments.public else 'private'})")
    print(f"Train on it anywhere: accelerate launch train.py --life {arguments.repo}")
    return 0
