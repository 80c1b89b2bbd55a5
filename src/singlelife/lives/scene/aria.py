"""Poses and visible points of a recording with Aria glasses, from what its machine perception services (MPS) give.

An MPS folder holds `closed_loop_trajectory.csv` (poses of the device), `semidense_points.csv.gz` (points of the
world), `semidense_observations.csv.gz` (when the SLAM cameras saw which) and `online_calibration.jsonl`. These files
are read a block at a time: a week of them is larger than memory. (projectaria-tools reads each file whole, at 240
bytes an observation.)

Two things about Aria decide what a visible point is here. The points are tracks: a place that is looked at again makes
new ones. So a point is named by the voxel of the world that it lies in, else no two frames minutes apart would share
any. And the observations are those of the SLAM cameras, at times of their own: a frame sees what they saw within the
tolerance of its time and what, by the calibration, falls into the RGB camera's image.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import (
    Geometry,
    GeometrySettings,
    VisiblePoints,
    frame_sizes,
    rigid_transforms,
    voxel_ids,
)

TRAJECTORY = "closed_loop_trajectory.csv"
POINTS = "semidense_points.csv.gz"
OBSERVATIONS = "semidense_observations.csv.gz"
CALIBRATION = "online_calibration.jsonl"
FOLDERS = "vrs_to_multi_slam.json"
TIMES = "_mp4_to_vrs_time_ns.csv"  # after a video's name without its extension

DEFAULT_VOXEL_SIZE = 0.1  # metres

_BLOCK = 8 << 20  # bytes of CSV at a time
_ROWS_IN_MEMORY = 1 << 24  # observed points before doubles are thrown out
_MICROSECONDS = 1e6
_SENSOR_SIDE = 2880  # pixels of the RGB sensor, which its calibration counts in
_SENSOR_BORDER = 32  # of these, left out on each side of a video
_WIDEST_ANGLE = np.deg2rad(65)  # off the axis; beyond, the lens polynomial is not defined and nothing is seen


def is_mps_folder(folder: Path) -> bool:
    """Whether a folder holds output of MPS, perhaps not all of it."""
    return any((folder / name).is_file() for name in (TRAJECTORY, POINTS, OBSERVATIONS))


def aria_geometry(
    life: PreparedLife,
    folders: Sequence[Path],
    beside: Sequence[Path],
    settings: GeometrySettings,
    *,
    progress: bool = True,
) -> Geometry:
    """The geometry that MPS found of a life.

    Each graph of the SLAM is a component; folders that name the same graph share a world. Poses are of the RGB camera,
    upright as its videos are, or of the device where there is no calibration; then intrinsics are not known. The lens
    is a fisheye: intrinsics are those of the pinhole camera that agrees with it in the middle of the image.

    Without observations, the points that lie within `max_distance` and project into the image are taken, also those
    that something hides.

    Args:
        life: the prepared life.
        folders: MPS folders.
        beside: folders in which `vrs_to_multi_slam.json` and the videos' `_mp4_to_vrs_time_ns.csv` are looked for.
        settings: thresholds and tolerances.
        progress: show progress bars on stderr.

    Raises:
        LifeError: a file is missing, cut off or no MPS file, or its times are not those of the life's videos.
    """
    folder_of = _folders_of_videos(life.videos, folders, beside)
    for folder in dict.fromkeys(folder_of.values()):
        _check_whole(folder)
    times = _device_times(life, folder_of, beside, settings)
    geometry = Geometry.unknown(len(life))
    sizes = frame_sizes(life)
    graphs: dict[str, int] = {}
    seen = _Seen()
    for folder in dict.fromkeys(folder_of.values()):
        videos = [video for video, its_folder in folder_of.items() if its_folder == folder]
        rows = np.flatnonzero(np.isin(life.video_index, videos) & (times >= 0))
        rows = rows[np.argsort(times[rows], kind="stable")]
        reading = _Folder(folder, times[rows], settings, graphs, progress)
        poses, component = reading.poses()
        if (component < 0).all():
            first, last = reading.span
            start, end = times[rows[[0, -1]]] / 1e6 if len(rows) else (np.nan, np.nan)
            raise LifeError(
                f"The times of {_listed(life.videos[video] for video in videos)} and of {folder / TRAJECTORY} do not "
                f"overlap: frames from {start:.3f} to {end:.3f} s, poses from {first / 1e6:.3f} to {last / 1e6:.3f} s "
                f"of the device's clock. Check that the folder is that of the video, and its {TIMES[1:]} or "
                "--video-start."
            )
        camera = RgbCamera.read(folder / CALIBRATION, settings.upright)
        if camera is not None:
            poses = poses @ camera.device_from_camera
            poses[component < 0] = np.nan
            geometry.intrinsics[rows] = camera.intrinsics(sizes[life.video_index[rows]])
            geometry.intrinsics[rows[component < 0]] = np.nan
        geometry.poses[rows], geometry.component[rows] = poses, component
        reading.points(seen, rows, poses, component, camera)
    return Geometry(seen.finish(len(life)), geometry.component, geometry.poses, geometry.intrinsics)


@dataclass(frozen=True)
class RgbCamera:
    """Aria's RGB camera by its calibration, whose model is named FISHEYE624 or FisheyeRadTanThinPrism.

    Attributes:
        parameters: f, cx, cy in pixels of the whole sensor as it is mounted (the first pixel's centre is 0, 0); six
            radial terms, two tangential, four of a thin prism; float64 (15,).
        device_from_camera: float64 (4, 4); the camera's axes as those of the video.
        upright: whether the video is turned by a quarter clockwise from the sensor.
        side: of the sensor that `parameters` count in, in pixels.
    """

    parameters: np.ndarray
    device_from_camera: np.ndarray
    upright: bool
    side: int

    @classmethod
    def read(cls, path: Path, upright: bool) -> "RgbCamera | None":
        """From the first record of a calibration file (the online calibration changes little), or None without one.

        Raises:
            LifeError: the file is no calibration of such a camera.
        """
        if not path.is_file():
            return None
        try:
            with path.open(encoding="utf-8") as file:
                cameras = json.loads(file.readline())["CameraCalibrations"]
            found = next(camera for camera in cameras if camera["Label"] == "camera-rgb")
            parameters = np.array(found["Projection"]["Params"], dtype=np.float64)
            real, imaginary = found["T_Device_Camera"]["UnitQuaternion"]
            pose = rigid_transforms(
                np.array([[real, *imaginary]], dtype=np.float64),
                np.array([found["T_Device_Camera"]["Translation"]], dtype=np.float64),
            )[0]
        except (ValueError, KeyError, TypeError, StopIteration, UnicodeDecodeError) as error:
            raise LifeError(
                f"{path}: its first line is no calibration with a camera-rgb. Get the file again."
            ) from error
        if parameters.shape != (15,) or not np.isfinite(pose).all():
            raise LifeError(f"{path}: camera-rgb has {parameters.size} parameters, where FISHEYE624 has 15.")
        if upright:
            pose = pose @ np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        # Some files count in pixels of the halved sensor; the focal length, 1220 px, tells which.
        return cls(parameters, pose, upright, _SENSOR_SIDE if parameters[0] > 900 else _SENSOR_SIDE // 2)

    def intrinsics(self, sizes: np.ndarray) -> np.ndarray:
        """fx, fy, cx, cy in pixels of frames of `sizes`, (k, 2) height and width; float64 (k, 4)."""
        focal, cx, cy = self.parameters[:3]
        border = self.side * _SENSOR_BORDER / _SENSOR_SIDE
        centre = np.array([self.side - 0.5 - cy, cx + 0.5] if self.upright else [cx + 0.5, cy + 0.5]) - border
        scale = sizes[:, ::-1] / (self.side - 2 * border)
        return np.concatenate([focal * scale, centre * scale], axis=1)

    def sees(self, points: np.ndarray) -> np.ndarray:
        """Whether points (..., 3), in the camera's axes, are in the image that the video shows; bool (...)."""
        x, y, z = np.moveaxis(points, -1, 0)
        if self.upright:
            x, y = y, -x
        u, v = self.project(np.stack([x, y, z], axis=-1))
        border = self.side * _SENSOR_BORDER / _SENSOR_SIDE
        low, high = border - 0.5, self.side - border - 0.5
        in_view = np.hypot(x, y) < np.tan(_WIDEST_ANGLE) * z
        return in_view & (low <= u) & (u < high) & (low <= v) & (v < high)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points in front of the camera fall on the sensor as it is mounted.

        The angle off the axis becomes a radius by an odd polynomial; then come the tangential and thin-prism terms
        (projectaria_tools, "Camera intrinsic models").

        Args:
            points: (..., 3), in the axes of the sensor.

        Returns:
            u and v in pixels, the first pixel's centre at 0; NaN behind the camera.
        """
        focal, cx, cy = self.parameters[:3]
        radial, (p0, p1), (s0, s1, s2, s3) = self.parameters[3:9], self.parameters[9:11], self.parameters[11:]
        x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            aside = np.where(z > 0, np.hypot(x, y) / z, np.nan)
            angle = np.arctan(aside)
            square = angle**2
            radius = angle * (1 + square * np.polyval(radial[::-1], square))
            stretch = np.where(aside == 0, 1, radius / aside) / z
        a, b = stretch * x, stretch * y
        r2 = a * a + b * b
        tangential = 2 * (a * p0 + b * p1)
        u = a + a * tangential + p0 * r2 + s0 * r2 + s1 * r2 * r2
        v = b + b * tangential + p1 * r2 + s2 * r2 + s3 * r2 * r2
        return focal * u + cx, focal * v + cy


class _Folder:
    """One MPS folder, read for frames at `times` (int64 microseconds of the device's clock, ascending)."""

    def __init__(
        self, folder: Path, times: np.ndarray, settings: GeometrySettings, graphs: dict[str, int], progress: bool
    ):
        self.folder, self.times, self.settings, self.progress = folder, times, settings, progress
        self.graphs = graphs  # number of each graph_uid met so far, in all folders
        self.span = (0, 0)  # of the trajectory
        self._tolerance = round(settings.tolerance * _MICROSECONDS)

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """World from device (n, 4, 4), NaN where no pose is near enough, and graph (n,), -1 there."""
        place = [f"t{axis}_world_device" for axis in "xyz"]
        turn = [f"q{axis}_world_device" for axis in "wxyz"]
        columns = {"graph_uid": pa.string(), "tracking_timestamp_us": pa.int64()}
        columns |= dict.fromkeys(place + turn, pa.float64())
        count = len(self.times)
        best = np.full(count, self._tolerance + 1)
        values, graph = np.full((count, 7), np.nan), np.full(count, -1, dtype=np.int64)
        first, last = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        for batch in self._stream(TRAJECTORY, columns):
            time = _numbers(batch, "tracking_timestamp_us")
            order = np.argsort(time, kind="stable")
            time = time[order]
            first, last = min(first, int(time[0])), max(last, int(time[-1]))
            near = np.arange(*np.searchsorted(self.times, [time[0] - self._tolerance, time[-1] + self._tolerance + 1]))
            after = np.searchsorted(time, self.times[near])
            before, after = np.maximum(after - 1, 0), np.minimum(after, len(time) - 1)
            distance = np.abs(time[[before, after]] - self.times[near])
            nearest = np.where(distance[0] <= distance[1], before, after)
            distance = distance.min(axis=0)
            better = distance < best[near]
            rows, picked = near[better], order[nearest[better]]
            best[rows] = distance[better]
            values[rows] = np.stack([_numbers(batch, name)[picked] for name in place + turn], axis=1)
            graph[rows] = self._graph_numbers(batch)[picked]
        if first > last:
            raise LifeError(f"{self.folder / TRAJECTORY} holds no poses. Get the file again.")
        self.span = (first, last)
        poses = rigid_transforms(values[:, 3:], values[:, :3])
        return poses, np.where(np.isfinite(poses).all(axis=(1, 2)), graph, -1)

    def points(
        self, seen: "_Seen", rows: np.ndarray, poses: np.ndarray, component: np.ndarray, camera: RgbCamera | None
    ) -> None:
        """Tell `seen` which voxels each frame sees; `rows` are its frames' numbers in the life."""
        uid, world, graph = self._good_points()
        voxels = voxel_ids(world, self.settings.voxel_size or DEFAULT_VOXEL_SIZE)
        if (self.folder / OBSERVATIONS).is_file():
            for frame, point in self._observed(uid):
                sees = component[frame] == graph[point]
                frame, point = frame[sees], point[sees]
                if camera is not None:
                    sees = camera.sees(_in_camera(poses[frame], world[point]))
                    frame, point = frame[sees], point[sees]
                seen.add(rows[frame], voxels[point])
            return
        assert camera is not None  # see _check_whole
        _, one_each = np.unique(np.stack([graph, voxels]), axis=1, return_index=True)
        world, graph, voxels = world[one_each], graph[one_each], voxels[one_each]
        posed = np.flatnonzero(component >= 0).tolist()
        for number in tqdm(posed, desc="Projecting points", unit=" frames", disable=not self.progress):
            away = world - poses[number, :3, 3].astype(np.float32)
            near = (graph == component[number]) & (np.einsum("pi,pi->p", away, away) <= self.settings.max_distance**2)
            point = np.flatnonzero(near)
            point = point[camera.sees(away[point] @ poses[number, :3, :3])]
            seen.add(np.full(len(point), rows[number]), voxels[point])

    def _good_points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points that are certain enough, by ascending uid: int64 (m,), float32 (m, 3), and their graphs (m,)."""
        columns = {"uid": pa.int64(), "graph_uid": pa.string()}
        columns |= dict.fromkeys(("px_world", "py_world", "pz_world", "inv_dist_std", "dist_std"), pa.float64())
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in self._stream(POINTS, columns):
            good = _numbers(batch, "inv_dist_std") <= self.settings.max_inv_dist_std
            good &= _numbers(batch, "dist_std") <= self.settings.max_dist_std
            world = np.stack([_numbers(batch, f"p{axis}_world")[good] for axis in "xyz"], axis=1)
            parts.append((_numbers(batch, "uid")[good], world.astype(np.float32), self._graph_numbers(batch)[good]))
        if not sum(len(part[0]) for part in parts):
            raise LifeError(
                f"{self.folder / POINTS} has no point of inv_dist_std up to {self.settings.max_inv_dist_std:g} and "
                f"dist_std up to {self.settings.max_dist_std:g}. Raise --max-inv-dist-std and --max-dist-std, or get "
                "the file again."
            )
        uid, world, graph = (np.concatenate(values) for values in zip(*parts, strict=True))
        order = np.argsort(uid, kind="stable")
        return uid[order], world[order], graph[order]

    def _observed(self, uid: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of a frame and a good point that was observed within the tolerance of its time."""
        for batch in self._stream(OBSERVATIONS, {"uid": pa.int64(), "frame_tracking_timestamp_us": pa.int64()}):
            time, observed = _numbers(batch, "frame_tracking_timestamp_us"), _numbers(batch, "uid")
            point = np.searchsorted(uid, observed).clip(max=len(uid) - 1)
            known = uid[point] == observed
            time, point = time[known], point[known]
            first = np.searchsorted(self.times, time - self._tolerance)
            count = np.searchsorted(self.times, time + self._tolerance, side="right") - first
            start = np.repeat(np.cumsum(count) - count, count)
            yield np.repeat(first, count) + np.arange(count.sum()) - start, np.repeat(point, count)

    def _graph_numbers(self, batch: pa.RecordBatch) -> np.ndarray:
        encoded = pc.dictionary_encode(batch.column("graph_uid"))
        numbers = [self.graphs.setdefault(uid, len(self.graphs)) for uid in encoded.dictionary.to_pylist()]
        return np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy()]

    def _stream(self, name: str, columns: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """A CSV file in blocks; only the columns named, of these types."""
        path = self.folder / name
        try:
            with (
                pa.OSFile(str(path), "rb") as file,  # a file of Python's would make threads wait for Python's lock
                pa.CompressedInputStream(file, "gzip") if path.suffix == ".gz" else file as stream,
                pacsv.open_csv(
                    stream,
                    read_options=pacsv.ReadOptions(block_size=_BLOCK),
                    convert_options=pacsv.ConvertOptions(include_columns=list(columns), column_types=columns),
                ) as reader,
                tqdm(
                    None, f"Reading {name}", file.size(), unit="B", unit_scale=True, disable=not self.progress
                ) as bar,
            ):
                for batch in reader:
                    if len(batch):
                        yield batch
                    bar.update(file.tell() - bar.n)
        except KeyError as error:
            raise LifeError(f"{path} is no such MPS file: {error.args[0]}.") from error
        except (pa.ArrowInvalid, OSError) as error:
            why = str(error).splitlines()[0].rstrip(".")
            raise LifeError(f"{path} is damaged or cut off ({why}). Get the file again.") from error


class _Seen:
    """Gathers which frame sees which voxel, in bounded memory: doubles are thrown out as it fills."""

    def __init__(self) -> None:
        self._frames: list[np.ndarray] = []
        self._ids: list[np.ndarray] = []
        self._added, self._limit = 0, _ROWS_IN_MEMORY

    def add(self, frames: np.ndarray, ids: np.ndarray) -> None:
        known = ids >= 0
        self._frames.append(frames[known].astype(np.int32))
        self._ids.append(ids[known])
        self._added += len(self._ids[-1])
        if self._added > self._limit:
            self._tidy()
            self._limit = max(_ROWS_IN_MEMORY, 2 * self._added)

    def finish(self, num_frames: int) -> VisiblePoints:
        self._tidy()
        return VisiblePoints.from_counts(np.bincount(self._frames[0], minlength=num_frames), self._ids[0])

    def _tidy(self) -> None:
        frames = np.concatenate([*self._frames, np.zeros(0, dtype=np.int32)])
        ids = np.concatenate([*self._ids, np.zeros(0, dtype=np.int64)])
        order = np.lexsort((ids, frames))
        frames, ids = frames[order], ids[order]
        new = np.ones(len(ids), dtype=bool)
        new[1:] = (frames[1:] != frames[:-1]) | (ids[1:] != ids[:-1])
        self._frames, self._ids = [frames[new]], [ids[new]]
        self._added = len(self._ids[0])


def _check_whole(folder: Path) -> None:
    for name in (TRAJECTORY, POINTS):
        if not (folder / name).is_file():
            raise LifeError(f"{folder / name} is missing: poses come from {TRAJECTORY}, points from {POINTS}. Get it.")
    if not (folder / OBSERVATIONS).is_file() and not (folder / CALIBRATION).is_file():
        raise LifeError(
            f"{folder} has neither {OBSERVATIONS} nor {CALIBRATION}: which points a frame sees is not known without "
            "one of them. Get one of the two files."
        )


def _folders_of_videos(videos: list[str], folders: Sequence[Path], beside: Sequence[Path]) -> dict[int, Path]:
    """The MPS folder of each video that has one: by `vrs_to_multi_slam.json`, by a folder named after the video, or
    the only one there is."""
    named: dict[str, Path] = {}
    for path in sorted({path for folder in beside for path in folder.rglob(FOLDERS)}):
        try:
            for recording, number in json.loads(path.read_text(encoding="utf-8")).items():
                named[Path(recording).stem.removesuffix("_anonymized")] = path.parent / str(number)
        except (ValueError, AttributeError) as error:
            raise LifeError(f"{path} should map the names of recordings to folders ({error}).") from error
    found = {}
    for number, video in enumerate(videos):
        stem = Path(video).stem
        by_name = [folder for folder in folders if {stem, f"mps_{stem}_vrs"} & set(folder.parts)]
        by_file = [folder for folder in folders if stem in named and named[stem] in (folder, *folder.parents)]
        matching = by_file or by_name or (folders if len(folders) == 1 else [])
        if len(matching) > 1:
            raise LifeError(f"Several MPS folders are named after the video {video}: {_listed(matching)}. Keep one.")
        if matching:
            found[number] = matching[0]
    if not found:
        raise LifeError(
            f"None of the {len(folders)} MPS folders is that of a video of the life: {_listed(folders)}. Name each "
            f"after its video, as in slam/{Path(videos[0]).stem}/, or add the {FOLDERS} that comes with them."
        )
    return found


def _device_times(
    life: PreparedLife, folder_of: dict[int, Path], beside: Sequence[Path], settings: GeometrySettings
) -> np.ndarray:
    """When each frame was taken on the device's clock, int64 microseconds (n,); -1 where that is not known."""
    times = np.full(len(life), -1, dtype=np.int64)
    starts = settings.video_start
    shared = len(set(folder_of.values())) < len(folder_of)  # one trajectory, so one start, for several videos
    if (starts == "trajectory" and shared) or (starts not in ("", "trajectory") and len(life.videos) > 1):
        raise LifeError(
            f"A start of {starts} cannot be that of {len(life.videos)} videos; give each its NAME{TIMES} instead."
        )
    for number, folder in folder_of.items():
        video = life.videos[number]
        rows = np.flatnonzero(life.video_index == number)
        if starts:
            start = _first_time(folder / TRAJECTORY) if starts == "trajectory" else float(starts) * _MICROSECONDS
            times[rows] = np.round(start + life.timestamps[rows] * _MICROSECONDS)
            continue
        name = f"{Path(video).stem}{TIMES}"
        files = [path for place in (folder, *beside) for path in sorted(place.rglob(name))]
        if not files:
            raise LifeError(
                f"When the video {video} begins on the device's clock is not known: there is no {name} in "
                f"{_listed(dict.fromkeys((folder, *beside)))}. Put it there, or give --video-start SECONDS, or "
                "--video-start trajectory if the first frame was taken at the first pose."
            )
        shown, taken = _read_times(files[0])
        seconds = life.timestamps[rows]
        inside = seconds <= (shown[-1] - shown[0]) / 1e9 + settings.tolerance
        at = np.interp(seconds[inside] * 1e9, shown - shown[0], taken - taken[0])
        times[rows[inside]] = np.round((taken[0] + at) / 1000)
    return times


def _read_times(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Columns `mp4_time_ns` and `vrs_device_time_ns`, a row for each frame, as Aria's VRS to MP4 tool writes them."""
    names = ["mp4_time_ns", "vrs_device_time_ns"]
    try:
        table = pacsv.read_csv(
            path,
            convert_options=pacsv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.int64())),
        )
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise LifeError(f"{path} should be a CSV with the columns {' and '.join(names)} ({error}).") from error
    shown, taken = (table.column(name).to_numpy() for name in names)
    if not len(shown) or (np.diff(shown) < 0).any() or (np.diff(taken) < 0).any():
        raise LifeError(f"{path} holds no rows, or times that run backwards.")
    return shown, taken


def _first_time(path: Path) -> int:
    try:
        with path.open(encoding="utf-8") as file:
            header, first = file.readline().strip().split(","), file.readline().split(",")
        return int(first[header.index("tracking_timestamp_us")])
    except (OSError, ValueError, IndexError) as error:
        raise LifeError(f"{path} is missing or holds no poses ({error}). Get the file again.") from error


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = batch.column(name)
    return pc.fill_null(column, float("nan") if pa.types.is_floating(column.type) else -1).to_numpy()


def _in_camera(poses: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (k, 3) of the world in the axes of the camera of each, poses (k, 4, 4)."""
    return np.einsum("kji,kj->ki", poses[:, :3, :3], points - poses[:, :3, 3])


def _listed(things: Any) -> str:
    words = [str(thing) for thing in things]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
