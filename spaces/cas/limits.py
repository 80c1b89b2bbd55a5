"""What a visitor may ask of this machine, and what a visitor is told when it is too much.

Whatever comes from outside is taken for hostile: the name of a model, its files, a picture, a video.
"""

import gc
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from uuid import uuid4

import torch
from huggingface_hub.constants import HF_HOME

from singlelife.errors import SingleLifeError
from singlelife.lives.prepare import default_cache_dir
from singlelife.machine import resident
from singlelife.text import duration, in_bytes

_PREFIX = "SINGLELIFE_SPACE_"  # begins the environment variable of each limit
_LONGEST_MESSAGE = 600  # characters
_TOKEN = re.compile(r"\b(hf_|api_org_)\w+|\bBearer\s+\S+", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w:/.])(?:file:/*|~/|/(?=[\w.]+/)|/tmp/|[A-Za-z]:\\)[^\s'\",;:)\]]*")

log = logging.getLogger("singlelife.space")


class VisitorError(SingleLifeError):
    """What a visitor asked for cannot be done. The message is for the visitor: what is wrong and what to do, with no
    path of this machine, no trace and no token in it."""


class Cancelled(VisitorError):
    """The visitor has given up."""


@dataclass(frozen=True)
class Limits:
    """How much of this machine a visitor may take.

    Each is set by the environment variable SINGLELIFE_SPACE_ and its name in capitals, such as
    SINGLELIFE_SPACE_VIDEO_SECONDS=60. The defaults are for the free Space of two cores and 16 GiB.

    Attributes:
        parameters: of a model.
        weight_bytes: of all weights' files of a model; float32 at `parameters`, and as much as is ever downloaded.
        patches: of a view, rows times columns; the maps of a pair grow with its square.
        download_seconds: until a model is there, waiting for others included.
        stall_seconds: for which the Hub may be silent; also the longest that a cancel takes in a download.
        cache_bytes: of models that are kept on the disk.
        picture_bytes, picture_pixels: of a picture that is uploaded, as it is stored.
        video_bytes, video_seconds: of a video that is uploaded.
        video_pixels: of a frame of it, width times height.
        video_pairs: of pairs that are drawn from it.
        video_work_seconds: for which it may be decoded.
        request_seconds: for one request, from its start.
        memory: bytes that this process may hold in RAM while it works for visitors.
    """

    parameters: int = 1_000_000_000
    weight_bytes: int = 4_200_000_000
    patches: int = 2_500
    download_seconds: float = 600.0
    stall_seconds: float = 15.0
    cache_bytes: int = 20_000_000_000
    picture_bytes: int = 25_000_000
    picture_pixels: int = 50_000_000
    video_bytes: int = 64_000_000
    video_seconds: float = 120.0
    video_pixels: int = 3840 * 2160
    video_pairs: int = 32
    video_work_seconds: float = 120.0
    request_seconds: float = 900.0
    memory: int = 12_000_000_000

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits that the environment sets, and the defaults for the others.

        Raises:
            SingleLifeError: a variable is no number above 0.
        """
        values: dict[str, float] = {}
        for field in fields(cls):
            variable = _PREFIX + field.name.upper()
            said = os.environ.get(variable)
            if not said:
                continue
            try:
                value = float(said.replace("_", ""))
            except ValueError:
                value = math.nan
            if not 0 < value < math.inf:
                raise SingleLifeError(f"{variable} should be a number above 0, not {said!r}.")
            values[field.name] = int(value) if isinstance(field.default, int) else value
        return cls(**values)  # type: ignore[arg-type]


class Deadline:
    """A time by which a request has to be done; see [`deadline`]."""

    def __init__(self, seconds: float):
        self.seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, not below 0."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Call it between any two steps of work.

        Raises:
            VisitorError: the time is over.
        """
        if time.monotonic() >= self._end:
            raise VisitorError(
                f"This takes longer than the {duration(self.seconds)} that a request may take here. Try fewer pairs "
                "or a smaller model, or run it on your own machine with `singlelife demo`."
            )


@contextmanager
def deadline(seconds: float) -> Iterator[Deadline]:
    """A request that may take so many seconds.

        with deadline(limits.request_seconds) as clock, memory_guard(limits) as memory:
            for batch in batches:
                clock.check()
                memory.check()
                ...

    Work runs in a thread, which Python cannot stop from outside: what bounds it are the calls of `check`, here and
    from the callbacks `progress` and `cancelled` of `open_model`. A request so ends within one batch, one chunk of a
    download or one loading of weights after its time. Nothing is kept outside the object that is yielded, so that it
    works across the steps of a generator, which gradio runs in different threads.
    """
    clock = Deadline(seconds)
    clock.check()
    yield clock


class MemoryGuard:
    """What this process may hold in RAM; see [`memory_guard`]."""

    def __init__(self, limits: Limits):
        self._most = limits.memory

    def check(self, more: int = 0) -> None:
        """Call it between any two steps of work, and before one that takes much.

        Args:
            more: bytes that are to be taken now.

        Raises:
            VisitorError: there is no room for it.
        """
        if self._over(more):
            gc.collect()
            if self._over(more):
                log.warning("At %s of %s of memory", in_bytes(resident() or 0), in_bytes(self._most))
                raise VisitorError(
                    "There is not enough memory for that here right now. Try again in a minute, with fewer pairs or a "
                    "smaller model, or run it on your own machine with `singlelife demo`."
                )

    def _over(self, more: int) -> bool:
        return (resident() or 0) + more > self._most


@contextmanager
def memory_guard(limits: Limits) -> Iterator[MemoryGuard]:
    """A request that may not bring this process over `limits.memory`.

    What is bounded is the whole process, all visitors together, at the start and wherever `check` is called; memory
    that a single step takes between two checks is not. Where the system itself refuses memory inside the block, that
    too becomes a VisitorError. On a system without /proc, only the latter is left.

    Raises:
        VisitorError: the process is there already.
    """
    guard = MemoryGuard(limits)
    guard.check()
    try:
        yield guard
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory() from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "allocate memory" not in str(error):
            raise
        raise _out_of_memory() from error


def visitor_message(error: BaseException) -> str:
    """What to tell a visitor of any error.

    A VisitorError is told as it is, with what the visitor typed in it. Other errors that a user can act on are told
    without paths and folders of this machine. No message has a token. Of any other error, which is a defect of ours,
    there is a reference number, under which the log has its traceback.
    """
    if isinstance(error, VisitorError):
        return _in_a_line(_without_tokens(str(error)))
    if isinstance(error, SingleLifeError):
        log.info("Told a visitor: %s", _without_tokens(str(error)))
        return _without_secrets(str(error))
    reference = uuid4().hex[:8]
    log.error("Reference %s: %s", reference, type(error).__name__, exc_info=error)
    return (
        "Something went wrong on our side. Try again; if it happens again, tell us what you did and this number: "
        f"{reference}."
    )


def _out_of_memory() -> VisitorError:
    return VisitorError("The memory was not enough for that. Try fewer pairs, or a smaller model.")


def _without_secrets(message: str) -> str:
    message = _without_tokens(message)
    here = {Path(__file__).resolve().parent, Path.home(), Path(HF_HOME), default_cache_dir(), Path.cwd()}
    here.add(Path(tempfile.gettempdir()))
    for folder in sorted((str(each) for each in here if len(each.parts) > 1), key=len, reverse=True):
        message = re.sub(re.escape(folder) + r"(?:/[^\s'\",;:)\]]*)?", "a file here", message)
    return _in_a_line(_PATH.sub("a file here", message))


def _in_a_line(message: str) -> str:
    message = " ".join(message.split())
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"


def _without_tokens(message: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 8 and re.search(r"TOKEN|SECRET|PASSWORD|API_?KEY", name, re.IGNORECASE):
            message = message.replace(value, "…")
    return _TOKEN.sub("…", message)
