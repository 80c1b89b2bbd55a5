"""The pairs of each training step, and their way to the model.

Step `s` of a run uses pairs `s * B` to `(s + 1) * B - 1`, whatever the number of processes, accumulated batches and
loader workers: each process reads its own share of them.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Sampler

from singlelife.croco import CroCoConfig
from singlelife.errors import LifeError, RunError
from singlelife.lives.pairs.dataset import PairDataset, color_factors, to_pixel_values
from singlelife.lives.pairs.pairing import Pairing, PairingContext, TemporalPairing, make_pairing
from singlelife.lives.pairs.segments import first_hours, hold_out
from singlelife.lives.prepared import PreparedLife
from singlelife.pretraining.arguments import PairConfig, TrainConfig

# Ctrl-C; a scheduler; SLURM before a job's time limit, if asked (--signal=USR1@300); a closed terminal.
_STOP = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
STOP_SIGNALS = [getattr(signal, name) for name in _STOP if hasattr(signal, name)]
VALIDATION_SEED = 2**64 - 1  # outside the range of --seed, and the same for all runs, so that their losses compare

_PREFETCH = 4  # the maximum number of batches that each worker prepares ahead
_NICENESS = 10  # of workers: they get a tenth of a training thread's share when both want a core


class StepSampler(Sampler[list[int]]):
    """The pair indices of one process's batches, step after step; it can start at any step at once.

    Args:
        steps: optimiser steps to make.
        batch_size: B, pairs per optimiser step over all processes.
        accumulation: batches per optimiser step.
        num_processes, process_index: the run's processes, and which one this is.

    Raises:
        RunError: B cannot be divided evenly.
    """

    def __init__(
        self, steps: range, batch_size: int, accumulation: int = 1, num_processes: int = 1, process_index: int = 0
    ):
        if batch_size % (accumulation * num_processes):
            raise RunError(
                f"--train-batch-size {batch_size} cannot be divided evenly over {num_processes} processes and "
                f"{accumulation} accumulated batches; make it a multiple of {accumulation * num_processes}."
            )
        self.steps, self.batch_size, self.accumulation = steps, batch_size, accumulation
        self.num_processes, self.process_index = num_processes, process_index
        self.local_batch_size = batch_size // (accumulation * num_processes)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in range(self.accumulation):
                share = part * self.num_processes + self.process_index
                first = step * self.batch_size + share * self.local_batch_size
                yield list(range(first, first + self.local_batch_size))


def pairings(life: PreparedLife, pairs: PairConfig, *, progress: bool = True) -> tuple[Pairing, Pairing | None]:
    """The pairing to train on, and the one of the held-out stretches (None if nothing is held out).

    Held-out stretches are short and may contain no spatial pair. Validation then uses temporal pairs.

    With `hours`, training uses no later frame. The held-out stretches stay those of the whole life, so that runs on
    different durations have their validation losses on the same pairs.

    Args:
        progress: show progress bars on stderr if overlaps must be computed.

    Raises:
        LifeError: no such pairs can be made.
    """
    whole = PairingContext.of_life(life, pairs, progress=progress)
    max_gap = whole.settings.max_gap
    train_rows, validation_rows = hold_out(life.timestamps, life.video_index, pairs.validation_fraction, max_gap)
    seen = whole
    if (num_frames := frames_seen(life, pairs)) < len(life):
        seen = PairingContext.of_life(life, pairs, num_frames=num_frames, progress=progress)
        train_rows = train_rows[train_rows < num_frames]
    train = make_pairing(pairs.pairing, replace(seen, rows=train_rows))
    if not len(validation_rows):
        return train, None
    held_out = replace(whole, rows=validation_rows)
    try:
        return train, make_pairing(pairs.pairing, held_out)
    except LifeError as why:
        with suppress(LifeError):
            return train, TemporalPairing.of(held_out)
        raise LifeError(
            f"The held-out stretches are too short to validate on: {why} Or hold out another share of the life "
            "(--validation-fraction; with 0 there is no validation loss)."
        ) from why


def frames_seen(life: PreparedLife, pairs: PairConfig) -> int:
    """The number of frames, from the first, that a run may train on (`--hours`); some of them may be held out.

    Raises:
        LifeError: the life is shorter than `hours`.
    """
    return len(life) if pairs.hours is None else first_hours(life.timestamps, life.video_index, pairs.hours)


def pair_datasets(
    life: PreparedLife, pairs: PairConfig, train: TrainConfig, model: CroCoConfig, *, progress: bool = True
) -> tuple[PairDataset, PairDataset | None]:
    """The pairs to train on, and fixed pairs from held-out stretches (None if nothing is held out).

    Raises:
        LifeError: no such pairs can be made, there are fewer than a batch, or a size is impossible.
    """
    if pairs.pairing == "augmented" and pairs.shared_crop:
        raise LifeError(
            "Augmented pairs with a shared crop show the same picture twice: leave out --shared-crop, or choose "
            "another --pairing."
        )
    to_train, held_out = pairings(life, pairs, progress=progress)
    if len(to_train) < train.train_batch_size:
        raise LifeError(
            f"The life {life.name} has only {len(to_train):,} different pairs ({to_train}), fewer than a step's "
            f"{train.train_batch_size:,}: each step would learn from the same pairs again. Use a longer recording, "
            "other pair settings, or a smaller --train-batch-size."
        )

    def dataset(pairing: Pairing, seed: int, num_pairs: int, flip: bool) -> PairDataset:
        return PairDataset(
            life,
            pairing,
            seed=seed,
            num_pairs=num_pairs,
            image_size=model.grid_size[0] * model.patch_size,  # views are square
            patch_size=model.patch_size,
            mask_ratio=model.mask_ratio,
            crop_area=(pairs.crop_area_min, pairs.crop_area_max),
            crop_aspect=(1 / pairs.crop_aspect, pairs.crop_aspect),
            shared_crop=pairs.shared_crop,
            flip=flip,
        )

    of_run = dataset(to_train, train.seed, train.max_steps * train.train_batch_size, pairs.flip)
    return of_run, dataset(held_out, VALIDATION_SEED, train.eval_pairs, False) if held_out else None


def train_loader(dataset: PairDataset, sampler: StepSampler, num_workers: int, device: torch.device) -> DataLoader:
    """Batches of `dataset` in the sampler's order, read ahead by `num_workers` processes, for a model on `device`."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=_already_a_batch,
        num_workers=num_workers,
        prefetch_factor=_PREFETCH if num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
    )


