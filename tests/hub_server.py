"""A Hub on the loopback interface: what `huggingface_hub` and `datasets` ask of the real one, answered from a folder.

It keeps model, dataset and Space repositories with their whole history, knows three tokens, tells a
private or gated repository from an absent one as the Hub does, and on demand breaks connections, answers that it is
busy or out of order, or is dead. Large files go by LFS's basic transfer; clients should set HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER, READER, STRANGER = "hf_writer_token", "hf_reader_token", "hf_stranger_token"
USERS = {WRITER: "ann", READER: "ann", STRANGER: "bob"}
ORGANISATIONS = {"ann": ("lives",), "bob": ()}

_LARGE = (".parquet", ".arrow", ".safetensors", ".bin", ".png", ".mp4", ".npz")  # go by LFS, whatever their size
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Blob:
    """A file's content: by the SHA-256 of its bytes, under which the server's folder has it."""

    sha256: str
    size: int
    git_oid: str
    large: bool


@dataclass
class Repository:
    """Commits (a mapping of paths to blobs each) and the branches that point at them."""

    kind: str  # "model", "dataset" or "space"
    name: str
    private: bool
    gated: bool = False
    told_sizes: dict[str, int] = field(default_factory=dict)  # of files, by path, where it tells another than the real
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        described = json.dumps([len(self.commits), sorted((path, blob.git_oid) for path, blob in files.items())])
        sha = hashlib.sha1(f"{self.name}{described}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass
class Fault:
    """What happens, `times` times, to requests of `method` whose path has `part` in it.

    With a `status` (429 or 5xx) they are answered with it, and the seconds to wait if there are any. Without one the
    connection closes once `after` bytes of the body went over (0: before any answer), having said nothing for some
    seconds.
    """

    method: str
    part: str
    after: int = 0
    times: int = 1
    silent: float = 0.0
    status: int | None = None
    retry_after: int | None = None


@dataclass
class Hub:
    """The server's state, which tests may read and change.

    Attributes:
        folder: where the content of files is.
        repositories: by kind and name.
        faults: what goes wrong; the first that is for a request counts.
        dead: hangs up on everyone.
        requests: method, path and token of every request so far.
        sent: bytes of files sent so far.
    """

    folder: Path
    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    dead: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: int = 0

    def start(self) -> Callable[[], None]:
        """Serve on a free port of 127.0.0.1. Returns what stops it."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

        def stop() -> None:
            server.shutdown()
            server.server_close()

        return stop

    def create(self, name: str, kind: str = "dataset", *, private: bool = False, gated: bool = False) -> Repository:
        repository = self.repositories[kind, name] = Repository(kind, name, private, gated)
        repository.commit("main", {".gitattributes": self.store(b"*.parquet filter=lfs\n")})
        return repository

    def put(self, repository: Repository, files: dict[str, bytes | None], branch: str = "main") -> str:
        """Commit files (None deletes one), as an owner would with any client."""
        content = dict(repository.commits[repository.branches[branch]])
        for path, data in files.items():
            content.pop(path, None)
            if data is not None:
                content[path] = self.store(data, large=path.endswith(_LARGE))
        return repository.commit(branch, content)

    def read(self, repository: Repository, path: str, revision: str = "main") -> bytes:
        sha = repository.find(revision)
        assert sha is not None
        return (self.folder / repository.commits[sha][path].sha256).read_bytes()

    def store(self, data: bytes, large: bool = False) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.folder / sha256).write_bytes(data)
        return self.blob(sha256, large)

    def blob(self, sha256: str, large: bool) -> Blob:
        size = (self.folder / sha256).stat().st_size
        if large:  # git has a pointer instead
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        else:
            content = (self.folder / sha256).read_bytes()
        return Blob(sha256, size, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), large)


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", retry_after: int | None = None):
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.query, path = parse_qs(address.query), address.path
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip() or None
        self.hub.requests.append((self.command, unquote(path), self.token))
        meant = (f for f in self.hub.faults if f.times > 0 and f.method == self.command and f.part in unquote(path))
        fault = next(meant, None)
        trouble = fault if fault is not None and fault.status is not None else None
        self.break_ = None if trouble else fault
        try:
            if self.hub.dead or (self.break_ is not None and not self.break_.after):
                self._hang_up()
            body = self._read(int(self.headers.get("Content-Length") or 0))
            if trouble is not None:
                trouble.times -= 1
                raise _Refused(trouble.status, message="not now", retry_after=trouble.retry_after)
            if self.token is not None and self.token not in USERS:
                raise _Refused(401, message="Invalid credentials in Authorization header")
            for method, pattern, answer in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    answer(self, body, **{name: unquote(value or "") for name, value in match.groupdict().items()})
                    return
            raise _Refused(404, message=f"no such endpoint: {self.command} {path}")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            headers["Retry-After"] = "" if refused.retry_after is None else str(refused.retry_after)
            self._json({"error": refused.message}, refused.status, {k: v for k, v in headers.items() if v})
        except ConnectionError:
            self.close_connection = True

    def _read(self, size: int) -> bytes:
        if self.break_ is not None and self.command != "GET" and size > self.break_.after:
            self.rfile.read(self.break_.after)
            self._hang_up()
        return self.rfile.read(size)

    def _hang_up(self) -> None:
        if self.break_ is not None:
            self.break_.times -= 1
        self.wfile.flush()
        if self.break_ is not None and self.break_.silent:
            time.sleep(self.break_.silent)
        self.connection.shutdown(2)
        raise ConnectionAbortedError

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        about = {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
        for name, value in about.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who may do what.

    def _repository(self, kind: str, name: str, *, content: bool = False, write: bool = False) -> Repository:
        """A repository that the request's token may see, or change, or whose files it may read."""
        repository = self.hub.repositories.get((kind, name))
        member = self._member(name.split("/")[0])
        if repository is None or (repository.private and not member):
            raise _Refused(404 if self.token else 401, "RepoNotFound", "Repository not found")
        if write and not (member and self.token == WRITER):
            raise _Refused(403, message="You have read access but not the required permissions for this operation")
        if content and repository.gated and not member:
            raise _Refused(403 if self.token else 401, "GatedRepo", f"Access to {kind} {name} is restricted")
        return repository

    def _member(self, namespace: str) -> bool:
        user = USERS.get(self.token or "")
        return user is not None and namespace in (user, *ORGANISATIONS[user])

    def _commit(self, repository: Repository, revision: str) -> str:
        sha = repository.find(revision or "main")
        if sha is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    # The endpoints.

    def whoami(self, body: bytes) -> None:
        if self.token is None:
            raise _Refused(401, message="Unauthorized")
        user = USERS[self.token]
        token = {"displayName": "test", "role": "read" if self.token == READER else "write"}
        self._json(
            {"type": "user", "name": user, "orgs": [{"name": name} for name in ORGANISATIONS[user]],
             "auth": {"type": "access_token", "accessToken": token}}
        )  # fmt: skip

    def validate_yaml(self, body: bytes) -> None:
        self._json({"errors": [], "warnings": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        if self.token is None:
            raise _Refused(401, message="Unauthorized")
        namespace, kind = asked.get("organization") or USERS[self.token], asked.get("type") or "model"
        name = f"{namespace}/{asked['name']}"
        if namespace not in {*USERS.values(), *(each for all_ in ORGANISATIONS.values() for each in all_)}:
            raise _Refused(404, message=f"no such namespace: {namespace}")
        if not self._member(namespace) or self.token != WRITER:
            raise _Refused(403, message=f"You may not create a {kind} under the namespace {namespace}")
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        assert kind != "space" or asked.get("sdk") == "gradio"
        if (kind, name) in self.hub.repositories:
            self._json({"error": f"You already created this {kind} repo", "url": url}, 409)
            return
        self.hub.create(name, kind, private=bool(asked.get("private") or asked.get("visibility") == "private"))
        self._json({"url": url, "name": name})

    def branch(self, body: bytes, kind: str, name: str, branch: str) -> None:
        repository = self._repository(kind, name, write=True)
        if branch in repository.branches:
            raise _Refused(409, message="Reference already exists")
        repository.branches[branch] = self._commit(repository, json.loads(body or b"{}").get("startingPoint", ""))
        self._json({})

    def super_squash(self, body: bytes, kind: str, name: str, branch: str) -> None:
        repository = self._repository(kind, name, write=True)
        head = self._commit(repository, branch)
        del repository.branches[branch]
        content = repository.commits[head]
        if head not in repository.branches.values():
            del repository.commits[head]
        repository.commit(branch, content)
        self._json({})

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, write=True)
        files = repository.commits[self._commit(repository, revision)]
        answers = []
        for file in json.loads(body)["files"]:
            large, there = file["path"].endswith(_LARGE), files.get(file["path"])
            oid = None if there is None else there.sha256 if large else there.git_oid
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def lfs_batch(self, body: bytes, prefix: str, name: str) -> None:
        self._repository(prefix[:-2] or "model", name, write=True)
        objects = []
        for asked in json.loads(body)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}
            objects.append(asked | ({} if (self.hub.folder / asked["oid"]).exists() else upload))
        self._json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, body: bytes, oid: str) -> None:
        assert self.hub.store(body).sha256 == oid
        self._json({})

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, write=True)
        files = dict(repository.commits[self._commit(repository, revision)])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blob(value["oid"], large=True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(revision, files)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def info(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        sha = self._commit(repository, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in repository.commits[sha]]
        if "blobs" in self.query:
            for sibling in siblings:
                blob = repository.commits[sha][sibling["rfilename"]]
                size = repository.told_sizes.get(sibling["rfilename"], blob.size)
                sibling |= {"size": size, "blobId": blob.git_oid}
                if blob.large:
                    sibling["lfs"] = {"size": size, "sha256": blob.sha256, "pointerSize": 130}
        self._json(
            {"id": name, "sha": sha, "private": repository.private, "gated": "auto" if repository.gated else False,
             "lastModified": "2026-01-01T00:00:00.000Z", "tags": [], "siblings": siblings}
        )  # fmt: skip

    def tree(self, body: bytes, kind: str, name: str, revision: str, folder: str) -> None:
        repository = self._repository(kind, name)
        files, entries = repository.commits[self._commit(repository, revision)], {}
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        inside = f"{folder}/" if folder else ""
        for path, blob in sorted(files.items()):
            if path.startswith(inside):
                for parent in [str(p) for p in Path(path).parents if str(p) != "." and str(p).startswith(inside)]:
                    entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40}
                entries[path] = _file_entry(path, blob)
        if folder and not entries:
            raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
        self._json([entry for path, entry in sorted(entries.items()) if deep or "/" not in path.removeprefix(inside)])

    def resolve(self, body: bytes, prefix: str, name: str, revision: str, file: str) -> None:
        repository = self._repository(prefix[:-2] or "model", name, content=True)
        sha = self._commit(repository, revision)
        blob = repository.commits[sha].get(file)
        if blob is None:
            raise _Refused(404, "EntryNotFound", f"{file} does not exist")
        first, last = 0, blob.size - 1
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or last), last)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{blob.size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{blob.sha256 if blob.large else blob.git_oid}"')
        self.send_header("X-Repo-Commit", sha)
        self.end_headers()
        if self.command == "HEAD":
            return
        with (self.hub.folder / blob.sha256).open("rb") as content:
            content.seek(first)
            left, gone = last - first + 1, 0
            while left:
                chunk = content.read(min(_CHUNK, left))
                if self.break_ is not None and gone + len(chunk) > self.break_.after:
                    self.wfile.write(chunk[: max(0, self.break_.after - gone)])
                    self._hang_up()
                self.wfile.write(chunk)
                left, gone = left - len(chunk), gone + len(chunk)
                self.hub.sent += len(chunk)


def _file_entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
    if blob.large:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
    return entry


_API = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
_GIT = r"/(?P<prefix>datasets/|spaces/)?(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST", rf"{_API}/super-squash/(?P<branch>[^/]+)", _Handler.super_squash),
    ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET", rf"{_API}(?:/revision/(?P<revision>[^/]+))?", _Handler.info),
    ("POST", rf"{_GIT}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    ("GET HEAD", rf"{_GIT}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
