"""The command `singlelife`: its subcommands (`commands/` has a file for each) and their exit codes."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from singlelife._version import __version__
from singlelife.commands import EXTRAS
from singlelife.errors import SingleLifeError, show_warnings_plainly
from singlelife.flags import parse_flags
from singlelife.text import did_you_mean

COMMANDS = {
    "lives": "list the lives known by name, or explain one",
    "prepare": "turn a recording or a simulation into a dataset of frames",
    "poses": "add camera poses to a prepared life",
    "pairs": "look at the pairs that a model would learn from; make a pair set to score models on",
    "train": "pretrain a model on one life (the same as train.py)",
    "cas": "measure how far models agree about geometry",
    "evaluate": "measure a frozen model's features on correspondence or depth",
    "convert": "open a checkpoint of the reference CroCo as a model of this package",
    "push": "publish a model, a prepared life or a pair set on the Hub",
    "demo": "compare models in the browser, here or as a Space on the Hub",
    "doctor": "show versions, device, cache, models here, and what is missing for which feature",
}

_USAGE = """\
usage: singlelife COMMAND ...

Pretrain one CroCo model per life (one person's egocentric video), and measure whether models that never shared a
frame agree about geometry.

commands (singlelife COMMAND --help explains one):
{commands}

from one person's video to two aligned models:
  singlelife lives                                    the lives known by name
  singlelife train --life sim_1                       pretrain a model on one life
  singlelife train --life my_day --video day/*.mp4    the same on a recording of your own
  singlelife pairs show sim_1                         look at the pairs that the model learns from
  singlelife cas runs/sim_1 runs/sim_2                measure how far two models agree about geometry
  singlelife evaluate correspondence runs/sim_1       measure how well a model matches two views
  singlelife push runs/sim_1                          publish a model on the Hub

training on several processes or GPUs: accelerate launch train.py --life NAME

exit codes: 0 if all went well; 1 if some models or pairs failed and the others were measured; 2 for an error that
you can act on; 130 after Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 if all went well; 1 if something could not be measured; 2 for an error that the user can act
        on, printed on stderr; 130 if interrupted.
    """
    show_warnings_plainly()
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except SingleLifeError as error:
        print(f"singlelife: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = f"pip install 'singlelife[{EXTRAS[package][0]}]'"
        print(f"singlelife: this needs {package}, which is not installed: {extra}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("singlelife: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE.format(commands="\n".join(f"  {name:<10}{summary}" for name, summary in COMMANDS.items())))
        return 0
    if words[0] == "--version":
        print(f"singlelife {__version__}")
        return 0
    for word in words:
        if word.startswith("-") and Path(word).is_file():
            raise SingleLifeError(f"{word} is a file, but a hyphen in front makes it a flag: write ./{word}")
    if words[0] not in COMMANDS:
        raise SingleLifeError(f"there is no command {words[0]!r}.{did_you_mean(words[0], COMMANDS)}")
    if words[0] == "train":  # the defaults in its --help depend on the life
        return import_module("singlelife.commands.train").main(words[1:])
    command = import_module(f"singlelife.commands.{words[0]}").COMMAND
    return parse_flags(command, f"singlelife {words[0]}", words[1:]).run()


if __name__ == "__main__":
    sys.exit(main())
