"""Poses and visible points of a recording with Aria glasses, from Aria's machine perception services (MPS).

An MPS folder holds `closed_loop_trajectory.csv` (poses of the device), `semidense_points.csv.gz` (points in the
world), `semidense_observations.csv.gz` (when the SLAM cameras saw each) and `online_calibration.jsonl`. They are read
a block at a time, because a week of them is larger than memory. (projectaria-tools reads each file whole.)

MPS makes new points when a place is seen again, so here a point is named by the voxel that it lies in. A frame sees
the points that the SLAM cameras saw within the tolerance of its time and that fall into its calibrated image.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene import rigid_transforms
from singlelife.lives.scene.geometry import Geometry, VisiblePoints, frame_sizes, voxel_ids

TRAJECTORY = "closed_loop_trajectory.csv"
POINTS = "semidense_points.csv.gz"
OBSERVATIONS = "semidense_observations.csv.gz"
CALIBRATION = "online_calibration.jsonl"
FOLDERS = "vrs_to_multi_slam.json"
TIMES = "_mp4_to_vrs_time_ns.csv"  # after a video's name without its extension
_TIME = "tracking_timestamp_us"  # the column of a pose's time
_SHOWN, _TAKEN = "mp4_time_ns", "vrs_device_time_ns"  # the columns of a frame's time in the video and on the device

DEFAULT_VOXEL_SIZE = 0.1  # metres
MAX_INV_DIST_STD, MAX_DIST_STD = 0.005, 0.01  # 1/m and m: less certain points are left out, as Aria's makers advise

_BLOCK = 8 << 20  # bytes of CSV at a time
_ROWS_IN_MEMORY = 1 << 24  # observed points to gather before duplicates are removed
_LEAST_COVERED = 0.9  # the share of a video that the table of its frames' times must cover
_TOLERANCE = 50_000  # maximum microseconds between a frame and its pose, and between a frame and an observation
_SENSOR_SIDE = 2880  # pixels of the RGB sensor, the unit of its calibration
_SENSOR_BORDER = 32  # pixels that the video leaves out on each side
_WIDEST_ANGLE = np.deg2rad(65)  # off the axis; beyond, the lens polynomial is not defined and nothing is seen


def is_mps_folder(folder: Path) -> bool:
    """Whether a folder holds MPS output, even if incomplete."""
    return any((folder / name).is_file() for name in (TRAJECTORY, POINTS, OBSERVATIONS))


def aria_geometry(
    life: PreparedLife,
    folders: Sequence[Path],
    beside: Sequence[Path],
    *,
    voxel_size: float = DEFAULT_VOXEL_SIZE,
    progress: bool = True,
) -> Geometry:
    """The geometry of a life from MPS.

    Each SLAM graph is a component; folders that name the same graph share a world. Poses are the RGB camera's, upright
    like its videos; without a calibration they are the device's, and intrinsics are unknown. The lens is a fisheye:
    intrinsics describe the pinhole camera that agrees with it in the middle of the image.

    Args:
        folders: MPS folders.
        beside: folders to search for `vrs_to_multi_slam.json` and the videos' `_mp4_to_vrs_time_ns.csv`.
        voxel_size: side of the voxels that stand for points, in metres.

    Raises:
        LifeError: a file is missing, cut off or not from MPS, or its times do not fit the life's videos.
    """
    folder_of = _folders_of_videos(life.videos, folders, beside)
    for path in (folder / name for folder in folder_of.values() for name in (TRAJECTORY, POINTS, OBSERVATIONS)):
        if not path.is_file():
            raise LifeError(f"{path} is missing: MPS writes it beside {TRAJECTORY}, {POINTS} and {OBSERVATIONS}.")
    times = _device_times(life, folder_of, beside)
    all_components = np.full(len(life), -1, dtype=np.int64)
    all_poses, intrinsics = np.full((len(life), 4, 4), np.nan), np.full((len(life), 4), np.nan)
    sizes = frame_sizes(life)
    graphs: dict[str, int] = {}
    seen = _Seen()
    for folder in dict.fromkeys(folder_of.values()):
        videos = [video for video, its_folder in folder_of.items() if its_folder == folder]
        rows = np.flatnonzero(np.isin(life.video_index, videos) & (times >= 0))
        rows = rows[np.argsort(times[rows], kind="stable")]
        reading = _Folder(folder, times[rows], graphs, progress)
        poses, component = reading.poses()
        camera = RgbCamera.read(folder / CALIBRATION)
        if camera is not None:
            poses = poses @ camera.device_from_camera
            posed = rows[component >= 0]
            intrinsics[posed] = camera.intrinsics(sizes[life.video_index[posed]])
        all_poses[rows], all_components[rows] = poses, component
        for frame, world, graph in reading.observed():
            sees = component[frame] == graph
            if camera is not None:
                away = world - poses[frame, :3, 3]
                sees &= camera.sees(np.einsum("kji,kj->ki", poses[frame, :3, :3], away))
            seen.add(rows[frame[sees]], voxel_ids(world[sees], voxel_size))
    return Geometry(seen.points(len(life)), all_components, all_poses, intrinsics, voxel_size)


@dataclass(frozen=True)
class RgbCamera:
    """Aria's calibrated RGB camera; its lens model is called FISHEYE624 or FisheyeRadTanThinPrism.

    Attributes:
        parameters: f, cx, cy in pixels of the whole sensor as mounted (the first pixel's centre is 0, 0); six radial
            terms, two tangential, four of a thin prism; float64 (15,).
        device_from_camera: float64 (4, 4); the camera's axes are those of the video, which is turned by a quarter
            clockwise from the sensor.
        side: the side of the sensor in the pixels of `parameters`.
    """

    parameters: np.ndarray
    device_from_camera: np.ndarray
    side: int

    @classmethod
    def read(cls, path: Path) -> "RgbCamera | None":
        """Read the first record of a calibration file (the online calibration changes little); None if it is missing.

        Raises:
            LifeError: the file is not a calibration of such a camera.
        """
        if not path.is_file():
            return None
        try:
            with path.open(encoding="utf-8") as file:
                cameras = json.loads(file.readline())["CameraCalibrations"]
            found = next(camera for camera in cameras if camera["Label"] == "camera-rgb")
            parameters = np.array(found["Projection"]["Params"], dtype=np.float64)
            mounted = found["T_Device_Camera"]
            real, imaginary = mounted["UnitQuaternion"]
            turn, shift = (np.array([each], dtype=np.float64) for each in ([real, *imaginary], mounted["Translation"]))
            [pose] = rigid_transforms(turn, shift)
            if parameters.shape != (15,) or not np.isfinite(pose).all():
                raise ValueError("FISHEYE624 needs 15 parameters and a pose")
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise LifeError(
                f"{path}: its first line is not a calibration with a camera-rgb ({error!r}). Get the file again."
            ) from error
        pose = pose @ np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        # Some files use pixels of the halved sensor; the focal length, 1220 px on the full one, tells which.
        return cls(parameters, pose, _SENSOR_SIDE if parameters[0] > 900 else _SENSOR_SIDE // 2)

    def intrinsics(self, sizes: np.ndarray) -> np.ndarray:
        """fx, fy, cx, cy in pixels of frames with `sizes`, (k, 2) height and width; float64 (k, 4)."""
        focal, cx, cy = self.parameters[:3]
        border = self.side * _SENSOR_BORDER / _SENSOR_SIDE
        centre = np.array([self.side - 0.5 - cy, cx + 0.5]) - border
        scale = sizes[:, ::-1] / (self.side - 2 * border)
        return np.concatenate([focal * scale, centre * scale], axis=1)

    def sees(self, points: np.ndarray) -> np.ndarray:
        """Whether points (..., 3), in the camera's axes, are in the image that the video shows; bool (...)."""
        x, y, z = np.moveaxis(points, -1, 0)
        u, v = self.project(np.stack([y, -x, z], axis=-1))
        border = self.side * _SENSOR_BORDER / _SENSOR_SIDE
        low, high = border - 0.5, self.side - border - 0.5
        in_view = np.hypot(x, y) < np.tan(_WIDEST_ANGLE) * z
        return in_view & (low <= u) & (u < high) & (low <= v) & (v < high)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points in front of the camera onto the sensor as mounted.

        An odd polynomial turns the angle off the axis into a radius; then come the tangential and thin-prism terms
        (projectaria_tools, "Camera intrinsic models").

        Args:
            points: (..., 3), in the sensor's axes.

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

    def __init__(self, folder: Path, times: np.ndarray, graphs: dict[str, int], progress: bool):
        self.folder, self.times, self.progress = folder, times, progress
        self.graphs = graphs  # the number of each graph_uid so far, over all folders

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """World from device (n, 4, 4) and graph (n,); NaN and -1 if no pose is near enough."""
        numbers = [f"{name}_world_device" for name in ("tx", "ty", "tz", "qw", "qx", "qy", "qz")]
        columns = {"graph_uid": pa.string(), _TIME: pa.int64(), **dict.fromkeys(numbers, pa.float64())}
        times = self.times
        best = np.full(len(times), _TOLERANCE + 1)
        values, graph = np.full((len(times), 7), np.nan), np.full(len(times), -1, dtype=np.int64)
        first, last = np.inf, -np.inf
        for table in self._read(TRAJECTORY, columns):
            table = table.sort_values(_TIME, kind="stable")
            start, end = table[_TIME].iloc[[0, -1]]
            first, last = min(first, start), max(last, end)
            near = slice(*np.searchsorted(times, [start - _TOLERANCE, end + _TOLERANCE + 1]))
            frames = pd.DataFrame({"frame": times[near]})
            found = pd.merge_asof(frames, table, left_on="frame", right_on=_TIME, direction="nearest")
            distance = (found[_TIME] - found["frame"]).abs().to_numpy()
            better = np.flatnonzero(distance < best[near])
            rows = near.start + better
            best[rows] = distance[better]
            values[rows], graph[rows] = found[numbers].to_numpy()[better], found["graph"].to_numpy()[better]
        poses = rigid_transforms(values[:, 3:], values[:, :3])
        graph[np.isnan(poses[:, 0, 0])] = -1
        if (graph < 0).all():
            start, end = times[[0, -1]] / 1e6 if len(times) else (np.nan, np.nan)
            raise LifeError(
                f"No frame has a pose in {self.folder / TRAJECTORY}: frames from {start:.3f} to {end:.3f} s, poses "
                f"from {first / 1e6:.3f} to {last / 1e6:.3f} s of the device's clock. Check that the folder and the "
                f"file {TIMES[1:]} belong to the video."
            )
        return poses, graph

    def observed(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Pairs of a frame and a point observed within the tolerance of its time: the frame's index in `times`, the
        point in the world (k, 3), and the point's graph."""
        place = ["px_world", "py_world", "pz_world"]
        columns = {"uid": pa.int64(), "graph_uid": pa.string(), **dict.fromkeys(place, pa.float32())}
        columns |= {"inv_dist_std": pa.float64(), "dist_std": pa.float64()}
        certain = f"inv_dist_std <= {MAX_INV_DIST_STD} and dist_std <= {MAX_DIST_STD}"
        kept = ["uid", *place, "graph"]
        points = pd.concat([table.query(certain)[kept] for table in self._read(POINTS, columns)])
        if points.empty:
            raise LifeError(f"No point in {self.folder / POINTS} is certain enough. Get the file again.")
        points = points.sort_values("uid", kind="stable")
        uid, world, graph = points["uid"].to_numpy(), points[place].to_numpy(), points["graph"].to_numpy()
        for table in self._read(OBSERVATIONS, {"uid": pa.int64(), "frame_tracking_timestamp_us": pa.int64()}):
            time, observed = table["frame_tracking_timestamp_us"].to_numpy(), table["uid"].to_numpy()
            point = np.searchsorted(uid, observed).clip(max=len(uid) - 1)
            known = uid[point] == observed
            time, point = time[known], point[known]
            first = np.searchsorted(self.times, time - _TOLERANCE)
            count = np.searchsorted(self.times, time + _TOLERANCE, side="right") - first
            start = np.repeat(np.cumsum(count) - count, count)
            point = np.repeat(point, count)
            yield np.repeat(first, count) + np.arange(count.sum()) - start, world[point], graph[point]

    def _read(self, name: str, columns: dict[str, pa.DataType]) -> Iterator[pd.DataFrame]:
        """Blocks of a file in the folder, with the graph's number in place of `graph_uid`."""
        for table in _stream(self.folder / name, columns, self.progress):
            if "graph_uid" in columns:
                codes, uids = pd.factorize(table.pop("graph_uid"))
                table["graph"] = np.array([self.graphs.setdefault(uid, len(self.graphs)) for uid in uids])[codes]
            yield table


class _Seen:
    """Collects which frame sees which voxel, in bounded memory: duplicates are removed as it fills."""

    def __init__(self) -> None:
        self._table, self._limit = pa.table({"frame": np.zeros(0, np.int32), "id": np.zeros(0, np.int64)}), 0

    def add(self, frames: np.ndarray, ids: np.ndarray) -> None:
        known = ids >= 0
        added = pa.table({"frame": frames[known].astype(np.int32), "id": ids[known]})
        self._table = pa.concat_tables([self._table, added])
        if len(self._table) > max(_ROWS_IN_MEMORY, self._limit):
            self._table = self._unique()
            self._limit = 2 * len(self._table)

    def points(self, num_frames: int) -> VisiblePoints:
        table = self._unique().sort_by([("frame", "ascending"), ("id", "ascending")])
        counts = np.bincount(table.column("frame").to_numpy(), minlength=num_frames)
        return VisiblePoints.from_counts(counts, table.column("id").to_numpy())

    def _unique(self) -> pa.Table:
        return self._table.group_by(["frame", "id"]).aggregate([])


def _stream(path: Path, columns: dict[str, pa.DataType], progress: bool) -> Iterator[pd.DataFrame]:
    """A CSV file in blocks, none empty: only `columns`, with these types, and only rows without missing values.

    pyarrow reads it on all cores, several times faster than pandas.

    Raises:
        LifeError: the file cannot be read to its end, lacks a column, or has no rows.
    """
    num_rows = 0
    try:
        with (
            pa.OSFile(str(path), "rb") as file,  # with a Python file, threads would wait for Python's lock
            pa.CompressedInputStream(file, "gzip") if path.suffix == ".gz" else file as stream,
            pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(block_size=_BLOCK),
                convert_options=pacsv.ConvertOptions(include_columns=list(columns), column_types=columns),
            ) as reader,
            tqdm(None, f"Reading {path.name}", file.size(), unit="B", unit_scale=True, disable=not progress) as bar,
        ):
            for batch in reader:
                if len(table := batch.to_pandas().dropna()):
                    num_rows += len(table)
                    yield table
                bar.update(file.tell() - bar.n)
        if not num_rows:
            raise pa.ArrowInvalid("it has no rows")
    except KeyError as error:
        raise LifeError(f"{path} is not the Aria file that its name says: {error.args[0]}.") from error
    except (pa.ArrowInvalid, OSError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise LifeError(f"{path} is damaged or cut off ({why}). Get the file again.") from error


def _folders_of_videos(videos: list[str], folders: Sequence[Path], beside: Sequence[Path]) -> dict[int, Path]:
    """The MPS folder of each video that has one: from `vrs_to_multi_slam.json`, or the folder named after the video,
    or the only folder."""
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
        matching = [folder for folder in folders if named.get(stem) in (folder, *folder.parents)]
        matching = matching or [folder for folder in folders if {stem, f"mps_{stem}_vrs"} & set(folder.parts)]
        matching = matching or (list(folders) if len(folders) == 1 else [])
        if len(matching) > 1:
            raise LifeError(
                f"Several MPS folders are named after the video {video}: {matching[0]} and {matching[1]}. Keep one."
            )
        if matching:
            found[number] = matching[0]
    if not found:
        raise LifeError(
            f"None of the {len(folders)} MPS folders, such as {folders[0]}, belongs to a video of the life. Name each "
            f"after its video, as in slam/{Path(videos[0]).stem}/, or add the {FOLDERS} that comes with them."
        )
    return found


def _device_times(life: PreparedLife, folder_of: dict[int, Path], beside: Sequence[Path]) -> np.ndarray:
    """The time of each frame on the device's clock, int64 microseconds (n,); -1 if unknown."""
    times = np.full(len(life), -1, dtype=np.int64)
    for number, folder in folder_of.items():
        name = f"{Path(life.videos[number]).stem}{TIMES}"
        files = [path for place in (folder, *beside) for path in sorted(place.rglob(name))]
        if not files:
            raise LifeError(
                f"The start of the video {life.videos[number]} on the device's clock is unknown. Aria's vrs_to_mp4 "
                f"writes {TIMES[1:]} into its log folder; copy that file as {name} into "
                f"{' or '.join(map(str, dict.fromkeys((folder, *beside))))}."
            )
        # The first column has a decimal point.
        table = pd.concat(_stream(files[0], {_SHOWN: pa.float64(), _TAKEN: pa.int64()}, progress=False))
        shown, taken = table[_SHOWN].to_numpy(), table[_TAKEN].to_numpy()
        if (np.diff(shown) < 0).any() or (np.diff(taken) < 0).any():
            raise LifeError(f"{files[0]} has times that run backwards.")
        rows = np.flatnonzero(life.video_index == number)
        seconds, last = life.timestamps[rows], (shown[-1] - shown[0]) / 1e9
        if last < _LEAST_COVERED * seconds[-1] - 1:
            raise LifeError(
                f"{files[0]} has times for {last:.1f} s, but the video {life.videos[number]} lasts "
                f"{seconds[-1]:.1f} s: the file belongs to another video, or is cut off. Put the right one there."
            )
        inside = seconds <= last + _TOLERANCE / 1e6
        at = np.interp(seconds[inside] * 1e9, shown - shown[0], taken - taken[0])
        times[rows[inside]] = np.round((taken[0] + at) / 1000)
    return times
