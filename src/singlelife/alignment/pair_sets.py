"""Pairs of views to measure alignment on, with the true matches where a life's geometry is known."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from singlelife.errors import LifeError, PairSetError
from singlelife.lives.pairs.pairing import TemporalPairing
from singlelife.lives.pairs.transforms import center_crop_box, crop_and_resize, random_crop_box
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.resolve import resolve_life

VIEWS = ("plain", "zoomed", "shifted")

_ZOOMED_AREA = (0.3, 0.7)
_SHIFTED_SIDE = 0.55
_LEAST_TURN = np.deg2rad(4)  # of the camera, for a pair to count as moving
_LEAST_MOVE = 16.0  # or this far, in the unit of the poses (for simulated lives: 0.4 eye heights)
_DEPTH_TOLERANCE = 0.05  # relative: two views see the same point if their depths of it agree so far

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Geometry:
    """What is needed to find a target point in the source: cameras, depths, and the crops that the views are."""

    depth: np.ndarray  # (P, 2, H, W)
    poses: np.ndarray  # (P, 2, 4, 4)
    intrinsics: np.ndarray  # (P, 2, 4)


@dataclass(frozen=True)
class PairSet:
    """Pairs of views.

    Attributes:
        name: of the life and the kind of views.
        target, source: uint8 (P, 3, S, S).
        provenance: the life's fingerprint, the rows of the frames, and how they were drawn.
        gap: seconds between the two frames of each pair, float (P,); None where they are not known.
        overlap: share of what the two frames see that both see, float (P,), 0 to 1; None where it is not known.
    """

    name: str
    target: torch.Tensor
    source: torch.Tensor
    provenance: dict[str, Any]
    _boxes: np.ndarray = field(repr=False)  # (P, 2, 4) top, left, height, width of each view in its frame
    _geometry: _Geometry | None = field(repr=False, default=None)
    _same_frame: bool = False
    gap: np.ndarray | None = field(repr=False, default=None)
    overlap: np.ndarray | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.target)

    @property
    def hash(self) -> str:
        """SHA-256 of the views' pixels: two scores on pair sets of the same hash can be compared."""
        digest = hashlib.sha256(str(tuple(self.target.shape)).encode())
        for views in (self.target, self.source):
            digest.update(views.numpy().tobytes())
        return digest.hexdigest()

    def true_match(self, grid: tuple[int, int]) -> torch.Tensor:
        """The source patch that shows what is at the centre of each target patch.

        Args:
            grid: rows and columns of patches that the views are cut into.

        Returns:
            int64 (P, rows * columns); -1 where it is out of the source view, hidden in it, or not known.
        """
        rows, columns = grid
        if not self._same_frame and self._geometry is None:
            return torch.full((len(self), rows * columns), -1)
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        target, source = self._boxes[:, 0, :, None], self._boxes[:, 1, :, None]
        points = np.stack([target[:, 1] + x.ravel() * target[:, 3], target[:, 0] + y.ravel() * target[:, 2]], axis=-1)
        known = np.ones(points.shape[:2], dtype=bool)
        if self._geometry is not None and not self._same_frame:
            points, known = _project(points, self._geometry)
        column = (points[..., 0] - source[:, 1]) / source[:, 3] * columns
        row = (points[..., 1] - source[:, 0]) / source[:, 2] * rows
        inside = known & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        match = np.floor(np.where(inside, row, 0)) * columns + np.floor(np.where(inside, column, 0))
        return torch.from_numpy(np.where(inside, match, -1).astype(np.int64))


def resolve_pair_set(
    pairs: str, *, views: str, num_pairs: int, seed: int, image_size: int, cache_dir: Path | None = None
) -> PairSet:
    """The pair set of a life: its name, the folder of a prepared one, or ORG/NAME of a data set on the Hub.

    Raises:
        SingleLifeError: there is no such life, or no such pairs in it.
    """
    life = resolve_life(pairs, cache_dir=cache_dir)
    return make_pair_set(life, views=views, num_pairs=num_pairs, seed=seed, image_size=image_size)


