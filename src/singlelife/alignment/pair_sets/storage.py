"""The folder of a pair set.

A stored set is a folder with `pair_set.json`, which says what it is, and a split `test` in an Arrow file, so that
`datasets.load_from_disk` and `load_dataset` open it as well. It holds the views as PNG files, where they come from,
and where it is known what the true matches follow from: depth as the life has it, poses and intrinsics.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Features, Image, List, Value
from datasets.arrow_writer import ArrowWriter
from PIL import Image as PILImage
from tqdm.auto import tqdm

from singlelife._version import __version__
from singlelife.alignment.pair_sets.card import pair_set_card
from singlelife.errors import LifeError, PairSetError
from singlelife.files import check_room
from singlelife.lives.prepare import write_dataset_description

FORMAT_VERSION = 1
DESCRIPTION = "pair_set.json"
ROWS = "test/data-00000-of-00001.arrow"
CARD = "README.md"
VIEW_NAMES = ("target", "source")

CHANGED = "It is damaged, or was changed: make or download the pair set again."

_ROWS_IN_A_BATCH = 32
_LARGEST_DESCRIPTION = 64 << 20  # bytes
_LARGEST_SIDE = 4096  # pixels

_COLUMNS = Features(
    {
        "target": Image(),
        "source": Image(),
        "life": Value("string"),
        "life_fingerprint": Value("string"),
        "target_row": Value("int64"),
        "source_row": Value("int64"),
        "target_video": Value("string"),
        "source_video": Value("string"),
        "target_timestamp": Value("float64"),
        "source_timestamp": Value("float64"),
        "target_file": Value("string"),
        "source_file": Value("string"),
        "gap": Value("float64"),
        "overlap": Value("float32"),
        "target_box": List(Value("int64"), length=4),
        "source_box": List(Value("int64"), length=4),
    }
)
_GEOMETRY_COLUMNS = Features(
    {
        "target_depth": Image(),
        "source_depth": Image(),
        "depth_scale": Value("float64"),
        "target_pose": List(Value("float64"), length=16),
        "source_pose": List(Value("float64"), length=16),
        "target_intrinsics": List(Value("float64"), length=4),
        "source_intrinsics": List(Value("float64"), length=4),
    }
)


def write_pair_set(pairs: Any, path: Path, *, progress: bool = False) -> None:
    """See `PairSet.save`. `pairs` is one; that class builds on this file, which cannot name it."""
    if path.exists():
        raise PairSetError(f"{path} is there already. Choose another folder, or delete it.")
    aside = path.with_name(f"{path.name}.partial")
    with_geometry = pairs._geometry is not None and any(pairs._geometry.depth)
    features = Features(_COLUMNS | (_GEOMETRY_COLUMNS if with_geometry else {}))
    try:
        check_room(pairs.target.numel() * 2, path, f"The pair set {path.name}", "choose another place")
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        (aside / ROWS).parent.mkdir(parents=True)
        with ArrowWriter(features=features, path=str(aside / ROWS), writer_batch_size=_ROWS_IN_A_BATCH) as writer:
            for row in tqdm(
                _rows(pairs, with_geometry), desc=f"Storing {path.name}", total=len(pairs), unit=" pairs",
                disable=not progress,
            ):  # fmt: skip
                writer.write(row)
            writer.finalize()
        write_dataset_description((aside / ROWS).parent, [Path(ROWS).name], features, pairs.hash)
        (aside / "dataset_dict.json").write_text('{"splits": ["test"]}', encoding="utf-8")
        described = {
            "format_version": FORMAT_VERSION,
            "name": pairs.name,
            "hash": pairs.hash,
            "num_pairs": len(pairs),
            "image_size": pairs.target.shape[-1],
            "same_frame": pairs._same_frame,
            "provenance": {name: value for name, value in pairs.provenance.items() if name not in _PER_PAIR},
            "files": {ROWS: _sha256(aside / ROWS)},
            "version": __version__,
        }
        (aside / DESCRIPTION).write_text(json.dumps(described, indent=2), encoding="utf-8")
        (aside / CARD).write_text(pair_set_card(pairs, described), encoding="utf-8")
        aside.rename(path)
    except LifeError as error:  # there is no room
        raise PairSetError(str(error)) from error
    except OSError as error:
        raise PairSetError(f"The pair set cannot be written as {path}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


_PER_PAIR = ("life", "frames", "timestamps", "videos", "files")  # of the provenance: columns of their own


def _rows(pairs: Any, with_geometry: bool) -> Iterator[dict[str, Any]]:
    provenance, nothing = pairs.provenance, (None, None)
    for index in range(len(pairs)):
        life = provenance["lives"][provenance["life"][index]] if "life" in provenance else {}
        row: dict[str, Any] = {
            "life": life.get("name"),
            "life_fingerprint": life.get("fingerprint"),
            "gap": None if pairs.gap is None else _or_none(pairs.gap[index]),
            "overlap": None if pairs.overlap is None else _or_none(pairs.overlap[index]),
        }
        for number, (view, images) in enumerate(zip(VIEW_NAMES, (pairs.target, pairs.source), strict=True)):
            row[view] = {"bytes": _png(images[index]), "path": None}
            row[f"{view}_box"] = pairs._boxes[index, number].tolist()
            for column, name in (
                ("row", "frames"),
                ("timestamp", "timestamps"),
                ("video", "videos"),
                ("file", "files"),
            ):
                row[f"{view}_{column}"] = provenance[name][index][number] if name in provenance else nothing[number]
        if with_geometry:
            geometry = pairs._geometry
            assert geometry is not None
            depth = geometry.depth[index]
            row["depth_scale"] = float(geometry.scale[index])
            for number, view in enumerate(VIEW_NAMES):
                row[f"{view}_depth"] = None if depth is None else {"bytes": depth[number], "path": None}
                row[f"{view}_pose"] = geometry.poses[index, number].ravel().tolist()
                row[f"{view}_intrinsics"] = geometry.intrinsics[index, number].tolist()
        yield row


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_description(path: Path) -> dict[str, Any]:
    """What the `pair_set.json` of a folder says, checked.

    Raises:
        PairSetError: there is none, or it is not one that this version can use.
    """
    file = path / DESCRIPTION
    try:
        if file.stat().st_size > _LARGEST_DESCRIPTION:
            raise ValueError("it is too large")
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairSetError(f"{path} holds no pair set: its {DESCRIPTION} cannot be read ({error}).") from error
    theirs = described.get("format_version") if isinstance(described, dict) else None
    if isinstance(theirs, int) and theirs > FORMAT_VERSION:
        raise PairSetError(
            f"The pair set {path} is of format {theirs}, newer than the {FORMAT_VERSION} that this version of "
            "singlelife reads. Upgrade it: pip install -U singlelife."
        )
    kinds = {"name": str, "hash": str, "num_pairs": int, "image_size": int, "same_frame": bool, "provenance": dict}
    wrong = [key for key, kind in kinds.items() if theirs is None or not isinstance(described.get(key), kind)]
    files = {} if theirs is None else described.get("files")
    if wrong or not isinstance(files, dict) or list(files) != [ROWS]:
        raise PairSetError(f"{file} is not that of a pair set: {', '.join(wrong) or 'files'} missing or wrong.")
    if not (described["num_pairs"] >= 1 and 1 <= described["image_size"] <= _LARGEST_SIDE):
        raise PairSetError(f"{file} is damaged: its numbers of pairs or pixels are out of range.")
    return described


def read_pair_set(path: Path, *, progress: bool = False) -> dict[str, Any]:
    """The arguments of a `PairSet` that was stored, from verified files. The caller compares the hash.

    Raises:
        PairSetError: see `PairSet.load`.
    """
    described = read_description(path)
    for name, digest in described["files"].items():
        try:
            found = _sha256(path / name)
        except OSError as error:
            raise PairSetError(f"{path / name} cannot be read: {error.strerror}. {CHANGED}") from error
        if found != digest:
            raise PairSetError(f"{path / name} is not the file that {DESCRIPTION} names. {CHANGED}")
    try:
        return _read(path, described, progress)
    except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise PairSetError(f"{path / ROWS} cannot be read ({error}). {CHANGED}") from error


def _read(path: Path, described: dict[str, Any], progress: bool) -> dict[str, Any]:
    size = described["image_size"]
    with pa.memory_map(str(path / ROWS)) as file, pa.ipc.open_stream(file) as stream:
        count = sum(len(batch) for batch in stream)
        names = stream.schema.names
    if count != described["num_pairs"]:
        raise ValueError(f"it holds {count} pairs instead of {described['num_pairs']}")
    views = np.empty((2, count, 3, size, size), dtype=np.uint8)
    columns: dict[str, list[Any]] = {name: [] for name in names if name not in VIEW_NAMES}
    start = 0
    bar = tqdm(desc=f"Reading {path.name}", total=count, unit=" pairs", delay=2, disable=not progress)
    with bar, pa.memory_map(str(path / ROWS)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            for number, view in enumerate(VIEW_NAMES):
                for row, content in enumerate(batch.column(view).to_pylist()):
                    views[number, start + row] = _pixels(content, size).transpose(2, 0, 1)
            for name, values in columns.items():
                values += batch.column(name).to_pylist()
            start += len(batch)
            bar.update(len(batch))
    provenance = dict(described["provenance"])
    both = {name: list(map(list, zip(columns[f"target_{name}"], columns[f"source_{name}"], strict=True)))
            for name in ("row", "timestamp", "video", "file", "box")}  # fmt: skip
    if "lives" in provenance:
        fingerprints = [(life["name"], life["fingerprint"]) for life in provenance["lives"]]
        named = zip(columns["life"], columns["life_fingerprint"], strict=True)
        provenance |= {"life": [fingerprints.index(life) for life in named], "frames": both["row"]}
        provenance |= {"timestamps": both["timestamp"], "videos": both["video"]}
    else:
        provenance["files"] = both["file"]
    gap, overlap = (np.array([np.nan if v is None else v for v in columns[name]]) for name in ("gap", "overlap"))
    return {
        "name": described["name"],
        "target": torch.from_numpy(views[0]),
        "source": torch.from_numpy(views[1]),
        "provenance": provenance,
        "_boxes": np.array(both["box"], dtype=np.int64),
        "geometry": _geometry(columns) if "depth_scale" in columns else None,
        "_same_frame": described["same_frame"],
        "gap": gap if "lives" in provenance else None,
        "overlap": None if np.isnan(overlap).all() else overlap.astype(np.float32),
    }


def _pixels(content: dict[str, Any], size: int) -> np.ndarray:
    """A view, uint8 (size, size, 3), of bytes: a path would be one of somebody else's machine, or of this one."""
    if not content or not content["bytes"]:
        raise ValueError("a view is missing")
    try:
        image = PILImage.open(io.BytesIO(content["bytes"]), formats=["PNG"])
        shape, pixels = image.size, np.array(image) if image.size == (size, size) else None
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise ValueError("a view is damaged") from error
    if pixels is None or pixels.shape != (size, size, 3):
        raise ValueError(f"a view is of {shape} pixels, {image.mode}")
    return pixels


def _geometry(columns: dict[str, list[Any]]) -> dict[str, Any]:
    """The arguments of a `PairGeometry`."""

    def both(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = [np.array(columns[f"{view}_{name}"], dtype=np.float64).reshape(-1, *shape) for view in VIEW_NAMES]
        return np.stack(values, axis=1)

    depth = [
        None if target is None or source is None else (target["bytes"], source["bytes"])
        for target, source in zip(columns["target_depth"], columns["source_depth"], strict=True)
    ]
    scale = np.array(columns["depth_scale"], dtype=np.float64)
    return {"depth": depth, "scale": scale, "poses": both("pose", (4, 4)), "intrinsics": both("intrinsics", (4,))}
