"""Readers of frames with true depth: NYU Depth V2, ScanNet, `datasets` data sets, and prepared lives."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from singlelife.errors import EvaluationError
from singlelife.evaluation.depth_frames import PROTOCOLS, DepthFrames
from singlelife.evaluation.features import ItemError
from singlelife.evaluation.images import data_identity, load_split, rgb
from singlelife.evaluation.settings import DepthConfig
from singlelife.lives.resolve import resolve_life

LABELED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"  # the owners' two files of NYU Depth V2
SCENE = re.compile(r"scene\d{4}_\d{2}")  # of ScanNet

_MAP_UNITS_PER_METRE = 32.0  # of simulated lives, whose walker's eye is 41 units above the floor
_DEPTH_COLUMNS = ("raw_depth", "depth", "depth_map")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[^@]+)?", re.ASCII)


def open_depth(config: DepthConfig, role: str) -> DepthFrames:
    """The frames to train on or to test on.

    Each name in `config.train` or `config.test` stands for, in this order: a folder with the labelled NYU Depth V2; a
    folder of ScanNet scenes; a prepared life; a folder with a `datasets` data set; ORG/NAME of one on the Hub; the
    name of a life. Several are joined, each thinned out to its share.

    Args:
        config: see there.
        role: `"train"` or `"test"`.

    Raises:
        EvaluationError, LifeError: there are no such frames, or they cannot be used.
    """
    words: tuple[str, ...] = getattr(config, role)
    limit: int | None = getattr(config, f"num_{role}")
    if not words:
        raise EvaluationError(f"--{role} should name at least one life, folder or data set.")
    parts = []
    for number, word in enumerate(words):
        part = _open(word, role, getattr(config, f"{role}_split"), config)
        if config.protocol:
            part.protocol = PROTOCOLS[config.protocol]
        if limit is not None:
            part.thin_out(max(1, limit // len(words) + (number < limit % len(words))))
        part.check()
        parts.append(part)
    return parts[0] if len(parts) == 1 else _Joined(parts)


def _open(word: str, role: str, split: str | None, config: DepthConfig) -> DepthFrames:
    folder = Path(word).expanduser()
    if (folder / LABELED).is_file():
        return _NyuDepth(word, folder, split or role, config)
    if folder.is_dir() and any(SCENE.fullmatch(path.name) for path in folder.iterdir()):
        return _ScanNetDepth(word, folder, role, split, config)
    if not (folder / "metadata.json").is_file():
        if folder.is_dir() or _HUB_ID.fullmatch(word):
            return _DatasetDepth(word, role, split, config)
        if len(folder.parts) > 1:
            raise EvaluationError(f"There is nothing to evaluate depth on at {word}: no such folder.")
    return _LifeDepth(word, config)


class _Joined(DepthFrames):
    """Several sources, one after the other."""

    def __init__(self, parts: list[DepthFrames]):
        protocols = {part.protocol for part in parts}
        if len(protocols) > 1:
            raise EvaluationError(
                f"{', '.join(part.name for part in parts)} have different protocols "
                f"({', '.join(sorted(protocol.name for protocol in protocols))}). Choose one with --protocol."
            )
        name, identity = " + ".join(part.name for part in parts), " ".join(part.identity for part in parts)
        super().__init__(name, identity, parts[0].protocol, sum(map(len, parts)))
        self.note = "; ".join(dict.fromkeys(part.note for part in parts if part.note))
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def _part(self, row: int) -> tuple[DepthFrames, int]:
        """The source of a row, and the row in it."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        part = self._parts[number]
        return part, int(part.rows[row - int(self._starts[number])])

    def image(self, row: int) -> torch.Tensor:
        part, own_row = self._part(row)
        return part.image(own_row)

    def stored_depth(self, row: int) -> np.ndarray:
        part, own_row = self._part(row)
        return part.stored_depth(own_row).astype(np.float32) * np.float32(part.depth_scale)


