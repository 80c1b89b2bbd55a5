"""Poses and visible points of a COLMAP model, text or binary.

The two formats are short and documented, so they are read here, with every size checked against the file before
anything is read. pycolmap is needed only to make a reconstruction, not to use one: it would also need the 3D points,
and keep every keypoint in memory.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

import numpy as np

from singlelife.errors import LifeError
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry, VisiblePoints, frame_sizes, rigid_transforms

_MODELS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE",
)  # fmt: skip  # in the order of their numbers in the binary format
_NUM_PARAMETERS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8}
_TWO_FOCAL_LENGTHS = ("PINHOLE", "OPENCV")
_LONGEST_NAME = 4096
_OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])


@dataclass(frozen=True)
class _Camera:
    width: int
    height: int
    intrinsics: np.ndarray  # fx, fy, cx, cy in pixels of the images that COLMAP saw


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    pose: np.ndarray  # camera to world, (4, 4)
    points: np.ndarray  # int64, ids of the points that it sees


def is_model(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model, perhaps not a whole one."""
    return any((folder / f"{part}.{kind}").is_file() for part in ("cameras", "images") for kind in ("bin", "txt"))


def colmap_geometry(life: PreparedLife, models: list[Path]) -> Geometry:
    """The geometry that COLMAP found of a life.

    Images are matched to frames by their names, `<video>/<frame_index>.jpg`, such as `morning.mp4/120.jpg` (any
    extension, percent-encoded or not; leading zeros do not matter). Lens distortion is left out of the intrinsics,
    which are scaled to the stored frames. The unit of the poses is COLMAP's own, another in each model.

    Args:
        life: the prepared life.
        models: folders; each is a component. A frame that is in several belongs to the one with the most images.

    Raises:
        LifeError: a model is not whole, a camera is of a model that is not supported, or no image is one of a frame.
    """
    geometry = Geometry.unknown(len(life))
    sizes = frame_sizes(life)
    row_of = {
        (life.videos[video], int(index)): row
        for row, (video, index) in enumerate(zip(life.video_index, life.frame_index, strict=True))
    }
    points = [np.zeros(0, dtype=np.int64)] * len(life)
    read = [_read_model(folder) for folder in models]
    names = []
    for component in sorted(range(len(read)), key=lambda number: -len(read[number][1])):
        cameras, images = read[component]
        for image in images:
            names.append(image.name)
            row = row_of.get(_frame_of(image.name), row_of.get(_frame_of(unquote(image.name)), -1))
            if row < 0 or geometry.component[row] >= 0:
                continue
            camera = cameras[image.camera]
            height, width = sizes[life.video_index[row]]
            scale = np.array([width / camera.width, height / camera.height])
            geometry.component[row], geometry.poses[row] = component, image.pose
            geometry.intrinsics[row] = camera.intrinsics * np.tile(scale, 2)
            points[row] = image.points
    if (geometry.component < 0).all():
        wanted = [f"{video}/{index}.jpg" for video, index in list(row_of)[:3]]
        raise LifeError(
            f"No image of the COLMAP model in {models[0].parent if len(models) > 1 else models[0]} is a frame of the "
            f"life {life.name}. Its images are named {', '.join(map(repr, names[:3])) or '(there are none)'}; frames "
            f"are named VIDEO/NUMBER.jpg, here {', '.join(map(repr, wanted))}. Rename the images, or let `singlelife "
            f"poses {life.name}` make the model."
        )
    return Geometry(VisiblePoints.from_frames(points), geometry.component, geometry.poses, geometry.intrinsics)


def _frame_of(name: str) -> tuple[str, int]:
    video, _, file = name.replace("\\", "/").rpartition("/")
    number = file.partition(".")[0]
    return video, int(number) if number.isascii() and number.isdecimal() and len(number) < 19 else -1


def _read_model(folder: Path) -> tuple[dict[int, _Camera], list[_Image]]:
    kind = "bin" if (folder / "images.bin").is_file() else "txt"
    for part in ("cameras", "images"):
        if not (folder / f"{part}.{kind}").is_file():
            raise LifeError(f"The COLMAP model in {folder} is not whole: {part}.{kind} is missing.")
    if kind == "bin":
        cameras = dict(_binary_cameras(folder / "cameras.bin"))
        images = list(_binary_images(folder / "images.bin"))
    else:
        cameras = dict(_text_cameras(folder / "cameras.txt"))
        images = list(_text_images(folder / "images.txt"))
    for image in images:
        if image.camera not in cameras:
            raise LifeError(
                f"The image {image.name!r} in {folder} is of camera {image.camera}, which is missing there."
            )
    return cameras, images


