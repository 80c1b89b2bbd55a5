"""What the pairs of a life look like: numbers, and a contact sheet of some pairs of each pairing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from singlelife.files import atomic_write
from singlelife.lives.pairs.overlap import overlaps_of
from singlelife.lives.pairs.pairing import PAIRINGS, Pairing
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry

_SAMPLED = 2_000  # pairs that the numbers and histograms are of
_IN_A_LINE = 6  # pairs
_INK, _FAINT = "#222222", "#8a8a8a"
_COLORS = dict(zip(PAIRINGS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f"), strict=False))

# Heights in inches, and the space between pairs.
_TITLE, _HEADING, _FRAME, _CAPTION, _HISTOGRAM = 0.45, 0.3, 1.15, 0.3, 2.6
_BETWEEN = 0.3


@dataclass(frozen=True)
class PairSample:
    """Some pairs of one pairing.

    Attributes:
        name: of the pairing.
        pairing: itself.
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
    """The pairs of some indices; the first 2,000 by default.

    Args:
        life: the prepared life.
        name, pairing: which pairing of it.
        seed: of the pairs.
        indices: int64 (m,).
        geometry: of the life, for overlaps.
    """
    indices = np.arange(_SAMPLED) if indices is None else indices
    frames = pairing.pairs(seed, indices)
    target, source = frames[:, 0], frames[:, 1]
    gaps = np.abs(life.timestamps[target] - life.timestamps[source])
    gaps[life.video_index[target] != life.video_index[source]] = np.nan
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


def draw_sheet(
    path: Path,
    life: PreparedLife,
    shown: Sequence[PairSample],
    sampled: Sequence[PairSample],
    title: str,
) -> None:
    """Write a contact sheet as a PNG: pairs of each pairing, target and source side by side, then histograms.

    Args:
        path: of the PNG.
        life: the prepared life.
        shown: the pairs to show, of one pairing or more.
        sampled: pairs of the same pairings, for the histograms of gaps and overlaps.
        title: of the sheet.
    """
    columns = min(_IN_A_LINE, max(len(sample.frames) for sample in shown))
    lines = [-(-len(sample.frames) // columns) for sample in shown]
    height, width = life.decode(shown[0].frames[:1, 0])[0].shape[-2:]
    heights = [_TITLE, *(_HEADING + count * (_FRAME + _CAPTION) for count in lines), _HISTOGRAM]
    size = (max(columns * (2 * _FRAME * width / height + _BETWEEN), 8.0), sum(heights))
    figure = Figure(figsize=size, facecolor="white")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    parts[0].suptitle(title, size=13, weight="bold", y=0.7)
    for part, sample, count in zip(parts[1:], shown, lines, strict=False):
        about = str(sample.pairing).partition(" ")[2].removeprefix("of ")
        part.suptitle(f"{sample.name}  {about}", size=10, color=_COLORS.get(sample.name, _INK))
        top = 1 - (_HEADING + _CAPTION) / (_HEADING + count * (_FRAME + _CAPTION))
        axes = part.subplots(
            count, columns, squeeze=False,
            gridspec_kw={"left": 0.02, "right": 0.98, "bottom": 0, "top": top, "hspace": _CAPTION / _FRAME},
        ).ravel()  # fmt: skip
        images = [image.permute(1, 2, 0).numpy() for image in life.decode(sample.frames.reshape(-1))]
        for number, axis in enumerate(axes):
            axis.set_axis_off()
            if number < len(sample.frames):
                axis.imshow(_side_by_side(*images[2 * number : 2 * number + 2]), interpolation="antialiased")
                axis.set_title(_caption(sample, number), size=8, pad=3)
    apart = [sample for sample in sampled if sample.name != "augmented"] or sampled  # its one bar dwarfs all
    gaps, overlaps = parts[-1].subplots(1, 2, gridspec_kw={"left": 0.1, "right": 0.98, "bottom": 0.25, "wspace": 0.25})
    _gap_histogram(gaps, apart)
    _overlap_histogram(overlaps, apart)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _side_by_side(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Two images (height, width, 3) as one, with a white line between."""
    white = np.full((max(len(target), len(source)), target.shape[1] + source.shape[1] + 3, 3), 255, np.uint8)
    white[: len(target), : target.shape[1]] = target
    white[: len(source), target.shape[1] + 3 :] = source
    return white


def _caption(sample: PairSample, number: int) -> str:
    overlap = sample.overlaps[number]
    known = "" if np.isnan(overlap) else f"  ·  overlap {overlap:.2f}"
    return f"{gap_text(sample.gaps[number])}{known}  ·  #{sample.indices[number]}"


def _gap_histogram(axis: Axes, samples: Sequence[PairSample]) -> None:
    gaps = np.array([gap for sample in samples for gap in sample.gaps if gap > 0])
    edges = np.geomspace(gaps.min() * 0.9, gaps.max() * 1.1, 32) if len(gaps) else np.array([0.1, 1.0])
    names = {}
    for sample in samples:
        across = np.isnan(sample.gaps).mean()
        names[f"{sample.name} ({across:.0%} of two videos)" if across else sample.name] = sample, sample.gaps
    _histogram(axis, names, edges, "time between the two frames", "no two frames of one video")
    axis.set_xscale("log")
    ticks = [0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 86400]
    shown = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    axis.set_xticks(shown, [gap_text(tick) if tick != 60 else "1 min" for tick in shown], minor=False)
    axis.set_xticks([], minor=True)


def _overlap_histogram(axis: Axes, samples: Sequence[PairSample]) -> None:
    names = {}
    for sample in samples:
        nothing = (sample.overlaps == 0).mean()  # its bar would dwarf all
        label = f"{sample.name} ({nothing:.0%} see nothing in common)" if nothing > 0.05 else sample.name
        names[label] = sample, np.where(sample.overlaps == 0, np.nan, sample.overlaps)
    _histogram(axis, names, np.linspace(0, 1, 41), "overlap: visible points in common over those of either",
               "no poses, so not known")  # fmt: skip


def _histogram(
    axis: Axes, named: dict[str, tuple[PairSample, np.ndarray]], edges: np.ndarray, below: str, nothing: str
) -> None:
    """Shares of each sample's values, NaN left out; `nothing` where there is no value."""
    for name, (sample, values) in named.items():
        counts, _ = np.histogram(values[~np.isnan(values)], edges)
        if counts.any():
            color = _COLORS.get(sample.name, _INK)
            axis.stairs(counts / len(values), edges, color=color, fill=True, alpha=0.12)
            axis.stairs(counts / len(values), edges, color=color, linewidth=1.6, label=name)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)
    else:
        axis.text(0.5, 0.5, nothing, ha="center", color=_FAINT, transform=axis.transAxes)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel(below, fontsize=9)
    axis.set_ylabel("share of the pairs", fontsize=9)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
