"""Atomic writes, locks, room on the disk, and the configs that ship with the package."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from filelock import AcquireReturnProxy, FileLock, Timeout

from singlelife.errors import LifeError, SingleLifeError
from singlelife.text import in_bytes

_PACKAGE = Path(__file__).resolve().parent


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write to a temporary file beside `path`, which replaces `path` on success and is deleted on failure. If several
    processes write the same path, the last one wins."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A folder `<name>.tmp` beside `folder` to write into. It replaces `folder` once all of it is on the disk, and is
    deleted on failure. A kill at any moment leaves no half-written `folder`."""
    aside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in [*aside.rglob("*"), aside]:
            sync(path)
        if folder.exists():
            remove_dir(folder)
        aside.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_dir(folder: Path) -> None:
    """Rename a folder, then delete it: no half-deleted folder ever has its name."""
    old = folder.with_name(f"{folder.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)  # left by a process that was killed while deleting
    shutil.rmtree(folder.rename(old))


def sync(path: Path) -> None:
    """Flush a file's contents, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(path: Path, what: str) -> AcquireReturnProxy:
    """Hold the lock of a file or folder, in the folder `.locks` beside it. If another process holds it, say so on
    stderr and wait.

    Args:
        path: the file or folder to work on; it need not exist.
        what: its name in messages, such as `"the life sim_1"`.
    """
    lock = path.parent / ".locks" / f"{path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(lock).acquire(timeout=0)
    except Timeout:
        print(f"Another process is working on {what}; waiting for it.", file=sys.stderr)
        return FileLock(lock).acquire()


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of a path, which need not exist yet."""
    path = path.absolute()
    return shutil.disk_usage(next(there for there in (path, *path.parents) if there.exists())).free


def check_room(needed: int, folder: Path, what: str, otherwise: str) -> None:
    """Check that the disk of a folder has enough room.

    Args:
        needed: in bytes.
        folder: the folder to write; it need not exist yet.
        what: the thing that needs the room, such as `"The life sim_1"`.
        otherwise: what the user can do other than make room.

    Raises:
        LifeError: there is too little room.
    """
    if needed > (free := free_bytes(folder)):
        raise LifeError(
            f"{what} needs about {in_bytes(needed)} in {folder}, where {in_bytes(free)} are free. Make room, or "
            f"{otherwise}."
        )


def hub_configs() -> Path:
    """Folder of the shipped configs: inside the installed package, or at the top of a checkout."""
    for folder in (_PACKAGE / "hub_configs", _PACKAGE.parents[1] / "hub_configs"):
        if folder.is_dir():
            return folder
    raise SingleLifeError(f"hub_configs is missing beside {_PACKAGE}: the installation is incomplete; reinstall it.")


def config_names(kind: str) -> list[str]:
    """Names of the shipped configs of one kind (`lives`, `models`, `train`), sorted."""
    return sorted(path.stem for path in (hub_configs() / kind).glob("*.yaml"))


def shipped_pair_set(name: str) -> Path | None:
    """The folder of a pair set that comes with the package, or None if none has this name."""
    return {path.name: path for path in (hub_configs() / "pairs").iterdir()}.get(name)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SingleLifeError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SingleLifeError(f"Cannot read the config {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise SingleLifeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SingleLifeError(f"{path} should hold a mapping of names to values, not {type(content).__name__}.")
    return content
