"""Frames with true depth from NYU Depth V2, ScanNet, `datasets` data sets and prepared lives, and depth metrics."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from singlelife.errors import EvaluationError, LifeError
from singlelife.evaluation.features import Item, ItemError, data_identity, load_split, rgb
from singlelife.evaluation.settings import DepthConfig
from singlelife.lives.registry import prepared_folders
from singlelife.lives.resolve import resolve_life

METRICS = ("delta1", "delta2", "delta3", "abs_rel", "rmse", "log10")
LABELED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"  # the owners' two files of NYU Depth V2
SCENE = re.compile(r"scene\d{4}_\d{2}")  # of ScanNet

_EIGEN_CROP = (slice(45, 471), slice(41, 601))  # of 480 rows and 640 columns
_EIGEN_SHAPE = (480, 640)
_LEAST, _MOST = 0.1, 40.0  # metres: the range in which a median depth is plausible
_LOOKED_AT = 16  # frames to check before the work on all of them
_MAP_UNITS_PER_METRE = 32.0  # of simulated lives, whose walker's eye is 41 units above the floor
_DEPTH_COLUMNS = ("raw_depth", "depth", "depth_map")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[^@]+)?", re.ASCII)


@dataclass(frozen=True)
class DepthProtocol:
    """How predictions are compared with the truth on a data set.

    A pixel counts if its true depth is above `min_depth` and at most `max_depth` (in metres), and if it lies inside
    the crop: `"eigen"` for the middle of the Kinect's frame (rows 45 to 470, columns 41 to 600 of 480x640), or None.
    Predictions are resized to the truth's size (bilinear) and clamped to that range. A metric is taken for each image
    and averaged over images. Depth is metric: predictions are not scaled to the truth.
    """

    name: str
    min_depth: float = 1e-3
    max_depth: float = 10.0
    crop: str | None = None

    def known(self, depth: np.ndarray) -> np.ndarray:
        """Which pixels of a true depth map (height, width) in metres count, bool.

        Raises:
            EvaluationError: the protocol has a crop, and the map has another size.
        """
        known = (depth > self.min_depth) & (depth <= self.max_depth)
        if self.crop is None:
            return known
        if depth.shape != _EIGEN_SHAPE:
            raise EvaluationError(
                f"The protocol {self.name!r} has the Eigen crop, which is for frames of 640x480 pixels; this depth "
                f"map has {depth.shape[1]}x{depth.shape[0]}. Choose --protocol metric, which has no crop."
            )
        inside = np.zeros_like(known)
        inside[_EIGEN_CROP] = True
        return known & inside


# NYU Depth V2 as usual since Eigen et al. (arXiv 1406.2283); ScanNet and other data in metres without a crop;
# simulated lives with a larger range, for the rooms of a game.
PROTOCOLS = {
    "nyu": DepthProtocol("nyu", crop="eigen"),
    "scannet": DepthProtocol("scannet"),
    "metric": DepthProtocol("metric"),
    "simulated": DepthProtocol("simulated", min_depth=0.1, max_depth=40.0),
}


def depth_metrics(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The `METRICS` of one image, float64 (6,).

    delta1 to delta3 are the shares of pixels with max(predicted/true, true/predicted) under 1.25, 1.25², 1.25³;
    abs_rel is the mean of |predicted - true| / true; rmse in metres; log10 the mean of |log10 predicted - log10 true|.

    Args:
        predicted, true: depths above 0 of the pixels that count, float (n,), n at least 1.
    """
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    ratio = np.maximum(predicted / true, true / predicted)
    error = np.abs(predicted - true)
    return np.array(
        [
            *((ratio < 1.25**power).mean() for power in (1, 2, 3)),
            (error / true).mean(),
            np.sqrt(np.square(error).mean()),
            np.abs(np.log10(predicted) - np.log10(true)).mean(),
        ]
    )


