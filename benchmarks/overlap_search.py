"""How long the search for overlapping frames takes on a week at home, and how much memory.

    python benchmarks/overlap_search.py
    python benchmarks/overlap_search.py --frames 20000 --threads 1 --json overlap.json

The week is made up, with the structure of a real one: 30 hours at a frame a second, spent in ten rooms, some far more
than others, each entered again and again for up to half an hour; in a room the person looks from one of tens of view
points for up to a minute and a half, never twice from quite the same. Each frame sees 300 points: 285 of the room's
8,000, those in view of its view point but for one in ten that the tracker loses, and 15 that only last for moments.

Brute force compares the same frames' sets of points two by two, on as many frames as `--sample` says, before and after
the search. Both must find the same pairs there, to the last bit. Its time is scaled up to all frames.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from singlelife.lives.pairs.overlap import PairTable, find_overlaps
from singlelife.lives.scene.geometry import VisiblePoints

_ROOMS, _VIEW_POINTS, _ROOM_POINTS = 10, 40, 8_000
_LONGEST_VISIT, _LONGEST_LOOK = 1_800, 90  # seconds, as frames come once a second
_SEEN, _PASSING = 0.9, 0.05  # share of the points in view that a frame sees; of its points that last for moments
_SPREAD = 25.0  # of a view point from one look to the next: standard deviation, in points


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    points = week_at_home(arguments.frames, arguments.points, np.random.default_rng(arguments.seed))
    settings = {"min_overlap": arguments.min_overlap, "max_overlap": arguments.max_overlap}
    sample = subset(points, np.linspace(0, len(points) - 1, min(arguments.sample, len(points))).astype(np.int64))

    brute_seconds = [time_brute_force(sample, **settings)]
    start = time.perf_counter()
    table = find_overlaps(
        points,
        np.zeros(len(points), dtype=np.int64),
        **settings,
        max_neighbours=arguments.max_neighbours,
        progress=True,
    )
    seconds = time.perf_counter() - start
    brute_seconds.append(time_brute_force(sample, **settings))

    comparisons = len(points) * (len(points) - 1) / (len(sample) * (len(sample) - 1))
    brute_force = statistics.median(brute_seconds) * comparisons
    results = {
        "frames": len(points),
        "points_per_frame": arguments.points,
        "points": len(np.unique(points.ids)),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        **settings,
        "max_neighbours": arguments.max_neighbours,
        "seconds": seconds,
        "frames_per_second": len(points) / seconds,
        "peak_gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "pairs_in_range": table.num_in_range,
        "pairs_above_range": table.num_above,
        "pairs_kept": len(table),
        "sample": len(sample),
        "brute_force_seconds": brute_force,
        "speedup": brute_force / seconds,
    }
    print(summary(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=108_000, help="length of the week")
    parser.add_argument("--points", type=int, default=300, help="points that each frame sees")
    parser.add_argument("--min-overlap", type=float, default=0.2, help="of a pair")
    parser.add_argument("--max-overlap", type=float, default=0.7, help="of a pair")
    parser.add_argument("--max-neighbours", type=int, default=100, help="sources to keep of each target")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--sample", type=int, default=600, help="frames that brute force compares")
    parser.add_argument("--seed", type=int, default=0, help="of the week")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def week_at_home(num_frames: int, num_points: int, rng: np.random.Generator) -> VisiblePoints:
    """The points that each frame of a made-up week sees. Those of a room stand in a ring around the person."""
    popularity = 1 / np.arange(1, _ROOMS + 1)
    room, view_point = np.empty(num_frames, np.int64), np.empty(num_frames, np.int64)
    start = leave = 0
    here = 0
    while start < num_frames:
        if start >= leave:
            here, leave = rng.choice(_ROOMS, p=popularity / popularity.sum()), start + rng.integers(60, _LONGEST_VISIT)
        stop = start + int(rng.integers(5, _LONGEST_LOOK))
        room[start:stop], view_point[start:stop] = here, rng.integers(_VIEW_POINTS)
        start = stop

    in_view, passing = int(num_points / _SEEN), int(_PASSING * num_points)
    left = (view_point * _ROOM_POINTS // _VIEW_POINTS + rng.normal(0, _SPREAD, num_frames)).astype(np.int64)
    ids = np.empty((num_frames, num_points), dtype=np.int64)
    for start in range(0, num_frames, 4096):  # so as not to need much more memory than the result
        stop = min(num_frames, start + 4096)
        lasting = some_of(in_view, num_points - passing, stop - start, rng)
        ids[start:stop, passing:] = room[start:stop, None] * _ROOM_POINTS + (left[start:stop, None] + lasting) % (
            _ROOM_POINTS
        )
        moment = np.arange(start, stop)[:, None] // 10
        ids[start:stop, :passing] = _ROOMS * _ROOM_POINTS + moment * 2 * passing
        ids[start:stop, :passing] += some_of(2 * passing, passing, stop - start, rng)
    ids.sort(axis=1)
    return VisiblePoints(np.arange(num_frames + 1, dtype=np.int64) * num_points, ids.ravel())


def some_of(total: int, count: int, times: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different numbers below `total`, drawn `times` times, int64 (times, count)."""
    return np.argsort(rng.random((times, total), dtype=np.float32), axis=1)[:, :count]


