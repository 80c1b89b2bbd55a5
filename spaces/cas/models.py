"""The models of visitors: named by anybody, looked at from afar, fetched within limits, and opened without trust."""

from collections.abc import Callable, Sequence
from pathlib import Path

from limits import Limits

from singlelife.alignment.attention import AttentionMapProvider

Progress = Callable[[str, float | None], None]


def embedded_models() -> dict[str, Path]:
    """The models that come with the Space, by name; each is a folder in `models`."""
    folder = Path(__file__).resolve().parent / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def open_model(
    name: str,
    revision: str | None = None,
    *,
    limits: Limits,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    local: bool = False,
    layers: Sequence[int] | None = None,
    method: str | None = None,
) -> AttentionMapProvider:
    """A model that a visitor names, on the CPU.

    Args:
        name: a Hub id, ORG/NAME; the name of an embedded model; `untrained:MODEL` or `untrained:MODEL@SEED` for fresh
            weights of a preset or of an embedded model's architecture; and, only if `local`, a folder.
        revision: a branch, tag or commit on the Hub; its main branch by default.
        progress: is told what is done, in a few words, and the share of it that is done, 0 to 1, or None.
        cancelled: whether the visitor has given up; asked often.
        local: the visitor is the owner of this machine, and may open folders.
        layers, method: as of [`singlelife.alignment.attention.load_model`].

    Raises:
        VisitorError: whatever is wrong.
    """
    raise NotImplementedError


def search_models(text: str, limit: int = 10) -> list[str]:
    """Hub ids of models that can be compared, for what has been typed so far: those of lives first.

    Empty where nothing is found, or the Hub does not answer within a few seconds.
    """
    raise NotImplementedError
