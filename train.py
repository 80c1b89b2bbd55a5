"""Pretrain one CroCo model on one life, for example:

    accelerate launch train.py --life sim_1
    python train.py --life my_life --video videos/*.mp4
    python train.py --help

Exits with 0 at the end of the run, 2 on what the user can put right, 128 + the signal's number when stopped.
"""

import sys

from singlelife.errors import SingleLifeError, show_warnings_plainly
from singlelife.machine import configure_cpu
from singlelife.pretraining.arguments import parse_arguments


def main() -> int:
    """Read the command line, run, and return the exit code."""
    show_warnings_plainly()
    try:
        arguments = parse_arguments()
        configure_cpu()
        from singlelife.pretraining.pretrain import pretrain  # torch is imported only once the settings are right

        return pretrain(arguments)
    except SingleLifeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
