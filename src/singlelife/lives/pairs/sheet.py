"""What the pairs of a life look like: numbers, and a contact sheet of some pairs of each pairing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from singlelife.files import atomic_write
from singlelife.lives.pairs.overlap import overlaps_of
from singlelife.lives.pairs.pairing import PAIRINGS, Pairing
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene.geometry import Geometry

_SAMPLED = 2_000  # pairs that the numbers and histograms are of
_IN_A_LINE = 6  # pairs
_INK, _FAINT = "#222222", "#8a8a8a"
_COLORS = dict(zip(PAIRINGS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f"), strict=False))

# In inches: of one frame's height, of what stands between, and of the histograms.
_FRAME, _BETWEEN, _CAPTION, _HEADING, _MARGIN, _HISTOGRAM = 1.15, 0.22, 0.42, 0.52, 0.35, 1.9


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
    first = life.decode(shown[0].frames[:1, 0])[0]
    frame_width = _FRAME * first.shape[-1] / first.shape[-2]
    columns = min(_IN_A_LINE, max(len(sample.frames) for sample in shown))
    line = _FRAME + _CAPTION
    width = max(2 * _MARGIN + columns * (2 * frame_width + _BETWEEN) - _BETWEEN, 8.0)
    lines = [-(-len(sample.frames) // columns) for sample in shown]
    height = 0.75 + sum(_HEADING + count * line for count in lines) + _HISTOGRAM + 0.85
    figure = Figure(figsize=(width, height), facecolor="white")
    canvas = FigureCanvasAgg(figure)

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    def write(left: float, bottom: float, text: str, size: float, color: str = _INK, weight: str = "normal") -> float:
        """Write text on a line `bottom` inches below the top, and say where it ends."""
        written = figure.text(left / width, 1 - bottom / height, text, size=size, color=color, weight=weight)
        return written.get_window_extent(canvas.get_renderer()).x1 / figure.dpi

    write(_MARGIN, 0.42, title, 13, weight="bold")
    top = 0.75
    for sample in shown:
        end = write(_MARGIN, top + 0.28, sample.name, 11.5, _COLORS.get(sample.name, _INK), "bold")
        write(end + 0.12, top + 0.28, _about(sample.pairing), 9, _FAINT)
        top += _HEADING - 0.12
        images = life.decode(sample.frames.reshape(-1))
        for number in range(len(sample.frames)):
            left = _MARGIN + number % columns * (2 * frame_width + _BETWEEN)
            above = top + number // columns * line
            for side in range(2):
                axis = place(left + side * (frame_width + 0.03), above, frame_width, _FRAME)
                axis.imshow(images[2 * number + side].permute(1, 2, 0).numpy(), interpolation="antialiased")
                axis.set_axis_off()
            write(left, above + _FRAME + 0.16, _caption(sample, number), 8)
        top += -(-len(sample.frames) // columns) * line + 0.12
    half = (width - 2 * _MARGIN - 1.4) / 2
    apart = [sample for sample in sampled if sample.name != "augmented"] or sampled  # its one bar dwarfs all
    _gap_histogram(place(_MARGIN + 0.6, top + 0.25, half, _HISTOGRAM), apart)
    _overlap_histogram(place(_MARGIN + 1.4 + half, top + 0.25, half, _HISTOGRAM), apart)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _about(pairing: Pairing) -> str:
    """The pairing's settings: what it says of itself after its name."""
    return str(pairing).partition(" ")[2].removeprefix("of ")


def _caption(sample: PairSample, number: int) -> str:
    overlap = sample.overlaps[number]
    known = "" if np.isnan(overlap) else f"  ·  overlap {overlap:.2f}"
    return f"{gap_text(sample.gaps[number])}{known}  ·  #{sample.indices[number]}"


def _gap_histogram(axis: Axes, samples: Sequence[PairSample]) -> None:
    _plain(axis, "time between the two frames", "share of the pairs")
    gaps = np.array([gap for sample in samples for gap in sample.gaps if gap > 0])
    if len(gaps) == 0:
        axis.text(0.5, 0.5, "no two frames of one video", ha="center", color=_FAINT, transform=axis.transAxes)
        return
    edges = np.geomspace(gaps.min() * 0.9, gaps.max() * 1.1, 32)
    for sample in samples:
        counts, _ = np.histogram(sample.gaps[sample.gaps > 0], edges)
        across = np.isnan(sample.gaps).mean()
        others = f" ({across:.0%} of two videos)" if across else ""
        if counts.any():
            _steps(axis, edges, counts / len(sample.gaps), sample.name, others)
    axis.set_xscale("log")
    ticks = [0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 86400]
    shown = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    axis.set_xticks(shown, [gap_text(tick) if tick != 60 else "1 min" for tick in shown], minor=False)
    axis.set_xticks([], minor=True)
    axis.legend(frameon=False, fontsize=8)


def _overlap_histogram(axis: Axes, samples: Sequence[PairSample]) -> None:
    _plain(axis, "overlap: visible points in common over those of either", "share of the pairs")
    known = [sample for sample in samples if not np.isnan(sample.overlaps).all()]
    if not known:
        axis.text(0.5, 0.5, "no poses, so not known", ha="center", color=_FAINT, transform=axis.transAxes)
        return
    edges, tallest = np.linspace(0, 1, 41), 0.0
    for sample in known:
        shares = np.histogram(sample.overlaps, edges)[0] / len(sample.overlaps)
        nothing = (sample.overlaps == 0).mean()
        _steps(axis, edges, shares, sample.name, f" ({nothing:.0%} see nothing in common)" if nothing > 0.05 else "")
        tallest = max(tallest, shares[1:].max())
    axis.set(xlim=(0, 1), ylim=(0, 1.15 * tallest or 1))
    axis.legend(frameon=False, fontsize=8)


def _steps(axis: Axes, edges: np.ndarray, shares: np.ndarray, name: str, others: str) -> None:
    color = _COLORS.get(name, _INK)
    axis.stairs(shares, edges, color=color, fill=True, alpha=0.12)
    axis.stairs(shares, edges, color=color, linewidth=1.6, label=f"{name}{others}")


def _plain(axis: Axes, below: str, beside: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_FAINT)
    axis.tick_params(colors=_INK, labelsize=8, length=3)
    axis.set_xlabel(below, fontsize=9, color=_INK)
    axis.set_ylabel(beside, fontsize=9, color=_INK)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
