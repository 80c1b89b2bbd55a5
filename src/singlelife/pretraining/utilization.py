"""How much of the hardware a run uses: model FLOP/s over the FLOP/s that its devices can make (MFU).

The model's operations are those of `singlelife.croco`, so what is computed beyond need (activations computed
twice, say) does not count. MFU is theirs over the peak of all processes' devices, in the number format of the run.
"""

import re
import statistics
import time
from dataclasses import dataclass

import torch

from singlelife.files import hub_configs, read_yaml

_TABLE = "gpu_peaks.yaml"
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDES = (256, 1024)  # of the matrices of a timed product on a CPU, as the first tells what it can bear
_GPU_SIDE = 8192
_SECONDS = 0.3  # of products; a peak is known in well under a second
_SLOW = 0.02  # seconds that the small product may take, for the large one to be tried


@dataclass(frozen=True)
class Peak:
    """The most that a device can do.

    Attributes:
        flops_per_second: of matrix products in the number format of the run.
        source: where the number comes from, for people.
    """

    flops_per_second: float
    source: str

    def __str__(self) -> str:
        tera = self.flops_per_second / 1e12
        amount = f"{tera:.0f} TFLOP/s" if tera >= 10 else f"{1e3 * tera:.0f} GFLOP/s"
        return f"{amount} ({self.source})"


def device_peak(device: torch.device, mixed_precision: str) -> Peak:
    """The peak of this process's device: of a GPU that is in the table that one, else measured here and now.

    Args:
        device: of this process.
        mixed_precision: as Accelerate names it, `"no"`, `"bf16"` or `"fp16"`.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    stated = stated_peak(name, mixed_precision)
    return stated if stated is not None else measured_peak(device, _DTYPES[mixed_precision])


def stated_peak(gpu: str, mixed_precision: str) -> Peak | None:
    """What the maker states of a GPU, by the name that its driver gives; None of one that is not in the table."""
    table = read_yaml(hub_configs() / _TABLE)
    keys = [key for key in table if re.search(rf"(?<![A-Za-z0-9]){re.escape(key)}(?![A-Za-z0-9])", gpu)]
    if not keys:
        return None
    key = max(keys, key=len)
    column = "fp32" if mixed_precision == "no" else "16bit"
    return Peak(table[key][column] * 1e12, f"stated for the {key} in {_format(mixed_precision)}, dense")


def measured_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The median speed of products of two square matrices, timed for a third of a second on the threads of the run."""
    if device.type != "cpu":
        side = _GPU_SIDE
    else:
        side = _SIDES[0] if _seconds_of_product(device, dtype, _SIDES[0], 1) > _SLOW else _SIDES[1]
    seconds = _seconds_of_product(device, dtype, side)
    name = next(name for name, each in _DTYPES.items() if each is dtype)
    return Peak(2 * side**3 / seconds, f"a product of {side}x{side} {_format(name)} matrices, timed here")


def utilization(flops_per_pair: int, pairs_per_second: float, peak: Peak, num_processes: int) -> float:
    """MFU, 0 to 1: of a run whose processes have one device each, all alike."""
    return flops_per_pair * pairs_per_second / (peak.flops_per_second * num_processes)


def _format(mixed_precision: str) -> str:
    return "fp32" if mixed_precision == "no" else mixed_precision


def _seconds_of_product(device: torch.device, dtype: torch.dtype, side: int, most: int = 1000) -> float:
    """Median seconds of a product, of at most so many after one that is not counted."""
    # A generator of its own, so that the run's random numbers are those of its seed; and not all ones, which some GPUs
    # multiply faster than what a model has.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.rand(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    taken: list[float] = []
    while len(taken) <= most and sum(taken) < _SECONDS:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:] or taken)
