"""Pretrain one CroCo model on one life, for example:

    accelerate launch train.py --life sim_1
    python train.py --life my_life --video videos/*.mp4
    python train.py --help

Exit codes: 0 at the end of the run, 2 for an error that you can act on, 128 + the signal's number when stopped.
`singlelife train` is the same command; the run itself, top to bottom, is `singlelife.pretraining.pretrain`.
"""

import sys

from singlelife.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
