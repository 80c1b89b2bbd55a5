"""Which pairs each step of a run takes, and how they reach the model.

Step `s` of a run takes pairs `s * B` to `(s + 1) * B - 1`, whatever the number of processes, accumulated batches and
loader workers: each process reads its own share of them.

Loader workers share their batches with the training through memory that stays. A worker that sends a tensor the usual
way takes new shared memory for it, which the kernel has to fill with zeros page by page: a seventh of a worker's time,
and half of what each batch costs the training. So a `BatchPool` has a few places for batches, and a worker writes each
batch into one that is free. A place is free again once nothing in the training refers to its memory any more, be it a
slice of a slice. Where a consumer keeps more batches than there are places, the rest goes the usual way: it is slower,
and never wrong.
"""

import os
import signal
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from singlelife.errors import LifeError, RunError
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.pairing import Pairing, PairingContext, TemporalPairing, make_pairing
from singlelife.lives.pairs.segments import first_hours, hold_out
from singlelife.lives.pairs.transforms import color_factors, to_pixel_values
from singlelife.lives.prepared import PreparedLife
from singlelife.pretraining.arguments import PairConfig
from singlelife.text import in_bytes

STOP_SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
VALIDATION_SEED = 2**64 - 1  # out of reach of --seed, and the same for every run, so that their losses compare

_PREFETCH = 4  # batches that each worker is ahead of the training, at most
_SHARED_MEMORY = "/dev/shm"  # of Linux, where its size is a setting
_NICENESS = 10  # of workers beside a training on the CPU: a tenth of a thread's share where both want a core


