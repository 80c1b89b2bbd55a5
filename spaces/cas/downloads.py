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
from limits import Request, VisitorError

from singlelife._version import __version__
from singlelife.files import free_bytes
from singlelife.text import in_bytes

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_TRIES = 3  # of a download whose connection breaks
_LARGEST_ANSWER = 8 << 20  # bytes of what the Hub says about a model, its list of files
_POLL = 0.2  # seconds between two checks of a request that waits
_RESERVED = ".reserved"  # a file as large as a download will be, without taking room


class Remote:
    """One model on the Hub, in one commit.

    Args:
        repo_id: ORG/NAME, checked already.
        revision: None for its main branch.
        request: for which it is fetched.

    Attributes:
        info: what the Hub says about it.
        sizes: of its files, in bytes, by name.
    """

    def __init__(self, repo_id: str, revision: str | None, request: Request):
        self.repo_id, self._request = repo_id, request
        path = f"{constants.ENDPOINT}/api/models/{repo_id}"
        if revision is not None:
            path += f"/revision/{quote(revision, safe='')}"
        answer = self._read(f"{path}?blobs=true", _LARGEST_ANSWER)
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
            VisitorError: it is larger, or cannot be fetched.
        """
        if self.sizes.get(name, 0) > largest:
            raise VisitorError(f"The file {name} of {self.repo_id} is over {in_bytes(largest)}, which is too much.")
        return self._read(self._url(name), largest)

    def read_part(self, name: str, first: int, count: int) -> bytes:
        """Exactly so many bytes of a file, from `first` on.

        Raises:
            VisitorError: it has fewer, or cannot be fetched.
        """
        content = bytearray()
        with _for_visitors(self.repo_id), self._get(self._url(name), first, first + count - 1) as chunks:
            for chunk in chunks:
                content += chunk
                if len(content) >= count:
                    break
        if len(content) < count:
            raise VisitorError(f"A file of {self.repo_id} is cut off. Its owner has to upload it again.")
        return bytes(content[:count])

    def download(self, name: str, to: Path, done: Callable[[int], None]) -> None:
        """Fetch a whole file, of exactly the size and hash that the Hub says it has.

        Where the connection breaks, the download goes on from there, up to three times.

        Args:
            done: receives how many bytes of it are here.

        Raises:
            VisitorError: it could not be fetched, or is not what the Hub said.
        """
        size, digest, got = self.sizes[name], hashlib.sha256(), 0
        with to.open("wb") as file:
            for left in reversed(range(_TRIES)):
                try:
                    with _for_visitors(self.repo_id), self._get(self._url(name), got) as chunks:
                        for chunk in chunks:
                            got += len(chunk)
                            if got > size:
                                raise VisitorError(f"The Hub sends more of {self.repo_id} than it said. Take another.")
                            digest.update(chunk)
                            file.write(chunk)
                            done(got)
                    if got == size:
                        break
                except VisitorError as error:
                    if not (left and error.may_retry):
                        raise
                    time.sleep(1)
        if got != size:
            raise VisitorError(f"The download of {self.repo_id} ends before the end of {name}. Try again later.")
        if name in self._hashes and digest.hexdigest() != self._hashes[name]:
            raise VisitorError(f"What came as {name} of {self.repo_id} is not what the Hub has. Try again later.")

    def _read(self, url: str, largest: int) -> bytes:
        content = bytearray()
        with _for_visitors(self.repo_id), self._get(url) as chunks:
            for chunk in chunks:
                content += chunk
                if len(content) > largest:
                    raise VisitorError(f"The Hub sends more than {in_bytes(largest)} where {self.repo_id} has less.")
        return bytes(content)

    def _url(self, name: str) -> str:
        return f"{constants.ENDPOINT}/{self.repo_id}/resolve/{self.commit}/{quote(name)}"

    @contextmanager
    def _get(self, url: str, first: int = 0, last: int | str = "") -> Iterator[Iterator[bytes]]:
        """The chunks of a body as they come, each after a check; of its bytes from `first` to `last`."""
        self._request.check()
        headers = build_hf_headers(token=visible_token(), library_name="singlelife", library_version=__version__)
        headers["Accept-Encoding"] = "identity"  # the body as it is counted, not as it unpacks
        if first or last:
            headers["Range"] = f"bytes={first}-{last}"
        timeout = self._request.limits.stall_seconds
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            if first and response.status_code != 206:
                raise VisitorError(f"The Hub does not give a part of a file of {self.repo_id}. Try again later.")

            def chunks() -> Iterator[bytes]:
                for chunk in response.iter_raw():
                    self._request.check()
                    yield chunk

            yield chunks()


class ModelCache:
    """Models on the disk, a folder for each commit, up to a cap.

    Several visitors, and several processes, share a download: the others wait for the first. A model is written aside
    and renamed when it is whole. The model that was used longest ago makes room first, and none that is in use.

    Args:
        folder: which holds nothing else.
        most: bytes of all models together.
    """

    def __init__(self, folder: Path, most: int):
        self._folder, self._most = folder, most
        (folder / ".locks").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def use(self, key: str, fill: Callable[[Path], None], check: Callable[[], None]) -> Iterator[Path]:
        """The folder of a model, which stays while the block runs.

        Args:
            key: its name, as a file name.
            fill: puts its files into an empty folder; called where it is not there yet.
            check: called while another visitor has it; raises to give up.
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
        """Reserve room for the files that come into the folder that `fill` was given.

        Raises:
            VisitorError: the models in use take all the room.
        """
        with _held(self._lock("room"), check):
            kept = [path for path in self._folder.iterdir() if path.name != ".locks" and path != aside]
            kept.sort(key=lambda path: (path.suffix != ".part", _last_use(path)))  # first what was left half done
            sizes = {path: _size(path) for path in kept}
            for path in kept:
                if sum(sizes.values()) + size <= self._most and size <= free_bytes(self._folder):
                    break
                try:
                    key = path.name.removesuffix(".part")
                    with self._lock(key).acquire(timeout=0):
                        gone = path.rename(self._folder / f"{key}.part")  # so that no half of it looks whole
                        shutil.rmtree(gone, ignore_errors=True)
                    del sizes[path]
                except Timeout:
                    continue  # in use
            if sum(sizes.values()) + size > self._most or size > free_bytes(self._folder):
                raise VisitorError("There is no room for this model here right now. Try again in a few minutes.")
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


