"""Recordings with a known camera pose for each frame, and perhaps depth, in the layouts that public data sets use.

    ScanNet    color/N.jpg, pose/N.txt (4×4), depth/N.png (mm), intrinsic/intrinsic_color.txt and intrinsic_depth.txt
    7-Scenes   frame-N.color.png, frame-N.pose.txt (4×4), frame-N.depth.png (mm); 585 px at 640×480, from its authors
    TUM RGB-D  rgb.txt, groundtruth.txt (time, shift, quaternion), depth.txt (5000 levels per metre); intrinsics from
               its authors, by the camera in the folder's name
    KITTI      image_2/N.png, calib.txt, times.txt; poses.txt or ../../poses/SEQUENCE.txt (3×4 per line)
    poses.txt  images/ or one video; poses.txt (3×4 or 4×4 per line); K.txt or intrinsics.txt (3×3); depth/ (mm),
               numbered like the images or the video's frames

In all of them, poses are camera to world and the camera's axes are x right, y down, z forward. Times are the data
set's if it has any; otherwise frames are 1/30 s apart, as with these cameras (KITTI: 1/10 s).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.scene import rigid_transforms
from singlelife.lives.video.reader import KeptFrame, VideoFile, VideoReader, video_fingerprint
from singlelife.lives.video.recordings import videos_in
from singlelife.pictures import read_picture

_PICTURES = (".jpg", ".jpeg", ".png")
MILLIMETRES = 0.001  # metres; the unit of stored depth
_UNKNOWN = (0, 65535)  # levels that mean unknown depth
_TUM_DEPTH = 1 / 5000
_TUM_TOLERANCE = 0.02  # maximum seconds between a picture and its pose or depth, as in the benchmark's own tool
_TUM_CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
_ROTATION_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class PosedRecording:
    """One recording of n frames.

    Attributes:
        path: its folder.
        layout: one of the names above.
        images: a picture for each frame; empty if the frames are in `video`.
        video: the file with the frames, or None.
        times: seconds from the first frame, float64 (n,).
        poses: camera to world, float64 (n, 4, 4); NaN if unknown.
        intrinsics: fx, fy, cx, cy in pixels of the pictures, float64 (4,); NaN if unknown.
        depth: the depth map of each frame, or None.
        depth_intrinsics: the depth maps' own intrinsics, if they have any, in the same form.
        depth_scale: metres per level.
    """

    path: Path
    layout: str
    images: tuple[Path, ...]
    video: Path | None
    times: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray
    depth: tuple[Path | None, ...]
    depth_intrinsics: np.ndarray | None = None
    depth_scale: float = MILLIMETRES

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def has_depth(self) -> bool:
        return any(self.depth)

    def fingerprint(self) -> str:
        """An identifier: a hash of its numbers, each file's name and size, and the first file's `video_fingerprint`.

        Raises:
            LifeError: a file cannot be read.
        """
        files = [*([self.video] if self.video else self.images), *filter(None, self.depth)]
        digest = hashlib.sha256(video_fingerprint(VideoFile(files[0])).encode())
        for values in (self.times, self.poses, self.intrinsics, self.depth_intrinsics, self.depth_scale):
            digest.update(np.asarray(values, dtype=np.float64).tobytes())
        try:
            digest.update(json.dumps([[file.name, file.stat().st_size] for file in files]).encode())
        except OSError as error:
            raise LifeError(f"{self.path}: {error.filename} cannot be read ({error.strerror}).") from error
        return digest.hexdigest()

    def frames(
        self, frame_rate: float, frame_size: int
    ) -> Iterator[tuple[KeptFrame, np.ndarray, np.ndarray, np.ndarray | None]]:
        """The kept frames, each with its pose (4, 4), the stored frame's intrinsics (4,), and its depth in metres,
        float32 (height, width), 0 where unknown, or None.

        Raises:
            LifeError: a picture cannot be read, or the video has more frames than there are poses.
        """
        kept = self._of_video(frame_rate, frame_size) if self.video else self._of_images(frame_rate, frame_size)
        for frame, (width, height) in kept:
            if frame.frame_index >= len(self):
                raise LifeError(f"{self.path}: the video has more frames than the {len(self)} poses in poses.txt.")
            size = frame.image.shape[:2]
            intrinsics = self._intrinsics_of(width, height) * np.tile([size[1] / width, size[0] / height], 2)
            yield frame, self.poses[frame.frame_index], intrinsics, self._depth(frame.frame_index, size, intrinsics)

    def _intrinsics_of(self, width: int, height: int) -> np.ndarray:
        """The intrinsics for pictures of this size, scaled if their principal point shows that they fit another."""
        scale = width / (2 * self.intrinsics[2])
        return self.intrinsics * (scale if abs(math.log2(scale)) > 0.5 else 1.0) if scale > 0 else self.intrinsics

    def _of_video(self, frame_rate: float, frame_size: int) -> Iterator[tuple[KeptFrame, tuple[int, int]]]:
        assert self.video is not None
        with VideoReader(self.video, frame_rate, frame_size) as reader:
            for frame in reader:
                yield frame, reader.stored_size

    def _of_images(self, frame_rate: float, frame_size: int) -> Iterator[tuple[KeptFrame, tuple[int, int]]]:
        for index in nearest_to_ticks(self.times, frame_rate):
            try:
                picture = read_picture(self.images[index])
            except ValueError as error:
                raise LifeError(str(error)) from error
            size = picture.size
            scale = min(1.0, frame_size / min(size))
            if scale < 1:
                even = [max(2, 2 * round(side * scale / 2)) for side in size]
                picture = picture.resize((even[0], even[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
            yield KeptFrame(np.asarray(picture), float(self.times[index]), int(index)), size

    def _depth(self, index: int, size: tuple[int, int], intrinsics: np.ndarray) -> np.ndarray | None:
        """A frame's depth at the centres of its stored pixels. Depth is never averaged over edges."""
        if not self.has_depth:
            return None
        height, width = size
        path = self.depth[index]
        if path is None:
            return np.zeros(size, dtype=np.float32)
        try:
            with Image.open(path) as picture:
                levels = np.asarray(picture)
        except Exception as error:  # damaged bytes make Pillow raise nearly anything
            raise LifeError(f"{path}: not a depth map that can be read ({error}).") from error
        if levels.ndim != 2 or levels.dtype.itemsize < 2:
            raise LifeError(f"{path}: depth should be a grey picture of 16 bits, not {levels.dtype} {levels.shape}.")
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        if self.depth_intrinsics is not None:
            fx, fy, cx, cy = self.depth_intrinsics
            x, y = (x - intrinsics[2]) / intrinsics[0] * fx + cx, (y - intrinsics[3]) / intrinsics[1] * fy + cy
        else:
            x, y = x * levels.shape[1] / width, y * levels.shape[0] / height
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        seen = ((row >= 0) & (row < levels.shape[0]))[:, None] & (column >= 0) & (column < levels.shape[1])
        picked = levels[np.ix_(row.clip(0, levels.shape[0] - 1), column.clip(0, levels.shape[1] - 1))]
        return np.where(seen & ~np.isin(picked, _UNKNOWN), picked * self.depth_scale, 0).astype(np.float32)


