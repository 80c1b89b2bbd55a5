"""Files of models on the Hub: fetched within limits by a process that can be ended, and kept up to a cap."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from filelock import FileLock, Timeout
from limits import Request, VisitorError

from singlelife.errors import HubError
from singlelife.files import atomic_dir, free_bytes, remove_dir
from singlelife.hub.pull import is_commit
from singlelife.text import in_bytes

_SLACK = 1 << 20  # bytes that the client itself writes beside the files


@dataclass(frozen=True)
class Remote:
    """What the Hub says about a model.

    Attributes:
        repo_id: ORG/NAME.
        commit: its SHA-1.
        sizes: of the files beside its config, in bytes.
        hashes: the SHA-256 of those that have one there.
    """

    repo_id: str
    commit: str
    sizes: dict[str, int]
    hashes: dict[str, str]


class HubProcess:
    """The Hub, asked by a process of its own (`fetch.py`) that ends with the block, or as soon as the request does: a
    server that sends a byte a second holds up no thread of the page.

    Args:
        request: for which the Hub is asked.
    """

    def __init__(self, request: Request):
        self._request = request

    def __enter__(self) -> "HubProcess":
        words = [sys.executable, str(Path(__file__).with_name("fetch.py"))]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def look_up(self, repo_id: str, revision: str | None) -> Remote:
        """What the Hub says about a model that everybody may see.

        Raises:
            Cancelled, VisitorError, HubError: it cannot be had.
        """
        told = self._ask("look_up", lambda: self._request.tell(f"Looking up {repo_id}"), repo_id, revision=revision)
        if not is_commit(told["commit"]):  # a folder is named after it
            raise VisitorError(f"The Hub names no commit of {repo_id}. Try again later.")
        return Remote(repo_id, **told)

    def download(self, remote: Remote, files: Iterable[str], folder: Path) -> None:
        """Fetch files of a model into a folder: no more of them than the Hub said, with the hashes that it has.

        Raises:
            Cancelled, VisitorError, HubError: they cannot be had.
        """
        files, name, before = list(files), remote.repo_id, _size(folder)
        total = sum(remote.sizes[file] for file in files)

        def watch() -> None:
            got = _size(folder) - before
            if got > total + _SLACK:
                raise VisitorError(f"The Hub sends more of {name} than it said. Take another model.")
            what = f"Downloading {name}: {in_bytes(min(got, total))} of {in_bytes(total)}"
            self._request.tell(what, min(1.0, got / max(total, 1)))

        for file in files:
            size, digest = self._ask("download", watch, name, commit=remote.commit, file=file, folder=str(folder))
            if size != remote.sizes[file] or digest != remote.hashes.get(file, digest):
                raise VisitorError(f"What came as {file} of {name} is not what the Hub has. Try again later.")
            watch()

    def _ask(self, question: str, watch: Callable[[], None], repo_id: str, **arguments: Any) -> Any:
        """The answer to a question; `watch` is called while it is awaited, and may raise."""
        answers: SimpleQueue[str] = SimpleQueue()
        watch()
        said = self._process.stdout
        assert self._process.stdin is not None and said is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([question, {"repo_id": repo_id, **arguments}]) + "\n")
            self._process.stdin.flush()
        threading.Thread(target=lambda: answers.put(said.readline()), daemon=True).start()
        while True:
            try:
                line = answers.get(timeout=0.1)
                break
            except Empty:
                watch()
        if not line:  # the traceback is in the log
            raise VisitorError(f"The Hub's answer about {repo_id} cannot be used. Take another model.")
        answer = json.loads(line)
        if "refused" in answer:
            raise HubError(answer["refused"])
        return answer["answer"]


@contextmanager
def kept(key: str, size: int, fill: Callable[[Path], None], folder: Path, request: Request) -> Iterator[Path]:
    """The folder of a model, which stays while the block runs. Visitors, and processes, take turns.

    A model is written aside and renamed when it is whole. The models that were used longest ago make room for it.

    Args:
        key: its name, as a file name.
        size: of its files, in bytes.
        fill: puts its files into an empty folder; called where it is not there yet.
        folder: that has all models, and nothing else.
        request: checked while another visitor is in the folder.

    Raises:
        VisitorError: it has no room.
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
    """Delete what a killed process left half done, and then what was used longest ago."""
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
    """Of all files in it that are there still, in bytes."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
