"""`singlelife lives`: the lives known by name, and what is here of each."""

import json
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from singlelife.errors import LifeError
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
    """a name that `singlelife lives` lists, or ORG/NAME of a life on the Hub"""


@dataclass(frozen=True)
class Command:
    """List the lives known by name, with what is here of each; `singlelife lives show NAME` explains one."""

    show: Annotated[Show, tyro.conf.subcommand("show")] | Annotated[None, tyro.conf.subcommand("list")] = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """print the same as JSON"""
    cache_dir: Path | None = None
    """where prepared lives are kept; by default in $SINGLELIFE_CACHE or ~/.cache/singlelife"""

    def run(self) -> int:
        if self.show is not None:
            reference = life_reference(self.show.life)
            if reference.kind == "hub":
                from singlelife.lives.download import describe_remote_life  # torch comes along

                facts = describe_remote_life(reference.where, reference.revision)
                print(json.dumps(facts, indent=2) if self.json else aligned(list(facts.items())))
                return 0
            life = registered_life(self.show.life)
            presence = _presence(life, self.cache_dir)
            print(json.dumps(_fields(life, presence), indent=2) if self.json else _explained(life, presence))
            return 0
        lives = [(life, _presence(life, self.cache_dir)) for life in map(registered_life, life_names())]
        if self.json:
            print(json.dumps([_fields(life, presence) for life, presence in lives], indent=2))
            return 0
        rows = [
            (life.name, life.dataset, life.kind, _hours(life.hours), life.place or "?", life.poses or "-",
             life.access, presence.state)
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
    videos: list[Path]
    num_bytes: int = 0


def _hours(hours: float) -> str:
    return "?" if not hours else f"{hours:.3g}" if hours >= 0.01 else "<0.01"


def _presence(life: Life, cache_dir: Path | None) -> _Presence:
    prepared = prepared_folders(life, cache_dir)
    if source_of_frames(life).kind == "simulated":
        ready = "rendered when needed" if life.kind == "simulated" else "made when needed"
        return _Presence("prepared" if prepared else ready, prepared, [])
    if made_from := life.joins.split() or [life.shuffle_of] * bool(life.shuffle_of):
        states = {name: _presence(registered_life(name), cache_dir).state for name in made_from}
        missing = [name for name, state in states.items() if state == "not here"]
        ready = f"needs {' '.join(missing)}" if missing else "made when needed"
        return _Presence("prepared" if prepared else ready, prepared, [])
    try:
        videos = life.local_videos()
    except LifeError:  # `get_life` says more
        return _Presence(f"its {VIDEO_LIST} is wrong", prepared, [])
    size = sum(video.stat().st_size for video in videos)
    there = f"videos ({len(videos):,} file{'s' * (len(videos) != 1)}, {in_bytes(size)})"
    return _Presence("prepared" if prepared else there if videos else "not here", prepared, videos, size)


def _fields(life: Life, presence: _Presence) -> dict[str, Any]:
    """The fields of a life for `--json`."""
    described = ("name", "description", "dataset", "kind", "access", "license", "consent", "frame_rate", "frame_size",
                 "pairs_within_video")  # fmt: skip
    if_known = ("hours", "place", "poses", "source", "url", "download_gb", "num_videos", "shuffle_of")
    values = asdict(life)
    frames = _num_frames(life)
    folder = _video_folder(life)
    return {name: values[name] for name in described} | {name: values[name] or None for name in if_known} | {
        "joins": life.joins.split() or None,
        "folder": str(folder) if folder else None,
        "frames": frames or None,
        "bytes": estimated_bytes(life, frames) or None,
        "recipe": life.train,
        "repository": life.repository_name,
        "state": presence.state,
        "prepared": list(map(str, presence.prepared)),
        "videos": {"files": len(presence.videos), "bytes": presence.num_bytes},
    }  # fmt: skip


def _explained(life: Life, presence: _Presence) -> str:
    frames = _num_frames(life)
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
        "will be made": made + (f": about {frames:,}, {in_bytes(estimated_bytes(life, frames))}" if frames else ""),
        "pairs": "within a video only" if life.pairs_within_video or life.joins else "",
        "poses": life.poses or "none",
        "recipe": f"hub_configs/train/{life.train}.yaml",
        "repository": f"ORGANISATION/{life.repository_name}",
        "here": ", ".join(map(str, presence.prepared)) or presence.state,
    }
    table = [_filled(f"  {name + ':':<17}", text) for name, text in lines.items() if text]
    script = [f"  python datasets_scripts/{life.script}.py --help"] if life.script else []
    commands = [
        *script,
        f"  singlelife prepare {life.name} --dry-run",
        f"  accelerate launch train.py --life {life.name}",
    ]
    return "\n".join([f"{life.name}: {life.description}", *table, "", *commands])


def _video_folder(life: Life) -> Path | None:
    """Where the videos go, if there are any; those of a shuffled life are its base's, of a joined one its parts'."""
    source = source_of_frames(life)
    return None if source.kind == "simulated" or life.joins else source.folder


def _num_frames(life: Life) -> int:
    """About how many frames a prepared life has; 0 where its length is not known."""
    return round(life.hours * 3600 * life.frame_rate)


def _filled(title: str, text: str) -> str:
    return textwrap.fill(
        title + text, 110, subsequent_indent=" " * len(title), break_long_words=False, break_on_hyphens=False
    )
