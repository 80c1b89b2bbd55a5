"""Shared memory in which loader workers hand over the views of their batches.

A worker that hands over a tensor the usual way takes new shared memory for it, which the kernel has to fill with zeros
page by page, and which the receiving process gives back: a seventh of a worker's time, and half of what each batch
costs the training. So there are a few places for batches, in memory that stays, and a worker writes each batch into
one that is free.

A place is free again once nothing in the receiving process refers to its memory any more, be it a slice of a slice.
Where a consumer keeps more batches than there are places, the rest is handed over the usual way: it is slower, and
never wrong.
"""

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from singlelife.errors import RunError
from singlelife.text import in_bytes

_SHARED_MEMORY = "/dev/shm"  # of Linux, where its size is a setting

_opened: "weakref.WeakValueDictionary[int, Places]" = weakref.WeakValueDictionary()  # of this process


class Places:
    """Places for batches, some for each worker; made in the receiving process, before the workers start.

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
        _opened[self.key] = self

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
class HandedOver:
    """A batch whose views are in a place: what goes from the worker to the receiving process.

    Attributes:
        places: the key of its places.
        worker, place: which of them.
        rest: the batch without its views, as arrays.
    """

    places: int
    worker: int
    place: int
    rest: dict[str, np.ndarray]

    def batch(self) -> dict[str, torch.Tensor]:
        """The batch, as the dataset gives it."""
        target, source = _opened[self.places].read_from(self.worker, self.place)
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
