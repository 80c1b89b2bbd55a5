"""`singlelife prepare`: make a life's dataset of frames, or say what that would take."""

import argparse
from typing import TYPE_CHECKING

from singlelife.commands.options import Commands, add_cache_dir, positive
from singlelife.errors import LifeError
from singlelife.text import duration, in_bytes

if TYPE_CHECKING:
    from singlelife.lives.prepare import Plan
    from singlelife.lives.registry import Life


def add_command(commands: Commands) -> None:
    """Describe `singlelife prepare`."""
    command = commands.add_parser(
        "prepare",
        help="prepare a life without training on it",
        description="Turn a life's video, or its simulation, into a dataset of frames, or download one that is on the "
        "Hub. Training does it by itself.",
    )
    command.add_argument("life", help="a name that `singlelife lives` lists, a new one with --video, or ORG/NAME of "
                         "a life on the Hub")  # fmt: skip
    command.add_argument("--video", nargs="+", metavar="PATH", help="files, folders or globs of your recording")
    command.add_argument("--strict", action="store_true", help="stop at a video that cannot be read")
    command.add_argument(
        "--workers", type=positive, metavar="N", help="processes, one video each (default: all cores)"
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="say how many frames and GB it would be and about how long it would take, name the videos that cannot be "
        "used, and do nothing; the exit code is 2 if there is no room for it or nothing to use",
    )
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.lives.resolve import life_reference, resolve_life

    if arguments.dry_run and life_reference(arguments.life, arguments.video).kind == "named":
        return _dry_run(arguments)
    if arguments.dry_run:
        raise LifeError(f"--dry-run is of videos and simulations, and {arguments.life} is prepared already.")
    prepared = resolve_life(
        arguments.life,
        videos=arguments.video,
        cache_dir=arguments.cache_dir,
        num_workers=arguments.workers,
        strict=arguments.strict,
    )
    print(f"{prepared.name}: {len(prepared):,} frames of {len(prepared.videos)} video(s) in {prepared.path}")
    return 0


def _dry_run(arguments: argparse.Namespace) -> int:
    from singlelife.lives.prepare import plan_preparation
    from singlelife.lives.registry import get_life

    life = get_life(arguments.life, arguments.video)
    plan = plan_preparation(life, cache_dir=arguments.cache_dir, num_workers=arguments.workers)
    print(_table(life, plan))
    refused = plan.gives_nothing or not plan.fits or (arguments.strict and plan.losses)
    return 2 if refused else 0


def _table(life: "Life", plan: "Plan") -> str:
    """A plan for people."""
    if plan.is_done:
        ready = f"{life.name}: prepared already, {plan.num_frames_done:,} frames in {plan.folder}"
        return "\n".join([ready, *(f"  {loss}" for loss in plan.losses)])
    usable = [outlook for outlook in plan.outlooks if not outlook.error]
    unusable = len(plan.outlooks) - len(usable)
    unsaid = sum(not outlook.num_frames for outlook in usable)
    done = f", besides {plan.num_frames_done:,} that are done" if plan.num_frames_done else ""
    processes = f"{plan.num_workers} process{'es' if plan.num_workers > 1 else ''}"
    lines = {
        "videos": f"{len(usable)}" + (f", and {unusable} that cannot be used" if unusable else ""),
        "length": duration(sum(outlook.seconds for outlook in usable)),
        "frames": f"about {plan.num_frames:,}{done}",
        "needed": f"about {in_bytes(plan.num_bytes)}",
        "free": in_bytes(plan.free_bytes) + ("" if plan.fits else ": not enough. Make room, or see --cache-dir"),
        "time": f"about {duration(plan.seconds)}, with {processes}" if plan.seconds is not None else "not known",
        "where": str(plan.folder),
    }
    notes = [f"  {loss}" for loss in plan.losses]
    if unsaid:
        notes.append(f"  {unsaid} of the videos do not say how long they are, and come on top of this.")
    if plan.gives_nothing:
        notes.append(f"  No video of the life {life.name} can be used.")
    return "\n".join([f"{life.name}: to be prepared", *(f"  {name:<9}{text}" for name, text in lines.items()), *notes])
