"""Files of models on the Hub, fetched within limits by `huggingface_hub`, and kept on the disk up to a cap."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants
from huggingface_hub.hf_api import ModelInfo
from limits import Request, VisitorError
from tqdm import tqdm

from singlelife._version import __version__
from singlelife.files import atomic_dir, free_bytes, remove_dir
from singlelife.hub.client import file_sizes
from singlelife.hub.errors import translate_hub_errors
from singlelife.hub.pull import is_commit
from singlelife.text import in_bytes

constants.HF_HUB_DISABLE_XET = True  # xet's downloads cannot be stopped on the way
constants.DOWNLOAD_CHUNK_SIZE = 1 << 18  # bytes between two checks of a request


def look_up(repo_id: str, revision: str | None) -> ModelInfo:
    """What the Hub says about a model that everybody may see: its commit, and the sizes of its files.

    Raises:
        VisitorError, HubError: it cannot be had.
    """
    with translate_hub_errors(repo_id, f"Looking up {repo_id}", "", "model"):
        info = _api().model_info(repo_id, revision=revision, files_metadata=True, timeout=15)
    if not is_commit(info.sha):  # a folder is named after it
        raise VisitorError(f"The Hub names no commit of {repo_id}. Try again later.")
    return info


def download(info: ModelInfo, files: Iterable[str], folder: Path, request: Request) -> None:
    """Fetch files of a model into a folder: no more of them than the Hub said, with the hashes that it has.

    Raises:
        Cancelled: the visitor has given up.
        VisitorError, HubError: they cannot be had.
    """
    files, sizes, got = list(files), file_sizes(info), 0
    total = sum(sizes[file] for file in files)
    hashes = {file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs}

    class Watch(tqdm):
        """What `huggingface_hub` tells of each chunk, before it is written."""

        def __init__(self, *_: Any, **__: Any):
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> None:
            nonlocal got
            got += int(n or 0)
            if got > total:
                raise VisitorError(f"The Hub sends more of {info.id} than it said. Take another model.")
            tell()

    def tell() -> None:
        request.tell(f"Downloading {info.id}: {in_bytes(got)} of {in_bytes(total)}", got / max(total, 1))

    for file in files:
        tell()
        with translate_hub_errors(info.id, f"Downloading {info.id}", "", "model"):
            path = _api().hf_hub_download(info.id, file, revision=info.sha, local_dir=folder, tqdm_class=Watch)
        with Path(path).open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            if content.tell() != sizes[file] or digest != hashes.get(file, digest):
                raise VisitorError(f"What came as {file} of {info.id} is not what the Hub has. Try again later.")


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
        used = sum(file.stat().st_size for path in models for file in path.rglob("*"))
        return used + size <= most and size <= free_bytes(folder)

    while not is_room():
        if not models:
            raise VisitorError("There is no room for this model here right now. Try again later, or take another.")
        remove_dir(models.pop(0))


def _api() -> HfApi:
    """A client without a token, unless the Space's owner says so: a visitor sees what everybody sees."""
    token = None if os.environ.get("SINGLELIFE_SPACE_USE_TOKEN") == "1" else False
    return HfApi(token=token, library_name="singlelife", library_version=__version__)
