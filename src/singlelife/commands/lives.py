"""`singlelife lives`: the lives known by name, and what is here of each."""

import json
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from singlelife.errors import LifeError
from singlelife.lives.registry import (
    VIDEO_LIST,
    Life,
    known_life,
    life_names,
    own_names,
    prepared_folders,
    source_of_frames,
)
from singlelife.lives.resolve import life_reference
from singlelife.text import aligned, in_bytes

_NOTE = """\
`singlelife lives show NAME` explains one. `shuffled-NAME` is the control that has its frames in random order.
A recording of your own is a life too: `singlelife prepare NAME --video PATH`."""


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
        if self.show is not None and (reference := life_reference(self.show.life)).kind == "hub":
            from singlelife.lives.download import describe_remote_life  # torch comes along

            facts = describe_remote_life(reference.where, reference.revision)
            print(json.dumps(facts, indent=2) if self.json else aligned(list(facts.items())))
            return 0
        lives = []
        for name in [*own_names(self.cache_dir), *life_names()] if self.show is None else [self.show.life]:
            life, prepared = known_life(name, self.cache_dir), prepared_folders(name, self.cache_dir)
            lives.append((life, prepared, _state(life, prepared, self.cache_dir)))
        if self.json:
            found = [_fields(*described) for described in lives]
            print(json.dumps(found[0] if self.show else found, indent=2))
        else:
            print(_explained(*lives[0]) if self.show else f"{_listed(lives)}\n\n{_NOTE}")
        return 0


COMMAND = Command


def _state(life: Life, prepared: list[Path], cache_dir: Path | None) -> str:
    """What is here of a life, in a few words."""
    if prepared:
        return "prepared"
    if life.kind != "video":
        states = {
            part: _state(known_life(part, cache_dir), prepared_folders(part, cache_dir), cache_dir)
            for part in life.shuffle_of.split() or life.joins.split()
        }
        missing = [name for name, state in states.items() if state == "not here"]
        return f"needs {' '.join(missing)}" if missing else "made when needed"
    try:
        videos = life.local_videos()
    except LifeError:  # `get_life` says more
        return f"its {VIDEO_LIST} is wrong"
    size = in_bytes(sum(video.stat().st_size for video in videos))
    return f"{len(videos):,} video(s), {size}" if videos else "not here"


def _listed(lives: list[tuple[Life, list[Path], str]]) -> str:
    """A table with a heading for each data set."""
    rows, heading = [("NAME", "HOURS", "HERE", "")], ""
    for life, _, state in lives:
        if life.dataset != heading:
            heading = life.dataset
            rows += [("",) * 4, (f"{heading}: {life.access}" if life.access != heading else heading, "", "", "")]
        rows.append((f"  {life.name}", f"{life.hours:.2g}" if life.hours else "", state, life.description))
    width = max(len(row[0]) for row in rows if row[1] or row[2])
    return "\n".join(
        row[0] if not any(row[1:]) else f"{row[0]:<{width}}  {line}"
        for row, line in zip(rows, aligned([row[1:] for row in rows]).split("\n"), strict=True)
    )


def _folder_and_frames(life: Life) -> tuple[str | None, int]:
    """Where the videos go, if there are any (those of a shuffled life are its base's), and about how many frames."""
    source = source_of_frames(life)
    folder = None if source.kind == "simulated" or life.joins else str(source.folder)
    return folder, round(3600 * life.hours * life.frame_rate)


def _fields(life: Life, prepared: list[Path], state: str) -> dict[str, Any]:
    """The fields of a life for `--json`."""
    folder, frames = _folder_and_frames(life)
    made_from = {"videos", "prepared", "simulation", "base", "parts"}
    return {field.name: getattr(life, field.name) for field in fields(life) if field.name not in made_from} | {
        "folder": folder,
        "frames": frames,
        "repository": life.repository_name,
        "state": state,
        "prepared": list(map(str, prepared)),
    }


def _explained(life: Life, prepared: list[Path], state: str) -> str:
    folder, frames = _folder_and_frames(life)
    lines = {
        "data set": " ".join(dict.fromkeys([life.dataset, f"({life.access})", life.url])).strip(),
        "licence": life.license,
        "consent": life.consent,
        "how to get it": life.source or "It is rendered here when it is needed.",
        "download": f"about {life.download_gb:g} GB" if life.download_gb else "",
        "videos": f"{life.num_videos} in all" if life.num_videos > 1 else "",
        "where to put it": f"{folder} (or name the files with --video)" if folder else "",
        "will be made": f"frames at {life.frame_rate:g} Hz, {life.frame_size} px on the shorter side"
        + f": about {frames:,}" * bool(frames),
        "pairs": "within a video only" if life.pairs_within_video or life.joins else "",
        "poses": life.poses or "none",
        "recipe": f"hub_configs/train/{life.train}.yaml",
        "repository": f"ORGANISATION/{life.repository_name}",
        "here": ", ".join(map(str, prepared)) or state,
    }
    filler = textwrap.TextWrapper(110, subsequent_indent=" " * 19, break_long_words=False, break_on_hyphens=False)
    table = [filler.fill(f"  {name + ':':<17}{text}") for name, text in lines.items() if text]
    script = [f"  python datasets_scripts/{life.script}.py --help"] if life.script else []
    commands = [f"  singlelife prepare {life.name} --dry-run", f"  accelerate launch train.py --life {life.name}"]
    return "\n".join([f"{life.name}: {life.description}", *table, "", *script, *commands])
