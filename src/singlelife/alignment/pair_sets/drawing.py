"""Drawing pairs of views from lives: a moment apart, or balanced over bins of overlap or of time."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.alignment.pair_sets.storage import PairGeometry
from singlelife.alignment.settings import ONE_FRAME, PairSetConfig
from singlelife.errors import LifeError, PairSetError
from singlelife.lives.pairs.dataset import center_crop_box, crop_and_resize, random_crop_box
from singlelife.lives.pairs.overlap import overlaps_of, stored_pair_table
from singlelife.lives.pairs.pairing import PairSettings, TemporalPairing, bin_of
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry, median_depths
from singlelife.lives.scene.store import geometry_metadata, life_geometry, stored_geometry

DEFAULT_BINS = {"overlap": (0.1, 0.3, 0.5, 0.7), "gap": (0.1, 0.3, 1.0, 3.0)}  # edges; gaps are in seconds

_CUT = 0.55  # side of a cut, as a share of the side of the frame's square
_AREAS = {"zoomed": (0.3, 0.7), "shifted": (_CUT**2, _CUT**2)}  # of the frame's square
_LEAST_TURN = np.deg2rad(4)  # a camera that turns this far counts as moving at any distance
_TRIES = 16  # draws for each pair wanted in a bin of gaps
_MANY_FRAMES = 100_000  # longer lives are searched for overlapping frames at one a second


def make_pair_set(
    life: PreparedLife,
    *,
    views: str = "plain",
    num_pairs: int = 384,
    seed: int = 0,
    image_size: int = 64,
    rows: np.ndarray | None = None,
) -> PairSet:
    """Draw pairs of views from frames of a life that are 2 to 8 frames apart. The same arguments give the same pairs.

    If the life has poses, the camera moved between the frames of a pair: see `PairSetConfig.min_baseline`.

    Args:
        views, num_pairs, seed, image_size: see [`PairSetConfig`].
        rows: the rows of the life to draw from, sorted int64; all by default.

    Raises:
        PairSetError: an argument is out of range, or there are too few such pairs.
    """
    config = PairSetConfig("none", None, num_pairs, views, image_size, seed)  # type: ignore[arg-type]
    return make_balanced_pair_set([life], config, rows=[rows])


def make_balanced_pair_set(
    lives: Sequence[PreparedLife],
    config: PairSetConfig | None = None,
    *,
    rows: Sequence[np.ndarray | None] | None = None,
    progress: bool = False,
    **settings: Any,
) -> PairSet:
    """Draw the same number of distinct pairs from each life and each bin. The same arguments give the same pairs.

    Args:
        lives: prepared lives, at least one.
        config, settings: a configuration, and fields of it to replace.
        rows: the rows of each life to draw from; all by default, or for a life with None.
        progress: show progress bars on stderr.

    Raises:
        PairSetError: a setting is out of range, or a bin of a life has too few pairs.
    """
    config = replace(config or PairSetConfig(), **settings)
    fingerprints = {life.metadata["fingerprint"] for life in lives}
    if not lives or len(fingerprints) < len(lives):
        raise PairSetError("Name at least one life, and each life once: all get the same number of pairs.")
    by = "none" if config.views in ONE_FRAME else config.by
    geometries = _geometries(lives, by, progress) if by in (None, "overlap") else None
    by = by or ("gap" if geometries is None else "overlap")
    edges = list(DEFAULT_BINS.get(by, ()) if config.bins is None else config.bins)
    usable = [None] * len(lives) if rows is None else list(rows)
    drawn = []
    for number, wanted in enumerate(_shares(config.num_pairs, len(lives))):
        drawn_here: list[np.ndarray] = []
        life, rows_here, shares = lives[number], usable[number], _shares(wanted, max(1, len(edges) - 1))
        if by == "none":
            drawn.append(_moment_apart(life, wanted, config, rows_here))
            continue
        geometry = geometries[number] if geometries else None
        if geometry is not None:
            candidates = _by_overlap(life, geometry, edges, config.seed, rows_here, progress)
        else:
            candidates = _by_gap(life, edges, shares, config.seed, rows_here)
        for which, (frames, share) in enumerate(zip(candidates, shares, strict=True)):
            _, first = np.unique(np.sort(frames, axis=1), axis=0, return_index=True)  # in either order
            # The life's own depth is more exact than the voxels made from it.
            own = (geometry_metadata(life) or {}).get("source") == "depth"
            frames = _moving(life, frames[np.sort(first)], config.min_baseline, share, None if own else geometry)
            if len(frames) < share:
                raise PairSetError(
                    f"The life {life.name} has too few pairs with {by} {edges[which]:g} to {edges[which + 1]:g} in "
                    f"which the camera moves: {share} are needed and {len(frames)} were found. Lower --num-pairs or "
                    "--min-baseline, choose other --bins, or take a longer life."
                )
            drawn_here.append(frames)
        drawn.append(np.concatenate(drawn_here))
    if config.views in ONE_FRAME:
        drawn = [frames[:, [0, 0]] for frames in drawn]
    described: dict[str, Any] = {name: getattr(config, name) for name in ("views", "seed", "min_baseline")}
    described |= {"by": by} | ({"bins": edges} if edges else {})
    return _cut_out(lives, drawn, usable, config, described, progress)


def _shares(total: int, parts: int) -> list[int]:
    """Split `total` into parts that differ by at most one, larger parts first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _geometries(lives: Sequence[PreparedLife], by: str | None, progress: bool) -> list[Geometry] | None:
    """The geometry of every life; None if one has none and overlap was not asked for."""
    try:
        return [life_geometry(life, progress=progress) for life in lives]
    except LifeError as error:
        if by == "overlap":
            raise PairSetError(f"Pairs cannot be balanced by overlap: {error}") from error
        if progress:
            print(f"Overlaps are not known, so pairs are balanced by the time between them: {error}", file=sys.stderr)
        return None


