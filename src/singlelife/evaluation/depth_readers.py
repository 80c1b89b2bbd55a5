"""Where frames with true depth are read from: NYU Depth V2, ScanNet, `datasets` data sets, and prepared lives."""

import csv
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from singlelife.errors import EvaluationError
from singlelife.evaluation.depth_frames import LOOKED_AT, DepthFrames, DepthOptions
from singlelife.evaluation.depth_protocols import PROTOCOLS, check_unit
from singlelife.evaluation.features import ItemError
from singlelife.evaluation.image_sets import data_identity, load_split, rgb
from singlelife.evaluation.nyu import LABELED, SPLITS, open_labeled, read_splits
from singlelife.lives.resolve import resolve_life

MAP_UNITS_PER_METRE = 32.0  # of simulated lives, whose walker's eye is 41 units above the floor
SCENE = re.compile(r"scene\d{4}_\d{2}")

_DEPTH_COLUMNS = ("raw_depth", "depth", "depth_map")


class LifeDepth(DepthFrames):
    """A prepared life with depth; simulated ones at 32 map units a metre."""

    def __init__(self, word: str, options: DepthOptions):
        life = resolve_life(word, cache_dir=options.cache_dir)
        if life.depth([0]) is None:
            raise EvaluationError(
                f"The life {life.name} has no depth, so there is no ground truth to evaluate on. Simulated lives "
                "(sim_1, sim_test) have it."
            )
        simulated = bool(life.metadata.get("simulation"))
        if simulated:
            scale = 1 / MAP_UNITS_PER_METRE
        else:
            scale = 1.0 if options.depth_scale is None else options.depth_scale
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


class NyuDepth(DepthFrames):
    """The owners' labelled file; the depth is as the sensor gave it, or with the holes filled (column `depth`)."""

    def __init__(self, word: str, folder: Path, role: str, options: DepthOptions):
        path = folder / LABELED
        try:
            self._file = open_labeled(path)
            shapes = {name: self._file[name].shape for name in ("images", "depths", "rawDepths") if name in self._file}
        except OSError as error:
            raise EvaluationError(f"{path} is not an HDF5 (MATLAB v7.3) file, or is cut off: {error}") from error
        column = options.depth_column or "raw_depth"
        names = {"raw_depth": "rawDepths", "depth": "depths"}
        if column not in names:
            raise EvaluationError(f"--depth-column of NYU Depth V2 is raw_depth or depth, not {column!r}.")
        self._depths = names[column]
        images, depths = shapes.get("images", ()), shapes.get(self._depths, ())
        if len(images) != 4 or images[1] != 3 or depths != (images[0], *images[2:]):
            raise EvaluationError(
                f"The arrays of {path} should be images (n, 3, w, h) and {self._depths} (n, w, h), not {shapes}."
            )
        split = options.split or role
        if not (folder / SPLITS).is_file():
            raise EvaluationError(
                f"{folder / SPLITS} is missing, which says which frames are the official train and test."
            )
        splits = read_splits(folder / SPLITS, images[0])
        if split not in splits:
            raise EvaluationError(f"NYU Depth V2 has the splits train and test, not {split!r}.")
        stat = path.stat()
        identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {column}"
        super().__init__(f"{word} ({split})", identity, PROTOCOLS["nyu"], images[0], options.depth_scale or 1.0)
        self.rows = np.array(splits[split], dtype=np.int64)

    def image(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self._file["images"][row].transpose(0, 2, 1).copy())  # MATLAB has the columns first

    def stored_depth(self, row: int) -> np.ndarray:
        return self._file[self._depths][row].T


