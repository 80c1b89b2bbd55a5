"""`singlelife lives`: the lives known by name, and what is here of each."""

import argparse
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singlelife.commands.options import Commands, add_cache_dir, aligned
from singlelife.errors import LifeError, SingleLifeError
from singlelife.text import in_bytes

if TYPE_CHECKING:
    from singlelife.lives.registry import Life

_BYTES_PER_PIXEL = {"video": 0.25, "simulated": 0.5}  # of a JPEG of quality 92, about


def add_command(commands: Commands) -> None:
    """Describe `singlelife lives`."""
    command = commands.add_parser(
        "lives",
        help="list the lives known by name, or explain one",
        description="List the lives known by name, with what is here of each; `singlelife lives show NAME` explains "
        "one: where it comes from, how to get it, where to put it, what will be made of it.",
    )
    command.add_argument("show", nargs="?", choices=("show",), help="explain the life NAME")
    command.add_argument("life", nargs="?", metavar="NAME", help="a name that `singlelife lives` lists")
    command.add_argument("--json", action="store_true", help="print the same as JSON")
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.lives.registry import life_names, registered_life
    from singlelife.lives.resolve import life_reference

    if arguments.show and not arguments.life:
        raise SingleLifeError("`singlelife lives show` needs the name of a life; `singlelife lives` lists them.")
    if arguments.show and life_reference(arguments.life).kind == "hub":
        raise SingleLifeError(f"{arguments.life} is on the Hub; `singlelife peek {arguments.life}` looks at it.")
    if arguments.show:
        life = registered_life(arguments.life)
        presence = _presence(life, arguments.cache_dir)
        print(json.dumps(_fields(life, presence), indent=2) if arguments.json else _explained(life, presence))
        return 0
    lives = [(life, _presence(life, arguments.cache_dir)) for life in map(registered_life, life_names())]
    if arguments.json:
        print(json.dumps([_fields(life, presence) for life, presence in lives], indent=2))
        return 0
    columns = ("NAME", "DATA SET", "KIND", "HOURS", "PLACE", "POSES", "ACCESS", "HERE")
    rows = [
        (life.name, life.dataset, life.kind, _hours(life.hours), life.place or "?",
         life.poses or "-", life.access, presence.state)
        for life, presence in lives
    ]  # fmt: skip
    print(aligned([columns, *rows]))
    print("\n`singlelife lives show NAME` explains one. `shuffled-NAME` is the control that has its frames in random")
    print("order. A recording of your own is a life too: `singlelife train --life NAME --video PATH ...`.")
    return 0


@dataclass(frozen=True)
class _Presence:
    """What is here of a life: in a few words, its prepared forms, and the videos in its folder with their size."""

    state: str
    prepared: list[Path]
    videos: list[Path]
    num_bytes: int = 0


def _hours(hours: float) -> str:
    return "?" if not hours else f"{hours:.3g}" if hours >= 0.01 else "<0.01"


def _presence(life: "Life", cache_dir: Path | None) -> _Presence:
    from singlelife.lives.dataset_cli import shown
    from singlelife.lives.prepare import prepared_folders
    from singlelife.lives.registry import VIDEO_LIST, registered_life

    prepared = prepared_folders(life, cache_dir)
    if life.kind == "simulated" or (life.kind == "joined" and _source_of_frames(life).kind == "simulated"):
        return _Presence("prepared" if prepared else "rendered when needed", prepared, [])
    if life.kind == "shuffled":
        base = _presence(registered_life(life.shuffle_of), cache_dir)
        ready = "made when needed" if base.state != "not here" else f"needs {life.shuffle_of}"
        return _Presence("prepared" if prepared else ready, prepared, [])
    if life.kind == "joined":
        states = [_presence(registered_life(name), cache_dir).state for name in life.joins.split()]
        missing = [name for name, state in zip(life.joins.split(), states, strict=True) if state == "not here"]
        return _Presence("prepared" if prepared else f"needs {' '.join(missing)}" if missing else "made when needed",
                         prepared, [])  # fmt: skip
    try:
        videos = life.local_videos()
    except LifeError:  # `get_life` says more
        return _Presence(f"its {VIDEO_LIST} is wrong", prepared, [])
    size = sum(video.stat().st_size for video in videos)
    there = f"videos ({shown(len(videos), 'file')}, {in_bytes(size)})"
    return _Presence("prepared" if prepared else there if videos else "not here", prepared, videos, size)


