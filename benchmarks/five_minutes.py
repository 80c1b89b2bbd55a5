"""From the first command to models that match: train two lives with the default recipe, and score them on a third.

    python benchmarks/five_minutes.py
    python benchmarks/five_minutes.py --max-steps 30 --json results.json

Prints a row of a Markdown table: the mean over seeds, and the values of each seed in brackets. Seconds are the time of
a training command, without rendering its life, which happens once before. Work is counted in TFLOP, to compare across
machines: operations of the model, forward and backward (see `training_flops_per_pair`), and of the optimiser.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

import singlelife
from singlelife.croco import CroCoForPreTraining, training_flops_per_pair
from singlelife.lives.resolve import resolve_life
from singlelife.pretraining.arguments import RunConfig, parse_arguments
from singlelife.pretraining.pretrain import make_optimizer

ROOT = Path(__file__).parents[1]
ELEMENTWISE = 15  # operations of AdamW per parameter: two moments, their corrections, root, division, decay


@dataclass(frozen=True)
class Settings:
    """What to run."""

    seeds: tuple[int, ...] = (0,)
    """train both lives once with each of these"""
    lives: tuple[str, str] = ("sim_1", "sim_2")
    """two lives to train on"""
    pairs: str = "sim_test"
    """the life to score on"""
    num_pairs: int = 384
    """pairs of that life"""
    max_steps: int | None = None
    """fewer steps than the recipe's, to try this script"""
    cache_dir: Path | None = None
    """where prepared lives are kept (default: as for all commands)"""
    json: Path | None = None
    """also write the numbers to this file"""


def main(settings: Settings) -> None:
    """Train, score, print the table and write the JSON file."""
    for life in (*settings.lives, settings.pairs):
        resolve_life(life, cache_dir=settings.cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        results = [one_seed(settings, seed, Path(folder)) for seed in settings.seeds]
    columns = [name for name in results[0] if name != "seed"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    print(f"| {' | '.join(cell([result[name] for result in results]) for name in columns)} |")
    if settings.json:
        settings.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def one_seed(settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Train both lives with a seed and score them against each other, in the columns of the table."""
    runs = [folder / f"{life}_{seed}" for life in settings.lives]
    seconds = []
    for life, run in zip(settings.lives, runs, strict=True):
        words = ["--life", life, "--output-dir", str(run), "--seed", str(seed)]
        words += ["--max-steps", str(settings.max_steps)] if settings.max_steps else []
        words += ["--cache-dir", str(settings.cache_dir)] if settings.cache_dir else []
        start = time.perf_counter()
        # The command that `accelerate launch train.py` runs in one process, without the user's own Accelerate config.
        environment = os.environ | {"TQDM_DISABLE": "1"}
        subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True, env=environment, stdout=sys.stderr)
        seconds.append(time.perf_counter() - start)
    config = parse_arguments(words)  # the same for both lives, except for the names
    result = singlelife.cas(
        *map(str, runs),
        pairs=settings.pairs,
        num_pairs=settings.num_pairs,
        cache_dir=settings.cache_dir,
        progress=False,
    )
    found = {(row.metric, row.model): row.value for row in result.rows()}
    values = {"seed": seed, "steps": config.train.max_steps, "TFLOP": tflop(config, runs[0]), "seconds": mean(seconds)}
    names = {"centred": "centred CAS", "centred_null": "null", "centred_excess": "excess", "raw": "raw CAS"}
    values |= {name: found[metric, str(runs[0])] for metric, name in names.items()}
    for variant in ("raw", "centred"):
        for life, run in zip(settings.lives, runs, strict=True):
            value = found[f"true_match_{variant}_large_shifts", str(run)]
            values[f"true matches at large shifts, {variant}, {life}"] = value
    return values


def tflop(config: RunConfig, run: Path) -> float:
    """Operations of one training, in units of 10^12."""
    model = CroCoForPreTraining.from_pretrained(run)
    optimizer = make_optimizer(model, config.train, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with FlopCounterMode(display=False) as counter:  # counts matrix products
        optimizer.step()
    of_optimizer = counter.get_total_flops() + ELEMENTWISE * sum(each.numel() for each in model.parameters())
    of_model = config.train.train_batch_size * training_flops_per_pair(model.config)
    return config.train.max_steps * (of_model + of_optimizer) / 1e12


def cell(values: list[float]) -> str:
    """The mean, and each value if there are several."""
    digits = "{:,.0f}" if min(values) >= 100 else "{:.3g}" if min(values) >= 1 else "{:.3f}"
    every = f" ({', '.join(map(digits.format, values))})" if len(values) > 1 else ""
    return digits.format(mean(values)) + every


if __name__ == "__main__":
    main(tyro.cli(Settings, description=(__doc__ or "").partition("\n")[0]))
