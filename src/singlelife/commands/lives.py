"""`singlelife lives`: the lives known by name, and what is here of each."""

import json
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from singlelife.errors import LifeError, SingleLifeError
from singlelife.lives.registry import (
    VIDEO_LIST,
    Life,
    estimated_bytes,
    life_names,
    prepared_folders,
    registered_life,
    source_of_frames,
)
from singlelife.lives.resolve import life_reference
from singlelife.text import aligned, in_bytes

_COLUMNS = ("NAME", "DATA SET", "KIND", "HOURS", "PLACE", "POSES", "ACCESS", "HERE")
_NOTE = """\
`singlelife lives show NAME` explains one. `shuffled-NAME` is the control that has its frames in random
order. A recording of your own is a life too: `singlelife train --life NAME --video PATH ...`."""


@dataclass(frozen=True)
class Show:
    """Explain one life: where it comes from, how to get it, where to put it, and what will be made from it."""

    life: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """a name that `singlelife lives` lists"""


@dataclass(frozen=True)
class Command:
    """List the lives known by name, with what is here of each; `singlelife lives show NAME` explains one."""

    show: Annotated[Show, tyro.conf.subcommand("show")] | Annotated[None, tyro.conf.subcommand("list")] = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """print the same as JSON"""
    cache_dir: Path | None = None
    """where prepared lives are kept; by default in $SINGLELIFE_CACHE or ~/.cache/singlelife"""

    def run(self) -> int:
        if self.show is not None and life_reference(self.show.life).kind == "hub":
            raise SingleLifeError(
                f"{self.show.life} is on the Hub, and only lives known by name are listed here. "
                f"`singlelife prepare {self.show.life}` downloads it."
            )
        names = life_names() if self.show is None else [self.show.life]
        lives = [(life, _presence(life, self.cache_dir)) for life in map(registered_life, names)]
        if self.json:
            found = [_fields(life, presence) for life, presence in lives]
            print(json.dumps(found[0] if self.show else found, indent=2))
        elif self.show:
            print(_explained(*lives[0]))
        else:
            rows = [
                (life.name, life.dataset, life.kind, f"{life.hours:.2g}" if life.hours else "?", life.place or "?",
                 life.poses or "-", life.access, presence.state)
                for life, presence in lives
            ]  # fmt: skip
            print(f"{aligned([_COLUMNS, *rows])}\n\n{_NOTE}")
        return 0


COMMAND = Command


@dataclass(frozen=True)
class _Presence:
    """What is here of a life: in a few words, its prepared forms, and the videos in its folder with their size."""

    state: str
    prepared: list[Path]
    num_videos: int = 0
    num_bytes: int = 0


def _presence(life: Life, cache_dir: Path | None) -> _Presence:
    prepared = prepared_folders(life, cache_dir)
    if life.kind != "video":
        made_of = [life.shuffle_of] if life.shuffle_of else life.joins.split()
        states = {name: _presence(registered_life(name), cache_dir).state for name in made_of}
        missing = [name for name, state in states.items() if state == "not here"]
        ready = f"needs {' '.join(missing)}" if missing else "made when needed"
        return _Presence("prepared" if prepared else ready, prepared)
    try:
        videos = life.local_videos()
    except LifeError:  # `get_life` says more
        return _Presence(f"its {VIDEO_LIST} is wrong", prepared)
    size = sum(video.stat().st_size for video in videos)
    there = f"{len(videos):,} video(s), {in_bytes(size)}" if videos else "not here"
    return _Presence("prepared" if prepared else there, prepared, len(videos), size)


def _fields(life: Life, presence: _Presence) -> dict[str, Any]:
    """The fields of a life for `--json`."""
    frames, folder = round(3600 * life.hours * life.frame_rate), _video_folder(life)
    made_from = {"videos", "simulation", "base", "parts"}
    return {field.name: getattr(life, field.name) for field in fields(life) if field.name not in made_from} | {
        "folder": folder,
        "frames": frames,
        "bytes": estimated_bytes(life, frames),
        "repository": life.repository_name,
        "state": presence.state,
        "prepared": list(map(str, presence.prepared)),
        "videos": {"files": presence.num_videos, "bytes": presence.num_bytes},
    }


def _explained(life: Life, presence: _Presence) -> str:
    frames, folder = round(3600 * life.hours * life.frame_rate), _video_folder(life)
    size = f": about {frames:,}, {in_bytes(estimated_bytes(life, frames))}" if frames else ""
    lines = {
        "data set": f"{life.dataset} ({life.access}) {life.url}".strip(),
        "licence": life.license,
        "consent": life.consent,
        "how to get it": life.source or "It is rendered here when it is needed.",
        "download": f"about {life.download_gb:g} GB" if life.download_gb else "",
        "videos": f"{life.num_videos} in all" if life.num_videos > 1 else "",
        "where to put it": f"{folder} (or name the files with --video)" if folder else "",
        "will be made": f"frames at {life.frame_rate:g} Hz, {life.frame_size} px on the shorter side{size}",
        "pairs": "within a video only" if life.pairs_within_video or life.joins else "",
        "poses": life.poses or "none",
        "recipe": f"hub_configs/train/{life.train}.yaml",
        "repository": f"ORGANISATION/{life.repository_name}",
        "here": ", ".join(map(str, presence.prepared)) or presence.state,
    }
    filler = textwrap.TextWrapper(110, subsequent_indent=" " * 19, break_long_words=False, break_on_hyphens=False)
    table = [filler.fill(f"  {name + ':':<17}{text}") for name, text in lines.items() if text]
    script = [f"  python datasets_scripts/{life.script}.py --help"] if life.script else []
    commands = [f"  singlelife prepare {life.name} --dry-run", f"  accelerate launch train.py --life {life.name}"]
    return "\n".join([f"{life.name}: {life.description}", *table, "", *script, *commands])


def _video_folder(life: Life) -> str | None:
    """Where the videos go, if there are any; those of a shuffled life are its base's, of a joined one its parts'."""
    source = source_of_frames(life)
    return None if source.kind == "simulated" or life.joins else str(source.folder)
