"""What the README's first command takes, end to end: the life is rendered, and a model trains on it.

    python benchmarks/five_minutes.py
    python benchmarks/five_minutes.py --max-steps 100 --json first_command.json

Everything is made in a folder of its own, so that nothing of an earlier run is there. The work is the model's
operations, forward and backward (see `training_flops_per_pair`), over all steps.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from singlelife.croco import CroCoConfig, training_flops_per_pair
from singlelife.pretraining.arguments import RunConfig, parse_arguments
from singlelife.pretraining.run_folder import read_metrics
from singlelife.text import aligned, duration

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Settings:
    """What to run."""

    life: str = "sim_1"
    """a simulated life"""
    max_steps: int | None = None
    """fewer steps than the recipe's, to try this script"""
    json: Path | None = None
    """also write the numbers to this file"""


def main(settings: Settings) -> None:
    """Run the command, print a table and write the JSON file."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--life", settings.life, "--output-dir", f"{folder}/run", "--cache-dir", f"{folder}/cache"]
        words += ["--max-steps", str(settings.max_steps)] if settings.max_steps else []
        start = time.perf_counter()
        # What `accelerate launch train.py` runs in one process, without the user's own Accelerate config.
        environment = os.environ | {"TQDM_DISABLE": "1"}
        subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True, env=environment)
        results = {"seconds": time.perf_counter() - start} | measured(parse_arguments(words), Path(folder) / "run")
    rows = [
        ("time", duration(results["seconds"])),
        ("steps", f"{results['steps']:,}"),
        ("work", f"{results['tflop']:.3g} TFLOP"),
        ("final loss, training", f"{results['loss']:.4f}"),
        ("final loss, validation", f"{results['val_loss']:.4f}"),
    ]
    print(aligned(rows))
    if settings.json:
        settings.json.write_text(json.dumps({"life": settings.life} | results, indent=2) + "\n", encoding="utf-8")


def measured(config: RunConfig, run: Path) -> dict[str, Any]:
    """The numbers of a finished run."""
    last = {name: value for line in read_metrics(run / "metrics.jsonl") for name, value in line.items()}
    flops = training_flops_per_pair(CroCoConfig.from_pretrained(run))
    pairs = config.train.max_steps * config.train.train_batch_size
    kept = {name: last[name] for name in ("loss", "val_loss")}
    return {"steps": config.train.max_steps, "tflop": flops * pairs / 1e12} | kept


if __name__ == "__main__":
    main(tyro.cli(Settings, description=(__doc__ or "").partition("\n")[0]))
