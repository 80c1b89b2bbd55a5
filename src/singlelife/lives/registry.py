"""The lives that the package knows by name, read from `hub_configs/lives/*.yaml`, and anyone's own recordings.

Each file there describes one data set: `defaults` for all its lives, then `lives`, a mapping of names to what differs.
"""

import dataclasses
import difflib
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from singlelife.configs import config_names, hub_configs, read_yaml
from singlelife.errors import LifeError
from singlelife.lives.simulated import SimulatedSource

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
)
KINDS = ("video", "simulated")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Life:
    """One life: where its frames come from, and how they are prepared and paired by default.

    Attributes:
        name: letters, digits, `_` and `-`; the name of its folders and, with `-` for `_`, of its Hub repository.
        kind: `"video"` (files of a recording) or `"simulated"` (rendered on demand).
        dataset: the data set that it belongs to.
        description: one line for people.
        license: of its frames.
        source: how to get it, for lives that are not simulated.
        frame_rate: frames kept per second of recording, in Hz.
        frame_size: the kept frames' shorter side, in pixels.
        train: the config in `hub_configs/train` that its training starts from.
        videos: the recording's files, in order.
        simulation: what to render.
    """

    name: str
    kind: str
    dataset: str = "own recording"
    description: str = ""
    license: str = ""
    source: str = ""
    frame_rate: float = 10.0
    frame_size: int = 256
    train: str = "tiny"
    videos: tuple[str, ...] = ()
    simulation: SimulatedSource | None = None


def life_names() -> list[str]:
    """Names of the registered lives, in the order of their files."""
    return list(_registered())


def get_life(name: str, videos: Sequence[str | Path] | None = None) -> Life:
    """The life of a name.

    Args:
        name: of a registered life, or any valid new name along with `videos`.
        videos: the recording: files, folders (searched recursively for video files, in natural order) and globs.

    Raises:
        LifeError: the name is not valid or not registered, or no video is found.
    """
    if not _NAME.fullmatch(name):
        raise LifeError(
            f"{name!r} cannot be the name of a life: use 1 to 64 letters, digits, '_' and '-', beginning with a "
            "letter or digit. (Recordings are given with --video, not in the name.)"
        )
    registered = _registered().get(name)
    if registered is None:
        if not videos:
            near = difflib.get_close_matches(name, life_names(), n=3, cutoff=0.4)
            raise LifeError(
                f"There is no life {name!r}. {'Did you mean ' + ' or '.join(near) + '? ' if near else ''}"
                f"Registered are: {', '.join(life_names())}. For a recording of your own add --video PATH."
            )
        registered = Life(name=name, kind="video", description="A recording of your own.")
    if videos:
        if registered.kind == "simulated":
            raise LifeError(f"The life {name!r} is simulated and takes no video; give your recording another name.")
        return dataclasses.replace(registered, videos=tuple(str(path) for path in find_videos(videos)))
    if registered.kind == "video" and not registered.videos:
        raise LifeError(f"The life {name!r} has no video here. {registered.source} Then add --video PATH.".strip())
    return registered


def find_videos(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` stand for, without doubles: in the order given, in natural order within each.

    Raises:
        LifeError: a path stands for nothing.
    """
    found: dict[Path, None] = {}
    for path in paths:
        path = Path(path).expanduser()
        if path.is_dir():
            inside = sorted(
                (file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()),
                key=_natural,
            )
            if not inside:
                raise LifeError(
                    f"The folder {path} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}). "
                    "Name the files themselves if theirs end in something else."
                )
        elif path.exists():
            inside = [path]
        else:
            matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
            inside = sorted(map(Path, matches), key=_natural)
            if not inside:
                raise LifeError(f"There is no video {path}: no such file or folder, and nothing matches it as a glob.")
        found.update(dict.fromkeys(inside))
    return list(found)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts clip 2 before clip 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


@cache
def _registered() -> dict[str, Life]:
    lives: dict[str, Life] = {}
    for name in config_names("lives"):
        path = hub_configs() / "lives" / f"{name}.yaml"
        content = read_yaml(path)
        unknown = sorted(set(content) - {"defaults", "lives"})
        if unknown or not isinstance(content.get("lives"), dict):
            raise LifeError(f"{path} should hold `defaults` and `lives`; found {', '.join(map(str, content))}.")
        for life, values in content["lives"].items():
            if life in lives:
                raise LifeError(f"{path} describes the life {life!r} a second time.")
            lives[life] = _life_of(path, life, (content.get("defaults") or {}) | (values or {}))
    return lives


def _life_of(path: Path, name: str, values: dict[str, Any]) -> Life:
    where = f"{path}, life {name!r}"
    types: dict[str, Any] = {"frame_rate": (int, float), "frame_size": int, "simulation": dict}
    for key, value in values.items():
        known = [field.name for field in dataclasses.fields(Life) if field.name not in ("name", "videos")]
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise LifeError(f"{where}: unknown key {key!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
        if not isinstance(value, types.get(key, str)) or isinstance(value, bool):
            raise LifeError(f"{where}: {key} cannot be {value!r}.")
    if not _NAME.fullmatch(name) or values.get("kind") not in KINDS:
        raise LifeError(f"{where}: needs a valid name and a kind ({' or '.join(KINDS)}).")
    if ("simulation" in values) != (values["kind"] == "simulated"):
        raise LifeError(f"{where}: simulated lives, and they alone, have a `simulation`.")
    if "simulation" in values:
        try:
            values = values | {"simulation": SimulatedSource(**values["simulation"])}
        except TypeError as error:
            raise LifeError(f"{where}, simulation: {error}.") from error
    return Life(name=name, **values)