def nearest_to_ticks(times: np.ndarray, frame_rate: float) -> np.ndarray:
    """The indices of the frames to keep, int64: the nearest to each tick, as in `VideoReader`."""
    tick = np.round(times * frame_rate).astype(np.int64)
    order = np.lexsort((np.arange(len(times)), np.abs(times - tick / frame_rate), tick))
    return np.sort(order[np.unique(tick[order], return_index=True)[1]])


def posed_recording(folder: Path) -> PosedRecording | None:
    """The recording in a folder, or None if its layout is not one of those above.

    Raises:
        LifeError: it has such a layout, but a file is missing or cannot be read, or a pose is not a rigid motion.
    """
    readers: dict[str, Callable[[Path], PosedRecording]] = {
        "color/* pose/*.txt": _scannet,
        "*.color.png *.pose.txt": _seven_scenes,
        "rgb.txt groundtruth.txt": _tum,
        "image_[0-3]/*.png calib.txt": _kitti,
        "poses.txt": _poses_file,
    }
    for patterns, read in readers.items():
        if all(next(folder.glob(pattern), None) for pattern in patterns.split()):
            files = sorted([*folder.rglob("*"), *filter(Path.exists, [_kitti_poses(folder)])])
            known = [(str(file), (facts := file.lstat()).st_mtime_ns, facts.st_size) for file in files]
            return _read_once(read, folder, tuple(known))
    return None


@lru_cache(maxsize=4)
def _read_once(read: Callable[[Path], PosedRecording], folder: Path, _files: tuple) -> PosedRecording:
    """Cached: a command asks for a life several times, and its poses may be thousands of files."""
    return read(folder)


def _kitti_poses(folder: Path) -> Path:
    """The data set's own place for the poses of a sequence."""
    return folder.parent.parent / "poses" / f"{folder.resolve().name}.txt"


def _scannet(folder: Path) -> PosedRecording:
    images = _numbered(folder / "color", _PICTURES)
    poses = {number: _matrix(path, 4) for number, path in _numbered(folder / "pose", (".txt",)).items()}
    depth = _numbered(folder / "depth", (".png",))
    cameras = [folder / "intrinsic" / f"intrinsic_{name}.txt" for name in ("color", "depth")]
    color, of_depth = (_camera(_matrix(path, 4)) if path.is_file() else None for path in cameras)
    return _recording(
        folder, "ScanNet", list(images.values()),
        np.stack([poses.get(number, np.full((4, 4), np.nan)) for number in images]),
        np.full(4, np.nan) if color is None else color,
        [depth.get(number) for number in images], depth_intrinsics=of_depth,
    )  # fmt: skip


