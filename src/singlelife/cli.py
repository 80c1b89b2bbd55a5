"""The command `singlelife`: which subcommands there are (`commands/` has a file for each), and how it ends."""

import argparse
import sys
from collections.abc import Sequence

from singlelife import __version__
from singlelife.commands import (
    align,
    cas,
    convert,
    demo,
    evaluate,
    hub,
    lives,
    pair_set,
    pairs,
    peek,
    poses,
    prepare,
    push,
    push_life,
    study,
    train_all,
)
from singlelife.commands.options import HelpFormatter
from singlelife.errors import SingleLifeError, show_warnings_plainly

_EXAMPLES = """\
from one person's video to two aligned models:
  singlelife lives                                    the lives known by name
  singlelife train --life sim_1                       pretrain a model on one life
  singlelife train --life my_day --video day/*.mp4    the same on a recording of your own
  singlelife pairs sim_1                              look at the pairs that it would learn from
  singlelife cas runs/sim_1 runs/sim_2 --pairs sim_test
                                                      how far two models agree about geometry
  singlelife evaluate correspondence runs/sim_1 --data sim_test
                                                      how well it matches two views
  singlelife demo                                     the same in the browser
  singlelife push runs/sim_1                          publish a model on the Hub

training on several processes or GPUs: accelerate launch train.py --life NAME"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 2 for an error that the user can act on, told on stderr; 130 if interrupted.
    """
    show_warnings_plainly()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["train"]:  # has its own parser: every field of its configs is a flag
            return _train(words[1:])
        parsed = _parser().parse_args(words)
        return parsed.run(parsed)
    except SingleLifeError as error:
        print(f"singlelife: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("singlelife: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="singlelife",
        description="Pretrain one CroCo model per life, and measure whether models that never shared a frame agree.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"singlelife {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    lives.add_command(commands)
    prepare.add_command(commands)
    poses.add_command(commands)
    pairs.add_command(commands)
    push_life.add_command(commands)
    peek.add_command(commands)
    commands.add_parser("train", help="pretrain a model on one life; the same as train.py (see train --help)")
    train_all.add_command(commands)
    pair_set.add_command(commands)
    cas.add_command(commands)
    align.add_command(commands)
    evaluate.add_command(commands)
    study.add_command(commands)
    convert.add_command(commands)
    demo.add_command(commands)
    push.add_command(commands)
    hub.add_command(commands)
    return parser


def _train(words: list[str]) -> int:
    from singlelife.cpu import settle_cpu
    from singlelife.pretraining.arguments import parse_arguments

    arguments = parse_arguments(words)
    settle_cpu()
    from singlelife.pretraining.pretrain import pretrain  # torch is imported only once the settings are right

    return pretrain(arguments)


if __name__ == "__main__":
    sys.exit(main())
