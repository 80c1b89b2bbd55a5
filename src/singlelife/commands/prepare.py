"""`singlelife prepare`: make a life's dataset of frames, or say what that would take."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from singlelife.errors import LifeError
from singlelife.files import free_bytes
from singlelife.lives.registry import get_life
from singlelife.lives.resolve import life_reference, resolve_life
from singlelife.text import duration, in_bytes

if TYPE_CHECKING:
    from singlelife.lives.prepare import Plan


@dataclass(frozen=True)
class Command:
    """Turn a life's video, or its simulation, into a dataset of frames, or download one that is on the Hub.

    Training does it by itself.
    """

    life: tyro.conf.Positional[str]
    """a name that `singlelife lives` lists, a new one with --video, or ORG/NAME of a life on the Hub"""
    video: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH [PATH ...]")] = ()
    """files, folders or globs of your recording"""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """stop at a video that cannot be read"""
    workers: int | None = None
    """processes, one video each; by default as many as cores"""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """say how many frames and GB it would be, name the videos that are missing or cannot be used, and do nothing;
    the exit code is 2 if there is no room for it or nothing to use"""
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
        return 0

    def _dry_run(self) -> int:
        from singlelife.lives.prepare import plan_preparation  # `datasets` and torch come along

        if life_reference(self.life, self.video).kind != "named":
            raise LifeError(f"--dry-run takes videos and simulations, and {self.life} is prepared already.")
        plan = plan_preparation(get_life(self.life, self.video), cache_dir=self.cache_dir)
        room = free_bytes(plan.folder)
        print(_table(self.life, plan, room))
        refused = (
            plan.gives_nothing or plan.total("num_bytes") > room or (self.strict and (plan.losses or plan.mismatches))
        )
        return 2 if refused else 0


COMMAND = Command


def _table(name: str, plan: "Plan", room: int) -> str:
    """A plan for people."""
    notes = [f"  {note}" for note in (*plan.losses, *plan.mismatches)]
    if plan.is_done:
        return "\n".join([f"{name}: prepared already, {plan.num_frames_done:,} frames in {plan.folder}", *notes])
    usable = [estimate for estimate in plan.estimates if "error" not in estimate]
    unsaid = sum(not estimate["num_frames"] for estimate in usable)
    more = f"; {unsaid} do not say how long they are, and come on top of this" if unsaid else ""
    fits = "" if plan.total("num_bytes") <= room else ": not enough. Make room, or see --cache-dir"
    lines = [
        f"{name}: to be prepared",
        f"  videos   {len(usable)} of {len(plan.estimates)} can be used{more}",
        f"  length   {duration(plan.total('seconds'))}",
        f"  frames   about {plan.total('num_frames'):,}, besides {plan.num_frames_done:,} that are done",
        f"  needed   about {in_bytes(plan.total('num_bytes'))}",
        f"  free     {in_bytes(room)}{fits}",
        f"  where    {plan.folder}",
    ]
    return "\n".join(lines + notes)
