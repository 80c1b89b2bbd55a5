"""Where a run computes: its processes, threads, number format, and Accelerate over them."""

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    broadcast_object_list,
    parse_flag_from_env,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from singlelife.croco import CroCoConfig
from singlelife.errors import RunError
from singlelife.pretraining.arguments import TrainArguments
from singlelife.pretraining.checkpoints import TrainingState
from singlelife.pretraining.precision import Precision, choose_precision
from singlelife.pretraining.run_folder import RunFolder


def this_process() -> PartialState:
    """This process among those of the run, as the `Accelerator` will find it."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def configure_device(train: TrainArguments, config: CroCoConfig, state: TrainingState) -> Precision:
    """Put every core of the machine to work where it has no GPU, and settle on a number format and attention.

    All processes take the main one's choice; a run that goes on keeps its own.

    Raises:
        RunError: processes were launched together, but do not know of each other.
    """
    process = this_process()
    launched = int(os.environ.get("WORLD_SIZE") or 1)
    if launched > process.num_processes:
        raise RunError(
            f"{launched} processes were launched, but Accelerate finds no GPU to join them on, and each would make a "
            "run of its own in the same folder. On CPUs start one process, or several with `ACCELERATE_USE_CPU=true "
            f"torchrun --nproc_per_node={launched} train.py`; models are sharded (FSDP) on GPUs only."
        )
    if process.device.type == "cpu":
        torch.set_num_threads(train.cpu_threads or _cpu_threads(process.num_processes))
    if state.step:  # both are part of what the losses depend on
        before = {name: state.sequence[name] for name in ("mixed_precision", "attention") if name in state.sequence}
        if train.mixed_precision == "auto":
            train.mixed_precision = before.get("mixed_precision", "auto")
        if train.attention == "auto":
            train.attention = before.get("attention", "auto")
        if "auto" not in (train.mixed_precision, train.attention):
            return Precision(train.mixed_precision, train.attention, "as before")
    share = train.train_batch_size // (train.gradient_accumulation_steps * process.num_processes)
    choice = None
    if process.is_main_process:
        choice = choose_precision(config, max(1, share), process.device, train.mixed_precision, train.attention)
    (precision,) = broadcast_object_list([choice])
    train.mixed_precision, train.attention = precision.name, precision.attention
    return precision


def start_accelerator(train: TrainArguments, folder: RunFolder) -> Accelerator:
    """Accelerate, or an error that says what of the settings it cannot have."""
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in train.report_to or []:
        if tracker not in available:
            raise RunError(
                f"--report-to {tracker}: not a tracker that is installed here; those are "
                f"{', '.join(available) or 'none'}. Install it, for example with pip install tensorboard."
            )
    sharding = None
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION") != "2":
            raise RunError(
                "Only the second version of FSDP works here: pass --fsdp_version 2 to `accelerate launch`, or take "
                "hub_configs/accelerate/fsdp2_8gpu.yaml."
            )
        # Parameters and gradients travel in fp32 and autocast lowers the products, as in every other kind of run.
        sharding = FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())
    try:
        accelerator = Accelerator(
            mixed_precision=train.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=train.gradient_accumulation_steps),
            fsdp_plugin=sharding,
            log_with=train.report_to,
            project_dir=folder.path,
        )
    except ValueError as error:  # a number format that the device or the launcher's settings cannot have
        raise RunError(f"Accelerate cannot start with these settings: {error}") from error
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise RunError(
            f"{accelerator.distributed_type.value} is not supported; to spread a model over GPUs take FSDP2 "
            "(hub_configs/accelerate/fsdp2_8gpu.yaml)."
        )
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "fp16":
        raise RunError("fp16 needs a GPU; on a CPU pass --mixed-precision no, or bf16 where it is fast.")
    return accelerator


def _cpu_threads(num_processes: int) -> int:
    """Threads for this process: what the user's OMP_NUM_THREADS says, or a fair share of the cores.

    `accelerate launch` and `torchrun` export OMP_NUM_THREADS=1 where the user has said nothing, which would leave all
    cores but one idle; a 1 of theirs is not taken for the user's.
    """
    launched = bool(os.environ.keys() & {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"})
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said and not (launched and said == "1"):
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)))
