"""Files of models on the Hub, fetched within limits, and kept on the disk up to a cap."""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from limits import Cancelled, Limits, VisitorError

from singlelife import __version__
from singlelife.files import free_bytes
from singlelife.text import duration, in_bytes

Progress = Callable[[str, float | None], None]

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_TRIES = 3  # of a download whose connection breaks
_LARGEST_ANSWER = 8 << 20  # bytes of what the Hub says of a model, its list of files
_LARGEST_SEARCH = 2 << 20
_POLL = 0.2  # seconds between two looks at whether to go on waiting
_RESERVED = ".reserved"  # a file as large as a download will be, without taking room


class Request:
    """What one visitor waits for: it ends when the time is over or the visitor has given up.

    Args:
        limits: `download_seconds` counts from now.
        progress, cancelled: of [`models.open_model`].
    """

    def __init__(
        self, limits: Limits, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
    ) -> None:
        self.limits, self._progress, self._cancelled = limits, progress, cancelled
        self._end = time.monotonic() + limits.download_seconds

    def tell(self, what: str, share: float | None = None) -> None:
        """Report progress, and check."""
        self.check()
        if self._progress is not None:
            self._progress(what, share)

    def check(self) -> None:
        """Whether to go on.

        Raises:
            Cancelled: the visitor has given up.
            VisitorError: the time is over.
        """
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("Cancelled.")
        if time.monotonic() >= self._end:
            raise VisitorError(
                f"The model was not here within {duration(self.limits.download_seconds)}. The Hub may be slow right "
                "now: try again later, or take a smaller model."
            )