@dataclass
class DepthFrames:
    """Images with their true depth, which are also `Examples` to extract features from.

    Attributes:
        name: the user's name for the data, with the split.
        source: a string that differs if the data differ.
        rows: which frames of the source these are, int64 (n,).
        image: gives the image of a row of the source, uint8 (3, height, width).
        stored: gives the depth of a row as it is stored, numbers (height, width), perhaps with axes of 1; raises an
            `ItemError` if there is none.
        scale: metres per unit of the stored depth; None for 1, but then whole numbers are refused.
        note: a remark on this depth for readers of results.

    Raises:
        EvaluationError: there are no frames.
    """

    name: str
    source: str
    protocol: DepthProtocol
    rows: np.ndarray
    image: Callable[[int], torch.Tensor]
    stored: Callable[[int], Any]
    scale: float | None = None
    note: str = ""

    target_dtype = np.dtype(np.float16)  # for training a probe; a test reads the full truth again

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise EvaluationError(f"{self.name} has no frames.")

    @property
    def identity(self) -> str:
        rows = hashlib.sha256(self.rows.tobytes()).hexdigest()
        return f"{self.source} {self.protocol} {self.scale or 1.0} {rows}"

    def __len__(self) -> int:
        return len(self.rows)

    def _numbers(self, row: int) -> np.ndarray:
        stored = np.squeeze(np.asarray(self.stored(row)))
        if stored.ndim != 2 or stored.dtype.kind not in "uif":
            raise ItemError(f"row {row}: depth should be numbers on two axes, not {stored.dtype} {stored.shape}")
        return stored

    def in_metres(self, row: int) -> np.ndarray:
        """Depth of a row of the source in metres as it is stored, float32 (height, width)."""
        return self._numbers(row).astype(np.float32) * np.float32(self.scale or 1.0)

    def depth(self, index: int) -> np.ndarray:
        """True depth of frame `index` in metres, float32 (height, width), 0 where it is not known.

        Raises:
            ItemError: there is none, or no pixel of it counts.
        """
        row = int(self.rows[index])
        depth = self.in_metres(row)
        finite = np.isfinite(depth)
        found = f"{depth[finite].min():g} to {depth[finite].max():g} m" if finite.any() else "NaN or infinite"
        depth[~finite | (depth < 0)] = 0
        if not self.protocol.known(depth).any():
            raise ItemError(
                f"row {row}: no pixel has a valid depth ({self.protocol.min_depth:g} to {self.protocol.max_depth:g} "
                f"m); it is {found}"
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
        target = sampled(np.where(self.protocol.known(depth), depth, np.float32(0)), size)
        if not target.any():
            raise ItemError(f"row {row}: no pixel has a valid depth once it is sampled at {size[1]}x{size[0]}")
        return Item(image, target.astype(np.float16), digest.digest())

    def check(self) -> None:
        """Check some frames before the work on all of them.

        Raises:
            EvaluationError: their depth is not in metres.
        """
        medians = []
        for row in self.rows[:: -(-len(self) // _LOOKED_AT)]:
            try:
                stored = self._numbers(int(row))
            except ItemError:
                continue
            if stored.dtype.kind in "ui" and self.scale is None:
                raise EvaluationError(
                    f"The depth of {self.name} is stored in whole numbers. Say with --depth-scale how many metres one "
                    "unit is (0.001 for millimetres)."
                )
            known = stored[np.isfinite(stored) & (stored > 0)]
            medians += [np.median(known) * (self.scale or 1.0)] if known.size else []
        if medians and not _LEAST <= (median := float(np.median(medians))) <= _MOST:
            raise EvaluationError(
                f"The depth of {self.name} has a median of {median:.3g}, which cannot be metres. Say with "
                "--depth-scale how many metres one unit is (0.001 for millimetres). Disparity and relative depth have "
                "no unit, and cannot be used."
            )


def sampled(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A depth map (H, W) at another size: the value at each pixel's centre, so that depths do not mix across edges."""
    rows, columns = (
        ((np.arange(count) + 0.5) * have / count).astype(np.int64)
        for count, have in zip(size, depth.shape, strict=True)
    )
    return depth[np.ix_(rows, columns)]


def open_depth(config: DepthConfig, role: str) -> DepthFrames:
    """The frames to train on or to test on.

    Each name in `config.train` or `config.test` can be, in this order: a folder with the labelled NYU Depth V2; a
    folder of ScanNet scenes; a prepared life; a folder with a `datasets` data set; ORG/NAME of one on the Hub; the
    name of a life. Several are joined, each thinned out to its share.

    Args:
        config: the settings.
        role: `"train"` or `"test"`.

    Raises:
        EvaluationError, LifeError: there are no such frames, or they cannot be used.
    """
    names, limit = getattr(config, role), getattr(config, f"num_{role}")
    if not names:
        raise EvaluationError(f"--{role} should name at least one life, folder or data set.")
    parts = []
    for number, name in enumerate(names):
        part = _open(name, role, getattr(config, f"{role}_split"), config)
        if config.protocol:
            part.protocol = PROTOCOLS[config.protocol]
        if limit is not None and (share := max(1, limit // len(names) + (number < limit % len(names)))) < len(part):
            part.rows = part.rows[np.linspace(0, len(part) - 1, share).round().astype(np.int64)]
        part.check()
        parts.append(part)
    return parts[0] if len(parts) == 1 else _joined(parts)


def _open(name: str, role: str, split: str | None, config: DepthConfig) -> DepthFrames:
    folder = Path(name).expanduser()
    if (folder / LABELED).is_file():
        return _nyu(name, folder, split or role, config)
    if folder.is_dir() and any(SCENE.fullmatch(path.name) for path in folder.iterdir()):
        return _scannet(name, folder, role, split, config)
    a_life = (folder / "metadata.json").is_file() or prepared_folders(name, config.cache_dir)
    if not a_life and (folder.is_dir() or _HUB_ID.fullmatch(name)):
        return _dataset(name, role, split, config)
    return _life(name, config)


def _joined(parts: list[DepthFrames]) -> DepthFrames:
    """Several sources, one after the other."""
    if len({part.protocol for part in parts}) > 1:
        raise EvaluationError(
            f"{', '.join(part.name for part in parts)} have different protocols "
            f"({', '.join(sorted({part.protocol.name for part in parts}))}). Choose one with --protocol."
        )
    places = [(part, int(row)) for part in parts for row in part.rows]
    return DepthFrames(
        " + ".join(part.name for part in parts), " ".join(part.identity for part in parts), parts[0].protocol,
        np.arange(len(places)), lambda row: places[row][0].image(places[row][1]),
        lambda row: places[row][0].in_metres(places[row][1]),
        note="; ".join(dict.fromkeys(part.note for part in parts if part.note)),
    )  # fmt: skip


def _life(name: str, config: DepthConfig) -> DepthFrames:
    """A prepared life with depth; in simulated lives, 32 map units are a metre."""
    life = resolve_life(name, cache_dir=config.cache_dir)

    def stored(row: int) -> Any:
        depth = life.depth([row])
        return None if depth is None else depth[0]

    if stored(0) is None:
        raise EvaluationError(
            f"The life {life.name} has no depth, so there is no ground truth to evaluate on. Simulated lives "
            "(sim_1, sim_test) have it."
        )
    simulated = bool(life.metadata.get("simulation"))
    scale = 1 / _MAP_UNITS_PER_METRE if simulated else config.depth_scale or 1.0
    error = life.metadata.get("depth_error")
    return DepthFrames(
        life.name, f"life {life.metadata['fingerprint']}", PROTOCOLS["simulated" if simulated else "metric"],
        np.arange(len(life)), lambda row: life.decode([row])[0], stored, scale,
        note=f"true depth is off by up to {error * scale:.2g} m for 95% of the pixels" if error else "",
    )  # fmt: skip


def open_nyu(folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The owners' two files of NYU Depth V2.

    Returns:
        The labelled frames as an open HDF5 file, in which MATLAB stores the last axis first: images (n, 3, w, h),
        depths and rawDepths (n, w, h); and the frames of the official splits `train` and `test`, int64, from 0.

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
        count = min(len(content[name]) for name in ("images", "depths", "rawDepths"))
    except (OSError, KeyError) as error:
        raise EvaluationError(
            f"{folder / LABELED} is not the HDF5 (MATLAB v7.3) file of NYU Depth V2, or is cut off: {error}"
        ) from error
    try:
        listed = loadmat(folder / SPLITS, variable_names=["trainNdxs", "testNdxs"])
        splits = {name: np.sort(listed[f"{name}Ndxs"].astype(np.int64).ravel() - 1) for name in ("train", "test")}
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise EvaluationError(f"{folder / SPLITS} cannot be read as the official split: {error}") from error
    both = np.concatenate(list(splits.values()))
    if len(np.unique(both)) < len(both) or both.min() < 0 or both.max() >= count:
        raise EvaluationError(f"{folder / SPLITS}: its frames should be 1 to {count}, each once.")
    return content, splits


def _nyu(name: str, folder: Path, split: str, config: DepthConfig) -> DepthFrames:
    """The owners' labelled file; the depth is as the sensor gave it, or with the holes filled (column `depth`)."""
    column = config.depth_column or "raw_depth"
    if column not in ("raw_depth", "depth"):
        raise EvaluationError(f"--depth-column of NYU Depth V2 is raw_depth or depth, not {column!r}.")
    content, splits = open_nyu(folder)
    if split not in splits:
        raise EvaluationError(f"NYU Depth V2 has the splits train and test, not {split!r}.")
    images, depths = content["images"], content["rawDepths" if column == "raw_depth" else "depths"]
    stat = (folder / LABELED).stat()
    return DepthFrames(
        f"{name} ({split})", f"{(folder / LABELED).resolve()} {stat.st_size} {stat.st_mtime_ns} {column}",
        PROTOCOLS["nyu"], splits[split],
        lambda row: torch.from_numpy(images[row].transpose(0, 2, 1).copy()),  # MATLAB has the columns first
        lambda row: depths[row].T,
        config.depth_scale or 1.0,
    )  # fmt: skip


def _scannet(name: str, folder: Path, role: str, split: str | None, config: DepthConfig) -> DepthFrames:
    """Scenes as the owners' SensReader exports them: color/0.jpg, depth/0.png in millimetres."""
    scenes = sorted(path.name for path in folder.iterdir() if SCENE.fullmatch(path.name))
    if split is not None:
        try:
            wanted = Path(split).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise EvaluationError(
                f"--{role}-split {split} cannot be read. For ScanNet it is a file with a scene on each line ({error})."
            ) from error
        if missing := [scene for scene in wanted if scene not in scenes]:
            raise EvaluationError(
                f"{folder} lacks {len(missing)} of the {len(wanted)} scenes in {split}, such as {missing[0]}."
            )
        scenes, name = wanted, f"{name} ({Path(split).name})"
    files = []  # all frames with an image, in order; missing depth shows when it is read
    for scene in scenes:
        images = [path for path in (folder / scene / "color").glob("*") if path.stem.isdecimal()]
        images.sort(key=lambda path: int(path.stem))
        files += [(path, folder / scene / "depth" / f"{path.stem}.png") for path in images]
    some = [path.stat() for pair in files[:: max(1, len(files) // 100)] for path in pair if path.is_file()]
    listing = f"{files} {[(stat.st_size, stat.st_mtime_ns) for stat in some]}"

    def stored(row: int) -> np.ndarray:
        path = files[row][1]
        try:
            with Image.open(path) as picture:
                if picture.mode not in ("I;16", "I"):
                    raise ItemError(f"row {row}: {path} has mode {picture.mode}, but depth is 16-bit")
                return np.array(picture)
        except OSError as error:
            raise ItemError(f"row {row}: there is no ground truth that can be read in {path} ({error})") from error

    return DepthFrames(
        name, f"scannet {hashlib.sha256(listing.encode()).hexdigest()}", PROTOCOLS["scannet"], np.arange(len(files)),
        lambda row: rgb(files[row][0]), stored, config.depth_scale or 0.001,
    )  # fmt: skip


def _dataset(name: str, role: str, split: str | None, config: DepthConfig) -> DepthFrames:
    """A `datasets` data set with a column of images and one of depth: images of 16-bit or float pixels, or arrays."""
    split_name, data = load_split(name, role, split)
    wanted = (config.depth_column,) if config.depth_column else _DEPTH_COLUMNS
    column = next((each for each in wanted if each in data.column_names), None)
    if column is None:
        raise EvaluationError(
            f"{name} has no ground truth in a column {' or '.join(wanted)}; it has {', '.join(data.column_names)}. "
            "Name the column of the depth with --depth-column."
        )
    images, depths = data.select_columns("image"), data.select_columns(column)
    numbers, arrow = depths.with_format("numpy"), depths.with_format("arrow")

    def stored(row: int) -> Any:
        if arrow[row][column].null_count:  # an array of NaN in numpy's format
            raise ItemError(f"row {row}: there is no ground truth (its {column} is empty)")
        try:
            value = numbers[row][column]
        except Exception as error:  # several libraries raise errors of many kinds here
            raise ItemError(f"row {row}: the depth cannot be read ({error})") from error
        return list(value) if isinstance(value, np.ndarray) and value.dtype == object else value

    # NYU's frames as earlier versions prepared them have the column raw_depth, which other sets do not.
    protocol = PROTOCOLS["nyu" if "raw_depth" in data.column_names else "metric"]
    return DepthFrames(
        f"{name} ({split_name})", f"{name} {split_name} {column} {data_identity(data)}", protocol,
        np.arange(len(data)), lambda row: rgb(images[row]["image"]), stored, config.depth_scale,
    )  # fmt: skip
