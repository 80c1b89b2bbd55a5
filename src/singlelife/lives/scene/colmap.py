"""COLMAP: read poses and visible points from its models, and reconstruct a life's frames with it.

The binary format of a model is short and documented, so it is read here, and every size is checked against the file:
pycolmap reads wrong numbers from a file that is cut off. Only reconstruction needs pycolmap; it runs on the CPU in the
folder `reconstruction` of the prepared life. COLMAP's database there keeps features and matches, so the work continues
after a kill; only the last stage, which builds the models, starts again.
"""

import json
import mmap
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene import rigid_transforms
from singlelife.lives.scene.geometry import Geometry, VisiblePoints, frame_sizes, frames_at_rate

# Pinhole cameras with distortion: their numbers in the format, names, and numbers of parameters. The first parameters
# are one focal length (`SIMPLE` and `RADIAL`) or two.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5), 4: ("OPENCV", 8),
    6: ("FULL_OPENCV", 12),
}  # fmt: skip
_OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])

_STEPS = (1, 2, 3, 4, 5, 8, 16, 32, 64)  # each frame is matched with the frames this many later in its video
_KEYFRAMES = 150  # in the whole life, each matched with all others, to find places that are visited again
_IMAGES_AT_ONCE, _PAIRS_AT_ONCE = 32, 512  # per update of the progress bar


class _Image(NamedTuple):
    name: str
    size: np.ndarray  # width and height of the image that COLMAP saw, in pixels
    intrinsics: np.ndarray  # fx, fy, cx, cy, in pixels of that image
    pose: np.ndarray  # camera to world, (4, 4)
    points: np.ndarray  # int64, ids of the visible points


