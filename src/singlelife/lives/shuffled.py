"""The control that has a life's frames in random order, and the seeded order that it and samples are drawn with.

A shuffled life has the moments of its base, one after the other, and at each the frame of some other moment, together
with all that belongs to that frame (pose, depth). So its temporal pairs are pairs of any two frames.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from singlelife.lives.prepared import PreparedLife

SHUFFLE_SEED = 0

_MOMENT = ("timestamp", "video", "frame_index")  # the columns that stay in their rows
_ROWS_IN_MEMORY = 32


def seeded_order(length: int, seed: int) -> np.ndarray:
    """A random order of 0 to `length` - 1, int64: the same for a seed on every machine, with every version of NumPy.

    It sorts by the raw numbers of Philox, a counter-based generator whose raw numbers are defined once and for all;
    `Generator.permutation` may change between versions.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(length), kind="stable").astype(np.int64)


def write_shuffled(base: PreparedLife, file: Path, counted: Callable[[int], object]) -> None:
    """Write the frames of a prepared life in random order as an Arrow file, with constant memory.

    Images are copied as they are encoded.

    Args:
        base: the life.
        file: to write.
        counted: told of frames as they are written.
    """
    schema = base.dataset.features.arrow_schema
    rows = base.dataset.with_format("arrow")
    order = seeded_order(len(base), SHUFFLE_SEED)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, schema) as stream:
        for first in range(0, len(base), _ROWS_IN_MEMORY):
            moments, frames = (
                rows[first : first + _ROWS_IN_MEMORY],
                rows[order[first : first + _ROWS_IN_MEMORY].tolist()],
            )
            columns = [(moments if name in _MOMENT else frames)[name] for name in schema.names]
            stream.write_table(pa.table(columns, schema=schema).combine_chunks())  # else a batch for each row
            counted(len(moments))