class StepSampler(Sampler[list[int]]):
    """The pair indices of one process's batches, from one step to the end of the run, in order.

    Args:
        first_step: of the sequence; any is reached at once.
        max_steps: the step after the last.
        batch_size: B, pairs per optimiser step over all processes.
        accumulation: batches per optimiser step.
        num_processes, process_index: the run's processes, and which one this is.

    Raises:
        RunError: B cannot be shared out evenly.
    """

    def __init__(
        self,
        first_step: int,
        max_steps: int,
        batch_size: int,
        accumulation: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        if batch_size % (accumulation * num_processes):
            raise RunError(
                f"--train-batch-size {batch_size} cannot be shared out evenly over {num_processes} processes and "
                f"{accumulation} accumulated batches; make it a multiple of {accumulation * num_processes}."
            )
        self.steps = range(first_step, max_steps)
        self.batch_size, self.accumulation = batch_size, accumulation
        self.num_processes, self.process_index = num_processes, process_index
        self.local_batch_size = batch_size // (accumulation * num_processes)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in range(self.accumulation):
                share = part * self.num_processes + self.process_index
                first = step * self.batch_size + share * self.local_batch_size
                yield list(range(first, first + self.local_batch_size))


def pairings(life: PreparedLife, pairs: PairConfig, *, progress: bool = True) -> tuple[Pairing, Pairing | None]:
    """How pairs to train on are made, and those of held-out stretches (None where none are held out).

    Held-out stretches are short, so there may be no spatial pair in them. Validation is then on temporal pairs, and a
    run says so as it starts.

    With `hours`, no frame after them is trained on. What is held out is that of the whole life all the same: else
    the validation losses of runs of several durations would be of different pairs, and could not be compared.

    Args:
        life: the prepared life.
        pairs: the settings.
        progress: show progress bars on stderr while overlaps are found, if they have to be.

    Raises:
        LifeError: no such pairs can be made.
    """
    whole = PairingContext.of_life(life, pairs.settings, progress=progress)
    train_rows, validation_rows = hold_out(life.timestamps, life.video_index, pairs.validation_fraction, pairs.max_gap)
    seen = whole
    if (num_frames := frames_seen(life, pairs)) < len(life):
        seen = PairingContext.of_life(life, pairs.settings, num_frames=num_frames, progress=progress)
        train_rows = train_rows[train_rows < num_frames]
    train = make_pairing(pairs.pairing, replace(seen, rows=train_rows))
    if not len(validation_rows):
        return train, None
    held_out = replace(whole, rows=validation_rows)
    try:
        return train, make_pairing(pairs.pairing, held_out)
    except LifeError as error:
        why = error
    try:
        return train, TemporalPairing.of(held_out)
    except LifeError:
        raise LifeError(
            f"The held-out stretches are too short to validate on: {why} Or hold out another share of the life "
            "(--validation-fraction; 0 goes without a validation loss)."
        ) from why


def frames_seen(life: PreparedLife, pairs: PairConfig) -> int:
    """How many frames, from the first, a run may train on (`--hours`); some of them may be held out.

    Raises:
        LifeError: the life is shorter than that.
    """
    if pairs.hours is None:
        return len(life)
    return first_hours(life.timestamps, life.video_index, pairs.hours)


def pair_datasets(
    life: PreparedLife,
    pairs: PairConfig,
    *,
    seed: int,
    batch_size: int,
    num_pairs: int,
    num_validation_pairs: int,
    image_size: int,
    patch_size: int,
    mask_ratio: float,
    progress: bool = True,
) -> tuple[PairDataset, PairDataset | None]:
    """The pairs to train on, and fixed pairs of held-out stretches (None where none are held out).

    Raises:
        LifeError: no such pairs can be made, there are fewer than a batch, or a size cannot work.
    """
    if pairs.pairing == "augmented" and pairs.shared_crop:
        raise LifeError(
            "Augmented pairs with a shared crop are twice the same picture: leave out --shared-crop, or choose "
            "another --pairing."
        )
    train, validation = pairings(life, pairs, progress=progress)
    if len(train) < batch_size:
        raise LifeError(
            f"The life {life.name} has only {len(train):,} different pairs ({train}), fewer than the {batch_size:,} "
            "of a step: each step would learn from the same pairs again. Use a longer recording, other settings of "
            "the pairs, or a smaller --train-batch-size."
        )

    def dataset(pairing: Pairing, seed: int, num_pairs: int, flip: bool) -> PairDataset:
        return PairDataset(
            life,
            pairing,
            seed=seed,
            num_pairs=num_pairs,
            image_size=image_size,
            patch_size=patch_size,
            mask_ratio=mask_ratio,
            crop_area=(pairs.crop_area_min, pairs.crop_area_max),
            crop_aspect=(1 / pairs.crop_aspect, pairs.crop_aspect),
            shared_crop=pairs.shared_crop,
            flip=flip,
        )

    return dataset(train, seed, num_pairs, pairs.flip), (
        dataset(validation, VALIDATION_SEED, num_validation_pairs, False) if validation else None
    )


def train_loader(dataset: PairDataset, sampler: StepSampler, num_workers: int, device: torch.device) -> DataLoader:
    """Batches of `dataset` in the sampler's order, read ahead by `num_workers` processes, for a model on `device`.

    Raises:
        RunError: there is too little shared memory for that many workers.
    """
    pool = None
    if num_workers:  # each may be this far ahead, while one batch is received and the one before is still in use
        pool = BatchPool(num_workers, _PREFETCH + 2, sampler.local_batch_size, dataset.image_size)
    return _PairLoader(
        _WorkersView(dataset, pool),
        batch_sampler=sampler,
        collate_fn=_already_a_batch,
        num_workers=num_workers,
        prefetch_factor=_PREFETCH if num_workers else None,
        worker_init_fn=_start_worker_beside_training if device.type == "cpu" else _start_worker,
        pin_memory=device.type == "cuda",
    )


_pools: "weakref.WeakValueDictionary[int, BatchPool]" = weakref.WeakValueDictionary()  # of this process


class BatchPool:
    """BatchPool for batches, some for each worker; made in the receiving process, before the workers start.

    Args:
        num_workers: of the loader.
        per_worker: places of each.
        batch_size: B, pairs.
        image_size: S, side of the square views in pixels.

    Raises:
        RunError: the machine has too little shared memory.
    """

    def __init__(self, num_workers: int, per_worker: int, batch_size: int, image_size: int):
        shape = (num_workers, per_worker, 2, batch_size, image_size, image_size, 3)
        _check_shared_memory(int(np.prod(shape)))
        self._views = torch.empty(shape, dtype=torch.uint8).share_memory_()
        self._taken = torch.zeros(num_workers, per_worker, dtype=torch.bool).share_memory_()
        self.key = id(self)
        _pools[self.key] = self

    def take(self, worker: int) -> int | None:
        """A free place of a worker, which is its own from now on, or None. Called by the worker."""
        free = (~self._taken[worker]).nonzero()
        if not len(free):
            return None
        place = int(free[0])
        self._taken[worker, place] = True
        return place

    def write_to(self, worker: int, place: int) -> torch.Tensor:
        """The memory of a place, uint8 (2, B, 3, S, S), with the channels last."""
        return self._views[worker, place].permute(0, 1, 4, 2, 3)

    def give_back(self, worker: int, place: int) -> None:
        """Let the worker write there again."""
        self._taken[worker, place] = False

    def read_from(self, worker: int, place: int) -> torch.Tensor:
        """The same memory as `write_to`, given back when the last tensor that shares it is gone."""
        # A tensor's memory may outlive the tensor, in views of it. One that is made of an array holds the array as
        # long as its memory is in use by any of them.
        array = self._views[worker, place].numpy()
        weakref.finalize(array, self.give_back, worker, place).atexit = False
        return torch.from_numpy(array).permute(0, 1, 4, 2, 3)


@dataclass(frozen=True)
class SharedBatch:
    """A batch whose views are in a place of a pool: what goes from the worker to the receiving process.

    Attributes:
        pool: the key of the pool.
        worker, place: where in it.
        rest: the batch without its views, as arrays.
    """

    pool: int
    worker: int
    place: int
    rest: dict[str, np.ndarray]

    def batch(self) -> dict[str, torch.Tensor]:
        """The batch, as the dataset gives it."""
        target, source = _pools[self.pool].read_from(self.worker, self.place)
        return {"target": target, "source": source} | {k: torch.from_numpy(v) for k, v in self.rest.items()}

    def pin_memory(self, *_: Any) -> dict[str, torch.Tensor]:
        """The batch, copied for the way to a GPU; the loader asks for it in a thread of its own."""
        return {name: values.pin_memory() for name, values in self.batch().items()}


def _check_shared_memory(needed: int) -> None:
    if not Path(_SHARED_MEMORY).is_dir():
        return
    disk = os.statvfs(_SHARED_MEMORY)
    free = disk.f_bavail * disk.f_frsize
    if needed > free:
        raise RunError(
            f"The loader's workers need {in_bytes(needed)} of shared memory, and {in_bytes(free)} are free. Give the "
            "container more (docker run --shm-size, or --ipc=host), or take fewer --dataloader-num-workers (0: none)."
        )


class _WorkersView(Dataset):
    """The dataset as a loader's worker sees it.

    It writes the views into shared memory, and returns what it would raise, since a worker's exception reaches the run
    as a traceback's text.
    """

    def __init__(self, dataset: PairDataset, pool: BatchPool | None):
        self.dataset, self.pool = dataset, pool

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor] | SharedBatch | LifeError:
        worker = get_worker_info()
        place = self.pool.take(worker.id) if self.pool and worker else None
        try:
            if self.pool is None or worker is None or place is None:
                return self.dataset.__getitems__(indices)
            batch = self.dataset.__getitems__(indices, self.pool.write_to(worker.id, place))
        except LifeError as error:
            if self.pool and worker and place is not None:
                self.pool.give_back(worker.id, place)
            return error
        rest = {name: values.numpy() for name, values in batch.items() if name not in ("target", "source")}
        return SharedBatch(self.pool.key, worker.id, place, rest)


