"""What the pairs of a life look like: numbers, and a contact sheet of some pairs of each pairing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from singlelife.files import atomic_write
from singlelife.lives.pairs.overlap import overlaps_of
from singlelife.lives.pairs.pairing import Pairing
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry

_SAMPLED = 2_000  # pairs that the numbers are of
_IN_A_LINE = 6  # pairs


@dataclass(frozen=True)
class PairSample:
    """Some pairs of one pairing.

    Attributes:
        name, pairing: of which.
        indices: of the pairs, int64 (m,).
        frames: target and source, rows of the life, int64 (m, 2).
        gaps: seconds between the two, float64 (m,); NaN where they are of two videos.
        overlaps: float32 (m,); NaN where it is not known.
    """

    name: str
    pairing: Pairing
    indices: np.ndarray
    frames: np.ndarray
    gaps: np.ndarray
    overlaps: np.ndarray


def sample_pairs(
    life: PreparedLife,
    name: str,
    pairing: Pairing,
    seed: int,
    indices: np.ndarray | None = None,
    geometry: Geometry | None = None,
) -> PairSample:
    """The pairs of some indices, int64 (m,), the first 2,000 by default; with overlaps where geometry is given."""
    indices = np.arange(_SAMPLED) if indices is None else indices
    frames = pairing.pairs(seed, indices)
    target, source = frames.T
    same_video = life.video_index[target] == life.video_index[source]
    gaps = np.where(same_video, np.abs(life.timestamps[target] - life.timestamps[source]), np.nan)
    overlaps = np.full(len(frames), np.nan, dtype=np.float32)
    if geometry is not None:
        overlaps = overlaps_of(geometry.points, geometry.component, frames)
    return PairSample(name, pairing, indices, frames, gaps, overlaps)


def gap_text(seconds: float) -> str:
    """A time between two frames, for people; NaN is one between two videos."""
    if np.isnan(seconds):
        return "other video"
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def median(values: np.ndarray) -> float:
    """Of those that are known; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def draw_sheet(path: Path, life: PreparedLife, shown: Sequence[PairSample], title: str) -> None:
    """Write a contact sheet as a PNG: pairs of each pairing, target and source side by side."""
    columns = min(_IN_A_LINE, max(len(sample.frames) for sample in shown))
    lines = [-(-len(sample.frames) // columns) for sample in shown]
    figure = Figure(figsize=(3 * columns + 1, 1.6 * sum(lines) + 0.5), facecolor="white", layout="constrained")
    figure.suptitle(title, size=13, weight="bold")
    axes = figure.subplots(sum(lines), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for sample, first in zip(shown, np.cumsum([0, *lines]), strict=False):
        images = [image.permute(1, 2, 0).numpy() for image in life.decode(sample.frames.reshape(-1))]
        for number, gap, overlap, index in zip(count(), sample.gaps, sample.overlaps, sample.indices, strict=False):
            known = "" if np.isnan(overlap) else f"  ·  overlap {overlap:.2f}"
            axis = axes[first + number // columns, number % columns]
            axis.imshow(_side_by_side(*images[2 * number : 2 * number + 2]), interpolation="antialiased")
            axis.set_title(f"{sample.name}  ·  {gap_text(gap)}{known}  ·  #{index}", size=8, pad=3)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _side_by_side(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Two images (height, width, 3) as one, with a white line between."""
    white = np.full((max(len(target), len(source)), target.shape[1] + source.shape[1] + 3, 3), 255, np.uint8)
    white[: len(target), : target.shape[1]] = target
    white[: len(source), target.shape[1] + 3 :] = source
    return white