class _LifeDepth(DepthFrames):
    """A prepared life with depth; simulated ones at 32 map units a metre."""

    def __init__(self, word: str, config: DepthConfig):
        life = resolve_life(word, cache_dir=config.cache_dir)
        if life.depth([0]) is None:
            raise EvaluationError(
                f"The life {life.name} has no depth, so there is no ground truth to evaluate on. Simulated lives "
                "(sim_1, sim_test) have it."
            )
        simulated = bool(life.metadata.get("simulation"))
        scale = 1 / _MAP_UNITS_PER_METRE if simulated else config.depth_scale or 1.0
        protocol = PROTOCOLS["simulated" if simulated else "metric"]
        super().__init__(life.name, f"life {life.metadata['fingerprint']}", protocol, len(life), scale)
        if error := life.metadata.get("depth_error"):
            self.note = f"true depth is off by up to {error * scale:.2g} m for 95% of the pixels"
        self._life = life

    def image(self, row: int) -> torch.Tensor:
        return self._life.decode([row])[0]

    def stored_depth(self, row: int) -> np.ndarray:
        depth = self._life.depth([row])
        assert depth is not None  # looked at before
        return depth[0]


def open_nyu(folder: Path) -> tuple[Any, dict[str, list[int]]]:
    """The owners' two files of NYU Depth V2.

    Returns:
        The labelled frames, an open HDF5 file, in which MATLAB stores the last axis first: images (n, 3, w, h), depths
        and rawDepths (n, w, h); and the frames of `train` and `test`, from 0, of the official split.

    Raises:
        EvaluationError: a file is missing or damaged, or h5py is not installed.
    """
    from scipy.io import loadmat

    try:
        import h5py
    except ImportError as error:
        raise EvaluationError("NYU Depth V2 needs h5py: pip install 'singlelife[evaluation]'.") from error
    for name in (LABELED, SPLITS):
        if not (folder / name).is_file():
            raise EvaluationError(f"{folder / name} is missing. datasets_scripts/nyu_depth_v2.py says how to get it.")
    try:
        content = h5py.File(folder / LABELED, "r")
        shapes = {name: content[name].shape for name in ("images", "depths", "rawDepths") if name in content}
    except OSError as error:
        raise EvaluationError(f"{folder / LABELED} is not an HDF5 (MATLAB v7.3) file, or cut off: {error}") from error
    images, depths = shapes.get("images", ()), shapes.get("depths", ())
    if len(images) != 4 or images[1] != 3 or not depths == shapes.get("rawDepths") == (images[0], *images[2:]):
        raise EvaluationError(
            f"The arrays of {folder / LABELED} should be images (n, 3, w, h), depths and rawDepths (n, w, h), not "
            f"{shapes}."
        )
    try:
        listed = loadmat(folder / SPLITS, variable_names=["trainNdxs", "testNdxs"])
        splits = {name: np.sort(listed[f"{name}Ndxs"].astype(np.int64).ravel() - 1) for name in ("train", "test")}
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise EvaluationError(f"{folder / SPLITS} cannot be read as the official split: {error}") from error
    both = np.concatenate(list(splits.values()))
    if len(np.unique(both)) < len(both) or (both < 0).any() or (both >= images[0]).any():
        raise EvaluationError(f"{folder / SPLITS}: its frames should be 1 to {images[0]}, each once.")
    return content, {name: indices.tolist() for name, indices in splits.items()}


class _NyuDepth(DepthFrames):
    """The owners' labelled file; the depth is as the sensor gave it, or with the holes filled (column `depth`)."""

    def __init__(self, word: str, folder: Path, split: str, config: DepthConfig):
        column = config.depth_column or "raw_depth"
        names = {"raw_depth": "rawDepths", "depth": "depths"}
        if column not in names:
            raise EvaluationError(f"--depth-column of NYU Depth V2 is raw_depth or depth, not {column!r}.")
        self._file, splits = open_nyu(folder)
        self._depths = names[column]
        if split not in splits:
            raise EvaluationError(f"NYU Depth V2 has the splits train and test, not {split!r}.")
        stat = (folder / LABELED).stat()
        identity = f"{(folder / LABELED).resolve()} {stat.st_size} {stat.st_mtime_ns} {column}"
        num_rows = len(self._file["images"])
        super().__init__(f"{word} ({split})", identity, PROTOCOLS["nyu"], num_rows, config.depth_scale or 1.0)
        self.rows = np.array(splits[split], dtype=np.int64)

    def image(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self._file["images"][row].transpose(0, 2, 1).copy())  # MATLAB has the columns first

    def stored_depth(self, row: int) -> np.ndarray:
        return self._file[self._depths][row].T