def make_pair_set(
    life: PreparedLife,
    *,
    views: str = "plain",
    num_pairs: int = 384,
    seed: int = 0,
    image_size: int = 64,
    min_gap: float | None = None,
    max_gap: float | None = None,
) -> PairSet:
    """Draw pairs of views from a life. The same arguments give the same pairs.

    Args:
        life: the prepared life.
        views: `"plain"`: two frames a short time apart, each the frame's middle square. `"zoomed"`: the same, each
            view cut out at a place of its own (area 0.3 to 0.7 of that square). `"shifted"`: two such cuts of one
            frame (side 0.55), so that matches lie far apart and are known exactly.
        num_pairs: how many.
        seed: of the draw.
        image_size: side of the views, in pixels.
        min_gap, max_gap: time between the two frames in seconds; 2 and 8 frames of the life by default.

    Where the life has poses, only pairs between which the camera turned by 4 degrees or moved by 16 units are taken:
    without motion, looking at the same place is right, and nothing is measured.

    Raises:
        PairSetError: the kind of views is not known, or there are too few such pairs.
    """
    if views not in VIEWS:
        raise PairSetError(f"There are {', '.join(VIEWS)} views, not {views!r}.")
    if num_pairs < 1:
        raise PairSetError(f"A pair set has at least one pair, not {num_pairs}.")
    step = 1 / life.metadata["frame_rate"]
    gaps = (min_gap or 2 * step, max_gap or 8 * step)
    try:
        frames = _moving_pairs(life, TemporalPairing(life.timestamps, life.video_index, *gaps), num_pairs, seed)
    except LifeError as error:
        raise PairSetError(f"No pairs can be drawn from the life {life.name}: {error}") from error
    if views == "shifted":
        frames[:, 1] = frames[:, 0]
    images = life.decode(frames.reshape(-1))
    generator = np.random.default_rng([seed, len(frames)])
    boxes = np.array([_box(views, generator, *image.shape[-2:]) for image in images]).reshape(-1, 2, 4)
    cut = [
        crop_and_resize(image, tuple(box), image_size) for image, box in zip(images, boxes.reshape(-1, 4), strict=True)
    ]
    stacked = torch.stack(cut).unflatten(0, (-1, 2))
    provenance = {
        "life": life.name,
        "life_fingerprint": life.metadata["fingerprint"],
        "views": views,
        "seed": seed,
        "min_gap": gaps[0],
        "max_gap": gaps[1],
        "frames": frames.tolist(),
    }
    return PairSet(
        name=f"{life.name}/{views}",
        target=stacked[:, 0].contiguous(),
        source=stacked[:, 1].contiguous(),
        provenance=provenance,
        _boxes=boxes,
        _geometry=None if views == "shifted" else _geometry(life, frames),
        _same_frame=views == "shifted",
        gap=np.abs(np.diff(life.timestamps[frames], axis=1)[:, 0]),
    )


def _moving_pairs(life: PreparedLife, pairing: TemporalPairing, num_pairs: int, seed: int) -> np.ndarray:
    """Frames of `num_pairs` pairs between which the camera moved, if the life's poses tell; int64 (num_pairs, 2)."""
    drawn = pairing.pairs(seed, np.arange(num_pairs * 8))
    poses = life.poses(drawn.reshape(-1))
    if poses is not None:
        poses = poses.reshape(-1, 2, 4, 4)
        moved = np.linalg.norm(poses[:, 0, :3, 3] - poses[:, 1, :3, 3], axis=1)
        turned = np.einsum("pi,pi->p", poses[:, 0, :3, 2], poses[:, 1, :3, 2])  # cosine between the view directions
        drawn = drawn[(moved >= _LEAST_MOVE) | (turned <= np.cos(_LEAST_TURN))]
        if len(drawn) < num_pairs:
            raise PairSetError(
                f"The camera of the life {life.name} hardly moves: of {8 * num_pairs} pairs, only {len(drawn)} show "
                "motion. Alignment cannot be measured on a still camera; choose another life."
            )
    return drawn[:num_pairs]


def _box(views: str, generator: np.random.Generator, height: int, width: int) -> Box:
    if views == "plain":
        return center_crop_box(height, width)
    area = _ZOOMED_AREA if views == "zoomed" else (_SHIFTED_SIDE**2, _SHIFTED_SIDE**2)
    return random_crop_box(generator, height, width, area, (1.0, 1.0))


def _geometry(life: PreparedLife, frames: np.ndarray) -> _Geometry | None:
    rows = frames.reshape(-1)
    depth, poses, intrinsics = life.depth(rows), life.poses(rows), life.intrinsics(rows)
    if depth is None or poses is None or intrinsics is None:
        return None
    return _Geometry(*(values.reshape(-1, 2, *values.shape[1:]) for values in (depth, poses, intrinsics)))


def _project(points: np.ndarray, geometry: _Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Where points (P, N, 2) of the target frames, x and y in pixels, are in the source frames, and whether they are
    seen there: the source's depth at that place must be theirs."""
    z = _look_up(geometry.depth[:, 0], points)
    fx, fy, cx, cy = np.moveaxis(geometry.intrinsics[:, 0, :, None], 1, 0)
    camera = np.stack([(points[..., 0] - cx) / fx * z, (points[..., 1] - cy) / fy * z, z, np.ones_like(z)], axis=-1)
    to_source = np.linalg.inv(geometry.poses[:, 1]) @ geometry.poses[:, 0]
    moved = np.einsum("pij,pnj->pni", to_source, camera)
    fx, fy, cx, cy = np.moveaxis(geometry.intrinsics[:, 1, :, None], 1, 0)
    in_front = (z > 0) & (moved[..., 2] > 1e-6)
    depth = np.where(in_front, moved[..., 2], 1.0)
    found = np.stack([fx * moved[..., 0] / depth + cx, fy * moved[..., 1] / depth + cy], axis=-1)
    seen = _look_up(geometry.depth[:, 1], found)
    visible = in_front & (seen > 0) & (np.abs(seen - depth) <= _DEPTH_TOLERANCE * depth)
    return found, visible


def _look_up(depth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Depth (P, N) of images (P, H, W) at points (P, N, 2), x and y in pixels; 0 outside."""
    height, width = depth.shape[1:]
    column, row = np.floor(points[..., 0]), np.floor(points[..., 1])
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pair = np.arange(len(depth))[:, None]
    row, column = np.where(inside, row, 0).astype(np.int64), np.where(inside, column, 0).astype(np.int64)
    return np.where(inside, depth[pair, row, column], 0.0)