def read_batches(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """The loader's batches, with plain errors instead of workers' tracebacks. Call it in the main thread.

    Raises:
        LifeError: a frame is damaged.
        RunError: a worker was killed.
    """
    batches = iter(loader)
    if loader.num_workers and hasattr(signal, "SIGCHLD"):
        # PyTorch's handler would raise a worker's death anywhere in the training. Without it, `next` raises it.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except LifeError as error:  # from a worker, with a traceback in its text
                raise LifeError(str(error).rpartition("LifeError: ")[2].strip()) from None
            except (RuntimeError, EOFError, OSError) as error:
                # A worker that is killed while it sends a batch leaves a broken connection.
                if not loader.num_workers or str(error).startswith("Caught "):  # the worker is alive and raised this
                    raise
                why = (str(error) or type(error).__name__).splitlines()[0]
                raise RunError(
                    f"A process that reads pairs has died ({why}). Often the machine, or /dev/shm in a container "
                    "(--shm-size), has too little memory; fewer --dataloader-num-workers need less. Saved checkpoints "
                    "are intact: continue with the same command and --resume."
                ) from None
            yield batch
    finally:
        # A caller that keeps an error keeps the workers too. They ignore SIGTERM, so Python would never exit.
        if loader.num_workers:
            cast(Any, batches)._shutdown_workers()


@dataclass(frozen=True)
class ToModel:
    """Turns a batch of the dataset into the model's inputs, on the device. By default both views of a pair get the
    same colour change; with `shared_color` false each view gets its own, as in CroCo."""

    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color_jitter: float = 0.0
    shared_color: bool = True
    seed: int = 0

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`pixel_values` and `source_pixel_values`, float32 (B, 3, S, S); `bool_masked_pos`, bool (B, N)."""
        target, source = (batch[view].to(self.device, non_blocking=True) for view in ("target", "source"))
        factors: list[torch.Tensor | None] = [None]
        if self.color_jitter:
            views, indices = 1 if self.shared_color else 2, batch["pair_index"].numpy()
            drawn = color_factors(self.color_jitter, self.seed, indices, views)
            factors = list(drawn.to(self.device).split(3, dim=1))
        return {
            "pixel_values": to_pixel_values(target, self.mean, self.std, factors[0]),
            "source_pixel_values": to_pixel_values(source, self.mean, self.std, factors[-1]),
            "bool_masked_pos": batch["bool_masked_pos"].to(self.device, non_blocking=True),
        }


def _already_a_batch(batch: Any) -> Any:
    return batch


def _start_worker(_worker: int) -> None:
    # Ctrl-C and schedulers signal every process of a run. The trainer ends its step and then stops its workers.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # A worker that takes a core from one training thread makes all the other threads wait for it.
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
