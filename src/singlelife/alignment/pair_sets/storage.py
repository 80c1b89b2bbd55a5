"""The folder of a pair set, and the cameras and depths that it keeps.

A stored set is a folder with `pair_set.json`, which describes it, and a split `test` in an Arrow file, so that
`datasets.load_from_disk` and `load_dataset` open it as well. It holds the views as PNG files, where they come from
and, if known, what determines the true matches: depth as the life stores it, poses and intrinsics.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from singlelife.errors import LifeError, PairSetError
from singlelife.files import atomic_dir, check_room
from singlelife.hub.cards import dataset_header, fill_card, stated
from singlelife.lives.prepare import write_dataset_description
from singlelife.lives.prepared import decode_depth

FORMAT_VERSION = 1
DESCRIPTION = "pair_set.json"
ROWS = "test/data-00000-of-00001.arrow"
CARD = "README.md"
VIEW_NAMES = ("target", "source")
CHANGED = "It is damaged, or was changed: make or download the pair set again."

_ROWS_IN_A_BATCH = 32
_LARGEST_SIDE = 4096  # pixels
_DEPTH_TOLERANCE = 0.05  # relative: two views see the same point if their depths of it agree this well

_PER_VIEW = {"row": "frames", "timestamp": "timestamps", "video": "videos", "file": "files"}  # column: provenance
_PAIR_COLUMNS = {"life": "string", "life_fingerprint": "string", "gap": "float64", "overlap": "float32"}
_VIEW_COLUMNS = {
    "row": Value("int64"),
    "video": Value("string"),
    "timestamp": Value("float64"),
    "file": Value("string"),
    "box": List(Value("int64"), length=4),
}
_GEOMETRY_COLUMNS = {
    "depth": Image(),
    "pose": List(Value("float64"), length=16),
    "intrinsics": List(Value("float64"), length=4),
}


@dataclass(frozen=True)
class PairGeometry:
    """The cameras and depths of the frames that pairs of views are cut from.

    Attributes:
        depth: for each pair, the depth of the target's and the source's frame as the 16-bit PNG files that a life
            stores, so that thousands take little memory; None where not known.
        scale: units of the poses per level of depth, float64 (P,).
        poses: camera to world, float64 (P, 2, 4, 4); axes x right, y down, z forward.
        intrinsics: fx, fy, cx, cy in pixels of the frame, float64 (P, 2, 4).
    """

    depth: Sequence[tuple[bytes, bytes] | None]
    scale: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray

    def levels(self, pair: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The levels of depth of the two frames of a pair, uint16 (height, width) each; None if not known.

        Raises:
            PairSetError: they are damaged.
        """
        encoded = self.depth[pair]
        if encoded is None:
            return None
        try:
            return decode_depth(encoded[0]), decode_depth(encoded[1])
        except ValueError as error:
            raise PairSetError(f"The depth of pair {pair} is damaged. Make or download the pair set again.") from error

    def project(self, pair: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points of a pair's target frame into its source frame.

        Args:
            points: float64 (N, 2), x and y in pixels.

        Returns:
            The points in the source frame, and whether each is seen there, bool (N,): the source's depth at that place
            must be the point's.
        """
        levels = self.levels(pair)
        if levels is None:
            return points, np.zeros(len(points), dtype=bool)
        target, source = (each.astype(np.float32) * np.float32(self.scale[pair]) for each in levels)
        z = _look_up(target, points)
        fx, fy, cx, cy = self.intrinsics[pair, 0]
        camera = np.stack([(points[:, 0] - cx) / fx * z, (points[:, 1] - cy) / fy * z, z, np.ones_like(z)], axis=-1)
        moved = camera @ (np.linalg.inv(self.poses[pair, 1]) @ self.poses[pair, 0]).T
        fx, fy, cx, cy = self.intrinsics[pair, 1]
        in_front = (z > 0) & (moved[:, 2] > 1e-6)
        depth = np.where(in_front, moved[:, 2], 1.0)
        found = np.stack([fx * moved[:, 0] / depth + cx, fy * moved[:, 1] / depth + cy], axis=-1)
        seen = _look_up(source, found)
        return found, in_front & (seen > 0) & (np.abs(seen - depth) <= _DEPTH_TOLERANCE * depth)


def _look_up(depth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Depth (N,) of an image (H, W) at points (N, 2), x and y in pixels; 0 outside."""
    height, width = depth.shape
    column, row = np.floor(points[:, 0]), np.floor(points[:, 1])
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = np.where(inside, row, 0).astype(np.int64), np.where(inside, column, 0).astype(np.int64)
    return np.where(inside, depth[row, column], 0.0)


def _features(with_geometry: bool) -> Features:
    columns = _VIEW_COLUMNS | (_GEOMETRY_COLUMNS if with_geometry else {})
    features = {view: Image() for view in VIEW_NAMES}
    features |= {name: Value(kind) for name, kind in _PAIR_COLUMNS.items()}
    features |= {f"{view}_{name}": kind for name, kind in columns.items() for view in VIEW_NAMES}
    return Features(features | ({"depth_scale": Value("float64")} if with_geometry else {}))


def write_pair_set(pairs: Any, path: Path, *, progress: bool = False) -> None:
    """See `PairSet.save`. `pairs` is a `PairSet`, a class that imports this file."""
    if path.exists():
        raise PairSetError(f"{path} exists already. Choose another folder, or delete it.")
    with_geometry = pairs._geometry is not None and any(pairs._geometry.depth)
    features = _features(with_geometry)
    try:
        check_room(pairs.target.numel() * 2, path, f"The pair set {path.name}", "choose another place")
        with atomic_dir(path) as aside:
            (aside / ROWS).parent.mkdir()
            rows = tqdm(_rows(pairs, with_geometry), f"Storing {path.name}", len(pairs), disable=not progress)
            with ArrowWriter(features=features, path=str(aside / ROWS), writer_batch_size=_ROWS_IN_A_BATCH) as writer:
                for row in rows:
                    writer.write(row)
                writer.finalize()
            write_dataset_description((aside / ROWS).parent, [Path(ROWS).name], features, pairs.hash)
            (aside / "dataset_dict.json").write_text('{"splits": ["test"]}', encoding="utf-8")
            per_pair = {"life", *_PER_VIEW.values()}  # columns of their own
            described = {
                "format_version": FORMAT_VERSION,
                "name": pairs.name,
                "hash": pairs.hash,
                "num_pairs": len(pairs),
                "image_size": pairs.target.shape[-1],
                "same_frame": pairs._same_frame,
                "provenance": {name: value for name, value in pairs.provenance.items() if name not in per_pair},
                "files": {ROWS: _sha256(aside / ROWS)},
                "version": __version__,
            }
            (aside / DESCRIPTION).write_text(json.dumps(described, indent=2), encoding="utf-8")
            (aside / CARD).write_text(pair_set_card(pairs, described), encoding="utf-8")
    except LifeError as error:  # there is no room
        raise PairSetError(str(error)) from error
    except OSError as error:
        raise PairSetError(f"The pair set cannot be written to {path}: {error.strerror or error}.") from error


def _rows(pairs: Any, with_geometry: bool) -> Iterator[dict[str, Any]]:
    provenance, geometry = pairs.provenance, pairs._geometry
    for index in range(len(pairs)):
        life = provenance["lives"][provenance["life"][index]] if "life" in provenance else {}
        row: dict[str, Any] = {"life": life.get("name"), "life_fingerprint": life.get("fingerprint")}
        for name in ("gap", "overlap"):
            value = np.nan if getattr(pairs, name) is None else float(getattr(pairs, name)[index])
            row[name] = None if np.isnan(value) else value
        for number, view in enumerate(VIEW_NAMES):
            row[view] = {"bytes": _png(getattr(pairs, view)[index]), "path": None}
            row[f"{view}_box"] = pairs._boxes[index, number].tolist()
            for column, name in _PER_VIEW.items():
                row[f"{view}_{column}"] = provenance[name][index][number] if name in provenance else None
        if with_geometry:
            depth = geometry.depth[index]
            row["depth_scale"] = float(geometry.scale[index])
            for number, view in enumerate(VIEW_NAMES):
                row[f"{view}_depth"] = None if depth is None else {"bytes": depth[number], "path": None}
                row[f"{view}_pose"] = geometry.poses[index, number].ravel().tolist()
                row[f"{view}_intrinsics"] = geometry.intrinsics[index, number].tolist()
        yield row


def _png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_description(path: Path) -> dict[str, Any]:
    """Read and check the `pair_set.json` of a folder.

    Raises:
        PairSetError: there is none, or this version cannot use it.
    """
    file = path / DESCRIPTION
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairSetError(f"{path} holds no pair set: its {DESCRIPTION} cannot be read ({error}).") from error
    described = described if isinstance(described, dict) else {}
    theirs = described.get("format_version")
    if isinstance(theirs, int) and theirs > FORMAT_VERSION:
        raise PairSetError(
            f"The pair set {path} has format {theirs}, newer than format {FORMAT_VERSION}, which this version of "
            "singlelife reads. Upgrade it: pip install -U singlelife."
        )
    kinds = {"format_version": int, "name": str, "hash": str, "num_pairs": int, "image_size": int, "same_frame": bool}
    kinds |= {"provenance": dict, "files": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(described.get(key), kind)]
    if wrong or list(described["files"]) != [ROWS]:
        raise PairSetError(f"{file} describes no pair set: {', '.join(wrong) or 'files'} missing or wrong.")
    if described["num_pairs"] < 1 or not 1 <= described["image_size"] <= _LARGEST_SIDE:
        raise PairSetError(f"{file} is damaged: its numbers of pairs or pixels are out of range.")
    return described


def read_pair_set(path: Path, *, progress: bool = False) -> tuple[str, dict[str, Any]]:
    """The stated hash and the arguments of a stored `PairSet`, from verified files. The caller compares the hash.

    Raises:
        PairSetError: see `PairSet.load`.
    """
    described = read_description(path)
    try:
        if _sha256(path / ROWS) != described["files"][ROWS]:
            raise PairSetError(f"{path / ROWS} does not match its checksum in {DESCRIPTION}. {CHANGED}")
        with pa.memory_map(str(path / ROWS)) as file, pa.ipc.open_stream(file) as stream:
            return described["hash"], _read(stream.read_all(), described, progress)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise PairSetError(f"{path / ROWS} cannot be read ({error}). {CHANGED}") from error


def _read(table: pa.Table, described: dict[str, Any], progress: bool) -> dict[str, Any]:
    size, count = described["image_size"], len(table)
    if count != described["num_pairs"]:
        raise ValueError(f"it holds {count} pairs instead of {described['num_pairs']}")
    views = np.empty((2, count, 3, size, size), dtype=np.uint8)
    for number, view in enumerate(VIEW_NAMES):
        rows = tqdm(table.column(view), f"Reading {view} views", delay=2, disable=not progress)
        for row, content in enumerate(rows):
            views[number, row] = _pixels(content.as_py(), size).transpose(2, 0, 1)
    columns = {name: table.column(name).to_pylist() for name in table.column_names if name not in VIEW_NAMES}
    both = {
        name: [list(pair) for pair in zip(*(columns[f"{view}_{name}"] for view in VIEW_NAMES), strict=True)]
        for name in _VIEW_COLUMNS
    }
    gap, overlap = (np.array([np.nan if v is None else v for v in columns[name]]) for name in ("gap", "overlap"))
    provenance = dict(described["provenance"])
    if "lives" in provenance:
        fingerprints = [(life["name"], life["fingerprint"]) for life in provenance["lives"]]
        named = zip(columns["life"], columns["life_fingerprint"], strict=True)
        provenance["life"] = [fingerprints.index(life) for life in named]
        provenance |= {name: both[column] for column, name in _PER_VIEW.items() if name != "files"}
    else:
        provenance["files"] = both["file"]
    return {
        "name": described["name"],
        "target": torch.from_numpy(views[0]),
        "source": torch.from_numpy(views[1]),
        "provenance": provenance,
        "_boxes": np.array(both["box"], dtype=np.int64),
        "_geometry": _geometry(columns) if "depth_scale" in columns else None,
        "_same_frame": described["same_frame"],
        "gap": gap if "lives" in provenance else None,
        "overlap": None if np.isnan(overlap).all() else overlap.astype(np.float32),
    }


def _pixels(content: dict[str, Any], size: int) -> np.ndarray:
    """A view, uint8 (size, size, 3), from its bytes. A stored path is ignored: it could name any file here."""
    if not content or not content["bytes"]:
        raise ValueError("a view is missing")
    try:
        image = PILImage.open(io.BytesIO(content["bytes"]), formats=["PNG"])
        shape, pixels = image.size, np.array(image) if image.size == (size, size) else None
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise ValueError("a view is damaged") from error
    if pixels is None or pixels.shape != (size, size, 3):
        raise ValueError(f"a view has {shape} pixels, {image.mode}")
    return pixels


def _geometry(columns: dict[str, list[Any]]) -> PairGeometry:
    depth = [
        None if target is None or source is None else (target["bytes"], source["bytes"])
        for target, source in zip(columns["target_depth"], columns["source_depth"], strict=True)
    ]
    poses, intrinsics = (
        np.stack([np.array(columns[f"{view}_{name}"], dtype=np.float64) for view in VIEW_NAMES], axis=1)
        for name in ("pose", "intrinsics")
    )
    scale = np.array(columns["depth_scale"], dtype=np.float64)
    return PairGeometry(depth, scale, poses.reshape(-1, 2, 4, 4), intrinsics)


def pair_set_card(
    pairs: Any, described: dict[str, Any], *, repo_id: str | None = None, license: str | None = None
) -> str:
    """The text of README.md.

    Args:
        pairs: the [`PairSet`], which this file cannot import, since a set is stored with its card.
        described: the content of its `pair_set.json`.
        repo_id: the repository that it is pushed to; None for a folder.
        license: of the views, as people write it; by default the licences of the lives.
    """
    lives = pairs.provenance.get("lives", [])
    if license is None:
        license = "; ".join(sorted({stated(life.get("license", "")) for life in lives} - {""}))
    header = dataset_header(
        pairs.name,
        len(pairs),
        license,
        tasks=["image-feature-extraction", "keypoint-matching"],
        tags=["egocentric", "alignment", "correspondence"],
        files={"default": ("test", "test/*.arrow")},
    )
    fields = {
        "pairs": pairs,
        "provenance": pairs.provenance,
        "lives": lives,
        "described": described,
        "gap": range_of(pairs.gap, " s") or "not known",
        "overlap": range_of(pairs.overlap) or "not known",
        "people": not (lives and all("ViZDoom" in life.get("license", "") for life in lives)),
        "where": repo_id or "FOLDER",
        "license": license,
    }
    return fill_card("pair_set", header, fields)


def range_of(values: np.ndarray | None, unit: str = "") -> str:
    """The minimum, maximum and median of the known values, in words; empty if there are none."""
    if values is None or np.isnan(values).all():
        return ""
    least, median, most = np.nanquantile(values, [0, 0.5, 1])
    return f"{least:.2f} to {most:.2f}{unit}, median {median:.2f}{unit}"
