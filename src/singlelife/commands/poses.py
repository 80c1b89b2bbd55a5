"""`singlelife poses`: where a life's frames were taken from, and which points they see."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from singlelife.errors import LifeError
from singlelife.lives.resolve import resolve_life


@dataclass(frozen=True)
class Command:
    """Find where each frame of a life was taken from and which points of the world it sees, and store both with the
    life. Spatial pairs need them.

    Without --from, the poses come from the folder slam beside the life's recordings (lives/NAME/slam); if there is
    none, from the life's own depth and poses; otherwise COLMAP reconstructs the frames (needs singlelife[poses]).
    Poses found before are shown, not computed again, unless their source has changed or you give another voxel size.
    """

    life: tyro.conf.Positional[str]
    """a name that `singlelife lives` lists, or a new one with --video"""
    video: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH [PATH ...]")] = ()
    """files, folders or globs of your recording"""
    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FOLDER")] = None
    """Aria MPS output, such as SLAM-and-Gaze/P01/SLAM/multi, or COLMAP models"""
    rate: float = 2.0
    """frames to reconstruct per second, over 0 Hz and up to 1000"""
    voxel_size: float = 0.0
    """side of the voxels that stand for points, in the unit of the poses; 0 keeps the size used before or, the first
    time, takes 0.1 m for Aria and an eighth of the median depth for a life with depth"""
    cache_dir: Path | None = None
    """where prepared lives are kept; by default in $SINGLELIFE_CACHE or ~/.cache/singlelife"""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1000:
            raise LifeError(f"--rate should be more than 0 Hz and up to 1000, not {self.rate:g}.")
        if not 0 <= self.voxel_size < float("inf"):
            raise LifeError(f"--voxel-size should be a number from 0, not {self.voxel_size:g}.")

    def run(self) -> int:
        life = resolve_life(self.life, videos=self.video, cache_dir=self.cache_dir)
        from singlelife.lives.scene.geometry import frames_at_rate  # slow; a wrong name has been refused above
        from singlelife.lives.scene.store import find_source, geometry_metadata, life_geometry

        source, tried = self.source, len(life)
        if source is None and geometry_metadata(life) is None and find_source(life) is None:
            from singlelife.lives.scene.colmap import reconstruct

            tried = len(frames_at_rate(life, self.rate))
            print(f"{life.name} comes without poses: reconstructing them from {tried:,} frames.", file=sys.stderr)
            source = reconstruct(life, rate=self.rate)
        geometry = life_geometry(life, source=source, voxel_size=self.voxel_size)
        metadata = geometry_metadata(life)
        assert metadata is not None
        known = geometry.component >= 0
        print(f"{life.name}: {known.sum():,} of {tried:,} frames have a pose, from {metadata['source']}, in "
              f"{metadata['components']} component(s)")  # fmt: skip
        for component in sorted(set(geometry.component[known].tolist())):
            counts = sorted(geometry.points.counts[geometry.component == component].tolist())
            median = counts[len(counts) // 2]
            print(f"  component {component}: {len(counts):,} frames, {median:,} points in the median frame")
        for number, video in enumerate(life.videos):
            if not known[life.video_index == number].any():
                print(f"  no frame of {video} has a pose")
        print(f"  kept in {life.path / 'geometry'}")
        return 0


COMMAND = Command
