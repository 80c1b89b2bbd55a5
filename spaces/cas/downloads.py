"""Files of models on the Hub: a process that can be ended fetches them within limits; a capped folder keeps them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from limits import Request, VisitorError

from singlelife.errors import HubError
from singlelife.files import atomic_dir, free_bytes, remove_dir
from singlelife.hub.pull import is_commit
from singlelife.text import in_bytes

_SLACK = 1 << 20  # bytes that the client itself writes next to the files


@dataclass(frozen=True)
class Remote:
    """What the Hub says about a model.

    Attributes:
        repo_id: ORG/NAME.
        commit: its SHA-1.
        sizes: of the files in the config's folder, in bytes.
        hashes: the SHA-256 of the files for which the Hub has one.
    """

    repo_id: str
    commit: str
    sizes: dict[str, int]
    hashes: dict[str, str]


def look_up(repo_id: str, revision: str | None, request: Request) -> Remote:
    """What the Hub says about a model that everybody may see.

    Raises:
        Cancelled, VisitorError, HubError: the model cannot be looked up.
    """
    told = _ask("look_up", lambda: request.tell(f"Looking up {repo_id}"), repo_id, revision=revision)
    if not is_commit(told["commit"]):  # a folder is named after it
        raise VisitorError(f"The Hub names no commit of {repo_id}. Try again later.")
    return Remote(repo_id, **told)


def download(remote: Remote, files: Sequence[str], folder: Path, request: Request) -> None:
    """Fetch files of a model into a folder: no more bytes than the Hub lists, and with the hashes that it lists.

    Raises:
        Cancelled, VisitorError, HubError: the download failed.
    """
    name, before, total = remote.repo_id, _size(folder), sum(remote.sizes[file] for file in files)

    def watch() -> None:
        got = _size(folder) - before
        if got > total + _SLACK:
            raise VisitorError(f"The Hub sends more of {name} than it lists. Choose another model.")
        what = f"Downloading {name}: {in_bytes(min(got, total))} of {in_bytes(total)}"
        request.tell(what, min(1.0, got / max(total, 1)))

    came = _ask("download", watch, name, commit=remote.commit, files=files, folder=str(folder))
    watch()
    for file, (size, digest) in came.items():
        if size != remote.sizes[file] or digest != remote.hashes.get(file, digest):
            raise VisitorError(f"The download of {file} of {name} differs from what the Hub lists. Try again later.")


def _ask(question: str, watch: Callable[[], None], repo_id: str, **arguments: Any) -> Any:
    """Ask the Hub in a separate process (`fetch.py`), which ends as soon as `watch` raises. So a server that sends a
    byte a second holds up no thread of the page."""
    script, words = str(Path(__file__).with_name("fetch.py")), json.dumps({"repo_id": repo_id, **arguments})
    watch()
    with subprocess.Popen([sys.executable, script, question, words], stdout=subprocess.PIPE, text=True) as process:
        try:
            said = None
            while said is None:
                watch()
                with suppress(subprocess.TimeoutExpired):
                    said = process.communicate(timeout=0.1)[0]
        finally:
            process.kill()
    if not said:  # the traceback is in the log
        raise VisitorError(f"The Hub's answer about {repo_id} cannot be used. Choose another model.")
    answer = json.loads(said)
    if "refused" in answer:
        raise HubError(answer["refused"])
    return answer["answer"]


@contextmanager
def kept(key: str, size: int, fill: Callable[[Path], None], folder: Path, request: Request) -> Iterator[Path]:
    """The folder of a model, which stays while the block runs. Visitors, and processes, take turns.

    The model is renamed into place when it is complete. The least recently used models are deleted to make room.

    Args:
        key: its name, as a file name.
        size: of its files, in bytes.
        fill: puts its files into an empty folder; called if the model is not there yet.
        folder: holds all models, and nothing else.
        request: checked while another visitor uses the folder.

    Raises:
        VisitorError: there is no room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        lock = FileLock(folder / ".lock")
        while True:
            try:
                held.enter_context(lock.acquire(timeout=0.2))
                break
            except Timeout:
                request.tell("Waiting for another visitor, whose model is being opened")
        there = folder / key
        if not there.is_dir():
            _make_room(folder, size, request.limits.cache_bytes)
            with atomic_dir(there) as aside:
                fill(aside)
        os.utime(there)
        yield there


def _make_room(folder: Path, size: int, most: int) -> None:
    """Delete incomplete folders that a killed process left, then the least recently used models."""
    models = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in [path for path in models if path.suffix == ".tmp"]:
        shutil.rmtree(path)
        models.remove(path)

    def is_room() -> bool:
        used = sum(_size(path) for path in models)
        return used + size <= most and size <= free_bytes(folder)

    while not is_room():
        if not models:
            raise VisitorError("There is no room for this model here right now. Try again later, or take another.")
        remove_dir(models.pop(0))


def _size(folder: Path) -> int:
    """The size of all files that are still in a folder, in bytes."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
