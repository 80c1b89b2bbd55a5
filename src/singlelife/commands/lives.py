"""`singlelife lives`: the lives known by name, and which of them are on this machine."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from singlelife.errors import LifeError
from singlelife.lives.registry import (
    VIDEO_LIST,
    Life,
    known_life,
    life_names,
    own_names,
    prepared_folders,
)
from singlelife.text import aligned, in_bytes

_NOTE = """\
`singlelife lives show NAME` explains one. `shuffled-NAME` is a control: the same frames in random order.
A recording of your own is a life too: `singlelife prepare NAME --video PATH`."""


@dataclass(frozen=True)
class Show:
    """Explain one life: where it comes from, how to get it, where to put it, and how it will be prepared."""

    life: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """a name that `singlelife lives` lists"""


@dataclass(frozen=True)
class Command:
    """List the lives known by name, and which are on this machine; `singlelife lives show NAME` explains one."""

    show: Annotated[Show, tyro.conf.subcommand("show")] | Annotated[None, tyro.conf.subcommand("list")] = None
    cache_dir: Path | None = None
    """where prepared lives are kept; by default in $SINGLELIFE_CACHE or ~/.cache/singlelife"""

    def run(self) -> int:
        lives = []
        for name in [*own_names(self.cache_dir), *life_names()] if self.show is None else [self.show.life]:
            life, prepared = known_life(name, self.cache_dir), prepared_folders(name, self.cache_dir)
            lives.append((life, prepared, _state(life, prepared, self.cache_dir)))
        print(_explained(*lives[0]) if self.show else f"{_listed(lives)}\n\n{_NOTE}")
        return 0


COMMAND = Command


def _state(life: Life, prepared: list[Path], cache_dir: Path | None) -> str:
    """Whether a life is on this machine, in a few words."""
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
    size = in_bytes(sum(video.stat().st_size for video in videos if video.is_file()))
    return f"{len(videos):,} video(s), {size}" if videos else "not here"


def _listed(lives: list[tuple[Life, list[Path], str]]) -> str:
    """A table with a heading for each data set."""
    rows = [
        (f"  {life.name}", f"{life.hours:.2g}" if life.hours else "", state, life.description)
        for life, _, state in lives
    ]
    first, *lines = aligned([("NAME", "HOURS", "HERE", ""), *rows]).split("\n")
    shown, heading = [first], ""
    for (life, _, _), line in zip(lives, lines, strict=True):
        if life.dataset != heading:
            heading = life.dataset
            shown += ["", f"{heading}: {life.access}"]
        shown.append(line)
    return "\n".join(shown)


def _explained(life: Life, prepared: list[Path], state: str) -> str:
    frames = round(3600 * life.hours * life.frame_rate)
    source = known_life(life.shuffle_of) if life.shuffle_of else life  # a shuffled life uses another's videos
    lines = {
        "data set": " ".join(dict.fromkeys([life.dataset, f"({life.access})", life.url])).strip(),
        "licence": life.license,
        "consent": life.consent,
        "how to get it": life.source or "It is rendered here when it is needed.",
        "videos": f"{life.num_videos}" + f", about {life.download_gb:g} GB" * bool(life.download_gb)
        if life.num_videos
        else "",
        "where to put it": f"{source.folder} (or name the files with --video)" if source.kind == "video" else "",
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
    commands = [f"  singlelife prepare {life.name} --dry-run", f"  singlelife train --life {life.name}"]
    return "\n".join([f"{life.name}: {life.description}", *table, "", *script, *commands])
