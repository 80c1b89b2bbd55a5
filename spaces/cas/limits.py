"""How much of this machine a visitor may use, and the messages for requests beyond that.

Everything from outside is treated as hostile: the name of a model, its files, a picture, a video.
"""

import ctypes
import gc
import logging
import math
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from uuid import uuid4

import torch
from huggingface_hub.constants import HF_HOME

from singlelife.errors import SingleLifeError
from singlelife.lives.registry import default_cache_dir
from singlelife.machine import resident
from singlelife.text import duration

_LONGEST = 600  # characters of a message
_LESS = "Try fewer pairs or a smaller model, or run it on your own machine with `singlelife demo`."
_NO_MEMORY = f"There is not enough memory for that here right now. {_LESS}"
_TOKEN = re.compile(r"\b(hf_|api_org_)\w+|\bBearer\s+\S+", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w:/.])(?:file:/*|~/|/(?=[\w.]+/)|/tmp/|[A-Za-z]:\\)[^\s'\",;:)\]]*")

log = logging.getLogger("singlelife.space")
closing = threading.Event()  # set when the app ends: requests stop at their next step
_held: list[int] = []  # bytes for the steps that run now, of all visitors
_holding = threading.Lock()

Report = Callable[[str, float | None], None]  # what is being done, and the share of it that is done, 0 to 1


class VisitorError(SingleLifeError):
    """A visitor's request cannot be met. The message says what is wrong and what to do. It holds no path of this
    machine, no trace and no token."""


class Cancelled(VisitorError):
    """The visitor gave up, or the app is shutting down."""


@dataclass(frozen=True)
class Limits:
    """How much of this machine a visitor may use.

    An environment variable sets each field, such as SINGLELIFE_SPACE_VIDEO_SECONDS=60 for `video_seconds`. The
    defaults suit the free Space of two cores and 16 GiB.
    """

    parameters: int = 1_000_000_000
    """Parameters of a model."""
    weight_bytes: int = 4_200_000_000
    """All weight files of a model together, which is the largest download."""
    patches: int = 2_500
    """Patches of a view, rows times columns. The memory for a pair's maps grows with the square."""
    cache_bytes: int = 20_000_000_000
    """Models kept on the disk."""
    picture_bytes: int = 25_000_000
    """Size of a picture's file."""
    picture_pixels: int = 50_000_000
    """Pixels of a picture as stored."""
    picture_side: int = 20_000
    """Width and height of a picture, in pixels."""
    video_bytes: int = 64_000_000
    """Size of a video's file."""
    video_seconds: float = 120.0
    """Length of a video."""
    video_pixels: int = 3840 * 2160
    """Pixels of a frame, width times height."""
    video_side: int = 8_192
    """Width and height of a frame, in pixels."""
    request_seconds: float = 600.0
    """Time for one request: downloading its models, reading a video, and the comparison."""
    memory: int = 12_000_000_000
    """Bytes of RAM that this process may hold."""

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits set in the environment, with defaults for the others.

        Raises:
            SingleLifeError: a variable is not a number above 0.
        """
        values: dict[str, float] = {}
        for field in fields(cls):
            variable = f"SINGLELIFE_SPACE_{field.name.upper()}"
            if not (words := os.environ.get(variable)):
                continue
            try:
                value = float(words)
            except ValueError:
                value = math.nan
            if not 0 < value < math.inf:
                raise SingleLifeError(f"{variable} should be a number above 0, not {words!r}.")
            values[field.name] = int(value) if isinstance(field.default, int) else value
        return cls(**values)  # type: ignore[arg-type]


class Request:
    """One request of a visitor. It reports progress, and ends when the visitor gives up or time or memory runs out.

    Work runs in a thread, which Python cannot stop from outside. So each step calls `check`, and a request ends
    at most one batch, one chunk of a download or one loading of weights late.

    Args:
        limits: `request_seconds` counts from now.
        report: receives the progress.
        cancelled: whether the visitor has given up.
    """

    def __init__(
        self, limits: Limits, report: Report | None = None, cancelled: Callable[[], bool] | None = None
    ) -> None:
        self.limits, self._report, self._cancelled = limits, report, cancelled
        self._end = time.monotonic() + limits.request_seconds

    def tell(self, what: str, share: float | None = None) -> None:
        """Report progress, and check."""
        self.check()
        if self._report is not None:
            self._report(what, share)

    def check(self) -> None:
        """Call this between two steps of work.

        Raises:
            Cancelled: the visitor gave up, or the app is shutting down.
            VisitorError: time is up, or the process has no memory left.
        """
        if closing.is_set() or (self._cancelled is not None and self._cancelled()):
            raise Cancelled("Cancelled.")
        if time.monotonic() >= self._end:
            raise VisitorError(f"This takes longer than {duration(self.limits.request_seconds)}, the limit. {_LESS}")
        if self.room() < 0 and self.room(after_cleaning=True) < 0:
            raise VisitorError(_NO_MEMORY)

    @contextmanager
    def memory(self, more: int) -> Iterator[None]:
        """Reserve memory for a step of work, after waiting for the steps of other visitors that hold it.

        Args:
            more: bytes that the step takes at its peak.

        Raises:
            Cancelled, VisitorError: as `check`; also a VisitorError if the step would not fit even alone.
        """
        too_much = 0  # looks in a row, since memory that was freed may take a moment
        while too_much < 10:
            self.check()
            with _holding:
                alone = not _held
                if self.room() >= more + sum(_held) or (alone and self.room(after_cleaning=True) >= more):
                    _held.append(more)
                    break
            too_much = too_much + 1 if alone else 0
            time.sleep(0.1)
        else:
            raise VisitorError(_NO_MEMORY)
        try:
            yield
        finally:
            with _holding:
                _held.remove(more)

    def room(self, *, after_cleaning: bool = False) -> int:
        """Bytes that this process may still take; negative if it has taken too many."""
        if after_cleaning:
            gc.collect()
            if sys.platform == "linux":  # glibc keeps what was freed
                ctypes.CDLL(None).malloc_trim(0)
        return self.limits.memory - (resident() or 0)


@contextmanager
def memory_errors_for_visitors() -> Iterator[None]:
    """Raise a VisitorError if the system itself refuses memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises a RuntimeError
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not re.search(r"(not enough|allocate) memory", str(error)):
            raise
        raise VisitorError(_NO_MEMORY) from error


def visitor_message(error: BaseException) -> str:
    """The message that a visitor gets for an error.

    A VisitorError keeps its text. Other errors that a user can act on lose the paths of this machine, and no message
    holds a token. Any other error is a bug: the visitor gets a reference number, and the log has the traceback under
    that number.
    """
    if not isinstance(error, SingleLifeError):
        reference = uuid4().hex[:8]
        log.error("Reference %s: %s", reference, type(error).__name__, exc_info=error)
        return f"Something went wrong on our side. Try again; if it happens again, send us this number: {reference}."
    message = _without_tokens(str(error))
    if not isinstance(error, VisitorError):
        log.info("Told a visitor: %s", message)
        message = _without_paths(message)
    message = " ".join(message.split())
    return message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"


def _without_paths(message: str) -> str:
    here = {Path(__file__).resolve().parent, Path.home(), Path(HF_HOME), default_cache_dir(), Path.cwd()}
    here.add(Path(tempfile.gettempdir()))
    for folder in sorted((str(each) for each in here if len(each.parts) > 1), key=len, reverse=True):
        message = re.sub(re.escape(folder) + r"(?:/[^\s'\",;:)\]]*)?", "a file here", message)
    return _PATH.sub("a file here", message)


def _without_tokens(message: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 8 and re.search(r"TOKEN|SECRET|PASSWORD|API_?KEY", name, re.IGNORECASE):
            message = message.replace(value, "…")
    return _TOKEN.sub("…", message)