class Remote:
    """One model on the Hub, in one commit.

    Args:
        repo_id: ORG/NAME, checked already.
        revision: None for its main branch.
        request: what it is fetched for.

    Attributes:
        info: what the Hub says of it.
        sizes: of its files, in bytes, by name.
    """

    def __init__(self, repo_id: str, revision: str | None, request: Request):
        self.repo_id, self._request = repo_id, request
        path = f"{constants.ENDPOINT}/api/models/{repo_id}"
        if revision is not None:
            path += f"/revision/{quote(revision, safe='')}"
        answer = self.read(f"{path}?blobs=true", _LARGEST_ANSWER)
        try:
            self.info = ModelInfo(**json.loads(answer))
            self.commit = str(self.info.sha)
            siblings = self.info.siblings or []
            self.sizes = {file.rfilename: int(file.size) for file in siblings if file.size is not None}
            self._hashes = {file.rfilename: file.lfs.sha256 for file in siblings if file.lfs}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise VisitorError(f"The Hub gives no proper answer about {repo_id}. Try again later.") from error
        if not _COMMIT.fullmatch(self.commit):
            raise VisitorError(f"The Hub names no commit of {repo_id}. Try again later.")

    def small_file(self, name: str, largest: int) -> bytes:
        """A file of at most so many bytes.

        Raises:
            VisitorError: it is larger, or cannot be had.
        """
        if self.sizes.get(name, 0) > largest:
            raise VisitorError(
                f"The file {name} of {self.repo_id} is over {in_bytes(largest)}, which it should not be."
            )
        return self.read(self._url(name), largest)

    def read(self, url: str, largest: int, first: int | None = None) -> bytes:
        """The body of an answer, of at most `largest` bytes; or, from the byte `first` on, exactly so many.

        Raises:
            VisitorError: it is longer (or shorter), or cannot be had.
        """
        content = bytearray()
        wanted = {} if first is None else {"Range": f"bytes={first}-{first + largest - 1}"}
        with _told(self.repo_id), self._get(url, wanted) as (status, chunks):
            if first and status != 206:
                raise VisitorError(f"The Hub does not give a part of a file of {self.repo_id}. Try again later.")
            for chunk in chunks:
                content += chunk
                if first is not None and len(content) >= largest:
                    break
                if len(content) > largest:
                    raise VisitorError(f"The Hub sends more than {in_bytes(largest)} where {self.repo_id} has less.")
        if first is not None and len(content) < largest:
            raise VisitorError(f"A file of {self.repo_id} is cut off. Its owner has to upload it again.")
        return bytes(content[:largest])

    def read_part(self, name: str, first: int, count: int) -> bytes:
        """Bytes of a file, from `first` on."""
        return self.read(self._url(name), count, first)

    def download(self, name: str, to: Path, done: Callable[[int], None]) -> None:
        """A whole file, of exactly the size and hash that the Hub says it has.

        Where the connection breaks, it goes on from there, up to three times.

        Args:
            done: is told how many bytes of it are here.

        Raises:
            VisitorError: it could not be fetched, or is not what the Hub said.
        """
        size, digest, got = self.sizes[name], hashlib.sha256(), 0
        with to.open("wb") as file:
            for left in reversed(range(_TRIES)):
                try:
                    wanted = {"Range": f"bytes={got}-"} if got else {}
                    with _told(self.repo_id, broken=_Broken), self._get(self._url(name), wanted) as (status, chunks):
                        if got and status != 206:
                            raise VisitorError(f"The download of {self.repo_id} broke. Try again.")
                        for chunk in chunks:
                            got += len(chunk)
                            if got > size:
                                raise VisitorError(
                                    f"The Hub sends more of {self.repo_id} than it said there is. It was not taken."
                                )
                            digest.update(chunk)
                            file.write(chunk)
                            done(got)
                    if got == size:
                        break
                except _Broken as error:
                    if not left:
                        raise VisitorError(str(error)) from error
                    time.sleep(1)
            file.flush()
        if got != size:
            raise VisitorError(f"The download of {self.repo_id} ends before the end of {name}. Try again later.")
        if name in self._hashes and digest.hexdigest() != self._hashes[name]:
            raise VisitorError(f"What came as {name} of {self.repo_id} is not what the Hub has. Try again later.")

    def _url(self, name: str) -> str:
        return f"{constants.ENDPOINT}/{self.repo_id}/resolve/{self.commit}/{quote(name)}"

    @contextmanager
    def _get(self, url: str, more: dict[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The status, and the chunks of the body as they come, each after a check."""
        self._request.check()
        headers = {**_headers(), "Accept-Encoding": "identity", **more}  # the body as it is counted, not as it unpacks
        timeout = self._request.limits.stall_seconds
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)

            def chunks() -> Iterator[bytes]:
                for chunk in response.iter_raw():
                    self._request.check()
                    yield chunk

            yield response.status_code, chunks()


def search(text: str, tag: str, limit: int, seconds: float) -> list[dict[str, Any]]:
    """What the Hub lists of models with a tag for a few words, most downloaded first.

    Raises:
        ConnectionError: it does not answer in so many seconds.
    """
    wanted = {"search": text, "filter": tag, "sort": "downloads", "limit": str(limit)}
    content, end = bytearray(), time.monotonic() + seconds
    try:
        address = f"{constants.ENDPOINT}/api/models"
        with get_session().stream("GET", address, params=wanted, headers=_headers(), timeout=seconds) as response:
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _LARGEST_SEARCH or time.monotonic() > end:
                    raise TimeoutError
        found = json.loads(content)
    except (HTTPError, OSError, ValueError, RecursionError) as error:
        raise ConnectionError("The Hub does not answer.") from error
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


class ModelCache:
    """Models on the disk, a folder for each commit, up to a cap.

    Several visitors, and several processes, share a download: the others wait for the first. A model is written aside
    and renamed when it is whole. To make room the model that was used longest ago goes first, and none that is being
    loaded or downloaded.

    Args:
        folder: of nothing else.
        most: bytes of all models together.
    """

    def __init__(self, folder: Path, most: int):
        self._folder, self._most = folder, most
        (folder / ".locks").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def use(self, key: str, fill: Callable[[Path], None], check: Callable[[], None]) -> Iterator[Path]:
        """The folder of a model, which stays for as long as the block runs.

        Args:
            key: names it, as a file name.
            fill: puts its files into an empty folder, where it is not there yet.
            check: asked while waiting for another visitor who has it; raises to give up.
        """
        there = self._folder / key
        with _held(self._lock(key), check):
            if not there.is_dir():
                aside = self._folder / f"{key}.part"
                shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
                aside.mkdir()
                try:
                    fill(aside)
                    (aside / _RESERVED).unlink(missing_ok=True)
                    aside.rename(there)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
            os.utime(there)
            yield there

    def make_room(self, aside: Path, size: int, check: Callable[[], None]) -> None:
        """Reserve room for what comes into the folder that `fill` was given.

        Raises:
            VisitorError: what is in use takes all the room.
        """
        with _held(FileLock(self._folder / ".locks" / "room"), check):
            kept = sorted(
                (path for path in self._folder.iterdir() if path.is_dir() and path.name != ".locks" and path != aside),
                key=lambda path: (not path.name.endswith(".part"), _last_use(path)),  # first what was left half done
            )
            sizes = {path: _size(path) for path in kept}
            for path in kept:
                if sum(sizes.values()) + size <= self._most and size <= free_bytes(self._folder):
                    break
                try:
                    key = path.name.removesuffix(".part")
                    with self._lock(key).acquire(timeout=0):
                        gone = path.rename(self._folder / f"{key}.part")  # so that no half of it is taken for whole
                        shutil.rmtree(gone, ignore_errors=True)
                    del sizes[path]
                except Timeout:
                    continue  # in use
            if sum(sizes.values()) + size > self._most or size > free_bytes(self._folder):
                raise VisitorError(
                    "There is no room for this model here right now, since others are in use. Try again in a few "
                    "minutes, or take a smaller one."
                )
            with (aside / _RESERVED).open("wb") as file:
                file.truncate(size)

    def _lock(self, key: str) -> FileLock:
        return FileLock(self._folder / ".locks" / key)


@contextmanager
def _held(lock: FileLock, check: Callable[[], None]) -> Iterator[None]:
    """Hold a lock, and go on checking while somebody else has it."""
    with ExitStack() as held:
        patience = 0.0
        while True:
            try:
                held.enter_context(lock.acquire(timeout=patience))
                break
            except Timeout:
                check()
                patience = _POLL
        yield


def _size(folder: Path) -> int:
    """Bytes that a model's folder has, or will have once its download is done."""
    try:
        if (folder / _RESERVED).is_file():
            return (folder / _RESERVED).stat().st_size
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:  # gone meanwhile
        return 0


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _headers() -> dict[str, str]:
    """Without a token, unless the Space's owner says so: what a visitor may see is what everybody may see."""
    token = None if os.environ.get("SINGLELIFE_SPACE_USE_TOKEN") == "1" else False
    return build_hf_headers(token=token, library_name="singlelife", library_version=__version__)


class _Broken(VisitorError):
    """The connection broke, and may be tried again."""


@contextmanager
def _told(repo_id: str, broken: type[VisitorError] = VisitorError) -> Iterator[None]:
    """Turn errors of the client and of the network into what a visitor can act on."""
    try:
        yield
    except VisitorError:
        raise
    except OfflineModeIsEnabled as error:
        raise VisitorError("This machine does not ask the Hub. Choose one of the models that come with it.") from error
    except GatedRepoError as error:
        raise VisitorError(
            f"{repo_id} is gated: its owner gives access on request, which this page has not got. Take an open model, "
            "or run `singlelife cas` on your own machine, with your own access."
        ) from error
    except RevisionNotFoundError as error:
        raise VisitorError(f"{repo_id} has no such revision. Leave it empty for the newest.") from error
    except RepositoryNotFoundError as error:
        raise VisitorError(
            f"There is no model {repo_id} on the Hub that everybody may see. Check its name, as in ORG/NAME."
        ) from error
    except EntryNotFoundError as error:
        raise VisitorError(f"{repo_id} lacks a file that it should have. Take another model.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise VisitorError(f"{repo_id} cannot be read by everybody. Take an open model.") from error
        raise broken(f"The Hub has trouble right now (status {status}). Try again in a few minutes.") from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise VisitorError("There is no room here for another model right now. Try again later.") from error
        raise broken(
            f"The Hub stopped answering while {repo_id} was fetched. Try again in a minute, or choose one of the "
            "models that come with this page."
        ) from error
