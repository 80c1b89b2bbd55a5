"""The experiments are scripts beside each other, which find each other as Snakemake starts them."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "shared_world"
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))