def _seven_scenes(folder: Path) -> PosedRecording:
    images = sorted(folder.glob("*.color.png"))
    of_frame = [path.name.removesuffix(".color.png") for path in images]
    poses = [_matrix(folder / f"{name}.pose.txt", 4) for name in of_frame]
    depth = [path if (path := folder / f"{name}.depth.png").is_file() else None for name in of_frame]
    camera = np.array([585.0, 585.0, 320.0, 240.0])
    return _recording(folder, "7-Scenes", images, np.stack(poses), camera, depth)


def _tum(folder: Path) -> PosedRecording:
    times, images = _listed(folder / "rgb.txt")
    truth = _numbers(folder / "groundtruth.txt", 8)
    motion = rigid_transforms(truth[:, [7, 4, 5, 6]], truth[:, 1:4])
    row = _nearest(truth[:, 0], times)
    poses = np.where((row >= 0)[:, None, None], motion[row], np.nan)
    if not (row >= 0).any():
        raise LifeError(
            f"{folder}: no picture is within {_TUM_TOLERANCE} s of a pose. The pictures are from {times[0]:.2f} to "
            f"{times[-1]:.2f} s, and groundtruth.txt from {truth[0, 0]:.2f} to {truth[-1, 0]:.2f} s: does it belong "
            "to another recording?"
        )
    depth: list[Path | None] = [None] * len(images)
    if (folder / "depth.txt").is_file():
        depth_times, maps = _listed(folder / "depth.txt")
        depth = [maps[each] if each >= 0 else None for each in _nearest(depth_times, times)]
    name = next((name for name in _TUM_CAMERAS if name in str(folder.resolve())), "")
    camera = np.array(_TUM_CAMERAS.get(name, (525.0, 525.0, 319.5, 239.5)))
    return _recording(folder, "TUM RGB-D", images, poses, camera, depth, times=times, depth_scale=_TUM_DEPTH)


def _kitti(folder: Path) -> PosedRecording:
    camera = next(name for name in ("image_2", "image_3", "image_0", "image_1") if (folder / name).is_dir())
    images = sorted((folder / camera).glob("*.png"))
    poses = folder / "poses.txt"
    if not poses.is_file():
        poses = _kitti_poses(folder)
    lines = dict(line.split(":", 1) for line in _lines(folder / "calib.txt") if ":" in line)
    try:
        projection = np.array(lines[f"P{camera[-1]}"].split(), dtype=np.float64).reshape(3, 4)
    except (KeyError, ValueError) as error:
        raise LifeError(f"{folder / 'calib.txt'}: no line P{camera[-1]} with 12 numbers.") from error
    times = np.arange(len(images)) / 10
    if (folder / "times.txt").is_file():
        times = _numbers(folder / "times.txt", 1)[:, 0]
    # The poses are the left grey camera's; P[:, 3] gives this camera's distance to its side.
    aside = np.eye(4)
    aside[:3, 3] = -np.linalg.solve(projection[:, :3], projection[:, 3])
    motion, depth = _poses_of_lines(poses) @ aside, [None] * len(images)
    return _recording(folder, "KITTI", images, motion, _camera(projection), depth, times=times)


def _poses_file(folder: Path) -> PosedRecording:
    poses = _poses_of_lines(folder / "poses.txt")
    calibration = next((path for name in ("K.txt", "intrinsics.txt") if (path := folder / name).is_file()), None)
    camera = np.full(4, np.nan) if calibration is None else _camera(_matrix(calibration, 3))
    maps = _numbered(folder / "depth", (".png",))
    pictures = next((folder / name for name in ("images", "color", "rgb") if (folder / name).is_dir()), None)
    if pictures is not None:
        images = _numbered(pictures, _PICTURES)
        depth = [maps.get(number) for number in images]
        return _recording(folder, "poses.txt", list(images.values()), poses, camera, depth)
    videos = [path for path in videos_in(folder) if path.parent == folder]
    if len(videos) != 1:
        raise LifeError(f"{folder} should have a folder `images` or one video beside poses.txt, not {len(videos)}.")
    return _recording(
        folder, "poses.txt", [], poses, camera, [maps.get(n) for n in range(len(poses))], video=videos[0]
    )


