"""How much of the machine a training step uses: its model FLOP/s over the matmul FLOP/s of the same machine.

    python benchmarks/training_step.py --model tiny --batch-size 32
    python benchmarks/training_step.py --model base --batch-size 8 --threads 2 --json base.json

A step is what training does with a batch on the device: forward, backward, clipping of the gradient, fused AdamW. Its
operations are those of `singlelife.croco.flops.training_flops_per_pair`, whose docstring has the formula. The peak is
a product of two float32 matrices of 2048×2048 (2·2048³ operations), whatever the step's own precision.

Products and steps alternate, so that a change of the machine's speed meets both, and the medians are compared.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from singlelife.cpu import settle_cpu

settle_cpu()  # as train.py does

import torch
from tqdm import tqdm

from singlelife.commands.options import positive
from singlelife.configs import config_names, hub_configs, read_yaml
from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.croco.flops import training_flops_per_pair
from singlelife.pretraining.optimization import parameter_groups

_PEAK_SIDE = 2048
_WARM_UP_ROUNDS = 2
_SECONDS_PER_TURN = 0.3  # of steps, then of products; long against the clock, short against changes of the machine


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{arguments.model}.yaml"))
    dtype = getattr(torch, arguments.dtype)
    device = torch.device(arguments.device)

    step = training_step(config, arguments.batch_size, dtype, device)
    product = matrix_product(device)
    step_seconds, product_seconds = interleave(step, product, arguments.rounds, device)

    flops = training_flops_per_pair(config)
    achieved = flops * arguments.batch_size / step_seconds
    peak = 2 * _PEAK_SIDE**3 / product_seconds
    results = {
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "dtype": arguments.dtype,
        "device": arguments.device,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "flops_per_pair": flops,
        "step_seconds": step_seconds,
        "pairs_per_second": arguments.batch_size / step_seconds,
        "model_flops_per_second": achieved,
        "peak_fp32_flops_per_second": peak,
        "model_flops_utilization": achieved / peak,
    }
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="tiny", choices=config_names("models"), help="preset of hub_configs/models")
    parser.add_argument("--batch-size", type=positive, default=32, help="pairs per step")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="CPU threads, of both")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="bfloat16 is autocast")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    parser.add_argument("--rounds", type=positive, default=15, help="turns of steps and products to take medians of")
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


def matrix_product(device: torch.device) -> Callable[[], None]:
    """A function that multiplies two square float32 matrices into a third."""
    left, right = torch.randn(2, _PEAK_SIDE, _PEAK_SIDE, device=device)
    out = torch.empty_like(left)

    def product() -> None:
        torch.mm(left, right, out=out)

    return product


def interleave(
    step: Callable[[], None], product: Callable[[], None], rounds: int, device: torch.device
) -> tuple[float, float]:
    """Median seconds of one step and of one product, measured in turns."""
    turns = {function: max(1, round(_SECONDS_PER_TURN / seconds(function, 2, device))) for function in (step, product)}
    taken: dict[Callable[[], None], list[float]] = {step: [], product: []}
    for number in tqdm(range(_WARM_UP_ROUNDS + rounds), desc="rounds", file=sys.stderr):
        for function, times in taken.items():
            measured = seconds(function, turns[function], device)
            if number >= _WARM_UP_ROUNDS:
                times.append(measured)
    return statistics.median(taken[step]), statistics.median(taken[product])


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
    lines = {
        "model": f"{results['model']}, batch {results['batch_size']}, {results['dtype']}",
        "device": f"{results['device']}, {results['threads']} threads, torch {results['torch']}",
        "step": f"{results['step_seconds'] * 1e3:.1f} ms, {results['pairs_per_second']:.1f} pairs/s",
        "operations per pair": f"{results['flops_per_pair'] / 1e9:.3f} GFLOP",
        "achieved": f"{results['model_flops_per_second'] / 1e9:.1f} GFLOP/s",
        "fp32 matmul peak": f"{results['peak_fp32_flops_per_second'] / 1e9:.1f} GFLOP/s",
        "model / peak": f"{results['model_flops_utilization']:.2f}",
    }
    return "\n".join(f"{name:<20}{value}" for name, value in lines.items())


if __name__ == "__main__":
    main()
