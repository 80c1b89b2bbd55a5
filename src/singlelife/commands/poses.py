"""`singlelife poses`: where a life's frames were taken from, and which points they see."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from singlelife.errors import LifeError
from singlelife.lives.resolve import resolve_life
from singlelife.lives.scene.geometry import GeometrySettings, frames_at_rate

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife
    from singlelife.lives.scene.geometry import Geometry


@dataclass(frozen=True)
class Command:
    """Find where each frame of a life was taken from and which points of the world it sees, and keep that beside the
    life. Spatial pairs are drawn from it.

    Without --from, it takes what lies in the folder slam of the life's recordings (lives/NAME/slam), else the life's
    own depth and poses, else it reconstructs the frames with COLMAP (needs singlelife[poses]). What was made before
    is shown, not made again, unless its source has changed or other settings are given.
    """

    life: tyro.conf.Positional[str]
    """a name that `singlelife lives` lists, or a new one with --video"""
    video: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH [PATH ...]")] = ()
    """files, folders or globs of your recording"""
    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FOLDER")] = None
    """Aria MPS output, such as SLAM-and-Gaze/P01/SLAM/multi, or COLMAP models"""
    rate: float = 2.0
    """frames to reconstruct per second, over 0 Hz and up to 1000"""
    settings: GeometrySettings = field(default_factory=GeometrySettings)
    cache_dir: Path | None = None
    """where prepared lives are kept; by default in $SINGLELIFE_CACHE or ~/.cache/singlelife"""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1000:
            raise LifeError(f"--rate should be more than 0 Hz and up to 1000, not {self.rate:g}.")

    def run(self) -> int:
        from singlelife.lives.scene.store import find_source, geometry_metadata, life_geometry

        life = resolve_life(self.life, videos=self.video, cache_dir=self.cache_dir)
        metadata = geometry_metadata(life)
        source, tried = self.source, 0
        if source is None and metadata is None and find_source(life) is None:
            from singlelife.lives.scene.sfm import reconstruct

            tried = len(frames_at_rate(life, self.rate))
            print(f"No poses are given with {life.name}: reconstructing them from {tried:,} frames.", file=sys.stderr)
            source = reconstruct(life, rate=self.rate)
        settings = None if self.settings == GeometrySettings() else self.settings  # None: those of before
        geometry = life_geometry(life, source=source, settings=settings)
        metadata = geometry_metadata(life)
        assert metadata is not None
        known = int((geometry.component >= 0).sum())
        if tried:
            print(f"{life.name}: {known:,} of the {tried:,} frames tried could be placed")
        print(f"{life.name}: {known:,} of {len(life):,} frames have a pose, from {metadata['source']}, in "
              f"{metadata['components']} component(s)")  # fmt: skip
        _print_components(life, geometry)
        print(f"  kept in {life.path / 'geometry'}")
        if known * 2 < tried:
            print(
                "warning: most frames could not be placed. COLMAP needs texture and a camera that moves sideways; a "
                "steady drive ahead, turning on the spot and blur give it nothing. Another --rate may do better.",
                file=sys.stderr,
            )
        return 0


COMMAND = Command


def _print_components(life: "PreparedLife", geometry: "Geometry") -> None:
    known = geometry.component >= 0
    for component in sorted(set(geometry.component[known].tolist())):
        mine = geometry.component == component
        counts = sorted(geometry.points.counts[mine].tolist())
        print(
            f"  component {component}: {mine.sum():,} frames, {counts[len(counts) // 2]:,} points in the median frame"
        )
    for number, video in enumerate(life.videos):
        if not known[life.video_index == number].any():
            print(f"  no frame of {video} has a pose")