def _recording(
    folder: Path, layout: str, images: Sequence[Path], poses: np.ndarray, camera: np.ndarray,
    depth: Sequence[Path | None], *, video: Path | None = None, times: np.ndarray | None = None,
    depth_intrinsics: np.ndarray | None = None, depth_scale: float = MILLIMETRES,
) -> PosedRecording:  # fmt: skip
    """The recording, after the checks that are common to all layouts."""
    count = len(poses) if video else len(images)
    if not count:
        raise LifeError(f"{folder}: there are no pictures.")
    times = np.arange(count) / 30 if times is None else times - times[0]
    if not len(poses) == len(times) == count:
        raise LifeError(
            f"{folder}: the numbers of pictures ({count}), poses ({len(poses)}) and times ({len(times)}) differ."
        )
    known = np.isfinite(poses).all(axis=(1, 2))
    poses = np.where(known[:, None, None], poses, np.nan)
    turns = poses[known, :3, :3]
    wrong = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0) > _ROTATION_TOLERANCE
    wrong |= np.linalg.det(turns) < 0
    if wrong.any():
        first = np.flatnonzero(known)[wrong][0]
        raise LifeError(f"{folder}: the pose of frame {first} is not a rotation and shift (camera to world).")
    if not known.any():
        raise LifeError(f"{folder}: no frame has a pose.")
    return PosedRecording(
        folder, layout, tuple(images), video, times, poses, camera, tuple(depth), depth_intrinsics, depth_scale
    )


def _camera(matrix: np.ndarray) -> np.ndarray:
    """fx, fy, cx, cy from a camera matrix."""
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])


def _lines(path: Path) -> list[str]:
    """The lines of a text file, except empty ones and comments with #."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LifeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if not (lines := [line for line in lines if line.strip()[:1] not in ("", "#")]):
        raise LifeError(f"{path}: it is empty.")
    return lines


def _numbers(path: Path, columns: int) -> np.ndarray:
    """A table of numbers, float64 (n, at least `columns`); lines that begin with # are comments."""
    rows: list[list[float]] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            rows.append([float(word) for word in line.replace(",", " ").split()])
        except ValueError as error:
            raise LifeError(f"{path}: line {number} is not all numbers.") from error
        if len(rows[-1]) < columns or len(rows[-1]) != len(rows[0]):
            raise LifeError(f"{path}: line {number} has {len(rows[-1])} numbers, not {max(columns, len(rows[0]))}.")
    return np.array(rows, dtype=np.float64)


def _matrix(path: Path, side: int) -> np.ndarray:
    values = _numbers(path, side)
    if len(values) < side:
        raise LifeError(f"{path} should be a matrix of {side} × {side} numbers, but has {len(values)} lines.")
    return values[:side, :side]


def _poses_of_lines(path: Path) -> np.ndarray:
    """A pose per line: the 12 numbers of a 3×4 matrix or the 16 of a 4×4 matrix, row by row."""
    values = _numbers(path, 12)
    if values.shape[1] not in (12, 16):
        raise LifeError(f"{path}: a line should have 12 or 16 numbers, not {values.shape[1]}.")
    last = np.tile([0.0, 0.0, 0.0, 1.0], (len(values), 1))
    return np.concatenate([values[:, :12], last], axis=1).reshape(-1, 4, 4)


def _numbered(folder: Path, suffixes: Sequence[str]) -> dict[int, Path]:
    """Files by the last number in their names, in ascending order: `7.jpg`, `frame-000007.png`."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*")):
        digits = re.findall(r"\d+", path.stem)
        if path.suffix.lower() in suffixes and digits:
            if (number := int(digits[-1])) in found:
                raise LifeError(f"{folder}: {found[number].name} and {path.name} have the same number.")
            found[number] = path
    return dict(sorted(found.items()))


def _listed(path: Path) -> tuple[np.ndarray, list[Path]]:
    """Times and files from one of TUM's lists."""
    lines = [line.split() for line in _lines(path)]
    try:
        times = np.array([float(line[0]) for line in lines])
        files = [path.parent / line[1] for line in lines]
    except (ValueError, IndexError) as error:
        raise LifeError(f"{path}: each line should have a time and a file.") from error
    if gone := [file for file in files if not file.is_file()]:
        raise LifeError(f"{path} names {len(files)} file(s), {len(gone)} of them missing, such as {gone[0]}.")
    if (np.diff(times) <= 0).any():
        raise LifeError(f"{path}: the times should increase from line to line.")
    return times, files


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of the nearest of `times` for each wanted time (ascending), int64; -1 if it is too far away."""
    known = pd.DataFrame({"time": times, "row": np.arange(len(times))}).sort_values("time", kind="stable")
    found = pd.merge_asof(
        pd.DataFrame({"time": wanted}), known, on="time", direction="nearest", tolerance=_TUM_TOLERANCE
    )
    return found["row"].fillna(-1).to_numpy(np.int64)
