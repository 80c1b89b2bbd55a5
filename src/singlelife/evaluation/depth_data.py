"""Frames with true depth, from where people have them.

What is named is, in this order: a folder with the labelled NYU Depth V2 (`nyu_depth_v2_labeled.mat`); a folder of
ScanNet scenes; a prepared life; a folder with a `datasets` data set; ORG/NAME of one on the Hub; the name of a life.
"""

import csv
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from singlelife.errors import EvaluationError, LifeError
from singlelife.evaluation.depth_protocols import PROTOCOLS, DepthProtocol, check_unit
from singlelife.evaluation.features import Item, ItemError
from singlelife.evaluation.image_sets import load_split, rgb

MAP_UNITS_PER_METRE = 32.0  # of simulated lives, whose walker's eye is 41 units above the floor

_LABELED, _SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
_SCENE = re.compile(r"scene\d{4}_\d{2}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[^@]+)?", re.ASCII)
_DEPTH_COLUMNS = ("raw_depth", "depth", "depth_map")
_LOOKED_AT = 16  # frames, to tell the unit


class DepthFrames(ABC):
    """Images with their true depth. Items for [`singlelife.evaluation.features.extract`] too.

    Attributes:
        name: what the user called it, with its split.
        identity: see `Examples`.
        protocol: how depth is compared here.
        rows: which frames of the source these are, int64 (n,).
        depth_scale: metres of one unit of the stored depth.
        note: what a reader of results should know of this depth, or empty.
    """

    target_dtype = np.dtype(np.float16)  # what a probe learns from; the truth that it is tested on is read anew

    def __init__(self, name: str, identity: str, protocol: DepthProtocol, num_rows: int, depth_scale: float = 1.0):
        if not num_rows:
            raise EvaluationError(f"{name} has no frames.")
        self.name, self.protocol, self.depth_scale, self.note = name, protocol, depth_scale, ""
        self.rows = np.arange(num_rows)
        self._source = identity

    @property
    def identity(self) -> str:
        return f"{self._source} {self.protocol} {self.depth_scale} {hashlib.sha256(self.rows.tobytes()).hexdigest()}"

    def __len__(self) -> int:
        return len(self.rows)

    def thin_out(self, count: int | None) -> None:
        """Keep this many frames, evenly spread; all if there are no more, or with None."""
        if count is not None and count < len(self.rows):
            self.rows = self.rows[np.linspace(0, len(self.rows) - 1, count).round().astype(np.int64)]

    @abstractmethod
    def image(self, row: int) -> torch.Tensor:
        """The image of a row of the source, uint8 (3, height, width)."""

    @abstractmethod
    def stored_depth(self, row: int) -> np.ndarray:
        """The depth of a row of the source as it is stored, (height, width).

        Raises:
            ItemError: there is none.
        """

    def depth(self, index: int) -> np.ndarray:
        """True depth of frame `index` in metres, float32 (height, width), 0 where it is not known.

        Raises:
            ItemError: there is none, or no pixel of it counts.
        """
        row = int(self.rows[index])
        stored = np.squeeze(np.asarray(self.stored_depth(row)))
        if stored.ndim != 2 or stored.dtype.kind not in "uif":
            raise ItemError(f"row {row}: depth should be numbers on two axes, not {stored.dtype} {stored.shape}")
        depth = stored.astype(np.float32) * np.float32(self.depth_scale)
        depth[~np.isfinite(depth) | (depth < 0)] = 0
        if not self.protocol.known(depth).any():
            finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
            found = f"{finite.min():g} to {finite.max():g}" if finite.size else "NaN or infinite"
            raise ItemError(
                f"row {row}: no pixel has a valid depth ({self.protocol.min_depth:g} to {self.protocol.max_depth:g} "
                f"m); the stored values are {found}"
            )
        return depth

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return size

    def item(self, index: int, size: tuple[int, int]) -> Item:
        row = int(self.rows[index])
        depth = self.depth(index)
        try:
            image = self.image(row)
        except (OSError, ValueError, LifeError) as error:
            raise ItemError(f"row {row}: the image cannot be read ({error})") from error
        have, want = image.shape[1:], depth.shape
        if abs(have[0] * want[1] - have[1] * want[0]) > 0.02 * have[0] * want[1]:
            raise ItemError(
                f"row {row}: an image of {have[1]}x{have[0]} and a depth map of {want[1]}x{want[0]} pixels are not of "
                "one frame: their aspect ratios differ"
            )
        digest = hashlib.sha256(image.contiguous().numpy().tobytes())
        digest.update(depth.tobytes())
        known = np.where(self.protocol.known(depth), depth, np.float32(0))
        target = sampled(known, size)
        if not target.any():
            raise ItemError(f"row {row}: no pixel has a valid depth once it is sampled at {size[1]}x{size[0]}")
        return Item(image, target.astype(np.float16), digest.digest())

    def check(self) -> None:
        """Look at some frames, before any work is done on all.

        Raises:
            EvaluationError: their depth is in another unit, or the protocol's crop is of another size.
        """
        medians = []
        for index in np.linspace(0, len(self) - 1, min(_LOOKED_AT, len(self))).round().astype(int):
            try:
                stored = np.squeeze(np.asarray(self.stored_depth(int(self.rows[index]))))
            except ItemError:
                continue
            if stored.ndim != 2 or stored.dtype.kind not in "uif":
                continue
            self.protocol.known(np.zeros(stored.shape, np.float32))
            known = stored[np.isfinite(stored) & (stored > 0)] * float(self.depth_scale)
            if known.size:
                medians.append(np.median(known))
        if medians:
            check_unit(np.array(medians), self.name)