def is_model(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model, even if incomplete."""
    return any((folder / f"{part}.{kind}").is_file() for part in ("cameras", "images") for kind in ("bin", "txt"))


def colmap_geometry(life: PreparedLife, models: list[Path]) -> Geometry:
    """The geometry of a life from COLMAP.

    Images are matched to frames by their names, `<video>/<frame_index>.jpg` (any extension, percent-encoded or not,
    with or without leading zeros). Intrinsics are scaled to the stored frames, without lens distortion. The unit of
    the poses is COLMAP's own and differs between models.

    Args:
        models: folders; each is a component. A frame in several models belongs to the one with the most images.

    Raises:
        LifeError: a model is incomplete, a camera model is not supported, or no image is a frame of the life.
    """
    component = np.full(len(life), -1, dtype=np.int64)
    poses, intrinsics = np.full((len(life), 4, 4), np.nan), np.full((len(life), 4), np.nan)
    points = [np.zeros(0, dtype=np.int64)] * len(life)
    sizes = frame_sizes(life)
    frames = zip(life.video_index.tolist(), life.frame_index.tolist(), strict=True)
    row_of = {(life.videos[video], index): row for row, (video, index) in enumerate(frames)}
    read = [_read_model(folder) for folder in models]
    for number in sorted(range(len(read)), key=lambda number: -len(read[number])):
        for image in read[number]:
            row = row_of.get(_frame_of(image.name), row_of.get(_frame_of(unquote(image.name)), -1))
            if row >= 0 and component[row] < 0:
                scale = sizes[life.video_index[row], ::-1] / image.size
                component[row], poses[row], points[row] = number, image.pose, image.points
                intrinsics[row] = image.intrinsics * np.tile(scale, 2)
    if (component < 0).all():
        names = [repr(image.name) for images in read for image in images[:3]]
        wanted = [repr(f"{video}/{index}.jpg") for video, index in list(row_of)[:3]]
        raise LifeError(
            f"No image of the COLMAP model in {models[0]} is a frame of the life {life.name}. Its images are named "
            f"{', '.join(names[:3]) or '(there are none)'}; frames are named {', '.join(wanted)}. Rename the images, "
            f"or let `singlelife poses {life.name}` make the model."
        )
    return Geometry(VisiblePoints.from_frames(points), component, poses, intrinsics)


def _frame_of(name: str) -> tuple[str, int]:
    video, _, file = name.replace("\\", "/").rpartition("/")
    number = file.partition(".")[0]
    return video, int(number) if number.isascii() and number.isdecimal() and len(number) < 19 else -1


def _read_model(folder: Path) -> list[_Image]:
    for path in (folder / "cameras.bin", folder / "images.bin"):
        if not path.is_file():
            raise LifeError(
                f"The COLMAP model in {folder} is incomplete: {path.name} is missing. If it is text, make it binary: "
                f"colmap model_converter --output_type BIN --input_path {folder} --output_path {folder}"
            )
    path = folder / "cameras.bin"
    try:
        cameras = dict(_cameras(_mapped(path)))
        return list(_images(_mapped(path := folder / "images.bin"), cameras))
    except (ValueError, struct.error) as error:
        raise LifeError(f"{path} is damaged or cut off ({error}). Copy or reconstruct it again.") from error


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _cameras(content: mmap.mmap) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Each camera's number, and the size of its images and its intrinsics."""
    place = 8
    for _ in range(*struct.unpack_from("<Q", content)):
        number, model, width, height = struct.unpack_from("<IiQQ", content, place)
        if model not in _MODELS:
            usable = ", ".join(f"{name} ({known})" for known, (name, _) in _MODELS.items())
            raise LifeError(
                f"A camera has COLMAP's camera model {model}; supported are {usable}. Undistort the images first "
                "(colmap image_undistorter), or reconstruct with one of these."
            )
        if not (0 < width < 1 << 20 and 0 < height < 1 << 20):
            raise ValueError(f"a camera of {width}x{height} px makes no sense")
        name, count = _MODELS[model]
        parameters = struct.unpack_from(f"<{count}d", content, place + 24)
        if "SIMPLE" in name or "RADIAL" in name:
            parameters = (parameters[0], *parameters)
        yield number, (np.array([width, height]), np.array(parameters[:4]))
        place += 24 + 8 * count


def _images(content: mmap.mmap, cameras: dict[int, tuple[np.ndarray, np.ndarray]]) -> Iterator[_Image]:
    place = 8
    for _ in range(*struct.unpack_from("<Q", content)):
        _, *pose, camera = struct.unpack_from("<I7dI", content, place)
        end = content.find(b"\0", place + 64)
        if end < 0:
            raise ValueError("an image's name does not end")
        name = content[place + 64 : end].decode("utf-8", errors="replace")
        (count,) = struct.unpack_from("<Q", content, end + 1)
        place = end + 9 + count * _OBSERVATION.itemsize
        if place > len(content):
            raise ValueError(f"it ends after {len(content)} bytes, in the middle of an image")
        points = np.frombuffer(content, _OBSERVATION, count, end + 9)["point"]
        camera_from_world = rigid_transforms(np.array([pose[:4]]), np.array([pose[4:]]))[0]
        if camera not in cameras or not np.isfinite(camera_from_world).all():
            raise ValueError(f"the pose of {name!r} makes no sense, or its camera {camera} is missing")
        yield _Image(name, *cameras[camera], np.linalg.inv(camera_from_world), points[points >= 0].astype(np.int64))


def reconstruct(life: PreparedLife, *, rate: float = 2.0, progress: bool = True) -> Path:
    """Reconstruct a life from its frames with SIFT features. Each video has one camera; its focal length is estimated.

    Args:
        rate: frames to use per second, in Hz.

    Returns:
        A folder of COLMAP models, for `life_geometry(life, source=...)`. They lack the frames that did not register.

    Raises:
        LifeError: pycolmap is not installed, there are too few frames, or nothing could be reconstructed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise LifeError(
            'Reconstructing poses needs pycolmap, which is not installed: pip install "singlelife[poses]". Or name '
            "existing poses with --from FOLDER."
        ) from error
    rows = frames_at_rate(life, rate)
    if len(rows) < 3:
        raise LifeError(
            f"At {rate:g} Hz the life {life.name} gives {len(rows)} frames, but COLMAP needs 3. Raise --rate."
        )
    work = life.path / "reconstruction"
    # Percent-encoded, because COLMAP's lists of pairs separate names by spaces and have no quotes.
    names = [f"{quote(life.videos[life.video_index[row]])}/{life.frame_index[row]}.jpg" for row in rows]
    described = {"rate": rate, "life": life.metadata["fingerprint"], "pycolmap": pycolmap.__version__}
    settings, models = work / "settings.json", work / "models"
    quiet, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, 3
    try:
        if not settings.is_file() or json.loads(settings.read_text(encoding="utf-8")) != described:
            shutil.rmtree(work, ignore_errors=True)  # from another rate, life or version: useless
            _write_frames(life, rows, work / "images", names, progress)
            pycolmap.Database.open(work / "database.db").close()
            # All in one call, since each call makes its own cameras.
            pycolmap.import_images(work / "database.db", work / "images", pycolmap.CameraMode.PER_FOLDER, names)
            settings.write_text(json.dumps(described), encoding="utf-8")  # last: the rest is complete
        if not models.is_dir():
            _match(pycolmap, work, names, pairs_to_match(life.video_index[rows]), progress)
            _map(pycolmap, work, models, progress)
    finally:
        pycolmap.logging.minloglevel = quiet
    if not any(models.iterdir()):
        raise LifeError(
            f"COLMAP could not reconstruct anything from {len(rows)} frames of the life {life.name}. It needs "
            "texture, and a camera that moves sideways, not one that stands still, only turns, or only goes straight "
            "ahead. Other frames may do better: try another --rate."
        )
    return models


def pairs_to_match(video_index: np.ndarray) -> np.ndarray:
    """The pairs of frames for COLMAP to match, int64 (number of pairs, 2), each once.

    Args:
        video_index: the index of each frame's video, (n,).
    """
    frames = np.arange(len(video_index))
    keyframes = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _KEYFRAMES)).astype(np.int64))
    pairs = [keyframes[np.stack(np.triu_indices(len(keyframes), 1), axis=1)]]
    for step in _STEPS:
        along = np.stack([frames[:-step], frames[step:]], axis=1)
        pairs.append(along[video_index[along[:, 0]] == video_index[along[:, 1]]])
    return np.unique(np.concatenate(pairs), axis=0)


def _write_frames(life: PreparedLife, rows: np.ndarray, folder: Path, names: list[str], progress: bool) -> None:
    """Write the frames' stored bytes as image files."""
    images = life.dataset.select_columns("image").with_format("arrow")
    for row, name in zip(rows, tqdm(names, desc="Writing frames", unit=" frames", disable=not progress), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(images[int(row)]["image"][0]["bytes"].as_py())


def _match(pycolmap: Any, work: Path, names: list[str], pairs: np.ndarray, progress: bool) -> None:
    """Find features, and match them. COLMAP skips what the database already has."""
    database, listed = work / "database.db", work / "pairs.txt"
    blocks = range(0, len(names), _IMAGES_AT_ONCE)
    for start in tqdm(blocks, f"Finding features, {_IMAGES_AT_ONCE} frames at a time", disable=not progress):
        some = names[start : start + _IMAGES_AT_ONCE]
        pycolmap.extract_features(database, work / "images", image_names=some, device=pycolmap.Device.cpu)
    options = pycolmap.ImportedPairingOptions()
    options.match_list_path = listed
    blocks = range(0, len(pairs), _PAIRS_AT_ONCE)
    for start in tqdm(blocks, f"Matching pairs, {_PAIRS_AT_ONCE} at a time", disable=not progress):
        part = pairs[start : start + _PAIRS_AT_ONCE]
        listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in part), encoding="utf-8")
        pycolmap.match_image_pairs(database, pairing_options=options, device=pycolmap.Device.cpu)


def _map(pycolmap: Any, work: Path, models: Path, progress: bool) -> None:
    aside = work / "models.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    options = pycolmap.IncrementalPipelineOptions()
    options.extract_colors, options.random_seed = False, 0
    # COLMAP starts several times and places frames again each time, so the count may exceed the number of frames.
    with tqdm(desc="Placing frames, some several times", unit=" placed", disable=not progress) as bar:
        pycolmap.incremental_mapping(
            work / "database.db",
            work / "images",
            aside,
            options=options,
            initial_image_pair_callback=lambda: bar.update(2),
            next_image_callback=lambda: bar.update(1),
        )
    aside.rename(models)