def _camera(path: Path, model: str, width: int, height: int, parameters: tuple[float, ...]) -> _Camera:
    if model not in _NUM_PARAMETERS:
        raise LifeError(
            f"{path} has a camera of model {model}; read are {', '.join(_NUM_PARAMETERS)}. Undistort the images first "
            "(colmap image_undistorter), or reconstruct with one of those models."
        )
    if len(parameters) < _NUM_PARAMETERS[model] or not (0 < width < 1 << 20 and 0 < height < 1 << 20):
        _damaged(path, f"a camera of {width}x{height} px with {len(parameters)} parameters makes no sense")
    focal = parameters[:2] if model in _TWO_FOCAL_LENGTHS else (parameters[0], parameters[0])
    centre = parameters[2:4] if model in _TWO_FOCAL_LENGTHS else parameters[1:3]
    return _Camera(width, height, np.array([*focal, *centre]))


def _image(
    path: Path, name: str, camera: int, quaternion: np.ndarray, shift: np.ndarray, points: np.ndarray
) -> _Image:
    """From COLMAP's pose, world to camera, quaternion real part first."""
    camera_from_world = rigid_transforms(quaternion[None], shift[None])[0]
    if not np.isfinite(camera_from_world).all():
        _damaged(path, f"the pose of {name!r} makes no sense")
    pose = np.linalg.inv(camera_from_world)
    return _Image(name, camera, pose, points[points >= 0].astype(np.int64))


def _damaged(path: Path, what: str) -> NoReturn:
    raise LifeError(f"{path} is damaged or cut off: {what}. Copy or reconstruct it again.")


# The binary format.


class _Bytes:
    """A file that is read from front to back, never past its end."""

    def __init__(self, path: Path):
        self.path, self._place = path, 0
        with path.open("rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""

    def take(self, size: int) -> int:
        """Where the next `size` bytes begin."""
        start, self._place = self._place, self._place + size
        if self._place > len(self._content):
            _damaged(self.path, f"it ends after {len(self._content)} bytes, within something that it announces")
        return start

    def values(self, layout: str) -> tuple:
        return struct.unpack_from(f"<{layout}", self._content, self.take(struct.calcsize(f"<{layout}")))

    def array(self, dtype: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self._content, dtype, count, self.take(count * dtype.itemsize))

    def name(self) -> str:
        end = self._content.find(b"\0", self._place, self._place + _LONGEST_NAME)
        if end < 0:
            _damaged(self.path, "a name in it does not end")
        start = self.take(end + 1 - self._place)
        return self._content[start:end].decode("utf-8", errors="replace")


def _binary_cameras(path: Path) -> Iterator[tuple[int, _Camera]]:
    content = _Bytes(path)
    for _ in range(content.values("Q")[0]):
        number, model, width, height = content.values("IiQQ")
        name = _MODELS[model] if 0 <= model < len(_MODELS) else str(model)
        yield number, _camera(path, name, width, height, content.values(f"{_NUM_PARAMETERS.get(name, 0)}d"))


def _binary_images(path: Path) -> Iterator[_Image]:
    content = _Bytes(path)
    for _ in range(content.values("Q")[0]):
        _, *pose, camera = content.values("I7dI")
        name = content.name()
        points = content.array(_OBSERVATION, content.values("Q")[0])["point"]
        yield _image(path, name, camera, np.array(pose[:4]), np.array(pose[4:]), points)


# The text format.


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line.rstrip("\r\n") for line in file if not line.startswith("#"))
    except UnicodeDecodeError as error:
        _damaged(path, f"it is no text ({error.reason})")


def _text_cameras(path: Path) -> Iterator[tuple[int, _Camera]]:
    for line in filter(str.strip, _lines(path)):
        try:
            number, model, width, height, *parameters = line.split()
            values = int(number), int(width), int(height), tuple(map(float, parameters))
        except ValueError:
            _damaged(path, f"{line[:80]!r} is no camera")
        yield values[0], _camera(path, model, *values[1:])


def _text_images(path: Path) -> Iterator[_Image]:
    lines = _lines(path)
    for line in lines:
        if not line.strip():
            continue
        observed = next(lines, None)  # an empty line if the image sees no points
        if observed is None:
            _damaged(path, f"after {line[:80]!r} the line of its points is missing")
        try:
            _, *pose, camera, name = line.split(maxsplit=9)
            values, points = np.array(pose, dtype=np.float64), np.array(observed.split()[2::3], dtype=np.int64)
            number = int(camera)
        except ValueError:
            _damaged(path, f"{line[:80]!r} and the line after it are no image and its points")
        if len(values) != 7 or len(observed.split()) % 3:
            _damaged(path, f"{line[:80]!r} or the line after it is not whole")
        yield _image(path, name, number, values[:4], values[4:], points)