def sampled(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A depth map (H, W) at another size: the value at each pixel's centre, as depth is not to be mixed over edges."""
    rows, columns = (
        ((np.arange(count) + 0.5) * have / count).astype(np.int64) for count, have in zip(size, depth.shape, strict=True)
    )
    return depth[np.ix_(rows, columns)]


@dataclass(frozen=True)
class DepthOptions:
    """What the user says of the data.

    Attributes:
        split: name of a split, or for ScanNet the file that lists its scenes; None for the usual one.
        depth_scale: metres of one unit of the stored depth, where that is not known.
        depth_column: of a `datasets` data set.
        protocol: a name of `PROTOCOLS`, to take another than the data's own.
        max_depth: in metres, instead of the protocol's.
        limit: how many frames to take.
        cache_dir: where prepared lives are kept.
    """

    split: str | None = None
    depth_scale: float | None = None
    depth_column: str | None = None
    protocol: str | None = None
    max_depth: float | None = None
    limit: int | None = None
    cache_dir: Path | None = None


def open_depth(words: Sequence[str], role: str, options: DepthOptions | None = None) -> DepthFrames:
    """The frames that a user names.

    Args:
        words: see above; several are joined, each thinned out to its share.
        role: `"train"` or `"test"`: which split to take where there are several and none is named.
        options: see there.

    Raises:
        EvaluationError, LifeError: there are none, or they cannot be used.
    """
    options = options or DepthOptions()
    parts = []
    for number, word in enumerate(words):
        part = _open(word, role, options)
        if options.protocol:
            part.protocol = PROTOCOLS[options.protocol]
        if options.max_depth:
            part.protocol = replace(part.protocol, max_depth=options.max_depth)
        if options.limit is not None:
            part.thin_out(options.limit // len(words) + (number < options.limit % len(words)))
        part.check()
        parts.append(part)
    return parts[0] if len(parts) == 1 else _Joined(parts)


def _open(word: str, role: str, options: DepthOptions) -> DepthFrames:
    folder = Path(word).expanduser()
    if (folder / _LABELED).is_file():
        return _Nyu(word, folder, role, options)
    if folder.is_dir() and any(_SCENE.fullmatch(path.name) for path in folder.iterdir()):
        return _ScanNet(word, folder, role, options)
    if (folder / "metadata.json").is_file():
        return _Life(word, options)
    if folder.is_dir() or _HUB_ID.fullmatch(word):
        return _Dataset(word, role, options)
    if len(folder.parts) > 1:
        raise EvaluationError(f"There is nothing to evaluate depth on at {word}: no such folder.")
    return _Life(word, options)


class _Joined(DepthFrames):
    """Several sources, one after the other."""

    def __init__(self, parts: list[DepthFrames]):
        protocols = {part.protocol for part in parts}
        if len(protocols) > 1:
            raise EvaluationError(
                f"{', '.join(part.name for part in parts)} have different protocols "
                f"({', '.join(sorted(protocol.name for protocol in protocols))}). Choose one with --protocol."
            )
        super().__init__(
            " + ".join(part.name for part in parts),
            " ".join(part.identity for part in parts),
            parts[0].protocol,
            sum(map(len, parts)),
        )
        self.note = "; ".join(dict.fromkeys(part.note for part in parts if part.note))
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def _part(self, row: int) -> tuple[DepthFrames, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[number], row - int(self._starts[number])

    def image(self, row: int) -> torch.Tensor:
        part, index = self._part(row)
        return part.image(int(part.rows[index]))

    def stored_depth(self, row: int) -> np.ndarray:
        part, index = self._part(row)
        return part.stored_depth(int(part.rows[index])).astype(np.float32) * np.float32(part.depth_scale)


class _Life(DepthFrames):
    """A prepared life with depth; simulated ones at 32 map units a metre."""

    def __init__(self, word: str, options: DepthOptions):
        from singlelife.lives.resolve import resolve_life

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
            self.note = f"the depth of {life.name} is off by up to {error * scale:.2g} m for 95% of its pixels"
        self._life = life

    def image(self, row: int) -> torch.Tensor:
        return self._life.decode([row])[0]

    def stored_depth(self, row: int) -> np.ndarray:
        depth = self._life.depth([row])
        assert depth is not None  # looked at before
        return depth[0]


class _Nyu(DepthFrames):
    """The owners' labelled file; the depth is as the sensor gave it, or with the holes filled (column `depth`)."""

    def __init__(self, word: str, folder: Path, role: str, options: DepthOptions):
        try:
            import h5py
        except ImportError as error:
            raise _not_installed("h5py") from error
        path = folder / _LABELED
        try:
            self._file = h5py.File(path, "r")
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
        rows = _nyu_split(folder / _SPLITS, split, images[0])
        stat = path.stat()
        identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {column}"
        super().__init__(f"{word} ({split})", identity, PROTOCOLS["nyu"], images[0], options.depth_scale or 1.0)
        self.rows = rows

    def image(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self._file["images"][row].transpose(0, 2, 1).copy())  # MATLAB has the columns first

    def stored_depth(self, row: int) -> np.ndarray:
        return self._file[self._depths][row].T


def _nyu_split(path: Path, split: str, num_frames: int) -> np.ndarray:
    """The frames of `train` or `test`, from 0, of the official split."""
    if not path.is_file():
        raise EvaluationError(f"{path} is missing, which says which frames are the official train and test ones.")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise _not_installed("scipy") from error
    if split not in ("train", "test"):
        raise EvaluationError(f"NYU Depth V2 has the splits train and test, not {split!r}.")
    try:
        content = loadmat(path, variable_names=["trainNdxs", "testNdxs"])
        rows = np.sort(content[f"{split}Ndxs"].astype(np.int64).ravel() - 1)
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise EvaluationError(f"{path} cannot be read as the official split: {error}") from error
    if not rows.size or rows[0] < 0 or rows[-1] >= num_frames or len(np.unique(rows)) < len(rows):
        raise EvaluationError(f"The frames of {split} in {path} should be among 1 to {num_frames}, each once.")
    return rows


class _ScanNet(DepthFrames):
    """Scenes as the owners' SensReader exports them: color/0.jpg, depth/0.png in millimetres."""

    def __init__(self, word: str, folder: Path, role: str, options: DepthOptions):
        scenes = sorted(path.name for path in folder.iterdir() if _SCENE.fullmatch(path.name))
        name = word
        if options.split is not None:
            listed = Path(options.split)
            try:
                wanted = listed.read_text(encoding="utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise EvaluationError(
                    f"--{role}-split {options.split} cannot be read: for ScanNet it is a file with a scene's name a line "
                    f"({error})."
                ) from error
            if missing := [scene for scene in wanted if scene not in scenes]:
                raise EvaluationError(
                    f"{folder} lacks {len(missing)} of the {len(wanted)} scenes in {listed}, such as {missing[0]}."
                )
            scenes, name = wanted, f"{word} ({listed.name})"
        self._files = _indexed(folder, set(scenes)) if (folder / "index.csv").is_file() else _found(folder, scenes)
        listing = "\n".join(f"{color} {depth}" for color, depth in self._files)
        stats = [path.stat() for pair in self._files[:: max(1, len(self._files) // 100)] for path in pair if path.is_file()]
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
                (folder / row["color"], folder / row["depth"]) for row in csv.DictReader(file) if row["scene"] in scenes
            ]
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{folder / 'index.csv'} cannot be read ({error}); make it anew or remove it.") from error


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


class _Dataset(DepthFrames):
    """A `datasets` data set with a column of images and one of depth: images of 16-bit or float pixels, or arrays."""

    def __init__(self, word: str, role: str, options: DepthOptions):
        split_name, data = load_split(word, role, options.split)
        if "image" not in data.column_names:
            raise EvaluationError(f"{word} has no column image; it has {', '.join(data.column_names)}.")
        wanted = (options.depth_column,) if options.depth_column else _DEPTH_COLUMNS
        column = next((name for name in wanted if name in data.column_names), None)
        if column is None:
            raise EvaluationError(
                f"{word} has no ground truth in a column {' or '.join(wanted)}; it has {', '.join(data.column_names)}. "
                "Name the column of the depth with --depth-column."
            )
        self._images, self._depth = data.select_columns("image"), data.select_columns(column).with_format("numpy")
        self._column = column
        if options.depth_scale is None:
            self._refuse_levels(word)
        # The official frames as datasets_scripts/nyu_depth_v2.py prepares them are compared as such.
        protocol = PROTOCOLS["nyu" if "raw_depth" in data.column_names else "metric"]
        files = [Path(file["filename"]) for file in data.cache_files]
        stats = " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
        identity = f"{word} {split_name} {column} {len(data)} {stats or data._fingerprint}"
        super().__init__(f"{word} ({split_name})", identity, protocol, len(data), options.depth_scale or 1.0)

    def _refuse_levels(self, word: str) -> None:
        """Whole numbers are levels of an unknown unit."""
        for row in range(min(_LOOKED_AT, len(self._depth))):
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
        try:
            value: Any = self._depth[row][self._column]
        except Exception as error:  # of several libraries, by what is damaged
            raise ItemError(f"row {row}: the depth cannot be read ({error})") from error
        if value is None or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0):
            raise ItemError(f"row {row}: there is no ground truth (its {self._column} is empty)")
        return np.stack(value) if isinstance(value, np.ndarray) and value.dtype == object else np.asarray(value)


def _not_installed(package: str) -> EvaluationError:
    return EvaluationError(f"This needs {package}, which is not installed: pip install 'singlelife[evaluation]'.")