def _moment_apart(life: PreparedLife, num_pairs: int, config: PairSetConfig, rows: np.ndarray | None) -> np.ndarray:
    """Pairs of frames a short time apart between which the camera moved, int64 (num_pairs, 2)."""
    step = 1 / life.metadata["frame_rate"]
    try:
        pairing = TemporalPairing(life.timestamps, life.video_index, 2 * step, 8 * step, rows)
    except LifeError as error:
        raise PairSetError(f"No pairs can be drawn from the life {life.name}: {error}") from error
    drawn = _moving(life, pairing.pairs(config.seed, np.arange(num_pairs * 8)), config.min_baseline, num_pairs)
    if len(drawn) < num_pairs:
        raise PairSetError(
            f"The camera of the life {life.name} hardly moves: of {8 * num_pairs} pairs, only {len(drawn)} show "
            "motion. Alignment cannot be measured on a still camera; choose another life."
        )
    return drawn


def _by_gap(
    life: PreparedLife, edges: list[float], shares: list[int], seed: int, rows: np.ndarray | None
) -> list[np.ndarray]:
    """Pairs of each bin, int64 (n, 2), from enough draws to find its share almost surely."""
    candidates = []
    for number, wanted in enumerate(shares):
        least, most = edges[number : number + 2]
        try:
            pairing = TemporalPairing(life.timestamps, life.video_index, least, most, rows)
            frames = pairing.pairs(seed, np.arange(wanted * _TRIES) + number * 2**32)
        except LifeError:
            frames = np.zeros((0, 2), dtype=np.int64)
        gaps = np.abs(np.diff(life.timestamps[frames], axis=1)[:, 0])
        candidates.append(frames[bin_of(gaps, edges) == number])  # its upper edge belongs to the next bin
    return candidates


def _by_overlap(
    life: PreparedLife, geometry: Geometry, edges: list[float], seed: int, rows: np.ndarray | None, progress: bool
) -> list[np.ndarray]:
    """All pairs of each bin, int64 (n, 2), shuffled.

    Even a still camera has pairs of any overlap, since the points found from its depth flicker.
    """
    rate = 1.0 if len(life) > _MANY_FRAMES else 0.0
    settings = PairSettings(min_overlap=edges[0], max_overlap=edges[-1], spatial_rate=rate)
    table = stored_pair_table(life, geometry, settings, progress=progress)
    usable = np.zeros(len(life), dtype=bool)
    usable[slice(None) if rows is None else rows] = True
    kept = usable[table.target] & usable[table.source]
    if life.metadata.get("pairs_within_video", False):
        kept &= life.video_index[table.target] == life.video_index[table.source]
    frames = np.stack([table.target[kept], table.source[kept]], axis=1).astype(np.int64)
    which = bin_of(table.overlap[kept], edges)
    bins = (frames[which == number] for number in range(len(edges) - 1))
    return [each[np.random.default_rng([seed, number]).permutation(len(each))] for number, each in enumerate(bins)]


def _moving(
    life: PreparedLife, frames: np.ndarray, min_baseline: float, most: int, geometry: Geometry | None = None
) -> np.ndarray:
    """The first `most` of the pairs (n, 2) between which the camera moved (see `PairSetConfig.min_baseline`). A pair
    whose motion is not known counts as moving."""
    if min_baseline == 0 or (geometry is None and "pose" not in life.dataset.column_names):
        return frames[:most]
    moving = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(frames), step := 2 * most):  # in parts, to read depth for no more frames than needed
        part = frames[start : start + step]
        poses = life.poses(part.reshape(-1)) if geometry is None else geometry.poses[part.reshape(-1)]
        assert poses is not None
        target, source = poses.reshape(-1, 2, 4, 4).transpose(1, 0, 2, 3)
        baseline = np.linalg.norm(target[:, :3, 3] - source[:, :3, 3], axis=1)
        cosine = np.einsum("pi,pi->p", target[:, :3, 2], source[:, :3, 2])  # between the view directions
        near = baseline < min_baseline * median_depths(life, part[:, 0], geometry)
        moving.append(part[~near | (cosine <= np.cos(_LEAST_TURN))])
        if sum(map(len, moving)) >= most:
            break
    return np.concatenate(moving)[:most]