class _ScanNetDepth(DepthFrames):
    """Scenes as the owners' SensReader exports them: color/0.jpg, depth/0.png in millimetres."""

    def __init__(self, word: str, folder: Path, role: str, split: str | None, config: DepthConfig):
        scenes = sorted(path.name for path in folder.iterdir() if SCENE.fullmatch(path.name))
        name = word
        if split is not None:
            listed = Path(split)
            try:
                wanted = listed.read_text(encoding="utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise EvaluationError(
                    f"--{role}-split {split} cannot be read: for ScanNet it is a file with a scene's name a line "
                    f"({error})."
                ) from error
            if missing := [scene for scene in wanted if scene not in scenes]:
                raise EvaluationError(
                    f"{folder} lacks {len(missing)} of the {len(wanted)} scenes in {listed}, such as {missing[0]}."
                )
            scenes, name = wanted, f"{word} ({listed.name})"
        self._files = [pair for scene in scenes for pair in _scene_files(folder / scene)]
        some = self._files[:: max(1, len(self._files) // 100)]
        stats = [path.stat() for pair in some for path in pair if path.is_file()]
        listing = "\n".join(f"{color} {depth}" for color, depth in self._files)
        listing += "".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)
        identity = f"scannet {hashlib.sha256(listing.encode()).hexdigest()}"
        super().__init__(name, identity, PROTOCOLS["scannet"], len(self._files), config.depth_scale or 0.001)

    def image(self, row: int) -> torch.Tensor:
        with Image.open(self._files[row][0]) as picture:
            return rgb(picture)

    def stored_depth(self, row: int) -> np.ndarray:
        path = self._files[row][1]
        try:
            with Image.open(path) as picture:
                if picture.mode not in ("I;16", "I"):
                    raise ItemError(f"row {row}: {path} has mode {picture.mode}, where depth is 16-bit")
                return np.array(picture)
        except OSError as error:
            raise ItemError(f"row {row}: there is no ground truth that can be read in {path} ({error})") from error


def _scene_files(scene: Path) -> list[tuple[Path, Path]]:
    """All frames with an image, in order; whether the depth of one is missing shows when it is read."""
    images = (path for path in (scene / "color").glob("*") if path.stem.isdecimal())
    return [(path, scene / "depth" / f"{path.stem}.png") for path in sorted(images, key=lambda path: int(path.stem))]


class _DatasetDepth(DepthFrames):
    """A `datasets` data set with a column of images and one of depth: images of 16-bit or float pixels, or arrays."""

    def __init__(self, word: str, role: str, split: str | None, config: DepthConfig):
        split_name, data = load_split(word, role, split)
        if "image" not in data.column_names:
            raise EvaluationError(f"{word} has no column image; it has {', '.join(data.column_names)}.")
        wanted = (config.depth_column,) if config.depth_column else _DEPTH_COLUMNS
        column = next((name for name in wanted if name in data.column_names), None)
        if column is None:
            raise EvaluationError(
                f"{word} has no ground truth in a column {' or '.join(wanted)}; it has "
                f"{', '.join(data.column_names)}. Name the column of the depth with --depth-column."
            )
        self._images, self._depth = data.select_columns("image"), data.select_columns(column).with_format("numpy")
        self._column = column
        # NYU's frames as earlier versions prepared them have this column, which other sets do not.
        protocol = PROTOCOLS["nyu" if "raw_depth" in data.column_names else "metric"]
        identity = f"{word} {split_name} {column} {data_identity(data)}"
        super().__init__(f"{word} ({split_name})", identity, protocol, len(data), config.depth_scale)

    def image(self, row: int) -> torch.Tensor:
        return rgb(self._images[row]["image"])

    def stored_depth(self, row: int) -> np.ndarray:
        if self._depth.with_format("arrow")[row][self._column].null_count:  # an array of NaN in numpy's format
            raise ItemError(f"row {row}: there is no ground truth (its {self._column} is empty)")
        try:
            value: Any = self._depth[row][self._column]
        except Exception as error:  # several libraries raise here, each what it likes
            raise ItemError(f"row {row}: the depth cannot be read ({error})") from error
        rows = list(value) if isinstance(value, np.ndarray) and value.dtype == object else value
        return np.asarray(rows)
