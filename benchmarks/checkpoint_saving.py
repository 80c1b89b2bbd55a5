"""How much of a run's time goes into saving checkpoints, during which the training waits.

    python benchmarks/checkpoint_saving.py
    python benchmarks/checkpoint_saving.py --model small --json saving.json

A checkpoint is written as a run writes it: the model, the optimiser's moments, all of it forced to the disk. Steps are
those of training on this machine, of a few pairs, and are scaled to the recipe's batch. So the share is that of this
machine; how fast the steps may be for it to stay under 2% is said beside it, for machines with a GPU.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()  # as train.py does

import torch
from accelerate import Accelerator
from tqdm import tqdm

from singlelife.commands.options import positive
from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.files import config_names, hub_configs, read_yaml
from singlelife.optimization import parameter_groups
from singlelife.pretraining.checkpoints import TrainingState, save_checkpoint
from singlelife.pretraining.run_folder import RunFolder

_WISH = 0.02  # of the time, at most


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{arguments.model}.yaml"))
    recipe = read_yaml(hub_configs() / "train" / f"{'tiny' if arguments.model == 'tiny' else 'base'}.yaml")
    accelerator = Accelerator(cpu=True)
    model = CroCoForPreTraining(config).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4, fused=True)
    rows, columns = config.grid_size
    shape = (arguments.batch_size, config.num_channels, rows * config.patch_size, columns * config.patch_size)
    views = torch.randn(2, *shape)
    steps, saves = [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as path:
        folder = RunFolder(Path(path))
        for number in tqdm(range(1 + arguments.rounds), desc="rounds", file=sys.stderr):
            start = time.perf_counter()
            model(*views).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            middle = time.perf_counter()
            save_checkpoint(folder, TrainingState(step=number), accelerator, model, optimizer, CroCoImageProcessor())
            end = time.perf_counter()
            size = sum(file.stat().st_size for file in folder.checkpoint_path(number).rglob("*"))
            folder.remove_run()
            if number:  # the first sets things up
                steps.append(middle - start)
                saves.append(end - middle)
    save = statistics.median(saves)
    step = statistics.median(steps) * recipe["train_batch_size"] / arguments.batch_size
    between = step * recipe["save_steps"]
    results = {
        "model": arguments.model,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "checkpoint_bytes": size,
        "save_seconds": save,
        "save_steps": recipe["save_steps"],
        "train_batch_size": recipe["train_batch_size"],
        "step_seconds_scaled": step,
        "share": save / (save + between),
        "least_step_seconds_for_two_percent": save * (1 - _WISH) / _WISH / recipe["save_steps"],
    }
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="base", choices=config_names("models"), help="preset of hub_configs/models")
    parser.add_argument("--batch-size", type=positive, default=2, help="pairs of a timed step")
    parser.add_argument("--rounds", type=positive, default=5, help="checkpoints to take the median of")
    parser.add_argument("--folder", type=Path, help="where to write, to measure its disk; a temporary one by default")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def table(results: dict[str, Any]) -> str:
    """The numbers for people."""
    batch, least = results["train_batch_size"], results["least_step_seconds_for_two_percent"]
    lines = {
        "model": f"{results['model']}, torch {results['torch']}",
        "checkpoint": f"{results['checkpoint_bytes'] / 1e9:.2f} GB in {results['save_seconds']:.2f} s",
        "steps": f"{results['step_seconds_scaled']:.3g} s each, of {batch} pairs (scaled)",
        "interval": f"{results['save_steps']:,} steps",
        "saving": f"{results['share']:.4%} of the time on this machine",
        "under 2%": f"where a step takes {least:.3f} s or more: up to {batch / least:,.0f} pairs/s (computed)",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in lines.items())


if __name__ == "__main__":
    main()