def _cut_out(
    lives: Sequence[PreparedLife],
    drawn: Sequence[np.ndarray],
    usable: Sequence[np.ndarray | None],
    config: PairSetConfig,
    described: dict[str, Any],
    progress: bool,
) -> PairSet:
    """Cut the pair set from the frames drawn from each life, int64 (n, 2), decoding one frame at a time."""
    pairs, size, count = list(zip(lives, drawn, strict=True)), config.image_size, sum(map(len, drawn))
    cut = np.empty((2, count, 3, size, size), dtype=np.uint8)
    boxes = np.zeros((count, 2, 4), dtype=np.int64)
    generator = np.random.default_rng([config.seed, count])
    images = (image for life, frames in pairs for image in life.iter_decode(frames.ravel()))
    place: float | None = None
    for number, image in enumerate(tqdm(images, "Cutting out views", 2 * count, disable=not progress)):
        height, width = image.shape[-2:]
        pair, view = divmod(number, 2)
        if view == 0:
            place = None
        if config.views == "even":
            if view == 0:
                boxes[pair] = _even_boxes(generator, height, width)
            top, left, rows, columns = boxes[pair, view].tolist()
            box = (top, left, rows, columns)
        elif config.views in _AREAS:
            if place is None and height != width:
                place = generator.random()  # of the square in a wide frame that holds both cuts, as in training
            box = random_crop_box(generator, height, width, _AREAS[config.views], (1.0, 1.0), place)
        else:
            box = center_crop_box(height, width)
        boxes[pair, view] = box
        # NumPy separates the channels ten times as fast as torch does on a busy machine.
        cut[view, pair] = crop_and_resize(image, box, size).numpy()
    described["lives"] = [
        {"name": life.name, "fingerprint": life.metadata["fingerprint"], "license": life.metadata["license"]}
        | ({"hub": life.metadata["hub"]} if "hub" in life.metadata else {})
        | ({} if rows is None else {"frames_used": len(rows)})
        for life, rows in zip(lives, usable, strict=True)
    ]
    timestamps = np.concatenate([life.timestamps[frames] for life, frames in pairs])
    videos = np.concatenate([life.video_index[frames] for life, frames in pairs])
    described["life"] = [number for number, frames in enumerate(drawn) for _ in frames]
    described["frames"] = np.concatenate(drawn).tolist()
    described["timestamps"] = timestamps.tolist()
    names = (life.videos for life, frames in pairs for _ in frames)
    described["videos"] = [[of_life[video] for video in pair] for of_life, pair in zip(names, videos, strict=True)]
    overlaps = []
    for life, frames in pairs:
        geometry = stored_geometry(life)
        overlaps.append(np.full(len(frames), np.nan, dtype=np.float32))  # if the life has no points
        if geometry is not None:
            overlaps[-1] = overlaps_of(geometry.points, geometry.component, frames)
    overlap = np.concatenate(overlaps)
    return PairSet(
        name=f"{'+'.join(life.name for life in lives)}/{config.views}",
        target=torch.from_numpy(cut[0]),
        source=torch.from_numpy(cut[1]),
        provenance=described,
        _boxes=boxes,
        _geometry=None if config.views in ONE_FRAME else _geometry(pairs),
        _same_frame=config.views in ONE_FRAME,
        gap=np.where(videos[:, 0] == videos[:, 1], np.abs(timestamps[:, 0] - timestamps[:, 1]), np.nan),
        overlap=None if np.isnan(overlap).all() else overlap,
    )


def _even_boxes(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two cuts of a frame, int64 (2, 4), the second shifted by up to a quarter of a cut.

    All shifts are equally likely, and the first cut leaves room for all of them.
    """
    side = int(_CUT * min(height, width))
    most = side // 4
    corner = np.array([generator.integers(most, length - side - most + 1) for length in (height, width)])
    shifted = corner + generator.integers(-most, most + 1, 2)
    return np.array([[*corner, side, side], [*shifted, side, side]])


def _geometry(pairs: Sequence[tuple[PreparedLife, np.ndarray]]) -> PairGeometry | None:
    depth: list[tuple[bytes, bytes] | None] = []
    scales, poses, intrinsics = [], [], []
    for life, frames in pairs:
        rows, count = frames.ravel(), len(frames)
        images, cameras, lenses = life.encoded_depth(rows), life.poses(rows), life.intrinsics(rows)
        if images is None or cameras is None or lenses is None:
            depth += [None] * count
            scales.append(np.full(count, np.nan))
            cameras, lenses = np.full((2 * count, 4, 4), np.nan), np.full((2 * count, 4), np.nan)
        else:
            depth += list(zip(images[0::2], images[1::2], strict=True))
            scales.append(np.full(count, float(life.metadata["depth_scale"])))
        poses.append(cameras.reshape(-1, 2, 4, 4))
        intrinsics.append(lenses.reshape(-1, 2, 4))
    if not any(depth):
        return None
    return PairGeometry(depth, np.concatenate(scales), np.concatenate(poses), np.concatenate(intrinsics))