def _fields(life: "Life", presence: _Presence) -> dict[str, Any]:
    """What `--json` says of a life."""
    frames, size = _to_be_made(life)
    return {
        "name": life.name,
        "description": life.description,
        "dataset": life.dataset,
        "kind": life.kind,
        "hours": life.hours or None,
        "place": life.place or None,
        "poses": life.poses or None,
        "access": life.access,
        "license": life.license,
        "consent": life.consent,
        "source": life.source or None,
        "url": life.url or None,
        "download_gb": life.download_gb or None,
        "num_videos": life.num_videos or None,
        "pairs_within_video": life.pairs_within_video,
        "shuffle_of": life.shuffle_of or None,
        "joins": life.joins.split() or None,
        "folder": str(folder) if (folder := _video_folder(life)) else None,
        "frame_rate": life.frame_rate,
        "frame_size": life.frame_size,
        "frames": frames or None,
        "bytes": size or None,
        "recipe": life.train,
        "repository": life.repository_name,
        "state": presence.state,
        "prepared": list(map(str, presence.prepared)),
        "videos": {"files": len(presence.videos), "bytes": presence.num_bytes},
    }


def _explained(life: "Life", presence: _Presence) -> str:

    frames, size = _to_be_made(life)
    made = f"frames at {life.frame_rate:g} Hz, {life.frame_size} px on the shorter side"
    folder = _video_folder(life)
    lines = {
        "data set": f"{life.dataset} ({life.access}){f', {life.url}' if life.url else ''}",
        "licence": life.license,
        "consent": life.consent,
        "how to get it": life.source or "It is rendered here when it is needed.",
        "download": f"about {life.download_gb:g} GB" if life.download_gb else "",
        "videos": f"{life.num_videos} in all" if life.num_videos > 1 else "",
        "where to put it": f"{folder} (or name the files with --video)" if folder else "",
        "will be made": made + (f": about {frames:,}, {in_bytes(size)}" if frames else ""),
        "pairs": "within a video only" if life.pairs_within_video or life.joins else "",
        "poses": life.poses or "none",
        "recipe": f"hub_configs/train/{life.train}.yaml",
        "repository": f"ORGANISATION/{life.repository_name}",
        "here": ", ".join(map(str, presence.prepared)) or presence.state,
    }
    table = [_filled(f"  {name + ':':<17}", text) for name, text in lines.items() if text]
    check = [f"  python datasets_scripts/{life.script}.py {life.name}"] if life.script else []
    commands = [*check, f"  singlelife prepare {life.name}", f"  accelerate launch train.py --life {life.name}"]
    return "\n".join([f"{life.name}: {life.description}", *table, "", *commands])


def _video_folder(life: "Life") -> Path | None:
    """Where the videos go, if there are any; those of a shuffled life are its base's, of a joined one its parts'."""
    source = _source_of_frames(life)
    return None if source.kind == "simulated" or life.joins else source.folder


def _source_of_frames(life: "Life") -> "Life":
    from singlelife.lives.registry import registered_life

    first = life.shuffle_of or life.joins.partition(" ")[0]
    return _source_of_frames(registered_life(first)) if first else life


def _to_be_made(life: "Life") -> tuple[int, int]:
    """About how many frames and bytes a prepared life has; 0 where its length is not known."""
    frames = round(life.hours * 3600 * life.frame_rate)
    kind = _source_of_frames(life).kind
    width = life.frame_size * (16 / 9 if kind == "video" else 1)
    return frames, round(frames * width * life.frame_size * _BYTES_PER_PIXEL[kind])


def _filled(title: str, text: str) -> str:
    return textwrap.fill(
        title + text, 110, subsequent_indent=" " * len(title), break_long_words=False, break_on_hyphens=False
    )
