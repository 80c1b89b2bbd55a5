"""The number format of a run's matrix products, where the user leaves the choice open."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from singlelife.croco import CroCoConfig, CroCoForPreTraining

_WORTH_IT = 1.1  # bf16 has to be this much faster than fp32: less is noise, and fp32 is exact
_HOPELESS = 2.0  # a plain product that takes this much longer in bf16: no step needs to be timed
_MOST_PAIRS = 16  # in a timed batch


@dataclass(frozen=True)
class Precision:
    """A choice, as Accelerate names it (`"no"`, `"bf16"` or `"fp16"`), and why, for people."""

    name: str
    reason: str


def choose_precision(config: CroCoConfig, batch_size: int, device: torch.device) -> Precision:
    """What to train in where nothing was asked for.

    What `accelerate launch` was told to use; else bf16 on a GPU that has it; on a CPU whichever of fp32 and bf16 makes
    the faster steps of this very model, timed here and now. Nothing less is safe: bf16 is several times faster on some
    CPUs and eighty times slower on others, and a CPU's name or flags do not tell what it does for a given model.

    Args:
        config: of the model.
        batch_size: pairs per process and step.
        device: of this process.
    """
    told = os.environ.get(
        "ACCELERATE_MIXED_PRECISION", "no"
    )  # `accelerate launch` says "no" where it was told nothing
    if told != "no":
        return Precision(told, "as Accelerate was told")
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision("bf16", "this GPU has it")
    if device.type != "cpu":
        return Precision("no", "this device has no bf16 of its own")
    product = {dtype: _seconds(_product(dtype), 5) for dtype in (torch.float32, torch.bfloat16)}
    if product[torch.bfloat16] > _HOPELESS * product[torch.float32]:
        slower = product[torch.bfloat16] / product[torch.float32]
        return Precision("no", f"a product in bf16 takes this CPU {slower:.0f} times as long")
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers are to be those of its seed
        step = _training_step(config, min(batch_size, _MOST_PAIRS))
        exact, lower = _seconds(partial(step, False), 2), _seconds(partial(step, True), 2)
    said = f"two steps took {exact:.2g} s each in fp32, {lower:.2g} s in bf16"
    return Precision("bf16" if exact > _WORTH_IT * lower else "no", said)


def _product(dtype: torch.dtype) -> Callable[[], object]:
    matrix = torch.ones(512, 512, dtype=dtype)
    return lambda: matrix @ matrix


def _training_step(config: CroCoConfig, batch_size: int) -> Callable[[bool], None]:
    """A function that makes the forward and backward pass of a step, in bf16 if told so."""
    model = CroCoForPreTraining(config).train()
    rows, columns = config.grid_size
    shape = (batch_size, config.num_channels, rows * config.patch_size, columns * config.patch_size)
    target, source = torch.randn(2, *shape)

    def step(lower: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            loss = model(target, source).loss
        loss.backward()

    return step


def _seconds(function: Callable[[], object], times: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    taken = []
    for _ in range(1 + times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])
