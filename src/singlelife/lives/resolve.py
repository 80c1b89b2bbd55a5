"""The one way from what a user names to a prepared life.

What is named is, in this order:
1. with videos: a recording of one's own, whatever its name;
2. a folder that has a metadata.json: a prepared life;
3. ORG/NAME or ORG/NAME@REVISION, where there is no such folder: a data set on the Hub;
4. anything else: the name of a registered life, or of a recording in the folder of that name.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from singlelife.errors import LifeError
from singlelife.lives.registry import LIFE_NAME, Life, get_life, life_names, registered_life

if TYPE_CHECKING:
    from singlelife.lives.prepared import PreparedLife

_METADATA = "metadata.json"  # of a prepared life; prepared.py imports torch, which the command line need not wait for
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/(?P<name>[\w.-]+))(@(?P<revision>[^@]+))?", re.ASCII)


@dataclass(frozen=True)
class LifeReference:
    """What a user's words stand for.

    Attributes:
        kind: `"folder"` of a prepared life, `"hub"` or `"named"` (registered, or a recording of one's own).
        name: of the life here, and of its runs.
        where: the folder, or the data set's ORG/NAME; the name itself otherwise.
        revision: of the data set, where it is given.
    """

    kind: Literal["folder", "hub", "named"]
    name: str
    where: str
    revision: str | None = None


def life_reference(words: str, videos: Sequence[str | Path] | None = None) -> LifeReference:
    """Tell what a user's words stand for, without asking the Hub.

    Raises:
        LifeError: a path that leads to no prepared life.
    """
    path = Path(words).expanduser()
    if videos:
        return LifeReference("named", words, words)
    if (path / _METADATA).is_file():
        return LifeReference("folder", _name_of(path), str(path))
    match = _HUB_ID.fullmatch(words)
    if match and not path.exists() and match["repo"].split("/")[0].strip("."):
        return LifeReference("hub", _valid_name(match["name"]), match["repo"], match["revision"])
    if len(path.parts) > 1 or words.startswith((".", "~")):
        found = "has no " + _METADATA if path.is_dir() else "is not there"
        raise LifeError(
            f"{words} is no life: it {found}, and a path should be the folder of a prepared life. A recording of your "
            "own takes a name and --video PATH."
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
    """The prepared life that `words` stand for (see above), prepared or downloaded now if it has not been before.

    Args:
        words: a name, a folder, or ORG/NAME or ORG/NAME@REVISION of a data set on the Hub.
        videos: the recordings of a life of one's own.
        cache_dir, num_workers, strict, progress: see `prepare_life`.

    Raises:
        LifeError, HubError: there is no such life, or it cannot be prepared or downloaded.
    """
    from singlelife.lives.download import download_life  # torch comes along
    from singlelife.lives.prepare import prepare_life
    from singlelife.lives.prepared import PreparedLife

    reference = life_reference(words, videos)
    if reference.kind == "folder":
        return PreparedLife.load(reference.where)
    if reference.kind == "hub":
        revision = reference.revision
        return download_life(
            reference.where, reference.name, revision=revision, cache_dir=cache_dir, progress=progress
        )
    life = get_life(words, videos)
    return prepare_life(life, cache_dir=cache_dir, num_workers=num_workers, strict=strict, progress=progress)


def training_recipe(words: str, videos: Sequence[str | Path] | None = None) -> str:
    """The config in `hub_configs/train` that training on a life starts from.

    A folder and a data set on the Hub take that of the registered life of their name, if there is one.

    Raises:
        LifeError: there is no such life, or it is not here.
    """
    reference = life_reference(words, videos)
    if reference.kind == "named":
        return get_life(words, videos).train
    known = reference.name in life_names()
    return (registered_life(reference.name) if known else Life(reference.name, "video")).train


def _name_of(folder: Path) -> str:
    """The name that a prepared life's metadata gives, if it can be one; else that of its folder."""
    try:
        name = json.loads((folder / _METADATA).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, TypeError, KeyError):
        name = ""  # opening the life will say why
    return name if LIFE_NAME.fullmatch(str(name)) else _valid_name(folder.resolve().name)


def _valid_name(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", words).lstrip("-_")[:64] or "life"