def subset(points: VisiblePoints, rows: np.ndarray) -> VisiblePoints:
    """The points of some frames."""
    return VisiblePoints.from_frames([points[row] for row in rows])


def time_brute_force(points: VisiblePoints, min_overlap: float, max_overlap: float) -> float:
    """Seconds to compare all frames with all, and the proof that the search finds the same."""
    start = time.perf_counter()
    frames = [frozenset(points[row].tolist()) for row in range(len(points))]
    found = {}
    for first, seen in enumerate(frames):
        for second in range(first):
            common = len(seen & frames[second])
            overlap = np.float32(common) / np.float32(len(seen) + len(frames[second]) - common)
            if np.float32(min_overlap) <= overlap <= np.float32(max_overlap):
                found[first, second] = found[second, first] = overlap
    seconds = time.perf_counter() - start
    searched = find_overlaps(
        points,
        np.zeros(len(points), dtype=np.int64),
        min_overlap=min_overlap,
        max_overlap=max_overlap,
        max_neighbours=len(points),
    )
    if as_dict(searched) != found:
        sys.exit("The search and brute force disagree.")
    return seconds


def as_dict(table: PairTable) -> dict[tuple[int, int], np.float32]:
    """The overlaps of a table by target and source."""
    return dict(zip(zip(table.target.tolist(), table.source.tolist(), strict=True), table.overlap, strict=True))


def summary(results: dict[str, Any]) -> str:
    """The numbers for people."""
    per_frame = results["pairs_in_range"] / results["frames"]
    lines = {
        "week": f"{results['frames']:,} frames × {results['points_per_frame']} points ({results['points']:,} in all)",
        "search": f"{results['seconds']:.1f} s, {results['frames_per_second']:,.0f} frames/s, "
        f"{results['threads']} threads, torch {results['torch']}",
        "peak memory": f"{results['peak_gibibytes']:.2f} GiB, the week itself and torch included",
        "partners in range": f"{per_frame:,.0f} of each frame, of overlap {results['min_overlap']:g} to "
        f"{results['max_overlap']:g}; {results['pairs_above_range'] / results['frames']:,.0f} above",
        "pairs kept": f"{results['pairs_kept']:,}, at most {results['max_neighbours']} sources of each target",
        "brute force": f"{results['brute_force_seconds'] / 3600:.1f} hours, from {results['sample']} frames; "
        "the same pairs there",
        "speed-up": f"{results['speedup']:,.0f}×",
    }
    return "\n".join(f"{name:<20}{value}" for name, value in lines.items())


if __name__ == "__main__":
    main()
