"""How fast several processes train on a CPU, next to one process with as many threads.

    python benchmarks/processes.py
    python benchmarks/processes.py --processes 4 --model small --batch-size 32 --json processes.json

Both are whole runs of `train.py`, started by torchrun, of the same pairs in steps of the same size: one process with N
threads, and N processes with one thread each, which exchange their gradients over gloo. The runs take turns, and the
medians of their pairs per second are compared, each without its first lines of metrics.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from singlelife.commands.options import positive
from singlelife.files import config_names
from singlelife.pretraining.run_folder import read_metrics

_TRAIN = Path(__file__).parents[1] / "train.py"
_LINES_LEFT_OUT = 2  # while caches and the loader get under way


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    rates: dict[int, list[float]] = {1: [], arguments.processes: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in tqdm(range(arguments.rounds), desc="rounds", file=sys.stderr):
            for processes, measured in rates.items():
                measured.append(pairs_per_second(processes, Path(folder) / f"run-{number}-{processes}", arguments))
    one, several = (statistics.median(measured) for measured in rates.values())
    results = {
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "mixed_precision": arguments.mixed_precision,
        "cores": os.cpu_count(),
        "processes": arguments.processes,
        "pairs_per_second_of_one_process": one,
        "pairs_per_second_of_all_processes": several,
        "ratio": several / one,
    }
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--processes", type=positive, default=2, help="as many as there are cores, at most")
    parser.add_argument("--model", default="tiny", choices=config_names("models"), help="preset of hub_configs/models")
    parser.add_argument("--life", default="sim_test", help="to train on")
    parser.add_argument("--batch-size", type=positive, default=32, help="pairs per step, over all processes")
    parser.add_argument("--steps", type=positive, default=150, help="of each run")
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16"], help="of all runs")
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"], help="of all runs")
    parser.add_argument("--rounds", type=positive, default=5, help="turns to take medians of")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def pairs_per_second(processes: int, folder: Path, arguments: argparse.Namespace) -> float:
    """Of a run, of its usual line of metrics."""
    threads = arguments.processes // processes
    logging_steps = max(1, arguments.steps // 10)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", str(_TRAIN)),
        *("--life", arguments.life, "--model", arguments.model, "--output-dir", str(folder)),
        *("--train-batch-size", str(arguments.batch_size), "--max-steps", str(arguments.steps)),
        *("--mixed-precision", arguments.mixed_precision, "--attention", arguments.attention),
        *("--cpu-threads", str(threads), "--dataloader-num-workers", "1", "--logging-steps", str(logging_steps)),
        *("--eval-steps", str(arguments.steps), "--save-steps", str(arguments.steps)),
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode or (processes > 1 and f"{processes} processes on cpu" not in done.stdout):
        sys.exit(f"A run failed, or was not one of {processes} processes:\n{done.stdout}{done.stderr}")
    rates = [line["pairs_per_second"] for line in read_metrics(folder / "metrics.jsonl") if "pairs_per_second" in line]
    return statistics.median(rates[_LINES_LEFT_OUT:])


def table(results: dict[str, Any]) -> str:
    """The numbers for people."""
    number = results["processes"]
    precision = "fp32" if results["mixed_precision"] == "no" else results["mixed_precision"]
    lines = {
        "runs": f"{results['model']}, {results['steps']} steps of {results['batch_size']} pairs, {precision}, "
        f"on {results['cores']} cores",
        f"1 process, {number} threads": f"{results['pairs_per_second_of_one_process']:.0f} pairs/s",
        f"{number} processes": f"{results['pairs_per_second_of_all_processes']:.0f} pairs/s",
        "ratio": f"{results['ratio']:.2f}",
    }
    return "\n".join(f"{name:<24}{value}" for name, value in lines.items())


if __name__ == "__main__":
    main()
