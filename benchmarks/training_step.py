"""How much of the machine a training step uses, and how much faster it is than the same model written the plain way.

    python benchmarks/training_step.py --model tiny --batch-size 16
    python benchmarks/training_step.py --model base --batch-size 2 8 --threads 1 2 --json base.json
    python benchmarks/training_step.py --model base --batch-size 64 128 --device cuda --dtype bfloat16

The use of the machine is the model's FLOP/s over the FLOP/s of a matrix product on the same machine. A step is what
training does with a batch on the device: forward, backward, clipping of the gradient, fused AdamW. Its operations are
those of `singlelife.croco.training_flops_per_pair`, whose docstring has the formula. The peak is a product of
two matrices of 2048×2048 (8192×8192 on a GPU) in the step's own number format and threads.

The plain model is that of `plain_croco.py`, whose docstring says what is plain about it, under the same autocast, and
in float32 beside it: that is what one gets who neither chooses a number format nor an implementation.

Products, steps and plain steps alternate, so that a change of the machine's speed meets all, and the medians are
compared. There is a row for each batch size and number of threads.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()  # as train.py does

import torch
from plain_croco import PlainCroCo
from tqdm import tqdm

from singlelife.commands.options import positive
from singlelife.croco import CroCoConfig, CroCoForPreTraining, training_flops_per_pair
from singlelife.files import config_names, hub_configs, read_yaml
from singlelife.optimization import parameter_groups

_PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
_WARM_UP_ROUNDS = 2
_SECONDS_PER_TURN = 0.3  # of each; long against the clock, short against changes of the machine


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{arguments.model}.yaml"))
    config._attn_implementation = arguments.attention
    rows = []
    for threads, batch_size in itertools.product(arguments.threads, arguments.batch_size):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        rows.append(measure(config, batch_size, threads, arguments))
    results = {
        "model": arguments.model,
        "dtype": arguments.dtype,
        "attention": arguments.attention,
        "device": arguments.device,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "flops_per_pair": training_flops_per_pair(config),
        "rows": rows,
    }
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def measure(config: CroCoConfig, batch_size: int, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    side = _PEAK_SIDE.get(device.type, 2048)
    functions = {
        "step": training_step(config, batch_size, dtype, device),
        "plain": plain_step(config, batch_size, dtype, device),
        "plain_float32": plain_step(config, batch_size, torch.float32, device),
        "product": matrix_product(side, dtype, device),
    }
    if dtype is torch.float32:
        del functions["plain_float32"]  # the same
    taken = interleave(functions, arguments.rounds, device)
    plain_float32 = taken.get("plain_float32", taken["plain"])
    achieved = training_flops_per_pair(config) * batch_size / taken["step"]
    peak = 2 * side**3 / taken["product"]
    return {
        "batch_size": batch_size,
        "threads": threads,
        "step_seconds": taken["step"],
        "plain_step_seconds": taken["plain"],
        "times_plain": taken["plain"] / taken["step"],
        "plain_float32_step_seconds": plain_float32,
        "times_plain_float32": plain_float32 / taken["step"],
        "pairs_per_second": batch_size / taken["step"],
        "model_flops_per_second": achieved,
        "peak_flops_per_second": peak,
        "model_flops_utilization": achieved / peak,
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="tiny", choices=config_names("models"), help="preset of hub_configs/models")
    parser.add_argument("--batch-size", type=positive, nargs="+", default=[16], help="pairs per step")
    parser.add_argument("--threads", type=positive, nargs="+", default=[torch.get_num_threads()], help="of a CPU")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="bfloat16 is autocast")
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"], help="as `train.py --attention`")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    parser.add_argument("--rounds", type=positive, default=15, help="turns to take medians of")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def training_step(
    config: CroCoConfig, batch_size: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """A function that trains a new model for one step on random views."""
    model = CroCoForPreTraining(config).train().to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.05), lr=1e-4, betas=(0.9, 0.95), fused=True)
    rows, columns = config.grid_size
    shape = (batch_size, config.num_channels, rows * config.patch_size, columns * config.patch_size)
    target, source = torch.randn(2, *shape, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            loss = model(target, source).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_step(config: CroCoConfig, batch_size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """The same of the plain model."""
    model = PlainCroCo(config).train().to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, foreach=False, fused=False
    )
    rows, columns = config.grid_size
    shape = (batch_size, config.num_channels, rows * config.patch_size, columns * config.patch_size)
    target, source = torch.randn(2, *shape, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            loss = model(target, source)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        optimizer.zero_grad()

    return step


def matrix_product(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """A function that multiplies two square matrices into a third."""
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    out = torch.empty_like(left)

    def product() -> None:
        torch.mm(left, right, out=out)

    return product


def interleave(functions: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a call of each function, measured in turns."""
    for function in functions.values():
        seconds(function, 1, device)  # the first call sets things up
    turns = {
        name: max(1, round(_SECONDS_PER_TURN / seconds(function, 2, device))) for name, function in functions.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in tqdm(range(_WARM_UP_ROUNDS + rounds), desc="rounds", file=sys.stderr):
        for name, times in taken.items():
            measured = seconds(functions[name], turns[name], device)
            if number >= _WARM_UP_ROUNDS:
                times.append(measured)
    return {name: statistics.median(times) for name, times in taken.items()}


def seconds(function: Callable[[], None], times: int, device: torch.device) -> float:
    """Seconds per call, of `times` calls."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        function()
    synchronize()
    return (time.perf_counter() - start) / times


def table(results: dict[str, Any]) -> str:
    """The numbers for people."""
    title = (
        f"{results['model']}, {results['dtype']}, {results['attention']} attention, on {results['device']}, "
        f"torch {results['torch']}; {results['flops_per_pair'] / 1e9:.3f} GFLOP a pair"
    )
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "batch": lambda row: str(row["batch_size"]),
        "threads": lambda row: str(row["threads"]),
        "ms a step": lambda row: f"{row['step_seconds'] * 1e3:.1f}",
        "pairs/s": lambda row: f"{row['pairs_per_second']:.1f}",
        "GFLOP/s": lambda row: f"{row['model_flops_per_second'] / 1e9:.1f}",
        "of the peak": lambda row: f"{row['model_flops_utilization']:.2f}",
        "times plain": lambda row: f"{row['times_plain']:.2f}",
        "plain fp32": lambda row: f"{row['times_plain_float32']:.2f}",
    }
    lines = [title, "".join(f"{name:>13}" for name in columns)]
    lines += ["".join(f"{column(row):>13}" for column in columns.values()) for row in results["rows"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
