"""`singlelife prepare`: make a life's dataset of frames, or estimate its size first."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from singlelife.errors import LifeError
from singlelife.files import free_bytes
from singlelife.lives.registry import default_cache_dir, get_life
from singlelife.lives.resolve import life_reference, resolve_life
from singlelife.text import duration, in_bytes


@dataclass(frozen=True)
class Command:
    """Turn a life's video, or its simulation, into a dataset of frames, or download one from the Hub.

    Training does this by itself if needed.
    """

    life: tyro.conf.Positional[str]
    """a name that `singlelife lives` lists, a new one with --video, or ORG/NAME of a life on the Hub"""
    video: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH [PATH ...]")] = ()
    """files, folders or globs of your recording"""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """stop at a video that cannot be read"""
    workers: int | None = None
    """processes, one video each; by default one per core"""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """only estimate the number of frames and GB, and name the videos that are missing or cannot be used; the exit code
    is 2 if there is too little room or no usable video"""
    cache_dir: Path | None = None
    """where prepared lives are kept; by default in $SINGLELIFE_CACHE or ~/.cache/singlelife"""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise LifeError(f"--workers should be at least 1, not {self.workers}.")

    def run(self) -> int:
        if self.dry_run:
            return self._dry_run()
        prepared = resolve_life(
            self.life, videos=self.video, cache_dir=self.cache_dir, num_workers=self.workers, strict=self.strict
        )
        print(f"{prepared.name}: {len(prepared):,} frames of {len(prepared.videos)} video(s) in {prepared.path}")
        from singlelife.lives.pairs.motion import measure_motion  # torch is imported by now

        print(f"{prepared.name}: {measure_motion(prepared)}")
        return 0

    def _dry_run(self) -> int:
        named = life_reference(self.life, self.video).kind == "named"
        life = get_life(self.life, self.video, self.cache_dir) if named else None
        if life is None or life.prepared:
            raise LifeError(f"--dry-run is for videos and simulations; {self.life} is prepared already.")
        from singlelife.lives.prepare import losses, plan_preparation, remarks  # imports `datasets` and torch

        estimates = plan_preparation(life)
        usable = [estimate for estimate in estimates if "error" not in estimate]
        unsaid = sum(not estimate["num_frames"] for estimate in usable)
        seconds, num_frames, num_bytes = (
            sum(estimate[what] for estimate in usable) for what in ("seconds", "num_frames", "num_bytes")
        )
        room = free_bytes(self.cache_dir or default_cache_dir())
        wrong = [*losses(estimates), *life.mismatches([estimate["video"] for estimate in estimates])]
        more = f"; {unsaid} do not give their length, and come on top of this" if unsaid else ""
        print(f"{life.name}, before anything is prepared")
        print(f"  videos   {len(usable)} of {len(estimates)} can be used{more}")
        print(f"  length   {duration(seconds)}")
        print(f"  frames   about {num_frames:,}")
        print(f"  needed   about {in_bytes(num_bytes)}")
        print(f"  free     {in_bytes(room)}{': not enough. Make room, or see --cache-dir' * (num_bytes > room)}")
        print("\n".join(f"  {each}" for each in [*wrong, *remarks({"videos": usable})]))
        return 2 if not usable or num_bytes > room or (self.strict and wrong) else 0


COMMAND = Command
