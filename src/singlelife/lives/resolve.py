"""The one way from what a user names to a prepared life.

The first rule that applies decides:
1. with videos: the name of the user's own recording;
2. a folder that has a metadata.json: a prepared life;
3. ORG/NAME or ORG/NAME@REVISION, unless there is such a folder: a data set on the Hub;
4. anything else: the name of a registered life, of a recording in the folder with that name, or of a life that was
   prepared here before (the newest, if there are several prepared forms).
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from singlelife.errors import LifeError
from singlelife.lives.registry import (
    LIFE_NAME,
    METADATA,
    Life,
    get_life,
    life_names,
    prepared_folders,
    registered_life,
)

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/(?P<name>[\w.-]+))(@(?P<revision>[^@]+))?", re.ASCII)


@dataclass(frozen=True)
class LifeReference:
    """What a user's words refer to."""

    kind: Literal["folder", "hub", "named"]
    """a prepared life, a data set on the Hub, or a life that is registered or the user's own"""
    name: str
    """the name of the life here, and of its runs"""
    where: str
    """the folder, or the data set's ORG/NAME; the name itself otherwise"""
    revision: str | None = None
    """the data set's revision, if given"""


def life_reference(words: str, videos: Sequence[str | Path] | None = None) -> LifeReference:
    """What a user's words refer to, without asking the Hub.

    Raises:
        LifeError: the words are a path, but not of a prepared life.
    """
    path = Path(words).expanduser()
    if videos:
        return LifeReference("named", words, words)
    if (path / METADATA).is_file():
        return LifeReference("folder", _name_of(path), str(path))
    match = _HUB_ID.fullmatch(words)
    if match and not path.exists() and match["repo"].split("/")[0].strip("."):
        return LifeReference("hub", _valid_name(match["name"]), match["repo"], match["revision"])
    if len(path.parts) > 1 or words.startswith((".", "~")):
        found = "has no " + METADATA if path.is_dir() else "does not exist"
        raise LifeError(
            f"{words} is not a life: it {found}. A path should be the folder of a prepared life. A recording of your "
            "own needs a name and --video PATH."
        )
    return LifeReference("named", words, words)


def resolve_life(
    words: str,
    *,
    videos: Sequence[str | Path] | None = None,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> "PreparedLife":
    """The prepared life that `words` refer to (see above), prepared or downloaded now unless it is here already.

    Args:
        words: a name, a folder, or ORG/NAME or ORG/NAME@REVISION of a data set on the Hub.
        videos: the recordings of the user's own life.
        cache_dir, num_workers, strict, progress: see `prepare_life`.

    Raises:
        LifeError, HubError: there is no such life, or it cannot be prepared or downloaded.
    """
    reference = life_reference(words, videos)
    life = get_life(words, videos, cache_dir) if reference.kind == "named" else None
    from singlelife.lives.prepare import prepare_life  # imports torch; wrong names fail before
    from singlelife.lives.prepared import PreparedLife

    if life is not None:
        if taken := (life.base or life).prepared:
            _say_which(taken, prepared_folders((life.base or life).name, cache_dir))
        return prepare_life(life, cache_dir=cache_dir, num_workers=num_workers, strict=strict, progress=progress)
    if reference.kind == "folder":
        return PreparedLife.load(reference.where)
    from singlelife.lives.hub import download_life

    revision = reference.revision
    return download_life(reference.where, reference.name, revision=revision, cache_dir=cache_dir, progress=progress)


def _say_which(taken: Path, folders: Sequence[Path]) -> None:
    """Print on stderr which of several prepared forms of a life is used, and how to choose another."""
    if len(folders) < 2:
        return
    print(
        f"The life {taken.name[:-13]} was prepared {len(folders)} times, from different videos or settings. Using the "
        f"newest, {taken.name}. To use another, pass its folder instead of the name:",
        file=sys.stderr,
    )
    for folder in folders:
        about = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        print(f"  {folder}  {about['num_frames']:,} frames of {len(about['videos'])} video(s)", file=sys.stderr)


def check_names(words: Iterable[str], cache_dir: str | Path | None = None) -> None:
    """Refuse a plain name of no life. Unlike opening a life, this does not load torch.

    Raises:
        LifeError: a plain name, neither a path nor ORG/NAME, is unknown.
    """
    for word in words:
        name = word.removesuffix("/held-out")
        if LIFE_NAME.fullmatch(name) and not Path(word).exists():
            get_life(name, cache_dir=cache_dir)


def training_recipe(
    words: str, videos: Sequence[str | Path] | None = None, cache_dir: str | Path | None = None
) -> str:
    """The config in `hub_configs/train` that training on a life starts from.

    A folder or a data set on the Hub takes the config of the registered life with the same name, if there is one.

    Raises:
        LifeError: there is no such life, or it is not here.
    """
    reference = life_reference(words, videos)
    if reference.kind == "named":
        return get_life(words, videos, cache_dir).train
    known = reference.name in life_names()
    return (registered_life(reference.name) if known else Life(reference.name)).train


def _name_of(folder: Path) -> str:
    """The name in a prepared life's metadata, or its folder's name if that is not valid."""
    try:
        name = json.loads((folder / METADATA).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, TypeError, KeyError):
        name = ""  # opening the life will say why
    return name if LIFE_NAME.fullmatch(str(name)) else _valid_name(folder.resolve().name)


def _valid_name(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", words).lstrip("-_")[:64] or "life"
