"""The device of a run: its processes, threads, number format, attention, and Accelerate."""

import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    broadcast_object_list,
    parse_flag_from_env,
)
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedConfig

from singlelife.errors import RunError
from singlelife.machine import say
from singlelife.pretraining.arguments import TrainConfig
from singlelife.pretraining.checkpoints import TrainingState
from singlelife.pretraining.networks import network_class, random_inputs, training_flops
from singlelife.pretraining.run_folder import RunFolder

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WORTH_IT = 1.1  # bf16 must be this much faster than fp32; smaller differences are noise
_HOPELESS = 2.0  # if a plain product takes this much longer in bf16, its steps are not timed
_MOST_PAIRS, _MOST_FLOPS = 16, 2e10  # in a timed step: some tenths of a second on one core


class Precision(NamedTuple):
    """A number format by Accelerate's name (`"no"` is fp32), an attention by transformers' name, and the reason."""

    mixed_precision: str
    attention: str
    reason: str

    def __str__(self) -> str:
        return f"{format_in_words(self.mixed_precision)}, {self.attention} attention ({self.reason})"


def format_in_words(mixed_precision: str) -> str:
    """Accelerate's name of a number format, explained."""
    full = mixed_precision == "no"
    return "fp32 (32-bit numbers)" if full else f"{mixed_precision} (16-bit products, 32-bit weights)"


def peak_flops(device: torch.device, mixed_precision: str) -> float:
    """Operations per second in the fastest of several short products of square matrices. Taking the fastest keeps
    other work on the machine from lowering it."""
    side = 512 if device.type == "cpu" else 8192
    matrix = torch.ones(side, side, dtype=_DTYPES[mixed_precision], device=device)

    def multiply() -> None:
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * side**3 / min(_seconds(multiply, 5))


def configure_device(train: TrainConfig, config: PreTrainedConfig, state: TrainingState) -> Precision:
    """Use every core of a machine without a GPU, and choose a number format and attention.

    All processes take the main process's choice. A resumed run keeps its earlier one.

    Raises:
        RunError: processes were launched together, but cannot find each other.
    """
    process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # as the `Accelerator` will do
    launched = int(os.environ.get("WORLD_SIZE") or 1)
    if launched > process.num_processes:
        raise RunError(
            f"{launched} processes were launched, but Accelerate finds no GPU to join them on. On CPUs start one "
            f"process, or several with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node={launched} train.py`."
        )
    if process.device.type == "cpu":
        torch.set_num_threads(train.cpu_threads or _cpu_threads(process.num_processes))
    asked = [train.mixed_precision, train.attention]
    if state.step:  # the losses depend on both
        before = [state.sequence.get(name, "auto") for name in ("mixed_precision", "attention")]
        asked = [was if now == "auto" else now for now, was in zip(asked, before, strict=True)]
        if "auto" not in asked:
            return Precision(asked[0], asked[1], "as before")
    share = train.train_batch_size // (train.gradient_accumulation_steps * process.num_processes)
    choice = choose_precision(config, max(1, share), process.device, *asked) if process.is_main_process else None
    return broadcast_object_list([choice])[0]


def _cpu_threads(num_processes: int) -> int:
    """Threads for this process: the user's OMP_NUM_THREADS, or a fair share of the cores.

    `accelerate launch` and `torchrun` export OMP_NUM_THREADS=1 if the user has not set it, which would leave all cores
    but one idle. So a 1 counts only if the launcher itself was started with it, or with a flag for it.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads == "1" and os.environ.keys() & {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}:
        launcher, asked_for = Path(f"/proc/{os.getppid()}"), False
        with suppress(OSError):  # there is no /proc
            asked_for = b"OMP_NUM_THREADS=1" in (launcher / "environ").read_bytes().split(b"\0")
            flag = re.compile(rb"--num[_-]cpu[_-]threads[_-]per[_-]process")
            asked_for = asked_for or bool(flag.search((launcher / "cmdline").read_bytes()))
        threads = threads if asked_for else None
    if threads:
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)))


def start_accelerator(train: TrainConfig, folder: RunFolder) -> Accelerator:
    """Start Accelerate. Raises a RunError if it cannot start with these settings."""
    available = [str(tracker) for tracker in get_available_trackers()]
    if absent := set(train.report_to or []).difference(available):
        raise RunError(
            f"--report-to {absent.pop()}: this tracker is not installed. Installed are "
            f"{', '.join(available) or 'none'}."
        )
    sharding = None
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION") != "2":
            raise RunError(
                "Only the second version of FSDP works here: pass --fsdp_version 2 to `accelerate launch`, or use "
                "hub_configs/accelerate/fsdp2_8gpu.yaml."
            )
        # Parameters and gradients are exchanged in fp32, and autocast lowers the products, as in every other run.
        sharding = FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())
    try:
        accelerator = Accelerator(
            mixed_precision=train.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=train.gradient_accumulation_steps),
            fsdp_plugin=sharding,
            log_with=train.report_to,
            project_dir=folder.path,
        )
    except ValueError as error:  # the device or the launcher's settings do not allow the number format
        raise RunError(f"Accelerate cannot start with these settings: {error}") from error
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "fp16":
        raise RunError("fp16 needs a GPU; on a CPU pass --mixed-precision no, or bf16 if the CPU is fast at it.")
    return accelerator


def choose_precision(
    config: PreTrainedConfig,
    batch_size: int,
    device: torch.device,
    mixed_precision: str = "auto",
    attention: str = "auto",
) -> Precision:
    """Replace `"auto"` by a choice.

    The number format is the one given to `accelerate launch --mixed_precision`, otherwise bf16 on a GPU that has it.
    On a CPU, steps of this very model are timed and the faster format wins: bf16 is several times faster on some CPUs
    and eighty times slower on others. Attention is sdpa, which the model writes out when a CPU trains.

    Args:
        batch_size: pairs per process and step.
    """
    reason = "as asked for"
    if mixed_precision == "auto":
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # also "no" if the user gave none
        if launched != "no":
            mixed_precision, reason = launched, "as given to accelerate launch"
        elif device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
            mixed_precision, reason = "bf16", "this GPU has it"
        elif device.type != "cpu":
            mixed_precision, reason = "no", "this device has no bf16 of its own"
    attention = "sdpa" if attention == "auto" else attention
    if mixed_precision != "auto":
        return Precision(mixed_precision, attention, reason)
    say("Timing number formats on this CPU ...")
    matrices = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    full, half = (median(_seconds(partial(torch.mm, matrix, matrix), 5)) for matrix in matrices)
    pairs = min(batch_size, _MOST_PAIRS, 1 + int(_MOST_FLOPS / training_flops(config)))

    def step(enabled: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(*views).loss
        loss.backward()

    with torch.random.fork_rng(devices=[]):  # keeps the run's own random numbers unchanged
        model: Any = network_class(config)(config).train()
        model.set_attn_implementation(attention)
        views = random_inputs(config, pairs)
        taken = {"fp32": median(_seconds(partial(step, False), 2))}
        if half <= _HOPELESS * full:
            taken["bf16"] = median(_seconds(partial(step, True), 2))
    faster = taken["fp32"] > _WORTH_IT * taken.get("bf16", math.inf)
    times = [f"{seconds:.2g} s in {name}" for name, seconds in taken.items()]
    return Precision("bf16" if faster else "no", attention, f"a step of {pairs} took {'; '.join(times)}")


def _seconds(function: Callable[[], object], times: int) -> list[float]:
    """The seconds that each of `times` calls takes, after one that does not count."""
    taken = []
    for _ in range(1 + times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return taken[1:]
