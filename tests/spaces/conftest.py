"""The Space's files are found as the Space finds them: beside each other."""

import sys
from pathlib import Path

SPACE = Path(__file__).parents[2] / "spaces" / "cas"
sys.path.insert(0, str(SPACE))
