"""How much of the machine a training step uses, and how much faster it is than the same model written the plain way.

    python benchmarks/training_step.py --model base --batch-size 2 8 --threads 1 2 --json base.json
    python benchmarks/training_step.py --model base --batch-size 64 128 --device cuda --dtype bfloat16

The use of the machine is the model's FLOP/s (see `training_flops_per_pair`) over the FLOP/s of a matrix product,
2048×2048 (8192×8192 on a GPU), in the same number format and threads. A step is what training does with a batch on the
device: forward, backward, clipping, fused AdamW. The plain model is in `plain_croco.py` and uses the same autocast.
Products, steps and plain steps alternate, so that a change of the machine's speed meets all, and medians are compared.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from singlelife.machine import configure_cpu

configure_cpu()  # as train.py does

import torch
import tyro
from plain_croco import PlainCroCo

from singlelife.croco import CroCoConfig, CroCoForPreTraining, training_flops_per_pair
from singlelife.files import hub_configs, read_yaml
from singlelife.optimization import parameter_groups
from singlelife.text import aligned

_PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
_SECONDS_PER_TURN = 0.3  # of each; long against the clock, short against changes of the machine


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    model: str = "tiny"
    """preset of hub_configs/models"""
    batch_size: tuple[int, ...] = (16,)
    """pairs per step"""
    threads: tuple[int, ...] = (torch.get_num_threads(),)
    """CPU threads"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """number format; bfloat16 by autocast"""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """as `train.py --attention`"""
    device: str = "cpu"
    """device, as torch names it"""
    rounds: int = 15
    """turns to take medians of"""
    json: Path | None = None
    """also write the numbers to this file"""


def main(settings: Settings) -> None:
    """Measure, print a table and write the JSON file."""
    config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{settings.model}.yaml"))
    config._attn_implementation = settings.attention
    flops = training_flops_per_pair(config)
    rows = []
    for threads, batch_size in itertools.product(settings.threads, settings.batch_size):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        rows.append({"batch_size": batch_size, "threads": threads} | measure(config, batch_size, flops, settings))
    print(f"{settings.model}, {settings.dtype}, {settings.attention} attention; {flops / 1e9:.3f} GFLOP a pair")
    print(aligned([list(rows[0]), *([f"{value:.4g}" for value in row.values()] for row in rows)]))
    if settings.json:
        about = {name: str(value) for name, value in asdict(settings).items()} | {"torch": torch.__version__}
        settings.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


def measure(config: CroCoConfig, batch_size: int, flops: int, settings: Settings) -> dict[str, Any]:
    """One row of the table."""
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    side = _PEAK_SIDE.get(device.type, 2048)
    functions: dict[str, Callable[[], object]] = {
        "step": training_step(CroCoForPreTraining(config), True, batch_size, dtype, device),
        "plain": training_step(PlainCroCo(config), False, batch_size, dtype, device),
        "product": matrix_product(side, dtype, device),
    }
    taken = interleave(functions, settings.rounds, device)
    return {
        "step_ms": 1e3 * taken["step"],
        "pairs_per_second": batch_size / taken["step"],
        "times_plain": taken["plain"] / taken["step"],
        "share_of_peak": flops * batch_size / taken["step"] / (2 * side**3 / taken["product"]),
    }


def training_step(
    model: torch.nn.Module, fused: bool, batch_size: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """A function that trains a model for one step on random views; if not fused, tensor after tensor."""
    model = model.train().to(device)
    config: Any = model.config
    optimizer = torch.optim.AdamW(
        parameter_groups(model, 0.05), lr=1e-4, betas=(0.9, 0.95), fused=fused, foreach=False
    )
    rows, columns = config.grid_size
    shape = (batch_size, config.num_channels, rows * config.patch_size, columns * config.patch_size)
    target, source = torch.randn(2, *shape, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            loss = model(target, source)
        (loss.loss if fused else loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=None if fused else False)
        optimizer.step()
        optimizer.zero_grad()

    return step


def matrix_product(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A function that multiplies two square matrices into a third."""
    left, right, out = torch.randn(3, side, side, device=device).to(dtype)
    return lambda: torch.mm(left, right, out=out)


def interleave(functions: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a call of each function, measured in turns."""
    for function in functions.values():
        seconds(function, 1, device)  # the first call sets things up
    turns = {name: max(1, round(_SECONDS_PER_TURN / seconds(each, 2, device))) for name, each in functions.items()}
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, times in taken.items():
            times.append(seconds(functions[name], turns[name], device))
    return {name: statistics.median(times) for name, times in taken.items()}


def seconds(function: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds per call, of `times` calls."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        function()
    synchronize()
    return (time.perf_counter() - start) / times


if __name__ == "__main__":
    main(tyro.cli(Settings, description=(__doc__ or "").partition("\n")[0]))