def visible_token() -> bool | None:
    """For clients of the Hub: no token (False), so that a visitor sees what everybody sees, unless the Space's owner
    says to use theirs (None)."""
    return None if os.environ.get("SINGLELIFE_SPACE_USE_TOKEN") == "1" else False


@contextmanager
def _for_visitors(repo_id: str) -> Iterator[None]:
    """Turn errors of the client and of the network into what a visitor can act on."""
    try:
        yield
    except VisitorError:
        raise
    except (HTTPError, OSError, EntryNotFoundError) as error:
        raise _visitor_error(error, repo_id) from error


def _visitor_error(error: Exception, repo_id: str) -> VisitorError:
    match error:
        case OfflineModeIsEnabled():
            return VisitorError("This machine does not ask the Hub. Choose one of the models that come with it.")
        case GatedRepoError():
            return VisitorError(f"{repo_id} is gated. Take an open model, or run `singlelife cas` with your access.")
        case RevisionNotFoundError():
            return VisitorError(f"{repo_id} has no such revision. Leave it out for the newest.")
        case RepositoryNotFoundError():
            return VisitorError(f"There is no model {repo_id} on the Hub that everybody may see. Check its name.")
        case EntryNotFoundError():
            return VisitorError(f"{repo_id} lacks a file that it should have. Take another model.")
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return VisitorError(f"{repo_id} cannot be read by everybody. Take an open model.")
        case HfHubHTTPError():
            status = error.response.status_code
            return VisitorError(f"The Hub has trouble right now (status {status}). Try again later.", may_retry=True)
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            return VisitorError("There is no room here for another model right now. Try again later.")
    return VisitorError(f"The Hub stopped answering about {repo_id}. Try again in a minute.", may_retry=True)
