"""What a run would cost: a few real steps of it, and nothing written."""

import math
import sys
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from singlelife.errors import RunError
from singlelife.files import free_bytes
from singlelife.lives.prepare import plan_preparation
from singlelife.lives.registry import get_life
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.arguments import RunArguments
from singlelife.pretraining.memory import peak_memory
from singlelife.pretraining.progress import Stopwatch, table
from singlelife.pretraining.trainer import Trainer
from singlelife.text import duration, in_bytes

_SECONDS, _MOST_STEPS = 10.0, 50  # of steps that are timed, after the first
_PART_OF_A_STEP = 1 / 3  # a forward pass alone, as in validation, of a step's operations


def preparation_notice(arguments: RunArguments) -> str:
    """What is made of the life before its pairs can be read, in words; empty where it is there already."""
    assert arguments.life.life, "parse_arguments makes sure of it"
    reference = life_reference(arguments.life.life, arguments.life.video)
    notices = []
    if reference.kind == "hub":
        notices.insert(0, f"{reference.where} is downloaded if it is not here yet; the run needs it too.")
    elif reference.kind == "named":
        life = get_life(arguments.life.life, arguments.life.video)
        plan = plan_preparation(life, cache_dir=arguments.life.cache_dir, progress=False)
        if not plan.is_done:
            notices.insert(
                0,
                f"The life {life.name} is prepared first, since no pair can be read before; the run needs it too: "
                f"about {in_bytes(plan.num_bytes)} in {plan.folder.parent}.",
            )
    return "\n".join(notices)


def dry_run(trainer: Trainer, loader: DataLoader, memory_estimate: int) -> str:
    """Make a few steps and tell what all of them would cost; called by every process.

    The first step is not counted: it allocates memory, and compiles where asked to. As many follow as take about ten
    seconds, one at least and fifty at most.

    Args:
        trainer: of the run.
        loader: its batches.
        memory_estimate: bytes that were expected of a step.

    Returns:
        The report, a table.

    Raises:
        RunError: there is no step left to make.
    """
    arguments, state, accelerator = trainer.arguments, trainer.state, trainer.accelerator
    left = arguments.max_steps - state.step
    if left < 1:
        raise RunError(f"The run has made all of its {arguments.max_steps:,} steps: there is nothing left to try.")
    batches = iter(loader)
    trainer.model.train()
    watch = Stopwatch()
    first = trainer.make_step(batches)
    slowest = _over_processes(trainer, [watch()])[0]
    count = min(left - 1, max(1, min(_MOST_STEPS, int(_SECONDS / slowest))))
    watch, waited = Stopwatch(), 0.0
    for _ in tqdm(range(count), desc="Trying steps", disable=not accelerator.is_main_process, file=sys.stderr):
        waited += trainer.make_step(batches).waited
    used = float(peak_memory(accelerator.device))
    taken, waited, used = _over_processes(trainer, [watch(), waited, used])
    seconds = taken / count if count else slowest
    waits = waited / taken if count else 0.0
    rate = arguments.train_batch_size / seconds

    validations = math.ceil(left / arguments.eval_steps) if trainer.periodic else 0
    validating = validations * arguments.eval_pairs * _PART_OF_A_STEP / rate
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    lines: dict[str, Any] = {
        "tried": f"{count + 1} steps; nothing was written into {trainer.folder.path}",
        "step": f"{seconds:.3g} s: {rate:.0f} pairs/s, MFU {trainer.utilization(rate):.2f}, data wait {waits:.0%}"
        + (" (of batches read ahead; a longer run may wait more)" if count < _read_ahead(loader) else ""),
        "first loss": f"{first.loss:.4f}"
        if not first.not_finite
        else f"none, the step would be skipped: {first.not_finite}",
        "all steps": f"{duration(left * seconds + validating)} for {left:,} steps"
        + (f", {duration(validating)} of it for validation" if validations else "")
        + "; pictures, alignment and saving not counted",
        "memory": f"{in_bytes(used)} at most in a process{_of(accelerator.device, arguments.dataloader_num_workers)}, "
        f"about {in_bytes(memory_estimate)} expected of a step",
        "disk": _disk(trainer, parameters, left),
    }
    return table(lines)


def _over_processes(trainer: Trainer, values: list[float]) -> list[float]:
    """The largest of all processes, of each value."""
    mine = torch.tensor([values], dtype=torch.float32, device=trainer.accelerator.device)
    return trainer.accelerator.gather(mine).max(dim=0).values.tolist()


def _read_ahead(loader: DataLoader) -> int:
    return loader.num_workers * (loader.prefetch_factor or 0)


def _of(device: torch.device, num_workers: int) -> str:
    """What memory is meant."""
    if device.type != "cpu":
        return ", as PyTorch allocated it"
    return f", libraries included{', its loader workers not' if num_workers else ''}"


def _disk(trainer: Trainer, parameters: int, left: int) -> str:
    arguments = trainer.arguments
    checkpoint, final = 12 * parameters, 4 * parameters  # weights and two moments; weights
    written = math.ceil(left / arguments.save_steps)
    kept = min(written, arguments.save_total_limit or written) + (1 if arguments.keep_best and trainer.periodic else 0)
    total = (kept + 1) * checkpoint + final
    free = free_bytes(trainer.folder.path)
    line = (
        f"{in_bytes(checkpoint)} a checkpoint; with {kept} kept, one being written and the finished model up to "
        f"{in_bytes(total)}, of {in_bytes(free)} free"
    )
    return line if total <= free else f"{line}: NOT ENOUGH; lower --save-total-limit or choose another --output-dir"
