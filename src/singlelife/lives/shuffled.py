"""The control that has a life's frames in random order.

A shuffled life has the moments of its base, one after the other, and at each the frame of some other moment, together
with all that belongs to that frame (pose, depth). So its temporal pairs are pairs of any two frames. Nothing is
decoded to make it: the frames are copied as they are encoded.
"""

import json
import shutil
from pathlib import Path

import pyarrow as pa
from filelock import FileLock
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.prepared import METADATA, PreparedLife
from singlelife.lives.registry import Life
from singlelife.lives.sampling import seeded_order

SHUFFLE_SEED = 0

_FILE = "data-00000-of-00001.arrow"
_MOMENT = ("timestamp", "video", "frame_index")  # the columns that stay in their rows
_ROWS_IN_MEMORY = 32


def prepare_shuffled(life: Life, fingerprint: str, base: PreparedLife, progress: bool = True) -> PreparedLife:
    """The prepared form of a shuffled life, beside that of its base, made now if it has not been made before.

    Args:
        life: the shuffled life.
        fingerprint: of it.
        base: the prepared life that it shuffles.
        progress: show a progress bar on stderr.

    Raises:
        LifeError: the disk lacks the room, or cannot be written to.
    """
    folder = base.path.parent / f"{life.name}-{fingerprint[:12]}"
    if not folder.exists():
        try:
            with FileLock(f"{folder}.lock"):
                if not folder.exists():  # else the process that held the lock has made it
                    _prepare(life, fingerprint, base, folder, progress)
        except OSError as error:
            raise LifeError(
                f"The life {life.name} cannot be written into {folder.parent}: {error.strerror or error}. Make room "
                "there, or choose another place with --cache-dir or the variable SINGLELIFE_CACHE."
            ) from error
    return PreparedLife.load(folder)


def _prepare(life: Life, fingerprint: str, base: PreparedLife, folder: Path, progress: bool) -> None:
    needed = sum(file.stat().st_size for file in base.path.glob("*.arrow"))
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise LifeError(
            f"The life {life.name} needs about {needed / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB "
            "are free. Make room, or choose another place with --cache-dir or the variable SINGLELIFE_CACHE."
        )
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    with tqdm(desc=f"Shuffling {base.name}", total=len(base), unit=" frames", disable=not progress) as bar:
        _write(base, partial / _FILE, bar)
    metadata = base.metadata | {
        "name": life.name,
        "fingerprint": fingerprint,
        "kind": life.kind,
        "dataset": life.dataset,
        "license": life.license,
        "shuffled": {"life": base.name, "fingerprint": base.metadata["fingerprint"], "seed": SHUFFLE_SEED},
        "videos": [report | {"file": _FILE} for report in base.metadata["videos"]],
    }
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    # What makes the base a folder that `datasets.load_from_disk` opens does the same for this one.
    state = json.loads((base.path / "state.json").read_text(encoding="utf-8"))
    state |= {"_data_files": [{"filename": _FILE}], "_fingerprint": fingerprint[:16]}
    (partial / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    shutil.copy(base.path / "dataset_info.json", partial)
    partial.rename(folder)


def _write(base: PreparedLife, file: Path, bar: tqdm) -> None:
    schema = base.dataset.features.arrow_schema
    rows = base.dataset.with_format("arrow")
    order = seeded_order(len(base), SHUFFLE_SEED)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, schema) as stream:
        for first in range(0, len(base), _ROWS_IN_MEMORY):
            moments = rows[first : first + _ROWS_IN_MEMORY]
            frames = rows[order[first : first + _ROWS_IN_MEMORY].tolist()]
            columns = [(moments if name in _MOMENT else frames)[name] for name in schema.names]
            stream.write_table(pa.table(columns, schema=schema).combine_chunks())  # else a batch for each row
            bar.update(len(moments))