class ScanNetDepth(DepthFrames):
    """Scenes as the owners' SensReader exports them: color/0.jpg, depth/0.png in millimetres."""

    def __init__(self, word: str, folder: Path, role: str, options: DepthOptions):
        scenes = sorted(path.name for path in folder.iterdir() if SCENE.fullmatch(path.name))
        name = word
        if options.split is not None:
            listed = Path(options.split)
            try:
                wanted = listed.read_text(encoding="utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise EvaluationError(
                    f"--{role}-split {options.split} cannot be read: for ScanNet it is a file with a scene's name a "
                    f"line ({error})."
                ) from error
            if missing := [scene for scene in wanted if scene not in scenes]:
                raise EvaluationError(
                    f"{folder} lacks {len(missing)} of the {len(wanted)} scenes in {listed}, such as {missing[0]}."
                )
            scenes, name = wanted, f"{word} ({listed.name})"
        self._files = _indexed(folder, set(scenes)) if (folder / "index.csv").is_file() else _found(folder, scenes)
        listing = "\n".join(f"{color} {depth}" for color, depth in self._files)
        stats = [
            path.stat() for pair in self._files[:: max(1, len(self._files) // 100)] for path in pair if path.is_file()
        ]
        identity = hashlib.sha256(
            (listing + "".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)).encode()
        ).hexdigest()
        scale = options.depth_scale or 0.001
        super().__init__(name, f"scannet {identity}", PROTOCOLS["scannet"], len(self._files), scale)

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


def _indexed(folder: Path, scenes: set[str]) -> list[tuple[Path, Path]]:
    """The frames of an index.csv, as `datasets_scripts/scannet.py --index` writes it."""
    try:
        with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
            return [
                (folder / row["color"], folder / row["depth"])
                for row in csv.DictReader(file)
                if row["scene"] in scenes
            ]
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{folder / 'index.csv'} cannot be read ({error}); make it anew or remove it."
        ) from error


def _found(folder: Path, scenes: list[str]) -> list[tuple[Path, Path]]:
    """All frames with an image; the depth of one may be missing, which is said when it is read."""
    pairs = []
    for scene in scenes:
        images = sorted(
            (path for path in (folder / scene / "color").glob("*") if path.stem.isdecimal()),
            key=lambda path: int(path.stem),
        )
        pairs += [(path, folder / scene / "depth" / f"{path.stem}.png") for path in images]
    return pairs


class DatasetDepth(DepthFrames):
    """A `datasets` data set with a column of images and one of depth: images of 16-bit or float pixels, or arrays."""

    def __init__(self, word: str, role: str, options: DepthOptions):
        split_name, data = load_split(word, role, options.split)
        if "image" not in data.column_names:
            raise EvaluationError(f"{word} has no column image; it has {', '.join(data.column_names)}.")
        wanted = (options.depth_column,) if options.depth_column else _DEPTH_COLUMNS
        column = next((name for name in wanted if name in data.column_names), None)
        if column is None:
            raise EvaluationError(
                f"{word} has no ground truth in a column {' or '.join(wanted)}; it has "
                f"{', '.join(data.column_names)}. Name the column of the depth with --depth-column."
            )
        self._images, self._depth = data.select_columns("image"), data.select_columns(column).with_format("numpy")
        self._column = column
        if options.depth_scale is None:
            self._refuse_levels(word)
        # The official frames as datasets_scripts/nyu_depth_v2.py prepares them are compared as such.
        protocol = PROTOCOLS["nyu" if "raw_depth" in data.column_names else "metric"]
        identity = f"{word} {split_name} {column} {data_identity(data)}"
        super().__init__(f"{word} ({split_name})", identity, protocol, len(data), options.depth_scale or 1.0)

    def _refuse_levels(self, word: str) -> None:
        """Whole numbers are levels of an unknown unit."""
        for row in range(min(LOOKED_AT, len(self._depth))):
            try:
                levels = self.stored_depth(row)
            except ItemError:
                continue
            if np.issubdtype(levels.dtype, np.integer):
                known = levels[levels > 0]
                if levels.dtype.itemsize == 1:
                    raise EvaluationError(
                        f"The depth of {word} is stored in 8 bits: a picture of depth, not metric depth. "
                        "--depth-scale M says how many metres one level has, if it has a unit."
                    )
                if known.size:
                    check_unit(np.array([np.median(known)]), word)
                raise EvaluationError(
                    f"The depth of {word} is stored in whole numbers: say with --depth-scale how many metres one has."
                )
            return

    def image(self, row: int) -> torch.Tensor:
        return rgb(self._images[row]["image"])

    def stored_depth(self, row: int) -> np.ndarray:
        if self._depth.with_format("arrow")[row][self._column].null_count:  # an array of NaN in numpy's format
            raise ItemError(f"row {row}: there is no ground truth (its {self._column} is empty)")
        try:
            value: Any = self._depth[row][self._column]
        except Exception as error:  # of several libraries, by what is damaged
            raise ItemError(f"row {row}: the depth cannot be read ({error})") from error
        rows = list(value) if isinstance(value, np.ndarray) and value.dtype == object else value
        return np.asarray(rows)