class _PairLoader(DataLoader):
    """A loader of a `_WorkersView`: it gives batches and raises errors."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, LifeError):
                raise batch
            yield batch.batch() if isinstance(batch, SharedBatch) else batch
            del batch  # or it would hold the memory of its views until the next is there


@dataclass(frozen=True)
class ToModel:
    """From a batch of the dataset to the model's inputs, on the device."""

    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color_jitter: float = 0.0
    seed: int = 0

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`pixel_values` and `source_pixel_values`, float32 (B, 3, S, S); `bool_masked_pos`, bool (B, N)."""
        target, source = (batch[view].to(self.device, non_blocking=True) for view in ("target", "source"))
        factors = None
        if self.color_jitter:
            # The same of both views: the decoder is to paint the target from the source, and a different tint in each
            # would have to be guessed.
            factors = color_factors(self.color_jitter, self.seed, batch["pair_index"].numpy()).to(self.device)
        return {
            "pixel_values": to_pixel_values(target, self.mean, self.std, factors),
            "source_pixel_values": to_pixel_values(source, self.mean, self.std, factors),
            "bool_masked_pos": batch["bool_masked_pos"].to(self.device, non_blocking=True),
        }


def _already_a_batch(batch: Any) -> Any:
    return batch


def _start_worker(_worker: int) -> None:
    # Ctrl-C and schedulers signal every process of a run. The trainer ends its step and then stops its workers.
    for name in STOP_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _start_worker_beside_training(worker: int) -> None:
    # Where the model is trained on the same cores, a worker takes one from a thread of the training, and all the other
    # threads wait for that one. It reads ahead, so it can do with the time that they leave it.
    _start_worker(worker)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
