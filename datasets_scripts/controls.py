"""The controls, video that is no life: what is here of each, and the dataset of frames."""

import sys

from singlelife.lives.dataset_cli import LifeScript

SCRIPT = LifeScript(
    name="controls",
    description="The five controls of the paper: a computer's screen, a camera that watches a place, slides or "
    "animation, a still camera, and the frames of a life in random order. Record or bring the first four; the "
    "fifth is made of wt_1, and `shuffled-NAME` is the same of any other life.",
    examples="""\
  python datasets_scripts/controls.py                           what is here
  python datasets_scripts/controls.py control_screen --videos screen.mkv --prepare
  singlelife prepare shuffled-hdepic_1                          the frames of hdepic_1 in random order""",
)

if __name__ == "__main__":
    sys.exit(SCRIPT.run())
